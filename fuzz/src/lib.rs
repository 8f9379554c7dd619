//! What the targets run: the same functions that the tests run on the corpora.

#![allow(dead_code, missing_docs, unused_imports)]

#[path = "../../crates/store/tests/it/any_address.rs"]
mod any_address;
#[path = "../../crates/wire/tests/it/any_body.rs"]
mod any_body;
#[path = "../../crates/wire/tests/it/any_input.rs"]
mod any_input;
#[path = "../../crates/gateway/tests/it/any_input.rs"]
mod any_input_of_gateway;
#[path = "../../crates/store/tests/it/any_record.rs"]
mod any_record;
#[path = "../../crates/wire/tests/it/any_stream.rs"]
mod any_stream;

pub mod address {
    pub fn check(data: &[u8]) {
        crate::any_address::check(data);
    }
}

pub mod body {
    pub fn check(data: &[u8]) {
        crate::any_body::check(data);
    }
}

pub mod record {
    pub fn check(data: &[u8]) {
        crate::any_record::check(data);
    }
}

macro_rules! targets {
    ($of:ident: $($name:ident),*) => {
        $(pub fn $name(data: &[u8]) {
            crate::$of::$name(data);
        })*
    };
}

pub mod wire {
    targets!(any_input: message_edits, header_value, loss_verdict, session_id, key_ring);
}

pub mod gateway {
    targets!(any_input_of_gateway: config_file, initialize_params, forwarded);
}

/// The first byte says how the rest is cut.
pub fn stream(data: &[u8]) {
    let [size, stream @ ..] = data else { return };
    any_stream::check(stream, &[usize::from(size % 16) + 1, 1, usize::from(size / 16) + 1]);
}
