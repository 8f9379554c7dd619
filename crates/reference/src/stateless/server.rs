//! The server as rmcp sees it: what it says of itself, its lists, its resources, its prompt, its subscriptions.

use std::borrow::Cow;
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::http::HeaderName;
use rmcp::handler::server::tool::{ToolCallContext, ToolRouter};
use rmcp::model::{
    CacheScope, CallToolRequestParams, CallToolResponse, CompleteRequestMethod, CompleteRequestParams,
    CompleteResult, DiscoverResult, GetPromptRequestParams, GetPromptResponse, GetPromptResult,
    Implementation, InitializeRequestParams, InitializeResult, ListPromptsResult,
    ListResourceTemplatesResult, ListResourcesResult, ListToolsResult, PaginatedRequestParams, Prompt,
    PromptArgument, PromptMessage, ProtocolVersion, ReadResourceRequestParams, ReadResourceResponse,
    ReadResourceResult, Resource, ResourceContents, Role, ServerCapabilities, ServerConfig,
    SubscriptionFilter, Tool,
};
use rmcp::service::{RequestContext, SubscriptionContext};
use rmcp::{ErrorData, RoleServer, ServerHandler};
use serde_json::json;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::caller::headers;
use super::primes::Workshop;
use super::schemas::Schemas;
use super::spans::Carried;
use super::tally::Tallies;
use super::trace::TraceContext;
use super::{Era, StatelessConfig, facts, tools};
use crate::instance::Instance;
use crate::status::Figures;

/// A resource that changes by itself, in the same way on every instance.
const CLOCK: &str = "clock://now";
/// What never changes while a process lives may be kept by whoever has it for so long: five minutes, which is what
/// a new version with other tools may have to wait for.
const KEEP: Duration = Duration::from_secs(300);
const PROMPT: &str = "explain_fact";

/// A result with what caches may do with it, for clients of a revision that has such hints. A macro, since the
/// results have no trait in common.
macro_rules! hinted {
    ($result:expr, $context:expr, $keep:expr) => {{
        let result = $result;
        if modern(&$context) {
            result.with_ttl_ms(milliseconds($keep)).with_cache_scope(CacheScope::Public)
        } else {
            result
        }
    }};
}

/// What all requests share: nothing that one of them leaves for another.
pub(super) struct Server {
    pub(super) instance: Instance,
    pub(super) host: String,
    pub(super) figures: Arc<Figures>,
    pub(super) tallies: Tallies,
    pub(super) workshop: Workshop,
    pub(super) principal_header: Option<HeaderName>,
    era: Era,
    clock_tick: Duration,
    /// Ends the subscriptions when the process is to end.
    stopping: CancellationToken,
    router: ToolRouter<Self>,
    /// In the order of their names.
    tools: Vec<Tool>,
    schemas: Schemas,
}

impl Server {
    pub(super) fn new(config: &StatelessConfig, stopping: CancellationToken) -> io::Result<Self> {
        let router = tools::router();
        let tools = router.list_all();
        Ok(Self {
            instance: config.instance.clone(),
            host: config.host.clone(),
            figures: Arc::new(Figures::new(tools.iter().map(|tool| tool.name.to_string()))),
            tallies: Tallies::new(config)?,
            workshop: Workshop::new(config.computations),
            principal_header: config.principal_header.clone(),
            era: config.era,
            clock_tick: config.clock_tick,
            stopping,
            router,
            schemas: Schemas::of(&tools)?,
            tools,
        })
    }

    /// The answer to a call, unless it is not what the tool's output schema promises.
    fn checked(&self, tool: &str, answer: CallToolResponse) -> Result<CallToolResponse, ErrorData> {
        let CallToolResponse::Complete(result) = &answer else { return Ok(answer) };
        if let Some(content) = result.structured_content.as_ref().filter(|_| result.is_error != Some(true))
            && let Err(mistakes) = self.schemas.result(tool, content)
        {
            tracing::error!(%mistakes, "a tool does not keep its promise");
            return Err(ErrorData::internal_error(mistakes, None));
        }
        Ok(answer)
    }
}

