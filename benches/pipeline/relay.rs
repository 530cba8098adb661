//! How fast the outbox relay publishes a backlog, next to what Postgres gives a client that looks at nothing: plain SQL
//! over copies of the same rows, in batches as large as the relay's.
//!
//! ```text
//! orders ─→ outbox ─→ millrace relay ─→ Kafka
//!        ├→ copy ───→ read, say how far, truncate in the end   what the relay asks of Postgres
//!        └→ copy ───→ delete and return                        what it would ask if it deleted
//! ```

use crate::gateway::{TOPIC, order};
use crate::platform::{Platform, Role};
use crate::processes::{Meter, own_cpu_seconds};
use crate::report::{Figures, Report};
use crate::{ASKED_EVERY, SETTLED_WITHIN};
use anyhow::{Context, ensure};
use millrace_stream::{Admin, KafkaConfig};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, PgPool};
use std::time::Instant;

const GROUP: &str = "outbox";
const RELAY: &str = "millrace relay";
const DATABASE: &str = "bench_outbox";
/// As many as the relay reads at once.
const BATCH_ROWS: i64 = 2_000;
/// Before what is measured: caches, the log's first segments, code that a server compiles as it runs.
const WARM_UP_EVENTS: u64 = 20_000;

/// A way to get all rows out of Postgres.
struct Limit {
    name: &'static str,
    /// Those behind `$1`, up to `$2`: a seq has no gaps here.
    take: &'static str,
    /// All up to `$1` are done with.
    mark: Option<&'static str>,
    /// Once there are no more.
    empty: Option<&'static str>,
}

const READ: Limit = Limit {
    name: "limit: read and truncate",
    take: "select * from copy_0 where seq > $1 and seq <= $2 order by seq",
    mark: Some("select setval('copy_published', $1)"),
    empty: Some("truncate copy_0"),
};
const DELETE: Limit = Limit {
    name: "limit: read and delete",
    take: "delete from copy_1 where seq > $1 and seq <= $2 returning *",
    mark: None,
    empty: None,
};

pub async fn measure(events: u64, runs: u32, report: &mut Report) -> anyhow::Result<Value> {
    let platform = Platform::start().await;
    let admin = platform.postgres().await;
    run(&platform, &admin, WARM_UP_EVENTS).await?; // does not count
    for _ in 0..runs {
        for (name, figures) in run(&platform, &admin, events).await? {
            report.add(GROUP, name, figures);
        }
    }
    admin.close().await;
    platform.stop().await;
    let to = |limit: &Limit| report.ratio(GROUP, (RELAY, limit.name), "events_per_s");
    Ok(json!({ "to_limit": { "read and truncate": to(&READ), "read and delete": to(&DELETE) } }))
}

