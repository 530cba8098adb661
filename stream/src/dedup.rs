//! Removes events the log holds twice: a publisher that retries sends the same id again.
//!
//! The window is counted in log positions, never in time, so deduplication is a function of the log and of the records
//! that were set aside, which Postgres knows: a rebuild, a restart and a second replica agree. It is filled by reading
//! the log itself from [`Window::warm_from`], before the first record that counts.

use hashbrown::{DefaultHashBuilder, HashTable};
use std::collections::VecDeque;
use std::hash::BuildHasher;
use uuid::Uuid;

/// The ids of the last `size` offsets of one partition: 24 bytes an id with its offset, and about 10 to find it.
pub struct Window {
    size: i64,
    /// In offset order. `first` counts the ids ever dropped from the front, so `index - first` is a place here. Both
    /// begin anew after 32 bits, of which a window holds fewer.
    seen: VecDeque<(i64, Uuid)>,
    first: u32,
    index: HashTable<u32>,
    /// Seeded at random: ids that collide cannot be prepared.
    hasher: DefaultHashBuilder,
}

impl Window {
    /// `size` is in offsets, the newest included; 0 switches deduplication off. A power of two wastes no memory.
    pub fn new(size: u32) -> Self {
        Self {
            size: i64::from(size),
            seen: VecDeque::new(),
            first: 0,
            index: HashTable::new(),
            hasher: DefaultHashBuilder::default(),
        }
    }

    /// The first offset to read so that the window is whole at `next`.
    pub fn warm_from(size: u32, next: i64, log_start: i64) -> i64 {
        (next - i64::from(size)).max(log_start).min(next)
    }

    /// Notes the id at this offset; true if one of the `size - 1` offsets before it already had it.
    ///
    /// A duplicate is noted too, so the answer depends on the last `size` offsets alone and a window
    /// warmed from there gives the same one.
    pub fn note(&mut self, offset: i64, id: Uuid) -> bool {
        self.forget_before(offset - self.size + 1);
        let hash = self.hasher.hash_one(id);
        let at = self.first.wrapping_add(self.seen.len() as u32);
        self.seen.push_back((offset, id));
        let (seen, first, hasher) = (&self.seen, self.first, &self.hasher);
        if let Some(earlier) = self.index.find_mut(hash, |at| place(seen, first, *at).1 == id) {
            *earlier = at;
            return true;
        }
        self.index.insert_unique(hash, at, |at| hasher.hash_one(place(seen, first, *at).1));
        false
    }

    /// The same without noting it.
    pub fn holds(&mut self, offset: i64, id: Uuid) -> bool {
        self.forget_before(offset - self.size + 1);
        if self.seen.is_empty() {
            return false;
        }
        let (seen, first) = (&self.seen, self.first);
        self.index.find(self.hasher.hash_one(id), |at| place(seen, first, *at).1 == id).is_some()
    }

    /// Forgets what was noted last, at this offset, of an id that was no duplicate.
    pub fn take_back(&mut self, offset: i64) {
        let Some((_, id)) = self.seen.pop_back_if(|(at, _)| *at == offset) else { return };
        let at = self.first.wrapping_add(self.seen.len() as u32);
        if let Ok(entry) = self.index.find_entry(self.hasher.hash_one(id), |found| *found == at) {
            entry.remove();
        }
    }

    fn forget_before(&mut self, oldest: i64) {
        while let Some(&(offset, id)) = self.seen.front()
            && offset < oldest
        {
            let at = self.first;
            if let Ok(entry) = self.index.find_entry(self.hasher.hash_one(id), |found| *found == at) {
                entry.remove();
            }
            self.seen.pop_front();
            self.first = self.first.wrapping_add(1);
        }
    }
}

fn place(seen: &VecDeque<(i64, Uuid)>, first: u32, at: u32) -> (i64, Uuid) {
    // Every index in the table was pushed to `seen` and leaves both together.
    seen[at.wrapping_sub(first) as usize]
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{RngExt, SeedableRng, rngs::StdRng};

    /// What the window promises, written the slow way.
    fn naive(log: &[(i64, Uuid)], size: i64) -> Vec<bool> {
        let mut kept: Vec<(i64, Uuid)> = Vec::new();
        log.iter()
            .map(|&(offset, id)| {
                let duplicate = kept.iter().any(|&(at, other)| other == id && at > offset - size);
                kept.push((offset, id));
                duplicate
            })
            .collect()
    }

    fn random_log(rng: &mut StdRng) -> Vec<(i64, Uuid)> {
        let mut offset = 0;
        (0..400)
            .map(|_| {
                offset += rng.random_range(1..4);
                (offset, Uuid::from_u128(rng.random_range(0..60)))
            })
            .collect()
    }

    #[test]
    fn the_window_agrees_with_a_naive_model() {
        let seed: u64 = rand::random();
        println!("seed {seed}");
        let mut rng = StdRng::seed_from_u64(seed);
        for size in [0, 1, 7, 50, 1000] {
            let log = random_log(&mut rng);
            let mut window = Window::new(size);
            window.first = u32::MAX - 100; // it begins anew on the way
            let found: Vec<bool> = log.iter().map(|&(offset, id)| window.note(offset, id)).collect();
            assert_eq!(found, naive(&log, i64::from(size)), "window of {size}");
        }
    }

    #[test]
    fn a_window_warmed_from_the_log_agrees_with_one_that_never_stopped() {
        let seed: u64 = rand::random();
        println!("seed {seed}");
        let mut rng = StdRng::seed_from_u64(seed);
        let log = random_log(&mut rng);
        let mut whole = Window::new(50);
        let answers: Vec<bool> = log.iter().map(|&(offset, id)| whole.note(offset, id)).collect();
        for restart in [1, 99, 250, 399] {
            let next = log[restart].0;
            let from = Window::warm_from(50, next, 0);
            let mut warmed = Window::new(50);
            for (at, &(offset, id)) in log.iter().enumerate().filter(|(_, (offset, _))| *offset >= from) {
                let answer = warmed.note(offset, id);
                assert!(offset < next || answer == answers[at], "restarted at {next}, offset {offset}");
            }
        }
    }

    #[test]
    fn what_was_taken_back_was_never_noted() {
        let seed: u64 = rand::random();
        println!("seed {seed}");
        let mut rng = StdRng::seed_from_u64(seed);
        let (mut window, mut without) = (Window::new(50), Window::new(50));
        for (offset, id) in random_log(&mut rng) {
            assert_eq!(window.holds(offset, id), without.holds(offset, id), "offset {offset}");
            if rng.random_bool(0.3) && !window.holds(offset, id) {
                window.note(offset, id);
                window.take_back(offset);
                window.take_back(offset);
            } else {
                assert_eq!(window.note(offset, id), without.note(offset, id), "offset {offset}");
            }
        }
    }

    #[test]
    fn ids_beyond_the_window_are_forgotten_and_leave_no_memory() {
        let mut window = Window::new(10);
        for offset in 0..10_000_i64 {
            assert!(!window.note(offset, Uuid::from_u128(offset.unsigned_abs().into())));
        }
        assert!(window.seen.len() <= 10 && window.index.len() <= 10);
    }
}
