//! TLS toward clients: the certificate's files, and a newer pair in them for the connections that follow.

use std::fs;
use std::io;
use std::sync::{Arc, PoisonError, RwLock};

use rustls::ServerConfig;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::app::App;
use crate::config;
use crate::reload::{Contents, Look, Reload};

/// HTTP/2, as ALPN calls it.
const H2: &[u8] = b"h2";

/// Why a certificate and its key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: std::path::PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A file does not hold what it should.
    #[error("{} holds no {what} in PEM form", path.display())]
    Pem {
        /// The file.
        path: std::path::PathBuf,
        /// Certificate or key.
        what: &'static str,
    },
    /// Certificate and key do not fit, or are of a kind that is not known.
    #[error("certificate and key cannot be used together: {0}")]
    Pair(rustls::Error),
}

/// TLS for all connections of clients.
#[derive(Clone)]
pub struct Tls {
    acceptor: TlsAcceptor,
    certificate: Arc<Certificate>,
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// [`TlsError`], where they cannot be used.
    pub fn load(files: &config::Tls) -> Result<Self, TlsError> {
        let read = read(files)?;
        let provider = Arc::new(aws_lc_rs::default_provider());
        let current = RwLock::new(Arc::new(pair(files, &read, &provider)?));
        let certificate =
            Arc::new(Certificate { files: files.clone(), current, provider, reload: Reload::new(read) });
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&certificate.provider))
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Pair)?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&certificate) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = vec![H2.to_vec(), b"http/1.1".to_vec()];
        Ok(Tls { acceptor: TlsAcceptor::from(Arc::new(config)), certificate })
    }

    /// Greets a client.
    ///
    /// # Errors
    /// When the client is no TLS client, goes away, or shares no version or cipher.
    pub async fn accept(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        self.acceptor.accept(stream).await
    }

    /// Looks at the files, again and again, until the gateway stops.
    pub async fn watch(self, app: Arc<App>) {
        let mut stop = app.stop_signal();
        loop {
            tokio::select! {
                () = tokio::time::sleep(self.certificate.files.reload) => {}
                _ = stop.wait_for(|stop| *stop) => return,
            }
            let certificate = Arc::clone(&self.certificate);
            // Not on this thread: the files may be on a disk that is far away.
            let _ = tokio::task::spawn_blocking(move || certificate.look()).await;
        }
    }
}

/// Whether the client chose HTTP/2.
pub fn speaks_h2(stream: &TlsStream<TcpStream>) -> bool {
    stream.get_ref().1.alpn_protocol() == Some(H2)
}

/// The certificate's file, then the key's.
fn read(files: &config::Tls) -> Result<Contents, TlsError> {
    let read = |path: &std::path::PathBuf| {
        fs::read(path).map_err(|source| TlsError::Read { path: path.clone(), source })
    };
    [&files.certificate, &files.key].into_iter().map(read).collect()
}

fn pair(files: &config::Tls, read: &Contents, provider: &CryptoProvider) -> Result<CertifiedKey, TlsError> {
    let none = |path: &std::path::Path, what| TlsError::Pem { path: path.to_owned(), what };
    let (certificate, key) =
        (read.first().map_or(&b""[..], Vec::as_slice), read.last().map_or(&b""[..], Vec::as_slice));
    let chain: Vec<_> = CertificateDer::pem_slice_iter(certificate)
        .collect::<Result<_, _>>()
        .map_err(|_| none(&files.certificate, "certificate"))?;
    if chain.is_empty() {
        return Err(none(&files.certificate, "certificate"));
    }
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| none(&files.key, "private key"))?;
    CertifiedKey::from_der(chain, key, provider).map_err(TlsError::Pair)
}

struct Certificate {
    files: config::Tls,
    current: RwLock<Arc<CertifiedKey>>,
    provider: Arc<CryptoProvider>,
    reload: Reload,
}

impl Certificate {
    /// Takes a new pair into use if it is one.
    fn look(&self) {
        let made = |read: &Contents| pair(&self.files, read, &self.provider);
        match self.reload.look(read(&self.files), made) {
            Look::Nothing => {}
            Look::New(pair) => {
                *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(pair);
                tracing::info!(file = %self.files.certificate.display(), "a new TLS certificate is in use");
            }
            Look::Wrong(error) => {
                tracing::error!(%error, "the new TLS certificate cannot be used; the old one stays");
            }
        }
    }
}

impl std::fmt::Debug for Certificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Certificate").field("files", &self.files).finish_non_exhaustive()
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner)))
    }
}
