//! Connections to Redis, of whichever kind the place is.

use std::future::Future;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::{MultiplexedConnection, PubSub};
use redis::cluster::ClusterClientBuilder;
use redis::cluster_async::ClusterConnection;
use redis::cluster_routing::{Route, RoutingInfo, SingleNodeRoutingInfo, SlotAddr};
use redis::io::tcp::{TcpSettings, socket2::TcpKeepalive};
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ConnectionInfo, IntoConnectionInfo,
    RedisConnectionInfo, RedisResult, TlsCertificates, Value,
};
use tokio::time::timeout;

use super::entra::{self, Identity};
use super::failure::Failure;
use super::place::{Host, Kind, Place, SignIn};
use super::sentinel;
use crate::StoreError;

/// How long a connection may take to be made: name, socket, TLS, sign-in.
pub(super) const CONNECT: Duration = Duration::from_secs(1);
/// How long all of it may take: a node of a cluster that hangs is given up, and then others are asked.
const DIAL: Duration = Duration::from_secs(4);
/// Commands that wait for a connection's writer.
const PIPELINE: usize = 1024;

/// A future that somebody else's trait needs in a box.
pub(super) type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A connection that many callers use at a time, or one to each node of a cluster. What drives it belongs to the
/// store's own thread; a command only goes through a queue to there, so that any runtime may send one.
#[derive(Clone)]
pub(super) enum Link {
    /// To one server.
    Server(MultiplexedConnection),
    /// To a cluster.
    Cluster(ClusterConnection),
    /// To something that a test made.
    #[cfg(test)]
    Scripted(Arc<Scripted>),
}

/// What a test answers to a command.
#[cfg(test)]
pub(super) type Scripted = dyn Fn(&Cmd) -> Boxed<'static, RedisResult<Value>> + Send + Sync;

impl Link {
    /// Sends a command to where its key lives, and waits for its answer as long as that takes.
    pub(super) async fn send(&self, command: &Cmd) -> RedisResult<Value> {
        match self {
            Link::Server(connection) => connection.clone().send_packed_command(command).await,
            Link::Cluster(connection) => {
                redis::aio::ConnectionLike::req_packed_command(&mut connection.clone(), command).await
            }
            #[cfg(test)]
            Link::Scripted(answer) => answer(command).await,
        }
        .and_then(Value::extract_error)
    }

    /// Sends a command without a key to the master of this slot; where there is one server, to that.
    pub(super) async fn send_to(&self, slot: u16, command: &Cmd) -> RedisResult<Value> {
        let Link::Cluster(connection) = self else { return self.send(command).await };
        let master = SingleNodeRoutingInfo::SpecificNode(Route::new(slot, SlotAddr::Master));
        let answer = connection.clone().route_command(command.clone(), RoutingInfo::SingleNode(master)).await;
        answer.and_then(Value::extract_error)
    }
}

/// A new link.
pub(super) struct Dialed {
    pub(super) link: Link,
    /// The server it leads to, where it is one.
    pub(super) server: Option<Host>,
    /// After which time another should take its place, since its sign-in runs out.
    pub(super) renew: Option<Duration>,
}

/// What makes links; a test has its own.
pub(super) trait Dial: Send + Sync {
    /// Makes a link; takes a bounded time.
    fn dial(&self) -> Boxed<'_, Result<Dialed, Failure>>;
    /// Whether a link to that server is still one to the right server.
    fn is_current<'a>(&'a self, server: &'a Host) -> Boxed<'a, bool>;
}

/// Makes connections to a place.
pub(super) struct Dialer {
    place: Arc<Place>,
    /// The certificates of those who vouch for the server.
    ca: Option<Vec<u8>>,
    identity: Option<Identity>,
}

/// Who signs in; nobody by default.
#[derive(Default)]
struct SignedIn {
    user: Option<String>,
    password: Option<String>,
    renew: Option<Duration>,
}

