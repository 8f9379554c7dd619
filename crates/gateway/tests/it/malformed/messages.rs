//! Bodies that are no JSON, no message, or a message that means nothing; at every path, with and without a session.

use super::{Case, Ids, LIST, PATHS, USUAL, post};

/// Not JSON, or not a message.
pub(super) const BAD: &[(&str, &str)] = &[
    ("", "400 -32700"),
    (" ", "400 -32700"),
    ("\r\n", "400 -32700"),
    ("{", "400 -32700"),
    ("}", "400 -32700"),
    ("[", "400 -32700"),
    ("]", "400 -32700"),
    ("\"", "400 -32700"),
    ("nonsense", "400 -32700"),
    ("tru", "400 -32700"),
    ("nulll", "400 -32700"),
    ("True", "400 -32700"),
    ("NaN", "400 -32700"),
    ("-", "400 -32700"),
    ("{\"a\"", "400 -32700"),
    ("{\"a\":}", "400 -32700"),
    ("{,}", "400 -32700"),
    ("{\"a\":1,}", "400 -32700"),
    ("[1,]", "400 -32700"),
    ("{'jsonrpc':'2.0'}", "400 -32700"),
    ("{jsonrpc:\"2.0\"}", "400 -32700"),
    ("// a comment\n{}", "400 -32700"),
    ("{/**/}", "400 -32700"),
    ("{}{}", "400 -32700"),
    ("{} x", "400 -32700"),
    ("\u{feff}{}", "400 -32700"),
    ("\0{}", "400 -32700"),
    ("{}\0", "400 -32700"),
    ("\u{b}{}", "400 -32700"),
    ("\u{a0}{}", "400 -32700"),
    ("<methodCall><methodName>x</methodName></methodCall>", "400 -32700"),
    ("jsonrpc=2.0&id=1&method=tools%2Flist", "400 -32700"),
    ("data: {\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/list\"}\n\n", "400 -32700"),
    (r#"{"jsonrpc":"2.0","id":01,"method":"tools/list"}"#, "400 -32700"),
    (r#"{"jsonrpc":"2.0","id":+1,"method":"tools/list"}"#, "400 -32700"),
    (r#"{"jsonrpc":"2.0","id":0x1,"method":"tools/list"}"#, "400 -32700"),
    (r#"{"jsonrpc":"2.0","id":.5,"method":"tools/list"}"#, "400 -32700"),
    (r#"{"jsonrpc":"2.0","id":1.,"method":"tools/list"}"#, "400 -32700"),
    (r#"{"jsonrpc":"2.0","id":1e,"method":"tools/list"}"#, "400 -32700"),
    (r#"{"jsonrpc":"2.0","id":-,"method":"tools/list"}"#, "400 -32700"),
    (r#"{"jsonrpc":"2.0","id":Infinity,"method":"tools/list"}"#, "400 -32700"),
    (r#"{"jsonrpc":"2.0","id":"\x41","method":"tools/list"}"#, "400 -32700"),
    (r#"{"jsonrpc":"2.0","id":"\u00","method":"tools/list"}"#, "400 -32700"),
    ("{\"jsonrpc\":\"2.0\",\"id\":\"a\nb\",\"method\":\"tools/list\"}", "400 -32700"),
    ("{\"jsonrpc\":\"2.0\",\"id\":\"a\0b\",\"method\":\"tools/list\"}", "400 -32700"),
    (r#"{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"a":tru}}"#, "400 -32700"),
    (r#"{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"a":[1}]}"#, "400 -32700"),
    (r#"{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"#, "400 -32700"),
    ("null", "400 -32600"),
    ("true", "400 -32600"),
    ("1", "400 -32600"),
    ("-0.0e-1", "400 -32600"),
    ("\"x\"", "400 -32600"),
    ("{}", "400 -32600"),
    ("[]", "400 -32600"),
    ("[null]", "400 -32600"),
    ("[[]]", "400 -32600"),
    ("[{}]", "400 -32600"),
    ("[1]", "400 -32600"),
    (r#"[{"jsonrpc":"2.0","id":1,"method":"a"},{"jsonrpc":"2.0","id":2,"method":"b"}]"#, "400 -32600"),
    (r#"[{"jsonrpc":"2.0","id":1,"method":"a"},1]"#, "400 -32600"),
    (r#"[[{"jsonrpc":"2.0","id":1,"method":"a"}]]"#, "400 -32600"),
    (r#"{"id":1,"method":"tools/list"}"#, "400 -32600"),
    (r#"{"jsonrpc":"1.0","id":1,"method":"tools/list"}"#, "400 -32600"),
    (r#"{"jsonrpc":"2.0 ","id":1,"method":"tools/list"}"#, "400 -32600"),
    (r#"{"jsonrpc":2.0,"id":1,"method":"tools/list"}"#, "400 -32600"),
    (r#"{"jsonrpc":null,"id":1,"method":"tools/list"}"#, "400 -32600"),
    (r#"{"jsonrpc":["2.0"],"id":1,"method":"tools/list"}"#, "400 -32600"),
    (r#"{"JSONRPC":"2.0","id":1,"method":"tools/list"}"#, "400 -32600"),
    (r#"{"jsonrpc":"2.0","id":1}"#, "400 -32600"),
    (r#"{"jsonrpc":"2.0"}"#, "400 -32600"),
    (r#"{"jsonrpc":"2.0","id":1,"params":{}}"#, "400 -32600"),
    (r#"{"jsonrpc":"2.0","id":{},"method":"tools/list"}"#, "400 -32600"),
    (r#"{"jsonrpc":"2.0","id":[1],"method":"tools/list"}"#, "400 -32600"),
    (r#"{"jsonrpc":"2.0","id":true,"method":"tools/list"}"#, "400 -32600"),
    (r#"{"jsonrpc":"2.0","id":1,"method":null}"#, "400 -32600"),
    (r#"{"jsonrpc":"2.0","id":1,"method":7}"#, "400 -32600"),
    (r#"{"jsonrpc":"2.0","id":1,"method":["tools/list"]}"#, "400 -32600"),
    (r#"{"jsonrpc":"2.0","id":1,"method":{}}"#, "400 -32600"),
    (r#"{"jsonrpc":"2.0","id":1,"method":"\ud800"}"#, "400 -32600"),
    (r#"{"jsonrpc":"2.0","id":1,"Method":"tools/list"}"#, "400 -32600"),
    (r#"{"jsonrpc":"2.0","id":1,"method":"tools/list","params":7}"#, "400 -32600"),
    (r#"{"jsonrpc":"2.0","id":1,"method":"tools/list","params":"{}"}"#, "400 -32600"),
    (r#"{"jsonrpc":"2.0","id":1,"method":"tools/list","params":false}"#, "400 -32600"),
    (r#"{"jsonrpc":"2.0","id":1,"method":"x","result":{}}"#, "400 -32600"),
    (r#"{"jsonrpc":"2.0","id":1,"method":"x","error":{}}"#, "400 -32600"),
    (r#"{"jsonrpc":"2.0","id":1,"result":{},"error":{}}"#, "400 -32600"),
    (r#"{"jsonrpc":"2.0","id":1,"id":1,"method":"tools/list"}"#, "400 -32600"),
    (r#"{"jsonrpc":"2.0","id":1,"\u0069d":2,"method":"tools/list"}"#, "400 -32600"),
    (r#"{"jsonrpc":"2.0","jsonrpc":"2.0","id":1,"method":"tools/list"}"#, "400 -32600"),
    (r#"{"jsonrpc":"2.0","id":1,"method":"tools/list","method":"tools/call"}"#, "400 -32600"),
    (r#"{"jsonrpc":"2.0","id":1,"method":"tools/list","\u006dethod":"tools/call"}"#, "400 -32600"),
    (r#"{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{},"params":{}}"#, "400 -32600"),
    (r#"{"jsonrpc":"2.0","id":1,"result":{},"result":{}}"#, "400 -32600"),
];

/// `initialize` without what it needs.
pub(super) const BAD_INITIALIZE: &[(&str, &str)] = &[
    (r#"{"jsonrpc":"2.0","id":1,"method":"initialize"}"#, "400 -32602"),
    (r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":null}"#, "400 -32602"),
    (r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{}}"#, "400 -32602"),
    (r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":[]}"#, "400 -32602"),
    (r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":["2025-06-18",{},{}]}"#, "400 -32602"),
    (
        r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-06-18"}}"#,
        "400 -32602",
    ),
    (
        r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":7,"capabilities":{},"clientInfo":{"name":"x","version":"1"}}}"#,
        "400 -32602",
    ),
    (
        r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-06-18","capabilities":null,"clientInfo":{"name":"x","version":"1"}}}"#,
        "400 -32602",
    ),
    (
        r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-06-18","capabilities":{},"clientInfo":"x"}}"#,
        "400 -32602",
    ),
    (
        r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-06-18","protocolVersion":"2024-11-05","capabilities":{},"clientInfo":{"name":"x","version":"1"}}}"#,
        "400 -32602",
    ),
];

/// Messages, but of a kind that nobody means. They go through, or mean nothing.
const ODD: &[(&str, &str)] = &[
    (r#"{"jsonrpc":"2.0","id":"","method":"tools/list"}"#, "200"),
    (r#"{"jsonrpc":"2.0","id":-0,"method":"tools/list"}"#, "200"),
    (r#"{"jsonrpc":"2.0","id":1e999999,"method":"tools/list"}"#, "200"),
    (r#"{"jsonrpc":"2.0","id":123456789012345678901234567890,"method":"tools/list"}"#, "200"),
    (r#"{"jsonrpc":"2.0","id":"\u0000\ud83d\ude00","method":"tools/list"}"#, "200"),
    (r#"{"jsonrpc":"2.0","id":1,"method":"tools/list","params":null}"#, "200"),
    (r#"{"jsonrpc":"2.0","id":1,"method":"tools/list","params":[]}"#, "200"),
    (r#"{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"_meta":7}}"#, "200"),
    (r#"{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"_meta":{"progressToken":{}}}}"#, "200"),
    (r#"{"jsonrpc":"2.0","id":1,"method":"tools/list","Params":{},"extra":[[[]]]}"#, "200"),
    (r#"{"jsonrpc":"2.0","id":1,"method":"../../etc/passwd"}"#, "200"),
    (r#"{"jsonrpc":"2.0","id":1,"method":"rpc.discover"}"#, "200"),
    (r#" [ {"jsonrpc":"2.0","id":1,"method":"tools/list"} ] "#, "200"),
    (r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":{}}}"#, "202"),
    (r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":[]}"#, "202"),
    (r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":"x"}}"#, "202"),
    (r#"{"jsonrpc":"2.0","method":"notifications/nonsense"}"#, "202"),
    (r#"{"jsonrpc":"2.0","id":null,"method":"notifications/initialized"}"#, "202"),
    (r#"{"jsonrpc":"2.0","id":1,"result":null}"#, "202"),
    (r#"{"jsonrpc":"2.0","id":"0","result":{}}"#, "202"),
    (r#"{"jsonrpc":"2.0","id":"1.0-x","error":7}"#, "202"),
    (r#"{"jsonrpc":"2.0","id":null,"error":{"code":1,"message":"x"}}"#, "202"),
];

/// Bodies that cannot be written down above.
fn bytes() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let call = |params: &str| format!(r#"{{"jsonrpc":"2.0","id":1,"method":"x","params":{params}}}"#);
    let utf16: Vec<u8> = LIST.encode_utf16().flat_map(u16::to_le_bytes).collect();
    vec![
        ("bytes that are no UTF-8", b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"\xff\xfe\"}".to_vec(), "400 -32700"),
        ("an overlong form", b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"\xc0\xaf\"}".to_vec(), "400 -32700"),
        ("a surrogate in bytes", b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"\xed\xa0\x80\"}".to_vec(), "400 -32700"),
        ("UTF-16", utf16, "400 -32700"),
        ("compressed", b"\x1f\x8b\x08\0\0\0\0\0\0\x03".to_vec(), "400 -32700"),
        ("arrays 200 deep", call(&("[".repeat(200) + &"]".repeat(200))).into(), "400 -32600"),
        ("objects 200 deep", call(&("{\"a\":".repeat(200) + "1" + &"}".repeat(200))).into(), "400 -32600"),
        ("a million brackets", "[".repeat(1_000_000).into(), "400 -32600"),
        ("a million braces", "{\"a\":".repeat(200_000).into(), "400 -32600"),
        ("a million digits", format!(r#"{{"jsonrpc":"2.0","id":{},"method":"x"}}"#, "1".repeat(1_000_000)).into(), "400 -32600"),
        ("a long id", format!(r#"{{"jsonrpc":"2.0","id":"{}","method":"x"}}"#, "y".repeat(2000)).into(), "400 -32600"),
        ("a long string without end", format!("{{\"a\":\"{}", "y".repeat(1_000_000)).into(), "400 -32700"),
        ("many members", call(&format!("{{{}\"z\":1}}", r#""a":1,"#.repeat(50_000))).into(), "200"),
        ("a long method", format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{}"}}"#, "m/".repeat(50_000)).into(), "200"),
        ("a message above the limit", call(&format!("[\"{}\"]", "y".repeat(5 << 20))).into(), "413 -32600"),
        (
            "initialize with more than is kept",
            format!(
                r#"{{"jsonrpc":"2.0","id":1,"method":"initialize","params":{{"protocolVersion":"2025-06-18","capabilities":{{}},"clientInfo":{{"name":"{}","version":"1"}}}}}}"#,
                "n".repeat(20_000)
            )
            .into(),
            "413 -32600",
        ),
    ]
}

pub(super) fn cases(ids: &Ids) -> Vec<Case> {
    let mut all = Vec::new();
    // Without a session, and with that of the path.
    let places = PATHS.iter().map(|path| (*path, None)).chain([("/mcp", Some(&ids.live[0]))]);
    for (path, session) in places {
        let headers = session.map_or(USUAL.to_owned(), |id| format!("{USUAL}Mcp-Session-Id: {id}\r\n"));
        let place = format!("{path}{}", session.map_or("", |_| " in a session"));
        for (body, expected) in [BAD, BAD_INITIALIZE, ODD].concat() {
            let name = format!("{place}: {body}");
            all.push(Case::new(name, post(path, headers.as_bytes(), body.as_bytes()), expected));
        }
        for (what, body, expected) in bytes() {
            all.push(Case::new(format!("{place}: {what}"), post(path, headers.as_bytes(), &body), expected));
        }
    }
    all
}
