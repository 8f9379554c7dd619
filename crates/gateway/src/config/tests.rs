//! What a file may say, what is refused, and in which words. Single values are tested in `value`.

use http::{HeaderName, Uri};

use super::*;

mod callers;
mod environment;
mod makers;
mod upstream;

const UPSTREAM: &str = "[upstream]\nurl = \"http://127.0.0.1:3000/mcp\"\n";

/// The configuration of a file that also has an upstream.
fn parse(text: &str) -> Config {
    Config::parse(&format!("{text}\n{UPSTREAM}"), "t.toml").unwrap()
}

/// The error lines of a file as it stands.
fn errors(text: &str) -> Vec<String> {
    let errors = Config::parse(text, "t.toml").unwrap_err();
    errors.to_string().lines().map(str::to_owned).collect()
}

/// The one error of a file that also has an upstream, which follows `text`.
fn error(text: &str) -> String {
    let lines = errors(&format!("{text}\n{UPSTREAM}"));
    assert_eq!(lines.len(), 1, "{lines:?}");
    lines.concat()
}

/// An environment of these variables.
fn env(variables: &[(&str, &str)]) -> impl Fn(&str) -> Option<String> {
    |name| variables.iter().find(|(set, _)| *set == name).map(|(_, value)| (*value).to_owned())
}

/// The example with every option switched on.
fn example_in_full() -> String {
    let switch_on = |line: &'static str| match line.strip_prefix('#') {
        Some(option) if !option.is_empty() && !option.starts_with(' ') => option,
        _ => line,
    };
    EXAMPLE.lines().map(switch_on).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_example_is_valid_and_says_nothing_but_the_defaults() {
    let example = Config::parse(EXAMPLE, "throughline.toml").unwrap();
    let smallest = Config::parse(UPSTREAM, "t.toml").unwrap();
    assert_eq!(Config { listen_place: Place::Unknown, ..example }, smallest);
}

#[test]
fn the_example_is_valid_in_full_and_shows_the_defaults() {
    let full = Config::parse(&example_in_full(), "throughline.toml").unwrap();
    assert_eq!(full.limits, Limits::default());
    assert_eq!((full.timeouts, full.sessions), (Timeouts::default(), Sessions::default()));
    assert_eq!(full.store, StoreUrl::Embedded(None));
    // What has no default is shown by an example.
    assert_eq!(
        full.routes[0].command.as_ref().map(|command| command.processes),
        Some(Command::default().processes)
    );
    assert_eq!(full.streams, Streams::default());
    let examples = Route {
        upstream: vec![Uri::from_static("http://127.0.0.1:3000/mcp")],
        command: None,
        probe: None,
        ca: None,
        client_certificate: None,
        client_key: None,
        headers: Vec::new(),
        forward_headers: Vec::new(),
        cache: Cache::default(),
        restore_calls: Vec::new(),
        ..makers::without_examples(&full.routes[0])
    };
    assert_eq!(examples, parse("").routes[0]);
    assert_eq!(full.routes[1].path, "/files/mcp");
}

#[test]
fn the_example_explains_every_key() {
    let full = example_in_full();
    let document = toml::de::DeTable::parse(&full).unwrap();
    for key in schema::known_keys() {
        let mut table = document.get_ref();
        let (sections, name) = key.rsplit_once('.').unwrap_or(("", &key));
        for section in sections.split('.').filter(|section| !section.is_empty()) {
            let found = table.iter().find(|(name, _)| section == "NAME" || name.get_ref() == section);
            table = found.unwrap_or_else(|| panic!("{key} is missing")).1.get_ref().as_table().unwrap();
        }
        assert!(table.contains_key(name), "{key} is missing in examples/throughline.toml");
    }
}