impl Dialer {
    /// Reads what is needed for good: the file of certificates.
    pub(super) fn new(place: Arc<Place>) -> Result<Dialer, StoreError> {
        let ca = place.tls.as_ref().and_then(|tls| tls.ca.as_deref());
        let unusable =
            |reason: String| StoreError::Unusable { place: place.to_string().into(), reason: reason.into() };
        let ca = ca.map(|path| read_ca(path).map_err(unusable)).transpose()?;
        let identity = match &place.sign_in {
            SignIn::Entra { client_id } => {
                Some(Identity::new(client_id.clone(), &|name| std::env::var(name).ok()))
            }
            _ => None,
        };
        // Where several libraries could do the cryptography, rustls asks for a choice. An error only means that
        // it has been made.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        Ok(Dialer { place, ca, identity })
    }

    async fn link(&self) -> Result<Dialed, Failure> {
        let signed_in = self.sign_in().await?;
        let (link, server) = match &self.place.kind {
            Kind::Cluster(nodes) => (Link::Cluster(self.cluster(nodes, &signed_in).await?), None),
            Kind::Server(_) | Kind::Sentinel { .. } => {
                let server = self.server().await?;
                let client = self.client(&server, &signed_in)?;
                let connection = client.get_multiplexed_async_connection_with_config(&config()).await;
                (Link::Server(connection.map_err(|error| Failure::from(&error))?), Some(server))
            }
        };
        Ok(Dialed { link, server, renew: signed_in.renew })
    }

    /// A connection for signals.
    pub(super) async fn subscriber(&self) -> Result<PubSub, Failure> {
        let dial = async {
            let signed_in = self.sign_in().await?;
            let mut failure = Failure::Away("no node of the cluster can be reached".to_owned());
            let servers = match &self.place.kind {
                Kind::Cluster(nodes) => nodes.clone(),
                Kind::Server(_) | Kind::Sentinel { .. } => vec![self.server().await?],
            };
            // Any node of a cluster hears all signals.
            let first = super::random() as usize % servers.len().max(1);
            for server in servers.iter().cycle().skip(first).take(servers.len()) {
                let client = self.client(server, &signed_in)?;
                match timeout(CONNECT, client.get_async_pubsub()).await {
                    Ok(Ok(subscriber)) => return Ok(subscriber),
                    Ok(Err(error)) => failure = Failure::from(&error),
                    Err(_) => failure = Failure::slow("connecting", CONNECT),
                }
            }
            Err(failure)
        };
        timeout(DIAL, dial).await.unwrap_or_else(|_| Err(Failure::slow("connecting", DIAL)))
    }

    /// Where the server is; Sentinels are asked.
    async fn server(&self) -> Result<Host, Failure> {
        match &self.place.kind {
            Kind::Server(host) => Ok(host.clone()),
            Kind::Sentinel { sentinels, master } => {
                let who = if self.place.sentinels_too { self.sign_in().await? } else { SignedIn::default() };
                let clients = sentinels.iter().map(|sentinel| self.client_of(sentinel, &who, 0));
                sentinel::master(clients.collect::<Result<_, _>>()?, master).await
            }
            Kind::Cluster(_) => Err(Failure::Unexpected("a cluster is no server".to_owned())),
        }
    }

    async fn sign_in(&self) -> Result<SignedIn, Failure> {
        let (user, password, renew) = match &self.place.sign_in {
            SignIn::Anonymous => (None, None, None),
            SignIn::Password { user, password } => (user.clone(), Some(password.0.clone()), None),
            SignIn::File { user, path } => (user.clone(), Some(read_password(path).await?), None),
            SignIn::Entra { .. } => {
                let identity = self.identity.clone().unwrap_or_default();
                let token = entra::token(identity).await?;
                (Some(token.user), Some(token.password), Some(token.lasts * 3 / 4))
            }
        };
        Ok(SignedIn { user, password, renew })
    }

