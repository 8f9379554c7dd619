//! What happens without a request: sessions that idle give back their upstream sessions, use is written down,
//! what has lapsed leaves, and what other replicas or a store that was away have changed is followed.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use throughline_store::{Changed, Cursor, Millis};
use tokio::time::MissedTickBehavior;

use crate::app::Core;
use crate::config;
use crate::credentials::Credentials;
use crate::metrics::StoreOperation;
use crate::session::{self, Session, millis};
use crate::{recover, upstream};

/// Use is written at most so often.
const TOUCH_EVERY: Duration = Duration::from_secs(60);
/// Expired records removed in one turn.
const SWEEP_BATCH: usize = 1000;
/// Sessions whose upstream session is given back in one turn.
const RELEASE_BATCH: usize = 256;
/// Records looked at in one turn, for sessions that no process has in memory any more.
const FORGOTTEN_BATCH: usize = 256;

/// Runs until the gateway stops, on one core.
pub async fn run(core: Rc<Core>) {
    let app = &core.app;
    let sessions = &app.config.sessions;
    let shortest = sessions.idle.min(sessions.warm) / 4;
    let mut tick = tokio::time::interval(shortest.clamp(Duration::from_millis(100), Duration::from_secs(5)));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut stop = app.stop_signal();
    let mut written = app.effects.now();
    let mut page = None;
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            _ = stop.wait_for(|stop| *stop) => break,
        }
        let now = app.effects.now();
        end_warm(&core, now);
        catch_up(&core).await;
        release_idle(&core, now).await;
        // Of several replicas one at a time: each page of records is read by them all in turn.
        match app.store.turn("release", tick.period()).await {
            Ok(true) => page = release_forgotten(&core, page, now).await,
            Ok(false) => {}
            Err(error) => app.store_failed(StoreOperation::List, &error),
        }
        if now.0 >= written.0 + millis(touch_every(sessions)) {
            write_use(&core, written).await;
            written = now;
            app.accounts.tidy(|key| app.sessions.get(key).is_some());
            if let Err(error) = app.store.sweep(now, SWEEP_BATCH).await {
                app.store_failed(StoreOperation::Sweep, &error);
            }
            if let Err(error) = app.store.events().sweep(now, SWEEP_BATCH).await {
                app.store_failed(StoreOperation::Sweep, &error);
            }
        }
    }
    write_use(&core, written).await;
    for route in &app.routes {
        for address in route.initialize.drain() {
            upstream::end_later(&core, address);
        }
    }
}

/// Follows what other replicas change, for as long as sessions are served.
pub async fn follow(core: Rc<Core>) {
    let app = &core.app;
    let mut watch = app.store.watch();
    loop {
        match watch.changed().await {
            Changed::One(key, version) => {
                if let Some(session) = app.sessions.hear(&key, version) {
                    // At once, so that a stream ends with its session; what fails is tried again at the next request.
                    let _ = session.refresh(&core).await;
                }
            }
            // All of them, if some were missed: each at its next request, and now where a client listens.
            Changed::All => {
                for session in app.sessions.select(usize::MAX, Session::doubt) {
                    let _ = session.refresh(&core).await;
                }
                catch_up(&core).await;
            }
        }
    }
}

/// Gives a store that was away what happened meanwhile.
async fn catch_up(core: &Rc<Core>) {
    if core.app.store.trouble().is_some() {
        return;
    }
    for session in core.app.sessions.select(usize::MAX, Session::is_unstored) {
        session.write_back(core).await;
    }
}

/// Ends upstream sessions that an `initialize` made and nobody used.
fn end_warm(core: &Rc<Core>, now: Millis) {
    for route in &core.app.routes {
        for address in route.initialize.expire(now) {
            upstream::end_later(core, address);
        }
    }
}

/// Gives back the upstream sessions of those that were not used for a while.
async fn release_idle(core: &Rc<Core>, now: Millis) {
    let app = &core.app;
    let idle = millis(app.config.sessions.idle);
    let lapsed = app.sessions.select(RELEASE_BATCH, |session| {
        session.is_quiet() && (session.used().0.saturating_add(idle) <= now.0 || session.expires <= now)
    });
    for session in lapsed {
        if session.is_unstored() || is_used_elsewhere(core, &session, now).await {
            continue;
        }
        recover::release(core, &session, &Credentials::NONE).await;
        app.sessions.remove(&session);
    }
}

/// Whether another replica has it in use; then it leaves the memory of this one alone. What cannot be known counts as
/// use: an upstream session that stays a little longer is the smaller harm.
async fn is_used_elsewhere(core: &Rc<Core>, session: &Arc<Session>, now: Millis) -> bool {
    let app = &core.app;
    if !app.store.is_shared() || session.expires <= now {
        return false;
    }
    let lapses = lapses(&app.config.sessions);
    match app.store.get(session.key, now).await {
        Ok(Some(stored)) if stored.touched.0.saturating_add(lapses) > now.0 => {
            app.sessions.remove(session);
            true
        }
        Ok(_) => false,
        Err(error) => {
            app.store_failed(StoreOperation::Get, &error);
            true
        }
    }
}

/// After how long without use on record, in milliseconds, a session that another replica may have in use is idle.
fn lapses(sessions: &config::Sessions) -> u64 {
    millis(sessions.idle + touch_every(sessions))
}

/// How often use is written down. Others may take a session for idle that was used since.
fn touch_every(sessions: &config::Sessions) -> Duration {
    TOUCH_EVERY.min(sessions.idle / 2)
}

/// The same for a page of records: of sessions that an earlier process left, or that had to leave memory.
async fn release_forgotten(core: &Rc<Core>, after: Option<Cursor>, now: Millis) -> Option<Cursor> {
    let app = &core.app;
    let lapses = lapses(&app.config.sessions);
    let page = match app.store.list(after, FORGOTTEN_BATCH, now).await {
        Ok(page) => page,
        Err(error) => {
            app.store_failed(StoreOperation::List, &error);
            return after;
        }
    };
    for (key, stored) in page.records {
        if stored.touched.0.saturating_add(lapses) <= now.0
            && app.sessions.get(&key).is_none()
            && let Some(session) = session::of_record(app, key, stored)
        {
            recover::release(core, &session, &Credentials::NONE).await;
        }
    }
    page.next
}

/// Writes down which sessions were used since `since`.
async fn write_use(core: &Rc<Core>, since: Millis) {
    let used = core.app.sessions.select(usize::MAX, |session| session.used() >= since);
    let touches: Vec<_> = used.iter().map(|session| (session.key, session.used())).collect();
    if let Err(error) = core.app.store.touch_many(&touches).await {
        core.app.store_failed(StoreOperation::Touch, &error);
    }
}
