//! Tallies: totals that go on from instance to instance, and handles that are not taken.

use serde_json::{Value, json};
use std::time::Duration;

use throughline_reference::stateless::StatelessConfig;

use crate::http::PATIENCE;
use crate::mcp::{Answer, Mcp};
use crate::server::{Stateless, content, failure, modern_with, named};

const OLD: &str = "an-old-key-of-at-least-thirty-two-bytes";
const NEW: &str = "a-newer-key-of-at-least-thirty-two-bytes";

fn handle(tally: &Value) -> String {
    tally["handle"].as_str().expect("a handle").to_owned()
}

#[test]
fn a_total_goes_on_across_instances() {
    let instances = [("a", OLD), ("b", OLD), ("c", OLD)].map(|(name, keys)| Stateless::instance(name, keys));
    let clients = instances.each_ref().map(Stateless::client);
    let mut tally = content(&clients[0], "tally", json!({"amount": 1}));
    for (count, (client, name)) in (2..=30).zip(clients.iter().zip(["a", "b", "c"]).cycle().skip(1)) {
        tally = content(client, "tally", json!({"amount": count, "handle": handle(&tally)}));
        assert_eq!(tally["instance"], name);
        assert_eq!((&tally["total"], &tally["count"]), (&json!(count * (count + 1) / 2), &json!(count)));
    }
    assert_eq!(tally["expiresInSeconds"], 24 * 3600);
    // Clients of the revisions before go on in the same way.
    let legacy = clients[1].call("tally", json!({"amount": -465, "handle": handle(&tally)}));
    assert_eq!((&legacy["total"], &legacy["count"]), (&json!(0), &json!(31)));
}

#[test]
fn keys_are_rotated_while_totals_go_on() {
    let old = Stateless::instance("old", OLD);
    let learnt = Stateless::instance("learnt", &format!("{OLD},{NEW}"));
    let signing = Stateless::instance("signing", &format!("{NEW},{OLD}"));
    let retired = Stateless::instance("retired", NEW);

    let begun = content(&old.client(), "tally", json!({}));
    let moved = content(&signing.client(), "tally", json!({"handle": handle(&begun)}));
    let back = content(&learnt.client(), "tally", json!({"handle": handle(&moved)}));
    assert_eq!(back["total"], 3);
    // `learnt` still signs with the old key, which `retired` has no more.
    let refused = failure(&retired.client(), "tally", json!({"handle": handle(&back)}));
    assert!(refused.contains("signed with a key that this server does not have, or no longer"), "{refused}");
    assert_eq!(content(&retired.client(), "tally", json!({"handle": handle(&moved)}))["total"], 3);
}

#[test]
fn handles_that_are_not_as_they_were_given_out_are_refused() {
    let server = Stateless::instance("one", OLD);
    let client = server.client();
    let handle = handle(&content(&client, "tally", json!({"amount": 5})));
    let parts: Vec<&str> = handle.split('.').collect();
    let other = content(&client, "tally", json!({"amount": 500}))["handle"].as_str().unwrap().to_owned();
    let richer: Vec<&str> = other.split('.').collect();
    let swapped = [parts[0], parts[1], richer[2], parts[3]].join(".");
    let cut = &handle[..handle.len() - 1];
    for wrong in [swapped.as_str(), cut, "", "rs2.a.b.c", "{\"total\":7}"] {
        let said = failure(&client, "tally", json!({"handle": wrong}));
        assert!(said.starts_with("this handle is "), "{wrong}: {said}");
        assert!(said.ends_with("call tally without a handle to begin anew"), "{said}");
    }
    // A server with the same keys for other callers.
    let elsewhere =
        Stateless::start(StatelessConfig { audience: "elsewhere".to_owned(), ..named("two", OLD) });
    let said = failure(&elsewhere.client(), "tally", json!({"handle": handle}));
    assert!(said.contains("given to another caller or by another server"), "{said}");
}

#[test]
fn handles_expire() {
    let lifetime = Duration::from_millis(1);
    let server = Stateless::start(StatelessConfig { handle_lifetime: lifetime, ..named("one", OLD) });
    let client = server.client();
    let handle = handle(&content(&client, "tally", json!({})));
    // As short as it is, the clock may not have moved on since.
    let refused = (0..PATIENCE.as_millis()).find_map(|_| {
        let params = json!({"name": "tally", "arguments": {"handle": handle}});
        let result = modern_with(&client, "tools/call", params, json!({})).message()["result"].clone();
        (result["isError"] == true).then(|| result["content"][0]["text"].clone())
    });
    assert_eq!(refused.unwrap(), "this handle has expired; call tally without a handle to begin anew");
}

#[test]
fn a_handle_is_its_callers_own() {
    let header = Some("x-caller".parse().unwrap());
    let server = Stateless::start(StatelessConfig { principal_header: header, ..named("one", OLD) });
    let (ann, bob) = (as_caller(&server, "ann"), as_caller(&server, "bob"));
    let handle = handle(&content(&ann, "tally", json!({"amount": 5})));
    assert_eq!(content(&ann, "whoami", json!({}))["callerKnown"], true);
    assert_eq!(content(&ann, "tally", json!({"handle": handle}))["total"], 6);
    for other in [bob, server.client()] {
        let said = failure(&other, "tally", json!({"handle": handle}));
        assert!(said.contains("given to another caller"), "{said}");
    }
    // Two names are none.
    let both = as_caller(&server, "bob").with_header("X-Caller", "ann");
    let params = json!({"name": "tally", "arguments": {"handle": handle}});
    assert_eq!(modern_with(&both, "tools/call", params, json!({})).error_code(), Some(-32600));
}

