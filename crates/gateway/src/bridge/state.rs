//! `requestState`: what the gateway has to know again when a client comes back with answers, sealed for that client and
//! that request (2026-07-28, Multi Round-Trip Requests, "Server Requirements").

use data_encoding::BASE64URL_NOPAD;
use throughline_wire::bridge::to_legacy::request::{Responses, salient};
use throughline_wire::bridge::to_legacy::state::State;

use crate::app::Core;
use crate::classify::{Arrived, Held};
use crate::error::{Fault, Modern};

/// Longest sealed state that is looked at, in bytes.
const MAX_STATE: usize = 32 * 1024;

/// Whom and what a state is for: it opens for nobody and nothing else.
pub(super) struct Sealing([u8; 32]);

impl Sealing {
    pub(super) fn of(core: &Core, arrived: &Arrived, held: &Held) -> Self {
        let parts = [
            &arrived.route.digest[..],
            &arrived.caller.principal,
            held.method.as_bytes(),
            &salient(held.raw_params()),
        ];
        Sealing(core.app.keys.digest("request state", &parts))
    }

    pub(super) fn seal(&self, core: &Core, state: &State) -> String {
        let app = &core.app;
        BASE64URL_NOPAD.encode(&app.keys.seal_state(&self.0, &state.plain(), app.effects.bytes()))
    }

    /// None where it was changed, is somebody else's or another request's, or has lapsed.
    pub(super) fn open(&self, core: &Core, text: &str) -> Option<State> {
        let app = &core.app;
        let sealed = BASE64URL_NOPAD.decode(text.as_bytes()).ok().filter(|_| text.len() <= MAX_STATE)?;
        State::read(&app.keys.open_state(&self.0, &sealed)?, app.effects.now().0)
    }
}

/// Whether the user has accepted all that the server wants visited before the request is made again.
pub(super) fn all_accepted(questions: &[(String, String)], responses: &Responses<'_>) -> Result<(), Fault> {
    for (key, _) in questions {
        let answer = responses.get(key).copied().unwrap_or(b"{}");
        let answer: serde_json::Value = serde_json::from_slice(answer).unwrap_or_default();
        // Where an answer is missing the server asks again.
        if answer["action"].as_str().is_some_and(|action| action != "accept") {
            return Err(Fault::Modern(Modern::Declined));
        }
    }
    Ok(())
}
