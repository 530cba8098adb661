//! Which topic's batches go to ClickHouse next.
//!
//! The partitions of a topic go in rounds: all that wait when its turn has come ([`Pace`]) are in it, and who comes while
//! some of them have not handed over joins them. Their inserts wait for each other, so that a table has one. Only when a
//! round opens do its batches end: what came while they waited is in them, instead of waiting for the turn after.

use super::block::Block;
use super::pace::Pace;
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

/// So long an insert waits for others of its round: they plan meanwhile, one statement in Postgres.
const TOGETHER_WITHIN: Duration = Duration::from_millis(100);

/// After inserts of fewer rows each a topic's next round waits so long, where it need not wait for its turn: a part for
/// each of a few events would be hundreds of thousands a day. The first after a pause waits for nothing.
const FEW_ROWS: usize = 32;
const FOR_MORE: Duration = Duration::from_millis(500);

/// All topics' turns.
pub(super) struct Rounds {
    pace: Pace,
    topics: Mutex<HashMap<Arc<str>, Arc<Topic>>>,
}

struct Topic {
    /// Held by who waits for the pace, for all that wait.
    opens: tokio::sync::Mutex<()>,
    round: watch::Sender<Round>,
}

/// A topic's latest round.
#[derive(Debug)]
struct Round {
    /// Partitions that will be in the next.
    waiting: BTreeSet<i32>,
    opened: Instant,
    /// Those in it that have not handed over.
    missing: BTreeSet<i32>,
    brought: Brought,
    /// By the latest before it that brought anything.
    brought_before: Brought,
}

/// What came in a round.
#[derive(Debug, Default)]
struct Brought {
    tables: BTreeSet<String>,
    rows: usize,
    /// Some of it did not come from behind.
    fresh: bool,
}

impl Rounds {
    pub fn new(inserts_per_second: u32) -> Self {
        Self { pace: Pace::new(inserts_per_second), topics: Mutex::default() }
    }

    /// Returns once the partition is in a round. What it brings is handed over next, see [`Rounds::hand_over`].
    pub async fn join(&self, topic: &str, partition: i32) {
        let topic = self.topic(topic);
        if topic.round.send_if_modified(|round| round.join(partition)) {
            return;
        }
        let waits = Waits::of(&topic, partition);
        let opens = tokio::select! {
            biased;
            () = topic.taken_along(partition) => None,
            opens = topic.opens.lock() => Some(opens),
        };
        // Another may have opened it since it was looked at.
        if opens.is_some() && topic.round.borrow().waiting.contains(&partition) {
            topic.open(&self.pace).await;
        }
        waits.no_more();
    }

    /// The partition's batch, when it is dropped: its inserts are queued then, or there will be none. Nothing to a round
    /// that it is not in.
    pub fn hand_over(&self, topic: &str, partition: i32) -> HandOver {
        HandOver { topic: self.topic(topic), partition, brought: Brought::default() }
    }

    /// Returns when all in the topic's round have handed over, or are late.
    pub async fn all_there(&self, topic: &str) {
        let mut round = self.topic(topic).round.subscribe();
        let until = round.borrow().opened + TOGETHER_WITHIN;
        let _ = timeout_at(until, round.wait_for(|round| round.missing.is_empty())).await;
    }

    fn topic(&self, topic: &str) -> Arc<Topic> {
        let mut topics = self.topics.lock().unwrap_or_else(PoisonError::into_inner);
        match topics.get(topic) {
            Some(known) => known.clone(),
            None => topics.entry(topic.into()).or_default().clone(),
        }
    }
}

/// A partition that waits for a round; no more once it is dropped.
struct Waits<'t> {
    topic: &'t Topic,
    partition: i32,
    ended: bool,
}

impl<'t> Waits<'t> {
    fn of(topic: &'t Topic, partition: i32) -> Self {
        topic.round.send_modify(|round| {
            round.waiting.insert(partition);
        });
        Self { topic, partition, ended: false }
    }

    /// It is in one.
    fn no_more(mut self) {
        self.ended = true;
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.topic.round.send_modify(|round| round.leave(self.partition));
        }
    }
}

