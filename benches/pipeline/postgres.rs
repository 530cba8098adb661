//! Kafka → Postgres: each projection next to bare consuming, bare upserts of the same rows, and both at once.

use crate::Bench;
use crate::limit::{self, Kind, Log, Place, Spec, Table, Upserts, Write};
use crate::report::{Figures, Report};
use anyhow::{Context, ensure};
use serde_json::Value;
use std::collections::HashMap;
use uuid::Uuid;

/// What a projection reads and writes.
struct Projection {
    name: &'static str,
    topics: &'static [&'static str],
    tables: Vec<Touched>,
}

/// A table, and the ClickHouse query for which of its rows an event touches: `key`, `second`, `_topic`, …
struct Touched {
    table: Table,
    by: &'static str,
}

fn table(name: &str, key_columns: usize, columns: &[(&str, Kind)]) -> Table {
    let columns = columns.iter().map(|(name, kind)| ((*name).to_owned(), *kind)).collect();
    Table { name: name.to_owned(), key_columns, columns }
}

fn order_status() -> Projection {
    use Kind::{Bigint, Text, Time, Uuid};
    let columns = [
        ("order_id", Uuid),
        ("user_id", Uuid),
        ("status", Text),
        ("currency", Text),
        ("total", Bigint),
        ("captured", Bigint),
        ("refunded", Bigint),
        ("placed_at", Time),
        ("updated_at", Time),
    ];
    let by = "select order_id as key, '' as second, _topic, _partition, _offset from events_raw.order_placed
              union all select order_id, '', _topic, _partition, _offset from events_raw.payment_captured
              union all select order_id, '', _topic, _partition, _offset from events_raw.payment_failed
              union all select order_id, '', _topic, _partition, _offset from events_raw.payment_refunded";
    let tables = vec![Touched { table: table("order_status", 1, &columns), by }];
    Projection { name: "order_status", topics: &["shop.order.v1"], tables }
}

fn customer_summary() -> Projection {
    use Kind::{Bigint, Text, Time, Uuid};
    let columns =
        [("user_id", Uuid), ("registered_at", Time), ("orders", Bigint), ("last_seen_at", Time), ("erased_at", Time)];
    let by = "select assumeNotNull(user_id) as key, '' as second, _topic, _partition, _offset
                  from events_raw.session_started where user_id is not null
              union all select user_id, '', _topic, _partition, _offset from events_raw.user_registered
              union all select user_id, '', _topic, _partition, _offset from events_raw.user_erased
              union all select user_id, '', _topic, _partition, _offset from events_raw.order_placed
              union all select user_id, '', _topic, _partition, _offset from events_raw.payment_captured
              union all select user_id, '', _topic, _partition, _offset from events_raw.payment_refunded";
    let summary = Touched { table: table("customer_summary", 1, &columns), by };
    let columns = [("user_id", Uuid), ("currency", Text), ("captured", Bigint), ("refunded", Bigint)];
    let by = "select user_id as key, toString(currency) as second, _topic, _partition, _offset
                  from events_raw.payment_captured
              union all select user_id, toString(currency), _topic, _partition, _offset
                  from events_raw.payment_refunded";
    let spend = Touched { table: table("customer_spend", 2, &columns), by };
    let topics = &["shop.account.v1", "shop.order.v1", "shop.visit.v1"];
    Projection { name: "customer_summary", topics, tables: vec![summary, spend] }
}

/// Everything, interleaved. ClickHouse's tables must hold the log: they tell which rows each batch touches.
pub async fn measure(bench: &Bench, report: &mut Report) -> anyhow::Result<()> {
    for statement in [
        "create schema saved",
        "create schema bench",
        "create table bench.checkpoint (like millrace.checkpoint including all)",
    ] {
        sqlx::query(statement).execute(&bench.pool).await?;
    }
    for projection in [order_status(), customer_summary()] {
        projection.measure(bench, report).await?;
    }
    Ok(())
}

impl Projection {
    async fn measure(&self, bench: &Bench, report: &mut Report) -> anyhow::Result<()> {
        let log = bench.log.of_topics(self.topics);
        let (_, batches) = self.millrace(bench, &log).await?;
        let batch_records = log.batch_records(batches);
        eprintln!("{}: {batches} batches of about {batch_records} records", self.name);
        self.save(bench, &log).await?;
        let upserts = Write::Upserts(self.upserts(bench, &log, batch_records).await?);
        for _ in 0..bench.runs {
            report.add(self.name, "limit: consume", self.limit(bench, &log, Some(&log), None).await?);
            report.add(self.name, "limit: upsert", self.limit(bench, &log, None, Some(&upserts)).await?);
            let both = self.limit(bench, &log, Some(&log), Some(&upserts)).await?;
            report.add(self.name, "limit: consume and write", both);
            report.add(self.name, "millrace", self.millrace(bench, &log).await?.0);
        }
        Ok(())
    }

    async fn millrace(&self, bench: &Bench, log: &Log) -> anyhow::Result<(Figures, u64)> {
        self.empty(bench, "public").await?;
        let before = Written::now(bench).await?;
        let (mut figures, batches) = bench.process(self.name, log.records()).await?;
        before.until_now(bench, &mut figures).await?;
        Ok((figures, batches))
    }

