//! `millrace rebuild clickhouse`: a table made anew from the log, while everything goes on.
#![allow(clippy::print_stdout, reason = "this command's output")]

use crate::commands::Global;
use crate::commands::log_range::LogRange;
use crate::commands::roles::{Base, reach_clickhouse};
use crate::config::Config;
use crate::exit::Exit;
use clap::{Args, Subcommand};
use millrace_processors::clickhouse::{self, Progress, Rebuild, Rebuilt};
use millrace_schemas::Contract;
use millrace_stream::PipelineConfig;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

const PROGRESS_EVERY: Duration = Duration::from_secs(5);
/// There is no hurry to show a row, and every insert is a part.
const ROWS: usize = 100_000;
const BYTES: usize = 32 << 20;

#[derive(Subcommand)]
pub enum What {
    /// Make one table of ClickHouse anew from the log, compare it with the log, and put it into the old one's place.
    /// Ingestion goes on; what lies outside of the range is carried over from the old table
    Clickhouse(Arguments),
}

#[derive(Args)]
pub struct Arguments {
    /// A table of `events`, such as order_placed
    table: String,
    #[command(flatten)]
    range: LogRange,
    /// Put it into place also where events of the range are in the old one and not in the log
    #[arg(long)]
    fewer: bool,
}

pub async fn run(config: &Config, global: &Global, what: &What) -> Result<(), Exit> {
    let What::Clickhouse(arguments) = what;
    let base = Base::connect(config, global).await?;
    reach_clickhouse(&config.clickhouse).await?;
    let contract = contract(&base, &arguments.table)?;
    let ranges = arguments.range.settled(&base, clickhouse::NAME, Some(&contract.topic)).await?;
    if ranges.is_empty() {
        return Err(Exit::usage(format!("{} holds nothing of that range that has taken effect", contract.topic)));
    }
    let rebuild = Rebuild {
        config: &config.clickhouse,
        contract,
        contracts: &base.contracts,
        ranges,
        pipeline: pipeline(config),
        fewer: arguments.fewer,
    };
    let pace = Mutex::new(Pace::from(Instant::now()));
    let told = |progress| {
        let line = pace.lock().unwrap_or_else(PoisonError::into_inner).tell(progress, Instant::now());
        line.iter().for_each(|line| tracing::info!("{line}"));
    };
    let rebuilt = rebuild.run(&base.spine, told).await?;
    print(&rebuilt, global);
    Ok(())
}

fn contract<'b>(base: &'b Base, table: &str) -> Result<&'b Arc<Contract>, Exit> {
    let found = base.contracts.iter().find(|contract| contract.table() == table);
    found.ok_or_else(|| {
        let tables: Vec<_> = base.contracts.iter().map(|contract| contract.table()).collect();
        Exit::usage(format!("no contract has the table `{table}`: there are {}", tables.join(", ")))
    })
}

fn pipeline(config: &Config) -> PipelineConfig {
    let own = config.process.of(clickhouse::NAME);
    PipelineConfig {
        linger_ms: 1_000,
        batch_rows: own.batch_rows.max(ROWS),
        batch_bytes: own.batch_bytes.max(BYTES),
        ..own
    }
}

/// How far it is and how long it will take, now and then.
struct Pace {
    /// When what is going on began.
    since: Instant,
    told: Instant,
}

impl Pace {
    fn from(now: Instant) -> Self {
        Self { since: now, told: now }
    }

    fn tell(&mut self, progress: Progress, now: Instant) -> Option<String> {
        let of_many = matches!(progress, Progress::Offsets { done, of } if done < of);
        if of_many && now - self.told < PROGRESS_EVERY {
            return None;
        }
        self.told = now;
        let left = |done: f64, of: f64| left(now - self.since, done, of);
        Some(match progress {
            Progress::Offsets { done, of } => {
                let left = left(done as f64, of as f64);
                format!("{done} of {of} offsets ({} %), {left:.0?} left", 100 * done / of.max(1))
            }
            Progress::Months { done: 0, of } => {
                self.since = now;
                format!("carries over what lies outside: {of} months")
            }
            Progress::Months { done, of } => {
                format!("{done} of {of} months carried over, {:.0?} left", left(done as f64, of as f64))
            }
            Progress::Filled => {
                "all is in the new table, which is looked through and put into the old one's place".into()
            }
        })
    }
}

/// At the pace so far.
fn left(elapsed: Duration, done: f64, of: f64) -> Duration {
    elapsed.mul_f64((of - done).max(0.0) / done.max(1.0))
}

fn print(rebuilt: &Rebuilt, global: &Global) {
    if global.json {
        println!("{}", serde_json::json!(rebuilt));
        return;
    }
    let Rebuilt { table, ranges, before, after, kept, left_out, rejected, still_seconds } = rebuilt;
    for range in ranges {
        println!("{}[{}] {} to {}", range.topic, range.partition, range.from, range.to - 1);
    }
    println!(
        "events_raw.{table} is rebuilt: {after} events of these ranges, {before} before; nothing was inserted for {still_seconds:.1} s"
    );
    for (count, what) in [
        (kept, "events are kept that the compacted log has let go of"),
        (left_out, "events are left out that are not in the log"),
        (rejected, "records of these ranges could not be read: see `millrace dead-letters list`"),
    ] {
        if *count > 0 {
            println!("{count} {what}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_told_from_the_pace_so_far_every_five_seconds() {
        let began = Instant::now();
        let mut pace = Pace::from(began);
        let mut after =
            |seconds, progress| pace.tell(progress, began + Duration::from_secs(seconds)).unwrap_or_default();
        let offsets = |done| Progress::Offsets { done, of: 100 };
        assert_eq!(after(4, offsets(20)), "");
        assert_eq!(after(10, offsets(25)), "25 of 100 offsets (25 %), 30s left");
        assert_eq!(after(14, offsets(50)), "");
        assert_eq!(after(14, offsets(100)), "100 of 100 offsets (100 %), 0ns left");
        assert_eq!(after(14, Progress::Months { done: 0, of: 3 }), "carries over what lies outside: 3 months");
        assert_eq!(after(16, Progress::Months { done: 1, of: 3 }), "1 of 3 months carried over, 4s left");
        assert_eq!(left(Duration::from_secs(10), 0.0, 0.0), Duration::ZERO);
    }
}
