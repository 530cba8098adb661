//! The webhook sink as the binary sees it: start, failed, drain, replay.

use crate::config::{ConfigError, WebhookConfig};
use crate::expand::{Expand, Room};
use crate::ledger::Ledger;
use crate::metrics::Metrics;
use crate::rules::Rules;
use crate::webhook::{self, Webhook};
use crate::workers::{LaneConfig, Workers, WorkersHandle};
use millrace_stream::{DeadLetter, DeadLetters, Decoder, Failure, Pipeline, PipelineHandle, ReplayOutcome, Spine};
use sqlx::PgPool;
use std::sync::Arc;
use uuid::Uuid;

/// What to run: the pipeline that fills the ledger, and the workers that empty it.
pub struct Sink {
    pub pool: PgPool,
    pub config: WebhookConfig,
    pub rules: Rules,
    pub metrics: Metrics,
}

/// A running sink. Dropping it without [`SinkHandle::drain`] gives up what is in flight.
pub struct SinkHandle {
    pub name: &'static str,
    pipeline: PipelineHandle,
    workers: WorkersHandle,
}

impl Sink {
    /// Joins the group and starts delivering. Needs a tokio runtime, and a rustls provider installed.
    ///
    /// # Errors
    /// What [`WebhookConfig::check`] finds, rules that send nothing, or a wrong Kafka property.
    pub fn start(self, spine: &Spine) -> anyhow::Result<SinkHandle> {
        let Self { pool, config, rules, metrics } = self;
        anyhow::ensure!(
            !rules.is_empty(),
            "no rule sends a webhook: write one into sinks/rules, or don't run this sink"
        );
        let targets = config.targets(&rules).map_err(|errors| anyhow::anyhow!(lines(&errors)))?;
        let room = Arc::new(Room::new(config.backlog_max));
        let lanes = targets.iter().map(|(name, target)| {
            (name.clone(), LaneConfig { concurrency: target.concurrency, timeout: target.timeout })
        });
        let workers = Workers {
            lanes: lanes.collect(),
            channel: Webhook::new(targets)?,
            ledger: Ledger::new(pool.clone(), webhook::NAME, owner()),
            room: room.clone(),
            retry: config.retry,
            backlog_max: config.backlog_max,
            keep_days: config.keep_days,
            metrics,
        };
        let pipeline = Pipeline {
            name: webhook::NAME,
            topics: rules.topics(),
            handler: Expand { pool, rules, room },
            config: config.pipeline,
            section: format!("sink.{}.pipeline", webhook::NAME),
        };
        Ok(SinkHandle { name: webhook::NAME, pipeline: pipeline.start(spine)?, workers: workers.start() })
    }
}

impl SinkHandle {
    /// Waits until the sink had to stop; never returns while it runs.
    pub async fn failed(&mut self) -> Arc<Failure> {
        tokio::select! {
            failure = self.pipeline.failed() => failure,
            failure = self.workers.failed() => failure,
        }
    }

    /// Claims no more and finishes what is in flight; then stops the pipeline. False when a deadline passed first:
    /// what was in flight is sent again, under the same ids, once its lease ends.
    pub async fn drain(self) -> bool {
        let delivered = self.workers.drain().await;
        self.pipeline.drain().await && delivered
    }
}

/// Gives one of this sink's dead letters its effect: rows in the ledger, which a running sink then delivers.
///
/// # Errors
/// [`Failure::Retry`] when a server it needs is away, [`Failure::Stop`] when somebody else replayed it.
pub async fn replay(
    letters: &DeadLetters,
    decoder: &Decoder,
    rules: &Rules,
    letter: &DeadLetter,
) -> Result<ReplayOutcome, Failure> {
    // One letter doesn't fill a ledger, and who asks for it wants it now.
    let room = Arc::new(Room::new(i64::MAX));
    let expand = Expand { pool: letters.pool().clone(), rules: rules.clone(), room };
    millrace_stream::replay(letters, decoder, &expand, letter).await
}

/// Who claims, for whoever reads the table: the process, and something no other process has.
fn owner() -> String {
    format!("{}-{}", std::process::id(), Uuid::new_v4().simple())
}

fn lines(errors: &[ConfigError]) -> String {
    errors.iter().map(ConfigError::to_string).collect::<Vec<_>>().join("\n")
}
