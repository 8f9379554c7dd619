//! Failures that say that the upstream did not execute the request, although it was sent.

use std::error::Error;
use std::io;

use h2::Reason;
use rustls::AlertDescription;

/// Whether an upstream refused the stream (RFC 9113, 8.7), or ended the connection and names an earlier stream as
/// the last that it looked at (6.8; the `h2` library reports a GOAWAY on later streams only).
pub(super) fn was_refused(error: &hyper::Error) -> bool {
    let refused = |error: &h2::Error| {
        let refused = error.is_reset() && error.reason() == Some(Reason::REFUSED_STREAM);
        error.is_remote() && (refused || error.is_go_away())
    };
    causes(error).any(|cause| cause.downcast_ref().is_some_and(refused))
}

/// Whether the upstream ended the handshake. In TLS 1.3 it judges the client's certificate when the first request may
/// be under way already (RFC 8446, 4.4.2.4), but reads nothing before that.
pub(super) fn was_handshake(error: &hyper::Error) -> bool {
    causes(error).any(|cause| {
        let inner = cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        let tls = inner.and_then(|inner| inner.downcast_ref());
        matches!(tls, Some(rustls::Error::AlertReceived(alert)) if ends_handshake(*alert))
    })
}

fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(error.source(), |cause| (*cause).source())
}

fn ends_handshake(alert: AlertDescription) -> bool {
    matches!(
        alert,
        AlertDescription::CertificateRequired
            | AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied
            | AlertDescription::HandshakeFailure
            | AlertDescription::ProtocolVersion
            | AlertDescription::NoApplicationProtocol
    )
}
