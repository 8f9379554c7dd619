//! GET: the stream on which an upstream speaks unasked, and streams that clients come back for.
//!
//! One upstream stream for each session, read by one task (`listen/stream.rs`). When it breaks, or the session gets a
//! new binding, the task opens it again and tells the client what may have changed meanwhile; the client's stream stays
//! as it is. A client that opens a second stream gets the messages on that one from then on: the task is handed the new
//! stream, the upstream notices nothing.
//!
//! The streams of a session that the bridge speaks in are those of replicas, not of a client: each gets all messages.

mod lent;
mod stream;

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::{Response, StatusCode};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, watch};

use crate::app::Core;
use crate::binding::Bound;
use crate::classify::{Arrived, reads_streams};
use crate::error::Fault;
use crate::outlet::{EventId, Opener, Outlet, Writer, answer, follow, primes, watch};
use crate::recover;
use crate::reply::{self, ReplyBody};
use crate::session::{self, Session, lock};

use stream::{Opened, Stream};

/// How long a call waits for the stream to follow into a new binding.
const FOLLOW: Duration = Duration::from_secs(3);

/// A session's standing stream, as others see it.
#[derive(Clone)]
pub struct Listener {
    /// Takes the client's other streams.
    handed: mpsc::Sender<Handed>,
    /// The last generation whose calls need not wait for it: it is open there, or has kept them waiting long enough.
    reached: Arc<watch::Sender<u32>>,
}

/// A client's stream, for the task that reads the upstream's.
#[derive(Clone)]
struct Handed {
    outlet: Arc<Outlet>,
    /// Whether it gets the messages from now on. One that is resumed gets them only if no other is followed.
    takes_over: bool,
}

/// Opens a stream for a client, or resumes one after `last_event_id`.
pub async fn listen(
    core: &Rc<Core>,
    arrived: &Arrived,
    last_event_id: Option<&str>,
) -> Result<Response<ReplyBody>, Fault> {
    let id = arrived.session_id.as_ref().ok_or(Fault::Method("POST"))?;
    let session = session::issued(core, arrived, id).await?;
    if !reads_streams(&arrived.headers) {
        return Err(Fault::NotAcceptable);
    }
    arrived.seen.session(&session);
    session.touch(core.app.effects.now());
    match last_event_id.and_then(|text| EventId::parse(&core.app, session.key, text)) {
        None => {
            let outlet = Outlet::new(Outlet::fresh_key(&core.app, &session), Opener::Listen, None, 0);
            stand(core, arrived, session, Handed { outlet, takes_over: true }, Resumed::default()).await
        }
        Some(id) => resume(core, arrived, session, id).await,
    }
}

/// Opens a stream of a session whose clients hold no id of it.
///
/// # Errors
/// [`Fault::Method`] where the upstream has none.
pub async fn attend(
    core: &Rc<Core>,
    arrived: &Arrived,
    session: Arc<Session>,
) -> Result<Response<ReplyBody>, Fault> {
    let outlet = Outlet::new(Outlet::fresh_key(&core.app, &session), Opener::Listen, None, 0);
    stand(core, arrived, session, Handed { outlet, takes_over: true }, Resumed::default()).await
}

/// Where a stream goes on.
#[derive(Default)]
struct Resumed {
    /// The last event that the client saw.
    number: u64,
    /// What the log says of the upstream's stream: generation, and its last event id.
    upstream: Option<(u32, Vec<u8>)>,
}

/// Resumes the stream that an event belongs to, whichever request opened it.
pub async fn resume(
    core: &Rc<Core>,
    arrived: &Arrived,
    session: Arc<Session>,
    id: EventId,
) -> Result<Response<ReplyBody>, Fault> {
    if let Some(outlet) = core.app.outlets.get(id.key) {
        return Ok(connect(core, &outlet, id.number, primes(&session)));
    }
    if id.opener == Opener::Call {
        return answer::resume(core, arrived, &session, id).await;
    }
    let last = answer::last_of(core, id).await?;
    if last.alive && last.is_behind(id) {
        return Err(Fault::StoreAway);
    }
    if last.alive {
        return Ok(reply::channel(&core.app, watch(core, id, primes(&session))));
    }
    let (number, upstream) = match last.left_off() {
        // Above what the client has, where the log could not take it: else it would not get what comes next.
        Some((number, upstream)) => (number.max(id.number), Some(upstream)),
        None => (id.number, None),
    };
    let outlet = Outlet::new(id.key, Opener::Listen, None, number);
    let resumed = Resumed { number: id.number, upstream };
    stand(core, arrived, session, Handed { outlet, takes_over: false }, resumed).await
}

