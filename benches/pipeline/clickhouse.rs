//! Kafka → ClickHouse: Millrace next to bare consuming, bare inserting of the same blocks, and both at once; and next
//! to its peers.

use crate::limit::{self, Block, Blocks, Log, Spec, Write};
use crate::peers::Peer;
use crate::processes::Meter;
use crate::report::{Figures, Report};
use crate::{Bench, SETTLED_WITHIN};
use anyhow::{Context, ensure};
use millrace_schemas::Contracts;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

pub const GROUP: &str = "clickhouse";
/// Where the limits and the peers insert: empty copies of the tables.
const COPY: &str = "bench";
/// What Millrace sends, and what is cheapest for the server to take.
const FORMATS: [(&str, &str); 2] =
    [("RowBinaryWithNamesAndTypes", "limit: insert RowBinary"), ("Native", "limit: insert Native")];
/// How often a peer's rows are counted: a measured time is at most this too long, and the server has other work.
const COUNTED_EVERY: Duration = Duration::from_millis(100);
/// Merges of a run's parts end within this, or the next run begins on a busy server.
const MERGED_WITHIN: Duration = Duration::from_secs(120);

/// Everything, interleaved.
pub async fn measure(bench: &Bench, batch_records: i64, peers: &[Peer], report: &mut Report) -> anyhow::Result<()> {
    eprintln!("reading the tables back as blocks of {batch_records} records a batch");
    let mut ready_made = Vec::new();
    for (format, name) in FORMATS {
        ready_made.push((name, Write::Blocks(blocks(bench, batch_records, format).await?)));
    }
    for run in 0..bench.runs {
        report.add(GROUP, "limit: consume", limit(bench, Some(&bench.log), None).await?);
        for (name, write) in &ready_made {
            report.add(GROUP, name, limit(bench, None, Some(write)).await?);
        }
        let (_, native) = &ready_made[1];
        report.add(GROUP, "limit: consume and write", limit(bench, Some(&bench.log), Some(native)).await?);
        report.add(GROUP, "millrace", millrace(bench).await?.0);
        for peer in peers {
            report.add(GROUP, peer.name, measure_peer(bench, peer, run).await?);
        }
    }
    Ok(())
}

/// The pipeline as its own process, from nothing to the log's end. Returns its batches too.
pub async fn millrace(bench: &Bench) -> anyhow::Result<(Figures, u64)> {
    for database in ["events", "metrics", "events_raw", COPY] {
        bench.platform.clickhouse(&format!("drop database if exists {database} sync")).await;
    }
    let migrated = bench.platform.run(&["migrate"]);
    ensure!(migrated.code() == 0, "migrate: {}", migrated.err);
    let records = bench.log.records();
    let before = Counters::settled(bench).await?;
    let (mut figures, batches) = bench.process(GROUP, records).await?;
    before.until_now(bench, records, &mut figures).await?;
    check_rows(bench, "events_raw").await?;
    Ok((figures, batches))
}

async fn limit(bench: &Bench, consume: Option<&Log>, write: Option<&Write>) -> anyhow::Result<Figures> {
    empty_copies(bench).await?;
    let records = bench.log.records();
    let before = Counters::settled(bench).await?;
    let spec = Spec::of(consume, write);
    let mut figures = limit::measure(&bench.platform, &spec, records)?;
    if write.is_some() {
        before.until_now(bench, records, &mut figures).await?;
        check_rows(bench, COPY).await?;
    }
    Ok(figures)
}

