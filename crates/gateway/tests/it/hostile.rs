//! Input that is wrong, whether by mistake or by intent: refused clearly, and the gateway goes on.

use throughline_gateway::peer::Network;

use crate::harness::{Answers, Gw, Session, Upstream, call, initialize_body, parse, request};

#[test]
fn pages_in_browsers_cannot_reach_it() {
    let upstream = Upstream::start();
    let gateway = Gw::start_with(&upstream, |config| {
        config.allowed_hosts = vec!["mcp.example.com".into(), "other.example.com:8443".into()];
        config.allowed_origins = vec!["https://app.example.com".into()];
    });
    let port = gateway.address.port();
    let own = format!("127.0.0.1:{port}");
    let local = format!("localhost:{port}");
    let cases: &[(&str, Option<&str>, Option<&str>, u16)] = &[
        (&own, None, None, 200),
        (&local, None, None, 200),
        ("LOCALHOST", None, None, 200),
        ("[::1]:80", None, None, 200),
        ("127.0.0.2", None, None, 200),
        ("mcp.example.com", None, None, 200),
        ("MCP.example.com:9", None, None, 200),
        ("other.example.com:8443", None, None, 200),
        ("other.example.com", None, None, 403),
        ("evil.example.com", None, None, 403),
        ("localhost.evil.example.com", None, None, 403),
        ("127.0.0.1.evil.example.com", None, None, 403),
        ("mcp.example.com.evil.example.com", None, None, 403),
        ("evil.example.com@localhost", None, None, 403),
        ("", None, None, 403),
        ("10.0.0.1", None, None, 403),
        (&own, Some("http://localhost:5173"), None, 200),
        (&own, Some("http://127.0.0.1"), None, 200),
        (&own, Some("https://app.example.com"), None, 200),
        (&own, Some("https://app.example.com"), Some("cross-site"), 200),
        (&own, Some("https://app.example.com.evil.example.com"), None, 403),
        (&own, Some("http://app.example.com"), None, 403),
        (&own, Some("https://evil.example.com"), None, 403),
        (&own, Some("http://localhost.evil.example.com"), None, 403),
        (&own, Some("null"), None, 403),
        (&own, Some(""), None, 403),
        (&own, Some("localhost"), None, 403),
        (&own, Some("http://localhost:5173"), Some("cross-site"), 403),
        (&own, None, Some("cross-site"), 403),
        (&own, None, Some("same-origin"), 200),
        (&own, None, Some("none"), 200),
        ("mcp.example.com", Some("https://mcp.example.com"), None, 200),
        ("mcp.example.com", Some("https://evil.example.com"), None, 403),
    ];
    for (host, origin, site, status) in cases {
        let mut client = gateway.client().with("host", host);
        if let Some(origin) = origin {
            client = client.with("origin", origin);
        }
        if let Some(site) = site {
            client = client.with("sec-fetch-site", site);
        }
        let answer = client.post(request("1", "tools/list", "{}"));
        assert_eq!(answer.status, *status, "{host} {origin:?} {site:?}: {}", answer.text());
        if *status == 403 {
            assert!(answer.json().get("id").is_none() && answer.json()["error"]["code"].is_i64());
        }
    }
}

#[test]
fn only_a_named_proxy_says_which_host_was_meant() {
    let upstream = Upstream::start();
    let trusting = |proxy: &'static str| {
        let upstream = &upstream;
        Gw::start_with(upstream, move |config| {
            config.allowed_hosts = vec!["mcp.example.com".into()];
            config.trusted_proxies = vec![Network::parse(proxy).unwrap()];
        })
    };
    let (trusts, does_not) = (trusting("127.0.0.0/8"), trusting("10.0.0.0/8"));
    type Headers<'a> = &'a [(&'a str, &'a str)];
    let cases: &[(Headers<'_>, u16, u16)] = &[
        (&[("x-forwarded-host", "mcp.example.com")], 200, 200),
        (&[("forwarded", "for=1.2.3.4;host=mcp.example.com")], 200, 200),
        (&[("x-forwarded-host", "evil.example.com")], 403, 200),
        (&[("forwarded", "host=evil.example.com")], 403, 200),
        // A page on the proxy's own machine can send anything, but not another Host.
        (&[("x-forwarded-host", "mcp.example.com"), ("host", "evil.example.com")], 403, 403),
        (&[("x-forwarded-host", "mcp.example.com"), ("origin", "https://mcp.example.com")], 200, 403),
        (&[("x-forwarded-host", "mcp.example.com"), ("origin", "https://evil.example.com")], 403, 403),
    ];
    for (headers, told, untold) in cases {
        for (gateway, expected) in [(&trusts, told), (&does_not, untold)] {
            let client =
                headers.iter().fold(gateway.client(), |client, (name, value)| client.with(name, value));
            let answer = client.post(request("1", "tools/list", "{}"));
            assert_eq!(answer.status, *expected, "{headers:?}: {}", answer.text());
        }
    }
}

