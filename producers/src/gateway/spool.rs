//! Events that wait on disk while the log is away, so that their senders need not: `spooled`, and in the log later.
//!
//! ```text
//! requests ─→ one thread: appends what waits, syncs once, answers all ─→ `spooled`
//!                              │ segments
//!                log (acks=all) ←─ in their order, then settled ←─ drain
//! ```
//!
//! While anything is here everything goes here, so that no event passes an earlier one of its key. When the last of it
//! is on its way into a log that is back, requests wait a moment instead: under steady load it would never be empty.
//! What a crash leaves is sent from its segment's beginning: again under the same ids, never out of order.

mod frame;
mod segments;

use super::metrics::{GatewayMetrics, SpoolMetrics};
use super::prepare::Prepared;
use crate::in_bounds;
use anyhow::Context;
use frame::Spooled;
use millrace_stream::{Backoff, KafkaConfig, Outgoing, Publisher, crash_at};
use segments::{Found, SEGMENT_BYTES, Segments};
use serde::{Deserialize, Serialize};
use std::io;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};

/// Requests whose events one sync takes to the disk, at most; as many more may wait for the next.
const GROUP_MAX: usize = 1024;
/// After the log's: less than what is left of a gateway's time to stop.
const WRITE_DEADLINE: Duration = Duration::from_secs(3);
/// What waits to be written, and as much again while it is: a request that its sender gave up has left the count of
/// the bodies in hand.
const PENDING_BYTES_MAX: usize = 64 << 20;
/// Sent at once: enough that the log's answer is not what it waits for.
const DRAIN_BYTES: usize = 1 << 20;
/// How long requests wait for the last of it, and how lately the log must have answered for them to.
const PATIENCE: Duration = Duration::from_secs(1);
/// Between tries to send what the Kafka client would not take, or the disk not give.
const DRAIN_WAITS: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));
/// Beyond what an event takes here, in a record of the log: its frame and the batch's, at most.
const RECORD_SLACK: usize = 256;
/// The Kafka client's own, where `kafka.properties` does not say.
const RECORD_BYTES_MAX: usize = 1 << 20;

/// `[gateway.spool]`
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct SpoolConfig {
    /// Of this process alone, on a disk that outlives it. Empty: there is no spool.
    pub directory: String,
    /// Then events are `retry` again.
    pub max_bytes: u64,
}

impl Default for SpoolConfig {
    fn default() -> Self {
        Self { directory: String::new(), max_bytes: 1 << 30 } // two to three million events
    }
}

impl SpoolConfig {
    pub(super) fn check(&self) -> Result<(), String> {
        in_bounds("`gateway.spool.", [("max_bytes", self.max_bytes, 1 << 20..=1 << 40)])
    }
}

pub(super) struct Spool {
    orders: mpsc::Sender<Order>,
    pending: Arc<Semaphore>,
    /// Events that are on disk and not known to be in the log.
    waiting: Arc<AtomicU64>,
    /// The last of them are on their way.
    closing: Arc<watch::Sender<bool>>,
    kafka: KafkaConfig,
    record_bytes_max: usize,
    metrics: SpoolMetrics,
}

/// To the one thread that has the files.
enum Order {
    Append(Append),
    /// The oldest frames, as soon as there are any.
    Read(oneshot::Sender<io::Result<Oldest>>),
    /// So many of the oldest are in the log.
    Settle {
        bytes: u64,
        events: u64,
    },
}

struct Oldest {
    frames: Vec<u8>,
    /// There are no others.
    is_all: bool,
}

struct Append {
    frames: Vec<u8>,
    events: u64,
    /// Of [`PENDING_BYTES_MAX`].
    _room: OwnedSemaphorePermit,
    done: oneshot::Sender<Result<(), String>>,
}

/// Frames of one request's events.
#[derive(Default)]
pub(super) struct Frames {
    bytes: Vec<u8>,
    events: u64,
}

