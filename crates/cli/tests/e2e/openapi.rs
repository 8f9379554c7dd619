//! The documents that others read: descriptions of the tools, and of the connector, held to their standards by programs of
//! others.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::harness::{Gateway, Upstream, python_command, script};

fn run(command: &mut Command) -> Output {
    let output = command.output().expect("it runs");
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}:\n{said}");
    output
}

/// Holds documents to the standard that they name.
fn validate(files: &[&Path]) {
    run(python_command("openapi").arg(script("python/validate_openapi.py")).args(files));
}

fn get(url: &str) -> Value {
    let mut answer = ureq::get(url).call().expect("an answer");
    serde_json::from_str(&answer.body_mut().read_to_string().expect("text")).expect("JSON")
}

fn written(dir: &Path, name: &str, document: &Value) -> PathBuf {
    let file = dir.join(name);
    std::fs::write(&file, document.to_string()).expect("a file");
    file
}

#[test]
fn the_tools_of_real_servers_are_described_as_the_standards_say() {
    let dir = tempfile::tempdir().expect("a directory");
    for (name, upstream) in [("rmcp", Upstream::rmcp()), ("python", Upstream::python1())] {
        let gateway = Gateway::start(&upstream.url(), &[]);
        let openapi = get(&gateway.at("/rest/openapi.json"));
        let swagger = get(&gateway.at("/rest/swagger.json"));
        assert_eq!((&openapi["openapi"], &swagger["swagger"]), (&json!("3.1.0"), &json!("2.0")));
        for document in [&openapi, &swagger] {
            assert_eq!(document["paths"]["/tools/increment"]["post"]["operationId"], "increment");
        }
        let files = [("openapi", &openapi), ("swagger", &swagger)];
        let files =
            files.map(|(kind, document)| written(dir.path(), &format!("{name}-{kind}.json"), document));
        validate(&[&files[0], &files[1]]);
    }
}

/// That answers have a status, a type and a form that the description has, and are no failures of the gateway's.
const CHECKS: &str =
    "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance";

/// What Schemathesis makes of the description: calls of every kind, and answers held to it.
#[test]
fn schemathesis_finds_the_answers_to_be_as_described() {
    let upstream = Upstream::rmcp();
    for errors in ["200", "422"] {
        let gateway = Gateway::with_config(&format!(
            "[upstream]\nurl = \"{}\"\nanonymous = \"shared\"\nrest.tool_errors = \"{errors}\"\n",
            upstream.url()
        ));
        // It keeps notes where it runs.
        let notes = tempfile::tempdir().expect("a directory");
        let mut command = python_command("openapi");
        command
            .current_dir(notes.path())
            .args(["-m", "schemathesis.cli", "run", &gateway.at("/rest/openapi.json")])
            .args([
                "--phases",
                "examples,coverage,fuzzing",
                "--max-examples",
                "25",
                "--seed",
                "1",
                "--no-color",
            ])
            .args(["--checks", CHECKS])
            // These wait, need a file, ask their caller, who cannot be asked, or are about a call that was made before.
            .args(["--exclude-path-regex", "/tools/(sleep|mark|ask)|/calls/"]);
        let output = run(&mut command);
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(said.contains("No issues found"), "{said}");
    }
}

