//! The real servers on one machine, without containers: Apache Kafka, the ClickHouse engine behind HTTP, PostgreSQL
//! and Redis as child processes, fetched once, supervised, stopped with whoever started them.
//!
//! ```text
//! start ─→ take the data directory ─→ fetch what is missing ─→ one thread a server: prepare, start, probe, restart
//! ```
//!
//! For development, tests and first looks. Nothing else in Millrace knows that the servers came from here.

mod clickhouse;
mod directory;
pub mod engine;
mod error;
mod fetch;
mod identity;
mod issuer;
mod kafka;
mod parts;
mod ports;
mod postgres;
mod probe;
mod process;
mod receiver;
mod redis;
mod secret;
mod server;
mod stack;
mod supervise;
mod token;

pub use error::StackError;
pub use issuer::{AUDIENCE, Issuer, issue, issuer_secret_file};
pub use parts::clickhouse_library;
pub use ports::{FreePorts, Ports};
pub use receiver::{Received, Receiver, ReceiverOptions, Verified, receive, secret_file};
pub use server::Server;
pub use stack::{Addresses, Stack, StackOptions, start};
pub use token::token_file;
