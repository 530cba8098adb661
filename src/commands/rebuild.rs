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
    let pace = Pace::start();
    let rebuilt = rebuild.run(&base.spine, |progress| pace.tell(progress)).await?;
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

/// How long it will take, now and then.
struct Pace {
    started: Instant,
    told: Mutex<Instant>,
}

impl Pace {
    fn start() -> Self {
        let started = Instant::now();
        Self { started, told: Mutex::new(started) }
    }

    fn tell(&self, Progress { offsets, of }: Progress) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if offsets < of && told.elapsed() < PROGRESS_EVERY {
            return;
        }
        *told = Instant::now();
        let left = left(self.started.elapsed(), offsets, of);
        tracing::info!("{offsets} of {of} offsets ({} %), {left:.0?} left", 100 * offsets / of.max(1));
    }
}

/// At the pace so far.
fn left(elapsed: Duration, offsets: i64, of: i64) -> Duration {
    let share = (of - offsets).max(0) as f64 / offsets.max(1) as f64;
    elapsed.mul_f64(share)
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
    fn what_is_left_is_told_from_the_pace_so_far() {
        assert_eq!(left(Duration::from_secs(10), 25, 100), Duration::from_secs(30));
        assert_eq!(left(Duration::from_secs(10), 0, 0), Duration::ZERO);
        assert_eq!(left(Duration::from_secs(10), 100, 100), Duration::ZERO);
    }
}
