//! Unions, conditions, tuples and type lists as one plain schema that takes all that they take.
//!
//! Two operations carry it. Of schemas that must all hold ([`both`]) any part may be left out; of schemas of which one
//! must hold ([`either`]) only what all of them demand may stay. The second looks at each JSON type by itself: what is
//! demanded of strings is the business of those alternatives that take strings.

use serde_json::{Map, Value};

use super::walk::inside_out;
use super::{Changes, Rewrite};

type Schema = Map<String, Value>;

/// Keywords that a plain schema does not have. To leave them out is to take more.
const CONDITIONS: [&str; 15] = [
    "not",
    "if",
    "then",
    "else",
    "dependentSchemas",
    "dependentRequired",
    "dependencies",
    "unevaluatedProperties",
    "unevaluatedItems",
    "contains",
    "minContains",
    "maxContains",
    "propertyNames",
    "discriminator",
    "$vocabulary",
];

/// What the types are called, and the keywords that are about values of one of them.
const ABOUT: [(&str, &[&str]); 5] = [
    ("string", &["minLength", "maxLength", "pattern", "format", "contentEncoding", "contentMediaType"]),
    ("number", &["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"]),
    ("boolean", &[]),
    ("array", &["items", "minItems", "maxItems", "uniqueItems"]),
    ("object", &["minProperties", "maxProperties"]),
];

/// How a sentence about alternatives begins.
const EITHER: &str = "Either ";

/// Rewrites a schema and all inside it. `nullable` is the keyword that lets a value be null.
pub(super) fn flatten(schema: &mut Value, nullable: &'static str, changes: &mut Changes) {
    let flattener = Flattener { nullable };
    inside_out(schema, &mut |schema| flattener.one(schema, changes));
}

struct Flattener {
    nullable: &'static str,
}

impl Flattener {
    /// One schema; those inside it are plain already.
    fn one(&self, schema: &mut Schema, changes: &mut Changes) {
        for keyword in CONDITIONS {
            if schema.shift_remove(keyword).is_some() {
                changes.count(Rewrite::Dropped);
            }
        }
        self.tuple(schema, changes);
        // A property that nothing can be is as good as none.
        if let Some(Value::Object(properties)) = schema.get_mut("properties") {
            properties.retain(|_, property| *property != Value::Bool(false));
            properties
                .values_mut()
                .filter(|property| **property == true)
                .for_each(|p| *p = Schema::new().into());
        }
        if let Some(value) = schema.shift_remove("const") {
            schema.insert("enum".to_owned(), Value::Array(vec![value]));
        }
        self.single_type(schema, changes);
        if let Some(all) = alternatives(schema.shift_remove("allOf")) {
            changes.count(Rewrite::Merged);
            for part in all {
                *schema = self.both(std::mem::take(schema), part);
            }
        }
        for keyword in ["anyOf", "oneOf"] {
            if let Some(any) = alternatives(schema.shift_remove(keyword)) {
                changes.count(Rewrite::Merged);
                let one_of_them = self.either(any);
                let words = one_of_them.get("description").and_then(Value::as_str);
                if let Some(words) = words.filter(|words| words.starts_with(EITHER)) {
                    say(schema, words);
                }
                *schema = self.both(std::mem::take(schema), one_of_them);
            }
        }
    }

    /// A list whose items differ by their place: the items are any of those.
    fn tuple(&self, schema: &mut Schema, changes: &mut Changes) {
        let first = match schema.get("items") {
            Some(Value::Array(_)) => schema.shift_remove("items").zip(Some("additionalItems")),
            _ => schema.shift_remove("prefixItems").zip(Some("items")),
        };
        let Some((first, rest)) = first else {
            if schema.get("items").is_some_and(Value::is_boolean) {
                schema.shift_remove("items");
            }
            return;
        };
        changes.count(Rewrite::Merged);
        let mut kinds = alternatives(Some(first)).unwrap_or_default();
        match schema.shift_remove(rest) {
            Some(Value::Bool(false)) => {}
            Some(Value::Object(rest)) => kinds.push(rest),
            _ => return,
        }
        let items = self.either(kinds);
        schema.insert("items".to_owned(), items.into());
    }

