//! One insert at a time to each table of a cluster. Who comes first goes first; nobody is let go without a turn.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::OwnedMutexGuard;

/// A queue a table. There are as many as contracts, and each waits for as long as those before it may take.
#[derive(Clone, Default)]
pub(super) struct Turns(Arc<Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>>);

impl Turns {
    /// Until dropped, the table is the caller's.
    pub async fn of(&self, table: &str) -> OwnedMutexGuard<()> {
        let queue = self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(table.to_owned()).or_default().clone();
        queue.lock_owned().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::time::timeout;

    #[tokio::test]
    async fn inserts_to_one_table_take_turns_and_hold_no_other_table_up() {
        let turns = Turns::default();
        let at_once = async |table| timeout(Duration::ZERO, turns.of(table)).await.ok();
        let first = at_once("order_placed").await;
        assert!(first.is_some() && at_once("order_placed").await.is_none(), "a second one waits");
        assert!(at_once("page_viewed").await.is_some(), "another table is another queue");
        drop(first);
        assert!(at_once("order_placed").await.is_some());
    }
}
