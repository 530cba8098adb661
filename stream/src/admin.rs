//! What operators and `migrate` ask of the broker.

use crate::KafkaConfig;
use crate::log_bounds::{PartitionProgress, log_bounds, while_leaders_move};
use crate::topic_id::{existing_topic_ids, topic_ids};
use anyhow::{Context, bail, ensure};
use chrono::{DateTime, Utc};
use millrace_schemas::Cleanup;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::FromClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::topic_partition_list::TopicPartitionListElem;
use rdkafka::{Offset, TopicPartitionList};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// One round trip to a broker that answers; and how long leaders may move until a page says so.
const DEADLINE: Duration = Duration::from_secs(5);
/// A broker that came up a moment ago creates its first topics slowly; `migrate` would rather wait than begin again.
const CREATE_DEADLINE: Duration = Duration::from_secs(55);
/// So that it can still say why it did not.
const CREATE_ANSWER_DEADLINE: Duration = Duration::from_secs(60);
/// Fact topics keep their records this long unless told otherwise: history is in ClickHouse.
const RETENTION_DAYS: u32 = 30;

/// With so many copies of a partition one may be away, and two still have what was acknowledged.
const COPIES_FOR_TWO: i32 = 3;

/// A topic as the project wants it.
#[derive(Debug, Clone)]
pub struct Topic {
    pub name: String,
    pub cleanup: Cleanup,
}

/// Who is in a pipeline's consumer group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupProgress {
    /// Kafka's word for it: Stable, Empty, PreparingRebalance, …
    pub state: String,
    pub members: usize,
}

/// Asks the broker; every call opens its own connection and closes it.
#[derive(Clone)]
pub struct Admin {
    kafka: Arc<KafkaConfig>,
}

impl Admin {
    pub fn new(kafka: KafkaConfig) -> Self {
        Self { kafka: Arc::new(kafka) }
    }

    /// # Errors
    /// When no broker answers within five seconds, or one that has just come up and leads nothing yet.
    pub async fn reachable(&self) -> anyhow::Result<()> {
        self.ask(|client| {
            let metadata = client.fetch_metadata(None, DEADLINE)?;
            ensure!(!metadata.brokers().is_empty(), "it leads nothing yet");
            Ok(())
        })
        .await
    }

    /// Creates the topics that are missing and returns their names; existing ones are left as they are.
    pub async fn ensure_topics(&self, topics: &[Topic]) -> anyhow::Result<Vec<String>> {
        let admin: AdminClient<DefaultClientContext> = AdminClient::from_config(&self.kafka.client())?;
        let settings: Vec<_> = topics.iter().map(|topic| self.settings(topic)).collect();
        let wanted: Vec<NewTopic<'_>> =
            topics.iter().zip(&settings).map(|(topic, set)| self.new_topic(topic, set)).collect();
        let options =
            AdminOptions::new().operation_timeout(Some(CREATE_DEADLINE)).request_timeout(Some(CREATE_ANSWER_DEADLINE));
        let results = admin.create_topics(&wanted, &options).await.context("could not create topics")?;
        let mut created = Vec::new();
        for result in results {
            match result {
                Ok(name) => created.push(name),
                Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
                Err((name, code)) => bail!("could not create topic {name}: {code}"),
            }
        }
        Ok(created)
    }

    /// Begin and end of every partition of these topics.
    pub async fn partitions(&self, topics: Vec<String>) -> anyhow::Result<Vec<PartitionProgress>> {
        self.ask(move |client| log_bounds(client, &partitions_of(client, &topics)?, DEADLINE)).await
    }

    /// The same of one partition.
    pub async fn partition(&self, topic: String, partition: i32) -> anyhow::Result<PartitionProgress> {
        let all = self.partitions(vec![topic.clone()]).await?;
        let found = all.into_iter().find(|found| found.partition == partition);
        found.with_context(|| format!("topic {topic} has no partition {partition}"))
    }

    /// Kafka's ids of these topics: one that was recreated under its name has another.
    pub async fn topic_ids(&self, topics: Vec<String>) -> anyhow::Result<BTreeMap<String, String>> {
        let kafka = self.kafka.clone();
        tokio::task::spawn_blocking(move || topic_ids(&kafka, &topics)).await?
    }

    /// The same, of those that exist.
    ///
    /// # Errors
    /// When no broker answers.
    pub async fn existing_topic_ids(&self, topics: Vec<String>) -> anyhow::Result<BTreeMap<String, String>> {
        let kafka = self.kafka.clone();
        tokio::task::spawn_blocking(move || existing_topic_ids(&kafka, &topics)).await?
    }

