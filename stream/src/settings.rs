//! What a pipeline can be told, and how bounds of settings are checked.

use crate::source::Limits;
use serde::{Deserialize, Serialize};
use std::ops::RangeInclusive;
use std::time::Duration;

/// How one pipeline batches and what it bounds; `[process.<name>]` and `[sink.<name>]`.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct PipelineConfig {
    /// Records in a batch, at most.
    pub batch_rows: usize,
    /// Bytes in a batch, at most (a record larger than that still makes a batch of its own): of its records, or of what
    /// they became where that is less.
    pub batch_bytes: usize,
    /// How long the first record of a batch waits for company; longer while the batch before is not applied yet.
    pub linger_ms: u64,
    /// Bytes waiting in one partition's queue before no more is taken from what the Kafka client has read ahead of it.
    pub queue_bytes: usize,
    /// Bytes in all queues and batches together, over all partitions. Beyond, each holds little, and small batches
    /// go on: more partitions cost no more memory. What the Kafka client reads ahead comes on top: about 32 MiB
    /// of values over all partitions (64 KiB and a fetch each where there are more than 500), and what it takes to
    /// manage them.
    pub memory_bytes: usize,
    /// Batches being applied at once, over all partitions: bounds what is sent beside what is gathered.
    pub concurrent_batches: usize,
    /// Log positions in which a repeated event id is a duplicate.
    pub dedup_window: u32,
}

impl Default for PipelineConfig {
    fn default() -> Self {
        Self {
            batch_rows: 10_000,
            batch_bytes: 4 << 20,
            linger_ms: 200,
            queue_bytes: 1 << 20,
            memory_bytes: 128 << 20,
            concurrent_batches: 4,
            dedup_window: 262_144,
        }
    }
}

impl PipelineConfig {
    pub(crate) fn limits(&self) -> Limits {
        Limits { rows: self.batch_rows, bytes: self.batch_bytes, linger: Duration::from_millis(self.linger_ms) }
    }
}

/// Names the first setting that is beyond its bounds, behind what stands before its key.
///
/// # Errors
/// What it is, and what is possible.
pub fn in_bounds<'a>(
    before: &str,
    bounds: impl IntoIterator<Item = (&'a str, u64, RangeInclusive<u64>)>,
) -> Result<(), String> {
    for (key, value, bounds) in bounds {
        if !bounds.contains(&value) {
            let (least, most) = bounds.into_inner();
            return Err(format!("{before}{key}` is {value}: {least} to {most} is possible"));
        }
    }
    Ok(())
}
