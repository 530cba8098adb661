//! What events become: tables for analysts in ClickHouse, read models for services in Postgres.
//!
//! The two halves share nothing but contracts and the spine.

pub mod clickhouse;
pub mod postgres;
