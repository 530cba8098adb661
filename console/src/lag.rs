//! Lag: the log's end against what has taken effect (the checkpoints in Postgres, not Kafka's offsets).

use chrono::{DateTime, Utc};
use millrace_stream::{Admin, Checkpoint, Checkpoints, DeadLetters, GroupProgress, PartitionProgress};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// Everything on one screen.
#[derive(Debug, Clone, Serialize)]
pub struct Status {
    pub at: DateTime<Utc>,
    pub pipelines: Vec<PipelineStatus>,
}

/// One pipeline, over all its partitions.
#[derive(Debug, Clone, Serialize)]
pub struct PipelineStatus {
    pub name: String,
    pub state: State,
    pub members: usize,
    /// Records in the log that have not taken effect.
    pub lag_records: i64,
    /// Age of the newest record that took effect in the partition furthest behind; 0 when nothing waits.
    pub lag_seconds: f64,
    /// Open dead letters.
    pub dead_letters: i64,
    /// What stands against it; nothing is lost meanwhile.
    pub held_up: Option<HeldUpStatus>,
    /// Topics of which it has read what another log held under the same name.
    pub recreated: Vec<String>,
    pub partitions: Vec<PartitionStatus>,
}

/// Why records do not take effect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HeldUpStatus {
    /// How many partitions.
    pub partitions: usize,
    pub since: DateTime<Utc>,
    /// In the partition that has waited longest.
    pub by: String,
    /// In the one that came last, where that is something else.
    pub latest: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Somebody works on it and nothing waits.
    CaughtUp,
    /// Somebody works on it and records wait.
    Behind,
    /// Somebody works on it, and something stands against it.
    HeldUp,
    /// Members are joining or leaving.
    Rebalancing,
    /// Nobody works on it.
    Stopped,
}

#[derive(Debug, Clone, Serialize)]
pub struct PartitionStatus {
    pub topic: String,
    pub partition: i32,
    pub log_start: i64,
    pub log_end: i64,
    /// The first offset that has not taken effect.
    pub next: i64,
    pub lag_records: i64,
    /// Log time of the newest record that took effect.
    pub reached_at: Option<DateTime<Utc>>,
}

/// Asks Postgres for checkpoints and Kafka for the log's ends and the groups' members.
///
/// # Errors
/// Which of the two did not answer.
pub async fn status(admin: &Admin, checkpoints: &Checkpoints) -> anyhow::Result<Status> {
    let rows = checkpoints.list().await?;
    let topics: BTreeSet<String> = rows.iter().map(|row| row.topic.clone()).collect();
    let topics: Vec<String> = topics.into_iter().collect();
    let ids = admin.topic_ids(topics.clone()).await?;
    let ends = ends(admin.partitions(topics).await?);
    let dead_letters = open_dead_letters(checkpoints).await?;
    let mut pipelines = Vec::new();
    for (name, rows) in by_pipeline(rows) {
        let group = admin.group(&name).await?;
        let open = dead_letters.get(&name).copied().unwrap_or_default();
        let status = pipeline(name, &group, &rows, &ends, open, Utc::now());
        pipelines.push(PipelineStatus { recreated: recreated(&rows, &ids), ..status });
    }
    Ok(Status { at: Utc::now(), pipelines })
}

fn recreated(rows: &[Checkpoint], ids: &BTreeMap<String, String>) -> Vec<String> {
    let other = rows.iter().filter(|row| ids.get(&row.topic).is_some_and(|id| *id != row.topic_id));
    other.map(|row| row.topic.clone()).collect::<BTreeSet<_>>().into_iter().collect()
}

type Ends = BTreeMap<(String, i32), PartitionProgress>;

fn ends(partitions: Vec<PartitionProgress>) -> Ends {
    partitions.into_iter().map(|found| ((found.topic.clone(), found.partition), found)).collect()
}

async fn open_dead_letters(checkpoints: &Checkpoints) -> anyhow::Result<BTreeMap<String, i64>> {
    let mut open = BTreeMap::new();
    let counts = DeadLetters::new(checkpoints.pool().clone()).open().await;
    for (pipeline, _, count) in counts.map_err(|failure| anyhow::anyhow!("could not count dead letters: {failure}"))? {
        *open.entry(pipeline).or_default() += count;
    }
    Ok(open)
}

fn by_pipeline(rows: Vec<Checkpoint>) -> BTreeMap<String, Vec<Checkpoint>> {
    let mut pipelines: BTreeMap<String, Vec<Checkpoint>> = BTreeMap::new();
    for row in rows {
        pipelines.entry(row.pipeline.clone()).or_default().push(row);
    }
    pipelines
}

fn pipeline(
    name: String,
    group: &GroupProgress,
    rows: &[Checkpoint],
    ends: &Ends,
    dead_letters: i64,
    now: DateTime<Utc>,
) -> PipelineStatus {
    let partitions = partitions(rows, ends);
    let lag_records = partitions.iter().map(|partition| partition.lag_records).sum();
    let lag_seconds = partitions.iter().map(|partition| lag_seconds(partition, now)).fold(0.0, f64::max);
    let held_up = held_up(rows);
    PipelineStatus {
        name,
        state: state(group, lag_records, held_up.is_some()),
        members: group.members,
        lag_records,
        lag_seconds,
        dead_letters,
        held_up,
        recreated: Vec::new(),
        partitions,
    }
}

