//! What a text says of a session, by its words.
//!
//! Servers word it in dozens of ways, so there are no fixed phrases here: a claim is a mention of a session
//! (or of its id) with a negation tied to it, in either order ("no valid session ID", "session ... has been
//! terminated"). Words in between must be ones that can stand there, so that "file not found in session
//! directory" claims nothing.

/// No more words of a text than this are read.
const MAX_WORDS: usize = 160;

/// What a text says of the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Claim {
    /// The request should have named a session, or a session should have been initialised, and was not.
    Missing,
    /// The request named a session that there is none of.
    Gone,
    /// As `Gone`, in words that are also used of logins ("session expired").
    Expired,
}

/// A claim, and whether it can only be meant of an MCP session (rather than of a browser's, say).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reading {
    pub(super) claim: Claim,
    pub(super) firm: bool,
}

/// What stands between a word and the one before it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Gap {
    Space,
    /// A colon, a comma, a bracket or a dash.
    Clause,
    /// The end of a sentence.
    Stop,
}

struct Word {
    text: String,
    gap: Gap,
}

/// Before a mention: the session is missing.
const MISSING_BEFORE: &[&str] = &[
    "missing",
    "no",
    "requires",
    "require",
    "requiring",
    "lacks",
    "needs",
    "include",
    "provide",
    "expected",
];
/// Before a mention: the session is gone.
const GONE_BEFORE: &[&str] = &[
    "unknown",
    "invalid",
    "expired",
    "stale",
    "terminated",
    "closed",
    "such",
    "nonexistent",
    "non-existent",
    "dead",
    "inactive",
    "unrecognized",
    "unrecognised",
];
/// Between such a word and the mention.
const FILLERS: &[&str] = &[
    "a",
    "an",
    "the",
    "this",
    "that",
    "your",
    "any",
    "or",
    "valid",
    "active",
    "existing",
    "current",
    "matching",
    "known",
    "open",
    "live",
    "mcp",
    "http",
    "transport",
    "streamable",
    "header",
    "required",
    "given",
    "request",
    "specified",
    "requested",
    "provided",
];
/// After a mention: the session is gone.
const GONE_AFTER: &[&str] = &[
    "unknown",
    "invalid",
    "terminated",
    "closed",
    "ended",
    "gone",
    "lost",
    "stale",
    "nonexistent",
    "evicted",
    "deleted",
    "destroyed",
    "inactive",
    "unrecognized",
    "unrecognised",
    "dead",
];
/// After a mention: the session is missing.
const MISSING_AFTER: &[&str] = &["required", "missing", "needed", "absent", "empty", "uninitialized"];
/// Between the mention and such a word.
const LINKS: &[&str] = &[
    "is", "was", "are", "were", "has", "have", "been", "be", "being", "or", "already", "does", "do", "did",
    "could", "can", "id", "header", "with", "either", "may", "might", "a", "value", "for", "the", "provided",
    "service",
];
/// After "not": the session is gone.
const NOT_GONE: &[&str] = &[
    "found",
    "exist",
    "exists",
    "valid",
    "recognized",
    "recognised",
    "known",
    "active",
    "available",
    "alive",
    "open",
    "find",
    "locate",
    "resolve",
    "match",
];
/// After "not" or "must be": the session id was not sent.
const NOT_SENT: &[&str] = &[
    "provided",
    "included",
    "present",
    "sent",
    "supplied",
    "specified",
    "set",
    "initialized",
    "initialised",
];
/// After a mention these make it an adjective: "session token", "session store" are other things.
const SESSION_OF: &[&str] = &[
    "token",
    "cookie",
    "key",
    "name",
    "config",
    "configuration",
    "parameter",
    "parameters",
    "data",
    "type",
    "file",
    "state",
    "title",
    "store",
    "storage",
    "manager",
    "stream",
    "mode",
    "path",
    "directory",
    "variable",
    "option",
    "options",
    "setting",
    "settings",
    "log",
    "logs",
    "history",
    "user",
    "limit",
];
/// Before the mention (beyond fillers): what may introduce an MCP session without making it another kind.
const NEUTRAL: &[&str] = &[
    "for",
    "with",
    "because",
    "as",
    "of",
    "to",
    "in",
    "error",
    "found",
    "unauthorized",
    "gone",
    "conflict",
    "unavailable",
    "failed",
    "client",
    "server",
    "bad",
    "and",
    "when",
    "by",
    "new",
    "not",
    "find",
    "is",
];

