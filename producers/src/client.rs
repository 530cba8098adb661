//! The typed client: a body and its contract become a record, and the record is in the log once this says so.
//!
//! ```text
//! body ─→ datum ─┬→ wire header + datum ──────┬→ Publisher ─→ acknowledged by all in-sync replicas
//!                └→ the contract's key field ─┘
//! ```
//!
//! Never changes an event on its way: a retry is the same bytes under the same id.

mod metrics;

pub use metrics::Metrics;

use apache_avro::types::Value;
use chrono::{DateTime, Utc};
use millrace_schemas::registry::Registry;
use millrace_schemas::{Contract, Contracts, EncodeError, Envelope, WriterSchema, wire};
use millrace_stream::{Acknowledgement, Backoff, KafkaConfig, Outgoing, PublishError, Publisher};
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// A broker takes records of 1 MiB unless told otherwise, and consumers no larger values. This much is left for the key
/// and the headers; better a producer hears of what is too large than that its record has no way to go.
pub const VALUE_BYTES_MAX: usize = (1 << 20) - (32 << 10);
/// The Kafka client itself tries for two minutes each time; after this many the trouble is not a passing one.
const ATTEMPTS_MAX: u32 = 3;
/// Between those attempts.
const ATTEMPT_WAITS: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// Why an event is not in the log, or not known to be.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    #[error("no contract describes `{event_type}`; the project's contracts are {known}")]
    UnknownType { event_type: String, known: String },
    #[error(transparent)]
    DoesNotFit(#[from] EncodeError),
    #[error("`{event_type}` needs text in `{field}`, the key its contract names")]
    NoKey { event_type: String, field: String },
    #[error("the `{event_type}` with key {key} takes {bytes} bytes, at most {VALUE_BYTES_MAX} fit a record")]
    TooLarge { event_type: String, key: String, bytes: usize },
    /// It may be in the log or not: send it again with the same id.
    #[error("event {id} may be in the log or not after {attempts} attempts; send it again with the same id: {error}")]
    Unknown { id: Uuid, attempts: u32, error: PublishError },
}

/// What an event's producer says beside its body.
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
    pub fn new(id: Uuid, occurred_at: DateTime<Utc>) -> Self {
        Self { id, occurred_at, correlation_id: None, causation_id: None, traceparent: None, tracestate: None }
    }

    /// A new event, happening now.
    pub fn now() -> Self {
        Self::new(Uuid::now_v7(), Utc::now())
    }
}

/// Publishes events of the project's contracts; cheap to clone, shared by a whole process.
#[derive(Clone)]
pub struct Client {
    publisher: Publisher,
    routes: Arc<BTreeMap<String, Route>>,
    source: Arc<str>,
    metrics: Metrics,
}

/// How events of one type are written and where they go.
struct Route {
    contract: Arc<Contract>,
    schema: Arc<WriterSchema>,
    /// Its fields up to the key: all that must be read to find it.
    front: WriterSchema,
    dataschema: String,
}

impl Client {
    /// Looks every contract up in the registry, which `millrace migrate` filled, and readies the producer.
    ///
    /// # Errors
    /// When the registry does not answer or lacks a contract, or a Kafka property is wrong.
    pub async fn connect(
        kafka: &KafkaConfig,
        registry: Registry,
        contracts: Arc<Contracts>,
        source: &str,
    ) -> anyhow::Result<Self> {
        let mut routes = BTreeMap::new();
        for contract in contracts.iter() {
            let schema = registry.writer(contract).await?;
            let dataschema = format!("{}/schemas/ids/{}", registry.url(), schema.id);
            routes.insert(contract.event_type.clone(), Route::new(contract.clone(), schema, dataschema)?);
        }
        let publisher = Publisher::new(kafka)?;
        Ok(Self { publisher, routes: Arc::new(routes), source: source.into(), metrics: Metrics::default() })
    }

    #[must_use]
    pub fn with_metrics(self, metrics: Metrics) -> Self {
        Self { metrics, ..self }
    }

    /// Hands an event to the Kafka client, waiting while that is full. Events of one key keep the order of these
    /// calls; await what this returns to know that the event is in the log.
    ///
    /// # Errors
    /// What is wrong with the event: nothing was sent.
    pub async fn send<E: Serialize>(
        &self,
        event_type: &str,
        occurrence: Occurrence,
        body: &E,
    ) -> Result<Sending, SendError> {
        let written = self.write(event_type, occurrence, body).map_err(|error| self.refuse(event_type, error))?;
        let first = self.publisher.enqueue(&written.outgoing()).await;
        Ok(Sending {
            publisher: self.publisher.clone(),
            written,
            first,
            since: Instant::now(),
            metrics: self.metrics.clone(),
        })
    }

