//! The tools as OpenAPI 3.1 and as Swagger 2.0: each an operation with typed parameters, made from the list as it is now.

use std::collections::HashSet;

use serde_json::{Map, Value, json};
use throughline_wire::profile::{OPENAPI_3_1, SWAGGER_2_0};

use crate::app::App;
use crate::classify::Arrived;
use crate::config::ToolErrors;
use crate::urls::escaped;

/// Which description.
#[derive(Clone, Copy)]
pub(super) enum Document {
    /// OpenAPI 3.1.
    OpenApi,
    /// Swagger 2.0, which Power Platform reads.
    Swagger,
}

/// What callers prove themselves with; one of them will do.
struct Security {
    keys: bool,
    tokens: bool,
}

impl Security {
    /// The schemes, with this one for tokens, and what is needed; None where nothing is.
    fn said(&self, token: Value) -> Option<(Value, Value)> {
        let (mut schemes, mut needed) = (Map::new(), Vec::new());
        if self.keys {
            schemes
                .insert("key".to_owned(), json!({ "type": "apiKey", "in": "header", "name": "x-api-key" }));
            needed.push(json!({ "key": [] }));
        }
        if self.tokens {
            schemes.insert("token".to_owned(), token);
            needed.push(json!({ "token": [] }));
        }
        (!needed.is_empty()).then(|| (schemes.into(), needed.into()))
    }
}

/// Longest name of an operation, in characters.
const MAX_OPERATION: usize = 64;

/// A tool, as both descriptions need it.
struct Tool {
    path: String,
    operation: String,
    title: String,
    description: String,
    input: Value,
    output: Option<Value>,
}

/// The description that was asked for.
pub(super) fn document(app: &App, arrived: &Arrived, document: Document, tools: Vec<Value>) -> Value {
    let base = arrived.external_base(app);
    let name = &arrived.route.config.name;
    let below = if name.is_empty() { "/rest".to_owned() } else { format!("/{name}/rest") };
    let title = if name.is_empty() { "MCP tools".to_owned() } else { format!("MCP tools: {name}") };
    let info = json!({
        "title": title,
        "version": env!("CARGO_PKG_VERSION"),
        "description": "The tools of a server for the Model Context Protocol, each as an operation.",
    });
    let errors = arrived.route.config.rest.tool_errors;
    let mut taken = HashSet::from(["listTools", "getResult", "cancelCall"].map(str::to_owned));
    let profile = match document {
        Document::OpenApi => &OPENAPI_3_1,
        Document::Swagger => &SWAGGER_2_0,
    };
    let tools = tools.iter().filter_map(|tool| {
        let name = tool.get("name")?.as_str()?;
        let title = tool.get("title").or(tool["annotations"].get("title")).and_then(Value::as_str);
        Some(Tool {
            path: format!("/tools/{}", escaped(name)),
            operation: operation(name, &mut taken),
            title: title.unwrap_or(name).to_owned(),
            description: tool.get("description").and_then(Value::as_str).unwrap_or(name).to_owned(),
            input: profile.schema(&tool["inputSchema"]).0,
            output: tool.get("outputSchema").map(|schema| profile.schema(schema).0),
        })
    });
    let tools: Vec<Tool> = tools.collect();
    let security = Security { keys: !app.config.callers.keys.is_empty(), tokens: app.tokens.is_some() };
    match document {
        Document::OpenApi => openapi(&base, &below, info, &tools, errors, &security),
        Document::Swagger => swagger(&base, &below, info, &tools, errors, &security),
    }
}

