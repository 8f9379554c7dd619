//! `throughline connector`: what Power Platform imports to reach a gateway.

use std::path::{Path, PathBuf};

use clap::ValueEnum;
use http::Uri;
use serde_json::{Map, Value, json};

use crate::Failure;

/// Where Power Platform takes users back to when they have logged in.
const REDIRECT: &str = "https://global.consent.azure-apim.net/redirect";
/// What a refresh token takes: without it users log in again every hour.
const OFFLINE: &str = "offline_access";
/// The name of the security in the documents.
const API_KEY: &str = "api_key";
const OAUTH2: &str = "oauth2_auth";

const ICON: &[u8] = include_bytes!("../assets/icon.png");

/// Write the custom connector by which Copilot Studio and Power Platform reach a gateway.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  throughline connector https://mcp.example.com/mcp
  throughline connector https://mcp.example.com/mcp --auth api-key --conversation-header
  throughline connector https://mcp.example.com/mcp --auth oauth2 --tenant TENANT-ID --client-id APP-ID \\
      --scope api://APP-ID/access

Writes apiDefinition.swagger.json, apiProperties.json, icon.png and STEPS.md. docs/copilot-studio.md tells the rest.")]
pub(crate) struct Arguments {
    /// The gateway's MCP endpoint, as the internet knows it.
    #[arg(value_name = "URL")]
    url: Uri,
    /// Where the files go; made if it is not there.
    #[arg(long, value_name = "DIR", default_value = "connector")]
    out: PathBuf,
    /// What makers and their agents see; agents choose by it.
    #[arg(long, value_name = "TEXT", default_value = "MCP server")]
    title: String,
    /// What the server is good for; agents choose by it.
    #[arg(long, value_name = "TEXT", default_value = "Tools of an MCP server, through Throughline.")]
    description: String,
    /// How a connection proves who it is.
    #[arg(long, value_enum, default_value_t = Auth::None)]
    auth: Auth,
    /// With --auth oauth2: the Entra tenant, by id or domain.
    #[arg(long, value_name = "TENANT", required_if_eq("auth", "oauth2"))]
    tenant: Option<String>,
    /// With --auth oauth2: the application that the connector logs in as.
    #[arg(long, value_name = "ID", required_if_eq("auth", "oauth2"))]
    client_id: Option<String>,
    /// With --auth oauth2: what the connector asks for, such as api://APP-ID/access; offline_access is added.
    #[arg(long, value_name = "SCOPE", required_if_eq("auth", "oauth2"))]
    scope: Vec<String>,
    /// Let makers say which conversation a call belongs to, in this header.
    #[arg(long, value_name = "NAME", num_args = 0..=1, default_missing_value = "conversation-id")]
    conversation_header: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Auth {
    /// Nothing: anyone who knows the URL can call.
    None,
    /// A key of the gateway's, in x-api-key.
    ApiKey,
    /// A token of Entra's.
    Oauth2,
}

/// Where the gateway is, in the words of Swagger 2.0.
struct Place {
    scheme: String,
    host: String,
    path: String,
}

/// Writes the files.
pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let place = place(&arguments.url)?;
    if let Some(name) = &arguments.conversation_header {
        check_header(name)?;
    }
    if let Some(tenant) = &arguments.tenant {
        check_tenant(tenant)?;
    }
    if place.scheme == "http" {
        eprintln!(
            "throughline: Power Platform calls https only; {} is good for a look at the files",
            arguments.url
        );
    }
    let dir = &arguments.out;
    std::fs::create_dir_all(dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    write(dir, "apiDefinition.swagger.json", pretty(&definition(arguments, &place))?.as_bytes())?;
    write(dir, "apiProperties.json", pretty(&properties(arguments))?.as_bytes())?;
    write(dir, "icon.png", ICON)?;
    write(dir, "STEPS.md", steps(arguments).as_bytes())?;
    println!("{}: a connector to {}; STEPS.md says what to do with it", dir.display(), arguments.url);
    Ok(())
}

fn write(dir: &Path, name: &str, content: &[u8]) -> Result<(), Failure> {
    let path = dir.join(name);
    std::fs::write(&path, content).map_err(|error| format!("{}: {error}", path.display()).into())
}

fn pretty(value: &Value) -> Result<String, Failure> {
    Ok(serde_json::to_string_pretty(value)? + "\n")
}

fn place(url: &Uri) -> Result<Place, Failure> {
    let wrong = || format!("{url} is no URL of a gateway: write https://HOST/mcp");
    let scheme = url.scheme_str().filter(|scheme| ["http", "https"].contains(scheme)).ok_or_else(wrong)?;
    let authority =
        url.authority().filter(|authority| !authority.as_str().contains('@')).ok_or_else(wrong)?;
    if url.query().is_some() {
        return Err(format!("{url} has a query, which connectors do not carry: take it out").into());
    }
    let path = match url.path().trim_end_matches('/') {
        "" => return Err(format!("{url} has no path: write {scheme}://{authority}/mcp").into()),
        path => path.to_owned(),
    };
    Ok(Place { scheme: scheme.to_owned(), host: authority.to_string(), path })
}

fn check_header(name: &str) -> Result<(), Failure> {
    if http::HeaderName::try_from(name).is_err() {
        return Err(format!("{name:?} is not a header name").into());
    }
    if name.to_ascii_lowercase().starts_with("x-") {
        return Err(format!(
            "{name}: connectors drop headers of their own that begin with X-; choose another"
        )
        .into());
    }
    Ok(())
}

fn check_tenant(tenant: &str) -> Result<(), Failure> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.');
    match !tenant.is_empty() && tenant.bytes().all(plain) {
        true => Ok(()),
        false => Err(format!("{tenant:?} is not a tenant: write its id, or a domain of it").into()),
    }
}

