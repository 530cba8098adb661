//! Contracts: what each event type looks like, in which topic it travels, and every version it ever had.

use crate::avsc::Header;
use crate::rules;
use apache_avro::Schema;
use apache_avro::schema::{RecordField, RecordSchema};
use include_dir::{Dir, include_dir};
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

/// The reference project's contracts, used where a project brings none.
static EMBEDDED: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/avro");

/// What Kafka does with old records of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cleanup {
    /// Facts: kept for a time.
    Delete,
    /// States: the newest of each key is kept.
    Compact,
}

impl fmt::Display for Cleanup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Delete => "delete",
            Self::Compact => "compact",
        })
    }
}

/// One event type.
#[derive(Debug, Clone)]
pub struct Contract {
    /// `order.placed`.
    pub event_type: String,
    /// `shop.order.v1`.
    pub topic: String,
    /// The field that holds the aggregate's id: the record's key.
    pub key: String,
    pub cleanup: Cleanup,
    /// The field that holds the id of whose personal data the event asks to be erased.
    pub erases: Option<String>,
    /// Who answers for its topic; nobody where `owners.json` names nobody.
    pub owners: Vec<String>,
    /// Oldest first; never empty.
    versions: Vec<Version>,
    /// A value of the newest version in Avro's JSON encoding.
    pub example: serde_json::Value,
}

/// One published version; never edited.
#[derive(Debug, Clone)]
pub struct Version {
    pub number: u32,
    /// The file as it is: what the registry gets.
    pub text: String,
    pub schema: Schema,
}

/// A contract that can't be used: which file, where in it, and what rule it breaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContractError {
    /// Relative to the project's `schemas` directory.
    pub file: String,
    /// JSON path such as `$.fields[3].doc`; `$` is the whole file.
    pub path: String,
    /// Its short, stable name.
    pub rule: &'static str,
    /// What was found and what to do.
    pub message: String,
    /// The earlier version that the file's own can't follow, where that is what is wrong.
    pub against: Option<u32>,
}

impl fmt::Display for ContractError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} [{}]: {}", self.file, self.path, self.rule, self.message)
    }
}

impl std::error::Error for ContractError {}

/// All contracts of a project, by event type.
#[derive(Debug, Clone, Default)]
pub struct Contracts(BTreeMap<String, Arc<Contract>>);

impl Contracts {
    /// The reference domain's.
    ///
    /// # Errors
    /// Never in a released binary: a test loads them.
    pub fn embedded() -> Result<Self, Vec<ContractError>> {
        Self::from_files(&Self::embedded_files().map(|(path, bytes)| (slashed(path), bytes.to_vec())).collect())
    }

    /// The same as files, beneath a directory of contracts.
    pub fn embedded_files() -> impl Iterator<Item = (&'static Path, &'static [u8])> {
        EMBEDDED.files().chain(EMBEDDED.dirs().flat_map(Dir::files)).map(|file| (file.path(), file.contents()))
    }

    /// Reads `<type>/<version>.avsc`, `<type>/example.json` and `owners.json` beneath a directory.
    ///
    /// # Errors
    /// Every broken rule in every file, not only the first.
    pub fn load(directory: &Path) -> Result<Self, Vec<ContractError>> {
        Self::from_files(&rules::read_directory(directory)?)
    }

    fn from_files(files: &BTreeMap<String, Vec<u8>>) -> Result<Self, Vec<ContractError>> {
        rules::check(files).map(|contracts| {
            Self(contracts.into_iter().map(|contract| (contract.event_type.clone(), Arc::new(contract))).collect())
        })
    }

    pub fn get(&self, event_type: &str) -> Option<&Arc<Contract>> {
        self.0.get(event_type)
    }

    /// In the order of their types.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Contract>> {
        self.0.values()
    }

    /// Every topic once, and how it is cleaned.
    pub fn topics(&self) -> BTreeMap<String, Cleanup> {
        self.iter().map(|contract| (contract.topic.clone(), contract.cleanup)).collect()
    }
}

impl Contract {
    /// `versions` oldest first, at least one, each a record; `rules` has seen to it.
    pub(crate) fn new(header: Header, versions: Vec<Version>, example: serde_json::Value) -> Self {
        let Header { event_type, topic, key, cleanup, erases } = header;
        Self { event_type, topic, key, cleanup, erases, owners: Vec::new(), versions, example }
    }

    pub fn versions(&self) -> &[Version] {
        &self.versions
    }

    pub fn newest(&self) -> &Version {
        &self.versions[self.versions.len() - 1]
    }

    /// The registry's subject (`TopicRecordNameStrategy`: several types share a topic).
    pub fn subject(&self) -> String {
        format!("{}-{}", self.topic, self.newest().fullname())
    }

    /// `order_placed`: the table, the view.
    pub fn table(&self) -> String {
        self.event_type.replace('.', "_")
    }

    pub fn doc(&self) -> &str {
        self.newest().record().doc.as_deref().unwrap_or_default()
    }

    /// The newest version's fields.
    pub fn fields(&self) -> &[RecordField] {
        &self.newest().record().fields
    }
}

impl Version {
    pub(crate) fn file(&self, event_type: &str) -> String {
        format!("{event_type}/{}.avsc", self.number)
    }

    pub fn record(&self) -> &RecordSchema {
        match &self.schema {
            Schema::Record(record) => record,
            _ => unreachable!("a contract is a record: rules::check refuses anything else"),
        }
    }

    pub fn fullname(&self) -> String {
        self.record().name.fullname(None).to_string()
    }
}

fn slashed(path: &Path) -> String {
    path.components().map(|part| part.as_os_str().to_string_lossy()).collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{WriterSchema, value_from_json, value_to_json};

    #[test]
    fn the_reference_contracts_keep_every_rule_and_their_examples_travel() {
        let contracts =
            Contracts::embedded().map_err(|found| found.iter().map(ToString::to_string).collect::<Vec<_>>());
        let contracts = contracts.unwrap();
        assert_eq!(contracts.iter().count(), 13);
        assert_eq!(contracts.topics()["shop.product.v1"], Cleanup::Compact);
        for contract in contracts.iter() {
            let writer = WriterSchema::parse(1, &contract.newest().text).unwrap();
            let value = value_from_json(&contract.newest().schema, &contract.example).unwrap();
            let mut datum = Vec::new();
            writer.encode_value(&value, &mut datum).unwrap();
            assert_eq!(writer.decode(&datum).unwrap(), value, "{}", contract.event_type);
            assert_eq!(value_to_json(writer.schema, &value), contract.example, "{}", contract.event_type);
        }
    }
}
