//! What a server has: tools, prompts, resources and templates of resources.

use std::fmt::Write as _;

use rmcp::model::PaginatedRequestParams;
use rmcp::service::ServiceError;
use rmcp::{Peer, RoleClient};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::client::{Answer, Client, Ended};
use crate::text;

/// A server that still has another page then has no end.
const MAX_PAGES: usize = 1000;
/// How much of a description is shown, in characters.
const DESCRIPTION: usize = 80;
const METHOD_NOT_FOUND: i32 = -32601;

/// The lists, in the order in which they are shown.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Tools,
    Prompts,
    Resources,
    Templates,
}

impl Kind {
    pub(crate) const ALL: [Kind; 4] = [Kind::Tools, Kind::Prompts, Kind::Resources, Kind::Templates];

    /// The member of a page that holds it.
    pub(crate) fn member(self) -> &'static str {
        match self {
            Kind::Tools => "tools",
            Kind::Prompts => "prompts",
            Kind::Resources => "resources",
            Kind::Templates => "resourceTemplates",
        }
    }

    /// Its name for people.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Kind::Tools => "Tools",
            Kind::Prompts => "Prompts",
            Kind::Resources => "Resources",
            Kind::Templates => "Resource templates",
        }
    }

    async fn page(self, peer: &Peer<RoleClient>, cursor: Option<String>) -> Result<(), ServiceError> {
        let params = Some(PaginatedRequestParams::default().with_cursor(cursor));
        match self {
            Kind::Tools => peer.list_tools(params).await.map(drop),
            Kind::Prompts => peer.list_prompts(params).await.map(drop),
            Kind::Resources => peer.list_resources(params).await.map(drop),
            Kind::Templates => peer.list_resource_templates(params).await.map(drop),
        }
    }
}

/// One list, of all its pages.
pub(crate) struct List {
    pub(crate) kind: Kind,
    items: Vec<Box<RawValue>>,
    /// How long it may be kept, and by whom, as its first page says.
    pub(crate) hints: Value,
}

/// All lists that the server has.
pub(crate) struct Lists(pub(crate) Vec<List>);

/// Asks for all of them.
pub(crate) async fn all(client: &Client) -> Result<Lists, Ended> {
    let server = client.server();
    let has = serde_json::to_value(&server.capabilities).unwrap_or_default();
    let is_there = |kind: Kind| match kind {
        Kind::Tools => has.get("tools").is_some(),
        Kind::Prompts => has.get("prompts").is_some(),
        Kind::Resources | Kind::Templates => has.get("resources").is_some(),
    };
    let mut lists = Vec::new();
    for kind in Kind::ALL.into_iter().filter(|kind| is_there(*kind)) {
        lists.push(one(client, kind).await?);
    }
    Ok(Lists(lists))
}

async fn one(client: &Client, kind: Kind) -> Result<List, Ended> {
    let mut list = List { kind, items: Vec::new(), hints: Value::Null };
    let mut cursor = None;
    for page in 0..MAX_PAGES {
        let answer = match client.ask(async |peer| kind.page(peer, cursor).await).await {
            Ok(answer) => answer,
            // Servers with resources need not have templates of them.
            Err(Ended::Refused { code: METHOD_NOT_FOUND, .. }) => return Ok(list),
            Err(ended) => return Err(ended),
        };
        if page == 0 {
            list.hints =
                json!({ "ttlMs": answer.result["ttlMs"], "cacheScope": answer.result["cacheScope"] });
        }
        cursor = answer.result["nextCursor"].as_str().map(str::to_owned);
        list.items.extend(items(kind, &answer));
        if cursor.is_none() {
            return Ok(list);
        }
    }
    Err(Ended::Failed(format!("{} has more than {MAX_PAGES} pages", kind.member())))
}

/// A page's items, as they came.
fn items(kind: Kind, answer: &Answer) -> Vec<Box<RawValue>> {
    let page: Option<std::collections::HashMap<String, Box<RawValue>>> =
        serde_json::from_str(answer.raw.get()).ok();
    let items = page.and_then(|page| serde_json::from_str(page.get(kind.member())?.get()).ok());
    items.unwrap_or_default()
}

