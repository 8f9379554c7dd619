//! A server that is replaced by one of the other era while clients hold sessions with it.

use super::{discovered, modern, result, session, text};
use crate::harness::{Gw, Upstream, call, initialize_body, json as answer, refused, rpc_error};

#[test]
fn a_server_that_is_upgraded_keeps_its_clients() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let session = session(&gateway);
    assert_eq!(session.count(), "1");
    modern(&upstream, |request| text(request, "modern"));
    upstream.forget();
    let answer = session.post(call("1", "count"));
    assert_eq!(
        (answer.tool_text().as_str(), answer.headers.get("throughline-session")),
        ("modern", Some("restored;generation=2"))
    );
    assert_eq!(session.post(call("1", "count")).tool_text(), "modern");
    assert_eq!(upstream.count("tools/call"), 3, "one was refused");
}

#[test]
fn a_server_that_is_rolled_back_keeps_them_too() {
    for old in [
        |id: &str| answer(400, rpc_error(id, -32000, "Bad Request: Unsupported protocol version")),
        |id: &str| answer(400, rpc_error(id, -32600, "Bad Request: Missing session ID")),
        |_: &str| refused(422, "text/plain", "Unexpected message, expect initialize request"),
    ] {
        let upstream = Upstream::start();
        let gateway = Gw::start(&upstream);
        modern(&upstream, |request| text(request, "modern"));
        let session = session(&gateway);
        assert_eq!(session.post(call("1", "count")).tool_text(), "modern");
        upstream.script(move |request, _| {
            let is_modern = request.headers.get("mcp-protocol-version") == Some("2026-07-28");
            is_modern.then(|| old(&request.id()))
        });
        assert_eq!((session.count(), session.count()), ("1".to_owned(), "2".to_owned()));
        assert_eq!(upstream.server().violations(), Vec::<String>::new());
        // And new ones find what is there now.
        assert_eq!(
            gateway.client().post(initialize_body("2025-06-18", "{}")).json()["result"]["serverInfo"]["name"],
            "scripted"
        );
    }
}

#[test]
fn a_modern_server_that_refuses_a_request_is_still_the_same() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    modern(&upstream, |_| refused(400, "text/plain", "no"));
    let session = session(&gateway);
    let refusal = session.post(call("1", "count"));
    assert_eq!((refusal.status, refusal.text().as_str()), (400, "no"));
    assert_eq!((upstream.count("initialize"), upstream.count("tools/call")), (1, 1));
}

#[test]
fn a_server_of_both_eras_is_spoken_to_as_the_client_speaks() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    upstream.script(|request, _| (request.rpc() == "server/discover").then(|| result(request, discovered())));
    assert_eq!(session(&gateway).count(), "1");
    assert_eq!(upstream.count("server/discover"), 0);
}

#[test]
fn a_refusal_that_asks_for_credentials_or_patience_is_no_sign_of_an_era() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    for (status, header) in
        [(401, "www-authenticate"), (503, "retry-after"), (429, "retry-after"), (403, "x")]
    {
        upstream.script(move |_, _| Some(refused(status, "text/plain", "no").with(header, "1")));
        assert_eq!(gateway.client().post(initialize_body("2025-11-25", "{}")).status, status);
    }
    assert_eq!(upstream.count("server/discover"), 0);
}

#[test]
fn a_header_that_a_server_of_both_eras_refuses_costs_no_session() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let session = session(&gateway);
    assert_eq!(session.count(), "1");
    upstream.script(|request, _| match request.rpc().as_str() {
        "server/discover" => Some(result(request, discovered())),
        "tools/call" if request.headers.get("mcp-protocol-version") == Some("2025-99-99") => {
            Some(answer(400, rpc_error(&request.id(), -32022, "Unsupported protocol version")))
        }
        _ => None,
    });
    let client = session.client.with("mcp-protocol-version", "2025-99-99");
    let refusal = client.post(call("1", "count"));
    assert_eq!((refusal.status, refusal.code()), (400, -32022), "{}", refusal.text());
    assert_eq!((session.count().as_str(), upstream.count("initialize")), ("2", 1));
}

#[test]
fn an_upgrade_is_seen_however_the_new_server_refuses_the_old_request() {
    for (code, message) in [
        (-32020, "Missing MCP-Protocol-Version header"),
        (-32022, "Unsupported protocol version"),
        (-32602, "Invalid params: request requires protocolVersion in request _meta"),
    ] {
        let upstream = Upstream::start();
        let gateway = Gw::start(&upstream);
        let session = session(&gateway);
        assert_eq!(session.count(), "1");
        upstream.script(move |request, _| {
            let refusal = || answer(400, rpc_error(&request.id(), code, message));
            let is_modern = request.headers.get("mcp-protocol-version") == Some("2026-07-28");
            Some(match request.rpc().as_str() {
                _ if !is_modern => refusal(),
                "server/discover" => result(request, discovered()),
                _ => text(request, "modern"),
            })
        });
        assert_eq!(session.post(call("1", "count")).tool_text(), "modern", "{message}");
    }
}

#[test]
fn a_handshake_that_is_refused_for_what_one_client_says_in_it_is_not_refused_to_others() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    upstream.script(|request, _| match request.rpc().as_str() {
        "server/discover" => Some(result(request, discovered())),
        "initialize" if request.text().contains("\"strange\"") => {
            Some(answer(400, rpc_error(&request.id(), -32602, "Invalid request parameters")))
        }
        _ => None,
    });
    let strange = gateway.client().post(initialize_body("2025-11-25", r#"{"roots":"strange"}"#));
    assert_eq!(strange.status, 200, "{}", strange.text());
    assert_eq!((session(&gateway).count(), session(&gateway).count()), ("1".to_owned(), "1".to_owned()));
    assert_eq!(upstream.server().violations(), Vec::<String>::new());
}
