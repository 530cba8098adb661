//! Whole RowBinary rows by way of value trees: nobody inserts them. They are what the columns of
//! [`super::super::native`] are held against: in tests, and in a server by [`super::super::verify`].

use super::super::column::{ColumnType, Field};
use super::super::table::Table;
use super::{Step, encode, put_bytes, put_occurred_at, put_time, put_uuid, steps};
use apache_avro::schema::ResolvedSchema;
use apache_avro::types::Value;
use millrace_schemas::{Envelope, WriterSchema};
use millrace_stream::{Incoming, Position, Reason, Reject};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;

/// A usual row; larger ones grow.
const ROW_BYTES: usize = 256;

/// How to read one table's columns out of values written with one schema.
#[derive(Debug)]
pub struct Plan {
    schema_id: u32,
    columns: Vec<ColumnPlan>,
}

#[derive(Debug)]
struct ColumnPlan {
    name: String,
    leaf: ColumnType,
    steps: Vec<Step>,
}

impl Plan {
    /// Matches the table's columns with a writer's fields, by name.
    ///
    /// # Errors
    /// Which column such a writer cannot fill: every value of it would be refused.
    pub fn compile(writer: &WriterSchema, table: &Table) -> Result<Self, String> {
        let resolved = ResolvedSchema::new(writer.schema).map_err(|error| error.to_string())?;
        let compile = |field: &Field| {
            let steps = steps(field, writer, resolved.get_names())?;
            Ok(ColumnPlan { name: field.name.clone(), leaf: field.leaf.clone(), steps })
        };
        let columns = table.fields().iter().map(compile).collect::<Result<_, String>>()?;
        Ok(Self { schema_id: writer.id, columns })
    }

    /// The row's bytes: the body's columns, then the envelope's and the lineage, as [`Table::insert_columns`] lists them,
    /// but for those of the body that are left out.
    ///
    /// # Errors
    /// The first field that does not fit.
    pub fn row(
        &self,
        left_out: &BTreeSet<String>,
        value: &Value,
        envelope: &Envelope,
        position: &Position,
    ) -> Result<Vec<u8>, String> {
        let mut row = Vec::with_capacity(ROW_BYTES);
        self.body(left_out, value, &mut row)?;
        put_envelope(envelope, &mut row)?;
        put_lineage(envelope, position, self.schema_id, &mut row)?;
        Ok(row)
    }

    /// The SHA-256 of such a row.
    ///
    /// # Errors
    /// The same, as the reason why the record is set aside.
    pub fn hash(
        &self,
        left_out: &BTreeSet<String>,
        value: &Value,
        incoming: &Incoming<'_>,
    ) -> Result<[u8; 32], Reject> {
        let row = self.row(left_out, value, incoming.envelope, incoming.position);
        Ok(Sha256::digest(row.map_err(|error| Reject::new(Reason::DoesNotFit, error))?).into())
    }

    pub fn body(&self, left_out: &BTreeSet<String>, value: &Value, row: &mut Vec<u8>) -> Result<(), String> {
        self.columns.iter().filter(|column| !left_out.contains(&column.name)).try_for_each(|column| {
            let encoded = encode(&column.steps, &column.leaf, value, row);
            encoded.map_err(|error| format!("field `{}` does not fit its column: {error}", column.name))
        })
    }
}

/// The envelope's columns, in [`super::super::table::ENVELOPE`]'s order.
fn put_envelope(envelope: &Envelope, row: &mut Vec<u8>) -> Result<(), String> {
    put_uuid(envelope.id.as_u128(), row);
    put_occurred_at(envelope.occurred_at, row)?;
    put_bytes(envelope.subject.as_bytes(), row);
    put_bytes(envelope.source.as_bytes(), row);
    put_bytes(envelope.trace_id().unwrap_or_default().as_bytes(), row);
    Ok(())
}

/// The lineage columns, in [`super::super::table::LINEAGE`]'s order.
fn put_lineage(envelope: &Envelope, position: &Position, schema_id: u32, row: &mut Vec<u8>) -> Result<(), String> {
    put_bytes(position.topic.as_bytes(), row);
    row.extend(position.partition.to_le_bytes());
    row.extend(position.offset.to_le_bytes());
    match envelope.recorded_at {
        None => row.push(1),
        Some(at) => {
            row.push(0);
            put_time(at.timestamp_micros(), 1_000_000, row)
                .map_err(|error| format!("`_recorded_at` does not fit its column: {error}"))?;
        }
    }
    row.extend(schema_id.to_le_bytes());
    Ok(())
}
