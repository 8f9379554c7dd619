//! Upstreams that are programs: real processes, which speak over stdin and stdout.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;
use throughline_gateway::config::Command;

use crate::harness::{Client, Gw, Session, Upstream, call, logged, request, until};

/// A server that does what its tools are called.
const SERVER: &str = r#"
import json, os, signal, sys
if "stubborn" in sys.argv:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
open(os.path.join(os.environ["PIDS"], str(os.getpid())), "w").close()
print("hello from", os.getpid(), file=sys.stderr, flush=True)
count = 0
def say(message):
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
    sys.stdout.flush()
def text(text):
    return {"content": [{"type": "text", "text": str(text)}]}
def read():
    line = sys.stdin.readline()
    while not line and "stubborn" in sys.argv:
        signal.pause()
    if not line:
        sys.exit(0)
    return json.loads(line)
while True:
    message = read()
    method, id = message.get("method"), message.get("id")
    if method == "initialize":
        say({"id": id, "result": {"protocolVersion": message["params"]["protocolVersion"],
             "capabilities": {"tools": {}}, "serverInfo": {"name": "program", "version": "1"}}})
    elif method == "tools/call":
        tool = message["params"]["name"]
        if tool == "count":
            count += 1
            say({"id": id, "result": text(count)})
        elif tool == "die":
            os._exit(3)
        elif tool == "directory":
            say({"id": id, "result": text(os.getcwd())})
        elif tool == "progress":
            token = message["params"]["_meta"]["progressToken"]
            for n in range(3):
                say({"method": "notifications/progress", "params": {"progressToken": token, "progress": n}})
            say({"id": id, "result": text("done")})
        elif tool == "ask":
            say({"id": 0, "method": "elicitation/create", "params": {"message": "sure?"}})
            answer = read()
            say({"id": id, "result": text(answer.get("result", {}).get("action", "nobody"))})
        elif tool == "garbage":
            sys.stdout.write("no message\n\n{\"half\n" + "x" * 5000 + "\n")
            say({"id": id, "result": text("done")})
    elif method == "changed":
        say({"method": "notifications/tools/list_changed"})
        say({"id": id, "result": {}})
    elif method == "later":
        say({"method": "notifications/message", "params": {"level": "info", "data": "later"}})
        say({"id": id, "result": {}})
    elif id is not None:
        say({"id": id, "result": {}})
"#;

/// A server of revision 2026-07-28, in one process for everybody.
const MODERN: &str = r#"
import json, os, sys
open(os.path.join(os.environ["PIDS"], str(os.getpid())), "w").close()
count, waits, cancelled = 0, [], 0
def say(message):
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
    sys.stdout.flush()
for line in sys.stdin:
    message = json.loads(line)
    method, id, params = message["method"], message.get("id"), message.get("params", {})
    subscription = {"io.modelcontextprotocol/subscriptionId": id}
    if method == "server/discover":
        say({"id": id, "result": {"supportedVersions": ["2026-07-28"], "capabilities": {}}})
    elif method == "notifications/cancelled":
        cancelled += waits.count(params["requestId"])
    elif method == "subscriptions/listen":
        say({"method": "notifications/subscriptions/acknowledged", "params": {"_meta": subscription}})
        say({"method": "notifications/tools/list_changed", "params": {"_meta": subscription}})
        say({"id": id, "result": {"resultType": "complete", "_meta": subscription}})
    elif method == "tools/call" and params["name"] == "wait":
        waits.append(id)
        say({"method": "notifications/progress", "params": {
            "progressToken": params["_meta"]["progressToken"], "progress": 1}})
    elif method == "tools/call":
        count += 1
        say({"id": id, "result": {"count": count, "cancelled": cancelled, "waits": len(waits)}})
    else:
        say({"id": id, "error": {"code": -32601, "message": "Method not found"}})
"#;

struct Program {
    dir: TempDir,
    gateway: Option<Gw>,
    _unused: Upstream,
}

impl Program {
    fn start(argument: &str) -> Self {
        Self::run(SERVER, argument, false)
    }

    /// One process for all sessions.
    fn shared() -> Self {
        Self::run(SERVER, "", true)
    }

    fn run(server: &str, argument: &str, shared: bool) -> Self {
        let dir = TempDir::new().unwrap();
        std::fs::write(dir.path().join("server.py"), server).unwrap();
        std::fs::create_dir(dir.path().join("pids")).unwrap();
        let upstream = Upstream::start();
        let words = ["python3", dir.path().join("server.py").to_str().unwrap(), argument].map(str::to_owned);
        let command = Command {
            words: words.to_vec(),
            environment: vec![("PIDS".to_owned(), dir.path().join("pids").to_str().unwrap().to_owned())],
            directory: Some(dir.path().to_owned()),
            processes: 3,
            shared,
        };
        let gateway = Gw::start_with(&upstream, |config| {
            config.routes[0].command = Some(command);
            config.limits.event_bytes = 4096;
        });
        Program { dir, gateway: Some(gateway), _unused: upstream }
    }

