//! `subscriptions/listen` (2026-07-28, Subscriptions): what a client asks for, what it gets of it, and the messages that
//! its stream carries.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::{discover, with_meta};
use crate::bridge::meta;
use crate::envelope::{self, Envelope, EnvelopeError, Limits, Message};
use crate::splice::{set_member, splice};
use crate::{jsonrpc, method};

/// Resources that one subscription may name.
pub const MAX_RESOURCES: usize = 256;

/// Which notifications a stream carries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// `toolsListChanged`
    pub tools: bool,
    /// `promptsListChanged`
    pub prompts: bool,
    /// `resourcesListChanged`
    pub resources: bool,
    /// `resourceSubscriptions`
    pub uris: BTreeSet<String>,
}

impl Filter {
    /// What a request asks for; None where its parameters have another form.
    pub fn read(params: Option<&[u8]>) -> Option<Self> {
        let params: Value = serde_json::from_slice(params?).ok()?;
        let asked = params.get("notifications")?.as_object()?;
        let flag = |name: &str| match asked.get(name) {
            None => Some(false),
            Some(value) => value.as_bool(),
        };
        let uris = match asked.get("resourceSubscriptions") {
            None => BTreeSet::new(),
            Some(Value::Array(uris)) if uris.len() <= MAX_RESOURCES => {
                uris.iter().map(|uri| uri.as_str().map(str::to_owned)).collect::<Option<_>>()?
            }
            Some(_) => return None,
        };
        Some(Filter {
            tools: flag("toolsListChanged")?,
            prompts: flag("promptsListChanged")?,
            resources: flag("resourcesListChanged")?,
            uris,
        })
    }

    /// What of it a server does that answered `initialize` like this.
    #[must_use]
    pub fn granted(mut self, initialized: &[u8]) -> Self {
        let changes = |list| discover::can(initialized, [list, "listChanged"]);
        self.tools &= changes("tools");
        self.prompts &= changes("prompts");
        self.resources &= changes("resources");
        if !discover::can(initialized, ["resources", "subscribe"]) {
            self.uris.clear();
        }
        self
    }

    /// Whether nothing is asked for.
    pub fn is_empty(&self) -> bool {
        *self == Filter::default()
    }

    /// The first message of the stream. `id` is raw JSON.
    pub fn acknowledgement(&self, id: &str) -> Vec<u8> {
        let mut granted = Map::new();
        for (name, is) in [
            ("toolsListChanged", self.tools),
            ("promptsListChanged", self.prompts),
            ("resourcesListChanged", self.resources),
        ] {
            if is {
                granted.insert(name.to_owned(), true.into());
            }
        }
        if !self.uris.is_empty() {
            granted.insert("resourceSubscriptions".to_owned(), json!(self.uris));
        }
        let params = format!(
            r#"{{"_meta":{{"{}":{id}}},"notifications":{}}}"#,
            meta::SUBSCRIPTION_ID,
            Value::Object(granted)
        );
        jsonrpc::notification(method::SUBSCRIPTIONS_ACKNOWLEDGED, Some(params.as_bytes()))
    }

    /// A message of the server's as the subscriber of this id gets it; None where it did not ask for such.
    pub fn outward(&self, data: &[u8], id: &str) -> Option<Vec<u8>> {
        let message = Envelope::parse(data, &Limits::ANY_DEPTH).ok()?;
        let Message::Notification { method, params, .. } = message.message else { return None };
        let wanted = match method.as_ref() {
            method::TOOLS_CHANGED => self.tools,
            method::PROMPTS_CHANGED => self.prompts,
            method::RESOURCES_CHANGED => self.resources,
            method::RESOURCE_UPDATED => {
                let params = &data[params.clone()?];
                let uri = envelope::member(params, "uri").ok()??;
                self.uris.contains(envelope::string_value(&params[uri])?.as_ref())
            }
            _ => false,
        };
        if !wanted {
            return None;
        }
        let own = params.map_or(&b"{}"[..], |at| &data[at]);
        tagged(data, &message.object, own, id).ok()
    }
}

fn tagged(data: &[u8], object: &envelope::Span, params: &[u8], id: &str) -> Result<Vec<u8>, EnvelopeError> {
    let params = with_meta(params, meta::SUBSCRIPTION_ID, id.as_bytes())?;
    Ok(splice(data, &mut [set_member(data, object, "params", &params)?]))
}

/// The last message of a stream that the gateway ends (Subscriptions, "Graceful Closure"). `id` is raw JSON.
pub fn closure(id: &str) -> Vec<u8> {
    let result = format!(r#"{{"resultType":"complete","_meta":{{"{}":{id}}}}}"#, meta::SUBSCRIPTION_ID);
    jsonrpc::result(id, result.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(bytes: Vec<u8>) -> String {
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_subscriber_gets_what_it_asked_for_and_the_server_does() {
        let asked = br#"{"notifications":{"toolsListChanged":true,"promptsListChanged":true,"resourceSubscriptions":["a:b"]}}"#;
        let says = br#"{"capabilities":{"tools":{"listChanged":true},"resources":{"subscribe":true,"listChanged":true}}}"#;
        let filter = Filter::read(Some(asked)).unwrap().granted(says);
        assert_eq!(
            text(filter.acknowledgement("\"s\"")),
            r#"{"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged","params":{"_meta":{"io.modelcontextprotocol/subscriptionId":"s"},"notifications":{"toolsListChanged":true,"resourceSubscriptions":["a:b"]}}}"#
        );
        let told = |said: &str| filter.outward(said.as_bytes(), "1").map(text);
        assert_eq!(
            told(r#"{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}"#).as_deref(),
            Some(
                r#"{"params":{"_meta":{"io.modelcontextprotocol/subscriptionId":1}},"jsonrpc":"2.0","method":"notifications/tools/list_changed"}"#
            )
        );
        assert_eq!(
            told(r#"{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{"uri":"a:\u0062","_meta":{"x":1}}}"#).as_deref(),
            Some(r#"{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{"uri":"a:\u0062","_meta":{"io.modelcontextprotocol/subscriptionId":1,"x":1}}}"#)
        );
        for other in [
            r#"{"jsonrpc":"2.0","method":"notifications/prompts/list_changed"}"#,
            r#"{"jsonrpc":"2.0","method":"notifications/resources/list_changed"}"#,
            r#"{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{"uri":"a:c"}}"#,
            r#"{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info"}}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"roots/list"}"#,
        ] {
            assert_eq!(told(other), None, "{other}");
        }
        assert_eq!(
            text(closure("7")),
            r#"{"jsonrpc":"2.0","id":7,"result":{"resultType":"complete","_meta":{"io.modelcontextprotocol/subscriptionId":7}}}"#
        );
    }

    #[test]
    fn what_is_no_filter_is_none() {
        for params in [
            "{}",
            r#"{"notifications":[]}"#,
            r#"{"notifications":{"toolsListChanged":1}}"#,
            r#"{"notifications":{"resourceSubscriptions":[1]}}"#,
        ] {
            assert_eq!(Filter::read(Some(params.as_bytes())), None, "{params}");
        }
        assert_eq!(Filter::read(None), None);
    }
}
