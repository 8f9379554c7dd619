//! A tunnel through a proxy (RFC 9110, 9.3.6).

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::config::Proxy;

/// Longest answer of a proxy to CONNECT, in bytes.
const MAX_HEAD: usize = 8 * 1024;

/// What a proxy said to CONNECT.
pub enum Said {
    /// The digits of its status, as they came.
    Status(Vec<u8>),
    /// More than is read of an answer.
    NoEnd,
    /// It closed the connection before its answer was whole.
    Closed,
}

/// Asks a proxy for a tunnel to a host (without brackets) and port.
///
/// # Errors
/// As the socket's.
pub async fn ask(socket: &mut TcpStream, proxy: &Proxy, host: &str, port: u16) -> io::Result<Said> {
    let place = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    let mut request = format!("CONNECT {place} HTTP/1.1\r\nHost: {place}\r\n").into_bytes();
    if let Some(authorization) = &proxy.authorization {
        request.extend_from_slice(b"Proxy-Authorization: ");
        request.extend_from_slice(authorization.as_bytes());
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(b"\r\n");
    socket.write_all(&request).await?;
    // The server says nothing before it is spoken to, so that nothing follows the proxy's answer.
    let mut head = Vec::with_capacity(256);
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() >= MAX_HEAD {
            return Ok(Said::NoEnd);
        }
        if socket.read_buf(&mut head).await? == 0 {
            return Ok(Said::Closed);
        }
    }
    let status = head.strip_prefix(b"HTTP/1.").and_then(|rest| rest.get(2..5)).unwrap_or_default();
    Ok(Said::Status(status.to_vec()))
}
