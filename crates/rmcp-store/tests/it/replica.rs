//! One process of a server, as far as its sessions go: rmcp's service, asked without a socket.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ::http::{Method, Request, StatusCode};
use http_body_util::BodyExt;
use rmcp::model::{InitializeRequestParams, InitializeResult};
use rmcp::service::RequestContext;
use rmcp::transport::streamable_http_server::session::SessionRestoreMarker;
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp::transport::streamable_http_server::{
    SessionManager, StreamableHttpServerConfig, StreamableHttpService,
};
use rmcp::{ErrorData, RoleServer, ServerHandler, tool, tool_handler, tool_router};
use serde_json::{Value, json};
use throughline_rmcp::{Manager, Sessions};
use tokio::sync::Semaphore;

use crate::PATIENCE;

/// A replica on `M`.
pub(crate) struct Replica<M = Manager<LocalSessionManager>> {
    service: StreamableHttpService<Server, M>,
    pub(crate) seen: Arc<Seen>,
}

/// What the server has seen, and what holds it up.
pub(crate) struct Seen {
    /// Calls that were made.
    calls: AtomicUsize,
    /// `initialize`s that clients sent.
    pub(crate) initializes: AtomicUsize,
    /// Those that rmcp repeated.
    pub(crate) restores: AtomicUsize,
    /// Each restore takes a permit, and gives it back.
    pub(crate) gate: Semaphore,
}

pub(crate) struct Server {
    seen: Arc<Seen>,
}

#[tool_router]
impl Server {
    #[tool(description = "The client's initialize parameters")]
    async fn client(&self, context: RequestContext<RoleServer>) -> String {
        serde_json::to_string(context.peer.peer_info().as_deref().unwrap()).unwrap()
    }
}

#[tool_handler]
impl ServerHandler for Server {
    async fn initialize(
        &self,
        request: InitializeRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<InitializeResult, ErrorData> {
        if context.extensions.get::<SessionRestoreMarker>().is_some() {
            self.seen.restores.fetch_add(1, Ordering::SeqCst);
            drop(self.seen.gate.acquire().await.unwrap());
        } else {
            self.seen.initializes.fetch_add(1, Ordering::SeqCst);
        }
        self.negotiate_initialize(&request)
    }
}

impl Replica {
    pub(crate) fn new(sessions: &Sessions) -> Replica {
        let seen = Seen::new();
        let server = Server { seen: seen.clone() }.factory();
        Replica { service: sessions.service(server, StreamableHttpServerConfig::default()), seen }
    }
}

impl<M: SessionManager> Replica<M> {
    /// One with this manager and store.
    pub(crate) fn with(manager: M, config: StreamableHttpServerConfig) -> Replica<M> {
        let seen = Seen::new();
        let server = Server { seen: seen.clone() }.factory();
        Replica { service: StreamableHttpService::new(server, Arc::new(manager), config), seen }
    }

    pub(crate) async fn send(&self, method: Method, session: Option<&str>, body: Value) -> Answer {
        let mut request = Request::builder()
            .method(method)
            .uri("/mcp")
            .header("host", "localhost")
            .header("accept", "application/json, text/event-stream")
            .header("content-type", "application/json");
        if let Some(session) = session {
            request = request.header("mcp-session-id", session).header("mcp-protocol-version", "2025-11-25");
        }
        let request = request.body(body.to_string()).unwrap();
        let exchange = async {
            let (head, body) = self.service.handle(request).await.into_parts();
            let session = head.headers.get("mcp-session-id").map(|id| id.to_str().unwrap().to_owned());
            let body = body.collect().await.unwrap().to_bytes();
            Answer { status: head.status, session, body: String::from_utf8(body.to_vec()).unwrap() }
        };
        tokio::time::timeout(PATIENCE, exchange).await.expect("an answer in time")
    }

    /// Begins a session, and returns its id.
    pub(crate) async fn initialize(&self) -> String {
        self.initialize_with(json!({
            "protocolVersion": "2025-11-25",
            "capabilities": {},
            "clientInfo": {"name": "tests", "version": "1"},
        }))
        .await
    }

    pub(crate) async fn initialize_with(&self, params: Value) -> String {
        let request = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params});
        let answer = self.send(Method::POST, None, request).await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        let session = answer.session.expect("a session id");
        let initialized = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
        let answer = self.send(Method::POST, Some(&session), initialized).await;
        assert_eq!(answer.status, StatusCode::ACCEPTED, "{answer:?}");
        session
    }

    /// Asks the server what it knows of its client.
    pub(crate) async fn call(&self, session: &str) -> Answer {
        let params = json!({"name": "client", "arguments": {}});
        // Requests of a session may be under way at a time.
        let id = self.seen.calls.fetch_add(1, Ordering::SeqCst) + 1;
        let call = json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params});
        self.send(Method::POST, Some(session), call).await
    }

    /// The status of a call.
    pub(crate) async fn status(&self, session: &str) -> u16 {
        self.call(session).await.status.as_u16()
    }

    pub(crate) async fn delete(&self, session: &str) {
        let answer = self.send(Method::DELETE, Some(session), Value::Null).await;
        assert_eq!(answer.status, StatusCode::ACCEPTED, "{answer:?}");
    }
}

impl Server {
    fn factory(self) -> impl Fn() -> Result<Server, std::io::Error> + Send + Sync + 'static {
        move || Ok(Server { seen: self.seen.clone() })
    }
}

impl Seen {
    fn new() -> Arc<Seen> {
        let gate = Semaphore::new(Semaphore::MAX_PERMITS);
        Arc::new(Seen { calls: 0.into(), initializes: 0.into(), restores: 0.into(), gate })
    }

    /// Holds restores up from now on.
    pub(crate) fn shut(&self) {
        self.gate.forget_permits(usize::MAX);
    }

    pub(crate) fn open(&self) {
        self.gate.add_permits(1000);
    }

    pub(crate) fn restores(&self) -> usize {
        self.restores.load(Ordering::SeqCst)
    }
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    session: Option<String>,
    pub(crate) body: String,
}

impl Answer {
    /// What the server said that it knows of its client.
    pub(crate) fn client(&self) -> Value {
        assert_eq!(self.status, StatusCode::OK, "{self:?}");
        let data = self.body.lines().filter_map(|line| line.strip_prefix("data: ")).next_back();
        let message: Value = serde_json::from_str(data.expect("an event")).unwrap();
        let text = message["result"]["content"][0]["text"].as_str().unwrap_or_else(|| panic!("{message}"));
        serde_json::from_str(text).unwrap()
    }
}
