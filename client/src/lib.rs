//! Publishes events to Millrace's gateway, so that a service needs nothing but HTTP: no Kafka client, no registry.
//!
//! ```no_run
//! # mod events { pub mod user_erased {
//! #     #[derive(serde::Serialize)]
//! #     pub struct UserErased { pub user_id: uuid::Uuid, pub requested_by: String }
//! #     impl millrace_client::Event for UserErased { const TYPE: &'static str = "user.erased"; }
//! # } }
//! use events::user_erased::UserErased; // made of the contract in build.rs: crate millrace-codegen
//! use millrace_client::{Client, Credential, Options};
//!
//! # async fn erase(user_id: uuid::Uuid, key: &str) -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::new(Options::new("https://events.example.com", "/accounts", Credential::key(key)))?;
//! client.publish(&UserErased { user_id, requested_by: "support".into() }).await?; // all in-sync replicas have it
//! # Ok(())
//! # }
//! ```
//!
//! ```text
//! publish ─→ JSON ─→ queue, bounded ─→ batch (linger, bounds) ─→ one request at a time ─→ a verdict for each event
//!                                        ↑                                                  │ throttled, retry, no answer
//!                                        └── the same events, ids and order ────────────────┘
//! ```
//!
//! The order of the calls is the order in the log, for events of one key, also across what must be sent again. The one
//! exception is an event for which the gateway had no answer of the log in time: later ones of its batch may be there
//! before it. A service that changes its own database needs the outbox instead (crate `millrace-outbox`): this client
//! keeps events in memory.

pub mod avro;
mod batch;
mod credential;
mod error;
mod http;
mod pem;
mod trace;

pub use credential::{Credential, Token};
pub use error::{PublishError, Quarantine, Violation};
pub use pem::Pem;

use batch::{Pending, Reply, Worker};
use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

/// Something that happened, as a contract describes it. `millrace-codegen` makes these.
pub trait Event: Serialize {
    /// `order.placed`.
    const TYPE: &'static str;
}

/// Whoever can wait for longer gains nothing: a batch is full by then, or nobody publishes.
const LINGER_MAX: Duration = Duration::from_secs(60);
/// What no gateway answers within, and what a service that waits takes for an end.
const ATTEMPT: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(600);
/// After its linger, an event needs time to be sent in. What must outlive a day, and so this process, needs the outbox.
const DEADLINE_BEYOND_LINGER: Duration = Duration::from_millis(10);
const DEADLINE_MAX: Duration = Duration::from_secs(24 * 3600);

const ENDED: &str = "the runtime that the client was made in has ended";
const NO_ROOM: &str = "no room among what waits for its answer";

/// Where and how a client publishes. What isn't said here has a default.
#[derive(Debug, Clone)]
pub struct Options {
    /// Such as `https://events.example.com`.
    pub gateway: String,
    /// Who publishes, such as `/accounts`: the events' `source`.
    pub source: String,
    pub credential: Credential,
    /// Who else than those that the machine trusts may have signed the gateway's certificate.
    pub authorities: Option<Pem>,
    /// Our own certificate, those between it and its root, and its key: for a gateway that asks for one (mTLS).
    pub identity: Option<Pem>,
    /// How long an event waits for others to go with it. At most a minute.
    pub linger: Duration,
    /// Of one request; a gateway takes at most 1,000.
    pub batch_events: usize,
    /// Of one request, as JSON, and so of an event. A gateway takes 8 MiB unless told otherwise.
    pub batch_bytes: usize,
    /// Events that wait for their answer. Whoever publishes more waits.
    pub queue_events: usize,
    /// Of them together, as JSON.
    pub queue_bytes: usize,
    /// Of one request. Longer than the gateway's own (`gateway.deadline_ms`), so that its answer is heard. 10 ms to
    /// 10 minutes.
    pub attempt: Duration,
    /// How long an event waits for room, and is sent and sent again. It ends with the attempt that is under way then.
    /// Longer than `linger`, at most a day.
    pub deadline: Duration,
    /// Whether the gateway is asked to keep events that do not fit their contract, for somebody to publish once it was
    /// repaired ([`PublishError::Invalid`] says what became of it). They stay invalid.
    pub keep_invalid: bool,
}

