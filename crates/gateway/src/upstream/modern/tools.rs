//! What is known of a modern server's tools: of which arguments headers repeat, and which are not to be shown.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde_json::Value;
use throughline_wire::bridge::to_modern::mirror::Page;
use throughline_wire::envelope::{self, Envelope, Limits, Message, Outcome, Span};
use throughline_wire::{jsonrpc, method};

use super::{Mirrors, Modern, headers};
use crate::app::Core;
use crate::session::lock;
use crate::upstream::sending::send_plain;
use crate::upstream::{Address, Looked};

/// Pages of a tool list that are read.
const MAX_PAGES: usize = 64;

impl Modern {
    /// Sets the headers that repeat arguments of a call (raw JSON) of the tool `name`. `to` is where to ask for the
    /// tools, and with which headers.
    pub(super) async fn mirror(
        &self,
        core: &Rc<Core>,
        to: (&Address, &HeaderMap),
        name: &str,
        arguments: &[u8],
        headers: &mut HeaderMap,
    ) {
        // A call without arguments has nothing to repeat.
        if arguments.first() != Some(&b'{') || matches!(arguments.trim_ascii(), b"{}") {
            return;
        }
        let known = lock(&self.mirrors).clone();
        let mirrors = match known {
            Some(mirrors) => mirrors,
            None => match self.ask(core, to).await {
                Some(asked) => asked,
                None => return,
            },
        };
        let Some(mirrors) = mirrors.get(name) else { return };
        let Ok(arguments) = serde_json::from_slice::<Value>(arguments) else { return };
        for mirror in mirrors {
            let value = mirror.value(&arguments).and_then(|value| HeaderValue::try_from(value).ok());
            if let (Ok(header), Some(value)) = (HeaderName::try_from(&mirror.header), value) {
                headers.insert(header, value);
            }
        }
    }

    /// What is known of them may not be true any more.
    pub(super) fn forget_tools(&self) {
        *lock(&self.mirrors) = None;
    }

    /// A list of tools as the client gets it, without those whose annotations break the rules (2026-07-28, Streamable
    /// HTTP, "Schema Extension"). `result` is where it stands in the response; `asked` is the client's request.
    pub(super) fn show_tools(&self, response: Vec<u8>, result: &Span, asked: &[u8]) -> Vec<u8> {
        let Ok(page) = Page::read(&response[result.clone()]) else { return response };
        for (tool, flaw) in &page.flawed {
            tracing::warn!(tool, why = flaw.as_str(), "a tool is not shown");
        }
        let has_cursor = matches!(envelope::path(asked, &["params", "cursor"]), Ok(Some(_)));
        if !has_cursor && cursor(&response[result.clone()]).is_none() {
            *lock(&self.mirrors) = Some(Arc::new(page.mirrors.clone()));
        }
        page.shown(&response, result).unwrap_or(response)
    }

    /// Asks for the tools, page by page. None where they are not to be had; then the call goes without.
    async fn ask(&self, core: &Rc<Core>, (to, given): (&Address, &HeaderMap)) -> Option<Mirrors> {
        let mut mirrors = HashMap::new();
        let mut params: Option<String> = None;
        for _ in 0..MAX_PAGES {
            let id = core.app.unique_id();
            let meta = self.introduce(throughline_wire::bridge::to_modern::request::reserved);
            let meta = String::from_utf8(meta).ok()?;
            let cursor_of = params.take().map(|cursor| format!(r#","cursor":{cursor}"#)).unwrap_or_default();
            let body = format!(r#"{{"_meta":{meta}{cursor_of}}}"#);
            let body = jsonrpc::request(&id, method::TOOLS_LIST, Some(body.as_bytes()));
            let headers = headers(given.clone(), method::TOOLS_LIST, None);
            let sent = send_plain(core, to, Method::POST, headers, body.into(), None).await.ok()?;
            let looked = Looked::at(sent, core.app.config.limits.event_bytes).await.ok()?;
            let limit = core.app.config.limits.answer_bytes;
            let response = looked.response(Some(&id), limit, |_| {}).await.ok()?;
            let Ok(Envelope { message: Message::Response { outcome: Outcome::Result(at), .. }, .. }) =
                Envelope::parse(&response, &Limits::ANY_DEPTH)
            else {
                return None;
            };
            mirrors.extend(Page::read(&response[at.clone()]).ok()?.mirrors);
            params = cursor(&response[at]);
            if params.is_none() {
                break;
            }
        }
        let mirrors = Arc::new(mirrors);
        *lock(&self.mirrors) = Some(Arc::clone(&mirrors));
        Some(mirrors)
    }
}

/// Raw JSON of the cursor of the next page.
fn cursor(result: &[u8]) -> Option<String> {
    let at = envelope::member(result, "nextCursor").ok()??;
    let raw = &result[at];
    (raw.first() == Some(&b'"')).then(|| String::from_utf8(raw.to_vec()).ok())?
}
