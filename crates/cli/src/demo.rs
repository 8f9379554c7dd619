//! `throughline demo`: sessions that outlive the processes that hold them, in a few seconds.
//!
//! Everything is real: servers, gateways and Redis are processes, killed with SIGKILL; the clients speak HTTP to the
//! gateways and print what comes back.

mod cast;
mod client;

use std::process::Command;
use std::sync::Arc;

use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};

use crate::{Failure, text};
use cast::{COUNTER, Cast, GATEWAYS, SERVERS};
use client::Client;

/// How often `whoami` is asked once one of the three servers is gone: each of the others is met.
const LOOKS: usize = 4;

/// Plays the whole thing; whatever ends it, nothing of it stays behind.
pub(crate) fn run() -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let played = runtime.block_on(async {
        let (mut interrupt, mut terminate, mut hang_up) = (
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
            signal(SignalKind::hangup())?,
        );
        let cast = Arc::new(Cast::new()?);
        let on_stage = cast.clone();
        let playing = tokio::task::spawn_blocking(move || play(&on_stage).map_err(|error| error.to_string()));
        let played = tokio::select! {
            played = playing => played.map_err(Failure::from).and_then(|played| Ok(played?)),
            _ = interrupt.recv() => Err("interrupted".into()),
            _ = terminate.recv() => Err("told to stop".into()),
            _ = hang_up.recv() => Err("the terminal is gone".into()),
        };
        let stopped = cast.end();
        played?;
        say(&format!(
            "\nAll {stopped} processes are stopped. Your own server: throughline serve http://127.0.0.1:3000/mcp\n"
        ))
    });
    // What still waits for an answer does not hold the end up.
    runtime.shutdown_background();
    played
}

fn play(cast: &Cast) -> Result<(), Failure> {
    let gateways = cast.set()?;
    introduce(cast, &gateways)?;
    let counter: Vec<_> = gateways.iter().map(|base| format!("{base}/counter/mcp")).collect();
    let servers = format!("{}/servers/mcp", gateways[0]);

    let mut client = Client::new(&counter)?;
    say("\n1. A client opens a session and counts.\n")?;
    client.initialize()?;
    client.count(1)?;
    client.count(2)?;

    say("\n2. kill -9 the counter, and start it again. It knows no session any more.\n")?;
    cast.kill(COUNTER)?;
    cast.start(COUNTER)?;
    client.count(1)?;
    client.count(2)?;
    say("     same session id, no error; the count begins again, since the server kept it in memory only\n")?;

    lose_a_gateway(cast, &mut client, gateways.len())?;

    say("\n4. kill -9 the counter while the client waits.\n")?;
    cast.kill(COUNTER)?;
    let mut waits = client.clone();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(move || waits.count(1).map_err(|error| error.to_string()));
        cast.start(COUNTER)?;
        waiting.join().map_err(|_| "the client panicked")??;
        Ok::<_, Failure>(())
    })?;
    say("     the call waited for the server to come back\n")?;

    say(
        "\n5. A caller that cannot hold a session id (Copilot Studio, Power Platform): it never sends one.\n",
    )?;
    let mut caller = Client::new(&counter)?.named("id-less-caller");
    for right in 1..=3 {
        caller.count(right)?;
    }
    say("     it counts in one session all the same\n")?;

    say(
        "\n6. A client of revision 2026-07-28, which knows no sessions, at the same counter, which needs one.\n",
    )?;
    let mut modern = Client::new(&counter)?.named("modern-client").of_2026();
    for right in 1..=3 {
        modern.count(right)?;
    }
    say("     the gateway speaks to each in its own revision, and keeps the session for both\n")?;

    say("\n7. The three stateless servers, seen through the gateway: throughline call URL --tour\n")?;
    for line in throughline_call(cast, &[&servers, "--tour"])?.lines() {
        say(format!("     {line}").trim_end())?;
        say("\n")?;
    }

    say(&format!("\n8. kill -9 server {}: the others answer.\n", SERVERS[0]))?;
    cast.kill(SERVERS[0])?;
    let repeat = LOOKS.to_string();
    for line in throughline_call(cast, &[&servers, "whoami", "--repeat", &repeat, "--json"])?.lines() {
        let result: Value = serde_json::from_str(line)?;
        let instance = result["structuredContent"]["instance"].as_str().unwrap_or("nobody");
        say(&format!("     tools/call whoami     200   {instance}\n"))?;
    }
    Ok(())
}

/// With several gateways, the client goes on at the others, as behind any load balancer.
fn lose_a_gateway(cast: &Cast, client: &mut Client, gateways: usize) -> Result<(), Failure> {
    if gateways == 1 {
        say("\n3. kill -9 the gateway, and start it again.\n")?;
        cast.kill(GATEWAYS[0])?;
        cast.start(GATEWAYS[0])?;
        client.count(3)?;
        return say(
            "     same session id, and the count goes on: the gateway found the upstream session again\n",
        );
    }
    say(&format!("\n3. kill -9 gateway {}. The client goes on at gateway {}.\n", GATEWAYS[0], GATEWAYS[1]))?;
    cast.kill(GATEWAYS[0])?;
    client.count(3)?;
    client.count(4)?;
    say(&format!("   Start gateway {} again: it knows the session from Redis.\n", GATEWAYS[0]))?;
    cast.start(GATEWAYS[0])?;
    client.count(5)?;
    client.count(6)?;
    say("     same session id, and the count goes on, whoever answers\n")
}

fn introduce(cast: &Cast, gateways: &[String]) -> Result<(), Failure> {
    say(
        "A counter, three stateless servers, Throughline in front of them, and clients that know nothing of what\n",
    )?;
    say("happens to them.\n\n")?;
    say(&format!("  counter       {}   a counter in every session, in memory\n", cast.url(COUNTER)))?;
    for name in SERVERS {
        say(&format!("  server {name:<5}  {}   stateless: any of the three answers\n", cast.url(name)))?;
    }
    for (name, base) in GATEWAYS.iter().zip(gateways) {
        say(&format!("  gateway {name}     {base}/   its status page, while this lasts\n"))?;
    }
    say(if gateways.len() == 1 {
        "\n  redis-server is not installed; with it there are two gateways, and one goes on where the other was killed.\n"
    } else {
        "  redis         what the gateways have in common\n"
    })
}

/// Runs `throughline call`, and gives what it prints.
fn throughline_call(cast: &Cast, arguments: &[&str]) -> Result<String, Failure> {
    let mut command = Command::new(cast.program());
    command.arg("call").args(arguments).args(["--timeout", "30"]);
    let output = cast::quiet(&mut command).output()?;
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(printed);
    }
    let error = text::printable(&String::from_utf8_lossy(&output.stderr));
    Err(format!("throughline call failed: {}", error.trim()).into())
}

/// Prints; whoever reads it may have read enough, which ends the play.
fn say(what: &str) -> Result<(), Failure> {
    Ok(text::print(what).map_err(|error| format!("nobody takes the output: {error}"))?)
}
