//! The client of a Confluent-compatible schema registry: ids to schemas and back, asked once each.

mod compare;
mod kept;

use crate::{Contract, Contracts, Version, WriterSchema, with_references};
use anyhow::Context;
use kept::Kept;
use reqwest::StatusCode;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::json;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

/// A registry answers from memory; slower than this means it is down.
const REQUEST_DEADLINE: Duration = Duration::from_secs(5);
const CONNECT_DEADLINE: Duration = Duration::from_secs(2);
/// How long a registry that did not answer is taken to be away: what was kept on disk answers at once meanwhile, or each
/// schema would wait for it anew.
const AWAY_FOR: Duration = Duration::from_secs(5);
/// How long an unknown id stays unknown: a storm of garbage must not become a storm of requests.
const UNKNOWN_FOR: Duration = Duration::from_secs(5);
/// Unknown ids remembered at once; a garbage stream could invent four billion.
const UNKNOWN_MAX: usize = 10_000;
/// Ids that it gave out, of which it must have one to be believed.
const GIVEN_OUT_ASKED: usize = 3;
const STILL_SILENT: &str = "did not answer a moment ago";
/// A schema larger than this is a mistake.
const ANSWER_BYTES_MAX: usize = 4 << 20;
/// References of one schema, with theirs: more than any has, each is a request.
const REFERENCES_MAX: usize = 100;
/// "Schema not found" in Confluent's API. A 404 without it came from something else at that address.
const NO_SUCH_ID: i64 = 40403;
const NO_SUCH_SUBJECT: i64 = 40401;
const NO_SUCH_VERSION: i64 = 40402;

#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// Try again: nothing is wrong with the record. Also where the address or the login is wrong.
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
    /// Without the login: it is shown, and published with every event.
    url: Arc<str>,
    /// The same with the login, of which the HTTP client makes basic auth.
    base: Arc<str>,
    http: reqwest::Client,
    known: Arc<RwLock<HashMap<u32, Arc<WriterSchema>>>>,
    unknown: Arc<RwLock<HashMap<u32, Instant>>>,
    /// For the time when the registry is away.
    kept: Option<Arc<Kept>>,
    heard: Arc<RwLock<Heard>>,
}

/// When the registry last answered, and when last it did not and had not since.
#[derive(Default)]
struct Heard {
    whole: Option<tokio::time::Instant>,
    silent: Option<tokio::time::Instant>,
}

impl Heard {
    /// A request that was given up says nothing against an answer that came while it waited.
    fn note(&mut self, is_whole: bool) {
        let now = tokio::time::Instant::now();
        if is_whole {
            *self = Self { whole: Some(now), silent: None };
        } else if self.whole.is_none_or(|whole| now - whole >= REQUEST_DEADLINE) {
            self.silent = Some(now);
        }
    }
}

impl Registry {
    /// A login within the URL is for asking, and never shown.
    ///
    /// # Errors
    /// When it is no URL, or no TLS provider is installed.
    pub fn new(url: &str) -> anyhow::Result<Self> {
        let http = reqwest::Client::builder().timeout(REQUEST_DEADLINE).connect_timeout(CONNECT_DEADLINE).build()?;
        let (url, base) = (with_login(url, "", None)?, url.trim_end_matches('/').into());
        let (known, unknown, heard) = (Arc::default(), Arc::default(), Arc::default());
        Ok(Self { url, base, http, known, unknown, kept: None, heard })
    }

    /// Keeps what it learns beneath this directory, and takes it from there while the registry does not answer.
    #[must_use]
    pub fn kept_in(self, directory: &Path) -> Self {
        Self { kept: Some(Arc::new(Kept::of(&self.url, directory))), ..self }
    }