/// The scopes that are asked for.
fn scopes(arguments: &Arguments) -> Vec<String> {
    let mut scopes = arguments.scope.clone();
    if !scopes.iter().any(|scope| scope == OFFLINE) {
        scopes.push(OFFLINE.to_owned());
    }
    scopes
}

/// An endpoint of Entra, version 2.
fn entra(arguments: &Arguments, what: &str) -> String {
    let tenant = arguments.tenant.as_deref().unwrap_or("common");
    format!("https://login.microsoftonline.com/{tenant}/oauth2/v2.0/{what}")
}

/// The Swagger 2.0 document.
fn definition(arguments: &Arguments, place: &Place) -> Value {
    let mut operation = json!({
        "summary": arguments.title,
        "description": arguments.description,
        "operationId": "InvokeMCP",
        "x-ms-agentic-protocol": "mcp-streamable-1.0",
        "responses": { "200": { "description": "Success" } },
    });
    if let Some(name) = &arguments.conversation_header {
        operation["parameters"] = json!([{
            "name": name,
            "in": "header",
            "type": "string",
            "required": false,
            "x-ms-summary": "Conversation",
            "description": "Which conversation this call belongs to: the system variable Conversation.Id.",
        }]);
    }
    let (name, scheme, needs) = match arguments.auth {
        Auth::None => ("", Value::Null, json!([])),
        Auth::ApiKey => {
            (API_KEY, json!({ "type": "apiKey", "in": "header", "name": "x-api-key" }), json!([]))
        }
        Auth::Oauth2 => {
            let scopes = scopes(arguments);
            let said: Map<String, Value> =
                scopes.iter().map(|scope| (scope.clone(), Value::from(scope.as_str()))).collect();
            let scheme = json!({
                "type": "oauth2",
                "flow": "accessCode",
                "authorizationUrl": entra(arguments, "authorize"),
                "tokenUrl": entra(arguments, "token"),
                "scopes": said,
            });
            (OAUTH2, scheme, json!(scopes))
        }
    };
    let mut definitions = Map::new();
    let mut security = Vec::new();
    if !name.is_empty() {
        definitions.insert(name.to_owned(), scheme);
        security.push(json!({ name: needs }));
    }
    json!({
        "swagger": "2.0",
        "info": { "title": arguments.title, "description": arguments.description, "version": "1.0.0" },
        "host": place.host,
        "basePath": "/",
        "schemes": [place.scheme],
        "consumes": ["application/json"],
        "produces": ["application/json"],
        "paths": { place.path.as_str(): { "post": operation } },
        "definitions": {},
        "securityDefinitions": definitions,
        "security": security,
    })
}

