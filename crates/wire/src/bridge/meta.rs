//! The members of `_meta` that revision 2026-07-28 reserves (Base Protocol, "`_meta`").

/// Of every request: the protocol version that it speaks.
pub const VERSION: &str = "io.modelcontextprotocol/protocolVersion";
/// Of every request: name and version of the client.
pub const CLIENT_INFO: &str = "io.modelcontextprotocol/clientInfo";
/// Of every request: what the client can be asked.
pub const CLIENT_CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";
/// Of a request: the least severe log messages that it wants to see.
pub const LOG_LEVEL: &str = "io.modelcontextprotocol/logLevel";
/// Of what a `subscriptions/listen` stream carries: raw JSON of the id of the request that opened it.
pub const SUBSCRIPTION_ID: &str = "io.modelcontextprotocol/subscriptionId";
/// Of a result: name and version of the server.
pub const SERVER_INFO: &str = "io.modelcontextprotocol/serverInfo";
