//! A client that sends exactly these bytes and shows exactly what came back. Each request has a connection of its
//! own, so that with several workers all of them are met; dropping an answer closes its connection at once.

use std::io::{self, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};

use serde_json::Value;

use super::http::{Framing, Headers, head};
use super::{PATIENCE, parse};

/// Where requests go, and the headers that they carry.
#[derive(Clone)]
pub(crate) struct Client {
    pub(crate) address: SocketAddr,
    path: String,
    headers: Vec<(String, String)>,
    /// Session ids that were given out, for the search through the logs.
    secrets: Arc<Mutex<Vec<String>>>,
}

impl Client {
    pub(crate) fn new(address: SocketAddr, secrets: Arc<Mutex<Vec<String>>>) -> Self {
        let headers = [
            ("host", address.to_string()),
            ("accept", "application/json, text/event-stream".to_owned()),
            ("content-type", "application/json".to_owned()),
        ];
        let headers = headers.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        Client { address, path: "/mcp".to_owned(), headers, secrets }
    }

    /// With this header, in place of one of the same name.
    pub(crate) fn with(&self, name: &str, value: &str) -> Self {
        let mut client = self.without(name);
        client.headers.push((name.to_owned(), value.to_owned()));
        client
    }

    pub(crate) fn without(&self, name: &str) -> Self {
        let mut client = self.clone();
        client.headers.retain(|(known, _)| known != name);
        client
    }

    /// At another path.
    pub(crate) fn at(&self, path: &str) -> Self {
        Client { path: path.to_owned(), ..self.clone() }
    }

    pub(crate) fn post(&self, body: impl AsRef<[u8]>) -> Response {
        self.open("POST", body).whole()
    }

    pub(crate) fn delete(&self) -> Response {
        self.open("DELETE", "").whole()
    }

    /// A GET that is answered at once; a stream is for [`Client::open`].
    pub(crate) fn get(&self) -> Response {
        self.open("GET", "").whole()
    }

    /// Sends a request and waits for the head of its answer.
    pub(crate) fn open(&self, method: &str, body: impl AsRef<[u8]>) -> Incoming {
        self.begin(method, body).answer()
    }

    /// Sends a request and does not wait.
    pub(crate) fn begin(&self, method: &str, body: impl AsRef<[u8]>) -> Sent {
        let body = body.as_ref();
        let mut bytes = format!("{method} {} HTTP/1.1\r\n", self.path).into_bytes();
        for (name, value) in &self.headers {
            bytes.extend(format!("{name}: {value}\r\n").bytes());
        }
        if method == "POST" {
            bytes.extend(format!("content-length: {}\r\n", body.len()).bytes());
        }
        bytes.extend(b"\r\n");
        bytes.extend(body);
        self.raw(&bytes)
    }

    /// Sends these bytes on a new connection.
    pub(crate) fn raw(&self, bytes: &[u8]) -> Sent {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        // An answer may come, and the connection end, before all was read.
        let _ = stream.write_all(bytes);
        Sent { stream: Some(stream), secrets: Arc::clone(&self.secrets) }
    }
}

/// A request whose answer has not been read. Dropped, it is a client that went away.
pub(crate) struct Sent {
    stream: Option<TcpStream>,
    secrets: Arc<Mutex<Vec<String>>>,
}

impl Sent {
    pub(crate) fn answer(self) -> Incoming {
        self.try_answer().unwrap_or_else(|error| panic!("no answer: {error}"))
    }

    pub(crate) fn try_answer(mut self) -> io::Result<Incoming> {
        let stream = self.stream.take().unwrap();
        let mut reader = BufReader::new(stream);
        let (status, headers, framing) = read_head(&mut reader)?;
        if let Some(id) = headers.get("mcp-session-id") {
            self.secrets.lock().unwrap().push(id.to_owned());
        }
        Ok(Incoming { status, headers, framing, reader, buffer: Vec::new() })
    }
}

