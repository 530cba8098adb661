//! What makes a project's files contracts: every rule that looks at more than one file. `avsc` has one file's own.

mod evolution;
mod owners;
#[cfg(test)]
mod tests;

use crate::avsc::{self, Faults, Header};
use crate::contract::{Contract, ContractError, Version};
use crate::json::value_from_json;
use evolution::{BREAKING, evolution};
use owners::OWNERS;
use serde_json::Value as Json;
use std::collections::BTreeMap;
use std::path::Path;

/// A contract of this size has thousands of fields: it is a mistake, such as an export laid beside the contracts.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// More files than any project has event types; a directory with more is not one of contracts.
const FILES_MAX: usize = 10_000;
const EXAMPLE: &str = "example.json";

/// Files by their path relative to the directory, with `/`.
type Files = BTreeMap<String, Vec<u8>>;

/// Reads everything beneath a directory; [`check`] judges the names.
pub(crate) fn read_directory(directory: &Path) -> Result<Files, Vec<ContractError>> {
    let (mut files, mut found) = (Files::new(), Vec::new());
    read_into(&mut files, directory, "", &mut found);
    if files.is_empty() && found.is_empty() {
        let message = format!("no contracts in {}: begin with `order.placed/1.avsc`", directory.display());
        Faults::of(".", &mut found).add("$", "file", message);
    }
    if found.is_empty() { Ok(files) } else { Err(found) }
}

fn read_into(files: &mut Files, directory: &Path, name: &str, found: &mut Vec<ContractError>) {
    let entries = match std::fs::read_dir(directory).and_then(Iterator::collect::<Result<Vec<_>, _>>) {
        Ok(entries) => entries,
        Err(error) => {
            let message = format!("could not read directory {}: {error}", directory.display());
            return Faults::of(if name.is_empty() { "." } else { name }, found).add("$", "file", message);
        }
    };
    for path in entries.iter().map(std::fs::DirEntry::path) {
        let part = path.file_name().unwrap_or_default().to_string_lossy();
        let inner = if name.is_empty() { part.into_owned() } else { format!("{name}/{part}") };
        if files.len() >= FILES_MAX {
            return Faults::of(&inner, found).add("$", "file", format!("at most {FILES_MAX} files are read"));
        }
        if path.is_dir() && name.is_empty() {
            read_into(files, &path, &inner, found);
        } else {
            match read_file(&path) {
                Ok(bytes) => drop(files.insert(inner, bytes)),
                Err(message) => Faults::of(&inner, found).add("$", "file", message),
            }
        }
    }
}

fn read_file(path: &Path) -> Result<Vec<u8>, String> {
    let metadata = std::fs::metadata(path).map_err(|error| format!("could not be read: {error}"))?;
    if !metadata.is_file() {
        return Err(format!("is not a file: {EXPECTED}"));
    }
    if metadata.len() > FILE_BYTES_MAX {
        return Err(format!("has {} bytes, at most {FILE_BYTES_MAX} are read", metadata.len()));
    }
    std::fs::read(path).map_err(|error| format!("could not be read: {error}"))
}

/// Every contract, or every broken rule of every file, in the files' order.
pub(crate) fn check(files: &Files) -> Result<Vec<Contract>, Vec<ContractError>> {
    let mut found = Vec::new();
    let folders = by_folder(files, &mut found);
    let mut contracts: Vec<_> =
        folders.iter().filter_map(|(event_type, folder)| contract(event_type, folder, &mut found)).collect();
    clashes(&contracts, &mut found);
    if let Some(owners) = files.get(OWNERS) {
        owners::give(&mut contracts, owners, &mut found);
    }
    if found.is_empty() {
        return Ok(contracts);
    }
    found.sort_by(|one, other| one.file.cmp(&other.file));
    Err(found)
}

#[derive(Default)]
struct Folder<'a> {
    versions: BTreeMap<u32, &'a [u8]>,
    example: Option<&'a [u8]>,
}

const EXPECTED: &str =
    "expected are `<type>/<version>.avsc`, such as `order.placed/1.avsc`, `<type>/example.json`, and `owners.json`";

fn by_folder<'a>(files: &'a Files, found: &mut Vec<ContractError>) -> BTreeMap<&'a str, Folder<'a>> {
    let mut folders = BTreeMap::<_, Folder>::new();
    for (file, bytes) in files {
        match file.split_once('/') {
            Some((event_type, EXAMPLE)) => folders.entry(event_type).or_default().example = Some(bytes),
            Some((event_type, name)) if version_number(name).is_some() => {
                let versions = &mut folders.entry(event_type).or_default().versions;
                versions.insert(version_number(name).unwrap_or_default(), bytes);
            }
            None if file == OWNERS => {}
            _ => Faults::of(file, found).add("$", "file", format!("unexpected file: {EXPECTED}")),
        }
    }
    folders
}

