//! What is a message and what is not, by example, by the corpus, and against serde_json.

use std::borrow::Cow;
use std::path::Path;

use proptest::prelude::*;
use serde_json::Value;
use throughline_wire::envelope::{
    Envelope, EnvelopeError, Limits, MAX_ID_BYTES, Message, Outcome, member, path, string_value,
};

use crate::any_body;

fn parse(body: &[u8]) -> Result<Envelope<'_>, EnvelopeError> {
    Envelope::parse(body, &Limits::default())
}

/// What became of a body, in the word with which files of the corpus begin.
fn verdict(body: &[u8]) -> &'static str {
    match parse(body).map(|envelope| envelope.message) {
        Ok(Message::Request { .. }) => "request",
        Ok(Message::Notification { .. }) => "notification",
        Ok(Message::Response { .. }) => "response",
        Err(EnvelopeError::NotJson { .. }) => "not_json",
        Err(EnvelopeError::NotAnObject) => "not_an_object",
        Err(EnvelopeError::Batch) => "batch",
        Err(EnvelopeError::TooDeep { .. }) => "too_deep",
        Err(EnvelopeError::DuplicateMember(_)) => "duplicate",
        Err(EnvelopeError::BadId) => "bad_id",
        Err(EnvelopeError::BadMethod) => "bad_method",
        Err(EnvelopeError::BadParams) => "bad_params",
        Err(EnvelopeError::NotAMessage) => "not_a_message",
    }
}

#[test]
fn the_corpus_is_judged_as_its_file_names_say() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/envelope");
    let mut seen = 0;
    for entry in std::fs::read_dir(directory).unwrap() {
        let file = entry.unwrap().path();
        let name = file.file_name().unwrap().to_str().unwrap();
        let body = std::fs::read(&file).unwrap();
        any_body::check(&body);
        assert_eq!(Some(verdict(&body)), name.split('-').next(), "{name}");
        seen += 1;
    }
    assert!(seen > 40, "only {seen} files");
}