/// Status, headers and the form of the body.
fn read_head(reader: &mut BufReader<TcpStream>) -> io::Result<(u16, Headers, Framing)> {
    let (first, headers) = head(reader)?.ok_or(io::ErrorKind::UnexpectedEof)?;
    let status = first.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.unwrap_or_else(|| panic!("{first:?} is no status line"));
    let framing = match status {
        204 | 304 => Framing::Length(0),
        _ => Framing::of(&headers, Framing::UntilClose),
    };
    Ok((status, headers, framing))
}

impl Drop for Sent {
    fn drop(&mut self) {
        if let Some(stream) = &self.stream {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

/// An answer whose body is still coming. Dropped, it is a client that went away.
pub(crate) struct Incoming {
    pub(crate) status: u16,
    pub(crate) headers: Headers,
    framing: Framing,
    reader: BufReader<TcpStream>,
    buffer: Vec<u8>,
}

impl Incoming {
    pub(crate) fn whole(self) -> Response {
        self.try_whole().unwrap_or_else(|error| panic!("the answer broke off: {error}"))
    }

    pub(crate) fn try_whole(mut self) -> io::Result<Response> {
        let mut body = std::mem::take(&mut self.buffer);
        body.extend(self.framing.whole(&mut self.reader)?);
        Ok(Response { status: self.status, headers: self.headers.clone(), body })
    }

    /// This answer; then this is the next one on the same connection.
    pub(crate) fn advance(&mut self) -> Response {
        let body = self.framing.whole(&mut self.reader).unwrap();
        let (status, headers, framing) = read_head(&mut self.reader).unwrap();
        let status = std::mem::replace(&mut self.status, status);
        let headers = std::mem::replace(&mut self.headers, headers);
        self.framing = framing;
        Response { status, headers, body }
    }

    /// The next event with data; None at the end of the stream.
    pub(crate) fn event(&mut self) -> Option<Event> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|two| two == b"\n\n") {
                let event: Vec<u8> = self.buffer.drain(..end + 2).collect();
                let event = Event::read(&event);
                if event.data.is_empty() && event.id.is_none() {
                    continue;
                }
                return Some(event);
            }
            let piece = self.framing.piece(&mut self.reader);
            self.buffer.extend(piece.unwrap_or_else(|error| panic!("the stream broke off: {error}"))?);
        }
    }

    /// The next event that carries a message.
    pub(crate) fn message(&mut self) -> Event {
        loop {
            let event = self.event().expect("the stream goes on");
            if !event.data.is_empty() {
                return event;
            }
        }
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        let _ = self.reader.get_ref().shutdown(Shutdown::Both);
    }
}

/// One event of a stream, with line feeds as line ends.
#[derive(Debug)]
pub(crate) struct Event {
    pub(crate) id: Option<String>,
    pub(crate) data: String,
}

impl Event {
    fn read(raw: &[u8]) -> Self {
        let text = String::from_utf8(raw.to_vec()).unwrap();
        let fields = |name: &str| {
            let values = text.lines().filter_map(|line| line.strip_prefix(name));
            values.map(|value| value.strip_prefix(' ').unwrap_or(value).to_owned()).collect::<Vec<_>>()
        };
        Event { id: fields("id:").pop(), data: fields("data:").join("\n") }
    }

    pub(crate) fn json(&self) -> Value {
        parse(&self.data)
    }
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) headers: Headers,
    pub(crate) body: Vec<u8>,
}

impl Response {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The message: the body, or the last one of a stream.
    pub(crate) fn message(&self) -> String {
        if !self.headers.get("content-type").unwrap_or_default().starts_with("text/event-stream") {
            return self.text();
        }
        let text = self.text();
        let messages = text.split("\n\n").map(|event| Event::read(event.as_bytes()).data);
        messages.filter(|data| !data.is_empty()).last().unwrap_or_default()
    }

    pub(crate) fn json(&self) -> Value {
        parse(self.message())
    }

    /// The code of a JSON-RPC error; 0 where it is none.
    pub(crate) fn code(&self) -> i64 {
        self.json()["error"]["code"].as_i64().unwrap_or_default()
    }

    /// The text of a tool's result.
    pub(crate) fn tool_text(&self) -> String {
        let json = self.json();
        let text = json["result"]["content"][0]["text"].as_str();
        text.unwrap_or_else(|| panic!("{} {json} is no tool's result", self.status)).to_owned()
    }
}
