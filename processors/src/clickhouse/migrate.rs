//! Making the server look as contracts and metrics say, and checking at start-up that it does.

use super::analytics::Analytics;
use super::config::ClickHouseConfig;
use super::server::{Server, to_anyhow};
use super::table::Found;
use super::table::{METRICS, RAW, Table, VIEWS};
use anyhow::Context;
use millrace_schemas::Contracts;

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
    let tables = super::tables(contracts)?;
    for database in [RAW, VIEWS, METRICS] {
        run(&server, &format!("create database if not exists {database}")).await?;
    }
    let found = server.found().await.map_err(to_anyhow).context("could not look at the tables that exist")?;
    let mut changes = Vec::new();
    for table in tables.iter() {
        let statements = statements(table, found.get(table.name()))?;
        for statement in &statements {
            run(&server, statement).await?;
        }
        changes.extend(statements);
        run(&server, &table.create_view()).await?;
    }
    for metric in analytics.iter() {
        run(&server, &metric.create_view()).await.with_context(|| format!("metric {}", metric.name))?;
    }
    Ok(changes)
}

fn statements(table: &Table, found: Option<&Found>) -> anyhow::Result<Vec<String>> {
    match found {
        None => Ok(vec![table.create()]),
        Some(found) => table.alterations(found).map_err(anyhow::Error::msg),
    }
}

/// The first line says what a statement is about; the rest of it can be long.
async fn run(server: &Server, sql: &str) -> anyhow::Result<()> {
    let done = server.execute(sql).await.map_err(to_anyhow);
    done.with_context(|| format!("could not run `{}`", sql.lines().next().unwrap_or_default()))
}

/// Refuses to start on a server that would lose or double what it is given: version, settings, and each
/// contract's table with its columns and its deduplication window.
///
/// # Errors
/// The first thing that is not as it must be, and what to do about it.
pub async fn check_server(config: &ClickHouseConfig, contracts: &Contracts) -> anyhow::Result<()> {
    let server = Server::new(config)?;
    server.check_version().await?;
    server.check_settings().await?;
    let found = server.found().await.map_err(to_anyhow).context("could not look at the tables that exist")?;
    let mismatch = super::tables(contracts)?.iter().find_map(|table| table.mismatch(found.get(table.name())));
    mismatch.map_or(Ok(()), |mismatch| Err(anyhow::Error::msg(mismatch)))
}
