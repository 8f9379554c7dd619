//! The key ring's text form.

use throughline_wire::keyring::{KeyRing, KeyRingError, MAX_KEYS};
use throughline_wire::seal::Keys;

const A: &str = "0101010101010101010101010101010101010101010101010101010101010101";
const B: &str = "ABABABABABABABABABABABABABABABABABABABABABABABABABABABABABABABAB";

#[test]
fn a_ring_survives_its_text_form() {
    let mut ring = KeyRing::generate([7; 32]);
    for round in 1..=40 {
        ring.rotate([round; 32], 0);
        ring.revoke_before(u32::from(round));
        assert_eq!(KeyRing::parse(&ring.to_text()), Ok(ring.clone()));
        assert_eq!(KeyRing::parse(&ring.to_line()), Ok(ring.clone()));
        assert_eq!(ring.ids(0)[0], round + 1);
    }
    assert_eq!(ring.to_text().matches("key.").count(), MAX_KEYS);
}

#[test]
fn comments_spaces_and_bare_values_are_read() {
    let text = format!("\r\n  # ring\r\nformat=1 # one\nroot = {A}\n\nkey.9 = \"{B}\"\r\nkey.0={A}");
    let ring = KeyRing::parse(&text).unwrap();
    assert_eq!((ring.ids(0), ring.not_before()), (vec![9, 0], 0));
}

#[test]
fn a_new_key_seals_from_its_time_on_and_opens_at_once() {
    let mut ring = KeyRing::generate([7; 32]);
    ring.rotate([8; 32], 100);
    assert_eq!((ring.ids(99), ring.ids(100)), (vec![1, 2], vec![2, 1]));
    let (before, after) = (Keys::derive(&ring, 99), Keys::derive(&ring, 100));
    for (seals, opens) in [(&before, &after), (&after, &before)] {
        let sealed = seals.seal_secret(b"context", b"plain", [1; 12]);
        assert_eq!(opens.open_secret(b"context", &sealed).as_deref(), Some(&b"plain"[..]));
    }
    let old = Keys::derive(&KeyRing::generate([7; 32]), 99);
    let sealed = before.seal_secret(b"context", b"plain", [1; 12]);
    assert!(old.open_secret(b"context", &sealed).is_some(), "a replica without the new ring opens it");
    // The only key there is seals whatever the time.
    let lone = KeyRing::parse(&format!("format = 1; seals_from = 100; root = {A}; key.4 = {A}")).unwrap();
    assert_eq!(lone.ids(1), [4]);
}

#[test]
fn a_ring_that_is_wrong_is_told_by_line() {
    let cases = [
        (format!("format = 2\nroot = {A}"), KeyRingError::Format(1)),
        (format!("format = 1\nroot = {A}\nkey.1 = {A}0"), KeyRingError::Secret(3)),
        (format!("format = 1\nroot = {}", "0".repeat(64)), KeyRingError::Secret(2)),
        (format!("format = 1\nroot = \"{A}"), KeyRingError::Line(2)),
        (format!("format = 1\nsecret = {A}"), KeyRingError::Line(2)),
        (A.to_owned(), KeyRingError::Line(1)),
        ("format = 1\nnot_before = -1".to_owned(), KeyRingError::NotBefore(2)),
        ("format = 1; seals_from = soon".to_owned(), KeyRingError::SealsFrom(1)),
        (format!("key.256 = {A}"), KeyRingError::Id(1)),
        (format!("key.1 = {A}\nkey.1 = {B}"), KeyRingError::Twice(2)),
        (format!("root = {A}\nroot = {B}"), KeyRingError::Twice(2)),
        (format!("root = {A}\nkey.1 = {A}"), KeyRingError::NoFormat),
        (format!("format = 1\nkey.1 = {A}"), KeyRingError::NoRoot),
        (format!("format = 1\nroot = {A}"), KeyRingError::NoKey),
        ((0..17).map(|id| format!("key.{id} = {A}\n")).collect(), KeyRingError::TooMany(17)),
    ];
    for (text, expected) in cases {
        let error = KeyRing::parse(&text).unwrap_err();
        assert_eq!(error, expected, "{text}");
        assert!(!error.to_string().contains("0101"), "{error}");
    }
}
