//! Reading a range of the log again, outside of every group: what a pipeline made of it, asked of the log itself.

use crate::consume::{Reads, Worker};
use crate::log_bounds::{log_bounds, while_leaders_move};
use crate::memory_bound::MemoryBound;
use crate::offsets::Claim;
use crate::partition_queue::copy;
use crate::{Failure, Handler, PipelineConfig, Record, SetAside, Source, Spine};
use rdkafka::client::ClientContext;
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{Message, Offset, TopicPartitionList};
use serde::Serialize;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

/// Records read ahead of the handler: the consumer's own queue is the larger one.
const READ_AHEAD: usize = 100;
/// One wait for a record.
const POLL: Duration = Duration::from_millis(500);
/// A broker that has records and sends none for so long is away.
const BROKER_DEADLINE: Duration = Duration::from_secs(30);

/// Offsets of one partition, `to` excluded.
#[derive(Debug, Clone, Serialize)]
pub struct Range {
    pub topic: String,
    pub partition: i32,
    pub from: i64,
    pub to: i64,
}

/// Feeds a range to a handler as its pipeline would: the same batches' decoding and the same deduplication, whose
/// window is filled from the records before. Claims nothing, settles nothing, commits nothing. `set_aside`: what the
/// pipeline has; the handler sees nothing of what was given up of it. `reached` is told how far the handler has come.
///
/// # Errors
/// The handler's own, a range that the log does not hold any more, or a broker that stopped answering.
pub async fn scan<H: Handler>(
    spine: &Spine,
    name: &str,
    handler: Arc<H>,
    config: PipelineConfig,
    range: Range,
    set_aside: Arc<SetAside>,
    reached: impl Fn(i64),
) -> Result<(), Failure> {
    let (records, source) = mpsc::channel(READ_AHEAD);
    let worker = worker(spine, name, handler, config, &range, set_aside);
    let client = client(spine).map_err(Failure::stop)?;
    let warm = i64::from(worker.config.dedup_window);
    let reading = tokio::task::spawn_blocking(move || read(&client, &range, warm, &records));
    worker.run(Reading(source), reached).await?;
    reading.await.map_err(Failure::stop)?.map_err(Failure::stop)
}

fn worker<H: Handler>(
    spine: &Spine,
    name: &str,
    handler: Arc<H>,
    config: PipelineConfig,
    range: &Range,
    set_aside: Arc<SetAside>,
) -> Worker<H> {
    Worker {
        handler,
        decoder: spine.decoder.clone(),
        checkpoints: spine.checkpoints.clone(),
        claim: Claim::nobodys(name, &range.topic, range.partition, range.from),
        permits: Arc::new(Semaphore::new(1)),
        memory: MemoryBound::new(config.memory_bytes),
        metrics: Arc::new(spine.metrics.of(name)),
        closing: CancellationToken::new(),
        abort: CancellationToken::new(),
        reads: Reads::Again { set_aside },
        config,
    }
}

fn client(spine: &Spine) -> anyhow::Result<BaseConsumer<Context>> {
    let fixed = [
        ("enable.auto.commit", "false"),
        ("auto.offset.reset", "error"),
        ("isolation.level", "read_committed"),
        ("enable.partition.eof", "true"),
    ];
    let mut config = spine.kafka.client_with(&[], &fixed)?;
    // Never joined: librdkafka wants a name even where partitions are assigned by hand.
    config.set("group.id", "millrace-scan");
    Ok(BaseConsumer::from_config_and_context(&config, Context)?)
}

/// The end of a partition is no error here.
struct Context;

impl ClientContext for Context {
    fn error(&self, error: KafkaError, reason: &str) {
        if error.rdkafka_error_code() != Some(RDKafkaErrorCode::PartitionEOF) {
            tracing::warn!("kafka: {error}: {reason}");
        }
    }
}

impl ConsumerContext for Context {}

fn read(
    client: &BaseConsumer<Context>,
    range: &Range,
    warm: i64,
    records: &mpsc::Sender<Record>,
) -> anyhow::Result<()> {
    let Range { topic, partition, from, to } = range;
    let ask = || {
        client.fetch_metadata(Some(topic), BROKER_DEADLINE)?;
        log_bounds(client, &[(topic, *partition)], BROKER_DEADLINE)
    };
    let held = while_leaders_move(BROKER_DEADLINE, ask)?.remove(0);
    let (start, end) = (held.log_start, held.log_end);
    anyhow::ensure!(*to <= end, "{topic}[{partition}] ends at {end}, before {to}: the log lost what had taken effect");
    anyhow::ensure!(*from >= start, "{topic}[{partition}] begins at {start} by now: {from} is no longer there");
    let mut wanted = TopicPartitionList::with_capacity(1);
    wanted.add_partition_offset(topic, *partition, Offset::Offset((from - warm).max(start)))?;
    client.assign(&wanted)?;
    let topic: Arc<str> = topic.as_str().into();
    let mut heard = Instant::now();
    loop {
        anyhow::ensure!(heard.elapsed() < BROKER_DEADLINE, "{topic}[{partition}]: nothing for {BROKER_DEADLINE:?}");
        match client.poll(POLL) {
            Some(Err(KafkaError::PartitionEOF(_))) => return Ok(()),
            Some(Err(error)) if is_final(&error) => return Err(error.into()),
            // Nobody listens any more: the handler has failed, and says so itself.
            Some(Ok(message)) if message.offset() >= *to => return Ok(()),
            Some(Ok(message)) if records.blocking_send(copy(&message, &topic)).is_err() => return Ok(()),
            // Its end is known: to hear of it from the broker takes half a second.
            Some(Ok(message)) if message.offset() + 1 == *to => return Ok(()),
            Some(Ok(_)) => heard = Instant::now(),
            Some(Err(_)) | None => {} // the client keeps trying
        }
    }
}

/// No patience helps.
fn is_final(error: &KafkaError) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        error.rdkafka_error_code(),
        Some(
            Code::AutoOffsetReset
                | Code::OffsetOutOfRange
                | Code::UnknownTopicOrPartition
                | Code::TopicAuthorizationFailed
                | Code::Fatal
        )
    )
}

struct Reading(mpsc::Receiver<Record>);

impl Source for Reading {
    async fn next(&mut self) -> Option<Record> {
        self.0.recv().await
    }
}
