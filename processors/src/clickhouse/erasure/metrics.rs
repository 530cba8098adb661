//! Who still waits to be forgotten, and since when. Names and units: `docs/metrics.md`.

use super::ledger::Progress;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use std::sync::atomic::AtomicU64;

/// The default counts into nowhere.
#[derive(Clone, Default)]
pub struct ErasureMetrics {
    pending: Gauge,
    oldest: Gauge<f64, AtomicU64>,
}

impl ErasureMetrics {
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let pending = "People who asked to be erased and are not yet";
        registry.register("millrace_erasures_pending", pending, metrics.pending.clone());
        let oldest = "When the first of those was read here; 0 when nobody waits";
        registry.register("millrace_erasures_oldest_timestamp_seconds", oldest, metrics.oldest.clone());
        metrics
    }

    pub(super) fn set(&self, progress: &Progress) {
        self.pending.set(progress.pending);
        self.oldest.set(progress.oldest.map_or(0.0, |oldest| oldest.timestamp_micros() as f64 / 1e6));
    }
}
