//! What the client counts. Names and units: `docs/metrics.md`.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use std::time::Duration;

/// What the type label says where no contract describes the event: a bounded label for unbounded mistakes.
const UNKNOWN_TYPE: &str = "unknown";

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PublishedLabel {
    r#type: String,
    result: &'static str,
}

/// The client's metrics, shared by every clone.
#[derive(Clone)]
pub struct Metrics {
    published: Family<PublishedLabel, Counter>,
    duration: Histogram,
}

impl Metrics {
    pub fn register(registry: &mut Registry) -> Self {
        let metrics =
            Self { published: Family::default(), duration: Histogram::new(exponential_buckets(0.001, 2.0, 18)) };
        registry.register("millrace_events_published", "Events by what became of them", metrics.published.clone());
        registry.register("millrace_publish_duration_seconds", "Handed over to acknowledged", metrics.duration.clone());
        metrics
    }

    pub(super) fn published(&self, event_type: &str, acknowledged: bool, took: Duration) {
        self.count(Some(event_type), if acknowledged { "acknowledged" } else { "unknown" }, 1);
        self.took(took);
    }

    pub(crate) fn took(&self, took: Duration) {
        self.duration.observe(took.as_secs_f64());
    }

    /// `known`: whether a contract describes the type.
    pub(super) fn refused(&self, event_type: &str, known: bool) {
        self.count(known.then_some(event_type), "refused", 1);
    }

    /// `None` is a type that no contract describes.
    pub(crate) fn count(&self, event_type: Option<&str>, result: &'static str, events: u64) {
        let label = PublishedLabel { r#type: event_type.unwrap_or(UNKNOWN_TYPE).to_owned(), result };
        self.published.get_or_create(&label).inc_by(events);
    }
}

impl Default for Metrics {
    /// Counts into nowhere: for tests and one-off commands.
    fn default() -> Self {
        Self::register(&mut Registry::default())
    }
}