#[test]
fn a_request_without_a_host_is_refused() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    for bytes in [
        "GET /mcp HTTP/1.0\r\n\r\n".to_owned(),
        "GET /mcp HTTP/1.1\r\n\r\n".to_owned(),
        "GET http://evil.example.com/mcp HTTP/1.1\r\nhost: localhost\r\n\r\n".to_owned(),
    ] {
        let answer = gateway.client().raw(bytes.as_bytes()).answer();
        assert!(matches!(answer.status, 400 | 403), "{bytes:?}: {}", answer.status);
    }
    gateway.assert_well();
}

#[test]
fn a_body_must_be_json_by_its_type() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let types: &[(&str, u16)] = &[
        ("application/json", 200),
        ("application/json; charset=utf-8", 200),
        ("APPLICATION/JSON;charset=UTF-8", 200),
        ("application/json ; x=y", 200),
        ("text/plain", 415),
        ("text/plain; application/json", 415),
        ("application/jsonx", 415),
        ("application/x-www-form-urlencoded", 415),
        ("multipart/form-data; boundary=x", 415),
        ("", 415),
    ];
    for (kind, status) in types {
        let answer = gateway.client().with("content-type", kind).post(request("1", "tools/list", "{}"));
        assert_eq!(answer.status, *status, "{kind}");
    }
    assert_eq!(gateway.client().without("content-type").post(request("1", "tools/list", "{}")).status, 415);
}

#[test]
fn a_message_that_is_too_large_is_refused() {
    let upstream = Upstream::start();
    let gateway = Gw::start_with(&upstream, |config| config.limits.body_bytes = 10_000);
    let large = request("1", "tools/list", &format!(r#"{{"x":"{}"}}"#, "y".repeat(20_000)));
    let answer = gateway.client().post(&large);
    assert_eq!((answer.status, answer.code()), (413, -32600));
    assert!(answer.json().get("id").is_none());

    let head = format!(
        "POST /mcp HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n",
        gateway.address
    );
    let chunked = |body: &str| {
        let chunks: String = body
            .as_bytes()
            .chunks(1000)
            .map(|chunk| format!("{:x}\r\n{}\r\n", chunk.len(), String::from_utf8_lossy(chunk)))
            .collect();
        gateway.client().raw(format!("{head}{chunks}0\r\n\r\n").as_bytes()).answer().whole()
    };
    assert_eq!(chunked(&large).status, 413);
    assert_eq!(chunked(&request("1", "tools/list", "{}")).status, 200);
    let announced = format!(
        "POST /mcp HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\ncontent-length: 99999999999\r\n\r\n",
        gateway.address
    );
    assert_eq!(gateway.client().raw(announced.as_bytes()).answer().status, 413);
    assert_eq!(gateway.client().post(request("1", "tools/list", "{}")).status, 200);
}

#[test]
fn too_many_or_too_long_headers_are_refused() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let many: String = (0..200).map(|n| format!("x-{n}: 1\r\n")).collect();
    let long = format!("x: {}\r\n", "y".repeat(100_000));
    for headers in [many, long] {
        let bytes = format!(
            "POST /mcp HTTP/1.1\r\nhost: {}\r\n{headers}content-length: 2\r\n\r\n{{}}",
            gateway.address
        );
        assert_eq!(gateway.client().raw(bytes.as_bytes()).answer().status, 431);
    }
    gateway.assert_well();
}

#[test]
fn bytes_that_are_no_http_end_their_connection_only() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    for bytes in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
        b"GET\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"POST /mcp HTTP/1.1\r\nhost: localhost\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello!",
        b"POST /mcp HTTP/1.1\r\nhost: localhost\r\ncontent-length: -1\r\n\r\n",
        b"POST /mcp HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"\0\0\0\0\r\n\r\n",
    ] {
        if let Ok(answer) = gateway.client().raw(bytes).try_answer() {
            assert!((400..500).contains(&answer.status), "{bytes:?}: {}", answer.status);
        }
    }
    // A body that never comes whole.
    drop(gateway.client().raw(b"POST /mcp HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 50\r\n\r\n{"));
    gateway.assert_well();
    assert_eq!(upstream.log().len(), 0);
}

