//! The keys of the configuration file, what each accepts, and the rules between them.
//!
//! A new key is a line here, a field in `config.rs` and a paragraph in the example; a test misses the last.

use std::num::NonZeroUsize;
use std::time::Duration;

use http::header::AUTHORIZATION;
use http::{HeaderName, Uri};
use throughline_wire::profile::list::Selection;
use toml::de::{DeTable, Error};

use super::cache::CACHE;
use super::callers;
use super::grant::{self, GRANT};
use super::read::{Field, Key, Reader};
use super::rest::REST;
use super::streams::STREAMS;
use super::tokens::TOKENS;
use super::upstream::{forward_header, header_name, header_value};
use super::value::{self, show_duration};
use super::{
    AdminAddress, Anonymous, Answers, Config, ConfigErrors, GIB, KIB, KeptBy, KeyRingPlace, Limits, MIB,
    Mode, OnStoreFailure, OnStoreMiss, Place, Resolve, Route, Sessions, Timeouts, Tls, Transport,
    UnsafeAfterLoss, days, hours, minutes,
};

const SECOND: Duration = Duration::from_secs(1);

const FILE: &[Key<Config>] = &[
    Key::new("listen", |c, f| {
        f.parsed(&mut c.listen, "an address", value::listen);
        c.listen_place = f.place();
    }),
    Key::new("admin", |c, f| {
        f.parsed(&mut c.admin, "an address", |text| AdminAddress::parse(text).map(Some));
    }),
    Key::new("metrics", |c, f| {
        f.parsed(&mut c.metrics, "an address", |text| value::listen(text).map(Some));
    }),
    Key::new("access_log", |c, f| f.flag(&mut c.access_log)),
    Key::new("workers", |c, f| {
        let mut workers = 1;
        f.count(&mut workers, value::WORKERS);
        c.workers = NonZeroUsize::new(workers);
    }),
    Key::new("state_dir", |c, f| f.parsed(&mut c.state_dir, "a path", |s| value::directory(s).map(Some))),
    Key::new("store", |c, f| f.parsed(&mut c.store, "a store", value::store)),
    Key::new("key_ring", |c, f| {
        f.parsed(&mut c.key_ring, "a path", |text| value::file(text).map(KeyRingPlace::File));
    }),
    Key::new("allowed_hosts", |c, f| f.list(&mut c.allowed_hosts, "hosts", value::host)),
    Key::new("allowed_origins", |c, f| f.list(&mut c.allowed_origins, "origins", value::origin)),
    Key::new("trusted_proxies", |c, f| f.list(&mut c.trusted_proxies, "addresses", value::network)),
    Key::new("tls", |c, f| c.tls = Some(tls(f))),
    Key::new("limits", |c, f| {
        f.table(&mut c.limits, LIMITS);
    }),
    Key::new("timeouts", |c, f| {
        f.table(&mut c.timeouts, TIMEOUTS);
    }),
    Key::new("sessions", |c, f| sessions(&mut c.sessions, f)),
    Key::new("streams", |c, f| {
        f.table(&mut c.streams, STREAMS);
    }),
    Key::new("callers", |c, f| callers::read(&mut c.callers, f)),
    Key::new("upstream", |c, f| c.routes.insert(0, route("", f))),
    Key::new("routes", |c, f| f.each_table(|name, f| c.routes.push(named_route(name, f)))),
];

const TLS: &[Key<Tls>] = &[
    Key::new("certificate", |t, f| f.parsed(&mut t.certificate, "a path", value::file)),
    Key::new("key", |t, f| f.parsed(&mut t.key, "a path", value::file)),
    Key::new("reload", |t, f| f.duration(&mut t.reload, SECOND..=hours(1))),
];

