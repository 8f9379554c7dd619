//! Sessions as the administrator sees them: by a digest, never by their ids.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use data_encoding::HEXLOWER;
use http::StatusCode;
use serde::Serialize;
use throughline_store::{
    Cursor, Kind as RecordKind, Millis, Page as Records, Record, RecordKey, State, StoreError, Stored,
};

use crate::app::{App, Core, short};
use crate::binding::Slot;
use crate::credentials::Credentials;
use crate::metrics::StoreOperation;
use crate::recover;
use crate::session::{self, Kind, Session, Updated, lock};
use crate::tally::shown;

/// Sessions on a page at most.
pub const PAGE: usize = 1000;
/// What cursors are sealed for.
const CURSOR: &[u8] = b"sessions after";

/// Why the administrator does not get what he asked for.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// No session has this digest.
    #[error("there is no such session")]
    Unknown,
    /// Several sessions have it.
    #[error("several sessions have this digest; wait until one of them has expired")]
    Ambiguous,
    /// The cursor is none of ours, or its key is gone.
    #[error("the cursor is not valid; begin without one")]
    Cursor,
    /// A binding of the session is being made, and made again.
    #[error("the session is being opened again right now; try again")]
    Busy,
    /// The store did not do its part.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It was done here, but could not be stored.
    #[error("it holds in this process only: the store failed; see the log")]
    Unstored,
}

