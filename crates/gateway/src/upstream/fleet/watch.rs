//! What is done about a fleet without a request: names are looked up again, and endpoints are asked whether they are
//! well.

use std::io;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};

use super::Fleet;
use crate::app::{App, Core, Route};
use crate::effects::Effects;
use crate::upstream::sending;

/// How often a name is looked up.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// How long the start waits for what names stand for.
const FIRST_LOOK: Duration = Duration::from_secs(3);

/// The addresses of a name, sorted, each once.
type Looked = io::Result<Vec<IpAddr>>;

/// Looks a name up on a thread of its own: the system's resolver blocks for as long as it likes, and a stop of the
/// gateway need not wait for it.
fn look_up(effects: Effects, host: &str) -> oneshot::Receiver<Looked> {
    let (tell, told) = oneshot::channel();
    let host = host.to_owned();
    let look = move || {
        let looked = effects.resolve(&host).map(|mut addresses| {
            addresses.sort_unstable();
            addresses.dedup();
            addresses
        });
        // Nobody waits for it any more when the gateway stops.
        let _ = tell.send(looked);
    };
    if let Err(error) = std::thread::Builder::new().name("resolver".to_owned()).spawn(look) {
        tracing::warn!(%error, "no thread to look a name up");
    }
    told
}

impl Fleet {
    /// The names that are looked up, with their places in the configuration.
    fn names(&self) -> Vec<(usize, String)> {
        let names = self.configured.iter().enumerate().filter(|(_, url)| url.resolves);
        names.map(|(of, url)| (of, url.to.host.clone())).collect()
    }

    /// Takes over what was found. What is known stays where nothing was.
    fn found(&self, of: usize, host: &str, looked: Looked) {
        match looked {
            Ok(addresses) if !addresses.is_empty() => self.resolved(of, &addresses),
            Ok(_) => tracing::warn!(host, "an upstream's name has no address; those known so far stay"),
            Err(error) => {
                tracing::warn!(host, %error, "an upstream's name was not found; its known addresses stay");
            }
        }
    }
}

/// Looks all names up for the first time, and waits for them, but not for long.
pub async fn first_look(app: &App) {
    let names = app.routes.iter().flat_map(|route| {
        route.fleet.names().into_iter().map(|(of, host)| {
            let told = look_up(app.effects, &host);
            (Arc::clone(&route.fleet), of, host, told)
        })
    });
    let looking: Vec<_> = names.collect();
    let until = Instant::now() + FIRST_LOOK;
    for (fleet, of, host, told) in looking {
        match tokio::time::timeout_at(until, told).await {
            Ok(Ok(looked)) => fleet.found(of, &host, looked),
            _ => tracing::warn!(host, "an upstream's name was not found in time; it is looked up again"),
        }
    }
}

/// Begins what goes on until the gateway stops, on one core.
pub fn start(core: &Rc<Core>) {
    for route in &core.app.routes {
        for (of, host) in route.fleet.names() {
            tokio::task::spawn_local(keep_looking(Rc::clone(core), Arc::clone(&route.fleet), of, host));
        }
        if let Some(every) = route.config.probe.filter(|_| route.fleet.only().is_none()) {
            tokio::task::spawn_local(keep_asking(Rc::clone(core), Arc::clone(route), every));
        }
    }
}

async fn keep_looking(core: Rc<Core>, fleet: Arc<Fleet>, of: usize, host: String) {
    let mut stop = core.app.stop_signal();
    loop {
        let looking = async {
            tokio::time::sleep(LOOK_EVERY).await;
            look_up(core.app.effects, &host).await
        };
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return,
            looked = looking => if let Ok(looked) = looked {
                fleet.found(of, &host, looked);
            },
        }
    }
}

/// Asks each endpoint, one question at a time for each. What it says, or that it says nothing, counts as with any
/// request.
async fn keep_asking(core: Rc<Core>, route: Arc<Route>, every: Duration) {
    let mut stop = core.app.stop_signal();
    let mut tick = tokio::time::interval(every);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return,
            _ = tick.tick() => {}
        }
        let mut asked = JoinSet::new();
        for member in route.fleet.listed() {
            let (core, fleet) = (Rc::clone(&core), Arc::clone(&route.fleet));
            asked.spawn_local(async move { sending::probe(&core, &fleet, member).await });
        }
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return,
            () = async { while asked.join_next().await.is_some() {} } => {}
        }
    }
}
