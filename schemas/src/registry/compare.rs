//! What a registry has of a contract, held against the contract's files. Registers nothing.

use super::{NO_SUCH_SUBJECT, NO_SUCH_VERSION, Refusal, Registry, RegistryError};
use crate::avsc::Faults;
use crate::{Contract, ContractError};
use reqwest::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
struct Registered {
    version: u32,
    schema: String,
}

#[derive(Deserialize)]
struct Verdict {
    is_compatible: bool,
    /// Some registries write null for none.
    messages: Option<Vec<String>>,
}

impl Registry {
    /// Where a contract's files and the registry differ: versions that were registered and are in no file, and files
    /// that the registry would refuse.
    ///
    /// # Errors
    /// [`RegistryError::Unreachable`]; everything else is found.
    pub async fn compare(&self, contract: &Contract) -> Result<Vec<ContractError>, RegistryError> {
        let (subject, registered) = (contract.subject(), self.registered(contract).await?);
        let mut found = Vec::new();
        let is_own = |it: &&Registered| contract.versions().iter().any(|own| same(&own.text, &it.schema));
        for Registered { version, .. } in registered.iter().filter(|it| !is_own(it)) {
            let edited = contract.versions().iter().find(|own| own.number == *version);
            let file = edited.unwrap_or(contract.newest()).file(&contract.event_type);
            let message = format!("version {version} of `{subject}` in the registry is in no file: {NEVER_EDITED}");
            Faults::of(&file, &mut found).add("$", "registered", message);
        }
        for own in contract.versions() {
            if registered.iter().any(|it| same(&own.text, &it.schema)) {
                continue;
            }
            let verdict = self.would_take(&subject, &own.text).await?;
            let mut faults = Faults::of(&own.file(&contract.event_type), &mut found);
            for message in verdict {
                faults.add("$", "registry", format!("the registry would refuse it in `{subject}`: {message}"));
            }
        }
        Ok(found)
    }

    /// Every version of the contract's subject; none where there is no such subject.
    async fn registered(&self, contract: &Contract) -> Result<Vec<Registered>, RegistryError> {
        let path = format!("/subjects/{}/versions", contract.subject());
        let answer = self.answer::<Vec<u32>>(self.get(&path).send().await).await?;
        let versions = match answer {
            Err(Refusal { status: StatusCode::NOT_FOUND, error_code: NO_SUCH_SUBJECT, .. }) => return Ok(Vec::new()),
            answer => answer.map_err(|refusal| self.unreachable(refusal.answered()))?,
        };
        let mut registered = Vec::new();
        for version in versions {
            let answer = self.answer(self.get(&format!("{path}/{version}")).send().await).await?;
            registered.push(answer.map_err(|refusal| self.unreachable(refusal.answered()))?);
        }
        Ok(registered)
    }

    /// Why it would not; nothing when it would.
    async fn would_take(&self, subject: &str, schema: &str) -> Result<Vec<String>, RegistryError> {
        let mut answer = self.verdict(subject, "versions", schema).await?;
        if matches!(answer, Err(Refusal { status: StatusCode::NOT_FOUND, error_code: 0 | 404, .. })) {
            // Not every registry has that path. The others hold it against the latest one as their level says.
            answer = self.verdict(subject, "versions/latest", schema).await?;
        }
        Ok(match answer {
            Ok(Verdict { is_compatible: true, .. }) => Vec::new(),
            Ok(Verdict { messages, .. }) => {
                let messages = messages.filter(|messages| !messages.is_empty());
                messages.unwrap_or_else(|| vec!["it does not say why".to_owned()])
            }
            Err(Refusal { status: StatusCode::NOT_FOUND, error_code: NO_SUCH_SUBJECT | NO_SUCH_VERSION, .. }) => {
                Vec::new()
            }
            Err(refusal) if refusal.status == StatusCode::UNPROCESSABLE_ENTITY => vec![refusal.message],
            Err(refusal) => return Err(self.unreachable(refusal.answered())),
        })
    }

    async fn verdict(
        &self,
        subject: &str,
        against: &str,
        schema: &str,
    ) -> Result<Result<Verdict, Refusal>, RegistryError> {
        let request = self.post(&format!("/compatibility/subjects/{subject}/{against}?verbose=true"));
        self.answer(request.json(&json!({ "schema": schema })).send().await).await
    }
}

const NEVER_EDITED: &str = "a published version is never edited, put it back and make the change in the next one";

/// However it is spaced.
fn same(one: &str, other: &str) -> bool {
    match (serde_json::from_str::<Value>(one), serde_json::from_str::<Value>(other)) {
        (Ok(one), Ok(other)) => one == other,
        _ => one == other,
    }
}
