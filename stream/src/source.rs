//! Where a worker pulls one partition's records from.

use crate::Record;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// When a batch is full.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub rows: usize,
    pub bytes: usize,
    /// How long the first record may wait for company.
    pub linger: Duration,
}

/// One partition's records in offset order.
pub trait Source: Send {
    /// The next record, or `None` when this partition is being given up. Cancel-safe.
    fn next(&mut self) -> impl Future<Output = Option<Record>> + Send;

    /// Everything before `next` has taken effect.
    fn commit(&mut self, next: i64);
}

/// A source that can hold one record back, so that a batch may end exactly where a plan says.
pub(crate) struct Puller<S> {
    source: S,
    held: Option<Record>,
}

impl<S: Source> Puller<S> {
    pub fn new(source: S) -> Self {
        Self { source, held: None }
    }

    pub fn commit(&mut self, next: i64) {
        self.source.commit(next);
    }

    pub async fn next(&mut self) -> Option<Record> {
        match self.held.take() {
            Some(record) => Some(record),
            None => self.source.next().await,
        }
    }

    pub fn hold(&mut self, record: Record) {
        self.held = Some(record);
    }

    /// A batch of at least one record; `None` when the partition is being given up.
    pub async fn next_batch(&mut self, limits: &Limits) -> Option<Vec<Record>> {
        let first = self.next().await?;
        let deadline = Instant::now() + limits.linger;
        let mut bytes = first.weight();
        let mut records = vec![first];
        while records.len() < limits.rows && bytes < limits.bytes {
            let Ok(Some(record)) = timeout_at(deadline, self.next()).await else { break };
            bytes += record.weight();
            records.push(record);
        }
        Some(records)
    }

    /// Exactly the records before `to`, whatever the limits: an earlier owner planned this range.
    pub async fn rest_of_plan(&mut self, to: i64) -> Option<Vec<Record>> {
        let mut records = Vec::new();
        loop {
            let record = self.next().await?;
            let offset = record.position.offset;
            if offset >= to {
                self.hold(record);
                return Some(records);
            }
            records.push(record);
            if offset == to - 1 {
                return Some(records);
            }
        }
    }
}
