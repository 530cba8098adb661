//! A pipeline's membership in its consumer group: one polling thread, one worker a partition.
//!
//! The polling thread copies records into bounded queues and never waits for a worker: from a partition whose queue is
//! full it takes none, and the client stops reading ahead. Workers own everything that takes time. Classic protocol,
//! cooperative-sticky: a rebalance touches only the partitions that move.

use crate::consume::{Reads, Worker};
use crate::dedup::Window;
use crate::failure::why_it_stopped;
use crate::log_bounds::log_bounds;
use crate::memory_bound::{Held, MemoryBound};
use crate::metrics::Shared;
use crate::offsets::{self, Checkpoints, Claim, Wanted};
use crate::partition_queue::{PartitionQueue, Ready};
use crate::reach::{self, Reach};
use crate::retry::retry_until;
use crate::topic_id::topic_ids;
use crate::{
    Admin, Decoder, Failure, Handler, KafkaConfig, Metrics, PartitionProgress, PipelineConfig, Record, Source,
};
use rdkafka::client::ClientContext;
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{Offset, TopicPartitionList};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Between two looks for rebalances and a stop; records, and room for them, wake the thread themselves. Long enough to
/// cost nothing when idle.
const POLL: Duration = Duration::from_millis(20);
/// Records taken from a partition at once, at most: the others are not kept waiting, nor the worker for more, and a
/// queue holds little more than it may.
const TAKEN_MAX: usize = 250;
/// What the client may read ahead of all partitions together, in bytes of values. Some fetches of each while they are
/// few, so that none runs dry.
const READ_AHEAD_BYTES: usize = 32 << 20;
/// The same in records. Bytes of values say little: where they come in small packets, of a dozen each, one costs the
/// client 1.9 KB with its headers, its packet and what it unpacks that into (measured: 190 MB for 100,000).
const READ_AHEAD_RECORDS: usize = 25_000;
/// Of one partition, at most: what a fetch brings. A packed one is several times as large once it is in the queue.
const FETCH_BYTES: usize = 256 << 10;
/// Long enough for one slow insert; short enough that a rebalance doesn't evict us.
pub const DRAIN_DEADLINE: Duration = Duration::from_secs(20);
/// How long an assignment may wait for Postgres and the broker before the pipeline stops.
const CLAIM_DEADLINE: Duration = Duration::from_secs(60);
/// One question to the broker.
const BROKER_DEADLINE: Duration = Duration::from_secs(10);
/// A member that hears so long nothing of its group, while a broker answers others, was forgotten: who gives partitions
/// up for it needs no longer than [`DRAIN_DEADLINE`], [`CLAIM_DEADLINE`] and a session.
const ASSIGNED_WITHIN: Duration = Duration::from_mins(2);
/// How long we may go on in a topic that was recreated under its name; a question this rare costs nothing.
const TOPICS_EVERY: Duration = Duration::from_secs(15);
/// A restarted broker fences a member once or twice, and a cluster restarts its brokers one after the other. Somebody
/// else who has our place does so at every heartbeat, so this is soon reached.
const FENCED_MAX: usize = 10;
const FENCED_WITHIN: Duration = Duration::from_mins(15);
/// The way out for who has lost records.
const RESET: &str = "Once you know what was lost, `millrace reset TOPIC` lets pipelines begin with what the log holds";

/// What every pipeline of a process stands on.
#[derive(Clone)]
pub struct Spine {
    pub kafka: KafkaConfig,
    pub decoder: Decoder,
    pub checkpoints: Checkpoints,
    pub metrics: Metrics,
}

/// What to run.
pub struct Pipeline<H> {
    /// The consumer group's suffix, the checkpoint's and the metrics' label, the name on the command line.
    pub name: &'static str,
    pub topics: Vec<String>,
    pub handler: H,
    pub config: PipelineConfig,
    /// Where these settings are, `process.order_status`: for messages that say which one to change.
    pub section: String,
}

/// A running pipeline. Dropping it without [`PipelineHandle::drain`] gives everything unsettled up.
pub struct PipelineHandle {
    pub name: &'static str,
    stop: CancellationToken,
    failure: watch::Receiver<Option<Arc<Failure>>>,
    reports: Arc<Reports>,
    poller: Option<std::thread::JoinHandle<()>>,
}

