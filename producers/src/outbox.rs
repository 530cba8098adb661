//! The outbox relay: events that services wrote in their own transactions become records of the log, in their order.
//!
//! ```text
//! service's commit ─→ outbox ─→ fences: up to which seq is all decided ─→ batch ─→ datum ─→ log (acks=all)
//!                       ↑                                                                    │
//!                       └── emptied by the partition ←── published up to this seq, set aside ┘
//! ```
//!
//! One owner per outbox, by a lease with an epoch. An owner that was taken for dead sends at most what the next one
//! sends as well, in the same order and under the same ids, and settles nothing. Why: docs/adr/0014.

mod fences;
mod metrics;
mod row;
mod store;
mod term;

pub use metrics::OutboxMetrics;

use crate::gateway::cloudevent::ATTRIBUTE_BYTES_MAX;
use crate::gateway::prepare::Routes;
use crate::in_bounds;
use anyhow::Context;
use futures_util::future::try_join_all;
use millrace_schemas::Contracts;
use millrace_schemas::registry::Registry;
use millrace_stream::{Backoff, DRAIN_DEADLINE, Failure, KafkaConfig, Publisher, why_it_stopped};
use serde::{Deserialize, Serialize};
use sqlx::postgres::PgConnectOptions;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use term::{Source, Term};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

/// Whoever published for so long does not pay for what failed before.
const LONG: Duration = Duration::from_secs(30);
/// How late a relay that stands by notices that there is no owner.
const STAND_BY: Duration = Duration::from_secs(1);

/// `[outbox.<name>]` in `millrace.toml`.
#[derive(Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct OutboxConfig {
    /// The service's database. Not through a pooler that hands connections on between transactions.
    pub url: String,
    /// Only by the environment.
    #[serde(skip_serializing)]
    pub password: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
    /// Who publishes, a URI reference; `/<name>` if empty.
    pub source: String,
    /// Read, sent and settled together.
    pub batch_rows: u32,
    /// Where rows are large a batch ends here; the Kafka client holds about as much again.
    pub batch_bytes: usize,
    /// How late an event is noticed whose notification was lost.
    pub poll_ms: u64,
    /// How long an owner that says nothing is waited for.
    pub lease_ms: u64,
    /// A transaction that holds events back for longer is named in the log, as often as this.
    pub held_back_alarm_ms: u64,
}

impl Default for OutboxConfig {
    fn default() -> Self {
        Self {
            url: String::new(),
            password: None,
            password_file: None,
            source: String::new(),
            batch_rows: 2_000,
            batch_bytes: 16 << 20,
            poll_ms: 1_000,
            lease_ms: 10_000,
            held_back_alarm_ms: 30_000,
        }
    }
}

impl std::fmt::Debug for OutboxConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "outbox {}", millrace_schemas::without_password(&self.url))
    }
}

impl OutboxConfig {
    /// # Errors
    /// Names the key that is wrong, below the outbox's own, and what is possible.
    pub fn check(&self) -> Result<(), String> {
        let bounds = [
            ("batch_rows", self.batch_rows.into(), 1..=50_000),
            ("batch_bytes", self.batch_bytes as u64, 1 << 10..=64 << 20),
            ("poll_ms", self.poll_ms, 10..=60_000),
            ("lease_ms", self.lease_ms, 500..=600_000),
            ("held_back_alarm_ms", self.held_back_alarm_ms, 100..=86_400_000),
        ];
        in_bounds("", bounds)?;
        if self.source.len() > ATTRIBUTE_BYTES_MAX || self.source.contains(char::is_control) {
            return Err(format!("source` must be text of at most {ATTRIBUTE_BYTES_MAX} bytes"));
        }
        Ok(())
    }
}

/// One database's.
pub struct Outbox {
    pub name: String,
    /// With the login.
    pub database: PgConnectOptions,
    pub config: OutboxConfig,
}

/// Ready to publish what some outboxes hold. Their databases and Kafka may be away.
pub struct Relay {
    sources: Vec<Source>,
}

/// Running, until it is drained. Dropping it gives up what is on its way.
pub struct RelayHandle {
    stop: CancellationToken,
    failure: watch::Receiver<Option<Arc<Failure>>>,
    all: JoinHandle<()>,
}

