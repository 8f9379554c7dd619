//! A whole tool list, as a client can take it.

use serde_json::{Map, Value};

use super::{Changes, Profile, Rewrite, cut, names};

/// Which tools of a server are shown, by their own names. `*` at the end of a name stands for the rest of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Only these, if there are any.
    pub allow: Vec<String>,
    /// Never these.
    pub deny: Vec<String>,
}

impl Selection {
    /// Whether it lets all tools pass.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.allow.is_empty() && self.deny.is_empty()
    }

    /// Whether it lets this tool pass.
    #[must_use]
    pub fn admits(&self, name: &str) -> bool {
        let listed = |list: &[String]| {
            list.iter().any(|entry| match entry.strip_suffix('*') {
                Some(beginning) => name.starts_with(beginning),
                None => entry == name,
            })
        };
        (self.allow.is_empty() || listed(&self.allow)) && !listed(&self.deny)
    }
}

/// A tool list that was rewritten.
#[derive(Debug, Default, PartialEq)]
pub struct Listed {
    /// The tools that are shown.
    pub tools: Vec<Value>,
    /// What was changed in each that was changed, by the server's names.
    pub changed: Vec<(String, Changes)>,
    /// What is not shown although the selection admits it, by the server's names.
    pub left_out: Vec<(String, Reason)>,
    /// The short names that were given, and what they stand for.
    pub renamed: Vec<(String, String)>,
}

/// Why a tool is not shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The list is full.
    TooMany,
    /// The list would be larger than the client takes.
    TooLarge,
    /// Another tool has its name.
    SameName,
    /// It has no name, or is no object.
    NoName,
}

impl Reason {
    /// In words.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::TooMany => "the list is full",
            Reason::TooLarge => "the list would be too large",
            Reason::SameName => "another tool has its name",
            Reason::NoName => "it has no name",
        }
    }
}

/// The tools of a server as this client can take them, in their order.
#[must_use]
pub fn list(profile: &Profile, selection: &Selection, tools: Vec<Value>) -> Listed {
    let mut listed = Listed::default();
    let mut taken = std::collections::HashSet::new();
    // The message around the list needs some bytes too.
    let mut room = profile.answer_bytes.map_or(usize::MAX, |most| most.saturating_sub(1024));
    for tool in tools {
        let Value::Object(tool) = tool else {
            listed.left_out.push((String::new(), Reason::NoName));
            continue;
        };
        let Some(name) = tool.get("name").and_then(Value::as_str).map(str::to_owned) else {
            listed.left_out.push((String::new(), Reason::NoName));
            continue;
        };
        if !selection.admits(&name) {
            continue;
        }
        if profile.tools.is_some_and(|most| listed.tools.len() >= most) {
            listed.left_out.push((name, Reason::TooMany));
            continue;
        }
        let (rewritten, changes) = one(profile, tool);
        let shown = rewritten.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
        let rewritten = Value::Object(rewritten);
        let size = if room == usize::MAX { 0 } else { rewritten.to_string().len() + 1 };
        if size > room {
            listed.left_out.push((name, Reason::TooLarge));
        } else if !taken.insert(shown.clone()) {
            listed.left_out.push((name, Reason::SameName));
        } else {
            room -= size;
            listed.tools.push(rewritten);
            if shown != name {
                listed.renamed.push((shown, name.clone()));
            }
            if !changes.is_empty() {
                listed.changed.push((name, changes));
            }
        }
    }
    listed
}

/// One tool. Members that nothing is known of stay as they are.
fn one(profile: &Profile, mut tool: Map<String, Value>) -> (Map<String, Value>, Changes) {
    let mut changes = Changes::default();
    if let (Some(most), Some(Value::String(name))) = (profile.name_length, tool.get_mut("name"))
        && let std::borrow::Cow::Owned(short) = names::short(name, most)
    {
        *name = short;
        changes.count(Rewrite::Renamed);
    }
    if let (Some(most), Some(Value::String(text))) = (profile.tool_description, tool.get_mut("description"))
        && let Some(shorter) = cut(text, most)
    {
        *text = shorter;
        changes.count(Rewrite::Shortened);
    }
    for name in ["inputSchema", "outputSchema"].iter().filter(|_| profile.rewrites_schemas()) {
        let name = *name;
        let schema = match tool.get(name) {
            Some(schema) => schema,
            None if name == "inputSchema" => &Value::Null,
            None => continue,
        };
        let (rewritten, made) = profile.schema(schema);
        tool.insert(name.to_owned(), rewritten);
        changes.add(&made);
    }
    (tool, changes)
}