#[test]
fn a_message_that_is_none_is_refused_without_an_id() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let session = Session::open(&gateway.client());
    let deep =
        format!(r#"{{"jsonrpc":"2.0","id":1,"method":"x","params":{}{}}}"#, "[".repeat(200), "]".repeat(200));
    let very_deep = "[".repeat(1_000_000);
    let cases: &[(&str, i64)] = &[
        ("", -32700),
        (" ", -32700),
        ("{", -32700),
        ("nonsense", -32700),
        ("{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/list\"} x", -32700),
        ("{\"jsonrpc\":\"2.0\",\"id\":01,\"method\":\"tools/list\"}", -32700),
        ("null", -32600),
        ("1", -32600),
        ("\"x\"", -32600),
        ("{}", -32600),
        ("[]", -32600),
        ("[[]]", -32600),
        (
            r#"[{"jsonrpc":"2.0","id":1,"method":"tools/list"},{"jsonrpc":"2.0","id":2,"method":"tools/list"}]"#,
            -32600,
        ),
        (r#"{"id":1,"method":"tools/list"}"#, -32600),
        (r#"{"jsonrpc":"1.0","id":1,"method":"tools/list"}"#, -32600),
        (r#"{"jsonrpc":"2.0","id":{},"method":"tools/list"}"#, -32600),
        (r#"{"jsonrpc":"2.0","id":true,"method":"tools/list"}"#, -32600),
        (r#"{"jsonrpc":"2.0","id":1,"method":7}"#, -32600),
        (r#"{"jsonrpc":"2.0","id":1,"method":"x","result":{}}"#, -32600),
        (r#"{"jsonrpc":"2.0","id":1,"id":2,"method":"tools/list"}"#, -32600),
        (r#"{"jsonrpc":"2.0","id":1,"method":"tools/list","\u006dethod":"tools/call"}"#, -32600),
        (r#"{"jsonrpc":"2.0","id":1,"Method":"tools/list"}"#, -32600),
        (r#"{"jsonrpc":"2.0","id":1,"method":"tools/list","params":7}"#, -32600),
        (&deep, -32600),
        (&very_deep, -32600),
    ];
    let before = upstream.log().len();
    for client in [gateway.client(), session.client.clone()] {
        for (body, code) in cases {
            let answer = client.post(body);
            let shown = &body[..body.len().min(80)];
            assert_eq!((answer.status, answer.code()), (400, *code), "{shown}: {}", answer.text());
            assert!(answer.json().get("id").is_none(), "{shown}: {}", answer.text());
        }
        let bytes = b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"\xff\xfe\"}";
        assert_eq!(client.post(bytes).code(), -32700);
    }
    assert_eq!(upstream.log().len(), before);
    gateway.assert_well();
}

#[test]
fn initialize_without_its_parameters_is_refused_under_its_id() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    for params in [
        "{}",
        "[]",
        r#"{"protocolVersion":"2025-06-18"}"#,
        r#"{"protocolVersion":1,"capabilities":{},"clientInfo":{"name":"x","version":"1"}}"#,
        r#"{"protocolVersion":"2025-06-18","capabilities":[],"clientInfo":{"name":"x","version":"1"}}"#,
        r#"{"protocolVersion":"2025-06-18","capabilities":{},"clientInfo":"x"}"#,
    ] {
        let answer = gateway.client().post(request("\"i\"", "initialize", params));
        assert_eq!((answer.status, answer.code()), (400, -32602), "{params}");
        assert_eq!(answer.json()["id"], "i");
    }
    let bare = gateway.client().post(r#"{"jsonrpc":"2.0","id":"i","method":"initialize"}"#);
    assert_eq!((bare.status, bare.code()), (400, -32602));
    assert_eq!(upstream.log().len(), 0);
}

#[test]
fn an_array_around_one_message_is_tolerated() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let session = Session::open(&gateway.client());
    for client in [gateway.client(), session.client.clone(), gateway.client().with("via", "x")] {
        let answer = client.post(format!(" [ {} ] ", call("\"a\"", "count")));
        assert_eq!((answer.tool_text().as_str(), &answer.json()["id"]), ("1", &"a".into()));
        let told = client.post(r#"[{"jsonrpc":"2.0","method":"notifications/roots/list_changed"}]"#);
        assert_eq!((told.status, told.body.len()), (202, 0));
    }
    // No server but one of 2025-03-26 takes an array.
    assert!(upstream.log().iter().all(|request| request.body.first() != Some(&b'[')));
    assert!(upstream.of("tools/call").iter().all(|request| request.json().is_object()));
    let wrapped = format!("[{}]", initialize_body("2025-03-26", "{}"));
    assert_eq!(gateway.client().post(wrapped).json()["result"]["protocolVersion"], "2025-03-26");
}

#[test]
fn a_notification_is_answered_202_with_nothing_whatever_it_is() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let session = Session::open(&gateway.client());
    for client in [gateway.client(), session.client.clone(), gateway.client().with("via", "x")] {
        for body in [
            r#"{"jsonrpc":"2.0","method":"notifications/initialized","id":null}"#,
            r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#,
            r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":77}}"#,
            r#"{"jsonrpc":"2.0","method":"notifications/cancelled"}"#,
            r#"{"jsonrpc":"2.0","method":"notifications/progress","params":[]}"#,
            r#"{"jsonrpc":"2.0","method":"vendor/thing","params":null}"#,
            r#"{"jsonrpc":"2.0","id":5,"result":{}}"#,
            r#"{"jsonrpc":"2.0","id":null,"error":{"code":1,"message":"x"}}"#,
        ] {
            let told = client.post(body);
            assert_eq!((told.status, told.body.len()), (202, 0), "{body}: {}", told.text());
        }
    }
}

#[test]
fn a_client_that_reads_only_json_gets_json() {
    let upstream = Upstream::start();
    upstream.server().answer_with(Answers::Sse);
    let gateway = Gw::start(&upstream);
    let streaming = gateway.client();
    let session = Session::open(&streaming);
    let plain = [
        streaming.with("accept", "application/json"),
        streaming.without("accept"),
        session.client.with("accept", "application/json"),
        streaming.with("accept", "application/json").with("via", "x"),
    ];
    for client in plain {
        for body in [initialize_body("2025-06-18", "{}"), call("1e3", "count")] {
            // A client may not initialise in its session; it is a new one then.
            let client =
                if body.contains("initialize") { client.without("mcp-session-id") } else { client.clone() };
            let answer = client.post(&body);
            assert_eq!((answer.status, answer.headers.get("content-type")), (200, Some("application/json")));
            assert!(parse(&answer.body)["result"].is_object());
            assert_eq!(answer.headers.get("x-accel-buffering"), None);
        }
    }
    for accept in ["text/event-stream", "*/*", "application/json;q=0.5, TEXT/EVENT-STREAM"] {
        let answer = streaming.with("accept", accept).post(call("1", "count"));
        assert_eq!(answer.headers.get("content-type"), Some("text/event-stream"), "{accept}");
    }
}

#[test]
fn methods_that_mean_nothing_here_are_refused_with_allow() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    for method in ["PUT", "PATCH", "OPTIONS", "TRACE", "BREW"] {
        let answer = gateway.client().open(method, "");
        assert_eq!(answer.status, 405, "{method}");
        assert!(answer.headers.get("allow").unwrap().contains("POST"), "{method}");
    }
}

#[test]
fn an_upstream_that_talks_nonsense_is_passed_on_or_named() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let session = Session::open(&gateway.client());
    for body in ["", "nonsense", "[]", "null", "{\"jsonrpc\":\"2.0\"}", "\u{feff}{}"] {
        upstream.script(move |request, _| (request.tool() == "odd").then(|| crate::harness::json(200, body)));
        for client in [session.client.clone(), gateway.client(), gateway.client().with("via", "x")] {
            let answer = client.post(call("1", "odd"));
            assert_eq!((answer.status, answer.text().as_str()), (200, body));
        }
        upstream.script(move |request, _| {
            (request.rpc() == "initialize").then(|| crate::harness::json(200, body))
        });
        let welcome = gateway.client().post(initialize_body("2024-11-05", "{}"));
        assert!(welcome.headers.get("mcp-session-id").is_none(), "{body}: {}", welcome.text());
    }
    gateway.assert_well();
}
