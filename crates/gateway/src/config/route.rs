//! A route: its path, its upstream, its policy.

use std::path::PathBuf;
use std::time::Duration;

use http::{HeaderName, Uri};
use throughline_wire::profile::{Profile, list::Selection};

use super::{Cache, Command, Grant, Header, Rest, Transport, place};

/// URLs of one route at most.
pub const MAX_ENDPOINTS: usize = 64;

/// A path of the gateway, the upstream behind it, and its policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// `[routes.NAME]`: 1 to 63 of `a-z`, `0-9` and `-`. Empty for the unnamed route, `[upstream]`.
    pub name: String,
    /// Where clients reach it: `/mcp` for the unnamed route, else `/NAME/mcp`.
    pub path: String,
    /// `url`: the upstream's endpoints, absolute `http` or `https` URLs without user name and fragment; at least one
    /// and at most [`MAX_ENDPOINTS`], which differ in more than the query.
    pub upstream: Vec<Uri>,
    /// `command`, `environment`, `directory`, `processes`: the program that is the upstream, in place of `url`. Default:
    /// none.
    pub command: Option<Command>,
    /// `transport`: what the server at `url` speaks. Default [`Transport::Auto`].
    pub transport: Transport,
    /// `resolve`: what a URL whose host has several addresses stands for. Default [`Resolve::One`].
    pub resolve: Resolve,
    /// `probe`: how often each of several endpoints is asked whether it is well. Default (`None`): never; what
    /// becomes of requests tells.
    pub probe: Option<Duration>,
    /// `ca`: a PEM file with the certificates that an `https` upstream's is to be signed by. Default (`None`):
    /// the system's roots.
    pub ca: Option<PathBuf>,
    /// `client_certificate`: a PEM file with the certificate, and its chain, that the gateway shows to an `https`
    /// upstream. Default: none.
    pub client_certificate: Option<PathBuf>,
    /// `client_key`: a PEM file with its private key. Set if and only if `client_certificate` is.
    pub client_key: Option<PathBuf>,
    /// `headers`: what every request to the upstream carries. Default: none.
    pub headers: Vec<Header>,
    /// `forward_headers`: headers of the client's that are passed on; sessions belong to whoever sends the same
    /// values. Default: none.
    pub forward_headers: Vec<HeaderName>,
    /// `forward_authorization`: whether the client's `Authorization` is passed on; sessions then belong to
    /// whoever sends the same. Default: no.
    pub forward_authorization: bool,
    /// `token`: the OAuth tokens that requests to the upstream carry. Default: none.
    pub token: Option<Grant>,
    /// `mode`: whether sessions are kept. Default [`Mode::Sessions`].
    pub mode: Mode,
    /// `state`: what state of a server that speaks older revisions is kept by, for clients of 2026-07-28. Default
    /// [`KeptBy::Principal`].
    pub state: KeptBy,
    /// `state_argument`: what the argument is called that brings a handle, where state is kept by handles. Default
    /// `session`.
    pub state_argument: String,
    /// `anonymous`: what callers without credentials and session id have in common. Default
    /// [`Anonymous::Isolated`] in a file, [`Anonymous::Shared`] without one;
    /// ask [`Config::anonymous_callers_share`](super::Config::anonymous_callers_share).
    pub anonymous: Anonymous,
    /// `answers`: the form of answers. Default [`Answers::AsUpstream`].
    pub answers: Answers,
    /// `strict_headers`: whether requests of 2026-07-28 have to repeat method, name and version in headers, as that
    /// revision demands. Where not, what is missing is added toward the upstream; what is wrong is refused all the
    /// same. Default: yes.
    pub strict_headers: bool,
    /// `profile`: the kind of client whose limits its tool list and answers are brought to. Default: none.
    pub profile: Option<&'static Profile>,
    /// `tools.allow` and `tools.deny`: which of the server's tools there are for clients. Default: all.
    pub tools: Selection,
    /// `rest`: the REST face.
    pub rest: Rest,
    /// `cache`: what is kept of the upstream's lists.
    pub cache: Cache,
    /// `on_store_miss`: what becomes of a valid session id without a record. Default [`OnStoreMiss::Rebuild`].
    pub on_store_miss: OnStoreMiss,
    /// `on_store_failure`: what becomes of sessions while the store is away. Default [`OnStoreFailure::Serve`].
    pub on_store_failure: OnStoreFailure,
    /// `unsafe_after_loss`: what becomes of a request that is not safe to repeat when it meets a lost session
    /// and certainly was not executed. Default [`UnsafeAfterLoss::Replay`].
    pub unsafe_after_loss: UnsafeAfterLoss,
    /// `restore.calls`: tools that set a session up. After a loss, the last successful call of each is made again, in
    /// the order in which they were made. Default: none.
    pub restore_calls: Vec<String>,
    /// `trust_annotations`: whether a tool that says of itself that it only reads, or that repeating it changes
    /// nothing (`readOnlyHint`, `idempotentHint`), is believed. Default: no, since the specification calls annotations
    /// untrusted.
    pub trust_annotations: bool,
}

