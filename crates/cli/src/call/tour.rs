//! `--tour`: what a newcomer wants to see of a server that runs in several instances.

use serde_json::{Map, Value, json};

use super::Outcome;
use super::client::{Answer, Client, Ended};
use super::list::{self, List};
use crate::instance::{self, Shares};
use crate::text;

/// How often `whoami` is asked: enough to meet each of three instances, as a rule.
const LOOKS: usize = 6;
/// What is added up by `tally`, one call each.
const SUMMANDS: [i64; 4] = [1, 2, 3, 4];
/// How much of a text is shown, in characters.
const SHOWN: usize = 100;

/// Takes the tour, and prints it.
pub(crate) async fn take(client: &Client) -> Result<Outcome, Ended> {
    greet(client);
    println!("\n2. What it has");
    let lists = list::all(client).await?;
    for list in &lists.0 {
        println!("   {:<18} {:>3}   {}", list.kind.title(), list.len(), kept(list));
    }
    let mut outcome = Outcome::Done;
    println!("\n3. Who answers");
    if lists.tool("whoami").is_some() {
        look(client).await?;
    } else {
        println!("   This server has no tool whoami, so its instances cannot be told apart.");
    }
    println!("\n4. A total that goes on, on whichever instance");
    if let Some(tally) = lists.tool("tally") {
        outcome = add_up(client, summand_of(&tally)).await?;
    } else {
        println!("   This server has no tool tally.");
    }
    if lists.tool("whoami").is_none() || lists.tool("tally").is_none() {
        println!("\nA server with both: throughline reference");
    }
    Ok(outcome)
}

/// Who the server is: `server/discover`, or what `initialize` answered.
fn greet(client: &Client) {
    let greeting = &client.greeting.result;
    let method = if client.is_modern() { "server/discover" } else { "initialize" };
    println!("1. Who the server is ({method})");
    for line in list::server(client).lines() {
        println!("   {}", line.trim());
    }
    if let Some(versions) = greeting["supportedVersions"].as_array() {
        let versions: Vec<_> = versions.iter().filter_map(Value::as_str).collect();
        println!("   It speaks {}.", text::line(&versions.join(", "), SHOWN));
    }
    if let Some(capabilities) = greeting["capabilities"].as_object() {
        let names: Vec<_> = capabilities.keys().map(String::as_str).collect();
        println!("   It can: {}", text::line(&names.join(", "), SHOWN));
    }
}

fn kept(list: &List) -> String {
    let scope = list.hints["cacheScope"].as_str().unwrap_or("nobody said who");
    match list.hints["ttlMs"].as_u64() {
        Some(0) => "not to be kept (ttlMs 0)".to_owned(),
        Some(ms) => format!("may be kept for {} s (ttlMs {ms}), {}", ms / 1000, text::line(scope, SHOWN)),
        None => "no hint how long it may be kept".to_owned(),
    }
}

async fn look(client: &Client) -> Result<(), Ended> {
    let (mut instances, mut answered_by) = (Shares::default(), Shares::default());
    for _ in 0..LOOKS {
        let answer = client.call("whoami", Map::new()).await?;
        let instance = instance::of_result(&answer.result).unwrap_or("an instance without a name");
        instances.count(instance);
        if let Some(name) = &answer.answered_by {
            answered_by.count(name);
        }
        println!("   whoami -> {}{}", text::line(instance, SHOWN), about(&answer));
    }
    println!("   {} in {LOOKS} calls: {}", several(instances.len(), "instance"), instances.in_words());
    if !answered_by.is_empty() && answered_by != instances {
        println!("   through {}: {}", several(answered_by.len(), "gateway"), answered_by.in_words());
    }
    Ok(())
}

/// Uptime and host where the tool tells them, and what a gateway on the way says of the session.
fn about(answer: &Answer) -> String {
    let structured = &answer.result["structuredContent"];
    let mut about = String::new();
    for (name, value) in structured.as_object().into_iter().flatten() {
        if name.starts_with("uptime") || name == "host" {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            about += &format!("   {name} {}", text::line(&value, SHOWN));
        }
    }
    if let Some(session) = &answer.session {
        about += &format!("   (session {})", text::line(session, SHOWN));
    }
    about
}

/// The tool's argument that is a number: what is added.
fn summand_of(tally: &Value) -> &str {
    let properties = tally["inputSchema"]["properties"].as_object();
    let is_number = |schema: &Value| schema["type"] == "integer" || schema["type"] == "number";
    let found = properties.and_then(|properties| properties.iter().find(|(_, schema)| is_number(schema)));
    found.map_or("add", |(name, _)| name)
}

async fn add_up(client: &Client, argument: &str) -> Result<Outcome, Ended> {
    let (mut handle, mut right, mut instances) = (Value::Null, 0, Shares::default());
    for summand in SUMMANDS {
        let mut arguments = json!({ argument: summand });
        if !handle.is_null() {
            arguments["handle"] = handle;
        }
        let Value::Object(arguments) = arguments else { return Ok(Outcome::Done) };
        let answer = client.call("tally", arguments).await?;
        if answer.is_error() {
            println!(
                "   tally reports an error: {}",
                text::line(&super::show::result(&answer.result), SHOWN)
            );
            return Ok(Outcome::ToolError);
        }
        let structured = &answer.result["structuredContent"];
        let total = structured["total"].as_i64();
        let instance = instance::of_result(&answer.result);
        if let Some(instance) = instance {
            instances.count(instance);
        }
        right += summand;
        let total = total.map_or_else(|| "no total".to_owned(), |total| total.to_string());
        let on = instance.map(|name| format!("   on {}", text::line(name, SHOWN))).unwrap_or_default();
        println!("   tally +{summand} -> {total}{on}");
        if total != right.to_string() {
            println!("   That is wrong: {right} would be right.");
            return Ok(Outcome::ToolError);
        }
        handle = structured["handle"].clone();
    }
    let across =
        if instances.len() > 1 { format!(" across {} instances", instances.len()) } else { String::new() };
    println!(
        "   Right{across}: the handle that goes back with each call carries the total, no session does."
    );
    Ok(Outcome::Done)
}

fn several(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}
