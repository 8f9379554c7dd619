//! An MCP server whose sessions survive `kill -9`: `cargo run -p throughline-rmcp --example survives`

use rmcp::service::RequestContext;
use rmcp::transport::streamable_http_server::StreamableHttpServerConfig;
use rmcp::{RoleServer, tool, tool_router};
use throughline_rmcp::Sessions;

struct Greeter;

#[tool_router(server_handler)]
impl Greeter {
    #[tool(description = "Greets the client by the name that it gave when the session began")]
    async fn greet(&self, context: RequestContext<RoleServer>) -> String {
        let client = context.client_info().map(|client| client.name).unwrap_or_default();
        format!("Hello, {client}, from process {}.", std::process::id())
    }
}

#[tokio::main]
pub(crate) async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let setting = |name: &str, or: &str| std::env::var(name).unwrap_or(or.to_owned());

    let sessions = Sessions::open(&setting("STORE", "embedded:sessions")).await?;
    let service = sessions.service(|| Ok(Greeter), StreamableHttpServerConfig::default());
    let listener = tokio::net::TcpListener::bind(setting("LISTEN", "127.0.0.1:8000")).await?;
    Ok(axum::serve(listener, axum::Router::new().route_service("/mcp", service)).await?)
}
