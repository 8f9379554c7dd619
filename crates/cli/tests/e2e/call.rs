//! The bundled client, as a script sees it and as somebody at a terminal does.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::thread;

use serde_json::{Value, json};

use crate::harness::{Gateway, Mcp, Process, Ran, Upstream, run, run_with};

fn call(arguments: &[&str]) -> Ran {
    run(&[&["call"], arguments].concat())
}

#[test]
fn it_lists_what_a_server_has() {
    let (legacy, dual) = (Upstream::rmcp(), Upstream::rmcp_dual());
    let gateway = Gateway::start(&legacy.url(), &[]);
    for (url, version) in
        [(legacy.url(), "2025-11-25"), (dual.url(), "2026-07-28"), (gateway.url(), "2026-07-28")]
    {
        let listed = call(&[&url]);
        assert_eq!(listed.code, 0, "{}", listed.stderr);
        let shown = &listed.stdout;
        assert!(shown.starts_with("throughline-counter ") && shown.contains(version), "{shown}");
        assert!(shown.contains("  increment(by?)  "), "{shown}");
        let sleep = shown.lines().find(|line| line.starts_with("  sleep(ms) ")).expect("the tool's line");
        assert_eq!(sleep.split_whitespace().take(3).collect::<Vec<_>>(), ["sleep(ms)", "reads", "Waits,"]);
        assert!(shown.contains("\nResources (1)\n  counter://value  value\n"), "{shown}");

        let lists = call(&[&url, "--json"]).json();
        let tools = lists["tools"].as_array().map_or(0, Vec::len);
        assert!(tools > 6 && shown.contains(&format!("\nTools ({tools})\n")), "{lists}");
        assert_eq!(lists["resources"][0]["uri"], "counter://value");
    }
    // What the server sent is printed, not what an SDK makes of it: a modern result has its type.
    assert_eq!(call(&[&dual.url(), "--json"]).json()["server"]["resultType"], "complete");
    assert_eq!(call(&[&legacy.url(), "--json"]).json()["server"]["protocolVersion"], "2025-11-25");
}

