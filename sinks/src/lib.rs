//! Sinks: what must happen outside when an event happened, exactly once on our side of the wire.
//!
//! ```text
//! topic ─→ expand rules ─→ delivery ledger ─→ one lane an endpoint ─→ channel ─→ receiver
//!            (in the checkpoint's              claim by lease,          webhook
//!             transaction)                     retry, record
//! ```
//!
//! A partition never waits for a receiver. A receiver may get a delivery again, always under the same id:
//! no sender can know what became of a request whose answer was lost.

mod address;
mod body;
mod channel;
mod config;
mod expand;
mod lane;
mod ledger;
mod metrics;
mod retry;
mod rules;
mod signature;
mod sink;
mod webhook;
mod workers;

pub use channel::{Channel, Delivery, Outcome};
pub use config::{ConfigError, Endpoint, Secret, WebhookConfig};
pub use ledger::{Attempt, DeliveryState, Failed, Progress, attempts, failed, progress, send_again};
pub use metrics::Metrics;
pub use retry::RetryConfig;
pub use rules::{Rule, RuleError, Rules};
pub use sink::{Sink, SinkHandle, replay};

/// The sinks there are: `millrace sink [NAME…]`.
pub const NAMES: &[&str] = &[webhook::NAME];

/// The ledger's tables.
pub const MIGRATIONS: &[millrace_stream::Migration] = &[millrace_stream::Migration {
    number: 301,
    name: "delivery",
    sql: include_str!("../migrations/0301_delivery.sql"),
}];
