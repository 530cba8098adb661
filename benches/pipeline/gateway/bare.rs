//! What Millrace's gateway is held against, as a process of its own: an axum server that parses nothing and answers
//! with as many of the request's own bytes as Millrace's answer has; and the same, which before it answers has the log
//! take ready-made records, as many as the request has events: the very bytes that Millrace wrote, with the settings
//! that it writes with.

use anyhow::{Context, ensure};
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use axum::serve::ListenerExt;
use rdkafka::config::FromClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::OwnedMessage;
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};
use serde::{Deserialize, Serialize};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::net::TcpListener;

/// Ready-made records: enough for every partition to have its share.
const RECORDS: usize = 10_000;
/// `{"id":"<36>","status":"accepted"},`
const ANSWER_BYTES_PER_EVENT: usize = 66;
const SILENCE: Duration = Duration::from_secs(10);

#[derive(Serialize, Deserialize)]
pub struct Spec {
    /// Of one event in a request's body, by which the events are counted that nobody parses.
    pub event_bytes: usize,
    pub produce: Option<Produce>,
}

/// Where the records come from, and go.
#[derive(Serialize, Deserialize)]
pub struct Produce {
    pub brokers: String,
    pub topic: String,
    pub partitions: i32,
}

/// A bare server that is running; killed when dropped.
pub struct Bare {
    child: Child,
    pub address: String,
}

impl Bare {
    pub fn start(file: &Path, spec: &Spec) -> anyhow::Result<Self> {
        std::fs::write(file, serde_json::to_vec(spec)?)?;
        let mut child = Command::new(std::env::current_exe()?).arg("bare").arg(file).stdout(Stdio::piped()).spawn()?;
        let mut address = String::new();
        BufReader::new(child.stdout.take().context("it is piped")?).read_line(&mut address)?;
        ensure!(!address.is_empty(), "the bare server ended");
        Ok(Self { child, address: address.trim().to_owned() })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The process itself.
pub fn main(spec: &Path) -> anyhow::Result<()> {
    let Spec { event_bytes, produce } = serde_json::from_slice(&std::fs::read(spec)?)?;
    let log = produce.as_ref().map(Log::open).transpose()?.map(Arc::new);
    tokio::runtime::Runtime::new()?.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        println!("{}", listener.local_addr()?);
        let router = Router::new().route("/v1/events", post(answer)).with_state((event_bytes, log));
        let listener = listener.tap_io(|stream| drop(stream.set_nodelay(true)));
        Ok(axum::serve(listener, router).await?)
    })
}

async fn answer(State((event_bytes, log)): State<(usize, Option<Arc<Log>>)>, body: Bytes) -> (StatusCode, Bytes) {
    let events = body.len().div_ceil(event_bytes + 1);
    if let Some(log) = log
        && log.produce(events).await.is_err()
    {
        return (StatusCode::SERVICE_UNAVAILABLE, Bytes::new());
    }
    (StatusCode::ACCEPTED, body.slice(..body.len().min(events * ANSWER_BYTES_PER_EVENT)))
}

struct Log {
    producer: FutureProducer,
    records: Vec<OwnedMessage>,
    next: AtomicUsize,
}

impl Log {
    fn open(spec: &Produce) -> anyhow::Result<Self> {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &spec.brokers)
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("linger.ms", "5")
            .set("compression.type", "lz4")
            .set("partitioner", "murmur2_random")
            .set("queue.buffering.max.kbytes", "65536");
        Ok(Self { producer: FutureProducer::from_config(&config)?, records: records(spec)?, next: AtomicUsize::new(0) })
    }

    /// All of them are handed over before any answer is awaited.
    async fn produce(&self, events: usize) -> Result<(), ()> {
        let mut sent = Vec::with_capacity(events);
        for _ in 0..events {
            let record = &self.records[self.next.fetch_add(1, Ordering::Relaxed) % self.records.len()];
            let mut outgoing = FutureRecord::<[u8], [u8]>::to(record.topic());
            outgoing.key = record.key();
            outgoing.payload = record.payload();
            outgoing.headers = record.headers().cloned();
            sent.push(self.producer.send_result(outgoing).map_err(drop)?);
        }
        for delivery in sent {
            delivery.await.map_err(drop)?.map_err(drop)?;
        }
        Ok(())
    }
}

/// What Millrace wrote before, of each partition as many.
fn records(spec: &Produce) -> anyhow::Result<Vec<OwnedMessage>> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &spec.brokers).set("group.id", "millrace-bench").set("enable.auto.commit", "false");
    let consumer = BaseConsumer::from_config(&config)?;
    let mut partitions = TopicPartitionList::new();
    for partition in 0..spec.partitions {
        partitions.add_partition_offset(&spec.topic, partition, Offset::Beginning)?;
    }
    consumer.assign(&partitions)?;
    let share = RECORDS / usize::try_from(spec.partitions)?;
    let mut read = vec![Vec::with_capacity(share); spec.partitions as usize];
    while read.iter().any(|records| records.len() < share) {
        let record = consumer.poll(SILENCE).context("there are too few records")??;
        let records = &mut read[record.partition() as usize];
        if records.len() < share {
            records.push(record.detach());
        }
    }
    // As they come: one after the other is for another partition.
    Ok((0..share).flat_map(|at| read.iter().map(move |records| records[at].clone())).collect())
}
