//! The pipeline `erasure`: whoever asks to be forgotten is, in every table with personal columns.
//!
//! ```text
//! event that `erases` ─→ asked: a row in millrace.erasure, in the checkpoint's transaction
//!                                  │ every so often, one process at a time
//!                                  └─→ worker: tell ClickHouse whose ─→ empty their columns ─→ look ─→ erased_at
//! ```
//!
//! ClickHouse keeps two small tables for this in a database of its own: `erasure.subject`, everybody ever erased, so
//! that data which comes back later is found without being told of; and `erasure.personal`, which columns are whose,
//! written by whoever makes the columns. Erasing is the same statement each time and harmless to repeat (ADR 0010).

mod asked;
mod config;
mod ledger;
mod metrics;
mod personal;
mod worker;

pub use config::ErasureConfig;
pub use ledger::{Progress, progress};
pub use metrics::ErasureMetrics;
pub use personal::{Remains, remains};

pub(super) use personal::{DATABASE, Marks, erase_shadow, mark, marks, mismatch, prepare};

use super::config::ClickHouseConfig;
use super::server::Server;
use asked::Asks;
use ledger::Ledger;
use millrace_schemas::Contracts;
use millrace_stream::{
    DeadLetter, DeadLetters, Decoder, Failure, Migration, Pipeline, PipelineHandle, ReplayOutcome, Spine,
};
use sqlx::PgPool;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use worker::{Worker, WorkerHandle};

/// The pipeline, its consumer group's suffix, its label and its name on the command line.
pub const NAME: &str = "erasure";

/// Who asked to be forgotten.
pub const MIGRATIONS: &[Migration] =
    &[Migration { number: 203, name: "erasure", sql: include_str!("../../../migrations/0203_erasure.sql") }];

/// Personal data is gone this long after the event was read, or after it came back, while ClickHouse answers.
pub const PROMISED_WITHIN: Duration = Duration::from_hours(1);

/// What to run: the pipeline that writes down who asked, and the worker that erases.
pub struct Erasure {
    pub pool: PgPool,
    pub clickhouse: ClickHouseConfig,
    pub config: ErasureConfig,
    pub metrics: ErasureMetrics,
}

/// Both, running. Dropping it without [`ErasureHandle::drain`] gives up what is in hand.
pub struct ErasureHandle {
    pipeline: PipelineHandle,
    worker: WorkerHandle,
}

impl Erasure {
    /// Joins the group and starts erasing. Needs a tokio runtime.
    ///
    /// # Errors
    /// A configuration that cannot be, or contracts of which none erases.
    pub fn start(self, spine: &Spine, contracts: &Contracts) -> anyhow::Result<ErasureHandle> {
        let Self { pool, clickhouse, config, metrics } = self;
        config.check()?;
        let erasing = contracts.iter().filter(|contract| contract.erases.is_some());
        let topics: BTreeSet<String> = erasing.map(|contract| contract.topic.clone()).collect();
        anyhow::ensure!(
            !topics.is_empty(),
            "no contract of this project `erases`: add it to the event that asks for it, or leave {NAME} out of what is run"
        );
        let server = Server::with_timeout(&clickhouse, config.timeout())?;
        let worker = Worker { ledger: Ledger::new(pool.clone()), server, config: config.clone(), metrics };
        let topics = topics.into_iter().collect();
        let section = format!("process.{NAME}.pipeline");
        let pipeline = Pipeline { name: NAME, topics, handler: Asks::new(pool), config: config.pipeline, section };
        Ok(ErasureHandle { pipeline: pipeline.start(spine)?, worker: worker.start() })
    }
}

impl ErasureHandle {
    /// Waits until it had to stop; never returns while it runs.
    pub async fn failed(&mut self) -> Arc<Failure> {
        tokio::select! {
            failure = self.pipeline.failed() => failure,
            failure = self.worker.failed() => failure,
        }
    }

    /// Stops erasing at once, which is safe anywhere; then the pipeline. False when a deadline passed first.
    pub async fn drain(self) -> bool {
        let stopped = self.worker.drain().await;
        self.pipeline.drain().await && stopped
    }
}

/// Gives one of this pipeline's dead letters its effect: a row that a running worker then sees to.
///
/// # Errors
/// [`Failure::Retry`] when a server it needs is away, [`Failure::Stop`] when somebody else replayed it.
pub async fn replay(letters: &DeadLetters, decoder: &Decoder, letter: &DeadLetter) -> Result<ReplayOutcome, Failure> {
    millrace_stream::replay(letters, decoder, &Asks::new(letters.pool().clone()), letter).await
}