impl Relay {
    /// Looks every version of every contract up in the registry.
    ///
    /// # Errors
    /// When the registry does not answer or lacks a contract, or a Kafka property is wrong.
    pub async fn connect(
        outboxes: Vec<Outbox>,
        kafka: &KafkaConfig,
        registry: &Registry,
        contracts: Arc<Contracts>,
        metrics: &OutboxMetrics,
    ) -> anyhow::Result<Self> {
        let routes = Arc::new(Routes::look_up(registry, contracts).await?);
        let mut kafka = kafka.clone();
        // Never gives an event up: those behind it would come before it.
        kafka.properties.insert("message.timeout.ms".into(), "0".into());
        kafka.properties.insert("retries".into(), i32::MAX.to_string());
        Publisher::new(&kafka)?; // each term has one of its own: what is wrong with a property is said at once
        let source = |outbox: Outbox| {
            let Outbox { name, database, mut config } = outbox;
            if config.source.is_empty() {
                config.source = format!("/{name}");
            }
            let (meter, owner) = (metrics.of(&name), format!("process {}", std::process::id()));
            let (database, kafka, routes) = (store::options(database), kafka.clone(), routes.clone());
            Source { name, config, database, kafka, routes, meter, owner }
        };
        Ok(Self { sources: outboxes.into_iter().map(source).collect() })
    }

    /// What [`reachable`] asks.
    pub fn databases(&self) -> Vec<(String, PgConnectOptions)> {
        self.sources.iter().map(|source| (source.name.clone(), source.database.clone())).collect()
    }

    pub fn start(self) -> RelayHandle {
        let stop = CancellationToken::new();
        let (failed, failure) = watch::channel(None);
        let mut tasks = JoinSet::new();
        for source in self.sources {
            tasks.spawn(relay(source, stop.clone()));
        }
        let all = tokio::spawn(supervise(tasks, failed));
        RelayHandle { stop, failure, all }
    }
}

impl RelayHandle {
    /// Waits until it had to stop; never returns while it runs.
    pub async fn failed(&mut self) -> Arc<Failure> {
        why_it_stopped(&mut self.failure, "the relay ended").await
    }

    /// Lets batches on their way be settled, and the outboxes go. False when [`DRAIN_DEADLINE`] passed first.
    pub async fn drain(mut self) -> bool {
        self.stop.cancel();
        tokio::time::timeout(DRAIN_DEADLINE, &mut self.all).await.is_ok()
    }
}

impl Drop for RelayHandle {
    fn drop(&mut self) {
        self.stop.cancel();
        self.all.abort();
    }
}

/// # Errors
/// Names an outbox whose database does not answer, or lacks what `outbox.sql` makes.
pub async fn reachable(databases: &[(String, PgConnectOptions)]) -> anyhow::Result<()> {
    let asked = databases
        .iter()
        .map(async |(name, database)| store::reachable(database).await.with_context(|| format!("outbox {name}")));
    try_join_all(asked).await.map(drop)
}

async fn supervise(mut tasks: JoinSet<()>, failed: watch::Sender<Option<Arc<Failure>>>) {
    while let Some(ended) = tasks.join_next().await {
        if let Err(panic) = ended {
            failed.send_replace(Some(Arc::new(Failure::stop(panic))));
        }
    }
}

/// Term after term. Whatever stands against one outbox keeps no other waiting, so nothing ends this but a drain.
async fn relay(source: Source, stop: CancellationToken) {
    let outbox = source.name.clone();
    let mut backoff = Backoff::default();
    while !stop.is_cancelled() {
        let since = Instant::now();
        let wait = match term(&source, &stop).await {
            Ok(true) => return, // told to stop
            Ok(false) => STAND_BY,
            Err(failure) => {
                if since.elapsed() > LONG {
                    backoff = Backoff::default();
                }
                let wait = backoff.next_wait();
                tracing::warn!(outbox, "{failure}; trying again in {wait:.1?}");
                wait
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// False where somebody else owns the outbox.
async fn term(source: &Source, stop: &CancellationToken) -> Result<bool, Failure> {
    let Some(mut term) = Term::take(source).await? else { return Ok(false) };
    tracing::info!(outbox = source.name, "publishing");
    let ended = term.serve(stop).await;
    term.release().await;
    ended.map(|()| true)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCHEMA: &str = include_str!("../../outbox/outbox.sql");

    #[test]
    fn the_schema_and_the_relay_mean_the_same_lock_and_channel() {
        assert!(SCHEMA.contains(&format!("pg_try_advisory_xact_lock_shared({})", store::SLEEPING)));
        assert!(SCHEMA.contains(&format!("pg_notify('{}'", store::CHANNEL)));
    }

    #[test]
    fn a_bound_that_is_out_of_bounds_is_named() {
        assert_eq!(OutboxConfig::default().check(), Ok(()));
        let config = OutboxConfig { lease_ms: 1, ..OutboxConfig::default() };
        assert_eq!(config.check().unwrap_err(), "lease_ms` is 1: 500 to 600000 is possible");
        let config = OutboxConfig { source: "/a\nb".into(), ..OutboxConfig::default() };
        assert!(config.check().unwrap_err().starts_with("source` must be text"), "else every event would be set aside");
    }
}