impl<H: Handler> Pipeline<H> {
    /// Joins the group and starts working. Needs a tokio runtime.
    ///
    /// # Errors
    /// A Kafka property that does not exist or has no such value.
    pub fn start(self, spine: &Spine) -> anyhow::Result<PipelineHandle> {
        let (failed, failure) = watch::channel(None);
        let stop = CancellationToken::new();
        let name = self.name;
        let group = Arc::new(Group::new(self, spine.clone(), failed, stop.clone()));
        let reports = group.reports.clone();
        let member = group.join()?;
        tokio::spawn(watch_topics(group.clone()));
        tokio::spawn(watch_reach(group.clone()));
        let poller = std::thread::Builder::new().name(format!("poll-{name}"));
        let poller = poller.spawn(move || poll_until_stopped(&group, member))?;
        Ok(PipelineHandle { name, stop, failure, reports, poller: Some(poller) })
    }
}

const DEFAULTS: &[(&str, &str)] = &[
    // Offsets in Kafka only display progress: they are sent once a second.
    ("auto.commit.interval.ms", "1000"),
    // A killed process without static membership frees its partitions after this.
    ("session.timeout.ms", "10000"),
    // A broker is asked once at a time, and a partition whose queue is full just then is not in the question: where only
    // idle ones are, it waits so long for their answer, however far behind it is. An idle pipeline asks each broker a
    // hundred times a second, which costs one a hundredth of a core, about.
    ("fetch.wait.max.ms", "10"),
    // What a broker answers at once for all its partitions; by default no more than one partition's bound above.
    ("fetch.max.bytes", "8388608"),
    // How soon it looks again whether there is room; the default of a second would let busy partitions starve.
    ("fetch.queue.backoff.ms", "10"),
];

const FIXED: &[(&str, &str)] = &[
    // Postgres decides where to start: Kafka's offsets are stored when settled, and never tell us.
    ("enable.auto.offset.store", "false"),
    ("enable.auto.commit", "true"),
    ("auto.offset.reset", "error"),
    // A rebalance touches only the partitions that move.
    ("partition.assignment.strategy", "cooperative-sticky"),
    ("isolation.level", "read_committed"),
    ("allow.auto.create.topics", "false"),
];

fn consumer_config(kafka: &KafkaConfig, name: &str, topics: &[String]) -> anyhow::Result<rdkafka::ClientConfig> {
    let read_ahead = read_ahead(topics.iter().map(|topic| kafka.partitions_of(topic)).sum());
    let read_ahead = read_ahead.iter().map(|(key, value)| (*key, value.as_str()));
    let defaults: Vec<_> = DEFAULTS.iter().copied().chain(read_ahead).collect();
    let mut config = kafka.client_with(&defaults, FIXED)?;
    config.set("group.id", format!("millrace-{name}"));
    if let Some(instance) = &kafka.instance {
        config.set("group.instance.id", format!("{instance}-{name}"));
    }
    Ok(config)
}

/// The client's bounds are for one partition each, since each has a queue of its own: so that all together hold no
/// more where there are many.
fn read_ahead(partitions: i32) -> [(&'static str, String); 3] {
    let partitions = usize::try_from(partitions.max(1)).unwrap_or(1);
    let bytes = (READ_AHEAD_BYTES / partitions).max(64 << 10);
    [
        ("queued.max.messages.kbytes", (bytes >> 10).to_string()),
        ("queued.min.messages", (READ_AHEAD_RECORDS / partitions).max(50).to_string()),
        ("fetch.message.max.bytes", bytes.min(FETCH_BYTES).to_string()),
    ]
}

impl PipelineHandle {
    /// Waits until the pipeline had to stop; never returns while it runs.
    pub async fn failed(&mut self) -> Arc<Failure> {
        why_it_stopped(&mut self.failure, &format!("{}: the polling thread ended", self.name)).await
    }

    /// Stops pulling, lets each partition's batch in hand settle, leaves the group. False when [`DRAIN_DEADLINE`] passed first.
    pub async fn drain(mut self) -> bool {
        self.stop.cancel();
        let Some(poller) = self.poller.take() else { return true };
        // The poller's own drain has the deadline; leaving the group is given a little more.
        let left = tokio::task::spawn_blocking(move || poller.join());
        let left = tokio::time::timeout(DRAIN_DEADLINE + BROKER_DEADLINE, left).await.is_ok();
        left && !self.reports.late.load(Ordering::Relaxed)
    }
}

impl Drop for PipelineHandle {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Whatever ends the thread, somebody is told.
fn poll_until_stopped<H: Handler>(group: &Arc<Group<H>>, member: Member<H>) {
    let polled = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| poll_and_join_again(group, member)));
    match polled {
        Ok(Ok(())) => {}
        Ok(Err(error)) => group.fail(Failure::stop(error.context(format!("{}: could not join again", group.name)))),
        Err(_) => {
            let error = anyhow::anyhow!("{}: the polling thread panicked; its message is above", group.name);
            group.fail(Failure::stop(error));
        }
    }
}

