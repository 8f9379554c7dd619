//! Connections to a server: socket, proxy, encryption, HTTP/1.1.

use std::io;
use std::sync::Arc;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use throughline_gateway::config::Proxy;
use throughline_gateway::sockets;
use throughline_gateway::upstream::tunnel::{self, Said};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::{CONNECT, Endpoint};

/// What sends requests on a connection, one at a time.
pub(crate) type Sender = http1::SendRequest<Full<Bytes>>;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
#[error("cannot connect to {place}: {why}")]
pub(crate) struct ConnectError {
    place: String,
    why: String,
}

impl Endpoint {
    /// A new connection. It lives as long as its sender, or the body of its last answer.
    ///
    /// # Errors
    /// When there is none within ten seconds.
    pub(crate) async fn connect(&self) -> Result<Sender, ConnectError> {
        let why = match tokio::time::timeout(CONNECT, self.connect_patiently()).await {
            Ok(Ok(sender)) => return Ok(sender),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("nothing happened for {} seconds", CONNECT.as_secs()),
        };
        Err(ConnectError { place: format!("{}:{}", self.host, self.port), why })
    }

    async fn connect_patiently(&self) -> io::Result<Sender> {
        let (host, port) = match &self.proxy {
            Some(proxy) => (proxy.host.as_str(), proxy.port),
            None => (self.host.as_str(), self.port),
        };
        let mut stream = TcpStream::connect((host, port)).await?;
        stream.set_nodelay(true)?;
        sockets::notice_death(&stream, sockets::TAKES_NOTHING)?;
        let Some((connector, name)) = &self.tls else { return handshake(stream).await };
        if let Some(proxy) = &self.proxy {
            self.tunnel(&mut stream, proxy).await?;
        }
        handshake(connector.connect(name.clone(), stream).await?).await
    }

    /// Has a proxy open a tunnel.
    async fn tunnel(&self, stream: &mut TcpStream, proxy: &Proxy) -> io::Result<()> {
        match tunnel::ask(stream, proxy, &self.host, self.port).await? {
            Said::Status(status) if status.starts_with(b"2") => Ok(()),
            Said::Status(status) => {
                let status = String::from_utf8_lossy(&status);
                Err(io::Error::other(format!("the proxy answered {status} to CONNECT")))
            }
            Said::NoEnd | Said::Closed => Err(io::Error::other("the proxy did not answer CONNECT")),
        }
    }
}

async fn handshake<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(stream: S) -> io::Result<Sender> {
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    // It ends with the sender and the bodies; what goes wrong on it, they report.
    tokio::spawn(connection);
    Ok(sender)
}

/// What encrypted connections to this host need: the system's roots (`SSL_CERT_FILE` names others), HTTP/1.1.
pub(super) fn encryption(host: &str) -> Result<(TlsConnector, ServerName<'static>), String> {
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if added == 0 {
        return Err(
            "https needs root certificates, and the system has none: install ca-certificates, or name \
                    a file in SSL_CERT_FILE"
                .to_owned(),
        );
    }
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let name = ServerName::try_from(host.to_owned())
        .map_err(|_| format!("{host:?} is no name that a certificate could be for"))?;
    Ok((TlsConnector::from(Arc::new(config)), name))
}
