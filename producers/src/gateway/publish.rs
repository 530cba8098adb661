//! A batch's way into the log: everything is handed over in its order, then every answer is awaited, until a deadline.

use super::answer::{Status, Verdict};
use super::metrics::GatewayMetrics;
use super::prepare::Prepared;
use super::window::{Fingerprint, Window};
use millrace_schemas::Violation;
use millrace_stream::{Acknowledgement, KafkaConfig, Outgoing, PublishError, Publisher};
use std::collections::HashMap;
use std::collections::hash_map::{Entry, RandomState};
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock};
use std::time::Duration;
use tokio::time::Instant;
use uuid::Uuid;

/// Beyond the Kafka client's own deadline, so that it is the client who gives up: it knows what it sent.
const ANSWER_SLACK: Duration = Duration::from_secs(1);

pub(super) struct Desk {
    kafka: KafkaConfig,
    publisher: RwLock<Publisher>,
    deadline: Duration,
    window: Window,
    fingerprints: RandomState,
    /// The log's last answer was none.
    away: AtomicBool,
}

/// Where an event of a batch is.
enum Stage {
    /// Its fate is known.
    Done(Box<Verdict>),
    /// It has the id of an earlier one of the same batch, and that one's fate.
    Same(usize, Box<Verdict>),
    Sent {
        acknowledgement: Acknowledgement,
        fingerprint: Fingerprint,
        id: Uuid,
        verdict: Box<Verdict>,
    },
}

impl Desk {
    pub fn new(kafka: &KafkaConfig, deadline: Duration, remembered_ids: usize) -> anyhow::Result<Self> {
        let mut kafka = kafka.clone();
        // Else the client would try for two minutes, with its memory, what the sender was told to send again.
        kafka.properties.insert("message.timeout.ms".into(), deadline.as_millis().to_string());
        let publisher = RwLock::new(Publisher::new(&kafka)?);
        let (window, fingerprints) = (Window::new(remembered_ids), RandomState::new());
        Ok(Self { kafka, publisher, deadline, window, fingerprints, away: AtomicBool::new(false) })
    }

    pub fn log_is_away(&self) -> bool {
        self.away.load(Ordering::Relaxed)
    }

    /// One verdict for each event, in their order. `accepted` is what all in-sync replicas have, and nothing else.
    pub async fn settle(
        &self,
        events: Vec<Result<Prepared<'_>, Box<Verdict>>>,
        metrics: &GatewayMetrics,
    ) -> Vec<Verdict> {
        let since = Instant::now();
        let stages = self.hand_over(events, since + self.deadline).await;
        let mut verdicts: Vec<Verdict> = Vec::with_capacity(stages.len());
        for stage in stages {
            let verdict = match stage {
                Stage::Done(verdict) => *verdict,
                Stage::Same(at, verdict) => as_the_first(&verdicts[at], *verdict),
                Stage::Sent { acknowledgement, fingerprint, id, verdict } => {
                    let answer = acknowledged(acknowledgement, since + self.deadline + ANSWER_SLACK).await;
                    metrics.settled(since.elapsed());
                    self.judge(answer, id, fingerprint, *verdict)
                }
            };
            verdicts.push(verdict);
        }
        verdicts
    }

    /// In order; where one can't be handed over in time none behind it is, or a key's order would be lost.
    async fn hand_over(&self, events: Vec<Result<Prepared<'_>, Box<Verdict>>>, until: Instant) -> Vec<Stage> {
        let publisher = self.publisher.read().unwrap_or_else(PoisonError::into_inner).clone();
        let (mut stages, mut firsts) = (Vec::with_capacity(events.len()), HashMap::new());
        let mut full = false;
        for event in events {
            let stage = match event {
                Err(refused) => Stage::Done(refused),
                Ok(prepared) => match self.known(&prepared, &mut firsts, stages.len()) {
                    Err(known) => known,
                    Ok(_) if full => Stage::Done(Box::new(retry(verdict(&prepared), "it was not tried"))),
                    Ok(fingerprint) => {
                        let stage = send(&publisher, &prepared, fingerprint, until).await;
                        full = matches!(stage, Stage::Done(_));
                        stage
                    }
                },
            };
            stages.push(stage);
        }
        stages
    }

