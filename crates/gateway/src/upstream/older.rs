//! Servers of HTTP with SSE, the transport of revision 2024-11-05: found out as 2025-11-25, Transports, "Backwards
//! Compatibility", says, and from then on spoken to through a bridge.

use std::sync::{Arc, Weak};

use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderValue, Method, StatusCode};
use throughline_wire::envelope::{Envelope, Limits, Message, Outcome};

use super::fleet::Member;
use super::{Address, Refusal};
use crate::app::{App, Core};
use crate::pipes::{self, Bridge};
use crate::session::lock;

/// A bridge, and the endpoint that it stands for.
pub type Standing = (Weak<Member>, Bridge);

/// Whether the endpoint that refused `initialize` so speaks HTTP with SSE. Then a bridge stands for it from now on.
pub async fn is_older(core: &Core, member: &Arc<Member>, address: &Address, refusal: &Refusal) -> bool {
    if !may_be_older(refusal) || member.is_bridged() {
        return false;
    }
    let mut headers = address.headers();
    headers.remove(CONTENT_TYPE);
    headers.insert(ACCEPT, HeaderValue::from_static("text/event-stream"));
    let sent = core.endpoint(member).send_now(Method::GET, headers, bytes::Bytes::new()).await;
    let Ok(answer) = sent else { return false };
    if !answer.status.is_success() || !super::is_event_stream(&answer.headers) {
        super::drain(answer.body);
        return false;
    }
    if !pipes::names_endpoint(answer.body).await {
        return false;
    }
    tracing::info!(endpoint = member.name, "the upstream speaks HTTP with SSE");
    bridge(&core.app, member);
    member.is_bridged()
}

/// Whether a refusal is one that a server gives which does not know `initialize` over POST. One of a newer revision
/// says so in its own way.
fn may_be_older(refusal: &Refusal) -> bool {
    let status = matches!(
        refusal.status,
        StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED
    );
    status && !is_modern(&refusal.body)
}

fn is_modern(body: &[u8]) -> bool {
    let Ok(Envelope { message: Message::Response { outcome: Outcome::Error(at), .. }, .. }) =
        Envelope::parse(body, &Limits::ANY_DEPTH)
    else {
        return false;
    };
    let code = throughline_wire::envelope::member(&body[at.clone()], "code").ok().flatten();
    let code = code.map(|code| &body[at.start + code.start..at.start + code.end]);
    code.is_some_and(|code| [&b"-32020"[..], b"-32021", b"-32022"].contains(&code))
}

/// Lets a bridge stand for an endpoint, if none does.
pub fn bridge(app: &App, member: &Arc<Member>) {
    let mut bridges = lock(&app.bridges);
    if member.is_bridged() {
        return;
    }
    bridges.retain(|(of, bridge)| {
        let stays = of.strong_count() > 0;
        if !stays {
            bridge.stop();
        }
        stays
    });
    match pipes::to_server(&member.to, &app.config, app.effects) {
        Ok((bridge, to)) => {
            bridges.push((Arc::downgrade(member), bridge));
            member.stands_for(to);
        }
        Err(error) => tracing::error!(%error, "there can be no bridge to a server of HTTP with SSE"),
    }
}

/// Lets a bridge stand for the endpoint of a session that one has opened in an earlier process.
pub fn recall(app: &App, member: &Arc<Member>, session_id: Option<&HeaderValue>) {
    if session_id.is_some_and(|id| id.as_bytes().starts_with(pipes::OLDER_SESSION.as_bytes())) {
        bridge(app, member);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderMap;

    #[test]
    fn only_some_refusals_make_it_worth_to_look() {
        let may = |status: u16, body: &str| {
            let status = StatusCode::from_u16(status).unwrap();
            may_be_older(&Refusal { status, headers: HeaderMap::new(), body: body.to_owned().into() })
        };
        let error = |code: i32| format!(r#"{{"jsonrpc":"2.0","error":{{"code":{code},"message":"m"}}}}"#);
        assert!(may(405, "Method Not Allowed") && may(404, "") && may(400, &error(-32600)));
        for other in [may(401, ""), may(500, ""), may(200, ""), may(400, &error(-32022))] {
            assert!(!other);
        }
    }
}