    /// Asks as this user, whatever the URL said.
    ///
    /// # Errors
    /// When the URL can have no login.
    pub fn with_login(self, user: &str, password: Option<&str>) -> anyhow::Result<Self> {
        Ok(Self { base: with_login(&self.url, user, password)?, ..self })
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// The schema that an id stands for. Asks once, then answers from memory: an id never changes its meaning. While
    /// the registry is away, what was kept on disk answers.
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
        let kept = || self.kept.as_deref()?.schema(id);
        if let Some(schema) = self.is_silent().then(kept).flatten() {
            return self.recall(id, schema, &self.unreachable(STILL_SILENT));
        }
        let mut answer = self.ask_for(id).await;
        if matches!(answer, Err(RegistryError::UnknownId(_))) {
            answer = match self.is_itself().await {
                Ok(()) => self.ask_for(id).await, // it may have become so since it was asked
                Err(not_yet) => Err(not_yet),
            };
        }
        match answer {
            Ok(answer) => self.learn(id, &answer),
            Err(RegistryError::UnknownId(_)) => Err(self.note_unknown(id)),
            Err(away) => match kept() {
                Some(schema) => self.recall(id, schema, &away),
                None => Err(away),
            },
        }
    }

    /// Before it is believed that an id is unknown. One that has only just come up may answer before it has read what it
    /// has, and so may a follower that lags: it denies ids that it gave out before, or has no subject at all.
    async fn is_itself(&self) -> Result<(), RegistryError> {
        let given_out = self.given_out();
        if given_out.is_empty() {
            let has_any = self.subjects().await?.is_some_and(|subjects| !subjects.is_empty());
            return if has_any { Ok(()) } else { Err(self.unreachable("has no subject yet")) };
        }
        for id in &given_out {
            if self.has(*id).await? {
                return Ok(());
            } // some may be deleted for good
        }
        Err(self.unreachable(format!("denies schema {}, which it had", given_out[0])))
    }

    async fn has(&self, id: u32) -> Result<bool, RegistryError> {
        let answer = self.get(&format!("/schemas/ids/{id}")).send().await;
        match self.answer::<IgnoredAny>(answer).await? {
            Ok(_) => Ok(true),
            Err(Refusal { status: StatusCode::NOT_FOUND, error_code: NO_SUCH_ID, .. }) => Ok(false),
            Err(refusal) => Err(self.unreachable(refusal.answered())),
        }
    }

    /// Some of the ids that it is known to have had: the last of those that this process met, which are read last; or the
    /// first of those on disk, which one that was made anew has soonest.
    fn given_out(&self) -> Vec<u32> {
        let mut ids: Vec<u32> = read(&self.known).keys().copied().collect();
        ids.sort_unstable_by(|one, other| other.cmp(one));
        if ids.is_empty() {
            ids.extend(self.kept.iter().flat_map(|kept| kept.ids()));
            ids.sort_unstable();
        }
        ids.truncate(GIVEN_OUT_ASKED);
        ids
    }

    fn is_silent(&self) -> bool {
        read(&self.heard).silent.is_some_and(|since| since.elapsed() < AWAY_FOR)
    }

    async fn ask_for(&self, id: u32) -> Result<SchemaAnswer, RegistryError> {
        let answer = self.get(&format!("/schemas/ids/{id}")).send().await;
        let answer = self.answer::<SchemaAnswer>(answer).await?.map_err(|refusal| match refusal {
            Refusal { status: StatusCode::NOT_FOUND, error_code: NO_SUCH_ID, .. } => RegistryError::UnknownId(id),
            // A wrong address, a proxy, a login that ran out: it says nothing about the id.
            refusal => self.unreachable(refusal.answered()),
        })?;
        self.complete(id, answer, &mut 0).await
    }

    /// With what it refers to in it.
    async fn complete(
        &self,
        id: u32,
        mut answer: SchemaAnswer,
        asked_for: &mut usize,
    ) -> Result<SchemaAnswer, RegistryError> {
        let unusable = |message: String| RegistryError::Unusable { id, message };
        let references = answer.references.take().unwrap_or_default();
        if references.is_empty() {
            return Ok(answer);
        }
        let mut referenced = Vec::new();
        for Reference { name, subject, version } in references {
            *asked_for += 1;
            if *asked_for > REFERENCES_MAX {
                return Err(unusable(format!("it refers to more than {REFERENCES_MAX} others")));
            }
            let found = self.get(&format!("/subjects/{subject}/versions/{version}?deleted=true")).send().await;
            let found = self.answer::<SchemaAnswer>(found).await?;
            let found = found.map_err(|refusal| match refusal {
                // It will not come back by waiting.
                Refusal { status: StatusCode::NOT_FOUND, error_code: NO_SUCH_SUBJECT | NO_SUCH_VERSION, .. } => {
                    unusable(format!("it refers to {subject} version {version}, which the registry does not have"))
                }
                refusal => self.unreachable(refusal.answered()),
            })?;
            referenced.push((name, Box::pin(self.complete(id, found, asked_for)).await?.schema));
        }
        let schema = with_references(&answer.schema, &referenced).map_err(|error| unusable(error.to_string()))?;
        Ok(SchemaAnswer::avro(schema))
    }

