//! The trait a channel implements, and what it is told and answers. Retries, leases and identity are not its business.

use chrono::{DateTime, Utc};
use std::time::{Duration, Instant};
use uuid::Uuid;

/// One attempt's worth of work: send this, under this id.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// The same in every attempt; what the receiver deduplicates by.
    pub id: Uuid,
    pub rule: String,
    pub endpoint: String,
    /// The same bytes in every attempt.
    pub body: String,
    /// W3C trace context of the event.
    pub traceparent: Option<String>,
    /// The lease's number: an outcome is recorded only while it is the newest.
    pub attempt: i32,
    /// How many attempts this is since the delivery became due.
    pub tries: i32,
    pub clock: Clock,
}

/// The time of day as Postgres has it: a receiver refuses what was signed by a clock that is minutes off, and then each
/// machine's own would have to be right.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    asked: DateTime<Utc>,
    at: Instant,
}

impl Clock {
    pub fn showing(now: DateTime<Utc>) -> Self {
        Self { asked: now, at: Instant::now() }
    }

    pub fn now(&self) -> DateTime<Utc> {
        self.asked + self.at.elapsed()
    }
}

/// What came of an attempt. The channel knows its protocol, so it decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Delivered {
        code: Option<u16>,
    },
    /// The world is at fault, or nobody knows: it may work later. `after` is what the receiver asked for.
    Retry {
        code: Option<u16>,
        error: String,
        after: Option<Duration>,
    },
    /// The receiver will never take it.
    Refused {
        code: Option<u16>,
        error: String,
    },
}

impl Outcome {
    pub(crate) fn retry(error: impl std::fmt::Display) -> Self {
        Self::Retry { code: None, error: error.to_string(), after: None }
    }
}

/// A way out. One instance serves all endpoints of a process.
pub trait Channel: Send + Sync + 'static {
    /// The channel's word in rules, in the ledger and in metrics.
    const NAME: &'static str;

    /// Sends once and says what came of it. Dropped when it takes longer than its endpoint's deadline.
    fn deliver(&self, delivery: &Delivery) -> impl Future<Output = Outcome> + Send;
}
