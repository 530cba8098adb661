//! A batch into its tables: one insert a table, as RowBinary over HTTP, packed with LZ4.

use crate::table::Table;
use crate::{Batch, row};
use anyhow::Context;
use bytes::Bytes;
use clickhouse::Client;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::RwLock;

/// Compressed and sent at once.
const CHUNK_BYTES: usize = 1 << 20;

pub struct Inserter {
    registry: String,
    database: String,
    client: Client,
    tables: RwLock<HashMap<u32, Arc<Table>>>,
}

impl Inserter {
    pub fn new(registry: &str, clickhouse: &str, database: &str) -> Self {
        let client = Client::default()
            .with_url(clickhouse)
            .with_setting("async_insert", "0") // the batches are large, and offsets are committed after the insert
            .with_setting("max_partitions_per_insert_block", "0");
        Self { registry: registry.to_owned(), database: database.to_owned(), client, tables: RwLock::default() }
    }

    pub async fn insert(&self, batch: Batch) -> anyhow::Result<()> {
        let mut rows = HashMap::<u32, (Arc<Table>, Vec<u8>)>::new();
        for record in &batch {
            let payload = record.payload.payload().context("the record has no value")?;
            let (schema_id, datum) = row::unframe(payload)?;
            if !rows.contains_key(&schema_id) {
                rows.insert(schema_id, (self.table(schema_id).await?, Vec::new()));
            }
            if let Some((table, rows)) = rows.get_mut(&schema_id) {
                row::put(table, record, schema_id, datum, rows)?;
            }
        }
        drop(batch); // its memory is not needed while the server works
        for (table, rows) in rows.into_values() {
            self.send(&table.statement, rows.into()).await?;
        }
        Ok(())
    }

    async fn table(&self, schema_id: u32) -> anyhow::Result<Arc<Table>> {
        if let Some(known) = self.tables.read().await.get(&schema_id) {
            return Ok(known.clone());
        }
        let table = Arc::new(Table::of(&self.registry, &self.database, schema_id).await?);
        self.tables.write().await.insert(schema_id, table.clone());
        Ok(table)
    }

    async fn send(&self, statement: &str, rows: Bytes) -> anyhow::Result<()> {
        let mut insert = self.client.insert_formatted_with(statement);
        for start in (0..rows.len()).step_by(CHUNK_BYTES) {
            insert.send(rows.slice(start..rows.len().min(start + CHUNK_BYTES))).await?;
        }
        Ok(insert.end().await?)
    }
}