    /// Registers a contract's versions, oldest first, and returns the newest one's schema.
    ///
    /// # Errors
    /// [`RegistryError::Refused`] when it breaks the subject's compatibility.
    pub async fn register(&self, contract: &Contract) -> Result<Arc<WriterSchema>, RegistryError> {
        let subject = contract.subject();
        let path = format!("/subjects/{subject}/versions");
        let mut newest = 0;
        for version in contract.versions() {
            let answer = self.post(&path).json(&json!({ "schema": version.text })).send().await;
            newest = match self.answer::<IdAnswer>(answer).await? {
                Ok(answer) => answer.id,
                Err(refusal) => return Err(refusal.of_subject(subject, "")),
            };
        }
        self.learn(newest, &SchemaAnswer::avro(contract.newest().text.clone()))
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
        self.version_writer(contract, contract.newest()).await
    }

    /// The schema to write an earlier version with, or the newest.
    ///
    /// # Errors
    /// [`RegistryError::Refused`] when the registry does not have it.
    pub async fn version_writer(
        &self,
        contract: &Contract,
        version: &Version,
    ) -> Result<Arc<WriterSchema>, RegistryError> {
        let subject = contract.subject();
        let text = version.text.clone();
        let kept = || self.kept.as_deref()?.id_of(&text);
        if let Some(id) = self.is_silent().then(kept).flatten() {
            return self.recall(id, text, &self.unreachable(STILL_SILENT));
        }
        let answer = self.post(&format!("/subjects/{subject}")).json(&json!({ "schema": text })).send().await;
        match self.answer::<IdAnswer>(answer).await {
            Ok(Ok(answer)) => self.learn(answer.id, &SchemaAnswer::avro(text)),
            Ok(Err(refusal)) => Err(refusal.of_subject(subject, "; `millrace migrate` registers contracts")),
            Err(away) => match kept() {
                Some(id) => self.recall(id, text, &away),
                None => Err(away),
            },
        }
    }

    /// Whether a role can begin: the registry answers, or what it said before is there.
    ///
    /// # Errors
    /// As [`Self::reachable`].
    pub async fn usable(&self) -> Result<(), RegistryError> {
        match self.reachable().await {
            Err(_) if self.kept.as_deref().is_some_and(|kept| !kept.is_empty()) => Ok(()),
            answer => answer,
        }
    }

    /// # Errors
    /// When it does not answer, not to us, or not as a registry does.
    pub async fn reachable(&self) -> Result<(), RegistryError> {
        self.subjects().await.map(drop)
    }

    /// Some registries write null for none.
    async fn subjects(&self) -> Result<Option<Vec<String>>, RegistryError> {
        let answer = self.get("/subjects").send().await;
        let subjects = self.answer::<Option<Vec<String>>>(answer).await?;
        subjects.map_err(|refusal| self.unreachable(refusal.answered()))
    }

    fn get(&self, path: &str) -> reqwest::RequestBuilder {
        self.http.get(format!("{}{path}", self.base))
    }

    fn post(&self, path: &str) -> reqwest::RequestBuilder {
        self.http.post(format!("{}{path}", self.base))
    }

    fn unreachable(&self, what: impl std::fmt::Display) -> RegistryError {
        RegistryError::Unreachable(format!("{} {what}", self.url))
    }

    fn recall(&self, id: u32, schema: String, away: &RegistryError) -> Result<Arc<WriterSchema>, RegistryError> {
        tracing::warn!("schema {id} comes from the disk, where it was kept: {away}");
        self.learn(id, &SchemaAnswer::avro(schema))
    }

