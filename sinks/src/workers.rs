//! A channel's workers in one process: a lane an endpoint, one that wakes them, one that records outcomes, one
//! that keeps the ledger in bounds. The first that must stop stops them all.

use crate::channel::Channel;
use crate::expand::Room;
use crate::lane::Lane;
use crate::ledger::{Ended, Ledger};
use crate::metrics::Metrics;
use crate::retry::RetryConfig;
use millrace_stream::{Failure, crash_at, retry_until, why_it_stopped};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

/// How late a delivery can be noticed that another process wrote, or that became due again; a row of this
/// process rings at once.
const POLL: Duration = Duration::from_millis(200);
/// Outcomes recorded by one statement.
const RECORD_MAX: usize = 500;
/// Outcomes waiting to be recorded; beyond that lanes wait, and claim no more.
const ENDED_MAX: usize = 1_000;
/// Between two counts of the backlog. New rows of this process are added in between.
const COUNT_EVERY: Duration = Duration::from_secs(5);
/// Counts between two sweeps: once a minute is plenty for what lasts weeks.
const COUNTS_A_SWEEP: u32 = 12;
/// Statements in one sweep, so that it ends; the next one goes on.
const SWEEP_STATEMENTS_MAX: u32 = 100;
/// Longer than any attempt takes by default; what is not finished is sent again when its lease ends.
pub(crate) const DRAIN_DEADLINE: Duration = Duration::from_secs(20);

/// One endpoint's bounds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LaneConfig {
    pub concurrency: usize,
    pub timeout: Duration,
}

/// What to run.
pub(crate) struct Workers<C> {
    pub channel: C,
    pub lanes: BTreeMap<String, LaneConfig>,
    pub ledger: Ledger,
    pub room: Arc<Room>,
    pub retry: RetryConfig,
    pub backlog_max: i64,
    pub keep_days: u32,
    pub metrics: Metrics,
}

/// Running workers. Dropping them gives up what is in flight.
pub(crate) struct WorkersHandle {
    stop: CancellationToken,
    failure: watch::Receiver<Option<Arc<Failure>>>,
    all: JoinHandle<()>,
}

impl<C: Channel> Workers<C> {
    pub fn start(self) -> WorkersHandle {
        let stop = CancellationToken::new();
        let (failed, failure) = watch::channel(None);
        let mut tasks = JoinSet::new();
        let (ended, outcomes) = mpsc::channel(ENDED_MAX);
        let channel = Arc::new(self.channel);
        let mut bells = BTreeMap::new();
        for (endpoint, config) in self.lanes {
            let ready = Arc::new(Notify::new());
            bells.insert(endpoint.clone(), ready.clone());
            let lane = Lane {
                endpoint,
                concurrency: config.concurrency,
                timeout: config.timeout,
                retry: self.retry,
                channel: channel.clone(),
                ledger: self.ledger.clone(),
                metrics: self.metrics.clone(),
                ready,
                ended: ended.clone(),
                stop: stop.clone(),
            };
            tasks.spawn(lane.run());
        }
        drop(ended); // the recorder ends with the last lane
        tasks.spawn(record(self.ledger.clone(), outcomes));
        tasks.spawn(ring(self.ledger.clone(), bells, self.room.clone(), stop.clone()));
        let keeper = Keeper {
            ledger: self.ledger,
            room: self.room,
            tries_max: self.retry.attempts,
            backlog_max: self.backlog_max,
            keep_days: self.keep_days,
        };
        tasks.spawn(keeper.run(stop.clone()));
        let all = tokio::spawn(supervise(tasks, failed, stop.clone()));
        WorkersHandle { stop, failure, all }
    }
}

impl WorkersHandle {
    /// Waits until they had to stop; never returns while they run.
    pub async fn failed(&mut self) -> Arc<Failure> {
        why_it_stopped(&mut self.failure, "the delivery workers ended").await
    }

    /// Claims no more, lets attempts in flight end and be recorded. False when [`DRAIN_DEADLINE`] passed first.
    pub async fn drain(mut self) -> bool {
        self.stop.cancel();
        tokio::time::timeout(DRAIN_DEADLINE, &mut self.all).await.is_ok()
    }
}

impl Drop for WorkersHandle {
    fn drop(&mut self) {
        self.stop.cancel();
        self.all.abort();
    }
}

async fn supervise(
    mut tasks: JoinSet<Result<(), Failure>>,
    failed: watch::Sender<Option<Arc<Failure>>>,
    stop: CancellationToken,
) {
    while let Some(task) = tasks.join_next().await {
        let ended = task.unwrap_or_else(|panic| Err(Failure::stop(panic)));
        if let Err(failure) = ended {
            tracing::error!("stopped delivering: {failure}");
            // The first reason is the one worth reading.
            failed.send_if_modified(|slot| slot.is_none() && slot.replace(Arc::new(failure)).is_none());
            stop.cancel();
        }
    }
}

/// Writes down what came of attempts, as many at once as have gathered meanwhile.
async fn record(ledger: Ledger, mut outcomes: mpsc::Receiver<Ended>) -> Result<(), Failure> {
    let unending = CancellationToken::new(); // who drains has the deadline
    let mut ended = Vec::with_capacity(RECORD_MAX);
    while outcomes.recv_many(&mut ended, RECORD_MAX).await > 0 {
        retry_until(&unending, "could not record deliveries", || ledger.record(&ended)).await?;
        crash_at("webhook_after_record");
        ended.clear();
    }
    Ok(())
}

/// Rings the lanes that have something due: when rows were added here, and every [`POLL`].
async fn ring(
    ledger: Ledger,
    bells: BTreeMap<String, Arc<Notify>>,
    room: Arc<Room>,
    stop: CancellationToken,
) -> Result<(), Failure> {
    let endpoints: Vec<String> = bells.keys().cloned().collect();
    while !stop.is_cancelled() {
        let ready = retry_until(&stop, "could not look for due deliveries", || ledger.ready(&endpoints)).await?;
        for endpoint in ready.unwrap_or_default() {
            if let Some(bell) = bells.get(&endpoint) {
                bell.notify_one();
            }
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = room.added.notified() => {}
            () = tokio::time::sleep(POLL) => {}
        }
    }
    Ok(())
}

/// Counts the backlog, and removes what nobody needs any more.
struct Keeper {
    ledger: Ledger,
    room: Arc<Room>,
    tries_max: i32,
    backlog_max: i64,
    keep_days: u32,
}

impl Keeper {
    async fn run(self, stop: CancellationToken) -> Result<(), Failure> {
        let mut counts: u32 = 0;
        while !stop.is_cancelled() {
            let count = || self.ledger.backlog(self.backlog_max);
            if let Some(open) = retry_until(&stop, "could not count the backlog", count).await? {
                self.room.counted(open);
            }
            if counts.is_multiple_of(COUNTS_A_SWEEP) {
                retry_until(&stop, "could not sweep the ledger", || self.sweep(&stop)).await?;
            }
            counts = counts.wrapping_add(1);
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(COUNT_EVERY) => {}
            }
        }
        Ok(())
    }

    async fn sweep(&self, stop: &CancellationToken) -> Result<(), Failure> {
        let failed = self.ledger.fail_exhausted(self.tries_max).await?;
        if failed > 0 {
            tracing::warn!(failed, "gave deliveries up whose last attempt ended without a word");
        }
        for _ in 0..SWEEP_STATEMENTS_MAX {
            if stop.is_cancelled() || !self.ledger.forget_delivered(self.keep_days).await? {
                break;
            }
        }
        Ok(())
    }
}
