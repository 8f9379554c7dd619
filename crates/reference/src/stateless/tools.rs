//! The tools.

use std::time::Duration;

use rmcp::handler::server::tool::{InputResponses, RequestState, ToolRouter, schema_for_output};
use rmcp::handler::server::wrapper::{Json, Parameters};
use rmcp::model::{
    CallToolResponse, CallToolResult, ClientCapabilities, ContentBlock, ElicitRequest, ElicitRequestParams,
    ElicitResult, ElicitationAction, ElicitationSchema, InputRequest, InputRequiredResult,
    ProgressNotificationParam, ProgressToken, ProtocolVersion,
};
use rmcp::service::RequestContext;
use rmcp::{ErrorData, RoleServer, tool, tool_router};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use super::caller::{headers, principal};
use super::primes::{Computations, LARGEST, Primes};
use super::server::Server;
use super::tally::{NotAdded, Total};
use super::trace::TraceContext;
use super::{facts, keys};

/// Progress is told this often, however fast the work goes.
const PROGRESS_EVERY: Duration = Duration::from_millis(200);
/// The question of `reset_tally`.
const CONFIRM: &str = "confirm";

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Who {
    /// The instance that answered.
    instance: String,
    /// The machine that it runs on.
    host: String,
    /// Its process.
    pid: u32,
    /// The version of this server.
    version: String,
    /// How long it has been running.
    uptime_seconds: u64,
    /// The protocol version of this request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    protocol_version: Option<String>,
    /// Whether somebody whom this server trusts has said who the caller is.
    caller_known: bool,
    /// The trace that this request belongs to, if it says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "TraceContext")]
    trace: Option<TraceContext>,
    /// What compute_primes does on this instance.
    computations: Computations,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Echo {
    /// What to say.
    #[schemars(length(max = 10000))]
    message: String,
}

#[derive(Serialize, JsonSchema)]
struct Echoed {
    /// What was said.
    message: String,
    /// The instance that answered.
    instance: String,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Lookup {
    /// What to look up; the resources of this server have the topics.
    #[schemars(length(min = 1, max = 100))]
    topic: String,
}

#[derive(Serialize, JsonSchema)]
struct Fact {
    /// The topic.
    topic: String,
    /// The fact.
    fact: String,
    /// The same fact as a resource.
    uri: String,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Count {
    /// Up to where to count.
    #[serde(default = "few")]
    #[schemars(range(min = 2, max = 1000000000))]
    limit: u64,
}

fn few() -> u64 {
    5_000
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Counted {
    /// Up to where was counted.
    limit: u64,
    /// How many primes there are.
    prime_count: u64,
    /// The largest of them.
    largest: u64,
    /// How long it took, waiting for a processor included.
    elapsed_ms: u64,
    /// The instance that counted.
    instance: String,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Add {
    /// How much to add; a negative amount takes away.
    #[serde(default = "one")]
    #[schemars(range(min = -1000000000000i64, max = 1000000000000i64))]
    amount: i64,
    /// The handle of the answer before. Without one a new tally begins.
    // Not `null` too: that would be a list of types, which some clients cannot read.
    #[serde(default)]
    #[schemars(with = "String", length(max = 2048), skip_serializing_if = "Option::is_none")]
    handle: Option<String>,
}

fn one() -> i64 {
    1
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Tally {
    /// The sum of all amounts.
    total: i64,
    /// How many amounts have been added.
    count: u64,
    /// Pass this to the next call, and the total goes on, on whichever instance.
    handle: String,
    /// How long the handle is good.
    expires_in_seconds: u64,
    /// The instance that answered.
    instance: String,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Reset {
    /// The handle of the tally.
    #[schemars(length(max = 2048))]
    handle: String,
}

/// The tools of the server.
pub(super) fn router() -> ToolRouter<Server> {
    Server::tool_router()
}

#[tool_router]
impl Server {
    /// Tells which instance answers: ask a few times to see how requests are spread.
    #[tool(annotations(
        title = "Who am I talking to?",
        read_only_hint = true,
        idempotent_hint = true,
        open_world_hint = false
    ))]
    fn whoami(&self, context: RequestContext<RoleServer>) -> Result<Json<Who>, ErrorData> {
        Ok(Json(Who {
            instance: self.instance_name(),
            host: self.host.clone(),
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_seconds: self.figures.uptime().as_secs(),
            protocol_version: context.protocol_version().map(|version| version.to_string()),
            caller_known: principal(&context, self.principal_header.as_ref())?.is_some(),
            trace: TraceContext::of(&context.meta, headers(&context)),
            computations: self.workshop.computations(),
        }))
    }

    /// Says the message again, with the instance that has heard it.
    #[tool(annotations(
        title = "Echo",
        read_only_hint = true,
        idempotent_hint = true,
        open_world_hint = false
    ))]
    fn echo(&self, Parameters(Echo { message }): Parameters<Echo>) -> Json<Echoed> {
        Json(Echoed { message, instance: self.instance_name() })
    }

    /// Looks up a fact, the same on every instance.
    #[tool(annotations(
        title = "Look up a fact",
        read_only_hint = true,
        idempotent_hint = true,
        open_world_hint = false
    ))]
    fn lookup_fact(&self, Parameters(Lookup { topic }): Parameters<Lookup>) -> Result<Json<Fact>, String> {
        let Some((topic, fact)) = facts::about(&topic) else {
            return Err(format!(
                "there is no fact about this topic; there are facts about {}",
                facts::topics()
            ));
        };
        Ok(Json(Fact { topic: topic.to_owned(), fact: fact.to_owned(), uri: facts::uri(topic) }))
    }

    /// Counts the primes up to a limit: work for a processor. Tells its progress, and stops when the caller goes.
    #[tool(annotations(
        title = "Count primes",
        read_only_hint = true,
        idempotent_hint = true,
        open_world_hint = false
    ))]
    async fn compute_primes(
        &self,
        Parameters(Count { limit }): Parameters<Count>,
        context: RequestContext<RoleServer>,
    ) -> Result<Json<Counted>, ErrorData> {
        let started = tokio::time::Instant::now();
        let primes = self.count_primes(limit, &context).await?;
        Ok(Json(Counted {
            limit,
            prime_count: primes.count,
            largest: primes.largest,
            elapsed_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
            instance: self.instance_name(),
        }))
    }

    /// Adds to a running total. Pass the answer's handle to the next call and it goes on, on whichever instance.
    #[tool(
        annotations(
            title = "Keep a tally",
            read_only_hint = true,
            idempotent_hint = true,
            open_world_hint = false
        ),
        output_schema = schema_for_output::<Tally>()
    )]
    async fn tally(
        &self,
        Parameters(Add { amount, handle }): Parameters<Add>,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResult, ErrorData> {
        let caller = principal(&context, self.principal_header.as_ref())?;
        match self.tallies.add(caller, handle.as_deref(), amount).await {
            Ok((total, handle)) => self.tallied(total, handle),
            Err(reason) => Ok(no_total(&reason)),
        }
    }

    /// Sets a running total back to nought, if the user says so when asked.
    #[tool(
        annotations(
            title = "Begin a tally anew",
            read_only_hint = true,
            idempotent_hint = true,
            open_world_hint = false
        ),
        output_schema = schema_for_output::<Tally>()
    )]
    async fn reset_tally(
        &self,
        Parameters(Reset { handle }): Parameters<Reset>,
        RequestState(state): RequestState,
        InputResponses(answers): InputResponses,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let caller = principal(&context, self.principal_header.as_ref())?;
        let total = match self.tallies.read(caller, &handle).await {
            Ok(total) => total,
            Err(reason) => return Ok(no_total(&reason).into()),
        };
        if context.protocol_version().is_none_or(|version| version < ProtocolVersion::V_2026_07_28) {
            return Ok(failure(
                "this server can ask the user only by revision 2026-07-28, since it has no sessions; leave the handle \
                 away to begin a new tally",
            )
            .into());
        }
        if context.client_capabilities().is_none_or(|client| client.elicitation.is_none()) {
            let needed = ClientCapabilities::builder().enable_elicitation().build();
            return Err(ErrorData::missing_required_client_capability(needed));
        }
        let answer = match (&state, answers.as_ref().and_then(|answers| answers.get(CONFIRM))) {
            (Some(state), answer) => {
                self.tallies.was_asked(caller, &handle, state).map_err(bad_state)?;
                answer.and_then(confirmed)
            }
            // Without a state nothing was asked, whatever is answered.
            (None, _) => None,
        };
        match answer {
            Some(true) => match self.tallies.anew(caller).await {
                Ok((nought, handle)) => self.tallied(nought, handle).map(Into::into),
                Err(reason) => Ok(no_total(&reason).into()),
            },
            Some(false) => self.tallied(total, handle).map(Into::into),
            None => {
                let state = self.tallies.question(caller, &handle);
                let question = question(total);
                Ok(InputRequiredResult::new(Some([(CONFIRM.to_owned(), question)].into()), Some(state))
                    .into())
            }
        }
    }
}

