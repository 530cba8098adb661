//! Making the server look as contracts and metrics say, and checking at start-up that it does.

use super::analytics::Analytics;
use super::config::ClickHouseConfig;
use super::erasure;
use super::rebuild::unless_exchanged;
use super::server::{Server, to_anyhow};
use super::table::{Found, Table};
use anyhow::Context;
use millrace_schemas::Contracts;
use millrace_stream::{Failure, crash_at, keep_moving};
use sqlx::{PgPool, Postgres, Transaction};

/// Each round answers somebody who added a column meanwhile; more than a few are no coincidence.
const SHOWN_AGAIN_MAX: usize = 10;

/// Creates what is missing, adds new columns, renews views; idempotent. Says what it changed in tables.
///
/// # Errors
/// The statement that failed, or the column that has another type than its contract says.
pub async fn migrate(
    config: &ClickHouseConfig,
    contracts: &Contracts,
    analytics: &Analytics,
) -> anyhow::Result<Vec<String>> {
    let server = Server::with_timeout(config, config.migrate_timeout())?;
    let tables = super::tables(config, contracts)?;
    server.check_cluster().await?;
    let topology = config.topology();
    for database in topology.databases() {
        run(&server, &format!("create database if not exists {database}{}", topology.on_cluster())).await?;
    }
    erasure::prepare(&server).await.map_err(to_anyhow)?;
    let unfit = erasure::mismatch(&found(&server).await.map_err(to_anyhow)?, &topology);
    unfit.map_or(Ok(()), |unfit| Err(anyhow::Error::msg(unfit)))?;
    let tables: Vec<&Table> = tables.iter().collect();
    let changes = bring(&server, &tables).await.map_err(to_anyhow)?.map_err(anyhow::Error::msg)?;
    for metric in analytics.iter() {
        run(&server, &metric.create_view(&topology)).await.with_context(|| format!("metric {}", metric.name))?;
    }
    Ok(changes)
}

/// Keeps every table from being exchanged for a rebuilt one while it lives: a column that came between the last copy and
/// the exchange would be gone.
///
/// # Errors
/// While one is exchanged.
pub async fn keep_from_exchange(
    config: &ClickHouseConfig,
    contracts: &Contracts,
    pool: &PgPool,
) -> anyhow::Result<Transaction<'static, Postgres>> {
    let server = Server::with_timeout(config, config.migrate_timeout())?;
    let topics = contracts.topics();
    let topics: Vec<&str> = topics.keys().map(String::as_str).collect();
    unless_exchanged(&server, pool, &topics, || keep_moving(pool, &topics)).await.map_err(to_anyhow)
}

/// Brings tables and their views to what they shall be, and says what it changed in the tables. Safe to run anywhere at
/// any time, also against one who knows a later version: columns are only ever added.
///
/// The inner error is a column of another type: nothing was changed.
pub(super) async fn bring(server: &Server, tables: &[&Table]) -> Result<Result<Vec<String>, String>, Failure> {
    let found = found(server).await?;
    let changes = tables.iter().map(|table| table.statements(&found));
    let changes = match changes.collect::<Result<Vec<_>, _>>() {
        Ok(changes) => changes.concat(),
        Err(other_type) => return Ok(Err(other_type)),
    };
    for statement in &changes {
        execute(server, statement).await?;
    }
    crash_at("evolve_altered");
    show(server, tables).await?;
    crash_at("evolve_shown");
    erasure::mark(server, tables).await?;
    Ok(Ok(changes))
}

/// Replaces the views. Whoever adds a column at the same time replaces them too: the last of us must have seen all, so
/// each looks again after it has.
async fn show(server: &Server, tables: &[&Table]) -> Result<(), Failure> {
    let mut before: Option<Found> = None;
    for _ in 0..SHOWN_AGAIN_MAX {
        let now = found(server).await?;
        let as_before =
            |table: &Table| before.as_ref().is_some_and(|before| table.added(&now).len() == table.added(before).len());
        let stale: Vec<_> = tables.iter().filter(|table| !as_before(table)).collect();
        if stale.is_empty() {
            return Ok(());
        }
        for table in stale {
            execute(server, &table.create_view(&table.added(&now))).await?;
        }
        before = Some(now);
    }
    Err(Failure::retry(anyhow::anyhow!("tables gained columns {SHOWN_AGAIN_MAX} times while their views were made")))
}

async fn found(server: &Server) -> Result<Found, Failure> {
    server.found().await.map_err(|failure| failure.context("could not look at the tables that exist"))
}

/// The first line says what a statement is about; the rest of it can be long.
async fn execute(server: &Server, sql: &str) -> Result<(), Failure> {
    let done = server.execute(sql).await;
    done.map_err(|failure| failure.context(format!("could not run `{}`", sql.lines().next().unwrap_or_default())))
}

async fn run(server: &Server, sql: &str) -> anyhow::Result<()> {
    execute(server, sql).await.map_err(to_anyhow)
}

/// Refuses to start on a server that would lose or double what it is given: version, settings, the cluster, and
/// each contract's tables with their columns and their deduplication window.
///
/// # Errors
/// The first thing that is not as it must be, and what to do about it.
pub async fn check_server(config: &ClickHouseConfig, contracts: &Contracts) -> anyhow::Result<()> {
    let server = Server::new(config)?;
    server.check_version().await?;
    server.check_settings().await?;
    server.check_cluster().await?;
    let found = found(&server).await.map_err(to_anyhow)?;
    let mismatch = super::tables(config, contracts)?.iter().find_map(|table| table.mismatch(&found));
    let mismatch = mismatch.or_else(|| erasure::mismatch(&found, &config.topology()));
    mismatch.map_or(Ok(()), |mismatch| Err(anyhow::Error::msg(mismatch)))
}
