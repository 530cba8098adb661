//! The spine: how records leave Kafka, become events, take effect once, and are acknowledged.
//!
//! ```text
//! Kafka ─→ poller (one thread a pipeline) ─→ one bounded queue a partition ─→ worker
//!                                                                               │
//!          commit (display only) ←─ settle in Postgres ←─ handle ←─ decode ←─ batch
//! ```
//!
//! This is the only crate that knows the Kafka client exists. It never looks into an event's body:
//! a [`Handler`] decodes it and gives it its effect.

mod admin;
mod consume;
mod crash;
mod dead_letter;
mod deadline;
mod decode;
mod dedup;
mod delivery;
mod failure;
#[cfg(test)]
mod fake_broker;
mod group;
mod headers;
mod log_bounds;
mod memory;
mod memory_bound;
mod metrics;
mod migrate;
mod offsets;
mod partition_queue;
mod prefetch;
mod publish;
mod reach;
mod record;
mod replay;
mod retry;
mod scan;
mod settings;
mod source;
mod standing;
mod standstill;
mod storm;
mod topic_id;

pub use admin::{Admin, GroupProgress, Topic};
pub use consume::{Handler, Incoming};
pub use crash::crash_at;
pub use dead_letter::{DeadLetter, DeadLetterFilter, DeadLetterState, DeadLetters, SetAside, postgres_text};
pub use deadline::{answered, in_time};
pub use decode::Decoder;
pub use failure::{Failure, Reason, Reject, why_it_stopped};
pub use group::{DRAIN_DEADLINE, Pipeline, PipelineHandle, Spine};
pub use log_bounds::PartitionProgress;
pub use memory::MemorySource;
pub use metrics::Metrics;
pub use migrate::{Migration, migrate};
pub use offsets::{Batch, Checkpoint, Checkpoints, Claim, Event, HeldUp, Planned, Settled};
pub use publish::{Acknowledgement, Outgoing, PublishError, Publisher};
pub use record::{Position, Record, RecordBuilder};
pub use replay::{ReplayOutcome, replay};
pub use retry::{Backoff, retry_until};
pub use scan::{Range, scan};
pub use settings::{PipelineConfig, in_bounds};
pub use source::Source;
pub use standing::Standing;
pub use standstill::{Rebuilding, Standstill, keep_as_it_is, keep_moving, left_behind};

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Where the brokers are and how to talk to them.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct KafkaConfig {
    /// `host:port`, several separated by commas.
    pub brokers: String,
    /// Static membership (KIP-345): set it, differently in each process, and a restart keeps its partitions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// Partitions of a topic that does not say otherwise.
    pub partitions: i32,
    /// Copies of each partition; the broker refuses more than it has brokers.
    pub replication: i32,
    /// Per-topic overrides, `[kafka.topics."shop.order.v1"] partitions = 12`.
    pub topics: BTreeMap<String, TopicConfig>,
    /// librdkafka properties, passed through as they are.
    pub properties: BTreeMap<String, String>,
}

/// What one topic wants differently from the defaults.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct TopicConfig {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partitions: Option<i32>,
    /// How long a fact topic keeps its records; history lives in ClickHouse.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retention_days: Option<u32>,
}

impl Default for KafkaConfig {
    fn default() -> Self {
        Self {
            brokers: "127.0.0.1:19092".into(),
            instance: None,
            partitions: 6,
            replication: 1,
            topics: BTreeMap::new(),
            properties: BTreeMap::new(),
        }
    }
}

/// Other names of properties that we set: librdkafka would take whichever it is told last.
const ALIASES: &[(&str, &str)] = &[
    ("metadata.broker.list", "bootstrap.servers"),
    ("request.required.acks", "acks"),
    ("delivery.timeout.ms", "message.timeout.ms"),
    ("message.send.max.retries", "retries"),
    ("max.in.flight", "max.in.flight.requests.per.connection"),
    ("queue.buffering.max.ms", "linger.ms"),
    ("compression.codec", "compression.type"),
    ("auto.commit.enable", "enable.auto.commit"),
    ("max.partition.fetch.bytes", "fetch.message.max.bytes"),
];

impl KafkaConfig {
    /// As configured; the topic may have been given more since.
    pub(crate) fn partitions_of(&self, topic: &str) -> i32 {
        self.topics.get(topic).and_then(|own| own.partitions).unwrap_or(self.partitions)
    }

    fn client(&self) -> rdkafka::ClientConfig {
        let mut client = rdkafka::ClientConfig::new();
        client.set("bootstrap.servers", &self.brokers);
        client.set("client.id", "millrace");
        for (key, value) in &self.properties {
            client.set(key, value);
        }
        client
    }

    /// With `defaults` where the project says nothing, and with what our promises rest on: `fixed`.
    ///
    /// # Errors
    /// When the project sets one of the fixed properties to something else, or one of ours by another name.
    fn client_with(&self, defaults: &[(&str, &str)], fixed: &[(&str, &str)]) -> anyhow::Result<rdkafka::ClientConfig> {
        if let Some((alias, name)) = ALIASES.iter().find(|(alias, _)| self.properties.contains_key(*alias)) {
            anyhow::bail!("kafka.properties: `{alias}` is another name of `{name}`; use that one");
        }
        let mut client = self.client();
        for (key, value) in defaults.iter().filter(|(key, _)| !self.properties.contains_key(*key)) {
            client.set(*key, *value);
        }
        for (key, value) in fixed {
            if let Some(other) = self.properties.get(*key).filter(|other| other != value) {
                anyhow::bail!("kafka.properties: `{key}` is {value} here, always; remove `{key} = {other}`");
            }
            client.set(*key, *value);
        }
        Ok(client)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_project_may_tune_the_kafka_client_and_not_break_its_promises() {
        let with = |key: &str, value: &str| {
            let properties = BTreeMap::from([(key.to_owned(), value.to_owned())]);
            let kafka = KafkaConfig { properties, ..KafkaConfig::default() };
            kafka.client_with(&[("linger.ms", "5")], &[("acks", "all")])
        };
        assert_eq!(with("linger.ms", "50").unwrap().get("linger.ms"), Some("50"));
        assert_eq!(with("client.rack", "a").unwrap().get("linger.ms"), Some("5"));
        assert!(with("acks", "1").unwrap_err().to_string().contains("`acks` is all here, always"));
        for (alias, name) in ALIASES {
            let error = with(alias, "1").unwrap_err().to_string();
            assert_eq!(error, format!("kafka.properties: `{alias}` is another name of `{name}`; use that one"));
        }
    }
}
