//! Publishing: idempotent, acknowledged by all in-sync replicas, bounded in memory.

use crate::delivery::Heard;
use crate::reach::{self, Reach, Watched};
use crate::{Admin, Backoff, KafkaConfig};
use millrace_schemas::Envelope;
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Header, Message, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext};
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Between tries while the client's queue is full.
const QUEUE_FULL_WAITS: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(200));

const DEFAULTS: &[(&str, &str)] = &[
    // Company for a record, and what it costs in latency.
    ("linger.ms", "5"),
    ("compression.type", "lz4"),
    // Outlives a broker's restart; the caller decides what to do after.
    ("message.timeout.ms", "120000"),
    ("queue.buffering.max.messages", "100000"),
    ("queue.buffering.max.kbytes", "65536"),
    // What a broker takes unless told otherwise, rather than the client's own million bytes.
    ("message.max.bytes", "1048576"),
];

/// Of an envelope: room for them is made once.
const HEADERS_MAX: usize = 14;

const FIXED: &[(&str, &str)] = &[
    ("enable.idempotence", "true"),
    ("acks", "all"),
    // Or nobody would ever hear that all went well.
    ("delivery.report.only.error", "false"),
    // The Java client's partitioner: one key, one partition, whoever publishes.
    ("partitioner", "murmur2_random"),
];

/// An event on its way into the log.
#[derive(Debug, Clone)]
pub struct Outgoing<'a> {
    pub topic: &'a str,
    pub key: &'a str,
    pub envelope: &'a Envelope<'a>,
    /// Confluent framing and datum; `None` is a tombstone.
    pub value: Option<&'a [u8]>,
}

#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// It may be in the log or not: publish again with the same id.
    #[error("could not publish to {topic}: {error}{}", advice(error))]
    Kafka { topic: String, error: KafkaError },
    #[error("the Kafka client was dropped before the log answered")]
    Cancelled,
}

/// Only a topic that `migrate` did not make minds a publisher's clock.
fn advice(error: &KafkaError) -> &'static str {
    match error {
        KafkaError::MessageProduction(RDKafkaErrorCode::InvalidTimestamp) => {
            "; this machine's clock is too far from the broker's: set it right, or let the topic's \
             message.timestamp.type be LogAppendTime"
        }
        _ => "",
    }
}

impl PublishError {
    /// The client never takes a record of this size, however often it is asked: it is not in the log.
    pub fn is_too_large(&self) -> bool {
        matches!(self, Self::Kafka { error: KafkaError::MessageProduction(RDKafkaErrorCode::MessageSizeTooLarge), .. })
    }

    /// The log can't be reached, has too few replicas or leaders, or lost track of the client: later it takes the event.
    /// Whatever else it answers it answers again until somebody mends the topic, a right or the event.
    pub fn is_away(&self) -> bool {
        use RDKafkaErrorCode as Code;
        match self {
            Self::Cancelled => true,
            Self::Kafka { error: KafkaError::MessageProduction(code), .. } => matches!(
                code,
                Code::MessageTimedOut
                    | Code::OperationTimedOut
                    | Code::TimedOutQueue
                    | Code::RequestTimedOut
                    | Code::BrokerTransportFailure
                    | Code::NetworkException
                    | Code::AllBrokersDown
                    | Code::Resolve
                    | Code::BrokerNotAvailable
                    | Code::BrokerDestroy
                    | Code::DestroyBroker
                    | Code::QueueFull
                    | Code::PurgeQueue
                    | Code::PurgeInflight
                    | Code::Retry
                    | Code::ISRInsufficient
                    | Code::NotEnoughReplicas
                    | Code::NotEnoughReplicasAfterAppend
                    | Code::LeaderNotAvailable
                    | Code::NotLeaderForPartition
                    | Code::ReplicaNotAvailable
                    | Code::FencedLeaderEpoch
                    | Code::UnknownLeaderEpoch
                    | Code::KafkaStorageError
                    | Code::ThrottlingQuotaExceeded
                    | Code::Fatal
                    | Code::OutOfOrderSequenceNumber
                    | Code::DuplicateSequenceNumber
                    | Code::UnknownProducerId
                    | Code::InvalidProducerEpoch
                    | Code::ProducerFenced
            ),
            Self::Kafka { .. } => false,
        }
    }
}

/// A producer: cheap to clone, shared by a whole process.
#[derive(Clone)]
pub struct Publisher {
    producer: Arc<Heard<Watched>>,
    _watched: Arc<DropGuard>,
}

/// Resolves when all in-sync replicas have the event.
#[must_use = "an event is in the log only once this says so"]
pub struct Acknowledgement {
    delivery: oneshot::Receiver<Result<(), PublishError>>,
}

impl ProducerContext for Watched {
    type DeliveryOpaque = Box<oneshot::Sender<Result<(), PublishError>>>;

    fn delivery(&self, result: &DeliveryResult<'_>, waiting: Self::DeliveryOpaque) {
        let failed = |(error, record): &(KafkaError, _)| {
            let record: &BorrowedMessage<'_> = record;
            PublishError::Kafka { topic: record.topic().to_owned(), error: error.clone() }
        };
        let _ = waiting.send(result.as_ref().map(drop).map_err(failed)); // maybe nobody waits any more
    }
}

