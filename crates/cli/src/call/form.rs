//! The fields of an elicitation's form: primitives and choices (specification 2025-11-25, Elicitation).

use serde_json::{Number, Value};

use crate::text;

/// Longest question that is shown for a field, in characters.
const SHOWN: usize = 300;

/// A field, and what may be put in it.
pub(crate) struct Field {
    pub(crate) name: String,
    title: Option<String>,
    description: Option<String>,
    required: bool,
    default: Option<Value>,
    kind: Kind,
}

enum Kind {
    Text { least: u64, most: u64 },
    Number { integer: bool, least: Option<f64>, most: Option<f64> },
    YesOrNo,
    One(Vec<Choice>),
    Several { choices: Vec<Choice>, least: u64, most: u64 },
}

/// What can be chosen, and how it is shown.
struct Choice {
    value: String,
    title: String,
}

/// The fields of a form's schema.
pub(crate) fn fields(schema: &Value) -> Vec<Field> {
    let required = |name: &str| {
        let names = schema["required"].as_array();
        names.is_some_and(|names| names.iter().any(|known| known == name))
    };
    let Some(properties) = schema["properties"].as_object() else { return Vec::new() };
    let field = |(name, schema): (&String, &Value)| Field {
        name: name.clone(),
        title: schema["title"].as_str().map(str::to_owned),
        description: schema["description"].as_str().map(str::to_owned),
        required: required(name),
        default: schema.get("default").filter(|value| !value.is_null()).cloned(),
        kind: kind(schema),
    };
    properties.iter().map(field).collect()
}

fn kind(schema: &Value) -> Kind {
    let whole = |name: &str| schema[name].as_u64();
    let bound = |name: &str| schema[name].as_f64();
    let choices = choices(schema);
    match schema["type"].as_str() {
        Some("array") => Kind::Several {
            choices: self::choices(&schema["items"]),
            least: whole("minItems").unwrap_or(0),
            most: whole("maxItems").unwrap_or(u64::MAX),
        },
        Some("boolean") => Kind::YesOrNo,
        Some(number @ ("integer" | "number")) => {
            Kind::Number { integer: number == "integer", least: bound("minimum"), most: bound("maximum") }
        }
        _ if !choices.is_empty() => Kind::One(choices),
        _ => Kind::Text {
            least: whole("minLength").unwrap_or(0),
            most: whole("maxLength").unwrap_or(u64::MAX),
        },
    }
}

/// Choices in any of the forms that schemas have for them, older ones with titles beside them.
fn choices(schema: &Value) -> Vec<Choice> {
    let titled = ["oneOf", "anyOf"].iter().find_map(|name| schema[name].as_array());
    if let Some(titled) = titled {
        let choice = |item: &Value| {
            let value = item["const"].as_str()?.to_owned();
            Some(Choice { title: item["title"].as_str().unwrap_or(&value).to_owned(), value })
        };
        return titled.iter().filter_map(choice).collect();
    }
    let Some(values) = schema["enum"].as_array() else { return Vec::new() };
    let values = values.iter().enumerate().filter_map(|(at, value)| Some((at, value.as_str()?)));
    let choice = |(at, value): (usize, &str)| Choice {
        value: value.to_owned(),
        title: schema["enumNames"][at].as_str().unwrap_or(value).to_owned(),
    };
    values.map(choice).collect()
}

impl Field {
    /// What to show before the field is asked for.
    pub(crate) fn question(&self) -> String {
        let title = self.title.as_deref().unwrap_or(&self.name);
        let mut question = format!("\n  {}", text::line(title, SHOWN));
        if let Some(description) = &self.description {
            question += &format!(": {}", text::line(description, SHOWN));
        }
        question += &format!("\n    ({}", self.kind.expects());
        question += if self.required { ", required" } else { ", may be left empty" };
        if let Some(default) = &self.default {
            question += &format!(", {} if empty", text::line(&shown(default), SHOWN));
        }
        question.push(')');
        if let Kind::One(choices) | Kind::Several { choices, .. } = &self.kind {
            for (at, choice) in choices.iter().enumerate() {
                question += &format!("\n    {}  {}", at + 1, text::line(&choice.title, SHOWN));
            }
        }
        question
    }

    /// The value that a line stands for; None if the field stays empty.
    ///
    /// # Errors
    /// Why it does not fit, to be shown.
    pub(crate) fn read(&self, line: &str) -> Result<Option<Value>, String> {
        if line.is_empty() {
            return match (&self.default, self.required) {
                (Some(default), _) => Ok(Some(default.clone())),
                (None, false) => Ok(None),
                (None, true) => Err("this field is required; Ctrl-D cancels the call".to_owned()),
            };
        }
        self.kind.read(line).map(Some)
    }
}