/// What Power Platform keeps beside the document: how users connect.
fn properties(arguments: &Arguments) -> Value {
    let connection = match arguments.auth {
        Auth::None => json!({}),
        Auth::ApiKey => json!({ API_KEY: {
            "type": "securestring",
            "uiDefinition": {
                "displayName": "API key",
                "description": "A key of the gateway's",
                "tooltip": "Ask whoever runs the gateway",
                "constraints": { "tabIndex": 2, "clearText": false, "required": "true" },
            },
        } }),
        Auth::Oauth2 => json!({ "token": {
            "type": "oauthSetting",
            "oAuthSettings": {
                "identityProvider": "oauth2",
                "clientId": arguments.client_id,
                "scopes": scopes(arguments),
                "redirectMode": "Global",
                "redirectUrl": REDIRECT,
                "properties": { "IsFirstParty": "False" },
                "customParameters": {
                    "authorizationUrl": { "value": entra(arguments, "authorize") },
                    "tokenUrl": { "value": entra(arguments, "token") },
                    "refreshUrl": { "value": entra(arguments, "token") },
                },
            },
        } }),
    };
    json!({ "properties": {
        "connectionParameters": connection,
        "iconBrandColor": "#0B5E55",
        "capabilities": [],
        "policyTemplateInstances": [],
    } })
}

/// The steps that are left for a person.
fn steps(arguments: &Arguments) -> String {
    let mut steps = vec![
        "In Power Apps, open Custom connectors, New custom connector, Import an OpenAPI file, and choose \
         apiDefinition.swagger.json. (By command line: paconn create --api-def apiDefinition.swagger.json --api-prop \
         apiProperties.json --icon icon.png)"
            .to_owned(),
    ];
    match arguments.auth {
        Auth::None => steps.push(
            "Under Security, leave No authentication. Whoever knows the URL can call: good for a trial, no more. All \
             callers are isolated from one another unless the gateway's configuration says otherwise."
                .to_owned(),
        ),
        Auth::ApiKey => steps.push(
            "Under Security, API key is set: header, x-api-key. Make a key with `openssl rand -hex 32`, and write its \
             digest into the gateway's configuration, under [callers.keys.NAME]. Use kind = \"connector\" if all users of \
             this connector have the one key: the gateway then tells them apart by the headers x-ms-client-*."
                .to_owned(),
        ),
        Auth::Oauth2 => {
            steps.push(format!(
                "In Entra, open the application {} and add the redirect URL {REDIRECT} under Authentication (Web), and a \
                 client secret.",
                arguments.client_id.as_deref().unwrap_or_default()
            ));
            steps.push(
                "Under Security, enter the client secret. The other fields are set; after saving, copy the redirect URL \
                 that the page then shows to the application as well, if it is another one."
                    .to_owned(),
            );
            steps.push(format!(
                "In the gateway's configuration, let it check the tokens:\n\n       [callers.tokens.entra]\n       \
                 tenants = [\"{}\"]\n       audiences = [\"{}\"]\n",
                arguments.tenant.as_deref().unwrap_or_default(),
                audience(arguments),
            ));
        }
    }
    if let Some(name) = &arguments.conversation_header {
        steps.push(format!(
            "In the gateway's configuration, under [callers.conversation], write headers = [\"{name}\"]. In the agent, set \
             the input Conversation of the tool to the system variable Conversation.Id."
        ));
    }
    steps.push(
        "Create the connector, then a connection on its Test page. In Copilot Studio, open your agent, Tools, Add a tool, \
         Model Context Protocol, choose the connector, and switch on generative orchestration."
            .to_owned(),
    );
    steps.push(
        "Let the route have profile = \"copilot-studio\", so that every tool can be read by the agent. Ask the agent \
         something that needs a tool."
            .to_owned(),
    );
    let steps: String =
        steps.iter().enumerate().map(|(index, step)| format!("{}. {step}\n", index + 1)).collect();
    format!(
        "# Connect {} to Copilot Studio\n\nThe gateway is at {}.\n\n{steps}",
        arguments.title, arguments.url
    )
}

/// Who the tokens will be for: the part of a scope before its last word.
fn audience(arguments: &Arguments) -> String {
    let scope = arguments.scope.first().map_or("", String::as_str);
    scope.rsplit_once('/').map_or(scope, |(audience, _)| audience).to_owned()
}