fn poll_and_join_again<H: Handler>(group: &Arc<Group<H>>, mut member: Member<H>) -> anyhow::Result<()> {
    loop {
        poll(group, &member);
        if group.stop.is_cancelled() {
            return Ok(()); // Dropping the member revokes everything (rebalance callback: drain), commits, and leaves.
        }
        *locked(&group.waits_since) = None; // giving up may take long: once is enough
        group.give_everything_up();
        drop(member);
        locked(&group.lanes).clear(); // no queue of a client that is gone is ever asked
        member = group.join()?;
        group.metrics.joined_anew.inc();
    }
}

/// The thread: serves rebalances, moves records into queues, passes progress on. Until it is to stop, or to join anew.
fn poll<H: Handler>(group: &Group<H>, consumer: &Member<H>) {
    while !group.stop.is_cancelled() && !group.joins_anew.swap(false, Ordering::Relaxed) {
        group.store_progress(consumer);
        group.serve(consumer);
        if group.reach_is_back.swap(false, Ordering::Relaxed) {
            reach::tell(consumer.client(), &group.spine.kafka);
        }
        if !group.take() {
            std::thread::park_timeout(POLL);
        }
    }
}

/// Where a topic is recreated under its name, the client reads on at the old offset and says nothing: so ask.
async fn watch_topics<H: Handler>(group: Arc<Group<H>>) {
    while group.stop.run_until_cancelled(tokio::time::sleep(TOPICS_EVERY)).await.is_some() {
        let asking = group.clone();
        match tokio::task::spawn_blocking(move || asking.recreated()).await {
            Ok(Ok(Some(failure))) => group.fail(failure),
            Ok(Ok(None)) => group.join_anew_if_forgotten(),
            Ok(Err(_)) | Err(_) => {} // the broker does not answer, which was said
        }
    }
}

/// The polling thread owns the client: it is the one to tell it.
async fn watch_reach<H: Handler>(group: Arc<Group<H>>) {
    let admin = Admin::new(group.spine.kafka.clone());
    while group.stop.run_until_cancelled(group.reach.back(&admin)).await.is_some() {
        group.reach_is_back.store(true, Ordering::Relaxed);
    }
}

type Key = (Arc<str>, i32);

/// The Kafka client of one membership.
type Member<H> = BaseConsumer<Membership<H>>;

/// What its callbacks know: the group outlives a membership.
struct Membership<H>(Arc<Group<H>>);

/// The callbacks' state: the workers, and what they report.
struct Group<H> {
    name: Arc<str>,
    topics: Vec<String>,
    handler: Arc<H>,
    config: PipelineConfig,
    section: Arc<str>,
    spine: Spine,
    metrics: Shared,
    permits: Arc<Semaphore>,
    memory: Arc<MemoryBound>,
    runtime: Handle,
    stop: CancellationToken,
    failed: watch::Sender<Option<Arc<Failure>>>,
    lanes: Mutex<HashMap<String, BTreeMap<i32, Lane>>>,
    /// The ids of the topics when we first took partitions over.
    topic_ids: Mutex<BTreeMap<String, String>>,
    reports: Arc<Reports>,
    /// The broker has given our place to somebody else, or forgotten us: it is to be taken again.
    joins_anew: AtomicBool,
    fencings: Mutex<VecDeque<Instant>>,
    /// Since we asked for partitions, until the group says which; none is an answer, too.
    waits_since: Mutex<Option<Instant>>,
    reach: Reach,
    /// The client has lost all brokers, and one answers: it is to be told.
    reach_is_back: AtomicBool,
}

/// What workers tell the polling thread, and it the handle.
#[derive(Default)]
struct Reports {
    progress: Mutex<HashMap<Key, i64>>,
    /// Something was still in hand when the last drain ended.
    late: AtomicBool,
}

/// The polling thread's end of one partition.
struct Lane {
    records: PartitionQueue,
    /// The offset of the next record, or less: what lies before it was taken already.
    next: i64,
    queue: mpsc::UnboundedSender<Chunk>,
    queued: Arc<Queued>,
    /// There was no room for what is there.
    full: bool,
    work: Work,
}

/// A worker, and how it is told to end.
struct Work {
    closing: CancellationToken,
    abort: CancellationToken,
    worker: JoinHandle<()>,
}

/// Records on their way from the polling thread to a worker.
struct Chunk {
    records: Vec<Record>,
    held: Held,
}

