//! A client of one server, on rmcp.

use std::fmt;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use rmcp::model::{CallToolRequestParams, ErrorData, ProtocolVersion, ServerPeerInfo};
use rmcp::service::{
    ClientCacheConfig, ClientInitializeError, ClientLifecycleMode, ClientServiceExt, RunningService,
    ServiceError,
};
use rmcp::transport::StreamableHttpClientTransport;
use rmcp::transport::common::client_side_sse::ExponentialBackoff;
use rmcp::transport::streamable_http_client::StreamableHttpClientTransportConfig;
use rmcp::{Peer, RoleClient};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::Era;
use super::person::Person;
use super::raw::Raw;
use super::transport::{Http, Seen};
use crate::endpoint::Endpoint;
use crate::text;

/// How long a server may take to say which era it speaks, before it is taken for one of the older.
const DISCOVER: Duration = Duration::from_secs(10);
/// How long the end of a session may take.
const CLOSE: Duration = Duration::from_secs(5);
/// How often a stream that broke is opened again.
const REOPEN: usize = 3;
/// How much of a server's error is shown, in characters.
const SHOWN: usize = 500;
/// What a modern server says where headers are missing that the tool's schema asks for.
const HEADER_MISMATCH: i32 = -32020;

/// Why there is no outcome.
#[derive(Debug)]
pub(crate) enum Ended {
    /// What was asked for is wrong.
    Usage(String),
    /// The server cannot be reached, or does not speak MCP.
    Failed(String),
    /// The server answered with a JSON-RPC error.
    Refused { code: i32, text: String },
    /// By Ctrl-C.
    Interrupted,
}

impl Ended {
    /// For scripts.
    pub(crate) fn code(&self) -> ExitCode {
        match self {
            Ended::Usage(_) => ExitCode::from(2),
            Ended::Failed(_) | Ended::Refused { .. } => ExitCode::from(3),
            // What shells give a program that SIGINT ended.
            Ended::Interrupted => ExitCode::from(130),
        }
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ended::Usage(text) | Ended::Failed(text) | Ended::Refused { text, .. } => f.write_str(text),
            Ended::Interrupted => f.write_str("interrupted"),
        }
    }
}

/// A client that is connected.
pub(crate) struct Client {
    service: RunningService<RoleClient, Person>,
    http: Http,
    /// What the server said of itself.
    pub(crate) greeting: Answer,
}

/// What a server answered.
pub(crate) struct Answer {
    /// The result, byte for byte.
    pub(crate) raw: Box<RawValue>,
    pub(crate) result: Value,
    /// Who answered at the URL, by its header: a gateway, or the server itself.
    pub(crate) answered_by: Option<String>,
    /// What a gateway says of the session.
    pub(crate) session: Option<String>,
}

impl Answer {
    fn new(seen: Seen) -> Result<Self, Ended> {
        let raw = seen.result.ok_or_else(|| Ended::Failed("the answer has no result".to_owned()))?;
        let result = serde_json::from_str(raw.get()).map_err(|error| Ended::Failed(error.to_string()))?;
        Ok(Answer { raw, result, answered_by: seen.answered_by, session: seen.session })
    }

    /// The result as the server sent it, on one line.
    pub(crate) fn line(&self) -> String {
        // Line ends are no more than space outside of strings, and inside they are escaped.
        self.raw.get().replace(['\n', '\r'], " ")
    }

    /// Whether the tool reports an error.
    pub(crate) fn is_error(&self) -> bool {
        self.result["isError"] == true
    }
}

impl Client {
    /// Connects, in the era that is asked for or that the server speaks.
    pub(crate) async fn connect(
        endpoint: &Arc<Endpoint>,
        raw: Option<&Arc<Raw>>,
        era: Era,
    ) -> Result<Self, Ended> {
        let http = Http::new(Arc::clone(endpoint), raw.cloned());
        let modern =
            ClientLifecycleMode::Discover { preferred_versions: vec![ProtocolVersion::V_2026_07_28] };
        let attempt = |mode| begin(http.clone(), endpoint, mode);
        let outcome = match era {
            Era::Legacy => attempt(ClientLifecycleMode::Initialize).await,
            Era::Modern => attempt(modern).await,
            Era::Auto => match tokio::time::timeout(DISCOVER, attempt(modern)).await {
                Ok(Ok(service)) => Ok(service),
                Ok(Err(error)) if http.is_hopeless() => Err(error),
                Ok(Err(_)) | Err(_) => {
                    // What the probe met says nothing of the handshake.
                    http.take_seen();
                    attempt(ClientLifecycleMode::Initialize).await
                }
            },
        };
        let seen = http.take_seen();
        match outcome {
            Ok(service) => {
                // A list is asked for to see what the server says now.
                service.peer().set_response_cache_config(ClientCacheConfig::disabled()).await;
                Ok(Client { service, http, greeting: Answer::new(seen)? })
            }
            Err(error) => Err(seen.trouble.map_or_else(|| refused(&error), Ended::Failed)),
        }
    }

