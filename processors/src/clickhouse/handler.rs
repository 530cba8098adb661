//! The pipeline `clickhouse`: every event of every type becomes a row of its type's table, once.
//!
//! ```text
//! batch ─→ blocks ─→ plan in Postgres ─→ insert each ─→ settle in Postgres
//! ```
//!
//! `protocol` decides what comes next; here it is done.

use super::block::{Block, Rows, Span, note};
use super::config::ClickHouseConfig;
use super::metrics::SinkMetrics;
use super::migrate;
use super::native::{Plan, Unlisted};
use super::protocol::{Attempt, Step, Token, repeats};
use super::readers::Readers;
use super::rebuild::unless_exchanged;
use super::rounds::HandOver;
use super::server::Server;
use super::table::Table;
use super::together::{Insert, Inserting, Together};
use chrono::{TimeDelta, Utc};
use millrace_schemas::{Contract, Contracts, Envelope, WriterSchema};
use millrace_stream::{
    Batch, Failure, Handler, Incoming, Planned, Position, Reason, Reject, answered, crash_at, keep_as_it_is,
    keep_moving,
};
use sqlx::{Connection, PgPool};
use std::collections::VecDeque;
use std::collections::hash_map::{Entry, HashMap};
use std::time::Instant;
use tokio::sync::Semaphore;
use uuid::Uuid;

/// The handler. One serves all partitions of a process.
pub struct ClickHouse {
    server: Server,
    inserts: Together<Measured>,
    /// The same, with the patience that a change of a table needs.
    migrations: Server,
    /// One table is changed at a time.
    changing: tokio::sync::Mutex<()>,
    readers: Readers<Plan>,
    pool: PgPool,
    /// Bounds the batches that are repeated at once.
    repeating: Semaphore,
}

/// A look reads the hours of a whole block for the rows of one partition: where everything has to be repeated, few
/// that get done come further than many that are too late.
const REPEATS_MAX: usize = 4;