    async fn limit(
        &self,
        bench: &Bench,
        log: &Log,
        consume: Option<&Log>,
        write: Option<&Write>,
    ) -> anyhow::Result<Figures> {
        self.empty(bench, "bench").await?;
        let before = Written::now(bench).await?;
        let spec = Spec::of(consume, write);
        let mut figures = limit::measure(&bench.platform, &spec, log.records())?;
        before.until_now(bench, &mut figures).await?;
        if write.is_some() {
            self.check_rows(bench).await?;
        }
        Ok(figures)
    }

    async fn check_rows(&self, bench: &Bench) -> anyhow::Result<()> {
        for Touched { table: Table { name, .. }, .. } in &self.tables {
            let differ = format!(
                "(table bench.{name} except table saved.{name}) union all (table saved.{name} except table bench.{name})"
            );
            let sql = format!("select count(*) from ({differ}) as different");
            let different: i64 = sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).fetch_one(&bench.pool).await?;
            ensure!(different == 0, "the limit wrote {different} other rows into {name}");
        }
        Ok(())
    }

    async fn empty(&self, bench: &Bench, schema: &str) -> anyhow::Result<()> {
        for Touched { table: Table { name, .. }, .. } in &self.tables {
            sqlx::query(sqlx::AssertSqlSafe(format!("truncate {schema}.{name}"))).execute(&bench.pool).await?;
        }
        Ok(())
    }

    /// Keeps what Millrace made, and prepares the tables that the limits write.
    async fn save(&self, bench: &Bench, log: &Log) -> anyhow::Result<()> {
        for Touched { table: Table { name, .. }, .. } in &self.tables {
            for sql in [
                format!("create table saved.{name} as table public.{name}"),
                format!("create table bench.{name} (like public.{name} including all) with (fillfactor = 70)"),
            ] {
                sqlx::query(sqlx::AssertSqlSafe(sql)).execute(&bench.pool).await?;
            }
        }
        sqlx::query("truncate bench.checkpoint").execute(&bench.pool).await?;
        for place in &log.partitions {
            let row = sqlx::query(
                "insert into bench.checkpoint (pipeline, topic, partition, topic_id, epoch, next)
                 values ('bench', $1, $2, '', 1, 0)",
            );
            row.bind(&place.topic).bind(place.partition).execute(&bench.pool).await?;
        }
        Ok(())
    }

    /// As many batches as Millrace made, each with the rows that its events touch.
    async fn upserts(&self, bench: &Bench, log: &Log, batch_records: i64) -> anyhow::Result<Upserts> {
        let mut keys = Vec::new();
        for touched in &self.tables {
            keys.push(touched.keys(bench, batch_records).await?);
        }
        let batch = |(place, from): (Place, i64)| {
            let number = (place.topic.clone(), place.partition, from / batch_records);
            let keys = keys.iter_mut().map(|keys| keys.remove(&number).unwrap_or_default()).collect();
            (place, keys)
        };
        let batches = log.batches(batch_records).map(batch).collect();
        let tables = self.tables.iter().map(|touched| touched.table.clone()).collect();
        Ok(Upserts { url: bench.platform.addresses().postgres.clone(), tables, batches })
    }
}

/// A batch: its topic, partition and number there.
type Number = (String, i32, i64);

impl Touched {
    async fn keys(&self, bench: &Bench, batch_records: i64) -> anyhow::Result<HashMap<Number, Vec<limit::Key>>> {
        let sql = format!(
            "select _topic as topic, _partition as partition, intDiv(_offset, {batch_records}) as number,
                 arraySort(key -> (toString(key.1), key.2), groupUniqArray((toString(key), second))) as keys
             from ({}) group by topic, partition, number",
            self.by
        );
        let batch = |row: &Value| {
            let number = (row["topic"].as_str()?.to_owned(), i32::try_from(row["partition"].as_i64()?).ok()?);
            let keys = row["keys"].as_array()?.iter().map(key).collect::<Option<_>>()?;
            Some(((number.0, number.1, row["number"].as_i64()?), keys))
        };
        let rows = bench.platform.clickhouse(&sql).await;
        rows.iter().map(batch).collect::<Option<_>>().context("ClickHouse answered otherwise")
    }
}

/// `[id, second]`.
fn key(value: &Value) -> Option<limit::Key> {
    Some((value[0].as_str()?.parse::<Uuid>().ok()?, value[1].as_str()?.to_owned()))
}

/// What Postgres has written so far.
struct Written {
    wal_bytes: i64,
    transactions: i64,
}

impl Written {
    async fn now(bench: &Bench) -> anyhow::Result<Self> {
        let sql = "select pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint, xact_commit
                   from pg_stat_database where datname = current_database()";
        let (wal_bytes, transactions) = sqlx::query_as(sql).fetch_one(&bench.pool).await?;
        Ok(Self { wal_bytes, transactions })
    }

    async fn until_now(&self, bench: &Bench, figures: &mut Figures) -> anyhow::Result<()> {
        let now = Self::now(bench).await?;
        figures.insert("wal_bytes", (now.wal_bytes - self.wal_bytes) as f64);
        figures.insert("transactions", (now.transactions - self.transactions) as f64);
        Ok(())
    }
}
