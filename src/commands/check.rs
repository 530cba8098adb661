//! `millrace check`: all that can be known about a project without a server, and on request what a registry says of it.
#![allow(clippy::print_stdout, reason = "this command's output")]

use crate::commands::{ANALYTICS, Global, RULES};
use crate::config::{Config, RegistryConfig};
use crate::exit::Exit;
use clap::{Args, ValueEnum};
use millrace_processors::clickhouse::{MetricError, TableError, Tables};
use millrace_schemas::{ContractError, Contracts, locate};
use millrace_sinks::RuleError;
use serde::Serialize;
use serde_json::json;
use std::path::PathBuf;

#[derive(Args)]
pub struct Arguments {
    /// Also ask this schema registry: does it have what the files say, and would it take what is new?
    #[arg(long, visible_alias = "registry", value_name = "URL")]
    against: Option<String>,
    /// How to say what was found
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
    /// Annotations, which GitHub shows beside the lines of a pull request
    Github,
}

/// One thing to change.
#[derive(Serialize)]
struct Found {
    /// Relative to where such files are.
    file: String,
    /// Counted from 1; none where the file isn't JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<usize>,
    /// Where in the file; empty or `$` is all of it.
    path: String,
    /// The contract's field that the path leads to, such as `lines.quantity`.
    #[serde(skip_serializing_if = "String::is_empty")]
    field: String,
    /// Its short, stable name.
    rule: &'static str,
    /// The earlier version and the one that can't follow it, where that is what is wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    versions: Option<(u32, u32)>,
    /// What was found and what to do.
    message: String,
    /// All of it in one line, for people.
    #[serde(skip)]
    text: String,
    /// The file as it is found from here.
    #[serde(skip)]
    place: PathBuf,
}

pub async fn run(arguments: &Arguments, global: &Global) -> Result<(), Exit> {
    let mut found = Vec::new();
    let contracts = kept(global.read_contracts(), |error| Found::contract(error, global), &mut found);
    let metrics = kept(global.read_analytics(), |error| Found::metric(error, global), &mut found);
    // Tables and rules are about contracts: where these are wrong, nothing can be said about them yet.
    let rules = contracts.as_ref().and_then(|contracts| {
        let tables = kept(Tables::of(contracts), |error| Found::table(error, contracts, global), &mut found);
        if let (Some(tables), Some(metrics)) = (tables, &metrics) {
            kept(metrics.check(&tables), |error| Found::metric(error, global), &mut found);
        }
        kept(global.read_rules(contracts), |error| Found::rule(error, global), &mut found)
    });
    if let (Some(url), Some(contracts)) = (&arguments.against, &contracts) {
        found.extend(differences(url, contracts, global).await?);
    }
    let format = if global.json { Format::Json } else { arguments.format };
    let (Some(contracts), Some(metrics), Some(rules), true) = (contracts, metrics, rules, found.is_empty()) else {
        return Err(tell(&found, format));
    };
    let (metrics, rules) = (metrics.iter().count(), rules.iter().count());
    let versions: usize = contracts.iter().map(|contract| contract.versions().len()).sum();
    let types = contracts.iter().count();
    if format == Format::Json {
        let names: Vec<&str> = contracts.iter().map(|contract| contract.event_type.as_str()).collect();
        let counted =
            json!({ "contracts": names, "versions": versions, "rules": rules, "metrics": metrics, "found": [] });
        println!("{counted}");
    } else {
        println!("{types} contracts in {versions} versions, {metrics} metrics, {rules} rules: nothing found");
    }
    Ok(())
}

/// Asks with the project's login, if it has one.
async fn differences(url: &str, contracts: &Contracts, global: &Global) -> Result<Vec<Found>, Exit> {
    let config = RegistryConfig { url: url.to_owned(), cache: String::new(), ..Config::load(global)?.registry };
    let registry = config.client()?;
    let mut found = Vec::new();
    for contract in contracts.iter() {
        let differ = registry.compare(contract).await;
        found.extend(differ.map_err(|error| Exit::unreachable("the schema registry", error))?);
    }
    Ok(found.into_iter().map(|error| Found::contract(error, global)).collect())
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

fn tell(found: &[Found], format: Format) -> Exit {
    let count = found.len();
    match format {
        Format::Json => println!("{}", json!({ "found": found })),
        Format::Github => found.iter().for_each(|found| println!("{}", found.annotation())),
        Format::Text => {
            let lines: String = found.iter().map(|found| format!("\n  {}", found.text)).collect();
            return Exit::found(format!("{count} found:{lines}"));
        }
    }
    Exit::found(format!("{count} found"))
}

impl Found {
    fn contract(error: ContractError, global: &Global) -> Self {
        let text = error.to_string();
        let ContractError { file, path, rule, message, against } = error;
        let place = global.contracts_directory().join(&file);
        let read = std::fs::read_to_string(&place).ok().map(|json| locate(&json, &path));
        let (line, field) = read.map_or((None, String::new()), |place| (Some(place.line), place.field));
        let versions = against.zip(version_of(&file));
        Self { file, line, path, field, rule, versions, message, text, place }
    }

    fn table(error: TableError, contracts: &Contracts, global: &Global) -> Self {
        let text = error.to_string();
        let TableError { event_type, message } = error;
        let newest = contracts.get(&event_type).map_or(1, |contract| contract.newest().number);
        let (file, path) = (format!("{event_type}/{newest}.avsc"), "$".to_owned());
        Self { text, ..Self::contract(ContractError { file, path, rule: "table", message, against: None }, global) }
    }

    fn metric(error: MetricError, global: &Global) -> Self {
        let text = error.to_string();
        let MetricError { file, message } = error;
        let place = global.in_project(ANALYTICS).join(&file);
        Self {
            file,
            line: None,
            path: String::new(),
            field: String::new(),
            rule: "metric",
            versions: None,
            message,
            text,
            place,
        }
    }

    fn rule(error: RuleError, global: &Global) -> Self {
        let text = error.to_string();
        let RuleError { file, key, message } = error;
        let place = global.in_project(RULES).join(&file);
        Self { file, line: None, path: key, field: String::new(), rule: "rule", versions: None, message, text, place }
    }

    /// GitHub's workflow command for an error. Its files are named from the repository's root, as ours are when the
    /// command runs there.
    fn annotation(&self) -> String {
        let Self { line, rule, message, path, place, .. } = self;
        let place = place.strip_prefix(".").unwrap_or(place).display().to_string();
        let at = line.map_or(String::new(), |line| format!(",line={line}"));
        let message = escaped(format!("{path} {message}").trim_start());
        format!("::error file={}{at},title={}::{message}", property(&place), property(rule))
    }
}

/// `order.placed/2.avsc` is 2.
fn version_of(file: &str) -> Option<u32> {
    file.rsplit('/').next()?.strip_suffix(".avsc")?.parse().ok()
}

fn escaped(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

fn property(text: &str) -> String {
    escaped(text).replace(':', "%3A").replace(',', "%2C")
}
