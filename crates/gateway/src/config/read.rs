//! A reader of TOML tables that goes on after a mistake, so that all are reported.
//!
//! It knows nothing of the gateway's keys: those are tables of [`Key`] in `schema`.

use std::ops::{Range, RangeInclusive};
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{ConfigError, Header, HeaderSource, Place, ValueError, value};

/// A key of a table: its name, and how its value goes into a `T`.
pub(super) struct Key<T: 'static> {
    pub(super) name: &'static str,
    read: fn(&mut T, &mut Field<'_, '_>),
}

impl<T> Key<T> {
    pub(super) const fn new(name: &'static str, read: fn(&mut T, &mut Field<'_, '_>)) -> Self {
        Self { name, read }
    }
}

/// A file that is being read, and what was found wrong with it so far.
pub(super) struct Reader<'a> {
    pub(super) file_name: &'a str,
    pub(super) text: &'a str,
    /// Dotted names of all keys there are, to tell where a misplaced one belongs.
    pub(super) known: Vec<String>,
    pub(super) errors: Vec<ConfigError>,
}

impl Reader<'_> {
    /// The line in which `span` begins.
    pub(super) fn place(&self, span: &Range<usize>) -> Place {
        let before = &self.text.as_bytes()[..span.start.min(self.text.len())];
        let line = 1 + before.iter().filter(|b| **b == b'\n').count();
        Place::File { name: self.file_name.to_owned(), line }
    }

    pub(super) fn fail(&mut self, span: &Range<usize>, key: &str, message: String) {
        let place = self.place(span);
        self.errors.push(ConfigError { place, key: key.to_owned(), message });
    }

    /// Reads the `entries` of the table called `path` (empty for the file itself) by `keys`.
    pub(super) fn table<T>(&mut self, path: &str, entries: &DeTable<'_>, keys: &[Key<T>], into: &mut T) {
        for (name, value) in entries {
            let path = dotted(path, name.get_ref());
            match keys.iter().find(|key| key.name == name.get_ref()) {
                Some(key) => {
                    (key.read)(into, &mut Field { reader: self, path, name_span: name.span(), value });
                }
                None => {
                    let message = self.unknown_key(name.get_ref(), keys);
                    self.fail(&name.span(), &path, message);
                }
            }
        }
    }

    fn unknown_key<T>(&self, name: &str, keys: &[Key<T>]) -> String {
        if let Some(near) = nearest(name, keys.iter().map(|key| key.name)) {
            return format!("unknown key; did you mean {near}?");
        }
        let elsewhere = self.known.iter().find(|known| known.rsplit('.').next() == Some(name));
        match elsewhere {
            Some(known) if known.contains('.') => format!("unknown key; did you mean {known}?"),
            // A key under a [section] belongs to it, which is easily forgotten.
            Some(known) => format!("unknown key; {known} belongs above the first [section]"),
            None => {
                let names: Vec<_> = keys.iter().map(|key| key.name).collect();
                format!("unknown key; there are {}", names.join(", "))
            }
        }
    }
}

/// One `key = value` or `[key]` that is being read. Each method leaves `into` as it is when it finds a mistake.
pub(super) struct Field<'r, 'a> {
    reader: &'r mut Reader<'a>,
    path: String,
    name_span: Range<usize>,
    value: &'r Spanned<DeValue<'r>>,
}

impl Field<'_, '_> {
    /// The line of the value.
    pub(super) fn place(&self) -> Place {
        self.reader.place(&self.value.span())
    }

    fn fail(&mut self, message: String) {
        self.reader.fail(&self.value.span(), &self.path, message);
    }

    /// Reports what is wrong with the table as such, at its name: a table made by dotted keys has no other place.
    pub(super) fn fail_name(&mut self, error: ValueError) {
        self.reader.fail(&self.name_span, &self.path, error.to_string());
    }

    fn wrong_type(&mut self, expected: &str) {
        let found = type_name(self.value.get_ref());
        self.fail(format!("expected {expected}, found {found}"));
    }

    fn put<V>(&mut self, into: &mut V, value: Result<V, ValueError>) {
        match value {
            Ok(value) => *into = value,
            Err(error) => self.fail(error.to_string()),
        }
    }

