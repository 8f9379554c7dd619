//! Calls that tell of their progress, under clients that come back for the rest of the answer by themselves, while the
//! gateway is killed in the middle.

use std::path::Path;

use serde_json::{Value, json};

use crate::harness::{Balancer, Client, Gateway, Redis, Upstream, until};

const PROGRESS: &str = "notifications/progress";
/// Between two tellings, in milliseconds.
const EVERY: u64 = 100;

const SDKS: [&str; 2] = ["mcp1", "mcp2"];

/// The gateway is killed behind each of these steps.
pub(crate) fn misses_nothing_of_a_call(name: &str, kills: &[u64]) {
    let upstream = Upstream::rmcp();
    let mut gateway = Gateway::start(&upstream.url(), &[]);
    let mut client = Client::connect(name, &gateway.url(), &[]);
    start_sleeping(&mut client, 60);
    hears_each_once(&mut client, 60, |step| {
        if kills.contains(&step) {
            gateway.restart();
        }
    });
}

#[test]
fn the_official_python_clients_miss_nothing_of_a_call() {
    // Once only: when a connection breaks on which it had come back, this client asks again for what it got there.
    SDKS.into_iter().for_each(|name| misses_nothing_of_a_call(name, &[15]));
}

#[test]
fn nor_do_they_when_the_gateway_is_asked_to_end() {
    let upstream = Upstream::rmcp();
    let mut gateway = Gateway::with_config(&format!(
        "timeouts.shutdown = \"1s\"\n[upstream]\nurl = {:?}\n",
        upstream.url()
    ));
    for name in SDKS {
        let mut client = Client::connect(name, &gateway.url(), &[]);
        // Longer than a stop takes in which connections are cut.
        start_sleeping(&mut client, 80);
        hears_each_once(&mut client, 80, |step| {
            if step == 10 {
                gateway.terminate();
                gateway.start_again();
            }
        });
    }
}

/// Of a server that gives no event ids the rest is not to be had: the call ends with an honest error.
#[test]
fn of_what_the_gateway_had_read_nothing_is_missed_even_if_the_rest_is_lost() {
    let upstream = Upstream::python1();
    let mut gateway = Gateway::start(&upstream.url(), &[]);
    for name in SDKS {
        let mut client = Client::connect(name, &gateway.url(), &[]);
        start_sleeping(&mut client, 200);
        (1..=15).for_each(|step| hears(&mut client, step));
        gateway.restart();
        let ended = client.finish();
        assert_eq!(ended["failed"]["code"], -32012, "{name}: {ended}");
        for (step, event) in (16..).zip(client.events(PROGRESS)) {
            assert_eq!(event["progress"].as_f64(), Some((step * EVERY) as f64), "{name}");
        }
        assert_eq!(client.increment(), 1, "{name}: the session goes on");
    }
}

/// Three replicas behind a load balancer, and each is killed once: the one that reads the call, those that take it over,
/// and the one that the client is at.
pub(crate) fn misses_nothing_over_replicas(name: &str) {
    let (upstream, redis) = (Upstream::rmcp(), Redis::standalone());
    let ring = tempfile::tempdir().expect("a directory");
    let mut replicas = replicas(&upstream, &redis, ring.path());
    let balancer = in_front_of(&replicas);
    let mut client = Client::connect(name, &balancer.url(), &[]);
    // Longer than it takes to find out that the replica which reads is gone, each time: rmcp keeps what it had said only
    // while a call runs.
    start_sleeping(&mut client, 350);
    let mut next = replicas.iter_mut();
    hears_each_once(&mut client, 350, |step| {
        if step % 20 == 10
            && let Some(replica) = next.next()
        {
            replica.restart();
        }
    });
}

/// The client's replies are requests of their own: the load balancer sends them to the replica whose turn it is.
pub(crate) fn is_asked_over_replicas(name: &str) {
    is_asked(name, &Upstream::rmcp(), &json!({"name": "ask", "arguments": {}}), "elicitation/create");
}

/// Calls a tool that asks the client by this method, again and again.
pub(crate) fn is_asked(name: &str, upstream: &Upstream, tool: &Value, method: &str) {
    const ASKED: usize = 6;
    let redis = Redis::standalone();
    let ring = tempfile::tempdir().expect("a directory");
    let replicas = replicas(upstream, &redis, ring.path());
    let balancer = in_front_of(&replicas);
    let mut client = Client::connect(name, &balancer.url(), &["--answer", "sheep"]);
    let mut elsewhere = 0;
    for asked in 1..=ASKED {
        let before = [requests(&replicas, "tools/call"), requests(&replicas, "response")];
        let answer = client.run(json!({"do": "call", "name": tool["name"], "arguments": tool["arguments"]}));
        assert!(answer["done"].to_string().contains("sheep"), "{name}: {answer}");
        client.event(method);
        let [call, reply] = until("the replicas to have logged both", || {
            let now = [requests(&replicas, "tools/call"), requests(&replicas, "response")];
            let total = |counts: &Vec<usize>| counts.iter().sum::<usize>();
            let place = |at: usize| now[at].iter().zip(&before[at]).position(|(now, before)| now > before);
            (now.iter().all(|counts| total(counts) == asked)).then(|| [place(0), place(1)])
        });
        elsewhere += usize::from(call != reply);
    }
    assert!(elsewhere > ASKED / 2, "{name}: {elsewhere} replies reached another replica than the call");
}

#[test]
fn the_official_python_clients_are_asked_over_replicas() {
    SDKS.into_iter().for_each(is_asked_over_replicas);
}

fn replicas(upstream: &Upstream, redis: &Redis, dir: &Path) -> Vec<Gateway> {
    Gateway::replicas(3, &upstream.url(), redis, &dir.join("keyring"))
}

fn in_front_of(replicas: &[Gateway]) -> Balancer {
    Balancer::start(&replicas.iter().map(|replica| replica.at("")).collect::<Vec<_>>())
}

/// How many requests of this method each replica has logged.
fn requests(replicas: &[Gateway], method: &str) -> Vec<usize> {
    let count = |log: String| {
        let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines.filter(|line| line["message"] == "request" && line["method"] == method).count()
    };
    replicas.iter().map(|replica| count(replica.log())).collect()
}

fn start_sleeping(client: &mut Client, steps: u64) {
    client.start(&json!({"do": "call", "name": "sleep", "arguments": {"ms": steps * EVERY}}));
}

/// Hears each step in its order, and nothing else, and then the result. After each, `then` may do some harm.
fn hears_each_once(client: &mut Client, steps: u64, mut then: impl FnMut(u64)) {
    for step in 1..=steps {
        hears(client, step);
        then(step);
    }
    let ended = client.finish();
    assert_eq!(ended["done"]["structuredContent"], json!({"slept": steps * EVERY}), "{ended}");
    assert_eq!(client.events(PROGRESS), Vec::<Value>::new(), "none comes twice");
}

fn hears(client: &mut Client, step: u64) {
    assert_eq!(client.event(PROGRESS)["progress"].as_f64(), Some((step * EVERY) as f64));
}