fn held_up(rows: &[Checkpoint]) -> Option<HeldUpStatus> {
    let held_up = || rows.iter().filter_map(|row| row.held_up.as_ref());
    let first = held_up().min_by_key(|held_up| held_up.since)?;
    let last = held_up().max_by_key(|held_up| held_up.since)?;
    let latest = (last.by != first.by).then(|| last.by.clone());
    Some(HeldUpStatus { partitions: held_up().count(), since: first.since, by: first.by.clone(), latest })
}

/// Every partition of the topics that the pipeline reads; one that nobody has taken yet has all of its log to come.
fn partitions(rows: &[Checkpoint], ends: &Ends) -> Vec<PartitionStatus> {
    let topics: BTreeSet<&str> = rows.iter().map(|row| row.topic.as_str()).collect();
    let of_topics = ends.values().filter(|end| topics.contains(end.topic.as_str()));
    of_topics.map(|end| partition(rows, end)).collect()
}

fn partition(rows: &[Checkpoint], end: &PartitionProgress) -> PartitionStatus {
    let row = rows.iter().find(|row| row.topic == end.topic && row.partition == end.partition);
    let next = row.map_or(end.log_start, |row| row.next);
    PartitionStatus {
        topic: end.topic.clone(),
        partition: end.partition,
        log_start: end.log_start,
        log_end: end.log_end,
        next,
        lag_records: (end.log_end - next).max(0),
        reached_at: row.and_then(|row| row.reached_at),
    }
}

/// At most this far behind: what waits was logged after what was applied last.
fn lag_seconds(partition: &PartitionStatus, now: DateTime<Utc>) -> f64 {
    match partition.reached_at {
        Some(reached) if partition.lag_records > 0 => (now - reached).as_seconds_f64().max(0.0),
        _ => 0.0,
    }
}

fn state(group: &GroupProgress, lag_records: i64, held_up: bool) -> State {
    match group.state.as_str() {
        "Stable" if held_up => State::HeldUp,
        "Stable" if lag_records == 0 => State::CaughtUp,
        "Stable" => State::Behind,
        "PreparingRebalance" | "CompletingRebalance" => State::Rebalancing,
        _ => State::Stopped,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use millrace_stream::HeldUp;

    fn checkpoint(partition: i32, next: i64, reached_at: DateTime<Utc>) -> Checkpoint {
        Checkpoint {
            pipeline: "p".into(),
            topic: "t".into(),
            topic_id: "T".into(),
            partition,
            epoch: 1,
            next,
            reached_at: Some(reached_at),
            updated_at: reached_at,
            held_up: None,
        }
    }

    fn end(partition: i32, log_end: i64) -> PartitionProgress {
        PartitionProgress { topic: "t".into(), partition, log_start: 0, log_end }
    }

    #[test]
    fn the_partition_furthest_behind_tells_how_late_a_pipeline_is() {
        let now = DateTime::from_timestamp(1_000, 0).unwrap();
        let ago = |seconds: i64| DateTime::from_timestamp(1_000 - seconds, 0).unwrap();
        let rows = [checkpoint(0, 10, ago(500)), checkpoint(1, 7, ago(30)), checkpoint(2, 9, ago(5))];
        let ends = ends(vec![end(0, 10), end(1, 10), end(2, 10)]);
        let group = GroupProgress { state: "Stable".into(), members: 2 };
        let status = pipeline("p".into(), &group, &rows, &ends, 0, now);
        assert_eq!((status.lag_records, status.lag_seconds, status.state), (4, 30.0, State::Behind));
    }

    #[test]
    fn a_partition_that_nobody_has_taken_yet_is_behind_by_its_whole_log() {
        let now = DateTime::from_timestamp(1_000, 0).unwrap();
        let group = GroupProgress { state: "Stable".into(), members: 1 };
        let ends = ends(vec![end(0, 10), end(1, 7)]);
        let status = pipeline("p".into(), &group, &[checkpoint(0, 10, now)], &ends, 0, now);
        assert_eq!((status.lag_records, status.state), (7, State::Behind));
    }

    #[test]
    fn a_group_without_members_is_stopped_however_small_its_lag() {
        let group = |state: &str| GroupProgress { state: state.into(), members: 0 };
        assert_eq!(state(&group("Empty"), 0, false), State::Stopped);
        assert_eq!(state(&group("Dead"), 5, true), State::Stopped);
        assert_eq!(state(&group("CompletingRebalance"), 5, false), State::Rebalancing);
    }

    #[test]
    fn a_pipeline_that_is_held_up_says_since_when_and_by_what_came_first_and_last() {
        let at = |seconds: i64| DateTime::from_timestamp(seconds, 0).unwrap();
        let held_up = |partition, since, by: &str| Checkpoint {
            held_up: Some(HeldUp { by: by.into(), since: at(since) }),
            ..checkpoint(partition, 5, at(0))
        };
        let rows = [checkpoint(0, 10, at(0)), held_up(1, 300, "too many parts"), held_up(2, 200, "no space")];
        let group = GroupProgress { state: "Stable".into(), members: 1 };
        let status = pipeline("p".into(), &group, &rows, &ends(vec![end(0, 10), end(1, 10)]), 0, at(1_000));
        let latest = Some("too many parts".into());
        let expected = HeldUpStatus { partitions: 2, since: at(200), by: "no space".into(), latest };
        assert_eq!((status.state, status.held_up), (State::HeldUp, Some(expected)));
    }
}
