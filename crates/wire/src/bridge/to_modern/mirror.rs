//! Arguments that headers repeat: `x-mcp-header` in a tool's input schema (2026-07-28, Streamable HTTP, "Custom Headers
//! from Tool Parameters").

use std::collections::{HashMap, HashSet};

use memchr::memmem;
use serde_json::{Map, Number, Value};

use crate::envelope::{EnvelopeError, Span, elements, member};
use crate::headers::{MCP_PARAM_PREFIX, encode_value};
use crate::splice::{Edit, splice};

const ANNOTATION: &str = "x-mcp-header";
/// The largest integer that every reader of numbers keeps (2^53 - 1).
const MAX_INTEGER: u64 = (1 << 53) - 1;

/// One argument that a header repeats.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// The whole name of the header, in lower case.
    pub header: String,
    /// Where the argument is: property names from the arguments inwards.
    path: Vec<String>,
}

impl Mirror {
    /// The header's value; None where the arguments have nothing there to repeat.
    #[must_use]
    pub fn value(&self, arguments: &Value) -> Option<String> {
        let text = match self.path.iter().try_fold(arguments, |value, name| value.get(name))? {
            Value::String(text) => text.clone(),
            Value::Bool(flag) => flag.to_string(),
            Value::Number(number) => integer(number)?,
            Value::Null | Value::Array(_) | Value::Object(_) => return None,
        };
        Some(encode_value(&text).into_owned())
    }
}

/// An integer in decimal digits, also where it was written as `42.0` or `4.2e1`.
fn integer(number: &Number) -> Option<String> {
    if let Some(integer) = number.as_i64() {
        return (integer.unsigned_abs() <= MAX_INTEGER).then(|| integer.to_string());
    }
    let float = number.as_f64()?;
    (float.fract() == 0.0 && float.abs() <= MAX_INTEGER as f64).then(|| format!("{float:.0}"))
}

/// Why a tool's annotations are not valid, so that the tool is not to be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// A name is empty, no text, or cannot be part of a header's name.
    Name,
    /// Two of them are the same, in whatever case.
    SameName,
    /// The parameter is neither a string, nor an integer, nor a boolean.
    Type,
    /// The parameter is not reached through `properties` alone.
    Unreachable,
}

impl Flaw {
    /// In words.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Flaw::Name => "its x-mcp-header cannot be part of a header's name",
            Flaw::SameName => "two of its x-mcp-header are the same",
            Flaw::Type => "its x-mcp-header is on a parameter that is no string, integer or boolean",
            Flaw::Unreachable => "its x-mcp-header is not reached through properties alone",
        }
    }
}

/// The arguments of a tool with this input schema that headers repeat.
///
/// # Errors
/// Where an annotation breaks the rules.
pub fn mirrors(schema: &Value) -> Result<Vec<Mirror>, Flaw> {
    let mut found = Vec::new();
    if let Value::Object(root) = schema {
        walk(root, &mut Vec::new(), true, &mut found)?;
    }
    let mut taken = HashSet::new();
    match found.iter().all(|mirror| taken.insert(&mirror.header)) {
        true => Ok(found),
        false => Err(Flaw::SameName),
    }
}

/// Looks everywhere in a schema; it is as deep as the parser lets it be.
fn walk(
    schema: &Map<String, Value>,
    path: &mut Vec<String>,
    reachable: bool,
    found: &mut Vec<Mirror>,
) -> Result<(), Flaw> {
    for (keyword, value) in schema {
        match (keyword.as_str(), value) {
            (ANNOTATION, name) => found.push(annotated(schema, name, path, reachable)?),
            // Values, not schemas.
            ("default" | "const" | "enum" | "examples", _) => {}
            ("properties", Value::Object(properties)) => {
                for (name, property) in properties {
                    if let Value::Object(property) = property {
                        path.push(name.clone());
                        walk(property, path, reachable, found)?;
                        path.pop();
                    }
                }
            }
            ("patternProperties" | "dependentSchemas" | "$defs" | "definitions", Value::Object(schemas)) => {
                for schema in schemas.values().filter_map(Value::as_object) {
                    walk(schema, path, false, found)?;
                }
            }
            (_, Value::Object(schema)) => walk(schema, path, false, found)?,
            (_, Value::Array(schemas)) => {
                for schema in schemas.iter().filter_map(Value::as_object) {
                    walk(schema, path, false, found)?;
                }
            }
            _ => {}
        }
    }
    Ok(())
}

fn annotated(
    schema: &Map<String, Value>,
    name: &Value,
    path: &[String],
    reachable: bool,
) -> Result<Mirror, Flaw> {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    let name = name.as_str().filter(|name| !name.is_empty() && name.bytes().all(is_token));
    let name = name.ok_or(Flaw::Name)?;
    if !reachable || path.is_empty() {
        return Err(Flaw::Unreachable);
    }
    match schema.get("type").and_then(Value::as_str) {
        Some("string" | "integer" | "boolean") => {}
        _ => return Err(Flaw::Type),
    }
    let header = format!("{MCP_PARAM_PREFIX}{}", name.to_ascii_lowercase());
    Ok(Mirror { header, path: path.to_vec() })
}

/// A page of a tool list.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Page {
    /// What headers repeat of a tool's arguments, by its name. Tools of which they repeat nothing are not in it.
    pub mirrors: HashMap<String, Vec<Mirror>>,
    /// Tools that are not to be shown, and why.
    pub flawed: Vec<(String, Flaw)>,
    /// Where the tools stand, and what stands there without the flawed ones, where there are any.
    without: Option<(Span, Vec<u8>)>,
}

impl Page {
    /// Reads a result of `tools/list`.
    ///
    /// # Errors
    /// Where it is no such result.
    pub fn read(result: &[u8]) -> Result<Self, EnvelopeError> {
        let mut page = Page::default();
        let Some(at) = member(result, "tools")?.filter(|at| result[at.start] == b'[') else {
            return Ok(page);
        };
        let tools = &result[at.clone()];
        // Hardly any server has annotations, and to look for the word costs a fraction of parsing.
        if memmem::find(tools, ANNOTATION.as_bytes()).is_none() {
            return Ok(page);
        }
        let mut kept: Vec<&[u8]> = Vec::new();
        for span in elements(tools)? {
            let raw = &tools[span];
            let tool = serde_json::from_slice::<Value>(raw).unwrap_or_default();
            let name = tool["name"].as_str().unwrap_or_default().to_owned();
            match mirrors(&tool["inputSchema"]) {
                Err(flaw) => page.flawed.push((name, flaw)),
                Ok(mirrors) => {
                    kept.push(raw);
                    if !mirrors.is_empty() {
                        page.mirrors.insert(name, mirrors);
                    }
                }
            }
        }
        if !page.flawed.is_empty() {
            page.without = Some((at, [b"[", kept.join(&b","[..]).as_slice(), b"]"].concat()));
        }
        Ok(page)
    }

    /// The message without the flawed ones, whose result is at `result`; None where there are none.
    #[must_use]
    pub fn shown(&self, message: &[u8], result: &Span) -> Option<Vec<u8>> {
        let (at, without) = self.without.as_ref()?;
        let at = result.start + at.start..result.start + at.end;
        Some(splice(message, &mut [Edit::replace(at, without)]))
    }
}
