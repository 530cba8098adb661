//! The integration tests: one binary of modules against real servers, which each run starts for itself.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test that can't go on panics, and prints its seed")]

mod accounts;
mod analysts;
mod analytics;
mod backpressure;
mod bad_days;
mod bad_records;
mod bad_values;
mod between;
mod client;
mod clients;
mod clocks;
mod cluster;
mod commands;
mod crash_points;
mod dashboards;
mod deploy;
mod docs;
mod engine;
mod erasure;
mod every_type;
mod evolution;
mod exactly_once;
mod gate;
mod gateway;
mod held_back;
mod kills;
mod layout;
mod outbox;
mod platform;
mod rebuild;
mod refusals;
mod registry;
mod shop;
mod small_disk;
mod verify;
