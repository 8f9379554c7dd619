//! Requests of revision 2026-07-28: they pass to a server that speaks it, and are refused clearly where it does not.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::harness::{
    Answer, Client, Clock, Gate, Gw, Request, Upstream, initialize_body, json, refused, request, rpc_error,
};
use throughline_gateway::Config;

const META: &str = r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{},"io.modelcontextprotocol/clientInfo":{"name":"t","version":"1"}}"#;

/// A client whose requests of this method say in their headers what they are.
fn modern(client: &Client, method: &str) -> Client {
    client.with("mcp-protocol-version", "2026-07-28").with("mcp-method", method)
}

fn discovered(request: &Request) -> Answer {
    json(
        200,
        format!(
            r#"{{"jsonrpc":"2.0","id":{},"result":{{"supportedVersions":["2026-07-28"],"capabilities":{{}},"serverInfo":{{"name":"m","version":"1"}}}}}}"#,
            request.id()
        ),
    )
}

/// An upstream that speaks it, and answers this.
fn speaks_modern(upstream: &Upstream, answer: impl Fn(&Request) -> Answer + Send + Sync + 'static) {
    upstream.script(move |request, _| {
        Some(match request.rpc().as_str() {
            "server/discover" => discovered(request),
            _ => answer(request),
        })
    });
}

