//! The end of a rebuild: nothing of the topic is on its way, what came meanwhile is copied, the tables are exchanged.
//!
//! A server that hangs may carry an exchange out late, when whoever asked for it is dead. So it is asked for only once
//! Postgres says, in a row that outlives us, that nothing of the topic may begin until the shadow is gone. Both tables
//! hold everything until then, whichever is in use; and without a shadow of that name there is nothing to exchange.
//! Whoever comes by and may not begin drops it, if we don't.

use super::super::server::{Server, to_anyhow};
use super::super::table::Table;
use super::{NAME, Work, statements};
use anyhow::{Context, ensure};
use millrace_stream::{Failure, crash_at, left_behind};
use sqlx::PgPool;
use std::time::{Duration, Instant};

/// How long what is on its way has to settle. Ingestion of the topic waits no longer than this and the exchange.
const PATIENCE: Duration = Duration::from_secs(30);
/// Copies of what came meanwhile, each shorter than the one before, until one is short enough to stand still for.
const CATCH_UP_MAX: usize = 20;
const SHORT: Duration = Duration::from_secs(1);

impl Work<'_> {
    /// How long the topic stood still, in seconds.
    pub(super) async fn exchange(&mut self, mark: i64) -> anyhow::Result<f64> {
        let mark = self.catch_up(mark).await?;
        self.leave_out_what_was_given_up().await?; // most of it, while there is time
        crash_at("rebuild_caught_up");
        let (started, topic) = (Instant::now(), &self.rebuild.contract.topic);
        let checkpoints = &self.spine.checkpoints;
        let mut still = checkpoints.stand_still(NAME, topic, PATIENCE).await.map_err(to_anyhow)?;
        self.server = self.moment.clone();
        self.copy_since(mark).await?;
        self.leave_out_what_was_given_up().await?;
        self.erase().await?;
        self.nothing_is_left_behind().await?;
        let rebuilt = self.uuid(&self.shadow).await?;
        still.outlive_us(self.shadow.stored_as(), &mut self.alone).await.map_err(to_anyhow)?;
        crash_at("rebuild_before_exchange");
        let answer = self.server.execute(&statements::exchange(&self.table, &self.shadow)).await;
        crash_at("rebuild_exchanged");
        let dropped = self.server.execute(&statements::drop(self.shadow.stored_as())).await;
        dropped
            .map_err(to_anyhow)
            .context("whether the tables were exchanged is not known: the next batch sees to it")?;
        if let Err(failure) = still.end().await {
            tracing::warn!(
                "{topic} goes on once its next batch has seen that nothing is exchanged any more: {failure}"
            );
        }
        let is_in_use = self.uuid(&self.table).await? == rebuilt;
        ensure!(
            is_in_use,
            "the tables were not exchanged: {}",
            answer.err().map_or_else(String::new, |e| e.to_string())
        );
        Ok(started.elapsed().as_secs_f64())
    }

    /// Since when rows are still to be copied once nothing more is inserted.
    async fn catch_up(&self, mut mark: i64) -> anyhow::Result<i64> {
        for _ in 0..CATCH_UP_MAX {
            let (started, next) = (Instant::now(), self.now().await?);
            self.copy_since(mark).await?;
            mark = next;
            if started.elapsed() < SHORT {
                break;
            }
        }
        Ok(mark)
    }

    /// A clock that was set back would hide rows from a copy by time.
    async fn nothing_is_left_behind(&self) -> anyhow::Result<()> {
        let (topic, begun) = (&self.rebuild.contract.topic, &self.begun);
        let live: u64 = self.ask(&statements::came_meanwhile(&self.table, topic, begun)).await?;
        let copied: u64 = self.ask(&statements::came_meanwhile(&self.shadow, topic, begun)).await?;
        ensure!(
            copied >= live,
            "{} of {live} events that came in meanwhile were not copied: was the server's clock set? Begin again",
            live - copied
        );
        Ok(())
    }

    /// A table keeps it under whatever name.
    async fn uuid(&self, table: &Table) -> anyhow::Result<String> {
        self.ask(&statements::uuid(table)).await
    }
}

/// Begins what may not begin while a table of these topics is exchanged. Where whoever exchanges it is dead, sees first
/// to it that nothing is exchanged any more.
pub(in super::super) async fn unless_exchanged<T, B>(
    server: &Server,
    pool: &PgPool,
    topics: &[&str],
    begin: impl Fn() -> B,
) -> Result<T, Failure>
where
    B: Future<Output = Result<T, Failure>>,
{
    let begun = begin().await;
    let Err(Failure::Retry(_)) = &begun else { return begun };
    let mut finished = false;
    for topic in topics {
        finished |= finish(server, pool, topic).await?;
    }
    if finished { begin().await } else { begun }
}

/// Ends the standstill that a dead rebuild left, if there is one.
pub(super) async fn finish(server: &Server, pool: &PgPool, topic: &str) -> Result<bool, Failure> {
    let Some((still, shadow)) = left_behind(pool, topic).await? else { return Ok(false) };
    let dropped = server.execute(&statements::drop(&shadow)).await;
    dropped.map_err(|failure| failure.context(format!("could not drop {shadow}, which a dead rebuild left")))?;
    still.end().await?;
    tracing::warn!(%topic, "goes on: a rebuild died while it exchanged tables, and what it left is dropped");
    Ok(true)
}
