//! The pipeline `clickhouse`: every event of every type becomes a row of its type's table, once.
//!
//! ```text
//! blocks ─→ plan in Postgres ─→ insert each, with its token ─→ settle in Postgres
//!                                      │ after a crash or an answer that was lost
//!                                      └─→ ask which rows are there ─→ insert the others
//! ```
//!
//! The token makes a repeated insert cheap. It is no proof: a server killed between writing its token log
//! and publishing the part forgets the rows and remembers the token. So whoever repeats an insert looks.

use super::block::{Block, Rows, Span, note};
use super::config::ClickHouseConfig;
use super::metrics::SinkMetrics;
use super::native::{Origin, Plan};
use super::server::Server;
use super::table::{Table, Tables};
use millrace_schemas::{Contracts, WriterSchema};
use millrace_stream::{Batch, Failure, Handler, Incoming, Reason, Reject, answered, crash_at};
use sqlx::{Connection, PgPool};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Instant;
use uuid::Uuid;

/// The handler. One serves all partitions of a process.
pub struct ClickHouse {
    server: Server,
    tables: Tables,
    plans: Plans,
    pool: PgPool,
    begun: Begun,
    metrics: SinkMetrics,
}

impl ClickHouse {
    /// Asks no server anything: see [`super::check_server`].
    ///
    /// # Errors
    /// A configuration or a contract that cannot be.
    pub fn new(
        config: &ClickHouseConfig,
        contracts: &Contracts,
        pool: PgPool,
        metrics: SinkMetrics,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            server: Server::new(config)?,
            tables: super::tables(contracts)?,
            plans: Plans::default(),
            pool,
            begun: Begun::default(),
            metrics,
        })
    }

    async fn insert_all(&self, batch: &Batch<Rows>) -> Result<(), Failure> {
        let Some(span) = batch.block.span(batch.range()) else { return Ok(()) }; // nothing here for a table
        let blocks = batch.block.blocks(&self.tables);
        batch.plan(&self.pool, &note(&blocks)).await?;
        crash_at("clickhouse_planned");
        // A replayed letter has neither plan nor predecessor we would know of: it always looks.
        let repeated = self.begun.begin(&span) || batch.range().is_none() || batch.earlier_plan().is_some();
        for block in &blocks {
            let planned = batch.earlier_plan();
            match repeated {
                false => self.insert(block, &block.token(&span)).await?,
                true => self.insert_again(block, &span, planned.is_none_or(|note| block.is_in(note))).await?,
            }
        }
        crash_at("clickhouse_inserted");
        self.begun.end(&span);
        Ok(())
    }

    async fn insert(&self, block: &Block<'_>, token: &str) -> Result<(), Failure> {
        let started = Instant::now();
        let inserted = self.server.insert(block, token).await;
        let (table, rows) = (block.table.name(), block.len());
        inserted.map_err(|failure| failure.context(format!("could not insert {rows} rows into events_raw.{table}")))?;
        self.metrics.wrote(block, started.elapsed());
        Ok(())
    }

    /// The same block under the same token costs nothing where it is there already. Then what the server
    /// does not have is inserted under a token it cannot have seen.
    async fn insert_again(&self, block: &Block<'_>, span: &Span, same_as_planned: bool) -> Result<(), Failure> {
        if same_as_planned {
            self.insert(block, &block.token(span)).await?;
        }
        let table = block.table.name();
        let found = self.server.rows(block, span).await;
        let found = found.map_err(|failure| failure.context(format!("could not read events_raw.{table} back")))?;
        let Some(missing) = block.without(&found) else { return Ok(()) };
        tracing::warn!(
            table, topic = %span.topic, partition = span.partition, offsets = span.offsets,
            "{} of {} rows were not there after a repeated insert: inserting these", missing.len(), block.len()
        );
        self.insert(&missing, &format!("{}:{}", block.token(span), Uuid::now_v7())).await
    }

    async fn settle(&self, batch: &Batch<Rows>) -> Result<(), Failure> {
        answered(&self.pool, async |connection| {
            let mut transaction = connection.begin().await?;
            let _settled = batch.settle(&mut transaction).await?;
            Ok(transaction.commit().await?)
        })
        .await?;
        crash_at("clickhouse_settled");
        Ok(())
    }
}

impl Handler for ClickHouse {
    type Block = Rows;

    fn decode(&self, incoming: &Incoming<'_>, rows: &mut Rows) -> Result<bool, Reject> {
        let event_type = &incoming.contract.event_type;
        let Some(table) = self.tables.index(event_type) else {
            return Err(Reject::new(Reason::UnknownType, format!("`{event_type}` has no table here")));
        };
        let plan = self.plans.get(incoming.writer, table, self.tables.get(table));
        let plan = plan.as_ref().as_ref().map_err(|error| Reject::new(Reason::DoesNotFit, error))?;
        let columns = rows.of(&self.tables, table, incoming.position);
        plan.append(incoming.datum, &Origin::of(incoming.envelope, incoming.position), columns)?;
        Ok(true)
    }

    async fn apply(&self, batch: &Batch<Rows>) -> Result<(), Failure> {
        self.insert_all(batch).await?;
        self.settle(batch).await
    }
}

/// Plans by schema and table. Registries hold few schemas: one entry for each lives as long as the process.
#[derive(Default)]
struct Plans(RwLock<HashMap<(u32, usize), Compiled>>);

/// A plan, or why no value of that schema fits the table.
type Compiled = Arc<Result<Plan, String>>;

impl Plans {
    fn get(&self, writer: &WriterSchema, index: usize, table: &Table) -> Compiled {
        let key = (writer.id, index);
        if let Some(plan) = self.0.read().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return plan.clone();
        }
        let plan = Arc::new(Plan::compile(writer, table));
        self.0.write().unwrap_or_else(PoisonError::into_inner).entry(key).or_insert(plan).clone()
    }
}

/// The span each partition has begun to insert and not seen to its end; one entry a partition.
#[derive(Default)]
struct Begun(Mutex<HashMap<(Arc<str>, i32), String>>);

impl Begun {
    /// True when this very span was begun before.
    fn begin(&self, span: &Span) -> bool {
        let earlier = self.spans().insert((span.topic.clone(), span.partition), span.offsets.clone());
        earlier.is_some_and(|earlier| earlier == span.offsets)
    }

    /// A stale owner of this process may end late: then the entry is its successor's, and stays.
    fn end(&self, span: &Span) {
        let partition = (span.topic.clone(), span.partition);
        let mut spans = self.spans();
        if spans.get(&partition) == Some(&span.offsets) {
            spans.remove(&partition);
        }
    }

    fn spans(&self) -> std::sync::MutexGuard<'_, HashMap<(Arc<str>, i32), String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_begun_twice_without_an_end_is_a_repeat() {
        let begun = Begun::default();
        let span = |offsets: &str| Span { topic: "t".into(), partition: 1, offsets: offsets.into() };
        assert!(!begun.begin(&span("0-9")), "first");
        assert!(begun.begin(&span("0-9")), "again");
        begun.end(&span("0-9"));
        assert!(!begun.begin(&span("10-19")), "the next");
        begun.end(&span("0-9"));
        assert!(begun.begin(&span("10-19")), "an end that came late is not the next one's");
        assert!(!begun.begin(&span("20-29")), "another");
    }
}
