//! What the views cost an analyst: the metrics' example queries, through the views and over plain tables that hold
//! the same rows in the same parts.
//!
//! ```text
//! publish a few days ─→ process clickhouse ─→ copies of them, one after the other ─→ merged
//!                                                                                      ├→ events, metrics
//!                                           the same parts attached to plain tables ←──┴→ plain, plain_metrics
//! ```

use crate::processes::cpu_seconds;
use crate::report::{Figures, Report};
use crate::{Arguments, Bench, clickhouse};
use anyhow::{Context, ensure};
use millrace_local::Server;
use millrace_processors::clickhouse::Analytics;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const GROUP: &str = "views";
/// The days that are copied: enough for every type to occur.
const PATTERN_EVENTS: u64 = 100_000;
/// When the shop's website opens. What it sold by phone before is left out: it would be spread over other months.
const OPENING: &str = "2026-01-01";
/// The time that all copies together take.
const PERIOD: Duration = Duration::from_secs(120 * 24 * 60 * 60);
/// Each is an insert a table, of all partitions together, as Millrace's rounds are: about a day, far more than a round
/// brings, for otherwise filling would be most of the run.
const SLICES: u64 = 120;
/// What comes so much later than others goes with the next one, and so lies over what was inserted before.
const LATE: &str = "interval 1 hour";
/// Between two merges of a busy table there may be none for a moment.
const CALM: u32 = 5;
/// How often a run asks each query, both ways: most take less time than the machine's noise lasts.
const ASKED_A_RUN: u32 = 3;
/// What it answers depends on when it is asked.
const NEVER_THE_SAME: &str = "freshness";

/// Copies of the pattern: where each stands in time.
struct Copies {
    count: u64,
    /// How long the pattern is, and how long a copy of it, in microseconds.
    pattern: u64,
    copy: u64,
}

/// Returns each query's ratio and the worst of them.
pub async fn measure(arguments: &Arguments, report: &mut Report) -> anyhow::Result<Value> {
    let events = PATTERN_EVENTS.min(arguments.rows);
    let pattern = Arguments { events, event_type: None, ..arguments.clone() };
    let bench = Bench::start(&pattern, report).await?;
    clickhouse::millrace(&bench).await?;
    fill(&bench, arguments.rows).await?;
    merge_months(&bench).await?;
    // From here on both hold the same parts.
    bench.platform.clickhouse("system stop merges").await;
    let sql = "select sum(rows) as rows, count() as parts from system.parts where active and database = 'events_raw'";
    eprintln!("filled: {}", bench.platform.clickhouse(sql).await[0]);
    make_plain(&bench).await?;
    for _ in 0..arguments.runs {
        for metric in Analytics::embedded().map_err(|errors| anyhow::anyhow!("{errors:?}"))?.iter() {
            let query = &metric.example.as_ref().context("a metric without an example")?.query;
            ask(&bench, &metric.name, query, report).await?;
        }
    }
    bench.stop().await;
    let ratios = report.medians(GROUP, "ratio");
    let worst = ratios.values().copied().reduce(f64::max);
    Ok(json!({ "to_plain": ratios, "worst_to_plain": worst }))
}

