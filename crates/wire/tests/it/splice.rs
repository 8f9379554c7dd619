//! Edits change what they name and nothing else; the messages of the gateway's own are what they say.

use proptest::prelude::*;
use serde_json::{Map, Value, json};
use throughline_wire::envelope::{Envelope, EnvelopeError, Limits, Message, Outcome};
use throughline_wire::jsonrpc;
use throughline_wire::splice::{Edit, edit_members, remove_member, set_member, splice};

fn set(body: &str, name: &str, value: &str) -> String {
    let edit = set_member(body.as_bytes(), &(0..body.len()), name, value.as_bytes()).expect("an object");
    String::from_utf8(splice(body.as_bytes(), &mut [edit])).expect("UTF-8")
}

fn remove(body: &str, name: &str) -> String {
    let edit = remove_member(body.as_bytes(), &(0..body.len()), name).expect("an object");
    String::from_utf8(splice(body.as_bytes(), &mut Vec::from_iter(edit))).expect("UTF-8")
}

#[test]
fn edits_come_in_any_order() {
    let insert = |at: usize, with| Edit::replace(at..at, with);
    let mut edits = [
        Edit::replace(4..6, b"EF"),
        insert(6, b"2"),
        insert(0, b"0"),
        Edit::replace(1..2, b""),
        insert(4, b"1"),
        insert(4, b"!"),
    ];
    assert_eq!(splice(b"abcdef", &mut edits), b"0acd1!EF2");
}

