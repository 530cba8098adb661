//! Removes events the log holds twice: a publisher that retries sends the same id again.
//!
//! The window is counted in log positions, never in time, so deduplication is a function of the log and of the records
//! that were set aside, which Postgres knows: a rebuild, a restart and a second replica agree. It is filled by reading
//! the log itself from [`Window::warm_from`], before the first record that counts.

use crate::prefetch::prefetch;
use foldhash::fast::RandomState;
use std::collections::VecDeque;
use std::hash::BuildHasher;
use uuid::Uuid;

/// The ids of the last `size` offsets of one partition: 24 bytes an id with its offset, and 16 to find it.
pub struct Window {
    size: i64,
    /// In offset order. `first` counts the ids ever dropped from the front, so `index - first` is a place here. Both
    /// begin anew after 32 bits, of which a window holds fewer.
    seen: VecDeque<(i64, Uuid)>,
    first: u32,
    index: Index,
    /// Seeded at random: ids that collide cannot be prepared.
    hasher: RandomState,
}

impl Window {
    /// `size` is in offsets, the newest included; 0 switches deduplication off. A power of two wastes no memory.
    pub fn new(size: u32) -> Self {
        Self {
            size: i64::from(size),
            seen: VecDeque::new(),
            first: 0,
            index: Index::default(),
            hasher: RandomState::default(),
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
        let tag = self.tag(id);
        let earlier = self.find(tag, id);
        let at = self.first.wrapping_add(self.seen.len() as u32);
        self.seen.push_back((offset, id));
        match earlier {
            Some(slot) => self.index.slots[slot].at = at,
            None => self.index.insert(tag, at),
        }
        earlier.is_some()
    }

    /// The same without noting it.
    pub fn holds(&mut self, offset: i64, id: Uuid) -> bool {
        self.forget_before(offset - self.size + 1);
        !self.seen.is_empty() && self.find(self.tag(id), id).is_some()
    }

    /// Has the memory fetched that [`Window::note`] is going to wait for: of this id, and of the one that may have to go.
    pub fn prefetch(&self, id: Uuid) {
        self.index.prefetch(self.tag(id));
        if let Some((_, oldest)) = self.seen.front() {
            self.index.prefetch(self.tag(*oldest));
        }
    }

    /// Forgets what was noted last, at this offset, of an id that was no duplicate.
    pub fn take_back(&mut self, offset: i64) {
        let Some((_, id)) = self.seen.pop_back_if(|(at, _)| *at == offset) else { return };
        self.index.remove(self.tag(id), self.first.wrapping_add(self.seen.len() as u32));
    }

    fn forget_before(&mut self, oldest: i64) {
        while let Some((_, id)) = self.seen.pop_front_if(|(offset, _)| *offset < oldest) {
            self.index.remove(self.tag(id), self.first);
            self.first = self.first.wrapping_add(1);
        }
    }

    fn find(&self, tag: Tag, id: Uuid) -> Option<usize> {
        // Every index in the table was pushed to `seen` and leaves both together.
        self.index.find(tag, |at| self.seen[at.wrapping_sub(self.first) as usize].1 == id)
    }

    fn tag(&self, id: Uuid) -> Tag {
        Tag::of(self.hasher.hash_one(id.as_u128()))
    }
}

/// 31 bits of an id's hash, and never 0: that is a slot with nothing in it.
#[derive(Clone, Copy, Default, PartialEq)]
struct Tag(u32);

impl Tag {
    const NONE: Self = Self(0);

    fn of(hash: u64) -> Self {
        Self((hash >> 32) as u32 | 1)
    }
}

#[derive(Clone, Copy, Default)]
struct Slot {
    tag: Tag,
    at: u32,
}

/// Finds ids by their tags, mostly with a single look into memory, which is what deduplication waits for: at most half
/// of the slots are taken, and what is removed leaves nothing behind.
#[derive(Default)]
struct Index {
    /// A power of two of them, or none. An id is in its [`Index::home`], or behind it with no gap between.
    slots: Vec<Slot>,
    taken: usize,
}

const SLOTS_MIN: usize = 64;

impl Index {
    fn find(&self, tag: Tag, is_it: impl Fn(u32) -> bool) -> Option<usize> {
        let mut slot = self.home(tag);
        loop {
            let found = self.slots.get(slot)?; // there are none yet
            match found.tag {
                Tag::NONE => return None,
                there if there == tag && is_it(found.at) => return Some(slot),
                _ => slot = self.behind(slot),
            }
        }
    }

