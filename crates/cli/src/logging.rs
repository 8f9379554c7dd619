//! Log lines on standard error: for people on a terminal, JSON otherwise.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;

/// Begins to log. `THROUGHLINE_LOG` says how much, as `info` (the default), `debug`, or
/// `throughline_gateway=debug,info`. On a terminal the access log is left out, unless that asks for it. OpenTelemetry's
/// own words are left out in any case, unless that names it: what is not delivered is said once, by whoever tried to.
pub(crate) fn start() {
    let default = if io::stderr().is_terminal() {
        "info,rmcp=warn,opentelemetry=off,throughline::access=off"
    } else {
        "info,rmcp=warn,opentelemetry=off"
    };
    let asked = std::env::var("THROUGHLINE_LOG").ok().filter(|asked| !asked.is_empty());
    let filter = asked.and_then(|asked| EnvFilter::try_new(format!("opentelemetry=off,{asked}")).ok());
    let filter = filter.unwrap_or_else(|| EnvFilter::new(default));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    if io::stderr().is_terminal() {
        log.with_target(false).compact().init();
    } else {
        log.json().flatten_event(true).init();
    }
}
