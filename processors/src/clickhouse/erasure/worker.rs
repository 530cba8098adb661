//! The worker: every so often, whoever has asked is forgotten; and what has come back of others is removed again.
//!
//! ```text
//! turn ─→ who waits ─→ tell ClickHouse ─→ each table: count, empty ─→ look ─→ they are erased
//! ```
//!
//! Every step may be repeated, by anybody, so one that dies in between changes nothing. One process at a time does it,
//! which saves work and is not needed to be right.

use super::super::table::{RAW, SHADOW};
use super::Server;
use super::config::ErasureConfig;
use super::ledger::{Ledger, Recorded};
use super::metrics::ErasureMetrics;
use super::personal::{self, Personal};
use millrace_stream::{Failure, crash_at, retry_until, why_it_stopped};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// It stops between two awaits: this much is only for a process that is starved.
const DRAIN_DEADLINE: Duration = Duration::from_secs(5);
/// What the turn is longer than a statement.
const TURN_MARGIN: Duration = Duration::from_secs(60);

/// What it needs.
pub(super) struct Worker {
    pub ledger: Ledger,
    pub server: Server,
    pub config: ErasureConfig,
    pub metrics: ErasureMetrics,
}

/// A running worker.
pub(super) struct WorkerHandle {
    stop: CancellationToken,
    failure: watch::Receiver<Option<Arc<Failure>>>,
    running: JoinHandle<()>,
}

impl Worker {
    pub fn start(self) -> WorkerHandle {
        let stop = CancellationToken::new();
        let (failed, failure) = watch::channel(None);
        let stopped = stop.clone();
        let running = tokio::spawn(async move {
            if let Some(Err(failure)) = stopped.run_until_cancelled(self.run(&stopped)).await {
                tracing::error!("stopped erasing: {failure}");
                let _ = failed.send(Some(Arc::new(failure)));
            }
        });
        WorkerHandle { stop, failure, running }
    }

    /// Ends only when it must stop.
    async fn run(&self, stop: &CancellationToken) -> Result<(), Failure> {
        let mut swept: Option<Instant> = None;
        loop {
            let sweep = swept.is_none_or(|at| at.elapsed() >= self.config.sweep_every());
            let started = Instant::now();
            let round = || self.round(sweep);
            match retry_until(stop, "could not erase personal data", round).await?.flatten() {
                Some(0) => swept = Some(started),
                // Rows that were on their way to ClickHouse are there by the next round: look at everybody again.
                Some(_) => swept = None,
                None => {}
            }
            tokio::time::sleep(self.config.every()).await;
        }
    }

    /// How many people were forgotten; `None` when there was nothing to do, or it is another process's turn.
    async fn round(&self, sweep: bool) -> Result<Option<usize>, Failure> {
        let progress = self.ledger.progress().await?;
        self.metrics.set(&progress);
        if progress.pending == 0 && !sweep {
            return Ok(None);
        }
        let Some(turn) = self.ledger.turn(self.config.timeout() + TURN_MARGIN).await? else { return Ok(None) };
        if sweep {
            self.remind(progress.erased).await?;
        }
        let erased = self.erase().await?;
        self.metrics.set(&self.ledger.progress().await?);
        turn.end().await;
        Ok(Some(erased))
    }

    /// A ClickHouse that came back from a backup has forgotten whom to look for.
    async fn remind(&self, erased: i64) -> Result<(), Failure> {
        if personal::remembered(&self.server).await? >= u64::try_from(erased).unwrap_or_default() {
            return Ok(());
        }
        let mut after = String::new();
        loop {
            let page = self.ledger.erased_after(&after, self.config.batch).await?;
            let Some(last) = page.last() else { return Ok(()) };
            personal::remember(&self.server, &page).await?;
            after.clone_from(&last.subject);
        }
    }

    /// Everybody who waits, a batch at a time; and what has come back of anybody. How many had waited.
    async fn erase(&self) -> Result<usize, Failure> {
        let mut erased = 0;
        loop {
            let people = self.ledger.pending(self.config.batch).await?;
            if !people.is_empty() {
                personal::remember(&self.server, &people).await?;
            }
            let tables = personal::personal(&self.server, &[RAW, SHADOW]).await?;
            for table in &tables {
                self.empty(table).await?;
            }
            crash_at("erasure_emptied");
            self.look(&tables, &people).await?;
            self.ledger.erased(&people).await?;
            erased += people.len();
            if people.len() < self.config.batch as usize {
                return Ok(erased);
            }
        }
    }

    async fn empty(&self, personal: &Personal) -> Result<(), Failure> {
        let (table, started) = (personal.table(), Instant::now());
        let rows = personal.erase(&self.server).await;
        let rows = rows.map_err(|failure| failure.context(format!("could not empty {table}")))?;
        if rows > 0 {
            tracing::info!(table, rows, "erased personal data in {:.1?}", started.elapsed());
        }
        Ok(())
    }

    /// Nobody is called erased on the word of a statement alone.
    async fn look(&self, tables: &[Personal], people: &[Recorded]) -> Result<(), Failure> {
        let times = || people.iter().map(|person| person.recorded_at);
        let (Some(since), Some(until)) = (times().min(), times().max()) else { return Ok(()) };
        for personal in tables {
            let left = personal.left(&self.server, since, until).await?;
            if left > 0 {
                let table = personal.table();
                return Err(Failure::retry(anyhow::anyhow!("{left} rows of {table} came in meanwhile")));
            }
        }
        Ok(())
    }
}

impl WorkerHandle {
    /// Waits until it had to stop; never returns while it runs.
    pub async fn failed(&mut self) -> Arc<Failure> {
        why_it_stopped(&mut self.failure, "the erasing worker ended").await
    }

    /// False when it did not stop in time.
    pub async fn drain(mut self) -> bool {
        self.stop.cancel();
        tokio::time::timeout(DRAIN_DEADLINE, &mut self.running).await.is_ok()
    }
}

impl Drop for WorkerHandle {
    fn drop(&mut self) {
        self.stop.cancel();
        self.running.abort();
    }
}
