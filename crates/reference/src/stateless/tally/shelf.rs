//! Totals that are kept in Redis, for all instances: a handle only names one, and is good once.

use std::fmt;
use std::str::FromStr;
use std::sync::LazyLock;
use std::time::Duration;

use data_encoding::HEXLOWER;
use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{Client, RedisResult, Script};
use serde::{Deserialize, Serialize};

use super::Total;
use crate::instance::random;

/// How long Redis may take; whoever waits is a caller.
const PATIENCE: Duration = Duration::from_secs(2);

/// Writes a total, unless another call was faster: then the count is not the expected one (`""` where there is none yet).
static WRITE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "if (redis.call('HGET', KEYS[1], 'count') or '') ~= ARGV[1] then return 0 end
         redis.call('HSET', KEYS[1], 'total', ARGV[2], 'count', ARGV[3], 'last', ARGV[4])
         redis.call('PEXPIRE', KEYS[1], ARGV[5])
         return 1",
    )
});

/// Where totals are kept: `redis://[USER:PASSWORD@]HOST[:PORT][/DATABASE]`, or `rediss://` for TLS. `Debug` shows nothing
/// of it.
#[derive(Clone)]
pub struct TallyStore(Client);

impl FromStr for TallyStore {
    type Err = &'static str;

    fn from_str(url: &str) -> Result<Self, Self::Err> {
        // What stands there may hold a password: it is not repeated.
        Client::open(url).map(TallyStore).map_err(|_| "write redis://HOST:PORT, or rediss:// for TLS")
    }
}

impl fmt::Debug for TallyStore {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("TallyStore")
    }
}

/// What a handle says of a total that is kept.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Named {
    id: String,
    /// How many amounts had been added when the handle was given out.
    count: u64,
}

/// A total as it is kept.
pub(super) struct Kept {
    pub(super) total: Total,
    /// What was added last.
    last: i64,
}

impl Kept {
    /// Whether the handle is the one that was given out last.
    pub(super) fn is_newest(&self, named: &Named) -> bool {
        self.total.count == named.count
    }

    /// Whether this is what came of the same call: its answer may not have arrived.
    pub(super) fn is_after(&self, named: &Named, amount: i64) -> bool {
        self.total.count == named.count.saturating_add(1) && self.last == amount
    }
}

/// The totals of all callers of this audience.
pub(super) struct Shelf {
    redis: ConnectionManager,
    prefix: String,
    lifetime: Duration,
}

impl Shelf {
    /// Connects with the first request. Must be called in a runtime.
    pub(super) fn new(store: &TallyStore, audience: &str, lifetime: Duration) -> RedisResult<Self> {
        let config = ConnectionManagerConfig::new()
            .set_number_of_retries(1)
            .set_connection_timeout(Some(PATIENCE))
            .set_response_timeout(Some(PATIENCE));
        let redis = ConnectionManager::new_lazy_with_config(store.0.clone(), config)?;
        Ok(Shelf { redis, prefix: format!("throughline-reference:{audience}:tally:"), lifetime })
    }

    fn key(&self, named: &Named) -> String {
        format!("{}{}", self.prefix, named.id)
    }

    /// The total that is kept under this name; None where it has expired.
    pub(super) async fn read(&self, named: &Named) -> RedisResult<Option<Kept>> {
        let mut redis = self.redis.clone();
        let fields: (Option<i64>, Option<u64>, Option<i64>) = redis::cmd("HMGET")
            .arg(self.key(named))
            .arg(&["total", "count", "last"])
            .query_async(&mut redis)
            .await?;
        Ok(match fields {
            (Some(total), Some(count), Some(last)) => Some(Kept { total: Total { total, count }, last }),
            _ => None,
        })
    }

    /// Keeps a new total.
    pub(super) async fn begin(&self, total: Total, last: i64) -> RedisResult<Named> {
        let mut id = [0; 16];
        random(&mut id);
        let named = Named { id: HEXLOWER.encode(&id), count: total.count };
        self.write(&named, "", total, last).await?;
        Ok(named)
    }

    /// Keeps `total` in the place of what the handle names; None where that is another by now.
    pub(super) async fn replace(&self, named: Named, total: Total, last: i64) -> RedisResult<Option<Named>> {
        let written = self.write(&named, &named.count.to_string(), total, last).await?;
        Ok(written.then_some(named.at(total)))
    }

    async fn write(&self, named: &Named, expected: &str, total: Total, last: i64) -> RedisResult<bool> {
        let mut redis = self.redis.clone();
        let lifetime = u64::try_from(self.lifetime.as_millis()).unwrap_or(u64::MAX);
        WRITE
            .key(self.key(named))
            .arg(expected)
            .arg(total.total)
            .arg(total.count)
            .arg(last)
            .arg(lifetime)
            .invoke_async(&mut redis)
            .await
    }
}

impl Named {
    /// The same, at this total.
    pub(super) fn at(self, total: Total) -> Self {
        Named { count: total.count, ..self }
    }
}
