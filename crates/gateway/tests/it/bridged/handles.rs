//! State that a client names by a handle.

use serde_json::json;

use super::asker::Asker;
use super::{Modern, accept, state};
use crate::harness::{Gw, Response, Upstream, request};

const FILE: &str = "[upstream]\nurl = \"UPSTREAM\"\nanonymous = \"shared\"\nstate = \"handle\"\n";

fn handle(answer: &Response) -> String {
    let json = answer.json();
    let handle = json["result"]["_meta"]["throughline/session"].as_str();
    handle.unwrap_or_else(|| panic!("{json}")).to_owned()
}

/// Calls a tool with this handle, under this name of the argument.
fn call(client: &Modern, argument: &str, handle: &str) -> Response {
    let params = format!(r#""name":"count","arguments":{{"a":1.0,"{argument}":"{handle}"}}"#);
    client.headers("tools/call", Some("count")).post(request("7", "tools/call", &client.params(&params)))
}

#[test]
fn a_handle_continues_what_its_call_began() {
    let upstream = Upstream::start();
    let gateway = Gw::start_file(&upstream, FILE);
    let client = Modern::new(&gateway);
    let list = client.ask("tools/list", "").json();
    let schema = &list["result"]["tools"][0]["inputSchema"];
    assert_eq!(schema["properties"]["session"]["type"], "string");
    assert_eq!(schema.get("required"), None, "it may be left out");
    let [one, other] = [client.call("count"), client.call("count")];
    assert_eq!((one.tool_text(), other.tool_text()), ("1".into(), "1".into()), "each begins anew");
    let said = one.json()["result"]["content"][1]["text"].clone();
    assert!(said.as_str().unwrap().contains(&format!("session=\"{}\"", handle(&one))), "{said}");
    let again = call(&client, "session", &handle(&one));
    assert_eq!(again.tool_text(), "2");
    assert_eq!(again.json()["result"]["content"].as_array().unwrap().len(), 1, "it is known by now");
    assert_eq!(call(&client, "session", &handle(&again)).tool_text(), "3");
    assert_eq!(call(&client, "session", &handle(&other)).tool_text(), "2");
    let arguments = upstream.of("tools/call")[2].json()["params"]["arguments"].clone();
    assert_eq!(arguments, json!({ "a": 1.0 }), "the server sees none of it");
    let own = call(&client, "session", "a value of the tool's own");
    assert_eq!(own.tool_text(), "1");
    let arguments = upstream.of("tools/call").last().unwrap().json()["params"]["arguments"].clone();
    assert_eq!(arguments["session"], "a value of the tool's own");
}

#[test]
fn a_handle_opens_for_nobody_else() {
    let upstream = Upstream::start();
    let file = FILE.replace("handle\"", "handle\"\nstate_argument = \"notebook\"")
        + "[routes.other]\nurl = \"UPSTREAM\"\nanonymous = \"shared\"\nstate = \"handle\"\n";
    let gateway = Gw::start_file(&upstream, &file);
    let client = Modern::new(&gateway);
    let handle = handle(&client.call("count"));
    assert_eq!(call(&client, "notebook", &handle).tool_text(), "2");
    let elsewhere = Modern::of(gateway.client().at("/other/mcp"));
    for refused in [
        call(&elsewhere, "session", &handle),
        call(&client, "notebook", &format!("{handle}A")),
        call(&client, "notebook", "state-"),
        call(&client, "notebook", "state-AAAA"),
    ] {
        assert_eq!((refused.status, refused.code()), (400, -32602), "{}", refused.text());
    }
    assert_eq!(upstream.server().executed(), 2);
}

#[test]
fn a_call_that_asks_gives_its_handle_when_it_is_done() {
    let upstream = Upstream::start();
    let gateway = Gw::start_file(&upstream, FILE);
    let _asker = Asker::at(&upstream);
    let client = Modern::new(&gateway);
    let asked = client.call("ask.form=a");
    let answer = client.answer("ask.form=a", &state(&asked), &json!({ "a": accept("1") }));
    assert_eq!(answer.tool_text(), accept("1").to_string());
    assert!(answer.json()["result"]["content"][1]["text"].as_str().unwrap().contains(&handle(&answer)));
    assert_eq!(call(&client, "session", &handle(&answer)).tool_text(), "1");
    assert_eq!(upstream.count("initialize"), 1, "in the session that the first call began");
}