impl Options {
    pub fn new(gateway: &str, source: &str, credential: Credential) -> Self {
        Self {
            gateway: gateway.to_owned(),
            source: source.to_owned(),
            credential,
            authorities: None,
            identity: None,
            linger: Duration::from_millis(5), // about what the log takes to answer
            batch_events: 500,
            batch_bytes: 2 << 20, // a record of the log has at most 1 MiB
            queue_events: 10_000,
            queue_bytes: 16 << 20,
            attempt: Duration::from_secs(15),
            deadline: Duration::from_secs(60), // outlives a gateway's restart
            keep_invalid: false,
        }
    }

    fn check(&self) -> Result<(), String> {
        let numbers = [
            ("batch_events", self.batch_events, 1..=1000),
            ("batch_bytes", self.batch_bytes, 1024..=64 << 20),
            ("queue_events", self.queue_events, 1..=10_000_000),
            ("queue_bytes", self.queue_bytes, self.batch_bytes..=1 << 31),
        ];
        for (name, value, bounds) in numbers {
            if !bounds.contains(&value) {
                return Err(format!("`{name}` is {value}: {} to {} is possible", bounds.start(), bounds.end()));
            }
        }
        self.check_times()
    }

    fn check_times(&self) -> Result<(), String> {
        let deadline_min = self.linger.saturating_add(DEADLINE_BEYOND_LINGER);
        let times = [
            ("linger", self.linger, Duration::ZERO..=LINGER_MAX),
            ("attempt", self.attempt, ATTEMPT),
            ("deadline", self.deadline, deadline_min..=DEADLINE_MAX),
        ];
        for (name, value, bounds) in times {
            if !bounds.contains(&value) {
                return Err(format!("`{name}` is {value:?}: {:?} to {:?} is possible", bounds.start(), bounds.end()));
            }
        }
        Ok(())
    }
}

/// What is said of an event beside its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Occurrence {
    /// The event's identity everywhere: keep it when sending again.
    pub id: Uuid,
    pub occurred_at: DateTime<Utc>,
    pub correlation_id: Option<String>,
    pub causation_id: Option<String>,
    /// W3C trace context of whoever sends.
    pub traceparent: Option<String>,
    pub tracestate: Option<String>,
}

impl Occurrence {
    /// A new event, happening now, in the current OpenTelemetry context if there is one.
    pub fn now() -> Self {
        let (traceparent, tracestate) = trace::current();
        let (id, occurred_at) = (Uuid::now_v7(), Utc::now());
        Self { id, occurred_at, correlation_id: None, causation_id: None, traceparent, tracestate }
    }
}

/// What the gateway said of an event that need not be sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Published {
    /// All in-sync replicas have it.
    Accepted,
    /// They had it already.
    Duplicate,
    /// The log is away: the gateway's disk has it, and brings it into the log.
    Spooled,
}

/// Publishes events; cheap to clone, shared by a whole process.
#[derive(Clone)]
pub struct Client {
    queue: mpsc::Sender<Pending>,
    memory: Arc<Semaphore>,
    options: Arc<Options>,
}

impl Client {
    /// Reaches nobody yet. Sends from a task of the Tokio runtime that it is called in.
    ///
    /// # Errors
    /// [`PublishError::Options`].
    pub fn new(options: Options) -> Result<Self, PublishError> {
        options.check().map_err(PublishError::Options)?;
        let (queue, waiting) = mpsc::channel(options.queue_events);
        let memory = Arc::new(Semaphore::new(options.queue_bytes));
        let options = Arc::new(options);
        tokio::spawn(Worker::new(options.clone(), waiting)?.run());
        Ok(Self { queue, memory, options })
    }

    /// Publishes a new event that happens now, and waits until it is in the log, or on the disk of a gateway that has a
    /// spool.
    ///
    /// # Errors
    /// Why it is not, or not known to be.
    pub async fn publish<E: Event>(&self, event: &E) -> Result<Published, PublishError> {
        self.send(event, Occurrence::now()).await?.published().await
    }