/// A peer as its own process, in a group that nobody knows yet, from the moment it has its partitions until the last
/// row is there.
async fn measure_peer(bench: &Bench, peer: &Peer, run: u32) -> anyhow::Result<Figures> {
    empty_copies(bench).await?;
    let records = bench.log.records();
    let before = Counters::settled(bench).await?;
    let mut role = peer.start(bench, COPY, run).await?;
    let meter = Meter::start(&bench.platform, role.pid());
    let deadline = Instant::now() + SETTLED_WITHIN;
    while rows(bench, COPY).await < records {
        ensure!(role.is_running(), "{} ended:\n{}", peer.name, role.log());
        ensure!(Instant::now() < deadline, "{} was not done within {SETTLED_WITHIN:?}:\n{}", peer.name, role.log());
        tokio::time::sleep(COUNTED_EVERY).await;
    }
    let mut figures = meter.stop(records);
    let log = role.log.clone();
    let code = role.stop();
    ensure!(code == 0, "{} ended with {code}:\n{}", peer.name, std::fs::read_to_string(log)?);
    before.until_now(bench, records, &mut figures).await?;
    check_rows(bench, COPY).await?;
    check_same(bench, peer).await?;
    Ok(figures)
}

/// A peer's rows are those that Millrace wrote, but for the columns that it leaves out.
async fn check_same(bench: &Bench, peer: &Peer) -> anyhow::Result<()> {
    for (table, columns) in columns(bench).await {
        let columns: Vec<&str> = columns.split(", ").filter(|column| !peer.leaves_out.contains(column)).collect();
        let hash = |database| {
            let row = format!("formatRow('TabSeparated', {})", columns.join(", "));
            format!("(select groupBitXor(cityHash64({row})) from {database}.{table})")
        };
        let same = format!("select {} = {} as same", hash("events_raw"), hash(COPY));
        ensure!(bench.platform.clickhouse(&same).await[0]["same"] == 1, "{} filled {table} otherwise", peer.name);
    }
    Ok(())
}

async fn empty_copies(bench: &Bench) -> anyhow::Result<()> {
    bench.platform.clickhouse(&format!("drop database if exists {COPY} sync")).await;
    bench.platform.clickhouse(&format!("create database {COPY}")).await;
    for (_, table) in tables()? {
        bench.platform.clickhouse(&format!("create table {COPY}.{table} as events_raw.{table}")).await;
    }
    Ok(())
}

async fn check_rows(bench: &Bench, database: &str) -> anyhow::Result<()> {
    let (rows, records) = (rows(bench, database).await, bench.log.records());
    ensure!(rows == records, "{database} holds {rows} rows of {records}");
    Ok(())
}

async fn rows(bench: &Bench, database: &str) -> u64 {
    let sql = format!("select sum(rows) as rows from system.parts where active and database = '{database}'");
    bench.platform.clickhouse(&sql).await[0]["rows"].as_u64().unwrap_or_default()
}