    /// Who the server is, and what it can do.
    pub(crate) fn server(&self) -> Arc<ServerPeerInfo> {
        let unknown = || Arc::new(ServerPeerInfo::new(ProtocolVersion::default(), Default::default()));
        self.service.peer_info().unwrap_or_else(unknown)
    }

    /// Whether requests stand on their own, without a handshake.
    pub(crate) fn is_modern(&self) -> bool {
        !self.server().protocol_version.has_initialize()
    }

    /// Asks for something; what the server answered, as it came.
    pub(crate) async fn ask<T>(
        &self,
        request: impl AsyncFnOnce(&Peer<RoleClient>) -> Result<T, ServiceError>,
    ) -> Result<Answer, Ended> {
        self.http.take_seen();
        let outcome = request(self.service.peer()).await;
        self.judge(outcome)
    }

    /// Calls a tool, and answers what it asks.
    pub(crate) async fn call(&self, tool: &str, arguments: Map<String, Value>) -> Result<Answer, Ended> {
        let params = CallToolRequestParams::new(tool.to_owned()).with_arguments(arguments);
        self.http.take_seen();
        let mut outcome = self.service.call_tool(params.clone()).await;
        if let Err(ServiceError::McpError(error)) = &outcome
            && error.code.0 == HEADER_MISMATCH
        {
            // The tool's schema names arguments that go into headers too: rmcp knows them from the list.
            // Refused is not executed, so that once more is no repetition.
            let _ = self.service.list_all_tools().await;
            self.http.take_seen();
            outcome = self.service.call_tool(params).await;
        }
        self.judge(outcome)
    }

    fn judge<T>(&self, outcome: Result<T, ServiceError>) -> Result<Answer, Ended> {
        let seen = self.http.take_seen();
        match outcome {
            // rmcp may not know what it is; the server's answer is there all the same.
            Ok(_) | Err(ServiceError::UnexpectedResponse) => Answer::new(seen),
            Err(ServiceError::McpError(error)) if seen.trouble.is_none() => Err(rpc_error(&error)),
            Err(error) => {
                Err(Ended::Failed(seen.trouble.unwrap_or_else(|| text::line(&error.to_string(), SHOWN))))
            }
        }
    }

    /// Ends the session, where there is one.
    pub(crate) async fn close(mut self) {
        // If that fails, the server's own expiry ends it.
        let _ = self.service.close_with_timeout(CLOSE).await;
    }
}

async fn begin(
    http: Http,
    endpoint: &Endpoint,
    mode: ClientLifecycleMode,
) -> Result<RunningService<RoleClient, Person>, ClientInitializeError> {
    let mut retry = ExponentialBackoff::default();
    (retry.max_times, retry.base_duration) = (Some(REOPEN), Duration::from_millis(200));
    // A session that is lost is what many use this client to see.
    let mut config = StreamableHttpClientTransportConfig::with_uri(endpoint.uri.to_string())
        .reinit_on_expired_session(false);
    config.retry_config = Arc::new(retry);
    let transport = StreamableHttpClientTransport::with_client(http, config);
    Person::at_terminal().serve_with_lifecycle(transport, mode).await
}

fn refused(error: &ClientInitializeError) -> Ended {
    match error {
        ClientInitializeError::JsonRpcError(error) => rpc_error(error),
        ClientInitializeError::NoCompatibleProtocolVersion { server_supported, .. } => {
            let versions: Vec<_> = server_supported.iter().map(ProtocolVersion::as_str).collect();
            let versions = versions.join(", ");
            Ended::Failed(format!("the server does not speak 2026-07-28, but {versions}; use --era legacy"))
        }
        other => Ended::Failed(text::line(&other.to_string(), SHOWN)),
    }
}

fn rpc_error(error: &ErrorData) -> Ended {
    let data = error.data.as_ref().map(|data| format!(" ({data})")).unwrap_or_default();
    let text = format!("the server answered error {}: {}{data}", error.code.0, error.message);
    Ended::Refused { code: error.code.0, text: text::line(&text, SHOWN) }
}
