//! The servers that Throughline demonstrates and tests itself with, built on rmcp.
//!
//! They stand for somebody else's software: nothing here knows that a gateway exists, and the gateway uses
//! nothing from here. [`counter`] is a server with a session worth keeping; [`stateless`] keeps nothing between
//! two requests, so that any of its instances can answer any of them. Both have a status page.

pub mod counter;
pub mod instance;
pub mod stateless;
mod status;
