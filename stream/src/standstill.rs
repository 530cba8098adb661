//! Who writes, and who must not meanwhile, where something is rebuilt beside what is written to.
//!
//! Two advisory locks of Postgres. Whoever begins to write takes one shared, and never waits for it; whoever wants
//! silence takes it exclusively. They end with their connection, so a process that dies holds nothing up.
//!
//! - *Rebuilding*, for as long as that takes: no dead letter is replayed, which would change what was read already.
//! - *Standing still*, for a moment: nothing at all of the topic is on its way.
//!
//! And a row in `millrace.standstill`, which outlives them: what is asked of another server may be done late, when
//! whoever asked is dead and Postgres was restarted. It is written under both locks, and ends both kinds of writing
//! until somebody has seen to it that nothing can happen late any more.

use crate::deadline::in_time;
use crate::{Checkpoints, Failure};
use sqlx::{Connection, PgConnection, PgPool, Postgres, Transaction};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

/// Ours among Postgres' advisory locks; beside it stands the topic.
pub(crate) const STANDING_STILL: i32 = 0x006d_6901;
const REBUILDING: i32 = 0x006d_6902;
/// Between two looks at whether everything is settled: a batch takes some tens of milliseconds.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Postgres ends the silence of who asked for it and then says nothing for so long: it is frozen, or cut off. Longer than
/// the five statements of 30 s that a rebuild runs meanwhile.
const FROZEN_AFTER: Duration = Duration::from_secs(180);
/// For a lock that is held for a moment by each that begins to write.
const MOMENT: Duration = Duration::from_secs(1);

/// Nobody else rebuilds anything of the topic, and none of its dead letters is replayed, while this lives.
pub struct Rebuilding {
    connection: PgConnection,
}

/// Nothing is on its way while this lives.
pub struct Standstill {
    connection: PgConnection,
    topic: String,
}

impl Checkpoints {
    /// # Errors
    /// When somebody rebuilds something of it already, or replays a letter right now.
    pub async fn rebuild(&self, topic: &str) -> Result<Rebuilding, Failure> {
        let mut connection = alone(self.pool()).await?;
        let lock = sqlx::query_scalar("select pg_try_advisory_lock($1, hashtext($2))").bind(REBUILDING).bind(topic);
        if lock.fetch_one(&mut connection).await? {
            return Ok(Rebuilding { connection });
        }
        Err(Failure::retry(anyhow::anyhow!("a table of {topic} is being rebuilt already, or a dead letter replayed")))
    }

    /// Lets nothing of this topic begin, and waits until what had begun is settled. Who has not settled within
    /// `patience` may not any more: it, or the next owner, begins anew with what it had planned.
    ///
    /// # Errors
    /// When somebody changes a table of it for longer than that.
    pub async fn stand_still(&self, pipeline: &str, topic: &str, patience: Duration) -> Result<Standstill, Failure> {
        let until = Instant::now() + patience;
        let still = silence(self.pool(), topic, patience).await?;
        let busy = || Failure::retry(anyhow::anyhow!("a table of {topic} is being changed: try again later"));
        let mut still = still.ok_or_else(busy)?;
        loop {
            let open = on_their_way(&mut still.connection, pipeline, topic).await?;
            if open.is_empty() {
                return Ok(still);
            }
            if Instant::now() >= until {
                tracing::warn!(
                    "{topic} {open:?}: what is on its way was not settled within {patience:?} and begins anew afterwards"
                );
                interrupt(&mut still.connection, pipeline, topic).await?;
                continue;
            }
            sleep(LOOK_EVERY).await;
        }
    }
}

/// A connection that is no pool's: a lock that went back into one would never be free again. Postgres looks every minute
/// whether there is somebody at its other end.
async fn alone(pool: &PgPool) -> Result<PgConnection, Failure> {
    let mut connection = pool.acquire().await?.detach();
    sqlx::raw_sql("set tcp_keepalives_idle = 60; set tcp_keepalives_interval = 10; set tcp_keepalives_count = 6")
        .execute(&mut connection)
        .await?;
    Ok(connection)
}

