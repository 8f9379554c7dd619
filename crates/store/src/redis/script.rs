//! The scripts that change records, each in one round trip. A server that does not know a script yet is sent its
//! text, and keeps it; that is so after a restart or a failover, and for each node of a cluster.

use std::sync::LazyLock;

use redis::{Cmd, ErrorKind, RedisResult, ServerErrorKind, Value};

use super::dial::Link;

/// A script and the name that Redis gives it.
pub(super) struct Script {
    text: &'static str,
    name: LazyLock<String>,
}

macro_rules! script {
    ($file:literal) => {{
        const TEXT: &str = concat!(include_str!("lua/head.lua"), include_str!($file));
        Script { text: TEXT, name: LazyLock::new(|| redis::Script::new(TEXT).get_hash().to_owned()) }
    }};
}

/// Compare and set.
pub(super) static PUT: Script = script!("lua/put.lua");
/// Leaves a tombstone.
pub(super) static DELETE: Script = script!("lua/delete.lua");
/// Notes a use.
pub(super) static TOUCH: Script = script!("lua/touch.lua");
/// Appends to a stream of events, and trims it.
pub(super) static APPEND: Script = script!("lua/append.lua");
/// Reads a part of one.
pub(super) static READ: Script = script!("lua/read.lua");
/// Removes those of a session.
pub(super) static FORGET: Script = script!("lua/forget.lua");
static PROBE: Script = script!("lua/probe.lua");

impl Script {
    /// Runs it on `key`; `sent` is told of each command.
    pub(super) async fn run(
        &self,
        link: &Link,
        key: &str,
        arguments: &[&[u8]],
        sent: impl Fn(),
    ) -> RedisResult<Value> {
        sent();
        match link.send(&command("EVALSHA", &self.name, key, arguments)).await {
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                sent();
                link.send(&command("EVAL", self.text, key, arguments)).await
            }
            answer => answer,
        }
    }
}

fn command(verb: &str, script: &str, key: &str, arguments: &[&[u8]]) -> Cmd {
    let mut command = redis::cmd(verb);
    command.arg(script).arg(1).arg(key);
    for argument in arguments {
        command.arg(*argument);
    }
    command
}

/// Sees whether a script may write and announce.
pub(super) async fn probe(link: &Link, key: &str, channel: &str) -> RedisResult<Value> {
    PROBE.run(link, key, &[channel.as_bytes()], || {}).await
}
