//! What happens to every request before rmcp sees it: how many there may be, how large they may be, how long they may
//! take to arrive.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http_body::{Frame, SizeHint};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde_json::Value;
use throughline_telemetry::Tracer;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::StatelessConfig;
use super::spans::{self, Carried};
use super::standard_headers::StandardHeaders;

/// The largest body of a request, in bytes: room for the longest arguments of any tool, however they are escaped.
pub(super) const LARGEST_BODY: usize = 1 << 18;

/// What requests have to pass.
pub(super) struct Intake {
    room: Arc<Semaphore>,
    body_patience: Duration,
    headers: StandardHeaders,
    tracer: Option<Tracer>,
}

impl Intake {
    pub(super) fn new(config: &StatelessConfig) -> Self {
        Self {
            room: Arc::new(Semaphore::new(config.requests)),
            body_patience: config.body_patience,
            headers: config.standard_headers,
            tracer: config.tracer.clone(),
        }
    }
}

/// Lets a request in. Its place is free again when its answer has gone out, or its client has gone.
pub(super) async fn take_in(State(intake): State<Arc<Intake>>, request: Request, next: Next) -> Response {
    let Ok(place) = intake.room.clone().try_acquire_owned() else {
        let mut busy = (StatusCode::SERVICE_UNAVAILABLE, "busy: too many requests at a time; try again\n")
            .into_response();
        busy.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        return busy;
    };
    let (mut parts, body) = request.into_parts();
    let body = match read(body, intake.body_patience).await {
        Ok(body) => body,
        Err(refusal) => return refusal.into_response(),
    };
    let span = intake.tracer.as_ref().and_then(|tracer| spans::begin(tracer, &parts.headers, &body));
    if let Some(span) = &span {
        parts.extensions.insert(span.clone());
    }
    let response = match intake.headers.check(&mut parts.headers, &body) {
        Ok(()) => next.run(Request::from_parts(parts, Body::from(body))).await,
        Err(refusal) => bad_request(&refusal),
    };
    if let Some(span) = &span {
        span.answered(response.status().as_u16());
    }
    response.map(|body| Body::new(Held { body, _place: place, _span: span }))
}

/// An answer's body, and what lasts until it has gone out: the place that it takes, and its span.
struct Held {
    body: Body,
    _place: OwnedSemaphorePermit,
    _span: Option<Carried>,
}

impl http_body::Body for Held {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

async fn read(body: Body, patience: Duration) -> Result<Bytes, (StatusCode, &'static str)> {
    match tokio::time::timeout(patience, Limited::new(body, LARGEST_BODY).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            Err((StatusCode::PAYLOAD_TOO_LARGE, "the body is larger than 256 KiB\n"))
        }
        Ok(Err(_)) => Err((StatusCode::BAD_REQUEST, "the body broke off\n")),
        Err(_) => Err((StatusCode::REQUEST_TIMEOUT, "the body did not come in time\n")),
    }
}

fn bad_request(message: &Value) -> Response {
    let kind = [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))];
    (StatusCode::BAD_REQUEST, kind, message.to_string()).into_response()
}