/// Both limits and the relay, in a database of its own.
async fn run(platform: &Platform, admin: &PgPool, events: u64) -> anyhow::Result<[(&'static str, Figures); 3]> {
    let (server, _) = platform.addresses().postgres.rsplit_once('/').context("the address names no database")?;
    let url = format!("{server}/{DATABASE}");
    sqlx::raw_sql(AssertSqlSafe(format!("create database {DATABASE}"))).execute(admin).await?;
    let pool = PgPool::connect(&url).await?;
    fill(&pool, events).await?;
    let measured = [
        (READ.name, limit(platform, &pool, &READ, events).await?),
        (DELETE.name, limit(platform, &pool, &DELETE, events).await?),
        (RELAY, relay(platform, &pool, &url, events).await?),
    ];
    pool.close().await;
    sqlx::raw_sql(AssertSqlSafe(format!("drop database {DATABASE} with (force)"))).execute(admin).await?;
    Ok(measured)
}

/// The outbox, and two copies of it for the limits.
async fn fill(pool: &PgPool, events: u64) -> anyhow::Result<()> {
    sqlx::raw_sql(millrace_outbox::SCHEMA).execute(pool).await?;
    let (order, id) = order();
    let fill = "insert into millrace.outbox (type, data)
                select 'order.placed', replace($1, $2, gen_random_uuid()::text)::json from generate_series(1, $3)";
    sqlx::query(fill).bind(order).bind(id).bind(events.cast_signed()).execute(pool).await?;
    let copies = "create sequence copy_published minvalue 0 start 0;
                  create table copy_0 (like millrace.outbox, primary key (seq));
                  insert into copy_0 select * from millrace.outbox order by seq;
                  create table copy_1 (like millrace.outbox, primary key (seq));
                  insert into copy_1 select * from millrace.outbox order by seq;
                  vacuum analyze";
    for statement in copies.split(';') {
        sqlx::raw_sql(statement).execute(pool).await?; // one by one: `vacuum` wants no transaction
    }
    Ok(())
}

async fn limit(platform: &Platform, pool: &PgPool, limit: &Limit, events: u64) -> anyhow::Result<Figures> {
    let (meter, own) = (Meter::start(platform, std::process::id()), own_cpu_seconds());
    let taken = tokio::time::timeout(SETTLED_WITHIN, take(pool, limit, events.cast_signed())).await;
    let (own, mut figures) = (own_cpu_seconds() - own, meter.stop(events));
    let rows = taken.context("the limit took too long")??;
    ensure!(rows == events, "{} had {rows} rows", limit.name);
    // The client is this process, and the meter counts its children, the servers, with it.
    for of_all_our_children in ["client_peak_rss_mb", "others_cores", "events_per_client_cpu_s"] {
        figures.remove(of_all_our_children);
    }
    figures.insert("client_cpu_s_per_million", own * 1e6 / events as f64);
    Ok(figures)
}

/// Drops what it reads, and returns how many rows that were.
async fn take(pool: &PgPool, limit: &Limit, events: i64) -> anyhow::Result<u64> {
    let mut connection = pool.acquire().await?;
    let (mut after, mut rows) = (0, 0);
    while after < events {
        let through = after + BATCH_ROWS;
        let batch = sqlx::query(limit.take).bind(after).bind(through).fetch_all(&mut *connection).await?;
        if let Some(mark) = limit.mark {
            sqlx::query(mark).bind(through).execute(&mut *connection).await?;
        }
        after = through;
        rows += batch.len() as u64;
    }
    if let Some(empty) = limit.empty {
        sqlx::raw_sql(empty).execute(&mut *connection).await?;
    }
    Ok(rows)
}

/// From the first settled batch, which is a small one, to the last.
async fn relay(platform: &Platform, pool: &PgPool, url: &str, events: u64) -> anyhow::Result<Figures> {
    let before = records(platform).await?;
    let mut command = platform.command();
    command.args(["relay", DATABASE]).env(format!("MILLRACE_OUTBOX__{}__URL", DATABASE.to_uppercase()), url);
    let started = Instant::now();
    let mut role = Role::start(&mut command, &platform.data, "relay");
    let first = until(pool, &mut role, 1).await?;
    let start_s = started.elapsed().as_secs_f64();
    let meter = Meter::start(platform, role.pid());
    until(pool, &mut role, events.cast_signed()).await?;
    let mut figures = meter.stop(events.saturating_sub(first.unsigned_abs()));
    figures.insert("start_s", start_s);
    let written = records(platform).await? - before;
    ensure!(written == events.cast_signed(), "{written} records are in the log:\n{}", role.log());
    ensure!(role.stop() == 0, "the relay did not drain");
    Ok(figures)
}

/// Waits until at least so many events are settled, and returns how many are.
async fn until(pool: &PgPool, role: &mut Role, wanted: i64) -> anyhow::Result<i64> {
    let deadline = Instant::now() + SETTLED_WITHIN;
    loop {
        let asked = sqlx::query_scalar("select last_value from millrace.outbox_published");
        let published: i64 = asked.fetch_one(pool).await?;
        if published >= wanted {
            return Ok(published);
        }
        ensure!(role.is_running(), "the relay ended:\n{}", role.log());
        ensure!(Instant::now() < deadline, "{published} were published within {SETTLED_WITHIN:?}:\n{}", role.log());
        tokio::time::sleep(ASKED_EVERY).await;
    }
}

/// How many the topic has, those of earlier runs too.
async fn records(platform: &Platform) -> anyhow::Result<i64> {
    let kafka = KafkaConfig { brokers: platform.addresses().kafka.clone(), ..KafkaConfig::default() };
    let partitions = Admin::new(kafka).partitions(vec![TOPIC.to_owned()]).await?;
    Ok(partitions.iter().map(|found| found.log_end).sum())
}
