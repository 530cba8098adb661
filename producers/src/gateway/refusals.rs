//! Who was refused, and why: every refusal is counted, and as many are told in the log as somebody would read.

use super::metrics::GatewayMetrics;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Told of each reason within one [`SPAN`]; more are only counted, or whoever guesses keys would fill the disk.
const TOLD_MAX: u64 = 20;
const SPAN: Duration = Duration::from_secs(10);

/// One request's, or of its events those that were refused for one reason.
pub(super) struct Refusal<'a> {
    /// [`super::access::Denied::word`], `scope` or `throttled`.
    pub reason: &'static str,
    /// Empty where nobody knows: what an unverified token says is nobody's name.
    pub principal: &'a str,
    /// [`super::access::Way::word`] of the principal: a key and a token may have one name.
    pub way: &'static str,
    /// Of the first event, where it came to events.
    pub topic: &'a str,
    pub events: usize,
}

#[derive(Default)]
pub(super) struct Refusals {
    told: Mutex<HashMap<&'static str, Told>>,
}

struct Told {
    since: Instant,
    refused: u64,
}

impl Refusals {
    pub fn note(&self, refusal: &Refusal<'_>, metrics: &GatewayMetrics) {
        metrics.refused(refusal.reason);
        let Some(untold) = self.tell(refusal.reason, Instant::now()) else { return };
        let Refusal { reason, principal, way, topic, events } = refusal;
        tracing::warn!(reason, principal, way, topic, events, untold, "refused");
    }

    /// Whether this one is told; then how many before it were not.
    fn tell(&self, reason: &'static str, now: Instant) -> Option<u64> {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let told = told.entry(reason).or_insert(Told { since: now, refused: 0 });
        let mut untold = 0;
        if now.saturating_duration_since(told.since) >= SPAN {
            untold = told.refused.saturating_sub(TOLD_MAX);
            *told = Told { since: now, refused: 0 };
        }
        told.refused += 1;
        (told.refused <= TOLD_MAX).then_some(untold)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_refusals_some_are_told_then_how_many_were_not_and_other_reasons_are_told_meanwhile() {
        let (refusals, now) = (Refusals::default(), Instant::now());
        let told = |reason, count, now| (0..count).filter(|_| refusals.tell(reason, now).is_some()).count() as u64;
        assert_eq!(told("unknown_key", 1000, now), TOLD_MAX);
        assert_eq!(told("scope", 1, now), 1);
        assert_eq!(refusals.tell("unknown_key", now + SPAN), Some(1000 - TOLD_MAX));
        assert_eq!(refusals.tell("unknown_key", now + SPAN), Some(0));
    }
}
