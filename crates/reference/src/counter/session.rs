//! One session of the counter server: its tools, its one resource, its log level.

// Logging, sampling and subscriptions are deprecated in 2026-07-28; a server for the eras before it has them.
#![expect(deprecated)]

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use axum::http::request::Parts;
use rmcp::handler::server::tool::ToolCallContext;
use rmcp::handler::server::wrapper::Parameters;
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CallToolResult, ClientCapabilities, ContentBlock,
    CreateMessageRequest, CreateMessageRequestParams, ElicitRequest, ElicitRequestParams, ElicitationSchema,
    Implementation, InitializeRequestParams, InitializeResult, ListResourcesResult, LoggingLevel,
    LoggingMessageNotificationParam, PaginatedRequestParams, PrimitiveSchemaDefinition,
    ProgressNotificationParam, ProtocolVersion, ReadResourceRequestParams, ReadResourceResponse,
    ReadResourceResult, Resource, ResourceContents, ResourceUpdatedNotificationParam, SamplingMessage,
    ServerCapabilities, ServerConfig, ServerRequest, SetLevelRequestParams, StringSchema,
    SubscribeRequestParams, UnsubscribeRequestParams,
};
use rmcp::service::{NotificationContext, RequestContext, ServiceError};
use rmcp::{ErrorData, RoleServer, ServerHandler, tool, tool_handler, tool_router};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Era, Process};

const RESOURCE: &str = "counter://value";
const LONGEST_SLEEP: Duration = Duration::from_secs(60);
const PROGRESS_EVERY: Duration = Duration::from_millis(100);

/// A session: made by its `initialize`, gone with its id.
pub(super) struct Session {
    process: Arc<Process>,
    era: Era,
    value: AtomicI64,
    first_mark: OnceLock<String>,
    /// What the client has set up; what a tool does could depend on it.
    workspace: Mutex<Option<String>>,
    subscribed: AtomicBool,
    /// The least severe [`LoggingLevel`] that the client wants to hear of, as its number.
    log_level: AtomicU8,
}

impl Session {
    pub(super) fn new(process: Arc<Process>, era: Era) -> Self {
        Self {
            process,
            era,
            value: AtomicI64::new(0),
            first_mark: OnceLock::new(),
            workspace: Mutex::new(None),
            subscribed: AtomicBool::new(false),
            log_level: AtomicU8::new(LoggingLevel::Debug as u8),
        }
    }

    fn subscribe(&self, uri: &str, subscribed: bool) -> Result<(), ErrorData> {
        check_resource(uri)?;
        self.subscribed.store(subscribed, Ordering::Relaxed);
        Ok(())
    }
}

#[derive(Deserialize, JsonSchema)]
struct Increment {
    /// How much to add; one if absent.
    #[serde(default = "one")]
    by: i64,
}

fn one() -> i64 {
    1
}

#[derive(Deserialize, JsonSchema)]
struct SetWorkspace {
    /// Its path.
    path: String,
}

#[derive(Deserialize, JsonSchema)]
struct Mark {
    /// What to note.
    key: String,
}

#[derive(Deserialize, JsonSchema)]
struct Sleep {
    /// How long, in milliseconds; at most a minute.
    ms: u64,
}

#[derive(Deserialize, JsonSchema)]
struct Ask {
    /// What to ask.
    #[serde(default = "question")]
    question: String,
}

fn question() -> String {
    "What is this counter counting?".to_owned()
}

#[derive(Deserialize, JsonSchema)]
struct Log {
    /// The message.
    text: String,
    /// How severe it is; `info` if absent.
    #[serde(default = "info")]
    level: LoggingLevel,
}

fn info() -> LoggingLevel {
    LoggingLevel::Info
}

