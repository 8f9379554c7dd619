//! What a route says of its upstream.

use super::*;

/// The third route of [`EVERY_KEY`].
pub(super) fn program() -> Route {
    let command = Command {
        words: vec!["npx".into(), "-y".into(), "server".into()],
        environment: vec![("A".into(), "b=c".into())],
        directory: Some("/srv".into()),
        processes: 3,
        shared: true,
    };
    Route { command: Some(command), ..Route::new("program", vec![Uri::from_static(COMMAND_URL)]) }
}

/// The second route of [`EVERY_KEY`].
pub(super) fn files_of_every_key() -> Route {
    Route {
        command: None,
        name: "files-2".into(),
        path: "/files-2/mcp".into(),
        upstream: ["https://files.internal/x?y=1", "https://files-2.internal/x"]
            .map(Uri::from_static)
            .to_vec(),
        transport: Transport::Sse,
        resolve: Resolve::All,
        probe: Some(Duration::from_secs(7)),
        ca: Some("/etc/ca.pem".into()),
        client_certificate: Some("client.pem".into()),
        client_key: Some("client.key".into()),
        headers: vec![
            Header {
                name: HeaderName::from_static("x-team"),
                value: HeaderSource::Value(http::HeaderValue::from_static("search")),
            },
            Header {
                name: HeaderName::from_static("x-key"),
                value: HeaderSource::Env {
                    variable: "KEY".into(),
                    key: "routes.files-2.headers.x-key".into(),
                    place: Place::File {
                        name: "t.toml".into(),
                        line: 1 + EVERY_KEY.lines().position(|line| line.starts_with("headers = {")).unwrap(),
                    },
                },
            },
        ],
        forward_headers: vec![HeaderName::from_static("x-tenant")],
        forward_authorization: true,
        mode: Mode::Stateless,
        state: KeptBy::Handle,
        state_argument: "notebook".into(),
        anonymous: Anonymous::Shared,
        answers: Answers::Json,
        strict_headers: false,
        cache: Cache { lists: Some(Duration::from_secs(90)), shared: true },
        on_store_miss: OnStoreMiss::NotFound,
        on_store_failure: OnStoreFailure::Refuse,
        unsafe_after_loss: UnsafeAfterLoss::Refuse,
        restore_calls: vec!["set_workspace".into(), "log in".into()],
        trust_annotations: true,
        // In `makers`.
        profile: None,
        tools: Default::default(),
        rest: Default::default(),
        token: None,
    }
}

#[test]
fn what_an_upstream_is_sent_has_to_go_together() {
    let upstream = |text: &str| errors(&format!("[upstream]\nurl = \"https://h/mcp\"\n{text}"));
    for (text, message) in [
        ("client_key = \"k\"", "client_key: client_certificate is missing"),
        ("client_certificate = \"c\"", "client_certificate: client_key is missing"),
        ("ca = \"~/ca\"", "ca: \"~/ca\": ~ does not stand for the home directory here: write the whole path"),
        ("ca = \"\"", "ca: the path is empty: write that of a file, such as /etc/throughline/tls.pem"),
        ("headers = { x = 1 }", "headers.x: write \"value\" or { env = \"VARIABLE\" }"),
        ("headers = { x = { env = \"\" } }", "headers.x: write \"value\" or { env = \"VARIABLE\" }"),
        ("headers = \"x\"", "headers: expected a table of headers, { x-team = \"search\" }, found a string"),
        ("headers = { host = \"a\" }", "headers.host: host is set by the gateway itself: take it out"),
        (
            "forward_headers = [\"authorization\"]",
            "forward_headers: write forward_authorization = true for this one",
        ),
        ("forward_authorization = 1", "forward_authorization: expected true or false, found an integer"),
        (
            "headers = { authorization = \"a\" }\nforward_authorization = true",
            "forward_authorization: headers has an authorization as well: only one of them can arrive",
        ),
        (
            "headers = { x-a = \"a\" }\nforward_headers = [\"X-A\"]",
            "forward_headers: headers has x-a as well: only one of them can arrive",
        ),
    ] {
        let line = 2 + text.lines().count();
        assert_eq!(upstream(text), [format!("t.toml:{line}: upstream.{message}")]);
    }
}

#[test]
fn an_upstream_may_have_several_endpoints() {
    let of = |text: &str| {
        let config = Config::parse(&format!("[upstream]\n{text}"), "t.toml").unwrap();
        let route = &config.routes[0];
        (route.upstream.iter().map(ToString::to_string).collect::<Vec<_>>(), route.resolve, route.probe)
    };
    assert_eq!(of("url = \"http://h/mcp\""), (vec!["http://h/mcp".to_owned()], Resolve::One, None));
    let (urls, resolve, probe) =
        of("url = [\"http://a/mcp\", \"https://b/x\"]\nresolve = \"all\"\nprobe = \"5s\"");
    assert_eq!(urls, ["http://a/mcp", "https://b/x"]);
    assert_eq!((resolve, probe), (Resolve::All, Some(Duration::from_secs(5))));
    let urls = Config::for_upstreams(&["http://a/mcp", "http://b/mcp"]).unwrap().routes.remove(0).upstream;
    assert_eq!(urls, ["http://a/mcp", "http://b/mcp"]);
}

