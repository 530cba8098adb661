//! A partition in memory: for unit tests of handlers, nothing else.

use crate::{Record, Source};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

/// Gives its records once, then ends. Clones share what was committed.
#[derive(Clone, Default)]
pub struct MemorySource {
    records: VecDeque<Record>,
    committed: Arc<Mutex<Option<i64>>>,
}

impl MemorySource {
    pub fn new(records: impl IntoIterator<Item = Record>) -> Self {
        Self { records: records.into_iter().collect(), committed: Arc::default() }
    }

    /// The first offset that has not taken effect, once anything has.
    pub fn committed(&self) -> Option<i64> {
        *self.committed.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Source for MemorySource {
    async fn next(&mut self) -> Option<Record> {
        self.records.pop_front()
    }

    fn commit(&mut self, next: i64) {
        *self.committed.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(next);
    }
}
