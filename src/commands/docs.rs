//! `millrace docs`: what the contracts tell other tools, without a server; and the catalogue that the gateway serves.
#![allow(clippy::print_stdout, reason = "this command's output")]

use crate::commands::Global;
use crate::exit::Exit;
use clap::Subcommand;
use millrace_processors::clickhouse::{self, Analytics, Metric, erasure};
use millrace_processors::postgres;
use millrace_producers::{Catalogue, Consumer, Readers};
use millrace_schemas::{Contract, Contracts};
use millrace_sinks::Rules;
use std::sync::Arc;

#[derive(Subcommand, Clone, Copy)]
pub enum Document {
    /// How to publish: the gateway's HTTP interface and every event type's data, as OpenAPI 3.1
    Openapi,
    /// How to read: topics, messages and their schemas, as AsyncAPI 3.0
    Asyncapi,
}

pub fn run(document: Document, global: &Global) -> Result<(), Exit> {
    let catalogue = catalogue(global, global.contracts()?);
    let document = match document {
        Document::Openapi => catalogue.openapi(),
        Document::Asyncapi => catalogue.asyncapi(),
    };
    match global.json {
        true => println!("{document}"),
        false => println!("{document:#}"),
    }
    Ok(())
}

/// The contracts, with the pipelines of this project that read each.
pub fn catalogue(global: &Global, contracts: Arc<Contracts>) -> Catalogue {
    // What doesn't fit keeps other roles from starting, and `check` tells of it: the gateway publishes all the same.
    let rules = global.read_rules(&contracts).unwrap_or_default();
    let metrics = global.read_analytics().unwrap_or_default();
    let readers = |contract: &Arc<Contract>| {
        let readers = Readers { consumers: consumers(contract, &rules), metrics: counting(contract, &metrics) };
        (contract.event_type.clone(), readers)
    };
    let readers = contracts.iter().map(readers).collect();
    Catalogue::new(contracts, readers)
}

/// The metrics that read its view.
fn counting(contract: &Contract, metrics: &Analytics) -> Vec<String> {
    let table = contract.table();
    let reads = |metric: &&Metric| metric.views().contains(table.as_str());
    metrics.iter().filter(reads).map(|metric| metric.name.clone()).collect()
}

fn consumers(contract: &Contract, rules: &Rules) -> Vec<Consumer> {
    let consumer = |name: &str, does: String| Consumer { name: name.to_owned(), does };
    let mut consumers = vec![consumer(clickhouse::NAME, format!("inserts it into `events_raw.{}`", contract.table()))];
    if contract.erases.is_some() {
        consumers.push(consumer(erasure::NAME, "empties the personal columns of whom it names".into()));
    }
    let projections = postgres::NAMES.iter().filter(|name| postgres::reads(name).contains(&&*contract.event_type));
    consumers.extend(projections.map(|name| consumer(name, "folds it into the table of its name".into())));
    let rules = rules.iter().filter(|rule| rule.on == contract.event_type);
    consumers.extend(
        rules.map(|rule| {
            consumer(&rule.channel, format!("calls the endpoint `{}` (rule `{}`)", rule.endpoint, rule.name))
        }),
    );
    consumers
}
