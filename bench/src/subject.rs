//! What is measured: a proxy, a kind of client and a kind of answer.

use std::fmt::{self, Display, Formatter};

/// One line of the table.
pub(crate) struct Subject {
    /// What is between client and upstream.
    pub(crate) proxy: Proxy,
    /// How the client holds its session.
    pub(crate) client: Client,
    /// Whether the upstream keeps sessions.
    pub(crate) upstream: Kind,
    /// How the upstream answers.
    pub(crate) answer: Answer,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Proxy {
    Direct,
    Nginx,
    Gateway,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Client {
    /// It has initialised, and echoes the session id that it was given.
    Issued,
    /// It never initialises and echoes nothing.
    Keyed,
    /// The same, and the gateway keeps no sessions either.
    Stateless,
}

/// What the upstream is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It gives session ids, and insists on them.
    Sessions,
    /// It gives none.
    Sessionless,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Json,
    Events,
}

/// In the order of their turns.
pub(crate) const SUBJECTS: &[Subject] = &[
    Subject::new(Proxy::Direct, Client::Issued, Kind::Sessions, Answer::Json),
    Subject::new(Proxy::Nginx, Client::Issued, Kind::Sessions, Answer::Json),
    Subject::new(Proxy::Gateway, Client::Issued, Kind::Sessions, Answer::Json),
    Subject::new(Proxy::Gateway, Client::Keyed, Kind::Sessions, Answer::Json),
    Subject::new(Proxy::Gateway, Client::Stateless, Kind::Sessionless, Answer::Json),
    Subject::new(Proxy::Gateway, Client::Stateless, Kind::Sessions, Answer::Json),
    Subject::new(Proxy::Direct, Client::Issued, Kind::Sessions, Answer::Events),
    Subject::new(Proxy::Nginx, Client::Issued, Kind::Sessions, Answer::Events),
    Subject::new(Proxy::Gateway, Client::Issued, Kind::Sessions, Answer::Events),
    Subject::new(Proxy::Gateway, Client::Keyed, Kind::Sessions, Answer::Events),
    Subject::new(Proxy::Gateway, Client::Stateless, Kind::Sessionless, Answer::Events),
];

impl Subject {
    const fn new(proxy: Proxy, client: Client, upstream: Kind, answer: Answer) -> Self {
        Subject { proxy, client, upstream, answer }
    }

    /// As the table calls it.
    pub(crate) fn name(&self) -> String {
        match self.proxy {
            Proxy::Gateway if self.client == Client::Stateless && self.upstream == Kind::Sessions => {
                format!("gateway stateless to sessions, {}", self.answer)
            }
            Proxy::Gateway => format!("gateway {}, {}", self.client, self.answer),
            Proxy::Direct => format!("direct, {}", self.answer),
            Proxy::Nginx => format!("nginx, {}", self.answer),
        }
    }

    /// Whether it is what `other` is compared with: nginx under the same answers.
    pub(crate) fn is_yardstick_of(&self, other: &Subject) -> bool {
        self.proxy == Proxy::Nginx && self.answer == other.answer
    }
}

impl Answer {
    /// The echo tool that answers so.
    pub(crate) fn tool(self) -> &'static str {
        match self {
            Answer::Json => "echo",
            Answer::Events => "echo_events",
        }
    }
}

impl Display for Client {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Client::Issued => "issued",
            Client::Keyed => "keyed",
            Client::Stateless => "stateless",
        })
    }
}

impl Display for Answer {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Answer::Json => "JSON",
            Answer::Events => "SSE",
        })
    }
}
