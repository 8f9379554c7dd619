//! What becomes of a client's message: it is carried as any other, and what comes of it goes to the channel.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::Response;
use http_body_util::BodyExt;
use throughline_wire::envelope::{Envelope, Limits, Message};
use throughline_wire::method;
use throughline_wire::splice::{set_member, splice};
use throughline_wire::sse::SseDecoder;

use super::channel::{Line, Said};
use super::{Posted, accepted};
use crate::app::{App, Core};
use crate::classify::{Arrived, Held, What};
use crate::error::Fault;
use crate::exchange::outcome;
use crate::reply::{self, Detached, ReplyBody};
use crate::upstream::{is_challenge, is_event_stream};
use crate::{initialize, metadata, tally};

/// Takes a message, and answers the request that brought it. The answer to the message itself goes to the channel.
pub(super) async fn take(core: Rc<Core>, posted: Posted) -> Response<ReplyBody> {
    let Posted { arrived, key, to } = posted;
    let app = Arc::clone(&core.app);
    let id = arrived.held().and_then(Held::raw_id).map(str::to_owned);
    let is_ready = matches!(&arrived.what, What::Notification(held) if &*held.method == method::INITIALIZED);
    match &arrived.what {
        What::Request(_) => {
            let Some(detached) = Detached::enter(&app) else {
                return tally::refused(&core, reply::fault(&app, &Fault::TooManyRequests, id.as_deref()));
            };
            tokio::task::spawn_local(async move {
                let _detached = detached;
                let app = Arc::clone(&core.app);
                let work = async {
                    let response = answered(&core, arrived, None).await;
                    pass(&app, response, id.as_deref(), &to).await;
                };
                // With the client goes what it waits for.
                tokio::select! {
                    () = work => {}
                    () = to.closed() => {}
                }
            });
            accepted(&app)
        }
        // In their order: what follows counts on them.
        _ => {
            let response = answered(&core, arrived, Some(key)).await;
            // This it has to be told where it can log in.
            if is_challenge(response.status(), response.headers()) {
                return response;
            }
            pass(&app, response, id.as_deref(), &to).await;
            if is_ready {
                to.say(&app, Said::Ready).await;
            }
            accepted(&app)
        }
    }
}

/// The answer that the MCP endpoint would give. `key`: of the session that `initialize` begins.
async fn answered(
    core: &Rc<Core>,
    mut arrived: Arrived,
    key: Option<throughline_store::RecordKey>,
) -> Response<ReplyBody> {
    let app = &core.app;
    let present = tally::enter(core, &mut arrived);
    let outcome = match (&arrived.what, key) {
        (What::Initialize(held), Some(key)) => {
            let welcome = initialize::answer_in(core, &arrived, held, Some(key)).await;
            welcome.map(|welcome| reply::welcome(app, welcome))
        }
        _ => outcome(core, &arrived).await,
    };
    let mut response = outcome.unwrap_or_else(|fault| {
        let id = arrived.held().and_then(Held::raw_id);
        reply::fault(app, &fault, id)
    });
    metadata::localise(app, &arrived, &mut response);
    tally::answered(present, arrived, response)
}

/// Passes on to a channel what an answer says. `id`: raw JSON of the request's, where it answers one.
pub(super) async fn pass(app: &App, response: Response<ReplyBody>, id: Option<&str>, to: &Line) {
    if is_event_stream(response.headers()) {
        return pass_events(app, response.into_body(), id, to).await;
    }
    let message = match reply::gathered(response, app.config.limits.answer_bytes).await {
        Ok((_, body)) => match (body.is_empty(), id) {
            (true, _) => None,
            (false, Some(id)) => Some(under(id, body)),
            (false, None) => Some(body).filter(|body| Envelope::parse(body, &Limits::ANY_DEPTH).is_ok()),
        },
        Err(fault) => id.map(|id| fault.body(Some(id)).into()),
    };
    if let Some(message) = message {
        to.say(app, Said::Message(message)).await;
    }
}

async fn pass_events(app: &App, mut body: ReplyBody, id: Option<&str>, to: &Line) {
    let mut decoder = SseDecoder::new(app.config.limits.event_bytes);
    while let Some(Ok(frame)) = body.frame().await {
        let Ok(piece) = frame.into_data() else { continue };
        decoder.push(piece);
        loop {
            match decoder.next_frame() {
                Ok(Some(frame)) => {
                    let data = frame.data().filter(|data| frame.is_message() && !data.is_empty());
                    let Some(data) = data else { continue };
                    if !to.say(app, Said::Message(Bytes::copy_from_slice(&data))).await {
                        return;
                    }
                }
                Ok(None) => break,
                Err(error) => {
                    tracing::warn!(%error, "a stream cannot be passed on");
                    if let Some(id) = id {
                        let fault = Fault::AnswerTooLarge(app.config.limits.event_bytes);
                        to.say(app, Said::Message(fault.body(Some(id)).into())).await;
                    }
                    return;
                }
            }
        }
    }
}

/// The response under the request's id: what answers a request over HTTP need not name it, what comes on a stream must.
fn under(id: &str, body: Bytes) -> Bytes {
    match Envelope::parse(&body, &Limits::ANY_DEPTH).map(|envelope| envelope.message) {
        Ok(Message::Response { id: Some(found), .. }) if found.raw() == id => body,
        Ok(Message::Response { .. }) => match set_member(&body, &(0..body.len()), "id", id.as_bytes()) {
            Ok(edit) => splice(&body, &mut [edit]).into(),
            Err(_) => Fault::UpstreamGarbled.body(Some(id)).into(),
        },
        _ => Fault::UpstreamGarbled.body(Some(id)).into(),
    }
}
