//! Who writes, and who must not meanwhile, where something is rebuilt beside what is written to.
//!
//! Two advisory locks of Postgres. Whoever begins to write takes one shared, and never waits for it; whoever wants
//! silence takes it exclusively. They end with their connection, so a process that dies holds nothing up.
//!
//! - *Rebuilding*, for as long as that takes: no dead letter is replayed, which would change what was read already.
//! - *Standing still*, for a moment: nothing at all of the topic is on its way.

use crate::{Checkpoints, Failure};
use sqlx::{Connection, PgConnection, PgPool, Postgres, Transaction};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Ours among Postgres' advisory locks; beside it stands the topic.
pub(crate) const STANDING_STILL: i32 = 0x006d_6901;
const REBUILDING: i32 = 0x006d_6902;
/// Between two looks at whether everything is settled: a batch takes some tens of milliseconds.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Nobody else rebuilds anything of the topic, and none of its dead letters is replayed, while this lives.
pub struct Rebuilding {
    _connection: PgConnection,
}

/// Nothing is on its way while this lives.
pub struct Standstill {
    connection: PgConnection,
}

impl Checkpoints {
    /// # Errors
    /// When somebody rebuilds something of it already, or replays a letter right now.
    pub async fn rebuild(&self, topic: &str) -> Result<Rebuilding, Failure> {
        let mut connection = self.pool().acquire().await?.detach();
        let lock = sqlx::query_scalar("select pg_try_advisory_lock($1, hashtext($2))").bind(REBUILDING).bind(topic);
        if lock.fetch_one(&mut connection).await? {
            return Ok(Rebuilding { _connection: connection });
        }
        Err(Failure::retry(anyhow::anyhow!("a table of {topic} is being rebuilt already, or a dead letter replayed")))
    }

    /// Lets nothing of this topic begin, and waits until what had begun is settled.
    ///
    /// # Errors
    /// Partitions that have not settled within `patience`.
    pub async fn stand_still(&self, pipeline: &str, topic: &str, patience: Duration) -> Result<Standstill, Failure> {
        let mut connection = self.pool().acquire().await?.detach();
        let until = Instant::now() + patience;
        let lock = sqlx::query("select pg_advisory_lock($1, hashtext($2))").bind(STANDING_STILL).bind(topic);
        let locked = tokio::time::timeout_at(until, lock.execute(&mut connection)).await;
        locked
            .map_err(|_| Failure::retry(anyhow::anyhow!("a table of {topic} is being changed: try again later")))??;
        loop {
            let open = on_their_way(&mut connection, pipeline, topic).await?;
            if open.is_empty() {
                return Ok(Standstill { connection });
            }
            if Instant::now() >= until {
                return Err(Failure::retry(anyhow::anyhow!(
                    "{topic} {open:?}: what is on its way was not settled within {patience:?}; does the role run that \
                     has these partitions? An unfinished batch needs it"
                )));
            }
            sleep(LOOK_EVERY).await;
        }
    }
}

/// Partitions with a plan that somebody carries out.
async fn on_their_way(connection: &mut PgConnection, pipeline: &str, topic: &str) -> Result<Vec<i32>, Failure> {
    let open = sqlx::query_scalar(
        "select partition from millrace.checkpoint
         where pipeline = $1 and topic = $2 and plan is not null and plan -> 'waits' is null order by partition",
    );
    Ok(open.bind(pipeline).bind(topic).fetch_all(connection).await?)
}

impl Standstill {
    /// Everything goes on at once, and not only once Postgres notices that the connection is gone.
    pub async fn end(self) -> Result<(), Failure> {
        Ok(self.connection.close().await?)
    }
}

/// Keeps a topic from standing still while it lives: for what is changed without a plan.
///
/// # Errors
/// [`Failure::Retry`] while it stands still.
pub async fn keep_moving(pool: &PgPool, topic: &str) -> Result<Transaction<'static, Postgres>, Failure> {
    shared(pool, STANDING_STILL, topic).await?.ok_or_else(|| stands_still(topic))
}

/// Keeps a topic from being rebuilt while it lives: for a dead letter that is replayed.
///
/// # Errors
/// [`Failure::Retry`] while it is.
pub async fn keep_as_it_is(pool: &PgPool, topic: &str) -> Result<Transaction<'static, Postgres>, Failure> {
    let rebuilt = || Failure::retry(anyhow::anyhow!("a table of {topic} is being rebuilt: replay it afterwards"));
    shared(pool, REBUILDING, topic).await?.ok_or_else(rebuilt)
}

async fn shared(pool: &PgPool, lock: i32, topic: &str) -> Result<Option<Transaction<'static, Postgres>>, Failure> {
    let mut transaction = pool.begin().await?;
    let take = sqlx::query_scalar("select pg_try_advisory_xact_lock_shared($1, hashtext($2))").bind(lock).bind(topic);
    let ours: bool = take.fetch_one(&mut *transaction).await?;
    Ok(ours.then_some(transaction))
}

pub(crate) fn stands_still(topic: &str) -> Failure {
    Failure::retry(anyhow::anyhow!("a table of {topic} is being exchanged for a rebuilt one"))
}
