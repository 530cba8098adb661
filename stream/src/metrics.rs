//! What the spine counts. Names and units: `docs/metrics.md`.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct PipelineLabel {
    pub pipeline: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabel {
    pipeline: String,
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

type Histograms = Family<PipelineLabel, Histogram, fn() -> Histogram>;

/// The spine's metrics, shared by every pipeline of a process.
#[derive(Clone)]
pub struct Metrics {
    records: Family<ResultLabel, Counter>,
    duplicates: Family<PipelineLabel, Counter>,
    dead_letters: Family<ReasonLabel, Counter>,
    duration: Histograms,
    age: Histograms,
    inflight: Family<PipelineLabel, Gauge>,
    paused: Family<PipelineLabel, Gauge>,
    held_up: Family<PipelineLabel, Gauge>,
    joined_anew: Family<PipelineLabel, Counter>,
}

impl Metrics {
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            records: Family::default(),
            duplicates: Family::default(),
            dead_letters: Family::default(),
            duration: Family::new_with_constructor(seconds),
            age: Family::new_with_constructor(seconds),
            inflight: Family::default(),
            paused: Family::default(),
            held_up: Family::default(),
            joined_anew: Family::default(),
        };
        metrics.register_all(registry);
        metrics
    }

    fn register_all(&self, registry: &mut Registry) {
        let with = registry;
        with.register("millrace_records_processed", "Records by what became of them", self.records.clone());
        with.register("millrace_duplicates", "Events the log held twice", self.duplicates.clone());
        with.register("millrace_dead_letters_written", "Records set aside, by reason", self.dead_letters.clone());
        with.register("millrace_process_duration_seconds", "Decoded batch to settled", self.duration.clone());
        with.register("millrace_event_age_seconds", "From the log's timestamp to taking effect", self.age.clone());
        with.register("millrace_inflight_records", "Records read and not yet in a batch", self.inflight.clone());
        with.register(
            "millrace_paused",
            "Partitions of which no more is taken because their queue is full",
            self.paused.clone(),
        );
        with.register(
            "millrace_held_up",
            "Batches whose last try failed, and which are tried again, and partitions that go no further before a flood of bad records",
            self.held_up.clone(),
        );
        with.register(
            "millrace_joined_anew",
            "Times that a place in the consumer group was taken again with a new client",
            self.joined_anew.clone(),
        );
    }

    /// One pipeline's own handles, so that the hot path looks no label up.
    pub(crate) fn of(&self, pipeline: &str) -> PipelineMetrics {
        let label = PipelineLabel { pipeline: pipeline.to_owned() };
        let result = |result| ResultLabel { pipeline: pipeline.to_owned(), result };
        PipelineMetrics {
            applied: self.records.get_or_create_owned(&result("applied")),
            ignored: self.records.get_or_create_owned(&result("ignored")),
            rejected: self.records.get_or_create_owned(&result("dead_letter")),
            repeated: self.records.get_or_create_owned(&result("duplicate")),
            duplicates: self.duplicates.get_or_create_owned(&label),
            dead_letters: self.dead_letters.clone(),
            duration: self.duration.get_or_create_owned(&label),
            age: self.age.get_or_create_owned(&label),
            inflight: self.inflight.get_or_create_owned(&label),
            paused: self.paused.get_or_create_owned(&label),
            held_up: self.held_up.get_or_create_owned(&label),
            joined_anew: self.joined_anew.get_or_create_owned(&label),
        }
    }
}

impl Default for Metrics {
    /// Counts into nowhere: for tests and one-off commands.
    fn default() -> Self {
        Self::register(&mut Registry::default())
    }
}

pub(crate) struct PipelineMetrics {
    pub applied: Counter,
    pub ignored: Counter,
    rejected: Counter,
    repeated: Counter,
    duplicates: Counter,
    dead_letters: Family<ReasonLabel, Counter>,
    pub duration: Histogram,
    pub age: Histogram,
    pub inflight: Gauge,
    pub paused: Gauge,
    held_up: Gauge,
    pub joined_anew: Counter,
}

impl PipelineMetrics {
    pub fn duplicate(&self) {
        self.repeated.inc();
        self.duplicates.inc();
    }

    /// Something that is about to be tried.
    pub fn trying(&self) -> Trying<'_> {
        Trying { held_up: &self.held_up, has_failed: AtomicBool::new(false) }
    }

    pub fn dead_letter(&self, reason: crate::Reason) {
        self.rejected.inc();
        self.dead_letters.get_or_create(&ReasonLabel { reason: reason.as_str() }).inc();
    }
}

/// Counts as held up from its first failed try until it is over, however it ends.
pub(crate) struct Trying<'m> {
    held_up: &'m Gauge,
    has_failed: AtomicBool,
}

impl Trying<'_> {
    pub fn has_failed(&self) {
        if !self.has_failed.swap(true, Ordering::Relaxed) {
            self.held_up.inc();
        }
    }
}

impl Drop for Trying<'_> {
    fn drop(&mut self) {
        if *self.has_failed.get_mut() {
            self.held_up.dec();
        }
    }
}

/// 1 ms to about 2 minutes.
fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 18))
}

pub(crate) type Shared = Arc<PipelineMetrics>;
