//! The client of a Confluent-compatible schema registry: ids to schemas and back, asked once each.

use crate::{Contract, Contracts, WriterSchema};
use serde::Deserialize;
use serde_json::json;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

/// A registry answers from memory; slower than this means it is down.
const REQUEST_DEADLINE: Duration = Duration::from_secs(5);
const CONNECT_DEADLINE: Duration = Duration::from_secs(2);
/// How long an unknown id stays unknown: a storm of garbage must not become a storm of requests.
const UNKNOWN_FOR: Duration = Duration::from_secs(5);
/// Unknown ids remembered at once; a garbage stream could invent four billion.
const UNKNOWN_MAX: usize = 10_000;
/// A schema larger than this is a mistake.
const ANSWER_BYTES_MAX: usize = 4 << 20;

#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// Try again: nothing is wrong with the record.
    #[error("schema registry: {0}")]
    Unreachable(String),
    #[error("schema id {0} is not in the registry")]
    UnknownId(u32),
    #[error("the registry refused `{subject}`: {message}")]
    Refused { subject: String, message: String },
    #[error("schema {id} can't be used: {message}")]
    Unusable { id: u32, message: String },
}

/// Cheap to clone; clones share what was learnt.
#[derive(Clone)]
pub struct Registry {
    url: Arc<str>,
    http: reqwest::Client,
    known: Arc<RwLock<HashMap<u32, Arc<WriterSchema>>>>,
    unknown: Arc<RwLock<HashMap<u32, Instant>>>,
}

