//! What must hold for any input of the gateway's own parsers. Each function is a fuzz target of the same name, and is
//! run here on the corpus of that name.

use std::net::SocketAddr;
use std::path::Path;

use http::{HeaderMap, HeaderName, HeaderValue};
use throughline_gateway::Config;
use throughline_gateway::config::Overrides;
use throughline_gateway::initialize::InitializeParams;
use throughline_gateway::peer::{Network, Peer, external_base};

/// A file is a configuration, or its mistakes are told, each with its line.
pub(crate) fn config_file(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match Config::parse(text, "t.toml") {
        Ok(mut config) => {
            assert!(!config.routes.is_empty());
            config.apply(Overrides::default());
            let _ = config.check();
        }
        Err(errors) => {
            assert!(!errors.0.is_empty());
            let told = errors.to_string();
            assert!(told.lines().all(|line| line.starts_with("t.toml:")), "{told}");
        }
    }
}

/// Parameters that are accepted stay acceptable without capabilities.
pub(crate) fn initialize_params(data: &[u8]) {
    // As the envelope lets through: the text of one JSON value.
    if serde_json::from_slice::<&serde_json::value::RawValue>(data).is_err() {
        return;
    }
    let Ok(params) = InitializeParams::read(data.trim_ascii()) else { return };
    let _ = params.capabilities();
    let without = params.without_capabilities();
    assert_eq!(without.version, params.version);
    assert_eq!(without.capabilities(), throughline_wire::capability::Capabilities::from_bits(0));
}

/// Four lines: X-Forwarded-For, -Proto, -Host, and Forwarded. What comes out is an address and a URL.
pub(crate) fn forwarded(data: &[u8]) {
    let mut config = Config::for_upstream("http://localhost/mcp").expect("a URL");
    config.trusted_proxies = vec![Network::parse("10.0.0.0/8").expect("a network")];
    let names = ["x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "forwarded"];
    let mut headers = HeaderMap::new();
    for (name, value) in names.into_iter().zip(data.split(|byte| *byte == b'\n')) {
        if let (false, Ok(value)) = (value.is_empty(), HeaderValue::from_bytes(value)) {
            headers.append(HeaderName::from_static(name), value);
        }
    }
    for address in ["10.0.0.1:1", "192.0.2.1:1"] {
        let peer = Peer::new(&config, address.parse::<SocketAddr>().expect("an address"), true);
        let base = external_base(&config, peer, &headers);
        assert!(base.starts_with("https://") || base.starts_with("http://"), "{base}");
        let client = peer.client_address(&config, &headers);
        assert!(peer.trusted || (client == peer.address && base == "https://localhost"));
        let _ = peer.forwarded_host(&config, &headers);
    }
}

#[test]
fn nothing_in_a_corpus_breaks_its_parser() {
    type Check = fn(&[u8]);
    let all: [(&str, Check); 3] =
        [("config_file", config_file), ("initialize_params", initialize_params), ("forwarded", forwarded)];
    for (name, check) in all {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(name);
        let mut seen = 0;
        for entry in std::fs::read_dir(directory).unwrap() {
            check(&std::fs::read(entry.unwrap().path()).unwrap());
            seen += 1;
        }
        assert!(seen >= 5, "{name}: only {seen} files");
    }
}
