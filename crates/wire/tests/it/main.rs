//! Tests of the crate through its public items, in one binary.

mod capability;
mod envelope;
mod era;
mod headers;
mod keyring;
mod loss;
mod seal;
mod splice;
mod sse;
mod tag;