    /// What the event is told apart by, or its fate where an earlier one had its id.
    fn known(
        &self,
        event: &Prepared<'_>,
        firsts: &mut HashMap<Uuid, (usize, Fingerprint)>,
        at: usize,
    ) -> Result<Fingerprint, Stage> {
        let id = event.envelope.id;
        let fingerprint = self.fingerprints.hash_one((&*event.envelope.event_type, &event.value));
        if let Some(found) = self.window.find(id) {
            return Err(Stage::Done(Box::new(repeated(verdict(event), found == fingerprint))));
        }
        match firsts.entry(id) {
            Entry::Vacant(vacant) => {
                vacant.insert((at, fingerprint));
                Ok(fingerprint)
            }
            Entry::Occupied(first) if first.get().1 == fingerprint => {
                Err(Stage::Same(first.get().0, Box::new(repeated(verdict(event), true))))
            }
            Entry::Occupied(_) => Err(Stage::Done(Box::new(repeated(verdict(event), false)))),
        }
    }

    fn judge(&self, answer: Result<(), String>, id: Uuid, fingerprint: Fingerprint, verdict: Verdict) -> Verdict {
        self.away.store(answer.is_err(), Ordering::Relaxed);
        match answer {
            Ok(()) => {
                self.window.remember(id, fingerprint);
                verdict
            }
            Err(error) => {
                tracing::warn!(event_id = %id, "{error}");
                self.replace_broken_publisher();
                retry(verdict, "the log did not answer in time: it may have the event or not")
            }
        }
    }

    /// A producer that lost track of its sequence numbers refuses everything from then on; a new one begins anew.
    fn replace_broken_publisher(&self) {
        let mut publisher = self.publisher.write().unwrap_or_else(PoisonError::into_inner);
        let Some(reason) = publisher.fatal_error() else { return };
        tracing::error!("the Kafka producer gave up and is replaced: {reason}");
        match Publisher::new(&self.kafka) {
            Ok(fresh) => *publisher = fresh,
            Err(error) => tracing::error!("no new Kafka producer: {error:#}"),
        }
    }
}

async fn send(publisher: &Publisher, event: &Prepared<'_>, fingerprint: Fingerprint, until: Instant) -> Stage {
    let Prepared { topic, envelope, value, .. } = event;
    let outgoing = Outgoing { topic, key: &envelope.subject, envelope, value: Some(value) };
    let (id, verdict) = (envelope.id, Box::new(verdict(event)));
    match tokio::time::timeout_at(until, publisher.enqueue(&outgoing)).await {
        Ok(Ok(acknowledgement)) => Stage::Sent { acknowledgement, fingerprint, id, verdict },
        Ok(Err(error)) => {
            tracing::warn!(event_id = %id, "{error}");
            Stage::Done(Box::new(retry(*verdict, "the Kafka client did not take it")))
        }
        Err(_) => Stage::Done(Box::new(retry(*verdict, "the Kafka client's queue was full until the deadline"))),
    }
}

async fn acknowledged(acknowledgement: Acknowledgement, until: Instant) -> Result<(), String> {
    let answer: Result<Result<(), PublishError>, _> = tokio::time::timeout_at(until, acknowledgement.wait()).await;
    answer.map_err(|_| "the Kafka client did not answer".to_owned())?.map_err(|error| error.to_string())
}

/// Of an event that fits and was not sent yet: what it will be when the log has it.
fn verdict(event: &Prepared<'_>) -> Verdict {
    Verdict {
        id: Some(event.id.clone()),
        status: Status::Accepted,
        errors: Vec::new(),
        message: None,
        event_type: Some(event.envelope.event_type.to_string()),
        conflict: false,
    }
}

fn retry(verdict: Verdict, why: &str) -> Verdict {
    let message = format!("{why}; send it again with the same id");
    Verdict { status: Status::Retry, message: Some(message), ..verdict }
}

fn repeated(verdict: Verdict, same: bool) -> Verdict {
    if same {
        return Verdict { status: Status::Duplicate, ..verdict };
    }
    let error = Violation::new("/id", "an id of its own", "one that another event was accepted with");
    Verdict { status: Status::Invalid, errors: vec![error], conflict: true, ..verdict }
}

/// A repetition of what is not in the log is not there either.
fn as_the_first(first: &Verdict, repetition: Verdict) -> Verdict {
    match first.status {
        Status::Accepted | Status::Duplicate => repetition,
        _ => Verdict { status: first.status, message: first.message.clone(), ..repetition },
    }
}