const LIMITS: &[Key<Limits>] = &[
    Key::new("body", |l, f| f.size(&mut l.body_bytes, KIB..=GIB)),
    Key::new("answer", |l, f| f.size(&mut l.answer_bytes, KIB..=GIB)),
    Key::new("event", |l, f| f.size(&mut l.event_bytes, KIB..=GIB)),
    // The least is hyper's: it takes no smaller read buffer.
    Key::new("head", |l, f| f.size(&mut l.header_bytes, 8 * KIB..=MIB)),
    Key::new("headers", |l, f| f.count(&mut l.headers, 16..=1000)),
    Key::new("connections", |l, f| f.count(&mut l.connections, 1..=1_000_000)),
    Key::new("requests", |l, f| f.count(&mut l.requests, 1..=1_000_000)),
    Key::new("streams", |l, f| f.count(&mut l.streams, 1..=1_000_000)),
    Key::new("sessions", |l, f| f.count(&mut l.sessions, 1..=10_000_000)),
    Key::new("sessions_per_caller", |l, f| f.count(&mut l.sessions_per_caller, 1..=10_000_000)),
    Key::new("parked", |l, f| f.count(&mut l.parked, 1..=1_000_000)),
    Key::new("parked_per_caller", |l, f| f.count(&mut l.parked_per_caller, 1..=1_000_000)),
    Key::new("requests_per_caller", |l, f| f.count(&mut l.requests_per_caller, 1..=1_000_000)),
    // The most is what the parser of `throughline-wire` can do (`Limits::MAX_DEPTH`).
    Key::new("json_depth", |l, f| f.count(&mut l.json_depth, 16..=128)),
];

const TIMEOUTS: &[Key<Timeouts>] = &[
    Key::new("connect", |t, f| f.duration(&mut t.connect, Duration::from_millis(100)..=minutes(5))),
    Key::new("first_byte", |t, f| f.duration(&mut t.first_byte, SECOND..=days(1))),
    Key::new("call", |t, f| f.duration(&mut t.call, SECOND..=days(7))),
    Key::new("request_read", |t, f| f.duration(&mut t.request_read, SECOND..=minutes(5))),
    Key::new("answer_write", |t, f| f.duration(&mut t.answer_write, SECOND..=minutes(5))),
    Key::new("drain", |t, f| f.duration(&mut t.drain, Duration::ZERO..=minutes(5))),
    Key::new("parked", |t, f| f.duration(&mut t.parked, SECOND..=days(1))),
    Key::new("shutdown", |t, f| f.duration(&mut t.shutdown, SECOND..=hours(1))),
];

const SESSIONS: &[Key<Sessions>] = &[
    Key::new("idle", |s, f| f.duration(&mut s.idle, SECOND..=days(365))),
    Key::new("absolute", |s, f| f.duration(&mut s.absolute, SECOND..=days(365))),
    Key::new("initialize_cache", |s, f| f.duration(&mut s.initialize_cache, SECOND..=days(1))),
    Key::new("warm", |s, f| f.duration(&mut s.warm, SECOND..=minutes(10))),
];

