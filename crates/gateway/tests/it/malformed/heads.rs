//! Paths, methods and headers that are wrong: every one at every path, by one rule for each.

use super::{Case, Ids, LIST, PATHS, USUAL, post};

fn request(method: &str, path: &str, headers: &[u8]) -> Vec<u8> {
    let head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n");
    [head.as_bytes(), headers, b"\r\n"].concat()
}

pub(super) fn cases(ids: &Ids) -> Vec<Case> {
    [methods(), paths(), types(), session_ids(ids), versions(ids), events(ids), origins()].concat()
}

/// Every method at every path.
fn methods() -> Vec<Case> {
    let methods =
        ["GET", "HEAD", "PUT", "PATCH", "OPTIONS", "TRACE", "DELETE", "get", "Post", "PROPFIND", "X-Y!", "0"];
    let mut all = Vec::new();
    for path in PATHS.iter().copied().chain(["/mcp/", "/mcp?x=y", "/plain/mcp/"]) {
        for method in methods {
            all.push(Case::new(format!("{method} {path}"), request(method, path, b""), "405"));
        }
    }
    for path in ["/nowhere", "/restless"] {
        for method in methods {
            all.push(Case::new(format!("{method} {path}"), request(method, path, b""), "404"));
        }
    }
    all
}

/// Paths that look like one of ours.
fn paths() -> Vec<Case> {
    let none = [
        "/MCP",
        "//mcp",
        "/mcp//",
        "/mcp/x",
        "/mcp%2f",
        "/%6dcp",
        "/mcp/../mcp",
        "/./mcp",
        "/mcp/.",
        "/mcp;x",
        "/mcp%00",
        "/mcp%0d%0aX:y",
        "/mcp,",
        "/mc",
        "/mcpp",
        "/plain",
        "/plain/",
        "/plain/mcp/mcp",
        "/plain//mcp",
        "/unknown/mcp",
        "/alone/../mcp",
        "/..",
        "/../../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/healthz/",
        "/HEALTHZ",
        "/readyz/x",
        "/.well-known/../mcp",
        "/?/mcp",
        "/%",
        "/%zz",
        "/mcp%",
        "/~",
        "/\\mcp",
        "/mcp\\..",
        "/${jndi:ldap://x}",
        "/<script>",
        "*",
    ];
    let found = none
        .iter()
        .map(|path| Case::new(*path, post(path, USUAL.as_bytes(), LIST.as_bytes()), "404 -32000|400"));
    let good = ["/mcp?", "/mcp?/../../x", "/mcp/?a=b&a=b", "/mcp?%", "/plain/mcp?\\"];
    let good = good.iter().map(|path| Case::new(*path, post(path, USUAL.as_bytes(), LIST.as_bytes()), "200"));
    found.chain(good).collect()
}

/// Content types, and what the client reads.
fn types() -> Vec<Case> {
    let bad_types = [
        "",
        "text/plain",
        "application/json-rpc",
        "application/jsonx",
        "application",
        "json",
        "/",
        "*/*",
        "application/*",
        "text/json",
        "application/json, text/plain",
        "\"application/json\"",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "text/plain; application/json",
        "application/vnd.api+json",
        "\u{e9}",
    ];
    let codings = ["gzip", "br", "deflate", "zstd", "x", "", "identity, gzip", "gzip, identity"];
    let accepts = [
        "",
        "text/html",
        "application/json;q=0",
        "nonsense",
        ",,,",
        ";",
        "*/*;q=x",
        "text/event-stream;q=0.0000001",
    ];
    let mut all = Vec::new();
    for path in PATHS {
        for kind in bad_types {
            let headers = format!("Accept: application/json\r\nContent-Type: {kind}\r\n");
            all.push(Case::new(
                format!("{path} of type {kind}"),
                post(path, headers.as_bytes(), LIST.as_bytes()),
                "415 -32000",
            ));
        }
        for coding in codings {
            let headers = format!("{USUAL}Content-Encoding: {coding}\r\n");
            all.push(Case::new(
                format!("{path} in {coding}"),
                post(path, headers.as_bytes(), LIST.as_bytes()),
                "415 -32000",
            ));
        }
        for accept in accepts {
            let headers = format!("Content-Type: application/json\r\nAccept: {accept}\r\n");
            all.push(Case::new(
                format!("{path} accepting {accept}"),
                post(path, headers.as_bytes(), LIST.as_bytes()),
                "200",
            ));
        }
        all.push(Case::new(format!("{path} without a type"), post(path, b"", LIST.as_bytes()), "415 -32000"));
    }
    all
}