impl Chunk {
    fn count(&self) -> i64 {
        i64::try_from(self.records.len()).unwrap_or(i64::MAX)
    }
}

/// Bytes waiting in a queue: what bounds it. (The channel itself has no bound: there is room before records are taken,
/// and they may be a little more than that.)
#[derive(Default)]
struct Queued(AtomicUsize);

impl<H: Handler> Group<H> {
    fn new(
        pipeline: Pipeline<H>,
        spine: Spine,
        failed: watch::Sender<Option<Arc<Failure>>>,
        stop: CancellationToken,
    ) -> Self {
        Self {
            name: pipeline.name.into(),
            topics: pipeline.topics,
            handler: Arc::new(pipeline.handler),
            permits: Arc::new(Semaphore::new(pipeline.config.concurrent_batches.max(1))),
            memory: MemoryBound::new(pipeline.config.memory_bytes),
            config: pipeline.config,
            section: pipeline.section.into(),
            metrics: Arc::new(spine.metrics.of(pipeline.name)),
            spine,
            runtime: Handle::current(),
            stop,
            failed,
            lanes: Mutex::default(),
            topic_ids: Mutex::default(),
            reports: Arc::default(),
            joins_anew: AtomicBool::default(),
            fencings: Mutex::default(),
            waits_since: Mutex::default(),
            reach: Reach::default(),
            reach_is_back: AtomicBool::default(),
        }
    }

    /// # Errors
    /// A Kafka property that does not exist or has no such value.
    fn join(self: &Arc<Self>) -> anyhow::Result<Member<H>> {
        let config = consumer_config(&self.spine.kafka, &self.name, &self.topics)?;
        let member = Member::from_config_and_context(&config, Membership(self.clone()))?;
        let topics: Vec<&str> = self.topics.iter().map(String::as_str).collect();
        member.subscribe(&topics)?;
        *locked(&self.waits_since) = Some(Instant::now());
        Ok(member)
    }

    fn fail(&self, failure: Failure) {
        fail(&self.failed, &self.name, failure);
        self.stop.cancel();
    }

    // ---- records ----

    /// What is not a partition's: rebalances, and what the client has to say.
    fn serve(&self, consumer: &Member<H>) {
        while let Some(event) = consumer.poll(Duration::ZERO) {
            match event {
                Err(error) => self.notice(error),
                // Taken, it would be skipped: the records of each partition have a queue of their own.
                Ok(message) => self.fail(Failure::stop(anyhow::anyhow!(
                    "{}: {}[{}]@{} came where no record may come; nothing was skipped",
                    self.name,
                    message.topic(),
                    message.partition(),
                    message.offset()
                ))),
            }
        }
    }

    /// Moves what is there to where there is room. False when nothing was moved.
    fn take(&self) -> bool {
        let mut errors = Vec::new();
        let mut taken = false;
        for lane in locked(&self.lanes).values_mut().flat_map(BTreeMap::values_mut) {
            taken |= self.take_from(lane, &mut errors);
        }
        errors.into_iter().for_each(|error| self.notice(error));
        taken
    }

    fn take_from(&self, lane: &mut Lane, errors: &mut Vec<KafkaError>) -> bool {
        if !lane.records.ready().is_set() {
            return false;
        }
        let ended = lane.queue.is_closed(); // it has said why, and whoever comes after it reads them
        let queued = lane.queued.0.load(Ordering::Relaxed);
        let full = !ended && queued > 0 && queued >= self.memory.share(self.config.queue_bytes);
        self.metrics.paused.inc_by(i64::from(full) - i64::from(lane.full));
        lane.full = full;
        if full || ended {
            return false;
        }
        lane.records.ready().clear(); // before: what comes while we take sets it again
        let (mut records, mut held, mut weight) = (Vec::new(), Held::nothing(&self.memory), 0);
        let more = lane.records.take(|found| match found {
            Ok(record) if record.position.offset >= lane.next => {
                lane.next = record.position.offset + 1;
                weight += record.weight();
                records.push(record);
            }
            Ok(_) => {}
            Err(error) => errors.push(error),
        });
        held.take(weight);
        if more {
            lane.records.ready().set();
        }
        self.hand_over(lane, Chunk { records, held })
    }

    /// False when there is nothing to hand over.
    fn hand_over(&self, lane: &Lane, chunk: Chunk) -> bool {
        if chunk.records.is_empty() {
            return false;
        }
        let count = chunk.count();
        lane.queued.0.fetch_add(chunk.held.bytes(), Ordering::Relaxed);
        self.metrics.inflight.inc_by(count);
        if lane.queue.send(chunk).is_err() {
            self.metrics.inflight.dec_by(count);
        }
        true
    }

