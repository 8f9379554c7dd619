//! How what is told reaches those who collect it: HTTP from the exporters' own threads, which may block.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response};
use opentelemetry_http::{HttpClient, HttpError};
use rustls::crypto::aws_lc_rs;
use ureq::Agent;
use ureq::tls::{Certificate, RootCerts, TlsConfig};

/// How long one delivery may take, as the specification has it for OTLP.
const PATIENCE: Duration = Duration::from_secs(10);
/// The longest answer that is read, in bytes.
const LONGEST_ANSWER: u64 = 64 * 1024;

/// A client that says once when its deliveries begin to fail, and once when they go through again.
#[derive(Clone)]
pub(crate) struct Delivery(Arc<Line>);

struct Line {
    agent: Agent,
    to: &'static str,
    is_away: AtomicBool,
}

impl Delivery {
    /// `to` is what the log calls the other end.
    pub(crate) fn to(to: &'static str) -> Self {
        let roots = rustls_native_certs::load_native_certs().certs;
        let roots = roots.iter().map(|root| Certificate::from_der(root).to_owned()).collect::<Vec<_>>();
        let tls = TlsConfig::builder()
            .unversioned_rustls_crypto_provider(Arc::new(aws_lc_rs::default_provider()))
            .root_certs(RootCerts::Specific(Arc::new(roots)))
            .build();
        let agent = Agent::config_builder()
            .timeout_global(Some(PATIENCE))
            .http_status_as_error(false)
            .max_redirects(0)
            .tls_config(tls)
            .build()
            .new_agent();
        Delivery(Arc::new(Line { agent, to, is_away: AtomicBool::new(false) }))
    }

    fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, ureq::Error> {
        let (parts, body) = request.into_parts();
        let (parts, mut body) = self.0.agent.run(Request::from_parts(parts, &body[..]))?.into_parts();
        let body = body.with_config().limit(LONGEST_ANSWER).read_to_vec()?;
        Ok(Response::from_parts(parts, body.into()))
    }

    fn failed(&self, reason: &dyn fmt::Display) {
        if !self.0.is_away.swap(true, Ordering::Relaxed) {
            tracing::warn!(to = self.0.to, %reason, "telemetry is not delivered");
        }
    }

    fn succeeded(&self) {
        if self.0.is_away.swap(false, Ordering::Relaxed) {
            tracing::info!(to = self.0.to, "telemetry is delivered again");
        }
    }
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Delivery").field(&self.0.to).finish()
    }
}

#[async_trait]
impl HttpClient for Delivery {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        match self.send(request) {
            Ok(response) => {
                if response.status().is_success() {
                    self.succeeded();
                } else {
                    self.failed(&response.status());
                }
                Ok(response)
            }
            Err(error) => {
                self.failed(&error);
                Err(error.into())
            }
        }
    }
}
