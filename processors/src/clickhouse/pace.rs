//! How often inserts may begin, all tables together.
//!
//! What an insert costs a server beside its rows (a part, its merges) is the same for one row and for a hundred
//! thousand. So while few tables are busy each insert begins at once, or half a second after one of few rows into the
//! same table; and the more tables there are, the longer each waits for more rows: nobody tunes anything for the day
//! when there are many.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// So long may nothing have been inserted and be made up for at once: the first events of a morning are seen soon.
const BURST: Duration = Duration::from_secs(1);
/// No insert waits longer for its turn, however many tables there are.
const WAIT_MAX: Duration = Duration::from_secs(5);

/// Who is behind has turns so many times further apart.
const BEHIND: u32 = 3;

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

    /// Until an insert that is ready now may begin, and not before then; where many wait for their turns, more rows
    /// come anyway, and it waits for nothing else.
    pub async fn wait_for_turn(&self, behind: bool, not_before: Instant) {
        let (now, turn) = (Instant::now(), self.turn(behind));
        let turn = if turn <= now { not_before } else { turn };
        if turn > now {
            tokio::time::sleep_until(turn).await; // which would let a tick pass in any case
        }
    }

    /// Each insert has one of its own.
    fn turn(&self, behind: bool) -> Instant {
        let now = Instant::now();
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let earliest = now.checked_sub(BURST).unwrap_or(now);
        // Turns beyond the longest wait are nobody's: who would have them begins before.
        let turn = (*next).clamp(earliest, now + WAIT_MAX);
        *next = turn + self.interval * if behind { BEHIND } else { 1 };
        turn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How long inserts that are ready now wait, in milliseconds.
    fn waits(pace: &Pace, inserts: usize) -> Vec<u128> {
        let now = Instant::now();
        (0..inserts).map(|_| pace.turn(false).saturating_duration_since(now).as_millis()).collect()
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
        assert_eq!([(); 3].map(|()| (pace.turn(true) - now).as_millis()), [0, 300, 600]);
    }

    #[tokio::test(start_paused = true)]
    async fn who_was_silent_may_catch_up_at_once_and_no_more_than_a_second_of_it() {
        let pace = Pace::new(10);
        tokio::time::advance(Duration::from_secs(3_600)).await;
        let waits = waits(&pace, 20);
        assert_eq!((waits[10], waits[11]), (0, 100), "{waits:?}");
    }
}
