//! The program between real servers and real clients.
//!
//! Every test runs the built `throughline` in front of a real MCP server (on rmcp, or on the official Python
//! SDK in either major version; in `peers` on the TypeScript SDK too, and beside clients that others wrote), and
//! kills, with SIGKILL, what the promise under test says may be killed.
//! `baseline` holds the same servers and clients against each other with nothing in between, so that what
//! fails there is not the gateway's fault.
#![cfg(test)]

mod harness;

mod admin;
mod away;
mod baseline;
mod browser;
mod call;
mod chaos;
mod conformance;
mod cuts;
mod demo;
mod doctor;
mod eras;
mod fleet;
mod health;
mod idless;
mod kept;
mod load;
mod makers;
mod observed;
mod openapi;
mod peers;
mod programs;
mod races;
mod reference;
mod restored;
mod resumed;
mod sdk_client;
mod sse2024;
mod stateless;
mod to_modern;