    /// A string that `parse` understands; `expected` names its kind, with article.
    pub(super) fn parsed<V>(
        &mut self,
        into: &mut V,
        expected: &str,
        parse: impl Fn(&str) -> Result<V, ValueError>,
    ) {
        match self.value.get_ref() {
            DeValue::String(text) => self.put(into, parse(text)),
            _ => self.wrong_type(&format!("{expected} in quotes")),
        }
    }

    /// An array of strings that `parse` understands; `expected` names their kind, in the plural.
    pub(super) fn list<V>(
        &mut self,
        into: &mut Vec<V>,
        expected: &str,
        parse: impl Fn(&str) -> Result<V, ValueError>,
    ) {
        let DeValue::Array(items) = self.value.get_ref() else {
            return self.wrong_type(&format!("an array of {expected}, [\"...\"]"));
        };
        into.clear();
        for item in items {
            let parsed = match item.get_ref() {
                DeValue::String(text) => parse(text),
                other => {
                    Err(ValueError(format!("expected {expected} in quotes, found {}", type_name(other))))
                }
            };
            match parsed {
                Ok(value) => into.push(value),
                Err(error) => self.reader.fail(&item.span(), &self.path, error.to_string()),
            }
        }
    }

    /// A string that `parse` understands, or an array of such; their kind in the singular, with article, and in the
    /// plural.
    pub(super) fn one_or_more<V>(
        &mut self,
        into: &mut Vec<V>,
        one: &str,
        more: &str,
        parse: impl Fn(&str) -> Result<V, ValueError>,
    ) {
        if matches!(self.value.get_ref(), DeValue::Array(_)) {
            return self.list(into, more, parse);
        }
        let mut read = None;
        self.parsed(&mut read, one, |text| parse(text).map(Some));
        into.extend(read);
    }

    /// One of a few words.
    pub(super) fn choice<V: Copy>(&mut self, into: &mut V, choices: &[(&str, V)]) {
        let one_of = choices.iter().map(|(name, _)| format!("{name:?}")).collect::<Vec<_>>().join(" or ");
        let DeValue::String(text) = self.value.get_ref() else {
            return self.wrong_type(&one_of);
        };
        match choices.iter().find(|(name, _)| name == text) {
            Some((_, value)) => *into = *value,
            None => self.fail(format!("{text:?} is not {one_of}")),
        }
    }

    /// `true` or `false`.
    pub(super) fn flag(&mut self, into: &mut bool) {
        match self.value.get_ref() {
            DeValue::Boolean(flag) => *into = *flag,
            _ => self.wrong_type("true or false"),
        }
    }

    /// A table of headers: their values, or the variables of the environment that hold them.
    pub(super) fn headers(
        &mut self,
        into: &mut Vec<Header>,
        name_of: fn(&str) -> Result<HeaderName, ValueError>,
        value_of: fn(&str) -> Result<HeaderValue, ValueError>,
    ) {
        let DeValue::Table(entries) = self.value.get_ref() else {
            return self.wrong_type("a table of headers, { x-team = \"search\" }");
        };
        into.clear();
        for (name, value) in entries {
            let key = dotted(&self.path, name.get_ref());
            let source = match value.get_ref() {
                DeValue::String(text) => value_of(text).map(HeaderSource::Value),
                other => match variable(other) {
                    Some(variable) => Ok(HeaderSource::Env {
                        variable,
                        key: key.clone(),
                        place: self.reader.place(&value.span()),
                    }),
                    None => Err(ValueError("write \"value\" or { env = \"VARIABLE\" }".to_owned())),
                },
            };
            match name_of(name.get_ref()) {
                Err(error) => self.reader.fail(&name.span(), &key, error.to_string()),
                Ok(name) => match source {
                    Ok(value) => into.push(Header { name, value }),
                    Err(error) => self.reader.fail(&value.span(), &key, error.to_string()),
                },
            }
        }
    }

