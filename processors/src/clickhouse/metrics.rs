//! What inserting costs and how fresh the tables are. Names and units: `docs/metrics.md`.

use super::together::Insert;
use chrono::Utc;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TableLabel {
    table: String,
}

type Histograms = Family<TableLabel, Histogram, fn() -> Histogram>;

/// Shared by every insert of a process. The default counts into nowhere.
#[derive(Clone)]
pub struct SinkMetrics {
    duration: Histograms,
    records: Histograms,
    fresh: Family<TableLabel, Gauge<f64, AtomicU64>>,
    unlisted: Family<TableLabel, Counter>,
}

impl SinkMetrics {
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let with = registry;
        with.register("millrace_sink_write_duration_seconds", "One insert, by table", metrics.duration.clone());
        with.register("millrace_sink_batch_records", "Rows in one insert, by table", metrics.records.clone());
        with.register(
            "millrace_table_fresh_timestamp_seconds",
            "Newest occurred_at inserted by this process, by table",
            metrics.fresh.clone(),
        );
        with.register(
            "millrace_unlisted_symbols",
            "Enum values stored as their default because the contract does not list their symbol, by table",
            metrics.unlisted.clone(),
        );
        metrics
    }

    pub(super) fn stored_unlisted(&self, table: &str, values: usize) {
        self.unlisted.get_or_create(&TableLabel { table: table.to_owned() }).inc_by(values as u64);
    }

    pub(super) fn wrote(&self, insert: &Insert, took: Duration) {
        let label = TableLabel { table: insert.table.clone() };
        self.duration.get_or_create(&label).observe(took.as_secs_f64());
        self.records.get_or_create(&label).observe(insert.rows as f64);
        // What is dated ahead is no fresher than now, or it would hide a standstill.
        let newest = insert.newest.min(Utc::now().timestamp_micros()) as f64 / 1e6;
        let fresh = self.fresh.get_or_create(&label);
        if newest > fresh.get() {
            fresh.set(newest);
        }
    }
}

impl Default for SinkMetrics {
    fn default() -> Self {
        Self {
            duration: Family::new_with_constructor(seconds),
            records: Family::new_with_constructor(rows),
            fresh: Family::default(),
            unlisted: Family::default(),
        }
    }
}

/// 1 ms to about half a minute: inserts end at their deadline.
fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 16))
}

/// 1 to about a million.
fn rows() -> Histogram {
    Histogram::new(exponential_buckets(1.0, 4.0, 11))
}