#[test]
fn a_request_passes_byte_for_byte_without_a_session() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let result = r#"{ "id":"\u0041", "result":{"resultType":"complete","n":1e3,"big":123456789012345678901}, "jsonrpc":"2.0" }"#;
    speaks_modern(&upstream, move |_| json(200, result).with("mcp-session-id", "upstream-would-not"));
    let body = format!(
        r#" {{"params":{{"name":"caf\u00e9","z":[1.0,{{}}],{META}}},"method":"tools/call","id":"\u0041","jsonrpc":"2.0"}} "#
    );
    let client = modern(&gateway.client(), "tools/call")
        .with("mcp-name", "=?base64?Y2Fmw6k=?=")
        .with("mcp-param-region", "eu")
        .with("mcp-session-id", "garbage")
        .with("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
        .with("authorization", "Bearer secret")
        .with("cookie", "a=b");
    let answer = client.post(&body);
    assert_eq!((answer.status, answer.text().as_str()), (200, result));
    assert_eq!(answer.headers.get("mcp-session-id"), None);
    let arrived = upstream.of("tools/call").pop().unwrap();
    assert_eq!(arrived.text(), body);
    for (name, value) in [
        ("mcp-protocol-version", Some("2026-07-28")),
        ("mcp-method", Some("tools/call")),
        ("mcp-name", Some("=?base64?Y2Fmw6k=?=")),
        ("mcp-param-region", Some("eu")),
        ("traceparent", Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")),
        ("mcp-session-id", None),
        ("authorization", None),
        ("cookie", None),
    ] {
        assert_eq!(arrived.headers.get(name), value, "{name}");
    }
    assert_eq!(upstream.methods(), ["server/discover", "tools/call"]);
}

/// A gateway whose route tolerates missing headers.
fn lenient(upstream: &Upstream) -> Gw {
    let mut config = Config::for_upstream(&upstream.url()).unwrap();
    config.routes[0].strict_headers = false;
    Gw::run(upstream, config, Clock::<7>::EFFECTS)
}

#[test]
fn where_headers_may_be_missing_they_are_added() {
    let upstream = Upstream::start();
    let gateway = lenient(&upstream);
    speaks_modern(&upstream, |request| {
        json(200, format!(r#"{{"jsonrpc":"2.0","id":{},"result":{{}}}}"#, request.id()))
    });
    let body = request("1", "tools/call", &format!("{{\"name\":\"caf\u{e9}\",{META}}}"));
    assert_eq!(gateway.client().post(&body).status, 200);
    let arrived = upstream.of("tools/call").pop().unwrap();
    assert_eq!(arrived.text(), body);
    for (name, value) in [
        ("mcp-protocol-version", "2026-07-28"),
        ("mcp-method", "tools/call"),
        ("mcp-name", "=?base64?Y2Fmw6k=?="),
    ] {
        assert_eq!(arrived.headers.get(name), Some(value), "{name}");
    }
    assert_eq!((upstream.count("initialize"), upstream.count("server/discover")), (0, 1));
}

#[test]
fn headers_that_contradict_the_body_are_refused() {
    let upstream = Upstream::start();
    speaks_modern(&upstream, |request| {
        json(200, format!(r#"{{"jsonrpc":"2.0","id":{},"result":{{}}}}"#, request.id()))
    });
    let (strict, lenient) = (Gw::start(&upstream), lenient(&upstream));
    let right = [("mcp-protocol-version", "2026-07-28"), ("mcp-method", "tools/call"), ("mcp-name", "echo")];
    let with = |gateway: &Gw, headers: &[(&str, &str)]| {
        headers.iter().fold(gateway.client(), |client, (name, value)| client.with(name, value))
    };
    let body = request("\"q\"", "tools/call", &format!(r#"{{"name":"echo",{META}}}"#));
    for gateway in [&strict, &lenient] {
        assert_eq!(with(gateway, &right).post(&body).status, 200);
        let encoded = with(gateway, &right).with("mcp-name", "=?base64?ZWNobw==?=");
        assert_eq!(encoded.with("mcp-param-region", "=?base64?w6k=?=").post(&body).status, 200);
        for (name, value) in [
            ("mcp-protocol-version", "2025-11-25"),
            ("mcp-protocol-version", "2027-01-01"),
            ("mcp-method", "tools/list"),
            ("mcp-method", "Tools/Call"),
            ("mcp-name", "Echo"),
            ("mcp-name", "=?base64?RWNobw==?="),
            ("mcp-name", "=?base64?ZWNob===?="),
            ("mcp-param-region", "=?base64?/w==?="),
        ] {
            let answer = with(gateway, &right).with(name, value).post(&body);
            assert_eq!((answer.status, answer.code()), (400, -32020), "{name}: {value}");
            assert_eq!(answer.json()["id"], "q");
        }
    }
    for (name, _) in right {
        let answer = with(&strict, &right).without(name).post(&body);
        assert_eq!((answer.status, answer.code()), (400, -32020), "without {name}");
        assert_eq!(with(&lenient, &right).without(name).post(&body).status, 200, "without {name}");
    }
    assert_eq!(upstream.count("tools/call"), 7, "none that was refused was executed");
}

#[test]
fn what_a_request_must_say_of_itself_comes_before_its_headers() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let client = gateway.client().with("mcp-protocol-version", "2026-07-28");
    let version = r#""io.modelcontextprotocol/protocolVersion":"2026-07-28""#;
    for params in [
        "{}".to_owned(),
        r#"{"_meta":{}}"#.to_owned(),
        r#"{"_meta":{"io.modelcontextprotocol/protocolVersion":20260728,"io.modelcontextprotocol/clientCapabilities":{}}}"#.to_owned(),
        format!(r#"{{"_meta":{{{version}}}}}"#),
        format!(r#"{{"_meta":{{{version},"io.modelcontextprotocol/clientCapabilities":[]}}}}"#),
    ] {
        let answer = client.post(request("7", "tools/list", &params));
        assert_eq!((answer.status, answer.code()), (400, -32602), "{params}");
        assert_eq!(answer.json()["id"], 7);
    }
    assert_eq!(upstream.methods(), [""; 0]);
}

#[test]
fn what_the_modern_era_does_not_have_is_refused_by_the_upstream() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let refusal = rpc_error("1", -32601, "Method not found");
    let answer = refusal.clone();
    speaks_modern(&upstream, move |_| json(404, answer.clone()));
    let unknown = META.replace("2026-07-28", "v999.0.0");
    for (version, method, meta) in
        [("2026-07-28", "initialize", META), ("v999.0.0", "tools/list", unknown.as_str())]
    {
        let client = modern(&gateway.client(), method).with("mcp-protocol-version", version);
        let answer = client.post(request("1", method, &format!("{{{meta}}}")));
        assert_eq!((answer.status, answer.text()), (404, refusal.clone()), "{method} {meta}");
    }
    assert_eq!(upstream.methods(), ["server/discover", "initialize", "tools/list"]);
}

#[test]
fn initialize_is_legacy_whatever_its_headers_say() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let hello = modern(&gateway.client(), "tools/list").post(initialize_body("2025-11-25", "{}"));
    assert_eq!((hello.status, hello.headers.get("mcp-session-id").is_some()), (200, true));
}

#[test]
fn streams_errors_and_notifications_pass_too() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let stream = ": hi\nid: 7\nevent: message\ndata: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\",\"params\":{}}\n\ndata: {\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}}\n\n";
    speaks_modern(&upstream, move |request| match request.rpc().as_str() {
        "tools/call" => refused(200, "text/event-stream", stream),
        "notifications/x" => refused(202, "text/plain", ""),
        _ => json(404, rpc_error("1", -32601, "Method not found")),
    });
    let client = modern(&gateway.client(), "tools/call");
    let answer = client.post(request("1", "tools/call", &format!("{{{META}}}")));
    assert_eq!((answer.status, answer.text().as_str()), (200, stream));
    let answer = modern(&client, "no/such").post(request("1", "no/such", &format!("{{{META}}}")));
    assert_eq!((answer.status, answer.text()), (404, rpc_error("1", -32601, "Method not found")));
    let told = client.post(r#"{"jsonrpc":"2.0","method":"notifications/x"}"#);
    assert_eq!((told.status, told.body.len()), (202, 0));
    for answer in [client.get(), client.delete()] {
        assert_eq!((answer.status, answer.headers.get("allow")), (405, Some("POST")));
    }
}

#[test]
fn a_client_that_leaves_cancels_its_request_upstream() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let left = Arc::new(Gate::default());
    let seen = Arc::clone(&left);
    speaks_modern(&upstream, move |_| {
        let seen = Arc::clone(&seen);
        Answer::Stream(Box::new(move |events| {
            events.message(r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{}}"#);
            events.wait_for_close();
            seen.open();
        }))
    });
    let mut stream = modern(&gateway.client(), "tools/call")
        .open("POST", request("1", "tools/call", &format!("{{{META}}}")));
    stream.message();
    drop(stream);
    left.wait();
}

#[test]
fn a_refusal_repeats_the_version_that_was_asked_for() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let capabilities = r#""io.modelcontextprotocol/clientCapabilities":{}"#;
    for (version, requested) in [
        ("2027-01-01", "2027-01-01"),
        ("not a version, and longer than any", "not a version, and longer than a"),
    ] {
        let client = modern(&gateway.client(), "tools/call").with("mcp-protocol-version", version);
        let meta = format!(r#""io.modelcontextprotocol/protocolVersion":"{version}",{capabilities}"#);
        let answer = client.post(request("1", "tools/call", &format!(r#"{{"_meta":{{{meta}}}}}"#)));
        assert_eq!((answer.status, answer.code()), (400, -32022), "{}", answer.text());
        assert_eq!(answer.json()["error"]["data"]["requested"], requested);
    }
}

#[test]
fn what_is_known_of_the_upstream_heals() {
    type Clock1 = Clock<1>;
    let upstream = Upstream::start();
    let config = Config::for_upstream(&upstream.url()).unwrap();
    let gateway = Gw::run(&upstream, config, Clock1::EFFECTS);
    let ask = || {
        modern(&gateway.client(), "tools/list")
            .post(request("1", "tools/list", &format!("{{{META}}}")))
            .status
    };
    assert_eq!((ask(), upstream.count("initialize")), (200, 1), "carried as a legacy client's");
    speaks_modern(&upstream, |request| {
        json(200, format!(r#"{{"jsonrpc":"2.0","id":{},"result":{{}}}}"#, request.id()))
    });
    Clock1::advance(Duration::from_secs(31));
    assert_eq!(ask(), 200);
    assert_eq!(ask(), 200);
    assert_eq!(upstream.count("server/discover"), 2);
    // Replaced by a legacy one: its 400 makes the gateway ask again.
    upstream.script(|_, _| None);
    assert_eq!(ask(), 400);
    assert_eq!(ask(), 200);
    assert_eq!(upstream.count("server/discover"), 3);
}

#[test]
fn an_inconclusive_answer_is_never_kept() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let well = Arc::new(AtomicBool::new(false));
    let is_well = Arc::clone(&well);
    upstream.script(move |request, _| {
        if is_well.load(Ordering::Relaxed) {
            return (request.rpc() == "server/discover").then(|| discovered(request)).or_else(|| {
                Some(json(200, format!(r#"{{"jsonrpc":"2.0","id":{},"result":{{}}}}"#, request.id())))
            });
        }
        Some(refused(503, "text/plain", "starting"))
    });
    let ask = || {
        modern(&gateway.client(), "tools/list")
            .post(request("1", "tools/list", &format!("{{{META}}}")))
            .status
    };
    assert_eq!(ask(), 503);
    assert_eq!(ask(), 503);
    assert_eq!(upstream.count("server/discover"), 2);
    well.store(true, Ordering::Relaxed);
    assert_eq!(ask(), 200);
}

#[test]
fn at_most_once_holds_here_too() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    speaks_modern(&upstream, |_| Answer::Close(Vec::new()));
    let client = modern(&gateway.client(), "tools/call");
    let answer = client.post(request("1", "tools/call", &format!("{{{META}}}")));
    assert_eq!((answer.status, answer.code(), upstream.count("tools/call")), (502, -32012, 1));
    let answer = modern(&client, "tools/list").post(request("1", "tools/list", &format!("{{{META}}}")));
    assert_eq!((answer.status, upstream.count("tools/list")), (502, 2));
}
