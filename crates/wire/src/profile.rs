//! What a kind of client can take, as data ([`Profile`]), and the rewrites that bring a tool list and results there.
//!
//! Every rewrite is a pure function of JSON. Those of schemas keep one promise: what the rewritten schema refuses, the
//! original refuses too. So a client that checks arguments before it sends them never keeps back what the server would
//! have taken; what it lets through too much the server still refuses, since arguments are sent on unchanged. (`null`
//! counts as [`Profile::nullable`] says: the older dialects have no other word for it.)
//!
//! In the order of their use: `refs` puts definitions where they are referred to, `flatten` makes one plain schema of
//! unions, conditions and type lists, `finish` says in words and older keywords what is left; [`names`] shortens names,
//! [`results`] cuts results. [`list`] does it for a whole tool list.

mod finish;
mod flatten;
pub mod list;
pub mod names;
mod refs;
pub mod results;
mod walk;

use std::fmt;

use serde_json::{Map, Value};

/// What a kind of client can take. `None` and `false` leave as it is what the field is about.
#[derive(Debug, PartialEq, Eq)]
pub struct Profile {
    /// What a configuration calls it.
    pub name: &'static str,
    /// Definitions are put where they are referred to, and a recursive one so many times within itself.
    pub inline_refs: Option<usize>,
    /// Unions, conditions, tuples and type lists become one plain schema.
    pub flatten: bool,
    /// The keyword that lets a value be null beside its one type.
    pub nullable: &'static str,
    /// `exclusiveMinimum` and `exclusiveMaximum` with numbers become `minimum` and `maximum`.
    pub inclusive_bounds: bool,
    /// What `enum` lists is said in the description too.
    pub describe_enums: bool,
    /// Objects always have `properties`, and arrays `items`.
    pub complete: bool,
    /// The only keywords that are left, beside those that begin with `x-`.
    pub keywords: Option<&'static [&'static str]>,
    /// Longest description of a tool, in characters.
    pub tool_description: Option<usize>,
    /// Longest description of anything in a schema, in characters.
    pub description: Option<usize>,
    /// Longest name of a tool, in characters, all of which are ASCII letters, digits, `_` or `-`.
    pub name_length: Option<usize>,
    /// Most tools in a list; the list is whole then, without further pages.
    pub tools: Option<usize>,
    /// Largest answer, in bytes.
    pub answer_bytes: Option<usize>,
    /// Answers are JSON, never event streams, and a call that fails in the gateway is answered as a tool's error, with
    /// HTTP status 200: this client shows its user nothing of other statuses.
    pub plain_answers: bool,
}

/// Microsoft Copilot Studio, from its troubleshooting page and from reports: a tool with `$ref` vanishes, a type list
/// truncates the schema, a numeric exclusive bound throws, `enum` is shown as plain text, a missing `properties` breaks,
/// a connector's response ends at 500 KB.
pub const COPILOT_STUDIO: Profile = Profile {
    name: "copilot-studio",
    inline_refs: Some(2),
    flatten: true,
    nullable: "nullable",
    inclusive_bounds: true,
    describe_enums: true,
    complete: true,
    keywords: None,
    tool_description: Some(1024),
    description: Some(512),
    name_length: Some(64),
    tools: Some(128),
    answer_bytes: Some(500_000),
    plain_answers: true,
};

/// The profiles that a configuration can name.
pub const ROUTE_PROFILES: &[&Profile] = &[&COPILOT_STUDIO];

/// Schemas as OpenAPI 3.1 has them in a document of its own: JSON Schema 2020-12, but what `$ref` points to would have to
/// stand elsewhere in that document.
pub const OPENAPI_3_1: Profile = Profile {
    name: "openapi-3.1",
    inline_refs: Some(2),
    flatten: false,
    nullable: "nullable",
    inclusive_bounds: false,
    describe_enums: false,
    complete: false,
    keywords: None,
    tool_description: None,
    description: None,
    name_length: None,
    tools: None,
    answer_bytes: None,
    plain_answers: false,
};

/// Schemas as Swagger 2.0 has them ("Schema Object"), in what Power Platform reads of it.
pub const SWAGGER_2_0: Profile = Profile {
    name: "swagger-2.0",
    flatten: true,
    nullable: "x-nullable",
    inclusive_bounds: true,
    complete: true,
    keywords: Some(&[
        "type",
        "format",
        "title",
        "description",
        "default",
        "enum",
        "minimum",
        "maximum",
        "multipleOf",
        "minLength",
        "maxLength",
        "pattern",
        "minItems",
        "maxItems",
        "uniqueItems",
        "minProperties",
        "maxProperties",
        "required",
        "properties",
        "additionalProperties",
        "items",
    ]),
    ..OPENAPI_3_1
};

