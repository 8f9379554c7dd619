//! A stateless server for a test, and what tests ask of it.

use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use throughline_reference::instance::Instance;
use throughline_reference::stateless::{Keys, StatelessConfig, serve};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use crate::http::PATIENCE;
use crate::mcp::{Answer, MODERN, Mcp};

/// A stateless server on a port of its own, with a runtime of its own. It ends with the test.
pub(crate) struct Stateless {
    pub(crate) base: String,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Stateless {
    pub(crate) fn start(config: StatelessConfig) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a port");
        let base = format!("http://{}", listener.local_addr().expect("its address"));
        let (stop, stopped) = oneshot::channel();
        let shutdown = async { drop(stopped.await) };
        let thread = thread::spawn(move || {
            runtime.block_on(serve(listener, config, shutdown)).expect("serves");
            runtime.shutdown_background();
        });
        Self { base, stop: Some(stop), thread: Some(thread) }
    }

    /// One with this name and this list of keys.
    pub(crate) fn instance(name: &str, keys: &str) -> Self {
        Self::start(named(name, keys))
    }

    pub(crate) fn url(&self) -> String {
        format!("{}/mcp", self.base)
    }

    pub(crate) fn client(&self) -> Mcp {
        Mcp::new(self.url())
    }

    /// Tells it to stop, without waiting.
    pub(crate) fn stop(&mut self) {
        drop(self.stop.take());
    }
}

impl Drop for Stateless {
    fn drop(&mut self) {
        self.stop();
        let ended = self.thread.take().map(thread::JoinHandle::join);
        // A test that has failed already is not failed twice: that would abort the run.
        assert!(thread::panicking() || matches!(ended, Some(Ok(()))), "the server ends when it is told to");
    }
}

/// The settings of an instance with this name and this list of keys.
pub(crate) fn named(name: &str, keys: &str) -> StatelessConfig {
    let instance = Instance::named(name).expect("a name");
    StatelessConfig { instance, keys: Keys::parse(keys).expect("keys"), ..quick() }
}

/// The settings of a server that does not keep a failed test waiting.
pub(crate) fn quick() -> StatelessConfig {
    StatelessConfig { grace: PATIENCE, clock_tick: Duration::from_millis(50), ..StatelessConfig::default() }
}

/// A request of 2026-07-28, with all headers; `meta` is added to its `_meta`.
pub(crate) fn modern_with(client: &Mcp, method: &str, params: Value, meta: Value) -> Answer {
    let (client, params) = modernised(client, method, params, meta);
    client.request(method, params)
}

/// [`modern_with`], with what such a request has to have in `_meta` and no more.
pub(crate) fn modern(client: &Mcp, method: &str, params: Value) -> Answer {
    modern_with(client, method, params, json!({}))
}

/// The client with the headers, and the parameters with the `_meta`, of a request of 2026-07-28.
pub(crate) fn modernised(client: &Mcp, method: &str, mut params: Value, meta: Value) -> (Mcp, Value) {
    params["_meta"] = json!({
        "io.modelcontextprotocol/protocolVersion": MODERN,
        "io.modelcontextprotocol/clientCapabilities": {},
    });
    let members = params["_meta"].as_object_mut().expect("an object");
    members.extend(meta.as_object().expect("an object").clone());
    let mut client =
        client.clone().with_header("MCP-Protocol-Version", MODERN).with_header("Mcp-Method", method);
    if let Some(name) = params["name"].as_str().or(params["uri"].as_str()) {
        client = client.with_header("Mcp-Name", name);
    }
    (client, params)
}

/// The result of a tool, by a request of 2026-07-28.
pub(crate) fn call(client: &Mcp, tool: &str, arguments: Value) -> Value {
    call_with(client, tool, arguments, json!({}))
}

/// [`call`], with more in `_meta`.
pub(crate) fn call_with(client: &Mcp, tool: &str, arguments: Value, meta: Value) -> Value {
    let answer = modern_with(client, "tools/call", json!({"name": tool, "arguments": arguments}), meta);
    assert_eq!(answer.status, 200, "{tool}: {answer:?}");
    let result = answer.message()["result"].clone();
    assert_eq!(result["resultType"], "complete", "{tool}: {answer:?}");
    result
}

/// The structured content of a tool that must succeed.
pub(crate) fn content(client: &Mcp, tool: &str, arguments: Value) -> Value {
    let result = call(client, tool, arguments);
    assert_ne!(result["isError"], true, "{tool}: {result}");
    result["structuredContent"].clone()
}

/// What a tool says went wrong.
pub(crate) fn failure(client: &Mcp, tool: &str, arguments: Value) -> String {
    let result = call(client, tool, arguments);
    assert_eq!(result["isError"], true, "{tool}: {result}");
    result["content"][0]["text"].as_str().expect("a text").to_owned()
}
