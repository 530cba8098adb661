//! Rows, dead letters and checkpoint in one transaction, the same way for every projection.
//!
//! ```text
//! begin ─→ settle (fence) ─→ keep others off the rows ─→ load ─→ fold in memory ─→ store ─→ commit
//! ```
//!
//! Who waits for whom: a batch first locks its own checkpoint row (or its dead letter), which no other batch
//! wants; then missing rows are inserted in key order, by batches that hold no row they did not insert; then
//! existing rows are locked in key order. Nobody waits for somebody who waits for them, so no deadlocks. But for dead
//! letters of one event, which whoever gives it its effect settles: Postgres gives one of two up, and it tries again.

use super::body::Body;
use super::projection::{Projection, Rows, Sharing};
use millrace_stream::{Batch, Event, Failure, Handler, Incoming, Reason, Reject, answered, crash_at};
use sqlx::{Connection, PgConnection, PgPool};
use std::collections::BTreeSet;
use std::marker::PhantomData;
use uuid::Uuid;

/// Read committed, because whoever waited for a lock must see what its holder committed. A statement gets
/// less than the drain deadline, so a slow one fails while there is time to hand the partition over; a lock
/// less than that, so the connection is free again for others. (How long a process that died in the middle holds
/// its rows is bounded by [`Batch::settle`], before the first of them is locked.)
const BEGIN: &str = "begin isolation level read committed;
    set local statement_timeout = '15s';
    set local lock_timeout = '5s'";

/// Rows read or written by one statement: bounds its arrays to some hundred kilobytes.
const STATEMENT_ROWS_MAX: usize = 2_000;

/// Runs one projection.
pub struct Projector<P> {
    pool: PgPool,
    projection: PhantomData<P>,
}

impl<P: Projection> Projector<P> {
    /// The pool's `search_path` decides which schema the rows live in.
    pub fn new(pool: PgPool) -> Self {
        Self { pool, projection: PhantomData }
    }
}

impl<P: Projection> Handler for Projector<P> {
    type Block = Vec<Event<P::Event>>;

    fn decode(&self, incoming: &Incoming<'_>, block: &mut Self::Block) -> Result<bool, Reject> {
        let event_type = &*incoming.envelope.event_type;
        if !P::READS.contains(&event_type) {
            return Ok(false);
        }
        let event = P::decode(event_type, &Body::read(incoming.writer, incoming.datum)?)?;
        let Some(event) = event else { return Ok(false) };
        if let Sharing::OnePartition = P::SHARING {
            is_keyed_by(incoming, P::key(&event))?;
        }
        block.push(incoming.event(event));
        Ok(true)
    }

    async fn apply(&self, batch: &Batch<Self::Block>) -> Result<(), Failure> {
        answered(&self.pool, async |connection| transact::<P>(connection, batch).await).await
    }
}

/// A row that the record's key does not name could be met from two partitions at once.
fn is_keyed_by(incoming: &Incoming<'_>, key: Uuid) -> Result<(), Reject> {
    if incoming.key == key.hyphenated().encode_lower(&mut Uuid::encode_buffer()).as_bytes() {
        return Ok(());
    }
    let field = &incoming.contract.key;
    Err(Reject::new(Reason::DoesNotFit, format!("the record is not keyed by its `{field}`, as {key}")))
}

async fn transact<P: Projection>(
    connection: &mut PgConnection,
    batch: &Batch<Vec<Event<P::Event>>>,
) -> Result<(), Failure> {
    let mut tx = connection.begin_with(BEGIN).await?;
    let _settled = batch.settle(&mut tx).await?;
    if !batch.block.is_empty() {
        project::<P>(&mut tx, &batch.block).await?;
    }
    crash_at(&format!("{}_before_commit", P::NAME));
    tx.commit().await?;
    crash_at(&format!("{}_after_commit", P::NAME));
    Ok(())
}