    /// The first offset that each partition of these topics took at this time or later; none where there is none.
    pub async fn offsets_at(
        &self,
        topics: Vec<String>,
        time: DateTime<Utc>,
    ) -> anyhow::Result<BTreeMap<(String, i32), i64>> {
        self.ask(move |client| {
            let mut wanted = TopicPartitionList::new();
            for (topic, partition) in partitions_of(client, &topics)? {
                wanted.add_partition_offset(&topic, partition, Offset::Offset(time.timestamp_millis()))?;
            }
            let found = client.offsets_for_times(wanted, DEADLINE)?;
            // Where nobody leads a partition, it comes back as it went out.
            let place = |found: TopicPartitionListElem<'_>| match (found.error(), found.offset()) {
                (Err(error), _) => Some(Err(error.into())),
                (Ok(()), Offset::Offset(offset)) => Some(Ok(((found.topic().to_owned(), found.partition()), offset))),
                _ => None,
            };
            found.elements().into_iter().filter_map(place).collect()
        })
        .await
    }

    /// Who works on a pipeline right now.
    pub async fn group(&self, pipeline: &str) -> anyhow::Result<GroupProgress> {
        let name = format!("millrace-{pipeline}");
        self.ask(move |client| {
            let groups = client.fetch_group_list(Some(&name), DEADLINE)?;
            let group = groups.groups().first();
            Ok(GroupProgress {
                state: group.map_or("Dead", |group| group.state()).to_owned(),
                members: group.map_or(0, |group| group.members().len()),
            })
        })
        .await
    }

    fn settings(&self, topic: &Topic) -> (i32, String) {
        let own = self.kafka.topics.get(&topic.name);
        let days = own.and_then(|own| own.retention_days).unwrap_or(RETENTION_DAYS);
        (self.kafka.partitions_of(&topic.name), (u64::from(days) * 24 * 60 * 60 * 1000).to_string())
    }

    fn new_topic<'a>(&self, topic: &'a Topic, (partitions, retention_ms): &'a (i32, String)) -> NewTopic<'a> {
        let new = NewTopic::new(&topic.name, *partitions, TopicReplication::Fixed(self.kafka.replication));
        // A record's time is the broker's: it refuses one from a publisher whose clock is an hour ahead.
        let new = new.set("message.timestamp.type", "LogAppendTime");
        // Or `acks=all` would be the leader's alone while the others are behind, and its disk all there is.
        let new = if self.kafka.replication < COPIES_FOR_TWO { new } else { new.set("min.insync.replicas", "2") };
        match topic.cleanup {
            Cleanup::Delete => new.set("cleanup.policy", "delete").set("retention.ms", retention_ms),
            Cleanup::Compact => new.set("cleanup.policy", "compact").set("delete.retention.ms", "604800000"),
        }
    }

    /// The client's calls block: they run where blocking is allowed.
    async fn ask<T: Send + 'static>(
        &self,
        question: impl Fn(&BaseConsumer) -> anyhow::Result<T> + Send + 'static,
    ) -> anyhow::Result<T> {
        let kafka = self.kafka.clone();
        let answer = tokio::task::spawn_blocking(move || {
            let client = BaseConsumer::from_config(&kafka.client())?;
            while_leaders_move(DEADLINE, || question(&client))
        });
        answer.await?.with_context(|| format!("kafka at {} did not answer", self.kafka.brokers))
    }
}

fn partitions_of(client: &BaseConsumer, topics: &[String]) -> anyhow::Result<Vec<(String, i32)>> {
    let mut all = Vec::new();
    for topic in topics {
        let metadata = client.fetch_metadata(Some(topic), DEADLINE)?;
        let found = metadata.topics().first().context("the broker left it out")?;
        match found.error().map(RDKafkaErrorCode::from) {
            None => {}
            Some(RDKafkaErrorCode::UnknownTopicOrPartition) => {
                bail!("topic {topic} does not exist: run `millrace migrate`")
            }
            Some(error) => return Err(KafkaError::MetadataFetch(error).into()),
        }
        all.extend(found.partitions().iter().map(|partition| (topic.clone(), partition.id())));
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_acknowledged_has_two_copies_where_there_are_three() {
        let topic = Topic { name: "a.v1".into(), cleanup: Cleanup::Delete };
        for (replication, expected) in [(1, None), (2, None), (3, Some("2")), (5, Some("2"))] {
            let admin = Admin::new(KafkaConfig { replication, ..KafkaConfig::default() });
            let settings = admin.settings(&topic);
            let new = admin.new_topic(&topic, &settings);
            let insync = new.config.iter().find(|(name, _)| *name == "min.insync.replicas").map(|(_, value)| *value);
            assert_eq!(insync, expected, "of {replication}");
        }
    }
}