    fn write<E: Serialize>(&self, event_type: &str, occurrence: Occurrence, body: &E) -> Result<Written, SendError> {
        let route = self.routes.get(event_type).ok_or_else(|| self.unknown_type(event_type))?;
        route.write(&self.source, occurrence, body)
    }

    fn refuse(&self, event_type: &str, error: SendError) -> SendError {
        self.metrics.refused(event_type, self.routes.contains_key(event_type));
        error
    }

    fn unknown_type(&self, event_type: &str) -> SendError {
        let known = self.routes.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        SendError::UnknownType { event_type: event_type.to_owned(), known }
    }
}

impl Route {
    fn new(contract: Arc<Contract>, schema: Arc<WriterSchema>, dataschema: String) -> anyhow::Result<Self> {
        let front = front(&contract, schema.id)?;
        Ok(Self { contract, schema, front, dataschema })
    }

    fn write<E: Serialize>(&self, source: &str, occurrence: Occurrence, body: &E) -> Result<Written, SendError> {
        let event_type = &self.contract.event_type;
        let mut value = wire::header(self.schema.id).to_vec();
        self.schema.encode(body, &mut value)?;
        let no_key = || SendError::NoKey { event_type: event_type.clone(), field: self.contract.key.clone() };
        let key = self.key(&value[wire::HEADER_BYTES..]).ok_or_else(no_key)?;
        if value.len() > VALUE_BYTES_MAX {
            return Err(SendError::TooLarge { event_type: event_type.clone(), key, bytes: value.len() });
        }
        let envelope = self.envelope(source, key, occurrence);
        Ok(Written { topic: self.contract.topic.clone(), envelope, value })
    }

    /// Read back from what was written, so that it is the datum's own, whatever type the body was.
    fn key(&self, datum: &[u8]) -> Option<String> {
        let Ok(Value::Record(fields)) = self.front.decode_front(datum) else { return None };
        match fields.into_iter().find(|(name, _)| *name == self.contract.key)?.1 {
            Value::Uuid(id) => Some(id.to_string()),
            Value::String(text) if !text.is_empty() => Some(text),
            _ => None,
        }
    }

    fn envelope(&self, source: &str, subject: String, occurrence: Occurrence) -> Envelope<'static> {
        let Occurrence { id, occurred_at, correlation_id, causation_id, traceparent, tracestate } = occurrence;
        Envelope {
            id,
            source: source.to_owned().into(),
            event_type: self.contract.event_type.clone().into(),
            subject: subject.into(),
            occurred_at,
            recorded_at: Some(Utc::now()),
            dataschema: Some(self.dataschema.clone().into()),
            correlation_id: correlation_id.map(Into::into),
            causation_id: causation_id.map(Into::into),
            traceparent: traceparent.map(Into::into),
            tracestate: tracestate.map(Into::into),
        }
    }
}

/// The contract's schema without the fields behind its key. Avro writes fields one after the other.
fn front(contract: &Contract, id: u32) -> anyhow::Result<WriterSchema> {
    let mut schema: serde_json::Value = serde_json::from_str(&contract.newest().text)?;
    let key = contract.fields().iter().position(|field| field.name == contract.key);
    if let (Some(key), Some(fields)) = (key, schema["fields"].as_array_mut()) {
        fields.truncate(key + 1);
    }
    WriterSchema::parse(id, &schema.to_string())
}

/// A record, ready to be sent as often as it takes.
struct Written {
    topic: String,
    /// Its subject is the record's key.
    envelope: Envelope<'static>,
    value: Vec<u8>,
}

impl Written {
    fn outgoing(&self) -> Outgoing<'_> {
        let Self { topic, envelope, value } = self;
        Outgoing { topic, key: &envelope.subject, envelope, value: Some(value) }
    }
}

/// An event on its way.
#[must_use = "an event is in the log only once `acknowledged` says so"]
pub struct Sending {
    publisher: Publisher,
    written: Written,
    first: Result<Acknowledgement, PublishError>,
    since: Instant,
    metrics: Metrics,
}

