//! The rows of one table within a batch: what is inserted at once, and what Postgres is told beforehand.
//!
//! Pure: the same events always give the same blocks, hashes and tokens, whoever makes them.

use super::handler::Row;
use super::table::{Table, Tables};
use bytes::Bytes;
use millrace_stream::Event;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::HashSet;
use std::fmt::Write;
use uuid::Uuid;

/// Part of every token and plan. Raise it when rows are encoded otherwise or tables are rebuilt in place:
/// a server remembers tokens of rows that were deleted since.
const VERSION: u32 = 1;

/// Where a batch lies: what makes a token its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Span {
    pub topic: String,
    pub partition: i32,
    /// `lo-hi`, or the one dead letter.
    pub offsets: String,
}

/// Rows of one table, in the order of the log. Never empty.
pub(super) struct Block<'a> {
    pub table: &'a Table,
    events: Vec<&'a Event<Row>>,
    hash: String,
}

/// One block a table, in the order of the tables.
pub(super) fn blocks<'a>(events: &'a [Event<Row>], tables: &'a Tables) -> Vec<Block<'a>> {
    let of_table = |(index, table)| {
        let events: Vec<_> = events.iter().filter(|event| event.body.table == index).collect();
        (!events.is_empty()).then(|| Block::new(table, events))
    };
    tables.iter().enumerate().filter_map(of_table).collect()
}

/// What is about to be inserted: enough to know later whether the same would be inserted again.
pub(super) fn note(blocks: &[Block<'_>]) -> Value {
    let table = |block: &Block<'_>| {
        let about = json!({ "rows": block.len(), "hash": block.hash });
        (block.table.name().to_owned(), about)
    };
    json!({ "version": VERSION, "tables": blocks.iter().map(table).collect::<serde_json::Map<_, _>>() })
}

impl<'a> Block<'a> {
    fn new(table: &'a Table, events: Vec<&'a Event<Row>>) -> Self {
        let hash = hash(&events);
        Self { table, events, hash }
    }

    pub fn len(&self) -> usize {
        self.events.len()
    }

    /// Topic and partition: a batch has one of each.
    pub fn partition(&self) -> (&str, i32) {
        let position = &self.events[0].position;
        (&position.topic, position.partition)
    }

    /// The least and the greatest of something.
    pub fn bounds(&self, of: impl Fn(&Event<Row>) -> i64) -> (i64, i64) {
        let each = || self.events.iter().map(|event| of(event));
        (each().min().unwrap_or_default(), each().max().unwrap_or_default())
    }

    /// Was exactly this block planned before? An older binary or contract may have encoded it otherwise.
    pub fn is_in(&self, note: &Value) -> bool {
        let planned = &note["tables"][self.table.name()];
        note["version"] == VERSION && planned["rows"] == self.len() && planned["hash"] == self.hash
    }

    /// What the server knows this insert by. Holds the content's hash: rows that differ are never taken for these.
    pub fn token(&self, span: &Span) -> String {
        let Span { topic, partition, offsets } = span;
        let (name, table, hash) = (super::NAME, self.table.name(), &self.hash);
        format!("{name}:{VERSION}:{topic}:{partition}:{offsets}:{table}:{hash}")
    }

    /// The insert's body.
    pub fn bytes(&self) -> Bytes {
        let mut bytes = self.table.block_header();
        bytes.reserve(self.events.iter().map(|event| event.body.bytes.len()).sum());
        self.events.iter().for_each(|event| bytes.extend_from_slice(&event.body.bytes));
        bytes.into()
    }

    /// The rows that the server does not have, by offset and event; none when it has them all.
    pub fn without(&self, found: &HashSet<(i64, Uuid)>) -> Option<Self> {
        let missing = |event: &&&Event<Row>| !found.contains(&(event.position.offset, event.envelope.id));
        let events: Vec<_> = self.events.iter().filter(missing).copied().collect();
        (!events.is_empty()).then(|| Self::new(self.table, events))
    }
}

/// Half of SHA-256: 128 bits are plenty to tell blocks of one range apart.
const HASH_BYTES: usize = 16;

