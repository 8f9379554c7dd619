//! TLS in front of an upstream: certificates, and a listener that decrypts, over HTTP/1.1 or HTTP/2.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::upstream::Upstream;

/// An authority, and what it signs, in files.
pub(crate) struct Certificates {
    issuer: Issuer<'static, KeyPair>,
    root: String,
    dir: TempDir,
}

impl Certificates {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let dir = TempDir::new().unwrap();
        params.distinguished_name.push(DnType::CommonName, dir.path().to_str().unwrap());
        let key = KeyPair::generate().unwrap();
        let root = params.self_signed(&key).unwrap().pem();
        let certificates = Certificates { issuer: Issuer::new(params, key), root, dir };
        certificates.file("ca.pem", &certificates.root);
        certificates
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The authority's own certificate.
    pub(crate) fn ca(&self) -> PathBuf {
        self.path("ca.pem")
    }

    /// A certificate for this name, and its key, as PEM.
    fn issue(&self, name: &str, expired: bool) -> (String, String) {
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        if expired {
            params.not_before = date_time_ymd(2020, 1, 1);
            params.not_after = date_time_ymd(2021, 1, 1);
        }
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    /// Files with a certificate for a client, and its key.
    pub(crate) fn client(&self) -> (PathBuf, PathBuf) {
        let (certificate, key) = self.issue("client", false);
        (self.file("client.pem", &certificate), self.file("client.key", &key))
    }

    /// What a server needs that is called so.
    pub(crate) fn server(&self, name: &str) -> ServerConfig {
        self.configure(name, false, false)
    }

    /// The same, with a certificate that has expired.
    pub(crate) fn expired(&self, name: &str) -> ServerConfig {
        self.configure(name, true, false)
    }

    /// The same, for a server that asks clients for a certificate of this authority.
    pub(crate) fn asking(&self, name: &str) -> ServerConfig {
        self.configure(name, false, true)
    }

    fn configure(&self, name: &str, expired: bool, asking: bool) -> ServerConfig {
        let (certificate, key) = self.issue(name, expired);
        let certificate = CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap();
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap();
        let builder = if asking {
            let mut roots = RootCertStore::empty();
            roots.add(CertificateDer::from_pem_slice(self.root.as_bytes()).unwrap()).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.with_client_cert_verifier(verifier.build().unwrap())
        } else {
            builder.with_no_client_auth()
        };
        builder.with_single_cert(vec![certificate], key).unwrap()
    }
}

/// What becomes of a request over HTTP/2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// The upstream gets it.
    Forwarded,
    /// Its stream is refused.
    Refused,
    /// The upstream gets it, but the connection breaks before the answer.
    Broken,
}

type Decide = dyn Fn(&str) -> Fate + Send + Sync;

/// A listener that decrypts for an upstream; gone when it is dropped.
pub(crate) struct Front {
    pub(crate) address: SocketAddr,
    accepted: Arc<AtomicUsize>,
    leaves: Arc<AtomicBool>,
    runtime: Option<Runtime>,
}

impl Front {
    /// HTTP/1.1.
    pub(crate) fn start(upstream: &Upstream, config: ServerConfig) -> Self {
        Self::run(upstream, config, None, "127.0.0.1:0".parse().unwrap())
    }

    /// HTTP/2; the body of each request decides what becomes of it.
    pub(crate) fn many(
        upstream: &Upstream,
        config: ServerConfig,
        decide: impl Fn(&str) -> Fate + Send + Sync + 'static,
    ) -> Self {
        Self::run(upstream, config, Some(Arc::new(decide)), "127.0.0.1:0".parse().unwrap())
    }

    /// The same, but on the first connection it is about to go: it looks at no request.
    pub(crate) fn leaving(upstream: &Upstream, config: ServerConfig) -> Self {
        let front = Self::many(upstream, config, |_| Fate::Forwarded);
        front.leaves.store(true, Ordering::Relaxed);
        front
    }

    /// The same, at this address.
    pub(crate) fn many_at(upstream: &Upstream, config: ServerConfig, address: SocketAddr) -> Self {
        Self::run(upstream, config, Some(Arc::new(|_| Fate::Forwarded)), address)
    }

