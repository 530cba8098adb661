//! Log against tables: every event that must be in a table is, holds what the log says, and nothing else is there.
//!
//! The log is read again as the pipeline reads it, and each event becomes a row by way of Avro's library and the plain
//! encoder, not by the way it went when it was inserted. Rows are compared by a hash of all their columns.

use super::config::ClickHouseConfig;
use super::erasure::{self, Marks};
use super::readers::Readers;
use super::row::whole::Plan;
use super::server::{Content, Extent, Server, to_anyhow};
use super::table::{Table, Tables};
use anyhow::Context;
use millrace_schemas::{Cleanup, Contract, Contracts, WriterSchema};
use millrace_stream::{Batch, Failure, Handler, Incoming, PartitionProgress, Range, Reason, Reject};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use uuid::Uuid;

/// Differences of a shadow that are told by name; all are counted.
const NAMED_OF_SHADOW: usize = 3;

/// Rows outside of the log that are named, of each table in each partition: where there are more, they are of another
/// log, and their names tell nothing new.
const OUTSIDE_MAX: u64 = 10_000;

/// Events asked for by id in one question.
const IDS_MAX: usize = 1_000;

/// One event that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    pub kind: Kind,
    pub table: String,
    pub topic: String,
    pub partition: i32,
    pub offset: i64,
    pub event_id: Uuid,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// In the log, and in no table.
    Missing,
    /// The table's row does not say what the log says.
    Differs,
    /// In the table, and not at that place of the log.
    Extra,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, table, topic, partition, offset, event_id } = self;
        let what = match kind {
            Kind::Missing => "is missing from",
            Kind::Differs => "differs in",
            Kind::Extra => "is not in the log, but in",
        };
        write!(f, "{topic}[{partition}]@{offset} event {event_id} {what} events_raw.{table}")
    }
}

/// A handler that compares instead of inserting: for [`millrace_stream::scan`].
pub struct Comparison {
    server: Server,
    readers: Readers<Plan>,
    /// By table, as they were when this began.
    personal: BTreeMap<String, Marks>,
    /// Contracts by topic.
    contracts: BTreeMap<String, Vec<Arc<Contract>>>,
    found: Mutex<Found>,
    /// Of the differences between two calls of [`Comparison::take`], those that are told by name.
    named_max: usize,
}

/// What was found since the last time.
#[derive(Debug, Default)]
pub struct Found {
    /// Events that must be in a table.
    pub compared: u64,
    pub differences: u64,
    pub named: Vec<Difference>,
    /// More differences, of which only their number is known.
    pub unnamed: u64,
}

/// Where the rows of tables lie; with the topic that each table is of.
pub struct Extents(Vec<(Arc<Table>, String, Extent)>);

/// What the log says of a batch.
#[derive(Debug, Default)]
pub struct Expected {
    /// By the table's place among all there were.
    tables: BTreeMap<usize, (Arc<Table>, Rows)>,
}

/// Offset and event.
type Place = (i64, Uuid);

/// By offset.
type Rows = BTreeMap<i64, Row>;

/// What the log says of an event.
#[derive(Debug, Clone, Copy)]
struct Row {
    event_id: Uuid,
    hash: [u8; 32],
    /// But for personal columns.
    hash_once_erased: [u8; 32],
}

impl Comparison {
    /// # Errors
    /// A configuration or a contract that cannot be, or a server that does not say which columns are personal.
    pub async fn start(config: &ClickHouseConfig, contracts: &Contracts) -> anyhow::Result<Self> {
        // A scan of a large table takes longer than an insert.
        let server = Server::with_timeout(config, config.migrate_timeout())?;
        Self::of(server, super::tables(config, contracts)?, contracts.iter(), usize::MAX).await
    }

    /// What was found since the last call. Between two batches: so what is named is never more than one of them brings.
    pub fn take(&self) -> Found {
        std::mem::take(&mut *self.found())
    }

