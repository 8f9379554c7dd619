//! What must hold for the envelope of any bytes. Run by the tests and by the fuzz target `envelope`.

use serde_json::Value;
use serde_json::value::RawValue;
use throughline_wire::envelope::{Envelope, EnvelopeError, Limits, Message, Outcome};

/// What must hold for any bytes at all.
pub(crate) fn check(body: &[u8]) {
    let ours = Envelope::parse(body, &Limits::default());
    let theirs = serde_json::from_slice::<&RawValue>(body);
    match &ours {
        Err(EnvelopeError::TooDeep { .. }) => {} // Reading stopped; the rest may be anything.
        Err(EnvelopeError::NotJson { offset }) => {
            assert!(theirs.is_err(), "serde_json accepts {:?}", String::from_utf8_lossy(body));
            assert!(*offset <= body.len());
        }
        _ => assert!(theirs.is_ok(), "serde_json refuses {:?}", String::from_utf8_lossy(body)),
    }
    let Ok(envelope) = ours else { return };
    let object: &[u8] = envelope.slice(&envelope.object);
    assert!(object.starts_with(b"{") && object.ends_with(b"}"));
    // serde_json's tree knows neither unpaired surrogates nor numbers beyond f64; the envelope passes both.
    let Ok(tree) = serde_json::from_slice::<Value>(object) else { return };
    let same = |span: &std::ops::Range<usize>, name: &str| {
        let value: Value = serde_json::from_slice(envelope.slice(span)).expect("a part of it is JSON");
        assert_eq!(value, tree[name]);
    };
    let (id, method, params) = match &envelope.message {
        Message::Request { id, method, params } => (Some(id), Some(method), params),
        Message::Notification { method, params, null_id } => {
            assert_eq!(tree.get("id"), null_id.then_some(&Value::Null));
            (None, Some(method), params)
        }
        Message::Response { id, outcome } => {
            match outcome {
                Outcome::Result(span) => same(span, "result"),
                Outcome::Error(span) => same(span, "error"),
            }
            (id.as_ref(), None, &None)
        }
    };
    if let Some(id) = id {
        assert_eq!(id.raw().as_bytes(), envelope.slice(&id.span()));
        same(&id.span(), "id");
    }
    if let Some(params) = params {
        same(params, "params");
    }
    assert_eq!(method.map(|method| method.as_ref()), tree["method"].as_str());
}