const ROUTE: &[Key<Route>] = &[
    Key::new("command", |r, f| f.list(&mut command(r).words, "words", value::word)),
    Key::new("environment", |r, f| f.list(&mut command(r).environment, "NAME=VALUE", value::variable)),
    Key::new("directory", |r, f| {
        f.parsed(&mut command(r).directory, "a path", |text| value::directory(text).map(Some));
    }),
    Key::new("shared", |r, f| f.flag(&mut command(r).shared)),
    Key::new("processes", |r, f| f.count(&mut command(r).processes, 1..=100_000)),
    Key::new("url", |r, f| f.one_or_more(&mut r.upstream, "a URL", "URLs", value::upstream)),
    Key::new("transport", |r, f| {
        let choices = [("auto", Transport::Auto), ("http", Transport::Http), ("sse", Transport::Sse)];
        f.choice(&mut r.transport, &choices);
    }),
    Key::new("resolve", |r, f| {
        f.choice(&mut r.resolve, &[("one", Resolve::One), ("all", Resolve::All)]);
    }),
    Key::new("probe", |r, f| {
        let mut probe = SECOND;
        f.duration(&mut probe, SECOND..=hours(1));
        r.probe = Some(probe);
    }),
    Key::new("ca", |r, f| f.parsed(&mut r.ca, "a path", |s| value::file(s).map(Some))),
    Key::new("client_certificate", |r, f| {
        f.parsed(&mut r.client_certificate, "a path", |s| value::file(s).map(Some));
    }),
    Key::new("client_key", |r, f| f.parsed(&mut r.client_key, "a path", |s| value::file(s).map(Some))),
    Key::new("headers", |r, f| f.headers(&mut r.headers, header_name, header_value)),
    Key::new("forward_headers", |r, f| f.list(&mut r.forward_headers, "headers", forward_header)),
    Key::new("forward_authorization", |r, f| f.flag(&mut r.forward_authorization)),
    Key::new("token", |r, f| r.token = Some(grant::read(f))),
    Key::new("mode", |r, f| {
        f.choice(&mut r.mode, &[("sessions", Mode::Sessions), ("stateless", Mode::Stateless)]);
    }),
    Key::new("state", |r, f| {
        let choices =
            [("principal", KeptBy::Principal), ("request", KeptBy::Request), ("handle", KeptBy::Handle)];
        f.choice(&mut r.state, &choices);
    }),
    Key::new("state_argument", |r, f| f.parsed(&mut r.state_argument, "a name", value::tool_name)),
    Key::new("anonymous", |r, f| {
        f.choice(&mut r.anonymous, &[("shared", Anonymous::Shared), ("isolated", Anonymous::Isolated)]);
    }),
    Key::new("answers", |r, f| {
        f.choice(&mut r.answers, &[("as-upstream", Answers::AsUpstream), ("json", Answers::Json)]);
    }),
    Key::new("strict_headers", |r, f| f.flag(&mut r.strict_headers)),
    Key::new("profile", |r, f| f.parsed(&mut r.profile, "a profile", value::profile)),
    Key::new("tools", |r, f| {
        f.table(&mut r.tools, TOOLS);
    }),
    Key::new("rest", |r, f| {
        f.table(&mut r.rest, REST);
    }),
    Key::new("cache", |r, f| {
        f.table(&mut r.cache, CACHE);
    }),
    Key::new("on_store_miss", |r, f| {
        let choices = [("rebuild", OnStoreMiss::Rebuild), ("not-found", OnStoreMiss::NotFound)];
        f.choice(&mut r.on_store_miss, &choices);
    }),
    Key::new("on_store_failure", |r, f| {
        let choices = [("serve", OnStoreFailure::Serve), ("refuse", OnStoreFailure::Refuse)];
        f.choice(&mut r.on_store_failure, &choices);
    }),
    Key::new("unsafe_after_loss", |r, f| {
        let choices = [("replay", UnsafeAfterLoss::Replay), ("refuse", UnsafeAfterLoss::Refuse)];
        f.choice(&mut r.unsafe_after_loss, &choices);
    }),
    Key::new("restore", |r, f| {
        f.table(r, RESTORE);
    }),
    Key::new("trust_annotations", |r, f| f.flag(&mut r.trust_annotations)),
];

const TOOLS: &[Key<Selection>] = &[
    Key::new("allow", |s, f| f.list(&mut s.allow, "tool names", value::tool_name)),
    Key::new("deny", |s, f| f.list(&mut s.deny, "tool names", value::tool_name)),
];

const RESTORE: &[Key<Route>] =
    &[Key::new("calls", |r, f| f.list(&mut r.restore_calls, "tool names", value::tool_name))];

fn command(route: &mut Route) -> &mut super::Command {
    route.command.get_or_insert_default()
}

/// The dotted names of all keys; those of a route stand under `upstream`, NAME stands for a name that the file chooses.
pub(super) fn known_keys() -> Vec<String> {
    fn of<T>(section: &str, keys: &[Key<T>]) -> Vec<String> {
        keys.iter().map(|key| format!("{section}{}", key.name)).collect()
    }
    [
        of("", FILE),
        of("upstream.", ROUTE),
        of("upstream.tools.", TOOLS),
        of("upstream.rest.", REST),
        of("upstream.cache.", CACHE),
        of("upstream.token.", GRANT),
        of("upstream.restore.", RESTORE),
        of("tls.", TLS),
        of("limits.", LIMITS),
        of("timeouts.", TIMEOUTS),
        of("sessions.", SESSIONS),
        of("streams.", STREAMS),
        of("callers.", callers::CALLERS),
        of("callers.keys.NAME.", callers::KEY),
        of("callers.tokens.NAME.", TOKENS),
        of("callers.proxy.", callers::PROXY),
        of("callers.conversation.", callers::CONVERSATION),
    ]
    .concat()
}

