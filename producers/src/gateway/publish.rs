//! A batch's way into the log: everything is handed over in its order, then every answer is awaited, until a deadline.

use super::answer::{Status, Verdict};
use super::metrics::GatewayMetrics;
use super::prepare::{Prepared, Ready};
use super::redis::{Known, Marks, Redis};
use super::spool::{Frames, Spool};
use super::throttle::Allowance;
use super::window::{Fingerprint, Window};
use hashbrown::hash_map::Entry;
use hashbrown::{DefaultHashBuilder, HashMap, HashSet};
use millrace_schemas::Violation;
use millrace_stream::{Acknowledgement, KafkaConfig, Outgoing, PublishError, Publisher};
use std::borrow::Cow;
use std::hash::BuildHasher;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::time::{Instant, Sleep};
use uuid::Uuid;

/// Beyond the Kafka client's own deadline, so that it is the client who gives up: it knows what it sent.
const ANSWER_SLACK: Duration = Duration::from_secs(1);
/// How long a batch that the Kafka client took the first events of waits for room for the others. The client gives each
/// event up by itself: had they waited long, the first would be given up alone and the last be in the log before them.
const ROOM_DEADLINE: Duration = Duration::from_millis(100);
/// How long a topic that the brokers don't know may be one that they don't know yet; a fourth of a short deadline. Well
/// before the deadline, or an event of a topic that is not there would seem to be one that the log is away for.
const TOPIC_GRACE: Duration = Duration::from_secs(1);

/// What an event lacks whose id stands for another one.
pub(super) const OWN_ID: &str = "an id of its own";

pub(super) struct Desk {
    kafka: KafkaConfig,
    publisher: RwLock<Publisher>,
    deadline: Duration,
    window: Window<Name, Fingerprint>,
    hashes: DefaultHashBuilder,
    /// What it shares with other gateways.
    redis: Option<Arc<Redis>>,
    /// Where events wait while the log is away.
    spool: Option<Arc<Spool>>,
    /// The log's last answer was none.
    away: AtomicBool,
}

/// What kept events of a request out of the log. Told once: an outage has thousands of such events a second.
#[derive(Default)]
struct Trouble {
    events: usize,
    one: Option<String>,
    is_away: bool,
}

impl Trouble {
    fn note(&mut self, error: String) {
        self.events += 1;
        self.one.get_or_insert(error);
        self.is_away = true;
    }

    /// The log is there, and says no.
    fn refused(&mut self, error: &PublishError) {
        self.events += 1;
        self.one.get_or_insert_with(|| error.to_string());
    }
}

