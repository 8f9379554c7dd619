//! What was learnt, in words: findings, what each kind of client will meet, and a configuration.

use std::fmt::Write as _;

use serde_json::{Value, json};
use throughline_wire::profile::ROUTE_PROFILES;
use throughline_wire::profile::list::{Selection, list};

use super::ask::{Facts, Reply};

/// The whole report.
pub(super) struct Report {
    url: String,
    facts: Facts,
    findings: Vec<Finding>,
    clients: Vec<Client>,
}

/// One thing that was found.
struct Finding {
    about: &'static str,
    said: String,
    /// Some client will stumble over it.
    trouble: bool,
    /// What the gateway does about it.
    mended: &'static str,
}

/// A kind of client.
struct Client {
    name: &'static str,
    meets: String,
    trouble: bool,
}

impl Report {
    pub(super) fn of(url: String, facts: Facts) -> Self {
        let (findings, clients) = (findings(&facts), clients(&facts));
        Report { url, facts, findings, clients }
    }

    /// Whether no client will stumble.
    pub(super) fn is_well(&self) -> bool {
        !self.findings.iter().any(|finding| finding.trouble)
    }

    pub(super) fn text(&self) -> String {
        let mut text = format!("{}: {}\n", self.url, self.facts.server);
        for finding in &self.findings {
            let sign = if finding.trouble { "!" } else { " " };
            let _ = writeln!(text, "\n{sign} {}\n    {}", finding.about, finding.said);
            if finding.trouble && !finding.mended.is_empty() {
                let _ = writeln!(text, "    behind Throughline: {}", finding.mended);
            }
        }
        text += "\nWhat clients will meet\n";
        for client in &self.clients {
            let sign = if client.trouble { "!" } else { " " };
            let _ = writeln!(text, "{sign} {:<16} {}", client.name, client.meets);
        }
        let _ = write!(text, "\nA configuration to begin with\n\n{}", indented(&self.configuration()));
        text
    }

    pub(super) fn json(&self) -> String {
        let findings = self.findings.iter().map(|finding| {
            json!({ "about": finding.about, "found": finding.said, "trouble": finding.trouble, "mended": finding.mended })
        });
        let clients = self.clients.iter();
        let clients = clients
            .map(|client| json!({ "client": client.name, "meets": client.meets, "trouble": client.trouble }));
        let report = json!({
            "url": self.url,
            "server": self.facts.server,
            "revisions": self.facts.revisions,
            "sessions": self.facts.sessions,
            "tools": self.facts.tools.len(),
            "well": self.is_well(),
            "findings": findings.collect::<Vec<Value>>(),
            "clients": clients.collect::<Vec<Value>>(),
            "configuration": self.configuration(),
        });
        serde_json::to_string_pretty(&report).unwrap_or_default()
    }

    fn configuration(&self) -> String {
        let mut text = format!("[upstream]\nurl = {:?}\n", self.url);
        if !self.facts.sessions && self.facts.legacy {
            text += "# The server keeps no sessions: there are none to keep for it.\nmode = \"stateless\"\n";
        }
        text += "\n# For Copilot Studio, on a route of its own:\n";
        let _ = write!(text, "[routes.studio]\nurl = {:?}\nprofile = \"copilot-studio\"\n", self.url);
        text
    }
}

fn indented(text: &str) -> String {
    text.lines().map(|line| if line.is_empty() { "\n".to_owned() } else { format!("    {line}\n") }).collect()
}

fn short(reply: &Reply) -> String {
    let code = reply.code.map(|code| format!(" / {code}")).unwrap_or_default();
    format!("{}{code} {}", reply.status, reply.text)
}