impl Sending {
    /// Waits until all in-sync replicas have it. Where an attempt ends without an answer, sends the same bytes
    /// under the same id again: the log may then hold the event twice (the spine counts it once), and it may
    /// stand behind events of its key that were sent after it. Until then order within a key holds, also across
    /// the Kafka client's own retries.
    ///
    /// # Errors
    /// [`SendError::Unknown`] after the last attempt.
    pub async fn acknowledged(self) -> Result<(), SendError> {
        let Self { publisher, written, first, since, metrics } = self;
        let outcome = settle(&publisher, &written, first).await;
        metrics.published(&written.envelope.event_type, outcome.is_ok(), since.elapsed());
        outcome
    }
}

async fn settle(
    publisher: &Publisher,
    written: &Written,
    first: Result<Acknowledgement, PublishError>,
) -> Result<(), SendError> {
    let id = written.envelope.id;
    let mut backoff = Backoff::between(ATTEMPT_WAITS.0, ATTEMPT_WAITS.1);
    let mut enqueued = first;
    let mut attempts = 1;
    loop {
        let error = match answer(enqueued).await {
            Ok(()) => return Ok(()),
            Err(error) if attempts == ATTEMPTS_MAX => return Err(SendError::Unknown { id, attempts, error }),
            Err(error) => error,
        };
        attempts += 1;
        tracing::warn!(event_id = %id, "{error}; sending it again with the same id, attempt {attempts}");
        tokio::time::sleep(backoff.next_wait()).await;
        enqueued = publisher.enqueue(&written.outgoing()).await;
    }
}

async fn answer(enqueued: Result<Acknowledgement, PublishError>) -> Result<(), PublishError> {
    enqueued?.await
}

#[cfg(test)]
mod tests {
    use super::*;
    use millrace_schemas::value_from_json;
    use serde_json::{Value as Json, json};

    fn route(event_type: &str) -> Route {
        let contract = Contracts::embedded().unwrap().get(event_type).unwrap().clone();
        let schema = Arc::new(WriterSchema::parse(7, &contract.newest().text).unwrap());
        Route::new(contract, schema, "http://registry/schemas/ids/7".to_owned()).unwrap()
    }

    fn erased(fields: &Json) -> Result<Written, SendError> {
        route("user.erased").write("/shop", Occurrence::now(), fields)
    }

    #[test]
    fn a_record_is_framed_keyed_and_addressed_as_its_contract_says() {
        let user_id = Uuid::from_u128(5).to_string();
        let occurrence = Occurrence { traceparent: Some("00-a-b-01".to_owned()), ..Occurrence::now() };
        let body = json!({ "user_id": user_id, "requested_by": "user" });
        let written = route("user.erased").write("/shop", occurrence.clone(), &body).unwrap();
        let Outgoing { topic, key, envelope, value } = written.outgoing();
        assert_eq!((topic, key), ("shop.account.v1", &*user_id));
        assert_eq!(wire::unframe(value.unwrap()).unwrap().0, 7);
        assert_eq!((envelope.id, envelope.occurred_at), (occurrence.id, occurrence.occurred_at));
        assert_eq!((&*envelope.source, &*envelope.event_type, &*envelope.subject), ("/shop", "user.erased", &*user_id));
        assert_eq!(envelope.dataschema.as_deref(), Some("http://registry/schemas/ids/7"));
        assert_eq!(envelope.traceparent.as_deref(), occurrence.traceparent.as_deref());
        assert!(envelope.recorded_at.is_some());
    }

    #[test]
    fn the_key_is_the_text_in_the_field_that_the_contract_names() {
        for contract in Contracts::embedded().unwrap().iter() {
            let route = route(&contract.event_type);
            let mut datum = Vec::new();
            let value = value_from_json(route.schema.schema, &contract.example).unwrap();
            route.schema.encode_value(&value, &mut datum).unwrap();
            let key = route.key(&datum).unwrap();
            assert_eq!(contract.example[&contract.key], json!(key), "{}", contract.event_type);
        }
    }

    #[test]
    fn what_consumers_could_not_use_is_not_sent() {
        let user_id = Uuid::from_u128(5).to_string();
        let missing = erased(&json!({ "user_id": user_id }));
        assert!(matches!(missing, Err(SendError::DoesNotFit(_))));
        let no_key = erased(&json!({ "user_id": "", "requested_by": "user" }));
        assert_eq!(
            no_key.err().unwrap().to_string(),
            "`user.erased` needs text in `user_id`, the key its contract names"
        );
        let large = erased(&json!({ "user_id": user_id, "requested_by": "u".repeat(VALUE_BYTES_MAX) }));
        assert!(matches!(large, Err(SendError::TooLarge { bytes, .. }) if bytes > VALUE_BYTES_MAX));
    }
}
