//! Traces and metrics of real processes, as those who collect them see them.

use serde_json::{Value, json};

use crate::harness::{Collector, Gateway, MODERN, Mcp, Upstream, until};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CLIENT: &str = "b7ad6b7169203331";

fn traceparent() -> String {
    format!("00-{TRACE}-{CLIENT}-01")
}

/// Calls `whoami` as a client of 2026-07-28 does, whose `_meta` says more.
fn whoami(client: &Mcp, more: &Value) -> Value {
    let mut meta = json!({
        "io.modelcontextprotocol/protocolVersion": MODERN,
        "io.modelcontextprotocol/clientCapabilities": {},
    });
    for (name, value) in more.as_object().expect("members") {
        meta[name] = value.clone();
    }
    let client = client.clone().with_header("MCP-Protocol-Version", MODERN);
    let client = client.with_header("Mcp-Method", "tools/call").with_header("Mcp-Name", "whoami");
    let answer = client.request("tools/call", json!({"name": "whoami", "arguments": {}, "_meta": meta}));
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.message()["result"]["structuredContent"].clone()
}

/// The one of these spans that the service began for a call of this trace.
fn one<'a>(spans: &'a [Value], service: &str, trace: &str) -> &'a Value {
    let is = |span: &&Value| {
        span["resource"]["service.name"] == service
            && span["trace"] == trace
            && span["name"] == "tools/call whoami"
    };
    let found: Vec<&Value> = spans.iter().filter(is).collect();
    assert_eq!(found.len(), 1, "{service} {trace}: {spans:#?}");
    found[0]
}

#[test]
fn one_trace_goes_from_client_to_gateway_to_upstream() {
    let collector = Collector::start();
    let endpoint = format!("OTEL_EXPORTER_OTLP_ENDPOINT={}", collector.base());
    let headers = "OTEL_EXPORTER_OTLP_HEADERS=api-key=for-the-collector";
    let mut upstream = Upstream::stateless(&[&endpoint, headers], &["--instance", "up-1"]);
    let environment =
        [endpoint.as_str(), headers, "OTEL_RESOURCE_ATTRIBUTES=deployment.environment.name=test"];
    let mut gateway = Gateway::in_environment(&environment, &upstream.url(), &["--instance", "gate-1"]);

    let client = Mcp::new(gateway.url());
    let seen = whoami(&client.clone().with_header("traceparent", &traceparent()), &json!({}));
    assert_eq!((&seen["trace"]["traceId"], &seen["trace"]["source"]), (&json!(TRACE), &json!("headers")));
    let other = "5".repeat(32);
    let in_meta = json!({"traceparent": format!("00-{other}-{CLIENT}-01")});
    let seen_in_meta = whoami(&client, &in_meta);
    // The body is the client's to the last byte.
    assert_eq!(seen_in_meta["trace"]["parentId"], CLIENT);
    assert_eq!(seen_in_meta["trace"]["source"], "_meta");

    let failing = json!({"name": "tally", "arguments": {"handle": "none"}});
    assert_eq!(client.modern_request("tools/call", failing).message()["result"]["isError"], true);

    // Neither waits for its next delivery: what is left is delivered at the end.
    gateway.terminate();
    upstream.terminate();
    let spans = collector.spans();
    for trace in [TRACE, &other] {
        let (at_gate, behind) =
            (one(&spans, "throughline", trace), one(&spans, "throughline-reference", trace));
        assert_eq!((&at_gate["parent"], &behind["parent"]), (&json!(CLIENT), &at_gate["id"]), "{trace}");
        assert_eq!(at_gate["kind"], 2, "a server's");
        assert_eq!(at_gate["resource"]["service.instance.id"], "gate-1");
        assert_eq!(at_gate["resource"]["deployment.environment.name"], "test");
        assert_eq!(behind["resource"]["service.instance.id"], "up-1");
        let told = &at_gate["attributes"];
        assert_eq!(told["mcp.method.name"], "tools/call");
        assert_eq!(told["gen_ai.tool.name"], "whoami");
        assert_eq!(told["mcp.protocol.version"], MODERN);
        assert_eq!(told["http.response.status_code"], 200);
        assert_eq!(told.get("error.type"), None);
    }
    assert_eq!(seen["trace"]["parentId"], one(&spans, "throughline", TRACE)["id"]);
    let failed = spans.iter().filter(|span| span["attributes"]["error.type"] == "tool_error");
    assert_eq!(failed.map(|span| &span["name"]).collect::<Vec<_>>(), ["tools/call tally"]);
    assert!(collector.headers("api-key").iter().all(|key| key == "for-the-collector"));

    let calls = |of: &str, name: &str, with: (&str, &str)| {
        let numbers = collector.numbers(name);
        let is = |number: &&Value| {
            number["resource"]["service.name"] == of && number["attributes"][with.0] == with.1
        };
        numbers.iter().rfind(is).map(|number| number["value"].clone())
    };
    assert_eq!(calls("throughline", "throughline.requests", ("method", "tools/call")), Some(json!(3.0)));
    assert_eq!(calls("throughline", "throughline.request_seconds.bucket", ("le", "+Inf")), Some(json!(3.0)));
    let tool = ("gen_ai.tool.name", "whoami");
    assert_eq!(calls("throughline-reference", "throughline.reference.calls", tool), Some(json!(2.0)));
}

