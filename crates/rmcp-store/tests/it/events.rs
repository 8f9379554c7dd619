//! Streams that are resumed after their process, and at another replica.

use std::sync::Arc;
use std::time::Duration;

use ::http::{Method, Request, StatusCode};
use http_body_util::BodyExt;
use http_body_util::combinators::BoxBody;
use rmcp::model::ProgressNotificationParam;
use rmcp::service::RequestContext;
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp::transport::streamable_http_server::{StreamableHttpServerConfig, StreamableHttpService};
use rmcp::{RoleServer, ServerHandler, tool, tool_handler, tool_router};
use serde_json::{Value, json};
use throughline_rmcp::{Manager, Options, Sessions};
use tokio::sync::Semaphore;

use crate::{Backend, PATIENCE};

const STEPS: u32 = 6;

/// A server whose tool takes a permit for each of its steps.
#[derive(Clone)]
struct Stepping(Arc<Semaphore>);

#[tool_router]
impl Stepping {
    #[tool(description = "Tells of each step")]
    async fn steps(&self, context: RequestContext<RoleServer>) -> String {
        let token = context.meta.get_progress_token().unwrap();
        for step in 0..STEPS {
            self.0.acquire().await.unwrap().forget();
            let told = ProgressNotificationParam::new(token.clone(), f64::from(step));
            context.peer.notify_progress(told).await.unwrap();
        }
        "done".to_owned()
    }
}

#[tool_handler]
impl ServerHandler for Stepping {}

struct Replica {
    service: StreamableHttpService<Stepping, Manager<LocalSessionManager>>,
    /// One for each step that the tool may take.
    steps: Arc<Semaphore>,
}

/// A stream that is being read.
struct Reading {
    status: StatusCode,
    session: Option<String>,
    body: BoxBody<bytes::Bytes, std::convert::Infallible>,
    text: String,
}

impl Replica {
    fn new(backend: &Backend) -> Replica {
        let options = Options::default().with_events(Duration::from_secs(60));
        let sessions = Sessions::with_options(backend.store.clone(), options);
        let steps = Arc::new(Semaphore::new(0));
        let server = Stepping(Arc::clone(&steps));
        let service = sessions.service(move || Ok(server.clone()), StreamableHttpServerConfig::default());
        Replica { service, steps }
    }

    async fn send(&self, method: Method, session: &str, last: Option<&str>, body: Value) -> Reading {
        let mut request = Request::builder()
            .method(method)
            .uri("/mcp")
            .header("host", "localhost")
            .header("accept", "application/json, text/event-stream")
            .header("content-type", "application/json");
        if !session.is_empty() {
            request = request.header("mcp-session-id", session).header("mcp-protocol-version", "2025-11-25");
        }
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let request = request.body(body.to_string()).unwrap();
        let answer = tokio::time::timeout(PATIENCE, self.service.handle(request)).await.unwrap();
        let (head, body) = answer.into_parts();
        let session = head.headers.get("mcp-session-id").map(|id| id.to_str().unwrap().to_owned());
        Reading { status: head.status, session, body, text: String::new() }
    }

    async fn initialize(&self) -> String {
        let params = json!({ "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": { "name": "t", "version": "1" } });
        let body = json!({ "jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params });
        let session = self.send(Method::POST, "", None, body).await.session.unwrap();
        let ready = json!({ "jsonrpc": "2.0", "method": "notifications/initialized" });
        assert_eq!(self.send(Method::POST, &session, None, ready).await.status, StatusCode::ACCEPTED);
        session
    }

    async fn call(&self, session: &str) -> Reading {
        let params = json!({ "name": "steps", "arguments": {}, "_meta": { "progressToken": "p" } });
        let body = json!({ "jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": params });
        self.send(Method::POST, session, None, body).await
    }

    async fn resume(&self, session: &str, last: &str) -> Reading {
        let stream = self.send(Method::GET, session, Some(last), Value::Null).await;
        assert_eq!(stream.status, StatusCode::OK);
        stream
    }
}

impl Reading {
    /// The next event with a message: its id and what it says. None at the end.
    async fn event(&mut self) -> Option<(String, String)> {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let field = |name: &str| {
                    event
                        .lines()
                        .find_map(|line| line.strip_prefix(name))
                        .unwrap_or_default()
                        .trim()
                        .to_owned()
                };
                let (id, data) = (field("id:"), field("data:"));
                self.text = rest.to_owned();
                if !data.is_empty() {
                    return Some((id, said(&data)));
                }
                continue;
            }
            let frame = tokio::time::timeout(PATIENCE, self.body.frame()).await.expect("more, in time")?;
            self.text += std::str::from_utf8(&frame.unwrap().into_data().unwrap()).unwrap();
        }
    }

    async fn rest(mut self) -> Vec<String> {
        let mut all = Vec::new();
        while let Some((_, said)) = self.event().await {
            all.push(said);
        }
        all
    }
}

/// The step, or the result.
fn said(data: &str) -> String {
    let message: Value = serde_json::from_str(data).unwrap();
    match message["params"]["progress"].as_f64() {
        Some(step) => step.to_string(),
        None => message["result"]["content"][0]["text"].as_str().unwrap().to_owned(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_goes_on_live_at_another_replica_and_after_its_own_is_gone() {
    for backend in Backend::all().await {
        let (one, other) = (Replica::new(&backend), Replica::new(&backend));
        let session = one.initialize().await;
        one.steps.add_permits(3);
        let mut stream = one.call(&session).await;
        let (first, step) = stream.event().await.unwrap();
        assert_eq!(step, "0");
        drop(stream);
        let mut stream = other.resume(&session, &first).await;
        for step in ["1", "2"] {
            assert_eq!(stream.event().await.unwrap().1, step, "{}", backend.name());
        }
        // What comes while it follows.
        one.steps.add_permits(3);
        assert_eq!(stream.rest().await, ["3", "4", "5", "done"], "{}", backend.name());
        drop(one);
        let third = Replica::new(&backend);
        assert_eq!(third.resume(&session, &first).await.rest().await, ["1", "2", "3", "4", "5", "done"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_id_is_good_in_its_session_alone() {
    let backend = Backend::memory();
    let replica = Replica::new(&backend);
    replica.steps.add_permits(STEPS as usize);
    let (mine, yours) = (replica.initialize().await, replica.initialize().await);
    let mut stream = replica.call(&mine).await;
    let (id, _) = stream.event().await.unwrap();
    assert_eq!(stream.rest().await.len(), STEPS as usize);
    let (bare, _) = id.rsplit_once('.').unwrap();
    for (session, id) in [(&yours, id.as_str()), (&mine, bare), (&mine, "0/7"), (&mine, "")] {
        assert_eq!(replica.resume(session, id).await.rest().await, [""; 0], "{id}");
    }
    assert_eq!(replica.resume(&mine, &id).await.rest().await.len(), STEPS as usize);
}