/// Many more rows than a debug build, or a patient person, would publish; with ids of their own, so that each is an
/// event and joins find what belongs together.
async fn fill(bench: &Bench, rows: u64) -> anyhow::Result<()> {
    let tables = tables(bench).await?;
    take_pattern(bench, &tables).await;
    let copies = Copies::of(bench, rows).await?;
    eprintln!("filling the tables with {} copies of the pattern", copies.count);
    let slice = copies.count.div_ceil(SLICES);
    for first in (0..=copies.count).step_by(slice as usize) {
        for table in &tables {
            bench.platform.clickhouse(&copies.insert(table, first, slice)).await;
        }
    }
    for _ in 0..CALM {
        clickhouse::merged(bench).await?;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    Ok(())
}

/// Every month but the newest becomes one part, as the tables' settings have it once a day has passed without a row for
/// it: from one part there are no duplicates to leave out, and FINAL costs nothing.
async fn merge_months(bench: &Bench) -> anyhow::Result<()> {
    let sql = "select distinct table, partition_id from system.parts where active and database = 'events_raw'
               and partition_id < (select max(partition_id) from system.parts where active and database = 'events_raw')";
    for row in bench.platform.clickhouse(sql).await {
        let text = |name: &str| row[name].as_str().context("a part without a partition");
        let (table, month) = (text("table")?, text("partition_id")?);
        bench.platform.clickhouse(&format!("optimize table events_raw.{table} partition id '{month}' final")).await;
    }
    Ok(())
}

/// A table and its columns, with their types.
struct Table {
    name: String,
    columns: Vec<(String, String)>,
}

async fn tables(bench: &Bench) -> anyhow::Result<Vec<Table>> {
    let sql = "select table, groupArray((name, type)) as columns from
                   (select table, name, type from system.columns where database = 'events_raw' order by table, position)
               group by table order by table";
    let table = |row: Value| {
        Ok(Table {
            name: row["table"].as_str().context("a table without a name")?.to_owned(),
            columns: serde_json::from_value(row["columns"].clone())?,
        })
    };
    bench.platform.clickhouse(sql).await.into_iter().map(table).collect()
}

/// Moves what the pipeline inserted to `pattern`.
async fn take_pattern(bench: &Bench, tables: &[Table]) {
    bench.platform.clickhouse("create database pattern").await;
    for Table { name, .. } in tables {
        let since = format!("where occurred_at >= '{OPENING}'");
        let latest = "max(occurred_at) over (partition by _partition order by _offset rows unbounded preceding)";
        let take = format!(
            "create table pattern.{name} engine = MergeTree order by () as
             select *, {latest} > occurred_at + {LATE} as late from events.{name}"
        );
        bench.platform.clickhouse(&format!("{take} {since}")).await;
        bench.platform.clickhouse(&format!("truncate table events_raw.{name}")).await;
    }
}

impl Copies {
    async fn of(bench: &Bench, rows: u64) -> anyhow::Result<Self> {
        let sql = format!(
            "select count() as rows, max(dateDiff('microsecond', toDateTime64('{OPENING}', 6, 'UTC'), occurred_at)) + 1
             as microseconds from merge('pattern', '.*')"
        );
        let found = &bench.platform.clickhouse(&sql).await[0];
        let number = |name: &str| found[name].as_u64().filter(|number| *number > 0).context("the pattern is empty");
        let pattern_rows = number("rows")?;
        let count = ((rows + pattern_rows / 2) / pattern_rows).max(1);
        let copy = PERIOD.as_micros() as u64 / count;
        Ok(Self { count, pattern: number("microseconds")?, copy })
    }

    /// Inserts some copies of what a table has, and what came late of the one before.
    fn insert(&self, table: &Table, first: u64, slice: u64) -> String {
        let names: Vec<_> = table.columns.iter().map(|(name, _)| format!("`{name}`")).collect();
        let (from, to) = (first.saturating_sub(1), (first + slice).min(self.count));
        let values: Vec<_> = table.columns.iter().map(|(name, kind)| self.value(name, kind)).collect();
        format!(
            "insert into events_raw.{table} ({}) select {} from pattern.{table}
             cross join (select number as copy from numbers({from}, {})) as copies
             where copy + late >= {first} and copy + late < {first} + {slice}",
            names.join(", "),
            values.join(", "),
            to - from,
            table = table.name,
        )
    }

    /// The row's in the copy that `copy` numbers: same ids stay the same within a copy and differ between two.
    fn value(&self, name: &str, kind: &str) -> String {
        let Self { pattern, copy, .. } = self;
        let id = |id: &str| format!("reinterpret(bitXor(reinterpret({id}, 'UInt128'), toUInt128(copy)), 'UUID')");
        match (name, kind) {
            ("occurred_at", _) => format!(
                "addMicroseconds(toDateTime64('{OPENING}', 6, 'UTC'), copy * {copy} + toInt64({} *
                 dateDiff('microsecond', toDateTime64('{OPENING}', 6, 'UTC'), occurred_at)))",
                *copy as f64 / *pattern as f64
            ),
            ("subject", _) => format!("toString({})", id("toUUID(subject)")),
            ("trace_id", _) => format!("replaceAll(toString({}), '-', '')", id("event_id")),
            (_, "UUID") => id(name),
            (_, "Nullable(UUID)") => {
                format!("if(isNull({name}), null, {})", id(&format!("assumeNotNull({name})")))
            }
            _ => format!("`{name}`"),
        }
    }
}