#[test]
fn it_calls_tools_and_repeats_calls() {
    let (legacy, dual) = (Upstream::rmcp(), Upstream::rmcp_dual());
    let gateway = Gateway::start(&legacy.url(), &[]);
    let counted = call(&[&legacy.url(), "increment", r#"{"by":2}"#, "--repeat", "3"]);
    assert_eq!((counted.code, counted.stdout.as_str()), (0, "2\n4\n6\n"), "{}", counted.stderr);
    let counted = call(&[&gateway.url(), "increment", "--repeat", "2", "--json"]);
    let results: Vec<Value> =
        counted.stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(results.len(), 2, "{}", counted.stdout);
    assert_eq!(results[1]["structuredContent"], json!({"value": 2}));
    assert!(counted.stderr.contains("2 calls, 0 of them with an error"), "{}", counted.stderr);
    assert!(counted.stderr.contains("answered by: "), "the gateway names itself: {}", counted.stderr);

    // Without a session every call begins anew; with one, in the same server, they go on.
    let modern = call(&[&dual.url(), "increment", "--repeat", "2"]);
    assert_eq!((modern.code, modern.stdout.as_str()), (0, "1\n1\n"), "{}", modern.stderr);
    let legacy = call(&[&dual.url(), "increment", "--repeat", "2", "--era", "legacy"]);
    assert_eq!((legacy.code, legacy.stdout.as_str()), (0, "1\n2\n"), "{}", legacy.stderr);
    let read = run_with(&["call", &dual.url(), "increment", "-"], &[], r#"{"by": 5}"#);
    assert_eq!(read.stdout, "5\n", "{}", read.stderr);
}

#[test]
fn its_sessions_do_not_stay_behind() {
    let upstream = Upstream::rmcp();
    let admin = format!("127.0.0.1:{}", crate::harness::free_port());
    let gateway = Gateway::start(&upstream.url(), &["--admin", &admin]);
    let state = gateway.state_dir().to_str().expect("a path in UTF-8");
    let sessions = || run(&["sessions", "ls", "--json", "--admin", &admin, "--state-dir", state]).json();
    assert_eq!(call(&[&gateway.url(), "increment", "--era", "legacy"]).code, 0);
    assert_eq!(sessions(), json!([]));

    // Not by Ctrl-C either.
    let url = gateway.url();
    let arguments = ["call", url.as_str(), "sleep", r#"{"ms":60000}"#, "--era", "legacy"];
    let mut waiting = Process::start("call", env!("CARGO_BIN_EXE_throughline"), &arguments);
    crate::harness::until("the call to be under way", || {
        waiting.printed().contains("progress").then_some(())
    });
    assert_eq!(sessions().as_array().map(Vec::len), Some(1));
    waiting.interrupt();
    assert_eq!(waiting.exit_code(), Some(130), "{}", waiting.printed());
    assert_eq!(sessions(), json!([]));
}

#[test]
fn exit_codes_tell_what_happened() {
    let upstream = Upstream::rmcp();
    let url = upstream.url();
    let tool = call(&[&url, "increment", r#"{"by":"two"}"#]);
    assert_eq!(tool.code, 1, "{}", tool.stderr);
    assert!(tool.stderr.contains("increment reports an error"), "{}", tool.stderr);
    for wrong in [
        &[url.as_str(), "increment", "[1]"][..],
        &[&url, "increment", "{"],
        &[&url, "--repeat", "2"],
        &[&url, "increment", "--repeat", "0"],
        &[&url, "--tour", "--json"],
        &[&url, "--header", "nonsense"],
        &[&url, "--header-env", "X-Key:THROUGHLINE_IS_NOT_SET"],
        &["localhost:3000"],
        &["http://me:secret-word@localhost/mcp"],
    ] {
        let refused = call(wrong);
        assert_eq!(refused.code, 2, "{wrong:?}: {}", refused.stderr);
        assert!(!refused.stderr.contains("secret-word"), "{}", refused.stderr);
    }
    let modern_only = call(&[&url, "--era", "modern"]);
    assert_eq!(modern_only.code, 3);
    assert!(modern_only.stderr.contains("use --era legacy"), "{}", modern_only.stderr);
    let nowhere = format!("http://127.0.0.1:{}", crate::harness::free_port());
    for (arguments, says) in [
        (&[url.as_str(), "no-such-tool"][..], "-32602"),
        (&[&nowhere], "cannot connect"),
        (&[&url.replace("/mcp", "/healthz")], "405"),
    ] {
        let failed = call(arguments);
        assert_eq!(failed.code, 3, "{arguments:?}: {}", failed.stderr);
        assert!(failed.stderr.contains(says), "{arguments:?}: {}", failed.stderr);
        assert_eq!(failed.stderr.lines().count(), 1, "one line: {}", failed.stderr);
    }
}

#[test]
fn a_server_that_dies_ends_the_call() {
    let mut upstream = Upstream::rmcp();
    let url = upstream.url();
    let arguments = ["call", url.as_str(), "sleep", r#"{"ms":60000}"#];
    let mut waiting = Process::start("call", env!("CARGO_BIN_EXE_throughline"), &arguments);
    crate::harness::until("the call to be under way", || {
        waiting.printed().contains("progress").then_some(())
    });
    upstream.kill9();
    assert_eq!(waiting.exit_code(), Some(3), "{}", waiting.printed());
}

/// Runs `throughline call` at a terminal of its own. Standard error is in what it prints, too.
fn at_terminal(arguments: &[&str]) -> Process {
    const SPAWN: &str = "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))";
    let program = env!("CARGO_BIN_EXE_throughline");
    Process::start("call at a terminal", "python3", &[&["-c", SPAWN, program, "call"], arguments].concat())
}

#[test]
fn what_a_server_asks_is_answered_at_the_terminal() {
    let upstream = Upstream::rmcp();
    let gateway = Gateway::start(&upstream.url(), &[]);
    for url in [upstream.url(), gateway.url()] {
        for (lines, came) in [
            (
                &["", "two sheep", "perhaps", ""][..],
                json!({"action": "accept", "content": {"answer": "two sheep"}}),
            ),
            (&["sheep", "n"], json!({"action": "decline"})),
            (&["\u{4}"], json!({"action": "cancel"})),
        ] {
            let mut terminal = at_terminal(&[&url, "ask", r#"{"question":"What do you count?"}"#, "--json"]);
            terminal
                .wait_for_line(0, |line| line.contains("The server asks: What do you count?").then_some(()));
            for line in lines {
                terminal.write_line(line);
            }
            assert!(terminal.succeeds(), "{}", terminal.printed());
            let result = terminal.wait_for_line(0, |line| {
                let at = line.find('{').filter(|_| line.contains("structuredContent"))?;
                Some(line[at..].to_owned())
            });
            let result: Value = serde_json::from_str(&result.0).expect("JSON");
            assert_eq!(result["structuredContent"], came, "{}", terminal.printed());
        }
    }
}

#[test]
fn where_nobody_is_at_a_terminal_questions_are_declined() {
    let upstream = Upstream::rmcp();
    let declined = call(&[&upstream.url(), "ask"]);
    assert_eq!(
        (declined.code, declined.stdout.trim()),
        (0, r#"{"action":"decline"}"#),
        "{}",
        declined.stderr
    );
    assert!(declined.stderr.contains("declined"), "{}", declined.stderr);
}

#[test]
fn the_wire_is_shown_without_secrets() {
    let upstream = Upstream::rmcp();
    let gateway = Gateway::start(&upstream.url(), &[]);
    let url = format!("{}?code=secret-in-query", gateway.url());
    let arguments = [
        "call",
        &url,
        "session",
        "--era",
        "legacy",
        "--raw",
        "--header",
        "X-Api-Key: secret-in-header",
        "--header-env",
    ];
    let arguments = [&arguments[..], &["X-Other:OTHER"]].concat();
    let variables = [("OTHER", "secret-in-variable"), ("THROUGHLINE_BEARER", "secret-bearer")];
    let ran = run_with(&arguments, &variables, "");
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    for shown in [
        "> POST /mcp?code=(redacted) HTTP/1.1\n",
        "> authorization: (redacted)\n",
        "> x-api-key: (redacted)\n",
        "> x-other: (redacted)\n",
        r#""method":"initialize""#,
        "< HTTP/1.1 200 OK\n",
        r#"< data: {"jsonrpc":"2.0","id":1,"result":"#,
        "> DELETE /mcp",
    ] {
        assert!(ran.stderr.contains(shown), "{shown} is not in\n{}", ran.stderr);
    }
    for secret in ["secret-in-query", "secret-in-header", "secret-in-variable", "secret-bearer"] {
        assert!(!ran.stderr.contains(secret), "{secret} is in\n{}", ran.stderr);
    }
    let ids = ran.stderr.lines().filter_map(|line| line.split_once("mcp-session-id: ")).map(|(_, id)| id);
    let ids: Vec<_> = ids.collect();
    assert!(ids.len() > 2 && ids.iter().all(|id| id.len() == 11 && id.ends_with("...")), "{ids:?}");

    // An id of a session is one wherever it stands: this tool returns it.
    let ran = call(&[&upstream.url(), "session", "--raw", "--json"]);
    let result = ran.json();
    let id = result["structuredContent"]["session"].as_str().expect("an id");
    let shown = format!("{}...", &id[..8]);
    assert!(
        !ran.stderr.contains(id) && ran.stderr.contains(&format!(r#""session":"{shown}"#)),
        "{}",
        ran.stderr
    );
}

#[test]
fn servers_at_https_are_reached_if_their_certificate_is_good() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = |name: &str| dir.path().join(name).to_str().expect("a path in UTF-8").to_owned();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    std::fs::write(file("cert.pem"), made.cert.pem()).expect("a file");
    std::fs::write(file("key.pem"), made.signing_key.serialize_pem()).expect("a file");
    let (upstream, port) = (Upstream::rmcp(), crate::harness::free_port());
    let config = format!(
        "listen = \"127.0.0.1:{port}\"\nstore = \"memory:\"\n[tls]\ncertificate = {:?}\nkey = {:?}\n\
         [upstream]\nurl = {:?}\n",
        file("cert.pem"),
        file("key.pem"),
        upstream.url(),
    );
    std::fs::write(file("throughline.toml"), config).expect("a file");
    let serve = ["serve", "--config", &file("throughline.toml"), "--state-dir", &file("state")];
    let _gateway = Process::start("gateway", env!("CARGO_BIN_EXE_throughline"), &serve);
    let url = format!("https://localhost:{port}");
    let trusted = [("SSL_CERT_FILE", file("cert.pem"))];
    let trusted = trusted.each_ref().map(|(name, value)| (*name, value.as_str()));
    let counted = crate::harness::until("the gateway", || {
        Some(run_with(&["call", &url, "increment"], &trusted, "")).filter(|ran| ran.code == 0)
    });
    assert_eq!(counted.stdout, "1\n");
    let brief = ["load", &url, "value", "--duration", "100ms", "--warm-up", "0", "--expect-errors", "0"];
    let loaded = run_with(&brief, &trusted, "");
    assert_eq!(loaded.code, 0, "{}{}", loaded.stdout, loaded.stderr);
    let unknown = call(&[&url, "increment"]);
    assert_eq!(unknown.code, 3, "{}", unknown.stdout);
    assert!(
        unknown.stderr.contains("cannot connect") && unknown.stderr.contains("certificate"),
        "{}",
        unknown.stderr
    );
}

#[test]
fn a_token_reaches_the_server_and_its_challenge_the_user() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}/mcp", listener.local_addr().expect("its address"));
    let served = thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        let lines = BufReader::new(stream.try_clone().expect("the stream")).lines().map_while(Result::ok);
        let head: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
        let challenge = "Bearer realm=\"there\", error_description=\"abc.def.ghi is no good\"";
        let head_of_answer = "HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\nwww-authenticate";
        let answer = format!("{head_of_answer}: {challenge}\r\n\r\n");
        stream.write_all(answer.as_bytes()).expect("that it is read");
        head
    });
    let refused = run_with(&["call", &url], &[("THROUGHLINE_BEARER", "abc.def.ghi")], "");
    let head = served.join().expect("a request");
    assert!(head.contains(&"authorization: Bearer abc.def.ghi".to_owned()), "{head:?}");
    assert_eq!(refused.code, 3, "one request is enough: {}", refused.stderr);
    assert!(refused.stderr.contains(r#"Bearer realm="there""#), "{}", refused.stderr);
    assert!(!refused.stderr.contains("abc.def"), "though the server repeats it: {}", refused.stderr);
}

#[test]
fn a_lost_session_ends_the_calls() {
    let upstream = Upstream::rmcp();
    let url = upstream.url();
    let arguments = ["call", url.as_str(), "sleep", r#"{"ms":300}"#, "--repeat", "100"];
    let mut calls = Process::start("call", env!("CARGO_BIN_EXE_throughline"), &arguments);
    calls.wait_for_line(0, |line| (line == "300").then_some(()));
    upstream.drop_sessions();
    assert_eq!(calls.exit_code(), Some(3), "{}", calls.printed());
}

#[test]
fn the_tour_says_what_a_server_does_not_have() {
    let (legacy, dual) = (Upstream::rmcp(), Upstream::rmcp_dual());
    for (url, method) in [(legacy.url(), "(initialize)"), (dual.url(), "(server/discover)")] {
        let tour = call(&[&url, "--tour"]);
        assert_eq!(tour.code, 0, "{}", tour.stderr);
        for said in [method, "no tool whoami", "no tool tally"] {
            assert!(tour.stdout.contains(said), "{said}: {}", tour.stdout);
        }
    }
    assert!(call(&[&dual.url(), "--tour"]).stdout.contains("2026-07-28"));
    assert_eq!(
        Mcp::connected(legacy.url()).call("total", json!({})),
        json!({"total": 0}),
        "it changes nothing"
    );
}
