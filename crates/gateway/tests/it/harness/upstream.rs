//! The upstream: an HTTP server that records every request and answers as a test's script, or else its
//! [`Server`], says. It writes its answers by hand, so that it can break off anywhere.

use std::io::{self, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::Value;
use socket2::SockRef;
use throughline_wire::envelope::{self, Envelope, Limits, Message};

use super::http::{Framing, Headers, head};
use super::server::Server;
use super::{Gate, PATIENCE, parse};

/// A request as it arrived.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    /// What it asks for, as the request line has it.
    pub(crate) target: String,
    pub(crate) headers: Headers,
    pub(crate) body: Vec<u8>,
}

impl Request {
    pub(crate) fn session(&self) -> Option<&str> {
        self.headers.get("mcp-session-id")
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> Value {
        if self.body.is_empty() { Value::Null } else { parse(&self.body) }
    }

    /// The message; None where there is none.
    fn envelope(&self) -> Option<Message<'_>> {
        Envelope::parse(&self.body, &Limits::default()).ok().map(|envelope| envelope.message)
    }

    /// The JSON-RPC method; the HTTP method where there is no message; `response` for a response.
    pub(crate) fn rpc(&self) -> String {
        match self.envelope() {
            Some(Message::Request { method, .. } | Message::Notification { method, .. }) => {
                method.into_owned()
            }
            Some(Message::Response { .. }) => "response".to_owned(),
            None => self.method.clone(),
        }
    }

    /// Raw JSON of the id; `null` without one.
    pub(crate) fn id(&self) -> String {
        match self.envelope() {
            Some(Message::Request { id, .. } | Message::Response { id: Some(id), .. }) => id.raw().to_owned(),
            _ => "null".to_owned(),
        }
    }

    /// The name of the tool that is called.
    pub(crate) fn tool(&self) -> String {
        let name = envelope::path(&self.body, &["params", "name"]).ok().flatten();
        let name = name.and_then(|span| envelope::string_value(&self.body[span]));
        name.unwrap_or_default().into_owned()
    }
}

/// What the upstream does about a request.
pub(crate) enum Answer {
    /// Answers.
    Reply { status: u16, headers: Vec<(String, String)>, body: Vec<u8> },
    /// Answers with an event stream, which ends when this returns.
    Stream(Box<dyn FnOnce(&mut Events<'_>) + Send>),
    /// Writes these bytes and resets the connection.
    Reset(Vec<u8>),
    /// Writes these bytes and closes the connection.
    Close(Vec<u8>),
}

impl Answer {
    pub(crate) fn with(self, name: &str, value: &str) -> Self {
        match self {
            Answer::Reply { status, mut headers, body } => {
                headers.push((name.to_owned(), value.to_owned()));
                Answer::Reply { status, headers, body }
            }
            other => other,
        }
    }
}

/// An answer of this type.
pub(crate) fn refused(status: u16, content_type: &str, body: impl Into<Vec<u8>>) -> Answer {
    let headers = vec![("content-type".to_owned(), content_type.to_owned())];
    Answer::Reply { status, headers, body: body.into() }
}

/// A JSON answer.
pub(crate) fn json(status: u16, body: impl Into<Vec<u8>>) -> Answer {
    refused(status, "application/json", body)
}

/// A whole event stream of one message.
pub(crate) fn sse(status: u16, data: &str) -> Answer {
    refused(status, "text/event-stream", format!("event: message\ndata: {data}\n\n"))
}

/// A JSON-RPC error.
pub(crate) fn rpc_error(id: &str, code: i64, message: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":{code},"message":{}}}}}"#, Value::from(message))
}

/// An event stream that is being written.
pub(crate) struct Events<'a>(&'a TcpStream);

impl Events<'_> {
    /// Writes this text as one chunk. False when the other side is gone.
    pub(crate) fn write(&mut self, text: &str) -> bool {
        self.bytes(text.as_bytes())
    }

    /// Writes these bytes as one chunk. False when the other side is gone.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> bool {
        let chunk = [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat();
        (&mut &*self.0).write_all(&chunk).is_ok()
    }

    /// One message in an event.
    pub(crate) fn message(&mut self, data: &str) -> bool {
        self.write(&format!("event: message\ndata: {data}\n\n"))
    }

