//! The rows of one table within a batch: what is inserted at once, and what Postgres is told beforehand.
//!
//! Pure: the same events always give the same blocks, hashes and tokens, whoever makes them.

use super::native::{Columns, Origin, Plan, hash};
use super::readers::{Reader, Readers};
use super::table::Table;
use bytes::Bytes;
use millrace_stream::{Incoming, Position, Reason, Reject};
use serde_json::{Value, json};
use std::borrow::Cow;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use uuid::Uuid;

/// Part of every token and plan. Raise it when rows are encoded otherwise or tables are rebuilt in place:
/// a server remembers tokens of rows that were deleted since.
const VERSION: u32 = 2;

const HOUR_SECONDS: i64 = 3_600;
const HOUR_MICROS: i64 = HOUR_SECONDS * 1_000_000;

/// What the events of a batch become.
#[derive(Debug, Default)]
pub struct Rows {
    filled: Filled,
    /// By schema: how its records are read as long as this batch is filled.
    readers: BTreeMap<u32, Arc<Reader<Plan>>>,
}

/// Each table's columns, and the partition that they all lie in.
#[derive(Debug, Default)]
struct Filled {
    /// By the table's place among all there were; without rows where every record was refused.
    tables: BTreeMap<usize, (Arc<Table>, Columns)>,
    partition: Option<(Arc<str>, i32)>,
}

/// Where a batch lies: what makes a token its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Span {
    pub topic: Arc<str>,
    pub partition: i32,
    /// `lo-hi`, or the one dead letter.
    pub offsets: String,
}

/// Rows of one table, in the order of the log. Never empty.
pub(super) struct Block<'a> {
    pub table: &'a Table,
    columns: Cow<'a, Columns>,
    bytes: Bytes,
    hash: String,
}

impl Filled {
    /// The columns for an event that was found there.
    fn of(&mut self, place: usize, table: &Arc<Table>, position: &Position) -> &mut Columns {
        self.partition.get_or_insert_with(|| (position.topic.clone(), position.partition));
        &mut self.tables.entry(place).or_insert_with(|| (table.clone(), Columns::new(table))).1
    }
}

impl Rows {
    /// Appends an event to its table's columns; false where its type has no table.
    pub(super) fn append(&mut self, incoming: &Incoming<'_>, known: &Readers<Plan>) -> Result<bool, Reject> {
        let Incoming { position, writer, .. } = incoming;
        let reader = match self.readers.entry(writer.id) {
            Entry::Occupied(reader) => reader.into_mut(),
            Entry::Vacant(unknown) => match known.get(&incoming.contract.event_type, writer) {
                Some(reader) => unknown.insert(reader),
                None => return Ok(false),
            },
        };
        let plan = reader.plan.as_ref().map_err(|error| Reject::new(Reason::DoesNotFit, error))?;
        let columns = self.filled.of(reader.place, &reader.table, position);
        plan.append(incoming.datum, &Origin::of(incoming.envelope, position), columns)?;
        Ok(true)
    }

    /// About the bytes that they take.
    pub(super) fn weight(&self) -> usize {
        self.filled.tables.values().map(|(_, columns)| columns.weight()).sum()
    }

    /// By table: values that stand in for a symbol that the contract does not list.
    pub(super) fn unlisted(&self) -> impl Iterator<Item = (&str, usize)> {
        let unlisted = self.filled.tables.values().map(|(table, columns)| (table.name(), columns.unlisted()));
        unlisted.filter(|(_, values)| *values > 0)
    }

    /// Where the rows lie, given the batch's range; a dead letter has none. `None` when there are no rows.
    pub(super) fn span(&self, range: Option<(i64, i64)>) -> Option<Span> {
        let first = self.filled.tables.values().filter_map(|(_, columns)| columns.offsets().next()).min()?;
        let offsets = match range {
            Some((from, to)) => format!("{from}-{}", to - 1),
            None => format!("letter-{first}"),
        };
        let (topic, partition) = self.filled.partition.clone()?;
        Some(Span { topic, partition, offsets })
    }

