//! How much one pipeline holds in memory, over all its partitions: records queued and records in batches.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Every queue and every batch may hold this much, whatever the others hold: nobody waits for anybody, so a
/// partition that must read a planned range again can. A fetch of a partition.
const SHARE_MIN: usize = 256 << 10;

/// Bytes held, and how many are too many.
#[derive(Debug)]
pub(crate) struct MemoryBound {
    bytes_max: usize,
    held: AtomicUsize,
}

impl MemoryBound {
    pub fn new(bytes_max: usize) -> Arc<Self> {
        Arc::new(Self { bytes_max, held: AtomicUsize::new(0) })
    }

    /// What one queue or one batch may hold now: what it wants, or little once too much is held.
    pub fn share(&self, wanted: usize) -> usize {
        match self.held.load(Ordering::Relaxed) < self.bytes_max {
            true => wanted,
            false => wanted.min(SHARE_MIN),
        }
    }
}

/// Bytes that somebody holds; let go when dropped.
#[derive(Debug)]
pub(crate) struct Held {
    memory: Arc<MemoryBound>,
    bytes: usize,
}

impl Held {
    pub fn nothing(memory: &Arc<MemoryBound>) -> Self {
        Self { memory: memory.clone(), bytes: 0 }
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn take(&mut self, bytes: usize) {
        self.bytes += bytes;
        self.memory.held.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Holds so much from now on.
    pub fn set(&mut self, bytes: usize) {
        let before = std::mem::replace(&mut self.bytes, bytes);
        self.memory.held.fetch_add(bytes, Ordering::Relaxed);
        self.memory.held.fetch_sub(before, Ordering::Relaxed);
    }

    /// See [`MemoryBound::share`].
    pub fn share(&self, wanted: usize) -> usize {
        self.memory.share(wanted)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.memory.held.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_wants_much_gets_it_while_there_is_some_and_little_afterwards() {
        let memory = MemoryBound::new(1 << 20);
        let mut held = Held::nothing(&memory);
        held.take(1 << 20);
        assert_eq!(memory.share(8 << 20), SHARE_MIN);
        assert_eq!(memory.share(10), 10);
        held.set(10);
        assert_eq!((held.bytes(), memory.share(8 << 20)), (10, 8 << 20));
        held.set(2 << 20);
        assert_eq!(memory.share(8 << 20), SHARE_MIN);
        drop(held);
        assert_eq!(memory.share(8 << 20), 8 << 20);
    }
}
