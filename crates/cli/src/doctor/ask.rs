//! The questions: each is a request that some client sends.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri};
use serde_json::{Value, json};
use throughline_gateway::config::Overrides;
use throughline_gateway::deadlines::Deadlines;
use throughline_gateway::upstream::destination::Destination;
use throughline_gateway::upstream::http::{Answer, Endpoint};
use throughline_gateway::upstream::{self, Head, Looked};
use throughline_gateway::{Config, Effects};
use throughline_wire::era::{Probe, discover};
use throughline_wire::loss::{self, Verdict};

use crate::Failure;

const LIMIT: usize = 16 << 20;
/// How long a question may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// Pages of the tool list.
const MAX_PAGES: usize = 64;
const MODERN: &str = "2026-07-28";
const LEGACY: [&str; 4] = ["2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05"];

/// The server.
pub(super) struct Patient {
    endpoint: Rc<Endpoint>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

/// What was learnt.
#[derive(Debug, Default)]
pub(super) struct Facts {
    pub(super) server: String,
    /// The revisions that it speaks, the newest first.
    pub(super) revisions: Vec<String>,
    pub(super) modern: bool,
    pub(super) legacy: bool,
    /// Whether it gives a session id.
    pub(super) sessions: bool,
    /// Whether a Throughline answers already.
    pub(super) kept: bool,
    /// What a request in a session that is not there is answered: status, code, text.
    pub(super) lost: Option<Reply>,
    /// Whether the gateway knows that answer for a lost session.
    pub(super) loss_is_known: bool,
    /// What a request without an id is answered.
    pub(super) without_id: Option<Reply>,
    /// What GET is answered.
    pub(super) stream: Option<u16>,
    /// Whether its streams carry event ids.
    pub(super) resumable: bool,
    pub(super) answers_in_streams: bool,
    pub(super) tools: Vec<Value>,
    /// After so long, whether the session was still there.
    pub(super) idle: Option<(Duration, bool)>,
    /// The tool that was called, and what came of it.
    pub(super) called: Option<(String, Reply)>,
}

/// An answer in short.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) code: Option<i64>,
    pub(super) text: String,
}

impl Reply {
    /// Whether the request was carried out.
    pub(super) fn is_result(&self) -> bool {
        self.status == 200 && self.code.is_none()
    }
}

/// An answer whole.
struct Got {
    status: StatusCode,
    headers: HeaderMap,
    body: Vec<u8>,
    streamed: bool,
    event_ids: bool,
}

impl Got {
    fn message(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    fn reply(&self) -> Reply {
        let message = self.message();
        let error = &message["error"];
        let text = error["message"].as_str().map(str::to_owned);
        let text = text.unwrap_or_else(|| String::from_utf8_lossy(&self.body).chars().take(80).collect());
        let clean = |c: char| if c.is_control() { ' ' } else { c };
        Reply {
            status: self.status.as_u16(),
            code: error.is_object().then(|| error["code"].as_i64().unwrap_or_default()),
            text: text.chars().map(clean).collect(),
        }
    }
}

impl Patient {
    pub(super) fn at(url: &Uri, headers: Vec<(HeaderName, HeaderValue)>) -> Result<Self, Failure> {
        let mut config = Config::for_upstream(&url.to_string())?;
        config.apply(Overrides::from_env(&|name| std::env::var(name).ok())?);
        let to = Destination::of_url(&config, url.clone())?;
        Ok(Patient { endpoint: Endpoint::new(Arc::new(to), Effects::REAL, Deadlines::new()), headers })
    }

