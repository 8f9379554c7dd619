//! An answer for a legacy client, read message by message.

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::BodyExt;
use throughline_wire::sse::{Frame, SseDecoder};

use crate::app::Core;
use crate::error::Fault;
use crate::reply::{self, ReplyBody};
use crate::upstream::is_event_stream;

/// An answer.
pub(super) enum Reading {
    /// A stream.
    Events(Events),
    /// All of it.
    Whole(Response<()>, Bytes),
}

impl Reading {
    pub(super) async fn of(core: &Core, answer: Response<ReplyBody>) -> Result<Self, Fault> {
        let limits = &core.app.config.limits;
        if is_event_stream(answer.headers()) {
            let status = answer.status();
            return Ok(Reading::Events(Events {
                status,
                body: Some(answer.into_body()),
                decoder: SseDecoder::new(limits.event_bytes),
            }));
        }
        let (response, body) = reply::gathered(answer, limits.answer_bytes).await?;
        Ok(Reading::Whole(response, body))
    }
}

/// A stream.
pub(super) struct Events {
    pub(super) status: StatusCode,
    body: Option<ReplyBody>,
    decoder: SseDecoder,
}

impl Events {
    /// The next frame; None at the end. Dropped before it is ready, it loses nothing.
    pub(super) async fn next(&mut self) -> Result<Option<Frame>, Fault> {
        loop {
            match self.decoder.next_frame() {
                Ok(Some(frame)) => return Ok(Some(frame)),
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(%error, "an answer cannot be read");
                    return Err(Fault::UpstreamGarbled);
                }
            }
            let Some(body) = &mut self.body else { return Ok(None) };
            match body.frame().await {
                Some(Ok(frame)) => {
                    if let Ok(piece) = frame.into_data() {
                        self.decoder.push(piece);
                    }
                }
                Some(Err(reply::CutOff)) | None => {
                    self.body = None;
                    return Ok(self.decoder.finish());
                }
            }
        }
    }
}