    /// A list of types, or the type null.
    fn single_type(&self, schema: &mut Schema, changes: &mut Changes) {
        let types: Vec<String> = match schema.get("type") {
            Some(Value::Array(types)) => types.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
            Some(Value::String(one)) if one == "null" => vec![one.clone()],
            _ => return,
        };
        changes.count(Rewrite::Typed);
        let mut others: Vec<&str> = types.iter().map(String::as_str).filter(|name| *name != "null").collect();
        if others.contains(&"number") {
            others.retain(|name| *name != "integer");
        }
        let takes_null = others.len() < types.len() && types.iter().any(|name| name == "null");
        match others.as_slice() {
            [one] => {
                schema.insert("type".to_owned(), (*one).into());
                if takes_null {
                    schema.insert(self.nullable.to_owned(), true.into());
                }
            }
            [] => {
                schema.shift_remove("type");
                schema.insert("enum".to_owned(), Value::Array(vec![Value::Null]));
            }
            several => {
                let words = several.join(" or ");
                schema.shift_remove("type");
                say(schema, &format!("Type: {words}."));
            }
        }
    }

    fn takes_null(&self, schema: &Schema) -> bool {
        let listed =
            schema.get("enum").and_then(Value::as_array).is_none_or(|values| values.contains(&Value::Null));
        schema.get(self.nullable) == Some(&Value::Bool(true)) || (!schema.contains_key("type") && listed)
    }

    /// A schema that takes what both take. Where they speak of the same, and it cannot be said in one, the first does.
    fn both(&self, first: Schema, second: Schema) -> Schema {
        let null = self.takes_null(&first) && self.takes_null(&second);
        let mut merged = first;
        merged.shift_remove(self.nullable);
        let patterns_differ =
            merged.contains_key("patternProperties") && second.contains_key("patternProperties");
        let first_has_patterns = merged.contains_key("patternProperties");
        for (keyword, theirs) in second {
            if keyword == self.nullable
                || (keyword == "additionalProperties" && (patterns_differ || first_has_patterns))
            {
                continue;
            }
            match merged.get_mut(&keyword) {
                None => {
                    merged.insert(keyword, theirs);
                }
                Some(ours) => self.both_say(&keyword, ours, theirs),
            }
        }
        if null && (merged.contains_key("type") || merged.contains_key("enum")) {
            merged.insert(self.nullable.to_owned(), true.into());
        }
        merged
    }

    /// A keyword that both have.
    fn both_say(&self, keyword: &str, ours: &mut Value, theirs: Value) {
        match (keyword, ours, theirs) {
            ("type", ours, theirs) if *ours == "number" && theirs == "integer" => *ours = theirs,
            ("enum", Value::Array(ours), Value::Array(theirs)) => {
                let common: Vec<_> = ours.iter().filter(|value| theirs.contains(value)).cloned().collect();
                // Nothing can be both; a schema that takes nothing would only be refused.
                if !common.is_empty() {
                    *ours = common;
                }
            }
            ("required", Value::Array(ours), Value::Array(theirs)) => {
                let new: Vec<_> = theirs.into_iter().filter(|name| !ours.contains(name)).collect();
                ours.extend(new);
            }
            ("properties", Value::Object(ours), Value::Object(theirs)) => {
                for (name, theirs) in theirs {
                    match (ours.get_mut(&name), theirs) {
                        (Some(Value::Object(ours)), Value::Object(theirs)) => {
                            *ours = self.both(std::mem::take(ours), theirs);
                        }
                        (None, theirs) => {
                            ours.insert(name, theirs);
                        }
                        _ => {}
                    }
                }
            }
            ("items", Value::Object(ours), Value::Object(theirs)) => {
                *ours = self.both(std::mem::take(ours), theirs);
            }
            (keyword, ours, theirs) => {
                let tighter = match (bound(keyword), ours.as_f64(), theirs.as_f64()) {
                    (Bound::Least, Some(a), Some(b)) => b > a,
                    (Bound::Most, Some(a), Some(b)) => b < a,
                    _ => false,
                };
                if tighter {
                    *ours = theirs;
                }
            }
        }
    }

    /// A schema that takes what any of them takes.
    fn either(&self, any: Vec<Schema>) -> Schema {
        let null = any.iter().any(|schema| self.takes_null(schema));
        let mut any: Vec<Schema> = any.into_iter().filter(|schema| !self.is_null(schema)).collect();
        let mut merged = match any.len() {
            0 => return Schema::new(),
            1 => any.remove(0),
            _ => self.alike(&any),
        };
        if null && (merged.contains_key("type") || merged.contains_key("enum")) {
            merged.insert(self.nullable.to_owned(), true.into());
        }
        merged
    }

