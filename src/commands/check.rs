//! `millrace check`: all that can be known about a project without a server.
#![allow(clippy::print_stdout, reason = "this command's output")]

use crate::commands::Global;
use crate::exit::Exit;

pub fn run(global: &Global) -> Result<(), Exit> {
    let contracts = global.contracts()?;
    let rules = global.rules(&contracts)?.iter().count();
    let metrics = global.analytics()?.iter().count();
    let versions: usize = contracts.iter().map(|contract| contract.versions().len()).sum();
    let types = contracts.iter().count();
    if global.json {
        let names: Vec<&str> = contracts.iter().map(|contract| contract.event_type.as_str()).collect();
        println!(
            "{}",
            serde_json::json!({ "contracts": names, "versions": versions, "rules": rules, "metrics": metrics, "found": [] })
        );
    } else {
        println!("{types} contracts in {versions} versions, {metrics} metrics, {rules} rules: nothing found");
    }
    Ok(())
}