impl Publisher {
    /// Needs a tokio runtime, which must outlive it. Its end, the last clone's, waits for the client's, half a second
    /// at most: a matter for `spawn_blocking`.
    ///
    /// # Errors
    /// A Kafka property that does not exist or has no such value.
    pub fn new(kafka: &KafkaConfig) -> anyhow::Result<Self> {
        let config = kafka.client_with(DEFAULTS, FIXED)?;
        let reach = Arc::<Reach>::default();
        let producer = BaseProducer::from_config_and_context(&config, Watched(reach.clone()))?;
        let producer = Arc::new(Heard::new(producer));
        let watched = CancellationToken::new();
        let keeping = keep_in_reach(Arc::downgrade(&producer), reach, kafka.clone());
        tokio::spawn(watched.clone().run_until_cancelled_owned(keeping));
        Ok(Self { producer, _watched: Arc::new(watched.drop_guard()) })
    }

    /// Puts the event into the client's queue, waiting while that is full; the acknowledgement comes later.
    pub async fn enqueue(&self, outgoing: &Outgoing<'_>) -> Result<Acknowledgement, PublishError> {
        let mut backoff = Backoff::between(QUEUE_FULL_WAITS.0, QUEUE_FULL_WAITS.1);
        loop {
            let (waiting, delivery) = oneshot::channel();
            match self.producer.send(record(outgoing, Box::new(waiting))) {
                Ok(()) => return Ok(Acknowledgement { delivery }),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => {
                    tokio::time::sleep(backoff.next_wait()).await;
                }
                Err((error, _)) => return Err(PublishError::Kafka { topic: outgoing.topic.to_owned(), error }),
            }
        }
    }

    /// Why this producer will never send again, if so: idempotence could not be kept, and only a new one can go on.
    pub fn fatal_error(&self) -> Option<String> {
        self.producer.client().fatal_error().map(|(code, reason)| format!("{code}: {reason}"))
    }
}

/// Fails when the log did not confirm it in time: it may be there or not; publish again with the same id.
impl Future for Acknowledgement {
    type Output = Result<(), PublishError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.delivery).poll(context).map(|answer| answer.unwrap_or(Err(PublishError::Cancelled)))
    }
}

async fn keep_in_reach(producer: Weak<Heard<Watched>>, reach: Arc<Reach>, kafka: KafkaConfig) {
    let admin = Admin::new(kafka.clone());
    loop {
        reach.back(&admin).await;
        let Some(producer) = producer.upgrade() else { return };
        reach::tell(producer.client(), &kafka);
    }
}

type Record<'a> = BaseRecord<'a, str, [u8], <Watched as ProducerContext>::DeliveryOpaque>;

fn record<'a>(outgoing: &Outgoing<'a>, waiting: <Watched as ProducerContext>::DeliveryOpaque) -> Record<'a> {
    let headers = OwnedHeaders::new_with_capacity(HEADERS_MAX);
    let headers =
        outgoing.envelope.put_headers(headers, |all, key, value| all.insert(Header { key, value: Some(value) }));
    let record = BaseRecord::with_opaque_to(outgoing.topic, waiting).key(outgoing.key).headers(headers);
    match outgoing.value {
        Some(value) => record.payload(value),
        None => record,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn because(code: RDKafkaErrorCode) -> PublishError {
        PublishError::Kafka { topic: "a.v1".into(), error: KafkaError::MessageProduction(code) }
    }

    #[tokio::test]
    async fn a_publisher_that_ends_answers_for_what_it_has_and_leaves_nobody_behind() {
        let kafka = KafkaConfig { brokers: "127.0.0.1:1".into(), ..KafkaConfig::default() };
        let publisher = Publisher::new(&kafka).unwrap();
        let envelope = Envelope::new("/it", "a.b", "key");
        let outgoing = Outgoing { topic: "a.v1", key: "key", envelope: &envelope, value: None };
        let acknowledgement = publisher.enqueue(&outgoing).await.unwrap();
        tokio::task::spawn_blocking(move || drop(publisher)).await.unwrap();
        assert!(acknowledgement.await.unwrap_err().is_away(), "it is not in the log, or nobody knows");
        let metrics = tokio::runtime::Handle::current().metrics();
        while metrics.num_alive_tasks() > 0 {
            tokio::task::yield_now().await;
        }
    }

    #[test]
    fn what_the_log_refuses_for_good_does_not_say_that_it_is_away() {
        use RDKafkaErrorCode as Code;
        assert!(PublishError::Cancelled.is_away());
        for away in [Code::MessageTimedOut, Code::AllBrokersDown, Code::NotEnoughReplicas, Code::Fatal] {
            assert!(because(away).is_away(), "{away:?}");
        }
        let refused = [
            Code::TopicAuthorizationFailed,
            Code::UnknownTopic,
            Code::UnknownTopicOrPartition,
            Code::UnknownPartition,
            Code::MessageSizeTooLarge,
            Code::InvalidRecord,
            Code::InvalidTimestamp,
            Code::PolicyViolation,
        ];
        for refused in refused {
            assert!(!because(refused).is_away(), "{refused:?}");
        }
    }
}
