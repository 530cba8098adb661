//! What a pipeline can be told, and how bounds of settings are checked.

use crate::source::Limits;
use crate::storm::STORM_WINDOW;
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
    /// How long the first record of a batch waits for company; longer while the batch before is not applied yet, or while
    /// it is not the pipeline's time for another.
    pub linger_ms: u64,
    /// Bytes waiting in one partition's queue before no more is taken from what the Kafka client has read ahead of it.
    pub queue_bytes: usize,
    /// Bytes in all queues and batches together, over all partitions. Beyond, each holds little, and small batches
    /// go on: more partitions cost no more memory. What the Kafka client reads ahead comes on top: it asks for
    /// no more once 25,000 records or 32 MiB of values wait, over all partitions (50 and 64 KiB each where there are more
    /// than 500), and a fetch of each may be on its way.
    pub memory_bytes: usize,
    /// Batches being applied at once, over all partitions: bounds what is sent beside what is gathered.
    pub concurrent_batches: usize,
    /// Log positions in which a repeated event id is a duplicate.
    pub dedup_window: u32,
    /// Of each 1,000 records of a partition, how many may become dead letters; one more, and it waits before they do.
    /// At 1,000 it never waits.
    pub dead_letters_per_1000: u32,
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
            dead_letters_per_1000: 500,
        }
    }
}

/// Less than a record: every batch would be empty, or hold one.
const BYTES_MIN: u64 = 1 << 10;
/// More is a slip of the pen: no machine has it, and nobody waits so long.
const ROWS_MAX: u64 = 1_000_000;
const BYTES_MAX: u64 = 1 << 30;
const LINGER_MS_MAX: u64 = 60_000;
const MEMORY_BYTES: RangeInclusive<u64> = 1 << 20..=1 << 40;
const CONCURRENT_BATCHES_MAX: u64 = 1_000;
/// Some 40 bytes an id, in each partition, and as many records to read before a partition goes on.
const DEDUP_WINDOW_MAX: u64 = 1 << 24;

impl PipelineConfig {
    /// # Errors
    /// The key that cannot be, within its `section`, and what is possible.
    pub fn check(&self, section: &str) -> Result<(), String> {
        let bounds = [
            ("batch_rows", self.batch_rows as u64, 1..=ROWS_MAX),
            ("batch_bytes", self.batch_bytes as u64, BYTES_MIN..=BYTES_MAX),
            ("linger_ms", self.linger_ms, 0..=LINGER_MS_MAX),
            ("queue_bytes", self.queue_bytes as u64, BYTES_MIN..=BYTES_MAX),
            ("memory_bytes", self.memory_bytes as u64, MEMORY_BYTES),
            ("concurrent_batches", self.concurrent_batches as u64, 1..=CONCURRENT_BATCHES_MAX),
            ("dedup_window", self.dedup_window.into(), 0..=DEDUP_WINDOW_MAX),
            ("dead_letters_per_1000", self.dead_letters_per_1000.into(), 0..=STORM_WINDOW.into()),
        ];
        in_bounds(&format!("`{section}."), bounds)
    }

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_that_could_hold_nothing_is_refused_by_key() {
        assert_eq!(PipelineConfig::default().check("process.order_status"), Ok(()));
        let with = |json: &str| {
            let config: PipelineConfig = serde_json::from_str(json).unwrap();
            config.check("process.order_status").unwrap_err()
        };
        let said = with(r#"{"batch_rows": 0}"#);
        assert_eq!(said, "`process.order_status.batch_rows` is 0: 1 to 1000000 is possible");
        for key in ["batch_bytes", "queue_bytes", "memory_bytes", "concurrent_batches"] {
            let said = with(&format!(r#"{{"{key}": 0}}"#));
            assert!(said.starts_with(&format!("`process.order_status.{key}` is 0: ")), "{said}");
        }
    }
}
