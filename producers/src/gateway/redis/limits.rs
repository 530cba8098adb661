//! How much each principal may publish at all gateways together: the buckets of `throttle.rs`, kept in Redis.

use super::Redis;
use crate::gateway::access::Way;
use crate::gateway::throttle::RateConfig;
use redis::Script;
use std::sync::LazyLock;
use std::time::Duration;

static SCRIPT: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("limits.lua")));

/// Of a request's events so many pass, and the next would after this time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::gateway) struct Grant {
    pub events: usize,
    pub wait: Duration,
}

impl Grant {
    /// How long to wait where none is left. Of all that were asked for, no wait says that each passes.
    pub fn take(&mut self) -> Option<Duration> {
        let wait = Some(self.wait).filter(|wait| self.events == 0 && !wait.is_zero());
        self.events = self.events.saturating_sub(1);
        wait
    }
}

impl Redis {
    /// Takes of the principal's buckets what the first of these events need, as far as there is any. None when Redis is
    /// away: then the gateway's own buckets count.
    pub async fn grant(&self, (way, name): (Way, &str), rate: &RateConfig, sizes: &[usize]) -> Option<Grant> {
        let mut call = SCRIPT.key(format!("millrace:limit:{}:{name}", way.word()));
        for (per_second, burst) in rate.buckets() {
            call.arg(per_second).arg(burst);
        }
        // As long as ids: of what Redis evicts the shortest-lived first, buckets that are empty are not the first to go,
        // which would come back full.
        call.arg(self.ids_kept.as_millis() as u64);
        for bytes in sizes {
            call.arg(*bytes);
        }
        let (events, micros) = self.ask(async |to| call.invoke_async::<(usize, u64)>(to).await).await?;
        Some(Grant { events, wait: Duration::from_micros(micros) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::access::Principal;
    use crate::gateway::redis::real::Real;
    use crate::gateway::throttle::{LimitsConfig, Throttle};
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::{Rng, SeedableRng};
    use std::time::Instant;

    /// Of it both sides' arithmetic is exact, with rates that are powers of two.
    const TICK: Duration = Duration::from_micros(15_625);

    #[tokio::test]
    async fn the_script_lets_pass_what_a_gateway_alone_would_and_says_the_same_wait() {
        let real = Real::start();
        let (redis, _) = real.shared().await;
        let mut to = redis.reached.read().unwrap().clone().unwrap().connection;
        let (script, clock) = (include_str!("limits.lua"), "redis.call('TIME')");
        assert!(script.contains(clock));
        let script = Script::new(&script.replace(clock, "{ KEYS[2], KEYS[3] }"));
        for seed in 0..150 {
            let mut dice = ChaCha8Rng::seed_from_u64(seed);
            let mut roll = |from: u32, to: u32| from + dice.next_u32() % (to - from);
            let (both, events, bytes) = (roll(0, 3), 1 << roll(0, 7), 1 << roll(6, 13));
            let rate = RateConfig {
                events_per_second: if both == 1 { 0 } else { events },
                events_burst: roll(0, 100),
                bytes_per_second: if both == 2 { 0 } else { bytes },
                bytes_burst: roll(0, 10_000),
            };
            let throttle = Throttle::new(LimitsConfig { default: rate.clone(), ..LimitsConfig::default() });
            let (begin, mut passed) = (Instant::now(), Duration::from_secs(1_800_000_000));
            let earliest = passed;
            for request in 0..40 {
                passed += TICK * if roll(0, 2) == 0 { roll(0, 4) } else { roll(0, 200) };
                let sizes: Vec<usize> = (0..roll(1, 20)).map(|_| roll(1, 3_000) as usize).collect();
                let mut call = script.key(format!("it:{seed}"));
                call.key(passed.as_secs()).key(passed.subsec_micros());
                for (per_second, burst) in rate.buckets() {
                    call.arg(per_second).arg(burst);
                }
                call.arg(600_000).arg(&sizes);
                let (events, micros): (usize, u64) = call.invoke_async(&mut to).await.unwrap();

                let principal = Principal::granted("it", Way::Key, &[]);
                let (mut alone, now) = (throttle.allowance(&principal), begin + (passed - earliest));
                let taken = sizes.iter().filter(|bytes| alone.take(**bytes, now)).count();
                let wait = alone.wait.unwrap_or_default();
                assert_eq!(events, taken, "seed {seed}, request {request}: {rate:?} {sizes:?}");
                let apart = Duration::from_micros(micros).abs_diff(wait);
                assert!(apart <= Duration::from_micros(1), "seed {seed}, request {request}: {micros} µs, {wait:?}");
            }
        }
    }

    #[tokio::test]
    async fn an_emptied_bucket_is_kept_as_long_as_an_id() {
        let real = Real::start();
        let (redis, _) = real.shared().await;
        let rate = RateConfig { events_per_second: 1000, ..RateConfig::default() };
        assert!(redis.grant((Way::Key, "it"), &rate, &[1; 1000]).await.is_some());
        let mut to = redis.reached.read().unwrap().clone().unwrap().connection;
        let left: u64 = redis::cmd("PTTL").arg("millrace:limit:key:it").query_async(&mut to).await.unwrap();
        assert!(u128::from(left) > redis.ids_kept.as_millis() / 2, "{left} ms");
    }
}