    fn store_progress(&self, consumer: &Member<H>) {
        let progress = std::mem::take(&mut *locked(&self.reports.progress));
        let mut offsets = TopicPartitionList::new();
        for ((topic, partition), next) in progress {
            if let Err(error) = offsets.add_partition_offset(&topic, partition, Offset::Offset(next)) {
                tracing::debug!("could not show progress of {topic}[{partition}]: {error}");
            }
        }
        if offsets.count() > 0
            && let Err(error) = consumer.store_offsets(&offsets)
        {
            tracing::debug!("could not show progress: {error}");
        }
    }

    fn notice(&self, error: KafkaError) {
        use RDKafkaErrorCode::{AutoOffsetReset, FencedInstanceId, OffsetOutOfRange};
        match error {
            KafkaError::PartitionEOF(_) => {}
            KafkaError::MessageConsumptionFatal(FencedInstanceId) if self.may_join_again() => {
                tracing::warn!(pipeline = %self.name, "kafka took our place in the group for somebody else's: joining again");
                self.joins_anew.store(true, Ordering::Relaxed);
            }
            KafkaError::MessageConsumptionFatal(code) => self.fail(Failure::stop(anyhow::anyhow!(
                "{}: the Kafka client gave up ({code}); if another process uses the same kafka.instance, give each its own", self.name
            ))),
            KafkaError::MessageConsumption(AutoOffsetReset | OffsetOutOfRange) => self.fail(self.out_of_range()),
            error => tracing::warn!(pipeline = %self.name, "kafka: {error}; the client keeps trying"),
        }
    }

    /// A broker that was restarted hears late of the member we were and takes it for a rival. A real one, who has our
    /// kafka.instance, fences us again and again.
    fn may_join_again(&self) -> bool {
        let mut fencings = locked(&self.fencings);
        fencings.retain(|at| at.elapsed() < FENCED_WITHIN);
        fencings.push_back(Instant::now());
        fencings.len() <= FENCED_MAX
    }

    /// For when a broker has just answered. What keeps a member waiting for ever may be the broker, the client or we; a
    /// new client, and a new member with it, is as good against each.
    fn join_anew_if_forgotten(&self) {
        let since = *locked(&self.waits_since);
        let Some(waited) = since.map(|since| since.elapsed()).filter(|waited| *waited > ASSIGNED_WITHIN) else {
            return;
        };
        tracing::error!(pipeline = %self.name, "kafka answers, but its group has not in {waited:.0?}: joining again");
        self.joins_anew.store(true, Ordering::Relaxed);
    }

    /// The pipeline is about to stop, so the polling thread may wait for an answer.
    fn out_of_range(&self) -> Failure {
        let deleted = || {
            Failure::stop(anyhow::anyhow!(
                "{}: the log no longer holds the next offset: records were deleted before they took effect. \
                 Compare `millrace status` with the topic's retention. {RESET}",
                self.name
            ))
        };
        self.recreated().ok().flatten().unwrap_or_else(deleted)
    }

    /// Is a topic no longer the one that we took over? Blocks for one round trip.
    fn recreated(&self) -> anyhow::Result<Option<Failure>> {
        let known = locked(&self.topic_ids).clone();
        let found = topic_ids(&self.spine.kafka, &self.topics);
        let found = found.inspect_err(|error| tracing::warn!(pipeline = %self.name, "{error:#}"))?;
        let other = known.iter().find(|(topic, known)| found.get(*topic).is_some_and(|id| id != *known));
        Ok(other.map(|(topic, known)| offsets::recreated(&self.name, topic, known, &found[topic])))
    }

    fn note(&self, topic_ids: BTreeMap<String, String>) {
        let mut known = locked(&self.topic_ids);
        for (topic, id) in topic_ids {
            known.entry(topic).or_insert(id);
        }
    }

    // ---- rebalances ----

