//! The way to a running gateway's administrator's door.

use std::fmt;
use std::path::PathBuf;

use http::header::{AUTHORIZATION, HOST};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use throughline_gateway::admin::token_file;
use throughline_gateway::config::{AdminAddress, AdminToken};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use crate::Failure;

/// Where the gateway's administrator connects, and where its token is.
#[derive(clap::Args)]
pub(crate) struct Door {
    /// Where the gateway serves its administrator: what `serve --admin` was given.
    #[arg(long, value_name = "ADDR", env = "THROUGHLINE_ADMIN", global = true)]
    admin: Option<AdminAddress>,
    /// The gateway's state directory, where its token is [default: as for serve; THROUGHLINE_ADMIN_TOKEN goes first].
    #[arg(long, value_name = "DIR", env = "THROUGHLINE_STATE_DIR", global = true)]
    pub(crate) state_dir: Option<PathBuf>,
}

/// What was asked for is not there: an exit code of its own.
#[derive(Debug)]
pub(crate) struct NotThere(String);

impl fmt::Display for NotThere {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NotThere {}

impl Door {
    /// Whether an address is known.
    pub(crate) fn is_known(&self) -> bool {
        self.admin.is_some()
    }

    /// Asks the gateway; its answer, if that is not an error.
    pub(crate) fn ask(&self, method: Method, path: &str) -> Result<Value, Failure> {
        let address = self.admin.as_ref().ok_or(
            "where is the gateway? Give --admin or THROUGHLINE_ADMIN the address that serve --admin was given",
        )?;
        let token = self.token()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let answered = runtime.block_on(async {
            match address {
                AdminAddress::Tcp(at) => exchange(TcpStream::connect(at).await?, method, path, &token).await,
                AdminAddress::Unix(at) => {
                    exchange(UnixStream::connect(at).await?, method, path, &token).await
                }
            }
        });
        let (status, body) = answered.map_err(|error: Failure| {
            format!(
                "no gateway answers its administrator at {address}: {error}; is it running, with --admin?"
            )
        })?;
        let body: Value = serde_json::from_slice(&body)
            .map_err(|_| format!("what answers at {address} is no gateway's door (status {status})"))?;
        let said = || body["error"].as_str().unwrap_or("no reason given").to_owned();
        match status {
            StatusCode::NOT_FOUND => Err(Box::new(NotThere(said()))),
            status if status.is_success() => Ok(body),
            StatusCode::UNAUTHORIZED => Err(format!(
                "the gateway at {address} does not take this token; it is in the file admin-token in its state \
                 directory (--state-dir)"
            )
            .into()),
            _ => Err(said().into()),
        }
    }

    fn token(&self) -> Result<AdminToken, Failure> {
        if let Some(token) = std::env::var("THROUGHLINE_ADMIN_TOKEN").ok().filter(|token| !token.is_empty()) {
            return AdminToken::parse(&token)
                .map_err(|error| format!("THROUGHLINE_ADMIN_TOKEN {error}").into());
        }
        let file = token_file(self.state_dir.as_deref())?;
        let text = std::fs::read_to_string(&file).map_err(|error| {
            format!(
                "cannot read the administrator's token, {}: {error}; give THROUGHLINE_ADMIN_TOKEN or the \
                 gateway's --state-dir, and be its user",
                file.display()
            )
        })?;
        AdminToken::parse(&text).map_err(|error| format!("{} {error}", file.display()).into())
    }
}

async fn exchange<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    method: Method,
    path: &str,
    token: &AdminToken,
) -> Result<(StatusCode, Bytes), Failure> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(HOST, "localhost")
        .header(AUTHORIZATION, format!("Bearer {}", token.expose()))
        .body(Empty::<Bytes>::new())?;
    let answered = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        Ok((status, response.into_body().collect().await?.to_bytes()))
    };
    tokio::pin!(answered);
    tokio::select! {
        answered = &mut answered => answered,
        // The connection may end with the answer's last byte.
        _ = connection => answered.await,
    }
}
