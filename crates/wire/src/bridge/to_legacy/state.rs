//! What the gateway has to know again when a client brings the answers: the `requestState` before it is sealed.
//!
//! It travels through the client, so it is sealed, and says whom and what it was made for (2026-07-28, Multi Round-Trip
//! Requests, "Server Requirements").

use serde::{Deserialize, Serialize};

/// What waits for the answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Waits {
    /// A call that goes on at the server.
    #[serde(rename = "c")]
    Call {
        /// The session's record.
        #[serde(rename = "s")]
        session: [u8; 16],
        /// The event behind which the questions stand in the call's stream, as a client would name it.
        #[serde(rename = "e")]
        event: String,
        /// The id of the request toward the server, raw JSON.
        #[serde(rename = "i")]
        id: String,
        /// The session lasts for this request alone.
        #[serde(rename = "o", default, skip_serializing_if = "std::ops::Not::not")]
        once: bool,
        /// Ids of questions behind that event that have been answered already.
        #[serde(rename = "a", default, skip_serializing_if = "Vec::is_empty")]
        answered: Vec<String>,
    },
    /// Nothing: the request is made anew when its URLs have been visited.
    #[serde(rename = "n")]
    Nothing,
}

/// The state of a request that is incomplete.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// What waits.
    #[serde(rename = "w")]
    pub waits: Waits,
    /// Keys of the questions, and the ids to answer them by.
    #[serde(rename = "q")]
    pub questions: Vec<(String, String)>,
    /// Behind which number those of them are kept that do not stand in the call's stream, since the server asked
    /// elsewhere; None where it did not.
    #[serde(rename = "x", default, skip_serializing_if = "Option::is_none")]
    pub aside: Option<u64>,
    /// When it lapses, in milliseconds since 1970.
    #[serde(rename = "u")]
    pub until: u64,
}

impl State {
    /// To be sealed.
    pub fn plain(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Opened; None where it is none, or has lapsed by `now`, in milliseconds since 1970.
    pub fn read(plain: &[u8], now: u64) -> Option<Self> {
        serde_json::from_slice(plain).ok().filter(|state: &State| now < state.until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_comes_back_as_it_was_until_it_lapses() {
        let waits = Waits::Call {
            session: [7; 16],
            event: "e".to_owned(),
            id: "\"a-1\"".to_owned(),
            once: false,
            answered: Vec::new(),
        };
        let questions = vec![("k".to_owned(), "\"t\"".to_owned())];
        let state = State { waits, questions, aside: Some(3), until: 10 };
        assert_eq!(State::read(&state.plain(), 9), Some(state.clone()));
        assert_eq!(State::read(&state.plain(), 10), None);
        assert_eq!(State::read(b"{}", 0), None);
    }
}
