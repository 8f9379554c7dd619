//! Several hundred requests that are wrong in some way, sent to a running gateway over plain sockets: each gets the
//! status and code that the tables say, no answer tells what is nobody's business, nothing of it reaches the
//! upstream, and afterwards the gateway is as it was: it answers, and it has grown by nothing.
//!
//! The tables: `http.txt` (HTTP itself, by hand), `messages` (JSON-RPC) and `heads` (paths, methods, headers).

mod heads;
mod messages;

use std::io::{BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::harness::h2::H2;
use crate::harness::http::{Framing, Headers, head};
use crate::harness::tls::{Files, Pair};
use crate::harness::{Gw, PATIENCE, Session, Upstream, initialize_body, log_capacity};

/// Routes of every kind.
const CONFIG: &str = r#"
[upstream]
url = "UPSTREAM"
anonymous = "shared"
[routes.alone]
url = "UPSTREAM"
[routes.plain]
url = "UPSTREAM"
mode = "stateless"
[routes.json]
url = "UPSTREAM"
anonymous = "shared"
answers = "json"
"#;

pub(super) const PATHS: [&str; 4] = ["/mcp", "/alone/mcp", "/plain/mcp", "/json/mcp"];

/// A good request.
pub(super) const LIST: &str = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{}}"#;

/// A client that says nothing for so long is cut off, so that each case ends.
const SILENCE: Duration = Duration::from_secs(1);

/// How many cases run at a time.
const THREADS: usize = 32;

/// What the process may have grown by after the tables were run twice more, in bytes.
const GROWTH: usize = 16 << 20;

/// Headers that an answer may have.
const KNOWN_HEADERS: [&str; 17] = [
    "access-control-allow-headers",
    "access-control-allow-methods",
    "access-control-allow-origin",
    "access-control-expose-headers",
    "access-control-max-age",
    "allow",
    "cache-control",
    "connection",
    "content-length",
    "content-type",
    "date",
    "retry-after",
    "throughline-instance",
    "throughline-session",
    "transfer-encoding",
    "vary",
    "x-accel-buffering",
];

/// One request, and what is answered: see `http.txt`.
#[derive(Clone)]
pub(super) struct Case {
    name: String,
    bytes: Vec<u8>,
    expected: String,
}

impl Case {
    pub(super) fn new(
        name: impl Into<String>,
        bytes: impl Into<Vec<u8>>,
        expected: impl Into<String>,
    ) -> Self {
        Case { name: name.into(), bytes: bytes.into(), expected: expected.into() }
    }
}

/// A POST of this body, with these header lines.
pub(super) fn post(path: &str, headers: &[u8], body: &[u8]) -> Vec<u8> {
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {}\r\n",
        body.len()
    );
    [head.as_bytes(), headers, b"\r\n", body].concat()
}

/// What a usual client says of its message and what it reads.
pub(super) const USUAL: &str = "Content-Type: application/json\r\nAccept: application/json\r\n";

/// Ids that the cases are made of.
pub(super) struct Ids {
    /// Of a live session, at each path.
    pub(super) live: Vec<String>,
    /// Of a session that was ended.
    pub(super) ended: String,
    /// Of an upstream session.
    pub(super) upstream: String,
}

/// `http.txt` as cases.
fn by_hand(ids: &Ids) -> Vec<Case> {
    let chunks = format!("{:x}\r\n{LIST}\r\n", LIST.len());
    let fill = |text: &str| {
        text.replace("{LIST}", LIST)
            .replace("{LENGTH}", &LIST.len().to_string())
            .replace("{CHUNKED}", &format!("{chunks}0\r\n\r\n"))
            .replace("{CHUNKS}", &chunks)
            .replace("{SESSION}", &ids.live[0])
            .replace("{WELL}", "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            .replace("{LONG}", &"y".repeat(100_000))
            .replace("{MANY}", &"M".repeat(1000))
            .replace("{HEADERS}", &"X: y\r\n".repeat(150))
    };
    let text = include_str!("malformed/http.txt");
    let cases = text.split("\n== ").skip(1).map(|block| {
        let (name, rest) = block.split_once('\n').unwrap();
        let (request, expected) = rest.split_once("-- ").unwrap();
        let mut bytes = Vec::new();
        for line in request.lines() {
            match line.strip_suffix('\\') {
                Some(last) => bytes.extend(unescaped(&fill(last))),
                None => bytes.extend(unescaped(&fill(&format!("{line}\\r\\n")))),
            }
        }
        Case::new(name, bytes, expected.lines().next().unwrap())
    });
    cases.collect()
}

fn unescaped(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'\\' {
            bytes.push(byte);
            continue;
        }
        bytes.push(match rest.next().unwrap() {
            b'r' => b'\r',
            b'n' => b'\n',
            b't' => b'\t',
            b'0' => 0,
            b'\\' => b'\\',
            b'x' => {
                let digits = [rest.next().unwrap(), rest.next().unwrap()];
                u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap()
            }
            other => panic!("\\{} is no escape", other as char),
        });
    }
    bytes
}

