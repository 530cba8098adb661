//! Kept events through the gateway's own checks once more, by the contracts as they are now, under the ids and times
//! that they had. What the log has acknowledged is kept no longer.

use super::form::{self, Reason};
use super::seal::Key;
use super::store::{KeptEvent, Store};
use crate::gateway::GatewayConfig;
use crate::gateway::access::{Principal, Way};
use crate::gateway::answer::{Status, Verdict};
use crate::gateway::metrics::GatewayMetrics;
use crate::gateway::prepare::{Arrival, Prepared, Routes};
use crate::gateway::publish::{Desk, OWN_ID};
use crate::gateway::throttle::Throttle;
use millrace_schemas::registry::Registry;
use millrace_schemas::{Contract, Contracts};
use millrace_stream::KafkaConfig;
use std::sync::Arc;

/// What became of a kept event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// All in-sync replicas have it, and it is kept no longer. Of its personal data this is not in it.
    Published { without: Vec<String> },
    /// It still does not fit.
    Invalid(Vec<Reason>),
    /// It can't be published by anybody but its sender: why.
    Refused(String),
    /// It may be in the log or not: replay it again.
    Unsure(String),
}

/// The gateway's way into the log, for events that it kept.
pub struct Replay {
    store: Store,
    routes: Routes,
    desk: Desk,
    key: Option<Key>,
}

impl Replay {
    /// # Errors
    /// When the registry does not answer or lacks a contract, or the key can't be read.
    pub async fn connect(
        config: &GatewayConfig,
        kafka: &KafkaConfig,
        registry: &Registry,
        contracts: Arc<Contracts>,
        store: Store,
    ) -> anyhow::Result<Self> {
        let key = config.quarantine.key()?;
        let routes = Routes::look_up(registry, contracts).await?;
        let desk = Desk::new(kafka, config.deadline(), 0, None, None)?; // the log's own deduplication decides
        Ok(Self { store, routes, desk, key })
    }

    /// Each in its order; what became of each.
    ///
    /// # Errors
    /// When Postgres does not answer: what was published until then may still be kept, and is published again under
    /// its id.
    pub async fn run(&self, events: &[KeptEvent]) -> anyhow::Result<Vec<Outcome>> {
        let texts: Vec<_> = events.iter().map(|event| event.text(self.key.as_ref())).collect();
        let (mut ready, mut outcomes) = (Vec::new(), Vec::with_capacity(events.len()));
        for (event, text) in events.iter().zip(&texts) {
            outcomes.push(match text.as_ref().map(|text| self.prepare(event, text)) {
                Ok(Ok(prepared)) => {
                    ready.push(Ok(prepared));
                    None
                }
                Ok(Err(outcome)) => Some(outcome),
                Err(unreadable) => Some(Outcome::Refused(unreadable.clone())),
            });
        }
        let operator = Principal::granted("replay", Way::Key, &[]);
        let (unlimited, metrics) = (Throttle::default(), GatewayMetrics::default());
        let mut verdicts = self.desk.settle(ready, &mut unlimited.allowance(&operator), &metrics).await.into_iter();
        let mut told = Vec::with_capacity(events.len());
        for (event, outcome) in events.iter().zip(outcomes) {
            let outcome = match outcome {
                Some(outcome) => outcome,
                None => verdicts.next().map_or_else(untold, |verdict| settled(verdict, &event.personal)),
            };
            self.note(event, &outcome).await?;
            told.push(outcome);
        }
        Ok(told)
    }

    fn prepare<'a>(&'a self, event: &KeptEvent, text: &'a str) -> Result<Prepared<'a>, Outcome> {
        // An earlier run has published another event under its id, or was not sure; there is no row of that any more.
        if event.errors.iter().any(|error| error.pointer == "/id" && error.expected == OWN_ID) {
            return Err(Outcome::Invalid(event.errors.clone()));
        }
        let submitted = form::submitted(text).ok_or_else(|| Outcome::Refused("it is no event".into()))?;
        let missing =
            missing(self.routes.contract(&submitted).map(|contract| &**contract), &event.lost, &event.personal);
        let prepared = self.routes.prepare_trusted(submitted, Arrival::now((None, None)));
        match prepared {
            // What is missing is why it does not fit, or would be missing without a word.
            _ if !missing.is_empty() => Err(Outcome::Refused(format!(
                "{} is not kept as it was sent, so that only its sender can send it again",
                missing.join(", ")
            ))),
            Ok(prepared) => Ok(prepared),
            Err(violations) => Err(Outcome::Invalid(violations.iter().map(form::reason).collect())),
        }
    }

