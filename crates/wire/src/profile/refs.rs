//! `$ref` replaced by what it points to.

use serde_json::{Map, Value};

use super::walk::{Holds, holds};
use super::{Changes, Rewrite};

/// Most schemas that one inlined schema may have: definitions that refer to one another twice double at every step.
const MAX_SCHEMAS: usize = 4000;
/// Deepest nesting of schemas.
const MAX_DEPTH: usize = 48;

/// Keywords that name or point, and mean nothing once everything stands in its place.
const POINTING: [&str; 11] = [
    "$schema",
    "$ref",
    "$defs",
    "definitions",
    "$id",
    "$anchor",
    "$dynamicRef",
    "$dynamicAnchor",
    "$recursiveRef",
    "$recursiveAnchor",
    "$comment",
];

/// Keywords that only say something to people.
const ANNOTATIONS: [&str; 7] =
    ["title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly"];

/// The schema without `$ref`; a definition stands at most `again` times within itself.
pub(super) fn inline(schema: &Value, again: usize, changes: &mut Changes) -> Value {
    let dialect = schema.get("$schema").and_then(Value::as_str).unwrap_or_default();
    let ref_alone = ["draft-03", "draft-04", "draft-05", "draft-06", "draft-07"];
    let mut inliner = Inliner {
        root: schema,
        again,
        siblings_count: !ref_alone.iter().any(|draft| dialect.contains(draft)),
        open: Vec::new(),
        schemas: 0,
        changes,
    };
    inliner.schema(schema, 0)
}

struct Inliner<'a> {
    root: &'a Value,
    again: usize,
    /// Whether what stands beside a `$ref` counts: before 2019-09 it did not.
    siblings_count: bool,
    /// The references that are being followed.
    open: Vec<&'a str>,
    schemas: usize,
    changes: &'a mut Changes,
}

impl<'a> Inliner<'a> {
    fn schema(&mut self, schema: &'a Value, depth: usize) -> Value {
        let Value::Object(object) = schema else { return schema.clone() };
        self.schemas += 1;
        if depth > 0 && object.get("$id").is_some_and(Value::is_string) {
            // A document of its own: what it refers to is relative to another place.
            return self.opened(object);
        }
        let Some(reference) = object.get("$ref").and_then(Value::as_str) else {
            return Value::Object(self.members(object, depth));
        };
        let Some(target) = self.target(reference) else { return self.opened(object) };
        let within = self.open.iter().filter(|open| **open == reference).count();
        if within >= self.again || self.schemas > MAX_SCHEMAS || depth > MAX_DEPTH {
            return self.opened(target.as_object().unwrap_or(object));
        }
        self.changes.count(Rewrite::Inlined);
        self.open.push(reference);
        let inlined = self.schema(target, depth + 1);
        self.open.pop();
        self.beside(object, inlined, depth)
    }

    /// What stands beside a `$ref`, put together with what that points to.
    fn beside(&mut self, object: &'a Map<String, Value>, inlined: Value, depth: usize) -> Value {
        let mut beside = self.members(object, depth);
        if beside.is_empty() {
            return inlined;
        }
        let only_words = beside.keys().all(|name| ANNOTATIONS.contains(&name.as_str()));
        match inlined {
            Value::Object(mut inlined) if only_words || !self.siblings_count => {
                beside.retain(|name, _| ANNOTATIONS.contains(&name.as_str()));
                inlined.extend(beside);
                Value::Object(inlined)
            }
            inlined => {
                let all = match beside.remove("allOf") {
                    Some(Value::Array(mut all)) => {
                        all.insert(0, inlined);
                        all
                    }
                    _ => vec![inlined],
                };
                beside.insert("allOf".to_owned(), all.into());
                Value::Object(beside)
            }
        }
    }

    fn members(&mut self, object: &'a Map<String, Value>, depth: usize) -> Map<String, Value> {
        let mut members = Map::new();
        for (keyword, value) in object {
            // A key that is called so and points nowhere is none of ours.
            if POINTING.contains(&keyword.as_str()) {
                continue;
            }
            let inner = depth + 1;
            let value = match (holds(keyword), value) {
                (Holds::Schemas, Value::Array(schemas)) => {
                    schemas.iter().map(|schema| self.schema(schema, inner)).collect()
                }
                (Holds::Schemas, schema) => self.schema(schema, inner),
                (Holds::Named, Value::Object(named)) => {
                    let named = named.iter().map(|(name, schema)| (name.clone(), self.schema(schema, inner)));
                    Value::Object(named.collect())
                }
                _ => value.clone(),
            };
            members.insert(keyword.clone(), value);
        }
        members
    }

    /// A schema that takes all that this one takes, and says what it is about.
    fn opened(&mut self, object: &Map<String, Value>) -> Value {
        self.changes.count(Rewrite::Opened);
        let kept = ["type", "title", "description"];
        let kept = kept.into_iter().filter_map(|name| Some((name.to_owned(), object.get(name)?.clone())));
        Value::Object(kept.collect())
    }

    fn target(&self, reference: &str) -> Option<&'a Value> {
        let fragment = unescaped(reference.strip_prefix('#')?)?;
        if fragment.is_empty() || fragment.starts_with('/') {
            return self.root.pointer(&fragment);
        }
        anchored(self.root, &fragment)
    }
}

/// The schema with this `$anchor`.
fn anchored<'a>(value: &'a Value, anchor: &str) -> Option<&'a Value> {
    match value {
        Value::Object(object) if object.get("$anchor").is_some_and(|found| found == anchor) => Some(value),
        Value::Object(object) => object.values().find_map(|inner| anchored(inner, anchor)),
        Value::Array(items) => items.iter().find_map(|inner| anchored(inner, anchor)),
        _ => None,
    }
}

/// A URL's fragment without its escapes (RFC 6901, section 6).
fn unescaped(fragment: &str) -> Option<String> {
    let mut bytes = fragment.bytes();
    let mut plain = Vec::with_capacity(fragment.len());
    while let Some(byte) = bytes.next() {
        plain.push(match byte {
            b'%' => {
                let digits = [bytes.next()?, bytes.next()?];
                u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
            }
            byte => byte,
        });
    }
    String::from_utf8(plain).ok()
}