    pub(super) async fn examine(&self, idle: Option<Duration>, call: Option<&str>) -> Result<Facts, Failure> {
        let mut facts = Facts::default();
        self.modern(&mut facts).await?;
        let session = self.initialize(&mut facts).await?;
        if !facts.legacy && !facts.modern {
            return Err(
                "what answers there speaks no revision of MCP; is it the endpoint, down to its path?".into(),
            );
        }
        if facts.legacy {
            self.sessions(&mut facts, session.as_ref()).await?;
        }
        self.list(&mut facts, session.as_ref()).await?;
        if let Some(wait) = idle.filter(|_| session.is_some()) {
            tokio::time::sleep(wait).await;
            let ping = self.post(request("ping", json!({})), session.as_ref(), None).await?;
            facts.idle = Some((wait, ping.reply().is_result()));
        }
        if let Some(tool) = call {
            let called = request("tools/call", json!({ "name": tool, "arguments": {} }));
            let reply = self.ask(&facts, called, session.as_ref()).await?.reply();
            facts.called = Some((tool.to_owned(), reply));
        }
        if let Some(session) = &session {
            self.send(Method::DELETE, HeaderMap::new(), Vec::new(), Some(session), None).await.ok();
        }
        Ok(facts)
    }

    async fn modern(&self, facts: &mut Facts) -> Result<(), Failure> {
        let got = self.post(request("server/discover", meta()), None, Some("server/discover")).await?;
        facts.modern = discover(got.status.as_u16(), &got.body) == Probe::Modern;
        if facts.modern {
            let result = &got.message()["result"];
            let versions = result["supportedVersions"].as_array().cloned().unwrap_or_default();
            facts.revisions.extend(versions.iter().filter_map(Value::as_str).map(str::to_owned));
            facts.server = named(&result["serverInfo"]);
        }
        Ok(())
    }

    /// Opens a session in the newest legacy revision that the server agrees to, and asks for the others.
    async fn initialize(&self, facts: &mut Facts) -> Result<Option<HeaderValue>, Failure> {
        let mut session = None;
        for version in LEGACY {
            let params = json!({
                "protocolVersion": version,
                "capabilities": {},
                "clientInfo": { "name": "throughline-doctor", "version": env!("CARGO_PKG_VERSION") },
            });
            let got = self.post(request("initialize", params), None, None).await?;
            let result = &got.message()["result"];
            let Some(agreed) = result["protocolVersion"].as_str().filter(|_| got.status.is_success()) else {
                continue;
            };
            let id = got.headers.get("mcp-session-id").cloned();
            if !facts.revisions.iter().any(|known| known == agreed) {
                facts.revisions.push(agreed.to_owned());
            }
            if !facts.legacy {
                facts.legacy = true;
                facts.server = named(&result["serverInfo"]);
                facts.sessions = id.is_some();
                facts.kept = got.headers.contains_key("throughline-instance");
                facts.answers_in_streams = got.streamed;
                facts.resumable = got.event_ids;
                let told = json!({ "jsonrpc": "2.0", "method": "notifications/initialized" });
                self.post(told, id.as_ref(), None).await?;
                session = id;
            } else if let Some(id) = id {
                self.send(Method::DELETE, HeaderMap::new(), Vec::new(), Some(&id), None).await.ok();
            }
        }
        Ok(session)
    }

    /// How it treats requests in a session that is not there, without one, and GET.
    async fn sessions(&self, facts: &mut Facts, session: Option<&HeaderValue>) -> Result<(), Failure> {
        let unknown = HeaderValue::from_static("00000000-0000-4000-8000-000000000000");
        let lost = self.post(request("tools/list", json!({})), Some(&unknown), None).await?;
        facts.loss_is_known = is_loss(&lost);
        facts.lost = Some(lost.reply());
        facts.without_id = Some(self.post(request("tools/list", json!({})), None, None).await?.reply());
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static("text/event-stream"));
        let asked = self.begin(Method::GET, headers, Vec::new(), session, None);
        // A stream that is opened and says nothing is one.
        facts.stream = match tokio::time::timeout(PATIENCE, asked).await {
            Ok(Ok(answer)) => Some(answer.status.as_u16()),
            _ => None,
        };
        Ok(())
    }

    async fn list(&self, facts: &mut Facts, session: Option<&HeaderValue>) -> Result<(), Failure> {
        let mut params = json!({});
        for _ in 0..MAX_PAGES {
            let got = self.ask(facts, request("tools/list", params), session).await?;
            facts.answers_in_streams |= got.streamed;
            facts.resumable |= got.event_ids;
            let result = got.message()["result"].clone();
            facts.tools.extend(result["tools"].as_array().cloned().unwrap_or_default());
            match result["nextCursor"].as_str() {
                Some(cursor) => params = json!({ "cursor": cursor }),
                None => break,
            }
        }
        Ok(())
    }

