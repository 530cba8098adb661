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
        for bytes in sizes {
            call.arg(*bytes);
        }
        let (events, micros) = self.ask(async |to| call.invoke_async::<(usize, u64)>(to).await).await?;
        Some(Grant { events, wait: Duration::from_micros(micros) })
    }
}
