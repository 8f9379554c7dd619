//! What a session is bound to upstream, as a state and as its record has it. Making it is in
//! [`recover`](crate::recover).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::HeaderValue;
use serde::{Deserialize, Serialize};
use throughline_store::{Binding, Millis, Record, RecordKey, State};
use throughline_wire::bridge::to_modern::hello::Offers;
use throughline_wire::loss::Sign;
use throughline_wire::version::ProtocolVersion;
use tokio::sync::watch;

use crate::app::App;
use crate::credentials::Credentials;
use crate::error::Fault;
use crate::initialize::{InitializeParams, Lists};
use crate::upstream::cookies::{Cookie, Jar};
use crate::upstream::fleet::Place;
use crate::upstream::modern::Modern;
use crate::upstream::{Address, older};

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
}

/// What most answers say, by generation; there is none before the first.
static RESUMED: [HeaderValue; 4] = [
    HeaderValue::from_static("unknown"),
    HeaderValue::from_static("resumed;generation=1"),
    HeaderValue::from_static("resumed;generation=2"),
    HeaderValue::from_static("resumed;generation=3"),
];

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
        if let (Origin::Resumed, Some(value)) = (self, RESUMED.get(generation as usize)) {
            return value.clone();
        }
        let value = format!("{};generation={generation}", self.as_str());
        HeaderValue::try_from(value).unwrap_or(HeaderValue::from_static("unknown"))
    }
}

/// The value of a version header: of one that is known, the same for all sessions.
pub fn version_header(version: &str) -> Option<HeaderValue> {
    match ProtocolVersion::parse(version) {
        Some(known) => Some(HeaderValue::from_static(known.as_str())),
        None => HeaderValue::from_str(version).ok(),
    }
}

/// What an attempt came to.
pub type Made = Result<(Arc<Bound>, Origin), Fault>;

/// The part of a binding that is sealed at rest: with it one could speak in the session.
///
/// Every session has one in memory and one in the store, so members that say nothing are left out.
#[derive(Serialize, Deserialize)]
struct Secret {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    session_id: Option<String>,
    mark: Mark,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    cookies: Vec<Cookie>,
    #[serde(default, skip_serializing_if = "is_default")]
    lists: Lists,
    #[serde(default, skip_serializing_if = "is_default")]
    untold: bool,
    /// What the server offers, where it is a modern one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    modern: Option<Offered>,
    /// Where it is: requests go there with the rest of this, so that nobody may change it who cannot read it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    endpoint: String,
}

/// What a modern server offers, of what has to be known to speak with it.
#[derive(Serialize, Deserialize)]
struct Offered {
    logging: bool,
    subscribe: bool,
}

impl Offered {
    fn new(offers: Offers) -> Self {
        Offered { logging: offers.logging, subscribe: offers.subscribe }
    }

    /// Together with the lists that it announces changes of.
    fn with(self, Lists { tools, prompts, resources }: Lists) -> Offers {
        Offers { logging: self.logging, subscribe: self.subscribe, tools, prompts, resources }
    }
}

/// A binding's mark, as hexadecimal text.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Mark {
    Text(String),
    /// As it was written at first.
    Numbers([u8; 16]),
}

impl Mark {
    fn new(mark: &[u8; 16]) -> Self {
        Mark::Text(data_encoding::HEXLOWER.encode(mark))
    }

