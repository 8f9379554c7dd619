//! `subscriptions/listen` (2026-07-28, Subscriptions), in the place of a stream that is opened by GET and of
//! `resources/subscribe`.

use std::collections::BTreeSet;

use super::answer::only_reserved;
use super::hello::Offers;
use super::request::{Client, reserved};
use crate::bridge::meta;
use crate::envelope::{Envelope, Limits, Message, member};
use crate::jsonrpc::{self, quoted};
use crate::method;
use crate::splice::{edit_members, splice};

/// The request: all list changes that the server offers, and these resources. None where there is nothing to listen for.
/// `id` is raw JSON.
#[must_use]
pub fn request(id: &str, offers: Offers, uris: &BTreeSet<String>, client: &Client<'_>) -> Option<Vec<u8>> {
    let lists = [
        (offers.tools, r#""toolsListChanged":true"#),
        (offers.prompts, r#""promptsListChanged":true"#),
        (offers.resources, r#""resourcesListChanged":true"#),
    ];
    let mut filter: Vec<String> =
        lists.iter().filter(|(offered, _)| *offered).map(|(_, member)| (*member).to_owned()).collect();
    if offers.subscribe && !uris.is_empty() {
        let uris: Vec<_> = uris.iter().map(|uri| quoted(uri)).collect();
        filter.push(format!(r#""resourceSubscriptions":[{}]"#, uris.join(",")));
    }
    if filter.is_empty() {
        return None;
    }
    let notifications = format!(r#","notifications":{{{}}}}}"#, filter.join(","));
    let params = [br#"{"_meta":"#, reserved(client).as_slice(), notifications.as_bytes()].concat();
    Some(jsonrpc::request(id, method::LISTEN, Some(&params)))
}

/// What a message on the stream means.
#[derive(Debug, PartialEq)]
pub enum Heard {
    /// The server listens from here on.
    Acknowledged,
    /// For the client.
    Pass(Vec<u8>),
    /// The same, and the tools that are known are out of date.
    ToolsChanged(Vec<u8>),
    /// The server ends the stream, or refuses to open it.
    Ended,
    /// Nothing that a client is to see.
    Drop,
}

/// What the server's message means for the client: without the subscription's id, which it does not know.
#[must_use]
pub fn read(data: &[u8]) -> Heard {
    let limits = Limits::ANY_DEPTH;
    let Ok(envelope) = Envelope::parse(data, &limits) else { return Heard::Drop };
    let (method, params) = match envelope.message {
        Message::Notification { method, params, .. } => (method, params),
        Message::Response { .. } => return Heard::Ended,
        Message::Request { .. } => return Heard::Drop,
    };
    if method == method::SUBSCRIPTIONS_ACKNOWLEDGED {
        return Heard::Acknowledged;
    }
    let mut edits = Vec::new();
    if let Some(params) = params
        && let Ok(Some(own)) = member(&data[params.clone()], "_meta")
    {
        let own = params.start + own.start..params.start + own.end;
        edits = match only_reserved(&data[own.clone()], meta::SUBSCRIPTION_ID) {
            Some(true) => edit_members(data, &params, &[("_meta", None)]).unwrap_or_default(),
            Some(false) => edit_members(data, &own, &[(meta::SUBSCRIPTION_ID, None)]).unwrap_or_default(),
            None => Vec::new(),
        };
    }
    let message = splice(data, &mut edits);
    if method == method::TOOLS_CHANGED { Heard::ToolsChanged(message) } else { Heard::Pass(message) }
}
