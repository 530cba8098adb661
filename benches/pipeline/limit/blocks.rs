//! Ready-made blocks into ClickHouse, with the settings, the compression and the client that Millrace uses.

use super::{Place, Writer};
use bytes::Bytes;
use clickhouse::Client;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
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

    /// Native blocks of one table go together, as Millrace's do. RowBinary has its header first and goes alone.
    async fn write(&self, batches: &[usize]) -> anyhow::Result<()> {
        let mut together = BTreeMap::<(&str, usize), Vec<&(Block, Bytes)>>::new();
        for batch in batches {
            let (_, blocks) = &self.batches[*batch];
            for block in blocks {
                let alone = if block.0.statement.ends_with("Native") { 0 } else { *batch };
                together.entry((&block.0.statement, alone)).or_default().push(block);
            }
        }
        for ((statement, _), blocks) in together {
            insert(&self.client, statement, &blocks).await?;
        }
        Ok(())
    }
}

async fn insert(client: &Client, statement: &str, blocks: &[&(Block, Bytes)]) -> anyhow::Result<()> {
    let rows = blocks.iter().map(|(block, _)| block.rows).sum::<u64>().to_string();
    let mut insert = client
        .insert_formatted_with(statement)
        .with_setting("async_insert", "0")
        .with_setting("insert_deduplicate", "0")
        .with_setting("deduplicate_insert", "disable")
        .with_setting("max_partitions_per_insert_block", "0")
        .with_setting("max_insert_block_size", &rows)
        .with_setting("min_insert_block_size_rows", &rows)
        .with_setting("min_insert_block_size_bytes", "0");
    for (_, bytes) in blocks {
        for start in (0..bytes.len()).step_by(CHUNK_BYTES) {
            insert.send(bytes.slice(start..bytes.len().min(start + CHUNK_BYTES))).await?;
        }
    }
    Ok(insert.end().await?)
}