    fn learn(&self, id: u32, answer: &SchemaAnswer) -> Result<Arc<WriterSchema>, RegistryError> {
        let unusable = |message| RegistryError::Unusable { id, message };
        if let Some(kind) = answer.schema_type.as_deref().filter(|kind| *kind != "AVRO") {
            return Err(unusable(format!("it is {kind}, not Avro")));
        }
        let parsed = {
            let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
            if let Some(known) = known.get(&id) {
                return Ok(known.clone());
            }
            let parsed = WriterSchema::parse(id, &answer.schema).map_err(|error| unusable(format!("{error:#}")))?;
            known.entry(id).or_insert(Arc::new(parsed)).clone()
        };
        if let Some(Err(error)) = self.kept.as_deref().map(|kept| kept.keep(id, &answer.schema)) {
            tracing::warn!("schema {id} is not kept on disk (`registry.cache`): {error}");
        }
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
        let answered = match sent {
            Ok(response) => Ok((response.status(), body(response).await)),
            Err(error) => Err(self.unreachable(format!("did not answer: {:#}", anyhow::Error::from(error)))),
        };
        let is_whole = matches!(answered, Ok((_, Ok(_))));
        self.heard.write().unwrap_or_else(PoisonError::into_inner).note(is_whole);
        let (status, body) = answered?;
        let body = body.map_err(|error| self.unreachable(format!("stopped in mid-answer: {error}")))?;
        if status.is_server_error() || status == 429 {
            return Err(self.unreachable(format!("answered {status}")));
        }
        if !status.is_success() {
            return Ok(Err(Refusal::of(status, &body)));
        }
        let parsed = serde_json::from_slice(&body);
        parsed
            .map(Ok)
            .map_err(|error| self.unreachable(format!("answered something else than a registry would: {error}")))
    }
}

#[derive(Deserialize)]
struct SchemaAnswer {
    schema: String,
    #[serde(rename = "schemaType")]
    schema_type: Option<String>,
    /// Some registries write null for none.
    references: Option<Vec<Reference>>,
}

impl SchemaAnswer {
    fn avro(schema: String) -> Self {
        Self { schema, schema_type: None, references: None }
    }
}

/// A name that a schema uses, and the version that defines it.
#[derive(Deserialize)]
struct Reference {
    name: String,
    subject: String,
    version: u32,
}

#[derive(Deserialize)]
struct IdAnswer {
    id: u32,
}

/// A 4xx, with what a registry would say in it.
#[derive(Deserialize, Default)]
struct Refusal {
    #[serde(skip)]
    status: StatusCode,
    #[serde(default)]
    error_code: i64,
    #[serde(default)]
    message: String,
}

impl Refusal {
    fn of(status: StatusCode, body: &[u8]) -> Self {
        Self { status, ..serde_json::from_slice(body).unwrap_or_default() }
    }

    fn answered(&self) -> String {
        let Self { status, message, .. } = self;
        let message = if message.is_empty() { "and nothing that a registry would say" } else { message };
        format!("answered {status}: {message}")
    }

    /// The subject and the schema reached a registry, which said no.
    fn of_subject(self, subject: String, hint: &str) -> RegistryError {
        RegistryError::Refused { subject, message: format!("{}{hint}", self.answered()) }
    }
}

/// The URL with this login in the place of its own.
fn with_login(url: &str, user: &str, password: Option<&str>) -> anyhow::Result<Arc<str>> {
    let mut url = reqwest::Url::parse(url).context("the schema registry's URL")?;
    let changed = url.set_username(user).and_then(|()| url.set_password(password));
    changed.map_err(|()| anyhow::anyhow!("the schema registry's URL can have no login"))?;
    Ok(url.as_str().trim_end_matches('/').into())
}