/// See [`Rounds::hand_over`].
pub(super) struct HandOver {
    topic: Arc<Topic>,
    partition: i32,
    brought: Brought,
}

impl HandOver {
    /// `behind`: nobody gains by its being early.
    pub fn brings(&mut self, blocks: &[Block<'_>], behind: bool) {
        let tables = blocks.iter().map(|block| block.table.name().to_owned()).collect();
        self.brought = Brought { tables, rows: blocks.iter().map(Block::len).sum(), fresh: !behind };
    }
}

impl Drop for HandOver {
    fn drop(&mut self) {
        let brought = std::mem::take(&mut self.brought);
        self.topic.round.send_modify(|round| round.hand_over(self.partition, brought));
    }
}

impl Topic {
    async fn taken_along(&self, partition: i32) {
        let _ = self.round.subscribe().wait_for(|round| !round.waiting.contains(&partition)).await;
    }

    async fn open(&self, pace: &Pace) {
        let (inserts, behind, not_before) = self.round.borrow().next();
        pace.wait_for_turn(inserts, behind, not_before).await;
        self.round.send_modify(Round::open);
    }
}

impl Default for Topic {
    fn default() -> Self {
        let (waiting, missing, brought, brought_before) = Default::default();
        let round = Round { waiting, opened: Instant::now(), missing, brought, brought_before };
        Self { opens: tokio::sync::Mutex::default(), round: watch::Sender::new(round) }
    }
}

impl Round {
    fn open(&mut self) {
        self.opened = Instant::now();
        self.missing = std::mem::take(&mut self.waiting);
        let brought = std::mem::take(&mut self.brought);
        if !brought.tables.is_empty() {
            self.brought_before = brought;
        }
    }

    /// False when it is over.
    fn join(&mut self, partition: i32) -> bool {
        let open = !self.missing.is_empty() && self.opened.elapsed() < TOGETHER_WITHIN;
        open && self.missing.insert(partition)
    }

    fn leave(&mut self, partition: i32) {
        self.waiting.remove(&partition);
        self.missing.remove(&partition);
    }

    /// What comes late counts, too.
    fn hand_over(&mut self, partition: i32, Brought { tables, rows, fresh }: Brought) {
        self.missing.remove(&partition);
        self.brought.tables.extend(tables);
        self.brought.rows += rows;
        self.brought.fresh |= fresh;
    }