/// Session ids that name nothing, at paths where they would.
fn session_ids(ids: &Ids) -> Vec<Case> {
    let live = &ids.live[0];
    let (first, rest) = live.split_at(1);
    let other = if first == "a" { "b" } else { "a" };
    let middle = live.len() / 2;
    let mut bad: Vec<Vec<u8>> = [
        "",
        "garbage",
        "0",
        "-1",
        "null",
        "undefined",
        "a b",
        "../../etc/passwd",
        "%00",
        "${id}",
        "' OR 1=1 --",
        "*",
        "a,b",
        "{}",
    ]
    .iter()
    .map(|id| id.as_bytes().to_vec())
    .collect();
    bad.extend([
        ids.ended.clone().into(),
        ids.upstream.clone().into(),
        ids.live[1].clone().into(),
        ids.live[2].clone().into(),
        live.to_ascii_uppercase().into(),
        format!("{live}a").into(),
        format!("{live}=").into(),
        format!("{live}, {live}").into(),
        format!("\"{live}\"").into(),
        format!("{other}{rest}").into(),
        rest.into(),
        live[..live.len() - 1].into(),
        [&live[..middle], &live[middle + 1..]].concat().into(),
        "a".repeat(live.len()).into(),
        "a".repeat(127).into(),
        "z".repeat(8000).into(),
        b"\xff\xfe".to_vec(),
        [live.as_bytes(), b"\xff"].concat(),
        b"a\tb".to_vec(),
    ]);
    let mut all = Vec::new();
    for id in bad {
        let header = [b"Mcp-Session-Id: ", &id[..], b"\r\n"].concat();
        let shown = String::from_utf8_lossy(&id[..id.len().min(60)]).into_owned();
        let usual = [USUAL.as_bytes(), &header].concat();
        let streams = [b"Accept: text/event-stream\r\n", &header[..]].concat();
        all.push(Case::new(
            format!("POST with {shown}"),
            post("/mcp", &usual, LIST.as_bytes()),
            "404 -32001",
        ));
        all.push(Case::new(format!("GET with {shown}"), request("GET", "/mcp", &streams), "404 -32001"));
        all.push(Case::new(format!("DELETE with {shown}"), request("DELETE", "/mcp", &header), "404 -32001"));
        let answer = post("/mcp", &usual, br#"{"jsonrpc":"2.0","id":"x","result":{}}"#);
        all.push(Case::new(format!("an answer with {shown}"), answer, "404 -32001"));
        // Where there are no sessions, none is looked for.
        all.push(Case::new(
            format!("stateless with {shown}"),
            post("/plain/mcp", &usual, LIST.as_bytes()),
            "200",
        ));
    }
    for name in ["Mcp-Session-Id", "MCP-Protocol-Version", "Last-Event-ID", "Authorization", "Content-Type"] {
        let twice = format!("{USUAL}{name}: {live}\r\n{name}: garbage\r\n");
        all.push(Case::new(
            format!("{name} twice"),
            post("/mcp", twice.as_bytes(), LIST.as_bytes()),
            "400 -32600",
        ));
    }
    let spaces = format!("{USUAL}Mcp-Session-Id: \t {live} \t \r\n");
    all.push(Case::new("white space around an id", post("/mcp", spaces.as_bytes(), LIST.as_bytes()), "200"));
    all
}

/// Protocol versions that there are not, or not here.
fn versions(ids: &Ids) -> Vec<Case> {
    let legacy = [
        "",
        "nonsense",
        "1.0",
        "1999-01-01",
        "2025-6-18",
        "2025-06-18T00:00",
        "2025-06-18 2024-11-05",
        "9999-99-99",
        "\u{e9}",
    ];
    let modern = ["2026-07-28", "2026-07-29", "2099-12-31"];
    let mut all = Vec::new();
    for (path, session) in
        [("/mcp", None), ("/mcp", Some(&ids.live[0])), ("/plain/mcp", None), ("/json/mcp", None)]
    {
        let session = session.map_or(String::new(), |id| format!("Mcp-Session-Id: {id}\r\n"));
        for (versions, expected) in [(&legacy[..], "200"), (&modern[..], "400 -32602")] {
            for version in versions {
                let headers = format!("{USUAL}{session}MCP-Protocol-Version: {version}\r\n");
                let bytes = post(path, headers.as_bytes(), LIST.as_bytes());
                all.push(Case::new(format!("{path} in version {version:?}"), bytes, expected));
            }
        }
        for version in modern {
            let headers =
                format!("{session}MCP-Protocol-Version: {version}\r\nAccept: text/event-stream\r\n");
            for method in ["GET", "DELETE"] {
                let bytes = request(method, path, headers.as_bytes());
                all.push(Case::new(format!("{method} {path} in version {version:?}"), bytes, "405 -32000"));
            }
            for (members, expected) in [
                ("", "400 -32602"),
                (r#","io.modelcontextprotocol/clientCapabilities":[]"#, "400 -32602"),
                (r#","io.modelcontextprotocol/clientCapabilities":{}"#, "400 -32020"),
            ] {
                let body = format!(
                    r#"{{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{{"_meta":{{"io.modelcontextprotocol/protocolVersion":"{version}"{members}}}}}}}"#
                );
                let headers = format!("{USUAL}{session}");
                let bytes = post(path, headers.as_bytes(), body.as_bytes());
                all.push(Case::new(format!("{path} with {version} in its _meta{members}"), bytes, expected));
            }
        }
    }
    all
}

/// Event ids, at a stream that is refused anyway.
fn events(ids: &Ids) -> Vec<Case> {
    let events: [&[u8]; 8] =
        [b"", b"0", b"-1", b"nonsense", b"../../etc/passwd", b"\xff\xfe", b"a\tb", &[b'e'; 9000]];
    let mut all = Vec::new();
    for event in events {
        let header = [b"Last-Event-ID: ", event, b"\r\n"].concat();
        let shown = String::from_utf8_lossy(&event[..event.len().min(40)]).into_owned();
        for (path, session, accept, expected) in [
            ("/mcp", None, "text/event-stream", "405 -32000"),
            ("/plain/mcp", None, "text/event-stream", "405 -32000"),
            ("/mcp", Some("garbage"), "text/event-stream", "404 -32001"),
            ("/mcp", Some(ids.live[0].as_str()), "application/json", "406 -32000"),
            ("/alone/mcp", Some(ids.live[1].as_str()), "", "406 -32000"),
        ] {
            let session = session.map_or(String::new(), |id| format!("Mcp-Session-Id: {id}\r\n"));
            let headers = [format!("{session}Accept: {accept}\r\n").as_bytes(), &header].concat();
            all.push(Case::new(
                format!("GET {path} after {shown}"),
                request("GET", path, &headers),
                expected,
            ));
        }
    }
    all
}

/// Pages of others.
fn origins() -> Vec<Case> {
    let origins = [
        "",
        "null",
        "nonsense",
        "http://",
        "https://evil.example.com",
        "http://localhost.evil.example.com",
        "http://localhost@evil.example.com",
        "http://127.0.0.1.evil.example.com",
        "localhost",
        "http://evil.example.com:80/localhost",
        "http://localhost, http://evil.example.com",
        "file://",
        "http://[::1",
        "\u{e9}",
    ];
    let mut all = Vec::new();
    for origin in origins {
        for (method, path) in
            [("POST", "/mcp"), ("GET", "/mcp"), ("OPTIONS", "/mcp"), ("DELETE", "/mcp"), ("GET", "/nowhere")]
        {
            let headers = format!("Origin: {origin}\r\nAccess-Control-Request-Method: POST\r\n");
            let bytes = request(method, path, headers.as_bytes());
            all.push(Case::new(format!("{method} {path} from {origin:?}"), bytes, "403 -32000"));
        }
    }
    for site in ["cross-site", "CROSS-SITE"] {
        let headers = format!("{USUAL}Sec-Fetch-Site: {site}\r\n");
        let expected = if site == "cross-site" { "403 -32000" } else { "200|403 -32000" };
        all.push(Case::new(site, post("/mcp", headers.as_bytes(), LIST.as_bytes()), expected));
    }
    all
}
