//! Streams that outlive the connections that they are read on.

mod calls;
mod elsewhere;
mod standing;

use std::sync::{Mutex, mpsc};

use crate::harness::{Answer, Client, Event, Gw, Incoming, Session, Upstream};

fn note(n: u32) -> String {
    format!(r#"{{"jsonrpc":"2.0","method":"notifications/message","params":{{"level":"info","data":{n}}}}}"#)
}

fn result(id: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{"content":[]}}}}"#)
}

fn event(data: &str) -> String {
    format!("data: {data}\n\n")
}

/// What the upstream says in the answer to its tool `work`, as the test goes on. It ends with the last sender.
fn tap(upstream: &Upstream) -> mpsc::Sender<String> {
    let (say, said) = mpsc::channel::<String>();
    let said = Mutex::new(Some(said));
    upstream.script(move |request, _| {
        let said = (request.tool() == "work").then(|| said.lock().unwrap().take())??;
        Some(Answer::Stream(Box::new(move |events| {
            for text in said {
                events.write(&text);
            }
        })))
    });
    say
}

/// A client of the newest legacy revision, which can be primed.
fn newest(gateway: &Gw) -> Session {
    Session::open_as(&gateway.client(), "2025-11-25", "{}")
}

/// Comes back for what follows an event, and is first given its id again.
fn resume(client: &Client, id: &str) -> Incoming {
    let mut stream = come_back(client, id);
    let primed = stream.event().unwrap();
    assert_eq!((primed.data.as_str(), primed.id.as_deref()), ("", Some(id)));
    stream
}

/// Comes back for what follows an event.
fn come_back(client: &Client, id: &str) -> Incoming {
    let stream = client.with("accept", "text/event-stream").with("last-event-id", id).open("GET", "");
    assert_eq!(stream.status, 200, "{id}");
    stream
}

/// The rest of a stream.
fn rest(mut stream: Incoming) -> Vec<Event> {
    std::iter::from_fn(|| stream.event()).collect()
}

fn data(events: &[Event]) -> Vec<&str> {
    events.iter().map(|event| event.data.as_str()).collect()
}
