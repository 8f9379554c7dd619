//! Tests of the crate through its public items, in one binary.

mod any_body;
mod any_input;
mod any_stream;
mod capability;
mod corpus;
mod envelope;
mod era;
mod headers;
mod keyring;
mod loss;
mod profile;
mod seal;
mod splice;
mod sse;
mod tag;
mod to_modern;