/// What becomes of an event of a batch.
enum Fate<'a> {
    /// The log has not answered yet.
    Sent(Sent<'a>),
    Done(Verdict<'a>),
    /// The log is there and did not take it: `retry`. It is not spooled, where it would hold up all that is behind it.
    Refused(Verdict<'a>),
    /// It has the id of an earlier one of the same batch, and that one's fate.
    Same(usize, Box<Verdict<'a>>),
}

/// An event's id within its topic: what another one publishes to another topic under the same id is its own affair.
pub(super) type Name = (u64, Uuid);

/// What an event is known by and told apart by.
#[derive(Clone, Copy, Default)]
struct Identity {
    name: Name,
    fingerprint: Fingerprint,
    /// What an earlier event had that was accepted under the name.
    earlier: Option<Fingerprint>,
}

/// Each name's first event of a batch: its place there, and what it is told apart by.
type Firsts = HashMap<Name, (usize, Fingerprint)>;

/// A request's events on their way into the log.
struct Batch<'a> {
    /// No event is handed over later.
    until: Instant,
    firsts: Firsts,
    /// By their place in the batch, those that may have to wait on disk; none where there is no spool.
    kept: Vec<(usize, Prepared<'a>)>,
    trouble: Trouble,
}

/// On its way, with what it is told once the log has it.
struct Sent<'a> {
    acknowledgement: Acknowledgement,
    name: Name,
    fingerprint: Fingerprint,
    /// As it was sent.
    id: Cow<'a, str>,
    event_type: &'a str,
}

impl Batch<'_> {
    fn new(until: Instant, firsts: Firsts) -> Self {
        Self { until, firsts, kept: Vec::new(), trouble: Trouble::default() }
    }
}

impl Desk {
    pub fn new(
        kafka: &KafkaConfig,
        deadline: Duration,
        remembered_ids: usize,
        redis: Option<Arc<Redis>>,
        spool: Option<Arc<Spool>>,
    ) -> anyhow::Result<Self> {
        let mut kafka = kafka.clone();
        // Else the client would try for two minutes, with its memory, what the sender was told to send again.
        kafka.properties.insert("message.timeout.ms".into(), deadline.as_millis().to_string());
        let grace = TOPIC_GRACE.min(deadline / 4);
        kafka.properties.insert("topic.metadata.propagation.max.ms".into(), grace.as_millis().to_string());
        let publisher = RwLock::new(Publisher::new(&kafka)?);
        let (window, hashes) = (Window::new(remembered_ids), DefaultHashBuilder::default());
        Ok(Self { kafka, publisher, deadline, window, hashes, redis, spool, away: AtomicBool::new(false) })
    }

    /// A topic was made anew, and the window does not tell it from what it was.
    pub fn forget_ids(&self) {
        self.window.open().forget_all();
    }

    pub fn log_is_away(&self) -> bool {
        self.away.load(Ordering::Relaxed)
    }

    /// One verdict for each event, in their order. `accepted` is what all in-sync replicas have, and nothing else.
    pub async fn settle<'a>(
        &self,
        events: Vec<Ready<'a>>,
        allowance: &mut Allowance<'_>,
        metrics: &GatewayMetrics,
    ) -> Vec<Verdict<'a>> {
        let since = Instant::now();
        let (marks, firsts) = self.ask_redis(&events, allowance).await;
        let mut batch = Batch::new(since + self.deadline, firsts);
        let mut fates = self.hand_over(events, allowance, &mut batch).await;
        let given_up = since + self.deadline + ANSWER_SLACK;
        let acknowledged = self.answers(&mut fates, given_up, &mut batch.trouble).await;
        if !acknowledged.is_empty() {
            self.away.store(false, Ordering::Relaxed);
            metrics.settled(since.elapsed());
        }
        self.remember(&acknowledged);
        if let Some(redis) = &self.redis {
            redis.remember(acknowledged.iter().map(|(name, _)| name), &marks).await;
        }
        self.report(batch.trouble);
        self.spool(&mut fates, batch.kept).await;
        verdicts(fates)
    }

    /// Waits for what the log says of those that were sent. Returns which of them it has.
    async fn answers(
        &self,
        fates: &mut [Fate<'_>],
        given_up: Instant,
        trouble: &mut Trouble,
    ) -> Vec<(Name, Fingerprint)> {
        let mut given_up = pin!(tokio::time::sleep_until(given_up)); // one for all of them
        let mut acknowledged = Vec::with_capacity(fates.len());
        // The last first: once it has its answer most others have theirs, and are not waited for one by one.
        for fate in fates.iter_mut().rev() {
            let Fate::Sent(Sent { acknowledgement, name, fingerprint, id, event_type }) = fate else { continue };
            let answer = answer(acknowledgement, given_up.as_mut()).await;
            let verdict = accepted(std::mem::take(id), event_type);
            *fate = match answer {
                Some(Ok(())) => {
                    acknowledged.push((*name, *fingerprint));
                    Fate::Done(verdict)
                }
                Some(Err(error)) if !error.is_away() => refused(verdict, &error, trouble),
                unsure => {
                    let error = unsure.and_then(Result::err).map(|error| error.to_string());
                    trouble.note(error.unwrap_or_else(|| "the Kafka client did not answer".to_owned()));
                    Fate::Done(retry(verdict, "the log did not answer in time: it may have the event or not"))
                }
            };
        }
        acknowledged
    }

    /// Which ids other gateways accepted, as if this one had; and how much the principal may publish at all of them.
    async fn ask_redis(&self, events: &[Ready<'_>], allowance: &mut Allowance<'_>) -> (Marks, Firsts) {
        let (mut marks, mut taken) = (Marks::default(), Firsts::new());
        let Some(redis) = &self.redis else { return (marks, taken) };
        let mut names = HashSet::with_capacity(events.len());
        let is_new = |(name, _): &(Name, &Prepared<'_>)| self.window.open().find(name).is_none();
        let is_first = |(name, _): &(Name, &Prepared<'_>)| names.insert(*name);
        let named = events.iter().flatten().map(|event| (self.name(event), event));
        let mut new: Vec<(Name, &Prepared<'_>)> = named.filter(is_new).filter(is_first).collect();
        if !self.window.open().is_off() {
            let known;
            (known, marks) = redis.find(&new).await;
            for Known { name, event, same } in known {
                let fingerprint = self.fingerprint(event);
                if same {
                    self.window.open().remember(name, fingerprint);
                } else {
                    taken.insert(name, (0, !fingerprint)); // by an event that is none of these
                }
            }
            new.retain(|event| is_new(event) && !taken.contains_key(&event.0));
        }
        let sizes: Vec<usize> = new.iter().map(|(_, event)| event.value.len()).collect();
        allowance.ask(redis, &sizes).await;
        (marks, taken)
    }

    /// In order; where one may not be handed over, or can't be in time, none behind it is, or a key's order would be
    /// lost. What is known to be in the log takes nothing of the allowance.
    async fn hand_over<'a>(
        &self,
        events: Vec<Ready<'a>>,
        allowance: &mut Allowance<'_>,
        batch: &mut Batch<'a>,
    ) -> Vec<Fate<'a>> {
        let publisher = self.publisher.read().unwrap_or_else(PoisonError::into_inner).clone();
        let mut fates = Vec::with_capacity(events.len());
        batch.firsts.reserve(events.len());
        let (now, mut full, mut begun) = (std::time::Instant::now(), false, false);
        let is_spooling = match &self.spool {
            Some(spool) => spool.holds_any().await,
            None => false,
        };
        let identities = self.identities(&events);
        for (at, (event, identity)) in events.into_iter().zip(identities).enumerate() {
            let fate = match event {
                Err(refused) => Fate::Done(*refused),
                Ok(prepared) => match repetition(&prepared, identity, &mut batch.firsts, at) {
                    Some(fate) => fate,
                    None if full => self.not_tried(prepared, at, batch),
                    None if !allowance.take(prepared.value.len(), now) => Fate::Done(throttled(verdict(&prepared))),
                    None if is_spooling => self.not_tried(prepared, at, batch),
                    None => {
                        let fate = send(&publisher, &prepared, identity, batch).await;
                        self.keep(prepared, at, batch);
                        match &fate {
                            Fate::Done(verdict) => full = verdict.status == Status::Retry,
                            _ if !begun => {
                                (batch.until, begun) = (batch.until.min(Instant::now() + ROOM_DEADLINE), true);
                            }
                            _ => {}
                        }
                        fate
                    }
                },
            };
            fates.push(fate);
        }
        fates
    }

    fn not_tried<'a>(&self, event: Prepared<'a>, at: usize, batch: &mut Batch<'a>) -> Fate<'a> {
        let fate = Fate::Done(retry(verdict(&event), "it was not tried"));
        self.keep(event, at, batch);
        fate
    }

    fn keep<'a>(&self, event: Prepared<'a>, at: usize, batch: &mut Batch<'a>) {
        if self.spool.is_some() {
            batch.kept.push((at, event));
        }
    }

    /// What would be `retry` waits on disk instead: all of it or nothing, or one event could pass another.
    async fn spool<'a>(&self, fates: &mut [Fate<'a>], kept: Vec<(usize, Prepared<'a>)>) {
        let Some(spool) = &self.spool else { return };
        let (mut frames, mut spooled) = (Frames::default(), Vec::new());
        for (at, event) in kept {
            match &mut fates[at] {
                Fate::Done(verdict) if verdict.status == Status::Retry => {
                    if spool.add(&event, &mut frames) {
                        spooled.push(at);
                    } else {
                        *verdict = too_large(self::verdict(&event), event.value.len());
                    }
                }
                _ => {}
            }
        }
        let written = if spooled.is_empty() { Ok(()) } else { spool.append(frames).await };
        for at in spooled {
            let Fate::Done(verdict) = &mut fates[at] else { continue };
            match &written {
                Ok(()) => (verdict.status, verdict.message) = (Status::Spooled, None),
                Err(why) => {
                    verdict.message = Some(format!("the log is away and {why}; send it again with the same id"))
                }
            }
        }
    }

    /// Of each event, in their order; of what is none, nothing that counts. All are looked up at once: one after the
    /// other, each would wait for memory by itself.
    fn identities(&self, events: &[Ready<'_>]) -> Vec<Identity> {
        let identity = |event: &Ready<'_>| match event {
            Ok(event) => Identity { name: self.name(event), fingerprint: self.fingerprint(event), earlier: None },
            Err(_) => Identity::default(),
        };
        let mut identities: Vec<_> = events.iter().map(identity).collect();
        let window = self.window.open();
        for identity in &mut identities {
            identity.earlier = window.find(&identity.name);
        }
        identities
    }

    fn name(&self, event: &Prepared<'_>) -> Name {
        (self.hashes.hash_one(event.topic), event.envelope.id)
    }

    fn fingerprint(&self, event: &Prepared<'_>) -> Fingerprint {
        self.hashes.hash_one((&*event.envelope.event_type, &event.value))
    }

    /// What has no answer is not remembered; nor is anything of a sender who goes before the last answer.
    fn remember(&self, acknowledged: &[(Name, Fingerprint)]) {
        let mut window = self.window.open();
        for (name, fingerprint) in acknowledged {
            window.remember(*name, *fingerprint);
        }
    }

    fn report(&self, trouble: Trouble) {
        let Trouble { events, one: Some(error), is_away } = trouble else { return };
        if is_away {
            self.away.store(true, Ordering::Relaxed);
        }
        tracing::warn!(events, "not known to be in the log, one because: {error}");
        self.replace_broken_publisher();
    }

    /// A producer that lost track of its sequence numbers refuses everything from then on; a new one begins anew.
    fn replace_broken_publisher(&self) {
        let mut publisher = self.publisher.write().unwrap_or_else(PoisonError::into_inner);
        let Some(reason) = publisher.fatal_error() else { return };
        tracing::error!("the Kafka producer gave up and is replaced: {reason}");
        match Publisher::new(&self.kafka) {
            Ok(fresh) => {
                let broken = std::mem::replace(&mut *publisher, fresh);
                tokio::task::spawn_blocking(move || drop(broken)); // which waits for the client's end
            }
            Err(error) => tracing::error!("no new Kafka producer: {error:#}"),
        }
    }
}

