//! Waiting between tries. The only place that uses the `backoff` crate (docs/adr/0004).

use crate::Failure;
use backoff::backoff::Backoff as _;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// First wait: long enough for a server to finish what it was doing.
const FIRST: Duration = Duration::from_millis(100);
/// Longest wait: a healed server is noticed within this.
const LONGEST: Duration = Duration::from_secs(10);

/// Exponential waits with jitter, without end: whoever uses it has a deadline or a cancellation.
pub struct Backoff(backoff::ExponentialBackoff);

impl Default for Backoff {
    fn default() -> Self {
        Self::between(FIRST, LONGEST)
    }
}

impl Backoff {
    pub fn between(first: Duration, longest: Duration) -> Self {
        Self(backoff::ExponentialBackoff {
            current_interval: first,
            initial_interval: first,
            max_interval: longest,
            max_elapsed_time: None,
            ..Default::default()
        })
    }

    pub fn next_wait(&mut self) -> Duration {
        self.0.next_backoff().unwrap_or(LONGEST)
    }
}

/// Tries until it works, until it must stop, or until `cancelled` (then `Ok(None)`).
pub async fn retry_until<T, F>(
    cancelled: &CancellationToken,
    what: &str,
    mut attempt: impl FnMut() -> F,
) -> Result<Option<T>, Failure>
where
    F: Future<Output = Result<T, Failure>>,
{
    let mut backoff: Option<Backoff> = None; // most tries succeed at once, on hot paths too
    loop {
        match attempt().await {
            Ok(done) => return Ok(Some(done)),
            Err(Failure::Retry(error)) => {
                let wait = backoff.get_or_insert_default().next_wait();
                tracing::warn!("{what}: {error:#}; trying again in {wait:.1?}");
                tokio::select! {
                    () = cancelled.cancelled() => return Ok(None),
                    () = tokio::time::sleep(wait) => {}
                }
            }
            Err(stop) => return Err(stop.context(what.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_and_stay_within_their_bounds() {
        let mut backoff = Backoff::default();
        let waits: Vec<Duration> = (0..50).map(|_| backoff.next_wait()).collect();
        assert!(waits[0] < FIRST * 2 && waits[49] > FIRST * 10);
        assert!(waits.iter().all(|wait| *wait <= LONGEST * 2));
    }

    #[tokio::test(start_paused = true)]
    async fn what_heals_is_tried_again_and_what_does_not_stops() {
        let never = CancellationToken::new();
        let mut left = 3;
        let healed = retry_until(&never, "try", || {
            left -= 1;
            let result = if left > 0 { Err(Failure::retry(anyhow::anyhow!("not yet"))) } else { Ok(left) };
            async move { result }
        });
        assert!(matches!(healed.await, Ok(Some(0))));
        let stopped = retry_until(&never, "try", || async { Err::<(), _>(Failure::stop(anyhow::anyhow!("no"))) });
        assert_eq!(stopped.await.unwrap_err().to_string(), "try: no");
    }
}