/// One answer as it came.
struct Answer {
    status: u16,
    headers: Headers,
    body: Vec<u8>,
}

impl Answer {
    /// Status, and code where the body is a JSON-RPC error.
    fn shown(&self) -> String {
        let json: serde_json::Value = serde_json::from_slice(&self.body).unwrap_or_default();
        match json["error"]["code"].as_i64() {
            Some(code) => format!("{} {code}", self.status),
            None => self.status.to_string(),
        }
    }
}

/// Sends a case and reads everything that comes, until the gateway closes the connection.
fn exchange(address: SocketAddr, case: &Case) -> Vec<Answer> {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let _ = stream.write_all(&case.bytes);
    let mut received = Vec::new();
    if let Err(error) = stream.read_to_end(&mut received) {
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{}: {error}", case.name);
    }
    let mut reader = BufReader::new(&received[..]);
    let mut answers = Vec::new();
    while let Ok(Some((first, headers))) = head(&mut reader) {
        let status = first.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.unwrap_or_else(|| panic!("{}: {first:?} is no status line", case.name));
        let mut framing = match () {
            () if status == 204 || case.bytes.starts_with(b"HEAD ") => Framing::Length(0),
            () => Framing::of(&headers, Framing::Length(0)),
        };
        let body = framing.whole(&mut reader).unwrap_or_else(|error| panic!("{}: {error}", case.name));
        answers.push(Answer { status, headers, body });
    }
    answers
}

/// Whether these answers are what was expected: a list, or one of several.
fn fits(shown: &str, expected: &str) -> bool {
    expected.split('|').any(|expected| {
        let fits = |(shown, expected): (&str, &str)| {
            shown == expected || (!expected.contains(' ') && shown.split(' ').next() == Some(expected))
        };
        let (shown, expected): (Vec<_>, Vec<_>) =
            (shown.split(", ").collect(), expected.split(", ").collect());
        shown.len() == expected.len() && shown.into_iter().zip(expected).all(fits)
    })
}

/// What is nobody's business: addresses, paths, other people's sessions.
fn secrets(upstream: &Upstream, gateway: &Gw, ids: &Ids) -> Vec<String> {
    let mut secrets = vec![upstream.address.to_string(), upstream.address.port().to_string()];
    secrets.extend(gateway.config.state_dir.as_ref().map(|dir| dir.display().to_string()));
    secrets.extend(ids.live.iter().chain([&ids.ended]).cloned());
    secrets.extend(upstream.server().given());
    secrets.extend(["panicked", ".rs:", "/src/", "tokio", "hyper"].map(str::to_owned));
    secrets
}

fn check(case: &Case, answers: &[Answer], secrets: &[String]) -> Result<(), String> {
    let shown = match answers {
        [] => "closed".to_owned(),
        answers => answers.iter().map(Answer::shown).collect::<Vec<_>>().join(", "),
    };
    if !fits(&shown, &case.expected) {
        return Err(format!("{}: expected {}, got {shown}", case.name, case.expected));
    }
    for answer in answers {
        let whole = format!("{:?} {}", answer.headers, String::from_utf8_lossy(&answer.body));
        if let Some(secret) = secrets.iter().find(|secret| whole.contains(*secret)) {
            return Err(format!("{}: {secret} is told: {whole}", case.name));
        }
        let known =
            |name: &str| KNOWN_HEADERS.contains(&name) || (name == "mcp-session-id" && answer.status == 200);
        if let Some((name, _)) = answer.headers.0.iter().find(|(name, _)| !known(name)) {
            return Err(format!("{}: what is the header {name}?", case.name));
        }
        let json: serde_json::Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        if let Some(error) = json.get("error")
            && !error["message"].as_str().is_some_and(|text| text.len() > 10 && text.len() < 300)
        {
            return Err(format!("{}: that says nothing: {whole}", case.name));
        }
        // What the gateway refuses itself is told in the protocol's words; hyper's own refusals have no body.
        if answer.status >= 400 && !answer.body.is_empty() && !json["error"]["code"].is_i64() {
            return Err(format!("{}: no JSON-RPC error: {whole}", case.name));
        }
    }
    Ok(())
}

/// Runs all cases, and returns what was wrong.
fn run(address: SocketAddr, cases: &[Case], secrets: &[String]) -> Vec<String> {
    let (next, failed) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(said) = check(case, &exchange(address, case), secrets) {
                        failed.lock().unwrap().push(said);
                    }
                }
            });
        }
    });
    failed.into_inner().unwrap()
}

