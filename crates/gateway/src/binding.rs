//! What a session is bound to upstream, as a state and as its record has it. Making it is in
//! [`recover`](crate::recover).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::HeaderValue;
use serde::{Deserialize, Serialize};
use throughline_store::{Binding, Millis, Record, RecordKey, State};
use throughline_wire::loss::Sign;
use tokio::sync::watch;

use crate::app::App;
use crate::credentials::Credentials;
use crate::error::Fault;
use crate::initialize::Lists;
use crate::upstream::Address;
use crate::upstream::cookies::{Cookie, Jar};
use crate::upstream::fleet::Place;

/// What a session is bound to.
pub enum Slot {
    /// Nothing now.
    Empty {
        /// The last generation that was given out; counted up at every binding.
        generation: u32,
    },
    /// A binding is being made, or given back: wait, and look again if nothing comes of it.
    Making(watch::Receiver<Option<Made>>),
    /// An upstream session.
    Bound(Arc<Bound>),
    /// The last attempt failed.
    Failed {
        /// The last generation that was given out.
        generation: u32,
        /// What was found lost, so that the next attempt does not take it for good.
        lost: Option<Lost>,
        /// How many attempts have failed in a row.
        attempts: u32,
        /// When the next may be made.
        until: Millis,
    },
    /// The session was ended.
    Closed,
}

/// A binding that was found lost.
#[derive(Clone, Copy, Debug)]
pub struct Lost {
    /// Which one.
    pub generation: u32,
    /// How the upstream said so.
    pub sign: Sign,
}

/// An upstream session in use.
#[derive(Debug)]
pub struct Bound {
    /// Counted up with every binding of a session.
    pub generation: u32,
    /// What puts a request into it.
    pub address: Address,
    /// Which lists the server announces changes of.
    pub lists: Lists,
    /// Random, and so different from every other binding's, also where the count of generations was lost: what the
    /// upstream mints is tagged with it.
    pub mark: [u8; 16],
    /// The server's state was lost with the binding before, and that must not pass in silence: calls that met the
    /// loss are told.
    pub lossy: bool,
    /// Nobody has been told yet: the next call that may depend on the state is.
    pub untold: AtomicBool,
    /// Value of the `Throughline-Session` header for requests that find it in place.
    pub resumed: HeaderValue,
}

/// How a request came by its binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// It was there.
    Resumed,
    /// It was made in place of a lost one.
    Restored,
    /// It is the session's first.
    New,
}

impl Origin {
    /// The word in the `Throughline-Session` header.
    pub fn as_str(self) -> &'static str {
        match self {
            Origin::Resumed => "resumed",
            Origin::Restored => "restored",
            Origin::New => "new",
        }
    }

    /// Value of the `Throughline-Session` header.
    pub fn header(self, generation: u32) -> HeaderValue {
        let value = format!("{};generation={generation}", self.as_str());
        HeaderValue::try_from(value).unwrap_or(HeaderValue::from_static("unknown"))
    }
}

/// What an attempt came to.
pub type Made = Result<(Arc<Bound>, Origin), Fault>;

/// The part of a binding that is sealed at rest: with it one could speak in the session.
#[derive(Serialize, Deserialize)]
struct Secret {
    session_id: Option<String>,
    mark: [u8; 16],
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    cookies: Vec<Cookie>,
    #[serde(default)]
    lists: Lists,
    #[serde(default)]
    untold: bool,
    /// Where it is: requests go there with the rest of this, so that nobody may change it who cannot read it.
    #[serde(default)]
    endpoint: String,
}

impl Slot {
    /// As a record has it. A binding that cannot be unsealed (its key is gone), or whose endpoint does not belong to the
    /// upstream any more, is as good as lost.
    pub fn of_record(app: &App, route: usize, key: RecordKey, record: &Record) -> Slot {
        match &record.state {
            State::Deleted => Slot::Closed,
            State::Open { binding, generation, .. } => {
                match binding.as_ref().and_then(|binding| Bound::unseal(app, route, key, binding)) {
                    Some(bound) => Slot::Bound(Arc::new(bound)),
                    None => Slot::Empty { generation: *generation },
                }
            }
        }
    }

    /// The last generation that was given out, as far as this state knows.
    pub fn generation(&self) -> u32 {
        match self {
            Slot::Empty { generation } | Slot::Failed { generation, .. } => *generation,
            Slot::Bound(bound) => bound.generation,
            Slot::Making(_) | Slot::Closed => 0,
        }
    }
}

impl Bound {
    /// For the record.
    pub fn seal(&self, app: &App, key: RecordKey) -> Binding {
        let text =
            |value: &Option<HeaderValue>| value.as_ref().and_then(|v| v.to_str().ok()).map(str::to_owned);
        let secret = Secret {
            session_id: text(&self.address.session_id),
            mark: self.mark,
            lists: self.lists,
            cookies: self.address.cookies.cookies(),
            untold: self.untold.load(Ordering::Relaxed),
            endpoint: self.address.at.name().to_owned(),
        };
        let plain = serde_json::to_vec(&secret).unwrap_or_default();
        Binding {
            generation: self.generation,
            secret: app.keys.seal_secret(&key.0, &plain, app.effects.bytes()),
            protocol_version: text(&self.address.version).unwrap_or_default(),
            endpoint: self.address.at.name().to_owned(),
        }
    }

    /// From the record; None where the key that it was sealed with is gone, or the endpoint that it is at.
    pub fn unseal(app: &App, route: usize, key: RecordKey, binding: &Binding) -> Option<Self> {
        let plain = app.keys.open_secret(&key.0, &binding.secret)?;
        let secret: Secret = serde_json::from_slice(&plain).ok()?;
        let session_id = match secret.session_id {
            Some(id) => Some(HeaderValue::from_str(&id).ok()?),
            None => None,
        };
        let fleet = &app.routes.get(route)?.fleet;
        let at = match session_id.is_some() || !secret.endpoint.is_empty() {
            true => Place::At(fleet.seat_of(&secret.endpoint)?),
            false => Place::Anywhere(Arc::clone(fleet)),
        };
        let version =
            HeaderValue::from_str(&binding.protocol_version).ok().filter(|version| !version.is_empty());
        Some(Bound {
            generation: binding.generation,
            address: Address {
                at,
                session_id,
                version,
                cookies: Jar::new(secret.cookies),
                credentials: Credentials::NONE,
            },
            lists: secret.lists,
            mark: secret.mark,
            lossy: secret.untold,
            untold: AtomicBool::new(secret.untold),
            resumed: Origin::Resumed.header(binding.generation),
        })
    }
}
