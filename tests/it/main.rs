//! The integration tests: one binary of modules against real servers, which each run starts for itself.

mod bad_records;
mod clients;
mod kills;
mod layout;
mod platform;
