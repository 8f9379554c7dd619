//! The address for those who watch the process: counts and health, and nothing else.

use crate::harness::{Gw, Session, Upstream, call};

fn start(upstream: &Upstream) -> Gw {
    Gw::start_with(upstream, |config| {
        config.metrics = Some("127.0.0.1:0".parse().unwrap());
        config.allowed_hosts = vec!["throughline.monitoring".to_owned()];
    })
}

#[test]
fn counts_and_health_are_there_and_nothing_else() {
    let upstream = Upstream::start();
    let gateway = start(&upstream);
    let session = Session::open(&gateway.client());
    session.post(call("1", "count"));
    let watcher = gateway.watcher();
    let scraped = watcher.at("/metrics").get();
    assert_eq!(scraped.status, 200);
    let form = scraped.headers.get("content-type").unwrap();
    assert_eq!(form, "application/openmetrics-text; version=1.0.0; charset=utf-8");
    assert!(scraped.text().contains(r#"method="tools/call""#), "{}", scraped.text());
    for path in ["/healthz", "/readyz"] {
        assert_eq!(watcher.at(path).get().status, 200);
    }
    assert_eq!(watcher.at("/metrics").delete().status, 405);
    for path in ["/mcp", "/", "/sessions", "/keys", "/metrics/"] {
        assert_eq!(watcher.at(path).get().status, 404, "{path}");
    }
    assert_eq!(watcher.at("/mcp").post(call("1", "count")).status, 404);
}

#[test]
fn any_address_may_be_its_name_but_no_other_name_and_no_web_page() {
    let upstream = Upstream::start();
    let gateway = start(&upstream);
    let watcher = gateway.watcher().at("/metrics");
    for host in ["10.1.2.3:9464", "[fd00::1]:9464", "localhost", "Throughline.Monitoring:9464"] {
        assert_eq!(watcher.with("host", host).get().status, 200, "{host}");
    }
    for (name, value) in [
        ("host", "evil.example"),
        ("host", ""),
        ("origin", "http://localhost"),
        ("origin", "null"),
        ("sec-fetch-site", "cross-site"),
    ] {
        assert_eq!(watcher.with(name, value).get().status, 403, "{name}: {value}");
    }
    // A probe says what it likes.
    assert_eq!(gateway.watcher().at("/readyz").with("host", "anything").get().status, 200);
}

#[test]
fn an_address_that_is_taken_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let state = tempfile::tempdir().unwrap();
    let mut config = throughline_gateway::Config::for_upstream("http://127.0.0.1:9/mcp").unwrap();
    config.listen = "127.0.0.1:0".parse().unwrap();
    config.state_dir = Some(state.path().to_owned());
    config.metrics = Some(address);
    let error =
        throughline_gateway::Gateway::start(config, throughline_gateway::Effects::REAL).err().unwrap();
    let text = error.to_string();
    assert!(text.contains(&format!("cannot listen on {address} for metrics")), "{text}");
    assert!(text.contains("--metrics"), "{text}");
}