    /// Hands an event over, waiting while as much as may wait does, until its deadline. Events of one key keep the
    /// order of these calls; await what this returns to know what became of it.
    ///
    /// # Errors
    /// What is wrong with the event, or that there was no room for it: nothing was sent.
    pub async fn send<E: Event>(&self, event: &E, occurrence: Occurrence) -> Result<Sending, PublishError> {
        let id = occurrence.id;
        let json = self.written(event, &occurrence)?;
        let until = Instant::now() + self.options.deadline;
        let (reply, answer) = oneshot::channel();
        let no_room = |_| PublishError::NotPublished { id, attempts: 0, reason: NO_ROOM.into() };
        timeout_at(until, self.enqueue(id, json, until, reply)).await.map_err(no_room)??;
        Ok(Sending { id, answer })
    }

    async fn enqueue(&self, id: Uuid, json: String, until: Instant, reply: Reply) -> Result<(), PublishError> {
        let ended = || PublishError::NotPublished { id, attempts: 0, reason: ENDED.into() };
        let permits = u32::try_from(json.len()).unwrap_or(u32::MAX); // no more than batch_bytes
        let memory = self.memory.clone().acquire_many_owned(permits).await.map_err(|_| ended())?;
        let since = Instant::now(); // it waited for room, not yet for others
        let pending = Pending { id, json, since, until, attempts: 0, may_be_in_log: false, reply, memory };
        self.queue.send(pending).await.map_err(|_| ended())
    }

    /// Waits until every event that was sent before has its answer, such as before a process ends.
    pub async fn settled(&self) {
        // All the memory is free only then. Who asks for all of it waits in line, behind those who sent before.
        let all = u32::try_from(self.options.queue_bytes).unwrap_or(u32::MAX);
        drop(self.memory.acquire_many(all).await);
    }

    fn written<E: Event>(&self, event: &E, occurrence: &Occurrence) -> Result<String, PublishError> {
        let written = serde_json::to_string(&CloudEvent::of(&self.options.source, event, occurrence));
        let json =
            written.map_err(|error| PublishError::Unwritable { event_type: E::TYPE, error: error.to_string() })?;
        let bytes_max = self.options.batch_bytes;
        if json.len() > bytes_max {
            return Err(PublishError::TooLarge { event_type: E::TYPE, bytes: json.len(), bytes_max });
        }
        Ok(json)
    }
}

/// An event on its way.
#[must_use = "an event is published only once `published` says so"]
#[derive(Debug)]
pub struct Sending {
    id: Uuid,
    answer: oneshot::Receiver<Result<Published, PublishError>>,
}

impl Sending {
    pub fn id(&self) -> Uuid {
        self.id
    }

    /// Waits until all in-sync replicas have it. The event is sent and sent again whether or not anybody waits.
    ///
    /// # Errors
    /// Why it is not in the log, or not known to be.
    pub async fn published(self) -> Result<Published, PublishError> {
        let ended = PublishError::Unsure { id: self.id, attempts: 0, reason: ENDED.into() };
        self.answer.await.unwrap_or(Err(ended))
    }
}

/// CloudEvents 1.0 in JSON.
#[derive(Serialize)]
struct CloudEvent<'a, E> {
    specversion: &'static str,
    id: Uuid,
    source: &'a str,
    r#type: &'static str,
    time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    correlationid: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    causationid: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    traceparent: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tracestate: Option<&'a str>,
    data: &'a E,
}

impl<'a, E: Event> CloudEvent<'a, E> {
    fn of(source: &'a str, data: &'a E, occurrence: &'a Occurrence) -> Self {
        Self {
            specversion: "1.0",
            id: occurrence.id,
            source,
            r#type: E::TYPE,
            time: occurrence.occurred_at.to_rfc3339_opts(SecondsFormat::Micros, true),
            correlationid: occurrence.correlation_id.as_deref(),
            causationid: occurrence.causation_id.as_deref(),
            traceparent: occurrence.traceparent.as_deref(),
            tracestate: occurrence.tracestate.as_deref(),
            data,
        }
    }
}

#[cfg(test)]
mod tests;
