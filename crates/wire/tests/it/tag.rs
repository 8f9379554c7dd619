//! Tagged ids.

use proptest::prelude::*;
use throughline_wire::keyring::KeyRing;
use throughline_wire::seal::Keys;
use throughline_wire::tag::Purpose;

const SESSION: [u8; 16] = *b"0123456789abcdef";

fn keys() -> Keys {
    Keys::derive(&KeyRing::generate([7; 32]), 0)
}

/// If this fails, clients can no longer resume streams or answer questions across an upgrade.
#[test]
fn the_format_is_stable() {
    assert_eq!(keys().tag(Purpose::Request, &SESSION, 3, b"0"), "3.01954182a2c6356584.MA");
}

#[test]
fn a_tag_is_good_for_one_purpose_one_session_and_one_generation() {
    let tag = keys().tag(Purpose::Request, &SESSION, 3, b"0");
    assert_eq!(keys().untag(Purpose::Request, &SESSION, &tag), Some((3, b"0".to_vec())));
    assert_eq!(keys().untag(Purpose::Event, &SESSION, &tag), None);
    assert_eq!(keys().untag(Purpose::Progress, &SESSION, &tag), None);
    assert_eq!(keys().untag(Purpose::Request, &[0; 16], &tag), None);
    assert_eq!(keys().untag(Purpose::Request, &SESSION, &tag.replacen('3', "4", 1)), None);
}

#[test]
fn changed_or_respelled_tags_are_not_ours() {
    let tag = keys().tag(Purpose::Event, &SESSION, 0, b"value!");
    for at in 0..tag.len() {
        for other in "A0z.-_".chars() {
            let changed = format!("{}{other}{}", &tag[..at], &tag[at + 1..]);
            if changed != tag {
                assert_eq!(keys().untag(Purpose::Event, &SESSION, &changed), None, "{changed}");
            }
        }
    }
    for other in
        [format!("0{tag}"), format!("+{tag}"), tag.to_uppercase(), format!("{tag}="), tag[1..].to_owned()]
    {
        assert_eq!(keys().untag(Purpose::Event, &SESSION, &other), None, "{other}");
    }
}

#[test]
fn tags_outlive_a_rotation() {
    let tag = keys().tag(Purpose::Event, &SESSION, 1, b"v");
    let mut ring = KeyRing::generate([7; 32]);
    ring.rotate([8; 32], 0);
    assert_eq!(Keys::derive(&ring, 0).untag(Purpose::Event, &SESSION, &tag), Some((1, b"v".to_vec())));
    let other = Keys::derive(&KeyRing::generate([8; 32]), 0);
    assert_eq!(other.untag(Purpose::Event, &SESSION, &tag), None);
}

proptest! {
    #[test]
    fn what_is_tagged_is_untagged(generation: u32, value: Vec<u8>, session: [u8; 16]) {
        let tag = keys().tag(Purpose::Progress, &session, generation, &value);
        prop_assert!(tag.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte)));
        prop_assert_eq!(keys().untag(Purpose::Progress, &session, &tag), Some((generation, value)));
    }

    #[test]
    fn nothing_else_is(text in "\\PC{0,60}|[0-9]{1,10}\\.[0-9a-f]{18}\\.[A-Za-z0-9_-]{0,20}") {
        prop_assert_eq!(keys().untag(Purpose::Request, &SESSION, &text), None);
    }
}