    /// One block a table, in the order of the tables; two where the table gained a column within the batch.
    pub(super) fn blocks(&self) -> Vec<Block<'_>> {
        let filled = self.filled.tables.values().filter(|(_, columns)| columns.rows() > 0);
        filled.map(|(table, columns)| Block::new(table, Cow::Borrowed(columns))).collect()
    }
}

/// What is about to be inserted: enough to know later whether the same would be inserted again.
pub(super) fn note(blocks: &[Block<'_>]) -> Value {
    json!({ "version": VERSION, "blocks": blocks.iter().map(Block::about).collect::<Vec<_>>() })
}

impl<'a> Block<'a> {
    fn new(table: &'a Table, columns: Cow<'a, Columns>) -> Self {
        let mut bytes = Vec::new();
        columns.finish(&mut bytes);
        let hash = hash(&bytes);
        Self { table, columns, bytes: bytes.into(), hash }
    }

    pub fn len(&self) -> usize {
        self.columns.rows()
    }

    /// The least and the greatest.
    pub fn offsets(&self) -> (i64, i64) {
        bounds(self.columns.offsets())
    }

    /// Of the latest event, in microseconds since 1970.
    pub fn newest(&self) -> i64 {
        self.columns.occurred_at().fold(i64::MIN, i64::max)
    }

    /// Those in which its events occurred, in seconds since 1970.
    pub fn hours(&self) -> Vec<i64> {
        let hour = |micros: i64| micros.div_euclid(HOUR_MICROS) * HOUR_SECONDS;
        let hours: BTreeSet<i64> = self.columns.occurred_at().map(hour).collect();
        hours.into_iter().collect()
    }

    fn about(&self) -> Value {
        json!({ "table": self.table.name(), "rows": self.len(), "hash": self.hash })
    }

    /// What the server knows this insert by. Holds the content's hash: rows that differ are never taken for these.
    pub fn token(&self, span: &Span) -> String {
        let Span { topic, partition, offsets } = span;
        let (name, table, hash) = (super::NAME, self.table.name(), &self.hash);
        format!("{name}:{VERSION}:{topic}:{partition}:{offsets}:{table}:{hash}")
    }

    /// The insert's body.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The rows that the server does not have, by offset and event; none when it has them all.
    pub fn without(&self, found: &HashSet<(i64, Uuid)>) -> Option<Self> {
        let rows = self.columns.offsets().zip(self.columns.event_ids());
        let missing: Vec<bool> = rows.map(|row| !found.contains(&row)).collect();
        let some = missing.contains(&true);
        some.then(|| Self::new(self.table, Cow::Owned(self.columns.select(|row| missing[row]))))
    }
}

fn bounds(values: impl Iterator<Item = i64>) -> (i64, i64) {
    let (least, greatest) =
        values.fold((i64::MAX, i64::MIN), |(least, greatest), value| (least.min(value), greatest.max(value)));
    (least, greatest)
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::table::Tables;
    use super::*;
    use chrono::DateTime;
    use millrace_schemas::{Contracts, Envelope, WriterSchema, value_from_json};

    pub fn tables() -> Tables {
        Tables::of(&Contracts::embedded().unwrap()).unwrap()
    }

    /// Each type's example, as `(offset, type, event id)`.
    pub fn rows(tables: &Tables, events: &[(i64, &str, u128)]) -> Rows {
        let mut rows = Rows::default();
        events.iter().for_each(|(offset, event_type, id)| append(&mut rows, tables, *offset, event_type, *id));
        rows
    }

    fn append(rows: &mut Rows, tables: &Tables, offset: i64, event_type: &str, id: u128) {
        let contracts = Contracts::embedded().unwrap();
        let contract = contracts.get(event_type).unwrap();
        let writer = WriterSchema::parse(7, &contract.newest().text).unwrap();
        let mut datum = Vec::new();
        writer.encode_value(&value_from_json(writer.schema, &contract.example).unwrap(), &mut datum).unwrap();
        let mut envelope = Envelope::new("/shop", event_type, "o-1");
        envelope.id = Uuid::from_u128(id);
        envelope.occurred_at = DateTime::from_timestamp_micros(1_000 - offset).unwrap();
        let position = Position { topic: "shop.order.v1".into(), partition: 3, offset };
        let index = tables.index(event_type).unwrap();
        let plan = Plan::compile(&writer, tables.get(index)).unwrap();
        let columns = rows.filled.of(index, tables.get(index), &position);
        plan.append(&datum, &Origin::of(&envelope, &position), columns).unwrap();
    }

    const MIXED: [(i64, &str, u128); 3] =
        [(100, "payment.captured", 1), (101, "order.placed", 2), (103, "payment.captured", 3)];

    #[test]
    fn a_batch_is_one_block_a_table_and_its_plan_says_what_is_in_it() {
        let (tables, other) = (tables(), tables());
        let rows = rows(&tables, &MIXED);
        let blocks = rows.blocks();
        let found: Vec<_> = blocks.iter().map(|block| (block.table.name(), block.len())).collect();
        assert_eq!(found, [("order_placed", 1), ("payment_captured", 2)]);
        assert_eq!((blocks[1].offsets(), blocks[1].newest(), blocks[1].hours()), ((100, 103), 900, vec![0]));
        let note = note(&blocks);
        let about = json!([
            { "table": "order_placed", "rows": 1, "hash": blocks[0].hash },
            { "table": "payment_captured", "rows": 2, "hash": blocks[1].hash },
        ]);
        assert_eq!(note, json!({ "version": VERSION, "blocks": about }));
        let again = super::tests::rows(&other, &MIXED);
        assert_eq!(super::note(&again.blocks()), note, "whoever makes it");
    }

    #[test]
    fn a_token_names_pipeline_place_table_and_content() {
        let tables = tables();
        let rows = rows(&tables, &MIXED);
        let (block, span) = (&rows.blocks()[1], rows.span(Some((100, 104))).unwrap());
        let hash = hash(block.bytes());
        assert_eq!(block.token(&span), format!("clickhouse:2:shop.order.v1:3:100-103:payment_captured:{hash}"));
        assert_eq!(rows.span(None).unwrap().offsets, "letter-100");
        assert_eq!(Rows::default().span(None), None);
    }

    #[test]
    fn rows_that_differ_are_neither_the_planned_ones_nor_share_their_token() {
        let tables = tables();
        let (before, after) = (rows(&tables, &[(1, "order.placed", 1)]), rows(&tables, &[(1, "order.placed", 2)]));
        let span = before.span(Some((1, 2))).unwrap();
        let (before, after) = (before.blocks(), after.blocks());
        assert_ne!(note(&after), note(&before));
        assert_ne!(before[0].token(&span), after[0].token(&span));
    }

    #[test]
    fn what_is_missing_is_a_block_of_its_own() {
        let tables = tables();
        let rows = rows(&tables, &MIXED);
        let block = &rows.blocks()[1];
        let id = |at: usize| Uuid::from_u128(MIXED[at].2);
        let missing = block.without(&HashSet::from([(100, id(0))])).unwrap();
        assert_eq!((missing.len(), missing.offsets()), (1, (103, 103)));
        let alone = super::tests::rows(&tables, &MIXED[2..]);
        assert_eq!(missing.bytes(), alone.blocks()[0].bytes());
        assert!(block.without(&HashSet::from([(100, id(0)), (103, id(2))])).is_none());
    }

    #[test]
    fn rows_of_a_topic_that_was_made_anew_since_are_not_these_rows() {
        let tables = tables();
        let rows = rows(&tables, &MIXED);
        let former = HashSet::from([(100, Uuid::from_u128(77)), (103, Uuid::from_u128(78))]);
        assert_eq!(rows.blocks()[1].without(&former).unwrap().len(), 2);
    }
}
