//! Handles: names of a legacy session's state that a modern client passes explicitly.

use serde_json::{Map, Value, json};

use super::with_meta;
use crate::envelope::member;
use crate::jsonrpc::quoted;
use crate::splice::{Edit, splice};

/// The member of a result's `_meta` that holds the handle.
pub const MEMBER: &str = "throughline/session";

/// A tool list (raw JSON of the result) in which each tool takes a handle as an optional argument of this name, unless
/// it has such an argument itself. None where it cannot be read.
pub fn offer(result: &[u8], argument: &str) -> Option<Vec<u8>> {
    let mut result: Map<String, Value> = serde_json::from_slice(result).ok()?;
    for tool in result.get_mut("tools")?.as_array_mut()? {
        let Some(schema) = tool.get_mut("inputSchema").and_then(Value::as_object_mut) else { continue };
        let properties = schema.entry("properties").or_insert_with(|| json!({}));
        if let Some(properties) = properties.as_object_mut() {
            properties.entry(argument).or_insert_with(|| {
                let description = "Continues with the state that an earlier call left: the handle that its result \
                                   gave. Leave it out to begin anew.";
                json!({ "type": "string", "description": description })
            });
        }
    }
    serde_json::to_vec(&result).ok()
}

/// A result that gives this handle: in its `_meta`, and where the client has not seen it before, also in a text that a
/// model can read, which names the argument to bring it in.
pub fn give(result: &[u8], handle: &str, new_for: Option<&String>) -> Vec<u8> {
    let given = with_meta(result, MEMBER, quoted(handle).as_bytes()).unwrap_or_else(|_| result.to_vec());
    let Some(argument) = new_for else { return given };
    let at = member(&given, "content").ok().flatten().filter(|at| given[at.start] == b'[');
    let Some(at) = at else { return given };
    let said = format!(
        "To go on with the state that this call left, pass {argument}={} to further calls.",
        quoted(handle)
    );
    let is_empty = given[at.start + 1..at.end - 1].trim_ascii().is_empty();
    let comma = if is_empty { "" } else { "," };
    let text = format!(r#"{comma}{{"type":"text","text":{}}}"#, quoted(&said));
    splice(&given, &mut [Edit::replace(at.end - 1..at.end - 1, text.as_bytes())])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_tool_takes_a_handle() {
        let list = br#"{"tools":[{"name":"a","inputSchema":{"type":"object"}},{"name":"b","inputSchema":{"properties":{"s":{"type":"number"}}}}],"x":1}"#;
        let offered: Value = serde_json::from_slice(&offer(list, "s").unwrap()).unwrap();
        assert_eq!(offered["tools"][0]["inputSchema"]["properties"]["s"]["type"], "string");
        assert_eq!(offered["tools"][1]["inputSchema"]["properties"]["s"], json!({ "type": "number" }));
        assert_eq!(offered["x"], 1);
        assert_eq!(offer(b"{}", "s"), None);
    }

    #[test]
    fn a_result_gives_its_handle_and_says_so_once() {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        assert_eq!(
            text(give(br#"{"content":[1.0]}"#, "h", None)),
            r#"{"_meta":{"throughline/session":"h"},"content":[1.0]}"#
        );
        let name = "s".to_owned();
        for (before, after) in [("[ 1.0 ]", "[ 1.0 ,"), ("[ ]", "[ ")] {
            let said = text(give(format!(r#"{{"content":{before}}}"#).as_bytes(), "h", Some(&name)));
            let text = r#"{"type":"text","text":"To go on with the state that this call left, pass s=\"h\" to further calls."}"#;
            assert_eq!(
                said,
                format!(r#"{{"_meta":{{"throughline/session":"h"}},"content":{after}{text}]}}"#)
            );
        }
    }
}