    /// How many inserts the next one will have, if it is like the latest; whether it can wait; and until when it must.
    fn next(&self) -> (usize, bool, Instant) {
        let latest = if self.brought.tables.is_empty() { &self.brought_before } else { &self.brought };
        let Brought { tables, rows, fresh } = latest;
        let behind = !tables.is_empty() && !fresh;
        let few = *rows < FEW_ROWS * tables.len() && !behind;
        (tables.len().max(1), behind, self.opened + if few { FOR_MORE } else { Duration::ZERO })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::future::join_all;

    fn brought(tables: &[&str], rows: usize) -> Brought {
        Brought { tables: tables.iter().map(|&table| table.to_owned()).collect(), rows, fresh: true }
    }

    fn many() -> Brought {
        brought(&["t", "u"], FEW_ROWS * 2)
    }

    /// A partition's, handed over with what it brings at once.
    fn bring(rounds: &Rounds, topic: &str, partition: i32, brought: Brought) {
        rounds.hand_over(topic, partition).brought = brought;
    }

    /// After how many milliseconds each is let go; the others are in their rounds by then, and nobody waits any more.
    async fn joins(rounds: &Rounds, partitions: &[(&str, i32)], brings: impl Fn() -> Brought) -> Vec<u128> {
        let began = Instant::now();
        let joins = partitions.iter().map(async |(topic, partition)| {
            rounds.join(topic, *partition).await;
            began.elapsed().as_millis()
        });
        let found = join_all(joins).await;
        partitions.iter().for_each(|(topic, partition)| bring(rounds, topic, *partition, brings()));
        found
    }

    #[tokio::test(start_paused = true)]
    async fn partitions_of_a_topic_go_together_and_topics_take_turns() {
        let rounds = Rounds::new(10);
        joins(&rounds, &[("a", 0), ("b", 0)], many).await;
        let found = joins(&rounds, &[("a", 0), ("a", 1), ("b", 0), ("a", 2)], many).await;
        assert_eq!(found, [100, 100, 300, 100], "the first was taken for one insert, and has two");
        tokio::time::advance(Duration::from_secs(9)).await;
        assert_eq!(joins(&rounds, &[("a", 0), ("a", 1), ("b", 0)], many).await, [0; 3], "after a pause at once");
    }

    #[tokio::test(start_paused = true)]
    async fn a_round_costs_as_many_turns_as_all_of_its_partitions_have_tables() {
        let rounds = Rounds::new(10);
        join_all([rounds.join("a", 0), rounds.join("a", 1)]).await;
        bring(&rounds, "a", 0, brought(&["t", "u"], 200));
        bring(&rounds, "a", 1, brought(&["u", "v"], 200));
        assert_eq!(joins(&rounds, &[("a", 0)], many).await, [100]);
        assert_eq!(joins(&rounds, &[("a", 0)], many).await, [300]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_round_that_brings_nothing_is_taken_for_no_other() {
        let rounds = Rounds::new(10);
        joins(&rounds, &[("a", 0)], many).await;
        joins(&rounds, &[("a", 0)], Brought::default).await;
        assert_eq!(joins(&rounds, &[("a", 0)], many).await, [200], "two inserts, as the one before had");
    }

    #[tokio::test(start_paused = true)]
    async fn events_that_trickle_in_wait_for_more_and_hold_no_other_topic_up() {
        let rounds = Rounds::new(u32::MAX);
        let few = || brought(&["t", "u"], FEW_ROWS * 2 - 1);
        assert_eq!(joins(&rounds, &[("a", 0)], few).await, [0], "the first waits for nothing");
        let found = tokio::join!(joins(&rounds, &[("a", 0)], few), joins(&rounds, &[("b", 0)], few));
        assert_eq!(found, (vec![500], vec![0]));
        tokio::time::advance(FOR_MORE).await;
        let behind = || Brought { fresh: false, ..few() };
        assert_eq!(joins(&rounds, &[("b", 0)], behind).await, [0], "it has waited");
        assert_eq!(joins(&rounds, &[("b", 0)], many).await, [0], "who is behind has more to come");
        assert_eq!(joins(&rounds, &[("b", 0)], many).await, [0], "as has who brings many");
    }

    #[tokio::test(start_paused = true)]
    async fn an_insert_waits_for_those_in_its_round_and_not_for_ever() {
        let rounds = Rounds::new(u32::MAX);
        let began = Instant::now();
        rounds.all_there("a").await;
        join_all([rounds.join("a", 0), rounds.join("a", 1)]).await;
        bring(&rounds, "a", 0, many());
        bring(&rounds, "a", 7, many()); // of no round: tried again, or late
        let second = async {
            tokio::time::sleep(Duration::from_millis(70)).await;
            bring(&rounds, "a", 1, many());
        };
        tokio::join!(rounds.all_there("a"), second);
        assert_eq!(began.elapsed(), Duration::from_millis(70));
        rounds.join("a", 0).await;
        rounds.all_there("a").await;
        assert_eq!(began.elapsed(), Duration::from_millis(70) + TOGETHER_WITHIN, "that one never came");
    }

    #[tokio::test(start_paused = true)]
    async fn who_gives_up_while_it_waits_is_waited_for_by_nobody() {
        let rounds = Rounds::new(1);
        joins(&rounds, &[("a", 0)], many).await;
        let given_up = tokio::time::timeout(Duration::from_millis(300), rounds.join("a", 0)).await;
        assert!(given_up.is_err());
        rounds.join("a", 1).await;
        bring(&rounds, "a", 1, many());
        let before = Instant::now();
        rounds.all_there("a").await;
        assert_eq!(before.elapsed(), Duration::ZERO);
    }
}
