//! `millrace check`: all that can be known about a project without a server.
#![allow(clippy::print_stdout, reason = "this command's output")]

use crate::commands::Global;
use crate::exit::Exit;
use millrace_processors::clickhouse::{MetricError, TableError, Tables};
use millrace_schemas::{ContractError, Contracts};
use millrace_sinks::RuleError;
use serde::Serialize;
use serde_json::json;

/// One thing to change.
#[derive(Serialize)]
struct Found {
    file: String,
    /// Where in the file; empty or `$` is all of it.
    path: String,
    /// Its short, stable name.
    rule: &'static str,
    message: String,
    /// All of it in one line, for people.
    #[serde(skip)]
    line: String,
}

pub fn run(global: &Global) -> Result<(), Exit> {
    let mut found = Vec::new();
    let contracts = kept(global.read_contracts(), Found::contract, &mut found);
    let metrics = kept(global.read_analytics(), Found::metric, &mut found);
    // Tables and rules are about contracts: where these are wrong, nothing can be said about them yet.
    let rules = contracts.as_ref().and_then(|contracts| {
        let tables = kept(Tables::of(contracts), |error| Found::table(error, contracts), &mut found);
        if let (Some(tables), Some(metrics)) = (tables, &metrics) {
            kept(metrics.check(&tables), Found::metric, &mut found);
        }
        kept(global.read_rules(contracts), Found::rule, &mut found)
    });
    let (Some(contracts), Some(metrics), Some(rules), true) = (contracts, metrics, rules, found.is_empty()) else {
        return Err(tell(&found, global));
    };
    let (metrics, rules) = (metrics.iter().count(), rules.iter().count());
    let versions: usize = contracts.iter().map(|contract| contract.versions().len()).sum();
    let types = contracts.iter().count();
    if global.json {
        let names: Vec<&str> = contracts.iter().map(|contract| contract.event_type.as_str()).collect();
        let counted =
            json!({ "contracts": names, "versions": versions, "rules": rules, "metrics": metrics, "found": [] });
        println!("{counted}");
    } else {
        println!("{types} contracts in {versions} versions, {metrics} metrics, {rules} rules: nothing found");
    }
    Ok(())
}

/// What was loaded, or else what was found in it.
fn kept<T, E>(loaded: Result<T, Vec<E>>, into: impl Fn(E) -> Found, found: &mut Vec<Found>) -> Option<T> {
    match loaded {
        Ok(loaded) => Some(loaded),
        Err(errors) => {
            found.extend(errors.into_iter().map(into));
            None
        }
    }
}

fn tell(found: &[Found], global: &Global) -> Exit {
    let count = found.len();
    if global.json {
        println!("{}", json!({ "found": found }));
        return Exit::found(format!("{count} found"));
    }
    let lines: String = found.iter().map(|found| format!("\n  {}", found.line)).collect();
    Exit::found(format!("{count} found:{lines}"))
}

impl Found {
    fn contract(error: ContractError) -> Self {
        let line = error.to_string();
        let ContractError { file, path, rule, message } = error;
        Self { file, path, rule, message, line }
    }

    fn table(error: TableError, contracts: &Contracts) -> Self {
        let line = error.to_string();
        let TableError { event_type, message } = error;
        let newest = contracts.get(&event_type).map_or(1, |contract| contract.newest().number);
        Self { file: format!("{event_type}/{newest}.avsc"), path: "$".to_owned(), rule: "table", message, line }
    }

    fn metric(error: MetricError) -> Self {
        let line = error.to_string();
        let MetricError { file, message } = error;
        Self { file, path: String::new(), rule: "metric", message, line }
    }

    fn rule(error: RuleError) -> Self {
        let line = error.to_string();
        let RuleError { file, key, message } = error;
        Self { file, path: key, rule: "rule", message, line }
    }
}
