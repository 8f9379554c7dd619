//! A tool's result for people.

use std::fmt::Write as _;
use std::io::IsTerminal;

use serde_json::Value;

use crate::text;

/// Its texts, what stands for the rest, or else its structured content. Ends with a line's end.
pub(crate) fn result(result: &Value) -> String {
    let content = result["content"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut shown: String = content.iter().map(block).collect();
    if content.is_empty() {
        match result.get("structuredContent") {
            Some(structured) => _ = writeln!(shown, "{structured:#}"),
            None => shown += "(an empty result)\n",
        }
    }
    // To a file or a program, texts go as they are.
    if std::io::stdout().is_terminal() { text::printable(&shown) } else { shown }
}

fn block(block: &Value) -> String {
    let member = |name: &str| block[name].as_str().unwrap_or_default();
    match member("type") {
        "text" => ended(member("text")),
        kind @ ("image" | "audio") => {
            format!("[{kind} {}, {}]\n", member("mimeType"), size(member("data")))
        }
        "resource" => {
            let resource = &block["resource"];
            let uri = resource["uri"].as_str().unwrap_or_default();
            match resource["text"].as_str() {
                Some(text) => format!("[resource {uri}]\n{}", ended(text)),
                None => {
                    format!("[resource {uri}, {}]\n", size(resource["blob"].as_str().unwrap_or_default()))
                }
            }
        }
        "resource_link" => format!("[link {} {}]\n", member("uri"), member("name")),
        _ => format!("{block}\n"),
    }
}

fn ended(text: &str) -> String {
    if text.ends_with('\n') { text.to_owned() } else { format!("{text}\n") }
}

/// How much data this base64 stands for.
fn size(base64: &str) -> String {
    let bytes = base64.trim_end_matches('=').len() * 3 / 4;
    if bytes < 10 * 1024 { format!("{bytes} bytes") } else { format!("{} KiB", bytes / 1024) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_kind_of_content_has_its_line() {
        let content = json!({"content": [
            {"type": "text", "text": "two\nlines"},
            {"type": "image", "mimeType": "image/png", "data": "AAECAw=="},
            {"type": "resource", "resource": {"uri": "a://b", "text": "c\n"}},
            {"type": "resource_link", "uri": "a://b", "name": "d"},
        ]});
        let shown = "two\nlines\n[image image/png, 4 bytes]\n[resource a://b]\nc\n[link a://b d]\n";
        assert_eq!(result(&content), shown);
        assert_eq!(result(&json!({"content": [], "structuredContent": {"a": 1}})), "{\n  \"a\": 1\n}\n");
        assert_eq!(result(&json!({"content": []})), "(an empty result)\n");
    }
}