impl ServerHandler for Server {
    fn get_info(&self) -> ServerConfig {
        let capabilities = ServerCapabilities::builder()
            .enable_tools()
            .enable_resources()
            .enable_resources_subscribe()
            .enable_prompts()
            .build();
        let implementation = Implementation::new("throughline-reference", env!("CARGO_PKG_VERSION"))
            .with_title("Throughline's stateless reference server");
        ServerConfig::new(capabilities).with_server_info(implementation).with_instructions(
            "Nothing is kept here between two requests, and any instance answers any of them. To go on with a tally, \
             pass the handle of the last answer.",
        )
    }

    fn supported_protocol_versions(&self) -> Cow<'static, [ProtocolVersion]> {
        Cow::Borrowed(match self.era {
            Era::Legacy => ProtocolVersion::known_up_to(&ProtocolVersion::V_2025_11_25),
            Era::Dual => ProtocolVersion::KNOWN_VERSIONS,
            Era::Modern => &[ProtocolVersion::V_2026_07_28],
        })
    }

    async fn initialize(
        &self,
        request: InitializeRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<InitializeResult, ErrorData> {
        context.peer.set_peer_info(request.clone());
        let mut result = self.negotiate_initialize(&request)?;
        // The legacy way to subscribe needs a session and its stream.
        if let Some(resources) = &mut result.capabilities.resources {
            resources.subscribe = None;
        }
        Ok(result)
    }

    async fn discover(&self, _: RequestContext<RoleServer>) -> Result<DiscoverResult, ErrorData> {
        let versions = self.supported_protocol_versions().into_owned();
        Ok(DiscoverResult::from_server_info(versions, self.get_info())
            .with_ttl_ms(milliseconds(KEEP))
            .with_cache_scope(CacheScope::Public))
    }

    async fn list_tools(
        &self,
        page: Option<PaginatedRequestParams>,
        context: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        whole(page)?;
        let list = ListToolsResult::with_all_items(self.tools.clone());
        Ok(hinted!(list, context, KEEP))
    }

    fn get_tool(&self, name: &str) -> Option<Tool> {
        self.router.get(name).cloned()
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let tool = request.name.to_string();
        if !self.router.has_route(&tool) {
            return Err(ErrorData::invalid_params("there is no tool of this name; tools/list has all", None));
        }
        self.figures.called(&tool);
        let started = Instant::now();
        let span = Carried::of(&context);
        let trace = TraceContext::of(&context.meta, headers(&context));
        let answer = match self.schemas.arguments(&tool, request.arguments.as_ref()) {
            Err(mistakes) => Ok(tools::failure(mistakes).into()),
            Ok(()) => self.router.call(ToolCallContext::new(self, request, context)).await,
        };
        let answer = answer.and_then(|answer| self.checked(&tool, answer));
        let outcome = match &answer {
            Ok(CallToolResponse::Complete(result)) if result.is_error == Some(true) => "tool error",
            Ok(CallToolResponse::InputRequired(_)) => "input required",
            Ok(_) => "complete",
            Err(_) => "error",
        };
        if let Some(span) = span.filter(|_| outcome == "tool error") {
            span.tool_failed();
        }
        let trace_id = trace.as_ref().map(|trace| trace.trace_id.as_str());
        let micros = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
        let instance = self.instance.as_str();
        tracing::info!(target: "throughline::access", instance, tool, outcome, micros, trace_id, "tools/call");
        answer
    }

    async fn list_resources(
        &self,
        page: Option<PaginatedRequestParams>,
        context: RequestContext<RoleServer>,
    ) -> Result<ListResourcesResult, ErrorData> {
        whole(page)?;
        let clock = Resource::new(CLOCK, "clock")
            .with_description("The time, in seconds since 1970 began. Subscribe to it to hear it tick.")
            .with_mime_type("application/json");
        let list =
            ListResourcesResult::with_all_items(std::iter::once(clock).chain(facts::resources()).collect());
        Ok(hinted!(list, context, KEEP))
    }

    async fn list_resource_templates(
        &self,
        page: Option<PaginatedRequestParams>,
        context: RequestContext<RoleServer>,
    ) -> Result<ListResourceTemplatesResult, ErrorData> {
        whole(page)?;
        let list = ListResourceTemplatesResult::with_all_items(vec![facts::template()]);
        Ok(hinted!(list, context, KEEP))
    }

    async fn read_resource(
        &self,
        request: ReadResourceRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<ReadResourceResponse, ErrorData> {
        let (contents, keep) = if request.uri == CLOCK {
            (clock(), Duration::ZERO)
        } else if let Some(fact) = facts::read(&request.uri) {
            (fact, KEEP)
        } else {
            // rmcp makes this -32602 for clients of 2026-07-28 and leaves it -32002 for those before.
            let uri = Some(json!({ "uri": request.uri }));
            return Err(ErrorData::resource_not_found(
                "there is no such resource; resources/list has all",
                uri,
            ));
        };
        let result = ReadResourceResult::new(vec![contents]);
        Ok(hinted!(result, context, keep).into())
    }

    async fn complete(
        &self,
        _: CompleteRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<CompleteResult, ErrorData> {
        // rmcp's own answer is an empty list, also of servers that do not say that they complete anything.
        Err(ErrorData::method_not_found::<CompleteRequestMethod>())
    }

    async fn list_prompts(
        &self,
        page: Option<PaginatedRequestParams>,
        context: RequestContext<RoleServer>,
    ) -> Result<ListPromptsResult, ErrorData> {
        whole(page)?;
        let topic =
            PromptArgument::new("topic").with_description("What the fact is about.").with_required(true);
        let prompt = Prompt::new(PROMPT, Some("Have a fact explained."), Some(vec![topic]));
        let list = ListPromptsResult::with_all_items(vec![prompt]);
        Ok(hinted!(list, context, KEEP))
    }

    async fn get_prompt(
        &self,
        request: GetPromptRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<GetPromptResponse, ErrorData> {
        if request.name != PROMPT {
            return Err(ErrorData::invalid_params(format!("there is only the prompt {PROMPT}"), None));
        }
        let topic = request.arguments.as_ref().and_then(|arguments| arguments.get("topic")?.as_str());
        let Some((topic, fact)) = topic.and_then(facts::about) else {
            let topics = facts::topics();
            return Err(ErrorData::invalid_params(
                format!("the argument topic must be one of {topics}"),
                None,
            ));
        };
        let text = format!("Explain this about {topic} in simple words: {fact}");
        Ok(GetPromptResult::new(vec![PromptMessage::new_text(Role::User, text)]).into())
    }

    fn accepted_subscription_filter(&self, _: &SubscriptionFilter) -> Option<SubscriptionFilter> {
        // Of all that there is only the clock changes; rmcp takes from this what was asked for.
        Some(SubscriptionFilter::builder().resource_subscriptions([CLOCK]).build())
    }

    async fn listen(&self, subscription: SubscriptionContext) -> Result<(), ErrorData> {
        let subscribed =
            subscription.accepted().resource_subscriptions.as_ref().is_some_and(|uris| !uris.is_empty());
        let mut ticks = tokio::time::interval_at(Instant::now() + self.clock_tick, self.clock_tick);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                _ = ticks.tick(), if subscribed => {
                    if subscription.sink().notify_resource_updated(CLOCK).await.is_err() {
                        return Ok(());
                    }
                }
                () = subscription.cancelled() => return Ok(()),
                () = self.stopping.cancelled() => return Ok(()),
            }
        }
    }
}

/// Whether the request is of a revision that has hints for caches.
fn modern(context: &RequestContext<RoleServer>) -> bool {
    context.protocol_version().is_some_and(|version| version >= ProtocolVersion::V_2026_07_28)
}

/// Every list comes whole, so nobody can have a cursor from here.
fn whole(page: Option<PaginatedRequestParams>) -> Result<(), ErrorData> {
    match page.and_then(|page| page.cursor) {
        None => Ok(()),
        Some(_) => Err(ErrorData::invalid_params("this cursor is not from here: lists come whole", None)),
    }
}

#[expect(clippy::disallowed_methods, reason = "the time is what this resource is about")]
fn clock() -> ResourceContents {
    let seconds = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let now = json!({ "unixSeconds": seconds }).to_string();
    ResourceContents::text(now, CLOCK).with_mime_type("application/json")
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