    async fn note(&self, event: &KeptEvent, outcome: &Outcome) -> anyhow::Result<()> {
        match outcome {
            Outcome::Published { .. } => self.store.published(event).await,
            Outcome::Invalid(errors) => self.store.tried(event, Some(errors)).await,
            Outcome::Refused(_) | Outcome::Unsure(_) => self.store.tried(event, None).await,
        }
    }

    /// The event, for who looks at it.
    ///
    /// # Errors
    /// When it is encrypted by another key than the configured one; or that can't be read.
    pub fn open(config: &GatewayConfig, event: &KeptEvent) -> Result<String, String> {
        let key = config.quarantine.key().map_err(|error| format!("{error:#}"))?;
        event.text(key.as_ref())
    }
}

/// What an event can't do without. Its trace it can, and personal data where the contract has something in its place.
fn missing(contract: Option<&Contract>, lost: &[String], personal: &[String]) -> Vec<String> {
    let spared = |pointer: &str| {
        let below_data = pointer.strip_prefix("/data");
        contract.zip(below_data).is_some_and(|(contract, pointer)| contract.spares(pointer))
    };
    let is_trace = |pointer: &str| ["/traceparent", "/tracestate"].contains(&pointer);
    let personal = personal.iter().filter(|pointer| !spared(pointer) && !is_trace(pointer));
    let mut missing: Vec<String> = lost.iter().chain(personal).map(|pointer| named(pointer)).collect();
    missing.sort_unstable();
    missing.dedup();
    missing
}

fn named(pointer: &str) -> String {
    if pointer.is_empty() { "all of it".to_owned() } else { pointer.to_owned() }
}

fn settled(verdict: Verdict<'_>, personal: &[String]) -> Outcome {
    match verdict.status {
        Status::Accepted | Status::Duplicate => Outcome::Published { without: personal.to_vec() },
        Status::Invalid => Outcome::Invalid(verdict.errors.iter().map(form::reason).collect()),
        _ => Outcome::Unsure(verdict.message.unwrap_or_default()),
    }
}

fn untold() -> Outcome {
    Outcome::Unsure("nobody said what became of it".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_does_without_personal_data_where_its_contract_does_and_without_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().join("user.called");
        std::fs::create_dir(&place).unwrap();
        let schema = r#"{ "type": "record", "name": "UserCalled", "namespace": "it", "doc": "It.",
          "millrace": { "type": "user.called", "topic": "it.user.v1", "key": "id" }, "fields": [
            { "name": "id", "type": { "type": "string", "logicalType": "uuid" }, "doc": "It." },
            { "name": "phone", "type": ["null", "string"], "default": null, "pii": "id", "doc": "It." },
            { "name": "name", "type": "string", "pii": "id", "doc": "It." } ] }"#;
        std::fs::write(place.join("1.avsc"), schema).unwrap();
        let example = r#"{ "id": "019b76da-a800-7000-8000-000000000001", "phone": null, "name": "" }"#;
        std::fs::write(place.join("example.json"), example).unwrap();
        let contracts = Contracts::load(directory.path()).unwrap();
        let contract = contracts.get("user.called").map(|contract| &**contract);
        let lacking = |contract, lost: &[&str], personal: &[&str]| {
            let [lost, personal] =
                [lost, personal].map(|all| all.iter().map(|one| (*one).to_owned()).collect::<Vec<_>>());
            missing(contract, &lost, &personal)
        };
        assert_eq!(lacking(contract, &[], &["/data/phone"]), Vec::<String>::new());
        assert_eq!(lacking(contract, &["/data/phone"], &["/data/phone"]), ["/data/phone"], "it was wrong there");
        assert_eq!(lacking(contract, &[], &["/data/name", "/data/phone"]), ["/data/name"]);
        assert_eq!(lacking(contract, &[""], &["/data/?", "/subject"]), ["/data/?", "/subject", "all of it"]);
        assert_eq!(lacking(None, &[], &["/data/phone"]), ["/data/phone"]);
        let attributes = ["/source", "/correlationid", "/traceparent", "/tracestate"];
        assert_eq!(lacking(contract, &[], &attributes), ["/correlationid", "/source"]);
    }
}
