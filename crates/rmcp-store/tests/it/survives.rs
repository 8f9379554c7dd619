//! The example as a process that is killed, and official clients of it.

use std::ffi::OsString;
use std::path::Path;

use rmcp::ServiceExt;
use rmcp::model::{CallToolRequestParams, ClientConfig, ProtocolVersion};
use rmcp::service::{RoleClient, RunningService};
use rmcp::transport::StreamableHttpClientTransport;
use rmcp::transport::streamable_http_client::StreamableHttpClientTransportConfig;
use serde_json::json;

use crate::client::Client;
use crate::process::{Process, free_port};

const CHILD: &str = "THROUGHLINE_RMCP_TEST_CHILD";

#[path = "../../examples/survives.rs"]
mod example;

/// Not a test but the child of those below, which is this same program: there it is the example.
#[test]
fn child() {
    if std::env::var_os(CHILD).is_some() {
        example::main().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_official_rust_client_goes_on_after_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::start(dir.path());
    let client = connect(&server.url()).await;
    let mut processes = vec![greet(&client).await];
    for _ in 0..3 {
        server.restart();
        processes.push(greet(&client).await);
        processes.push(greet(&client).await);
    }
    processes.dedup();
    assert_eq!(processes.len(), 4, "each process answered: {processes:?}");
}

#[test]
fn the_official_python_client_goes_on_after_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::start(dir.path());
    let mut client = Client::connect("mcp2", &server.url(), &[]);
    let mut greet = || {
        let answer = client.run(json!({"do": "call", "name": "greet", "arguments": {}}));
        let greeting = answer["done"]["content"][0]["text"].as_str().unwrap().to_owned();
        (answer["session"].as_str().unwrap().to_owned(), greeting)
    };
    let (session, before) = greet();
    server.restart();
    let (same, after) = greet();
    assert_eq!(same, session);
    assert_ne!(before, after, "another process");
    let name = |greeting: &str| greeting.split_once(", from process").unwrap().0.to_owned();
    assert_eq!(name(&before), name(&after), "which knows the client's name");
}

/// A client that begins no new session when its own is lost.
async fn connect(url: &str) -> RunningService<RoleClient, ClientConfig> {
    let config = StreamableHttpClientTransportConfig::with_uri(url).reinit_on_expired_session(false);
    let mut client = ClientConfig::default().with_protocol_version(ProtocolVersion::LATEST_WITH_INITIALIZE);
    client.client_info.name = "the official client".to_owned();
    client.serve(StreamableHttpClientTransport::from_config(config)).await.unwrap()
}

/// Has the server greet, which it can only if it knows the session, and returns which process did.
async fn greet(client: &RunningService<RoleClient, ClientConfig>) -> String {
    let result = client.call_tool(CallToolRequestParams::new("greet")).await.unwrap();
    let greeting = &result.content[0].as_text().unwrap().text;
    greeting.strip_prefix("Hello, the official client, from ").unwrap().to_owned()
}

/// The example's process.
struct Server {
    process: Process,
    listen: String,
}

impl Server {
    fn start(dir: &Path) -> Server {
        let listen = format!("127.0.0.1:{}", free_port());
        let mut store = OsString::from("STORE=embedded:");
        store.push(dir);
        let arguments = [
            store,
            format!("LISTEN={listen}").into(),
            format!("{CHILD}=1").into(),
            std::env::current_exe().unwrap().into(),
            "--exact".into(),
            "survives::child".into(),
            "--nocapture".into(),
        ];
        let mut server = Server { process: Process::start("the example", "env", &arguments), listen };
        server.process.wait_until_answered(&server.url());
        server
    }

    fn url(&self) -> String {
        format!("http://{}/mcp", self.listen)
    }

    fn restart(&mut self) {
        self.process.kill9();
        self.process.start_again();
        self.process.wait_until_answered(&self.url());
    }
}
