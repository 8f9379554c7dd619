//! How much clients may ask for at a time, and how slow they may be.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use crate::harness::h2::{Frames, kind};
use crate::harness::tls::{Files, Pair};
use crate::harness::{Answer, Client, Gate, Gw, PATIENCE, Session, Upstream, call, request};

const LIST: &str = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{}}"#;

/// The upstream's tool `endless` answers without end, until the gate is open; `slow` when it is.
fn script(upstream: &Upstream) -> Arc<Gate> {
    let gate = Arc::new(Gate::default());
    let over = Arc::clone(&gate);
    upstream.script(move |request, _| match request.tool().as_str() {
        "endless" => {
            let over = Arc::clone(&over);
            Some(Answer::Stream(Box::new(move |events| {
                let event = format!("data: {}\n\n", request_of(&"x".repeat(100_000)));
                while !over.is_open() && events.write(&event) {}
            })))
        }
        "slow" => {
            over.wait();
            None
        }
        _ => None,
    });
    gate
}

fn request_of(text: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","method":"notifications/message","params":{{"data":"{text}"}}}}"#)
}

/// Asks until the gateway has room again.
fn wait_for_room(client: &Client) {
    let began = tokio::time::Instant::now();
    loop {
        let answer = client.post(LIST);
        if answer.status == 200 {
            return;
        }
        assert_eq!(answer.status, 429, "{}", answer.text());
        assert!(began.elapsed() < PATIENCE, "there was never room again");
    }
}

#[test]
fn requests_beyond_the_limit_are_told_to_come_back() {
    let upstream = Upstream::start();
    let gate = script(&upstream);
    let gateway = Gw::start_with(&upstream, |config| {
        config.limits.requests = 2;
        config.limits.streams = 1;
    });
    let session = Session::open(&gateway.client());
    let slow: Vec<_> = (0..2).map(|_| session.client.begin("POST", call("1", "slow"))).collect();
    upstream.wait_for("tools/call", 2);
    for answer in [session.post(LIST), session.client.delete(), gateway.client().post("nonsense")] {
        assert_eq!((answer.status, answer.code()), (429, -32015), "{}", answer.text());
        assert_eq!(answer.headers.get("retry-after"), Some("1"));
        assert!(answer.json().get("id").is_none());
    }
    // Streams have places of their own, and health is always told.
    let stream = session.listen();
    assert_eq!(session.client.get().status, 429);
    assert_eq!(gateway.client().at("/healthz").get().status, 200);
    drop(stream);
    gate.open();
    for slow in slow {
        assert_eq!(slow.answer().whole().status, 200);
    }
    wait_for_room(&session.client);
    let began = tokio::time::Instant::now();
    while session.client.with("accept", "text/event-stream").open("GET", "").status != 200 {
        assert!(began.elapsed() < PATIENCE);
    }
}

#[test]
fn a_refused_message_is_taken_so_that_its_sender_hears_why() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let large = request("1", "tools/list", &format!(r#"{{"x":"{}"}}"#, "y".repeat(12 << 20)));
    let client = gateway.client();
    for (client, status) in [
        (client.clone(), 413),
        (client.with("content-type", "text/plain"), 415),
        (client.with("origin", "https://evil.example.com"), 403),
        (client.at("/nowhere"), 404),
    ] {
        let answer = client.post(&large);
        assert_eq!(answer.status, status);
        assert!(answer.code() < 0);
    }
    assert_eq!(upstream.log().len(), 0);
}

#[test]
fn a_client_that_does_not_take_its_answer_is_cut_off() {
    let upstream = Upstream::start();
    let gate = script(&upstream);
    let gateway = Gw::start_with(&upstream, |config| {
        config.limits.requests = 1;
        config.timeouts.answer_write = Duration::from_secs(1);
    });
    let stuck = gateway.client().begin("POST", call("1", "endless"));
    upstream.wait_for("tools/call", 1);
    wait_for_room(&gateway.client());
    gate.open();
    drop(stuck);
    gateway.assert_well();
}

#[test]
fn nor_over_http2_where_the_connection_is_alive() {
    let upstream = Upstream::start();
    let gate = script(&upstream);
    let files = Files::new(&Pair::make());
    let gateway = Gw::start_with(&upstream, |config| {
        files.use_in(config);
        config.limits.requests = 1;
        config.timeouts.answer_write = Duration::from_secs(1);
    });
    // Setting 4: the window of each stream. Nothing may be sent, or too little.
    for window in [0, 1000] {
        let mut frames = Frames::connect(gateway.address, &[(4, window)]);
        frames.post(1, &[], &call("1", "endless"));
        let reset = frames.wait_for(kind::RST_STREAM).expect("the connection stays");
        assert_eq!(reset.stream, 1);
        // The place is free again, and the connection too.
        frames.post(3, &[], "nonsense");
        let head = frames.wait_for(kind::HEADERS).unwrap();
        assert_eq!(head.stream, 3);
    }
    gate.open();
}

#[test]
fn a_client_that_dribbles_is_cut_off() {
    let upstream = Upstream::start();
    let gateway = Gw::start_with(&upstream, |config| config.timeouts.request_read = Duration::from_secs(1));
    let heads = [
        "POST /mcp HTTP/1.1\r\nhost: localhost\r\n",
        "POST /mcp HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 50\r\n\r\n{",
        "POST /mcp HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n1\r\n{\r\n",
        "",
        "GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n",
    ];
    for head in heads {
        let mut stream = TcpStream::connect(gateway.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(head.as_bytes()).unwrap();
        // Each byte comes in time, the whole does not.
        let mut writer = stream.try_clone().unwrap();
        let dribbling = std::thread::spawn(move || {
            while !head.is_empty() && !head.starts_with("GET") && writer.write_all(b"x").is_ok() {
                std::thread::park_timeout(Duration::from_millis(100));
            }
        });
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer);
        let status = answer.split(' ').nth(1).unwrap_or_default();
        assert!(["", "200", "400", "408"].contains(&status), "{head}: {answer}");
        dribbling.join().unwrap();
    }
    gateway.assert_well();
    assert_eq!(upstream.log().len(), 0);
}