#[test]
fn a_member_is_set() {
    assert_eq!(set("{}", "a", "1"), r#"{"a":1}"#);
    assert_eq!(set("{ }", "a", "1"), r#"{"a":1 }"#);
    assert_eq!(set(r#"{"b":2}"#, "a", "1"), r#"{"a":1,"b":2}"#);
    assert_eq!(set(r#"{"b":2, "a" : [3] }"#, "a", "1"), r#"{"b":2, "a" : 1 }"#);
    assert_eq!(set(r#"{"\u0061":3}"#, "a", "1"), r#"{"\u0061":1}"#);
    assert_eq!(set("{}", "a\"\n", "1"), r#"{"a\"\n":1}"#);
    assert_eq!(set(" {}", "a", "1"), r#" {"a":1}"#);
}

#[test]
fn a_member_is_removed_with_its_comma() {
    assert_eq!(remove(r#"{"a":1}"#, "a"), "{}");
    assert_eq!(remove(r#"{ "a" : 1 }"#, "a"), "{  }");
    assert_eq!(remove(r#"{"a":1, "b":2,"c":3}"#, "a"), r#"{"b":2,"c":3}"#);
    assert_eq!(remove(r#"{"a":1, "b":2,"c":3}"#, "b"), r#"{"a":1, "c":3}"#);
    assert_eq!(remove(r#"{"a":1, "b":2,"c":3 }"#, "c"), r#"{"a":1, "b":2 }"#);
    assert_eq!(remove(r#"{"a":1}"#, "b"), r#"{"a":1}"#);
}

#[test]
fn an_edit_refuses_what_is_not_one_object_with_that_member_once() {
    let twice = br#"{"a":1,"a":2}"#;
    let duplicate = EnvelopeError::DuplicateMember("a".into());
    assert_eq!(set_member(twice, &(0..13), "a", b"1").unwrap_err(), duplicate);
    assert_eq!(remove_member(twice, &(0..13), "a").unwrap_err(), duplicate);
    assert_eq!(remove_member(twice, &(0..13), "b"), Ok(None));
    assert_eq!(set_member(b"[]", &(0..2), "a", b"1").unwrap_err(), EnvelopeError::NotAnObject);
}

#[test]
fn an_inner_object_is_edited_in_place() {
    let body = br#"{"params":{"_meta":{}}}"#;
    let edit = set_member(body, &(19..21), "progressToken", b"\"t\"").unwrap();
    assert_eq!(splice(body, &mut [edit]), br#"{"params":{"_meta":{"progressToken":"t"}}}"#);
}

#[test]
fn messages_of_our_own_are_messages() {
    let kind = |body: &[u8]| match Envelope::parse(body, &Limits::default()).unwrap().message {
        Message::Request { id, .. } => format!("request {}", id.raw()),
        Message::Notification { .. } => "notification".to_owned(),
        Message::Response { id, outcome } => {
            let what = if matches!(outcome, Outcome::Result(_)) { "result" } else { "error" };
            format!("{what} {}", id.map_or("-", |id| id.raw()))
        }
    };
    assert_eq!(kind(&jsonrpc::result("\"a\"", b"{}")), "result \"a\"");
    assert_eq!(kind(&jsonrpc::request("1", "ping", None)), "request 1");
    assert_eq!(kind(&jsonrpc::notification("notifications/initialized", None)), "notification");
    assert_eq!(kind(&jsonrpc::error(None, -32600, "no", None)), "error -");

    let with_params = jsonrpc::request("1.0", "tools/call", Some(br#"{"name": "x"}"#));
    assert_eq!(with_params, br#"{"jsonrpc":"2.0","id":1.0,"method":"tools/call","params":{"name": "x"}}"#);
    let error = jsonrpc::error(Some("7"), -32000, "a \"quote\"\n", Some(&json!({"mayHaveExecuted": true})));
    let error: Value = serde_json::from_slice(&error).unwrap();
    let expected = json!({"code": -32000, "message": "a \"quote\"\n", "data": {"mayHaveExecuted": true}});
    assert_eq!(error, json!({"jsonrpc": "2.0", "id": 7, "error": expected}));
    let unknown: Value = serde_json::from_slice(&jsonrpc::error(None, -32700, "x", None)).unwrap();
    assert!(unknown.get("id").is_none());
    let note = jsonrpc::notification("n", Some(b"[]"));
    assert_eq!(note, br#"{"jsonrpc":"2.0","method":"n","params":[]}"#);
}

/// An object's text with white space in all places, and its members.
fn object() -> impl Strategy<Value = (String, Map<String, Value>)> {
    let space = || "[ \n\t]{0,2}";
    let value = prop_oneof![Just("1"), Just("\"a,}\""), Just("{\"a\":[]}"), Just("[1,{}]"), Just("null")];
    let member = ("[a-f]", value, space(), space(), space(), space());
    (prop::collection::vec(member, 0..6), space()).prop_map(|(members, inside)| {
        let mut map = Map::new();
        let mut parts = Vec::new();
        for (name, value, a, b, c, d) in members {
            if map.insert(name.clone(), serde_json::from_str(value).expect("JSON")).is_none() {
                parts.push(format!("{a}\"{name}\"{b}:{c}{value}{d}"));
            } else {
                map = serde_json::from_str(&format!("{{{}}}", parts.join(","))).expect("JSON");
            }
        }
        let text =
            if parts.is_empty() { format!("{{{inside}}}") } else { format!("{{{}}}", parts.join(",")) };
        (text, map)
    })
}

proptest! {
    #[test]
    fn an_id_that_is_replaced_and_restored_leaves_the_same_bytes(
        (object, _) in object(),
        id in prop_oneof!["-?[1-9][0-9]{0,30}(\\.0)?", "\"[a-z é]{0,9}\"", Just(r#""\u0041""#.to_owned())],
        id_first in any::<bool>(),
    ) {
        let id = format!(" \"id\" : {id}");
        let rest = format!(" \"jsonrpc\":\"2.0\",\"method\":\"m\", \"params\":{object}");
        let body = if id_first { format!("{{{id} ,{rest}}}") } else { format!("{{{rest},{id}\n}}") };
        let swap = |body: &[u8], new: &[u8]| {
            let envelope = Envelope::parse(body, &Limits::default()).unwrap();
            let Message::Request { id, .. } = envelope.message else { panic!("not a request") };
            (id.raw().as_bytes().to_vec(), splice(body, &mut [Edit::replace(id.span(), new)]))
        };
        let (old, replaced) = swap(body.as_bytes(), b"\"tl-1-2\"");
        let (new, restored) = swap(&replaced, &old);
        prop_assert_eq!(new, b"\"tl-1-2\"");
        prop_assert_eq!(restored, body.as_bytes());
    }

    #[test]
    fn members_change_as_asked_and_no_others(
        (text, mut expected) in object(),
        changes in prop::collection::btree_map("[a-h]", prop::option::of(Just("{\"new\":0}")), 0..6),
    ) {
        let body = format!("[{text}]");
        let changes: Vec<_> = changes.iter().map(|(name, value)| (name.as_str(), value.map(str::as_bytes))).collect();
        let mut edits = edit_members(body.as_bytes(), &(1..body.len() - 1), &changes).unwrap();
        let edited = splice(body.as_bytes(), &mut edits);
        for (name, value) in &changes {
            match value {
                Some(_) => drop(expected.insert((*name).to_owned(), json!({"new": 0}))),
                None => drop(expected.remove(*name)),
            }
        }
        let edited: Value = serde_json::from_slice(&edited).expect("still JSON");
        prop_assert_eq!(edited, json!([expected]));
    }

    #[test]
    fn one_change_is_the_same_alone_and_among_others((text, _) in object(), name in "[a-h]") {
        let whole = 0..text.len();
        let set = set_member(text.as_bytes(), &whole, &name, b"0").unwrap();
        prop_assert_eq!(vec![set], edit_members(text.as_bytes(), &whole, &[(&name, Some(b"0"))]).unwrap());
        let removed = remove_member(text.as_bytes(), &whole, &name).unwrap();
        let alone = Vec::from_iter(removed);
        prop_assert_eq!(alone, edit_members(text.as_bytes(), &whole, &[(&name, None)]).unwrap());
    }

    #[test]
    fn all_bytes_outside_the_edits_stay(
        body in prop::collection::vec(any::<u8>(), 0..60),
        cuts in prop::collection::btree_set(0..60_usize, 0..8),
        with in prop::collection::vec(any::<u8>(), 0..5),
    ) {
        let cuts: Vec<_> = cuts.into_iter().filter(|cut| *cut <= body.len()).collect();
        let mut expected = Vec::new();
        let mut edits = Vec::new();
        let mut kept = 0;
        for pair in cuts.chunks_exact(2) {
            expected.extend_from_slice(&body[kept..pair[0]]);
            expected.extend_from_slice(&with);
            kept = pair[1];
            edits.insert(0, Edit::replace(pair[0]..pair[1], &with));
        }
        expected.extend_from_slice(&body[kept..]);
        prop_assert_eq!(splice(&body, &mut edits), expected);
    }
}
