//! An upstream at https: who it is, and who the gateway is to it.

use throughline_gateway::{Config, Effects, Gateway};

use crate::harness::{
    Certificates, Front, Gw, PATIENCE, Session, Upstream, call, initialize_body, logged, until,
};

fn gateway(upstream: &Upstream, front: &Front, change: impl FnOnce(&mut Config)) -> Gw {
    Gw::start_with(upstream, |config| {
        config.routes[0].upstream = vec![front.url()];
        change(config);
    })
}

#[test]
fn sessions_are_kept_over_tls_and_connections_too() {
    let (upstream, certificates) = (Upstream::start(), Certificates::new());
    let front = Front::start(&upstream, certificates.server("127.0.0.1"));
    let gateway = gateway(&upstream, &front, |config| {
        config.routes[0].ca = Some(certificates.ca());
        config.workers = std::num::NonZeroUsize::new(1);
    });
    let session = Session::open(&gateway.client());
    assert_eq!((session.count(), session.count()), ("1".to_owned(), "2".to_owned()));
    upstream.server().lose_sessions();
    assert_eq!(session.count(), "1");
    assert_eq!(front.connections(), 1);
}

/// Asserts that nothing can be had, that the client hears no more than that, and that the log says why.
fn assert_away(gateway: &Gw, reason: &str) {
    let answer = gateway.client().post(initialize_body("2025-06-18", "{}"));
    assert_eq!((answer.status, answer.code()), (502, -32010), "{}", answer.text());
    assert!(!answer.text().contains("ertificate"), "{}", answer.text());
    assert!(logged(reason), "{reason}");
}

#[test]
fn a_server_that_is_somebody_else_gets_nothing() {
    let (upstream, certificates) = (Upstream::start(), Certificates::new());
    let front = Front::start(&upstream, certificates.server("127.0.0.1"));
    let strangers = Certificates::new();
    // Longer than the client waits: trying again would not help, so nobody does.
    let patient = |config: &mut Config| config.timeouts.connect = 2 * PATIENCE;
    let other = gateway(&upstream, &front, |config| {
        patient(config);
        config.routes[0].ca = Some(strangers.ca());
    });
    assert_away(&other, "UnknownIssuer");

    let expired = Front::start(&upstream, certificates.expired("127.0.0.1"));
    let late = gateway(&upstream, &expired, |config| {
        patient(config);
        config.routes[0].ca = Some(certificates.ca());
    });
    assert_away(&late, "certificate expired");

    let misnamed = Front::start(&upstream, certificates.server("example.com"));
    let lost = gateway(&upstream, &misnamed, |config| {
        patient(config);
        config.routes[0].ca = Some(certificates.ca());
    });
    assert_away(&lost, "not valid for name");
    assert_eq!(upstream.log().len(), 0);
}

#[test]
fn a_server_that_asks_for_a_certificate_gets_it() {
    let (upstream, certificates) = (Upstream::start(), Certificates::new());
    let front = Front::start(&upstream, certificates.asking("127.0.0.1"));
    let (certificate, key) = certificates.client();
    let known = gateway(&upstream, &front, |config| {
        config.routes[0].ca = Some(certificates.ca());
        config.routes[0].client_certificate = Some(certificate);
        config.routes[0].client_key = Some(key);
    });
    assert_eq!(Session::open(&known.client()).count(), "1");
    let before = upstream.log().len();
    let unknown = gateway(&upstream, &front, |config| config.routes[0].ca = Some(certificates.ca()));
    let answer = unknown.client().post(call("1", "count"));
    assert_eq!(answer.status, 502, "{}", answer.text());
    assert!(!answer.text().contains("ertificate"), "{}", answer.text());
    assert_eq!(upstream.log().len(), before);
}

#[test]
fn files_that_cannot_be_used_are_told_at_start() {
    let upstream = Upstream::start();
    let state = tempfile::TempDir::new().unwrap();
    let start = |change: &dyn Fn(&mut Config)| {
        let mut config = Config::for_upstream("https://127.0.0.1:1/mcp").unwrap();
        config.listen = "127.0.0.1:0".parse().unwrap();
        config.state_dir = Some(state.path().to_owned());
        change(&mut config);
        match Gateway::start(config, Effects::REAL) {
            Ok(_) => panic!("it started"),
            Err(error) => error.to_string(),
        }
    };
    let missing = start(&|config| config.routes[0].ca = Some("/no/such/ca.pem".into()));
    assert!(missing.starts_with("upstream.ca: /no/such/ca.pem: "), "{missing}");
    let empty = state.path().join("empty.pem");
    std::fs::write(&empty, "nothing\n").unwrap();
    let empty = start(&|config| config.routes[0].ca = Some(empty.clone()));
    assert!(empty.ends_with("has no certificate in it (PEM, BEGIN CERTIFICATE)"), "{empty}");
    let certificates = Certificates::new();
    let keyless = start(&|config| {
        config.routes[0].ca = Some(certificates.ca());
        config.routes[0].client_certificate = Some(certificates.client().0);
        config.routes[0].client_key = Some("/no/such/key.pem".into());
    });
    assert!(keyless.starts_with("upstream.client_key: /no/such/key.pem: "), "{keyless}");
    let mut config = Config::parse(
        &format!(
            "[upstream]\nurl = \"{}\"\nheaders = {{ x-a = {{ env = \"THROUGHLINE_NOT_SET\" }} }}",
            upstream.url()
        ),
        "t.toml",
    )
    .unwrap();
    config.state_dir = Some(state.path().to_owned());
    let error = Gateway::start(config, Effects::REAL).map(|_| ()).unwrap_err().to_string();
    assert_eq!(
        error,
        "t.toml:3: upstream.headers.x-a: the environment variable THROUGHLINE_NOT_SET is not set"
    );
}

#[test]
fn newer_files_count_for_the_connections_that_follow() {
    let (upstream, old, new) = (Upstream::start(), Certificates::new(), Certificates::new());
    let files = tempfile::TempDir::new().unwrap();
    let (ca, certificate, key) =
        (files.path().join("ca.pem"), files.path().join("tls.crt"), files.path().join("tls.key"));
    let write = |of: &Certificates| {
        std::fs::copy(of.ca(), &ca).unwrap();
        let made = of.client();
        std::fs::copy(made.0, &certificate).unwrap();
        std::fs::copy(made.1, &key).unwrap();
    };
    write(&old);
    let front = Front::start(&upstream, new.asking("127.0.0.1"));
    let gateway = gateway(&upstream, &front, |config| {
        config.timeouts.connect = std::time::Duration::from_millis(200);
        config.routes[0].ca = Some(ca.clone());
        config.routes[0].client_certificate = Some(certificate.clone());
        config.routes[0].client_key = Some(key.clone());
    });
    let ask = || gateway.client().post(initialize_body("2025-06-18", "{}")).status;
    assert_eq!(ask(), 502);
    // Half of a change is none.
    std::fs::copy(new.client().1, &key).unwrap();
    until("the half is told", || logged("new certificates toward an upstream cannot be used"));
    write(&new);
    until("the new files are in use", || ask() == 200);
}