#[test]
fn a_session_is_named_by_its_digest_and_errors_by_their_status() {
    let collector = Collector::start();
    let endpoint = format!("OTEL_EXPORTER_OTLP_ENDPOINT={}", collector.base());
    let upstream = Upstream::rmcp();
    let mut gateway = Gateway::in_environment(&[&endpoint], &upstream.url(), &[]);
    let client = Mcp::connected(gateway.url());
    client.increment();
    let mut unknown = client.clone();
    unknown.session = Some("not-a-session".to_owned());
    assert_eq!(unknown.try_call("increment", json!({})).status, 404);
    gateway.terminate();

    let spans = collector.spans();
    let of_calls: Vec<_> = spans.iter().filter(|span| span["name"] == "tools/call increment").collect();
    let [called, refused] = of_calls[..] else { panic!("{spans:#?}") };
    let id = called["attributes"]["mcp.session.id"].as_str().expect("a session");
    assert!(!client.session.as_deref().unwrap_or_default().contains(id), "a digest, not the id: {id}");
    assert_eq!(called["attributes"]["throughline.session.kind"], "issued");
    assert_eq!(refused["attributes"]["error.type"], "404");
    assert_eq!(refused["attributes"].get("mcp.session.id"), None);
    assert!(spans.iter().any(|span| span["name"] == "initialize"), "{spans:#?}");
}

#[test]
fn application_insights_sees_each_instance() {
    let (collector, certificate) = Collector::start_tls();
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), certificate).expect("a certificate");
    let trusted = format!("SSL_CERT_FILE={}", file.path().display());
    let connection = format!(
        "APPLICATIONINSIGHTS_CONNECTION_STRING=InstrumentationKey=0a1b2c3d;IngestionEndpoint={}/",
        collector.base()
    );
    let on_azure = ["WEBSITE_INSTANCE_ID=5f6e7d", connection.as_str(), trusted.as_str()];
    let mut upstream = Upstream::stateless(&on_azure, &[]);
    let mut gateway =
        Gateway::in_environment(&[&connection, &trusted], &upstream.url(), &["--instance", "gate-1"]);
    whoami(&Mcp::new(gateway.url()).with_header("traceparent", &traceparent()), &json!({}));
    gateway.terminate();
    upstream.terminate();

    let requests = collector.items("Request");
    let of = |role: &str| {
        let is = |item: &&Value| {
            item["tags"]["ai.cloud.role"] == role && item["data"]["baseData"]["name"] == "tools/call whoami"
        };
        requests.iter().find(is).unwrap_or_else(|| panic!("{role}: {requests:#?}")).clone()
    };
    let (at_gate, behind) = (of("throughline"), of("throughline-reference"));
    assert_eq!(at_gate["tags"]["ai.cloud.roleInstance"], "gate-1");
    assert_eq!(behind["tags"]["ai.cloud.roleInstance"], "5f6e7d");
    assert_eq!(at_gate["iKey"], "0a1b2c3d");
    for item in [&at_gate, &behind] {
        assert_eq!(item["tags"]["ai.operation.id"], TRACE);
        assert_eq!(item["data"]["baseData"]["success"], true);
        assert_eq!(item["data"]["baseData"]["responseCode"], "200");
    }
    assert_eq!(at_gate["tags"]["ai.operation.parentId"], CLIENT);
    assert_eq!(behind["tags"]["ai.operation.parentId"], at_gate["data"]["baseData"]["id"]);
    let metrics = collector.items("Metric");
    let told = |item: &Value| {
        item["data"]["baseData"]["metrics"][0]["name"] == "throughline.requests"
            && item["tags"]["ai.cloud.roleInstance"] == "gate-1"
    };
    assert!(metrics.iter().any(told), "{metrics:#?}");
}

