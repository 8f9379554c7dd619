//! The servers that Throughline demonstrates and tests itself with, built on rmcp.
//!
//! They stand for somebody else's software: nothing here knows that a gateway exists, and the gateway uses
//! nothing from here. [`counter`] is a server with a session worth keeping.

pub mod counter;
