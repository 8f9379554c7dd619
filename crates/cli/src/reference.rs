//! `throughline reference`: a server to try the gateway with, and to see how a stateless one is made.

use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::FalseyValueParser;
use clap::{ValueEnum, value_parser};
use http::HeaderName;
use throughline_reference::counter::{self, CounterConfig};
use throughline_reference::instance::Instance;
use throughline_reference::stateless::{self, Hosts, Keys, StandardHeaders, StatelessConfig, TallyStore};
use throughline_telemetry::{Telemetry, Teller};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::{Failure, logging};

/// Where the keys are read from: an argument would be seen by everyone on the machine.
const KEYS: &str = "THROUGHLINE_REFERENCE_KEY";
const PORT: u16 = 3000;

/// An MCP server, to try the gateway with: stateless, or with a session worth keeping.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  throughline reference                            stateless, 2026-07-28 and before, at http://127.0.0.1:3000/mcp
  throughline reference --era modern --strict-headers
                                                   2026-07-28 only, with all its headers
  throughline reference --stateful                 a counter in every session
  throughline reference --stateful --era dual      which speaks 2026-07-28 as well

Several instances go on from each other's tally if THROUGHLINE_REFERENCE_KEY is the same for all of them: at least
32 bytes (`openssl rand -hex 32` makes some), or several such with commas between them, of which the first signs.
Traces and metrics of the stateless server go where OTEL_EXPORTER_OTLP_ENDPOINT and
APPLICATIONINSIGHTS_CONNECTION_STRING say.
Hosts that give a PORT or WEBSITES_PORT are listened to on all their addresses.")]
pub(crate) struct Arguments {
    /// Where to listen [default: 0.0.0.0 at $PORT or $WEBSITES_PORT if the host gives one, else 127.0.0.1:3000].
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
    /// Which revisions of the protocol to speak [default: dual, with --stateful legacy].
    #[arg(long, value_enum)]
    era: Option<Era>,
    /// Keep a counter in every session, in memory: what a gateway has to hold together.
    #[arg(long)]
    stateful: bool,
    /// With --stateful: a file that every key of the tool `mark` is written to, also for whoever kills the server.
    #[arg(long, value_name = "FILE", requires = "stateful")]
    journal: Option<PathBuf>,
    #[command(flatten)]
    stateless: Stateless,
}

/// What a server with sessions does not have.
#[derive(clap::Args)]
#[command(next_help_heading = "Options of the stateless server")]
struct Stateless {
    /// Refuse requests whose Mcp-Method or Mcp-Name is missing or wrong, with -32020.
    #[arg(long, env = "MCP_STRICT_HEADERS", value_parser = FalseyValueParser::new())]
    strict_headers: bool,
    /// What this instance is called [default: $WEBSITE_INSTANCE_ID, $HOSTNAME, else random].
    #[arg(long, value_name = "NAME")]
    instance: Option<Instance>,
    /// A name that requests may be for, beside localhost and $WEBSITE_HOSTNAME; * is any. May be repeated.
    #[arg(long, value_name = "HOST", env = "THROUGHLINE_REFERENCE_HOSTS", value_delimiter = ',')]
    allowed_host: Vec<String>,
    /// From where browsers may send requests, beside this machine, as `https://app.example:443`. May be repeated.
    #[arg(long, value_name = "ORIGIN", env = "THROUGHLINE_REFERENCE_ORIGINS", value_delimiter = ',')]
    allowed_origin: Vec<String>,
    /// The header in which a proxy that all requests come through names the caller [default: x-ms-client-principal-id
    /// where App Service authenticates, else none].
    #[arg(long, value_name = "HEADER", env = "THROUGHLINE_REFERENCE_PRINCIPAL_HEADER")]
    principal_header: Option<HeaderName>,
    /// Whom handles are for: a server with the same keys and another audience refuses them.
    #[arg(
        long,
        value_name = "NAME",
        env = "THROUGHLINE_REFERENCE_AUDIENCE",
        default_value = "throughline-reference"
    )]
    audience: String,
    /// Keep the totals of tallies in this Redis, redis://HOST:PORT, instead of in their handles: each handle is then good
    /// once.
    #[arg(long, value_name = "URL", env = "THROUGHLINE_REFERENCE_TALLY_STORE", hide_env_values = true)]
    tally_store: Option<TallyStore>,
    /// How long the handle of a tally is good, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 86_400, value_parser = value_parser!(u64).range(1..=31_536_000))]
    handle_lifetime: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Era {
    /// Up to 2025-11-25.
    Legacy,
    /// Those, and 2026-07-28.
    Dual,
    /// 2026-07-28 only.
    Modern,
}