impl Spool {
    /// None where none is configured. Takes the directory, with what an earlier process left there.
    pub fn open(
        config: &SpoolConfig,
        kafka: &KafkaConfig,
        metrics: &GatewayMetrics,
    ) -> anyhow::Result<Option<Arc<Self>>> {
        if config.directory.is_empty() {
            return Ok(None);
        }
        let (segments, Found { events, damaged }) = Segments::open(Path::new(&config.directory))?;
        metrics.spool.damaged.inc_by(damaged);
        if events > 0 {
            tracing::info!("{events} spooled events wait in {} for the log", config.directory);
        }
        let (orders, taken) = mpsc::channel(GROUP_MAX);
        let pending = Arc::new(Semaphore::new(PENDING_BYTES_MAX));
        let (waiting, closing) = (Arc::new(AtomicU64::new(events)), Arc::new(watch::Sender::new(false)));
        let keeper = Keeper {
            segments,
            bytes_max: config.max_bytes,
            waiting: waiting.clone(),
            closing: closing.clone(),
            reader: None,
            told: false,
            metrics: metrics.spool.clone(),
        };
        keeper.show();
        std::thread::Builder::new().name("spool".into()).spawn(move || keeper.keep(taken))?;
        let record_bytes_max = kafka.properties.get("message.max.bytes").and_then(|bytes| bytes.parse().ok());
        let mut kafka = kafka.clone();
        // Never given up: one that was would come in behind its followers.
        kafka.properties.insert("message.timeout.ms".into(), "0".into());
        // Nor passed by what was sent behind it: when the log refuses one, the client ends.
        kafka.properties.insert("enable.gapless.guarantee".into(), "true".into());
        let record_bytes_max = record_bytes_max.unwrap_or(RECORD_BYTES_MAX);
        let metrics = metrics.spool.clone();
        Ok(Some(Arc::new(Self { orders, pending, waiting, closing, kafka, record_bytes_max, metrics })))
    }

    /// Then no event may pass those that are here.
    pub async fn holds_any(&self) -> bool {
        let holds_any = || self.waiting.load(Ordering::SeqCst) > 0;
        if holds_any() {
            let mut closing = self.closing.subscribe();
            let _ = tokio::time::timeout(PATIENCE, closing.wait_for(|closing| !closing)).await;
        }
        holds_any()
    }

    /// False when the log would never take the event; then it is not added.
    pub fn add(&self, event: &Prepared<'_>, frames: &mut Frames) -> bool {
        let begin = frames.bytes.len();
        let bytes = frame::write(event, &mut frames.bytes) + event.envelope.subject.len() + RECORD_SLACK;
        let fits = bytes <= self.record_bytes_max;
        if fits {
            frames.events += 1;
        } else {
            frames.bytes.truncate(begin);
        }
        fits
    }

    /// Returns when all of them are on disk.
    ///
    /// # Errors
    /// Why none is to be counted on: the spool is full, or the disk failed.
    pub async fn append(&self, frames: Frames) -> Result<(), String> {
        let written = tokio::time::timeout(WRITE_DEADLINE, self.hand_over(frames)).await;
        written.unwrap_or_else(|_| Err(format!("the spool's disk did not answer within {WRITE_DEADLINE:?}")))
    }

    async fn hand_over(&self, frames: Frames) -> Result<(), String> {
        let (done, answer) = oneshot::channel();
        let Frames { bytes, events } = frames;
        let ended = || "the spool's thread has ended".to_owned();
        let room = u32::try_from(bytes.len().min(PENDING_BYTES_MAX)).unwrap_or(u32::MAX);
        let room = self.pending.clone().acquire_many_owned(room).await.map_err(|_| ended())?;
        let order = Order::Append(Append { frames: bytes, events, _room: room, done });
        self.orders.send(order).await.map_err(|_| ended())?;
        answer.await.map_err(|_| ended())?
    }

    /// Brings into the log what is here, oldest first, whenever there is something.
    pub async fn drain(&self) {
        let (mut log, mut waits) = (Log::default(), Backoff::between(DRAIN_WAITS.0, DRAIN_WAITS.1));
        loop {
            match self.drain_some(&mut log).await {
                Ok(()) => waits = Backoff::between(DRAIN_WAITS.0, DRAIN_WAITS.1),
                Err(error) => {
                    self.closing.send_replace(false);
                    tracing::error!("spooled events are not in the log yet: {error:#}");
                    let broken = (log.publisher.take(), log.answered.take()).0; // a new one begins anew
                    tokio::task::spawn_blocking(move || drop(broken)); // which waits for the client's end
                    tokio::time::sleep(waits.next_wait()).await;
                }
            }
        }
    }

    /// At once, or from where the log did not take all of it one by one, until past the event that it refused.
    async fn drain_some(&self, log: &mut Log) -> anyhow::Result<()> {
        let Oldest { frames, is_all } = self.oldest().await?;
        let events = frame::read(&frames)?;
        let mut left = events.as_slice();
        while let Some(oldest) = left.first() {
            self.metrics.oldest.set(oldest.recorded_at());
            let (some, rest) = left.split_at(if log.one_by_one > 0 { 1 } else { left.len() });
            let is_back = log.answered.is_some_and(|at| at.elapsed() < PATIENCE);
            self.closing.send_replace(is_all && rest.is_empty() && is_back);
            if let Err(error) = self.publish(some, log).await {
                log.one_by_one = some.len();
                return Err(error);
            }
            log.one_by_one = log.one_by_one.saturating_sub(1);
            self.settle(some).await?;
            left = rest;
        }
        Ok(())
    }

