//! Several endpoints of one upstream: sessions spread over them, stay with theirs, and move when it is down.

use std::net::{IpAddr, SocketAddr};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use throughline_gateway::config::{AdminAddress, Resolve};
use throughline_gateway::{Config, Effects};

use crate::harness::{
    Answer, Client, Clock, Gw, PATIENCE, Session, Upstream, call, initialize_body, json, lines, logged,
    refused, request, rpc_error, until,
};

/// Longer than any test has patience for: what waits so long, fails.
const TOO_LONG: Duration = Duration::from_secs(120);

fn endpoints<const N: usize>() -> [Upstream; N] {
    std::array::from_fn(|_| Upstream::start())
}

/// Sessions of clients that differ, each of them bound.
fn sessions(client: &Client, count: usize) -> Vec<Session> {
    let sessions: Vec<_> = (0..count).map(|_| Session::open(client)).collect();
    sessions.iter().for_each(|session| assert_eq!(session.count(), "1"));
    sessions
}

/// How many sessions each upstream has.
fn spread(upstreams: &[Upstream]) -> Vec<usize> {
    upstreams.iter().map(|upstream| upstream.server().open().len()).collect()
}

/// Which upstream holds a session, by where its calls arrive.
fn holder(session: &Session, upstreams: &[Upstream]) -> usize {
    let before: Vec<_> = upstreams.iter().map(|upstream| upstream.count("tools/call")).collect();
    session.count();
    let arrived = |at: usize| upstreams[at].count("tools/call") > before[at];
    (0..upstreams.len()).find(|at| arrived(*at)).expect("a call arrives somewhere")
}

fn executed(upstreams: &[Upstream]) -> usize {
    upstreams.iter().map(|upstream| upstream.server().executed()).sum()
}

/// The value of a sample.
fn sample(gateway: &Gw, name: &str) -> u64 {
    let text = gateway.client().at("/metrics").get().text();
    let value = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or(" 0");
    value.trim().parse().unwrap()
}

fn endpoints_that_are(gateway: &Gw, state: &str) -> u64 {
    sample(gateway, &format!("throughline_upstream_endpoints{{route=\"/mcp\",state=\"{state}\"}}"))
}

fn ejections(gateway: &Gw, endpoint: &str) -> u64 {
    sample(
        gateway,
        &format!("throughline_upstream_ejections_total{{route=\"/mcp\",endpoint=\"{endpoint}\"}}"),
    )
}

fn moved(gateway: &Gw) -> u64 {
    let labels = r#"route="/mcp",cause="endpoint-down",outcome="restored""#;
    sample(gateway, &format!("throughline_recoveries_total{{{labels}}}"))
}

#[test]
fn new_sessions_go_where_the_fewest_are() {
    let upstreams: [_; 3] = endpoints();
    let gateway = Gw::over(&upstreams, |_| {});
    let all = sessions(&gateway.client(), 9);
    assert_eq!(spread(&upstreams), [3, 3, 3]);
    let at_first: Vec<_> = all.iter().filter(|session| holder(session, &upstreams) == 0).collect();
    assert_eq!(at_first.len(), 3);
    at_first.iter().for_each(|session| assert_eq!(session.client.delete().status, 200));
    upstreams[0].wait_until("they are ended", |server| server.open().is_empty());
    sessions(&gateway.client(), 3);
    assert_eq!(spread(&upstreams), [3, 3, 3]);
}