/// Gives a client's stream to the task that reads the upstream's, or starts one.
async fn stand(
    core: &Rc<Core>,
    arrived: &Arrived,
    session: Arc<Session>,
    client: Handed,
    resumed: Resumed,
) -> Result<Response<ReplyBody>, Fault> {
    let in_use = session.begin(core, &arrived.caller, None);
    let (bound, _) = recover::bind(core, &session, &arrived.caller.credentials, None).await?;
    let prime = primes(&session);
    let (handed, others) = mpsc::channel(1);
    // Nor need calls wait for its beginning.
    let listener = Listener { handed, reached: Arc::new(watch::Sender::new(bound.generation)) };
    // Of a session one replica reads the upstream's stream.
    if lock(&session.listener).is_none() && lent::is_read_elsewhere(core, &session).await {
        return lent::lend(core, &session, &client, resumed.number).await;
    }
    // Before it is handed over: it is followed when the task looks.
    let outlet = Arc::clone(&client.outlet);
    if let Some(present) = hand_over(core, &session, &client, &listener, resumed.number, prime).await {
        return Ok(present);
    }
    let writer = match Writer::new(core, Arc::clone(&outlet), bound.generation) {
        Ok(writer) => writer,
        // Another connection was faster.
        Err(present) => return Ok(connect(core, &present, resumed.number, prime)),
    };
    let mut stream =
        Stream::new(core, Arc::clone(&session), bound, arrived, writer, listener, others, in_use);
    stream.upstream_left_off(resumed.upstream);
    match stream.open().await? {
        Opened::Stream(body) => {
            let held = lent::hold(core, &session).await;
            let connection = connect(core, &outlet, resumed.number, prime);
            tokio::task::spawn_local(stream.run(body, held));
            Ok(connection)
        }
        Opened::None(StatusCode::CONFLICT) if lent::is_read_elsewhere(core, &session).await => {
            // Another replica was faster.
            drop(stream);
            lent::lend(core, &session, &client, resumed.number).await
        }
        Opened::None(status) => {
            // Servers without a stream say so in many ways. Some clients take a 404 for the end of their session,
            // a 401 for a demand to log in.
            tracing::debug!(status = status.as_u16(), "the upstream gave no stream");
            Err(Fault::Method("POST, DELETE"))
        }
    }
}

fn connect(core: &Rc<Core>, outlet: &Arc<Outlet>, after: u64, prime: bool) -> Response<ReplyBody> {
    reply::channel(&core.app, follow(core, outlet, after, prime))
}

/// Waits until the client's standing stream, if it has one, has followed into this binding: the upstream may ask there
/// what it needs for a call, and what it says before that reaches nobody.
pub async fn followed(session: &Session, bound: &Bound) {
    let reached = match &*lock(&session.listener) {
        Some(listener) if *listener.reached.borrow() < bound.generation => Arc::clone(&listener.reached),
        _ => return,
    };
    let mut following = reached.subscribe();
    let there = following.wait_for(|generation| *generation >= bound.generation);
    if tokio::time::timeout(FOLLOW, there).await.is_err() {
        reach(&reached, bound.generation);
    }
}

fn reach(reached: &watch::Sender<u32>, generation: u32) {
    reached.send_if_modified(|before| std::mem::replace(before, generation.max(*before)) < generation);
}

/// Gives the client's stream to the task that reads this session's upstream stream; what is returned is its answer. If
/// there is no such task, registers the one that is about to be.
async fn hand_over(
    core: &Rc<Core>,
    session: &Session,
    client: &Handed,
    own: &Listener,
    after: u64,
    prime: bool,
) -> Option<Response<ReplyBody>> {
    let mut connection = None;
    loop {
        let present = {
            let mut listener = lock(&session.listener);
            // Under the lock under which a task ends (`Stream::is_left`): it does not end with a stream in its hands.
            let present = listener.as_ref().map(|present| &present.handed);
            // Followed by then, so that the task does not find it left.
            if present.is_some() && connection.is_none() {
                connection = Some(connect(core, &client.outlet, after, prime));
            }
            match present.map(|present| (present, present.try_send(client.clone()))) {
                Some((_, Ok(()))) => return connection,
                Some((present, Err(TrySendError::Full(_)))) => present.clone(),
                Some((_, Err(TrySendError::Closed(_)))) | None => {
                    *listener = Some(own.clone());
                    return None;
                }
            }
        };
        let _ = present.reserve().await;
    }
}