fn as_caller(server: &Stateless, name: &str) -> Mcp {
    server.client().with_header("X-Caller", name)
}

/// Asks for a reset, with what an earlier round has led to.
fn reset(client: &Mcp, handle: &str, round: Value) -> Answer {
    let mut params = json!({"name": "reset_tally", "arguments": {"handle": handle}});
    params.as_object_mut().unwrap().extend(round.as_object().unwrap().clone());
    let capabilities = json!({"io.modelcontextprotocol/clientCapabilities": {"elicitation": {}}});
    modern_with(client, "tools/call", params, capabilities)
}

/// The state of the question that a reset leads to.
fn asked(answer: &Answer) -> String {
    let result = &answer.message()["result"];
    assert_eq!(result["resultType"], "input_required", "{answer:?}");
    let question = &result["inputRequests"]["confirm"];
    assert_eq!(question["method"], "elicitation/create");
    assert_eq!(question["params"]["requestedSchema"]["required"], json!(["confirm"]));
    result["requestState"].as_str().expect("a state").to_owned()
}

fn answered(state: &str, answer: Value) -> Value {
    json!({"requestState": state, "inputResponses": {"confirm": answer}})
}

#[test]
fn a_reset_asks_the_user_and_any_instance_takes_the_answer() {
    let (one, other) = (Stateless::instance("one", OLD), Stateless::instance("other", OLD));
    let tally = content(&one.client(), "tally", json!({"amount": 42}));
    let handle = handle(&tally);

    let first = reset(&one.client(), &handle, json!({}));
    let message = &first.message()["result"]["inputRequests"]["confirm"]["params"]["message"];
    assert_eq!(message, "Give up the total of 42, made of 1 amounts, and begin anew?");
    let state = asked(&first);
    let yes = json!({"action": "accept", "content": {"confirm": true}});
    let done = reset(&other.client(), &handle, answered(&state, yes.clone())).message()["result"].clone();
    assert_eq!(
        (&done["structuredContent"]["total"], &done["structuredContent"]["instance"]),
        (&json!(0), &json!("other"))
    );
    let anew = content(&one.client(), "tally", json!({"handle": done["structuredContent"]["handle"]}));
    assert_eq!((&anew["total"], &anew["count"]), (&json!(1), &json!(1)));

    for no in [
        json!({"action": "accept", "content": {"confirm": false}}),
        json!({"action": "decline"}),
        json!({"action": "cancel"}),
    ] {
        let kept = reset(&one.client(), &handle, answered(&state, no)).message()["result"].clone();
        assert_eq!(
            (&kept["structuredContent"]["total"], &kept["structuredContent"]["handle"]),
            (&json!(42), &json!(handle))
        );
    }
    // What answers nothing leads to the same question, and so does an answer to what was not asked.
    for nothing in [json!({}), json!({"action": "accept", "content": {"confirm": "yes"}}), json!(7)] {
        asked(&reset(&one.client(), &handle, answered(&state, nothing)));
    }
    asked(&reset(&one.client(), &handle, json!({"inputResponses": {"confirm": yes}})));
    asked(&reset(&one.client(), &handle, json!({"requestState": state})));
}

#[test]
fn a_state_that_was_changed_or_belongs_to_another_question_is_refused() {
    let server = Stateless::instance("one", OLD);
    let client = server.client();
    let handle = handle(&content(&client, "tally", json!({"amount": 42})));
    let other = content(&client, "tally", json!({"amount": 7}))["handle"].as_str().unwrap().to_owned();
    let state = asked(&reset(&client, &other, json!({})));
    let yes = json!({"action": "accept", "content": {"confirm": true}});
    for wrong in [state.as_str(), &format!("{state}A"), "nonsense", &handle] {
        let refused = reset(&client, &handle, answered(wrong, yes.clone()));
        assert_eq!((refused.status, refused.error_code()), (200, Some(-32602)), "{wrong}: {refused:?}");
    }
    assert_eq!(
        reset(&client, &other, answered(&state, yes)).message()["result"]["structuredContent"]["total"],
        0
    );
}

#[test]
fn only_clients_that_can_be_asked_are_asked() {
    let server = Stateless::instance("one", OLD);
    let client = server.client();
    let handle = handle(&content(&client, "tally", json!({})));
    let params = json!({"name": "reset_tally", "arguments": {"handle": handle}});
    let refused = modern_with(&client, "tools/call", params.clone(), json!({}));
    assert_eq!((refused.status, refused.error_code()), (400, Some(-32021)), "{refused:?}");
    assert_eq!(refused.message()["error"]["data"]["requiredCapabilities"], json!({"elicitation": {}}));

    let legacy = client.request("tools/call", params).message()["result"].clone();
    assert_eq!(legacy["isError"], true);
    let said = legacy["content"][0]["text"].as_str().unwrap();
    assert!(said.contains("can ask the user only by revision 2026-07-28"), "{said}");
    let said = failure(&client, "reset_tally", json!({"handle": "nonsense"}));
    assert!(said.starts_with("this handle is not as it was given out"), "{said}");
}
