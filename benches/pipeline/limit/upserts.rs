//! Ready-made rows into Postgres: the projections' own statements, and one move of a checkpoint a transaction.
//! Nothing is read, locked or folded before.

use super::{Place, Writer};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::postgres::PgRow;
use sqlx::{PgPool, Row as _};
use std::collections::HashMap;
use uuid::Uuid;

/// Rows of one statement, as in Millrace.
const STATEMENT_ROWS_MAX: usize = 2_000;

/// Where to, and what.
#[derive(Clone, Serialize, Deserialize)]
pub struct Upserts {
    pub url: String,
    pub tables: Vec<Table>,
    /// One place a batch, and the keys of its rows, table by table, each sorted.
    pub batches: Vec<(Place, Vec<Vec<Key>>)>,
}

/// A table in the schema `bench`; `saved` has the rows that are written.
#[derive(Clone, Serialize, Deserialize)]
pub struct Table {
    pub name: String,
    /// The first so many columns are its key.
    pub key_columns: usize,
    pub columns: Vec<(String, Kind)>,
}

/// An id and, where the key has a second column, that.
pub type Key = (Uuid, String);

#[derive(Clone, Copy, Serialize, Deserialize)]
pub enum Kind {
    Uuid,
    Text,
    Bigint,
    Time,
}

/// The values of one column.
enum Column {
    Uuid(Vec<Option<Uuid>>),
    Text(Vec<Option<String>>),
    Bigint(Vec<Option<i64>>),
    Time(Vec<Option<DateTime<Utc>>>),
}

/// One statement's rows, column by column.
struct Rows(Vec<Column>);

/// Every statement's rows in memory.
pub struct Loaded {
    pool: PgPool,
    /// Batch by batch: statements, each with its rows.
    batches: Vec<(Place, Vec<(String, Rows)>)>,
}

impl Upserts {
    pub async fn prepare(&self) -> anyhow::Result<Loaded> {
        let pool = PgPool::connect(&self.url).await?;
        let mut saved = Vec::new();
        for table in &self.tables {
            saved.push(table.load(&pool).await?);
        }
        let batch = |(place, keys): &(Place, Vec<Vec<Key>>)| {
            let tables = self.tables.iter().zip(&saved).zip(keys);
            let statements = tables.flat_map(|((table, saved), keys)| {
                keys.chunks(STATEMENT_ROWS_MAX).map(|keys| (table.upsert(), table.rows(saved, keys)))
            });
            (place.clone(), statements.collect())
        };
        Ok(Loaded { pool, batches: self.batches.iter().map(batch).collect() })
    }
}

impl Table {
    async fn load(&self, pool: &PgPool) -> anyhow::Result<HashMap<Key, PgRow>> {
        let sql = format!("select {} from saved.{}", self.names().join(", "), self.name);
        let rows = sqlx::query(sqlx::AssertSqlSafe(sql)).fetch_all(pool).await?;
        let key = |row: &PgRow| {
            let second = if self.key_columns > 1 { row.get(1) } else { String::new() };
            (row.get::<Uuid, _>(0), second)
        };
        Ok(rows.into_iter().map(|row| (key(&row), row)).collect())
    }

    fn names(&self) -> Vec<&str> {
        self.columns.iter().map(|(name, _)| name.as_str()).collect()
    }

    fn upsert(&self) -> String {
        let names = self.names();
        let arrays = self.columns.iter().enumerate().map(|(at, (_, kind))| format!("${}::{}[]", at + 1, kind.sql()));
        let (keys, others) = names.split_at(self.key_columns);
        let set = others.iter().map(|name| format!("{name} = excluded.{name}"));
        format!(
            "insert into bench.{} ({}) select * from unnest({}) on conflict ({}) do update set {}",
            self.name,
            names.join(", "),
            arrays.collect::<Vec<_>>().join(", "),
            keys.join(", "),
            set.collect::<Vec<_>>().join(", ")
        )
    }

    fn rows(&self, saved: &HashMap<Key, PgRow>, keys: &[Key]) -> Rows {
        let rows: Vec<&PgRow> = keys.iter().filter_map(|key| saved.get(key)).collect();
        let column = |(at, (_, kind)): (usize, &(String, Kind))| match kind {
            Kind::Uuid => Column::Uuid(rows.iter().map(|row| row.get(at)).collect()),
            Kind::Text => Column::Text(rows.iter().map(|row| row.get(at)).collect()),
            Kind::Bigint => Column::Bigint(rows.iter().map(|row| row.get(at)).collect()),
            Kind::Time => Column::Time(rows.iter().map(|row| row.get(at)).collect()),
        };
        Rows(self.columns.iter().enumerate().map(column).collect())
    }
}

impl Kind {
    fn sql(self) -> &'static str {
        match self {
            Self::Uuid => "uuid",
            Self::Text => "text",
            Self::Bigint => "bigint",
            Self::Time => "timestamptz",
        }
    }
}

impl Writer for Loaded {
    fn places(&self) -> impl Iterator<Item = &Place> {
        self.batches.iter().map(|(place, _)| place)
    }

    async fn write(&self, batches: &[usize]) -> anyhow::Result<()> {
        for batch in batches {
            self.write_one(*batch).await?;
        }
        Ok(())
    }
}

impl Loaded {
    /// A transaction a batch, as Millrace has.
    async fn write_one(&self, batch: usize) -> anyhow::Result<()> {
        let (place, statements) = &self.batches[batch];
        let mut tx = self.pool.begin().await?;
        let moved = sqlx::query(
            "update bench.checkpoint set next = $3, plan = null, updated_at = now() where topic = $1 and partition = $2",
        );
        moved.bind(&place.topic).bind(place.partition).bind(place.to).execute(&mut *tx).await?;
        for (sql, rows) in statements {
            let query =
                rows.0.iter().fold(sqlx::query(sqlx::AssertSqlSafe(sql.as_str())), |query, column| match column {
                    Column::Uuid(values) => query.bind(values),
                    Column::Text(values) => query.bind(values),
                    Column::Bigint(values) => query.bind(values),
                    Column::Time(values) => query.bind(values),
                });
            query.execute(&mut *tx).await?;
        }
        Ok(tx.commit().await?)
    }
}
