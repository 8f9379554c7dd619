//! Results that are larger than a client takes: cut, with a notice that a model can read.

use serde_json::{Map, Value, json};

/// Least room worth filling with the beginning of a text, in bytes.
const WORTH: usize = 256;

/// A JSON-RPC response of at most `most` bytes in the place of a larger one; None where this is no response whose parts
/// can be left out one by one (texts of a tool, a resource or a prompt).
#[must_use]
pub fn shortened(response: &[u8], most: usize) -> Option<Vec<u8>> {
    let mut response: Map<String, Value> = serde_json::from_slice(response).ok()?;
    let whole = json_len(&response);
    let Some(Value::Object(mut result)) = response.shift_remove("result") else { return None };
    let kind = KINDS.iter().find(|kind| result.contains_key(kind.list) || kind.may_lack_it(&result))?;
    let parts = match result.shift_remove(kind.list) {
        Some(Value::Array(parts)) => parts,
        Some(_) => return None,
        None => Vec::new(),
    };
    // The same in another form, as a rule; half of it would not be what the tool's schema says.
    let structured = result.shift_remove("structuredContent");
    let parts = match structured {
        Some(structured) if parts.is_empty() => vec![kind.text(&structured.to_string(), None)],
        _ => parts,
    };
    let notice = format!(
        "[Cut by the gateway: this result has {whole} bytes, and this client takes {most}. Ask for less at a time, for \
         example by a filter or in pages.]"
    );
    let notice = kind.text(&notice, parts.first());
    let around = json_len(&response) + json_len(&result) + json_len(&notice) + kind.list.len() + 32;
    let mut room = most.checked_sub(around)?;
    let mut kept = Vec::new();
    for part in parts {
        let len = json_len(&part) + 1;
        if len <= room {
            room -= len;
            kept.push(part);
            continue;
        }
        if let Some(beginning) = (kind.beginning)(&part, room).filter(|_| room >= WORTH) {
            kept.push(beginning);
        }
        break;
    }
    kept.push(notice);
    result.insert(kind.list.to_owned(), kept.into());
    response.insert("result".to_owned(), result.into());
    serde_json::to_vec(&response).ok().filter(|cut| cut.len() <= most)
}

/// A kind of result that has parts.
struct Kind {
    /// The member with the parts.
    list: &'static str,
    /// A part that holds this text, at the place of that one.
    make: fn(&str, Option<&Value>) -> Value,
    /// The part with as much of its text as fits into so many bytes of JSON.
    beginning: fn(&Value, usize) -> Option<Value>,
}

impl Kind {
    fn text(&self, text: &str, like: Option<&Value>) -> Value {
        (self.make)(text, like)
    }

    /// A tool may answer with structured content alone.
    fn may_lack_it(&self, result: &Map<String, Value>) -> bool {
        self.list == "content" && result.contains_key("structuredContent")
    }
}

const KINDS: [Kind; 3] = [
    Kind {
        list: "content",
        make: |text, _| json!({ "type": "text", "text": text }),
        beginning: |part, room| beginning(part, &["text"], room),
    },
    Kind {
        list: "contents",
        make: |text, like| {
            let uri = like.and_then(|part| part.get("uri")).cloned().unwrap_or_default();
            json!({ "uri": uri, "mimeType": "text/plain", "text": text })
        },
        beginning: |part, room| beginning(part, &["text"], room),
    },
    Kind {
        list: "messages",
        make: |text, _| json!({ "role": "user", "content": { "type": "text", "text": text } }),
        beginning: |part, room| beginning(part, &["content", "text"], room),
    },
];

fn beginning(part: &Value, path: &[&str], room: usize) -> Option<Value> {
    let mut part = part.clone();
    let mut text = &mut part;
    for name in path {
        text = text.get_mut(name)?;
    }
    let whole = text.as_str()?.to_owned();
    *text = "".into();
    let room = room.checked_sub(json_len(&part) + 1)?;
    let mut text = &mut part;
    for name in path {
        text = text.get_mut(name)?;
    }
    *text = fitting(&whole, room).into();
    Some(part)
}

/// As much of a text as takes so many bytes as the inside of a JSON string.
fn fitting(text: &str, mut room: usize) -> &str {
    for (at, c) in text.char_indices() {
        let len = match c {
            '"' | '\\' | '\n' | '\r' | '\t' | '\u{8}' | '\u{c}' => 2,
            c if c < ' ' => 6,
            c => c.len_utf8(),
        };
        if len > room {
            return &text[..at];
        }
        room -= len;
    }
    text
}

fn json_len(value: &impl serde::Serialize) -> usize {
    serde_json::to_vec(value).map_or(0, |bytes| bytes.len())
}