fn hash(events: &[&Event<Row>]) -> String {
    let mut digest = Sha256::new();
    events.iter().for_each(|event| digest.update(&event.body.bytes));
    digest.finalize()[..HASH_BYTES].iter().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::{DateTime, Utc};
    use millrace_schemas::{Contracts, Envelope};
    use millrace_stream::Position;

    fn tables() -> Tables {
        Tables::of(&Contracts::embedded().unwrap()).unwrap()
    }

    /// `(offset, type, bytes)`.
    fn events(tables: &Tables, events: &[(i64, &str, &[u8])]) -> Vec<Event<Row>> {
        let event = |(offset, event_type, bytes): &(i64, &str, &[u8])| {
            let mut envelope = Envelope::new("/shop", event_type, "o-1");
            envelope.occurred_at = DateTime::<Utc>::from_timestamp_micros(1_000 - offset).unwrap();
            Event {
                position: Position { topic: "shop.order.v1".into(), partition: 3, offset: *offset },
                logged_at: None,
                schema_id: 1,
                envelope,
                body: Row { table: tables.index(event_type).unwrap(), bytes: bytes.to_vec() },
            }
        };
        events.iter().map(event).collect()
    }

    const MIXED: [(i64, &str, &[u8]); 3] =
        [(100, "payment.captured", b"p1"), (101, "order.placed", b"o1"), (103, "payment.captured", b"p2")];

    fn span() -> Span {
        Span { topic: "shop.order.v1".into(), partition: 3, offsets: "100-103".into() }
    }

    #[test]
    fn a_batch_is_one_block_a_table_and_its_plan_says_what_is_in_it() {
        let (tables, other) = (tables(), tables());
        let events = events(&tables, &MIXED);
        let blocks = blocks(&events, &tables);
        let found: Vec<_> = blocks.iter().map(|block| (block.table.name(), block.len())).collect();
        assert_eq!(found, [("order_placed", 1), ("payment_captured", 2)]);
        let note = note(&blocks);
        let tables = json!({
            "order_placed": { "rows": 1, "hash": blocks[0].hash },
            "payment_captured": { "rows": 2, "hash": blocks[1].hash },
        });
        assert_eq!(note, json!({ "version": VERSION, "tables": tables }));
        assert!(blocks.iter().all(|block| block.is_in(&note)));
        assert_eq!(super::note(&super::blocks(&events, &other)), note, "whoever makes it");
    }

    #[test]
    fn a_token_names_pipeline_place_table_and_content() {
        let tables = tables();
        let events = events(&tables, &MIXED);
        let block = &blocks(&events, &tables)[1];
        let hash = &block.hash;
        assert_eq!(block.token(&span()), format!("clickhouse:1:shop.order.v1:3:100-103:payment_captured:{hash}"));
        assert_eq!(*hash, "41bfaa0fc66e611dbaaa4b48a8f21b6c", "half of SHA-256 of `p1p2`");
    }

    #[test]
    fn rows_that_differ_are_neither_the_planned_ones_nor_share_their_token() {
        let tables = tables();
        let (before, after) =
            (events(&tables, &[(1, "order.placed", b"a")]), events(&tables, &[(1, "order.placed", b"b")]));
        let (before, after) = (blocks(&before, &tables), blocks(&after, &tables));
        assert!(!after[0].is_in(&note(&before)) && !after[0].is_in(&json!({})));
        assert_ne!(before[0].token(&span()), after[0].token(&span()));
    }

    #[test]
    fn what_is_missing_is_a_block_of_its_own() {
        let tables = tables();
        let events = events(&tables, &MIXED);
        let block = &blocks(&events, &tables)[1];
        let id = |at: usize| events[at].envelope.id;
        let missing = block.without(&HashSet::from([(100, id(0))])).unwrap();
        assert_eq!((missing.len(), missing.bounds(|event| event.position.offset)), (1, (103, 103)));
        assert!(missing.bytes().ends_with(b"p2") && missing.token(&span()) != block.token(&span()));
        assert!(block.without(&HashSet::from([(100, id(0)), (103, id(2))])).is_none());
    }

    #[test]
    fn rows_of_a_topic_that_was_made_anew_since_are_not_these_rows() {
        let tables = tables();
        let events = events(&tables, &MIXED);
        let former = HashSet::from([(100, Uuid::now_v7()), (103, Uuid::now_v7())]);
        assert_eq!(blocks(&events, &tables)[1].without(&former).unwrap().len(), 2);
    }

    #[test]
    fn a_block_begins_with_its_columns_names_and_types() {
        let tables = tables();
        let events = events(&tables, &MIXED);
        let (block, header) = (&blocks(&events, &tables)[1], tables.get(events[0].body.table).block_header());
        assert_eq!(block.bytes(), [&header, &b"p1p2"[..]].concat());
        assert!(header.starts_with(b"\x11\x0apayment_id\x08order_id"));
    }
}