/// What `text` says of the session, if anything.
pub(super) fn read(text: &str) -> Option<Reading> {
    let words = split(text);
    (0..words.len()).find_map(|at| mention(&words, at)).or_else(|| handshake(&words))
}

/// The claim of the mention of a session at `at`, if there is one.
fn mention(words: &[Word], at: usize) -> Option<Reading> {
    let (id, mut end) = mention_at(words, at)?;
    while words.get(end).is_some_and(|word| matches!(word.text.as_str(), "header" | "headers")) {
        end += 1;
    }
    let next = words.get(end).filter(|word| word.gap == Gap::Space).map(|word| word.text.as_str());
    if !id && next.is_some_and(|next| SESSION_OF.contains(&next)) {
        return None;
    }
    if !id && next.is_some_and(|next| next.starts_with("initiali")) {
        // The Go SDK: `method "tools/call" is invalid during session initialization`.
        let early =
            words[..at].iter().any(|word| matches!(word.text.as_str(), "invalid" | "during" | "before"));
        return early.then_some(Reading { claim: Claim::Missing, firm: true });
    }
    let (before, start) = before(words, at, id);
    let claim = match (before, after(words, end)) {
        (Some(Claim::Missing), _) | (_, Some(Claim::Missing)) => Claim::Missing,
        (Some(claim), _) | (None, Some(claim)) => claim,
        (None, None) if opens(words, at, end) => Claim::Missing,
        (None, None) => return None,
    };
    // "Browser session not found" is some other session, unless a ping says otherwise.
    let qualifier = start.checked_sub(1).and_then(|index| words.get(index));
    let firm = id
        || words.get(start).is_some_and(|word| word.gap > Gap::Space)
        || qualifier.is_none_or(|word| NEUTRAL.contains(&word.text.as_str()));
    Some(Reading { claim, firm })
}

/// Whether a session or its id is mentioned at `at`: is it the id, and where does the mention end.
fn mention_at(words: &[Word], at: usize) -> Option<(bool, usize)> {
    let compact = words[at].text.replace(['-', '_'], "");
    match compact.as_str() {
        "sessionid" | "mcpsessionid" | "xsessionid" | "sessionids" => Some((true, at + 1)),
        "session" | "sessions" | "mcpsession" => match words.get(at + 1).map(|word| word.text.as_str()) {
            Some("id" | "ids" | "identifier") => Some((true, at + 2)),
            _ => Some((false, at + 1)),
        },
        _ => None,
    }
}

/// What the words up to the mention say, and where the phrase begins.
fn before(words: &[Word], at: usize, id: bool) -> (Option<Claim>, usize) {
    let mut claim = None;
    let mut start = at;
    while start > 0 && (words[start].gap == Gap::Space || (id && words[start].gap == Gap::Clause)) {
        let word = words[start - 1].text.as_str();
        let negated = start > 1 && is_not(&words[start - 2].text);
        if MISSING_BEFORE.contains(&word) {
            claim = Some(Claim::Missing);
        } else if GONE_BEFORE.contains(&word) || (negated && NOT_GONE.contains(&word)) {
            claim = claim.or(Some(Claim::Gone));
        } else if !FILLERS.contains(&word) {
            break;
        }
        start -= 1;
    }
    (claim, start)
}

