//! `throughline demo`: a session that outlives the processes that hold it, in a few seconds.
//!
//! Everything is real: the server and the gateway are processes of this program, killed with SIGKILL; the client
//! speaks HTTP to the gateway and prints what comes back.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::Failure;

/// How long a process may take to be ready.
const READY: Duration = Duration::from_secs(20);

/// Plays the whole thing.
pub(crate) fn run() -> Result<(), Failure> {
    let mut stage = Stage::set()?;
    let gateway = stage.gateway_url();
    println!(
        "A counter server, Throughline in front of it, and a client that knows nothing of what happens to them."
    );
    println!();
    println!("  server    {}   (its counter lives in the session, in memory)", stage.server_url());
    println!("  gateway   {gateway}");

    println!("\n1. A client opens a session and counts.");
    let mut client = Client::new(&gateway);
    client.initialize()?;
    client.count()?;
    client.count()?;

    println!("\n2. kill -9 the server, and start it again. It knows no session any more.");
    stage.server.kill()?;
    stage.server = stage.start_server()?;
    client.count()?;
    println!(
        "     same session id, no error; the count begins again, since the server kept it in memory only"
    );

    println!("\n3. kill -9 the gateway, and start it again.");
    stage.gateway.kill()?;
    stage.gateway = stage.start_gateway()?;
    client.count()?;
    println!("     same session id, and the count goes on: the gateway found the upstream session again");

    println!("\n4. kill -9 the server while the client waits.");
    stage.server.kill()?;
    let waiting = {
        let mut client = client.clone();
        std::thread::spawn(move || client.count().map_err(|error| error.to_string()))
    };
    stage.server = stage.start_server()?;
    waiting.join().map_err(|_| "the client panicked")??;
    println!("     the call waited for the server to come back");

    println!(
        "\n5. A caller that cannot hold a session id (Copilot Studio, Power Platform): it never sends one."
    );
    let mut caller = Client::new(&gateway).named("id-less-caller");
    caller.count()?;
    caller.count()?;
    caller.count()?;
    println!("     it counts in one session all the same");

    println!("\nYour own server: throughline serve http://127.0.0.1:3000/mcp");
    Ok(())
}

/// The processes, and where they are.
struct Stage {
    program: PathBuf,
    state_dir: PathBuf,
    server_port: u16,
    gateway_port: u16,
    server: Process,
    gateway: Process,
}

impl Stage {
    fn set() -> Result<Self, Failure> {
        let mut stage = Stage {
            program: std::env::current_exe()?,
            state_dir: std::env::temp_dir().join(format!("throughline-demo-{}", std::process::id())),
            server_port: free_port()?,
            gateway_port: free_port()?,
            server: Process(None),
            gateway: Process(None),
        };
        stage.server = stage.start_server()?;
        stage.gateway = stage.start_gateway()?;
        Ok(stage)
    }

    fn server_url(&self) -> String {
        format!("http://127.0.0.1:{}/mcp", self.server_port)
    }

    fn gateway_url(&self) -> String {
        format!("http://127.0.0.1:{}/mcp", self.gateway_port)
    }

    fn start_server(&self) -> Result<Process, Failure> {
        let listen = format!("127.0.0.1:{}", self.server_port);
        let mut child = Command::new(&self.program)
            .args(["reference", "--stateful", "--listen", &listen])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let out = child.stdout.take().ok_or("no output")?;
        let process = Process(Some(child));
        let mut line = String::new();
        BufReader::new(out).read_line(&mut line)?;
        if line.starts_with("ready") { Ok(process) } else { Err("the server did not start".into()) }
    }

