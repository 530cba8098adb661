//! How much each principal may publish: a bucket of events and one of bytes, which fill by the second.
//!
//! Each gateway has buckets of its own, which count where Redis does not (`redis/limits.rs`).

use super::access::{Principal, Way};
use super::redis::{Grant, Redis};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Principals whose buckets are remembered, about 200 bytes each.
const PRINCIPALS_MAX: usize = 20_000;

/// `[gateway.limits]`
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsConfig {
    /// Of every principal that is not named.
    pub default: RateConfig,
    /// By name, in place of the default: of a key, and of a token's principal, who are two.
    pub principals: BTreeMap<String, RateConfig>,
}

/// What one principal may publish. 0 is no limit.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RateConfig {
    pub events_per_second: u32,
    /// At once, after a pause. 0: as many as in a second.
    pub events_burst: u32,
    /// Of data, as Avro.
    pub bytes_per_second: u32,
    pub bytes_burst: u32,
}

impl RateConfig {
    /// Of events and of bytes: what fills by the second, and what may be there at once.
    pub(super) fn buckets(&self) -> [(u32, u32); 2] {
        let bucket = |per_second, burst| (per_second, if burst == 0 { per_second } else { burst });
        [bucket(self.events_per_second, self.events_burst), bucket(self.bytes_per_second, self.bytes_burst)]
    }

    fn is_unlimited(&self) -> bool {
        self.events_per_second == 0 && self.bytes_per_second == 0
    }
}

#[derive(Default)]
pub(super) struct Throttle {
    limits: LimitsConfig,
    principals: Mutex<HashMap<Who, Buckets>>,
}

type Who = (Way, String);

/// What one request may still take.
pub(super) struct Allowance<'a> {
    principals: &'a Mutex<HashMap<Who, Buckets>>,
    rate: &'a RateConfig,
    who: Who,
    /// Of all gateways' buckets; none where this one's count.
    granted: Option<Grant>,
    /// Once an event did not pass: when it would.
    pub wait: Option<Duration>,
}

#[derive(Clone, Copy)]
struct Buckets {
    events: Bucket,
    bytes: Bucket,
}

#[derive(Clone, Copy)]
struct Bucket {
    per_second: f64,
    burst: f64,
    level: f64,
    at: Instant,
}

impl Throttle {
    pub fn new(limits: LimitsConfig) -> Self {
        Self { limits, principals: Mutex::default() }
    }

    pub fn allowance(&self, principal: &Principal) -> Allowance<'_> {
        let rate = self.limits.principals.get(&principal.name).unwrap_or(&self.limits.default);
        let who = (principal.way, principal.name.clone());
        Allowance { principals: &self.principals, rate, who, granted: None, wait: None }
    }
}

impl Allowance<'_> {
    /// Has Redis say how many events of these sizes pass.
    pub async fn ask(&mut self, redis: &Redis, sizes: &[usize]) {
        if !self.rate.is_unlimited() && !sizes.is_empty() {
            self.granted = redis.grant((self.who.0, &self.who.1), self.rate, sizes).await;
        }
    }

    /// Whether an event of so many bytes passes. Behind one that did not none of the request does: it might have the
    /// same key, and would be in the log before it.
    pub fn take(&mut self, bytes: usize, now: Instant) -> bool {
        if self.wait.is_none() && !self.rate.is_unlimited() {
            self.wait = match &mut self.granted {
                Some(granted) => granted.take(),
                None => self.take_here(bytes, now),
            };
        }
        self.wait.is_none()
    }

    fn take_here(&self, bytes: usize, now: Instant) -> Option<Duration> {
        let mut principals = self.principals.lock().unwrap_or_else(PoisonError::into_inner);
        if principals.len() >= PRINCIPALS_MAX && !principals.contains_key(&self.who) {
            make_room(&mut principals, now);
        }
        principals.entry(self.who.clone()).or_insert_with(|| Buckets::full(self.rate, now)).take(bytes, now)
    }
}

/// A full bucket is as good as none. Where all are in use, whoever has most left begins anew.
fn make_room(principals: &mut HashMap<Who, Buckets>, now: Instant) {
    principals.retain(|_, buckets| buckets.missing(now) > 0.0);
    if principals.len() >= PRINCIPALS_MAX {
        let least = principals.iter().min_by(|a, b| a.1.missing(now).total_cmp(&b.1.missing(now)));
        if let Some(least) = least.map(|(who, _)| who.clone()) {
            principals.remove(&least);
        }
    }
}

impl Buckets {
    fn full(rate: &RateConfig, now: Instant) -> Self {
        let [events, bytes] = rate.buckets().map(|bucket| Bucket::full(bucket, now));
        Self { events, bytes }
    }

    /// How long to wait where one of them is empty; then nothing is taken of either.
    fn take(&mut self, bytes: usize, now: Instant) -> Option<Duration> {
        let wait = self.events.wait(now).max(self.bytes.wait(now));
        if wait.is_some() {
            return wait;
        }
        self.events.level -= 1.0;
        self.bytes.level -= bytes as f64; // even below nothing, or an event larger than the bucket would never pass
        None
    }

    /// The larger share of a bucket that is missing.
    fn missing(&self, now: Instant) -> f64 {
        self.events.missing(now).max(self.bytes.missing(now))
    }
}

