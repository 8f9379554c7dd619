//! Work that goes on when its client has gone: for a legacy client, that is no cancellation (2025-11-25,
//! "Sending Messages to the Server").

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use crate::app::App;

/// Calls that may go on without their client at a time, in all.
const MAX_DETACHED: usize = 1024;

/// One of the calls that go on without their client.
pub struct Detached(Arc<AtomicUsize>);

impl Detached {
    /// Counts one in; None when there are too many.
    pub fn enter(app: &App) -> Option<Self> {
        // Dropped when it was one too many, and counted down by that.
        let count = Detached(Arc::clone(&app.detached));
        (count.0.fetch_add(1, Ordering::Relaxed) < MAX_DETACHED).then_some(count)
    }
}

impl Drop for Detached {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Lets work go on whose client has gone, up to a number and a time.
pub(super) fn detach(app: &App, limit: Duration, work: impl Future<Output = ()> + 'static) {
    let Some(count) = Detached::enter(app) else {
        tracing::warn!("too many calls go on without their client; one was dropped");
        return;
    };
    tokio::task::spawn_local(async move {
        let _count = count;
        let _ = tokio::time::timeout(limit, work).await;
    });
}

/// A future that goes on when it is dropped before it is ready.
pub struct GoesOn<F: Future + 'static> {
    work: Option<Pin<Box<F>>>,
    app: Arc<App>,
}

impl<F: Future + 'static> GoesOn<F> {
    /// Wraps the work.
    pub fn new(app: &Arc<App>, work: F) -> Self {
        GoesOn { work: Some(Box::pin(work)), app: Arc::clone(app) }
    }
}

impl<F: Future + 'static> Future for GoesOn<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let Some(work) = &mut self.work else { return Poll::Pending };
        let output = work.as_mut().poll(cx);
        if output.is_ready() {
            self.work = None;
        }
        output
    }
}

impl<F: Future + 'static> Drop for GoesOn<F> {
    fn drop(&mut self) {
        if let Some(work) = self.work.take() {
            detach(&self.app, self.app.config.timeouts.call, async move {
                work.await;
            });
        }
    }
}
