//! `millrace verify clickhouse`: the log against the tables, event by event.
#![allow(clippy::print_stdout, reason = "this command's output")]

use crate::commands::Global;
use crate::commands::roles::{Base, reach_clickhouse};
use crate::config::Config;
use crate::exit::Exit;
use clap::{Args, Subcommand};
use millrace_processors::clickhouse::{self, Comparison, Difference, Found};
use millrace_stream::{Admin, Checkpoint, DeadLetters, PipelineConfig, Range, scan};
use serde::Serialize;
use std::io::IsTerminal;
use std::sync::Arc;
use std::time::{Duration, Instant};

const PROGRESS_EVERY: Duration = Duration::from_secs(5);

#[derive(Subcommand)]
pub enum What {
    /// Read the log again and compare every event with its row in ClickHouse (exit code 2 when something differs).
    /// Scans the tables once per batch: for the hours in which nobody waits. Open dead letters that could be applied by
    /// now count as missing
    Clickhouse(Arguments),
}

#[derive(Args)]
pub struct Arguments {
    /// Only this topic [default: all]
    #[arg(long, value_name = "NAME")]
    topic: Option<String>,
    /// From this offset of each partition [default: the first that the log holds]
    #[arg(long, value_name = "OFFSET")]
    from: Option<i64>,
}

/// One partition, compared.
#[derive(Serialize)]
struct Verified {
    topic: String,
    partition: i32,
    from: i64,
    /// The first offset that had not taken effect when this began.
    to: i64,
    /// Events that must be in a table.
    events: u64,
    differences: u64,
    named: Vec<Difference>,
}

pub async fn run(config: &Config, global: &Global, what: &What) -> Result<(), Exit> {
    let What::Clickhouse(arguments) = what;
    let base = Base::connect(config, global).await?;
    reach_clickhouse(&config.clickhouse).await?;
    let discarded = DeadLetters::new(base.pool.clone()).discarded(clickhouse::NAME).await;
    let discarded = discarded.map_err(|failure| Exit::failed(anyhow::anyhow!("{failure}")))?;
    let comparison = Arc::new(Comparison::start(&config.clickhouse, &base.contracts, discarded).await?);
    let mut differences = 0;
    for range in settled(&base, arguments).await? {
        let Some(range) = still_held(&base, range).await? else { continue };
        let verified = compare(&base, &comparison, range).await?;
        differences += verified.differences;
        tell(&verified, global);
    }
    match differences {
        0 => Ok(()),
        count => Err(Exit::found(format!("{count} events are not in ClickHouse as the log has them"))),
    }
}

/// What the pipeline has settled, partition by partition.
async fn settled(base: &Base, arguments: &Arguments) -> Result<Vec<Range>, Exit> {
    let settled = base.spine.checkpoints.list().await.map_err(Exit::failed)?;
    let wanted = |topic: &str| arguments.topic.as_ref().is_none_or(|wanted| wanted == topic);
    let settled = settled.into_iter().filter(|row| row.pipeline == clickhouse::NAME && wanted(&row.topic));
    let from = arguments.from.unwrap_or_default();
    let range = |row: Checkpoint| Range { topic: row.topic, partition: row.partition, from, to: row.next };
    let ranges: Vec<_> = settled.map(range).collect();
    if ranges.is_empty() {
        return Err(Exit::usage("nothing to compare: the pipeline `clickhouse` has settled nothing of such a topic"));
    }
    Ok(ranges)
}

/// The part of it that the log holds: retention goes on while other partitions are compared.
async fn still_held(base: &Base, range: Range) -> Result<Option<Range>, Exit> {
    let log = Admin::new(base.config.kafka.clone()).partitions(vec![range.topic.clone()]).await?;
    let held = log.iter().find(|found| found.partition == range.partition);
    let from = held.map_or(range.from, |held| range.from.max(held.log_start));
    Ok((from < range.to).then_some(Range { from, ..range }))
}

async fn compare(base: &Base, comparison: &Arc<Comparison>, range: Range) -> Result<Verified, Exit> {
    let config = PipelineConfig { linger_ms: 1_000, ..base.config.process.of(clickhouse::NAME) };
    let told = std::cell::Cell::new(Instant::now());
    let (Range { topic, partition, from, to }, scanned) = (range.clone(), range);
    let reached = |next: i64| {
        if told.get().elapsed() >= PROGRESS_EVERY || std::io::stderr().is_terminal() {
            told.set(Instant::now());
            tracing::info!("{topic}[{partition}]: {} of {} offsets", next - from, to - from);
        }
    };
    scan(&base.spine, "verify", comparison.clone(), config, scanned, reached)
        .await
        .map_err(|failure| Exit::failed(anyhow::anyhow!("{failure}")))?;
    let Found { compared, differences, named } = comparison.take();
    Ok(Verified { topic, partition, from, to, events: compared, differences, named })
}

fn tell(verified: &Verified, global: &Global) {
    if global.json {
        println!("{}", serde_json::json!(verified));
        return;
    }
    let Verified { topic, partition, from, to, events, differences, named } = verified;
    println!("{topic}[{partition}] {from} to {}: {events} events, {differences} differ", to - 1);
    named.iter().for_each(|difference| println!("  {difference}"));
    let unnamed = differences - named.len() as u64;
    if unnamed > 0 {
        println!("  and {unnamed} more");
    }
}
