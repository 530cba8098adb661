//! What the quarantine counts. Names and units: `docs/metrics.md`.

use super::Quarantined;
use super::store::Held;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabel {
    result: &'static str,
}

/// Shared by every clone.
#[derive(Clone, Default)]
pub(in crate::gateway) struct Metrics {
    quarantined: Family<ResultLabel, Counter>,
    events: Gauge,
    bytes: Gauge,
    oldest: Gauge,
}

impl Metrics {
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let Self { quarantined, events, bytes, oldest } = metrics.clone();
        registry.register("millrace_quarantined_events", "Invalid events that were to be kept", quarantined);
        registry.register("millrace_quarantine_events", "Invalid events that are kept", events);
        registry.register("millrace_quarantine_bytes", "What they take", bytes);
        registry.register("millrace_quarantine_oldest_timestamp_seconds", "When the first of them was kept", oldest);
        metrics
    }

    pub(super) fn count(&self, fate: &Quarantined) {
        let result = match fate {
            Quarantined::Kept(_) => "kept",
            Quarantined::NotKept(why) => why.word(),
        };
        self.quarantined.get_or_create(&ResultLabel { result }).inc();
    }

    pub(super) fn show(&self, held: &Held) {
        self.events.set(held.events);
        self.bytes.set(held.bytes);
        self.oldest.set(held.oldest);
    }
}