    fn assign(&self, consumer: &Member<H>, partitions: &mut TopicPartitionList) {
        *locked(&self.waits_since) = None;
        let wanted: Vec<Key> = partitions.elements().iter().map(|e| (Arc::from(e.topic()), e.partition())).collect();
        let claims = match self.claim_all(consumer, &wanted) {
            Ok(claims) => claims,
            Err(failure) => return self.fail(failure),
        };
        tracing::info!(pipeline = %self.name, "took {} partitions over", claims.len());
        for (claim, log_start) in claims {
            let from = Window::warm_from(self.config.dedup_window, claim.next, log_start);
            let set = partitions.set_partition_offset(&claim.topic, claim.partition, Offset::Offset(from));
            if let Err(error) = set {
                return self.fail(Failure::stop(error));
            }
            // Before it is assigned: its first record must find its own queue.
            let records = PartitionQueue::split(consumer, &claim.topic, claim.partition, Ready::here(), TAKEN_MAX);
            let Some(records) = records else {
                let unknown = anyhow::anyhow!("{}[{}] is unknown to the client", claim.topic, claim.partition);
                return self.fail(Failure::stop(unknown));
            };
            self.open_lane(claim, records);
        }
        if let Err(error) = consumer.incremental_assign(partitions) {
            self.fail(Failure::stop(error));
        }
    }

    fn claim_all(&self, consumer: &Member<H>, wanted: &[Key]) -> Result<Vec<(Claim, i64)>, Failure> {
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let (abort, admin) = (self.stop.child_token(), Admin::new(self.spine.kafka.clone()));
        let claim = retry_until(&abort, "could not take partitions over", || async {
            // On a thread of its own: our deadline holds even where the client's does not.
            let ids = admin.topic_ids(self.topics.clone()).await.map_err(Failure::retry)?;
            // A broker has just answered another client: this one may have been lost meanwhile, and nobody polls it here.
            let lost = |_: &anyhow::Error| reach::tell(consumer.client(), &self.spine.kafka);
            let held = log_bounds(consumer, wanted, BROKER_DEADLINE).inspect_err(lost).map_err(Failure::retry)?;
            let wanted = wanted.iter().zip(&held).map(|((topic, partition), held)| Wanted {
                topic: topic.clone(),
                topic_id: ids[&**topic].clone(),
                partition: *partition,
                log_start: held.log_start,
            });
            let claims = self.spine.checkpoints.claim(&self.name, wanted.collect()).await?;
            self.note(ids);
            claims.into_iter().zip(&held).map(|(claim, held)| self.accept(claim, held)).collect()
        });
        let claims = self.runtime.block_on(async { tokio::time::timeout(CLAIM_DEADLINE, claim).await });
        let late = |_| Failure::stop(anyhow::anyhow!("could not take partitions over within {CLAIM_DEADLINE:?}"));
        Ok(claims.map_err(late)??.unwrap_or_default())
    }

    /// The claim and the log's start, if the log still holds what comes next.
    fn accept(&self, claim: Claim, held: &PartitionProgress) -> Result<(Claim, i64), Failure> {
        let PartitionProgress { topic, partition, log_start: start, log_end: end } = held;
        let (name, next) = (&self.name, claim.next);
        if next < *start || next > *end {
            return Err(Failure::stop(anyhow::anyhow!(
                "{name}: data at risk in {topic}[{partition}]: the next record to apply is {next}, but the log holds {start} to {end}. {RESET}"
            )));
        }
        tracing::debug!(pipeline = %name, topic = %topic, partition, next, "took the partition over");
        Ok((claim, *start))
    }

    fn open_lane(&self, claim: Claim, records: PartitionQueue) {
        let (queue, chunks) = mpsc::unbounded_channel();
        let (closing, abort) = (CancellationToken::new(), CancellationToken::new());
        let queued = Arc::<Queued>::default();
        let (topic, partition) = (claim.topic.clone(), claim.partition);
        let source = LaneSource {
            records: chunks,
            current: Vec::new().into_iter(),
            held: Held::nothing(&self.memory),
            queued: queued.clone(),
            ready: records.ready().clone(),
            closing: closing.clone(),
            metrics: self.metrics.clone(),
        };
        let worker = self.runtime.spawn(self.work(claim, source, abort.clone()));
        let work = Work { closing, abort, worker };
        let lane = Lane { records, next: 0, queue, queued, full: false, work };
        locked(&self.lanes).entry(topic.to_string()).or_default().insert(partition, lane);
    }

