//! What sinks count. Names and units: `docs/metrics.md`.

use crate::channel::Outcome;
use crate::retry::Next;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use std::time::Duration;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ChannelLabel {
    channel: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    channel: &'static str,
    outcome: &'static str,
}

/// Shared by every sink of a process.
#[derive(Clone)]
pub struct Metrics {
    deliveries: Family<OutcomeLabel, Counter>,
    duration: Family<ChannelLabel, Histogram, fn() -> Histogram>,
}

impl Metrics {
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self { deliveries: Family::default(), duration: Family::new_with_constructor(seconds) };
        registry.register(
            "millrace_deliveries",
            "Attempts at deliveries by what came of them",
            metrics.deliveries.clone(),
        );
        registry.register(
            "millrace_delivery_duration_seconds",
            "One attempt, request to answer",
            metrics.duration.clone(),
        );
        metrics
    }

    /// An attempt ended: `delivered`, `retry` (due again), `refused`, or `exhausted` (the last try failed).
    pub(crate) fn ended(&self, channel: &'static str, outcome: &Outcome, next: Next, took: Duration) {
        let outcome = match (outcome, next) {
            (Outcome::Delivered { .. }, _) => "delivered",
            (Outcome::Refused { .. }, _) => "refused",
            (Outcome::Retry { .. }, Next::Failed) => "exhausted",
            (Outcome::Retry { .. }, _) => "retry",
        };
        self.deliveries.get_or_create(&OutcomeLabel { channel, outcome }).inc();
        self.duration.get_or_create(&ChannelLabel { channel }).observe(took.as_secs_f64());
    }

    /// Leases that ran out: what they sent may arrive twice.
    pub(crate) fn unknown(&self, channel: &'static str, attempts: usize) {
        if attempts > 0 {
            let label = OutcomeLabel { channel, outcome: "unknown" };
            self.deliveries.get_or_create(&label).inc_by(u64::try_from(attempts).unwrap_or(u64::MAX));
        }
    }
}

impl Default for Metrics {
    /// Counts into nowhere: for tests and one-off commands.
    fn default() -> Self {
        Self::register(&mut Registry::default())
    }
}

/// 1 ms to about 30 s, the longest timeout.
fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 16))
}