/// `12.avsc`, without leading zeros: one version, one name.
fn version_number(name: &str) -> Option<u32> {
    let digits = name.strip_suffix(".avsc")?;
    digits.parse().ok().filter(|number: &u32| *number > 0 && number.to_string() == digits)
}

/// As much of the contract as can be made out, so that faults elsewhere are found too.
fn contract(event_type: &str, folder: &Folder, found: &mut Vec<ContractError>) -> Option<Contract> {
    let mut read = Vec::new();
    for (&number, bytes) in &folder.versions {
        read.extend(avsc::read(event_type, number, bytes, found));
    }
    numbering(event_type, folder, found);
    for (at, (header, version)) in read.iter().enumerate().skip(1) {
        let mut faults = Faults::of(&version.file(event_type), found);
        identity(&mut faults, (header, version), &read[0]);
        evolution(&mut faults, version, &read[..at]);
    }
    let (header, newest) = read.last()?;
    let header = header.clone();
    let example = example(event_type, folder, newest, found);
    Some(Contract::new(header, read.into_iter().map(|(_, version)| version).collect(), example))
}

fn numbering(event_type: &str, folder: &Folder, found: &mut Vec<ContractError>) {
    let newest = folder.versions.keys().max().copied().unwrap_or(1);
    for missing in (1..=newest).filter(|number| !folder.versions.contains_key(number)).take(3) {
        let message = format!("version {missing} is missing: versions are numbered 1, 2, 3 without a gap");
        Faults::of(&format!("{event_type}/{missing}.avsc"), found).add("$", "versions", message);
    }
}

/// What all versions of one type share.
fn identity(faults: &mut Faults, (header, version): (&Header, &Version), (first, first_version): &(Header, Version)) {
    let mut same = |path: &str, what: &str, now: &str, before: &str| {
        if now != before {
            let message = format!("the {what} is `{now}`, but `{before}` in version {}", first_version.number);
            faults.add_against(Some(first_version.number), path, "identity", format!("{message}: {BREAKING}"));
        }
    };
    same("$.name", "full name", &version.fullname(), &first_version.fullname());
    same("$.millrace.topic", "topic", &header.topic, &first.topic);
    same("$.millrace.key", "key", &header.key, &first.key);
}

fn example(event_type: &str, folder: &Folder, newest: &Version, found: &mut Vec<ContractError>) -> Json {
    let sound = !found.iter().any(|fault| fault.file == newest.file(event_type));
    let mut faults = Faults::of(&format!("{event_type}/{EXAMPLE}"), found);
    let parsed = folder.example.map(serde_json::from_slice::<Json>);
    match parsed {
        None => {
            faults.add("$", "example", "the example is missing: write one value of the newest version, in Avro's JSON")
        }
        Some(Err(error)) => faults.add("$", "json", format!("is not JSON: {error}")),
        Some(Ok(json)) => {
            // Beside a fault in the contract itself it would only be said twice.
            if sound && let Err(error) = value_from_json(&newest.schema, &json) {
                faults.add(
                    &error.path,
                    "example",
                    format!("does not fit version {}: {}", newest.number, error.message),
                );
            }
            return json;
        }
    }
    Json::Null
}

/// Contracts that would get in each other's way.
fn clashes(contracts: &[Contract], found: &mut Vec<ContractError>) {
    let (mut tables, mut names, mut topics) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    for contract in contracts {
        let (event_type, topic) = (contract.event_type.as_str(), contract.topic.as_str());
        let mut faults = Faults::of(&contract.newest().file(event_type), found);
        if let Some(other) = tables.insert(contract.table(), event_type) {
            let message = format!("`{event_type}` and `{other}` would share the table `{}`", contract.table());
            faults.add("$.millrace.type", "clash", format!("{message}: rename one of them"));
        }
        if let Some(other) = names.insert(contract.newest().fullname(), event_type) {
            let message = format!("`{other}` is named {} too: give each type its own", contract.newest().fullname());
            faults.add("$.name", "clash", message);
        }
        let (other, cleanup) = *topics.entry(topic).or_insert((event_type, contract.cleanup));
        if cleanup != contract.cleanup {
            let message = format!("`{other}` says {cleanup} for topic {topic}, this one {}", contract.cleanup);
            faults.add("$.millrace.cleanup", "cleanup", format!("{message}: a topic is cleaned in one way"));
        }
    }
}
