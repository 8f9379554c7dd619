//! What a REST request asks for: the message that an MCP client would have sent.

use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use hyper::body::Incoming;
use serde_json::{Value, json};
use throughline_wire::envelope;
use throughline_wire::headers::{LAST_EVENT_ID, MCP_METHOD, MCP_NAME, MCP_PROTOCOL_VERSION, MCP_SESSION_ID};
use throughline_wire::splice::{remove_member, set_member, splice};
use throughline_wire::{jsonrpc, method};

use super::Asked;
use super::describe::Document;
use super::later;
use crate::app::Core;
use crate::classify::{self, Arrived, What};
use crate::error::Fault;
use crate::peer::Peer;
use crate::urls::{parameter, unescaped};

/// The member of a body, and the parameter of a query, that names a session.
const SESSION_ID: &str = "sessionId";
/// The revision that a REST client speaks without knowing it.
const VERSION: &str = "2025-11-25";

/// A request that was understood.
pub(super) struct Call {
    pub(super) arrived: Arrived,
    pub(super) wanted: Wanted,
}

/// What is to become of the message's answer.
pub(super) enum Wanted {
    /// A tool's result.
    Tool,
    /// The same, now if it is there in this time, else later.
    Later(Duration),
    /// What became of a call that was to be asked for later.
    Outcome(String),
    /// That call's end.
    Cancel(String),
    /// The result as it is.
    Result,
    /// All pages of a list; its member.
    List(&'static str),
    /// A description of all tools.
    Document(Document),
    /// A session.
    Initialize,
    /// The answer as it is.
    Message,
    /// The session's end.
    End,
}

/// Reads a request.
pub(super) async fn read(
    core: &Core,
    peer: Peer,
    asked: Asked,
    mut parts: Parts,
    body: &mut Incoming,
) -> Result<Call, Fault> {
    let app = &core.app;
    let body = match parts.method {
        Method::POST => json_body(core, &parts.headers, body).await?,
        _ => Bytes::new(),
    };
    let segments: Vec<&str> = asked.below.trim_matches('/').split('/').collect();
    let query = parts.uri.query().unwrap_or_default().to_owned();
    let list = |method: &str, member| Ok((request(method, None), Wanted::List(member)));
    let named = |name: &str| unescaped(name).ok_or(Fault::NoRoute);
    let what = match (&parts.method, segments.as_slice()) {
        (&Method::GET, ["tools"]) => list(method::TOOLS_LIST, "tools"),
        (&Method::GET, ["resources"]) => list(method::RESOURCES_LIST, "resources"),
        (&Method::GET, ["resources", "templates"]) => list(method::TEMPLATES_LIST, "resourceTemplates"),
        (&Method::GET, ["prompts"]) => list(method::PROMPTS_LIST, "prompts"),
        (&Method::GET, ["openapi.json"]) => {
            Ok((request(method::TOOLS_LIST, None), Wanted::Document(Document::OpenApi)))
        }
        (&Method::GET, ["swagger.json"]) => {
            Ok((request(method::TOOLS_LIST, None), Wanted::Document(Document::Swagger)))
        }
        (&Method::POST, ["tools", name]) => {
            let wanted = later::preferred(&parts.headers).map_or(Wanted::Tool, Wanted::Later);
            Ok((request(method::TOOLS_CALL, Some(&with_arguments(&named(name)?, &body)?)), wanted))
        }
        (&Method::POST, ["prompts", name]) => {
            Ok((request(method::PROMPTS_GET, Some(&with_arguments(&named(name)?, &body)?)), Wanted::Result))
        }
        (&Method::GET, ["resources", "read"]) => {
            let uri =
                parameter(&query, "uri").ok_or(Fault::Rest("the query needs uri, the resource to read"))?;
            Ok((
                request(method::RESOURCES_READ, Some(json!({ "uri": uri }).to_string().as_bytes())),
                Wanted::Result,
            ))
        }
        (&Method::POST, ["resources", "read"]) => {
            Ok((request(method::RESOURCES_READ, Some(object(&body)?)), Wanted::Result))
        }
        (&Method::POST, ["initialize"]) => {
            Ok((request(method::INITIALIZE, Some(&initialize_params(&body)?)), Wanted::Initialize))
        }
        (&Method::POST, ["message"]) => Ok((message(&body, &mut parts.headers)?, Wanted::Message)),
        (&Method::DELETE, ["session"]) => Ok((Bytes::new(), Wanted::End)),
        (&Method::GET, ["calls", id]) => Ok((Bytes::new(), Wanted::Outcome(named(id)?))),
        (&Method::DELETE, ["calls", id]) => Ok((Bytes::new(), Wanted::Cancel(named(id)?))),
        (_, segments) => Err(nothing_there(segments)),
    };
    let (message, wanted) = what?;
    if asked.route.config.rest.session_in_query
        && let Some(id) = parameter(&query, SESSION_ID)
    {
        hold(&mut parts.headers, &id)?;
    }
    // What is said of a message of the protocol is not said of this one.
    for name in [MCP_PROTOCOL_VERSION, MCP_METHOD, MCP_NAME, LAST_EVENT_ID] {
        parts.headers.remove(name);
    }
    let what = match wanted {
        Wanted::End => What::Close,
        Wanted::Outcome(_) | Wanted::Cancel(_) => What::Listen(None),
        _ => classify::what(app, message)?,
    };
    let arrived = classify::made(core, asked.route, peer, parts, what).await?;
    Ok(Call { arrived, wanted })
}

fn nothing_there(segments: &[&str]) -> Fault {
    match segments {
        ["tools" | "prompts", _] | ["initialize" | "message"] => Fault::Method("POST"),
        ["tools" | "resources" | "prompts" | "openapi.json" | "swagger.json"]
        | ["resources", "templates"] => Fault::Method("GET"),
        ["resources", "read"] => Fault::Method("GET, POST"),
        ["session"] => Fault::Method("DELETE"),
        ["calls", _] => Fault::Method("GET, DELETE"),
        _ => Fault::NoRoute,
    }
}

/// The body, which is JSON where there is one: a page in a browser cannot send that unasked.
async fn json_body(core: &Core, headers: &HeaderMap, body: &mut Incoming) -> Result<Bytes, Fault> {
    if headers.contains_key(CONTENT_TYPE) && !classify::is_plain_json(headers) {
        return Err(Fault::ContentType);
    }
    let read = classify::read_within(core, body).await?;
    if !read.is_empty() && !headers.contains_key(CONTENT_TYPE) {
        return Err(Fault::ContentType);
    }
    Ok(read)
}

/// A request that the gateway makes; the id never leaves it, or only where it is unique.
fn request(method: &str, params: Option<&[u8]>) -> Bytes {
    jsonrpc::request("1", method, params).into()
}

/// The body as one JSON object; an empty one where there is none.
fn object(body: &[u8]) -> Result<&[u8], Fault> {
    let body = body.trim_ascii();
    if body.is_empty() {
        return Ok(b"{}");
    }
    // To look for a member is to check that it is one object, and nothing behind it.
    envelope::member(body, "").map_err(|_| Fault::Rest("the body must be one JSON object"))?;
    Ok(body)
}

fn with_arguments(name: &str, body: &[u8]) -> Result<Vec<u8>, Fault> {
    let name = Value::from(name).to_string();
    Ok([b"{\"name\":", name.as_bytes(), b",\"arguments\":", object(body)?, b"}"].concat())
}

/// Parameters of `initialize`: what the client left out is said for it.
fn initialize_params(body: &[u8]) -> Result<Vec<u8>, Fault> {
    let client = concat!(r#"{"name":"rest","version":""#, env!("CARGO_PKG_VERSION"), r#""}"#);
    let version = format!("{VERSION:?}");
    let mut params = object(body)?.to_vec();
    for (name, value) in [("clientInfo", client), ("capabilities", "{}"), ("protocolVersion", &version)] {
        if envelope::member(&params, name)?.is_none() {
            let edit = set_member(&params, &(0..params.len()), name, value.as_bytes())?;
            params = splice(&params, &mut [edit]);
        }
    }
    // It cannot be asked anything, whatever it says.
    let edit = set_member(&params, &(0..params.len()), "capabilities", b"{}")?;
    Ok(splice(&params, &mut [edit]))
}

/// A message of the protocol; what it lacks in form is added, and the session that it names goes where it belongs.
fn message(body: &[u8], headers: &mut HeaderMap) -> Result<Bytes, Fault> {
    let mut message = object(body)?.to_vec();
    if let Some(at) = envelope::member(&message, SESSION_ID)? {
        if let Some(id) = envelope::string_value(&message[at]).filter(|id| !id.is_empty()) {
            hold(headers, &id)?;
        }
        if let Some(edit) = remove_member(&message, &(0..message.len()), SESSION_ID)? {
            message = splice(&message, &mut [edit]);
        }
    }
    let text = |name: &str| -> Result<Option<String>, Fault> {
        let at = envelope::member(&message, name)?;
        Ok(at.and_then(|at| envelope::string_value(&message[at]).map(std::borrow::Cow::into_owned)))
    };
    let is_question = text("method")?.is_some_and(|method| !method.starts_with("notifications/"));
    let lacks_id = is_question && envelope::member(&message, "id")?.is_none();
    let lacks_version = envelope::member(&message, "jsonrpc")?.is_none();
    for (lacks, name, value) in [(lacks_id, "id", &b"1"[..]), (lacks_version, "jsonrpc", b"\"2.0\"")] {
        if lacks {
            let edit = set_member(&message, &(0..message.len()), name, value)?;
            message = splice(&message, &mut [edit]);
        }
    }
    Ok(message.into())
}

/// Puts a session's id where MCP has it.
fn hold(headers: &mut HeaderMap, id: &str) -> Result<(), Fault> {
    let id = HeaderValue::from_str(id).map_err(|_| Fault::SessionUnknown)?;
    headers.insert(HeaderName::from_static(MCP_SESSION_ID), id);
    Ok(())
}