async fn send<'a>(
    publisher: &Publisher,
    event: &Prepared<'a>,
    Identity { name, fingerprint, .. }: Identity,
    Batch { until, trouble, .. }: &mut Batch<'_>,
) -> Fate<'a> {
    let Prepared { topic, envelope, value, .. } = event;
    let outgoing = Outgoing { topic, key: &envelope.subject, envelope, value: Some(value) };
    match tokio::time::timeout_at(*until, publisher.enqueue(&outgoing)).await {
        Ok(Ok(acknowledgement)) => {
            let (id, event_type) = (event.id.clone(), event.event_type);
            Fate::Sent(Sent { acknowledgement, name, fingerprint, id, event_type })
        }
        Ok(Err(error)) if error.is_too_large() => Fate::Done(too_large(verdict(event), value.len())),
        Ok(Err(error)) if !error.is_away() => refused(verdict(event), &error, trouble),
        Ok(Err(error)) => {
            trouble.note(error.to_string());
            Fate::Done(retry(verdict(event), "the Kafka client did not take it"))
        }
        Err(_) => {
            trouble.note("the Kafka client's queue is full".to_owned());
            Fate::Done(retry(verdict(event), "the Kafka client's queue was full"))
        }
    }
}

/// The fate of an event whose id an earlier one had. One with a new id is the first with it from now on.
fn repetition<'a>(event: &Prepared<'a>, identity: Identity, firsts: &mut Firsts, at: usize) -> Option<Fate<'a>> {
    let Identity { name, fingerprint, earlier } = identity;
    if let Some(earlier) = earlier {
        return Some(Fate::Done(repeated(verdict(event), earlier == fingerprint)));
    }
    match firsts.entry(name) {
        Entry::Vacant(vacant) => {
            vacant.insert((at, fingerprint));
            None
        }
        Entry::Occupied(first) if first.get().1 == fingerprint => {
            Some(Fate::Same(first.get().0, Box::new(repeated(verdict(event), true))))
        }
        Entry::Occupied(_) => Some(Fate::Done(repeated(verdict(event), false))),
    }
}