    /// Whether null is all that it takes: as `single_type` and `const` have left it.
    fn is_null(&self, schema: &Schema) -> bool {
        schema.get("enum").and_then(Value::as_array).is_some_and(|values| *values == [Value::Null])
    }

    /// What several alternatives have in common.
    fn alike(&self, any: &[Schema]) -> Schema {
        let mut merged = Schema::new();
        let types: Vec<Option<&str>> =
            any.iter().map(|schema| schema.get("type").and_then(Value::as_str)).collect();
        let numbers = types.iter().all(|name| matches!(name, Some("integer" | "number")));
        match types.first() {
            Some(Some(one)) if types.iter().all(|name| *name == Some(one)) => {
                merged.insert("type".to_owned(), (*one).into());
            }
            _ if numbers => {
                merged.insert("type".to_owned(), "number".into());
            }
            _ => {}
        }
        let listed: Option<Vec<&Vec<Value>>> =
            any.iter().map(|schema| schema.get("enum").and_then(Value::as_array)).collect();
        if let Some(listed) = listed {
            let mut values: Vec<Value> = Vec::new();
            for value in listed.into_iter().flatten() {
                if !values.contains(value) {
                    values.push(value.clone());
                }
            }
            merged.insert("enum".to_owned(), values.into());
        }
        for (name, keywords) in ABOUT {
            let takers: Vec<&Schema> = any.iter().filter(|schema| takes(schema, name)).collect();
            for keyword in keywords {
                let said: Option<Vec<&Value>> = takers.iter().map(|schema| schema.get(*keyword)).collect();
                if let Some(value) =
                    said.filter(|said| !said.is_empty()).and_then(|said| self.loosest(keyword, &said))
                {
                    merged.insert((*keyword).to_owned(), value);
                }
            }
            if name == "object" && !takers.is_empty() {
                self.objects(&mut merged, &takers);
            }
        }
        let mut words: Vec<String> = any.iter().filter_map(words_for).collect();
        let all = words.len() == any.len();
        words.dedup();
        // Values alone say themselves.
        if all
            && words.len() > 1
            && !(merged.contains_key("enum") && any.iter().all(|s| !s.contains_key("title")))
        {
            say(&mut merged, &format!("{EITHER}{}.", words.join(", or ")));
        }
        merged
    }

    /// The demand of a keyword that all of these values meet.
    fn loosest(&self, keyword: &str, said: &[&Value]) -> Option<Value> {
        let first = *said.first()?;
        if said.iter().all(|value| *value == first) {
            return Some(first.clone());
        }
        let numbers: Option<Vec<f64>> = said.iter().map(|value| value.as_f64()).collect();
        let pick = |better: fn(f64, f64) -> bool| {
            let numbers = numbers?;
            let at = (1..numbers.len())
                .fold(0, |best, at| if better(numbers[at], numbers[best]) { at } else { best });
            Some(said[at].clone())
        };
        match (keyword, bound(keyword)) {
            (_, Bound::Least) => pick(|a, b| a < b),
            (_, Bound::Most) => pick(|a, b| a > b),
            ("items", _) => {
                let kinds: Option<Vec<Schema>> =
                    said.iter().map(|value| value.as_object().cloned()).collect();
                kinds.map(|kinds| self.either(kinds).into())
            }
            _ => None,
        }
    }