    async fn cluster(&self, nodes: &[Host], who: &SignedIn) -> Result<ClusterConnection, Failure> {
        let nodes = nodes.iter().map(|node| self.info(node, who, 0)).collect::<Result<Vec<_>, _>>()?;
        // Retries are for slots that have moved; an outage is for the circuit.
        let mut builder = ClusterClientBuilder::new(nodes)
            .retries(3)
            .min_retry_wait(5)
            .max_retry_wait(50)
            .connection_timeout(CONNECT)
            .tcp_settings(tcp());
        if let Some(pem) = &self.ca {
            builder = builder.certs(TlsCertificates { client_tls: None, root_cert: Some(pem.clone()) });
        }
        let connection = async { builder.build()?.get_async_connection().await };
        connection.await.map_err(|error| Failure::from(&error))
    }

    fn client(&self, host: &Host, who: &SignedIn) -> Result<Client, Failure> {
        self.client_of(host, who, self.place.database)
    }

    fn client_of(&self, host: &Host, who: &SignedIn, database: u16) -> Result<Client, Failure> {
        let info = self.info(host, who, database)?;
        match &self.ca {
            None => Client::open(info),
            Some(pem) => Client::build_with_tls(
                info,
                TlsCertificates { client_tls: None, root_cert: Some(pem.clone()) },
            ),
        }
        .map_err(|error| Failure::from(&error))
    }

    fn info(&self, host: &Host, who: &SignedIn, database: u16) -> Result<ConnectionInfo, Failure> {
        let (name, port) = (host.name.clone(), host.port);
        let address = match &self.place.tls {
            None => ConnectionAddr::Tcp(name, port),
            Some(_) => ConnectionAddr::TcpTls { host: name, port, insecure: false, tls_params: None },
        };
        let mut settings = RedisConnectionInfo::default()
            .set_db(i64::from(database))
            .set_lib_name("throughline", env!("CARGO_PKG_VERSION"));
        if let Some(user) = &who.user {
            settings = settings.set_username(user);
        }
        if let Some(password) = &who.password {
            settings = settings.set_password(password);
        }
        let info = address.into_connection_info().map_err(|error| Failure::from(&error))?;
        Ok(info.set_redis_settings(settings).set_tcp_settings(tcp()))
    }
}

impl Dial for Dialer {
    fn dial(&self) -> Boxed<'_, Result<Dialed, Failure>> {
        Box::pin(async {
            timeout(DIAL, self.link()).await.unwrap_or_else(|_| Err(Failure::slow("connecting", DIAL)))
        })
    }

    fn is_current<'a>(&'a self, server: &'a Host) -> Boxed<'a, bool> {
        Box::pin(async move {
            if !matches!(self.place.kind, Kind::Sentinel { .. }) {
                return true;
            }
            match timeout(DIAL, self.server()).await {
                Ok(Ok(found)) => found == *server,
                // Sentinels that do not answer say nothing against the server.
                _ => true,
            }
        })
    }
}

fn config() -> AsyncConnectionConfig {
    // The circuit has the time-out of commands.
    AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT))
        .set_response_timeout(None)
        .set_pipeline_buffer_size(PIPELINE)
}

fn tcp() -> TcpSettings {
    let keepalive = TcpKeepalive::new().with_time(Duration::from_secs(30));
    TcpSettings::default().set_nodelay(true).set_keepalive(keepalive)
}

fn read_ca(path: &Path) -> Result<Vec<u8>, String> {
    use rustls::pki_types::{CertificateDer, pem::PemObject};
    let bad = |reason: &dyn std::fmt::Display| {
        format!("the certificates of ca={} cannot be read ({reason}): give a PEM file", path.display())
    };
    let pem = std::fs::read(path).map_err(|error| bad(&error))?;
    let certificates = CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>();
    match certificates.map_err(|error| bad(&error))?.as_slice() {
        [] => Err(bad(&"it holds none")),
        _ => Ok(pem),
    }
}

async fn read_password(path: &Path) -> Result<String, Failure> {
    let from = path.to_owned();
    let read = tokio::task::spawn_blocking(move || std::fs::read_to_string(from)).await;
    let text = read.unwrap_or_else(|error| Err(io::Error::other(error))).map_err(|error| {
        Failure::Refused(format!("the password file {} cannot be read: {error}", path.display()))
    })?;
    // An editor ends the file with a line feed that is not meant.
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}