/// What the words from `end` on say of the session mentioned before them.
fn after(words: &[Word], end: usize) -> Option<Claim> {
    let mut identifier = false;
    for (index, word) in words.iter().enumerate().skip(end).take(8) {
        if word.gap == Gap::Stop || (identifier && word.gap == Gap::Clause) {
            return None;
        }
        let text = word.text.as_str();
        let following =
            |list: &[&str]| words[index + 1..].iter().take(3).any(|word| list.contains(&word.text.as_str()));
        match text {
            "expired" | "timed" => return Some(Claim::Expired),
            "no" if following(&["longer"]) => return Some(Claim::Gone),
            "must" => return following(NOT_SENT).then_some(Claim::Missing),
            _ if is_not(text) && following(NOT_GONE) => return Some(Claim::Gone),
            _ if is_not(text) => return following(NOT_SENT).then_some(Claim::Missing),
            _ if GONE_AFTER.contains(&text) => return Some(Claim::Gone),
            _ if MISSING_AFTER.contains(&text) => return Some(Claim::Missing),
            _ if LINKS.contains(&text) => {}
            // The id itself may be named.
            _ if text.len() >= 12 || text.contains('-') || text.bytes().any(|byte| byte.is_ascii_digit()) => {
                identifier = true;
            }
            _ => return None,
        }
    }
    None
}

/// The C# SDK: "A new session can only be created by an initialize request."
fn opens(words: &[Word], at: usize, end: usize) -> bool {
    let new = at > 0 && words[at - 1].text == "new";
    new && words[end..].iter().take(8).any(|word| word.text.starts_with("initialize"))
}

/// Claims that name no session: "Server not initialized", "expect initialize request".
fn handshake(words: &[Word]) -> Option<Reading> {
    let near = |at: usize, list: &[&str]| {
        words[at.saturating_sub(3)..at].iter().any(|word| list.contains(&word.text.as_str()))
    };
    for (at, word) in words.iter().enumerate() {
        match word.text.as_str() {
            "initialized" | "initialised" => {
                let not = (at.saturating_sub(3)..at).rev().find(|index| is_not(&words[*index].text));
                let whose = ["server", "client", "connection", "transport", "mcp", "handshake"];
                if not.is_some_and(|not| near(not + 1, &whose)) {
                    return Some(Reading { claim: Claim::Missing, firm: true });
                }
            }
            "uninitialized" if near(at, &["server", "connection"]) => {
                return Some(Reading { claim: Claim::Missing, firm: true });
            }
            "initialize" if near(at, &["expect", "expects", "expected"]) => {
                return Some(Reading { claim: Claim::Missing, firm: true });
            }
            // A tool may say this of a repository.
            "initialize" | "initialization" if near(at, &["must", "call", "send", "before"]) => {
                return Some(Reading { claim: Claim::Missing, firm: false });
            }
            _ => {}
        }
    }
    None
}

fn is_not(word: &str) -> bool {
    matches!(word, "not" | "cannot" | "never") || word.ends_with("n't")
}

fn split(text: &str) -> Vec<Word> {
    let mut words: Vec<Word> = Vec::new();
    let mut word = String::new();
    let mut gap = Gap::Space;
    let mut chars = text.chars().peekable();
    while let Some(char) = chars.next() {
        match char {
            'a'..='z' | '0'..='9' | '_' | '-' | '\'' => word.push(char),
            'A'..='Z' => word.push(char.to_ascii_lowercase()),
            '\u{2019}' => word.push('\''),
            _ => {
                push(&mut words, &mut word, &mut gap);
                gap = gap.max(match char {
                    '.' | ';' | '!' if chars.peek().is_none_or(|next| next.is_whitespace()) => Gap::Stop,
                    ':' | ',' | '(' | '[' | '\u{2014}' | '\u{2013}' => Gap::Clause,
                    _ => Gap::Space,
                });
            }
        }
        if words.len() == MAX_WORDS {
            return words;
        }
    }
    push(&mut words, &mut word, &mut gap);
    match words.as_slice() {
        // A code such as "session_not_found", standing alone. Among other words it may be a tool's name.
        [only] if only.text.contains(['_', '-']) => split(&only.text.replace(['_', '-'], " ")),
        _ => words,
    }
}

fn push(words: &mut Vec<Word>, word: &mut String, gap: &mut Gap) {
    let trimmed = word.trim_matches(['-', '\'', '_']);
    if !trimmed.is_empty() {
        words.push(Word { text: trimmed.to_owned(), gap: *gap });
        *gap = Gap::Space;
    } else if !word.is_empty() {
        // A dash between words.
        *gap = (*gap).max(Gap::Clause);
    }
    word.clear();
}