    /// The properties of alternatives that take objects.
    fn objects(&self, merged: &mut Schema, takers: &[&Schema]) {
        let declared = |schema: &&Schema| {
            schema.get("properties").and_then(Value::as_object).cloned().unwrap_or_default()
        };
        let declared: Vec<Schema> = takers.iter().map(declared).collect();
        let closed = |schema: &Schema| {
            schema.get("additionalProperties") == Some(&Value::Bool(false))
                && !schema.contains_key("patternProperties")
        };
        let mut properties = Schema::new();
        for (name, first) in declared.iter().flatten() {
            if properties.contains_key(name) {
                continue;
            }
            let mut kinds = Vec::new();
            let mut anything = false;
            for (taker, declared) in takers.iter().zip(&declared) {
                match (declared.get(name), taker.get("additionalProperties")) {
                    (Some(Value::Object(schema)), _) => kinds.push(schema.clone()),
                    // There the property cannot be, or only if a pattern has its name.
                    (None, Some(Value::Bool(false))) if closed(taker) => {}
                    (None, Some(Value::Object(schema))) if !taker.contains_key("patternProperties") => {
                        kinds.push(schema.clone());
                    }
                    _ => anything = true,
                }
            }
            let schema = match (anything, kinds.as_slice()) {
                (true, _) => in_words(first),
                (false, [one, rest @ ..]) if rest.iter().all(|other| other == one) => one.clone(),
                (false, _) => self.either(kinds),
            };
            properties.insert(name.clone(), schema.into());
        }
        if !properties.is_empty() {
            merged.insert("properties".to_owned(), properties.into());
        }
        let required =
            |schema: &&Schema| schema.get("required").and_then(Value::as_array).cloned().unwrap_or_default();
        let mut required = takers.iter().map(required);
        let first = required.next().unwrap_or_default();
        let common =
            required.fold(first, |common, names| common.into_iter().filter(|n| names.contains(n)).collect());
        if !common.is_empty() {
            merged.insert("required".to_owned(), common.into());
        }
        if takers.iter().all(|taker| closed(taker)) {
            merged.insert("additionalProperties".to_owned(), false.into());
        }
    }
}

/// The schemas of `allOf`, `anyOf`, `oneOf` or a tuple. What takes everything is an empty one; what takes nothing is
/// none.
fn alternatives(value: Option<Value>) -> Option<Vec<Schema>> {
    let Value::Array(schemas) = value? else { return None };
    let schemas = schemas.into_iter().filter_map(|schema| match schema {
        Value::Object(schema) => Some(schema),
        Value::Bool(false) => None,
        _ => Some(Schema::new()),
    });
    Some(schemas.collect())
}

/// Whether a schema takes any value of this type.
fn takes(schema: &Schema, name: &str) -> bool {
    match schema.get("type").and_then(Value::as_str) {
        None => true,
        Some("integer") => name == "number",
        Some(own) => own == name,
    }
}

enum Bound {
    Least,
    Most,
    None,
}

fn bound(keyword: &str) -> Bound {
    match keyword {
        "minimum" | "exclusiveMinimum" | "minLength" | "minItems" | "minProperties" => Bound::Least,
        "maximum" | "exclusiveMaximum" | "maxLength" | "maxItems" | "maxProperties" => Bound::Most,
        _ => Bound::None,
    }
}

/// A schema that takes everything and says what was meant: another alternative takes anything here.
fn in_words(schema: &Value) -> Schema {
    let mut open = Schema::new();
    for keyword in ["title", "description"] {
        if let Some(text) = schema.get(keyword) {
            open.insert(keyword.to_owned(), text.clone());
        }
    }
    if let Some(name) = schema.get("type").and_then(Value::as_str) {
        say(&mut open, &format!("Type: {name}."));
    }
    open
}

/// An alternative in a word or two.
fn words_for(schema: &Schema) -> Option<String> {
    let text = |keyword: &str| schema.get(keyword).and_then(Value::as_str);
    let values = schema.get("enum").and_then(Value::as_array);
    let listed = values.map(|values| values.iter().map(Value::to_string).collect::<Vec<_>>().join(" or "));
    match (listed, text("title").or(text("type"))) {
        (Some(listed), Some(word)) if text("title").is_some() => Some(format!("{listed} ({word})")),
        (Some(listed), _) => Some(listed),
        (None, word) => word.map(str::to_owned),
    }
}

/// Adds a sentence to a schema's description, unless it says so already. Whether it was added.
pub(super) fn say(schema: &mut Schema, sentence: &str) -> bool {
    let said = schema.get("description").and_then(Value::as_str).unwrap_or_default().trim_end();
    if said.ends_with(sentence) {
        return false;
    }
    let stop = if said.is_empty() || said.ends_with(['.', '!', '?', ':', ';']) { "" } else { "." };
    let space = if said.is_empty() { "" } else { " " };
    let text = format!("{said}{stop}{space}{sentence}");
    schema.insert("description".to_owned(), text.into());
    true
}