fn refused<'a>(verdict: Verdict<'a>, error: &PublishError, trouble: &mut Trouble) -> Fate<'a> {
    trouble.refused(error);
    let why = if error.is_too_large() {
        // The broker answers for all the records that came to it as one batch.
        "the log refused it: it, or an event that was sent in the same moment, is larger than its topic takes, so try \
         it alone"
    } else {
        "the log refused it, and will until the topic or the gateway's rights are mended"
    };
    Fate::Refused(retry(verdict, why))
}

/// None where the client has none.
async fn answer(acknowledgement: &mut Acknowledgement, given_up: Pin<&mut Sleep>) -> Option<Result<(), PublishError>> {
    tokio::select! {
        biased;
        answer = acknowledgement => Some(answer),
        () = given_up => None,
    }
}

fn verdicts(fates: Vec<Fate<'_>>) -> Vec<Verdict<'_>> {
    let mut verdicts: Vec<Verdict<'_>> = Vec::with_capacity(fates.len());
    for fate in fates {
        verdicts.push(match fate {
            Fate::Sent(Sent { id, event_type, .. }) => retry(accepted(id, event_type), "the log was not waited for"),
            Fate::Done(verdict) | Fate::Refused(verdict) => verdict,
            Fate::Same(at, verdict) => as_the_first(&verdicts[at], *verdict),
        });
    }
    verdicts
}

/// Of an event that fits and was not sent yet: what it will be when the log has it.
fn verdict<'a>(event: &Prepared<'a>) -> Verdict<'a> {
    accepted(event.id.clone(), event.event_type)
}

