//! What of a client's request goes upstream as it is, where its route says so: `Authorization`, and named headers.
//!
//! The gateway cannot verify any of it. So whoever presents the same is one caller, and whoever presents something
//! else another ([`digest`]); and what the gateway sends of its own accord carries what the request at hand
//! brought, never anything that was kept.

use std::sync::Arc;

use http::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};

use crate::app::{App, Route, first};
use crate::config;

/// What the live request brought; None where the route passes nothing on, or no request is at hand.
#[derive(Clone, Debug, Default)]
pub struct Credentials(Option<Arc<HeaderMap>>);

impl Credentials {
    /// Of no request.
    pub const NONE: Credentials = Credentials(None);

    /// Of a request with these headers.
    pub fn of(route: &config::Route, headers: &HeaderMap) -> Self {
        if !is_forwarding(route) {
            return Self::NONE;
        }
        let mut carried = HeaderMap::new();
        for name in forwarded(route) {
            for value in headers.get_all(name) {
                let mut value = value.clone();
                value.set_sensitive(true);
                carried.append(name, value);
            }
        }
        Credentials(Some(Arc::new(carried)))
    }

    /// The same, and this authorization, which the gateway got for the caller.
    #[must_use]
    pub fn with_authorization(&self, value: HeaderValue) -> Self {
        let mut carried = self.0.as_deref().cloned().unwrap_or_default();
        carried.insert(AUTHORIZATION, value);
        Credentials(Some(Arc::new(carried)))
    }

    /// Whether there is a request that they are of.
    pub fn are_at_hand(&self) -> bool {
        self.0.is_some()
    }

    /// Adds them to a request for the upstream.
    pub fn apply(&self, headers: &mut HeaderMap) {
        for (name, value) in self.0.iter().flat_map(|carried| carried.iter()) {
            headers.append(name, value.clone());
        }
    }
}

/// Whether requests of this route carry something of the client's that the upstream may ask for.
pub fn is_forwarding(route: &config::Route) -> bool {
    route.forward_authorization || !route.forward_headers.is_empty() || route.token.is_some()
}

fn forwarded(route: &config::Route) -> impl Iterator<Item = &HeaderName> {
    route.forward_authorization.then_some(&AUTHORIZATION).into_iter().chain(&route.forward_headers)
}

/// Names what a request brings for the upstream; None where its route passes nothing on.
pub fn digest(app: &App, route: &Route, headers: &HeaderMap) -> Option<[u8; 16]> {
    if !is_forwarding(&route.config) {
        return None;
    }
    let mut parts: Vec<&[u8]> = vec![&route.digest];
    for name in forwarded(&route.config) {
        for value in headers.get_all(name) {
            parts.extend([name.as_str().as_bytes(), value.as_bytes()]);
        }
    }
    Some(first(&app.keys.digest("credentials", &parts)))
}
