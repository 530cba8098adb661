//! The raw limits, as a process of their own: reads the same records without looking at them, writes ready-made
//! batches without making them, or both at once. No decoding, no deduplication, no checkpoints of ours.
//!
//! ```text
//! prepare ─→ "ready" ─→ (measured: told to go ─→ work ─→ "done") ─→ stdin closes ─→ end
//! ```

mod blocks;
mod upserts;
mod ways;

pub use blocks::{Block, Blocks};
pub use upserts::{Key, Kind, Table, Upserts};
pub use ways::{Looks, Way};

use crate::platform::Platform;
use crate::processes::Meter;
use crate::report::Figures;
use rdkafka::ClientConfig;
use rdkafka::config::FromClientConfig;
use rdkafka::consumer::BaseConsumer;
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, VecDeque};
use std::io::{BufRead, BufReader, Read, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, mpsc};

/// So many write at once.
const WRITERS: usize = 4;
/// Batches that were read and wait to be written: reading must not run far ahead of writing, and no further than
/// Millrace, of whose partitions each has one waiting.
const RELEASED_MAX: usize = 36;
/// A log that gives nothing for so long has less than it should.
const SILENCE: Duration = Duration::from_secs(30);

/// What to do.
#[derive(Serialize, Deserialize)]
pub struct Spec {
    /// Read these, before what depends on them is written.
    pub consume: Option<Log>,
    pub way: Way,
    pub looks: Looks,
    pub write: Option<Write>,
}

/// Partitions to read from their beginnings to these ends.
#[derive(Clone, Serialize, Deserialize)]
pub struct Log {
    pub brokers: String,
    pub partitions: Vec<Place>,
}

/// A partition up to an offset.
#[derive(Clone, Serialize, Deserialize)]
pub struct Place {
    pub topic: String,
    pub partition: i32,
    pub to: i64,
}

/// Ready-made batches: each may be written once its place was read.
#[derive(Clone, Serialize, Deserialize)]
pub enum Write {
    Blocks(Blocks),
    Upserts(Upserts),
}

impl Spec {
    /// Reads in the one way that the Rust client has; by C there are cheaper ones.
    pub fn of(consume: Option<&Log>, write: Option<&Write>) -> Self {
        Self { consume: consume.cloned(), way: Way::OneByOne, looks: Looks::Lengths, write: write.cloned() }
    }
}

impl Log {
    pub fn records(&self) -> u64 {
        self.partitions.iter().map(|place| place.to.unsigned_abs()).sum()
    }

    /// Each once.
    pub fn topics(&self) -> Vec<&str> {
        let mut topics: Vec<&str> = self.partitions.iter().map(|place| place.topic.as_str()).collect();
        topics.sort_unstable();
        topics.dedup();
        topics
    }

    pub fn of_topics(&self, topics: &[&str]) -> Self {
        let partitions = self.partitions.iter().filter(|place| topics.contains(&place.topic.as_str()));
        Self { brokers: self.brokers.clone(), partitions: partitions.cloned().collect() }
    }

    /// How many records the batches of a partition have when all together are so many: its last one has fewer, and
    /// in a quiet partition it is the only one.
    pub fn batch_records(&self, batches: u64) -> i64 {
        let longest = self.partitions.iter().map(|place| place.to).max().unwrap_or(1).max(1);
        let too_many = |records: i64| self.batches(records).count() as u64 > batches;
        let (mut too_few_records, mut enough) = (0, longest);
        while enough - too_few_records > 1 {
            let middle = i64::midpoint(too_few_records, enough);
            *(if too_many(middle) { &mut too_few_records } else { &mut enough }) = middle;
        }
        enough
    }

    /// The places where batches of so many records end, each with where it begins.
    pub fn batches(&self, records: i64) -> impl Iterator<Item = (Place, i64)> {
        self.partitions.iter().flat_map(move |place| {
            (0..place.to).step_by(records as usize).map(move |from| {
                let to = (from + records).min(place.to);
                (Place { to, ..place.clone() }, from)
            })
        })
    }
}

/// Runs a limit as a process and measures it: `records` is what its figures are divided by.
pub fn measure(platform: &Platform, spec: &Spec, records: u64) -> anyhow::Result<Figures> {
    let file = platform.data.join("limit.json");
    std::fs::write(&file, serde_json::to_vec(spec)?)?;
    let mut child = Command::new(std::env::current_exe()?)
        .arg("limit")
        .arg(file)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut said = BufReader::new(child.stdout.take().expect("it is piped"));
    expect(&mut said, "ready", &mut child)?;
    let meter = Meter::start(platform, child.id());
    writeln!(child.stdin.as_mut().expect("it is piped"), "go")?;
    expect(&mut said, "done", &mut child)?;
    let mut figures = meter.stop(records);
    if spec.write.is_some() {
        figures.remove("client_peak_rss_mb"); // mostly the batches it was given
    }
    drop(child.stdin.take());
    child.wait()?;
    Ok(figures)
}

fn expect(said: &mut impl BufRead, word: &str, child: &mut Child) -> anyhow::Result<()> {
    let mut line = String::new();
    said.read_line(&mut line)?;
    if line.trim() != word {
        anyhow::bail!("the limit said `{}` instead of `{word}`, and ended with {}", line.trim(), child.wait()?);
    }
    Ok(())
}