/// Every key, none with its default.
const EVERY_KEY: &str = r#"
listen = "[::1]:9000"
admin = "unix:/run/tl.sock"
metrics = "[::]:9464"
access_log = false
workers = 3
state_dir = "/var/lib/tl"
key_ring = "/run/secrets/keyring"
store = "memory:"
allowed_hosts = ["MCP.example.com", "[::1]:8808", "10.0.0.7"]
allowed_origins = ["https://App.example.com:443", "vscode-webview://abc"]
trusted_proxies = ["10.0.0.0/8", "::1"]
[tls]
certificate = "/etc/tl/cert.pem"
key = "key.pem"
reload = "1m"
[limits]
body = 2048
answer = "64KiB"
event = "1GiB"
head = 0x4000
headers = 50
connections = 7
requests = 5
streams = 6
sessions = 8
sessions_per_caller = 9
parked = 20
parked_per_caller = 5
requests_per_caller = 10
json_depth = 64
[timeouts]
connect = "500ms"
first_byte = "2m"
parked = "4m"
call = "2d"
request_read = "3s"
answer_write = "6s"
drain = "3s"
shutdown = "4s"
[sessions]
idle = "2h"
absolute = "1d"
initialize_cache = "1m"
warm = "5s"
[upstream]
url = "http://[::1]:3000"
[routes.files-2]
url = ["https://files.internal/x?y=1", "https://files-2.internal/x"]
transport = "sse"
resolve = "all"
probe = "7s"
ca = "/etc/ca.pem"
client_certificate = "client.pem"
client_key = "client.key"
headers = { X-Team = "search", x-key = { env = "KEY" } }
forward_headers = ["X-Tenant"]
forward_authorization = true
mode = "stateless"
state = "handle"
state_argument = "notebook"
anonymous = "shared"
answers = "json"
strict_headers = false
cache.lists = "90s"
cache.shared = true
on_store_miss = "not-found"
on_store_failure = "refuse"
unsafe_after_loss = "refuse"
restore.calls = ["set_workspace", "log in"]
trust_annotations = true
[routes.program]
command = ["npx", "-y", "server"]
environment = ["A=b=c"]
directory = "/srv"
processes = 3
shared = true
[callers]
anonymous = "allow"
[callers.keys.robot]
sha256 = "BA7816BF8F01CFEA414140DE5DAE2223B00361A396177A9CB410FF61F20015AD"
kind = "application"
[callers.proxy]
header = "X-User"
secret_header = "X-Secret"
secret_sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
[callers.conversation]
headers = ["X-Conversation"]
meta = ["a/b", "c"]
query = "conversation"
"#;

#[test]
fn every_key_is_read() {
    let config = Config::parse(EVERY_KEY, "t.toml").unwrap();
    let sha256 = b"ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    let sha256: [u8; 32] = data_encoding::HEXLOWER.decode(sha256).unwrap().try_into().unwrap();
    let expected = Config {
        listen: "[::1]:9000".parse().unwrap(),
        admin: Some(AdminAddress::Unix("/run/tl.sock".into())),
        admin_token: None,
        metrics: Some("[::]:9464".parse().unwrap()),
        instance: None,
        access_log: false,
        workers: NonZeroUsize::new(3),
        state_dir: Some("/var/lib/tl".into()),
        store: StoreUrl::Memory,
        key_ring: KeyRingPlace::File("/run/secrets/keyring".into()),
        allowed_hosts: vec!["mcp.example.com".into(), "[::1]:8808".into(), "10.0.0.7".into()],
        allowed_origins: vec!["https://app.example.com".into(), "vscode-webview://abc".into()],
        trusted_proxies: ["10.0.0.0/8", "::1"].map(|text| Network::parse(text).unwrap()).to_vec(),
        tls: Some(Tls { certificate: "/etc/tl/cert.pem".into(), key: "key.pem".into(), reload: minutes(1) }),
        limits: Limits {
            body_bytes: 2048,
            answer_bytes: 65536,
            event_bytes: GIB,
            header_bytes: 16384,
            headers: 50,
            connections: 7,
            requests: 5,
            streams: 6,
            sessions: 8,
            sessions_per_caller: 9,
            parked: 20,
            parked_per_caller: 5,
            requests_per_caller: 10,
            json_depth: 64,
        },
        timeouts: Timeouts {
            connect: Duration::from_millis(500),
            first_byte: minutes(2),
            parked: minutes(4),
            call: days(2),
            request_read: Duration::from_secs(3),
            answer_write: Duration::from_secs(6),
            drain: Duration::from_secs(3),
            shutdown: Duration::from_secs(4),
        },
        sessions: Sessions {
            idle: hours(2),
            absolute: days(1),
            initialize_cache: minutes(1),
            warm: Duration::from_secs(5),
        },
        streams: Streams::default(),
        routes: vec![
            Route::new("", vec![Uri::from_static("http://[::1]:3000")]),
            upstream::files_of_every_key(),
            upstream::program(),
        ],
        callers: Callers {
            anonymous: Some(true),
            tokens: Vec::new(),
            keys: vec![ApiKey { name: "robot".into(), sha256, kind: KeyKind::Application }],
            proxy: Some(CallerProxy {
                header: "x-user".into(),
                secret_header: "x-secret".into(),
                secret_sha256: sha256,
            }),
            conversation: Conversation {
                headers: vec!["x-conversation".into()],
                meta: vec!["a/b".into(), "c".into()],
                query: Some("conversation".into()),
            },
        },
        proxies: Proxies::default(),
        keeper: Vec::new(),
        from_file: true,
        listen_place: Place::File { name: "t.toml".into(), line: 2 },
    };
    assert_eq!(config, expected);
}