    fn start_gateway(&self) -> Result<Process, Failure> {
        let child = Command::new(&self.program)
            .args(["serve", &self.server_url(), "--listen"])
            .arg(format!("127.0.0.1:{}", self.gateway_port))
            .arg("--state-dir")
            .arg(&self.state_dir)
            .env("THROUGHLINE_LOG", "error")
            .stdout(Stdio::null())
            .spawn()?;
        let process = Process(Some(child));
        let ready = format!("http://127.0.0.1:{}/readyz", self.gateway_port);
        let deadline = now() + READY;
        while ureq::get(&ready).call().is_err() {
            if now() > deadline {
                return Err("the gateway did not start".into());
            }
            std::thread::yield_now();
        }
        Ok(process)
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = self.gateway.kill();
        let _ = std::fs::remove_dir_all(&self.state_dir);
    }
}

/// A child process that does not outlive the demonstration.
struct Process(Option<Child>);

impl Process {
    /// SIGKILL: no handler, no goodbye.
    fn kill(&mut self) -> Result<(), Failure> {
        if let Some(mut child) = self.0.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

fn free_port() -> Result<u16, Failure> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

#[allow(clippy::disallowed_methods, reason = "shown to the user, and the bound of a wait")]
fn now() -> Instant {
    Instant::now()
}

/// A client that does what clients do, and no more.
#[derive(Clone)]
struct Client {
    url: String,
    name: &'static str,
    session: Option<String>,
    next_id: u64,
}

impl Client {
    fn new(url: &str) -> Self {
        Client { url: url.to_owned(), name: "throughline-demo", session: None, next_id: 1 }
    }

    fn named(self, name: &'static str) -> Self {
        Client { name, ..self }
    }

    fn initialize(&mut self) -> Result<(), Failure> {
        let params = json!({
            "protocolVersion": "2025-11-25",
            "capabilities": {},
            "clientInfo": { "name": self.name, "version": env!("CARGO_PKG_VERSION") },
        });
        let answer =
            self.post(&json!({ "jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params }))?;
        self.session = answer.session;
        self.post(&json!({ "jsonrpc": "2.0", "method": "notifications/initialized" }))?;
        let id = self.session.as_deref().unwrap_or("none");
        println!("     initialize            200   Mcp-Session-Id: {}...", &id[..id.len().min(12)]);
        Ok(())
    }

    fn count(&mut self) -> Result<(), Failure> {
        self.next_id += 1;
        let params = json!({ "name": "increment", "arguments": {} });
        let started = now();
        let answer = self.post(
            &json!({ "jsonrpc": "2.0", "id": self.next_id, "method": "tools/call", "params": params }),
        )?;
        let took = started.elapsed().as_millis();
        let count = answer.message.pointer("/result/content/0/text").and_then(Value::as_str);
        match count {
            Some(count) => println!(
                "     tools/call increment  {}   count {count}   ({took} ms; Throughline-Session: {})",
                answer.status, answer.held
            ),
            None => return Err(format!("the client saw {}: {}", answer.status, answer.message).into()),
        }
        std::io::stdout().flush()?;
        Ok(())
    }

    fn post(&self, message: &Value) -> Result<Answer, Failure> {
        let mut request = ureq::post(&self.url)
            .config()
            .http_status_as_error(false)
            .build()
            .header("content-type", "application/json")
            .header("accept", "application/json, text/event-stream")
            .header("user-agent", self.name);
        if let Some(session) = &self.session {
            request = request.header("mcp-session-id", session);
        }
        let mut response = request.send(message.to_string())?;
        let header = |name| response.headers().get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
        let (session, held) = (header("mcp-session-id"), header("throughline-session").unwrap_or_default());
        let body = response.body_mut().read_to_string()?;
        // A message comes as JSON, or as the last data of an event stream.
        let text =
            body.lines().filter_map(|line| line.strip_prefix("data:")).rfind(|data| !data.trim().is_empty());
        let message = serde_json::from_str(text.unwrap_or(&body)).unwrap_or(Value::Null);
        Ok(Answer { status: response.status().as_u16(), session, held, message })
    }
}

/// What the client sees.
struct Answer {
    status: u16,
    session: Option<String>,
    held: String,
    message: Value,
}