    /// What rows of these topics' tables there are, for [`Comparison::outside`]: the log holds all of them, if it is
    /// asked after this.
    pub async fn extents(&self, topics: &[String]) -> anyhow::Result<Extents> {
        let mut extents = Vec::new();
        for contract in topics.iter().filter_map(|topic| self.contracts.get(topic)).flatten() {
            let Some(table) = self.readers.table(&contract.event_type) else { continue };
            let found = self.server.extents(&table).await.map_err(to_anyhow);
            let found = found.with_context(|| format!("events_raw.{}", table.name()))?;
            extents.extend(found.into_iter().map(|extent| (table.clone(), contract.topic.clone(), extent)));
        }
        Ok(Extents(extents))
    }

    /// Notes the rows among them that no range of this log has: of another topic or partition, or beyond its ends.
    /// (What lies before its start it has let go of.)
    pub async fn outside(&self, Extents(extents): &Extents, log: &[PartitionProgress]) -> anyhow::Result<()> {
        for (table, topic, extent) in extents {
            let held = log.iter().find(|held| held.topic == *topic && held.partition == extent.partition);
            let end = held.filter(|_| extent.topic == *topic).map_or(i64::MIN, |held| held.log_end);
            let range = |from, to| Range { topic: extent.topic.clone(), partition: extent.partition, from, to };
            for range in
                [range(extent.least.max(end), extent.greatest.saturating_add(1)), range(extent.least, end.min(0))]
            {
                if range.from < range.to {
                    let (places, count) = self.server.places(table, &range, OUTSIDE_MAX).await.map_err(to_anyhow)?;
                    let places = places.into_iter().map(|place| (Kind::Extra, (place.offset, place.event_id)));
                    self.note(table, &range, 0, places.collect());
                    self.found().unnamed += count.saturating_sub(OUTSIDE_MAX);
                }
            }
        }
        Ok(())
    }

    /// The same for one table's shadow alone.
    pub(super) async fn of_shadow(server: Server, contract: &Arc<Contract>, shadow: &Table) -> anyhow::Result<Self> {
        let tables = Tables::one(&contract.event_type, shadow.clone());
        Self::of(server, tables, std::iter::once(contract), NAMED_OF_SHADOW).await
    }

