//! One lane an endpoint: claim what is due, send it, pass the outcome on. A slow or dead receiver fills its own
//! lane and nobody else's.

use crate::channel::{Channel, Delivery, Outcome};
use crate::ledger::{Ask, Claimed, Ended, Ledger};
use crate::metrics::Metrics;
use crate::retry::RetryConfig;
use millrace_stream::{Failure, crash_at, retry_until};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// What a lease is longer than its attempt: time to claim, and to write down what came of it.
const LEASE_MARGIN: Duration = Duration::from_secs(5);
/// A channel that keeps to its endpoint's timeout ends sooner; this ends one that does not, within the lease.
const ATTEMPT_MARGIN: Duration = Duration::from_secs(2);
/// How long a free slot waits for company, so that a fast receiver is served by one claim for many.
const CLAIM_LINGER: Duration = Duration::from_millis(5);

/// Everything one endpoint's deliveries need.
pub(crate) struct Lane<C> {
    pub endpoint: String,
    /// Attempts in flight at once; also the most that are claimed at once, so that nothing leased waits for a slot.
    pub concurrency: usize,
    /// One attempt, at most.
    pub timeout: Duration,
    pub retry: RetryConfig,
    pub channel: Arc<C>,
    pub ledger: Ledger,
    pub metrics: Metrics,
    /// Rings when something may be due.
    pub ready: Arc<Notify>,
    pub ended: mpsc::Sender<Ended>,
    /// Claim no more.
    pub stop: CancellationToken,
}

impl<C: Channel> Lane<C> {
    /// Runs until stopped, then until the attempts in flight have ended.
    pub async fn run(self) -> Result<(), Failure> {
        let lane = Arc::new(self);
        let slots = Arc::new(Semaphore::new(lane.concurrency));
        let mut attempts = JoinSet::new();
        while let Some(free) = lane.free(&slots).await {
            let wanted = free.num_permits();
            let Some(claimed) = lane.claim(wanted).await? else { break };
            let may_be_more = claimed.deliveries.len() == wanted;
            lane.start(claimed, free, &mut attempts);
            while attempts.try_join_next().is_some() {}
            if !may_be_more && !lane.wait_until_ready().await {
                break;
            }
        }
        while attempts.join_next().await.is_some() {}
        Ok(())
    }

    /// Every slot that is free, once one is; `None` when stopped.
    async fn free(&self, slots: &Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
        let mut free = tokio::select! {
            biased;
            () = self.stop.cancelled() => None,
            slot = slots.clone().acquire_owned() => slot.ok(),
        }?;
        tokio::time::sleep(CLAIM_LINGER).await;
        while let Ok(another) = slots.clone().try_acquire_owned() {
            free.merge(another);
        }
        Some(free)
    }

    async fn claim(&self, rows: usize) -> Result<Option<Claimed>, Failure> {
        let ask =
            Ask { endpoint: &self.endpoint, rows, lease: self.timeout + LEASE_MARGIN, tries_max: self.retry.attempts };
        let what = format!("could not claim deliveries to {}", self.endpoint);
        let claimed = retry_until(&self.stop, &what, || self.ledger.claim(&ask)).await?;
        if claimed.as_ref().is_some_and(|claimed| !claimed.deliveries.is_empty()) {
            crash_at("webhook_after_claim");
        }
        Ok(claimed)
    }

    fn start(self: &Arc<Self>, claimed: Claimed, mut slots: OwnedSemaphorePermit, attempts: &mut JoinSet<()>) {
        self.metrics.unknown(C::NAME, claimed.unknown);
        for delivery in claimed.deliveries {
            let slot = slots.split(1);
            let lane = self.clone();
            attempts.spawn(async move {
                lane.attempt(&delivery).await;
                drop(slot);
            });
        }
    }

    async fn attempt(&self, delivery: &Delivery) {
        let started = Instant::now();
        let outcome = tokio::time::timeout(self.timeout + ATTEMPT_MARGIN, self.channel.deliver(delivery)).await;
        let outcome = outcome.unwrap_or_else(|_| Outcome::retry(format!("no answer within {:?}", self.timeout)));
        crash_at("webhook_after_send");
        let (took, next) = (started.elapsed(), self.retry.next(delivery.id, delivery.tries, &outcome));
        self.metrics.ended(C::NAME, &outcome, next, took);
        say(delivery, &outcome);
        // The receiver of this is gone only when this process gives up; then the lease says what it can.
        let _ = self.ended.send(Ended { id: delivery.id, attempt: delivery.attempt, outcome, next, took }).await;
    }

    /// False when stopped.
    async fn wait_until_ready(&self) -> bool {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => false,
            () = self.ready.notified() => true,
        }
    }
}

/// The error may quote the receiver, which may quote the payload: it is in the ledger, not in the log.
fn say(delivery: &Delivery, outcome: &Outcome) {
    let Delivery { id, endpoint, rule, tries, .. } = delivery;
    match outcome {
        Outcome::Delivered { .. } => tracing::debug!(delivery = %id, endpoint, rule, tries, "delivered"),
        Outcome::Retry { code, .. } => tracing::info!(delivery = %id, endpoint, rule, tries, code, "not delivered yet"),
        Outcome::Refused { code, .. } => tracing::warn!(delivery = %id, endpoint, rule, tries, code, "refused"),
    }
}
