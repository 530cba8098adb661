//! Postgres schema changes of all crates, applied in one order under one lock.

use sqlx::migrate::{Migration as SqlxMigration, MigrationType, Migrator};
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions};
use std::borrow::Cow;

/// One change, written once and never edited: `(number, name, sql)`.
///
/// Numbers are global: `stream` 1xx, `processors` 2xx, `sinks` 3xx, `producers` 4xx.
#[derive(Debug, Clone, Copy)]
pub struct Migration {
    pub number: i64,
    pub name: &'static str,
    pub sql: &'static str,
}

/// `create schema if not exists` is not safe to run twice at once; any number that is ours will do.
const LOCK: i64 = 0x006d_696c_6c72;

/// The spine's own tables.
pub(crate) const OURS: &[Migration] = &[
    Migration { number: 101, name: "checkpoint", sql: include_str!("../migrations/0101_checkpoint.sql") },
    Migration { number: 102, name: "dead letter", sql: include_str!("../migrations/0102_dead_letter.sql") },
    Migration { number: 103, name: "held up", sql: include_str!("../migrations/0103_held_up.sql") },
    Migration { number: 104, name: "standstill", sql: include_str!("../migrations/0104_standstill.sql") },
    Migration { number: 105, name: "dead letter log", sql: include_str!("../migrations/0105_dead_letter_log.sql") },
    Migration { number: 106, name: "dead letter event", sql: include_str!("../migrations/0106_dead_letter_event.sql") },
];

/// Applies what is missing, refuses what was edited; idempotent, safe to run from several places at once.
///
/// # Errors
/// Names the migration that failed, or the applied one whose text changed since.
pub async fn migrate(
    postgres: PgConnectOptions,
    projections_schema: &str,
    others: &[&[Migration]],
) -> anyhow::Result<()> {
    anyhow::ensure!(
        is_identifier(projections_schema),
        "postgres.projections_schema `{projections_schema}`: use lower-case letters, digits and _"
    );
    let mut connection = postgres.connect().await?;
    // The identifier was checked above; everything unqualified lands in the projections' schema.
    let prepare = format!(
        "select pg_advisory_xact_lock({LOCK}); create schema if not exists millrace; create schema if not exists {projections_schema};
         set search_path = {projections_schema}, millrace"
    );
    sqlx::raw_sql(AssertSqlSafe(prepare)).execute(&mut connection).await?;
    migrator(others).run(&mut connection).await?;
    Ok(())
}

fn migrator(others: &[&[Migration]]) -> Migrator {
    let all = OURS.iter().chain(others.iter().copied().flatten());
    let mut migrations: Vec<SqlxMigration> = all.map(to_sqlx).collect();
    migrations.sort_by_key(|migration| migration.version);
    let mut migrator = Migrator::with_migrations(migrations);
    migrator.dangerous_set_table_name("millrace.migration"); // dangerous only to change later
    migrator
}

fn to_sqlx(migration: &Migration) -> SqlxMigration {
    let Migration { number, name, sql } = *migration;
    SqlxMigration::new(number, Cow::Borrowed(name), MigrationType::Simple, sqlx::SqlStr::from_static(sql), false)
}

fn is_identifier(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.len() <= 63
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}
