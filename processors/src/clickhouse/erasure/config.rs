//! `[process.erasure]`: how often, how much at once, how long.

use super::PROMISED_WITHIN;
use millrace_stream::PipelineConfig;
use serde::{Deserialize, Serialize};
use std::ops::RangeInclusive;
use std::time::Duration;

/// How people who asked are forgotten.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct ErasureConfig {
    /// How events become requests.
    pub pipeline: PipelineConfig,
    /// Between two looks at who has asked. One change of a table serves all who asked meanwhile.
    pub every_ms: u64,
    /// Between two looks at whether anything of those erased before has come back.
    pub sweep_every_ms: u64,
    /// People at once.
    pub batch: u32,
    /// One statement in ClickHouse. A change of a table reads its personal columns and rewrites them where it must.
    pub timeout_ms: u64,
}

impl Default for ErasureConfig {
    fn default() -> Self {
        Self {
            pipeline: PipelineConfig::default(),
            every_ms: 60_000,
            sweep_every_ms: 15 * 60_000,
            batch: 1_000,
            timeout_ms: 10 * 60_000,
        }
    }
}

impl ErasureConfig {
    /// # Errors
    /// The key that cannot be, and what to put there.
    pub fn check(&self) -> anyhow::Result<()> {
        // Half of what is promised is left for the work itself.
        let most = u64::try_from(PROMISED_WITHIN.as_millis()).unwrap_or(u64::MAX) / 2;
        let ms: RangeInclusive<u64> = 100..=most;
        let keys =
            [("every_ms", self.every_ms), ("sweep_every_ms", self.sweep_every_ms), ("timeout_ms", self.timeout_ms)];
        for (key, value) in keys {
            anyhow::ensure!(ms.contains(&value), "process.erasure.{key} {value}: use {} to {}", ms.start(), ms.end());
        }
        anyhow::ensure!((1..=10_000).contains(&self.batch), "process.erasure.batch {}: use 1 to 10000", self.batch);
        Ok(())
    }

    pub(super) fn every(&self) -> Duration {
        Duration::from_millis(self.every_ms)
    }

    pub(super) fn sweep_every(&self) -> Duration {
        Duration::from_millis(self.sweep_every_ms)
    }

    pub(super) fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pace_that_could_not_keep_the_promise_is_refused_by_key() {
        assert!(ErasureConfig::default().check().is_ok());
        let hourly = ErasureConfig { sweep_every_ms: 3_600_000, ..ErasureConfig::default() };
        let said = hourly.check().unwrap_err().to_string();
        assert_eq!(said, "process.erasure.sweep_every_ms 3600000: use 100 to 1800000");
    }
}
