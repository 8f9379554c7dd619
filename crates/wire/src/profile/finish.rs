//! What is left to do for one plain schema: bounds, enums in words, missing members, long descriptions.

use serde_json::{Map, Number, Value};

use super::flatten::say;
use super::walk::inside_out;
use super::{Changes, Profile, Rewrite, cut};

/// Values of an enum that are said in words, and the longest such list, in characters.
const SAID_VALUES: usize = 40;
const SAID_LENGTH: usize = 300;

pub(super) fn finish(schema: &mut Value, profile: &Profile, changes: &mut Changes) {
    inside_out(schema, &mut |schema| {
        if profile.inclusive_bounds {
            inclusive(schema, ("exclusiveMinimum", "minimum"), Side::Above, changes);
            inclusive(schema, ("exclusiveMaximum", "maximum"), Side::Below, changes);
        }
        if profile.flatten {
            null_apart(schema, profile.nullable);
        }
        if profile.describe_enums {
            describe(schema, changes);
        }
        if profile.complete {
            complete(schema, changes);
        }
        if let Some(most) = profile.description {
            shorten(schema, most, changes);
        }
        if let Some(keywords) = profile.keywords {
            only(schema, keywords, changes);
        }
    });
}

#[derive(Clone, Copy, PartialEq)]
enum Side {
    Above,
    Below,
}

/// An exclusive bound with a number, as an inclusive one. Of whole numbers the next one is the bound; of others the
/// bound itself is taken as well, and the description says that it should not be.
fn inclusive(
    schema: &mut Map<String, Value>,
    (exclusive, inclusive): (&str, &str),
    side: Side,
    changes: &mut Changes,
) {
    let Some(Value::Number(bound)) = schema.get(exclusive).cloned() else { return };
    schema.shift_remove(exclusive);
    changes.count(Rewrite::Bounded);
    let whole = schema.get("type").is_some_and(|name| name == "integer");
    let next = match (whole, bound.as_i64(), side) {
        (true, Some(bound), Side::Above) => bound.checked_add(1),
        (true, Some(bound), Side::Below) => bound.checked_sub(1),
        _ => None,
    };
    if next.is_none() {
        let words = if side == Side::Above { "Greater than" } else { "Less than" };
        say(schema, &format!("{words} {bound}."));
    }
    let bound = next.map_or(bound, Number::from);
    // The tighter of the two, where there is an inclusive one already.
    let tighter = schema.get(inclusive).and_then(Value::as_f64).zip(bound.as_f64()).is_none_or(
        |(had, new)| match side {
            Side::Above => new > had,
            Side::Below => new < had,
        },
    );
    if tighter {
        schema.insert(inclusive.to_owned(), bound.into());
    }
}

/// Takes null out of a list of values, where the schema says in another way that it may be.
fn null_apart(schema: &mut Map<String, Value>, nullable: &str) {
    let has_type = schema.contains_key("type");
    let Some(Value::Array(values)) = schema.get_mut("enum") else { return };
    let before = values.len();
    values.retain(|value| !value.is_null());
    match (values.is_empty(), values.len() < before) {
        (true, _) => drop(schema.shift_remove("enum")),
        (false, true) if !has_type => {
            schema.insert(nullable.to_owned(), true.into());
        }
        _ => {}
    }
}

/// Says what the values of an enum are.
fn describe(schema: &mut Map<String, Value>, changes: &mut Changes) {
    let Some(Value::Array(values)) = schema.get("enum") else { return };
    let mut said = String::new();
    for (index, value) in values.iter().take(SAID_VALUES).enumerate() {
        let word = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        if said.len() + word.len() > SAID_LENGTH {
            break;
        }
        said += if index > 0 { ", " } else { "" };
        said += &word;
    }
    if say(schema, &format!("Allowed values: {said}.")) {
        changes.count(Rewrite::Described);
    }
}

fn complete(schema: &mut Map<String, Value>, changes: &mut Changes) {
    if let Some(name) = type_of_values(schema) {
        changes.count(Rewrite::Completed);
        schema.insert("type".to_owned(), name.into());
    }
    let is = |schema: &Map<String, Value>, name: &str| schema.get("type").is_some_and(|own| own == name);
    if is(schema, "object") && !schema.get("properties").is_some_and(Value::is_object) {
        changes.count(Rewrite::Completed);
        schema.insert("properties".to_owned(), Map::new().into());
    }
    if is(schema, "array") && !schema.get("items").is_some_and(Value::is_object) {
        changes.count(Rewrite::Completed);
        schema.insert("items".to_owned(), Map::new().into());
    }
    // A name that is required and not declared.
    let required = schema.get("required").and_then(Value::as_array).cloned().unwrap_or_default();
    if let Some(Value::Object(properties)) = schema.get_mut("properties") {
        for name in required.iter().filter_map(Value::as_str) {
            if !properties.contains_key(name) {
                changes.count(Rewrite::Completed);
                properties.insert(name.to_owned(), Map::new().into());
            }
        }
    }
}

/// The one type of all values of an enum, where the schema does not say it.
fn type_of_values(schema: &Map<String, Value>) -> Option<&'static str> {
    let values = schema.get("enum").filter(|_| !schema.contains_key("type"))?.as_array()?;
    let one = |is: fn(&Value) -> bool| values.iter().all(is);
    match () {
        () if one(Value::is_string) => Some("string"),
        () if one(Value::is_i64) => Some("integer"),
        () if one(Value::is_number) => Some("number"),
        () if one(Value::is_boolean) => Some("boolean"),
        () => None,
    }
}

fn shorten(schema: &mut Map<String, Value>, most: usize, changes: &mut Changes) {
    if let Some(Value::String(text)) = schema.get_mut("description")
        && let Some(shorter) = cut(text, most)
    {
        *text = shorter;
        changes.count(Rewrite::Shortened);
    }
}

/// Leaves only these keywords.
fn only(schema: &mut Map<String, Value>, keywords: &[&str], changes: &mut Changes) {
    if schema.contains_key("patternProperties") {
        // Without the patterns it would refuse what they let pass.
        schema.shift_remove("additionalProperties");
    }
    let before = schema.len();
    schema.retain(|keyword, _| keyword.starts_with("x-") || keywords.contains(&keyword.as_str()));
    // An empty list is no list, in the dialects that need this.
    if schema.get("required").and_then(Value::as_array).is_some_and(Vec::is_empty) {
        schema.shift_remove("required");
    }
    for _ in schema.len()..before {
        changes.count(Rewrite::Dropped);
    }
}
