//! What an error of Redis means for the next call.

use std::sync::Arc;

use redis::{ErrorKind, RedisError, ServerErrorKind};

use crate::StoreError;

/// What went wrong, sorted by what it means for others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failure {
    /// Nothing can be asked of Redis now.
    Away(String),
    /// It does not know us.
    Refused(String),
    /// It knows us, but does not allow this.
    Forbidden(String),
    /// It has no memory for writes.
    OutOfMemory(String),
    /// It takes no writes for another reason.
    NoWrites(String),
    /// It said something else about this one command.
    Unexpected(String),
}

impl Failure {
    /// A command, or an attempt to connect, took too long.
    pub(super) fn slow(what: &str, limit: std::time::Duration) -> Failure {
        Failure::Away(format!("{what} took longer than {} ms", limit.as_millis()))
    }

    /// The same as an error, which names the Redis.
    pub(super) fn at(self, place: &Arc<str>) -> StoreError {
        let place = Arc::clone(place);
        match self {
            Failure::Away(reason) => StoreError::Away { place, reason: reason.into() },
            Failure::Refused(reason) => StoreError::Refused { place, reason: reason.into() },
            Failure::Forbidden(reason) => StoreError::Forbidden { place, reason: reason.into() },
            Failure::OutOfMemory(reason) => StoreError::OutOfMemory { place, reason: reason.into() },
            Failure::NoWrites(reason) => StoreError::NoWrites { place, reason: reason.into() },
            Failure::Unexpected(reason) => StoreError::Unexpected { place, reason: reason.into() },
        }
    }
}

impl From<&RedisError> for Failure {
    fn from(error: &RedisError) -> Failure {
        let text = one_line(error);
        // Redis 6 wraps what a command in a script said in an error of its own.
        let says = |code: &str| error.code() == Some(code) || text.contains(&format!("-{code} "));
        if says("OOM") {
            return Failure::OutOfMemory(text);
        }
        if says("MISCONF") || says("NOREPLICAS") {
            return Failure::NoWrites(text);
        }
        if says("READONLY") || says("BUSY") {
            return Failure::Away(text);
        }
        // What a script may not do comes without a code of its own.
        if text.contains("user executing the script") {
            return Failure::Forbidden(text);
        }
        if says("NOAUTH") || says("WRONGPASS") {
            return Failure::Refused(text);
        }
        match error.kind() {
            // The library does not say what Redis said.
            ErrorKind::AuthenticationFailed => {
                Failure::Refused("user or password is not accepted".to_owned())
            }
            ErrorKind::Server(ServerErrorKind::NoPerm) => Failure::Forbidden(text),
            ErrorKind::Io
            | ErrorKind::Client
            | ErrorKind::Parse
            | ErrorKind::ClusterConnectionNotFound
            | ErrorKind::Server(
                ServerErrorKind::BusyLoading
                | ServerErrorKind::MasterDown
                | ServerErrorKind::ClusterDown
                | ServerErrorKind::TryAgain
                | ServerErrorKind::Moved
                | ServerErrorKind::Ask,
            ) => Failure::Away(text),
            _ => Failure::Unexpected(text),
        }
    }
}

/// The error's text on one line, not too long: part of it was written by somebody else.
fn one_line(error: &RedisError) -> String {
    let text = match (error.code(), error.detail()) {
        (Some(code), Some(detail)) => format!("{code} {detail}"),
        _ => error.to_string(),
    };
    text.chars().take(200).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use redis::{RedisResult, Value};

    use super::*;

    fn of(reply: &str) -> Failure {
        let value: RedisResult<Value> = redis::parse_redis_value(format!("-{reply}\r\n").as_bytes());
        Failure::from(&value.and_then(Value::extract_error).unwrap_err())
    }

    #[test]
    fn every_reply_has_its_meaning() {
        use Failure as F;
        for (reply, is) in [
            ("LOADING Redis is loading the dataset in memory", F::Away as fn(String) -> F),
            ("READONLY You can't write against a read only replica.", F::Away),
            ("MASTERDOWN Link with MASTER is down", F::Away),
            ("CLUSTERDOWN Hash slot not served", F::Away),
            ("BUSY Redis is busy running a script.", F::Away),
            ("ERR Error running script (call to f_x): @user_script:9: -READONLY You can't write", F::Away),
            ("OOM command not allowed when used memory > 'maxmemory'.", F::OutOfMemory),
            ("ERR Error running script (call to f_x): @user_script:9: -OOM command not", F::OutOfMemory),
            ("MISCONF Redis is configured to save RDB snapshots", F::NoWrites),
            ("NOREPLICAS Not enough good replicas to write.", F::NoWrites),
            ("NOAUTH Authentication required.", F::Refused),
            ("WRONGPASS invalid username-password pair", F::Refused),
            ("NOPERM this user has no permissions", F::Forbidden),
            ("ERR The user executing the script can't run this command", F::Forbidden),
            ("WRONGTYPE Operation against a key", F::Unexpected),
        ] {
            assert_eq!(of(reply), is(reply.to_owned()));
        }
        let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        assert!(matches!(Failure::from(&RedisError::from(refused)), F::Away(_)));
    }

    #[test]
    fn what_redis_says_stays_on_one_short_line() {
        let failure = of(&format!("ERR a\tb{}", "x".repeat(500)));
        let Failure::Unexpected(text) = failure else { panic!("{failure:?}") };
        assert!(text.starts_with("ERR a b") && text.chars().count() == 200, "{text}");
    }
}
