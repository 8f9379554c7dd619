//! The client's side of a conversation: JSON where it comes to its end without a word before, else a stream.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode};
use throughline_wire::sse;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::conversation::Conversation;
use crate::app::Core;
use crate::classify::Accepts;
use crate::error::Fault;
use crate::reply::{self, ReplyBody};
use crate::upstream::JSON;

/// Messages between the conversation and its client; then it waits.
const QUEUE: usize = 4;
/// How long the beginning of an answer waits for its end, so that an error can keep its status.
const FIRST_WORD: Duration = Duration::from_secs(5);

/// What a conversation has for its client.
pub(super) enum Out {
    /// By which binding it is carried, before all else.
    Carried(HeaderValue),
    /// A notification.
    Notice(Vec<u8>),
    /// The end.
    End(Ending),
}

/// How a conversation ends.
pub(super) enum Ending {
    /// With a response; the HTTP status that goes with it.
    Response(StatusCode, Vec<u8>),
    /// Without one, for this reason.
    Fault(Fault),
    /// With what is no message, as it came.
    AsIs(Response<ReplyBody>),
}

/// Lets a conversation run. Dropped before it is ready, or when its body is, the client has cancelled its request
/// (2026-07-28, Cancellation).
pub(super) async fn answer(
    core: &Rc<Core>,
    conversation: Conversation,
    accepts: Accepts,
) -> Result<Response<ReplyBody>, Fault> {
    let (to, mut from) = mpsc::channel(QUEUE);
    let id = conversation.theirs.clone();
    tokio::task::spawn_local(conversation.run(to));
    let mut carried = None;
    let until = Instant::now() + FIRST_WORD;
    let first = loop {
        let next = match accepts {
            Accepts::Json => Ok(from.recv().await),
            Accepts::Streams | Accepts::Messages => tokio::time::timeout_at(until, from.recv()).await,
        };
        match next {
            Ok(Some(Out::Carried(header))) => carried = Some(header),
            Ok(Some(Out::Notice(_))) if accepts == Accepts::Json => {}
            Ok(Some(Out::Notice(message))) => break Some(message),
            Ok(Some(Out::End(Ending::Response(status, body)))) => {
                let response = reply::whole(&core.app, status, JSON, body);
                return Ok(reply::carried(response, carried));
            }
            Ok(Some(Out::End(Ending::Fault(fault)))) => return Err(fault),
            Ok(Some(Out::End(Ending::AsIs(response)))) => return Ok(response),
            Ok(None) => return Err(Fault::MayHaveExecuted),
            Err(_) => break None,
        }
    };
    let (body, to_client) = mpsc::channel(QUEUE);
    tokio::task::spawn_local(stream(Rc::clone(core), id, first, from, body));
    Ok(reply::carried(reply::channel(&core.app, to_client), carried))
}

/// Passes on what comes as events, with heartbeats between. Ends when the client does.
async fn stream(
    core: Rc<Core>,
    id: String,
    first: Option<Vec<u8>>,
    mut from: mpsc::Receiver<Out>,
    to: mpsc::Sender<Bytes>,
) {
    let mut next = first.map(Out::Notice);
    let every = core.app.config.streams.heartbeat;
    loop {
        let (message, is_last) = match next.take() {
            Some(Out::Notice(message)) => (message, false),
            Some(Out::End(Ending::Response(_, message))) => (message, true),
            Some(Out::End(Ending::Fault(fault))) => (fault.body(Some(&id)), true),
            Some(Out::End(Ending::AsIs(_))) => (Fault::UpstreamGarbled.body(Some(&id)), true),
            Some(Out::Carried(_)) | None => (Vec::new(), false),
        };
        if !message.is_empty() && to.send(sse::event(&message, None)).await.is_err() || is_last {
            return;
        }
        next = tokio::select! {
            next = from.recv() => match next {
                Some(next) => Some(next),
                None => return,
            },
            () = to.closed() => return,
            () = tokio::time::sleep(every) => {
                // A full queue shows that the stream is alive.
                let _ = to.try_send(Bytes::from_static(sse::HEARTBEAT));
                None
            }
        };
    }
}
