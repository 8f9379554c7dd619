//! HTTP/2 over TLS: a client that behaves ([`H2`]) and one that writes frames by hand ([`Frames`]).

use std::io::{self, Read, Write};
use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::runtime::Runtime;

use super::client::Response;
use super::http::Headers;
use super::tls::{self, TlsStream};

/// One connection.
pub(crate) struct H2 {
    runtime: Runtime,
    sender: SendRequest<Full<Bytes>>,
    authority: String,
}

impl H2 {
    pub(crate) fn connect(address: SocketAddr) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let sender = runtime.block_on(async {
            let tcp = tokio::net::TcpStream::connect(address).await.unwrap();
            let connector = tokio_rustls::TlsConnector::from(tls::client(&["h2"]));
            let stream = connector.connect("localhost".try_into().unwrap(), tcp).await.unwrap();
            assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
            let client = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
            let (sender, connection) = client.handshake(TokioIo::new(stream)).await.unwrap();
            tokio::spawn(connection);
            sender
        });
        H2 { runtime, sender, authority: address.to_string() }
    }

    /// With another host in its requests.
    pub(crate) fn to(mut self, authority: &str) -> Self {
        authority.clone_into(&mut self.authority);
        self
    }

    /// Sends a request with the headers of a usual client, and with these in their place.
    pub(crate) fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Response {
        let mut request = http::Request::builder()
            .method(method)
            .uri(format!("https://{}{path}", self.authority))
            .header("accept", "application/json, text/event-stream")
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body.to_owned())))
            .unwrap();
        for (name, value) in headers {
            request
                .headers_mut()
                .insert(http::HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
        }
        let mut sender = self.sender.clone();
        self.runtime.block_on(async {
            let response = sender.send_request(request).await.unwrap();
            let (parts, body) = response.into_parts();
            let lines = parts.headers.iter();
            let lines = lines.map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()));
            let body = body.collect().await.unwrap().to_bytes().to_vec();
            Response { status: parts.status.as_u16(), headers: Headers(lines.collect()), body }
        })
    }

    pub(crate) fn post(&self, headers: &[(&str, &str)], body: &str) -> Response {
        self.send("POST", "/mcp", headers, body)
    }
}

/// Kinds of frames (RFC 9113, section 6).
pub(crate) mod kind {
    pub(crate) const DATA: u8 = 0;
    pub(crate) const HEADERS: u8 = 1;
    pub(crate) const RST_STREAM: u8 = 3;
    pub(crate) const SETTINGS: u8 = 4;
    pub(crate) const GOAWAY: u8 = 7;
}

pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

/// A frame that came.
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

/// A connection on which frames are written by hand.
pub(crate) struct Frames(TlsStream);

impl Frames {
    /// Connects and sends the preface with these settings.
    pub(crate) fn connect(address: SocketAddr, settings: &[(u16, u32)]) -> Self {
        let mut frames = Frames(tls::connect(address, &["h2"]));
        let mut payload = Vec::new();
        for (name, value) in settings {
            payload.extend(name.to_be_bytes());
            payload.extend(value.to_be_bytes());
        }
        frames.raw(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        frames.write(kind::SETTINGS, 0, 0, &payload);
        frames
    }

    /// Writes bytes; what the gateway does not take any more is not missed.
    pub(crate) fn raw(&mut self, bytes: &[u8]) -> bool {
        self.0.write_all(bytes).and_then(|()| self.0.flush()).is_ok()
    }

    pub(crate) fn write(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> bool {
        let mut frame = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        self.raw(&frame)
    }

    /// A POST of this body.
    pub(crate) fn post(&mut self, stream: u32, headers: &[(&str, &str)], body: &str) -> bool {
        let mut all = vec![
            (":method", "POST"),
            (":scheme", "https"),
            (":path", "/mcp"),
            (":authority", "localhost"),
            ("content-type", "application/json"),
            ("accept", "application/json, text/event-stream"),
        ];
        all.extend(headers);
        self.write(kind::HEADERS, END_HEADERS, stream, &encoded(&all))
            && self.write(kind::DATA, END_STREAM, stream, body.as_bytes())
    }

    /// The next frame; None at the end of the connection.
    pub(crate) fn read(&mut self) -> io::Result<Option<Frame>> {
        let mut head = [0; 9];
        match self.0.read_exact(&mut head) {
            Ok(()) => {}
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                return Err(error);
            }
            Err(_) => return Ok(None),
        }
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        self.0.read_exact(&mut payload)?;
        let stream = u32::from_be_bytes([head[5] & 0x7f, head[6], head[7], head[8]]);
        Ok(Some(Frame { kind: head[3], stream, payload }))
    }

    /// Reads until a frame of this kind comes; None where the connection ends before.
    pub(crate) fn wait_for(&mut self, kind: u8) -> Option<Frame> {
        loop {
            let frame = self.read().unwrap_or_else(|error| panic!("no frame of kind {kind}: {error}"))?;
            if frame.kind == kind {
                return Some(frame);
            }
        }
    }
}

/// Headers, each as a literal that is not indexed (RFC 7541, section 6.2.2).
pub(crate) fn encoded(headers: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in headers {
        bytes.push(0);
        for text in [name, value] {
            length(&mut bytes, text.len());
            bytes.extend(text.bytes());
        }
    }
    bytes
}

/// A length in seven bits and what follows (RFC 7541, section 5.1).
fn length(bytes: &mut Vec<u8>, length: usize) {
    if length < 127 {
        return bytes.push(u8::try_from(length).unwrap());
    }
    bytes.push(127);
    let mut rest = length - 127;
    while rest >= 128 {
        bytes.push(u8::try_from(rest % 128).unwrap() | 128);
        rest /= 128;
    }
    bytes.push(u8::try_from(rest).unwrap());
}