    /// Whether the other side still reads.
    pub(crate) fn is_open(&self) -> bool {
        self.0.set_nonblocking(true).unwrap();
        let closed = matches!(self.0.peek(&mut [0]), Ok(0));
        self.0.set_nonblocking(false).unwrap();
        !closed
    }

    /// Waits until the other side reads no more.
    pub(crate) fn wait_for_close(&self) {
        let _ = self.0.peek(&mut [0]);
    }

    /// Resets the connection: the stream does not end, it breaks.
    pub(crate) fn reset(&mut self) {
        reset(self.0);
    }
}

fn reset(stream: &TcpStream) {
    SockRef::from(stream).set_linger(Some(Duration::ZERO)).unwrap();
}

type Script = dyn Fn(&Request, &Server) -> Option<Answer> + Send + Sync;

struct Inner {
    log: Mutex<Vec<Arc<Request>>>,
    changed: Condvar,
    script: Mutex<Arc<Script>>,
    server: Arc<Server>,
    /// Open connections, to be cut when the upstream goes away; None while it is away.
    open: Mutex<Option<Vec<Weak<TcpStream>>>>,
    accepted: AtomicUsize,
    closed: AtomicUsize,
}

/// A running upstream; it ends when it is dropped.
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    inner: Arc<Inner>,
    accepting: Option<JoinHandle<()>>,
}

impl Upstream {
    /// A server that keeps sessions, and does nothing else of note.
    pub(crate) fn start() -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap())
    }

    /// The same at this address.
    pub(crate) fn start_at(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let inner = Inner {
            log: Mutex::default(),
            changed: Condvar::new(),
            script: Mutex::new(Arc::new(|_, _| None)),
            server: Arc::default(),
            open: Mutex::default(),
            accepted: AtomicUsize::new(0),
            closed: AtomicUsize::new(0),
        };
        let address = listener.local_addr().unwrap();
        let mut upstream = Upstream { address, inner: Arc::new(inner), accepting: None };
        upstream.accept(listener);
        upstream
    }

    /// From now on this is asked first; what it leaves is the server's.
    pub(crate) fn script(
        &self,
        script: impl Fn(&Request, &Server) -> Option<Answer> + Send + Sync + 'static,
    ) {
        *self.inner.script.lock().unwrap() = Arc::new(script);
    }

    /// Requests like this one wait, from now on, until the gate is opened; then they are the server's.
    pub(crate) fn hold(&self, which: impl Fn(&Request) -> bool + Send + Sync + 'static) -> Arc<Gate> {
        let gate = Arc::new(Gate::default());
        let held = Arc::clone(&gate);
        self.script(move |request, _| {
            if which(request) {
                held.wait();
            }
            None
        });
        gate
    }

    pub(crate) fn server(&self) -> &Arc<Server> {
        &self.inner.server
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/mcp", self.address)
    }

    /// Closes its port and cuts its connections, as a process does that is killed.
    pub(crate) fn go_away(&mut self) {
        let Some(accepting) = self.accepting.take() else { return };
        let open = self.inner.open.lock().unwrap().take();
        // The one that waits for connections learns of it by one.
        let _ = TcpStream::connect(self.address);
        accepting.join().unwrap();
        for stream in open.into_iter().flatten().filter_map(|stream| stream.upgrade()) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    pub(crate) fn come_back(&mut self) {
        self.accept(TcpListener::bind(self.address).unwrap());
    }

    fn accept(&mut self, listener: TcpListener) {
        *self.inner.open.lock().unwrap() = Some(Vec::new());
        let inner = Arc::clone(&self.inner);
        self.accepting = Some(std::thread::spawn(move || {
            for stream in listener.incoming() {
                // The only strong reference is the thread's: when that is done, the connection closes.
                let stream = Arc::new(stream.unwrap());
                match &mut *inner.open.lock().unwrap() {
                    Some(open) => open.push(Arc::downgrade(&stream)),
                    None => return,
                }
                inner.accepted.fetch_add(1, Ordering::Relaxed);
                let inner = Arc::clone(&inner);
                std::thread::spawn(move || {
                    let _ = inner.serve(&stream);
                    drop(stream);
                    inner.closed.fetch_add(1, Ordering::Relaxed);
                    inner.tell();
                });
            }
        }));
    }

    /// How many connections it has accepted.
    pub(crate) fn connections(&self) -> usize {
        self.inner.accepted.load(Ordering::Relaxed)
    }

    /// How many connections to it are open.
    pub(crate) fn open_connections(&self) -> usize {
        self.connections() - self.inner.closed.load(Ordering::Relaxed)
    }

    /// Forgets what arrived so far.
    pub(crate) fn forget(&self) {
        self.inner.log.lock().unwrap().clear();
    }

    /// Everything that arrived, in order.
    pub(crate) fn log(&self) -> Vec<Arc<Request>> {
        self.inner.log.lock().unwrap().clone()
    }

    /// What arrived of this method (JSON-RPC, or HTTP where there is no message).
    pub(crate) fn of(&self, method: &str) -> Vec<Arc<Request>> {
        self.log().into_iter().filter(|request| request.rpc() == method).collect()
    }

    pub(crate) fn count(&self, method: &str) -> usize {
        self.of(method).len()
    }

    /// The methods that arrived, in order.
    pub(crate) fn methods(&self) -> Vec<String> {
        self.log().iter().map(|request| request.rpc()).collect()
    }

    /// Waits until the server is in such a state.
    pub(crate) fn wait_until(&self, what: &str, reached: impl Fn(&Server) -> bool) {
        let log = self.inner.log.lock().unwrap();
        let server = &self.inner.server;
        let wait = self.inner.changed.wait_timeout_while(log, PATIENCE, |_| !reached(server));
        assert!(!wait.unwrap().1.timed_out(), "{what}: never");
    }

    /// Waits until it has closed so many connections.
    pub(crate) fn wait_for_closed(&self, count: usize) {
        self.wait_until("the connection is closed", |_| self.inner.closed.load(Ordering::Relaxed) >= count);
    }

    /// Waits until so many requests of this method have arrived.
    pub(crate) fn wait_for(&self, method: &str, count: usize) {
        let log = self.inner.log.lock().unwrap();
        let arrived = |log: &Vec<Arc<Request>>| log.iter().filter(|r| r.rpc() == method).count();
        let (log, _) =
            self.inner.changed.wait_timeout_while(log, PATIENCE, |log| arrived(log) < count).unwrap();
        assert!(arrived(&log) >= count, "{method} never came {count} times, only {}", arrived(&log));
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.go_away();
    }
}