/// The lock under which nothing of the topic begins; `None` where it is not free within `patience`.
async fn silence(pool: &PgPool, topic: &str, patience: Duration) -> Result<Option<Standstill>, Failure> {
    let mut connection = alone(pool).await?;
    // A wait that nobody hears the end of would keep others from beginning: Postgres ends it, a little later than we.
    let limits = "select set_config('lock_timeout', $1, false), set_config('idle_session_timeout', $2, false)";
    let milliseconds = |limit: Duration| format!("{}ms", limit.as_millis());
    let limits = sqlx::query(limits).bind(milliseconds(patience + MOMENT)).bind(milliseconds(FROZEN_AFTER));
    limits.execute(&mut connection).await?;
    let lock = sqlx::query("select pg_advisory_lock($1, hashtext($2))").bind(STANDING_STILL).bind(topic);
    match timeout(patience, lock.execute(&mut connection)).await {
        Err(_) => Ok(None),
        Ok(locked) => locked.map(|_| Some(Standstill { connection, topic: topic.to_owned() })).map_err(Failure::from),
    }
}

/// Nobody settles these plans any more before having begun anew with them, once anybody may begin at all. They are kept:
/// whoever does must know that some of it may have been inserted.
async fn interrupt(connection: &mut PgConnection, pipeline: &str, topic: &str) -> Result<(), Failure> {
    let plans = sqlx::query(
        "update millrace.checkpoint set plan = plan || '{\"waits\": true}', updated_at = now()
         where pipeline = $1 and topic = $2 and plan is not null and plan -> 'waits' is null",
    );
    plans.bind(pipeline).bind(topic).execute(connection).await?;
    Ok(())
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
    /// From now on the topic stands still also without us, until whoever comes by has seen to it that `until` is so.
    ///
    /// # Errors
    /// When one of the locks was lost before: something may have been written meanwhile.
    pub async fn outlive_us(&mut self, until: &str, rebuilding: &mut Rebuilding) -> Result<(), Failure> {
        // Over its own connection, each: it answers only where it never ended, and the lock with it.
        let row = sqlx::query("insert into millrace.standstill (topic, until) values ($1, $2)");
        let row = row.bind(&self.topic).bind(until);
        in_time(async { Ok(row.execute(&mut self.connection).await?) }).await?;
        in_time(async { Ok(rebuilding.connection.ping().await?) }).await
    }

    /// Everything goes on at once, and not only once Postgres notices that the connection is gone.
    pub async fn end(mut self) -> Result<(), Failure> {
        in_time(async {
            let row = sqlx::query("delete from millrace.standstill where topic = $1").bind(&self.topic);
            row.execute(&mut self.connection).await?;
            Ok(self.connection.close().await?)
        })
        .await
    }
}

/// The standstill that somebody left behind, and what must be so before it may end; `None` where there is none, or
/// whoever asked for it is still at it.
pub async fn left_behind(pool: &PgPool, topic: &str) -> Result<Option<(Standstill, String)>, Failure> {
    in_time(async {
        if until(&mut *pool.acquire().await?, topic).await?.is_none() {
            return Ok(None);
        }
        let Some(mut still) = silence(pool, topic, MOMENT).await? else { return Ok(None) };
        let until = until(&mut still.connection, topic).await?;
        Ok(until.map(|until| (still, until)))
    })
    .await
}

async fn until(connection: &mut PgConnection, topic: &str) -> Result<Option<String>, Failure> {
    let until = sqlx::query_scalar("select until from millrace.standstill where topic = $1").bind(topic);
    Ok(until.fetch_optional(connection).await?)
}

/// Keeps topics from standing still while it lives: for what is changed without a plan.
///
/// # Errors
/// [`Failure::Retry`] while one of them does.
pub async fn keep_moving(pool: &PgPool, topics: &[&str]) -> Result<Transaction<'static, Postgres>, Failure> {
    let mut transaction = pool.begin().await?;
    for topic in topics {
        if !may_begin(&mut transaction, STANDING_STILL, topic).await? {
            return Err(stands_still(topic));
        }
    }
    Ok(transaction)
}

/// Keeps a topic from being rebuilt while it lives: for a dead letter that is replayed.
///
/// # Errors
/// [`Failure::Retry`] while it is.
pub async fn keep_as_it_is(pool: &PgPool, topic: &str) -> Result<Transaction<'static, Postgres>, Failure> {
    let mut transaction = pool.begin().await?;
    match may_begin(&mut transaction, REBUILDING, topic).await? {
        true => Ok(transaction),
        false => Err(Failure::retry(anyhow::anyhow!("a table of {topic} is being rebuilt: replay it afterwards"))),
    }
}

async fn may_begin(transaction: &mut PgConnection, lock: i32, topic: &str) -> Result<bool, Failure> {
    let ask = sqlx::query_scalar("select millrace.may_begin($1, $2)").bind(lock).bind(topic);
    Ok(ask.fetch_one(transaction).await?)
}

pub(crate) fn stands_still(topic: &str) -> Failure {
    Failure::retry(anyhow::anyhow!("a table of {topic} is being exchanged for a rebuilt one"))
}
