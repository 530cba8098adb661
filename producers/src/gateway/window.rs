//! What was learnt lately, so that it need not be learnt again: which ids were accepted, which tokens verified.
//!
//! Advisory: of this process alone, bounded, and gone with it; what other gateways accepted comes from Redis
//! (`redis/ids.rs`). Whoever asks can do without: an id that was forgotten is
//! accepted again, and the log's own deduplication counts the event once; a token is verified again.

use hashbrown::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};

/// What an id was accepted with, as far as it tells one event from another.
pub(super) type Fingerprint = u64;

/// Two generations of half the entries each: when the young one is full the old one is forgotten.
pub(super) struct Window<K, V> {
    half: usize,
    generations: Mutex<(HashMap<K, V>, HashMap<K, V>)>,
}

impl<K: Eq + Hash, V: Clone> Window<K, V> {
    /// Remembers at most so many, and at least the newest half of them.
    pub fn new(entries: usize) -> Self {
        Self { half: entries / 2, generations: Mutex::default() }
    }

    /// Remembers nothing.
    pub fn is_off(&self) -> bool {
        self.half == 0
    }

    pub fn find(&self, key: &K) -> Option<V> {
        let generations = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
        generations.0.get(key).or_else(|| generations.1.get(key)).cloned()
    }

    pub fn forget_all(&self) {
        *self.generations.lock().unwrap_or_else(PoisonError::into_inner) = Default::default();
    }

    pub fn remember(&self, key: K, value: V) {
        if self.is_off() {
            return;
        }
        let mut generations = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
        if generations.0.len() >= self.half {
            let (young, old) = &mut *generations;
            std::mem::swap(young, old);
            young.clear(); // and keeps its room: a map that grows anew moves its entries again and again
        }
        generations.0.insert(key, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    #[test]
    fn the_newest_ids_are_remembered_and_never_more_than_the_bound() {
        let window = Window::new(100);
        for n in 0..1000 {
            window.remember(Uuid::from_u128(n), n as u64);
            let known = (0..=n).filter(|n| window.find(&Uuid::from_u128(*n)) == Some(*n as u64)).count();
            assert!(known <= 100 && known >= 50.min(n as usize + 1), "{known} after {n}");
            assert!(window.find(&Uuid::from_u128(n)).is_some());
        }
        window.forget_all();
        assert!((0..1000).all(|n| window.find(&Uuid::from_u128(n)).is_none()));
        let none = Window::new(0);
        none.remember(Uuid::from_u128(1), 1);
        assert_eq!(none.find(&Uuid::from_u128(1)), None);
    }
}
