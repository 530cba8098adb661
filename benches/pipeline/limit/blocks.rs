//! Ready-made blocks into ClickHouse, with the settings, the compression and the client that Millrace uses.

use super::{Place, Writer};
use bytes::Bytes;
use clickhouse::Client;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Compressed and sent at once.
const CHUNK_BYTES: usize = 1 << 20;

/// Where to, and what.
#[derive(Clone, Serialize, Deserialize)]
pub struct Blocks {
    pub url: String,
    /// One place a batch, and its blocks, one a table.
    pub batches: Vec<(Place, Vec<Block>)>,
}

#[derive(Clone, Serialize, Deserialize)]
pub struct Block {
    /// `insert into … format …`
    pub statement: String,
    pub rows: u64,
    pub file: PathBuf,
}

/// The blocks in memory.
pub struct Loaded {
    client: Client,
    batches: Vec<(Place, Vec<(Block, Bytes)>)>,
}

impl Blocks {
    pub fn prepare(&self) -> anyhow::Result<Loaded> {
        let load = |block: &Block| anyhow::Ok((block.clone(), Bytes::from(std::fs::read(&block.file)?)));
        let batch = |(place, blocks): &(Place, Vec<Block>)| {
            anyhow::Ok((place.clone(), blocks.iter().map(load).collect::<Result<_, _>>()?))
        };
        let batches = self.batches.iter().map(batch).collect::<Result<_, _>>()?;
        Ok(Loaded { client: Client::default().with_url(&self.url), batches })
    }
}

impl Writer for Loaded {
    fn places(&self) -> impl Iterator<Item = &Place> {
        self.batches.iter().map(|(place, _)| place)
    }

    async fn write(&self, batch: usize) -> anyhow::Result<()> {
        let (place, blocks) = &self.batches[batch];
        for (at, (block, bytes)) in blocks.iter().enumerate() {
            let token = format!("bench:{}:{}:{}:{at}", place.topic, place.partition, place.to);
            insert(&self.client, block, bytes, &token).await?;
        }
        Ok(())
    }
}

async fn insert(client: &Client, block: &Block, bytes: &Bytes, token: &str) -> anyhow::Result<()> {
    let rows = block.rows.to_string();
    let mut insert = client
        .insert_formatted_with(&block.statement)
        .with_setting("async_insert", "0")
        .with_setting("insert_deduplicate", "1")
        .with_setting("deduplicate_insert", "enable")
        .with_setting("max_partitions_per_insert_block", "0")
        .with_setting("insert_deduplication_token", token)
        .with_setting("max_insert_block_size", &rows)
        .with_setting("min_insert_block_size_rows", &rows)
        .with_setting("min_insert_block_size_bytes", "0");
    for start in (0..bytes.len()).step_by(CHUNK_BYTES) {
        insert.send(bytes.slice(start..bytes.len().min(start + CHUNK_BYTES))).await?;
    }
    Ok(insert.end().await?)
}