#[tool_router]
impl Session {
    /// Adds to this session's counter and returns its new value.
    #[tool(annotations(destructive_hint = false, idempotent_hint = false))]
    async fn increment(
        &self,
        Parameters(Increment { by }): Parameters<Increment>,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResult, ErrorData> {
        Process::count(&self.process.total);
        // Wrapping is what the addition does; the text must agree with it.
        let value = self.value.fetch_add(by, Ordering::Relaxed).wrapping_add(by);
        if self.subscribed.load(Ordering::Relaxed) {
            let updated = ResourceUpdatedNotificationParam::new(RESOURCE);
            context.peer.notify_resource_updated(updated).await.map_err(client_gone)?;
        }
        Ok(number("value", value))
    }

    /// Returns this session's counter.
    #[tool(annotations(read_only_hint = true))]
    fn value(&self) -> CallToolResult {
        number("value", self.value.load(Ordering::Relaxed))
    }

    /// Returns how many increments this process has executed, in all of its sessions.
    #[tool(annotations(read_only_hint = true))]
    fn total(&self) -> CallToolResult {
        number("total", self.process.total.load(Ordering::Relaxed))
    }

    /// Notes a key, for good where the server keeps a journal, and returns the first key of this session.
    #[tool(annotations(destructive_hint = false, idempotent_hint = false))]
    fn mark(&self, Parameters(Mark { key }): Parameters<Mark>) -> Result<CallToolResult, ErrorData> {
        self.process
            .write_down(&key)
            .map_err(|error| ErrorData::internal_error(format!("the journal: {error}"), None))?;
        let first = self.first_mark.get_or_init(|| key);
        Ok(CallToolResult::structured(json!({ "first": first })))
    }

    /// Sets the workspace of this session.
    #[tool(annotations(destructive_hint = false, idempotent_hint = true))]
    fn set_workspace(&self, Parameters(SetWorkspace { path }): Parameters<SetWorkspace>) -> CallToolResult {
        *self.workspace.lock().unwrap_or_else(PoisonError::into_inner) = Some(path.clone());
        CallToolResult::structured(json!({ "workspace": path }))
    }

    /// Returns the workspace of this session, or null.
    #[tool(annotations(read_only_hint = true))]
    fn workspace(&self) -> CallToolResult {
        let path = self.workspace.lock().unwrap_or_else(PoisonError::into_inner).clone();
        CallToolResult::structured(json!({ "workspace": path }))
    }

    /// Waits, and tells every 100 ms how long it has been waiting if the caller gave a progress token.
    #[tool(annotations(read_only_hint = true))]
    async fn sleep(
        &self,
        Parameters(Sleep { ms }): Parameters<Sleep>,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResult, ErrorData> {
        let whole = Duration::from_millis(ms).min(LONGEST_SLEEP);
        let token = context.meta.get_progress_token();
        let mut slept = Duration::ZERO;
        while slept < whole {
            let step = PROGRESS_EVERY.min(whole - slept);
            tokio::select! {
                () = tokio::time::sleep(step) => slept += step,
                () = context.ct.cancelled() => return Err(ErrorData::internal_error("cancelled", None)),
            }
            if let Some(token) = token.clone() {
                let progress = ProgressNotificationParam::new(token, slept.as_millis() as f64)
                    .with_total(whole.as_millis() as f64);
                context.peer.notify_progress(progress).await.map_err(client_gone)?;
            }
        }
        Ok(number("slept", slept.as_millis() as u64))
    }

    /// Tells which process answers, how many handshakes it has seen, and the id of this session in it.
    #[tool(annotations(read_only_hint = true))]
    fn session(&self, context: RequestContext<RoleServer>) -> CallToolResult {
        let headers = context.extensions.get::<Parts>().map(|parts| &parts.headers);
        let id = headers.and_then(|headers| headers.get("mcp-session-id")?.to_str().ok());
        CallToolResult::structured(json!({
            "pid": std::process::id(),
            "instance": self.process.name(),
            "initializes": self.process.initializes.load(Ordering::Relaxed),
            "initialized": self.process.initialized.load(Ordering::Relaxed),
            "session": id,
        }))
    }

    /// Asks the client in the middle of the call, by elicitation or else by sampling, and returns its answer.
    #[tool(annotations(read_only_hint = true))]
    async fn ask(
        &self,
        Parameters(Ask { question }): Parameters<Ask>,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResult, ErrorData> {
        let client = context.client_capabilities().unwrap_or_default();
        let Some(request) = question_for(&client, question) else {
            let refusal = ContentBlock::text("this client takes neither elicitation nor sampling requests");
            return Ok(CallToolResult::error(vec![refusal]));
        };
        let answer = context.peer.send_request(request).await.map_err(client_gone)?;
        let answer = serde_json::to_value(answer)
            .map_err(|error| ErrorData::internal_error(error.to_string(), None))?;
        Ok(CallToolResult::structured(answer))
    }

    /// Sends a log message to the client, unless it asked for more severe ones only.
    #[tool(annotations(read_only_hint = true))]
    async fn log(
        &self,
        Parameters(Log { text, level }): Parameters<Log>,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResult, ErrorData> {
        let sent = level as u8 >= self.log_level.load(Ordering::Relaxed);
        if sent {
            let message =
                LoggingMessageNotificationParam::new(level, Value::String(text)).with_logger("counter");
            context.peer.notify_logging_message(message).await.map_err(client_gone)?;
        }
        Ok(CallToolResult::structured(json!({ "sent": sent })))
    }
}

/// What all sessions have, by name and in order.
pub(super) fn tools() -> impl Iterator<Item = String> {
    Session::tool_router().list_all().into_iter().map(|tool| tool.name.into_owned())
}

#[tool_handler]
impl ServerHandler for Session {
    fn get_info(&self) -> ServerConfig {
        let capabilities = ServerCapabilities::builder()
            .enable_tools()
            .enable_resources()
            .enable_resources_subscribe()
            .enable_logging()
            .build();
        ServerConfig::new(capabilities)
            .with_server_info(Implementation::new("throughline-counter", env!("CARGO_PKG_VERSION")))
            .with_instructions("Counts, in a session of your own. The count lives as long as the session.")
    }

    fn supported_protocol_versions(&self) -> Cow<'static, [ProtocolVersion]> {
        Cow::Borrowed(match self.era {
            Era::Legacy => ProtocolVersion::known_up_to(&ProtocolVersion::V_2025_11_25),
            Era::Dual => ProtocolVersion::KNOWN_VERSIONS,
        })
    }

    async fn initialize(
        &self,
        request: InitializeRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<InitializeResult, ErrorData> {
        Process::count(&self.process.initializes);
        context.peer.set_peer_info(request.clone());
        self.negotiate_initialize(&request)
    }

    async fn on_initialized(&self, _: NotificationContext<RoleServer>) {
        Process::count(&self.process.initialized);
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        self.process.figures.called(&request.name);
        Self::tool_router().call(ToolCallContext::new(self, request, context)).await
    }

    async fn set_level(
        &self,
        request: SetLevelRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        self.log_level.store(request.level as u8, Ordering::Relaxed);
        Ok(())
    }

    async fn list_resources(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListResourcesResult, ErrorData> {
        Ok(ListResourcesResult::with_all_items(vec![Resource::new(RESOURCE, "value")]))
    }

    async fn read_resource(
        &self,
        request: ReadResourceRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<ReadResourceResponse, ErrorData> {
        check_resource(&request.uri)?;
        let text = self.value.load(Ordering::Relaxed).to_string();
        Ok(ReadResourceResult::new(vec![ResourceContents::text(text, RESOURCE)]).into())
    }

    async fn subscribe(
        &self,
        request: SubscribeRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        self.subscribe(&request.uri, true)
    }

    async fn unsubscribe(
        &self,
        request: UnsubscribeRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        self.subscribe(&request.uri, false)
    }
}

/// The question in the form that this client can answer, if there is one.
fn question_for(client: &ClientCapabilities, question: String) -> Option<ServerRequest> {
    if client.elicitation.is_some() {
        let answer = PrimitiveSchemaDefinition::String(StringSchema::new());
        let requested_schema = ElicitationSchema::new(BTreeMap::from([("answer".to_owned(), answer)]))
            .with_required(vec!["answer".to_owned()]);
        let form =
            ElicitRequestParams::FormElicitationParams { meta: None, message: question, requested_schema };
        return Some(ServerRequest::ElicitRequest(ElicitRequest::new(form)));
    }
    client.sampling.as_ref()?;
    let prompt = CreateMessageRequestParams::new(vec![SamplingMessage::user_text(question)], 100);
    Some(ServerRequest::CreateMessageRequest(CreateMessageRequest::new(prompt)))
}

/// A result that is one number: as text for a person, structured for a program.
fn number(name: &str, value: impl Serialize + ToString) -> CallToolResult {
    let mut result = CallToolResult::success(vec![ContentBlock::text(value.to_string())]);
    result.structured_content = Some(json!({ name: value }));
    result
}

fn check_resource(uri: &str) -> Result<(), ErrorData> {
    if uri == RESOURCE {
        return Ok(());
    }
    Err(ErrorData::resource_not_found(format!("there is only {RESOURCE}"), None))
}

/// The client cannot be reached any more, so nobody will read this.
fn client_gone(error: ServiceError) -> ErrorData {
    ErrorData::internal_error(error.to_string(), None)
}