#[test]
fn a_connector_is_what_power_platform_imports() {
    let dir = tempfile::tempdir().expect("a directory");
    let connector = |name: &str, url: &str, more: &[&str]| {
        let out = dir.path().join(name);
        run(Command::new(env!("CARGO_BIN_EXE_throughline"))
            .arg("connector")
            .arg(url)
            .arg("--out")
            .arg(&out)
            .args(more));
        let read = |file: &str| -> Value {
            serde_json::from_str(&std::fs::read_to_string(out.join(file)).expect("a file")).expect("JSON")
        };
        validate(&[&out.join("apiDefinition.swagger.json")]);
        let icon = std::fs::read(out.join("icon.png")).expect("an icon");
        assert!(icon.starts_with(b"\x89PNG\r\n\x1a\n") && icon.len() < 1_000_000);
        let steps = std::fs::read_to_string(out.join("STEPS.md")).expect("steps");
        (read("apiDefinition.swagger.json"), read("apiProperties.json"), steps)
    };

    let (definition, properties, _) = connector("none", "https://mcp.example.com/mcp", &[]);
    assert_eq!(
        (&definition["host"], &definition["basePath"], &definition["schemes"]),
        (&json!("mcp.example.com"), &json!("/"), &json!(["https"]))
    );
    let paths = definition["paths"].as_object().expect("paths");
    assert_eq!(paths.keys().collect::<Vec<_>>(), ["/mcp"]);
    let operation = &definition["paths"]["/mcp"]["post"];
    assert_eq!(
        (&operation["operationId"], &operation["x-ms-agentic-protocol"]),
        (&json!("InvokeMCP"), &json!("mcp-streamable-1.0"))
    );
    assert_eq!(
        (&definition["security"], &properties["properties"]["connectionParameters"]),
        (&json!([]), &json!({}))
    );

    let more = ["--auth", "api-key", "--conversation-header", "--title", "Files"];
    let (definition, properties, steps) = connector("key", "https://mcp.example.com:8443/files/mcp/", &more);
    assert_eq!(
        (&definition["host"], &definition["info"]["title"]),
        (&json!("mcp.example.com:8443"), &json!("Files"))
    );
    let header = &definition["paths"]["/files/mcp"]["post"]["parameters"][0];
    assert_eq!(
        (&header["name"], &header["in"], &header["required"]),
        (&json!("conversation-id"), &json!("header"), &json!(false))
    );
    assert_eq!(
        definition["securityDefinitions"]["api_key"],
        json!({"type": "apiKey", "in": "header", "name": "x-api-key"})
    );
    assert_eq!(properties["properties"]["connectionParameters"]["api_key"]["type"], "securestring");
    assert!(steps.contains("headers = [\"conversation-id\"]"), "{steps}");

    let more = [
        "--auth",
        "oauth2",
        "--tenant",
        "contoso.com",
        "--client-id",
        "the-app",
        "--scope",
        "api://the-app/access",
    ];
    let (definition, properties, steps) = connector("oauth", "https://mcp.example.com/mcp", &more);
    let scheme = &definition["securityDefinitions"]["oauth2_auth"];
    assert_eq!(
        (&scheme["flow"], &scheme["tokenUrl"]),
        (&json!("accessCode"), &json!("https://login.microsoftonline.com/contoso.com/oauth2/v2.0/token"))
    );
    assert_eq!(definition["security"], json!([{"oauth2_auth": ["api://the-app/access", "offline_access"]}]));
    let settings = &properties["properties"]["connectionParameters"]["token"]["oAuthSettings"];
    assert_eq!(
        (&settings["clientId"], &settings["scopes"][1]),
        (&json!("the-app"), &json!("offline_access"))
    );
    assert_eq!(settings["redirectUrl"], "https://global.consent.azure-apim.net/redirect");
    assert!(steps.contains("audiences = [\"api://the-app\"]"), "{steps}");
}

#[test]
fn a_connector_that_could_not_work_is_not_written() {
    let dir = tempfile::tempdir().expect("a directory");
    for (arguments, why) in [
        (&["https://h"][..], "has no path: write https://h/mcp"),
        (&["ftp://h/mcp"], "is no URL of a gateway"),
        (&["https://h/mcp?a=b"], "has a query"),
        (
            &["https://h/mcp", "--conversation-header", "X-Conversation"],
            "connectors drop headers of their own that begin with X-",
        ),
        (&["https://h/mcp", "--auth", "oauth2"], "--tenant"),
        (&["https://h/mcp", "--tenant", "a/b"], "is not a tenant"),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_throughline"));
        let output = command
            .arg("connector")
            .args(arguments)
            .arg("--out")
            .arg(dir.path().join("x"))
            .output()
            .expect("it runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(why), "{arguments:?}: {said}");
        assert!(!dir.path().join("x").exists());
    }
}