#[test]
fn what_belongs_to_a_session_goes_to_its_endpoint_also_after_a_restart() {
    let upstreams: [_; 2] = endpoints();
    let mut gateway = Gw::over(&upstreams, |config| {
        config.admin = Some(AdminAddress::Tcp("127.0.0.1:0".parse().unwrap()));
    });
    let sessions = sessions(&gateway.client(), 4);
    gateway.restart(|_| {});
    let sessions: Vec<_> = sessions
        .into_iter()
        .map(|session| {
            let client = gateway.client().with("mcp-session-id", &session.id);
            Session { client, id: session.id }
        })
        .collect();
    for session in &sessions {
        let mut stream = session.listen();
        session.post(request("7", "logging/setLevel", r#"{"level":"error"}"#));
        assert_eq!(session.count(), "2", "the upstream session is the same");
        let (holder, inner) = upstreams
            .iter()
            .find_map(|upstream| {
                let inner = upstream.of("GET").last()?.session()?.to_owned();
                upstream.server().has_stream(&inner).then_some((upstream, inner))
            })
            .unwrap();
        holder.server().push(&inner, "data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/x\"}\n\n");
        assert!(stream.message().data.contains("notifications/x"));
        // The stream upstream stays for a client that comes back, until the session ends.
        drop(stream);
        assert_eq!(session.client.delete().status, 200);
        holder.wait_until("the stream is closed", |server| !server.has_stream(&inner));
        holder.wait_for("DELETE", 1);
        assert_eq!(holder.of("DELETE")[0].session(), Some(inner.as_str()));
        upstreams.iter().for_each(Upstream::forget);
    }
    assert_eq!(upstreams.iter().map(|upstream| upstream.server().given().len()).sum::<usize>(), 4);
}

#[test]
fn the_administrator_sees_which_endpoint_holds_a_session() {
    let upstreams: [_; 2] = endpoints();
    let mut gateway = Gw::over(&upstreams, |config| {
        config.admin = Some(AdminAddress::Tcp("127.0.0.1:0".parse().unwrap()));
        config.routes[0].upstream[0] = format!("{}?key=secret", upstreams[0].url()).parse().unwrap();
    });
    sessions(&gateway.client(), 2);
    let mut urls: Vec<_> = upstreams.iter().map(Upstream::url).collect();
    urls.sort();
    let shown = |gateway: &Gw| {
        let list = gateway.admin().at("/sessions").get().json();
        let endpoints = list["sessions"].as_array().unwrap().iter();
        let mut shown: Vec<_> =
            endpoints.map(|session| session["endpoint"].as_str().unwrap().to_owned()).collect();
        shown.sort();
        shown
    };
    assert_eq!(shown(&gateway), urls);
    gateway.restart(|_| {});
    assert_eq!(shown(&gateway), urls, "as their records have it");
}

#[test]
fn sessions_of_a_dead_endpoint_move_and_their_calls_are_executed_once() {
    let mut upstreams: [_; 2] = endpoints();
    let gateway = Gw::over(&upstreams, |config| config.timeouts.connect = TOO_LONG);
    let sessions = sessions(&gateway.client(), 6);
    assert_eq!(spread(&upstreams), [3, 3]);
    upstreams[0].go_away();
    let answers: Vec<_> = sessions.iter().map(|session| session.post(call("2", "count"))).collect();
    let restored = |answer: &&crate::harness::Response| {
        answer.headers.get("throughline-session") == Some("restored;generation=2")
    };
    assert!(answers.iter().all(|answer| answer.status == 200));
    assert_eq!(answers.iter().filter(restored).count(), 3);
    assert_eq!(
        answers.iter().filter(restored).map(|answer| answer.tool_text()).collect::<Vec<_>>(),
        ["1"; 3]
    );
    assert_eq!(spread(&upstreams[1..]), [6]);
    assert_eq!((executed(&upstreams), moved(&gateway)), (12, 3));
    assert!(upstreams[1].server().violations().is_empty());
    // They stay where they are now, when the endpoint comes back.
    upstreams[0].come_back();
    let counts: Vec<_> = sessions.iter().map(Session::count).collect();
    assert_eq!(counts.iter().filter(|count| *count == "2").count(), 3);
    assert_eq!(counts.iter().filter(|count| *count == "3").count(), 3);
}

#[test]
fn many_calls_of_one_session_move_together() {
    let mut upstreams: [_; 2] = endpoints();
    let gateway = Gw::over(&upstreams, |config| config.timeouts.connect = TOO_LONG);
    let session = Session::open(&gateway.client());
    let holder = holder(&session, &upstreams);
    upstreams[holder].go_away();
    let calls: Vec<_> = (0..20).map(|_| session.client.begin("POST", call("1", "count"))).collect();
    let mut counts: Vec<u32> =
        calls.into_iter().map(|call| call.answer().whole().tool_text().parse().unwrap()).collect();
    counts.sort_unstable();
    assert_eq!(counts, (1..=20).collect::<Vec<_>>());
    assert_eq!((executed(&upstreams), moved(&gateway)), (21, 1));
    assert_eq!(upstreams[1 - holder].count("initialize"), 1);
}

#[test]
fn a_call_that_may_have_been_executed_is_not_taken_elsewhere() {
    let mut upstreams: [_; 2] = endpoints();
    let gateway = Gw::over(&upstreams, |_| {});
    let session = Session::open(&gateway.client());
    let holder = holder(&session, &upstreams);
    let gate = upstreams[holder].hold(|request| request.tool() == "count");
    let call = session.client.begin("POST", call("1", "count"));
    upstreams[holder].wait_for("tools/call", 2);
    upstreams[holder].go_away();
    gate.open();
    let answer = call.answer().whole();
    assert_eq!((answer.status, answer.code()), (502, -32012), "{}", answer.text());
    assert_eq!(upstreams[1 - holder].count("tools/call"), 0);
    assert_eq!(session.count(), "1", "and then the session moves");
    assert_eq!(moved(&gateway), 1);
}

#[test]
fn a_listening_client_keeps_its_stream_when_its_session_moves() {
    let mut upstreams: [_; 2] = endpoints();
    let gateway = Gw::over(&upstreams, |config| config.timeouts.connect = TOO_LONG);
    let session = Session::open(&gateway.client());
    let mut stream = session.listen();
    let holder = upstreams.iter().position(|upstream| upstream.count("GET") > 0).unwrap();
    upstreams[holder].go_away();
    // Without a call: the stream is what finds out.
    assert!(stream.message().data.contains("notifications/tools/list_changed"));
    let other = &upstreams[1 - holder];
    let inner = other.of("GET")[0].session().unwrap().to_owned();
    other.server().push(&inner, "data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/x\"}\n\n");
    assert!(stream.message().data.contains("notifications/x"));
    assert_eq!(moved(&gateway), 1);
}

#[test]
fn while_all_are_away_sessions_wait_for_their_own_and_are_not_given_up() {
    let mut upstreams: [_; 2] = endpoints();
    let gateway = Gw::over(&upstreams, |config| config.timeouts.connect = Duration::from_millis(300));
    let sessions = sessions(&gateway.client(), 2);
    upstreams.iter_mut().for_each(Upstream::go_away);
    for session in &sessions {
        for _ in 0..3 {
            let answer = session.post(call("2", "count"));
            assert_eq!((answer.status, answer.code()), (502, -32010), "{}", answer.text());
        }
    }
    assert_eq!(endpoints_that_are(&gateway, "out"), 2);
    // What the scripted upstreams know of their sessions outlives this, as behind a network that was cut.
    upstreams.iter_mut().for_each(Upstream::come_back);
    for session in &sessions {
        assert_eq!(session.count(), "2");
    }
    assert_eq!((moved(&gateway), endpoints_that_are(&gateway, "in")), (0, 2));
}

#[test]
fn a_session_that_no_other_endpoint_takes_is_not_given_up() {
    let mut upstreams: [_; 2] = endpoints();
    let gateway = Gw::over(&upstreams, |config| config.timeouts.connect = Duration::from_millis(300));
    let session = Session::open(&gateway.client());
    let holder = holder(&session, &upstreams);
    upstreams[1 - holder].script(|request, _| {
        (request.rpc() == "initialize").then(|| json(400, rpc_error(&request.id(), -32000, "not today")))
    });
    upstreams[holder].go_away();
    assert_eq!(session.post(call("2", "count")).status, 502);
    assert_eq!(upstreams[1 - holder].count("initialize"), 1);
    upstreams[holder].come_back();
    assert_eq!(session.count(), "2", "it is where it was");
}

#[test]
fn what_is_new_waits_for_whichever_comes_back_first() {
    let mut upstreams: [_; 2] = endpoints();
    let gateway = Gw::over(&upstreams, |config| config.timeouts.connect = PATIENCE);
    upstreams.iter_mut().for_each(Upstream::go_away);
    let waiting: Vec<_> =
        (0..4).map(|_| gateway.client().begin("POST", initialize_body("2025-06-18", "{}"))).collect();
    until("both were tried in vain", || endpoints_that_are(&gateway, "out") == 2);
    upstreams[1].come_back();
    for sent in waiting {
        assert_eq!(sent.answer().status, 200);
    }
}

#[test]
fn an_endpoint_that_fails_is_spared_and_comes_back() {
    type Ahead = Clock<10>;
    let mut upstreams: [_; 2] = endpoints();
    let urls: Vec<_> = upstreams.iter().map(Upstream::url).collect();
    let mut config = Config::for_upstreams(&urls).unwrap();
    config.timeouts.connect = TOO_LONG;
    let gateway = Gw::run_over(&upstreams, config, Ahead::EFFECTS);
    let all = sessions(&gateway.client(), 6);
    assert_eq!(endpoints_that_are(&gateway, "in"), 2);
    upstreams[0].go_away();
    all.iter().for_each(|session| drop(session.count()));
    assert_eq!((endpoints_that_are(&gateway, "in"), endpoints_that_are(&gateway, "out")), (1, 1));
    assert_eq!((ejections(&gateway, &urls[0]), ejections(&gateway, &urls[1])), (1, 0));
    let spared = format!("endpoint=\"{}\" ms=1000", urls[0]);
    assert!(logged(&spared), "{spared}");
    // While it is spared, nothing new goes there although it is back.
    upstreams[0].come_back();
    upstreams[0].forget();
    sessions(&gateway.client(), 2);
    assert_eq!(upstreams[0].log().len(), 0);
    Ahead::advance(Duration::from_secs(1));
    sessions(&gateway.client(), 2);
    assert_eq!(upstreams[0].count("initialize"), 2);
    assert_eq!((ejections(&gateway, &urls[0]), endpoints_that_are(&gateway, "in")), (1, 2));
}

#[test]
fn a_proxy_that_answers_for_a_dead_server_counts_and_the_servers_own_errors_do_not() {
    let upstreams: [_; 2] = endpoints();
    let urls: Vec<_> = upstreams.iter().map(Upstream::url).collect();
    let gateway = Gw::over(&upstreams, |_| {});
    let session = Session::open(&gateway.client());
    let holder = holder(&session, &upstreams);
    for (status, content_type) in
        [(503, "application/json"), (500, "text/plain"), (404, "text/plain"), (400, "text/plain")]
    {
        upstreams[holder].script(move |request, _| {
            let body = rpc_error(&request.id(), -32000, "overloaded");
            (request.rpc() == "tools/call").then(|| refused(status, content_type, body))
        });
        for _ in 0..4 {
            session.post(call("1", "count"));
        }
    }
    assert_eq!(ejections(&gateway, &urls[holder]), 0);
    upstreams[holder].script(|request, _| {
        (request.rpc() != "initialize").then(|| refused(503, "text/html", "<h1>no healthy upstream</h1>"))
    });
    for _ in 0..3 {
        assert_eq!(session.post(call("1", "count")).status, 503);
    }
    assert_eq!(ejections(&gateway, &urls[holder]), 1);
    assert_eq!(session.count(), "1", "the session has moved");
    assert_eq!((moved(&gateway), upstreams[1 - holder].count("tools/call")), (1, 1));
}

#[test]
fn an_endpoint_that_opens_no_sessions_is_passed_over() {
    let upstreams: [_; 2] = endpoints();
    let gateway = Gw::over(&upstreams, |_| {});
    let bad = AtomicUsize::new(0);
    let breaks: [fn() -> Answer; 2] =
        [|| refused(502, "text/html", "bad gateway"), || Answer::Reset(Vec::new())];
    for broken in breaks {
        upstreams[0].script(move |request, _| (request.rpc() == "initialize").then(broken));
        for version in ["2025-03-26", "2025-06-18", "2025-11-25"] {
            let session = Session::open_as(&gateway.client(), version, "{}");
            assert_eq!(session.count(), "1");
            bad.fetch_add(1, Ordering::Relaxed);
        }
    }
    assert_eq!(upstreams[1].server().executed(), bad.into_inner());
    assert_eq!(upstreams[0].count("tools/call"), 0);
}

#[test]
fn an_endpoint_that_was_taken_out_of_the_configuration_loses_its_sessions() {
    let upstreams: [_; 3] = endpoints();
    let mut gateway = Gw::over(&upstreams, |_| {});
    let before = sessions(&gateway.client(), 6);
    gateway.config.routes[0].upstream.remove(0);
    gateway.restart(|_| {});
    let counts: Vec<_> = before
        .iter()
        .map(|session| gateway.client().with("mcp-session-id", &session.id).post(call("1", "count")))
        .map(|answer| answer.tool_text())
        .collect();
    assert_eq!(counts.iter().filter(|count| *count == "1").count(), 2);
    assert_eq!(counts.iter().filter(|count| *count == "2").count(), 4);
    assert_eq!(upstreams[0].server().executed(), 2);
}

#[test]
fn what_needs_no_session_goes_where_the_fewest_requests_are() {
    let upstreams: [_; 3] = endpoints();
    for upstream in &upstreams {
        upstream.script(|request, _| {
            let result = r#"{"supportedVersions":["2026-07-28"],"capabilities":{}}"#;
            Some(json(200, format!(r#"{{"jsonrpc":"2.0","id":{},"result":{result}}}"#, request.id())))
        });
    }
    let gateway = Gw::over(&upstreams, |config| config.timeouts.connect = TOO_LONG);
    let client = gateway.client().with("mcp-protocol-version", "2026-07-28").with("mcp-method", "tools/list");
    let body = |id: usize| {
        let meta = r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{},"io.modelcontextprotocol/clientInfo":{"name":"t","version":"1"}}"#;
        request(&id.to_string(), "tools/list", &format!("{{{meta}}}"))
    };
    assert_eq!(client.post(body(0)).status, 200);
    upstreams.iter().for_each(Upstream::forget);
    let gates: Vec<_> = upstreams[..2].iter().map(|upstream| upstream.hold(|_| true)).collect();
    let mut held = Vec::new();
    while upstreams[..2].iter().any(|upstream| upstream.log().is_empty()) {
        let before: usize = upstreams.iter().map(|upstream| upstream.log().len()).sum();
        held.push(client.begin("POST", body(1)));
        until("it has arrived", || {
            upstreams.iter().map(|upstream| upstream.log().len()).sum::<usize>() > before
        });
    }
    upstreams[2].forget();
    for n in 0..6 {
        assert_eq!(client.post(body(n)).status, 200);
    }
    assert_eq!(upstreams[2].count("tools/list"), 6);
    gates.iter().for_each(|gate| gate.open());
}

#[test]
fn a_stateless_upstream_is_not_tied_to_one_endpoint() {
    let mut upstreams: [_; 2] = endpoints();
    for upstream in &upstreams {
        upstream.script(|request, _| {
            let result = match request.rpc().as_str() {
                "initialize" => r#"{"protocolVersion":"2025-06-18","capabilities":{},"serverInfo":{"name":"s","version":"1"}}"#,
                "notifications/initialized" => return Some(refused(202, "text/plain", "")),
                _ => r#"{"content":[{"type":"text","text":"1"}]}"#,
            };
            Some(json(200, format!(r#"{{"jsonrpc":"2.0","id":{},"result":{result}}}"#, request.id())))
        });
    }
    let gateway = Gw::over(&upstreams, |config| config.timeouts.connect = TOO_LONG);
    let session = Session::open(&gateway.client());
    (0..8).for_each(|_| assert_eq!(session.count(), "1"));
    assert!(upstreams.iter().all(|upstream| upstream.count("tools/call") >= 2));
    upstreams[0].go_away();
    upstreams[1].forget();
    (0..4).for_each(|_| assert_eq!(session.count(), "1"));
    assert_eq!((upstreams[1].count("tools/call"), moved(&gateway)), (4, 0));
}

/// What `pair.test` stands for.
static ADDRESSES: Mutex<Vec<IpAddr>> = Mutex::new(Vec::new());

fn resolver(host: &str) -> std::io::Result<Vec<IpAddr>> {
    assert_eq!(host, "pair.test");
    Ok(ADDRESSES.lock().unwrap().clone())
}

/// Two upstreams at one port of two addresses.
fn pair() -> [Upstream; 2] {
    loop {
        let first = Upstream::start();
        let second = SocketAddr::new("127.0.0.2".parse().unwrap(), first.address.port());
        if std::net::TcpListener::bind(second).is_ok() {
            return [first, Upstream::start_at(second)];
        }
    }
}

#[test]
fn each_address_of_a_name_is_an_endpoint_for_as_long_as_it_has_it() {
    let mut upstreams = pair();
    let ips: Vec<_> = upstreams.iter().map(|upstream| upstream.address.ip()).collect();
    let url = format!("http://pair.test:{}/mcp", upstreams[0].address.port());
    *ADDRESSES.lock().unwrap() = ips.clone();
    let mut config = Config::for_upstreams(&[&url]).unwrap();
    config.routes[0].resolve = Resolve::All;
    config.admin = Some(AdminAddress::Tcp("127.0.0.1:0".parse().unwrap()));
    let mut gateway = Gw::run_over(&upstreams, config, Effects { resolve: resolver, ..Effects::REAL });
    let before = sessions(&gateway.client(), 4);
    assert_eq!(spread(&upstreams), [2, 2]);
    let host = upstreams[0].of("initialize")[0].headers.get("host").map(str::to_owned);
    assert_eq!(
        host,
        url.strip_prefix("http://").and_then(|rest| rest.strip_suffix("/mcp")).map(str::to_owned)
    );
    let list = gateway.admin().at("/sessions").get().text();
    assert!(ips.iter().all(|ip| list.contains(&format!("\"{url}#{ip}\""))), "{list}");

    // After a restart in which the resolver knows nothing, records know where sessions are.
    ADDRESSES.lock().unwrap().clear();
    gateway.restart(|_| {});
    let post = |gateway: &Gw, session: &Session, body: String| {
        gateway.client().with("mcp-session-id", &session.id).post(body).tool_text()
    };
    for session in &before {
        assert_eq!(post(&gateway, session, call("1", "count")), "2");
    }

    // One address is gone from the name, though not from the network: what is at it moves.
    *ADDRESSES.lock().unwrap() = vec![ips[1]];
    until("the name is looked up again", || {
        let gone = lines("an upstream endpoint is gone");
        gone.iter().any(|line| line.contains(&format!("{url}#{}", ips[0])))
    });
    let counts: Vec<_> = before.iter().map(|session| post(&gateway, session, call("1", "count"))).collect();
    assert_eq!(counts.iter().filter(|count| *count == "3").count(), 2, "{counts:?}");
    assert_eq!(counts.iter().filter(|count| *count == "1").count(), 2, "{counts:?}");
    assert_eq!(upstreams[0].server().executed(), 4);
    upstreams.iter_mut().for_each(Upstream::go_away);
}

#[test]
fn a_probe_finds_out_without_a_request() {
    let mut upstreams: [_; 2] = endpoints();
    let urls: Vec<_> = upstreams.iter().map(Upstream::url).collect();
    let gateway = Gw::over(&upstreams, |config| config.routes[0].probe = Some(Duration::from_secs(1)));
    upstreams[0].wait_for("ping", 1);
    assert_eq!(upstreams[0].of("ping")[0].session(), None);
    upstreams[0].go_away();
    until("it is found dead", || ejections(&gateway, &urls[0]) > 0);
    upstreams[0].come_back();
    until("it is found alive", || {
        lines("an upstream endpoint is well again").iter().any(|line| line.contains(&urls[0]))
    });
    assert_eq!(ejections(&gateway, &urls[1]), 0);
}