    fn work(
        &self,
        claim: Claim,
        source: LaneSource,
        abort: CancellationToken,
    ) -> impl Future<Output = ()> + Send + use<H> {
        let worker = Worker {
            handler: self.handler.clone(),
            decoder: self.spine.decoder.clone(),
            checkpoints: self.spine.checkpoints.clone(),
            config: self.config.clone(),
            reads: Reads::Once { section: self.section.clone() },
            claim,
            permits: self.permits.clone(),
            memory: self.memory.clone(),
            metrics: self.metrics.clone(),
            closing: source.closing.clone(),
            abort,
        };
        let (failed, stop, name) = (self.failed.clone(), self.stop.clone(), self.name.clone());
        let (closing, runtime) = (source.closing.clone(), self.runtime.clone());
        let (reports, key) = (self.reports.clone(), (worker.claim.topic.clone(), worker.claim.partition));
        let settled = move |next| {
            locked(&reports.progress).insert(key.clone(), next);
        };
        async move {
            let ended = runtime.spawn(worker.run(source, settled)).await;
            let ended = ended
                .unwrap_or_else(|_| Err(Failure::stop(anyhow::anyhow!("a worker panicked; its message is above"))));
            if let Err(failure) = ended {
                if closing.is_cancelled() {
                    // The partition is somebody else's by now, as it should be.
                    tracing::info!("{name}: {failure}");
                    return;
                }
                fail(&failed, &name, failure);
                stop.cancel();
            }
        }
    }

    fn revoke(&self, consumer: &Member<H>, partitions: &TopicPartitionList) {
        let lost = consumer.assignment_lost();
        if lost {
            *locked(&self.waits_since) = Some(Instant::now()); // the client joins again by itself
        }
        tracing::info!(pipeline = %self.name, lost, "gives {} partitions up", partitions.count());
        let lanes: Vec<Lane> = {
            let mut all = locked(&self.lanes);
            let mut take = |topic: &str, partition| all.get_mut(topic)?.remove(&partition);
            partitions.elements().iter().filter_map(|e| take(e.topic(), e.partition())).collect()
        };
        let mut queues = self.close(lanes, if lost { Duration::ZERO } else { DRAIN_DEADLINE });
        if !lost {
            self.store_progress(consumer);
        }
        if let Err(error) = consumer.incremental_unassign(partitions) {
            tracing::warn!(pipeline = %self.name, "could not give partitions back: {error}");
        }
        // What was read ahead would stay in memory for as long as the client lives.
        queues.iter_mut().for_each(PartitionQueue::empty);
    }

    /// For a client that the broker has shut out: it tells nobody of a revocation any more.
    fn give_everything_up(&self) {
        let lanes = std::mem::take(&mut *locked(&self.lanes));
        self.close(lanes.into_values().flat_map(BTreeMap::into_values).collect(), DRAIN_DEADLINE);
    }

    /// The workers' end. What the client has read ahead is left.
    fn close(&self, lanes: Vec<Lane>, deadline: Duration) -> Vec<PartitionQueue> {
        self.metrics.paused.dec_by(lanes.iter().filter(|lane| lane.full).count() as i64);
        let (work, queues) = lanes.into_iter().map(|lane| (lane.work, lane.records)).unzip();
        let drained = self.runtime.block_on(drain(work, deadline));
        if self.stop.is_cancelled() && !drained {
            self.reports.late.store(true, Ordering::Relaxed);
        }
        queues
    }
}

fn fail(failed: &watch::Sender<Option<Arc<Failure>>>, name: &str, failure: Failure) {
    tracing::error!(pipeline = %name, "stopped: {failure}");
    // The first reason is the one worth reading.
    failed.send_if_modified(|slot| slot.is_none() && slot.replace(Arc::new(failure)).is_none());
}

/// Lets each partition's batch in hand settle, all at once; what is late, and what was gathered behind it, is given up
/// and read again. False when anything was late.
///
/// A late worker ends by itself at its next step; the next owner's epoch makes that step harmless. Ending its task
/// instead would not be: cut off within a BEGIN, sqlx puts the connection back with its transaction open, and
/// whoever gets it next writes into that transaction and believes it is done.
async fn drain(work: Vec<Work>, deadline: Duration) -> bool {
    for work in &work {
        work.closing.cancel();
    }
    let late = tokio::time::Instant::now() + deadline;
    let mut in_time = true;
    for mut work in work {
        if tokio::time::timeout_at(late, &mut work.worker).await.is_err() {
            work.abort.cancel();
            in_time = false;
        }
    }
    in_time
}

impl<H: Handler> ClientContext for Membership<H> {
    /// Polling brings the same error, for [`Group::notice`].
    fn error(&self, error: KafkaError, _reason: &str) {
        self.0.reach.note(&error);
    }
}

impl<H: Handler> ConsumerContext for Membership<H> {
    fn rebalance(&self, consumer: &Member<H>, error: RDKafkaRespErr, partitions: &mut TopicPartitionList) {
        match error {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => self.0.assign(consumer, partitions),
            _ => self.0.revoke(consumer, partitions),
        }
    }
}

