//! Client capabilities as bits.

use proptest::prelude::*;
use serde_json::{Value, json};
use throughline_wire::capability::Capabilities;

fn read(value: &Value) -> Capabilities {
    Capabilities::from_json(value.to_string().as_bytes())
}

#[test]
fn what_is_declared_is_read() {
    let form = Capabilities::ELICITATION_FORM;
    for (value, expected) in [
        (json!({}), Capabilities::default()),
        (json!({"experimental": {"x": {}}, "extensions": {}}), Capabilities::default()),
        (json!({"roots": {}}), Capabilities::ROOTS),
        (json!({"roots": {"listChanged": true}}), Capabilities::ROOTS_LIST_CHANGED),
        (json!({"roots": {"listChanged": false}}), Capabilities::ROOTS),
        (json!({"roots": true}), Capabilities::default()),
        (json!({"elicitation": {}}), form),
        (json!({"elicitation": {"form": {}}}), form),
        (json!({"elicitation": {"url": {}}}), Capabilities::ELICITATION_URL),
        (json!({"elicitation": {"form": {}, "url": {}}}), form.with(Capabilities::ELICITATION_URL)),
        (json!({"sampling": {"tools": {}}}), Capabilities::SAMPLING_TOOLS),
        (json!({"tasks": {"requests": {"elicitation": {"create": {}}}}}), Capabilities::TASKS_ELICITATION),
    ] {
        assert_eq!(read(&value), expected, "{value}");
    }
    for raw in ["", "null", "[{}]", "{", "\"roots\""] {
        assert!(Capabilities::from_json(raw.as_bytes()).is_empty(), "{raw}");
    }
}

#[test]
fn all_of_them_as_json() {
    let all: Value = serde_json::from_str(&Capabilities::from_bits(u16::MAX).to_json()).unwrap();
    assert_eq!(
        all,
        json!({
            "roots": {"listChanged": true},
            "sampling": {"context": {}, "tools": {}},
            "elicitation": {"form": {}, "url": {}},
            "tasks": {
                "list": {}, "cancel": {},
                "requests": {"sampling": {"createMessage": {}}, "elicitation": {"create": {}}},
            },
        })
    );
    assert_eq!(Capabilities::ELICITATION_FORM.to_json(), r#"{"elicitation":{}}"#);
    assert_eq!(Capabilities::default().to_json(), "{}");
}

proptest! {
    #[test]
    fn bits_survive_json_and_json_survives_bits(bits: u16) {
        let set = Capabilities::from_bits(bits);
        prop_assert_eq!(Capabilities::from_json(set.to_json().as_bytes()), set);
        prop_assert_eq!(Capabilities::from_bits(set.bits()), set);
        prop_assert_eq!(set.is_empty(), set.to_json() == "{}");
    }

    #[test]
    fn no_bytes_panic(raw: Vec<u8>) {
        let _ = Capabilities::from_json(&raw);
    }
}