    /// A whole number within `range`.
    pub(super) fn count(&mut self, into: &mut usize, range: RangeInclusive<usize>) {
        let DeValue::Integer(number) = self.value.get_ref() else {
            return self.wrong_type("a whole number");
        };
        match usize::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) if range.contains(&number) => *into = number,
            _ => {
                self.fail(format!("{number} is out of range: between {} and {}", range.start(), range.end()));
            }
        }
    }

    /// A size in bytes within `range`.
    pub(super) fn size(&mut self, into: &mut usize, range: RangeInclusive<usize>) {
        let size = match self.value.get_ref() {
            DeValue::String(text) => value::size(text),
            DeValue::Integer(number) => usize::from_str_radix(number.as_str(), number.radix())
                .map_err(|_| ValueError(format!("{number} is not a size: write a number of bytes or 4MiB"))),
            _ => return self.wrong_type("a size, such as \"4MiB\" or a number of bytes"),
        };
        let size = size.and_then(|size| within(size, &range, value::show_size));
        self.put(into, size);
    }

    /// A duration within `range`.
    pub(super) fn duration(&mut self, into: &mut Duration, range: RangeInclusive<Duration>) {
        let duration = match self.value.get_ref() {
            DeValue::String(text) => value::duration(text),
            DeValue::Integer(number) => {
                Err(ValueError(format!("{number} has no unit: write \"{number}s\" for seconds")))
            }
            _ => return self.wrong_type("a duration, such as \"5s\""),
        };
        let duration = duration.and_then(|duration| within(duration, &range, value::show_duration));
        self.put(into, duration);
    }

    /// A table with these keys. Tells whether it was read without a mistake.
    pub(super) fn table<T>(&mut self, into: &mut T, keys: &[Key<T>]) -> bool {
        let DeValue::Table(entries) = self.value.get_ref() else {
            let expected = format!("a table, [{}]", self.path);
            self.wrong_type(&expected);
            return false;
        };
        let before = self.reader.errors.len();
        self.reader.table(&self.path, entries, keys, into);
        self.reader.errors.len() == before
    }

    /// A table of tables: `read` gets each with its name.
    pub(super) fn each_table(&mut self, mut read: impl FnMut(&str, &mut Field<'_, '_>)) {
        let DeValue::Table(entries) = self.value.get_ref() else {
            let expected = format!("tables, [{}.NAME]", self.path);
            return self.wrong_type(&expected);
        };
        for (name, value) in entries {
            let path = dotted(&self.path, name.get_ref());
            let reader = &mut *self.reader;
            read(name.get_ref(), &mut Field { reader, path, name_span: name.span(), value });
        }
    }

    /// Whether this table has such a key.
    pub(super) fn has(&self, name: &str) -> bool {
        self.value.get_ref().get(name).is_some()
    }

    /// Reports that this table lacks its key `name`, if it does.
    pub(super) fn require(&mut self, name: &str, what_to_write: &str) {
        if let DeValue::Table(entries) = self.value.get_ref()
            && !entries.contains_key(name)
        {
            self.fail_name(ValueError(format!("{name} is missing: write {what_to_write}")));
        }
    }

    /// Reports that a value of this table does not go with another.
    pub(super) fn fail_inside(&mut self, name: &str, message: String) {
        let span = self.value.get_ref().get(name).map_or_else(|| self.name_span.clone(), Spanned::span);
        let path = dotted(&self.path, name);
        self.reader.fail(&span, &path, message);
    }
}

/// The variable in `{ env = "VARIABLE" }`.
fn variable(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::Table(table) if table.len() == 1 => match table.get("env")?.get_ref() {
            DeValue::String(name) if !name.is_empty() => Some(name.to_string()),
            _ => None,
        },
        _ => None,
    }
}

fn within<V: PartialOrd + Copy>(
    value: V,
    range: &RangeInclusive<V>,
    show: fn(V) -> String,
) -> Result<V, ValueError> {
    if range.contains(&value) {
        return Ok(value);
    }
    let (value, least, most) = (show(value), show(*range.start()), show(*range.end()));
    Err(ValueError(format!("{value} is out of range: between {least} and {most}")))
}

fn dotted(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

fn type_name(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a float",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    }
}

/// The candidate that `name` may be a misspelling of: at most a third of its letters wrong.
fn nearest<'c>(name: &str, candidates: impl Iterator<Item = &'c str>) -> Option<&'c str> {
    candidates
        .map(|candidate| (edits(name, candidate), candidate))
        .filter(|(edits, candidate)| edits * 3 <= candidate.len().max(3))
        .min_by_key(|(edits, _)| *edits)
        .map(|(_, candidate)| candidate)
}

/// How many letters to add, drop or change to get from `a` to `b` (Levenshtein distance).
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, to) in b.iter().enumerate() {
            let change = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = change.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}
