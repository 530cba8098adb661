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
use super::migrate;
use super::native::Origin;
use super::readers::Readers;
use super::server::Server;
use millrace_schemas::{Contract, Contracts, WriterSchema};
use millrace_stream::{Batch, Failure, Handler, Incoming, Reason, Reject, answered, crash_at};
use sqlx::{Connection, PgPool};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use uuid::Uuid;

/// The handler. One serves all partitions of a process.
pub struct ClickHouse {
    server: Server,
    /// The same, with the patience that a change of a table needs.
    migrations: Server,
    /// One table is changed at a time.
    changing: tokio::sync::Mutex<()>,
    readers: Readers,
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
            migrations: Server::with_timeout(config, config.migrate_timeout())?,
            changing: tokio::sync::Mutex::default(),
            readers: Readers::new(super::tables(contracts)?),
            pool,
            begun: Begun::default(),
            metrics,
        })
    }

    async fn insert_all(&self, batch: &Batch<Rows>) -> Result<(), Failure> {
        let Some(span) = batch.block.span(batch.range()) else { return Ok(()) }; // nothing here for a table
        let blocks = batch.block.blocks();
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

    /// Gives the type's table the columns that this schema needs. A schema that may not have them is refused from
    /// now on, for its reason: its records are set aside, and every other one goes on.
    async fn evolve(&self, contract: &Contract, writer: &WriterSchema) -> Result<(), Failure> {
        let _alone = self.changing.lock().await;
        let event_type = &contract.event_type;
        let Some(table) = self.readers.table(event_type) else { return Ok(()) };
        let evolved = match table.evolved(contract, writer.schema) {
            Ok(None) => return Ok(()),
            Ok(Some(evolved)) => migrate::bring(&self.migrations, &[&evolved]).await?.map(|changes| (evolved, changes)),
            Err(why) => Err(format!("schema {} breaks the contract of {event_type}: {why}", writer.id)),
        };
        match evolved {
            Ok((evolved, changes)) => {
                let (table, schema) = (evolved.name(), writer.id);
                tracing::info!(table, schema, "events_raw.{table} follows schema {schema}: {}", said(&changes));
                self.readers.follow(event_type, evolved);
            }
            Err(why) => {
                tracing::error!(table = table.name(), "events written with it are set aside: {why}");
                self.readers.refuse(event_type, writer, why);
            }
        }
        Ok(())
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

fn said(changes: &[String]) -> String {
    if changes.is_empty() { "its columns were there already".into() } else { changes.join("; ") }
}

impl Handler for ClickHouse {
    type Block = Rows;

    async fn meet(&self, contract: &Contract, writer: &WriterSchema) -> Result<(), Failure> {
        let event_type = &contract.event_type;
        self.evolve(contract, writer).await.map_err(|failure| {
            failure.context(format!("could not make room in {event_type}'s table for schema {}", writer.id))
        })
    }

    fn decode(&self, incoming: &Incoming<'_>, rows: &mut Rows) -> Result<bool, Reject> {
        let event_type = &incoming.contract.event_type;
        let Some(reader) = self.readers.get(event_type, incoming.writer) else {
            return Err(Reject::new(Reason::UnknownType, format!("`{event_type}` has no table here")));
        };
        let plan = reader.plan.as_ref().map_err(|error| Reject::new(Reason::DoesNotFit, error))?;
        let columns = rows.of(reader.place, &reader.table, incoming.position);
        plan.append(incoming.datum, &Origin::of(incoming.envelope, incoming.position), columns)?;
        Ok(true)
    }

    async fn apply(&self, batch: &Batch<Rows>) -> Result<(), Failure> {
        self.insert_all(batch).await?;
        self.settle(batch).await
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
