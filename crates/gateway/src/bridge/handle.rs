//! State that is named explicitly (2026-07-28, Base Protocol, "Statelessness"): where a route says so, a tool's result
//! gives a handle, and a call that brings it as an argument goes on with the same session of the server's.

use data_encoding::BASE64URL_NOPAD;
use throughline_store::{Millis, RecordKey};
use throughline_wire::bridge::to_legacy::handle;
use throughline_wire::envelope;
use throughline_wire::method;
use throughline_wire::splice::{remove_member, splice};

use super::params;
use crate::app::Core;
use crate::classify::{Arrived, Held};
use crate::config::{KeptBy, Mode};
use crate::error::Fault;
use crate::session::Session;

/// What the gateway's handles begin with, so that a tool's own argument of the same name is not taken for one.
const PREFIX: &str = "state-";
/// Longest handle that is looked at, in bytes.
const MAX_HANDLE: usize = 256;

/// A handle of a call.
pub(super) struct Handle {
    /// The session.
    pub(super) key: RecordKey,
    /// When that ends.
    until: Millis,
    /// The call brought none: its client is told of it.
    is_new: bool,
}

impl Handle {
    /// The handle of a call, and the call as the server gets it; None where state is kept in another way.
    pub(super) fn of(core: &Core, arrived: &Arrived, held: &Held) -> Result<(Held, Option<Self>), Fault> {
        let config = &arrived.route.config;
        let named = config.state == KeptBy::Handle && config.mode == Mode::Sessions;
        if !named || &*held.method != method::TOOLS_CALL {
            return Ok((held.clone(), None));
        }
        let begun = Handle { key: RecordKey(core.app.effects.bytes()), until: Millis(0), is_new: true };
        let at = held.param(&["arguments", &config.state_argument])?;
        let text = at.and_then(|at| envelope::string_value(&held.body[at]).map(|text| text.into_owned()));
        let Some(sealed) = text.as_deref().and_then(|text| text.strip_prefix(PREFIX)) else {
            return Ok((held.clone(), Some(begun)));
        };
        let key = open(core, arrived, sealed).ok_or_else(|| {
            params(&format_args!(
                "{} was not given to this caller, or has lapsed; leave it out to begin anew",
                config.state_argument
            ))
        })?;
        let arguments = held.param(&["arguments"])?.unwrap_or_default();
        let edit = remove_member(&held.body, &arguments, &config.state_argument)?;
        let body = splice(&held.body, &mut edit.into_iter().collect::<Vec<_>>());
        Ok((Held::request(body.into())?, Some(Handle { key, until: Millis(0), is_new: false })))
    }

    /// Of the session that the call turned out to be carried in.
    pub(super) fn naming(self, session: &Session) -> Self {
        Handle { key: session.key, until: session.expires, ..self }
    }

    /// A result with the handle in it.
    pub(super) fn given(&self, core: &Core, arrived: &Arrived, result: &[u8]) -> Vec<u8> {
        let app = &core.app;
        let plain = [&self.key.0[..], &self.until.0.to_be_bytes()].concat();
        let sealed = app.keys.seal_state(&context(core, arrived), &plain, app.effects.bytes());
        let text = format!("{PREFIX}{}", BASE64URL_NOPAD.encode(&sealed));
        handle::give(result, &text, self.is_new.then_some(&arrived.route.config.state_argument))
    }
}

/// A tool list in which each tool takes a handle, where state is kept so.
pub(super) fn offered(arrived: &Arrived, method: &str, result: Vec<u8>) -> Vec<u8> {
    let config = &arrived.route.config;
    if config.state != KeptBy::Handle || config.mode != Mode::Sessions || method != method::TOOLS_LIST {
        return result;
    }
    handle::offer(&result, &config.state_argument).unwrap_or(result)
}

fn open(core: &Core, arrived: &Arrived, sealed: &str) -> Option<RecordKey> {
    let sealed = BASE64URL_NOPAD.decode(sealed.as_bytes()).ok().filter(|_| sealed.len() <= MAX_HANDLE)?;
    let plain = core.app.keys.open_state(&context(core, arrived), &sealed)?;
    let (key, until) = plain.split_first_chunk()?;
    let until = Millis(u64::from_be_bytes(until.try_into().ok()?));
    (core.app.effects.now() < until).then_some(RecordKey(*key))
}

/// Whose it is, and where: it opens for nobody else.
fn context(core: &Core, arrived: &Arrived) -> [u8; 32] {
    core.app.keys.digest("handle", &[&arrived.route.digest, &arrived.caller.principal])
}
