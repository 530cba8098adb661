//! `millrace verify clickhouse`: the log against the tables, event by event.
#![allow(clippy::print_stdout, reason = "this command's output")]

use crate::commands::Global;
use crate::commands::log_range::{LogRange, claimed, still_held};
use crate::commands::roles::{Base, reach_clickhouse};
use crate::config::Config;
use crate::exit::Exit;
use clap::{Args, Subcommand};
use millrace_processors::clickhouse::{self, Comparison, Difference, Found};
use millrace_stream::{Admin, DeadLetters, PipelineConfig, Range, SetAside, scan};
use serde::Serialize;
use std::cell::Cell;
use std::collections::BTreeSet;
use std::io::IsTerminal;
use std::sync::Arc;
use std::time::{Duration, Instant};

const PROGRESS_EVERY: Duration = Duration::from_secs(5);

#[derive(Subcommand)]
pub enum What {
    /// Read the log again and compare every event with its row in ClickHouse (exit code 2 when something differs).
    /// Scans the tables once per batch: for the hours in which nobody waits. Open dead letters that could be applied by
    /// now count as missing. Without a range, rows that are nowhere in the log are named too, of each table and partition
    /// ten thousand at most
    Clickhouse(Arguments),
}

#[derive(Args)]
pub struct Arguments {
    /// Only this topic [default: all]
    #[arg(long, value_name = "NAME")]
    topic: Option<String>,
    #[command(flatten)]
    range: LogRange,
}

/// One partition, compared.
#[derive(Serialize)]
struct Verified {
    topic: String,
    partition: i32,
    from: i64,
    /// The first offset that was not compared.
    to: i64,
    /// Events that must be in a table.
    events: u64,
    differences: u64,
}

pub async fn run(config: &Config, global: &Global, what: &What) -> Result<(), Exit> {
    let What::Clickhouse(arguments) = what;
    let base = Base::connect(config, global).await?;
    reach_clickhouse(&config.clickhouse).await?;
    let set_aside = DeadLetters::new(base.pool.clone()).set_aside(clickhouse::NAME, None).await;
    let set_aside = Arc::new(set_aside.map_err(|failure| Exit::failed(anyhow::anyhow!("{failure}")))?);
    let comparison = Arc::new(Comparison::start(&config.clickhouse, &base.contracts).await?);
    let ranges = arguments.range.settled(&base, clickhouse::NAME, arguments.topic.as_deref()).await?;
    let (mut differences, mut unnamed) = (0, 0);
    for range in ranges {
        let Some(range) = still_held(&base, range).await? else { continue };
        let verified = compare(&base, &comparison, &set_aside, range, global).await?;
        differences += verified.differences;
        tell(&verified, global);
    }
    if arguments.range.is_all() {
        let topics = topics(&base, arguments.topic.as_deref()).await?;
        let found = outside(&base, &comparison, &topics, global).await?;
        (differences, unnamed) = (differences + found.differences + found.unnamed, found.unnamed);
    }
    match (differences, unnamed) {
        (0, _) => Ok(()),
        (count, 0) => Err(Exit::found(format!("{count} events are not in ClickHouse as the log has them"))),
        (count, unnamed) => Err(Exit::found(format!(
            "{count} events are not in ClickHouse as the log has them; {unnamed} of them, nowhere in the log, are not \
             named: too many of their table and partition are"
        ))),
    }
}

/// Those that the pipeline has claimed, also where it has settled nothing yet.
async fn topics(base: &Base, wanted: Option<&str>) -> Result<Vec<String>, Exit> {
    let claimed = claimed(base, clickhouse::NAME, wanted).await?;
    let topics: BTreeSet<_> = claimed.into_iter().map(|row| row.topic).collect();
    Ok(topics.into_iter().collect())
}

/// Names rows that are nowhere in the log. It grows meanwhile, and is asked last.
async fn outside(base: &Base, comparison: &Comparison, topics: &[String], global: &Global) -> Result<Found, Exit> {
    let extents = comparison.extents(topics).await?;
    let log = Admin::new(base.config.kafka.clone()).partitions(topics.to_vec()).await?;
    comparison.outside(&extents, &log).await?;
    let found = comparison.take();
    found.named.iter().for_each(|difference| name(difference, global));
    Ok(found)
}

async fn compare(
    base: &Base,
    comparison: &Arc<Comparison>,
    set_aside: &Arc<SetAside>,
    range: Range,
    global: &Global,
) -> Result<Verified, Exit> {
    let config = PipelineConfig { linger_ms: 1_000, ..base.config.process.of(clickhouse::NAME) };
    let (told, counted) = (Cell::new(Instant::now()), Cell::new((0, 0)));
    let (Range { topic, partition, from, to }, scanned) = (range.clone(), range);
    let name_all = || {
        let Found { compared, differences, named, .. } = comparison.take();
        let (events, differ) = counted.get();
        counted.set((events + compared, differ + differences));
        named.iter().for_each(|difference| name(difference, global));
    };
    let reached = |next: i64| {
        name_all();
        if told.get().elapsed() >= PROGRESS_EVERY || std::io::stderr().is_terminal() {
            told.set(Instant::now());
            tracing::info!("{topic}[{partition}]: {} of {} offsets", next - from, to - from);
        }
    };
    let scanned = scan(&base.spine, "verify", comparison.clone(), config, scanned, set_aside.clone(), reached).await;
    name_all(); // also of a batch that was not compared to its end
    scanned.map_err(|failure| Exit::failed(anyhow::anyhow!("{failure}")))?;
    let (events, differences) = counted.get();
    Ok(Verified { topic, partition, from, to, events, differences })
}

/// At once: there may be as many as there are events.
fn name(difference: &Difference, global: &Global) {
    match global.json {
        true => println!("{}", serde_json::json!(difference)),
        false => println!("{difference}"),
    }
}

fn tell(verified: &Verified, global: &Global) {
    if global.json {
        println!("{}", serde_json::json!(verified));
        return;
    }
    let Verified { topic, partition, from, to, events, differences } = verified;
    println!("{topic}[{partition}] {from} to {}: {events} events, {differences} differ", to - 1);
}