#[test]
fn a_request_is_taken_apart_without_a_copy() {
    let body = br#" {"params":{"a" : 1.0},"method":"tools/call","id":12345678901234567890123,"jsonrpc":"2.0","x":[]} "#;
    let envelope = parse(body).unwrap();
    assert_eq!(envelope.object, 1..body.len() - 1);
    let Message::Request { id, method, params } = &envelope.message else { panic!("{envelope:?}") };
    assert_eq!(id.raw(), "12345678901234567890123");
    assert!(matches!(method, Cow::Borrowed("tools/call")));
    assert_eq!(envelope.slice(params.as_ref().unwrap()), br#"{"a" : 1.0}"#);
}

#[test]
fn an_array_of_one_message_is_unwrapped() {
    let body = br#" [ {"jsonrpc":"2.0","method":"m"} ] "#;
    let envelope = parse(body).unwrap();
    assert_eq!(envelope.slice(&envelope.object), br#"{"jsonrpc":"2.0","method":"m"}"#);
}

#[test]
fn a_null_id_is_told_from_no_id() {
    let without = parse(br#"{"jsonrpc":"2.0","method":"m"}"#).unwrap();
    assert!(matches!(without.message, Message::Notification { null_id: false, .. }));
    let null = parse(br#"{"jsonrpc":"2.0","id":null,"method":"m"}"#).unwrap();
    assert!(matches!(null.message, Message::Notification { null_id: true, .. }));
    let response = parse(br#"{"jsonrpc":"2.0","id":null,"error":{}}"#).unwrap();
    assert!(matches!(response.message, Message::Response { id: None, outcome: Outcome::Error(_) }));
}

#[test]
fn ids_are_equal_when_their_json_is() {
    let id = |body: &'static str| match parse(body.as_bytes()).unwrap().message {
        Message::Request { id, .. } => id,
        other => panic!("{other:?}"),
    };
    let one = id(r#"{"id":1,"jsonrpc":"2.0","method":"m"}"#);
    assert_eq!(one, id(r#"{"jsonrpc":"2.0","method":"m","id": 1}"#));
    assert_ne!(one, id(r#"{"id":"1","jsonrpc":"2.0","method":"m"}"#));
    assert_ne!(one, id(r#"{"id":1.0,"jsonrpc":"2.0","method":"m"}"#));
}

#[test]
fn ids_are_bounded() {
    let with_id_of = |length: usize| {
        let id = "7".repeat(length);
        verdict(format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"m"}}"#).as_bytes())
    };
    assert_eq!(with_id_of(MAX_ID_BYTES), "request");
    assert_eq!(with_id_of(MAX_ID_BYTES + 1), "bad_id");
}

#[test]
fn nesting_is_bounded_and_counts_the_message_as_a_level() {
    let nested = |inner: usize| {
        let (open, close) = ("[".repeat(inner), "]".repeat(inner));
        format!(r#"{{"jsonrpc":"2.0","method":"m","params":{open}{close}}}"#)
    };
    let parse_to = |body: &str, max_depth| Envelope::parse(body.as_bytes(), &Limits { max_depth }).map(drop);
    assert_eq!(parse_to(&nested(127), 128), Ok(()));
    assert_eq!(parse_to(&nested(128), 128), Err(EnvelopeError::TooDeep { limit: 128 }));
    assert_eq!(parse_to(&nested(128), 1000), Ok(()));
    // Beyond what is kept in one word, arrays are still told from objects, inwards and outwards.
    let mixed = |inner: &str| format!(r#"{{"jsonrpc":"2.0","id":1,"result":{inner}}}"#);
    let alternating = r#"{"a":["#.repeat(200) + &"]}".repeat(200);
    let crossed = r#"{"a":["#.repeat(200) + "}" + &"]}".repeat(199) + "]";
    assert_eq!(parse_to(&mixed(&alternating), usize::MAX), Ok(()));
    assert!(matches!(parse_to(&mixed(&crossed), usize::MAX), Err(EnvelopeError::NotJson { .. })));
    assert_eq!(parse_to(&nested(3), 4), Ok(()));
    assert_eq!(parse_to(&nested(4), 4), Err(EnvelopeError::TooDeep { limit: 4 }));
    // An array around the message is not a level, also when there is something wrong with it.
    assert_eq!(parse_to(&format!("[{}]", nested(127)), 128), Ok(()));
    assert_eq!(parse_to(&format!("[{},1]", nested(127)), 128), Err(EnvelopeError::Batch));
    assert_eq!(parse_to(&format!("[1,{}]", nested(128)), 128), Err(EnvelopeError::TooDeep { limit: 128 }));
    // Far beyond the limit nothing is spent on it, the stack least of all.
    assert!(parse_to(&"[".repeat(1 << 20), 128).is_err());
}

#[test]
fn members_are_found_by_their_exact_name() {
    let object = br#" {"Name":1,"n\u0061me": "x","names":{"name":2}} "#;
    let found = member(object, "name").unwrap().unwrap();
    assert_eq!(&object[found], br#""x""#);
    assert_eq!(member(object, "NAME"), Ok(None));
    assert_eq!(member(b"{}", "name"), Ok(None));
}

#[test]
fn a_member_that_comes_twice_is_refused_only_when_asked_for() {
    let object = br#"{"a":1,"b":2,"\u0061":3}"#;
    assert_eq!(member(object, "a"), Err(EnvelopeError::DuplicateMember("a".into())));
    assert_eq!(member(object, "b"), Ok(Some(11..12)));
}

#[test]
fn members_are_looked_for_in_objects_only() {
    for not_an_object in ["[]", "[{\"a\":1}]", "1", "null", "\"a\""] {
        assert_eq!(member(not_an_object.as_bytes(), "a"), Err(EnvelopeError::NotAnObject));
        assert_eq!(path(not_an_object.as_bytes(), &["a"]), Ok(None));
    }
    assert!(matches!(member(b"", "a"), Err(EnvelopeError::NotJson { .. })));
    assert!(matches!(member(b"{\"a\":1}x", "a"), Err(EnvelopeError::NotJson { .. })));
}

#[test]
fn a_path_leads_through_objects() {
    let params = br#"{"x":0, "_meta" : { "progressToken" : "t" }, "list":[{"a":1}]}"#;
    let token = path(params, &["_meta", "progressToken"]).unwrap().unwrap();
    assert_eq!(&params[token], br#""t""#);
    assert_eq!(path(params, &["_meta", "other"]), Ok(None));
    assert_eq!(path(params, &["other", "progressToken"]), Ok(None));
    assert_eq!(path(params, &["x", "progressToken"]), Ok(None));
    assert_eq!(path(params, &["list", "a"]), Ok(None));
    let twice = br#"{"_meta":{"a":1,"a":2}}"#;
    assert_eq!(path(twice, &["_meta", "a"]), Err(EnvelopeError::DuplicateMember("a".into())));
}

#[test]
fn string_values_are_decoded() {
    assert!(matches!(string_value(b"\"plain\""), Some(Cow::Borrowed("plain"))));
    assert_eq!(string_value(br#""a\n\ud83d\ude00""#).as_deref(), Some("a\n\u{1f600}"));
    for raw in ["", "\"", "1", "null", " \"a\"", "\"a\" ", "\"a\"b\"", r#""\ud800""#, "{\"a\":\"b\"}"] {
        assert_eq!(string_value(raw.as_bytes()), None, "{raw}");
    }
    assert_eq!(string_value(b"\"\xff\""), None);
}

#[test]
fn errors_say_nothing_that_the_client_said() {
    for body in [
        "{\"secret",
        r#"{"jsonrpc":"secret","method":"m"}"#,
        r#"{"jsonrpc":"2.0","method":"m","id":["secret"]}"#,
    ] {
        let error = parse(body.as_bytes()).unwrap_err();
        assert!(!error.to_string().contains("secret"));
        assert!(!error.to_string().contains('\n'));
    }
    assert_eq!(parse(b"{").unwrap_err().json_rpc_code(), -32700);
    assert_eq!(parse(b"{}").unwrap_err().json_rpc_code(), -32600);
}

/// JSON text of any shape, with white space and escapes that a serializer would not write.
fn json() -> impl Strategy<Value = String> {
    let text = prop_oneof![
        r#"[ -~é😀]{0,20}"#.prop_map(|text| Value::from(text).to_string()),
        Just(r#""\u0041\ud83d\ude00\/""#.to_owned()),
        Just(r#""\ud800""#.to_owned()),
    ];
    let leaf = prop_oneof![
        text,
        prop_oneof!["null", "true", "false"].prop_map(String::from),
        r"-?(0|[1-9][0-9]{0,25})(\.[0-9]{1,5})?([eE][+-]?[0-9]{1,4})?",
    ];
    leaf.prop_recursive(4, 40, 5, |inner| {
        let key = prop_oneof!["[a-z]{0,3}", Just("id".to_owned()), Just(r"\u0069d".to_owned())];
        let array =
            prop::collection::vec(inner.clone(), 0..5).prop_map(|items| format!("[ {}]", items.join(" ,")));
        let object = prop::collection::vec((key, inner), 0..5).prop_map(|members| {
            let members: Vec<_> =
                members.iter().map(|(key, value)| format!("\"{key}\" :\t{value}\n")).collect();
            format!("{{{}}}", members.join(","))
        });
        prop_oneof![array, object]
    })
}

/// Bodies that are messages, or nearly.
fn body() -> impl Strategy<Value = String> {
    let name = prop_oneof![
        8 => prop::sample::select(vec!["id", "method", "params", "result", "error"]).prop_map(str::to_owned),
        2 => prop::sample::select(vec![r"\u0069d", "jsonrpc", "Id", "_meta"]).prop_map(str::to_owned),
    ];
    let value =
        prop_oneof![json(), Just(r#""tools/call""#.to_owned()), Just("{}".to_owned()), Just("7".to_owned())];
    prop::collection::vec((name, value), 0..4).prop_map(|members| {
        let members: Vec<_> = members.iter().map(|(name, value)| format!(", \"{name}\": {value}")).collect();
        format!(r#"{{"jsonrpc":"2.0"{}}}"#, members.concat())
    })
}

proptest! {
    #[test]
    fn json_is_json_to_us_and_to_serde_json(text in json()) {
        any_body::check(text.as_bytes());
    }

    #[test]
    fn messages_mean_the_same_to_us_and_to_serde_json(body in body()) {
        any_body::check(body.as_bytes());
    }

    #[test]
    fn damaged_messages_are_judged_alike(
        body in body(),
        at in any::<prop::sample::Index>(),
        cut in 0..3_usize,
        with in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..3),
            prop::sample::select(br#"{}[]",:\u0-.eE+ntf"#.to_vec()).prop_map(|byte| vec![byte]),
        ],
    ) {
        let mut bytes = body.into_bytes();
        let at = at.index(bytes.len());
        let end = bytes.len().min(at + cut);
        bytes.splice(at..end, with);
        any_body::check(&bytes);
    }

    #[test]
    fn any_bytes_are_judged_alike(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
        any_body::check(&bytes);
    }
}