impl Kind {
    fn expects(&self) -> String {
        match self {
            Kind::Text { least: 0, most: u64::MAX } => "text".to_owned(),
            Kind::Text { least, most: u64::MAX } => format!("text of {least} characters at least"),
            Kind::Text { least, most } => format!("text of {least} to {most} characters"),
            Kind::Number { integer, least, most } => {
                let mut text = if *integer { "a whole number" } else { "a number" }.to_owned();
                if let Some(least) = least {
                    text += &format!(", {least} or more");
                }
                if let Some(most) = most {
                    text += &format!(", {most} or less");
                }
                text
            }
            Kind::YesOrNo => "yes or no".to_owned(),
            Kind::One(_) => "one of these, by number or as written".to_owned(),
            Kind::Several { .. } => "some of these, with commas between them".to_owned(),
        }
    }

    fn read(&self, line: &str) -> Result<Value, String> {
        let refused = || format!("this is not {}", self.expects());
        match self {
            Kind::Text { least, most } => {
                let length = line.chars().count() as u64;
                if (*least..=*most).contains(&length) { Ok(line.into()) } else { Err(refused()) }
            }
            Kind::Number { integer, least, most } => {
                let number = if *integer {
                    line.parse::<i64>().ok().map(Number::from)
                } else {
                    line.parse::<f64>().ok().and_then(Number::from_f64)
                };
                let number = number.ok_or_else(refused)?;
                let size = number.as_f64().unwrap_or_default();
                let fits = least.is_none_or(|least| size >= least) && most.is_none_or(|most| size <= most);
                if fits { Ok(Value::Number(number)) } else { Err(refused()) }
            }
            Kind::YesOrNo => match line.to_ascii_lowercase().as_str() {
                "y" | "yes" | "true" => Ok(true.into()),
                "n" | "no" | "false" => Ok(false.into()),
                _ => Err(refused()),
            },
            Kind::One(choices) => chosen(choices, line).map(Value::from).ok_or_else(refused),
            Kind::Several { choices, least, most } => {
                let parts = line.split(',').map(str::trim).filter(|part| !part.is_empty());
                let values: Option<Vec<String>> = parts.map(|part| chosen(choices, part)).collect();
                let values = values.ok_or_else(refused)?;
                if (*least..=*most).contains(&(values.len() as u64)) {
                    Ok(values.into())
                } else if *most == u64::MAX {
                    Err(format!("choose {least} at least"))
                } else {
                    Err(format!("choose {least} to {most} of them"))
                }
            }
        }
    }
}

/// A choice as it was written, or else by its number.
fn chosen(choices: &[Choice], line: &str) -> Option<String> {
    let written = choices.iter().find(|choice| choice.value == line || choice.title == line);
    let numbered = || line.parse::<usize>().ok()?.checked_sub(1).and_then(|at| choices.get(at));
    written.or_else(numbered).map(|choice| choice.value.clone())
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn field(schema: Value, required: bool) -> Field {
        let required = if required { json!(["a"]) } else { json!([]) };
        fields(&json!({"properties": {"a": schema}, "required": required})).remove(0)
    }

    #[test]
    fn values_take_the_type_of_their_field() {
        for (schema, line, value) in [
            (json!({"type": "string"}), "12", json!("12")),
            (json!({"type": "integer", "minimum": 1}), "12", json!(12)),
            (json!({"type": "number", "maximum": 3}), "2.5", json!(2.5)),
            (json!({"type": "boolean"}), "Yes", json!(true)),
            (
                json!({"type": "string", "enum": ["s", "m"], "enumNames": ["Small", "Medium"]}),
                "Small",
                json!("s"),
            ),
            (
                json!({"type": "string", "oneOf": [{"const": "2", "title": "two"}, {"const": "1"}]}),
                "1",
                json!("1"),
            ),
            (json!({"type": "string", "enum": ["s", "m"]}), "2", json!("m")),
            (json!({"type": "array", "items": {"enum": ["s", "m", "l"]}}), "s, 3", json!(["s", "l"])),
        ] {
            assert_eq!(field(schema.clone(), true).read(line), Ok(Some(value)), "{schema}");
        }
    }

    #[test]
    fn what_does_not_fit_is_asked_for_again() {
        for (schema, line) in [
            (json!({"type": "string", "minLength": 2, "maxLength": 3}), "a"),
            (json!({"type": "integer"}), "1.5"),
            (json!({"type": "integer", "maximum": 3}), "4"),
            (json!({"type": "number"}), "NaN"),
            (json!({"type": "boolean"}), "perhaps"),
            (json!({"type": "string", "enum": ["s", "m"]}), "3"),
            (json!({"type": "array", "items": {"enum": ["s", "m"]}, "maxItems": 1}), "1,2"),
        ] {
            assert!(field(schema.clone(), true).read(line).is_err(), "{schema}");
        }
    }

    #[test]
    fn an_empty_line_takes_the_default_or_leaves_the_field_out() {
        assert_eq!(field(json!({"type": "string", "default": "x"}), true).read(""), Ok(Some(json!("x"))));
        assert_eq!(field(json!({"type": "string"}), false).read(""), Ok(None));
        assert!(field(json!({"type": "string"}), true).read("").is_err());
    }
}
