//! The command line: its help text is the map of the product.

pub mod check;
pub mod dead_letters;
pub mod deliveries;
pub mod docs;
pub mod erasure;
pub mod init;
pub mod local;
pub mod log_range;
pub mod migrate;
pub mod quarantine;
pub mod rebuild;
pub mod reset;
pub mod roles;
pub mod simulate;
pub mod status;
pub mod traffic;
pub mod up;
pub mod verify;

use crate::exit::Exit;
use clap::{Args, Parser, Subcommand};
use millrace_processors::clickhouse::{Analytics, MetricError};
use millrace_schemas::{ContractError, Contracts};
use millrace_sinks::{RuleError, Rules};
use std::path::PathBuf;
use std::sync::Arc;

/// Where a project may have its contracts.
const CONTRACTS: &[&str] = &["schemas/avro", "schemas"];
/// And its metrics, and its rules.
const ANALYTICS: &str = "processors/analytics";
const RULES: &str = "sinks/rules";

/// Turns the events your services publish into analytics, read models and actions.
#[derive(Parser)]
#[command(name = "millrace", version, max_term_width = 100)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Args, Clone, Default)]
pub struct Global {
    /// Project directory (millrace.toml, schemas/, processors/analytics/, sinks/rules/) [default: the shop built in]
    #[arg(long, global = true, value_name = "DIR")]
    pub project: Option<PathBuf>,
    /// Take the servers' addresses from a running local stack's stack.json
    #[arg(long, global = true, value_name = "FILE")]
    pub stack: Option<PathBuf>,
    /// Print JSON for programs instead of text for people
    #[arg(long, global = true)]
    pub json: bool,
}

#[derive(Subcommand)]
pub enum Command {
    /// Everything on this machine: real servers, every role, simulated traffic
    Up(up::Arguments),
    /// Only the servers: Kafka, ClickHouse engine, Postgres, Redis
    Local(local::Arguments),
    /// Make a project directory to begin with: a copy of the shop that is built in
    Init(init::Arguments),
    /// Check contracts, analytics and rules without any server (exit code 2 when something is found)
    Check(check::Arguments),
    /// Print what the contracts tell other tools, without any server: OpenAPI, AsyncAPI
    #[command(subcommand)]
    Docs(docs::Document),
    /// Create or update topics, subjects, and the schemas of Postgres and ClickHouse; safe to repeat
    Migrate,
    /// Role: take events by HTTP, and answer when the log has them
    Gateway,
    /// Role: publish what services wrote into the outboxes of their databases
    Relay(Names),
    /// Role: the schema registry (Confluent's HTTP API, kept in Postgres)
    Registry,
    /// Role: fold events into ClickHouse tables and Postgres projections, and erase whoever asks for it
    Process(Names),
    /// Role: act on events: deliver webhooks
    Sink(Names),
    /// Publish the traffic of a simulated shop through the real client
    Simulate(simulate::Arguments),
    /// How far behind each pipeline is, and what is set aside
    Status,
    /// Compare the log with what was made of it, event by event
    #[command(subcommand)]
    Verify(verify::What),
    /// Make what was made of the log anew, beside what is in use, and exchange the two
    #[command(subcommand)]
    Rebuild(rebuild::What),
    /// Let pipelines begin with what the log holds, after a topic was recreated or records were deleted too early
    Reset(reset::Arguments),
    /// Records that could not be applied: list, show, replay, discard
    #[command(subcommand)]
    DeadLetters(dead_letters::Action),
    /// Events that the gateway refused as invalid and kept: list, show, replay, discard
    #[command(subcommand)]
    Quarantine(quarantine::Action),
    /// What must reach the outside: list it, and give what was given up another round of attempts
    #[command(subcommand)]
    Deliveries(deliveries::Action),
    /// Who was erased, and what is still there of them (exit code 2 when it is longer than promised)
    Erasure,
    /// The effective configuration and where each value came from
    Config,
}

#[derive(Args)]
pub struct Names {
    /// Which ones [default: all]
    #[arg(value_name = "NAME")]
    pub names: Vec<String>,
}

impl Names {
    /// # Errors
    /// Names the unknown one and the known ones.
    pub fn known(&self, all: &[&'static str]) -> Result<Vec<&'static str>, Exit> {
        if self.names.is_empty() {
            return Ok(all.to_vec());
        }
        let find = |name: &String| {
            let found = all.iter().find(|known| *known == name).copied();
            found.ok_or_else(|| Exit::usage(format!("no such name: `{name}` (there are {})", all.join(", "))))
        };
        self.names.iter().map(find).collect()
    }
}

impl Global {
    /// The project's contracts, or the shop's.
    pub fn contracts(&self) -> Result<Arc<Contracts>, Exit> {
        let loaded = self.read_contracts();
        loaded.map(Arc::new).map_err(|errors| Exit::found(listed("contracts", &errors)))
    }

    /// The same, with everything that was found in them.
    pub fn read_contracts(&self) -> Result<Contracts, Vec<ContractError>> {
        match self.inside(CONTRACTS) {
            Some(directory) => Contracts::load(&directory),
            None => Contracts::embedded(),
        }
    }

    /// Where contracts are, whose files' names are relative to it; the shop's are in Millrace's own tree.
    pub fn contracts_directory(&self) -> PathBuf {
        self.inside(CONTRACTS).unwrap_or_else(|| self.in_project(CONTRACTS[0]))
    }

    /// A directory of the project, whether it is there or not.
    pub fn in_project(&self, directory: &str) -> PathBuf {
        self.project.clone().unwrap_or_default().join(directory)
    }

    /// The first of these directories that the project has.
    fn inside(&self, directories: &[&str]) -> Option<PathBuf> {
        let project = self.project.as_ref()?;
        directories.iter().map(|directory| project.join(directory)).find(|path| path.is_dir())
    }

    /// The project's metrics, or the shop's.
    pub fn analytics(&self) -> Result<Analytics, Exit> {
        self.read_analytics().map_err(|errors| Exit::found(listed("metrics", &errors)))
    }

    /// The same, with everything that was found in them.
    pub fn read_analytics(&self) -> Result<Analytics, Vec<MetricError>> {
        match self.inside(&[ANALYTICS]) {
            Some(directory) => Analytics::load(&directory),
            None => Analytics::embedded(),
        }
    }

    /// The base URL of the receiver that a local stack runs.
    pub fn receiver(&self) -> Result<String, Exit> {
        const DEFAULT: &str = "http://127.0.0.1:7072";
        match &self.stack {
            Some(file) => Ok(crate::config::stack_addresses(file)?.receiver),
            None => Ok(DEFAULT.to_owned()),
        }
    }

    /// The project's rules, or the shop's.
    pub fn rules(&self, contracts: &Contracts) -> Result<Rules, Exit> {
        self.read_rules(contracts).map_err(|errors| Exit::found(listed("rules", &errors)))
    }

    /// The same, with everything that was found in them.
    pub fn read_rules(&self, contracts: &Contracts) -> Result<Rules, Vec<RuleError>> {
        match self.inside(&[RULES]) {
            Some(directory) => Rules::load(&directory, contracts),
            None => Rules::embedded(contracts),
        }
    }
}

pub fn listed(what: &str, errors: &[impl std::fmt::Display]) -> String {
    let lines: Vec<String> = errors.iter().map(|error| format!("\n  {error}")).collect();
    format!("{} found in {what}:{}", errors.len(), lines.concat())
}
