//! Tools' arguments and results, held to the JSON Schema (2020-12) that the tool list shows.

use std::collections::BTreeMap;
use std::io;

use jsonschema::Validator;
use rmcp::model::{JsonObject, Tool};
use serde_json::Value;

/// So many mistakes are named; who has made more will have more to read anyway.
const NAMED: usize = 5;

/// The schemas of all tools, ready for use.
pub(super) struct Schemas(BTreeMap<String, Schema>);

struct Schema {
    arguments: Validator,
    result: Option<Validator>,
}

impl Schemas {
    /// Reads the schemas of these tools.
    ///
    /// # Errors
    ///
    /// If one is not a schema of 2020-12.
    pub(super) fn of(tools: &[Tool]) -> io::Result<Self> {
        let schemas = tools.iter().map(|tool| {
            let arguments = validator(&tool.input_schema)?;
            let result = tool.output_schema.as_deref().map(validator).transpose()?;
            Ok((tool.name.to_string(), Schema { arguments, result }))
        });
        Ok(Self(schemas.collect::<io::Result<_>>()?))
    }

    /// What is wrong with the arguments of a call to `tool`, for its caller; nothing is wrong with those of a tool
    /// that does not exist.
    pub(super) fn arguments(&self, tool: &str, arguments: Option<&JsonObject>) -> Result<(), String> {
        let Some(schema) = self.0.get(tool) else { return Ok(()) };
        mistakes(&schema.arguments, &Value::Object(arguments.cloned().unwrap_or_default()))
            .map_err(|mistakes| format!("the arguments do not fit the input schema of {tool}: {mistakes}"))
    }

    /// What is wrong with a result of `tool`.
    pub(super) fn result(&self, tool: &str, result: &Value) -> Result<(), String> {
        let Some(schema) = self.0.get(tool).and_then(|schema| schema.result.as_ref()) else { return Ok(()) };
        mistakes(schema, result)
            .map_err(|mistakes| format!("the result does not fit the output schema of {tool}: {mistakes}"))
    }
}

fn validator(schema: &JsonObject) -> io::Result<Validator> {
    jsonschema::draft202012::new(&Value::Object(schema.clone())).map_err(io::Error::other)
}

/// The mistakes in `value` by their places. Values are not shown: they may be long, or secret.
fn mistakes(schema: &Validator, value: &Value) -> Result<(), String> {
    let named: Vec<_> = schema
        .iter_errors(value)
        .take(NAMED)
        .map(|error| match error.instance_path().as_str() {
            "" => error.masked().to_string(),
            place => format!("{place}: {}", error.masked()),
        })
        .collect();
    if named.is_empty() { Ok(()) } else { Err(named.join("; ")) }
}
