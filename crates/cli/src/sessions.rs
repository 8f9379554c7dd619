//! `throughline sessions`: through the administrator's door of a running gateway.

use clap::Subcommand;
use http::Method;
use serde_json::Value;

use crate::Failure;
use crate::admin::Door;

/// See the sessions of a running gateway, and remove them.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  throughline serve http://127.0.0.1:3000/mcp --admin 127.0.0.1:8809
  throughline sessions --admin 127.0.0.1:8809
  throughline sessions rm 0a1b2c3d4e --admin 127.0.0.1:8809

ID is the digest that logs call session; session ids are never shown.
Exit codes: 0 done, 1 failed, 2 wrong usage, 3 no such session.")]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    door: Door,
    /// Print what the gateway answered, as JSON.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum Command {
    /// All sessions, the last used first (what `sessions` alone does).
    Ls,
    /// One session.
    Show {
        /// Its digest.
        id: String,
    },
    /// End a session; one that is found by who calls is emptied, so that its callers begin anew.
    Rm {
        /// Its digest.
        id: String,
    },
}

/// Does it.
pub(crate) fn run(arguments: Arguments) -> Result<(), Failure> {
    let Arguments { command, door, json } = arguments;
    match command.unwrap_or(Command::Ls) {
        Command::Ls => {
            let sessions = all(&door)?;
            if json {
                println!("{:#}", Value::from(sessions));
            } else {
                print!("{}", table(&sessions));
            }
        }
        Command::Show { id } => {
            let session = door.ask(Method::GET, &path(&id)?)?;
            if json {
                println!("{session:#}");
            } else {
                print!("{}", details(&session));
            }
        }
        Command::Rm { id } => {
            let removed = door.ask(Method::DELETE, &path(&id)?)?;
            if json {
                println!("{removed:#}");
            } else if removed["removed"] == "forgotten" {
                println!("{id} is emptied: its callers begin anew");
            } else {
                println!("{id} has ended");
            }
        }
    }
    Ok(())
}

fn path(id: &str) -> Result<String, Failure> {
    // Anything else would be another path.
    if id.is_empty() || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err("a session's ID is a digest of ten hexadecimal digits; sessions ls shows them".into());
    }
    Ok(format!("/sessions/{}", id.to_ascii_lowercase()))
}

/// Every page, the last used first.
fn all(door: &Door) -> Result<Vec<Value>, Failure> {
    let mut sessions = Vec::new();
    let mut path = "/sessions".to_owned();
    loop {
        let mut page = door.ask(Method::GET, &path)?;
        if let Value::Array(more) = page["sessions"].take() {
            sessions.extend(more);
        }
        match page["next"].as_str() {
            Some(cursor) => path = format!("/sessions?after={cursor}"),
            None => break,
        }
    }
    sessions.sort_by_key(|session| session["idle"].as_u64());
    Ok(sessions)
}

const COLUMNS: [&str; 9] = ["ID", "KIND", "ROUTE", "CLIENT", "AGE", "IDLE", "BOUND", "GEN", "BUSY"];

fn table(sessions: &[Value]) -> String {
    let rows = sessions.iter().map(|session| {
        let bound = if session["bound"] == true { "yes" } else { "no" };
        [
            text(&session["id"]),
            text(&session["kind"]),
            text(&session["route"]),
            text(&session["client"]),
            duration(&session["age"]),
            duration(&session["idle"]),
            bound.to_owned(),
            text(&session["generation"]),
            text(&session["in_flight"]),
        ]
    });
    let rows: Vec<_> = std::iter::once(COLUMNS.map(str::to_owned)).chain(rows).collect();
    let widths: [usize; COLUMNS.len()] = std::array::from_fn(|column| {
        rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default()
    });
    let line = |row: &[String; COLUMNS.len()]| {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

fn details(session: &Value) -> String {
    let Value::Object(members) = session else { return String::new() };
    let line = |(name, value): (&String, &Value)| {
        let value = if matches!(name.as_str(), "age" | "idle" | "expires_in") {
            duration(value)
        } else {
            text(value)
        };
        format!("{name:<12}{value}\n")
    };
    members.iter().map(line).collect()
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) if text.is_empty() => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Seconds in two units at most.
fn duration(seconds: &Value) -> String {
    let seconds = seconds.as_u64().unwrap_or_default();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h{}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d{}h", seconds / 86_400, seconds / 3600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn tables_are_aligned_and_empty_cells_are_seen() {
        let session = |route: &str, idle: u64| {
            json!({"id": "0123456789", "kind": "keyed", "route": route, "client": "", "age": 90_061, "idle": idle,
                   "bound": true, "generation": 3, "in_flight": 0})
        };
        let expected = "\
ID          KIND   ROUTE       CLIENT  AGE   IDLE   BOUND  GEN  BUSY
0123456789  keyed  /mcp        -       1d1h  59s    yes    3    0
0123456789  keyed  /files/mcp  -       1d1h  2h46m  yes    3    0
";
        assert_eq!(table(&[session("/mcp", 59), session("/files/mcp", 9999)]), expected);
        assert_eq!(table(&[]).lines().count(), 1);
    }

    #[test]
    fn only_digests_are_asked_for() {
        assert_eq!(path("0A1b").unwrap(), "/sessions/0a1b");
        for bad in ["", "../keys", "a?b", "x y", "a/b"] {
            assert!(path(bad).is_err(), "{bad}");
        }
    }
}
