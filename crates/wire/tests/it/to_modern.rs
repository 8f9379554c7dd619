//! Between a client with a handshake and a server of 2026-07-28: what goes in, and what comes out, to the byte.

use serde_json::{Value, json};
use throughline_wire::bridge::to_modern::answer::{self, Asked, Said};
use throughline_wire::bridge::to_modern::hello::{self, Offers};
use throughline_wire::bridge::to_modern::input::{self, Needed, Reply};
use throughline_wire::bridge::to_modern::listen::{self, Heard};
use throughline_wire::bridge::to_modern::mirror::{Flaw, Page, mirrors};
use throughline_wire::bridge::to_modern::request::{self, Client, Round};
use throughline_wire::capability::Capabilities;
use throughline_wire::envelope::{Envelope, EnvelopeError, Limits, Message};
use throughline_wire::version::ProtocolVersion;

const CLIENT: Client<'_> = Client { info: br#"{"name":"c"}"#, capabilities: b"{}", log_level: Some("info") };
const META: &str = r#""io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientInfo":{"name":"c"},"io.modelcontextprotocol/clientCapabilities":{},"io.modelcontextprotocol/logLevel":"info""#;

fn asked(body: &str, round: &Round) -> Result<String, EnvelopeError> {
    let limits = Limits::default();
    let envelope = Envelope::parse(body.as_bytes(), &limits).expect("a message");
    let Message::Request { id, params, .. } = envelope.message else { unreachable!("{body} is no request") };
    let asked =
        request::request(body.as_bytes(), &envelope.object, (&id, "\"u\""), params.as_ref(), &CLIENT, round)?;
    Ok(String::from_utf8(asked).expect("text"))
}

#[test]
fn a_request_says_who_asks_and_keeps_every_other_byte() {
    let first = Round::default();
    for (body, sent) in [
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"x"}"#,
            format!(r#"{{"params":{{"_meta":{{{META}}}}},"jsonrpc":"2.0","id":"u","method":"x"}}"#),
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"x","params":null}"#,
            format!(r#"{{"jsonrpc":"2.0","id":"u","method":"x","params":{{"_meta":{{{META}}}}}}}"#),
        ),
        (
            r#" { "method":"x", "params" : { "n" : 1.0 }, "id":1,"jsonrpc":"2.0"} "#,
            format!(
                r#" {{ "method":"x", "params" : {{"_meta":{{{META}}}, "n" : 1.0 }}, "id":"u","jsonrpc":"2.0"}} "#
            ),
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"x","params":{"_meta":{"progressToken":7}}}"#,
            format!(
                r#"{{"jsonrpc":"2.0","id":"u","method":"x","params":{{"_meta":{{{META},"progressToken":7}}}}}}"#
            ),
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"x","params":{"_meta":{"io.modelcontextprotocol/logLevel":"debug"},"_x":0}}"#,
            format!(
                r#"{{"jsonrpc":"2.0","id":"u","method":"x","params":{{"_meta":{{{},"io.modelcontextprotocol/logLevel":"info"}},"_x":0}}}}"#,
                META.split_once(r#","io.modelcontextprotocol/logLevel""#).unwrap().0
            ),
        ),
    ] {
        assert_eq!(asked(body, &first).unwrap(), sent, "{body}");
    }
    let list = r#"{"jsonrpc":"2.0","id":1,"method":"x","params":[1]}"#;
    assert_eq!(asked(list, &first), Err(EnvelopeError::BadParams));
}