    fn bytes(&self) -> Option<[u8; 16]> {
        match self {
            Mark::Text(text) => data_encoding::HEXLOWER.decode(text.as_bytes()).ok()?.try_into().ok(),
            Mark::Numbers(bytes) => Some(*bytes),
        }
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl Slot {
    /// As a record has it. A binding that cannot be unsealed (its key is gone), or whose endpoint does not belong to the
    /// upstream any more, is as good as lost.
    pub fn of_record(app: &App, route: usize, key: RecordKey, record: &Record) -> Slot {
        match &record.state {
            State::Deleted => Slot::Closed,
            State::Open { binding, generation, .. } => {
                match binding.as_ref().and_then(|binding| Bound::unseal(app, route, key, record, binding)) {
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
            mark: Mark::new(&self.mark),
            lists: self.lists,
            cookies: self.address.cookies.cookies(),
            untold: self.untold.load(Ordering::Relaxed),
            modern: self.address.modern.as_ref().map(|modern| Offered::new(modern.offers())),
            endpoint: self.address.at.name().to_owned(),
        };
        let plain = serde_json::to_vec(&secret).unwrap_or_default();
        Binding {
            generation: self.generation,
            secret: app.keys.seal_secret(&key.0, &plain, app.effects.bytes()).into(),
            protocol_version: text(&self.address.version).unwrap_or_default().into(),
            endpoint: self.address.at.name().to_owned(),
        }
    }

    /// From the record; None where the key that it was sealed with is gone, or the endpoint that it is at.
    pub fn unseal(
        app: &App,
        route: usize,
        key: RecordKey,
        record: &Record,
        binding: &Binding,
    ) -> Option<Self> {
        let plain = app.keys.open_secret(&key.0, &binding.secret)?;
        let secret: Secret = serde_json::from_slice(&plain).ok()?;
        let session_id = match secret.session_id {
            Some(id) => Some(HeaderValue::from_str(&id).ok()?),
            None => None,
        };
        let fleet = &app.routes.get(route)?.fleet;
        let at = match session_id.is_some() || !secret.endpoint.is_empty() {
            true => {
                let seat = fleet.seat_of(&secret.endpoint)?;
                older::recall(app, &seat.member, session_id.as_ref());
                Place::At(seat)
            }
            false => Place::Anywhere(Arc::clone(fleet)),
        };
        let modern = match secret.modern {
            None => None,
            Some(offered) => {
                let params = InitializeParams::read(record.initialize.as_bytes()).ok()?;
                let modern = Modern::new(&params, offered.with(secret.lists));
                modern.recall(app, key, record);
                Some(modern)
            }
        };
        let version = version_header(&binding.protocol_version).filter(|version| !version.is_empty());
        Some(Bound {
            generation: binding.generation,
            address: Address {
                at,
                session_id,
                version,
                cookies: Jar::new(secret.cookies),
                credentials: Credentials::NONE,
                modern,
            },
            lists: secret.lists,
            mark: secret.mark.bytes()?,
            lossy: secret.untold,
            untold: AtomicBool::new(secret.untold),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_read_as_it_is_and_as_it_was_written() {
        let mark: [u8; 16] = std::array::from_fn(|n| 250_u8.wrapping_add(n as u8));
        let numbers = r#"{"session_id":"a","mark":[250,251,252,253,254,255,0,1,2,3,4,5,6,7,8,9],"lists":{"tools":true,"prompts":false,"resources":false},"untold":true}"#;
        let before: Secret = serde_json::from_str(numbers).unwrap();
        assert_eq!((before.mark.bytes(), before.lists.tools, before.untold), (Some(mark), true, true));
        let secret = Secret {
            session_id: Some("a".to_owned()),
            mark: Mark::new(&mark),
            cookies: Vec::new(),
            lists: Lists::default(),
            untold: false,
            modern: None,
            endpoint: String::new(),
        };
        let text = serde_json::to_string(&secret).unwrap();
        assert_eq!(text, r#"{"session_id":"a","mark":"fafbfcfdfeff00010203040506070809"}"#);
        let read: Secret = serde_json::from_str(&text).unwrap();
        assert_eq!((read.mark.bytes(), read.session_id.as_deref()), (Some(mark), Some("a")));
        let none: Secret = serde_json::from_str(r#"{"mark":"fafb"}"#).unwrap();
        assert_eq!(none.mark.bytes(), None);
    }

    #[test]
    fn the_header_says_the_generation() {
        for generation in 1..6 {
            let value = Origin::Resumed.header(generation);
            assert_eq!(value, format!("resumed;generation={generation}"));
        }
    }
}
