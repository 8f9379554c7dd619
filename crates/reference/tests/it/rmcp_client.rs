//! The stateless server and rmcp's own client.

use rmcp::model::{
    CallToolRequestParams, ClientCapabilities, ClientConfig, ElicitRequestParams, ElicitResult,
    ElicitationAction, Implementation, ProtocolVersion, SubscriptionFilter,
};
use rmcp::service::{ClientLifecycleMode, ClientServiceExt, RequestContext, RunningService};
use rmcp::transport::StreamableHttpClientTransport;
use rmcp::{ClientHandler, ErrorData, RoleClient};
use serde_json::{Value, json};

use crate::server::{Stateless, quick};

/// A client whose user agrees to everything.
struct Agreeing;

impl ClientHandler for Agreeing {
    fn get_info(&self) -> ClientConfig {
        let capabilities = ClientCapabilities::builder().enable_elicitation().build();
        ClientConfig::new(capabilities, Implementation::new("agreeing", "0"))
    }

    async fn create_elicitation(
        &self,
        request: ElicitRequestParams,
        _: RequestContext<RoleClient>,
    ) -> Result<ElicitResult, ErrorData> {
        let ElicitRequestParams::FormElicitationParams { message, .. } = request else {
            return Err(ErrorData::invalid_params("a form was expected", None));
        };
        assert!(message.contains("Give up the total of 3"), "{message}");
        Ok(ElicitResult::new(ElicitationAction::Accept).with_content(json!({"confirm": true})))
    }
}

async fn connect(server: &Stateless, lifecycle: ClientLifecycleMode) -> RunningService<RoleClient, Agreeing> {
    let transport = StreamableHttpClientTransport::from_uri(server.url());
    Agreeing.serve_with_lifecycle(transport, lifecycle).await.expect("a connection")
}

async fn call(client: &RunningService<RoleClient, Agreeing>, tool: &'static str, arguments: Value) -> Value {
    let arguments = arguments.as_object().expect("an object").clone();
    let result = client.call_tool(CallToolRequestParams::new(tool).with_arguments(arguments)).await;
    result.expect("a result").structured_content.expect("structured content")
}

#[test]
fn it_discovers_calls_and_answers_questions() {
    let server = Stateless::start(quick());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let modern =
            ClientLifecycleMode::Discover { preferred_versions: vec![ProtocolVersion::V_2026_07_28] };
        let client = connect(&server, modern).await;
        let tools = client.list_all_tools().await.expect("tools");
        assert_eq!(tools.len(), 6);
        assert_eq!(client.list_all_resources().await.expect("resources").len(), 8);
        assert_eq!(client.list_all_prompts().await.expect("prompts").len(), 1);

        let first = call(&client, "tally", json!({"amount": 3})).await;
        // The client asks its user and sends the call again, with the state that it was given.
        let reset = call(&client, "reset_tally", json!({"handle": first["handle"]})).await;
        assert_eq!((&first["total"], &reset["total"]), (&json!(3), &json!(0)));

        let filter = SubscriptionFilter::builder().resource_subscriptions(["clock://now"]).build();
        let mut ticks = client.listen(filter).await.expect("a subscription");
        assert!(ticks.next().await.expect("a message").is_some(), "a tick");
        client.cancel().await.expect("an end");
    });
}

#[test]
fn it_shakes_hands_as_clients_did_before() {
    let server = Stateless::start(quick());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let client = connect(&server, ClientLifecycleMode::Initialize).await;
        assert_eq!(client.list_all_tools().await.expect("tools").len(), 6);
        let first = call(&client, "tally", json!({"amount": 3})).await;
        let second = call(&client, "tally", json!({"amount": 4, "handle": first["handle"]})).await;
        assert_eq!((&second["total"], &second["count"]), (&json!(7), &json!(2)));
        client.cancel().await.expect("an end");
    });
}
