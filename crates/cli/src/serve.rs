//! `throughline serve` and `throughline check-config`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use throughline_gateway::config::{AdminAddress, Config, KeyRingPlace, Overrides, StoreUrl};
use throughline_gateway::{Effects, Gateway};
use throughline_reference::instance::Instance;
use tokio::signal::unix::{SignalKind, signal};

use crate::{Failure, logging};

/// Run the gateway in front of an MCP server.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  throughline serve http://127.0.0.1:3000/mcp                  clients connect to http://127.0.0.1:8808/mcp
  throughline serve http://127.0.0.1:3000/mcp --stateless      no session ids: every request on its own
  throughline serve http://10.0.0.1/mcp http://10.0.0.2/mcp    two servers: each session stays with one while it lives
  throughline serve -- npx -y @modelcontextprotocol/server-everything
                                                               a server over stdin and stdout, a process for each session
  throughline serve --config throughline.toml                  everything else; examples/throughline.toml explains it

Sessions survive a restart of either side: ids are sealed with the key ring in the state directory, and what
they are bound to is kept in the store there. THROUGHLINE_LOG=debug says more.

Traces and metrics go to a collector of OpenTelemetry if OTEL_EXPORTER_OTLP_ENDPOINT says where, and to Application
Insights if APPLICATIONINSIGHTS_CONNECTION_STRING does; docs/observability.md has the other variables.")]
pub(crate) struct Arguments {
    /// The MCP server's endpoint, or several of one server that runs more than once.
    #[arg(value_name = "URL", required_unless_present_any = ["config", "command"], conflicts_with = "config")]
    urls: Vec<String>,
    /// Instead of URL: a server that speaks over stdin and stdout, and its arguments.
    #[arg(last = true, value_name = "COMMAND", conflicts_with_all = ["config", "urls"])]
    command: Vec<String>,
    /// A configuration file, instead of URLs.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where clients connect [default: 127.0.0.1:8808].
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
    /// Where the administrator connects: a loopback address with a port, or unix:PATH [default: nowhere].
    #[arg(long, value_name = "ADDR")]
    admin: Option<AdminAddress>,
    /// Where Prometheus and probes find /metrics, /healthz and /readyz, also from other machines [default: nowhere].
    #[arg(long, value_name = "ADDR")]
    metrics: Option<SocketAddr>,
    /// Where session records live: memory:, embedded:DIR, or what several gateways share: redis://HOST:PORT
    /// [default: embedded in the state directory].
    #[arg(long, value_name = "URL")]
    store: Option<StoreUrl>,
    /// The key ring, if several replicas share it [default: keyring in the state directory, made at the first start].
    #[arg(long, value_name = "FILE")]
    key_ring: Option<PathBuf>,
    /// Where the key ring and the embedded store live [default: $STATE_DIRECTORY or ~/.local/state/throughline].
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// What this instance is called [default: $WEBSITE_INSTANCE_ID, $HOSTNAME, else random].
    #[arg(long, value_name = "NAME")]
    instance: Option<Instance>,
    /// Give no session ids and read none: every request on its own.
    #[arg(long)]
    stateless: bool,
    /// If the embedded store is damaged, move its file aside and keep what can be read of it.
    #[arg(long)]
    salvage: bool,
}

/// Say whether a configuration file can be run.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  throughline check-config examples/throughline.toml")]
pub(crate) struct CheckArguments {
    /// The file.
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

/// Run a program that ends with the process that started this one.
#[derive(clap::Args)]
pub(crate) struct KeepArguments {
    /// The program and its arguments.
    #[arg(last = true, value_name = "COMMAND", required = true)]
    command: Vec<String>,
}

/// Runs a program for as long as the gateway is there.
pub(crate) fn keep(arguments: &KeepArguments) -> Result<(), Failure> {
    let status = throughline_gateway::pipes::keep(&arguments.command)
        .map_err(|error| format!("{}: {error}; check that it is installed", arguments.command[0]))?;
    std::process::exit(status.code().unwrap_or(1));
}

/// Runs the gateway until it is told to stop.
pub(crate) fn run(arguments: Arguments) -> Result<(), Failure> {
    logging::start();
    let mut config = match &arguments.config {
        Some(file) => read(file)?,
        None if !arguments.command.is_empty() => Config::for_command(arguments.command.clone())?,
        None => Config::for_upstreams(&arguments.urls)?,
    };
    // Only for programs: where this one is cannot be told everywhere (a container without /proc).
    if config.routes.iter().any(|route| route.command.is_some()) {
        config.keeper = vec![std::env::current_exe()?, "keep".into(), "--".into()];
    }
    config.apply(Overrides::from_env(&|name| std::env::var(name).ok())?);
    let Arguments {
        listen, admin, metrics, store, key_ring, state_dir, instance, stateless, salvage, ..
    } = arguments;
    let key_ring = key_ring.map(KeyRingPlace::File);
    config.apply(Overrides {
        listen,
        admin,
        metrics,
        store,
        key_ring,
        state_dir,
        stateless,
        instance: instance.map(|name| name.as_str().to_owned()),
        ..Overrides::default()
    });
    if config.instance.is_none() {
        let host = Instance::of_host(|name| std::env::var(name).ok());
        config.instance = Some(host.as_str().to_owned());
    }
    if salvage && let Some(salvaged) = throughline_gateway::serve::salvage(&config, Effects::REAL)? {
        let aside = salvaged.moved_to.display();
        tracing::warn!(kept = salvaged.kept, lost = salvaged.lost, %aside, "a damaged store was salvaged");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // Before the start, so that a signal during it is not lost.
    let _entered = runtime.enter();
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let gateway = Gateway::start(config, Effects::REAL)?;
    runtime.block_on(async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    });
    tracing::info!("stopping; requests in flight may end");
    gateway.shut_down();
    Ok(())
}

fn read(file: &Path) -> Result<Config, Failure> {
    let text = std::fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
    Ok(Config::parse(&text, &file.display().to_string())?)
}

/// Checks a configuration file.
pub(crate) fn check(arguments: &CheckArguments) -> Result<(), Failure> {
    let mut config = read(&arguments.file)?;
    config.apply(Overrides::from_env(&|name| std::env::var(name).ok())?);
    config.check()?;
    let routes = config.routes.iter().map(|route| {
        let endpoints: Vec<_> = route.upstream.iter().map(ToString::to_string).collect();
        format!("  {} -> {}\n", route.path, endpoints.join(" | "))
    });
    println!("{}: good; it would listen on {} and serve", arguments.file.display(), config.listen);
    print!("{}", routes.collect::<String>());
    Ok(())
}