#[test]
fn all_mistakes_are_reported_at_once_in_the_order_of_lines() {
    let text = "\
workers = 0
lissten = \"127.0.0.1:1\"
allowed_hosts = [
    \"*.example.com\",
    7,
]
[upstream]
url = \"ftp://mcp.example.com/mcp\"
anonymous = \"everyone\"
[timeouts]
connect = 5
[limits]
body = \"4 MB\"
";
    assert_eq!(
        errors(text),
        [
            "t.toml:1: workers: 0 is out of range: between 1 and 1024",
            "t.toml:2: lissten: unknown key; did you mean listen?",
            "t.toml:4: allowed_hosts: \"*.example.com\": patterns are not supported: write each host, such as \
             mcp.example.com",
            "t.toml:5: allowed_hosts: expected hosts in quotes, found an integer",
            "t.toml:8: upstream.url: \"ftp://mcp.example.com/mcp\" is not a URL: write http://HOST:PORT/mcp",
            "t.toml:9: upstream.anonymous: \"everyone\" is not \"shared\" or \"isolated\"",
            "t.toml:11: timeouts.connect: 5 has no unit: write \"5s\" for seconds",
            "t.toml:13: limits.body: \"4 MB\" is not a size: write a number of bytes or 4MiB",
        ]
    );
}

#[test]
fn syntax_errors_carry_their_line() {
    assert_eq!(
        errors("listen = \"127.0.0.1:1\"\nworkers = \n[limits]\nbody = \"4MiB\n"),
        [
            "t.toml:2: string values must be quoted, expected literal string",
            "t.toml:4: invalid basic string, expected `\"`",
        ]
    );
    // A repeated key leaves the rest readable, so that is judged as well.
    let twice = format!("workers = 1\nworkers = 2\nlisten = 5\n{UPSTREAM}{UPSTREAM}");
    assert_eq!(
        errors(&twice),
        [
            "t.toml:2: duplicate key: workers",
            "t.toml:3: listen: expected an address in quotes, found an integer",
            "t.toml:6: duplicate key: upstream",
            "t.toml:7: duplicate key: url",
        ]
    );
}

#[test]
fn unknown_keys_come_with_the_nearest_known_one() {
    for (text, message) in [
        ("limts = 1", "t.toml:1: limts: unknown key; did you mean limits?"),
        (
            "[timeouts]\nfirst-byte = \"1s\"",
            "t.toml:2: timeouts.first-byte: unknown key; did you mean first_byte?",
        ),
        ("body = \"4MiB\"", "t.toml:1: body: unknown key; did you mean limits.body?"),
        (
            "[limits]\nlisten = \"x\"",
            "t.toml:2: limits.listen: unknown key; listen belongs above the first [section]",
        ),
        (
            "[sessions]\nfoo = 1",
            "t.toml:2: sessions.foo: unknown key; there are idle, absolute, initialize_cache, warm",
        ),
    ] {
        assert_eq!(error(text), message);
    }
}

#[test]
fn values_of_another_type_are_refused() {
    for (text, message) in [
        ("listen = true", "listen: expected an address in quotes, found a boolean"),
        ("workers = \"4\"", "workers: expected a whole number, found a string"),
        ("workers = 1.5", "workers: expected a whole number, found a float"),
        ("allowed_hosts = \"a\"", "allowed_hosts: expected an array of hosts, [\"...\"], found a string"),
        ("limits = 1979-05-27", "limits: expected a table, [limits], found a date"),
        (
            "limits.body = []",
            "limits.body: expected a size, such as \"4MiB\" or a number of bytes, found an array",
        ),
        (
            "[routes.a]\nurl = \"http://a\"\ntrust_annotations = \"yes\"",
            "routes.a.trust_annotations: expected true or false, found a string",
        ),
        ("timeouts.call = {}", "timeouts.call: expected a duration, such as \"5s\", found a table"),
        ("routes = 1", "routes: expected tables, [routes.NAME], found an integer"),
        ("routes.a = 1", "routes.a: expected a table, [routes.a], found an integer"),
        (
            "[routes.a]\nurl = \"http://a\"\nmode = true",
            "routes.a.mode: expected \"sessions\" or \"stateless\", found a boolean",
        ),
    ] {
        let line = text.lines().count();
        assert_eq!(error(text), format!("t.toml:{line}: {message}"));
    }
}

