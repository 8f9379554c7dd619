//! Requests of revision 2026-07-28: they pass to a server that speaks it, and are refused clearly where it does not.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::harness::{
    Answer, Client, Clock, Gate, Gw, Request, Upstream, call, initialize_body, json, refused, request,
    rpc_error,
};
use throughline_gateway::Config;

const META: &str = r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{},"io.modelcontextprotocol/clientInfo":{"name":"t","version":"1"}}"#;

fn modern(client: &Client) -> Client {
    client.with("mcp-protocol-version", "2026-07-28")
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
        r#" {{"params":{{"name":"count","z":[1.0,{{}}],{META}}},"method":"tools/call","id":"\u0041","jsonrpc":"2.0"}} "#
    );
    let client = modern(&gateway.client())
        .with("mcp-method", "tools/call")
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

#[test]
fn the_version_may_stand_in_the_body_alone() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    speaks_modern(&upstream, |request| {
        json(200, format!(r#"{{"jsonrpc":"2.0","id":{},"result":{{}}}}"#, request.id()))
    });
    let body = request("1", "tools/list", &format!("{{{META}}}"));
    assert_eq!(gateway.client().post(body).status, 200);
    assert_eq!((upstream.count("initialize"), upstream.count("server/discover")), (0, 1));
}

#[test]
fn what_the_modern_era_does_not_have_is_refused_by_the_upstream() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let refusal = rpc_error("1", -32601, "Method not found");
    let answer = refusal.clone();
    speaks_modern(&upstream, move |_| json(404, answer.clone()));
    let unknown = META.replace("2026-07-28", "v999.0.0");
    for (client, method, meta) in [
        (modern(&gateway.client()), "initialize", META),
        (gateway.client(), "tools/list", unknown.as_str()),
        (gateway.client().with("mcp-protocol-version", "v999.0.0"), "tools/list", unknown.as_str()),
    ] {
        let answer = client.post(request("1", method, &format!("{{{meta}}}")));
        assert_eq!((answer.status, answer.text()), (404, refusal.clone()), "{method} {meta}");
    }
    assert_eq!(upstream.methods(), ["server/discover", "initialize", "tools/list", "tools/list"]);
}

#[test]
fn initialize_is_legacy_whatever_its_headers_say() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let hello = modern(&gateway.client()).post(initialize_body("2025-11-25", "{}"));
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
    let client = modern(&gateway.client());
    let answer = client.post(request("1", "tools/call", &format!("{{{META}}}")));
    assert_eq!((answer.status, answer.text().as_str()), (200, stream));
    let answer = client.post(request("1", "no/such", &format!("{{{META}}}")));
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
    let mut stream =
        modern(&gateway.client()).open("POST", request("1", "tools/call", &format!("{{{META}}}")));
    stream.message();
    drop(stream);
    left.wait();
}

#[test]
fn a_legacy_upstream_is_named_in_a_clear_refusal_and_asked_once() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    for _ in 0..3 {
        let answer = modern(&gateway.client()).post(request("\"m\"", "tools/call", &format!("{{{META}}}")));
        assert_eq!((answer.status, answer.code()), (400, -32022), "{}", answer.text());
        let json = answer.json();
        assert_eq!(json["id"], "m");
        assert_eq!(json["error"]["data"]["requested"], "2026-07-28");
        let supported = json["error"]["data"]["supported"].as_array().unwrap();
        assert!(supported.contains(&"2025-11-25".into()) && !supported.contains(&"2026-07-28".into()));
    }
    assert_eq!(upstream.methods(), ["server/discover"], "nothing was executed");
    assert_eq!(gateway.client().post(call("1", "count")).tool_text(), "1", "legacy clients are served");
}

#[test]
fn a_refusal_repeats_the_version_that_made_the_request_modern() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let none = "";
    for (header, meta, requested) in [
        (none, "2027-01-01", "2027-01-01"),
        ("2025-11-25", "2027-01-01", "2027-01-01"),
        ("2026-07-28", "2027-01-01", "2027-01-01"),
        ("2027-01-01", none, "2027-01-01"),
        ("2027-01-01", "2025-11-25", "2027-01-01"),
        (none, "not a version, and longer than any", "not a version, and longer than a"),
    ] {
        let client = gateway.client();
        let client = if header.is_empty() { client } else { client.with("mcp-protocol-version", header) };
        let name = "io.modelcontextprotocol/protocolVersion";
        let meta = if meta.is_empty() { String::new() } else { format!("{name:?}:{meta:?}") };
        let answer = client.post(request("1", "tools/call", &format!(r#"{{"_meta":{{{meta}}}}}"#)));
        assert_eq!((answer.status, answer.code()), (400, -32022), "{}", answer.text());
        assert_eq!(answer.json()["error"]["data"]["requested"], requested, "{header:?}, {meta:?}");
    }
}

#[test]
fn what_is_known_of_the_upstream_heals() {
    type Clock1 = Clock<1>;
    let upstream = Upstream::start();
    let config = Config::for_upstream(&upstream.url()).unwrap();
    let gateway = Gw::run(&upstream, config, Clock1::EFFECTS);
    let ask = || modern(&gateway.client()).post(request("1", "tools/list", &format!("{{{META}}}"))).status;
    assert_eq!(ask(), 400);
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
    assert_eq!(ask(), 400);
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
    let ask = || modern(&gateway.client()).post(request("1", "tools/list", &format!("{{{META}}}"))).status;
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
    let client = modern(&gateway.client());
    let answer = client.post(request("1", "tools/call", &format!("{{{META}}}")));
    assert_eq!((answer.status, answer.code(), upstream.count("tools/call")), (502, -32012, 1));
    let answer = client.post(request("1", "tools/list", &format!("{{{META}}}")));
    assert_eq!((answer.status, upstream.count("tools/list")), (502, 2));
}
