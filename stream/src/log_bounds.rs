//! Where the logs of partitions begin and end, as their leaders say.

use anyhow::Context;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{Offset, TopicPartitionList};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Between two questions about a partition whose leader is another since a moment ago.
const ASK_AGAIN_EVERY: Duration = Duration::from_millis(50);

/// Where one partition's log begins and ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionProgress {
    pub topic: String,
    pub partition: i32,
    /// First offset still held.
    pub log_start: i64,
    /// One past the last.
    pub log_end: i64,
}

/// In the order in which they are asked for, and in two round trips: librdkafka takes its marks for begin and end where a
/// time is asked for. Its call for one partition hides that a leader refused one mark behind the answer about the other:
/// the log then seems to begin where it ends.
pub(crate) fn log_bounds<C: ConsumerContext, T: AsRef<str>>(
    client: &BaseConsumer<C>,
    wanted: &[(T, i32)],
    deadline: Duration,
) -> anyhow::Result<Vec<PartitionProgress>> {
    if wanted.is_empty() {
        return Ok(Vec::new()); // which the client calls an error
    }
    let ask = |mark: Offset| {
        let mut asked = TopicPartitionList::with_capacity(wanted.len());
        for (topic, partition) in wanted {
            asked.add_partition_offset(topic.as_ref(), *partition, mark)?;
        }
        client.offsets_for_times(asked, deadline)
    };
    let (starts, ends) = (ask(Offset::Beginning)?, ask(Offset::End)?);
    let bounds = |(topic, partition): &(T, i32)| {
        let (topic, partition) = (topic.as_ref().to_owned(), *partition);
        let mark = |found: &TopicPartitionList| {
            offset(found, &topic, partition).with_context(|| format!("where does {topic}[{partition}] begin and end"))
        };
        let (log_start, log_end) = (mark(&starts)?, mark(&ends)?);
        Ok(PartitionProgress { topic, partition, log_start, log_end })
    };
    wanted.iter().map(bounds).collect()
}

fn offset(found: &TopicPartitionList, topic: &str, partition: i32) -> anyhow::Result<i64> {
    let element = found.find_partition(topic, partition).context("the broker left it out")?;
    element.error()?;
    element.offset().to_raw().filter(|offset| *offset >= 0).context("the broker has no offset for it")
}

/// Asks again, for so long, where a broker says that it does not lead the partition (any more, or of a topic that was
/// created a moment ago: yet), or there is no leader right now. The client looks for the leader then, and leaves it to
/// us to ask it. The question should begin with [`Consumer::fetch_metadata`]: what the client remembers of a partition
/// without a leader it asks for no more.
pub(crate) fn while_leaders_move<T>(patience: Duration, question: impl Fn() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let until = Instant::now() + patience;
    loop {
        match question() {
            Err(error) if leader_moves(&error) && Instant::now() < until => sleep(ASK_AGAIN_EVERY),
            answer => return answer,
        }
    }
}

fn leader_moves(error: &anyhow::Error) -> bool {
    use RDKafkaErrorCode as Code;
    let code = error.downcast_ref().and_then(KafkaError::rdkafka_error_code);
    matches!(
        code,
        Some(
            Code::NotLeaderForPartition
                | Code::LeaderNotAvailable
                | Code::UnknownPartition // the client's word where it knows of no leader
                | Code::UnknownTopicOrPartition // the word of a leader that has not heard of it yet
                | Code::ReplicaNotAvailable
                | Code::OffsetNotAvailable
                | Code::FencedLeaderEpoch
                | Code::UnknownLeaderEpoch
        )
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Admin;
    use crate::fake_broker::{FakeBroker, TOPIC};

    #[tokio::test]
    async fn a_leader_that_is_none_yet_is_asked_again() {
        let broker = FakeBroker::start();
        let admin = Admin::new(broker.kafka());
        let (topic, log_start, log_end) = (TOPIC.to_owned(), FakeBroker::LOG_START, FakeBroker::LOG_END);
        let expected = PartitionProgress { topic: topic.clone(), partition: 0, log_start, log_end };
        broker.refuses_offsets(3);
        assert_eq!(admin.partitions(vec![topic.clone()]).await.unwrap(), std::slice::from_ref(&expected));
        broker.refuses_offsets(3);
        assert_eq!(admin.partition(topic.clone(), 0).await.unwrap(), expected);
        broker.refuses_offsets(3);
        let found = admin.offsets_at(vec![topic.clone()], chrono::Utc::now()).await.unwrap();
        assert_eq!(found.into_iter().collect::<Vec<_>>(), [((topic, 0), log_end)]);
    }

    #[tokio::test]
    async fn a_partition_without_a_leader_is_asked_again_once_it_has_one() {
        let broker = FakeBroker::start();
        let admin = Admin::new(broker.kafka());
        broker.leads_after(3);
        let found = admin.partition(TOPIC.to_owned(), 0).await.unwrap();
        assert_eq!((found.log_start, found.log_end), (FakeBroker::LOG_START, FakeBroker::LOG_END));
    }

    #[test]
    fn what_no_patience_mends_is_asked_once() {
        let asked = std::cell::Cell::new(0);
        let answer = while_leaders_move(Duration::from_secs(5), || {
            asked.set(asked.get() + 1);
            Err::<(), _>(KafkaError::MetadataFetch(RDKafkaErrorCode::TopicAuthorizationFailed).into())
        });
        assert!(answer.is_err() && asked.get() == 1);
    }
}
