//! `millrace init`: a project directory to begin with, a copy of the shop that is built in.
#![allow(clippy::print_stdout, reason = "this command's output")]

use crate::commands::{ANALYTICS, CONTRACTS, Global, RULES};
use crate::exit::Exit;
use anyhow::Context;
use clap::Args;
use millrace_processors::clickhouse::Analytics;
use millrace_schemas::Contracts;
use millrace_sinks::Rules;
use serde_json::json;
use std::path::{Path, PathBuf};

#[derive(Args)]
pub struct Arguments {
    /// Where to make it; what is there already is left alone
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

const CONFIGURATION: &str = include_str!("init.toml");

pub fn run(arguments: &Arguments, global: &Global) -> Result<(), Exit> {
    let directory = &arguments.directory;
    refuse_what_is_there(directory)?;
    let files = files();
    for (file, bytes) in &files {
        write(&directory.join(file), bytes)?;
    }
    let shown = directory.display();
    if global.json {
        let names: Vec<String> = files.iter().map(|(file, _)| file.display().to_string()).collect();
        println!("{}", json!({ "directory": directory, "files": names }));
    } else {
        println!(
            "{shown} is a copy of the shop: {CONTRACTS}, {ANALYTICS} and {RULES} are yours to change.\n\nNext\n  \
             millrace --project {shown} check\n  millrace --project {shown} up",
            CONTRACTS = CONTRACTS[0],
        );
    }
    Ok(())
}

fn refuse_what_is_there(directory: &Path) -> Result<(), Exit> {
    let shown = directory.display();
    match std::fs::read_dir(directory).map(|mut entries| entries.next().is_some()) {
        Ok(true) => {
            Err(Exit::usage(format!("{shown} is not empty, and nothing was touched: name a directory that is new")))
        }
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Exit::usage(format!("{shown}: {error}"))),
        _ => Ok(()),
    }
}

/// By their path in a project.
fn files() -> Vec<(PathBuf, &'static [u8])> {
    let within = |directory: &'static str| move |(name, bytes)| (Path::new(directory).join(name), bytes);
    let contracts = Contracts::embedded_files().map(within(CONTRACTS[0]));
    let metrics = Analytics::embedded_files().map(within(ANALYTICS));
    let rules = Rules::embedded_files().map(within(RULES));
    let configuration = std::iter::once((PathBuf::from("millrace.toml"), CONFIGURATION.as_bytes()));
    configuration.chain(contracts).chain(metrics).chain(rules).collect()
}

fn write(file: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let above = file.parent().unwrap_or(file);
    let written = std::fs::create_dir_all(above).and_then(|()| std::fs::write(file, bytes));
    written.with_context(|| format!("could not write {}", file.display()))
}
