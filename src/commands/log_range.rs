//! Which part of the log a command is about: offsets or a span of time, of what a pipeline has settled.

use crate::commands::roles::Base;
use crate::exit::Exit;
use chrono::{DateTime, Utc};
use clap::Args;
use millrace_stream::{Admin, Checkpoint, PartitionProgress, Range};
use std::collections::BTreeMap;

#[derive(Args, Default)]
pub struct LogRange {
    /// From this offset of each partition [default: the first that the log holds]
    #[arg(long, value_name = "OFFSET")]
    from: Option<i64>,
    /// Up to this offset of each partition, itself excluded [default: what has taken effect]
    #[arg(long, value_name = "OFFSET")]
    to: Option<i64>,
    /// From the first record that the log took at this time or later, such as 2026-11-01T00:00:00Z
    #[arg(long, value_name = "TIME", conflicts_with = "from")]
    since: Option<DateTime<Utc>>,
    /// Up to the first record that the log took at this time or later, itself excluded
    #[arg(long, value_name = "TIME", conflicts_with = "to")]
    until: Option<DateTime<Utc>>,
}

/// By topic and partition.
type Offsets = BTreeMap<(String, i32), i64>;

impl LogRange {
    /// Is nothing left out?
    pub fn is_all(&self) -> bool {
        matches!(self, Self { from: None, to: None, since: None, until: None })
    }

    /// What the pipeline has settled of it and the log holds, by partition; none where that is nothing.
    pub async fn settled(&self, base: &Base, pipeline: &str, topic: Option<&str>) -> Result<Vec<Range>, Exit> {
        let settled = claimed(base, pipeline, topic).await?;
        if settled.is_empty() {
            let said = format!("nothing to read again: the pipeline `{pipeline}` has settled nothing of such a topic");
            return Err(Exit::usage(said));
        }
        let mut topics: Vec<String> = settled.iter().map(|row| row.topic.clone()).collect();
        topics.dedup();
        let log = Admin::new(base.config.kafka.clone());
        refuse_another_log(&settled, &log.topic_ids(topics.clone()).await?)?;
        let since = at(&log, &topics, self.since).await?;
        let until = at(&log, &topics, self.until).await?;
        let held = log.partitions(topics).await?;
        let range = |row| self.range(row, &held, since.as_ref(), until.as_ref());
        Ok(settled.into_iter().map(range).filter(|range| range.from < range.to).collect())
    }

    fn range(
        &self,
        settled: Checkpoint,
        held: &[PartitionProgress],
        since: Option<&Offsets>,
        until: Option<&Offsets>,
    ) -> Range {
        let Checkpoint { topic, partition, next, .. } = settled;
        let place = (topic.clone(), partition);
        let begin = held.iter().find(|held| held.topic == topic && held.partition == partition);
        // A time after all records is no offset: nothing is since then, and everything is before it.
        let from = since.map_or(self.from.unwrap_or(0), |since| since.get(&place).copied().unwrap_or(next));
        let to = until.map_or(self.to.unwrap_or(next), |until| until.get(&place).copied().unwrap_or(next));
        let from = from.max(begin.map_or(0, |held| held.log_start));
        Range { topic, partition, from, to: to.min(next) }
    }
}

/// How far the pipeline is in each partition that it has claimed, of this topic or of all.
pub async fn claimed(base: &Base, pipeline: &str, topic: Option<&str>) -> Result<Vec<Checkpoint>, Exit> {
    let all = base.spine.checkpoints.list().await.map_err(Exit::failed)?;
    let wanted = |found: &str| topic.is_none_or(|wanted| wanted == found);
    Ok(all.into_iter().filter(|row| row.pipeline == pipeline && wanted(&row.topic)).collect())
}

/// Where a topic was recreated, what was settled of the former log says nothing of this one's offsets.
fn refuse_another_log(settled: &[Checkpoint], found: &BTreeMap<String, String>) -> Result<(), Exit> {
    let Some(row) = settled.iter().find(|row| found[&row.topic] != row.topic_id) else { return Ok(()) };
    let Checkpoint { pipeline, topic, .. } = row;
    Err(Exit::usage(format!(
        "topic {topic} was recreated: {pipeline} has read another than there is now, so nothing can be read again; \
         docs/rebuilding.md says what that means for its rows"
    )))
}

async fn at(log: &Admin, topics: &[String], time: Option<DateTime<Utc>>) -> Result<Option<Offsets>, Exit> {
    let Some(time) = time else { return Ok(None) };
    Ok(Some(log.offsets_at(topics.to_vec(), time).await?))
}

/// The part of it that the log holds by now: retention goes on while other partitions are read.
pub async fn still_held(base: &Base, range: Range) -> Result<Option<Range>, Exit> {
    let held = Admin::new(base.config.kafka.clone()).partition(range.topic.clone(), range.partition).await?;
    let from = range.from.max(held.log_start);
    Ok((from < range.to).then_some(Range { from, ..range }))
}
