//! What publishes: the HTTP gateway, the typed client, the schema registry they write with, what is told of the
//! contracts, and the simulated shop.
//!
//! Never reads a topic, and shares nothing with processors and sinks but contracts and the spine.

pub mod catalogue;
pub mod client;
pub mod gateway;
pub mod oracle;
pub mod outbox;
pub mod registry;
pub mod serve;
pub mod simulate;

pub use catalogue::{Catalogue, Consumer, Readers};
pub use client::{Client, Occurrence, SendError};
pub use gateway::quarantine;
pub use gateway::{Gateway, GatewayConfig, GatewayMetrics, RedisConfig};
pub use outbox::{Outbox, OutboxConfig, OutboxMetrics, Relay, RelayHandle};

use millrace_stream::{Migration, in_bounds};

/// This crate's Postgres schema changes.
pub const MIGRATIONS: &[Migration] = &[
    Migration { number: 401, name: "schema registry", sql: include_str!("../migrations/0401_schema_registry.sql") },
    Migration {
        number: 402,
        name: "schema registry deletion",
        sql: include_str!("../migrations/0402_schema_registry_deletion.sql"),
    },
    Migration { number: 403, name: "quarantine", sql: include_str!("../migrations/0403_quarantine.sql") },
];