/// For routes that only select among the tools: nothing is rewritten.
pub const UNCHANGED: Profile = Profile { name: "none", inline_refs: None, ..OPENAPI_3_1 };

impl Profile {
    /// The profile that a configuration calls so.
    #[must_use]
    pub fn named(name: &str) -> Option<&'static Profile> {
        ROUTE_PROFILES.iter().copied().find(|profile| profile.name == name)
    }

    /// Whether it changes schemas at all.
    #[must_use]
    pub fn rewrites_schemas(&self) -> bool {
        self.inline_refs.is_some() || self.flatten || self.complete
    }

    /// A schema of an object (a tool's input or output) as this client can read it; what is no schema of an object
    /// becomes one that takes every object.
    #[must_use]
    pub fn schema(&self, schema: &Value) -> (Value, Changes) {
        let mut changes = Changes::default();
        let mut rewritten = match self.inline_refs {
            Some(depth) => refs::inline(schema, depth, &mut changes),
            None => schema.clone(),
        };
        if self.flatten {
            flatten::flatten(&mut rewritten, self.nullable, &mut changes);
        }
        let mut object = match rewritten {
            Value::Object(object) => object,
            _ => Map::new(),
        };
        if object.get("type").and_then(Value::as_str) != Some("object") {
            changes.count(Rewrite::Completed);
            object.insert("type".to_owned(), "object".into());
        }
        let mut schema = Value::Object(object);
        finish::finish(&mut schema, self, &mut changes);
        (schema, changes)
    }
}

/// The kinds of change that a profile makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rewrite {
    /// A `$ref` was replaced by what it points to.
    Inlined,
    /// A `$ref` was replaced by a schema that takes more: it is recursive, or points outside.
    Opened,
    /// A list of types became one type.
    Typed,
    /// `anyOf`, `oneOf` or `allOf` became one schema.
    Merged,
    /// A keyword that this client cannot read was left out.
    Dropped,
    /// An exclusive bound became an inclusive one.
    Bounded,
    /// The values of an `enum` were added to the description.
    Described,
    /// A missing `type`, `properties` or `items` was added.
    Completed,
    /// A description was cut.
    Shortened,
    /// The name was shortened.
    Renamed,
}

impl Rewrite {
    const ALL: [(Rewrite, &str); 10] = [
        (Rewrite::Inlined, "$ref inlined"),
        (Rewrite::Opened, "$ref opened"),
        (Rewrite::Typed, "type lists made single"),
        (Rewrite::Merged, "unions merged"),
        (Rewrite::Dropped, "keywords left out"),
        (Rewrite::Bounded, "exclusive bounds rewritten"),
        (Rewrite::Described, "enums described"),
        (Rewrite::Completed, "schemas completed"),
        (Rewrite::Shortened, "descriptions cut"),
        (Rewrite::Renamed, "names shortened"),
    ];
}

/// How often each kind of change was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changes([usize; Rewrite::ALL.len()]);

impl Changes {
    pub(crate) fn count(&mut self, rewrite: Rewrite) {
        self.0[rewrite as usize] += 1;
    }

    /// How often this change was made.
    #[must_use]
    pub fn of(&self, rewrite: Rewrite) -> usize {
        self.0[rewrite as usize]
    }

    /// Whether nothing was changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|count| *count == 0)
    }

    /// Adds those of another schema.
    pub fn add(&mut self, other: &Changes) {
        for (count, more) in self.0.iter_mut().zip(other.0) {
            *count += more;
        }
    }
}

impl fmt::Display for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let made = Rewrite::ALL.iter().filter(|(rewrite, _)| self.of(*rewrite) > 0);
        for (index, (rewrite, words)) in made.enumerate() {
            let comma = if index > 0 { ", " } else { "" };
            write!(f, "{comma}{} {words}", self.of(*rewrite))?;
        }
        Ok(())
    }
}

/// A text of at most `most` characters; an ellipsis shows where it was cut.
pub(crate) fn cut(text: &str, most: usize) -> Option<String> {
    text.char_indices().nth(most)?;
    let kept: String = text.chars().take(most.saturating_sub(1)).collect();
    Some(kept.trim_end().to_owned() + "\u{2026}")
}