async fn project<P: Projection>(tx: &mut PgConnection, events: &[Event<P::Event>]) -> Result<(), Failure> {
    let keys: BTreeSet<Uuid> = events.iter().map(|event| P::key(&event.body)).collect();
    let keys: Vec<Uuid> = keys.into_iter().collect();
    keep_others_off::<P>(tx, events, &keys).await?;
    let mut rows = Rows::<P>::new();
    for keys in keys.chunks(STATEMENT_ROWS_MAX) {
        P::load(tx, keys, &mut rows).await?;
    }
    fold_all::<P>(&mut rows, events);
    let rows: Vec<(Uuid, P::Row)> = rows.into_iter().collect();
    for rows in rows.chunks(STATEMENT_ROWS_MAX) {
        P::store(tx, rows).await?;
    }
    Ok(())
}

pub(super) fn fold_all<P: Projection>(rows: &mut Rows<P>, events: &[Event<P::Event>]) {
    for event in events {
        let row = rows.entry(P::key(&event.body)).or_default();
        P::fold(row, &event.envelope, &event.body);
    }
}

/// From here on until the commit nobody else changes these rows, also those that are not there yet.
async fn keep_others_off<P: Projection>(
    tx: &mut PgConnection,
    events: &[Event<P::Event>],
    keys: &[Uuid],
) -> Result<(), Failure> {
    match P::SHARING {
        Sharing::OnePartition => lock_partition::<P>(tx, events).await,
        Sharing::ManyPartitions { insert_missing } => {
            // All of them before the first row is locked by `load`: see the top of this file.
            for keys in keys.chunks(STATEMENT_ROWS_MAX) {
                sqlx::query(insert_missing).bind(keys).execute(&mut *tx).await?;
            }
            Ok(())
        }
    }
}

/// The partition's owner is alone, but for a dead letter of the same partition being replayed beside it.
async fn lock_partition<P: Projection>(tx: &mut PgConnection, events: &[Event<P::Event>]) -> Result<(), Failure> {
    let Some(first) = events.first() else { return Ok(()) };
    let name = format!("{} {}[{}]", P::NAME, first.position.topic, first.position.partition);
    sqlx::query("select pg_advisory_xact_lock(hashtextextended($1, 0))").bind(name).execute(tx).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::order_status::OrderStatus;
    use super::*;
    use millrace_schemas::{Contracts, Envelope, WriterSchema, value_from_json};
    use millrace_stream::Position;
    use std::sync::Arc;

    /// Decodes a contract's example, as a record with this key.
    fn decode(event_type: &str, key: &[u8]) -> Result<bool, Reject> {
        let contract = Contracts::embedded().unwrap().get(event_type).unwrap().clone();
        let writer = Arc::new(WriterSchema::parse(1, &contract.newest().text).unwrap());
        let mut datum = Vec::new();
        let example = value_from_json(&contract.newest().schema, &contract.example).unwrap();
        writer.encode_value(&example, &mut datum).unwrap();
        let position = Position { topic: contract.topic.as_str().into(), partition: 0, offset: 0 };
        let envelope = Envelope::new("/shop", event_type, "any");
        let (contract, writer) = (&contract, &writer);
        let (position, envelope, datum) = (&position, &envelope, &datum[..]);
        let incoming = Incoming { position, logged_at: None, key, envelope, contract, writer, datum };
        let nowhere = PgPool::connect_lazy("postgres://nowhere").unwrap();
        Projector::<OrderStatus>::new(nowhere).decode(&incoming, &mut Vec::new())
    }

    #[tokio::test]
    async fn a_row_is_met_by_one_partition_only() {
        let order = "019ab523-41c9-7e6f-b2d4-8a7c05e19f3b";
        assert_eq!(decode("order.placed", order.as_bytes()), Ok(true));
        for key in ["another", &order.to_uppercase(), &order.replace('-', "")] {
            let refused = decode("order.placed", key.as_bytes()).unwrap_err();
            assert_eq!(refused.error, format!("the record is not keyed by its `order_id`, as {order}"));
        }
    }

    #[tokio::test]
    async fn what_a_projection_does_not_read_is_not_for_it() {
        assert_eq!(decode("user.registered", b"any"), Ok(false));
    }
}
