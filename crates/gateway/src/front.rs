//! Other ways in than the protocol's own: they make the same messages of what comes, and their own answers of what
//! comes of those.

pub mod rest;
