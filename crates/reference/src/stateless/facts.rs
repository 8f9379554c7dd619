//! What the server knows: read only, compiled in, and so the same on every instance.

use rmcp::model::{Resource, ResourceContents, ResourceTemplate};

/// In the order of their topics, which is the order of every list of them.
const FACTS: [(&str, &str); 7] = [
    (
        "app-service",
        "Azure App Service spreads requests over its instances as long as client affinity is off; with it on, a \
         cookie ties each client to one of them.",
    ),
    (
        "deployment-slots",
        "A deployment slot is a second live copy of a web app: a new version is warmed up there and then swapped in.",
    ),
    (
        "handles",
        "Where a protocol has no sessions, a tool that goes on from call to call gives its caller a handle and is \
         given it back. The handle is signed, since callers may change it.",
    ),
    (
        "mcp",
        "The Model Context Protocol connects applications that use language models with servers that offer tools, \
         resources and prompts.",
    ),
    (
        "sessions",
        "Revisions of MCP up to 2025-11-25 begin with a handshake and may have a session, whose id is in the header \
         Mcp-Session-Id. It is known only to the server that made it, unless somebody keeps it elsewhere.",
    ),
    (
        "stateless",
        "From revision 2026-07-28 on each request of MCP says for itself which version it is and what its client \
         can do, so that any instance can answer it.",
    ),
    (
        "trace-context",
        "W3C Trace Context travels in the header traceparent, and with MCP also in a request's _meta, so that it \
         gets through transports that have no headers.",
    ),
];

/// The template of the facts' URIs.
const TEMPLATE: &str = "fact://{topic}";
const MIME_TYPE: &str = "text/plain";

/// The fact about a topic, in whatever case that is written.
pub(super) fn about(topic: &str) -> Option<(&'static str, &'static str)> {
    let topic = topic.trim();
    FACTS.into_iter().find(|(known, _)| known.eq_ignore_ascii_case(topic))
}

/// All topics, with commas between them.
pub(super) fn topics() -> String {
    FACTS.map(|(topic, _)| topic).join(", ")
}

/// The resource that holds the fact about a topic.
pub(super) fn uri(topic: &str) -> String {
    TEMPLATE.replace("{topic}", topic)
}

/// The facts as resources.
pub(super) fn resources() -> impl Iterator<Item = Resource> {
    FACTS.into_iter().map(|(topic, fact)| {
        Resource::new(uri(topic), topic)
            .with_description(format!("A fact about {topic}."))
            .with_mime_type(MIME_TYPE)
            .with_size(fact.len() as u64)
    })
}

/// How the facts' URIs are made.
pub(super) fn template() -> ResourceTemplate {
    ResourceTemplate::new(TEMPLATE, "fact")
        .with_description("The fact about a topic; the resources are all there are.")
        .with_mime_type(MIME_TYPE)
}

/// The contents of the resource at `uri`, if it is a fact's.
pub(super) fn read(uri: &str) -> Option<ResourceContents> {
    let (topic, fact) = FACTS.into_iter().find(|(topic, _)| self::uri(topic) == uri)?;
    Some(ResourceContents::text(fact, self::uri(topic)).with_mime_type(MIME_TYPE))
}
