//! `owners.json`, beside the contracts: who answers for which topics. Not within the contracts, since a published version
//! is never edited, and teams change.

use crate::avsc::{Faults, nearest};
use crate::contract::{Contract, ContractError};
use serde_json::Value as Json;
use std::collections::BTreeMap;

pub(super) const OWNERS: &str = "owners.json";

/// Topics by name; a `*` at the end stands for anything.
struct Topics<'a>(&'a str);

impl Topics<'_> {
    fn cover(&self, topic: &str) -> bool {
        self.0.strip_suffix('*').map_or(self.0 == topic, |beginning| topic.starts_with(beginning))
    }

    /// What a whole name says goes before what a beginning says, and a longer one before a shorter.
    fn narrowness(&self) -> (bool, usize) {
        (!self.0.ends_with('*'), self.0.len())
    }
}

/// Tells the contracts of their owners, and what is wrong with the file.
pub(super) fn give(contracts: &mut [Contract], file: &[u8], found: &mut Vec<ContractError>) {
    let mut faults = Faults::of(OWNERS, found);
    let parsed = serde_json::from_slice::<BTreeMap<String, Json>>(file);
    let mut entries: Vec<_> = match &parsed {
        Ok(parsed) => parsed.iter().map(|(topics, owners)| (Topics(topics), owners)).collect(),
        Err(error) => return faults.add("$", "owners", format!("{LIST}: {error}")),
    };
    entries.sort_by_key(|(topics, _)| topics.narrowness());
    for (topics, owners) in entries {
        let (path, mut covered) = (format!("$[\"{}\"]", topics.0), false);
        let Some(owners) = names(owners) else {
            faults.add(&path, "owners", LIST);
            continue;
        };
        for contract in contracts.iter_mut().filter(|contract| topics.cover(&contract.topic)) {
            contract.owners.clone_from(&owners);
            covered = true;
        }
        if !covered {
            let known: Vec<&str> = contracts.iter().map(|contract| contract.topic.as_str()).collect();
            faults.add(&path, "owners", format!("no contract is of `{}`{}", topics.0, nearest(topics.0, &known)));
        }
    }
}

const LIST: &str = "say for topics who answers for them, as {\"shop.order.*\": [\"orders@shop.example\"]}";

/// At least one, none of them empty.
fn names(owners: &Json) -> Option<Vec<String>> {
    let name = |owner: &Json| owner.as_str().filter(|name| !name.trim().is_empty()).map(str::to_owned);
    owners.as_array()?.iter().map(name).collect::<Option<Vec<_>>>().filter(|names| !names.is_empty())
}