impl Route {
    /// A route with the defaults of a file. An empty `name` makes the unnamed route.
    pub(crate) fn new(name: &str, upstream: Vec<Uri>) -> Self {
        Self {
            name: name.to_owned(),
            path: if name.is_empty() { "/mcp".to_owned() } else { format!("/{name}/mcp") },
            upstream,
            command: None,
            transport: Transport::Auto,
            resolve: Resolve::One,
            probe: None,
            ca: None,
            client_certificate: None,
            client_key: None,
            headers: Vec::new(),
            forward_headers: Vec::new(),
            forward_authorization: false,
            token: None,
            mode: Mode::Sessions,
            state: KeptBy::Principal,
            state_argument: "session".to_owned(),
            anonymous: Anonymous::Isolated,
            answers: Answers::AsUpstream,
            strict_headers: true,
            profile: None,
            tools: Selection::default(),
            rest: Rest::default(),
            cache: Cache::default(),
            on_store_miss: OnStoreMiss::Rebuild,
            on_store_failure: OnStoreFailure::Serve,
            unsafe_after_loss: UnsafeAfterLoss::Replay,
            restore_calls: Vec::new(),
            trust_annotations: false,
        }
    }

    /// Its endpoints as logs and pages may show them: a query may hold a key.
    pub fn places(&self) -> String {
        self.upstream.iter().map(place).collect::<Vec<_>>().join(" | ")
    }
}

/// What a URL stands for whose host has several addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolve {
    /// `"one"`: one endpoint, at whichever address takes the connection.
    One,
    /// `"all"`: as many endpoints as there are addresses, which are looked up again and again.
    All,
}

/// Whether a route keeps sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// `"sessions"`: clients get session ids, and those that send none are recognised where that is safe.
    Sessions,
    /// `"stateless"`: no session ids given or read; every request is on its own.
    Stateless,
}

/// What a server of an older revision keeps state by, toward clients of 2026-07-28, which have no sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeptBy {
    /// `"principal"`: each caller, and each of its conversations where it names them, has a session that lasts.
    Principal,
    /// `"request"`: nothing; each request has a session of its own.
    Request,
    /// `"handle"`: a handle that each result of a tool gives, and that further calls bring as an argument.
    Handle,
}

/// What callers have in common that send neither credentials nor a session id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Anonymous {
    /// `"shared"`: one upstream session, so each sees what the others left in it.
    Shared,
    /// `"isolated"`: nothing; each request gets an upstream session of its own.
    Isolated,
}

/// The form in which a route answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answers {
    /// `"as-upstream"`: JSON or an event stream, as the upstream answered and the client accepts.
    AsUpstream,
    /// `"json"`: always JSON.
    Json,
}

/// What becomes of a valid session id whose record the store does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnStoreMiss {
    /// `"rebuild"`: it gets a new upstream session.
    Rebuild,
    /// `"not-found"`: 404, as a server without a gateway would answer, so that the client starts anew.
    NotFound,
}

/// What becomes of sessions while the store cannot be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnStoreFailure {
    /// `"serve"`: they go on from what is known here and from their ids; the store is brought up to date later.
    Serve,
    /// `"refuse"`: 503, since what other replicas have done cannot be known.
    Refuse,
}

/// What becomes of an unsafe request (one that may not be executed twice) that met a lost upstream session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnsafeAfterLoss {
    /// `"replay"`: it is sent again in the new session, since it was certainly not executed.
    Replay,
    /// `"refuse"`: its caller gets an error that says that state of the server was lost.
    Refuse,
}