/// The process itself.
pub fn main(spec: &Path) -> anyhow::Result<()> {
    let spec: Spec = serde_json::from_slice(&std::fs::read(spec)?)?;
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        match &spec.write {
            None => run(&spec, None::<Arc<blocks::Loaded>>).await,
            Some(Write::Blocks(blocks)) => run(&spec, Some(Arc::new(blocks.prepare()?))).await,
            Some(Write::Upserts(upserts)) => run(&spec, Some(Arc::new(upserts.prepare().await?))).await,
        }
    })
}

/// Writes some of the batches it was given: together, where that is cheaper.
trait Writer: Send + Sync + 'static {
    fn places(&self) -> impl Iterator<Item = &Place>;
    fn write(&self, batches: &[usize]) -> impl Future<Output = anyhow::Result<()>> + Send;
}

async fn run<W: Writer>(spec: &Spec, writer: Option<Arc<W>>) -> anyhow::Result<()> {
    let waiting = Waiting::of(writer.iter().flat_map(|writer| writer.places()));
    println!("ready");
    std::io::stdin().lock().read_line(&mut String::new())?;
    let (release, released) = mpsc::channel(RELEASED_MAX);
    let (log, way, looks) = (spec.consume.clone(), spec.way, spec.looks);
    let reading = tokio::task::spawn_blocking(move || match log {
        Some(log) => read(&log, way, looks, waiting, &release),
        None => waiting.all().try_for_each(|batch| Ok(release.blocking_send(batch)?)),
    });
    if let Some(writer) = writer {
        write_all(&writer, released).await?;
    }
    reading.await??;
    println!("done");
    std::io::stdin().lock().read_to_end(&mut Vec::new())?; // stay, so that what was used can be seen
    Ok(())
}

async fn write_all<W: Writer>(writer: &Arc<W>, released: mpsc::Receiver<usize>) -> anyhow::Result<()> {
    let released = Arc::new(Mutex::new(released));
    let workers: Vec<_> = (0..WRITERS)
        .map(|_| {
            let (writer, released) = (writer.clone(), released.clone());
            tokio::spawn(async move {
                loop {
                    let mut batches = Vec::new();
                    if released.lock().await.recv_many(&mut batches, RELEASED_MAX).await == 0 {
                        return anyhow::Ok(());
                    }
                    writer.write(&batches).await?;
                }
            })
        })
        .collect();
    for worker in workers {
        worker.await??;
    }
    Ok(())
}

/// The batches that wait to be read, by partition, each with the offset that ends it.
struct Waiting(HashMap<String, HashMap<i32, VecDeque<(i64, usize)>>>);

impl Waiting {
    fn of<'a>(places: impl Iterator<Item = &'a Place>) -> Self {
        let mut waiting = HashMap::<String, HashMap<i32, VecDeque<(i64, usize)>>>::new();
        for (batch, place) in places.enumerate() {
            let of_topic = waiting.entry(place.topic.clone()).or_default();
            of_topic.entry(place.partition).or_default().push_back((place.to, batch));
        }
        Self(waiting)
    }

    fn all(self) -> impl Iterator<Item = usize> {
        self.0.into_values().flat_map(HashMap::into_values).flatten().map(|(_, batch)| batch)
    }

    fn reached(&mut self, topic: &str, partition: i32, next: i64) -> Option<usize> {
        let batches = self.0.get_mut(topic)?.get_mut(&partition)?;
        batches.pop_front_if(|(to, _)| *to <= next).map(|(_, batch)| batch)
    }
}

fn read(log: &Log, way: Way, looks: Looks, mut waiting: Waiting, release: &mpsc::Sender<usize>) -> anyhow::Result<()> {
    let consumer = consumer(log, way)?;
    let mut bytes = 0;
    ways::take(&consumer, log, way, |message| {
        bytes += message.len + message.key_len;
        if looks == Looks::Headers {
            bytes += ways::headers(message);
        }
        match waiting.reached(ways::topic(message), message.partition, message.offset + 1) {
            Some(batch) => Ok(release.blocking_send(batch)?),
            None => Ok(()),
        }
    })?;
    std::hint::black_box(bytes); // each record was touched
    Ok(())
}

/// As Millrace has it, or one queue, of as many bytes as those of all its partitions together, four times as many records
/// and larger fetches. And no group: nobody else is there.
fn consumer(log: &Log, way: Way) -> anyhow::Result<BaseConsumer> {
    let (queues, records, fetch_bytes) = match way {
        Way::OneByOne | Way::InBatches => (1, 100_000, 2 << 20),
        Way::QueueEach => (log.partitions.len(), 25_000, 256 << 10),
    };
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", &log.brokers)
        .set("group.id", "millrace-bench")
        .set("enable.auto.commit", "false")
        .set("isolation.level", "read_committed")
        .set("queued.max.messages.kbytes", (32_768 / queues).to_string())
        .set("queued.min.messages", (records / queues).to_string())
        .set("fetch.message.max.bytes", fetch_bytes.to_string())
        // What is behind waits for nobody who has nothing, and is asked for as soon as there is room.
        .set("fetch.wait.max.ms", "10")
        .set("fetch.queue.backoff.ms", "10");
    Ok(BaseConsumer::from_config(&config)?)
}
