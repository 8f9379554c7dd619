//! A look at how Redis is set up, once.

use std::time::Duration;

use redis::Value;
use tokio::time::{sleep, timeout};

use super::circuit::{Access, Circuit};

/// How long the answer may take.
const ANSWER: Duration = Duration::from_secs(1);

/// Warns if Redis may evict records before they expire; never returns.
pub(super) async fn warn(circuit: &Circuit) {
    let line = loop {
        match circuit.line(Access::Read) {
            Ok(line) => break line,
            Err(_) => sleep(ANSWER).await,
        }
    };
    let mut info = redis::cmd("INFO");
    info.arg("memory");
    // Where this is not allowed there is nothing to say.
    if let Ok(Ok(answer)) = timeout(ANSWER, line.link.send_to(0, &info)).await
        && let Some(policy) = text(&answer).as_deref().and_then(policy)
        && policy != "noeviction"
    {
        tracing::warn!(
            store = %circuit.name(), policy,
            "Redis may evict session records before they expire: set its maxmemory-policy to noeviction"
        );
    }
    std::future::pending().await
}

fn text(answer: &Value) -> Option<String> {
    match answer {
        Value::BulkString(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
        Value::VerbatimString { text, .. } => Some(text.clone()),
        _ => None,
    }
}

fn policy(info: &str) -> Option<&str> {
    info.lines().find_map(|line| line.strip_prefix("maxmemory_policy:")).map(str::trim)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_policy_is_a_line_of_info() {
        assert_eq!(
            super::policy("# Memory\r\nmaxmemory:0\r\nmaxmemory_policy:allkeys-lru\r\n"),
            Some("allkeys-lru")
        );
        assert_eq!(super::policy("# Memory\r\nmaxmemory:0\r\n"), None);
    }
}
