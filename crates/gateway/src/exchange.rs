//! The life of a request: classified, held by a session, called, replied to.

use std::rc::Rc;

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;

use crate::app::Core;
use crate::classify::{self, Arrived, Held, OnDisconnect, What};
use crate::error::Fault;
use crate::front;
use crate::peer::Peer;
use crate::reply::{self, Asked, GoesOn, ReplyBody};
use crate::session::{self, Holding};
use crate::{bridge, call, initialize, listen, lists, metadata, room, shape, tally};

/// Answers one request. There is always an answer.
pub async fn exchange(core: Rc<Core>, peer: Peer, request: Request<Incoming>) -> Response<ReplyBody> {
    let (parts, mut body) = request.into_parts();
    if let Some(asked) = front::asked(&core.app, peer, &parts) {
        return Box::pin(front::answer(core, peer, asked, parts, body)).await;
    }
    match classify::classify(&core, peer, parts, &mut body).await {
        Err(refused) => {
            room::linger(body, &refused.fault);
            tally::refused(&core, reply::fault(&core.app, &refused.fault, refused.id.as_deref()))
        }
        Ok(arrived) => match arrived.on_disconnect() {
            // In a box, as the other: what comes before has no room to spare for it.
            OnDisconnect::Cancel => Box::pin(answer(core, arrived)).await,
            OnDisconnect::KeepReading => GoesOn::new(&core.app.clone(), answer(core, arrived)).await,
        },
    }
}

async fn answer(core: Rc<Core>, mut arrived: Arrived) -> Response<ReplyBody> {
    let present = tally::enter(&core, &mut arrived);
    let fault = |fault| reply::fault(&core.app, &fault, arrived.held().and_then(Held::raw_id));
    let mut response = outcome(&core, &arrived).await.unwrap_or_else(fault);
    metadata::localise(&core.app, &arrived, &mut response);
    tally::answered(present, arrived, response)
}

/// What becomes of what came.
pub async fn outcome(core: &Rc<Core>, arrived: &Arrived) -> Result<Response<ReplyBody>, Fault> {
    match &arrived.what {
        What::Initialize(held) => {
            Ok(reply::welcome(&core.app, initialize::answer(core, arrived, held).await?))
        }
        What::Request(held) => request(core, arrived, held).await,
        What::Notification(held) => notification(core, arrived, held).await,
        What::Response(held) => response(core, arrived, held).await,
        What::Listen(last_event_id) => listen::listen(core, arrived, last_event_id.as_deref()).await,
        What::Close => session::close(core, arrived).await.map(|()| reply::empty(&core.app, StatusCode::OK)),
    }
}

async fn request(core: &Rc<Core>, arrived: &Arrived, held: &Held) -> Result<Response<ReplyBody>, Fault> {
    match &arrived.route.shape {
        None => carry(core, arrived, held).await,
        Some(shape) => Box::pin(shape::request(core, arrived, held, shape)).await,
    }
}

/// Carries a request to the upstream, in the session that it belongs to, and the answer back.
pub async fn carry(core: &Rc<Core>, arrived: &Arrived, held: &Held) -> Result<Response<ReplyBody>, Fault> {
    let reply = async {
        let holding = session::resolve(core, arrived).await?;
        lists::kept_or(core, arrived, held, holding, async |holding| {
            let answered = match holding {
                Holding::Sessionless => call::pass(core, arrived, held).await?,
                Holding::Session(session) => call::run(core, arrived, held, &session).await?,
                Holding::Bridged => return Box::pin(bridge::carry(core, arrived, held)).await,
            };
            reply::relay(core, answered, &Asked::by(arrived, held)).await
        })
        .await
    };
    core.deadlines.within(core.app.config.timeouts.call, reply).await.unwrap_or(Err(Fault::UpstreamTimeout))
}

async fn notification(core: &Rc<Core>, arrived: &Arrived, held: &Held) -> Result<Response<ReplyBody>, Fault> {
    match session::resolve(core, arrived).await? {
        Holding::Session(session) => call::notify(core, arrived, held, &session).await,
        Holding::Bridged => {}
        Holding::Sessionless => {
            let asked = Asked { on_disconnect: OnDisconnect::Cancel, ..Asked::by(arrived, held) };
            return reply::relay(core, call::pass(core, arrived, held).await?, &asked).await;
        }
    }
    Ok(reply::empty(&core.app, StatusCode::ACCEPTED))
}

async fn response(core: &Rc<Core>, arrived: &Arrived, held: &Held) -> Result<Response<ReplyBody>, Fault> {
    if let Holding::Session(session) = session::resolve(core, arrived).await? {
        call::respond(core, arrived, held, &session).await?;
    }
    Ok(reply::empty(&core.app, StatusCode::ACCEPTED))
}