    fn session(&self) -> Session {
        Session::open_as(&self.gateway.as_ref().unwrap().client(), "2025-11-25", r#"{"elicitation":{}}"#)
    }

    /// The processes that were ever started.
    fn started(&self) -> Vec<PathBuf> {
        let pids = std::fs::read_dir(self.dir.path().join("pids")).unwrap();
        pids.map(|entry| Path::new("/proc").join(entry.unwrap().file_name())).collect()
    }

    fn running(&self) -> usize {
        self.started().iter().filter(|process| process.join("exe").exists()).count()
    }
}

#[test]
fn each_session_has_a_process_of_its_own() {
    let program = Program::start("");
    let (one, other) = (program.session(), program.session());
    assert_eq!((one.count(), one.count(), other.count()), ("1".into(), "2".into(), "1".into()));
    assert_eq!(program.running(), 2);
    let directory = one.post(call("1", "directory")).tool_text();
    assert_eq!(Path::new(&directory).canonicalize().unwrap(), program.dir.path().canonicalize().unwrap());
    assert_eq!(one.client.delete().status, 200);
    until("its process to end", || program.running() == 1);
    assert_eq!(other.count(), "2");
    assert!(logged("hello from"), "what it writes to stderr is logged");
}

#[test]
fn a_process_that_dies_is_a_lost_session() {
    let program = Program::start("");
    let session = program.session();
    assert_eq!(session.count(), "1");
    let died = session.post(call("1", "die"));
    assert_eq!((died.status, died.code()), (502, -32012), "it may have been executed");
    assert_eq!(session.count(), "1", "another process");
    assert_eq!((program.started().len(), program.running()), (2, 1));
}

#[test]
fn what_it_says_on_the_way_and_what_it_asks_reaches_the_client() {
    let program = Program::start("");
    let session = program.session();
    let params = r#"{"name":"progress","arguments":{},"_meta":{"progressToken":"mine"}}"#;
    let mut stream = session.client.open("POST", request("7", "tools/call", params));
    for n in 0..3 {
        let progress = stream.message().json();
        assert_eq!(
            (&progress["params"]["progressToken"], &progress["params"]["progress"]),
            (&"mine".into(), &n.into())
        );
    }
    assert_eq!(stream.message().json()["id"], 7);

    let mut stream = session.client.open("POST", call("8", "ask"));
    let asked = stream.message().json();
    assert_eq!(asked["method"], "elicitation/create");
    let reply = format!(r#"{{"jsonrpc":"2.0","id":{},"result":{{"action":"accept"}}}}"#, asked["id"]);
    assert_eq!(session.post(reply).status, 202);
    assert_eq!(stream.message().json()["result"]["content"][0]["text"], "accept");
}

#[test]
fn messages_of_many_lines_arrive_and_garbage_is_passed_over() {
    let program = Program::start("");
    let session = program.session();
    let spread = call("1", "count").replace(',', ",\r\n  ");
    assert_eq!(session.post(spread).tool_text(), "1");
    assert_eq!(session.post(call("1", "garbage")).tool_text(), "done");
    assert_eq!(session.count(), "2");
}

#[test]
fn more_processes_than_allowed_are_refused_and_then_there_is_room() {
    let program = Program::start("");
    let sessions: Vec<_> = (0..3).map(|_| program.session()).collect();
    sessions.iter().for_each(|session| assert_eq!(session.count(), "1"));
    let fourth = program.session();
    let refused = fourth.post(call("1", "count"));
    assert_eq!((refused.status, refused.code()), (502, -32014));
    sessions[0].client.delete();
    until("there is room", || program.running() == 2);
    until("it is served", || fourth.post(call("1", "count")).status == 200);
}

#[test]
fn no_process_outlives_the_gateway_however_stubborn() {
    for argument in ["", "stubborn"] {
        let mut program = Program::start(argument);
        assert_eq!(program.session().count(), "1");
        assert_eq!(program.running(), 1);
        program.gateway.take();
        assert_eq!(program.running(), 0, "{argument}");
    }
}

#[test]
fn a_program_that_is_not_there_is_said_to_be_so() {
    let upstream = Upstream::start();
    let gateway = Gw::start_with(&upstream, |config| {
        config.routes[0].command =
            Some(Command { words: vec!["/nowhere/program".into()], ..Command::default() });
    });
    let began = tokio::time::Instant::now();
    let answer = gateway.client().post(crate::harness::initialize_body("2025-11-25", "{}"));
    assert_eq!(answer.status, 502, "{}", answer.text());
    assert!(began.elapsed() < Duration::from_secs(10));
    assert!(logged("a program cannot be started"));
}

#[test]
fn a_shared_process_serves_all_sessions_and_keeps_them_apart() {
    let program = Program::shared();
    let (one, other) = (program.session(), program.session());
    assert_eq!((one.count(), other.count(), one.count()), ("1".into(), "2".into(), "3".into()));
    // Both call their request 7, and what it tells of itself the same.
    let params = r#"{"name":"progress","arguments":{},"_meta":{"progressToken":"mine"}}"#;
    let streams = [&one, &other].map(|s| s.client.begin("POST", request("7", "tools/call", params)));
    for stream in streams {
        let mut stream = stream.answer();
        for n in 0..3 {
            let told = stream.message().json()["params"].clone();
            assert_eq!((&told["progressToken"], &told["progress"]), (&"mine".into(), &n.into()));
        }
        assert_eq!(stream.message().json()["id"], 7);
    }
    assert_eq!(one.post(call("8", "ask")).tool_text(), "nobody", "there is nobody to be asked");
    assert_eq!(other.client.delete().status, 200);
    assert_eq!(one.count(), "4", "the process stays for the others");
    assert_eq!(one.post(call("1", "die")).code(), -32012);
    let third = program.session();
    assert_eq!((one.count(), third.count()), ("1".into(), "2".into()), "another process, one again");
    assert_eq!((program.started().len(), program.running()), (2, 1));
}

#[test]
fn a_shared_process_tells_everybody_what_is_for_everybody() {
    let program = Program::shared();
    let sessions = [program.session(), program.session()];
    let mut streams = sessions.each_ref().map(|session| {
        assert_eq!(session.post(request("1", "ping", "{}")).status, 200);
        session.listen()
    });
    assert_eq!(sessions[0].post(request("2", "changed", "{}")).status, 200);
    for stream in &mut streams {
        assert_eq!(stream.message().json()["method"], "notifications/tools/list_changed");
    }
}

/// `tools/call` of this tool, as revision 2026-07-28 has it.
fn sessionless(id: &str, method: &str, tool: &str) -> String {
    let params = format!(
        r#"{{"name":"{tool}","arguments":{{}},"_meta":{{"progressToken":"p","io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{{}},"io.modelcontextprotocol/clientInfo":{{"name":"t","version":"1"}}}}}}"#
    );
    request(id, method, &params)
}

/// A client whose requests say in their headers what they are.
fn modern(program: &Program, method: &str, tool: &str) -> Client {
    let client = program.gateway.as_ref().unwrap().client();
    client.with("mcp-protocol-version", "2026-07-28").with("mcp-method", method).with("mcp-name", tool)
}

#[test]
fn a_program_without_sessions_serves_everybody_in_one_process() {
    let program = Program::run(MODERN, "", false);
    let client = |method: &str, tool: &str| modern(&program, method, tool);
    let count = |id: &str| {
        let answer = client("tools/call", "count").post(sessionless(id, "tools/call", "count")).json();
        assert_eq!(answer["id"].to_string(), id);
        answer["result"].clone()
    };
    assert_eq!((&count("1")["count"], &count("\"x\"")["count"]), (&1.into(), &2.into()));
    assert_eq!(client("nonsense", "").post(sessionless("3", "nonsense", "")).status, 404);
    let mut stream =
        client("subscriptions/listen", "").open("POST", sessionless("\"sub\"", "subscriptions/listen", ""));
    for _ in 0..2 {
        let meta = stream.message().json()["params"]["_meta"].clone();
        assert_eq!(meta["io.modelcontextprotocol/subscriptionId"], "sub");
    }
    let last = stream.message().json();
    assert_eq!(
        (&last["id"], &last["result"]["_meta"]["io.modelcontextprotocol/subscriptionId"]),
        (&"sub".into(), &"sub".into())
    );
    // Whoever goes away cancels.
    let mut waiting = client("tools/call", "wait").open("POST", sessionless("9", "tools/call", "wait"));
    assert_eq!(waiting.message().json()["params"]["progressToken"], "p");
    assert_eq!((&count("1")["waits"], &count("1")["cancelled"]), (&1.into(), &0.into()));
    drop(waiting);
    until("the program to hear of it", || count("1")["cancelled"] == 1);
    assert_eq!((program.started().len(), program.running()), (1, 1));
}

#[test]
fn a_program_with_sessions_is_found_out_and_not_kept_for_the_question() {
    let program = Program::start("");
    let answer = modern(&program, "tools/call", "count").post(sessionless("1", "tools/call", "count"));
    assert_eq!((answer.status, answer.tool_text().as_str()), (200, "1"), "{}", answer.text());
    until("the process that was asked to end", || program.running() == 1);
    assert_eq!(program.session().count(), "1");
}

#[test]
fn a_program_that_refuses_a_session_is_not_kept_for_it() {
    let program = Program::run(MODERN, "", false);
    // It has no sessions, and says so when it is asked for one.
    for _ in 0..2 {
        let session = program.session();
        assert_eq!(session.post(call("1", "count")).status, 200);
    }
    until("only the one that serves everybody runs", || program.running() == 1);
    assert_eq!(program.started().len(), 2);

    let refusing = SERVER.replace("if method == \"initialize\":", "if method == \"never\":").replace(
        "elif id is not None:\n        say({\"id\": id, \"result\": {}})",
        "elif id is not None:\n        say({\"id\": id, \"error\": {\"code\": -32000, \"message\": \"no\"}})",
    );
    let program = Program::run(&refusing, "", false);
    for _ in 0..5 {
        let client = program.gateway.as_ref().unwrap().client();
        let answer = client.post(crate::harness::initialize_body("2025-11-25", "{}"));
        assert_eq!(answer.code(), -32000, "{}", answer.text());
    }
    until("none runs", || program.running() == 0);
}
