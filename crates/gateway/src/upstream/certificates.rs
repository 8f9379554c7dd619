//! Whom the gateway believes to be an upstream, and what it shows of itself: certificates from files, and newer ones in
//! them for the connections that follow.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::client::WebPkiServerVerifier;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use crate::app::App;
use crate::config::Route;
use crate::reload::{Contents, Look, Reload};

/// The protocols that are offered to an upstream at `https`, the preferred one first (RFC 7301).
const ALPN: [&[u8]; 2] = [b"h2", b"http/1.1"];
/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// A key of a route, and what is wrong with its value.
pub(super) type Wrong = (&'static str, String);

/// What a route's encrypted connections have in common.
pub struct Certificates {
    files: Vec<File>,
    /// Where no file says which roots count.
    system: Option<Arc<RootCertStore>>,
    current: ArcSwap<ClientConfig>,
    reload: Reload,
}

/// A file, and the key of the route that names it.
struct File {
    key: &'static str,
    path: PathBuf,
}

impl File {
    fn wrong(&self, what: impl std::fmt::Display) -> Wrong {
        (self.key, format!("{}: {what}", self.path.display()))
    }
}

/// For the log.
struct Failed(Wrong);

impl std::fmt::Display for Failed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.0.0, self.0.1)
    }
}

impl Certificates {
    /// Reads the files that a route names.
    ///
    /// # Errors
    /// [`Wrong`], where one of them cannot be used.
    pub(super) fn load(route: &Route, system: &mut SystemRoots) -> Result<Arc<Self>, Wrong> {
        let named = [
            ("ca", &route.ca),
            ("client_certificate", &route.client_certificate),
            ("client_key", &route.client_key),
        ];
        let files = named.into_iter().filter_map(|(key, path)| Some(File { key, path: path.clone()? }));
        let files: Vec<_> = files.collect();
        let system = match route.ca {
            Some(_) => None,
            None => Some(system.get().map_err(|message| ("ca", message))?),
        };
        let read = read(&files)?;
        let current = ArcSwap::new(make(&files, &read, system.as_ref())?);
        Ok(Arc::new(Certificates { files, system, current, reload: Reload::new(read) }))
    }

    /// For a connection that is about to be made.
    pub fn config(&self) -> Arc<ClientConfig> {
        self.current.load_full()
    }

    fn look(&self) {
        let made = |read: &Contents| make(&self.files, read, self.system.as_ref()).map_err(Failed);
        match self.reload.look(read(&self.files).map_err(Failed), made) {
            Look::Nothing => {}
            Look::New(config) => {
                self.current.store(config);
                let files: Vec<_> = self.files.iter().map(|file| file.path.display().to_string()).collect();
                tracing::info!(files = files.join(", "), "new certificates are in use toward an upstream");
            }
            Look::Wrong(error) => tracing::error!(
                %error,
                "new certificates toward an upstream cannot be used; the old ones stay"
            ),
        }
    }
}

/// Looks at the files of all routes, again and again, until the gateway stops.
pub async fn watch(app: Arc<App>) {
    let of_route = |route: &Arc<crate::app::Route>| route.fleet.certificates().cloned();
    let all: Vec<Arc<Certificates>> = app.routes.iter().filter_map(of_route).collect();
    if all.iter().all(|certificates| certificates.files.is_empty()) {
        return;
    }
    let mut stop = app.stop_signal();
    loop {
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
        let all = all.clone();
        // Not on this thread: the files may be on a disk that is far away.
        let _ = tokio::task::spawn_blocking(move || all.iter().for_each(|each| each.look())).await;
    }
}

fn read(files: &[File]) -> Result<Contents, Wrong> {
    files.iter().map(|file| fs::read(&file.path).map_err(|error| file.wrong(error))).collect()
}

fn make(
    files: &[File],
    read: &Contents,
    system: Option<&Arc<RootCertStore>>,
) -> Result<Arc<ClientConfig>, Wrong> {
    let named = |key| files.iter().zip(read).find(|(file, _)| file.key == key);
    let provider = Arc::new(aws_lc_rs::default_provider());
    let roots = match (named("ca"), system) {
        (Some((file, pem)), _) => Arc::new(roots_of(file, pem)?),
        (None, Some(system)) => Arc::clone(system),
        (None, None) => Arc::new(RootCertStore::empty()),
    };
    let verifier = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider))
        .build()
        .map_err(|error| ("ca", error.to_string()))?;
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| ("url", error.to_string()))?
        .with_webpki_verifier(verifier);
    let mut config = match (named("client_certificate"), named("client_key")) {
        (Some((file, pem)), Some((key_file, key))) => {
            let chain = certificates(file, pem)?;
            let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| key_file.wrong(error))?;
            builder.with_client_auth_cert(chain, key).map_err(|error| ("client_key", error.to_string()))?
        }
        _ => builder.with_no_client_auth(),
    };
    config.alpn_protocols = ALPN.map(<[u8]>::to_vec).to_vec();
    Ok(Arc::new(config))
}

fn roots_of(file: &File, pem: &[u8]) -> Result<RootCertStore, Wrong> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(file, pem)? {
        roots.add(certificate).map_err(|error| file.wrong(error))?;
    }
    Ok(roots)
}

fn certificates(file: &File, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, Wrong> {
    let read = CertificateDer::pem_slice_iter(pem);
    let certificates = read.collect::<Result<Vec<_>, _>>().map_err(|error| file.wrong(error))?;
    if certificates.is_empty() {
        let path: &Path = &file.path;
        let none = format!("{} has no certificate in it (PEM, BEGIN CERTIFICATE)", path.display());
        return Err((file.key, none));
    }
    Ok(certificates)
}

/// The roots of the system, read when the first route needs them.
#[derive(Default)]
pub(super) struct SystemRoots(Option<Arc<RootCertStore>>);

impl SystemRoots {
    fn get(&mut self) -> Result<Arc<RootCertStore>, String> {
        if let Some(roots) = &self.0 {
            return Ok(Arc::clone(roots));
        }
        let found = rustls_native_certs::load_native_certs();
        for error in &found.errors {
            tracing::warn!(%error, "some of the system's root certificates were not read");
        }
        let mut roots = RootCertStore::empty();
        let (added, _) = roots.add_parsable_certificates(found.certs);
        if added == 0 {
            let message =
                "is needed: the system has no root certificates (ca-certificates is not installed?)";
            return Err(message.to_owned());
        }
        Ok(Arc::clone(self.0.insert(Arc::new(roots))))
    }
}