#[test]
fn absurd_values_are_refused_with_the_permitted_range() {
    for (text, message) in [
        ("limits.body = 0", "limits.body: 0 is out of range: between 1KiB and 1GiB"),
        ("limits.body = \"2GiB\"", "limits.body: 2GiB is out of range: between 1KiB and 1GiB"),
        ("limits.body = -1", "limits.body: -1 is not a size: write a number of bytes or 4MiB"),
        ("limits.headers = -1", "limits.headers: -1 is out of range: between 16 and 1000"),
        ("limits.json_depth = 0xFFFFFF", "limits.json_depth: 0xFFFFFF is out of range: between 16 and 128"),
        ("timeouts.connect = \"0s\"", "timeouts.connect: 0ms is out of range: between 100ms and 5m"),
        (
            "timeouts.call = \"1500ms\"\ntimeouts.shutdown = \"90m\"",
            "timeouts.shutdown: 90m is out of range: between 1s and 1h",
        ),
        ("sessions.warm = \"1d\"", "sessions.warm: 1d is out of range: between 1s and 10m"),
        (
            "[sessions]\nabsolute = \"30m\"\nidle = \"2h\"",
            "sessions.idle: 2h is longer than sessions.absolute, 30m",
        ),
        ("[sessions]\nidle = \"8d\"", "sessions.idle: 8d is longer than sessions.absolute, 7d"),
    ] {
        let line = text.lines().count();
        assert_eq!(error(text), format!("t.toml:{line}: {message}"));
    }
}

#[test]
fn an_idle_default_longer_than_absolute_is_told_at_the_section() {
    assert_eq!(
        error("\n[sessions]\nabsolute = \"30m\""),
        "t.toml:2: sessions.idle: 1h is longer than sessions.absolute, 30m"
    );
}

#[test]
fn routes_need_a_good_name_and_a_url() {
    assert_eq!(
        errors("\nupstream.mode = \"sessions\"\nsessions.absolute = \"1s\""),
        [
            "t.toml:2: upstream: url is missing: write url = \"http://HOST:PORT/mcp\"",
            "t.toml:3: sessions.idle: 1h is longer than sessions.absolute, 1s",
        ]
    );
    assert_eq!(
        errors("listen = \"127.0.0.1:1\""),
        ["t.toml:1: nothing to serve: write [upstream] or [routes.NAME], and in it url = \"http://...\""]
    );
    let long = "a".repeat(64);
    let text = format!(
        "[routes.\"\"]\nurl = \"http://h\"\n[routes.Files]\nurl = \"http://h\"\n[routes.rest]\nurl = \"http://h\"\n\
         [routes.{long}]\nurl = \"http://h\"\n[routes.a]\nmode = \"stateless\"\n[upstream]\n"
    );
    let name = |line: usize, name: &str| {
        format!("t.toml:{line}: routes.{name}: {name:?} is not a route name: write 1 to 63 of a-z, 0-9 and -")
    };
    assert_eq!(
        errors(&text),
        [
            name(1, ""),
            name(3, "Files"),
            "t.toml:5: routes.rest: the name \"rest\" is taken by the gateway itself: choose another"
                .to_owned(),
            name(7, &long),
            "t.toml:9: routes.a: url is missing: write url = \"http://HOST:PORT/mcp\"".to_owned(),
            "t.toml:11: upstream: url is missing: write url = \"http://HOST:PORT/mcp\"".to_owned(),
        ]
    );
}

#[test]
fn line_endings_and_a_byte_order_mark_do_not_matter() {
    let text = "\u{feff}listen = \"127.0.0.1:1\"\r\n\r\nworkers = 0\r\n";
    assert_eq!(error(text), "t.toml:3: workers: 0 is out of range: between 1 and 1024");
}

#[test]
fn a_url_alone_will_do() {
    let config = Config::for_upstream("http://127.0.0.1:3000/mcp").unwrap();
    assert!(!config.from_file);
    assert_eq!(config.listen.to_string(), "127.0.0.1:8808");
    assert_eq!(config.routes.len(), 1);
    assert_eq!((config.routes[0].path.as_str(), config.routes[0].anonymous), ("/mcp", Anonymous::Shared));
    let error = Config::for_upstream("localhost").unwrap_err();
    assert_eq!(error.to_string(), "URL: \"localhost\" is not a URL: write http://HOST:PORT/mcp");
}

#[test]
fn a_listener_for_other_machines_needs_allowed_hosts() {
    let mut config = parse("\nlisten = \"0.0.0.0:8808\"");
    let message = "listen: 0.0.0.0:8808 can be reached from other machines, so the names that clients use for it are \
                   needed: set allowed_hosts or THROUGHLINE_ALLOWED_HOSTS";
    assert_eq!(config.check().unwrap_err().to_string(), format!("t.toml:2: {message}"));
    // The file is not to blame for what a flag says.
    let listen = Some(config.listen);
    config.apply(Overrides { listen, ..Overrides::default() });
    assert_eq!(config.check().unwrap_err().to_string(), message);
    config.apply(Overrides { allowed_hosts: Some(vec!["gateway".into()]), ..Overrides::default() });
    config.check().unwrap();
    parse("listen = \"[::ffff:127.0.0.1]:1\"").check().unwrap();
}