impl Server {
    fn instance_name(&self) -> String {
        self.instance.as_str().to_owned()
    }

    fn tallied(&self, Total { total, count }: Total, handle: String) -> Result<CallToolResult, ErrorData> {
        let tally = Tally {
            total,
            count,
            handle,
            expires_in_seconds: self.tallies.lifetime().as_secs(),
            instance: self.instance_name(),
        };
        let tally = serde_json::to_value(tally)
            .map_err(|error| ErrorData::internal_error(error.to_string(), None))?;
        Ok(CallToolResult::structured(tally))
    }

    /// Counts primes elsewhere and tells here how far it has got, if the caller wants to know.
    async fn count_primes(
        &self,
        limit: u64,
        context: &RequestContext<RoleServer>,
    ) -> Result<Primes, ErrorData> {
        let (progress, checked) = watch::channel(0);
        let token = context.meta.get_progress_token();
        let mut counting = std::pin::pin!(self.workshop.count(limit, progress, context.ct.clone()));
        let mut ticks = tokio::time::interval(PROGRESS_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut told = 0;
        let counted = loop {
            tokio::select! {
                counted = &mut counting => break counted,
                _ = ticks.tick(), if token.is_some() => {
                    let now = *checked.borrow();
                    tell_progress(context, token.as_ref(), &mut told, now, limit).await;
                }
            }
        };
        match counted {
            Ok(Some(primes)) => {
                tell_progress(context, token.as_ref(), &mut told, limit, limit).await;
                Ok(primes)
            }
            Ok(None) => Err(ErrorData::internal_error("cancelled", None)),
            Err(panicked) => Err(ErrorData::internal_error(panicked.to_string(), None)),
        }
    }
}

/// Tells the caller, if it gave a token for that, how far a call has got. What was told before, is not told again: the
/// specification has progress rise with each message.
async fn tell_progress(
    context: &RequestContext<RoleServer>,
    token: Option<&ProgressToken>,
    told: &mut u64,
    now: u64,
    limit: u64,
) {
    let Some(token) = token.filter(|_| now > *told) else { return };
    *told = now;
    let message = ProgressNotificationParam::new(token.clone(), now as f64).with_total(limit as f64);
    if context.peer.notify_progress(message).await.is_err() {
        // Nobody reads this any more, so nobody waits for the result.
        context.ct.cancel();
    }
}

/// A result that says that the tool could not do it, and why: for the model that has called it.
pub(super) fn failure(why: impl Into<String>) -> CallToolResult {
    CallToolResult::error(vec![ContentBlock::text(why)])
}

fn no_total(reason: &NotAdded) -> CallToolResult {
    match reason {
        NotAdded::Handle(refused) => {
            failure(format!("this handle {refused}; call tally without a handle to begin anew"))
        }
        NotAdded::TooLarge => failure("the total would be larger than 9007199254740991; nothing was added"),
        NotAdded::Away => failure(
            "the tallies cannot be reached now; the same call again, with the same handle, adds once at most",
        ),
    }
}

fn bad_state(refused: keys::Refused) -> ErrorData {
    ErrorData::invalid_params(format!("requestState {refused}; call the tool again without it"), None)
}

/// What the user is asked before a total is given up.
fn question(Total { total, count }: Total) -> InputRequest {
    let requested_schema = ElicitationSchema::builder().required_bool(CONFIRM).build_unchecked();
    let message = format!("Give up the total of {total}, made of {count} amounts, and begin anew?");
    InputRequest::Elicitation(ElicitRequest::new(ElicitRequestParams::FormElicitationParams {
        meta: None,
        message,
        requested_schema,
    }))
}

/// Whether the user said yes; `None` if this is no answer to the question.
fn confirmed(answer: &serde_json::Value) -> Option<bool> {
    let answer: ElicitResult = serde_json::from_value(answer.clone()).ok()?;
    match answer.action {
        ElicitationAction::Accept => answer.content?.get(CONFIRM)?.as_bool(),
        _ => Some(false),
    }
}

// The bound is in the schema as a number, which the attribute wants.
const _: () = assert!(LARGEST == 1_000_000_000);
