//! Log → ClickHouse: every event type is a table, derived from its contract; every event is a row in it, once.
//!
//! ```text
//! contract ─→ column ─→ table ─→ migrate                      analytics/*.sql ─→ metrics.<name>
//!                         │
//! event ─→ native: columns ┴─→ block (one a table) ─→ handler: plan, insert, settle ─→ together ─→ server
//! event that `erases` ─→ erasure: its subject's personal columns are emptied, in every table
//! ```
//!
//! People query `events.<table>`, where an event is one row however often it was inserted; `events_raw`
//! beneath holds every copy until a merge drops it. What is otherwise in a cluster, `topology` says.

mod analytics;
mod block;
mod cluster;
mod column;
mod config;
pub mod erasure;
mod exception;
mod handler;
mod metrics;
mod migrate;
mod names;
pub mod native;
mod pace;
mod pages;
mod protocol;
mod readers;
mod rebuild;
mod rounds;
mod row;
mod server;
mod table;
mod together;
mod topology;
mod turns;
mod verify;

pub use analytics::{Analytics, Example, Metric, MetricError};
pub use config::{ClickHouseConfig, Password};
pub use handler::ClickHouse;
pub use metrics::SinkMetrics;
pub use migrate::{check_server, keep_from_exchange, migrate};
pub use pages::pages;
pub use rebuild::{Progress, Rebuild, Rebuilt};
pub use server::reachable;
pub use table::{Table, TableError, Tables};
pub use verify::{Comparison, Difference, Extents, Found, Kind};

use millrace_schemas::Contracts;

/// The pipeline, its consumer group's suffix, its label and its name on the command line.
pub const NAME: &str = "clickhouse";

/// All tables, where the configuration has them; or every contract that can have none in one error.
fn tables(config: &ClickHouseConfig, contracts: &Contracts) -> anyhow::Result<Tables> {
    Tables::of(contracts).map(|tables| tables.on(&config.topology())).map_err(|errors| {
        let errors: Vec<_> = errors.iter().map(ToString::to_string).collect();
        anyhow::anyhow!("contracts without a table: {}", errors.join("; "))
    })
}
