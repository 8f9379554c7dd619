//! TLS toward clients: the certificate's files, and a newer pair in them for the connections that follow.

use std::fs;
use std::io;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

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
        let read = Pem::read(files)?;
        let provider = Arc::new(aws_lc_rs::default_provider());
        let current = RwLock::new(Arc::new(read.pair(files, &provider)?));
        let certificate = Arc::new(Certificate {
            files: files.clone(),
            current,
            provider,
            seen: Mutex::new(Seen::Used(read)),
        });
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

/// Both files' contents.
#[derive(PartialEq, Eq)]
struct Pem {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

impl Pem {
    fn read(files: &config::Tls) -> Result<Self, TlsError> {
        let read = |path: &std::path::Path| {
            fs::read(path).map_err(|source| TlsError::Read { path: path.to_owned(), source })
        };
        Ok(Pem { certificate: read(&files.certificate)?, key: read(&files.key)? })
    }

    fn pair(&self, files: &config::Tls, provider: &CryptoProvider) -> Result<CertifiedKey, TlsError> {
        let none = |path: &std::path::Path, what| TlsError::Pem { path: path.to_owned(), what };
        let chain: Vec<_> = CertificateDer::pem_slice_iter(&self.certificate)
            .collect::<Result<_, _>>()
            .map_err(|_| none(&files.certificate, "certificate"))?;
        if chain.is_empty() {
            return Err(none(&files.certificate, "certificate"));
        }
        let key = PrivateKeyDer::from_pem_slice(&self.key).map_err(|_| none(&files.key, "private key"))?;
        CertifiedKey::from_der(chain, key, provider).map_err(TlsError::Pair)
    }
}

/// What was found when the files were last looked at.
enum Seen {
    /// The pair that is in use.
    Used(Pem),
    /// Something else that cannot be used, and why.
    Broken(String),
    /// The same, and the operator has been told.
    Told(String),
}

struct Certificate {
    files: config::Tls,
    current: RwLock<Arc<CertifiedKey>>,
    provider: Arc<CryptoProvider>,
    seen: Mutex<Seen>,
}

impl Certificate {
    /// Takes a new pair into use if it is one.
    fn look(&self) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let read = Pem::read(&self.files);
        if let (Ok(read), Seen::Used(used)) = (&read, &*seen)
            && read == used
        {
            return;
        }
        let pair = read.and_then(|read| Ok((read.pair(&self.files, &self.provider)?, read)));
        *seen = match (pair, &*seen) {
            (Ok((pair, read)), _) => {
                *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(pair);
                tracing::info!(file = %self.files.certificate.display(), "a new TLS certificate is in use");
                Seen::Used(read)
            }
            // Two files are not replaced in one step: only what is still wrong at the second look is wrong.
            (Err(error), Seen::Broken(before)) if *before == error.to_string() => {
                tracing::error!(%error, "the new TLS certificate cannot be used; the old one stays");
                Seen::Told(error.to_string())
            }
            (Err(error), Seen::Told(before)) if *before == error.to_string() => return,
            (Err(error), _) => Seen::Broken(error.to_string()),
        };
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