/// `plain` has the tables as anybody would make them who never inserts twice, and `plain_metrics` the metrics over it.
async fn make_plain(bench: &Bench) -> anyhow::Result<()> {
    let ask = async |sql: String| bench.platform.clickhouse(&sql).await;
    ask("create database plain".into()).await;
    ask("create database plain_metrics".into()).await;
    let sql = "select distinct table, partition_id from system.parts where active and database = 'events_raw'";
    let partitions = ask(sql.into()).await;
    for Table { name, .. } in tables(bench).await? {
        ask(format!(
            "create table plain.{name} as events_raw.{name} engine = MergeTree
             partition by toYYYYMM(occurred_at) primary key (toStartOfHour(occurred_at), subject)
             order by (toStartOfHour(occurred_at), subject, event_id)"
        ))
        .await;
        for row in partitions.iter().filter(|row| row["table"] == name) {
            let id = row["partition_id"].as_str().context("a partition without an id")?;
            ask(format!("alter table plain.{name} attach partition id '{id}' from events_raw.{name}")).await;
        }
    }
    for metric in Analytics::embedded().map_err(|errors| anyhow::anyhow!("{errors:?}"))?.iter() {
        let select = metric.select.replace("events.", "plain.").replace("merge('events_raw'", "merge('plain'");
        ensure!(select != metric.select, "metrics.{} reads no event", metric.name);
        ask(format!("create view plain_metrics.{} as {select}", metric.name)).await;
    }
    Ok(())
}

/// Both ways by turns; the first time does not count, for it fills caches.
async fn ask(bench: &Bench, name: &str, query: &str, report: &mut Report) -> anyhow::Result<()> {
    let over_plain = query.replace("metrics.", "plain_metrics.");
    for time in 0..=ASKED_A_RUN {
        let (through_views, views_ms, views_cpu_ms) = timed(bench, query).await?;
        let (over_plain, plain_ms, plain_cpu_ms) = timed(bench, &over_plain).await?;
        ensure!(through_views == over_plain || name == NEVER_THE_SAME, "{name} has two answers");
        if time > 0 {
            let ratio = views_ms / plain_ms;
            let figures = [
                ("ratio", ratio),
                ("views_ms", views_ms),
                ("plain_ms", plain_ms),
                ("views_cpu_ms", views_cpu_ms),
                ("plain_cpu_ms", plain_cpu_ms),
            ];
            report.add(GROUP, name, Figures::from(figures));
        }
    }
    Ok(())
}

/// The answer, and how long it and the server's CPU took.
async fn timed(bench: &Bench, query: &str) -> anyhow::Result<(Vec<Value>, f64, f64)> {
    let pid = bench.platform.stack.pid(Server::ClickHouse).context("ClickHouse is down")?;
    let (cpu, began) = (cpu_seconds(pid), Instant::now());
    let answer = bench.platform.clickhouse(query).await;
    let elapsed = began.elapsed();
    Ok((answer, elapsed.as_secs_f64() * 1000.0, (cpu_seconds(pid) - cpu) * 1000.0))
}
