//! Session ids, stored secrets, digests.

use std::collections::HashSet;

use proptest::prelude::*;
use throughline_wire::capability::Capabilities;
use throughline_wire::keyring::KeyRing;
use throughline_wire::seal::{Keys, OpenError, SESSION_ID_LEN, SessionToken};
use throughline_wire::version::ProtocolVersion;

const ALPHABET: &[u8] = b"abcdefghijklmnopqrstuvwxyz234567";

fn ring() -> KeyRing {
    KeyRing::generate([7; 32])
}

fn keys() -> Keys {
    Keys::derive(&ring(), 0)
}

fn token() -> SessionToken {
    SessionToken {
        id: *b"0123456789abcdef",
        route: *b"route-01",
        principal: *b"principal-000001",
        issued_at: 1_800_000_000,
        version: ProtocolVersion::V2025_06_18,
        capabilities: Capabilities::ROOTS.with(Capabilities::ELICITATION_FORM),
    }
}

/// If this fails, every session id out there has become invalid: give the format a new number instead.
#[test]
fn the_format_is_stable() {
    let text = keys().seal_session(&token(), [9; 12]);
    assert_eq!(
        text,
        "aeaqscijbeeqscijbeeqscm5btwo7yo2qt3pmm6e2owil6hbq2kvls56xikhrvf422hqdv3nt2n3lizj3dc7cbvmkfpjkprq2vedyp5274doq42zjlae56djibcq"
    );
    assert_eq!(keys().open_session(&text), Ok(token()));
}

#[test]
fn digests_and_stored_secrets_are_stable() {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    assert_eq!(
        hex(&keys().digest("principal", &[b"issuer", b"subject"])),
        "5005ea60eab3eada5a14d20d162a6c73a0bf2a2117094008379e903975e9a68f"
    );
    assert_eq!(
        hex(&keys().seal_secret(b"context", b"plain", [9; 12])),
        "010109090909090909090909090983fb3be8f3d91df479b2cf01c782fcaa355971ab06"
    );
}

#[test]
fn an_id_has_the_form_that_peers_accept() {
    let text = keys().seal_session(&token(), [9; 12]);
    assert_eq!(text.len(), SESSION_ID_LEN);
    assert!(text.len() <= 128);
    assert!(text.bytes().all(|byte| ALPHABET.contains(&byte)));
}

#[test]
fn every_other_character_anywhere_is_refused() {
    let keys = keys();
    let text = keys.seal_session(&token(), [9; 12]);
    for at in 0..text.len() {
        for other in ALPHABET {
            let mut bytes = text.clone().into_bytes();
            if bytes[at] != *other {
                bytes[at] = *other;
                let forged = String::from_utf8(bytes).unwrap();
                assert!(keys.open_session(&forged).is_err(), "{at}: {forged}");
            }
        }
    }
}

#[test]
fn one_session_has_one_spelling() {
    let keys = keys();
    let text = keys.seal_session(&token(), [9; 12]);
    let mut upper = text.clone();
    upper[..1].make_ascii_uppercase();
    for other in [
        text.to_uppercase(),
        upper,
        format!("{text}="),
        format!("{text}a"),
        format!(" {text}"),
        text[1..].to_owned(),
        String::new(),
        "é".repeat(62),
    ] {
        assert_eq!(keys.open_session(&other), Err(OpenError::Malformed), "{other}");
    }
    // 124 characters are 620 bits, 4 more than the 77 bytes: those must be zero.
    let last = ALPHABET.iter().position(|letter| *letter == text.as_bytes()[text.len() - 1]).unwrap();
    assert_eq!(last % 16, 0);
    let stray = format!("{}{}", &text[..text.len() - 1], ALPHABET[last + 1] as char);
    assert_eq!(keys.open_session(&stray), Err(OpenError::Malformed));
}

#[test]
fn another_ring_does_not_open_it() {
    let text = keys().seal_session(&token(), [9; 12]);
    let same_id = Keys::derive(&KeyRing::generate([8; 32]), 0);
    assert_eq!(same_id.open_session(&text), Err(OpenError::Forged));
    let mut rotated = ring();
    rotated.rotate([8; 32], 0);
    let newer = Keys::derive(&rotated, 0).seal_session(&token(), [9; 12]);
    assert_eq!(keys().open_session(&newer), Err(OpenError::UnknownKey));
}