impl Inner {
    /// Wakes whoever waits for a state.
    fn tell(&self) {
        // Taken, so that nobody is between looking at the state and waiting for it to change.
        drop(self.log.lock().unwrap());
        self.changed.notify_all();
    }

    fn serve(&self, stream: &TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let mut reader = BufReader::new(stream);
        while let Some((first, headers)) = head(&mut reader)? {
            let body = Framing::of(&headers, Framing::Length(0)).whole(&mut reader)?;
            let mut words = first.split(' ').map(str::to_owned);
            let mut word = || words.next().unwrap_or_default();
            let request = Arc::new(Request { method: word(), target: word(), headers, body });
            self.log.lock().unwrap().push(Arc::clone(&request));
            self.changed.notify_all();
            let script = Arc::clone(&self.script.lock().unwrap());
            let answer = script(&request, &self.server).unwrap_or_else(|| self.server.answer(&request));
            self.tell();
            if !write(stream, answer)? {
                break;
            }
        }
        Ok(())
    }
}

/// Writes an answer. False when the connection ends with it.
fn write(mut stream: &TcpStream, answer: Answer) -> io::Result<bool> {
    match answer {
        Answer::Reply { status, headers, body } => {
            let mut bytes = format!("HTTP/1.1 {status} Whatever\r\n").into_bytes();
            for (name, value) in headers {
                bytes.extend(format!("{name}: {value}\r\n").bytes());
            }
            bytes.extend(format!("content-length: {}\r\n\r\n", body.len()).bytes());
            bytes.extend(body);
            stream.write_all(&bytes)?;
        }
        Answer::Stream(fill) => {
            stream.write_all(
                b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n",
            )?;
            fill(&mut Events(stream));
            if SockRef::from(stream).linger()?.is_some() {
                return Ok(false);
            }
            stream.write_all(b"0\r\n\r\n")?;
        }
        Answer::Reset(bytes) => {
            stream.write_all(&bytes)?;
            reset(stream);
            return Ok(false);
        }
        Answer::Close(bytes) => {
            stream.write_all(&bytes)?;
            return Ok(false);
        }
    }
    Ok(true)
}
