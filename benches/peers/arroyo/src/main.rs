//! Kafka to ClickHouse as a team would write it on Arroyo: at least once, offsets committed after the insert, in
//! Arroyo's own strategies. No deduplication, no dead letters, no schema evolution: what a plain consumer has.
//!
//! ```text
//! StreamProcessor ─→ Reduce (rows or time) ─→ RunTaskInThreads (decode, encode, insert) ─→ CommitOffsets
//! ```
//!
//! Snuba decodes each message as a task of its own, before the batch is made. Here a batch is one task, which takes a
//! task's cost off every message.

mod insert;
mod row;
mod table;

use insert::Inserter;
use sentry_arroyo::backends::kafka::config::KafkaConfig;
use sentry_arroyo::backends::kafka::types::KafkaPayload;
use sentry_arroyo::backends::kafka::{InitialOffset, KafkaConsumer};
use sentry_arroyo::processing::strategies::commit_offsets::CommitOffsets;
use sentry_arroyo::processing::strategies::reduce::Reduce;
use sentry_arroyo::processing::strategies::run_task_in_threads::{
    ConcurrencyConfig, RunTaskError, RunTaskFunc, RunTaskInThreads,
};
use sentry_arroyo::processing::strategies::{ProcessingStrategy, ProcessingStrategyFactory};
use sentry_arroyo::processing::{Callbacks, ConsumerState, ProcessorHandle, StreamProcessor};
use sentry_arroyo::types::{BrokerMessage, InnerMessage, Message, Topic};
use std::collections::HashMap;
use std::env::var;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::signal::unix::{SignalKind, signal};

/// Snuba's default.
const BATCH_ROWS: usize = 50_000;
/// As long as Millrace lingers.
const BATCH_TIME: Duration = Duration::from_secs(1);
/// Batches under way; Arroyo takes one more. While all are, its loop spins instead of waiting.
const CONCURRENT_BATCHES: usize = 4;
/// Snuba's.
const COMMIT_EVERY: Duration = Duration::from_secs(1);
const MAX_POLL_INTERVAL_MS: usize = 300_000;

/// What was read, with where it was read.
type Record = BrokerMessage<KafkaPayload>;
type Batch = Vec<Record>;

/// Arroyo's errors can't be sent to other threads, so they are no `anyhow::Error`.
fn main() -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt().with_max_level(tracing_subscriber::filter::LevelFilter::WARN).init();
    let topics: Vec<Topic> = var("TOPICS")?.split(',').map(Topic::new).collect();
    let inserter = Inserter::new(&var("REGISTRY")?, &var("CLICKHOUSE")?, &var("DATABASE")?);
    let factory = Factory { inserter: Arc::new(inserter), concurrency: ConcurrencyConfig::new(CONCURRENT_BATCHES) };
    let runtime = factory.concurrency.handle();
    let state = ConsumerState::new(Box::new(factory), None);
    let consumer = KafkaConsumer::new(kafka(var("BROKERS")?, var("GROUP")?), &topics, Callbacks(state.clone()))?;
    let processor = StreamProcessor::new(Box::new(consumer), state);
    stop_on_term(&runtime, processor.get_handle())?;
    Ok(processor.run()?)
}

/// Reads ahead at least as far as Millrace does.
fn kafka(brokers: String, group: String) -> KafkaConfig {
    let more = HashMap::from([
        ("queued.max.messages.kbytes".to_owned(), "32768".to_owned()),
        ("fetch.message.max.bytes".to_owned(), "2097152".to_owned()),
        ("fetch.wait.max.ms".to_owned(), "10".to_owned()),
    ]);
    KafkaConfig::new_consumer_config(
        vec![brokers],
        group,
        InitialOffset::Earliest,
        false,
        MAX_POLL_INTERVAL_MS,
        Some(more),
    )
}

fn stop_on_term(runtime: &Handle, mut processor: ProcessorHandle) -> anyhow::Result<()> {
    let _entered = runtime.enter();
    let mut terminated = signal(SignalKind::terminate())?;
    runtime.spawn(async move {
        terminated.recv().await;
        processor.signal_shutdown();
    });
    Ok(())
}

struct Factory {
    inserter: Arc<Inserter>,
    concurrency: ConcurrencyConfig,
}

impl ProcessingStrategyFactory<KafkaPayload> for Factory {
    fn create(&self) -> Box<dyn ProcessingStrategy<KafkaPayload>> {
        let commit = CommitOffsets::new(COMMIT_EVERY);
        let inserter = self.inserter.clone();
        let task = move |message: Message<Batch>| insert(inserter.clone(), message);
        let insert = RunTaskInThreads::new(commit, task, &self.concurrency, Some("insert"));
        let none = || Batch::with_capacity(BATCH_ROWS);
        Box::new(Reduce::new(insert, Arc::new(add), Arc::new(none), BATCH_ROWS, BATCH_TIME, |_| 1))
    }
}

type Refused = (sentry_arroyo::processing::strategies::SubmitError<KafkaPayload>, Batch);

fn add(mut batch: Batch, message: Message<KafkaPayload>) -> Result<Batch, Refused> {
    if let InnerMessage::BrokerMessage(record) = message.inner_message {
        batch.push(record);
    }
    Ok(batch)
}

fn insert(inserter: Arc<Inserter>, message: Message<Batch>) -> RunTaskFunc<(), anyhow::Error> {
    Box::pin(async move {
        let (offsets, batch) = message.take();
        inserter.insert(batch).await.map_err(RunTaskError::Other)?;
        Ok(offsets)
    })
}