impl Bucket {
    fn full((per_second, burst): (u32, u32), now: Instant) -> Self {
        // One that never empties is no limit.
        let unlimited = Self { per_second: f64::INFINITY, burst: f64::INFINITY, level: f64::INFINITY, at: now };
        if per_second == 0 {
            unlimited
        } else {
            let burst = f64::from(burst);
            Self { per_second: f64::from(per_second), burst, level: burst, at: now }
        }
    }

    /// None when there is one left: an event, or a byte.
    fn wait(&mut self, now: Instant) -> Option<Duration> {
        self.fill(now);
        (self.level < 1.0).then(|| Duration::from_secs_f64((1.0 - self.level) / self.per_second))
    }

    fn fill(&mut self, now: Instant) {
        if self.per_second.is_finite() {
            let passed = now.saturating_duration_since(self.at).as_secs_f64();
            self.level = (self.level + passed * self.per_second).min(self.burst);
        }
        self.at = self.at.max(now);
    }

    fn missing(mut self, now: Instant) -> f64 {
        self.fill(now);
        if self.burst.is_finite() { 1.0 - self.level / self.burst } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(events_per_second: u32, events_burst: u32, bytes_per_second: u32, bytes_burst: u32) -> RateConfig {
        RateConfig { events_per_second, events_burst, bytes_per_second, bytes_burst }
    }

    fn throttle(default: RateConfig) -> Throttle {
        Throttle::new(LimitsConfig { default, ..LimitsConfig::default() })
    }

    fn principal(name: &str) -> Principal {
        Principal::granted(name, Way::Key, &[])
    }

    /// How many events of these sizes pass in one request, and when the next would.
    fn sent(throttle: &Throttle, name: &str, sizes: &[usize], now: Instant) -> (usize, Option<Duration>) {
        let mut allowance = throttle.allowance(&principal(name));
        let passed = sizes.iter().filter(|bytes| allowance.take(**bytes, now)).count();
        (passed, allowance.wait)
    }

    #[test]
    fn a_principal_has_its_burst_and_then_its_rate_and_is_told_when_to_come_again() {
        let (throttle, now) = (throttle(rate(2, 5, 0, 0)), Instant::now());
        let half = Duration::from_millis(500);
        assert_eq!(sent(&throttle, "shop", &[1; 7], now), (5, Some(half)));
        assert_eq!(sent(&throttle, "shop", &[1], now), (0, Some(half)));
        assert_eq!(sent(&throttle, "shop", &[1; 3], now + 2 * half), (2, Some(half)));
        let later = now + Duration::from_secs(3600);
        assert_eq!(sent(&throttle, "shop", &[1; 7], later), (5, Some(half)), "no more than the burst is saved up");
    }

    #[test]
    fn an_event_larger_than_the_bucket_passes_once_and_is_paid_for_afterwards() {
        let (throttle, now) = (throttle(rate(0, 0, 128, 0)), Instant::now());
        let wait = Duration::from_secs(1);
        assert_eq!(sent(&throttle, "shop", &[255, 1], now), (1, Some(wait)));
        assert_eq!(sent(&throttle, "shop", &[1], now + wait / 2), (0, Some(wait / 2)));
        assert_eq!(sent(&throttle, "shop", &[1], now + wait), (1, None));
    }

    #[test]
    fn behind_a_throttled_event_none_of_the_request_passes_even_when_there_is_room_again() {
        let (throttle, now) = (throttle(rate(1, 0, 0, 0)), Instant::now());
        let mut allowance = throttle.allowance(&principal("shop"));
        assert!(allowance.take(1, now));
        assert!(!allowance.take(1, now));
        assert!(!allowance.take(1, now + Duration::from_secs(60)));
        assert_eq!(sent(&throttle, "shop", &[1], now + Duration::from_secs(60)), (1, None), "the next request does");
    }

    #[test]
    fn each_principal_has_buckets_of_its_own_and_some_have_other_limits() {
        let principals = BTreeMap::from([("shop".to_owned(), rate(3, 0, 0, 0)), ("bulk".to_owned(), rate(0, 0, 0, 0))]);
        let throttle = Throttle::new(LimitsConfig { default: rate(1, 0, 0, 0), principals });
        let now = Instant::now();
        for (name, passed) in [("shop", 3), ("bulk", 9), ("other", 1), ("another", 1)] {
            assert_eq!(sent(&throttle, name, &[1; 9], now).0, passed, "{name}");
        }
        let token = Principal::granted("other", Way::Token, &[]);
        assert!(throttle.allowance(&token).take(1, now), "a token with a key's name is somebody else");
    }

    #[test]
    fn as_many_principals_as_there_may_be_leave_whoever_is_throttled_throttled() {
        let (throttle, now) = (throttle(rate(1, 10, 0, 0)), Instant::now());
        assert_eq!(sent(&throttle, "greedy", &[1; 11], now).0, 10);
        for n in 0..PRINCIPALS_MAX + 100 {
            assert_eq!(sent(&throttle, &n.to_string(), &[1], now).0, 1);
        }
        assert_eq!(throttle.principals.lock().unwrap().len(), PRINCIPALS_MAX);
        assert_eq!(sent(&throttle, "greedy", &[1], now).0, 0);
        assert_eq!(sent(&throttle, "new", &[1], now + Duration::from_secs(3600)).0, 1);
        assert_eq!(throttle.principals.lock().unwrap().len(), 1, "those that are full again are forgotten");
    }
}
