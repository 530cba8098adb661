//! The pipeline's handler: what the rules want for an event becomes rows of the ledger, in the checkpoint's own
//! transaction. Waits for no receiver.

use crate::body::body;
use crate::ledger::{self, New};
use crate::rules::Rules;
use crate::webhook;
use millrace_stream::{Batch, Event, Failure, Handler, Incoming, Reason, Reject, answered, crash_at};
use sqlx::{Connection, PgPool};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use tokio::sync::Notify;

/// How full the ledger is, as far as this process knows, and who must hear of new rows.
pub(crate) struct Room {
    open: AtomicI64,
    open_max: i64,
    /// Rings when rows were added.
    pub added: Notify,
}

impl Room {
    pub fn new(open_max: i64) -> Self {
        Self { open: AtomicI64::new(0), open_max, added: Notify::new() }
    }

    /// What was counted, with the other processes' part.
    pub fn counted(&self, open: i64) {
        self.open.store(open, Ordering::Relaxed);
    }

    fn add(&self, rows: u64) {
        if rows > 0 {
            self.open.fetch_add(i64::try_from(rows).unwrap_or(i64::MAX), Ordering::Relaxed);
            self.added.notify_one();
        }
    }

    /// Full is the world's fault, not the event's: the partition waits, and Kafka keeps what is behind it.
    fn check(&self) -> Result<(), Failure> {
        let open = self.open.load(Ordering::Relaxed);
        if open < self.open_max {
            return Ok(());
        }
        Err(Failure::retry(anyhow::anyhow!(
            "{open} deliveries wait in the ledger, at most {} may: `millrace status` shows which endpoint is behind",
            self.open_max
        )))
    }
}

/// An event some rule waits for: its body, ready to send.
pub(crate) struct Wanted {
    body: String,
}

/// Expands webhook rules.
pub(crate) struct Expand {
    pub pool: PgPool,
    pub rules: Rules,
    pub room: Arc<Room>,
}

impl Handler for Expand {
    type Block = Vec<Event<Wanted>>;

    fn decode(&self, incoming: &Incoming<'_>, block: &mut Self::Block) -> Result<bool, Reject> {
        if self.rules.on(&incoming.envelope.event_type).is_empty() {
            return Ok(false);
        }
        let value = incoming.writer.decode(incoming.datum).map_err(|error| Reject::new(Reason::Undecodable, error))?;
        block.push(incoming.event(Wanted { body: body(incoming.envelope, incoming.writer.schema, value)? }));
        Ok(true)
    }

    async fn apply(&self, batch: &Batch<Self::Block>) -> Result<(), Failure> {
        self.room.check()?;
        let added = answered(&self.pool, async |connection| {
            let mut tx = connection.begin().await?;
            let _settled = batch.settle(&mut tx).await?;
            let rows = batch.block.iter().flat_map(|event| self.rows(event)).collect();
            let added = ledger::insert(&mut tx, rows).await?;
            crash_at("webhook_before_commit");
            tx.commit().await?;
            Ok(added)
        })
        .await?;
        crash_at("webhook_after_commit");
        self.room.add(added);
        Ok(())
    }
}

impl Expand {
    fn rows<'a>(&'a self, event: &'a Event<Wanted>) -> impl Iterator<Item = New<'a>> {
        let envelope = &event.envelope;
        self.rules.on(&envelope.event_type).iter().map(|rule| New {
            id: ledger::delivery_id(envelope.id, &rule.name, &rule.endpoint, webhook::NAME),
            event_id: envelope.id,
            rule: &rule.name,
            channel: webhook::NAME,
            endpoint: &rule.endpoint,
            body: &event.body.body,
            traceparent: envelope.traceparent.as_deref().filter(|text| is_traceparent(text)),
        })
    }
}

/// Headers are a publisher's input: what is not a trace context is not worth a stopped pipeline.
fn is_traceparent(text: &str) -> bool {
    text.len() == 55 && text.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_ledger_holds_events_back_until_it_was_counted_emptier() {
        let room = Room::new(3);
        room.add(2);
        assert!(room.check().is_ok());
        room.add(1);
        let full = room.check().unwrap_err();
        assert!(matches!(full, Failure::Retry(_)) && full.to_string().starts_with("3 deliveries wait"), "{full}");
        room.counted(2);
        assert!(room.check().is_ok());
    }

    #[test]
    fn only_a_trace_context_is_passed_on() {
        assert!(is_traceparent("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"));
        assert!(!is_traceparent("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0\0"));
        assert!(!is_traceparent(""));
    }
}