/// Runs until it is told to stop.
pub(crate) fn run(arguments: Arguments) -> Result<(), Failure> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let listen = match arguments.listen {
        Some(listen) => listen,
        None => address(variable)?,
    };
    if arguments.stateful {
        let era = match arguments.era {
            None | Some(Era::Legacy) => counter::Era::Legacy,
            Some(Era::Dual) => counter::Era::Dual,
            Some(Era::Modern) => {
                return Err("2026-07-28 has no sessions: --stateful needs --era legacy or dual".into());
            }
        };
        let config = CounterConfig { era, journal: arguments.journal, ..CounterConfig::default() };
        return serve(listen, |listener, stop| counter::serve(listener, config, stop));
    }
    logging::start();
    let mut config = config(arguments.stateless, arguments.era, variable)?;
    let named = matches!(&config.hosts, Hosts::Named(hosts) if hosts.is_empty());
    if named && !listen.ip().is_loopback() {
        tracing::warn!("only requests for localhost are answered; --allowed-host says for which other names");
    }
    tracing::info!(instance = config.instance.as_str(), "a stateless MCP server");
    let telemetry = Telemetry::from_env(Teller {
        service: "throughline-reference",
        version: env!("CARGO_PKG_VERSION"),
        instance: config.instance.as_str(),
    });
    config.tracer = telemetry.as_ref().and_then(Telemetry::tracer);
    config.meter = telemetry.as_ref().and_then(Telemetry::meter);
    let served = serve(listen, |listener, stop| stateless::serve(listener, config, stop));
    if let Some(telemetry) = telemetry {
        telemetry.shut_down();
    }
    served
}

/// Where hosts that choose a port want to be listened to; this machine only where none does.
fn address(variable: impl Fn(&str) -> Option<String>) -> Result<SocketAddr, Failure> {
    for name in ["PORT", "WEBSITES_PORT"] {
        if let Some(port) = variable(name) {
            let port: u16 = port
                .parse()
                .map_err(|_| format!("{name} is {port:?}, which is no port; unset it or use --listen"))?;
            return Ok((Ipv4Addr::UNSPECIFIED, port).into());
        }
    }
    Ok((Ipv4Addr::LOCALHOST, PORT).into())
}

fn config(
    arguments: Stateless,
    era: Option<Era>,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<StatelessConfig, Failure> {
    let keys = match variable(KEYS) {
        Some(list) => Keys::parse(&list).map_err(|error| format!("{KEYS}: {error}"))?,
        None => {
            tracing::warn!(
                "{KEYS} is not set: only this process can read its handles, and only until it ends"
            );
            Keys::random()
        }
    };
    let instance = arguments.instance.unwrap_or_else(|| Instance::of_host(&variable));
    let authenticates = variable("WEBSITE_AUTH_ENABLED").is_some_and(|on| on.eq_ignore_ascii_case("true"));
    let app_service = authenticates.then_some(HeaderName::from_static("x-ms-client-principal-id"));
    let mut hosts: Vec<String> = arguments.allowed_host;
    hosts.extend(variable("WEBSITE_HOSTNAME"));
    Ok(StatelessConfig {
        instance,
        host: host(variable),
        era: match era {
            Some(Era::Legacy) => stateless::Era::Legacy,
            None | Some(Era::Dual) => stateless::Era::Dual,
            Some(Era::Modern) => stateless::Era::Modern,
        },
        standard_headers: if arguments.strict_headers {
            StandardHeaders::Strict
        } else {
            StandardHeaders::Lenient
        },
        keys,
        audience: arguments.audience,
        tally_store: arguments.tally_store,
        handle_lifetime: Duration::from_secs(arguments.handle_lifetime),
        principal_header: arguments.principal_header.or(app_service),
        hosts: if hosts.iter().any(|host| host == "*") { Hosts::Any } else { Hosts::Named(hosts) },
        origins: arguments.allowed_origin,
        ..StatelessConfig::default()
    })
}

/// What this machine is called.
fn host(variable: impl Fn(&str) -> Option<String>) -> String {
    let kernel = || std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
    variable("HOSTNAME").or_else(kernel).map_or_else(|| "unknown".to_owned(), |name| name.trim().to_owned())
}

/// Listens, says so, and serves until SIGTERM or SIGINT.
fn serve<S>(
    listen: SocketAddr,
    server: impl FnOnce(TcpListener, std::pin::Pin<Box<dyn Future<Output = ()> + Send>>) -> S,
) -> Result<(), Failure>
where
    S: Future<Output = std::io::Result<()>>,
{
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let served = runtime.block_on(async {
        // Before it is ready, so that a signal from then on is not lost.
        let (mut terminate, mut interrupt) =
            (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let listener = TcpListener::bind(listen)
            .await
            .map_err(|error| format!("cannot listen on {listen}: {error}; choose another with --listen"))?;
        println!("ready http://{}/mcp", listener.local_addr()?);
        let stop = Box::pin(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        });
        Ok::<_, Failure>(server(listener, stop).await?)
    });
    // A computation that nobody waits for any more does not hold the process up.
    runtime.shutdown_background();
    served
}