    /// A request in whichever era the server speaks.
    async fn ask(
        &self,
        facts: &Facts,
        mut message: Value,
        session: Option<&HeaderValue>,
    ) -> Result<Got, Failure> {
        if facts.legacy {
            return self.post(message, session, None).await;
        }
        message["params"]["_meta"] = meta()["_meta"].clone();
        let method = message["method"].as_str().unwrap_or_default().to_owned();
        self.post(message, None, Some(&method)).await
    }

    async fn post(
        &self,
        message: Value,
        session: Option<&HeaderValue>,
        modern: Option<&str>,
    ) -> Result<Got, Failure> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, upstream::ACCEPT_BOTH);
        headers.insert(CONTENT_TYPE, upstream::JSON);
        if let (Some(_), Some(name)) = (modern, message["params"]["name"].as_str()) {
            headers.insert("mcp-name", HeaderValue::from_str(name)?);
        }
        self.send(Method::POST, headers, message.to_string().into_bytes(), session, modern).await
    }

    async fn send(
        &self,
        method: Method,
        headers: HeaderMap,
        body: Vec<u8>,
        session: Option<&HeaderValue>,
        modern: Option<&str>,
    ) -> Result<Got, Failure> {
        let whole = async {
            let answer = self.begin(method, headers, body, session, modern).await?;
            let looked = Looked::at(answer, LIMIT).await?;
            let (status, headers, streamed) = (looked.status, looked.headers.clone(), looked.is_stream());
            let event_ids = match &looked.head {
                Head::Events(_, frames) => frames.iter().any(|frame| frame.id().is_some()),
                Head::Plain(_) => false,
            };
            let body = looked.response(None, LIMIT, |_| {}).await.map_err(|fault| fault.to_string())?;
            Ok::<_, Failure>(Got { status, headers, body: body.to_vec(), streamed, event_ids })
        };
        tokio::time::timeout(PATIENCE, whole).await.unwrap_or_else(|_| Err("no answer within 30 s".into()))
    }

    async fn begin(
        &self,
        method: Method,
        mut headers: HeaderMap,
        body: Vec<u8>,
        session: Option<&HeaderValue>,
        modern: Option<&str>,
    ) -> Result<Answer, Failure> {
        if let Some(id) = session {
            headers.insert("mcp-session-id", id.clone());
        }
        if let Some(method) = modern {
            headers.insert("mcp-protocol-version", HeaderValue::from_static(MODERN));
            headers.insert("mcp-method", HeaderValue::from_str(method)?);
        }
        for (name, value) in &self.headers {
            headers.insert(name.clone(), value.clone());
        }
        let sent = self.endpoint.send_now(method, headers, body.into()).await;
        sent.map_err(|error| {
            format!("no MCP server answers at {}: {error}", self.endpoint.destination().uri).into()
        })
    }
}

/// Whether the gateway would take this answer for that of a lost session.
fn is_loss(got: &Got) -> bool {
    let verdict = loss::verdict(&loss::Answer {
        status: got.status.as_u16(),
        content_type: got.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()),
        www_authenticate: got.headers.contains_key("www-authenticate"),
        head: &got.body,
        session_sent: true,
    });
    !matches!(verdict, Verdict::Alive)
}

fn request(method: &str, params: Value) -> Value {
    json!({ "jsonrpc": "2.0", "id": "doctor", "method": method, "params": params })
}

/// What every request of revision 2026-07-28 carries.
fn meta() -> Value {
    json!({ "_meta": {
        "io.modelcontextprotocol/protocolVersion": MODERN,
        "io.modelcontextprotocol/clientCapabilities": {},
        "io.modelcontextprotocol/clientInfo": { "name": "throughline-doctor", "version": env!("CARGO_PKG_VERSION") },
    } })
}

fn named(info: &Value) -> String {
    let text = |name: &str| {
        info[name].as_str().unwrap_or("?").chars().filter(|c| !c.is_control()).take(80).collect::<String>()
    };
    format!("{} {}", text("name"), text("version"))
}