/// Batches whose newest record was logged so long ago come from behind: nobody gains by being early among them, and
/// all are through sooner in larger inserts.
const BEHIND: TimeDelta = TimeDelta::seconds(5);

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
        let server = Server::new(config)?;
        Ok(Self {
            inserts: Together::new(Measured { server: server.clone(), metrics }, config.inserts_per_second),
            server,
            migrations: Server::with_timeout(config, config.migrate_timeout())?,
            changing: tokio::sync::Mutex::default(),
            readers: Readers::new(super::tables(config, contracts)?, compile),
            pool,
            repeating: Semaphore::new(REPEATS_MAX),
        })
    }

    /// What could not be inserted waits for another try, and holds up no rebuild of its table meanwhile.
    async fn insert_or_lay_down(
        &self,
        batch: &Batch<Rows>,
        span: &Span,
        hand_over: Option<HandOver>,
    ) -> Result<Option<Planned>, Failure> {
        let mut planned = None;
        let inserted = self.insert_all(batch, span, hand_over, &mut planned).await;
        if let (Err(_), Some(planned)) = (&inserted, &planned)
            && let Err(failure) = planned.lay_down(&self.pool).await
        {
            tracing::debug!("a rebuild would wait for {}[{}]: {failure}", span.topic, span.partition);
        }
        inserted.map(|()| planned)
    }

    async fn insert_all(
        &self,
        batch: &Batch<Rows>,
        span: &Span,
        hand_over: Option<HandOver>,
        planned: &mut Option<Planned>,
    ) -> Result<(), Failure> {
        let _as_it_is = match batch.range() {
            None => Some(self.begin(&span.topic, || keep_as_it_is(&self.pool, &span.topic)).await?),
            Some(_) => None,
        };
        let blocks = batch.block.blocks();
        let repeats = repeats(batch.range(), batch.inherited(), batch.was_planned());
        let mut hand_over = hand_over.filter(|_| !repeats); // whose inserts go alone
        let _one_of_few = if repeats { self.repeating.acquire().await.ok() } else { None };
        let mut attempt = Attempt::new(blocks.len(), repeats);
        let (mut inserting, mut missing) = (VecDeque::new(), None);
        loop {
            match attempt.step() {
                Step::Plan => {
                    *planned = self.begin(&span.topic, || self.plan(batch, &blocks)).await?;
                    if !repeats {
                        // All of them: the more wait, the more go together.
                        inserting = blocks.iter().map(|block| self.insert(block, span)).collect();
                    }
                    if let Some(mut hand_over) = hand_over.take() {
                        hand_over.brings(&blocks, is_behind(batch));
                    }
                }
                Step::Insert(_) => inserting.pop_front().expect("one a block").await?,
                Step::Look(at) => {
                    missing = self.look(&blocks[at], span).await?;
                    // Where all of them are missing, whoever had planned them came no further: nothing to speak of.
                    let some = missing.iter().filter(|missing| missing.len() < blocks[at].len());
                    some.for_each(|missing| {
                        warn("rows of an unfinished insert were not there", missing, &blocks[at], span)
                    });
                }
                Step::InsertMissing(_, token) => self.insert_again(missing.as_ref(), span, token).await?,
                Step::LookAgain(at) => {
                    missing = self.look(&blocks[at], span).await?;
                    let lost = missing.iter();
                    lost.for_each(|missing| {
                        warn("rows were not there after a repeated insert", missing, &blocks[at], span)
                    });
                }
                Step::Settle => break,
            }
            attempt.done(missing.is_some());
        }
        crash_at("clickhouse_inserted");
        Ok(())
    }

    async fn begin<T, B>(&self, topic: &str, begin: impl Fn() -> B) -> Result<T, Failure>
    where
        B: Future<Output = Result<T, Failure>>,
    {
        unless_exchanged(&self.server, &self.pool, &[topic], begin).await
    }

    async fn plan(&self, batch: &Batch<Rows>, blocks: &[Block<'_>]) -> Result<Option<Planned>, Failure> {
        let planned = batch.plan(&self.pool, &note(blocks)).await?;
        crash_at("clickhouse_planned");
        Ok(planned)
    }

    /// Is queued at once.
    fn insert(&self, block: &Block<'_>, span: &Span) -> impl Future<Output = Result<(), Failure>> + use<> {
        let (inserting, what) = (self.inserts.insert(Insert::of(block, span)), could_not_insert(block));
        async { inserting.await.map_err(|failure| failure.context(what)) }
    }

    /// The rows that the server does not have.
    async fn look<'b>(&self, block: &Block<'b>, span: &Span) -> Result<Option<Block<'b>>, Failure> {
        let table = block.table.name();
        let found = self.server.rows(block, span).await;
        let found = found.map_err(|failure| failure.context(format!("could not read events_raw.{table} back")))?;
        Ok(block.without(&found))
    }

    /// Alone, since only so it has a token.
    async fn insert_again(&self, missing: Option<&Block<'_>>, span: &Span, token: Token) -> Result<(), Failure> {
        let Some(missing) = missing else { return Ok(()) };
        let mut insert = Insert::of(missing, span);
        if matches!(token, Token::Unseen) {
            insert.token = insert.token.map(|own| format!("{own}:{}", Uuid::now_v7()));
        }
        let inserted = self.inserts.server().insert(&insert).await;
        inserted.map_err(|failure| failure.context(could_not_insert(missing)))
    }

    /// Gives the type's table the columns that this schema needs. A schema that may not have them is refused from
    /// now on, for its reason: its records are set aside, and every other one goes on.
    async fn evolve(&self, contract: &Contract, writer: &WriterSchema) -> Result<(), Failure> {
        let _alone = self.changing.lock().await;
        let topic = [contract.topic.as_str()];
        let _moving = self.begin(&contract.topic, || keep_moving(&self.pool, &topic)).await?;
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
                crash_at("evolve_marked");
                self.readers.follow(event_type, evolved);
            }
            Err(why) => {
                if self.readers.refuse(writer, why.clone()) {
                    tracing::error!(table = table.name(), "events written with it are set aside: {why}");
                }
            }
        }
        Ok(())
    }

    async fn settle(&self, batch: &Batch<Rows>, planned: Option<&Planned>) -> Result<(), Failure> {
        answered(&self.pool, async |connection| {
            let mut transaction = connection.begin().await?;
            let _settled = batch.settle_planned(&mut transaction, planned).await?;
            Ok(transaction.commit().await?)
        })
        .await?;
        crash_at("clickhouse_settled");
        Ok(())
    }
}

