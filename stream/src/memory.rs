//! A partition in memory: for unit tests of handlers, nothing else.

use crate::{Record, Source};
use std::collections::VecDeque;

/// Gives its records once, then ends.
#[derive(Clone, Default)]
pub struct MemorySource(VecDeque<Record>);

impl MemorySource {
    pub fn new(records: impl IntoIterator<Item = Record>) -> Self {
        Self(records.into_iter().collect())
    }
}

impl Source for MemorySource {
    async fn next(&mut self) -> Option<Record> {
        self.0.pop_front()
    }
}