#[test]
fn a_host_names_the_gateway_unless_its_operator_does() {
    let upstream = Upstream::stateless(&[], &[]);
    let on_host = ["-u", "WEBSITE_INSTANCE_ID", "-u", "THROUGHLINE_INSTANCE", "HOSTNAME=pod-7"];
    for (arguments, name) in [(&[][..], "pod-7"), (&["--instance", "gate-1"], "gate-1")] {
        let gateway = Gateway::in_environment(&on_host, &upstream.url(), arguments);
        let answer = Mcp::new(gateway.url()).initialize();
        assert_eq!(answer.header("throughline-instance"), Some(name));
    }
}

#[test]
fn a_collector_that_is_away_is_said_once_and_no_request_hears_of_it() {
    let collector = Collector::start();
    collector.answer(503);
    let endpoint = format!("OTEL_EXPORTER_OTLP_ENDPOINT={}", collector.base());
    let environment = [
        endpoint.as_str(),
        "OTEL_METRICS_EXPORTER=none",
        "OTEL_BSP_SCHEDULE_DELAY=20",
        "THROUGHLINE_LOG=info",
    ];
    let upstream = Upstream::stateless(&[], &[]);
    let mut gateway = Gateway::in_environment(&environment, &upstream.url(), &[]);
    let client = Mcp::new(gateway.url());
    let lines = |gateway: &Gateway, said: &str| gateway.log().matches(said).count();
    until("the outage to be said", || {
        whoami(&client, &json!({}));
        (lines(&gateway, "telemetry is not delivered") > 0).then_some(())
    });
    for _ in 0..20 {
        whoami(&client, &json!({}));
    }
    collector.answer(200);
    until("the end of the outage to be said", || {
        whoami(&client, &json!({}));
        (lines(&gateway, "telemetry is delivered again") > 0).then_some(())
    });
    gateway.terminate();
    assert_eq!(lines(&gateway, "telemetry is not delivered"), 1, "{}", gateway.log());
    assert!(!gateway.log().contains("opentelemetry"), "{}", gateway.log());
}

#[test]
fn what_the_client_does_not_record_goes_on_unrecorded() {
    let collector = Collector::start();
    let endpoint = format!("OTEL_EXPORTER_OTLP_ENDPOINT={}", collector.base());
    let upstream = Upstream::stateless(&[], &[]);
    let mut gateway = Gateway::in_environment(&[&endpoint], &upstream.url(), &[]);
    let header = format!("00-{TRACE}-{CLIENT}-00");
    let seen = whoami(&Mcp::new(gateway.url()).with_header("traceparent", &header), &json!({}));
    assert_eq!((&seen["trace"]["traceId"], &seen["trace"]["sampled"]), (&json!(TRACE), &json!(false)));
    gateway.terminate();
    assert!(collector.spans().iter().all(|span| span["trace"] != TRACE), "{:#?}", collector.spans());
}
