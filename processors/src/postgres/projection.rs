//! What a projection is: a pure fold from events to rows of Postgres, and the SQL that reads and writes them.
//!
//! It never opens a transaction, never settles a batch and never decides about retries: `handler` does.

use super::body::Body;
use chrono::{DateTime, SubsecRound, Utc};
use millrace_schemas::Envelope;
use millrace_stream::Reject;
use sqlx::PgConnection;
use std::collections::BTreeMap;
use uuid::Uuid;

/// Rows by key, in key order: the order in which they are locked.
pub type Rows<P> = BTreeMap<Uuid, <P as Projection>::Row>;

/// One read model. Each event touches one row, and that row is all its fold can see.
///
/// **The law:** the same events give the same row in any order and in any batches. Partitions interleave as
/// they like, and a dead letter may be replayed after everything that followed it. So folds are sums, minima
/// and maxima, and whatever wins wins by its event's time.
pub trait Projection: Send + Sync + 'static {
    /// The table, the consumer group's suffix, the metrics' label, the argument on the command line.
    const NAME: &'static str;

    /// The event types it reads. Their contracts tell in which topics they travel.
    const READS: &'static [&'static str];

    /// Who else may be writing the same row.
    const SHARING: Sharing;

    /// The events it reads, each with the fields it needs.
    type Event: Send + Sync;

    /// All that the table holds about one key. The default is a row that has met no event.
    type Row: Default + Send + Sync;

    /// Called for the types it reads. `None` when the event says nothing to this projection.
    ///
    /// # Errors
    /// What is wrong with this record: it becomes a dead letter.
    fn decode(event_type: &str, body: &Body) -> Result<Option<Self::Event>, Reject>;

    /// Which row the event touches.
    fn key(event: &Self::Event) -> Uuid;

    /// Pure and infallible, and under the law above.
    fn fold(row: &mut Self::Row, envelope: &Envelope, event: &Self::Event);

    /// Reads the rows there are. Shared rows are locked in key order: `… order by key for update`.
    fn load(
        tx: &mut PgConnection,
        keys: &[Uuid],
        rows: &mut Rows<Self>,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send
    where
        Self: Sized;

    /// Writes rows as they are now, whether or not they were there.
    fn store(tx: &mut PgConnection, rows: &[(Uuid, Self::Row)])
    -> impl Future<Output = Result<(), sqlx::Error>> + Send;
}

/// Who may write a row at the same moment.
#[derive(Debug, Clone, Copy)]
pub enum Sharing {
    /// The row's key is the record's key: one partition meets it, and nobody but a replay writes it meanwhile.
    OnePartition,
    /// Several partitions meet the row at once. The statement makes the rows that are missing, in key order
    /// (`$1` holds the keys), so that there is something to lock.
    ManyPartitions { insert_missing: &'static str },
}

/// When it happened, as precisely as Postgres keeps it: a row just folded and the same row read back must
/// compare alike, or the outcome would depend on where a batch ended.
pub fn happened_at(envelope: &Envelope) -> DateTime<Utc> {
    envelope.occurred_at.trunc_subsecs(6)
}
