//! Notifications of a legacy server on the stream of one request: which of them are that request's.

use crate::envelope::{Span, path, string_value};
use crate::method;
use crate::splice::{Edit, splice};

/// The severity of a log message, the least severe first (2026-07-28, Logging, "Log Levels").
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// Detailed information for debugging.
    Debug,
    /// What goes on.
    Info,
    /// Normal, but significant.
    Notice,
    /// Something may be wrong.
    Warning,
    /// Something failed.
    Error,
    /// A part of the server failed.
    Critical,
    /// Somebody must act at once.
    Alert,
    /// The server cannot be used.
    Emergency,
}

impl Level {
    /// All of them, the least severe first.
    pub const ALL: [Level; 8] = [
        Level::Debug,
        Level::Info,
        Level::Notice,
        Level::Warning,
        Level::Error,
        Level::Critical,
        Level::Alert,
        Level::Emergency,
    ];

    /// Its name in messages.
    pub const fn as_str(self) -> &'static str {
        match self {
            Level::Debug => "debug",
            Level::Info => "info",
            Level::Notice => "notice",
            Level::Warning => "warning",
            Level::Error => "error",
            Level::Critical => "critical",
            Level::Alert => "alert",
            Level::Emergency => "emergency",
        }
    }

    /// The level of this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|level| level.as_str() == name)
    }
}

/// What one request wants to hear while it is under way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hears {
    /// The least severe log messages; None for none.
    pub level: Option<Level>,
    /// Raw JSON of its progress token, as the server knows it and as the client named it.
    pub progress: Option<(String, String)>,
}

impl Hears {
    /// A notification (its method, and where its parameters are in `data`) as the client gets it; None where it is not
    /// for it.
    pub fn outward(&self, data: &[u8], method: &str, params: Option<&Span>) -> Option<Vec<u8>> {
        let params = params?;
        let at = |name| {
            let found = path(&data[params.clone()], &[name]).ok()??;
            Some(params.start + found.start..params.start + found.end)
        };
        match method {
            method::PROGRESS => {
                let (ours, theirs) = self.progress.as_ref()?;
                let token = at("progressToken").filter(|at| data[at.clone()] == *ours.as_bytes())?;
                Some(splice(data, &mut [Edit::replace(token, theirs.as_bytes())]))
            }
            method::LOG_MESSAGE => {
                let level = Level::parse(&string_value(&data[at("level")?])?)?;
                self.level.is_some_and(|least| level >= least).then(|| data.to_vec())
            }
            // The others belong on a stream of `subscriptions/listen`, or the era has none such.
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::envelope::{Envelope, Limits, Message};

    fn outward(hears: &Hears, data: &str) -> Option<String> {
        match Envelope::parse(data.as_bytes(), &Limits::default()).unwrap().message {
            Message::Notification { method, params, .. } => hears
                .outward(data.as_bytes(), &method, params.as_ref())
                .map(|bytes| String::from_utf8(bytes).unwrap()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn progress_is_its_own_requests_alone() {
        let hears = Hears { level: None, progress: Some((r#""a-1""#.to_owned(), "1e0".to_owned())) };
        let told = |token| {
            format!(
                r#"{{"jsonrpc":"2.0","method":"notifications/progress","params":{{"progressToken":{token},"progress":1}}}}"#
            )
        };
        assert_eq!(outward(&hears, &told(r#""a-1""#)), Some(told("1e0")));
        assert_eq!(outward(&hears, &told(r#""a-2""#)), None);
        assert_eq!(outward(&Hears::default(), &told(r#""a-1""#)), None);
    }

    #[test]
    fn a_log_message_reaches_who_asked_for_its_level() {
        let said = |level| {
            format!(
                r#"{{"jsonrpc":"2.0","method":"notifications/message","params":{{"level":"{level}","data":1}}}}"#
            )
        };
        let hears = |level| Hears { level, progress: None };
        assert_eq!(outward(&hears(None), &said("emergency")), None);
        assert_eq!(outward(&hears(Some(Level::Warning)), &said("notice")), None);
        assert_eq!(outward(&hears(Some(Level::Warning)), &said("warning")), Some(said("warning")));
        assert_eq!(outward(&hears(Some(Level::Debug)), &said("loud")), None);
    }

    #[test]
    fn what_belongs_on_another_stream_is_dropped() {
        let hears = Hears { level: Some(Level::Debug), progress: None };
        let changed = r#"{"jsonrpc":"2.0","method":"notifications/tools/list_changed","params":{}}"#;
        assert_eq!(outward(&hears, changed), None);
    }
}
