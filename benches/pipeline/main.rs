//! What the pipelines cost, next to the raw limits, in one run on one stack over one log. How to run it and what its
//! numbers mean: docs/benchmarks.md.
//!
//! ```text
//! start servers ─→ publish once ─→ [ limit, …, Millrace, peer, … ] × runs ─→ medians ─→ table, target/bench/*.json
//! ```
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark that can't go on panics; it prints a table")]

mod clickhouse;
mod consume;
mod freshness;
mod gateway;
mod growth;
mod limit;
mod memory;
mod outage;
mod peers;
// The integration tests' own: the same servers, started in the same way.
#[allow(dead_code, reason = "tests use more of it")]
#[path = "../../tests/it/platform.rs"]
mod platform;
mod postgres;
mod processes;
mod publish;
mod relay;
mod report;
mod views;

use clap::Parser;
use limit::{Log, Place};
use millrace_schemas::Contracts;
use millrace_stream::{Admin, KafkaConfig};
use platform::{Platform, Role};
use processes::Meter;
use report::{Figures, Report};
use serde_json::{Value, json};
use sqlx::PgPool;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// A pipeline that has not settled everything by then is stuck.
const SETTLED_WITHIN: Duration = Duration::from_secs(15 * 60);
/// How often it is asked how far it is: what a measured time may be off.
const ASKED_EVERY: Duration = Duration::from_millis(10);

const WHAT: [&str; 11] = [
    "clickhouse",
    "postgres",
    "consume",
    "memory",
    "views",
    "freshness",
    "outage",
    "growth",
    "gateway",
    "crowd",
    "relay",
];

#[derive(Clone, Parser)]
#[command(name = "pipeline")]
struct Arguments {
    /// What to measure; the JSON file is named after it [default: clickhouse and postgres, into pipeline.json]
    #[arg(value_parser = WHAT)]
    what: Option<String>,
    /// Events in the log
    #[arg(long, default_value_t = 1_000_000)]
    events: u64,
    /// Events of this type only, such as order.placed; so many of the seed's
    #[arg(long = "type", value_name = "TYPE")]
    event_type: Option<String>,
    /// Leave out the peers, which take Go and minutes to build
    #[arg(long)]
    no_peers: bool,
    /// Equal seeds give equal events
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Runs of everything, interleaved
    #[arg(long, default_value_t = 3)]
    runs: u32,
    /// Watch the roles' memory under steady load for so long, beside or as the only thing
    #[arg(long, default_value_t = 0)]
    memory_minutes: u64,
    /// Events a second of that load
    #[arg(long, default_value_t = 3_000)]
    memory_rate: u64,
    /// views: rows in all tables together
    #[arg(long, default_value_t = 10_000_000)]
    rows: u64,
    /// freshness, outage: events a second, of all types together
    #[arg(long, default_value_t = 5_000)]
    rate: u64,
    /// freshness: for so long
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// outage: ClickHouse is stopped for so long
    #[arg(long, default_value_t = 120)]
    stopped_seconds: u64,
    /// growth: partitions of each topic
    #[arg(long, value_delimiter = ',', default_values_t = [1, 6, 24, 96])]
    partitions: Vec<u32>,
    /// growth: types of event
    #[arg(long, value_delimiter = ',', default_values_t = [1, 13, 200])]
    types: Vec<u32>,
    /// gateway: each of its runs for so long
    #[arg(long, default_value_t = 5)]
    load_seconds: u64,
    /// crowd: Kafka is away for so long
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=600))]
    away_seconds: u64,
    /// relay: events in the outbox, which is filled anew for each run
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(10_000..=2_000_000))]
    outbox_events: u64,
    /// What cargo passes to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

/// Servers with a log full of events.
struct Bench {
    platform: Platform,
    pool: PgPool,
    log: Log,
    runs: u32,
}

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    match &arguments[..] {
        [_, word, spec] if word == "limit" => return limit::main(&PathBuf::from(spec)),
        [_, word, spec] if word == "bare" => return gateway::bare::main(&PathBuf::from(spec)),
        _ => {}
    }
    tokio::runtime::Runtime::new()?.block_on(run(&Arguments::parse_from(arguments)))
}

async fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let what = arguments.what.as_deref();
    let mut report = Report::new(what.unwrap_or("pipeline"), settings(arguments));
    let ratios = match what {
        Some("memory") => json!({}),
        Some("consume") => {
            let bench = Bench::start(arguments, &mut report).await?;
            consume::measure(&bench, &mut report)?;
            bench.stop().await;
            json!({})
        }
        Some("views") => views::measure(arguments, &mut report).await?,
        Some("freshness") => {
            freshness::measure(arguments.seconds, arguments.rate, arguments.seed, &mut report).await?;
            json!({})
        }
        Some("outage") => {
            let stopped = Duration::from_secs(arguments.stopped_seconds);
            outage::measure(stopped, arguments.rate, arguments.seed, &mut report).await?;
            json!({})
        }
        Some("growth") => {
            growth::measure(arguments, &mut report).await?;
            json!({})
        }
        Some("gateway") => gateway::measure(arguments, &mut report).await?,
        Some("crowd") => {
            gateway::crowd::measure(Duration::from_secs(arguments.away_seconds), &mut report).await?;
            json!({})
        }
        Some("relay") => relay::measure(arguments.outbox_events, arguments.runs, &mut report).await?,
        _ => catch_up(arguments, &mut report).await?,
    };
    if arguments.memory_minutes > 0 || what == Some("memory") {
        let Arguments { seed, memory_minutes, memory_rate, .. } = *arguments;
        memory::watch(memory_minutes.max(1), memory_rate, seed, &mut report).await?;
    }
    report.print();
    println!("written to {}", report.write(&ratios)?.display());
    Ok(())
}

/// What the figures depend on.
fn settings(arguments: &Arguments) -> Value {
    let Arguments { events, event_type, seed, runs, rows, rate, seconds, stopped_seconds, partitions, types, .. } =
        arguments;
    match arguments.what.as_deref() {
        Some("views") => json!({ "rows": rows, "seed": seed, "runs": runs }),
        Some("growth") => json!({ "events": events, "partitions": partitions, "types": types, "seed": seed }),
        Some("outage") => json!({ "rate": rate, "stopped_seconds": stopped_seconds, "seed": seed }),
        Some("freshness") => json!({ "rate": rate, "seconds": seconds, "seed": seed }),
        Some("gateway") => json!({ "load_seconds": arguments.load_seconds, "runs": runs }),
        Some("crowd") => json!({ "away_seconds": arguments.away_seconds }),
        Some("relay") => json!({ "outbox_events": arguments.outbox_events, "runs": runs }),
        _ => json!({ "events": events, "type": event_type, "seed": seed, "runs": runs }),
    }
}

/// How fast the pipelines read a log that is there already. Returns what they reach of the limit and of the peers.
async fn catch_up(arguments: &Arguments, report: &mut Report) -> anyhow::Result<Value> {
    let what = arguments.what.as_deref();
    let peers = match what {
        Some("postgres") => Vec::new(), // none is for Postgres
        _ if arguments.no_peers => Vec::new(),
        _ => peers::build()?,
    };
    let bench = Bench::start(arguments, report).await?;
    let batch_records = bench.warm_up().await?;
    if what != Some("postgres") {
        clickhouse::measure(&bench, batch_records, &peers, report).await?;
    }
    if what != Some("clickhouse") {
        postgres::measure(&bench, report).await?;
    }
    bench.stop().await;
    let (mut to_limit, mut to_best_peer) = (serde_json::Map::new(), serde_json::Map::new());
    for group in [clickhouse::GROUP, "order_status", "customer_summary"] {
        let ratio = report.ratio(group, ("millrace", "limit: consume and write"), "events_per_s");
        to_limit.extend(ratio.map(|ratio| (group.to_owned(), json!(ratio))));
        let to_each =
            peers.iter().filter_map(|peer| report.ratio(group, ("millrace", peer.name), "events_per_client_cpu_s"));
        to_best_peer.extend(to_each.reduce(f64::min).map(|ratio| (group.to_owned(), json!(ratio))));
    }
    Ok(json!({ "to_limit": to_limit, "to_best_peer_per_cpu_second": to_best_peer }))
}

impl Bench {
    async fn start(arguments: &Arguments, report: &mut Report) -> anyhow::Result<Self> {
        Self::start_on(Platform::start().await, arguments, report).await
    }

    async fn start_on(platform: Platform, arguments: &Arguments, report: &mut Report) -> anyhow::Result<Self> {
        let (name, published) = publish::publish(&platform, arguments).await?;
        report.add("publish", name, published);
        let topics = Contracts::embedded().map_err(|errors| anyhow::anyhow!("{errors:?}"))?.topics();
        Self::of(platform, topics.into_keys().collect(), arguments.events, arguments.runs).await
    }