fn openapi(
    base: &str,
    below: &str,
    info: Value,
    tools: &[Tool],
    errors: ToolErrors,
    security: &Security,
) -> Value {
    let content = |schema: Value| json!({ "application/json": { "schema": schema } });
    let schema = |name: &str| json!({ "$ref": format!("#/components/schemas/{name}") });
    let error = || json!({ "description": "It was not executed, or failed on the way.", "content": content(schema("Error")) });
    let mut paths = Map::new();
    paths.insert(
        "/tools".to_owned(),
        json!({ "get": {
            "operationId": "listTools",
            "summary": "List the tools",
            "responses": {
                "200": { "description": "All tools, as the server describes them.", "content": content(tools_schema()) },
                "default": error(),
            },
        } }),
    );
    for tool in tools {
        let answer = match (&tool.output, errors) {
            (None, _) => schema("Answer"),
            (Some(output), ToolErrors::Unprocessable) => output.clone(),
            (Some(output), ToolErrors::Ok) => json!({ "anyOf": [output, schema("Failure")] }),
        };
        let mut responses = Map::new();
        responses.insert(
            "200".to_owned(),
            json!({ "description": "What the tool answered.", "content": content(answer) }),
        );
        if errors == ToolErrors::Unprocessable {
            responses.insert(
                "422".to_owned(),
                json!({ "description": "The tool says that it failed.", "content": content(schema("Failure")) }),
            );
        }
        responses.insert("202".to_owned(), json!({ "$ref": "#/components/responses/Running" }));
        responses.insert("default".to_owned(), error());
        paths.insert(
            tool.path.clone(),
            json!({ "post": {
                "operationId": tool.operation,
                "summary": tool.title,
                "description": tool.description,
                "parameters": [{ "$ref": "#/components/parameters/Prefer" }],
                "requestBody": { "required": requires(&tool.input), "content": content(tool.input.clone()) },
                "responses": responses,
            } }),
        );
    }
    paths.insert("/calls/{id}".to_owned(), later(&error()));
    let mut document = json!({
        "openapi": "3.1.0",
        "info": info,
        "servers": [{ "url": format!("{base}{below}") }],
        "paths": paths,
        "components": {
            "schemas": shapes(),
            "parameters": { "Prefer": prefer() },
            "responses": { "Running": running() },
        },
    });
    let token = json!({ "type": "http", "scheme": "bearer", "bearerFormat": "JWT" });
    if let Some((schemes, needed)) = security.said(token) {
        document["components"]["securitySchemes"] = schemes;
        document["security"] = needed;
    }
    document
}

/// What becomes of a call whose result is asked for later.
fn later(error: &Value) -> Value {
    let id = json!({ "name": "id", "in": "path", "required": true, "schema": { "type": "string" } });
    let done = json!({
        "description": "What the tool answered, as it would have been answered at once.",
        "content": { "application/json": { "schema": { "type": "object" } } },
    });
    json!({
        "parameters": [id],
        "get": {
            "operationId": "getResult",
            "summary": "Get the result of a call that was to be asked for later",
            "responses": {
                "200": done,
                "202": { "$ref": "#/components/responses/Running" },
                "default": error,
            },
        },
        "delete": {
            "operationId": "cancelCall",
            "summary": "Cancel such a call, or forget its result",
            "responses": { "204": { "description": "It is forgotten." }, "default": error },
        },
    })
}

fn prefer() -> Value {
    json!({
        "name": "Prefer",
        "in": "header",
        "description": "respond-async: if the result is not there in time (wait=SECONDS, 0 without it), say where it will be.",
        "schema": { "type": "string" },
        "example": "respond-async, wait=10",
    })
}

fn running() -> Value {
    let location = json!({ "description": "Where the result will be.", "schema": { "type": "string" } });
    let again =
        json!({ "description": "Seconds until it is worth to ask.", "schema": { "type": "integer" } });
    let body = json!({
        "type": "object",
        "properties": { "status": { "const": "running" }, "location": { "type": "string" } },
        "required": ["status", "location"],
    });
    json!({
        "description": "It runs.",
        "headers": { "Location": location, "Retry-After": again },
        "content": { "application/json": { "schema": body } },
    })
}

