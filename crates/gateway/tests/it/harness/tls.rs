//! Certificates, and clients that speak TLS.

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme, StreamOwned};
use tempfile::TempDir;
use throughline_gateway::Config;
use throughline_gateway::config::Tls;

use super::PATIENCE;

/// A connection with TLS.
pub(crate) type TlsStream = StreamOwned<ClientConnection, TcpStream>;

/// A certificate and its key.
pub(crate) struct Pair {
    pub(crate) certificate: String,
    pub(crate) key: String,
    pub(crate) der: CertificateDer<'static>,
}

impl Pair {
    pub(crate) fn make() -> Self {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        Pair {
            certificate: made.cert.pem(),
            key: made.signing_key.serialize_pem(),
            der: made.cert.der().clone(),
        }
    }
}

/// The files that a gateway reads.
pub(crate) struct Files(TempDir);

impl Files {
    pub(crate) fn new(pair: &Pair) -> Self {
        let files = Files(TempDir::new().unwrap());
        files.write(&pair.certificate, &pair.key);
        files
    }

    pub(crate) fn write(&self, certificate: &str, key: &str) {
        std::fs::write(self.0.path().join("tls.crt"), certificate).unwrap();
        std::fs::write(self.0.path().join("tls.key"), key).unwrap();
    }

    pub(crate) fn use_in(&self, config: &mut Config) {
        config.tls = Some(Tls {
            certificate: self.0.path().join("tls.crt"),
            key: self.0.path().join("tls.key"),
            reload: std::time::Duration::from_millis(20),
        });
    }
}

/// A client's side that takes any certificate and offers these protocols.
pub(crate) fn client(alpn: &[&str]) -> Arc<ClientConfig> {
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate))
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    Arc::new(config)
}

/// Connects and shakes hands.
pub(crate) fn connect(address: SocketAddr, alpn: &[&str]) -> TlsStream {
    let name = ServerName::try_from("localhost").unwrap();
    let mut tls = ClientConnection::new(client(alpn), name).unwrap();
    let mut tcp = TcpStream::connect(address).unwrap();
    tcp.set_read_timeout(Some(PATIENCE)).unwrap();
    while tls.is_handshaking() {
        tls.complete_io(&mut tcp).unwrap();
    }
    StreamOwned::new(tls, tcp)
}

/// The certificate that the gateway shows to a new connection.
pub(crate) fn shown(address: SocketAddr) -> CertificateDer<'static> {
    connect(address, &[]).conn.peer_certificates().unwrap()[0].clone()
}

#[derive(Debug)]
struct AnyCertificate;

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}