impl Registry {
    /// # Errors
    /// When no TLS provider is installed.
    pub fn new(url: &str) -> anyhow::Result<Self> {
        let http = reqwest::Client::builder().timeout(REQUEST_DEADLINE).connect_timeout(CONNECT_DEADLINE).build()?;
        Ok(Self { url: url.trim_end_matches('/').into(), http, known: Arc::default(), unknown: Arc::default() })
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// The schema that an id stands for. Asks once, then answers from memory: an id never changes its meaning.
    ///
    /// # Errors
    /// [`RegistryError::Unreachable`] heals; the others say what is wrong with the id.
    pub async fn by_id(&self, id: u32) -> Result<Arc<WriterSchema>, RegistryError> {
        if let Some(known) = read(&self.known).get(&id) {
            return Ok(known.clone());
        }
        if read(&self.unknown).get(&id).is_some_and(|since| since.elapsed() < UNKNOWN_FOR) {
            return Err(RegistryError::UnknownId(id));
        }
        let answer = self.http.get(format!("{}/schemas/ids/{id}", self.url)).send().await;
        match self.answer::<SchemaAnswer>(answer).await? {
            Ok(answer) => self.learn(id, &answer),
            Err(refusal) if refusal.status == 404 => Err(self.note_unknown(id)),
            Err(refusal) => Err(RegistryError::Unusable { id, message: refusal.message }),
        }
    }

    /// Registers a contract's versions, oldest first, and returns the newest one's schema.
    ///
    /// # Errors
    /// [`RegistryError::Refused`] when it breaks the subject's compatibility.
    pub async fn register(&self, contract: &Contract) -> Result<Arc<WriterSchema>, RegistryError> {
        let subject = contract.subject();
        let url = format!("{}/subjects/{subject}/versions", self.url);
        let mut newest = 0;
        for version in contract.versions() {
            let answer = self.http.post(&url).json(&json!({ "schema": version.text })).send().await;
            newest = match self.answer::<IdAnswer>(answer).await? {
                Ok(answer) => answer.id,
                Err(refusal) => return Err(RegistryError::Refused { subject, message: refusal.message }),
            };
        }
        self.learn(newest, &SchemaAnswer { schema: contract.newest().text.clone(), schema_type: None })
    }

    /// Registers every contract; the schemas to write with, by event type.
    pub async fn register_all(
        &self,
        contracts: &Contracts,
    ) -> Result<BTreeMap<String, Arc<WriterSchema>>, RegistryError> {
        let mut schemas = BTreeMap::new();
        for contract in contracts.iter() {
            schemas.insert(contract.event_type.clone(), self.register(contract).await?);
        }
        Ok(schemas)
    }

    /// The schema to write this contract's newest version with, which `migrate` registered before.
    ///
    /// # Errors
    /// [`RegistryError::Refused`] when the registry does not have it.
    pub async fn writer(&self, contract: &Contract) -> Result<Arc<WriterSchema>, RegistryError> {
        let subject = contract.subject();
        let text = contract.newest().text.clone();
        let url = format!("{}/subjects/{subject}", self.url);
        let answer = self.http.post(url).json(&json!({ "schema": text })).send().await;
        match self.answer::<IdAnswer>(answer).await? {
            Ok(answer) => self.learn(answer.id, &SchemaAnswer { schema: text, schema_type: None }),
            Err(refusal) => {
                let message = format!("{}; `millrace migrate` registers contracts", refusal.message);
                Err(RegistryError::Refused { subject, message })
            }
        }
    }

    /// # Errors
    /// When it does not answer.
    pub async fn reachable(&self) -> Result<(), RegistryError> {
        let answer = self.http.get(format!("{}/subjects", self.url)).send().await;
        self.answer::<serde_json::Value>(answer).await.map(drop)
    }

    fn learn(&self, id: u32, answer: &SchemaAnswer) -> Result<Arc<WriterSchema>, RegistryError> {
        let unusable = |message| RegistryError::Unusable { id, message };
        if let Some(kind) = answer.schema_type.as_deref().filter(|kind| *kind != "AVRO") {
            return Err(unusable(format!("it is {kind}, not Avro")));
        }
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = known.get(&id) {
            return Ok(known.clone());
        }
        let parsed = WriterSchema::parse(id, &answer.schema).map_err(|error| unusable(format!("{error:#}")))?;
        let parsed = Arc::new(parsed);
        known.insert(id, parsed.clone());
        Ok(parsed)
    }

    fn note_unknown(&self, id: u32) -> RegistryError {
        let mut unknown = self.unknown.write().unwrap_or_else(PoisonError::into_inner);
        if unknown.len() >= UNKNOWN_MAX {
            unknown.clear();
        }
        unknown.insert(id, Instant::now());
        RegistryError::UnknownId(id)
    }

    /// A 5xx or no answer is the registry's trouble; any other status is an answer.
    async fn answer<T: serde::de::DeserializeOwned>(
        &self,
        sent: Result<reqwest::Response, reqwest::Error>,
    ) -> Result<Result<T, Refusal>, RegistryError> {
        let unreachable = |error: String| RegistryError::Unreachable(format!("{} {error}", self.url));
        let response = sent.map_err(|error| unreachable(format!("did not answer: {}", causes(&error))))?;
        let status = response.status();
        let body = body(response).await.map_err(|error| unreachable(format!("stopped in mid-answer: {error}")))?;
        if status.is_server_error() || status == 429 {
            return Err(unreachable(format!("answered {status}")));
        }
        if !status.is_success() {
            let refusal: Refusal = serde_json::from_slice(&body).unwrap_or_default();
            return Ok(Err(Refusal { status: status.as_u16(), ..refusal }));
        }
        let parsed = serde_json::from_slice(&body);
        parsed.map(Ok).map_err(|error| unreachable(format!("answered something else than a registry would: {error}")))
    }
}

#[derive(Deserialize)]
struct SchemaAnswer {
    schema: String,
    #[serde(rename = "schemaType")]
    schema_type: Option<String>,
}

#[derive(Deserialize)]
struct IdAnswer {
    id: u32,
}

#[derive(Deserialize, Default)]
struct Refusal {
    #[serde(skip)]
    status: u16,
    #[serde(default)]
    message: String,
}

async fn body(mut response: reqwest::Response) -> Result<Vec<u8>, String> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| causes(&error))? {
        if body.len() + chunk.len() > ANSWER_BYTES_MAX {
            return Err(format!("more than {ANSWER_BYTES_MAX} bytes"));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// reqwest says the useful part last.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

fn read<T>(lock: &RwLock<T>) -> std::sync::RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}
