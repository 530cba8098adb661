//! How often inserts may begin, all tables together.
//!
//! What an insert costs a server beside its rows (a part, its merges) is the same for one row and for a hundred
//! thousand. So while few tables are busy nobody waits for a turn; and the more there are, the longer each waits for more
//! rows: nobody tunes anything for the day when there are many.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// So long may nothing have been inserted and be made up for at once: the first events of a morning are seen soon.
const BURST: Duration = Duration::from_secs(1);
/// Nobody waits longer for a turn, however many tables there are.
const WAIT_MAX: Duration = Duration::from_secs(5);

/// Who is behind has turns so many times further apart, up to a second: by then batches are full, and wait for nothing.
const BEHIND: u32 = 3;
const BEHIND_MAX: Duration = Duration::from_secs(1);

pub(super) struct Pace {
    /// From one insert to the next.
    interval: Duration,
    /// When the next insert's turn is.
    next: Mutex<Instant>,
}

impl Pace {
    pub fn new(inserts_per_second: u32) -> Self {
        Self { interval: Duration::from_secs(1) / inserts_per_second.max(1), next: Mutex::new(Instant::now()) }
    }

    /// Until the first of so many inserts may begin, and not before then; where many wait for their turns, more rows
    /// come anyway, and nothing else is waited for.
    pub async fn wait_for_turn(&self, inserts: usize, behind: bool, not_before: Instant) {
        let (now, turn) = (Instant::now(), self.turn(inserts, behind));
        let turn = if turn <= now { not_before } else { turn };
        if turn > now {
            tokio::time::sleep_until(turn).await; // which would let a tick pass in any case
        }
    }

    /// Whoever is next has it that many inserts later.
    fn turn(&self, inserts: usize, behind: bool) -> Instant {
        let now = Instant::now();
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let earliest = now.checked_sub(BURST).unwrap_or(now);
        // Turns beyond the longest wait are nobody's: who would have them begins before.
        let turn = (*next).clamp(earliest, now + WAIT_MAX);
        let taken = self.interval.saturating_mul(u32::try_from(inserts).unwrap_or(u32::MAX));
        let taken = if behind { taken.max(BEHIND_MAX.min(taken.saturating_mul(BEHIND))) } else { taken };
        *next = turn + taken.min(WAIT_MAX);
        turn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How long inserts that are ready now wait, in milliseconds.
    fn waits(pace: &Pace, inserts: usize) -> Vec<u128> {
        let now = Instant::now();
        (0..inserts).map(|_| pace.turn(1, false).saturating_duration_since(now).as_millis()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn few_inserts_begin_soon_and_many_wait_for_more_rows() {
        let waits = waits(&Pace::new(10), 100);
        assert!(waits.is_sorted() && waits[1] == 100 && waits[30] == 3_000, "{waits:?}");
        assert_eq!(waits[99], 5_000, "and no longer than that");
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_behind_makes_fewer_and_larger_inserts() {
        let (pace, now) = (Pace::new(10), Instant::now());
        let turn = |inserts| (pace.turn(inserts, true) - now).as_millis();
        assert_eq!([turn(1), turn(2), turn(1)], [0, 300, 900]);
        assert_eq!(
            [turn(7), turn(12), turn(1)],
            [1_200, 2_200, 3_400],
            "no further apart than a second, or than others"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn who_was_silent_may_catch_up_at_once_and_no_more_than_a_second_of_it() {
        let pace = Pace::new(10);
        tokio::time::advance(Duration::from_secs(3_600)).await;
        let waits = waits(&pace, 20);
        assert_eq!((waits[10], waits[11]), (0, 100), "{waits:?}");
    }
}