fn swagger(
    base: &str,
    below: &str,
    info: Value,
    tools: &[Tool],
    errors: ToolErrors,
    security: &Security,
) -> Value {
    let schema = |name: &str| json!({ "$ref": format!("#/definitions/{name}") });
    let error =
        || json!({ "description": "It was not executed, or failed on the way.", "schema": schema("Error") });
    let mut paths = Map::new();
    paths.insert(
        "/tools".to_owned(),
        json!({ "get": {
            "operationId": "listTools",
            "summary": "List the tools",
            "responses": {
                "200": { "description": "All tools, as the server describes them.", "schema": tools_schema() },
                "default": error(),
            },
        } }),
    );
    for tool in tools {
        // A tool that fails answers with another form, which 2.0 has no union for: then nothing is promised.
        let answer = match (&tool.output, errors) {
            (Some(output), ToolErrors::Unprocessable) => output.clone(),
            (Some(output), ToolErrors::Ok) => optional(output.clone()),
            (None, _) => schema("Answer"),
        };
        let mut responses = Map::new();
        responses
            .insert("200".to_owned(), json!({ "description": "What the tool answered.", "schema": answer }));
        if errors == ToolErrors::Unprocessable {
            responses.insert(
                "422".to_owned(),
                json!({ "description": "The tool says that it failed.", "schema": schema("Failure") }),
            );
        }
        responses.insert("default".to_owned(), error());
        paths.insert(
            tool.path.clone(),
            json!({ "post": {
                "operationId": tool.operation,
                "summary": tool.title,
                "description": tool.description,
                "parameters": [{
                    "name": "arguments",
                    "in": "body",
                    "required": requires(&tool.input),
                    "schema": summarised(tool.input.clone()),
                }],
                "responses": responses,
            } }),
        );
    }
    let (scheme, host) = base.split_once("://").unwrap_or(("http", base));
    let mut document = json!({
        "swagger": "2.0",
        "info": info,
        "host": host,
        "basePath": below,
        "schemes": [scheme],
        "consumes": ["application/json"],
        "produces": ["application/json"],
        "paths": paths,
        "definitions": shapes(),
    });
    // 2.0 has no word for a bearer token but OAuth's, which would need the endpoints.
    let token = json!({ "type": "apiKey", "in": "header", "name": "Authorization" });
    if let Some((schemes, needed)) = security.said(token) {
        document["securityDefinitions"] = schemes;
        document["security"] = needed;
    }
    document
}

/// The forms that the gateway itself answers in; docs/rest.md explains them.
fn shapes() -> Value {
    let part = json!({ "type": "array", "items": { "type": "object" }, "description": "Images, links and other parts." });
    let text =
        json!({ "type": "string", "description": "What the tool says, its parts joined by line feeds." });
    json!({
        "Answer": {
            "type": "object",
            "description": "The tool's text, or an object of its own where it has structured content.",
            "properties": { "text": text, "isError": { "type": "boolean" }, "content": part },
        },
        "Failure": {
            "type": "object",
            "properties": { "isError": { "type": "boolean" }, "text": text, "content": part },
            "required": ["isError", "text"],
        },
        "Error": {
            "type": "object",
            "properties": { "error": {
                "type": "object",
                "properties": { "code": { "type": "integer" }, "message": { "type": "string" } },
                "required": ["code", "message"],
            } },
            "required": ["error"],
        },
    })
}

fn tools_schema() -> Value {
    let tools = json!({ "type": "array", "items": { "type": "object" } });
    json!({ "type": "object", "properties": { "tools": tools }, "required": ["tools"] })
}

/// Whether a call needs a body.
fn requires(input: &Value) -> bool {
    input.get("required").and_then(Value::as_array).is_some_and(|names| !names.is_empty())
}

/// The schema of an object that may as well be another.
fn optional(mut schema: Value) -> Value {
    if let Value::Object(object) = &mut schema {
        object.shift_remove("required");
        object.shift_remove("additionalProperties");
    }
    schema
}

/// With the names that Power Platform's designer shows.
fn summarised(mut schema: Value) -> Value {
    if let Some(Value::Object(properties)) = schema.get_mut("properties") {
        for (name, property) in properties {
            let title = property.get("title").cloned().unwrap_or_else(|| name.as_str().into());
            property["x-ms-summary"] = title;
        }
    }
    schema
}

/// The name of a tool's operation: letters, digits and `_`, and no other's.
fn operation(name: &str, taken: &mut HashSet<String>) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
    let base: String = name.chars().take(MAX_OPERATION).map(plain).collect();
    let base = if base.is_empty() { "tool".to_owned() } else { base };
    let mut operation = base.clone();
    let mut number = 2;
    while !taken.insert(operation.clone()) {
        operation = format!("{base}_{number}");
        number += 1;
    }
    operation
}