/// See [`Config::parse`].
pub(super) fn parse(text: &str, file_name: &str) -> Result<Config, ConfigErrors> {
    let mut reader = Reader { file_name, text, known: known_keys(), errors: Vec::new() };
    let mut config = Config::without_routes();
    let (document, syntax_errors) = DeTable::parse_recoverable(text);
    for error in &syntax_errors {
        let span = error.span().unwrap_or_default();
        let message = match text.get(span.clone()) {
            Some(key) if is_duplicate(error) => format!("{}: {}", error.message(), key.trim()),
            _ => error.message().to_owned(),
        };
        reader.fail(&span, "", message);
    }
    // What is left after any other syntax error may be something else than was meant, and complaints about it
    // would mislead.
    if syntax_errors.iter().all(is_duplicate) {
        reader.table("", document.get_ref(), FILE, &mut config);
        if config.callers.proxy.is_some() && config.trusted_proxies.is_empty() {
            let span = document.get_ref().get("callers").and_then(|callers| callers.get_ref().get("proxy"));
            let span = span.map_or(0..0, |proxy| proxy.span());
            reader.fail(
                &span,
                "callers.proxy",
                "nobody is believed as a proxy: set trusted_proxies".to_owned(),
            );
        }
        let for_callers = |route: &Route| route.token.as_ref().is_some_and(|token| token.is_for_callers());
        if config.callers.tokens.is_empty() && config.routes.iter().any(for_callers) {
            let message = "a token in a caller's name needs the caller's: set callers.tokens";
            reader.fail(&(0..0), "token.grant", message.to_owned());
        }
        if config.routes.is_empty() {
            let message =
                "nothing to serve: write [upstream] or [routes.NAME], and in it url = \"http://...\"";
            reader.fail(&(0..0), "", message.to_owned());
        }
    }
    if reader.errors.is_empty() {
        return Ok(config);
    }
    // Tables are read in the order of their names.
    reader.errors.sort_by_key(|error| match error.place {
        Place::File { line, .. } => line,
        _ => 0,
    });
    Err(ConfigErrors(reader.errors))
}

fn is_duplicate(error: &Error) -> bool {
    error.message() == "duplicate key"
}

fn sessions(sessions: &mut Sessions, field: &mut Field<'_, '_>) {
    if field.table(sessions, SESSIONS) && sessions.idle > sessions.absolute {
        let (idle, absolute) = (show_duration(sessions.idle), show_duration(sessions.absolute));
        field.fail_inside("idle", format!("{idle} is longer than sessions.absolute, {absolute}"));
    }
}

fn tls(field: &mut Field<'_, '_>) -> Tls {
    let mut tls = Tls::default();
    field.table(&mut tls, TLS);
    field.require("certificate", "certificate = \"FILE\"");
    field.require("key", "key = \"FILE\"");
    tls
}

fn named_route(name: &str, field: &mut Field<'_, '_>) -> Route {
    if let Err(error) = value::route_name(name) {
        field.fail_name(error);
    }
    route(name, field)
}

fn route(name: &str, field: &mut Field<'_, '_>) -> Route {
    // An empty list never gets out: either `url` fills it, or a program stands for it, or the file is refused.
    let mut route = Route::new(name, Vec::new());
    let is_whole = field.table(&mut route, ROUTE);
    match &route.command {
        None => field.require("url", "url = \"http://HOST:PORT/mcp\""),
        Some(command) if command.words.is_empty() => field.require("command", "command = [\"PROGRAM\"]"),
        Some(_) => route.upstream = vec![Uri::from_static(super::COMMAND_URL)],
    }
    if is_whole && field.has("url") && route.command.is_none() {
        if let Err(error) = value::endpoints(&route.upstream) {
            field.fail_inside("url", error.to_string());
        } else if route.resolve == Resolve::All && !route.upstream.iter().any(value::has_name) {
            let message = "there is no name to look up: url has addresses only".to_owned();
            field.fail_inside("resolve", message);
        }
    }
    match (&route.client_certificate, &route.client_key) {
        (Some(_), None) => field.fail_inside("client_certificate", "client_key is missing".to_owned()),
        (None, Some(_)) => field.fail_inside("client_key", "client_certificate is missing".to_owned()),
        _ => {}
    }
    if route.profile.is_some_and(|profile| profile.plain_answers) {
        route.answers = Answers::Json;
    }
    if route.token.is_some()
        && (route.forward_authorization || route.headers.iter().any(|h| h.name == AUTHORIZATION))
    {
        let message =
            "the upstream gets an authorization from elsewhere as well: only one of them can arrive";
        field.fail_inside("token", message.to_owned());
    }
    let is_set = |name: &HeaderName| route.headers.iter().any(|header| header.name == *name);
    if route.forward_authorization && is_set(&AUTHORIZATION) {
        let message = "headers has an authorization as well: only one of them can arrive".to_owned();
        field.fail_inside("forward_authorization", message);
    }
    if let Some(both) = route.forward_headers.iter().find(|name| is_set(name)) {
        let message = format!("headers has {both} as well: only one of them can arrive");
        field.fail_inside("forward_headers", message);
    }
    route
}
