//! TLS and HTTP/2 toward clients: the same sessions, the same rules, and certificates that change.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::harness::h2::{END_HEADERS, END_STREAM, Frames, H2, encoded, kind};
use crate::harness::tls::{self, Files, Pair};
use crate::harness::{Gw, PATIENCE, Upstream, call, initialize_body, logged, request};
use throughline_gateway::{Config, StartError};

fn start(upstream: &Upstream, change: impl FnOnce(&mut Config)) -> (Gw, Files) {
    let files = Files::new(&Pair::make());
    let gateway = Gw::start_with(upstream, |config| {
        files.use_in(config);
        change(config);
    });
    (gateway, files)
}

/// Sends a request in HTTP/1.1 and reads until the connection ends.
fn http1(stream: &mut (impl Read + Write), head: &str, body: &str) -> String {
    let length = body.len();
    let text = format!(
        "{head}\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    );
    stream.write_all(text.as_bytes()).unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn a_session_goes_on_over_http2_and_over_http1() {
    let upstream = Upstream::start();
    let (gateway, _files) = start(&upstream, |_| {});
    let h2 = H2::connect(gateway.address);
    let welcome = h2.post(&[], &initialize_body("2025-06-18", "{}"));
    assert_eq!(welcome.status, 200, "{}", welcome.text());
    let id = welcome.headers.get("mcp-session-id").unwrap().to_owned();
    let session = [("mcp-session-id", id.as_str())];
    assert_eq!(h2.post(&session, r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#).status, 202);
    assert_eq!(h2.post(&session, &call("1", "count")).tool_text(), "1");

    // On a connection of its own, without ALPN.
    let mut stream = tls::connect(gateway.address, &[]);
    let answer =
        http1(&mut stream, &format!("POST /mcp HTTP/1.1\r\nmcp-session-id: {id}"), &call("1", "count"));
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains(r#""text":"2""#), "{answer}");
    assert_eq!(h2.post(&session, &call("1", "count")).tool_text(), "3");
    assert_eq!(h2.send("DELETE", "/mcp", &session, "").status, 200);
    assert_eq!(h2.post(&session, &call("1", "count")).status, 404);
    assert_eq!(h2.send("GET", "/healthz", &[], "").status, 200);
}

#[test]
fn requests_share_a_connection_and_do_not_wait_for_each_other() {
    let upstream = Upstream::start();
    let (gateway, _files) = start(&upstream, |_| {});
    upstream.script(|request, _| {
        let slow = request.tool() == "slow";
        slow.then(|| {
            crate::harness::Answer::Stream(Box::new(
                |events| while events.is_open() && events.write(": x\n\n") {},
            ))
        })
    });
    let mut frames = Frames::connect(gateway.address, &[]);
    frames.post(1, &[], &call("1", "slow"));
    upstream.wait_for("tools/call", 1);
    frames.post(3, &[], &call("2", "count"));
    loop {
        let frame = frames.read().unwrap().unwrap();
        if frame.stream == 3 && frame.kind == kind::DATA {
            assert!(String::from_utf8_lossy(&frame.payload).contains(r#""id":2"#));
            break;
        }
    }
    upstream.server().lose_sessions();
}

#[test]
fn hosts_are_checked_by_the_authority_as_well() {
    let upstream = Upstream::start();
    let (gateway, _files) = start(&upstream, |_| {});
    let list = request("1", "tools/list", "{}");
    let ask = |authority: &str, headers: &[(&str, &str)]| {
        H2::connect(gateway.address).to(authority).post(headers, &list).status
    };
    assert_eq!(ask("localhost:1", &[]), 200);
    assert_eq!(ask("evil.example.com", &[]), 403);
    assert_eq!(ask("localhost", &[("origin", "https://evil.example.com")]), 403);
    // Two answers to one question.
    assert_eq!(ask("localhost", &[("host", "evil.example.com")]), 400);
    assert_eq!(ask("evil.example.com", &[("host", "localhost")]), 400);
}

#[test]
fn limits_are_the_same_over_http2() {
    let upstream = Upstream::start();
    let (gateway, _files) = start(&upstream, |config| config.limits.body_bytes = 10_000);
    let h2 = H2::connect(gateway.address);
    let list = request("1", "tools/list", "{}");
    let large = request("1", "tools/list", &format!(r#"{{"x":"{}"}}"#, "y".repeat(3_000_000)));
    let answer = h2.post(&[], &large);
    assert_eq!((answer.status, answer.code()), (413, -32600));
    assert_eq!(h2.post(&[("content-type", "text/plain")], &list).status, 415);
    assert_eq!(h2.post(&[("content-encoding", "gzip")], &list).status, 415);
    let welcome = h2.post(&[], &initialize_body("2025-06-18", "{}"));
    let id = welcome.headers.get("mcp-session-id").unwrap();
    let reads_json = [("accept", "application/json"), ("mcp-session-id", id)];
    assert_eq!(h2.send("GET", "/mcp", &reads_json, "").status, 406);
    let put = h2.send("PUT", "/mcp", &[], "");
    assert_eq!((put.status, put.headers.get("allow")), (405, Some("GET, POST, DELETE")));
    assert_eq!(h2.send("POST", "/nowhere", &[], &list).status, 404);
    let names: Vec<_> = (0..150).map(|n| format!("x-{n}")).collect();
    let many: Vec<_> = names.iter().map(|name| (name.as_str(), "1")).collect();
    assert_eq!(h2.post(&many, &list).status, 431);
    assert_eq!(h2.post(&[("x", &"y".repeat(100_000))], &list).status, 431);
    assert_eq!(h2.post(&[], &list).status, 200);
    gateway_is_well(&gateway);
}

fn gateway_is_well(gateway: &Gw) {
    assert_eq!(H2::connect(gateway.address).send("GET", "/healthz", &[], "").status, 200);
}

#[test]
fn clients_that_speak_no_tls_end_their_connection_only() {
    let upstream = Upstream::start();
    let (gateway, _files) = start(&upstream, |config| config.timeouts.request_read = Duration::from_secs(1));
    for bytes in
        [&b"GET /mcp HTTP/1.1\r\nhost: localhost\r\n\r\n"[..], b"\0\0\0\0", b"\x16\x03\x01\xff\xff", b""]
    {
        let mut stream = TcpStream::connect(gateway.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(bytes).unwrap();
        let mut answer = Vec::new();
        // Cut at once, or when the time for the greeting is over.
        let _ = stream.read_to_end(&mut answer).map_err(|error| {
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{bytes:?}");
        });
        assert!(answer.len() < 10, "{answer:?}");
    }
    // Version 2 without TLS, and TLS without a request.
    let mut idle = tls::connect(gateway.address, &["http/1.1"]);
    let ended = idle.read_to_end(&mut Vec::new());
    let ended =
        ended.map_or_else(|error| error.kind() == std::io::ErrorKind::UnexpectedEof, |read| read == 0);
    assert!(ended, "an idle connection ends");
    let mut frames = Frames::connect(gateway.address, &[]);
    assert!(frames.wait_for(kind::GOAWAY).is_some(), "an idle connection is told that it ends");
    gateway_is_well(&gateway);
}

#[test]
fn a_client_that_takes_requests_back_over_and_over_is_cut_off() {
    let upstream = Upstream::start();
    let (gateway, _files) = start(&upstream, |_| {});
    let mut frames = Frames::connect(gateway.address, &[]);
    let head = encoded(&[
        (":method", "GET"),
        (":scheme", "https"),
        (":path", "/mcp"),
        (":authority", "localhost"),
        ("accept", "text/event-stream"),
    ]);
    for n in 0..50_000 {
        let stream = 2 * n + 1;
        let sent = frames.write(kind::HEADERS, END_HEADERS | END_STREAM, stream, &head)
            && frames.write(kind::RST_STREAM, 0, stream, &8_u32.to_be_bytes());
        if !sent {
            break;
        }
    }
    let goaway = frames.wait_for(kind::GOAWAY);
    assert!(goaway.is_none_or(|goaway| goaway.payload[7] == 11), "ENHANCE_YOUR_CALM");
    gateway_is_well(&gateway);
    assert!(upstream.log().len() < 1000, "{}", upstream.log().len());
}

#[test]
fn a_new_certificate_is_taken_into_use_and_a_broken_one_is_not() {
    let upstream = Upstream::start();
    let (one, two, three) = (Pair::make(), Pair::make(), Pair::make());
    let files = Files::new(&one);
    let gateway = Gw::start_with(&upstream, |config| files.use_in(config));
    let open = H2::connect(gateway.address);
    assert_eq!(tls::shown(gateway.address), one.der);

    let wait_for = |what: &str, reached: &dyn Fn() -> bool| {
        let began = tokio::time::Instant::now();
        while !reached() {
            assert!(began.elapsed() < PATIENCE, "{what}: never");
            std::thread::park_timeout(Duration::from_millis(10));
        }
    };
    for (certificate, key) in [
        (&*two.certificate, &*one.key),
        ("nonsense", &two.key),
        (&two.certificate, ""),
        ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", &two.key),
    ] {
        files.write(certificate, key);
        assert_eq!(tls::shown(gateway.address), one.der);
    }
    wait_for("the operator is told", &|| logged("the new TLS certificate cannot be used"));
    assert_eq!(tls::shown(gateway.address), one.der);

    files.write(&three.certificate, &three.key);
    wait_for("the new certificate is shown", &|| tls::shown(gateway.address) == three.der);
    // Connections that are open go on.
    assert_eq!(open.send("GET", "/healthz", &[], "").status, 200);
    assert!(!logged(&one.key) && !logged("PRIVATE KEY"));
}

#[test]
fn a_certificate_that_cannot_be_used_prevents_the_start() {
    let (one, two) = (Pair::make(), Pair::make());
    for (certificate, key, said) in [
        (&*one.certificate, &*two.key, "certificate and key cannot be used together"),
        ("", &one.key, "tls.crt holds no certificate"),
        (&one.certificate, "", "tls.key holds no private key"),
    ] {
        let files = Files::new(&one);
        files.write(certificate, key);
        let mut config = Config::for_upstream("http://127.0.0.1:1/mcp").unwrap();
        let state = tempfile::TempDir::new().unwrap();
        config.state_dir = Some(state.path().to_owned());
        files.use_in(&mut config);
        let error = throughline_gateway::Gateway::start(config, throughline_gateway::Effects::REAL);
        let error = error.err().expect("it does not start");
        assert!(matches!(error, StartError::Tls(_)) && error.to_string().contains(said), "{error}");
    }
}
