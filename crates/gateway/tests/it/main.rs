//! The gateway from outside: over sockets, between raw clients and an upstream that does what a test tells it to.
//!
//! Whatever a test is about, the gateway's end in it ([`harness::Gw`]) also asserts that no thread of it panicked
//! and that no session id, of either side, was logged.
#![cfg(test)]

mod harness;

mod admin;
mod any_input;
mod at_most_once;
mod bridged;
mod callers;
mod certificates;
mod cookies;
mod entra;
mod fleet;
mod grants;
mod hostile;
mod ids;
mod issued;
mod keyed;
mod limits;
mod lists;
mod lookout;
mod malformed;
mod metrics;
mod modern;
mod multiplexed;
mod oauth;
mod older;
mod process;
mod profiles;
mod programs;
mod proxies;
mod questions;
mod replicas;
mod rest;
mod rest_later;
mod restored;
mod resumption;
mod setup_calls;
mod single_flight;
mod sse2024;
mod stateless;
mod status;
mod streams;
mod tidy;
mod time_outs;
mod tls;
mod to_modern;
mod transparency;