fn is_behind(batch: &Batch<Rows>) -> bool {
    batch.logged_at().is_some_and(|at| Utc::now() - at > BEHIND)
}

fn could_not_insert(block: &Block<'_>) -> String {
    format!("could not insert {} rows into events_raw.{}", block.len(), block.table.name())
}

fn warn(what: &str, missing: &Block<'_>, of: &Block<'_>, span: &Span) {
    tracing::warn!(
        table = of.table.name(), topic = %span.topic, partition = span.partition, offsets = span.offsets,
        "{} of {} {what}: inserting these", missing.len(), of.len()
    );
}

/// The server, and what its inserts cost.
struct Measured {
    server: Server,
    metrics: SinkMetrics,
}

impl Inserting for Measured {
    async fn insert(&self, insert: &Insert) -> Result<(), Failure> {
        let started = Instant::now();
        self.server.insert(insert).await?;
        self.metrics.wrote(insert, started.elapsed());
        Ok(())
    }
}

/// Says what a schema's events lose in this table: once for each form of the table.
fn compile(writer: &WriterSchema, table: &Table) -> Result<Plan, String> {
    let plan = Plan::compile(writer, table)?;
    for Unlisted { column, symbols, default } in plan.unlisted() {
        let (table, schema, symbols) = (table.name(), writer.id, symbols.join(", "));
        tracing::warn!(
            table,
            schema,
            column,
            "the contract does not list {symbols}, which events of schema {schema} may hold: stored as {default}. \
             Give this process the newer contract, then `millrace rebuild clickhouse {table}` brings them back"
        );
    }
    Ok(plan)
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
        if !rows.append(incoming, &self.readers)? {
            let event_type = &incoming.contract.event_type;
            return Err(Reject::new(Reason::UnknownType, format!("`{event_type}` has no table here")));
        }
        Ok(true)
    }

    fn weight(&self, rows: &Rows) -> Option<usize> {
        Some(rows.weight())
    }

    async fn effect_of(&self, records: &[(Position, Envelope<'_>)]) -> Result<Option<usize>, Failure> {
        let mut looked = HashMap::new(); // what is sent again and again is mostly of one key
        for (at, (Position { topic, partition, offset }, envelope)) in records.iter().enumerate() {
            let Some(table) = self.readers.table(&envelope.event_type) else { continue };
            let there = match looked.entry((&envelope.event_type, &envelope.subject, envelope.occurred_at)) {
                Entry::Occupied(there) => there.into_mut(),
                Entry::Vacant(key) => key.insert(self.server.places_of(&table, topic, envelope).await?),
            };
            if there.contains(&(*partition, *offset)) {
                return Ok(Some(at));
            }
        }
        Ok(None)
    }

    async fn turn(&self, topic: &str, partition: i32) {
        self.inserts.rounds().join(topic, partition).await;
    }

    async fn apply(&self, batch: &Batch<Rows>) -> Result<(), Failure> {
        let hand_over = batch.place().map(|place| self.inserts.rounds().hand_over(&place.topic, place.partition));
        let Some(span) = batch.block.span(batch.range()) else {
            drop(hand_over);
            return self.settle(batch, None).await; // nothing for a table
        };
        let planned = self.insert_or_lay_down(batch, &span, hand_over).await?;
        self.settle(batch, planned.as_ref()).await?;
        let metrics = &self.inserts.server().metrics;
        batch.block.unlisted().for_each(|(table, values)| metrics.stored_unlisted(table, values));
        Ok(())
    }
}
