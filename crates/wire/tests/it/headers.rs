//! Header values that need encoding (2026-07-28, Streamable HTTP, "Value Encoding").

use std::borrow::Cow;

use proptest::prelude::*;
use throughline_wire::headers::{HeaderValueError, decode_value, encode_value};

#[test]
fn the_examples_of_the_specification() {
    for (value, header) in [
        ("us-west1", "us-west1"),
        ("Hello, 世界", "=?base64?SGVsbG8sIOS4lueVjA==?="),
        (" padded ", "=?base64?IHBhZGRlZCA=?="),
        ("line1\nline2", "=?base64?bGluZTEKbGluZTI=?="),
        ("=?base64?literal?=", "=?base64?PT9iYXNlNjQ/bGl0ZXJhbD89?="),
    ] {
        assert_eq!(encode_value(value), header);
        assert_eq!(decode_value(header).unwrap(), value);
    }
}

#[test]
fn markers_are_case_sensitive_and_plain_values_are_borrowed() {
    assert!(matches!(decode_value("=?BASE64?YQ==?="), Ok(Cow::Borrowed("=?BASE64?YQ==?="))));
    assert!(matches!(encode_value("tools/call"), Cow::Borrowed(_)));
    assert_eq!(decode_value("a\tb").unwrap(), "a\tb");
    assert_eq!(decode_value("").unwrap(), "");
}

#[test]
fn what_cannot_be_decoded_is_refused() {
    for (header, error) in [
        ("naïve", HeaderValueError::Character),
        ("a\u{7f}", HeaderValueError::Character),
        ("=?base64?YQ?=", HeaderValueError::Base64),
        ("=?base64?YR==?=", HeaderValueError::Base64),
        ("=?base64?Y Q=?=", HeaderValueError::Base64),
        ("=?base64?/w==?=", HeaderValueError::Utf8),
    ] {
        assert_eq!(decode_value(header), Err(error), "{header}");
    }
}

proptest! {
    #[test]
    fn every_value_survives_a_header(value in ".*|=\\?base64\\?.*\\?=|\\PC*|[\\s\\S]{0,20}") {
        let header = encode_value(&value);
        prop_assert!(header.bytes().all(|byte| (0x20..=0x7e).contains(&byte)));
        prop_assert_eq!(header.trim(), header.as_ref());
        prop_assert_eq!(decode_value(&header).unwrap(), value.as_str());
    }

    #[test]
    fn no_header_panics(header: String) {
        let _ = decode_value(&header);
    }
}
