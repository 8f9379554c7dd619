//! The gateway from outside: over sockets, between raw clients and an upstream that does what a test tells it to.
//!
//! Whatever a test is about, the gateway's end in it ([`harness::Gw`]) also asserts that no thread of it panicked
//! and that no session id, of either side, was logged.
#![cfg(test)]

mod harness;

mod any_input;
mod at_most_once;
mod hostile;
mod ids;
mod issued;
mod keyed;
mod limits;
mod malformed;
mod modern;
mod process;
mod questions;
mod restored;
mod single_flight;
mod stateless;
mod streams;
mod tidy;
mod tls;
mod transparency;