/// A worker's end of its queue.
struct LaneSource {
    records: mpsc::UnboundedReceiver<Chunk>,
    current: std::vec::IntoIter<Record>,
    /// Of the chunk that is being given out.
    held: Held,
    queued: Arc<Queued>,
    /// Of the client's queue.
    ready: Arc<Ready>,
    closing: CancellationToken,
    metrics: Shared,
}

impl Source for LaneSource {
    async fn next(&mut self) -> Option<Record> {
        loop {
            if let Some(record) = self.ready() {
                return Some(record);
            }
            let chunk = tokio::select! {
                biased;
                () = self.closing.cancelled() => None,
                chunk = self.records.recv() => chunk,
            }?;
            self.queued.0.fetch_sub(chunk.held.bytes(), Ordering::Relaxed);
            self.ready.set(); // there may be room again
            self.metrics.inflight.dec_by(chunk.count());
            (self.current, self.held) = (chunk.records.into_iter(), chunk.held);
        }
    }

    fn ready(&mut self) -> Option<Record> {
        self.current.next()
    }
}

impl Drop for LaneSource {
    fn drop(&mut self) {
        self.records.close(); // what comes from now on is not counted
        while let Ok(chunk) = self.records.try_recv() {
            self.metrics.inflight.dec_by(chunk.count());
        }
    }
}

/// No code panics while holding these locks; a poisoned one still holds whole values.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake_broker::{FakeBroker, TOPIC};
    use crate::{Batch, Incoming, Reject};
    use millrace_schemas::Contracts;
    use millrace_schemas::registry::Registry;

    /// For a pipeline that gets nothing to do.
    struct Idle;

    impl Handler for Idle {
        type Block = ();

        fn decode(&self, _: &Incoming<'_>, (): &mut ()) -> Result<bool, Reject> {
            Ok(false)
        }

        async fn apply(&self, _: &Batch<()>) -> Result<(), Failure> {
            Ok(())
        }
    }

    fn idle_group(kafka: KafkaConfig) -> Arc<Group<Idle>> {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let registry = Registry::new("http://127.0.0.1:1").unwrap();
        let decoder = Decoder::new(registry, Arc::new(Contracts::embedded().unwrap()));
        let checkpoints = Checkpoints::new(sqlx::PgPool::connect_lazy("postgres://127.0.0.1:1").unwrap());
        let spine = Spine { kafka, decoder, checkpoints, metrics: Metrics::default() };
        let pipeline = Pipeline {
            name: "idle",
            topics: vec![TOPIC.into()],
            handler: Idle,
            config: PipelineConfig::default(),
            section: "process.idle".into(),
        };
        Arc::new(Group::new(pipeline, spine, watch::channel(None).0, CancellationToken::new()))
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_member_that_its_group_has_forgotten_joins_with_a_new_client() {
        let broker = FakeBroker::start();
        let group = idle_group(broker.kafka());
        let member = group.join().unwrap();
        let polling = group.clone();
        let poller = std::thread::spawn(move || poll_until_stopped(&polling, member));
        group.join_anew_if_forgotten();
        assert_eq!(group.metrics.joined_anew.get(), 0, "it waits for a moment only");
        *locked(&group.waits_since) = Instant::now().checked_sub(ASSIGNED_WITHIN);
        group.join_anew_if_forgotten();
        let joined = async {
            while group.metrics.joined_anew.get() == 0 {
                tokio::time::sleep(POLL).await;
            }
        };
        tokio::time::timeout(DRAIN_DEADLINE, joined).await.expect("it joins anew");
        assert!(locked(&group.waits_since).unwrap().elapsed() < ASSIGNED_WITHIN);
        group.stop.cancel();
        tokio::task::spawn_blocking(move || poller.join().unwrap()).await.unwrap();
        assert!(group.failed.borrow().is_none());
    }

    #[tokio::test]
    async fn a_member_that_is_fenced_now_and_then_goes_on_and_one_that_has_a_rival_does_not() {
        let group = idle_group(KafkaConfig::default());
        assert!((0..FENCED_MAX).all(|_| group.may_join_again()));
        assert!(!group.may_join_again());
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_worker_is_told_and_not_cut_off() {
        let (closing, abort) = (CancellationToken::new(), CancellationToken::new());
        let (told, finished) = (abort.clone(), Arc::<AtomicBool>::default());
        let finish = finished.clone();
        let worker = tokio::spawn(async move {
            told.cancelled().await;
            tokio::time::sleep(Duration::from_secs(1)).await; // the rest of its statement
            finish.store(true, Ordering::Relaxed);
        });
        assert!(!drain(vec![Work { closing, abort, worker }], Duration::ZERO).await);
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert!(finished.load(Ordering::Relaxed));
    }
}
