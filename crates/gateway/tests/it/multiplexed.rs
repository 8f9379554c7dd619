//! An upstream over HTTP/2: many requests on one connection, and the same certainty about what was executed.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::harness::{
    Answers, Certificates, Fate, Front, Gw, Request, Session, Upstream, call, logged, request,
};

struct Setting {
    upstream: Upstream,
    certificates: Certificates,
    front: Front,
}

impl Setting {
    fn new(decide: impl Fn(&str) -> Fate + Send + Sync + 'static) -> Self {
        let (upstream, certificates) = (Upstream::start(), Certificates::new());
        let front = Front::many(&upstream, certificates.server("127.0.0.1"), decide);
        Setting { upstream, certificates, front }
    }

    fn gateway(&self) -> Gw {
        Gw::start_with(&self.upstream, |config| {
            config.routes[0].upstream = vec![self.front.url()];
            config.routes[0].ca = Some(self.certificates.ca());
            config.routes[0].forward_authorization = true;
            config.workers = std::num::NonZeroUsize::new(1);
        })
    }
}

/// The first `tools/call` meets this fate, everything else is forwarded.
fn once(fate: Fate) -> impl Fn(&str) -> Fate + Send + Sync + 'static {
    let met = AtomicBool::new(false);
    move |body| {
        let meets = body.contains("tools/call") && !met.swap(true, Ordering::Relaxed);
        if meets { fate } else { Fate::Forwarded }
    }
}

#[test]
fn many_requests_share_a_connection() {
    let setting = Setting::new(|_| Fate::Forwarded);
    let (upstream, gateway) = (&setting.upstream, setting.gateway());
    let session = Session::open(&gateway.client().with("authorization", "Bearer h2-t0ken-5520"));
    assert_eq!(session.count(), "1");
    let gate = upstream.hold(|request| request.tool() == "slow");
    let calls: Vec<_> = (0..20).map(|_| session.client.begin("POST", call("1", "slow"))).collect();
    upstream.wait_for("tools/call", 21);
    gate.open();
    for call in calls {
        assert_eq!(call.answer().whole().status, 200);
    }
    assert_eq!(setting.front.connections(), 1);
    assert!(upstream.log().iter().all(|request| request.target == "/mcp"));
    assert_eq!(upstream.server().violations(), Vec::<String>::new());
    let sent = |request: &Request| request.headers.get("authorization") == Some("Bearer h2-t0ken-5520");
    assert!(upstream.log().iter().all(|request| sent(request)));
    assert!(!logged("h2-t0ken-5520"));
}

#[test]
fn streams_come_through_and_sessions_are_restored() {
    let setting = Setting::new(|_| Fate::Forwarded);
    let (upstream, gateway) = (&setting.upstream, setting.gateway());
    upstream.server().answer_with(Answers::Sse);
    let session = Session::open(&gateway.client());
    let mut stream = session.listen();
    assert_eq!(session.count(), "1");
    let id = upstream.server().open().remove(0);
    upstream.wait_until("the stream is open", |server| server.has_stream(&id));
    let news = r#"{"jsonrpc":"2.0","method":"notifications/message","params":{}}"#;
    upstream.server().push(&id, &format!("data: {news}\n\n"));
    assert_eq!(stream.message().data, news);
    upstream.server().lose_sessions();
    assert_eq!(session.count(), "1");
    // A client that goes away takes its stream with it, and nothing else.
    drop(stream);
    assert_eq!(session.count(), "2");
}

#[test]
fn what_the_upstream_did_not_look_at_is_sent_again() {
    let setting = Setting::new(once(Fate::Refused));
    let gateway = setting.gateway();
    let session = Session::open(&gateway.client());
    let answer = session.post(call("1", "count"));
    assert_eq!((answer.status, answer.tool_text().as_str()), (200, "1"));
    assert_eq!((setting.upstream.server().executed(), setting.upstream.count("initialize")), (1, 1));

    let (upstream, certificates) = (Upstream::start(), Certificates::new());
    let front = Front::leaving(&upstream, certificates.server("127.0.0.1"));
    let setting = Setting { upstream, certificates, front };
    let gateway = setting.gateway();
    assert_eq!(Session::open(&gateway.client()).count(), "1");
    assert_eq!((setting.upstream.count("initialize"), setting.front.connections()), (1, 2));
}

#[test]
fn what_it_may_have_executed_is_not() {
    let setting = Setting::new(once(Fate::Broken));
    let gateway = setting.gateway();
    let session = Session::open(&gateway.client());
    let answer = session.post(call("1", "count"));
    assert_eq!((answer.status, answer.code()), (502, -32012), "{}", answer.text());
    assert_eq!(setting.upstream.server().executed(), 1);
    assert_eq!(session.count(), "2");
}

#[test]
fn what_is_safe_to_repeat_is_repeated() {
    let lists = AtomicUsize::new(0);
    let setting = Setting::new(move |body| {
        let first = body.contains("tools/list") && lists.fetch_add(1, Ordering::Relaxed) == 0;
        if first { Fate::Broken } else { Fate::Forwarded }
    });
    let gateway = setting.gateway();
    let session = Session::open(&gateway.client());
    assert_eq!(session.post(request("1", "tools/list", "{}")).status, 200);
    assert_eq!(setting.upstream.count("tools/list"), 2);
}

#[test]
fn a_connection_that_died_while_idle_is_not_used() {
    let mut setting = Setting::new(|_| Fate::Forwarded);
    let gateway = setting.gateway();
    let session = Session::open(&gateway.client());
    assert_eq!(session.count(), "1");
    let address = setting.front.address;
    let server = setting.certificates.server("127.0.0.1");
    drop(std::mem::replace(&mut setting.front, Front::start(&setting.upstream, server)));
    let again = Front::many_at(&setting.upstream, setting.certificates.server("127.0.0.1"), address);
    assert_eq!(session.count(), "2");
    assert_eq!((setting.upstream.server().executed(), again.connections()), (2, 1));
}
