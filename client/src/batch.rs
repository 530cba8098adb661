//! The one task that sends: gathers what waits, and sends it until each event has an answer or is out of time.
//!
//! One request at a time. Were there two, what the first must send again would come in behind the second.

use crate::http::{Answer, Gateway, Status, Verdict};
use crate::{Options, PublishError, Published};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout_at};
use uuid::Uuid;

/// Between attempts, where the gateway does not say: doubled each time, up to the second.
const WAIT: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

pub(crate) type Reply = oneshot::Sender<Result<Published, PublishError>>;

/// An event that waits for its answer.
pub(crate) struct Pending {
    pub id: Uuid,
    pub json: String,
    pub since: Instant,
    /// No attempt begins after it.
    pub until: Instant,
    pub attempts: u32,
    /// An attempt of it was sent, and nobody knows what became of it. No later answer takes that back.
    pub may_be_in_log: bool,
    pub reply: Reply,
    /// Its part of what may wait.
    pub memory: OwnedSemaphorePermit,
}

impl Pending {
    fn answer(self, answer: Result<Published, PublishError>) {
        let Self { reply, memory, .. } = self;
        drop(memory);
        let _ = reply.send(answer); // where nobody waits for it, nobody hears
    }

    fn fail(self, error: PublishError) {
        let error = if self.may_be_in_log { error.unsure(self.attempts) } else { error };
        self.answer(Err(error));
    }
}

pub(crate) struct Worker {
    options: Arc<Options>,
    waiting: mpsc::Receiver<Pending>,
    /// Was taken, and did not fit the batch.
    next: Option<Pending>,
    gateway: Gateway,
}

impl Worker {
    pub fn new(options: Arc<Options>, waiting: mpsc::Receiver<Pending>) -> Result<Self, PublishError> {
        let gateway = Gateway::new(&options)?;
        Ok(Self { options, waiting, next: None, gateway })
    }

    /// Until no client is left and everything has its answer.
    pub async fn run(mut self) {
        while let Some(batch) = self.gather().await {
            self.deliver(batch).await;
        }
    }

    async fn gather(&mut self) -> Option<Vec<Pending>> {
        let first = match self.next.take() {
            Some(first) => first,
            None => self.waiting.recv().await?,
        };
        let linger = first.since + self.options.linger;
        let (mut bytes, mut batch) = (first.json.len() + 2, vec![first]);
        while batch.len() < self.options.batch_events {
            // What waits already is taken in any case.
            let Ok(Some(pending)) = timeout_at(linger, self.waiting.recv()).await else { break };
            bytes += pending.json.len() + 1;
            if bytes > self.options.batch_bytes {
                self.next = Some(pending);
                break;
            }
            batch.push(pending);
        }
        Some(batch)
    }

    /// In parts, where it is more than the gateway takes at once. (Each half is one event less at least.)
    async fn deliver(&mut self, batch: Vec<Pending>) {
        let mut parts = vec![batch]; // the next one last
        while let Some(part) = parts.pop() {
            let part = in_time(part, Instant::now(), "others were before it until its deadline");
            if let Some(mut first) = self.send(part).await {
                let second = first.split_off(first.len() / 2);
                parts.extend([second, first]);
            }
        }
    }

    /// Until each has its answer; or what of it is too large for one request, but may not be for two.
    async fn send(&mut self, mut batch: Vec<Pending>) -> Option<Vec<Pending>> {
        let mut wait = WAIT.0;
        let mut renewed = false;
        while !batch.is_empty() {
            batch.iter_mut().for_each(|pending| pending.attempts += 1);
            let answer = self.gateway.post(&batch).await;
            let status = if let Answer::Refused { status, .. } = answer { status } else { 0 };
            if status == 401 && !renewed && self.gateway.renew() {
                renewed = true;
                continue;
            }
            if status == 413 && batch.len() > 1 {
                return Some(batch);
            }
            let (left, again) = settle(batch, answer);
            let pause = again.retry_after.unwrap_or_else(|| jittered(wait));
            batch = in_time(left, Instant::now() + pause, &again.reason);
            if batch.is_empty() {
                break;
            }
            tracing::debug!(events = batch.len(), "sending again in {pause:?}: {}", again.reason);
            sleep(pause).await;
            wait = (2 * wait).min(WAIT.1);
        }
        None
    }
}

/// Why some are to be sent again, and when.
#[derive(Default)]
struct Again {
    reason: String,
    retry_after: Option<Duration>,
}

/// Answers those that have an answer. The others, in their order.
fn settle(mut batch: Vec<Pending>, answer: Answer) -> (Vec<Pending>, Again) {
    if is_unsure(&answer) {
        batch.iter_mut().for_each(|pending| pending.may_be_in_log = true);
    }
    match answer {
        Answer::Unsent(reason) | Answer::Broken(reason) => (batch, Again { reason, retry_after: None }),
        Answer::Refused { status, detail, retry_after } if is_passing(status) => {
            (batch, Again { reason: format!("the gateway answered {status}: {detail}"), retry_after })
        }
        Answer::Refused { status, detail, .. } => {
            for pending in batch {
                let (id, detail) = (pending.id, detail.clone());
                pending.fail(PublishError::Refused { id, status, detail });
            }
            (Vec::new(), Again::default())
        }
        Answer::Verdicts { verdicts, retry_after } => {
            let judged = batch.into_iter().zip(verdicts);
            let left = judged.filter_map(|(pending, verdict)| judge(pending, verdict)).collect();
            (left, Again { reason: "the log did not answer in time, or this is beyond the limit".into(), retry_after })
        }
    }
}

/// A 5xx may be of something between us and the gateway, which gave up on a request that the gateway had.
fn is_unsure(answer: &Answer) -> bool {
    matches!(answer, Answer::Broken(_) | Answer::Refused { status: 500.., .. })
}

/// Too slow, too much, and everything of which the other side is guilty.
fn is_passing(status: u16) -> bool {
    matches!(status, 408 | 425 | 429 | 500..)
}

/// The event again, if it is to be sent again.
fn judge(mut pending: Pending, mut verdict: Verdict) -> Option<Pending> {
    let id = pending.id;
    match verdict.status {
        Status::Accepted => pending.answer(Ok(Published::Accepted)),
        Status::Duplicate => pending.answer(Ok(Published::Duplicate)),
        Status::Spooled => pending.answer(Ok(Published::Spooled)),
        Status::Invalid => {
            let quarantine = verdict.quarantine();
            pending.fail(PublishError::Invalid { id, violations: verdict.errors, quarantine });
        }
        Status::Unauthorized => pending.fail(PublishError::Unauthorized { id }),
        Status::Throttled => return Some(pending),
        Status::Retry => {
            pending.may_be_in_log = true;
            return Some(pending);
        }
    }
    None
}

/// Those that may still be sent then; the others hear that their time is over.
fn in_time(batch: Vec<Pending>, next_attempt: Instant, reason: &str) -> Vec<Pending> {
    let (left, late): (Vec<_>, Vec<_>) = batch.into_iter().partition(|pending| next_attempt <= pending.until);
    for pending in late {
        let (id, attempts, reason) = (pending.id, pending.attempts, reason.to_owned());
        pending.fail(PublishError::NotPublished { id, attempts, reason });
    }
    left
}

/// Half of it to all of it, so that services which were cut off together don't come back together.
fn jittered(wait: Duration) -> Duration {
    let random = Uuid::new_v4().as_bytes()[0]; // one source of randomness is enough
    wait.mul_f64(0.5 + f64::from(random) / 512.0)
}
