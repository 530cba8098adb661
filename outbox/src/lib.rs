//! What a service on sqlx needs to publish events with its own transaction: a table and one function.
//!
//! ```no_run
//! # async fn cancel(pool: sqlx::PgPool, order_id: uuid::Uuid) -> sqlx::Result<()> {
//! let mut transaction = pool.begin().await?;
//! sqlx::query("update orders set status = 'cancelled' where id = $1").bind(order_id).execute(&mut *transaction).await?;
//! let cancelled = serde_json::json!({ "order_id": order_id });
//! millrace_outbox::write(&mut *transaction, &millrace_outbox::Event::new("order.cancelled", &cancelled)).await?;
//! transaction.commit().await
//! # }
//! ```
//!
//! Change your rows first, then write the event: whoever waited for a row's lock writes later, and so comes later
//! in the log. Never speaks to Kafka; `millrace relay` does (docs/outbox.md).

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::PgExecutor;
use uuid::Uuid;

/// Everything that belongs into the service's database, for its owner to apply; safe to repeat.
pub const SCHEMA: &str = include_str!("../outbox.sql");

/// Something that happened, as its contract describes it.
#[derive(Debug, Clone)]
pub struct Event<'a, T> {
    /// The event's identity everywhere.
    pub id: Uuid,
    pub event_type: &'a str,
    pub data: &'a T,
    pub occurred_at: DateTime<Utc>,
    pub correlation_id: Option<&'a str>,
    pub causation_id: Option<&'a str>,
    /// W3C trace context of whoever writes.
    pub traceparent: Option<&'a str>,
    pub tracestate: Option<&'a str>,
}

impl<'a, T: Serialize> Event<'a, T> {
    /// A new event, happening now.
    pub fn new(event_type: &'a str, data: &'a T) -> Self {
        Self {
            id: Uuid::now_v7(),
            event_type,
            data,
            occurred_at: Utc::now(),
            correlation_id: None,
            causation_id: None,
            traceparent: None,
            tracestate: None,
        }
    }
}

/// Writes the event; it will be published if, and only if, the transaction commits.
///
/// # Errors
/// Postgres' own; and data that is no JSON.
pub async fn write<T: Serialize>(executor: impl PgExecutor<'_>, event: &Event<'_, T>) -> sqlx::Result<()> {
    let data = serde_json::to_string(event.data).map_err(|error| sqlx::Error::Encode(error.into()))?;
    sqlx::query(
        "insert into millrace.outbox (id, type, data, occurred_at, correlation_id, causation_id, traceparent, tracestate)
         values ($1, $2, $3::json, $4, $5, $6, $7, $8)",
    )
    .bind(event.id)
    .bind(event.event_type)
    .bind(data)
    .bind(event.occurred_at)
    .bind(event.correlation_id)
    .bind(event.causation_id)
    .bind(event.traceparent)
    .bind(event.tracestate)
    .execute(executor)
    .await
    .map(drop)
}