    fn run(
        upstream: &Upstream,
        mut config: ServerConfig,
        decide: Option<Arc<Decide>>,
        address: SocketAddr,
    ) -> Self {
        if decide.is_some() {
            config.alpn_protocols = vec![b"h2".to_vec()];
        }
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind(address)).unwrap();
        let (address, to) = (listener.local_addr().unwrap(), upstream.address);
        let accepted = Arc::new(AtomicUsize::new(0));
        let leaves = Arc::new(AtomicBool::new(false));
        let (count, leave) = (Arc::clone(&accepted), Arc::clone(&leaves));
        let acceptor = TlsAcceptor::from(Arc::new(config));
        runtime.spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (acceptor, decide) = (acceptor.clone(), decide.clone());
                let (count, leave) = (Arc::clone(&count), Arc::clone(&leave));
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    count.fetch_add(1, Ordering::Relaxed);
                    match decide {
                        Some(_) if leave.swap(false, Ordering::Relaxed) => drop(go(stream).await),
                        Some(decide) => serve(stream, to, decide).await,
                        None => {
                            let (mut near, mut far) = (stream, TcpStream::connect(to).await.unwrap());
                            let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                        }
                    }
                });
            }
        });
        Front { address, accepted, leaves, runtime: Some(runtime) }
    }

    pub(crate) fn url(&self) -> http::Uri {
        format!("https://{}/mcp", self.address).parse().unwrap()
    }

    /// How many handshakes were completed.
    pub(crate) fn connections(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(super::PATIENCE);
        }
    }
}

/// Frames by hand (RFC 9113, 4.1): when a request comes, the connection ends, and 0 is the last stream that it names.
async fn go(mut stream: TlsStream<TcpStream>) -> std::io::Result<()> {
    const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    const GOAWAY: [u8; 17] = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    const HEADERS: u8 = 1;
    stream.write_all(&SETTINGS).await?;
    stream.flush().await?;
    stream.read_exact(&mut [0; 24]).await?;
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        stream.read_exact(&mut vec![0; length]).await?;
        if head[3] == HEADERS {
            stream.write_all(&GOAWAY).await?;
            return stream.shutdown().await;
        }
    }
}

async fn serve(stream: TlsStream<TcpStream>, to: SocketAddr, decide: Arc<Decide>) {
    let mut connection = h2::server::handshake(stream).await.unwrap();
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        let (parts, body) = request.into_parts();
        // The body comes while the connection is being read.
        let (tell, mut told) = tokio::sync::oneshot::channel();
        tokio::spawn(async move { tell.send(whole(body).await) });
        let body = tokio::select! {
            body = &mut told => body.unwrap(),
            _ = std::future::poll_fn(|cx| connection.poll_closed(cx)) => return,
        };
        match decide(&String::from_utf8_lossy(&body)) {
            Fate::Forwarded => {
                tokio::spawn(forward(parts, body, to, respond));
            }
            Fate::Refused => respond.send_reset(Reason::REFUSED_STREAM),
            Fate::Broken => {
                let _ = exchange(parts, body, to).await;
                return;
            }
        }
    }
}

async fn whole(mut body: RecvStream) -> Bytes {
    let mut whole = Vec::new();
    while let Some(Ok(piece)) = body.data().await {
        let _ = body.flow_control().release_capacity(piece.len());
        whole.extend(piece);
    }
    whole.into()
}

async fn exchange(
    parts: http::request::Parts,
    body: Bytes,
    to: SocketAddr,
) -> hyper::Result<http::Response<hyper::body::Incoming>> {
    let stream = TcpStream::connect(to).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake::<_, Full<Bytes>>(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let mut request = http::Request::new(Full::new(body));
    *request.method_mut() = parts.method;
    *request.uri_mut() = parts.uri.path().parse().unwrap();
    *request.headers_mut() = parts.headers;
    sender.send_request(request).await
}

async fn forward(parts: http::request::Parts, body: Bytes, to: SocketAddr, mut respond: SendResponse<Bytes>) {
    let Ok(answer) = exchange(parts, body, to).await else { return };
    let (parts, mut body) = answer.into_parts();
    let mut head = http::Response::new(());
    *head.status_mut() = parts.status;
    *head.headers_mut() = parts.headers;
    head.headers_mut().remove("transfer-encoding");
    let Ok(mut stream) = respond.send_response(head, false) else { return };
    loop {
        tokio::select! {
            frame = body.frame() => match frame {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        let _ = stream.send_data(data, false);
                    }
                }
                _ => {
                    let _ = stream.send_data(Bytes::new(), true);
                    return;
                }
            },
            _ = std::future::poll_fn(|cx| stream.poll_reset(cx)) => return,
        }
    }
}
