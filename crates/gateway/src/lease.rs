//! Of replicas that find the same session lost, one makes the next binding and the others wait for it.
//!
//! A lease is a courtesy and no fence: it spares upstream sessions that would lose. What decides is the
//! compare-and-set of the binding; whoever loses that ends the upstream session that it opened.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use throughline_store::{Lease, Millis, Record, State};

use crate::app::{App, Core};
use crate::session::{Kind, Session, Updated, millis};

/// How long others wait for whoever holds it. A binding that takes longer may be made twice; then one loses.
const LASTS: Duration = Duration::from_secs(3);

/// What asking for the lease came to.
pub enum Turn {
    /// The binding is ours to make.
    Ours,
    /// The record has changed, or another's lease is over: read it again.
    LookAgain,
}

/// Takes the lease, or waits for whoever has it. Not asked for a client's first binding: its first requests hardly
/// ever reach two replicas at once.
pub async fn take(core: &Rc<Core>, session: &Arc<Session>, record: &Record, lost: bool) -> Turn {
    let app = &core.app;
    let found_by_many = matches!(session.kind, Kind::Keyed | Kind::Bridged);
    if !app.store.is_shared() || !(lost || found_by_many) || !session.is_stored() {
        return Turn::Ours;
    }
    let State::Open { generation, .. } = record.state else { return Turn::LookAgain };
    if let Some(until) = others(app, record) {
        let changed = session.rebound.notified();
        tokio::pin!(changed);
        // From here on no change goes unnoticed; one that came before shows in the version.
        changed.as_mut().enable();
        if session.record() == *record {
            let left = Duration::from_millis(until.0.saturating_sub(app.effects.now().0));
            // Either way the record is read again.
            let _ = tokio::time::timeout(left, changed).await;
        }
        return Turn::LookAgain;
    }
    let until = Millis(app.effects.now().0.saturating_add(millis(LASTS)));
    let lease = Box::new(Lease { holder: app.process.clone(), until });
    let take = |record: &mut Record| {
        let free = others(app, record).is_none();
        match &mut record.state {
            State::Open { generation: current, lease: held, .. } if *current == generation && free => {
                *held = Some(lease.clone());
                true
            }
            _ => false,
        }
    };
    match session.update(core, take).await {
        // Without the store nobody can be asked to wait.
        Updated::Stored | Updated::Unstored => Turn::Ours,
        Updated::Deleted | Updated::Declined => Turn::LookAgain,
    }
}

/// Gives the lease back after an attempt that made no binding; one that did has cleared it.
pub async fn give_back(core: &Rc<Core>, session: &Arc<Session>) {
    let clear = |record: &mut Record| match &mut record.state {
        State::Open { lease, .. } if lease.as_ref().is_some_and(|held| held.holder == core.app.process) => {
            *lease = None;
            true
        }
        _ => false,
    };
    session.update(core, clear).await;
}

/// Until when another replica has it.
fn others(app: &App, record: &Record) -> Option<Millis> {
    match &record.state {
        State::Open { lease: Some(lease), .. } => {
            (lease.holder != app.process && lease.until > app.effects.now()).then_some(lease.until)
        }
        _ => None,
    }
}
