//! When to try again, and when to give up. Pure: the same delivery and try always wait equally long.

use crate::channel::Outcome;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use uuid::Uuid;

/// Each wait is this many times the one before.
const FACTOR: u32 = 4;
/// Waits vary by this share in both directions, so that what failed together does not come back together.
const JITTER: f64 = 0.2;

/// The schedule of attempts. The default's 15 attempts span three days: a receiver may be down over a weekend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RetryConfig {
    /// Attempts before a delivery is given up and shown as failed.
    pub attempts: i32,
    /// Wait after the first attempt: long enough for a receiver's restart to begin, short enough for a demo.
    pub first_ms: u64,
    /// Longest wait, also for what a receiver asks in `Retry-After`.
    pub longest_ms: u64,
}

impl Default for RetryConfig {
    fn default() -> Self {
        Self { attempts: 15, first_ms: 1_000, longest_ms: 12 * 60 * 60 * 1_000 }
    }
}

/// What becomes of the delivery after an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    Delivered,
    Failed,
    /// Due again after this long.
    Pending(Duration),
}

impl RetryConfig {
    /// `tries` counts the attempt that just ended.
    pub(crate) fn next(&self, id: Uuid, tries: i32, outcome: &Outcome) -> Next {
        match outcome {
            Outcome::Delivered { .. } => Next::Delivered,
            Outcome::Refused { .. } => Next::Failed,
            Outcome::Retry { .. } if tries >= self.attempts => Next::Failed,
            Outcome::Retry { after, .. } => Next::Pending(self.wait(id, tries, *after)),
        }
    }

    /// What the receiver asks is a floor, never a ceiling; and never longer than the longest wait.
    fn wait(&self, id: Uuid, tries: i32, asked: Option<Duration>) -> Duration {
        let longest = Duration::from_millis(self.longest_ms);
        let steps = u32::try_from(tries - 1).unwrap_or(0);
        let grown = Duration::from_millis(self.first_ms).saturating_mul(FACTOR.saturating_pow(steps));
        let planned = grown.min(longest).mul_f64(jitter(id, tries));
        planned.max(asked.unwrap_or_default().min(longest))
    }
}

/// Between `1 - JITTER` and `1 + JITTER`. The id is a hash, so its bits are as good as dice.
fn jitter(id: Uuid, tries: i32) -> f64 {
    let bits = id.as_u64_pair().1 ^ u64::try_from(tries).unwrap_or(0).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let share = f64::from(u16::try_from(bits & 0xffff).unwrap_or(0)) / f64::from(u16::MAX);
    1.0 - JITTER + 2.0 * JITTER * share
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: RetryConfig = RetryConfig { attempts: 15, first_ms: 1_000, longest_ms: 43_200_000 };

    fn failed(after: Option<Duration>) -> Outcome {
        Outcome::Retry { code: Some(503), error: String::new(), after }
    }

    fn waits(id: Uuid) -> Vec<Duration> {
        let wait = |tries| match CONFIG.next(id, tries, &failed(None)) {
            Next::Pending(wait) => Some(wait),
            _ => None,
        };
        (1..).map_while(wait).collect()
    }

    #[test]
    fn waits_grow_within_their_jitter_and_span_three_days() {
        assert_eq!(RetryConfig::default(), CONFIG);
        for id in (0..100).map(|n: u8| Uuid::new_v5(&Uuid::NAMESPACE_OID, &[n])) {
            let waits = waits(id);
            assert_eq!(waits.len(), 14);
            for (step, wait) in waits.iter().enumerate() {
                let plain = 4f64.powi(i32::try_from(step).unwrap()).min(43_200.0);
                assert!((0.79..=1.21).contains(&(wait.as_secs_f64() / plain)), "{id} {step} {wait:?}");
            }
            let days = waits.iter().sum::<Duration>().as_secs_f64() / 86_400.0;
            assert!((2.5..=4.0).contains(&days), "{days}");
        }
    }

    #[test]
    fn what_failed_together_does_not_come_back_together() {
        let first = |n: u16| waits(Uuid::new_v5(&Uuid::NAMESPACE_OID, &n.to_be_bytes()))[0].as_millis() / 10;
        let mut buckets: Vec<u128> = (0..1_000).map(first).collect();
        buckets.sort_unstable();
        buckets.dedup();
        assert!(buckets.len() >= 38, "waits fall into {} of 40 buckets", buckets.len());
    }

    #[test]
    fn a_receiver_may_ask_for_patience_but_not_for_eternity() {
        let after = |seconds| CONFIG.next(Uuid::nil(), 1, &failed(Some(Duration::from_secs(seconds))));
        assert_eq!(after(90), Next::Pending(Duration::from_secs(90)));
        assert_eq!(after(0), CONFIG.next(Uuid::nil(), 1, &failed(None)));
        assert_eq!(after(u64::MAX / 2), Next::Pending(Duration::from_secs(43_200)));
    }

    #[test]
    fn the_last_attempt_and_a_refusal_end_it() {
        assert_eq!(CONFIG.next(Uuid::nil(), 15, &failed(None)), Next::Failed);
        assert_eq!(CONFIG.next(Uuid::nil(), 16, &failed(Some(Duration::from_secs(9)))), Next::Failed);
        let refused = Outcome::Refused { code: Some(410), error: String::new() };
        assert_eq!(CONFIG.next(Uuid::nil(), 1, &refused), Next::Failed);
        assert_eq!(CONFIG.next(Uuid::nil(), 1, &Outcome::Delivered { code: Some(204) }), Next::Delivered);
    }
}