    async fn of<'c>(
        server: Server,
        tables: Tables,
        compared: impl Iterator<Item = &'c Arc<Contract>>,
        named_max: usize,
    ) -> anyhow::Result<Self> {
        let mut contracts: BTreeMap<String, Vec<Arc<Contract>>> = BTreeMap::new();
        for contract in compared {
            contracts.entry(contract.topic.clone()).or_default().push(contract.clone());
        }
        let (readers, personal) = (Readers::new(tables, Plan::compile), erasure::marks(&server).await);
        let personal = personal.map_err(to_anyhow)?;
        Ok(Self { server, readers, personal, contracts, found: Mutex::default(), named_max })
    }

    fn found(&self) -> std::sync::MutexGuard<'_, Found> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn compare(&self, range: &Range, expected: &Expected) -> anyhow::Result<()> {
        for contract in self.contracts.get(&range.topic).into_iter().flatten() {
            let Some(newest) = self.readers.table(&contract.event_type) else { continue };
            let compacted = contract.cleanup == Cleanup::Compact;
            let compared = self.compare_table(&newest, compacted, range, expected).await;
            compared.with_context(|| format!("events_raw.{}", newest.name()))?;
        }
        Ok(())
    }

    /// A table that gained a column within the batch is looked at once for each of its forms. A compacted log has let
    /// go of records whose rows stay: there only a place that holds another event says that a row is too much.
    async fn compare_table(
        &self,
        newest: &Arc<Table>,
        compacted: bool,
        range: &Range,
        expected: &Expected,
    ) -> anyhow::Result<()> {
        let none = Rows::new();
        let forms: Vec<_> = expected.tables.values().filter(|(table, _)| table.name() == newest.name()).collect();
        let anywhere: HashSet<Place> =
            forms.iter().flat_map(|(_, rows)| rows.iter().map(|(offset, row)| (*offset, row.event_id))).collect();
        let forms = match forms.is_empty() {
            true => vec![(newest, &none)],
            false => forms.into_iter().map(|(table, rows)| (table, rows)).collect(),
        };
        for (table, rows) in forms {
            let contents = self.server.contents(table, self.personal(table), range).await.map_err(to_anyhow)?;
            let (mut differences, missing) = differ(rows, &anywhere, &contents);
            if compacted {
                let held: HashSet<i64> = anywhere.iter().map(|(offset, _)| *offset).collect();
                differences.retain(|(kind, (offset, _))| *kind != Kind::Extra || held.contains(offset));
            }
            differences.extend(self.nowhere(table, missing).await?.into_iter().map(|row| (Kind::Missing, row)));
            self.note(table, range, rows.len(), differences);
        }
        Ok(())
    }

    /// Those of these rows whose event the table holds from no other place either: the log may hold an event twice,
    /// further apart than duplicates are looked for, and a merge keeps one of both.
    async fn nowhere(&self, table: &Table, rows: Vec<Place>) -> anyhow::Result<Vec<Place>> {
        let mut nowhere = Vec::new();
        for rows in rows.chunks(IDS_MAX) {
            let ids: Vec<Uuid> = rows.iter().map(|(_, id)| *id).collect();
            let held = self.server.holds(table, &ids).await.map_err(to_anyhow)?;
            nowhere.extend(rows.iter().filter(|(_, id)| !held.contains(id)));
        }
        Ok(nowhere)
    }

    fn personal(&self, table: &Table) -> &Marks {
        static NONE: Marks = Marks::none();
        self.personal.get(table.name()).unwrap_or(&NONE)
    }

    fn note(&self, table: &Table, range: &Range, compared: usize, rows: Vec<(Kind, Place)>) {
        let mut found = self.found();
        found.compared += compared as u64;
        found.differences += rows.len() as u64;
        let room = self.named_max - found.named.len();
        found.named.extend(rows.into_iter().take(room).map(|(kind, (offset, event_id))| Difference {
            kind,
            table: table.name().to_owned(),
            topic: range.topic.clone(),
            partition: range.partition,
            offset,
            event_id,
        }));
    }
}

/// What differs and what is too much, and what is not at its place. `anywhere`: what the log has there for this table,
/// in whatever form.
fn differ(expected: &Rows, anywhere: &HashSet<Place>, contents: &[Content]) -> (Vec<(Kind, Place)>, Vec<Place>) {
    let mut differences = HashMap::new();
    let mut there = HashSet::new();
    for content in contents {
        let row = (content.offset, content.event_id);
        there.insert(row);
        match expected.get(&content.offset) {
            Some(wanted) if wanted.event_id == content.event_id && wanted.is(content) => {}
            Some(wanted) if wanted.event_id == content.event_id => drop(differences.insert(row, Kind::Differs)),
            _ if anywhere.contains(&row) => {}
            _ => drop(differences.insert(row, Kind::Extra)),
        }
    }
    let mut differences: Vec<_> = differences.into_iter().map(|(row, kind)| (kind, row)).collect();
    differences.sort_by_key(|(_, row)| *row);
    let places = expected.iter().map(|(offset, row)| (*offset, row.event_id));
    (differences, places.filter(|row| !there.contains(row)).collect())
}

impl Row {
    fn is(&self, content: &Content) -> bool {
        content.hash == if content.erased { self.hash_once_erased } else { self.hash }
    }
}

impl Handler for Comparison {
    type Block = Expected;

    /// As the pipeline does, which has given the table the column, unless all that was written with this schema are dead
    /// letters: then no row has it.
    async fn meet(&self, contract: &Contract, writer: &WriterSchema) -> Result<(), Failure> {
        let Some(table) = self.readers.brought(contract, writer) else { return Ok(()) };
        if table.mismatch(&self.server.found().await?).is_none() {
            self.readers.follow(&contract.event_type, table);
        }
        Ok(())
    }

