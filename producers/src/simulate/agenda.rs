//! What is going to happen in the simulated shop, in order of time.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// Microseconds since 1970.
pub(super) type Instant = i64;

pub(super) const SECOND: i64 = 1_000_000;
pub(super) const MINUTE: i64 = 60 * SECOND;
pub(super) const HOUR: i64 = 60 * MINUTE;
pub(super) const DAY: i64 = 24 * HOUR;

/// Earliest first; of equal times the one noted first.
pub(super) struct Agenda<T> {
    due: BinaryHeap<Due<T>>,
    noted: u64,
}

struct Due<T> {
    at: Instant,
    noted: u64,
    action: T,
}

impl<T> Agenda<T> {
    pub fn new() -> Self {
        Self { due: BinaryHeap::new(), noted: 0 }
    }

    pub fn note(&mut self, at: Instant, action: T) {
        self.noted += 1;
        self.due.push(Due { at, noted: self.noted, action });
    }

    pub fn next(&mut self) -> Option<(Instant, T)> {
        self.due.pop().map(|due| (due.at, due.action))
    }

    pub fn len(&self) -> usize {
        self.due.len()
    }
}

impl<T> Ord for Due<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.noted).cmp(&(self.at, self.noted)) // reversed: the heap gives its greatest first
    }
}

impl<T> PartialOrd for Due<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> PartialEq for Due<T> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<T> Eq for Due<T> {}
