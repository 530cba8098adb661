//! What the contracts tell people and their tools: pages to read, JSON, an OpenAPI and an AsyncAPI document.
//!
//! Everything is derived: nothing is told here that no contract says, and nothing is asked of a server.

mod asyncapi;
mod fields;
mod openapi;
mod page;

use fields::{fields, history};
use millrace_schemas::{Contract, Contracts};
use serde::Serialize;
use serde_json::{Value as Json, json};
use std::collections::BTreeMap;
use std::sync::Arc;

pub(crate) use page::{SCRIPT, STYLE};

/// A pipeline that reads an event type.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Consumer {
    /// Its consumer group's suffix.
    pub name: String,
    /// What it makes of the event, in a few words.
    pub does: String,
}

/// Who reads an event type, as far as the project says.
#[derive(Debug, Clone, Default)]
pub struct Readers {
    pub consumers: Vec<Consumer>,
    /// Those that read its view.
    pub metrics: Vec<String>,
}

/// The contracts, and who reads what they describe.
pub struct Catalogue {
    contracts: Arc<Contracts>,
    readers: BTreeMap<String, Readers>,
}

impl Catalogue {
    /// `readers` by event type.
    pub fn new(contracts: Arc<Contracts>, readers: BTreeMap<String, Readers>) -> Self {
        Self { contracts, readers }
    }

    /// The gateway's HTTP interface, with each event type's data.
    pub fn openapi(&self) -> Json {
        openapi::document(&self.contracts)
    }

    /// The topics, and what lies in them.
    pub fn asyncapi(&self) -> Json {
        asyncapi::document(&self.contracts)
    }

    pub(crate) fn contracts(&self) -> &Arc<Contracts> {
        &self.contracts
    }

    pub(crate) fn list(&self) -> Json {
        let contracts: Vec<Json> = self.contracts.iter().map(|contract| summary(contract)).collect();
        json!({ "contracts": contracts })
    }

    /// Everything about one type.
    pub(crate) fn one(&self, contract: &Contract) -> Json {
        let mut told = summary(contract);
        told["cleanup"] = json!(contract.cleanup.to_string());
        told["view"] = json!(format!("events.{}", contract.table()));
        told["erases"] = json!(contract.erases);
        told["fields"] = json!(fields(contract.newest()));
        let Readers { consumers, metrics } = self.readers(contract);
        told["consumers"] = json!(consumers);
        told["metrics"] = json!(metrics);
        told["versions"] = json!(history(contract));
        told["schema"] = serde_json::from_str(&contract.newest().text).unwrap_or_default(); // contracts are JSON
        told["json_schema"] = contract.json_schema();
        told["example"] = contract.plain_example();
        told["event"] = event(contract);
        told
    }

    /// The page that lists all types.
    pub(crate) fn list_page(&self) -> String {
        page::list(&self.contracts)
    }

    /// A type's own page.
    pub(crate) fn page(&self, contract: &Contract) -> String {
        page::one(contract, &self.readers(contract))
    }

    fn readers(&self, contract: &Contract) -> Readers {
        self.readers.get(&contract.event_type).cloned().unwrap_or_default()
    }
}

fn summary(contract: &Contract) -> Json {
    json!({
        "type": contract.event_type,
        "topic": contract.topic,
        "owners": contract.owners,
        "key": contract.key,
        "subject": contract.subject(),
        "version": contract.newest().number,
        "doc": contract.doc(),
    })
}

/// An event that the gateway accepts, once: the id stands for it ever after.
fn event(contract: &Contract) -> Json {
    json!({
        "specversion": "1.0",
        "id": EXAMPLE_ID,
        "source": "/example",
        "type": contract.event_type,
        "data": contract.plain_example(),
    })
}

/// A UUIDv7 of 2026-01-01.
const EXAMPLE_ID: &str = "019b76da-a800-7000-8000-000000000001";

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use tempfile::TempDir;

    /// A project of one contract, `it.happened`, with these fields in its versions.
    pub(crate) fn project(versions: &[&[Json]], example: &Json) -> (TempDir, Contracts) {
        let directory = tempfile::tempdir().unwrap();
        let folder = directory.path().join("it.happened");
        std::fs::create_dir(&folder).unwrap();
        for (at, fields) in versions.iter().enumerate() {
            let contract = json!({
                "type": "record", "name": "Happened", "namespace": "it", "doc": "It happened.",
                "millrace": { "type": "it.happened", "topic": "it.thing.v1", "key": "id" }, "fields": fields,
            });
            std::fs::write(folder.join(format!("{}.avsc", at + 1)), contract.to_string()).unwrap();
        }
        std::fs::write(folder.join("example.json"), example.to_string()).unwrap();
        let contracts = Contracts::load(directory.path());
        (directory, contracts.unwrap())
    }

    #[test]
    fn a_contract_tells_all_that_a_sender_and_a_reader_need() {
        let contracts = Arc::new(Contracts::embedded().unwrap());
        let consumers = vec![Consumer { name: "customer_summary".into(), does: "folds it".into() }];
        let readers = Readers { consumers, metrics: vec!["retention".into()] };
        let catalogue = Catalogue::new(contracts.clone(), BTreeMap::from([("user.registered".to_owned(), readers)]));
        let told = catalogue.one(contracts.get("user.registered").unwrap());
        assert_eq!(told["consumers"], json!([{ "name": "customer_summary", "does": "folds it" }]));
        assert_eq!((&told["metrics"], &told["owners"]), (&json!(["retention"]), &json!(["Shop, shop@example.com"])));
        assert_eq!(told["fields"][2]["pii"], "user_id");
        assert_eq!(told["versions"], json!([{ "version": 1, "changes": [] }]));
        assert_eq!(told["event"]["data"], told["example"]);
        assert_eq!(catalogue.one(contracts.get("user.erased").unwrap())["erases"], "user_id");
    }
}