/// Waits until no merges run.
pub async fn merged(bench: &Bench) -> anyhow::Result<()> {
    let deadline = Instant::now() + MERGED_WITHIN;
    while !bench.platform.clickhouse("select 1 from system.merges limit 1").await.is_empty() {
        ensure!(Instant::now() < deadline, "ClickHouse still merges after {MERGED_WITHIN:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

/// What the server counted, and its CPU once it had merged what was inserted.
struct Counters {
    values: BTreeMap<String, f64>,
    cpu_seconds: f64,
}

/// Counters of the server, and the figures they go to.
const COUNTERS: [(&str, &str); 4] = [
    ("InsertQuery", "inserts"),
    ("MergeTreeDataWriterBlocks", "parts_inserted"),
    ("MergeTreeDataWriterUncompressedBytes", "inserted_bytes"),
    ("MergeTreeDataWriterCompressedBytes", "inserted_bytes_on_disk"),
];

impl Counters {
    /// Now, or as soon as no merges run.
    async fn settled(bench: &Bench) -> anyhow::Result<Self> {
        merged(bench).await?;
        let rows = bench.platform.clickhouse("select event, value from system.events").await;
        let value = |row: &Value| Some((row["event"].as_str()?.to_owned(), row["value"].as_f64()?));
        let pid = bench.platform.stack.pid(millrace_local::Server::ClickHouse).context("ClickHouse is down")?;
        Ok(Self { values: rows.iter().filter_map(value).collect(), cpu_seconds: crate::processes::cpu_seconds(pid) })
    }

    async fn until_now(&self, bench: &Bench, records: u64, figures: &mut Figures) -> anyhow::Result<()> {
        let now = Self::settled(bench).await?;
        let of = |counters: &Self, name: &str| counters.values.get(name).copied().unwrap_or_default();
        figures.extend(COUNTERS.map(|(name, figure)| (figure, of(&now, name) - of(self, name))));
        let cpu = (now.cpu_seconds - self.cpu_seconds) / (records as f64 / 1e6);
        figures.insert("clickhouse_cpu_s_per_million_with_merges", cpu);
        Ok(())
    }
}

/// Every table and the topic that it is filled from.
fn tables() -> anyhow::Result<Vec<(String, String)>> {
    let contracts = Contracts::embedded().map_err(|errors| anyhow::anyhow!("{errors:?}"))?;
    Ok(contracts.iter().map(|contract| (contract.topic.clone(), contract.table())).collect())
}

/// What Millrace inserted, read back in as many batches, each with one block a table.
async fn blocks(bench: &Bench, batch_records: i64, format: &str) -> anyhow::Result<Blocks> {
    let directory = bench.platform.data.join("blocks").join(format);
    std::fs::create_dir_all(&directory)?;
    let columns = columns(bench).await;
    let mut of_batch = BTreeMap::<(String, i64, i64), Vec<Block>>::new();
    for (topic, table) in tables()? {
        let columns = columns.get(&table).context("a table without columns")?;
        for (partition, from, rows) in sizes(bench, &table, batch_records).await? {
            let file = directory.join(format!("{table}-{partition}-{from}"));
            let sql = format!(
                "select {columns} from events_raw.{table} where _partition = {partition}
                     and _offset >= {from} and _offset < {from} + {batch_records}
                 order by _offset format {format}"
            );
            save(bench, sql, &file).await?;
            let statement = format!("insert into {COPY}.{table} ({columns}) format {format}");
            of_batch.entry((topic.clone(), partition, from)).or_default().push(Block { statement, rows, file });
        }
    }
    let batches = bench.log.batches(batch_records).map(|(place, from)| {
        let blocks = of_batch.remove(&(place.topic.clone(), place.partition.into(), from));
        (place, blocks.unwrap_or_default())
    });
    Ok(Blocks { url: bench.platform.addresses().clickhouse.clone(), batches: batches.collect() })
}

/// Partition, first offset and rows of each batch's block of a table.
async fn sizes(bench: &Bench, table: &str, batch_records: i64) -> anyhow::Result<Vec<(i64, i64, u64)>> {
    let sql = format!(
        "select _partition as partition, intDiv(_offset, {batch_records}) * {batch_records} as first, count() as rows
         from events_raw.{table} group by partition, first order by partition, first"
    );
    let rows = bench.platform.clickhouse(&sql).await;
    let size = |row: &Value| Some((row["partition"].as_i64()?, row["first"].as_i64()?, row["rows"].as_u64()?));
    rows.iter().map(size).collect::<Option<_>>().context("ClickHouse answered otherwise")
}

/// The columns that an insert names, table by table.
async fn columns(bench: &Bench) -> BTreeMap<String, String> {
    let sql = "select table, arrayStringConcat(groupArray(name), ', ') as names from
               (select table, name from system.columns
                where database = 'events_raw' and name != '_inserted_at' order by table, position)
               group by table";
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    bench.platform.clickhouse(sql).await.iter().map(|row| (text(&row["table"]), text(&row["names"]))).collect()
}

async fn save(bench: &Bench, sql: String, file: &Path) -> anyhow::Result<()> {
    let url = &bench.platform.addresses().clickhouse;
    let answer = reqwest::Client::new().post(url).body(sql).send().await?.error_for_status()?;
    Ok(std::fs::write(file, answer.bytes().await?)?)
}
