//! Where the master is, as Sentinels know it.

use std::collections::HashMap;
use std::time::Duration;

use redis::{AsyncConnectionConfig, Client, RedisResult};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};

use super::failure::Failure;
use super::place::Host;

/// How long a Sentinel may take to answer.
const ANSWER: Duration = Duration::from_millis(500);

/// Asks all at once, and believes what most of all say; or, when the others have not answered in time, what most
/// of those say that have. One that was cut off from the others may still name an old master.
pub(super) async fn master(sentinels: Vec<Client>, name: &str) -> Result<Host, Failure> {
    let all = sentinels.len();
    let mut asked = JoinSet::new();
    for sentinel in sentinels {
        let name = name.to_owned();
        asked.spawn(async move { timeout(ANSWER, ask(sentinel, &name)).await });
    }
    let deadline = Instant::now() + ANSWER;
    let mut votes: HashMap<Host, usize> = HashMap::new();
    let mut failure = Failure::slow("the question to Sentinel", ANSWER);
    while let Ok(Some(answer)) = timeout_at(deadline, asked.join_next()).await {
        match answer {
            Ok(Ok(Ok(Some(host)))) => {
                let votes = votes.entry(host.clone()).or_default();
                *votes += 1;
                if *votes > all / 2 {
                    return Ok(host);
                }
            }
            Ok(Ok(Ok(None))) => failure = Failure::Away(format!("Sentinel knows no master {name:?}")),
            Ok(Ok(Err(error))) => failure = Failure::from(&error),
            Ok(Err(_)) | Err(_) => {}
        }
    }
    votes.into_iter().max_by_key(|(_, votes)| *votes).map(|(host, _)| host).ok_or(failure)
}

async fn ask(sentinel: Client, name: &str) -> RedisResult<Option<Host>> {
    let config = AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
    let mut connection = sentinel.get_multiplexed_async_connection_with_config(&config).await?;
    let mut question = redis::cmd("SENTINEL");
    question.arg("GET-MASTER-ADDR-BY-NAME").arg(name);
    let answer: Option<(String, u16)> = question.query_async(&mut connection).await?;
    Ok(answer.map(|(name, port)| Host { name, port }))
}