/// An error's text is its whole chain: reqwest says the useful part last.
async fn body(mut response: reqwest::Response) -> Result<Vec<u8>, String> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| format!("{:#}", anyhow::Error::from(error)))? {
        if body.len() + chunk.len() > ANSWER_BYTES_MAX {
            return Err(format!("more than {ANSWER_BYTES_MAX} bytes"));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

fn read<T>(lock: &RwLock<T>) -> std::sync::RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    /// Something that answers every request so; its address, and the last request's head.
    async fn answering(status: &'static str, body: &'static str) -> (String, Arc<RwLock<String>>) {
        answering_by(move |_| (status, body)).await
    }

    /// By a request's head.
    async fn answering_by(
        answer: impl Fn(&str) -> (&'static str, &'static str) + Send + 'static,
    ) -> (String, Arc<RwLock<String>>) {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let (listener, asked) = (TcpListener::bind("127.0.0.1:0").await.unwrap(), Arc::<RwLock<String>>::default());
        let (address, note) = (listener.local_addr().unwrap().to_string(), asked.clone());
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let mut head = vec![0; 4096];
                let read = socket.read(&mut head).await.unwrap();
                let head = String::from_utf8_lossy(&head[..read]).into_owned();
                let (status, body) = answer(&head);
                *note.write().unwrap() = head;
                let length = body.len();
                let answer =
                    format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}");
                socket.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        (address, asked)
    }

    async fn by_id(status: &'static str, body: &'static str) -> RegistryError {
        let (address, _) = answering(status, body).await;
        Registry::new(&format!("http://{address}")).unwrap().by_id(7).await.unwrap_err()
    }

    #[tokio::test]
    async fn an_id_is_unknown_only_where_a_registry_says_so() {
        let others = [
            ("404 Not Found", "no such page"),
            ("404 Not Found", r#"{"error_code": 404, "message": "HTTP 404 Not Found"}"#),
            ("401 Unauthorized", r#"{"error_code": 401, "message": "Unauthorized"}"#),
            ("403 Forbidden", ""),
        ];
        for (status, body) in others {
            let error = by_id(status, body).await;
            assert!(matches!(error, RegistryError::Unreachable(_)), "{status} {body}: {error}");
            assert!(error.to_string().contains(&format!(" answered {status}: ")), "{error}");
        }
    }

    const UNKNOWN: (&str, &str) = ("404 Not Found", r#"{"error_code": 40403, "message": "Schema not found"}"#);
    const OTHER: &str = r#"{"schema": "{\"type\": \"record\", \"name\": \"R\", \"fields\": []}"}"#;

    #[tokio::test]
    async fn one_that_denies_what_it_had_is_not_believed_that_it_has_nothing_else() {
        let subjects = async |subjects: &'static str| {
            let all = move |head: &str| if head.contains("/subjects") { ("200 OK", subjects) } else { UNKNOWN };
            let (address, _) = answering_by(all).await;
            Registry::new(&format!("http://{address}")).unwrap().by_id(7).await.unwrap_err()
        };
        assert!(matches!(subjects(r#"["a"]"#).await, RegistryError::UnknownId(7)));
        for none in ["[]", "null"] {
            let error = subjects(none).await;
            assert!(matches!(error, RegistryError::Unreachable(_)), "{none}: {error}");
        }

        let directory = tempfile::tempdir().unwrap();
        let is_ready = Arc::<RwLock<bool>>::default();
        let ready = is_ready.clone();
        let (address, _) = answering_by(move |head| match head {
            head if *read(&ready) && head.contains("/ids/7 ") => ("200 OK", OTHER),
            _ => UNKNOWN,
        })
        .await;
        let registry = || Registry::new(&format!("http://{address}")).unwrap().kept_in(directory.path());
        *is_ready.write().unwrap() = true;
        let before = registry();
        before.by_id(7).await.unwrap();
        assert!(matches!(before.by_id(8).await, Err(RegistryError::UnknownId(8))));
        *is_ready.write().unwrap() = false;
        for registry in [before, registry()] {
            let error = registry.by_id(9).await.unwrap_err();
            assert!(matches!(error, RegistryError::Unreachable(_)), "{error}");
            assert!(error.to_string().ends_with("denies schema 7, which it had"), "{error}");
        }
        registry().by_id(7).await.unwrap(); // from the disk
    }

    #[tokio::test]
    async fn while_it_is_away_what_was_kept_answers_and_its_word_counts_when_it_is_there() {
        let directory = tempfile::tempdir().unwrap();
        let contract = Contracts::embedded().unwrap().get("order.placed").unwrap().clone();
        let schema = json!({ "schema": contract.newest().text, "id": 7 }).to_string().leak();
        let (address, _) = answering("200 OK", schema).await;
        let there = Registry::new(&format!("http://{address}")).unwrap().kept_in(directory.path());
        there.by_id(7).await.unwrap();

        let again = || Registry::new(&format!("http://{address}")).unwrap().kept_in(directory.path());
        let away = Registry { base: "http://127.0.0.1:1".into(), ..again() };
        assert!(away.reachable().await.is_err());
        away.usable().await.unwrap();
        assert_eq!(away.by_id(7).await.unwrap().fullname, "shop.order.OrderPlaced");
        assert_eq!(away.writer(&contract).await.unwrap().id, 7);
        assert!(matches!(away.by_id(8).await, Err(RegistryError::Unreachable(_))));

        let (address, _) =
            answering_by(|head| if head.contains("/ids/8 ") { ("200 OK", OTHER) } else { UNKNOWN }).await;
        let anew = Registry { base: format!("http://{address}").into(), ..again() };
        anew.by_id(8).await.unwrap();
        assert!(matches!(anew.by_id(7).await, Err(RegistryError::UnknownId(7))));
        let elsewhere = Registry::new("http://127.0.0.1:1").unwrap().kept_in(directory.path());
        assert!(elsewhere.usable().await.is_err() && elsewhere.by_id(7).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_takes_requests_and_never_answers_is_waited_for_once_and_not_by_each_contract() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let (directory, silent) = (tempfile::tempdir().unwrap(), TcpListener::bind("127.0.0.1:0").await.unwrap());
        let url = format!("http://{}", silent.local_addr().unwrap());
        let contracts = Contracts::embedded().unwrap();
        let versions: Vec<_> =
            contracts.iter().flat_map(|contract| contract.versions().iter().map(move |it| (contract, it))).collect();
        let kept = Kept::of(&url, directory.path());
        for (id, (_, version)) in (1..).zip(&versions) {
            kept.keep(id, &version.text).unwrap();
        }
        let registry = Registry::new(&url).unwrap().kept_in(directory.path());
        let since = tokio::time::Instant::now();
        for (id, (contract, version)) in (1..).zip(&versions) {
            assert_eq!(registry.version_writer(contract, version).await.unwrap().id, id);
        }
        let again = Registry { known: Arc::default(), ..registry.clone() };
        for id in 1..=u32::try_from(versions.len()).unwrap() {
            again.by_id(id).await.unwrap();
        }
        assert!(since.elapsed() < 2 * REQUEST_DEADLINE, "{} schemas took {:?}", versions.len(), since.elapsed());
        assert!(matches!(registry.by_id(1000).await, Err(RegistryError::Unreachable(_))), "which nobody kept");
    }

    #[tokio::test]
    async fn only_what_answers_as_a_registry_does_is_one() {
        let reachable = async |status, body| {
            let (address, _) = answering(status, body).await;
            Registry::new(&format!("http://{address}")).unwrap().reachable().await
        };
        assert!(reachable("200 OK", r#"["shop.order.v1-a.B"]"#).await.is_ok());
        for (status, body) in [("404 Not Found", "[]"), ("401 Unauthorized", "[]"), ("200 OK", r#"{"it": "works"}"#)] {
            let error = reachable(status, body).await.unwrap_err();
            assert!(matches!(error, RegistryError::Unreachable(_)), "{status} {body}: {error}");
        }
    }

    #[tokio::test]
    async fn a_login_is_sent_and_never_shown() {
        let (address, asked) = answering("401 Unauthorized", "").await;
        let registry = Registry::new(&format!("http://anna:s%40same@{address}/")).unwrap();
        let error = registry.reachable().await.unwrap_err().to_string();
        assert_eq!(registry.url(), format!("http://{address}"));
        assert!(asked.read().unwrap().contains("Basic YW5uYTpzQHNhbWU="), "{}", asked.read().unwrap()); // anna:s@same
        let registry = registry.with_login("bert", Some("s/same")).unwrap();
        let error = format!("{error} {}", registry.reachable().await.unwrap_err());
        assert!(asked.read().unwrap().contains("Basic YmVydDpzL3NhbWU="), "{}", asked.read().unwrap()); // bert:s/same
        assert!(!error.contains("same"), "{error}");
    }

    #[tokio::test]
    async fn a_registry_that_is_away_is_named_without_its_password() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let away = Registry::new("http://anna:sesame@127.0.0.1:1").unwrap();
        let error = away.reachable().await.unwrap_err().to_string();
        assert!(error.contains("http://127.0.0.1:1") && !error.contains("sesame"), "{error}");
    }
}
