//! The status page: what this instance is doing, for whoever opens its address in a browser.

use std::sync::Arc;

use http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderValue, Response, StatusCode};
use throughline_status::{Fact, POLICY, STEP, Status, Table, asset};

use crate::app::App;
use crate::metrics::summary::Summary;
use crate::reply::{self, ReplyBody};
use crate::session::{Kind, lock};
use crate::upstream::JSON;

/// The page, what belongs to it, or None for another path.
pub fn answer(app: &Arc<App>, path: &str) -> Option<Response<ReplyBody>> {
    let mut response = match path {
        "/" => reply::whole(app, StatusCode::OK, HTML, status(app).html()),
        "/status.json" => reply::whole(app, StatusCode::OK, JSON, status(app).json()),
        path => {
            let (content_type, body) = asset(path)?;
            reply::whole(app, StatusCode::OK, HeaderValue::from_static(content_type), body)
        }
    };
    let headers = response.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Some(response)
}

const HTML: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");

fn status(app: &App) -> Status {
    let counts = app.metrics.summary();
    let mut kinds = vec![(0_u64, 0_u64); app.routes.len()];
    app.sessions.for_each(|session| {
        let (issued, keyed) = &mut kinds[session.route.index];
        match session.kind {
            Kind::Issued => *issued += 1,
            _ => *keyed += 1,
        }
    });
    let routes =
        app.routes.iter().zip(&kinds).zip(&counts.routes).map(|((route, (issued, keyed)), counts)| {
            vec![
                route.config.path.clone(),
                route.config.places(),
                route.era.known(app.effects.now()).to_owned(),
                issued.to_string(),
                keyed.to_string(),
                counts.requests.to_string(),
                format!("{} / {}", counts.restored, counts.not_restored),
            ]
        });
    Status {
        service: "Throughline gateway",
        instance: app.instance.clone(),
        version: env!("CARGO_PKG_VERSION"),
        uptime_seconds: app.effects.now().0.saturating_sub(app.metrics.started.0) / 1000,
        facts: facts(app, &counts),
        tables: vec![Table {
            name: "Upstreams",
            columns: &[
                "path",
                "server",
                "era",
                "sessions, issued",
                "sessions, keyed",
                "requests",
                "recoveries, failed",
            ],
            rows: routes.collect(),
        }],
        requests: lock(&app.history).counts(),
    }
}

fn facts(app: &App, counts: &Summary) -> Vec<Fact> {
    let store = match app.store.trouble() {
        None => Fact::new("Store", app.store.describe()),
        Some(reason) => Fact { alarming: true, ..Fact::new("Store", format!("away: {reason}")) },
    };
    let failed: u64 = counts.routes.iter().map(|route| route.not_restored).sum();
    vec![
        Fact::new("Requests", counts.requests()),
        Fact::new("Under way", counts.in_flight),
        Fact::new("Connections", counts.connections),
        Fact::new("Sessions in memory", app.sessions.len()),
        Fact::new("Sessions recovered", counts.routes.iter().map(|route| route.restored).sum::<u64>()),
        Fact { alarming: failed > 0, ..Fact::new("Recoveries failed", failed) },
        store,
    ]
}

/// Notes how many requests there are, step by step, until the gateway stops.
pub async fn sample(app: Arc<App>) {
    let mut stop = app.stop_signal();
    let mut tick = tokio::time::interval(STEP);
    // The first is at once: the count begins there.
    tick.tick().await;
    loop {
        tokio::select! {
            _ = tick.tick() => lock(&app.history).note(app.metrics.summary().requests()),
            _ = stop.wait_for(|stop| *stop) => return,
        }
    }
}