fn accepted<'a>(id: Cow<'a, str>, event_type: &'a str) -> Verdict<'a> {
    Verdict { event_type: Some(event_type), ..Verdict::new(Some(id), Status::Accepted) }
}

fn throttled(verdict: Verdict<'_>) -> Verdict<'_> {
    let message =
        "as much was published as may be for now; send it and what follows again with the same ids".to_owned();
    Verdict { status: Status::Throttled, message: Some(message), ..verdict }
}

fn retry<'a>(verdict: Verdict<'a>, why: &str) -> Verdict<'a> {
    let message = format!("{why}; send it again with the same id");
    Verdict { status: Status::Retry, message: Some(message), ..verdict }
}

/// Where the project allows smaller records than the contracts are checked against.
fn too_large(verdict: Verdict<'_>, bytes: usize) -> Verdict<'_> {
    let error = Violation::new("/data", "an event that fits a record of the log", format!("{bytes} bytes as Avro"));
    Verdict { status: Status::Invalid, errors: vec![error], ..verdict }
}

fn repeated(verdict: Verdict<'_>, same: bool) -> Verdict<'_> {
    if same {
        return Verdict { status: Status::Duplicate, ..verdict };
    }
    let error = Violation::new("/id", OWN_ID, "one that another event was accepted with");
    Verdict { status: Status::Invalid, errors: vec![error], conflict: true, ..verdict }
}

/// A repetition of what is not in the log is not there either.
fn as_the_first<'a>(first: &Verdict<'_>, repetition: Verdict<'a>) -> Verdict<'a> {
    match first.status {
        Status::Accepted | Status::Duplicate => repetition,
        _ => {
            let (message, errors) = (first.message.clone(), first.errors.clone());
            Verdict { status: first.status, message, errors, ..repetition }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::access::{Principal, Way};
    use crate::gateway::spool::SpoolConfig;
    use crate::gateway::throttle::{LimitsConfig, RateConfig, Throttle};
    use millrace_schemas::Envelope;

    /// Before a log that nobody answers for.
    fn desk(deadline: Duration, properties: &[(&str, &str)]) -> Desk {
        let properties = properties.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let kafka = KafkaConfig { brokers: "127.0.0.1:1".into(), properties, ..KafkaConfig::default() };
        Desk::new(&kafka, deadline, 1000, None, None).unwrap()
    }

    fn it() -> Principal {
        Principal::granted("it", Way::Key, &[])
    }

    fn event(n: u128, bytes: usize) -> Ready<'static> {
        let id = Uuid::from_u128(n);
        let envelope = Envelope { id, ..Envelope::new("/it", "a.b", "key") };
        let id = id.to_string().to_uppercase().into();
        Ok(Prepared { id, topic: "a.v1", event_type: "a.b", envelope, value: vec![0; bytes] })
    }

    fn batch(bytes: &[usize]) -> Vec<Ready<'static>> {
        (10..).zip(bytes).map(|(n, bytes)| event(n, *bytes)).collect()
    }

    #[tokio::test]
    async fn what_was_not_acknowledged_is_retry_in_time_under_its_id_as_sent_and_no_duplicate_later() {
        let (desk, unlimited) = (desk(Duration::from_millis(100), &[]), Throttle::default());
        for _ in 0..2 {
            let since = Instant::now();
            let verdicts =
                desk.settle(batch(&[1, 1]), &mut unlimited.allowance(&it()), &GatewayMetrics::default()).await;
            assert!(since.elapsed() < Duration::from_secs(10));
            assert!(verdicts.iter().all(|verdict| verdict.status == Status::Retry), "{verdicts:?}");
            assert_eq!(verdicts[0].id.as_deref(), Some("00000000-0000-0000-0000-00000000000A"));
            assert!(desk.log_is_away());
        }
        let same = vec![event(1, 1), event(1, 1)];
        let verdicts = desk.settle(same, &mut unlimited.allowance(&it()), &GatewayMetrics::default()).await;
        assert!(verdicts.iter().all(|verdict| verdict.status == Status::Retry), "{verdicts:?}");
    }

    #[tokio::test]
    async fn a_batch_that_no_longer_fits_the_queue_ends_there_soon_and_no_event_passes_another() {
        let desk = desk(Duration::from_secs(300), &[("queue.buffering.max.messages", "2")]);
        let (since, unlimited) = (Instant::now(), Throttle::default());
        let mut handed = Batch::new(since + desk.deadline, Firsts::new());
        let fates = desk.hand_over(batch(&[1; 5]), &mut unlimited.allowance(&it()), &mut handed).await;
        assert!(since.elapsed() < Duration::from_secs(60), "it does not wait for the deadline with half a batch sent");
        let sent: Vec<bool> = fates.iter().map(|fate| matches!(fate, Fate::Sent(_))).collect();
        assert_eq!((sent, handed.trouble.events), (vec![true, true, false, false, false], 1));
    }

    #[tokio::test]
    async fn an_event_that_the_client_never_takes_is_invalid_and_keeps_nobody_out() {
        let desk = desk(Duration::from_secs(300), &[("message.max.bytes", "1000")]);
        let (unlimited, mut handed) = (Throttle::default(), Batch::new(Instant::now() + desk.deadline, Firsts::new()));
        let fates = desk.hand_over(batch(&[1, 2000, 1]), &mut unlimited.allowance(&it()), &mut handed).await;
        let status = |fate: &Fate<'_>| match fate {
            Fate::Done(verdict) => Some((verdict.status, verdict.errors[0].found.clone())),
            _ => None,
        };
        let invalid = Some((Status::Invalid, "2000 bytes as Avro".to_owned()));
        assert_eq!(fates.iter().map(status).collect::<Vec<_>>(), [None, invalid, None]);
        assert_eq!(handed.trouble.events, 0);
        let same = vec![event(1, 2000), event(1, 2000)];
        let verdicts = desk.settle(same, &mut unlimited.allowance(&it()), &GatewayMetrics::default()).await;
        assert!(verdicts[1].status == Status::Invalid && verdicts[1].errors == verdicts[0].errors, "{verdicts:?}");
    }

    #[tokio::test]
    async fn one_topics_ids_are_nothing_to_another_topic() {
        let desk = desk(Duration::from_secs(1), &[]);
        let (Ok(here), Ok(elsewhere)) = (event(1, 1), event(1, 1)) else { unreachable!() };
        desk.remember(&[(desk.name(&here), desk.fingerprint(&here))]);
        let identities = desk.identities(&[Ok(here), Ok(Prepared { topic: "b.v1", ..elsewhere })]);
        let known: Vec<_> = identities.iter().map(|identity| identity.earlier.is_some()).collect();
        assert_eq!(known, [true, false]);
    }

    #[tokio::test]
    async fn what_the_log_refuses_is_retry_and_not_spooled() {
        let (directory, kafka) = (tempfile::tempdir().unwrap(), KafkaConfig::default());
        let config = SpoolConfig { directory: directory.path().display().to_string(), ..SpoolConfig::default() };
        let spool = Spool::open(&config, &kafka, &GatewayMetrics::default()).unwrap();
        let desk = Desk::new(&kafka, Duration::from_secs(1), 1000, None, spool).unwrap();
        let kept: Vec<_> = batch(&[1, 1]).into_iter().flatten().enumerate().collect();
        let retried = |at: usize| retry(verdict(&kept[at].1), "why");
        let mut fates = vec![Fate::Refused(retried(0)), Fate::Done(retried(1))];
        desk.spool(&mut fates, kept).await;
        let statuses: Vec<_> = verdicts(fates).iter().map(|verdict| verdict.status).collect();
        assert_eq!(statuses, [Status::Retry, Status::Spooled]);
    }

    #[tokio::test]
    async fn a_throttled_event_and_those_behind_it_are_not_sent_and_what_the_log_has_costs_nothing() {
        let desk = desk(Duration::from_secs(300), &[]);
        let default = RateConfig { events_per_second: 1, events_burst: 2, ..RateConfig::default() };
        let throttle = Throttle::new(LimitsConfig { default, ..LimitsConfig::default() });
        let mut events = batch(&[1; 6]);
        let Ok(first) = &events[0] else { unreachable!() };
        desk.remember(&[(desk.name(first), desk.fingerprint(first))]);
        events.push(event(15, 1)); // as the one before it
        let mut handed = Batch::new(Instant::now() + desk.deadline, Firsts::new());
        let fates = desk.hand_over(events, &mut throttle.allowance(&it()), &mut handed).await;
        let status = |fate: &Fate<'_>| match fate {
            Fate::Done(verdict) | Fate::Refused(verdict) => verdict.status.word(),
            Fate::Same(..) => "as the first",
            Fate::Sent(_) => "sent",
        };
        let statuses: Vec<_> = fates.iter().map(status).collect();
        let expected = ["duplicate", "sent", "sent", "throttled", "throttled", "throttled", "as the first"];
        assert_eq!((statuses, handed.trouble.events), (expected.to_vec(), 0));
    }
}