    fn decode(&self, incoming: &Incoming<'_>, expected: &mut Expected) -> Result<bool, Reject> {
        let Some(reader) = self.readers.get(&incoming.contract.event_type, incoming.writer) else { return Ok(false) };
        let plan = reader.plan.as_ref().map_err(|error| Reject::new(Reason::DoesNotFit, error))?;
        let value = incoming.writer.decode(incoming.datum).map_err(|error| Reject::new(Reason::Undecodable, error))?;
        let hash = plan.hash(&BTreeSet::new(), &value, incoming)?;
        let hash_once_erased = match &self.personal(&reader.table).columns {
            none if none.is_empty() => hash, // most tables: an event is encoded once
            personal => plan.hash(personal, &value, incoming)?,
        };
        let row = Row { event_id: incoming.envelope.id, hash, hash_once_erased };
        let (_, rows) = expected.tables.entry(reader.place).or_insert_with(|| (reader.table.clone(), Rows::new()));
        rows.insert(incoming.position.offset, row);
        Ok(true)
    }

    async fn apply(&self, batch: &Batch<Expected>) -> Result<(), Failure> {
        let Some(range) = batch.place() else { return Ok(()) }; // a letter; none is replayed into this
        self.compare(&range, &batch.block).await.map_err(Failure::stop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(offset: i64, id: u128, hash: u8) -> Content {
        Content { offset, event_id: Uuid::from_u128(id), erased: false, hash: [hash; 32] }
    }

    fn expected(rows: &[(i64, u128, u8)]) -> Rows {
        let row =
            |id: u128, hash: u8| Row { event_id: Uuid::from_u128(id), hash: [hash; 32], hash_once_erased: [!hash; 32] };
        rows.iter().map(|(offset, id, hash)| (*offset, row(*id, *hash))).collect()
    }

    fn anywhere(rows: &Rows) -> HashSet<Place> {
        rows.iter().map(|(offset, row)| (*offset, row.event_id)).collect()
    }

    #[test]
    fn a_row_inserted_twice_is_no_difference() {
        let rows = expected(&[(1, 1, 1), (2, 2, 2)]);
        let contents = [content(1, 1, 1), content(2, 2, 2), content(1, 1, 1)];
        assert_eq!(differ(&rows, &anywhere(&rows), &contents), (vec![], vec![]));
    }

    #[test]
    fn a_row_of_somebody_erased_is_compared_without_what_was_emptied() {
        let rows = expected(&[(1, 1, 1), (2, 2, 2)]);
        let emptied = |offset, id, hash: u8| Content { erased: true, ..content(offset, id, !hash) };
        let contents = [emptied(1, 1, 1), emptied(2, 2, 9)];
        let wrong = vec![(Kind::Differs, (2, Uuid::from_u128(2)))];
        assert_eq!(differ(&rows, &anywhere(&rows), &contents), (wrong, vec![]));
    }

    #[test]
    fn what_is_missing_other_or_too_much_is_named() {
        let rows = expected(&[(1, 1, 1), (2, 2, 2), (3, 3, 3)]);
        let contents = [content(2, 2, 9), content(3, 7, 3), content(4, 4, 4)];
        let id = Uuid::from_u128;
        let wrong = vec![(Kind::Differs, (2, id(2))), (Kind::Extra, (3, id(7))), (Kind::Extra, (4, id(4)))];
        assert_eq!(differ(&rows, &anywhere(&rows), &contents), (wrong, vec![(1, id(1)), (3, id(3))]));
    }

    #[test]
    fn a_row_of_the_tables_other_form_is_not_too_much() {
        let (rows, other) = (expected(&[(1, 1, 1)]), expected(&[(2, 2, 2)]));
        let anywhere = anywhere(&rows).union(&anywhere(&other)).copied().collect();
        let contents = [content(1, 1, 1), content(2, 2, 9)];
        assert_eq!(differ(&rows, &anywhere, &contents), (vec![], vec![]));
    }
}