    /// Of a log that holds so many events.
    async fn of(platform: Platform, topics: Vec<String>, events: u64, runs: u32) -> anyhow::Result<Self> {
        let kafka = KafkaConfig { brokers: platform.addresses().kafka.clone(), ..KafkaConfig::default() };
        let partitions = Admin::new(kafka.clone()).partitions(topics).await?;
        let place = |found: millrace_stream::PartitionProgress| Place {
            topic: found.topic,
            partition: found.partition,
            to: found.log_end,
        };
        let log = Log { brokers: kafka.brokers, partitions: partitions.into_iter().map(place).collect() };
        anyhow::ensure!(log.records() == events, "the log has {} records", log.records());
        let pool = platform.postgres().await;
        Ok(Self { platform, pool, log, runs })
    }

    async fn stop(self) {
        self.pool.close().await;
        self.platform.stop().await;
    }

    /// Fills the tables that the limits' batches are read from, and warms every cache. Returns how many records
    /// Millrace's batches for ClickHouse had.
    async fn warm_up(&self) -> anyhow::Result<i64> {
        let (figures, batches) = clickhouse::millrace(self).await?;
        eprintln!("warm-up: {:.0} events/s in {batches} batches; does not count", figures["events_per_s"]);
        Ok(self.log.batch_records(batches))
    }

    /// Runs a processor from an empty checkpoint to the end of its topics, measured from the moment it has its
    /// partitions: the limits are measured from the moment they are prepared. Returns the figures and its batches.
    async fn process(&self, name: &'static str, records: u64) -> anyhow::Result<(Figures, u64)> {
        sqlx::query("delete from millrace.checkpoint where pipeline = $1").bind(name).execute(&self.pool).await?;
        let started = Instant::now();
        let mut role = self.platform.role(&["process", name]);
        self.until(name, &mut role, |next| next.is_some()).await?;
        let start_s = started.elapsed().as_secs_f64();
        let meter = Meter::start(&self.platform, role.pid());
        self.until(name, &mut role, |next| next == Some(records.cast_signed())).await?;
        let mut figures = meter.stop(records);
        figures.insert("start_s", start_s);
        let batches = metric(&role, &format!("millrace_process_duration_seconds_count{{pipeline=\"{name}\"}}")).await?;
        anyhow::ensure!(role.stop() == 0, "{name} did not drain");
        Ok((figures, batches as u64))
    }

    /// Waits until what a pipeline has settled, over all partitions, is what is waited for.
    async fn until(&self, name: &str, role: &mut Role, wanted: impl Fn(Option<i64>) -> bool) -> anyhow::Result<()> {
        let deadline = Instant::now() + SETTLED_WITHIN;
        loop {
            if wanted(settled(&self.pool, name).await?) {
                return Ok(());
            }
            anyhow::ensure!(role.is_running(), "{name} ended:\n{}", role.log());
            anyhow::ensure!(Instant::now() < deadline, "{name} was not done within {SETTLED_WITHIN:?}");
            tokio::time::sleep(ASKED_EVERY).await;
        }
    }
}

/// How far a pipeline is, over all partitions; none before it has any.
async fn settled(pool: &PgPool, name: &str) -> anyhow::Result<Option<i64>> {
    let settled = sqlx::query_scalar("select sum(next)::bigint from millrace.checkpoint where pipeline = $1");
    Ok(settled.bind(name).fetch_one(pool).await?)
}

/// Events a second of what is in the log, by the times at which they were handed to it, and the first of these in
/// microseconds. Starting the publisher takes seconds that are not the load's.
async fn published(platform: &Platform) -> anyhow::Result<(f64, i64)> {
    let sql = "select count() as events, toUnixTimestamp64Micro(assumeNotNull(min(_recorded_at))) as first,
               toUnixTimestamp64Micro(assumeNotNull(max(_recorded_at))) as last from merge('events', '.*')";
    let row = &platform.clickhouse(sql).await[0];
    let number = |name: &str| row[name].as_i64().ok_or_else(|| anyhow::anyhow!("no {name} was published"));
    let (first, last) = (number("first")?, number("last")?);
    Ok((number("events")? as f64 * 1e6 / (last - first).max(1) as f64, first))
}

/// Waits until a role that has just been started has its partitions.
async fn owns_partitions(role: &mut Role) -> anyhow::Result<()> {
    let deadline = Instant::now() + SETTLED_WITHIN;
    while !role.log().contains("partitions over") {
        anyhow::ensure!(role.is_running(), "it ended:\n{}", role.log());
        anyhow::ensure!(Instant::now() < deadline, "it got no partitions:\n{}", role.log());
        tokio::time::sleep(ASKED_EVERY).await;
    }
    Ok(())
}

/// One of the role's own metrics.
async fn metric(role: &Role, name: &str) -> anyhow::Result<f64> {
    let text = reqwest::get(format!("{}/metrics", role.ops().await)).await?.text().await?;
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    Ok(line.ok_or_else(|| anyhow::anyhow!("the role has no metric {name}"))?.trim().parse()?)
}
