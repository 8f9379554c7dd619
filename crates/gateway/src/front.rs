//! What is asked for beside the protocol's own endpoint: how to log in, and other ways in, which make the same messages of what
//! comes, and their own answers of what comes of those.

pub mod rest;
pub mod sse2024;

use std::rc::Rc;

use http::Response;
use http::request::Parts;
use hyper::body::Incoming;

use crate::app::{App, Core};
use crate::metadata;
use crate::peer::Peer;
use crate::reply::ReplyBody;

/// A request for one of them.
pub enum Asked {
    /// How to log in to the upstream.
    Metadata(metadata::Asked),
    /// Plain REST.
    Rest(rest::Asked),
    /// The transport of revision 2024-11-05.
    Sse2024(sse2024::Asked),
}

/// Whether a request is for one of them.
pub fn asked(app: &App, peer: Peer, parts: &Parts) -> Option<Asked> {
    let path = parts.uri.path();
    metadata::asked(app, peer, parts)
        .map(Asked::Metadata)
        .or_else(|| rest::asked(app, path).map(Asked::Rest))
        .or_else(|| sse2024::asked(app, path).map(Asked::Sse2024))
}

/// Answers it.
pub async fn answer(
    core: Rc<Core>,
    peer: Peer,
    asked: Asked,
    parts: Parts,
    body: Incoming,
) -> Response<ReplyBody> {
    match asked {
        Asked::Metadata(asked) => metadata::answer(&core, &asked).await,
        Asked::Rest(asked) => rest::answer(core, peer, asked, parts, body).await,
        Asked::Sse2024(asked) => sse2024::answer(core, peer, asked, parts, body).await,
    }
}
