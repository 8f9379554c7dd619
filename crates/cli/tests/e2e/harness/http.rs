//! HTTP/1.1 by hand, over a plain socket: a test says exactly which bytes go out and sees exactly which came
//! back, and a connection that it drops is closed at once.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

/// Nothing that a test waits for takes longer than this; what does is a failure.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// One exchange: its status and headers, and a body that is still being read.
pub(crate) struct Response {
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
    body: Body,
}

impl Response {
    /// The value of a header, if it was sent.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    pub(crate) fn headers(&self) -> &[(String, String)] {
        &self.headers
    }

    /// The body by lines, as they arrive; closing the connection is the [`Connection`]'s job.
    pub(crate) fn into_body(self) -> impl BufRead + Send {
        BufReader::new(self.body)
    }
}

/// Ends the exchange when it is dropped, even while another thread is reading its body.
pub(crate) struct Connection(TcpStream);

impl Drop for Connection {
    fn drop(&mut self) {
        // Already closed by the other side, or by us: as it should be.
        let _ = self.0.shutdown(Shutdown::Both);
    }
}

/// Sends a request to an `http://HOST:PORT/PATH` URL and reads the answer's head.
///
/// Of headers only `Host`, and `Content-Length` with a body, are added to those given.
///
/// # Errors
///
/// Whatever the socket reports, a refused connection included; nothing for [`PATIENCE`]; an answer that is
/// not HTTP.
pub(crate) fn send(
    method: &str,
    url: &str,
    headers: &[(&str, &str)],
    body: Option<&[u8]>,
) -> io::Result<(Response, Connection)> {
    let rest = url.strip_prefix("http://").ok_or_else(|| bad(format!("not an http URL: {url}")))?;
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let path = if path.is_empty() { "/" } else { path };

    let socket = TcpStream::connect(authority)?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let mut head = format!("{method} {path} HTTP/1.1\r\n");
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        head += &format!("Host: {authority}\r\n");
    }
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    if let Some(body) = body {
        head += &format!("Content-Length: {}\r\n", body.len());
    }
    head += "\r\n";
    let mut request = head.into_bytes();
    request.extend_from_slice(body.unwrap_or_default());
    (&socket).write_all(&request)?;

    let connection = Connection(socket.try_clone()?);
    Ok((read_head(BufReader::new(socket), method)?, connection))
}

fn read_head(mut socket: BufReader<TcpStream>, method: &str) -> io::Result<Response> {
    let mut line = String::new();
    socket.read_line(&mut line)?;
    let status = line
        .strip_prefix("HTTP/1.1 ")
        .and_then(|line| line.get(..3)?.parse().ok())
        .ok_or_else(|| bad(format!("not an HTTP/1.1 status line: {line:?}")))?;

    let mut headers = Vec::new();
    loop {
        line.clear();
        socket.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.push((name.to_owned(), value.trim().to_owned()));
    }
    let mut response = Response { status, headers, body: Body { socket, left: Left::ToTheEnd } };
    response.body.left = if method == "HEAD" || status == 204 || status == 304 {
        Left::Bytes(0)
    } else if response
        .header("transfer-encoding")
        .is_some_and(|coding| coding.eq_ignore_ascii_case("chunked"))
    {
        Left::Chunks(0)
    } else if let Some(length) = response.header("content-length") {
        Left::Bytes(length.parse().map_err(|_| bad(format!("content-length {length}")))?)
    } else {
        Left::ToTheEnd
    };
    Ok(response)
}

/// A body in any of its three framings, read as plain bytes.
struct Body {
    socket: BufReader<TcpStream>,
    left: Left,
}

enum Left {
    Bytes(usize),
    /// So many bytes of the present chunk, then more chunks.
    Chunks(usize),
    ToTheEnd,
}

impl Read for Body {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Left::Chunks(0) = self.left {
            self.left = match next_chunk(&mut self.socket)? {
                0 => Left::Bytes(0),
                size => Left::Chunks(size),
            };
        }
        let limit = match self.left {
            Left::Bytes(left) | Left::Chunks(left) => left.min(buffer.len()),
            Left::ToTheEnd => buffer.len(),
        };
        if limit == 0 {
            // Not left to the reader below, which would wait for bytes even so.
            return Ok(0);
        }
        let count = self.socket.read(&mut buffer[..limit])?;
        if count == 0 && !matches!(self.left, Left::ToTheEnd) {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the body was cut short"));
        }
        match &mut self.left {
            Left::Bytes(left) => *left -= count,
            Left::Chunks(left) => {
                *left -= count;
                if *left == 0 {
                    self.socket.read_line(&mut String::new())?;
                }
            }
            Left::ToTheEnd => {}
        }
        Ok(count)
    }
}

/// Reads a chunk's size line, and behind the last chunk the trailer.
fn next_chunk(socket: &mut BufReader<TcpStream>) -> io::Result<usize> {
    let mut line = String::new();
    socket.read_line(&mut line)?;
    let digits = line.trim_end().split(';').next().unwrap_or_default();
    let size = usize::from_str_radix(digits, 16).map_err(|_| bad(format!("not a chunk size: {line:?}")))?;
    if size == 0 {
        while line.trim_end() != "" {
            line.clear();
            socket.read_line(&mut line)?;
        }
    }
    Ok(size)
}

fn bad(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
