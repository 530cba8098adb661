//! How each schema's records are read into which table, while tables gain columns.
//!
//! A table is never changed here: it is followed by another one, with a place of its own. Whoever was told of a
//! reader keeps it, so a batch in hand may hold blocks of both.

use super::table::{Table, Tables};
use millrace_schemas::{Contract, WriterSchema};
use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Registries hold few schemas: one entry for each lives as long as the process.
pub(super) struct Readers<P> {
    known: RwLock<Known<P>>,
    compile: Compile<P>,
}

/// Makes a plan, or says why no value of that schema fits the table.
type Compile<P> = fn(&WriterSchema, &Table) -> Result<P, String>;

struct Known<P> {
    tables: Tables,
    /// By schema, whatever table its type has by now: why its records are set aside.
    refused: HashMap<u32, String>,
    /// By schema and place of the table.
    readers: HashMap<(u32, usize), Arc<Reader<P>>>,
}

/// From one schema into one table.
#[derive(Debug)]
pub(super) struct Reader<P> {
    /// The table's place among all there were.
    pub place: usize,
    pub table: Arc<Table>,
    pub plan: Result<P, String>,
}

impl<P> Readers<P> {
    pub fn new(tables: Tables, compile: Compile<P>) -> Self {
        Self { known: RwLock::new(Known { tables, refused: HashMap::new(), readers: HashMap::new() }), compile }
    }

    /// The table of an event type as it is now.
    pub fn table(&self, event_type: &str) -> Option<Arc<Table>> {
        let known = self.known();
        Some(known.tables.get(known.tables.index(event_type)?).clone())
    }

    /// The reader of a schema; none where the type has no table.
    pub fn get(&self, event_type: &str, writer: &WriterSchema) -> Option<Arc<Reader<P>>> {
        let known = self.known();
        let place = known.tables.index(event_type)?;
        if let Some(reader) = known.readers.get(&(writer.id, place)) {
            return Some(reader.clone());
        }
        let table = known.tables.get(place).clone();
        drop(known);
        let plan = (self.compile)(writer, &table);
        Some(self.change().put(writer.id, Reader { place, table, plan }))
    }

    /// What a schema makes of its type's table; none where it brings nothing, or breaks the contract, and is refused.
    pub fn brought(&self, contract: &Contract, writer: &WriterSchema) -> Option<Table> {
        let evolved = self.table(&contract.event_type)?.evolved(contract, writer.schema);
        evolved.unwrap_or_else(|why| {
            self.refuse(writer, why);
            None
        })
    }

    /// From now on the type's events go into this table.
    pub fn follow(&self, event_type: &str, table: Table) {
        self.change().tables.follow(event_type, table);
    }

    /// From now on no value of this schema fits the type's table, for this reason. False when that was known.
    pub fn refuse(&self, writer: &WriterSchema, why: String) -> bool {
        let mut known = self.change();
        known.readers.retain(|(schema, _), _| *schema != writer.id);
        known.refused.insert(writer.id, why).is_none()
    }

    fn known(&self) -> RwLockReadGuard<'_, Known<P>> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self) -> RwLockWriteGuard<'_, Known<P>> {
        self.known.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<P> Known<P> {
    /// But for a schema that is refused: its records are set aside, whatever could be read of them.
    fn put(&mut self, schema: u32, reader: Reader<P>) -> Arc<Reader<P>> {
        let reader = match self.refused.get(&schema) {
            Some(why) => Reader { plan: Err(why.clone()), ..reader },
            None => reader,
        };
        self.readers.entry((schema, reader.place)).or_insert_with(|| Arc::new(reader)).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use millrace_schemas::Contracts;

    #[test]
    fn a_refused_schema_stays_refused_when_its_table_gains_a_column() {
        let contracts = Contracts::embedded().unwrap();
        let contract = contracts.get("order.placed").unwrap();
        let writer = WriterSchema::parse(7, &contract.newest().text).unwrap();
        let readers = Readers::new(Tables::of(&contracts).unwrap(), |_, _| Ok(()));
        assert!(readers.get("order.placed", &writer).unwrap().plan.is_ok());
        assert!(readers.refuse(&writer, "breaks".into()) && !readers.refuse(&writer, "breaks".into()));
        assert_eq!(readers.get("order.placed", &writer).unwrap().plan, Err("breaks".into()));
        readers.follow("order.placed", Table::of(contract).unwrap());
        assert_eq!(readers.get("order.placed", &writer).unwrap().plan, Err("breaks".into()));
    }
}