#[test]
fn a_later_round_brings_answers_and_state() {
    let round = Round { responses: Some(br#"{"a":{}}"#.to_vec()), state: Some(br#""s""#.to_vec()) };
    let sent =
        asked(r#"{"jsonrpc":"2.0","id":1,"method":"x","params":{"requestState":"old","n":1}}"#, &round);
    let wanted = format!(
        r#"{{"jsonrpc":"2.0","id":"u","method":"x","params":{{"inputResponses":{{"a":{{}}}},"_meta":{{{META}}},"requestState":"s","n":1}}}}"#
    );
    assert_eq!(sent.unwrap(), wanted);
}

#[test]
fn a_result_loses_what_only_the_modern_era_has() {
    let asked = Asked { method: "tools/list", id: "7" };
    for (data, wanted) in [
        (r#"{"resultType":"complete","tools":[]}"#, r#"{"tools":[]}"#),
        (r#"{"tools":[],"ttlMs":5,"cacheScope":"private"}"#, r#"{"tools":[]}"#),
        (
            r#"{"a":1e3,"_meta":{"io.modelcontextprotocol/serverInfo":{}},"resultType":"complete"}"#,
            r#"{"a":1e3}"#,
        ),
        (
            r#"{"_meta":{"mine":1,"io.modelcontextprotocol/serverInfo":{}},"resultType":"complete"}"#,
            r#"{"_meta":{"mine":1}}"#,
        ),
        (r#"{"_meta":{},"x":{"resultType":"complete"}}"#, r#"{"_meta":{},"x":{"resultType":"complete"}}"#),
        (r#"{"_meta":3}"#, r#"{"_meta":3}"#),
        ("[1]", "[1]"),
    ] {
        let message = |id: &str, result: &str| format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{result}}}"#);
        let said = answer::read(message("\"u\"", data).as_bytes(), asked);
        assert_eq!(said, Said::Response(message("7", wanted).into_bytes()), "{data}");
    }
    let other = br#"{"jsonrpc":"2.0","id":"u","result":{"resultType":"task"}}"#;
    assert_eq!(answer::read(other, asked), Said::Invalid);
    let question = br#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
    assert_eq!(answer::read(question, asked), Said::Drop);
    for kept in [&br#"{"jsonrpc":"2.0","method":"notifications/message"}"#[..], b"no JSON"] {
        assert_eq!(answer::read(kept, asked), Said::Keep);
    }
}

#[test]
fn an_error_has_the_clients_id_and_a_missing_resource_its_code() {
    let error = |method: &str, data: &str| match answer::read(data.as_bytes(), Asked { method, id: "7" }) {
        Said::Response(response) => {
            let response: Value = serde_json::from_slice(&response).unwrap();
            assert_eq!(response["id"], 7);
            response["error"]["code"].as_i64().unwrap()
        }
        other => panic!("{other:?}"),
    };
    let message = |text: &str, data: &str| {
        format!(r#"{{"jsonrpc":"2.0","error":{{"code":-32602,"message":"{text}","data":{data}}}}}"#)
    };
    assert_eq!(error("resources/read", &message("Resource Not Found", "{}")), -32002);
    assert_eq!(error("resources/read", &message("gone", r#"{"uri":"a:b"}"#)), -32002);
    assert_eq!(error("resources/read", &message("uri is missing", "null")), -32602);
    assert_eq!(error("tools/call", &message("Tool not found", "{}")), -32602);
}

#[test]
fn what_a_server_needs_becomes_questions_and_their_answers_what_it_gets() {
    let needed = Needed::read(
        br#"{"resultType":"input_required","requestState":"\u0041","inputRequests":{"a\"b":{"method":"elicitation/create","params":{"message":"?"}},"c":{"method":"roots/list"},"junk":1}}"#,
    );
    assert_eq!(needed.state.as_deref(), Some(&br#""\u0041""#[..]), "to the byte");
    let requests: Vec<_> =
        needed.questions.iter().map(|it| String::from_utf8(it.request("\"q\"")).unwrap()).collect();
    assert_eq!(
        requests,
        [
            r#"{"jsonrpc":"2.0","id":"q","method":"elicitation/create","params":{"message":"?"}}"#,
            r#"{"jsonrpc":"2.0","id":"q","method":"roots/list"}"#
        ]
    );
    assert_eq!(needed.beyond(Capabilities::ROOTS), "elicitation/create");
    assert_eq!(needed.beyond(Capabilities::ROOTS.with(Capabilities::ELICITATION_FORM)), "");
    let (id, reply) = Reply::read(br#"{"jsonrpc":"2.0","id":"q","result":{"n":1.0}}"#).unwrap();
    assert_eq!((id.as_str(), &reply), ("\"q\"", &Reply::Result(br#"{"n":1.0}"#.to_vec())));
    let given = input::responses(&needed.questions, &[br#"{"n":1.0}"#.to_vec(), b"{}".to_vec()]);
    assert_eq!(given, br#"{"a\"b":{"n":1.0},"c":{}}"#);
    let declined: Value =
        serde_json::from_slice(&input::declined("7", br#"{"code":-1,"message":"no"}"#)).unwrap();
    assert_eq!((&declined["id"], &declined["error"]["code"]), (&json!(7), &json!(-1)));
}

#[test]
fn a_client_is_asked_only_what_it_can_answer() {
    let beyond = |request: &str, can: Capabilities| {
        Needed::read(format!(r#"{{"inputRequests":{{"a":{request}}}}}"#).as_bytes()).beyond(can)
    };
    let link = r#"{"method":"elicitation/create","params":{"mode":"url","url":"https://a.example/"}}"#;
    assert_eq!(beyond(link, Capabilities::ELICITATION_FORM), "elicitation/create");
    assert_eq!(beyond(link, Capabilities::ELICITATION_URL), "");
    let tools = r#"{"method":"sampling/createMessage","params":{"tools":[]}}"#;
    assert_eq!(beyond(tools, Capabilities::SAMPLING), "sampling/createMessage");
    assert_eq!(beyond(tools, Capabilities::SAMPLING_TOOLS), "");
    assert_eq!(beyond(r#"{"method":"x/y"}"#, Capabilities::from_bits(u16::MAX)), "x/y");
}

#[test]
fn a_handshake_is_answered_from_what_the_server_says_of_itself() {
    let told = ProtocolVersion::V2025_06_18;
    let full = br#"{"capabilities":{"logging":{},"tools":{"listChanged":true}, "x":1},"instructions":"i","_meta":{"io.modelcontextprotocol/serverInfo":{"name":"n","version":"1"}},"ttlMs":1}"#;
    assert_eq!(
        String::from_utf8(hello::welcome(full, told)).unwrap(),
        r#"{"protocolVersion":"2025-06-18","capabilities":{"logging":{},"tools":{"listChanged":true}, "x":1},"serverInfo":{"name":"n","version":"1"},"instructions":"i"}"#
    );
    let offers = Offers::of(full);
    assert_eq!(offers, Offers { logging: true, tools: true, ..Offers::default() });
    assert_eq!(
        String::from_utf8(hello::welcome(b"{}", told)).unwrap(),
        r#"{"protocolVersion":"2025-06-18","capabilities":{},"serverInfo":{"name":"unknown","version":"unknown"}}"#
    );
    for (asked, told) in [("2024-11-05", "2024-11-05"), ("2026-07-28", "2025-11-25"), ("x", "2025-11-25")] {
        assert_eq!(hello::told_version(asked).as_str(), told);
    }
    for (legacy, modern) in [
        (
            r#"{"roots":{"listChanged":true},"tasks":{},"sampling":{"tools":{}}}"#,
            r#"{"roots":{},"sampling":{"tools":{}}}"#,
        ),
        (r#"{"tasks":{"list":{}}}"#, "{}"),
        (r#"{"roots":true,"x":1.0}"#, r#"{"x":1.0}"#),
        ("[]", "{}"),
    ] {
        assert_eq!(String::from_utf8(hello::capabilities(legacy.as_bytes())).unwrap(), modern);
    }
}

#[test]
fn a_stream_is_asked_for_what_the_server_offers_and_loses_its_id() {
    let offers = Offers { tools: true, subscribe: true, ..Offers::default() };
    let uris = ["a:\"b".to_owned()].into();
    let asked = listen::request("1", offers, &uris, &CLIENT).unwrap();
    let asked: Value = serde_json::from_slice(&asked).unwrap();
    assert_eq!(
        asked["params"]["notifications"],
        json!({ "toolsListChanged": true, "resourceSubscriptions": uris })
    );
    assert_eq!(
        listen::request("1", Offers { subscribe: true, ..Offers::default() }, &[].into(), &CLIENT),
        None
    );
    let note = |method: &str, params: &str| {
        format!(r#"{{"jsonrpc":"2.0","method":"notifications/{method}","params":{params}}}"#)
    };
    let read = |method: &str, params: &str| listen::read(note(method, params).as_bytes());
    let id = r#""io.modelcontextprotocol/subscriptionId":1"#;
    assert_eq!(read("subscriptions/acknowledged", "{}"), Heard::Acknowledged);
    assert_eq!(
        read("tools/list_changed", &format!(r#"{{"_meta":{{{id}}}}}"#)),
        Heard::ToolsChanged(note("tools/list_changed", "{}").into_bytes())
    );
    assert_eq!(
        read("resources/updated", &format!(r#"{{"uri":"a:b","_meta":{{{id},"x":1}}}}"#)),
        Heard::Pass(note("resources/updated", r#"{"uri":"a:b","_meta":{"x":1}}"#).into_bytes())
    );
    assert_eq!(listen::read(br#"{"jsonrpc":"2.0","id":1,"result":{}}"#), Heard::Ended);
    assert_eq!(listen::read(br#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#), Heard::Drop);
}

#[test]
fn headers_repeat_the_arguments_that_the_schema_says() {
    let schema = json!({ "type": "object", "properties": {
        "region": { "type": "string", "x-mcp-header": "Region" },
        "deep": { "type": "object", "properties": { "n": { "type": "integer", "x-mcp-header": "N" } } },
        "flag": { "type": "boolean", "x-mcp-header": "Flag" },
        "x-mcp-header": { "type": "string", "default": { "x-mcp-header": "a value" } },
    } });
    let found = mirrors(&schema).unwrap();
    let values = |arguments: Value| {
        let mut values: Vec<_> =
            found.iter().filter_map(|it| Some((it.header.as_str(), it.value(&arguments)?))).collect();
        values.sort();
        values.into_iter().map(|(name, value)| format!("{name}: {value}")).collect::<Vec<_>>()
    };
    assert_eq!(
        values(json!({ "region": "us", "deep": { "n": -7 }, "flag": false })),
        ["mcp-param-flag: false", "mcp-param-n: -7", "mcp-param-region: us"]
    );
    assert_eq!(
        values(json!({ "region": " x", "deep": { "n": 42.0 } })),
        ["mcp-param-n: 42", "mcp-param-region: =?base64?IHg=?="]
    );
    assert_eq!(values(json!({ "region": null, "deep": [], "flag": "x" })), ["mcp-param-flag: x"]);
    assert_eq!(values(json!({ "deep": { "n": 9_007_199_254_740_993_u64 } })), Vec::<String>::new());
}

#[test]
fn annotations_that_break_the_rules_are_found_wherever_they_are() {
    let flaw =
        |properties: Value| mirrors(&json!({ "type": "object", "properties": properties })).unwrap_err();
    let string = |header: Value| json!({ "type": "string", "x-mcp-header": header });
    for bad in [json!(""), json!("a b"), json!("a\r\nb"), json!("ä"), json!(1)] {
        assert_eq!(flaw(json!({ "a": string(bad.clone()) })), Flaw::Name, "{bad}");
    }
    assert_eq!(flaw(json!({ "a": string(json!("X")), "b": string(json!("x")) })), Flaw::SameName);
    for kind in [json!("number"), json!("object"), json!(["string", "null"]), Value::Null] {
        assert_eq!(flaw(json!({ "a": { "type": kind, "x-mcp-header": "X" } })), Flaw::Type, "{kind}");
    }
    for nest in ["items", "not", "if", "additionalProperties"] {
        assert_eq!(flaw(json!({ "a": { nest: string(json!("X")) } })), Flaw::Unreachable, "{nest}");
    }
    for nest in ["oneOf", "anyOf", "allOf", "prefixItems"] {
        assert_eq!(flaw(json!({ "a": { nest: [string(json!("X"))] } })), Flaw::Unreachable, "{nest}");
    }
    for nest in ["$defs", "patternProperties"] {
        assert_eq!(flaw(json!({ "a": { nest: { "b": string(json!("X")) } } })), Flaw::Unreachable, "{nest}");
    }
    assert_eq!(
        mirrors(&string(json!("X"))),
        Err(Flaw::Unreachable),
        "the arguments themselves are no argument"
    );
}

#[test]
fn a_list_is_shown_without_the_tools_that_break_the_rules() {
    let bad = r#"{"name":"bad","inputSchema":{"x-mcp-header":"X"}}"#;
    let good = r#"{ "name":"good", "inputSchema":{"properties":{"a":{"type":"string","x-mcp-header":"A"}}}, "n":1.0 }"#;
    let plain = r#"{"name":"plain"}"#;
    let message = |tools: &str| format!(r#"{{"result":{{"tools":[{tools}],"x":1}}}}"#);
    let shown = |tools: &str| {
        let message = message(tools);
        let page = Page::read(&message.as_bytes()[10..message.len() - 1]).unwrap();
        (page.shown(message.as_bytes(), &(10..message.len() - 1)), page)
    };
    let (without, page) = shown(&format!("{good} , {bad},{plain}"));
    assert_eq!(String::from_utf8(without.unwrap()).unwrap(), message(&format!("{good},{plain}")));
    assert_eq!(page.flawed, [("bad".to_owned(), Flaw::Unreachable)]);
    assert_eq!(page.mirrors.keys().collect::<Vec<_>>(), ["good"]);
    assert_eq!(shown(plain).0, None);
    assert_eq!(String::from_utf8(shown(bad).0.unwrap()).unwrap(), message(""));
}