#[test]
fn rotation_keeps_ids_and_digests_and_stored_secrets() {
    let old = keys();
    let text = old.seal_session(&token(), [9; 12]);
    let secret = old.seal_secret(b"c", b"plain", [1; 12]);
    let mut ring = ring();
    for round in 1..=15 {
        ring.rotate([100 + round; 32], 0);
        let new = Keys::derive(&ring, 0);
        assert_eq!(new.open_session(&text), Ok(token()));
        assert_eq!(new.open_secret(b"c", &secret).as_deref(), Some(b"plain".as_slice()));
        assert_eq!(new.digest("p", &[b"x"]), old.digest("p", &[b"x"]));
        assert_ne!(new.seal_session(&token(), [9; 12]), text);
    }
    // The sixteenth drops the first key.
    ring.rotate([200; 32], 0);
    assert_eq!(Keys::derive(&ring, 0).open_session(&text), Err(OpenError::UnknownKey));
}

#[test]
fn not_before_revokes_what_is_older() {
    let text = keys().seal_session(&token(), [9; 12]);
    let mut ring = ring();
    ring.revoke_before(token().issued_at);
    assert_eq!(Keys::derive(&ring, 0).open_session(&text), Ok(token()));
    ring.revoke_before(token().issued_at + 1);
    assert_eq!(Keys::derive(&ring, 0).open_session(&text), Err(OpenError::Revoked));
}

#[test]
fn another_nonce_makes_another_id() {
    let ids: HashSet<String> = (0..=255).map(|byte| keys().seal_session(&token(), [byte; 12])).collect();
    assert_eq!(ids.len(), 256);
}

#[test]
fn a_stored_secret_opens_only_in_its_context_and_whole() {
    let keys = keys();
    let sealed = keys.seal_secret(b"context", b"plain", [3; 12]);
    assert_eq!(sealed.len(), 5 + 30);
    assert_eq!(keys.open_secret(b"context", &sealed).as_deref(), Some(b"plain".as_slice()));
    assert_eq!(keys.open_secret(b"contexu", &sealed), None);
    for at in 0..sealed.len() {
        let mut changed = sealed.clone();
        changed[at] ^= 1;
        assert_eq!(keys.open_secret(b"context", &changed), None, "byte {at}");
        assert_eq!(keys.open_secret(b"context", &sealed[..at]), None, "length {at}");
    }
}

#[test]
fn no_two_lists_of_parts_have_one_digest() {
    let keys = keys();
    let lists: [(&str, &[&[u8]]); 8] = [
        ("p", &[]),
        ("p", &[b""]),
        ("p", &[b"", b""]),
        ("p", &[b"ab", b"c"]),
        ("p", &[b"a", b"bc"]),
        ("p", &[b"abc"]),
        ("pa", &[b"bc"]),
        ("q", &[b"abc"]),
    ];
    let digests: HashSet<[u8; 32]> =
        lists.iter().map(|(purpose, parts)| keys.digest(purpose, parts)).collect();
    assert_eq!(digests.len(), lists.len());
}

#[test]
fn nothing_secret_is_printed() {
    let printed = format!("{:?} {:?}", ring(), keys());
    assert!(!printed.contains("0707") && !printed.contains("7, 7"), "{printed}");
}

proptest! {
    #[test]
    fn whatever_is_sealed_opens(
        id: [u8; 16], route: [u8; 8], principal: [u8; 16], issued_at: u32, code in 1u8..=5, bits: u16, nonce: [u8; 12],
    ) {
        let token = SessionToken {
            id, route, principal, issued_at,
            version: ProtocolVersion::from_code(code).unwrap(),
            capabilities: Capabilities::from_bits(bits),
        };
        prop_assert_eq!(keys().open_session(&keys().seal_session(&token, nonce)), Ok(token));
    }

    #[test]
    fn nothing_else_opens(text in "\\PC{0,140}|[a-z2-7]{124}") {
        prop_assert!(keys().open_session(&text).is_err());
    }

    #[test]
    fn no_stored_bytes_panic(bytes: Vec<u8>) {
        prop_assert_eq!(keys().open_secret(b"", &bytes), None);
    }
}