/// Resident memory without what the test itself keeps (the log), in bytes, and open files.
fn size() -> (usize, usize) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let kib: usize = resident.trim().trim_end_matches(" kB").parse().unwrap();
    (kib * 1024 - log_capacity().min(kib * 1024), std::fs::read_dir("/proc/self/fd").unwrap().count())
}

/// Memory and files are the process's, so this test has a process of its own.
#[test]
fn malformed_requests_are_refused_and_leave_nothing_behind() {
    const ALONE: &str = "THROUGHLINE_TEST_ALONE";
    if std::env::var_os(ALONE).is_some() {
        return alone();
    }
    let name = "malformed::malformed_requests_are_refused_and_leave_nothing_behind";
    let output = Command::new(std::env::current_exe().unwrap())
        .args([name, "--exact", "--nocapture"])
        .env(ALONE, "1")
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

fn alone() {
    let upstream = Upstream::start();
    let mut config =
        throughline_gateway::Config::parse(&CONFIG.replace("UPSTREAM", &upstream.url()), "t").unwrap();
    config.timeouts.request_read = SILENCE;
    let gateway = Gw::run(&upstream, config, throughline_gateway::Effects::REAL);
    let sessions: Vec<_> = ["/mcp", "/alone/mcp", "/json/mcp"]
        .map(|path| Session::open(&gateway.client().at(path)))
        .into_iter()
        .inspect(|session| assert_eq!(session.count(), "1"))
        .collect();
    let ended = Session::open(&gateway.client());
    ended.client.delete();
    let ids = Ids {
        live: sessions.iter().map(|session| session.id.clone()).collect(),
        ended: ended.id,
        upstream: upstream.server().given()[0].clone(),
    };
    let cases = [by_hand(&ids), messages::cases(&ids), heads::cases(&ids)].concat();
    assert!(cases.len() > 700, "{}", cases.len());
    // Session ids do not come back in answers but to their owner, who has them.
    let secrets = secrets(&upstream, &gateway, &ids);

    // The first time everything that is kept for reuse comes into being.
    let mut sizes = Vec::new();
    for _ in 0..3 {
        let failed = run(gateway.address, &cases, &secrets);
        assert!(failed.is_empty(), "{} of {}:\n{}", failed.len(), cases.len(), failed.join("\n"));
        nothing_malformed_went_through(&upstream);
        upstream.forget();
        // Each connection to the upstream has two ends here; they come and go.
        let (memory, files) = size();
        sizes.push((memory, files - 2 * upstream.open_connections()));
    }
    let ((memory, files), (memory_after, files_after)) = (sizes[0], sizes[2]);
    assert!(memory_after < memory + GROWTH && files_after < files + 8, "(bytes, files): {sizes:?}");

    for session in &sessions {
        assert_eq!(session.count(), "2", "sessions are as they were");
    }
    gateway.assert_well();
}

/// The upstream sees whole, single messages, and no header that a client invented.
fn nothing_malformed_went_through(upstream: &Upstream) {
    for request in upstream.log() {
        assert!(["POST", "GET", "DELETE"].contains(&request.method.as_str()), "{}", request.method);
        assert!(
            request.method != "POST" || request.text().contains(r#""jsonrpc":"2.0""#),
            "{}",
            request.text()
        );
        for name in ["host", "content-length"] {
            let lines =
                request.headers.0.iter().filter(|(known, _)| known.eq_ignore_ascii_case(name)).count();
            assert!(lines <= 1, "{name} {lines} times");
        }
        for name in
            ["transfer-encoding", "x-forwarded-host", "forwarded", "via", "x", "te", "trailer", "cookie"]
        {
            assert!(request.headers.get(name).is_none(), "{name} went through");
        }
        let ours =
            request.session().is_none_or(|id| upstream.server().given().iter().any(|given| given == id));
        assert!(ours, "a session id that is not the upstream's went through: {:?}", request.session());
    }
}

#[test]
fn malformed_messages_are_refused_alike_over_http2() {
    let upstream = Upstream::start();
    let files = Files::new(&Pair::make());
    let gateway = Gw::start_with(&upstream, |config| files.use_in(config));
    let h2 = H2::connect(gateway.address);
    for (body, expected) in messages::BAD.iter().chain(messages::BAD_INITIALIZE) {
        let answer = h2.post(&[], body);
        assert_eq!(format!("{} {}", answer.status, answer.code()), *expected, "{body}: {}", answer.text());
    }
    assert_eq!(upstream.log().len(), 0);
    assert_eq!(h2.post(&[], &initialize_body("2025-06-18", "{}")).status, 200);
}
