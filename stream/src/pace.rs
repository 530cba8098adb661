//! How often a pipeline's batches may go out, all partitions together.
//!
//! What a batch costs its store beside its rows (a part, its merges) is the same for one row and for a hundred
//! thousand. So while few partitions are busy each goes out soon, and the more there are, the longer each waits for
//! more rows: nobody tunes anything for the day when there are many.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// So long may a pipeline have been silent and make up for it at once: the first events of a morning are seen soon.
const BURST: Duration = Duration::from_secs(1);
/// No record waits longer for company, however many partitions there are.
const LINGER_MAX: Duration = Duration::from_secs(5);

pub(crate) struct Pace {
    linger: Duration,
    /// From one batch to the next.
    interval: Duration,
    /// When the next batch's turn is.
    next: Mutex<Instant>,
}

impl Pace {
    pub fn new(linger: Duration, batches_per_second: Option<u32>) -> Self {
        let interval = batches_per_second.map_or(Duration::ZERO, |batches| Duration::from_secs(1) / batches.max(1));
        Self { linger, interval, next: Mutex::new(Instant::now()) }
    }

    /// When a batch that begins now goes out, unless it is full before.
    pub fn turn(&self) -> Instant {
        let now = Instant::now();
        let turn = self.take_turn(now).max(now + self.linger);
        turn.min(now + self.linger.max(LINGER_MAX))
    }

    fn take_turn(&self, now: Instant) -> Instant {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let earliest = now.checked_sub(BURST).unwrap_or(now);
        // Turns beyond the longest wait are nobody's: who would have them goes out before.
        let turn = (*next).clamp(earliest, now + LINGER_MAX);
        *next = turn + self.interval;
        turn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How long batches that begin now wait, in milliseconds.
    fn waits(pace: &Pace, batches: usize) -> Vec<u128> {
        let now = Instant::now();
        (0..batches).map(|_| (pace.turn() - now).as_millis()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn few_batches_go_out_soon_and_many_wait_for_more_rows() {
        let pace = Pace::new(Duration::from_millis(200), Some(10));
        let waits = waits(&pace, 100);
        assert!(waits[..3].iter().all(|wait| *wait == 200), "{waits:?}");
        assert!(waits.is_sorted() && waits[30] > 2_000, "{waits:?}");
        assert_eq!(waits[99], 5_000, "and no longer than that");
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_pipeline_may_catch_up_at_once_and_no_more_than_a_second_of_it() {
        let pace = Pace::new(Duration::from_millis(200), Some(10));
        tokio::time::advance(Duration::from_secs(3_600)).await;
        let waits = waits(&pace, 20);
        assert_eq!((waits[12], waits[13]), (200, 300), "{waits:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_pace_every_batch_waits_its_linger() {
        let pace = Pace::new(Duration::from_millis(200), None);
        assert!(waits(&pace, 1_000).iter().all(|wait| *wait == 200));
    }
}