    /// Returns when the log has all of them; requests don't wait for it longer than they should.
    async fn publish(&self, events: &[Spooled], log: &mut Log) -> anyhow::Result<()> {
        let publisher = match &log.publisher {
            Some(publisher) => publisher,
            None => log.publisher.insert(Publisher::new(&self.kafka)?),
        };
        let mut publishing = pin!(publish(events, publisher));
        match tokio::time::timeout(PATIENCE, publishing.as_mut()).await {
            Ok(published) => published?,
            Err(_) => {
                self.closing.send_replace(false);
                publishing.await?;
            }
        }
        log.answered = Some(Instant::now());
        Ok(())
    }

    async fn settle(&self, events: &[Spooled]) -> anyhow::Result<()> {
        crash_at("gateway_spool_drained");
        self.metrics.drained.inc_by(events.len() as u64);
        let bytes = events.iter().map(|event| event.bytes as u64).sum();
        Ok(self.orders.send(Order::Settle { bytes, events: events.len() as u64 }).await?)
    }

    /// Waits until there is something.
    async fn oldest(&self) -> anyhow::Result<Oldest> {
        let (reader, frames) = oneshot::channel();
        self.orders.send(Order::Read(reader)).await?;
        Ok(frames.await??)
    }
}

/// Where it is drained to.
#[derive(Default)]
struct Log {
    publisher: Option<Publisher>,
    answered: Option<Instant>,
    /// So many events: what the log did not take at once, or the one that it refused.
    one_by_one: usize,
}

/// Returns when the log has all of them, in their order.
async fn publish(events: &[Spooled], publisher: &Publisher) -> anyhow::Result<()> {
    let mut acknowledgements = Vec::with_capacity(events.len());
    let which = |event: &Spooled| format!("event {} of {}", event.envelope.id, event.topic);
    for event in events {
        let Spooled { topic, envelope, value, .. } = event;
        let outgoing = Outgoing { topic, key: &envelope.subject, envelope, value: Some(value) };
        acknowledgements.push(publisher.enqueue(&outgoing).await.with_context(|| which(event))?);
    }
    for (event, acknowledgement) in events.iter().zip(acknowledgements) {
        acknowledgement.await.with_context(|| which(event))?;
    }
    Ok(())
}

/// Owns the files, in a thread of its own.
struct Keeper {
    segments: Segments,
    bytes_max: u64,
    waiting: Arc<AtomicU64>,
    closing: Arc<watch::Sender<bool>>,
    reader: Option<oneshot::Sender<io::Result<Oldest>>>,
    /// Said that nothing more is taken: once, until something is.
    told: bool,
    metrics: SpoolMetrics,
}

impl Keeper {
    fn keep(mut self, mut orders: mpsc::Receiver<Order>) {
        let mut taken = Vec::with_capacity(GROUP_MAX);
        while orders.blocking_recv_many(&mut taken, GROUP_MAX) > 0 {
            let mut appends = Vec::new();
            for order in taken.drain(..) {
                match order {
                    Order::Append(append) => appends.push(append),
                    Order::Read(reader) => self.reader = Some(reader),
                    Order::Settle { bytes, events } => self.settle(bytes, events),
                }
            }
            self.append(appends);
            self.read();
            self.show();
        }
    }

    /// One write and one sync for all that fit; several where a segment does not hold all of them.
    fn append(&mut self, mut appends: Vec<Append>) {
        appends.retain(|append| !append.done.is_closed()); // its sender was told `retry`
        let mut room = self.bytes_max.saturating_sub(self.segments.bytes());
        let (fit, late): (Vec<_>, Vec<_>) = appends.into_iter().partition(|append| {
            let left = room.checked_sub(append.frames.len() as u64);
            room = left.unwrap_or(room);
            left.is_some()
        });
        if !late.is_empty() {
            self.refuse(late, "the spool is full (gateway.spool.max_bytes)");
        }
        let mut groups = groups(fit).into_iter();
        while let Some(group) = groups.next() {
            if let Err(error) = self.write(&group) {
                let unwritten = group.into_iter().chain(groups.flatten()).collect();
                return self.refuse(unwritten, &format!("the spool could not be written: {error}"));
            }
            group.into_iter().for_each(|append| drop(append.done.send(Ok(()))));
        }
    }

