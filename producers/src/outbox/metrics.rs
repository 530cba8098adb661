//! What the relay counts. Names and units: `docs/metrics.md`.

use crate::client;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use std::sync::atomic::AtomicU64;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutboxLabel {
    outbox: String,
}

type Seconds = Gauge<f64, AtomicU64>;

/// Of every outbox of a process.
#[derive(Clone)]
pub struct OutboxMetrics {
    published: Family<OutboxLabel, Counter>,
    set_aside: Family<OutboxLabel, Gauge>,
    leading: Family<OutboxLabel, Gauge>,
    lag_rows: Family<OutboxLabel, Gauge>,
    oldest: Family<OutboxLabel, Seconds>,
    held_back: Family<OutboxLabel, Seconds>,
    client: client::Metrics,
}

/// Of one.
#[derive(Clone)]
pub(super) struct Meter {
    pub published: Counter,
    pub set_aside: Gauge,
    pub leading: Gauge,
    pub lag_rows: Gauge,
    pub oldest: Seconds,
    pub held_back: Seconds,
    pub client: client::Metrics,
}

impl OutboxMetrics {
    /// What is published counts among what the client publishes.
    pub fn register(registry: &mut Registry, client: client::Metrics) -> Self {
        let metrics = Self {
            published: Family::default(),
            set_aside: Family::default(),
            leading: Family::default(),
            lag_rows: Family::default(),
            oldest: Family::default(),
            held_back: Family::default(),
            client,
        };
        let Self { published, set_aside, leading, lag_rows, oldest, held_back, .. } = metrics.clone();
        registry.register("millrace_outbox_published", "Events of the outbox that the log has", published);
        let help = "Events that fit no contract and wait for somebody; beyond 10,000 it is 10,001";
        registry.register("millrace_outbox_set_aside", help, set_aside);
        registry.register("millrace_outbox_leading", "1 in the process that publishes this outbox", leading);
        registry.register("millrace_outbox_lag_rows", "Events written and not published, at most", lag_rows);
        let help = "When the oldest event that is not published was written, Unix time; 0 when there is none";
        registry.register("millrace_outbox_oldest_timestamp_seconds", help, oldest);
        let help = "How long a transaction that has not ended keeps events from being published";
        registry.register("millrace_outbox_held_back_seconds", help, held_back);
        metrics
    }

    pub(super) fn of(&self, outbox: &str) -> Meter {
        let label = OutboxLabel { outbox: outbox.to_owned() };
        Meter {
            published: self.published.get_or_create_owned(&label),
            set_aside: self.set_aside.get_or_create_owned(&label),
            leading: self.leading.get_or_create_owned(&label),
            lag_rows: self.lag_rows.get_or_create_owned(&label),
            oldest: self.oldest.get_or_create_owned(&label),
            held_back: self.held_back.get_or_create_owned(&label),
            client: self.client.clone(),
        }
    }
}

impl Meter {
    /// What only the owner knows.
    pub fn not_leading(&self) {
        for gauge in [&self.leading, &self.lag_rows, &self.set_aside] {
            gauge.set(0);
        }
        for gauge in [&self.oldest, &self.held_back] {
            gauge.set(0.0);
        }
    }
}