    /// Of an id that is not there yet.
    fn insert(&mut self, tag: Tag, at: u32) {
        if self.taken * 2 >= self.slots.len() {
            self.grow();
        }
        self.put(Slot { tag, at });
        self.taken += 1;
    }

    fn prefetch(&self, tag: Tag) {
        if let Some(slot) = self.slots.get(self.home(tag)) {
            prefetch(slot);
        }
    }

    fn remove(&mut self, tag: Tag, at: u32) {
        let Some(mut gap) = self.find(tag, |found| found == at) else { return };
        let mut slot = gap;
        loop {
            slot = self.behind(slot);
            let found = self.slots[slot];
            if found.tag == Tag::NONE {
                break;
            }
            // Where its home is no further on than the gap, it would not be found behind it.
            if self.distance(self.home(found.tag), slot) >= self.distance(gap, slot) {
                self.slots[gap] = found;
                gap = slot;
            }
        }
        self.slots[gap] = Slot::default();
        self.taken -= 1;
    }

    fn grow(&mut self) {
        let twice = (self.slots.len() * 2).max(SLOTS_MIN);
        let before = std::mem::replace(&mut self.slots, vec![Slot::default(); twice]);
        before.into_iter().filter(|slot| slot.tag != Tag::NONE).for_each(|slot| self.put(slot));
    }

    fn put(&mut self, new: Slot) {
        let mut slot = self.home(new.tag);
        while self.slots[slot].tag != Tag::NONE {
            slot = self.behind(slot);
        }
        self.slots[slot] = new;
    }

    /// In the order of the tags, so that growing goes through memory from front to back.
    fn home(&self, tag: Tag) -> usize {
        ((u64::from(tag.0) * self.slots.len() as u64) >> 32) as usize
    }

    fn behind(&self, slot: usize) -> usize {
        (slot + 1) & (self.slots.len() - 1)
    }

    fn distance(&self, from: usize, to: usize) -> usize {
        to.wrapping_sub(from) & (self.slots.len() - 1)
    }
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
            let note = |&(offset, id): &(i64, Uuid)| {
                window.prefetch(id); // which changes nothing
                window.note(offset, id)
            };
            let found: Vec<bool> = log.iter().map(note).collect();
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
    fn tags_that_crowd_are_found_and_removed_as_in_a_list() {
        let seed: u64 = rand::random();
        println!("seed {seed}");
        let mut rng = StdRng::seed_from_u64(seed);
        let (mut index, mut list) = (Index::default(), Vec::new());
        for at in 0..10_000 {
            // Of homes that are neighbours: at the table's end, where chains go round, and in its middle.
            let home = [0, 1, 127, 128, 129, 254, 255][rng.random_range(0..7)] << 24;
            let tag = Tag::of(u64::from(home | rng.random_range(0..4_u32)) << 32);
            match list.len() < 60 && rng.random_bool(0.52) {
                true => {
                    index.prefetch(tag);
                    index.insert(tag, at);
                    list.push((tag, at));
                }
                false if list.is_empty() => {}
                false => {
                    let (tag, at) = list.swap_remove(rng.random_range(0..list.len()));
                    index.remove(tag, at);
                    index.remove(tag, at);
                    assert_eq!(index.find(tag, |found| found == at), None, "seed {seed}");
                }
            }
            let found = list.iter().filter(|(tag, at)| index.find(*tag, |found| found == *at).is_some());
            assert_eq!((found.count(), index.taken), (list.len(), list.len()), "seed {seed}");
        }
    }

    #[test]
    fn ids_beyond_the_window_are_forgotten_and_leave_no_memory() {
        let mut window = Window::new(10);
        for offset in 0..10_000_i64 {
            assert!(!window.note(offset, Uuid::from_u128(offset.unsigned_abs().into())));
        }
        assert!(window.seen.len() <= 10 && window.index.taken <= 10 && window.index.slots.len() == SLOTS_MIN);
    }
}