#[test]
fn endpoints_that_cannot_be_are_refused() {
    let upstream = |text: &str| errors(&format!("[upstream]\n{text}"));
    let many: Vec<_> = (0..=MAX_ENDPOINTS).map(|n| format!("\"http://h{n}/mcp\"")).collect();
    for (text, message) in [
        (
            "url = []".to_owned(),
            "t.toml:2: upstream.url: there is none: write at least one URL, [\"http://HOST:PORT/mcp\"]",
        ),
        (
            "url = [\"http://a/mcp\", 7]".to_owned(),
            "t.toml:2: upstream.url: expected URLs in quotes, found an integer",
        ),
        ("url = 7".to_owned(), "t.toml:2: upstream.url: expected a URL in quotes, found an integer"),
        (
            "url = [\"http://a/mcp\", \"a\"]".to_owned(),
            "t.toml:2: upstream.url: \"a\" is not a URL: write http://HOST:PORT/mcp",
        ),
        (
            "url = [\"http://a/mcp?key=secret\", \"http://b/mcp\", \"http://a/mcp\"]".to_owned(),
            "t.toml:2: upstream.url: http://a/mcp is there twice (queries do not count): take one out",
        ),
        (format!("url = [{}]", many.join(",")), "t.toml:2: upstream.url: 65 are too many: at most 64"),
        (
            "url = [\"http://127.0.0.1/mcp\", \"http://[::1]/mcp\"]\nresolve = \"all\"".to_owned(),
            "t.toml:3: upstream.resolve: there is no name to look up: url has addresses only",
        ),
        (
            "url = \"http://a/mcp\"\nresolve = \"some\"".to_owned(),
            "t.toml:3: upstream.resolve: \"some\" is not \"one\" or \"all\"",
        ),
        (
            "url = \"http://a/mcp\"\nprobe = \"10ms\"".to_owned(),
            "t.toml:3: upstream.probe: 10ms is out of range: between 1s and 1h",
        ),
    ] {
        assert_eq!(upstream(&text), [message]);
    }
    let error = Config::for_upstreams(&["http://a/mcp", "http://a/mcp"]).unwrap_err().to_string();
    assert_eq!(error, "URL: http://a/mcp is there twice (queries do not count): take one out");
}

#[test]
fn variables_that_headers_come_from_are_read_at_start_and_all_missing_ones_are_told() {
    let text = "[upstream]\nurl = \"http://h\"\nheaders = { x-a = { env = \"A\" }, x-b = { env = \"B\" } }";
    let mut config = Config::parse(text, "t.toml").unwrap();
    assert_eq!(
        config.resolve(&env(&[])).unwrap_err().to_string(),
        "t.toml:3: upstream.headers.x-a: the environment variable A is not set\n\
         t.toml:3: upstream.headers.x-b: the environment variable B is not set"
    );
    let mut config = Config::parse(text, "t.toml").unwrap();
    config.resolve(&env(&[("A", "secret-a"), ("B", "secret-b")])).unwrap();
    config.resolve(&env(&[])).unwrap();
    assert!(!format!("{config:?}").contains("secret-"));
}

#[test]
fn proxies_come_from_the_environment() {
    let variables =
        [("HTTP_PROXY", "http://p:1"), ("https_proxy", "http://s:2"), ("HTTPS_PROXY", "http://x:9")];
    let mut config = parse("");
    config.apply(Overrides::from_env(&env(&variables)).unwrap());
    let port = |uri: &'static str| {
        config.proxies.on_the_way_to(&Uri::from_static(uri)).unwrap().map(|proxy| proxy.port)
    };
    assert_eq!((port("http://h/"), port("https://h/"), port("http://localhost/")), (Some(1), Some(2), None));
    // What cannot be used is no matter where it is not on the way.
    config.apply(Overrides::from_env(&env(&[("HTTPS_PROXY", "socks5://u:secret@h")])).unwrap());
    let way = |uri: &'static str| config.proxies.on_the_way_to(&Uri::from_static(uri));
    assert_eq!(way("https://localhost/"), Ok(None));
    assert_eq!(
        way("https://h/").unwrap_err().to_string(),
        "HTTPS_PROXY is not a proxy that can be used: write http://HOST:PORT"
    );
}