fn findings(facts: &Facts) -> Vec<Finding> {
    let fine = |about, said: String| Finding { about, said, trouble: false, mended: "" };
    let era = match (facts.modern, facts.legacy) {
        (true, true) => "both eras",
        (true, false) => "2026-07-28 and later only: clients with a handshake cannot use it",
        _ => "revisions with a handshake",
    };
    let mut found = vec![Finding {
        about: "Revisions",
        said: format!("{} ({era})", facts.revisions.join(", ")),
        trouble: !facts.legacy,
        mended: "translated, so that clients with a handshake can use it too",
    }];
    if facts.legacy {
        found.push(session(facts));
    }
    if let Some(reply) = facts.lost.as_ref().filter(|_| facts.sessions) {
        // Clients know what to do about 404 and about nothing else.
        let said = short(reply);
        found.push(Finding {
            about: "A session that is lost",
            trouble: reply.status != 404 || !facts.loss_is_known,
            said: if facts.loss_is_known { said } else { format!("{said} (no sign of it that can be told)") },
            mended: "recognised, if need be by a ping, and the session is opened again",
        });
    }
    if let Some(reply) = facts.without_id.as_ref().filter(|_| facts.sessions) {
        found.push(Finding {
            about: "A call without a session id",
            said: short(reply),
            trouble: !reply.is_result(),
            mended: "the caller's own session is used",
        });
    }
    if let Some(status) = facts.stream {
        let said = match status {
            200 => "there is one".to_owned(),
            405 => "there is none (405), as it should be said".to_owned(),
            other => format!("answered {other}: some clients take that for the end of the session"),
        };
        let trouble = !matches!(status, 200 | 405);
        found.push(Finding { about: "The stream of GET", said, trouble, mended: "the gateway has one" });
    }
    if facts.answers_in_streams {
        let said =
            if facts.resumable { "with event ids" } else { "without event ids: what breaks off is lost" };
        found.push(fine("Answers in event streams", said.to_owned()));
    }
    if let Some((wait, alive)) = facts.idle {
        let said = format!("after {wait:?} it {}", if alive { "was still there" } else { "was gone" });
        found.push(Finding {
            about: "An idle session",
            said,
            trouble: !alive,
            mended: "opened again at the next call",
        });
    }
    if let Some((tool, reply)) = &facts.called {
        found.push(fine("The call of a tool", format!("{tool}: {}", short(reply))));
    }
    found.extend(schemas(facts));
    found
}

fn session(facts: &Facts) -> Finding {
    let (said, trouble) = match facts.sessions {
        true if facts.kept => ("kept by Throughline", false),
        true => ("in memory, most likely: a restart, a rollout or another instance loses them", true),
        false => ("none: every request is on its own", false),
    };
    Finding { about: "Sessions", said: said.to_owned(), trouble, mended: "kept through all of that" }
}

fn schemas(facts: &Facts) -> Vec<Finding> {
    let of_profile = |profile: &&'static throughline_wire::profile::Profile| {
        let listed = list(profile, &Selection::default(), facts.tools.clone());
        let mut said: Vec<String> =
            listed.changed.iter().map(|(name, changes)| format!("{name}: {changes}")).collect();
        said.extend(listed.left_out.iter().map(|(name, why)| format!("{name}: left out, {}", why.as_str())));
        let trouble = !said.is_empty();
        let said = match trouble {
            true => format!(
                "{} of {} tools would be changed for {}\n    {}",
                said.len(),
                facts.tools.len(),
                profile.name,
                said.join("\n    ")
            ),
            false => format!("all {} are as {} takes them", facts.tools.len(), profile.name),
        };
        Finding { about: "Tools", said, trouble, mended: "the route's profile rewrites them" }
    };
    ROUTE_PROFILES.iter().map(of_profile).collect()
}

/// From reports of each client's behaviour.
fn clients(facts: &Facts) -> Vec<Client> {
    // Who meets a session that is lost.
    let has_sessions = facts.sessions && !facts.kept;
    let schemas = schemas(facts).iter().any(|finding| finding.trouble);
    let one = |name, trouble: bool, meets: &str| Client { name, trouble, meets: meets.to_owned() };
    let cannot_hold = facts.without_id.as_ref().is_some_and(|reply| !reply.is_result()) && has_sessions;
    let studio = match (cannot_hold, schemas) {
        (true, _) => "cannot carry the session id: everything after initialize fails",
        (false, true) => "works, but some tools are missing or read wrongly",
        (false, false) => "works",
    };
    if !facts.legacy {
        let only = "cannot use it: it speaks 2026-07-28 only";
        return vec![one("older clients", true, only), one("Copilot Studio", true, only)];
    }
    vec![
        one("Copilot Studio", cannot_hold || schemas, studio),
        one(
            "Claude, ChatGPT",
            has_sessions,
            if has_sessions {
                "initialize again and again: a session each time, never ended"
            } else {
                "work"
            },
        ),
        one(
            "VS Code",
            has_sessions,
            if has_sessions {
                "opens a new session after a restart, and fails the call that met it"
            } else {
                "works"
            },
        ),
        one(
            "Cursor",
            has_sessions,
            if has_sessions {
                "stays broken after a restart until somebody toggles the server"
            } else {
                "works"
            },
        ),
        one(
            "SDK clients",
            has_sessions,
            if has_sessions {
                "TypeScript, Python, Go and C# fail after a restart; Rust initialises again"
            } else {
                "work"
            },
        ),
    ]
}
