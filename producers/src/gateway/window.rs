//! What was learnt lately, so that it need not be learnt again: which ids were accepted, which tokens verified.
//!
//! Advisory: of this process alone, bounded, and gone with it; what other gateways accepted comes from Redis
//! (`redis/ids.rs`). Whoever asks can do without: an id that was forgotten is
//! accepted again, and the log's own deduplication counts the event once; a token is verified again.

use hashbrown::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What an id was accepted with, as far as it tells one event from another.
pub(super) type Fingerprint = u64;

pub(super) struct Window<K, V>(Mutex<Generations<K, V>>);

/// Two generations of half the entries each: when the young one is full the old one is forgotten.
pub(super) struct Generations<K, V> {
    half: usize,
    young: HashMap<K, V>,
    old: HashMap<K, V>,
}

impl<K: Eq + Hash, V: Clone> Window<K, V> {
    /// Remembers at most so many, and at least the newest half of them.
    pub fn new(entries: usize) -> Self {
        let (young, old) = Default::default();
        Self(Mutex::new(Generations { half: entries / 2, young, old }))
    }

    /// Nobody else uses it meanwhile.
    pub fn open(&self) -> MutexGuard<'_, Generations<K, V>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Eq + Hash, V: Clone> Generations<K, V> {
    /// Remembers nothing.
    pub fn is_off(&self) -> bool {
        self.half == 0
    }

    pub fn find(&self, key: &K) -> Option<V> {
        self.young.get(key).or_else(|| self.old.get(key)).cloned()
    }

    pub fn forget_all(&mut self) {
        (self.young, self.old) = Default::default();
    }

    pub fn remember(&mut self, key: K, value: V) {
        if self.is_off() {
            return;
        }
        if self.young.len() >= self.half {
            std::mem::swap(&mut self.young, &mut self.old);
            self.young.clear(); // and keeps its room: a map that grows anew moves its entries again and again
        }
        self.young.insert(key, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    #[test]
    fn the_newest_ids_are_remembered_and_never_more_than_the_bound() {
        let window = Window::new(100);
        let mut window = window.open();
        for n in 0..1000 {
            window.remember(Uuid::from_u128(n), n as u64);
            let known = (0..=n).filter(|n| window.find(&Uuid::from_u128(*n)) == Some(*n as u64)).count();
            assert!(known <= 100 && known >= 50.min(n as usize + 1), "{known} after {n}");
            assert!(window.find(&Uuid::from_u128(n)).is_some());
        }
        window.forget_all();
        assert!((0..1000).all(|n| window.find(&Uuid::from_u128(n)).is_none()));
        let none = Window::new(0);
        let mut none = none.open();
        none.remember(Uuid::from_u128(1), 1);
        assert_eq!(none.find(&Uuid::from_u128(1)), None);
    }
}