impl SessionError {
    /// The status that says it.
    pub fn status(&self) -> StatusCode {
        match self {
            SessionError::Unknown => StatusCode::NOT_FOUND,
            SessionError::Ambiguous | SessionError::Busy => StatusCode::CONFLICT,
            SessionError::Cursor => StatusCode::BAD_REQUEST,
            SessionError::Store(_) | SessionError::Unstored => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

/// A session as the administrator sees it. Times are in seconds.
#[derive(Debug, Serialize)]
pub struct View {
    /// Its digest, as logs have it.
    pub id: String,
    /// `issued` or `keyed`.
    pub kind: &'static str,
    /// The route's path; empty where the route is gone.
    pub route: String,
    /// Digest of the principal, as in the access log.
    pub principal: String,
    /// What the client calls itself.
    pub client: String,
    /// Since 1970.
    pub created: u64,
    /// Since it began.
    pub age: u64,
    /// Since it was last used.
    pub idle: u64,
    /// Until it ends, used or not.
    pub expires_in: u64,
    /// Whether it has an upstream session now.
    pub bound: bool,
    /// The endpoint that holds it: its URL without the query, and its address where it is one of several of a name.
    /// Empty where none does, and of records that were written when there was one.
    pub endpoint: String,
    /// The last binding's number.
    pub generation: u32,
    /// Requests under way.
    pub in_flight: u32,
    /// Whether it is in memory here.
    pub live: bool,
    /// Whether its client has a standing stream.
    pub listening: bool,
    /// How many things a recovery sets up again.
    pub restores: usize,
}

/// A page of sessions, in an order of no meaning.
#[derive(Debug, Serialize)]
pub struct Page {
    sessions: Vec<View>,
    /// For the next page; None at the end.
    next: Option<String>,
}

/// At most `limit` sessions behind a cursor.
///
/// # Errors
/// [`SessionError::Cursor`], [`SessionError::Store`].
pub async fn list(core: &Core, after: Option<&str>, limit: usize) -> Result<Page, SessionError> {
    let app = &core.app;
    let now = app.effects.now();
    let after = after.map(|cursor| open_cursor(app, cursor).ok_or(SessionError::Cursor)).transpose()?;
    let Records { records, next } = stored(app, after, limit, now).await?;
    let mut found: BTreeMap<RecordKey, Option<View>> =
        records.into_iter().map(|(key, stored)| (key, of_record(app, key, &stored, now))).collect();
    // What is in memory is newer, and may not be stored yet. A shared store has an order of its own: where that
    // takes several pages, only what it has is shown.
    let by_key = [after, next].iter().flatten().all(|cursor| cursor.key().is_some());
    let (after, last) = (after.and_then(|it| it.key()), next.and_then(|it| it.key()));
    let between =
        |key: &RecordKey| after.is_none_or(|after| *key > after) && last.is_none_or(|last| *key <= last);
    if by_key {
        found.retain(|key, _| between(key));
    }
    let on_page = |key: &RecordKey| if by_key { between(key) } else { found.contains_key(key) };
    for session in app.sessions.select(usize::MAX, |session| on_page(&session.key)) {
        found.insert(session.key, of_session(app, &session, session.used(), now));
    }
    // A page in the order of keys ends where it is full; another is as long as it is.
    let rest = by_key && found.len() > limit;
    let page: Vec<_> =
        if rest { found.into_iter().take(limit).collect() } else { found.into_iter().collect() };
    let next = match page.last() {
        Some((key, _)) if rest => Some(Cursor::after(*key)),
        _ => next,
    };
    let next = next.map(|cursor| seal_cursor(app, cursor));
    Ok(Page { sessions: page.into_iter().filter_map(|(_, view)| view).collect(), next })
}

/// One session.
///
/// # Errors
/// [`SessionError::Unknown`], [`SessionError::Ambiguous`], [`SessionError::Store`].
pub async fn show(core: &Core, id: &str) -> Result<View, SessionError> {
    let (session, used) = find(core, id).await?;
    of_session(&core.app, &session, used, core.app.effects.now()).ok_or(SessionError::Unknown)
}

/// What became of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removed {
    /// Its client is told 404, and begins a new one.
    Ended,
    /// Its callers find a new one in its place.
    Forgotten,
}

impl Removed {
    /// The word in the answer.
    pub fn as_str(self) -> &'static str {
        match self {
            Removed::Ended => "ended",
            Removed::Forgotten => "forgotten",
        }
    }
}

/// Removes a session, and its upstream session with it.
///
/// # Errors
/// [`SessionError`].
pub async fn remove(core: &Rc<Core>, id: &str) -> Result<Removed, SessionError> {
    let (session, _) = find(core, id).await?;
    tracing::info!(session = id, kind = session.kind.as_str(), "the administrator removes a session");
    match session.kind {
        Kind::Issued => {
            session::end(core, &session, &Credentials::NONE).await.map_err(|_| SessionError::Unstored)?;
            Ok(Removed::Ended)
        }
        // Its callers come back under the same key: they must find nothing, not a tombstone.
        Kind::Keyed | Kind::Isolated | Kind::Bridged | Kind::Once => {
            let updated = recover::forget(core, &session).await;
            core.app.sessions.remove(&session);
            match updated {
                Updated::Stored => Ok(Removed::Forgotten),
                Updated::Unstored => Err(SessionError::Unstored),
                Updated::Deleted => Err(SessionError::Unknown),
                Updated::Declined => Err(SessionError::Busy),
            }
        }
    }
}

/// The session of this digest, from memory, or else as the store has it; and when it was last used.
async fn find(core: &Core, id: &str) -> Result<(Arc<Session>, Millis), SessionError> {
    let app = &core.app;
    let is_it = |key: &RecordKey| app.log_id(&key.0) == id;
    let mut found: BTreeMap<RecordKey, (Arc<Session>, Millis)> = BTreeMap::new();
    // Copied first: digests take longer than the table should be locked.
    for session in app.sessions.select(usize::MAX, |_| true) {
        if is_it(&session.key) && !recover::is_closed(&session) {
            found.insert(session.key, (Arc::clone(&session), session.used()));
        }
    }
    let mut after = None;
    loop {
        let page = stored(app, after, PAGE, app.effects.now()).await?;
        after = page.next;
        for (key, stored) in page.records {
            let used = stored.touched;
            // What is in memory is newer.
            if is_it(&key)
                && app.sessions.get(&key).is_none()
                && let Some(session) = session::of_record(app, key, stored)
            {
                found.insert(key, (session, used));
            }
        }
        if after.is_none() {
            break;
        }
    }
    let (_, found_one) = found.pop_first().ok_or(SessionError::Unknown)?;
    if found.is_empty() { Ok(found_one) } else { Err(SessionError::Ambiguous) }
}

async fn stored(
    app: &App,
    after: Option<Cursor>,
    limit: usize,
    now: Millis,
) -> Result<Records, SessionError> {
    app.store.list(after, limit, now).await.map_err(|error| {
        app.store_failed(StoreOperation::List, &error);
        error.into()
    })
}

/// A session in memory. None when it was ended.
fn of_session(app: &App, session: &Session, used: Millis, now: Millis) -> Option<View> {
    let (bound, generation, endpoint) = match &*lock(&session.slot) {
        Slot::Closed => return None,
        Slot::Bound(bound) => (true, bound.generation, bound.address.at.name().to_owned()),
        slot => (false, slot.generation(), String::new()),
    };
    let route = session.route.config.path.clone();
    Some(View {
        bound,
        endpoint,
        generation,
        in_flight: session.in_flight(),
        live: app.sessions.get(&session.key).is_some(),
        listening: lock(&session.listener).is_some(),
        ..view(app, session.key, session.kind, route, &session.record(), used, now)
    })
}

/// A session that only the store has. None for a tombstone.
fn of_record(app: &App, key: RecordKey, stored: &Stored, now: Millis) -> Option<View> {
    let State::Open { binding, generation, .. } = &stored.record.state else { return None };
    let route = app.routes.iter().find(|route| route.digest == stored.record.route);
    let kind = match stored.record.kind {
        RecordKind::Issued => Kind::Issued,
        RecordKind::Keyed => Kind::Keyed,
    };
    let route = route.map(|route| route.config.path.clone()).unwrap_or_default();
    let view = view(app, key, kind, route, &stored.record, stored.touched, now);
    let endpoint = binding.as_ref().map(|binding| binding.endpoint.clone()).unwrap_or_default();
    Some(View { bound: binding.is_some(), endpoint, generation: *generation, ..view })
}

fn view(
    app: &App,
    key: RecordKey,
    kind: Kind,
    route: String,
    record: &Record,
    used: Millis,
    now: Millis,
) -> View {
    let since = |then: Millis| now.0.saturating_sub(then.0) / 1000;
    View {
        id: app.log_id(&key.0),
        kind: kind.as_str(),
        route,
        principal: short(&record.principal),
        client: client(&record.initialize),
        created: record.created.0 / 1000,
        age: since(record.created),
        idle: since(used),
        expires_in: record.expires.0.saturating_sub(now.0) / 1000,
        bound: false,
        endpoint: String::new(),
        generation: 0,
        in_flight: 0,
        live: false,
        listening: false,
        restores: record.restore.len(),
    }
}

/// What the client called itself in its `initialize`.
fn client(params: &str) -> String {
    let params: serde_json::Value = serde_json::from_str(params).unwrap_or_default();
    let text = |name: &str| params["clientInfo"][name].as_str().map(shown).unwrap_or_default();
    format!("{} {}", text("name"), text("version")).trim().to_owned()
}

fn seal_cursor(app: &App, cursor: Cursor) -> String {
    HEXLOWER.encode(&app.keys.seal_secret(CURSOR, &cursor.to_bytes(), app.effects.bytes()))
}

fn open_cursor(app: &App, cursor: &str) -> Option<Cursor> {
    let sealed = HEXLOWER.decode(cursor.as_bytes()).ok()?;
    Cursor::from_bytes(&app.keys.open_secret(CURSOR, &sealed)?)
}