    fn write(&mut self, group: &[Append]) -> io::Result<()> {
        let frames = group.iter().map(|append| append.frames.as_slice()).collect::<Vec<_>>().concat();
        self.segments.append(&frames)?;
        // Before anybody is told: what comes next must not pass them.
        self.waiting.fetch_add(group.iter().map(|append| append.events).sum(), Ordering::SeqCst);
        crash_at("gateway_spool_synced");
        self.told = false;
        Ok(())
    }

    fn refuse(&mut self, appends: Vec<Append>, why: &str) {
        if !std::mem::replace(&mut self.told, true) {
            tracing::error!("events are sent away while the log is: {why}");
        }
        appends.into_iter().for_each(|append| drop(append.done.send(Err(why.to_owned()))));
    }

    fn settle(&mut self, bytes: u64, events: u64) {
        self.segments.settle(bytes);
        if self.waiting.fetch_sub(events, Ordering::SeqCst) == events {
            self.metrics.oldest.set(0);
            self.closing.send_replace(false);
            tracing::info!("everything that was spooled is in the log");
        }
    }

    fn read(&mut self) {
        if self.segments.bytes() == 0 {
            return;
        }
        if let Some(reader) = self.reader.take() {
            let left = self.segments.unsettled();
            let is_all = |frames: Vec<u8>| Oldest { is_all: frames.len() as u64 == left, frames };
            let _ = reader.send(self.segments.read(DRAIN_BYTES).map(is_all));
        }
    }

    fn show(&self) {
        self.metrics.bytes.set(self.segments.bytes().cast_signed());
        self.metrics.events.set(self.waiting.load(Ordering::SeqCst).cast_signed());
    }
}

/// Each has what fits one segment, or one request that does not.
fn groups(appends: Vec<Append>) -> Vec<Vec<Append>> {
    let (mut groups, mut room) = (Vec::<Vec<Append>>::new(), 0);
    for append in appends {
        let bytes = append.frames.len() as u64;
        match groups.last_mut().filter(|_| bytes <= room) {
            Some(group) => group.push(append),
            None => {
                groups.push(vec![append]);
                room = SEGMENT_BYTES;
            }
        }
        room = room.saturating_sub(bytes);
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keeper(directory: &Path) -> Keeper {
        Keeper {
            segments: Segments::open(directory).unwrap().0,
            bytes_max: 1 << 30,
            waiting: Arc::default(),
            closing: Arc::new(watch::Sender::new(false)),
            reader: None,
            told: false,
            metrics: SpoolMetrics::default(),
        }
    }

    /// A request with one event, and who waits for its answer.
    fn request(n: u128, bytes: usize) -> (Append, oneshot::Receiver<Result<(), String>>) {
        let (mut frames, (done, answer)) = (Vec::new(), oneshot::channel());
        frame::write(&frame::tests::event(n, &vec![0; bytes]), &mut frames);
        let room = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        (Append { frames, events: 1, _room: room, done }, answer)
    }

    fn ids(segments: &Segments) -> Vec<u128> {
        let frames = segments.read(usize::MAX).unwrap();
        frame::read(&frames).unwrap().iter().map(|event| event.envelope.id.as_u128()).collect()
    }

    #[test]
    fn what_its_request_gave_up_is_not_written() {
        let directory = tempfile::tempdir().unwrap();
        let mut keeper = keeper(directory.path());
        let ((first, given_up), (second, mut answer)) = (request(1, 1), request(2, 1));
        drop(given_up);
        keeper.append(vec![first, second]);
        assert_eq!(answer.try_recv().unwrap(), Ok(()));
        assert_eq!((ids(&keeper.segments), keeper.waiting.load(Ordering::SeqCst)), (vec![2], 1));
    }

    #[test]
    fn no_segment_is_larger_than_its_bound_however_much_is_written_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let mut keeper = keeper(directory.path());
        let (appends, mut answers): (Vec<_>, Vec<_>) = (0..5).map(|n| request(n, 6 << 20)).unzip();
        keeper.append(appends);
        assert!(answers.iter_mut().all(|answer| answer.try_recv().unwrap().is_ok()));
        let mut found = Vec::new();
        while keeper.segments.bytes() > 0 {
            let segment = keeper.segments.read(usize::MAX).unwrap();
            assert!(segment.len() as u64 <= SEGMENT_BYTES);
            found.extend(ids(&keeper.segments));
            keeper.segments.settle(segment.len() as u64);
        }
        assert_eq!(found, [0, 1, 2, 3, 4]);
    }
}