impl Lists {
    /// All of it on one line: the server's greeting, and each list as the server sent it.
    pub(crate) fn json(&self, client: &Client) -> String {
        let mut line = format!("{{\"server\":{}", client.greeting.line());
        for list in &self.0 {
            let items: Vec<_> = list.items.iter().map(|item| item.get().replace(['\n', '\r'], " ")).collect();
            let _ = write!(line, ",\"{}\":[{}]", list.kind.member(), items.join(","));
        }
        line + "}\n"
    }

    /// For people.
    pub(crate) fn table(&self, client: &Client) -> String {
        let mut shown = server(client);
        for list in &self.0 {
            if list.is_empty() {
                let _ = write!(shown, "\n{}: none\n", list.kind.title());
            } else {
                let heading = format!("{} ({})", list.kind.title(), list.len());
                let rows: Vec<_> = list.values().map(|item| row(list.kind, &item)).collect();
                let _ = write!(shown, "\n{}", text::table(&heading, &rows));
            }
        }
        if self.0.is_empty() {
            shown += "\nIt has no tools, prompts or resources.\n";
        }
        shown
    }

    /// One of its tools.
    pub(crate) fn tool(&self, name: &str) -> Option<Value> {
        self.0.iter().find(|list| list.kind == Kind::Tools)?.values().find(|tool| tool["name"] == name)
    }
}

impl List {
    pub(crate) fn len(&self) -> usize {
        self.items.len()
    }

    fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    fn values(&self) -> impl Iterator<Item = Value> {
        self.items.iter().filter_map(|item| serde_json::from_str(item.get()).ok())
    }
}

/// Who the server is, in a line or two.
pub(crate) fn server(client: &Client) -> String {
    let server = client.server();
    let name = server.server_info.as_ref().map(|info| format!("{} {}", info.name, info.version));
    let name = name.unwrap_or_else(|| "a server without a name".to_owned());
    let era = if client.is_modern() { "modern: no handshake" } else { "legacy: with a handshake" };
    let mut shown = format!("{}, {} ({era})\n", text::line(&name, 2 * DESCRIPTION), server.protocol_version);
    if let Some(instructions) = server.instructions.as_deref().filter(|text| !text.trim().is_empty()) {
        let _ = writeln!(shown, "  {}", text::line(instructions, 2 * DESCRIPTION));
    }
    shown
}

fn row(kind: Kind, item: &Value) -> Vec<String> {
    let name = |member: &str| text::line(item[member].as_str().unwrap_or("(no name)"), DESCRIPTION);
    let description = text::line(item["description"].as_str().unwrap_or_default(), DESCRIPTION);
    match kind {
        Kind::Tools => vec![format!("{}{}", name("name"), parameters(item)), hints(item), description],
        Kind::Prompts => vec![format!("{}{}", name("name"), prompt_arguments(item)), description],
        Kind::Resources => vec![name("uri"), name("name"), description],
        Kind::Templates => vec![name("uriTemplate"), name("name"), description],
    }
}

/// As in `(message, times?)`: what may be left out has a question mark.
fn parameters(tool: &Value) -> String {
    let schema = &tool["inputSchema"];
    let Some(properties) = schema["properties"].as_object() else { return "()".to_owned() };
    let is_required = |name: &str| {
        let names = schema["required"].as_array();
        names.is_some_and(|names| names.iter().any(|required| required == name))
    };
    let shown = |name: &String| format!("{name}{}", if is_required(name) { "" } else { "?" });
    let shown = properties.keys().map(shown).collect::<Vec<_>>().join(", ");
    format!("({})", text::line(&shown, DESCRIPTION))
}

fn prompt_arguments(prompt: &Value) -> String {
    let arguments = prompt["arguments"].as_array().map(Vec::as_slice).unwrap_or_default();
    let shown = |argument: &Value| {
        let optional = if argument["required"] == true { "" } else { "?" };
        Some(format!("{}{optional}", argument["name"].as_str()?))
    };
    let shown = arguments.iter().filter_map(shown).collect::<Vec<_>>().join(", ");
    format!("({})", text::line(&shown, DESCRIPTION))
}

/// What the tool says of itself: hints, which nothing guarantees.
fn hints(tool: &Value) -> String {
    let annotations = &tool["annotations"];
    let says = |name: &str| annotations[name] == true;
    if says("readOnlyHint") {
        "reads".to_owned()
    } else if says("idempotentHint") {
        "repeatable".to_owned()
    } else if says("destructiveHint") {
        "destroys".to_owned()
    } else {
        String::new()
    }
}
