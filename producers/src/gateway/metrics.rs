//! What the gateway counts. Names and units: `docs/metrics.md`.

use super::answer::Verdict;
use super::quarantine;
use crate::client;
use axum::http::StatusCode;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use std::time::Duration;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabel {
    route: &'static str,
    status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RefusalLabel {
    reason: &'static str,
}

/// Shared by every clone.
#[derive(Clone)]
pub struct GatewayMetrics {
    /// Events are counted where the client counts them: they are published either way.
    events: client::Metrics,
    requests: Family<RequestLabel, Histogram, fn() -> Histogram>,
    refusals: Family<RefusalLabel, Counter>,
    pub(super) inflight_bytes: Gauge,
    pub(super) connections: Gauge,
    pub(super) tls_stale: Gauge,
    pub(super) quarantine: quarantine::Metrics,
    /// 1 while it is configured and does not answer.
    pub(super) redis_away: Gauge,
    pub(super) redis_lost: Counter,
    pub(super) redis_late: Counter,
    pub(super) spool: SpoolMetrics,
}

/// Of what waits on disk.
#[derive(Clone, Default)]
pub(super) struct SpoolMetrics {
    pub bytes: Gauge,
    pub events: Gauge,
    /// Unix time; 0 when nothing waits.
    pub oldest: Gauge,
    pub drained: Counter,
    pub damaged: Counter,
}

impl SpoolMetrics {
    fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register("millrace_gateway_spool_bytes", "The spool on disk", metrics.bytes.clone());
        registry.register("millrace_gateway_spool_events", "Events not known to be in the log", metrics.events.clone());
        registry.register(
            "millrace_gateway_spool_oldest_timestamp_seconds",
            "When the oldest of them was spooled, 0 when there is none",
            metrics.oldest.clone(),
        );
        registry.register("millrace_gateway_spool_drained", "Events brought into the log", metrics.drained.clone());
        registry.register("millrace_gateway_spool_damaged", "Stretches of it passed over", metrics.damaged.clone());
        metrics
    }
}

impl GatewayMetrics {
    pub fn register(registry: &mut Registry, events: client::Metrics) -> Self {
        let histogram = || Histogram::new(exponential_buckets(0.001, 2.0, 15));
        let requests = Family::new_with_constructor(histogram as fn() -> Histogram);
        let (inflight_bytes, connections, tls_stale) = Default::default();
        let (redis_away, redis_lost, redis_late) = Default::default();
        let (refusals, spool) = (Family::default(), SpoolMetrics::register(registry));
        let quarantine = quarantine::Metrics::register(registry);
        let metrics = Self {
            events,
            requests,
            refusals,
            inflight_bytes,
            connections,
            tls_stale,
            quarantine,
            redis_away,
            redis_lost,
            redis_late,
            spool,
        };
        registry.register(
            "millrace_http_request_duration_seconds",
            "A request, headers to answer",
            metrics.requests.clone(),
        );
        registry.register("millrace_gateway_refusals", "Requests refused, by reason", metrics.refusals.clone());
        registry.register(
            "millrace_gateway_inflight_bytes",
            "Bodies in hand, inflated",
            metrics.inflight_bytes.clone(),
        );
        registry.register("millrace_gateway_connections", "Open connections", metrics.connections.clone());
        registry.register(
            "millrace_gateway_tls_stale",
            "1 while the files of gateway.tls are no good and the last good ones are used",
            metrics.tls_stale.clone(),
        );
        registry.register(
            "millrace_gateway_redis_away",
            "1 while Redis does not answer and nothing is shared",
            metrics.redis_away.clone(),
        );
        registry.register("millrace_gateway_redis_lost", "Times that Redis was lost", metrics.redis_lost.clone());
        registry.register(
            "millrace_gateway_redis_late",
            "Questions it did not answer in time",
            metrics.redis_late.clone(),
        );
        metrics
    }

    /// So many that are alike.
    pub(super) fn events(&self, verdict: &Verdict<'_>, events: usize) {
        self.events.count(verdict.event_type, verdict.status.word(), events as u64);
    }

    pub(super) fn refused(&self, reason: &'static str) {
        self.refusals.get_or_create(&RefusalLabel { reason }).inc();
    }

    /// A request's events' way to the log's last answer.
    pub(super) fn settled(&self, took: Duration) {
        self.events.took(took);
    }

    pub(super) fn answered(&self, route: &'static str, status: StatusCode, took: Duration) {
        let label = RequestLabel { route, status: status.as_u16() };
        self.requests.get_or_create(&label).observe(took.as_secs_f64());
    }
}

impl Default for GatewayMetrics {
    /// Counts into nowhere: for tests.
    fn default() -> Self {
        Self::register(&mut Registry::default(), client::Metrics::default())
    }
}
