//! The schema registry: Confluent's HTTP API over Postgres, for Avro. Every client of that registry can use it.
//!
//! It keeps nothing in memory, so any number may serve one database. An id never changes its meaning, and keeps it when
//! every version that has it is deleted. Left out: contexts, importing under given ids, JSON Schema and Protobuf.

mod answer;
mod deletion;
mod normal;
mod settings;
mod store;
mod submitted;

use crate::serve::{ANSWER_DEADLINE, Limits, plainly};
use answer::{Answer, Refusal, answer, not_found, too_large};
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{self, DefaultBodyLimit, FromRequestParts, Query, State};
use axum::http::request::Parts;
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Router, http::StatusCode};
use millrace_schemas::compatibility::Mode;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use settings::Access;
use sqlx::PgPool;
use std::collections::HashMap;
use std::time::Duration;
use store::{Deleted, Known, Registered, Store, Version};
use submitted::{Request, Submitted};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// What a subject asks of its next version where nobody said anything else.
pub const DEFAULT_LEVEL: Mode = Mode::FullTransitive;
/// A schema larger than this is a mistake.
const BODY_BYTES_MAX: usize = 1 << 20;

/// Connections at once. Each may hold a body; clients keep one or two for as long as they ask.
const CONNECTIONS_MAX: usize = 256;
const NO_ROOM: &str = "as many connections are open as the registry takes; ask again";
/// From a request's head to its answer: a body over a slow line, and twice what is waited for the database.
const REQUEST_DEADLINE: Duration = Duration::from_secs(10);

/// Serves the registry over a database that `millrace migrate` prepared, until cancelled; then lets what is in hand be
/// answered. False when that took too long.
pub async fn serve(listener: TcpListener, pool: PgPool, stop: CancellationToken) -> bool {
    let limits = Limits { connections: CONNECTIONS_MAX, no_room: NO_ROOM, drain: REQUEST_DEADLINE + ANSWER_DEADLINE };
    plainly(listener, router(pool), limits, stop).await
}

fn router(pool: PgPool) -> Router {
    Router::new()
        .route("/", get(async || answer(&json!({}))))
        .route("/subjects", get(subjects))
        .route("/subjects/{subject}", post(look_up).delete(delete_subject))
        .route("/subjects/{subject}/versions", get(versions).post(register))
        .route("/subjects/{subject}/versions/{version}", get(version).delete(delete_version))
        .route("/subjects/{subject}/versions/{version}/schema", get(version_text))
        .route("/subjects/{subject}/versions/{version}/referencedby", get(referring))
        .route("/schemas", get(schemas))
        .route("/schemas/types", get(async || answer(&json!(["AVRO"]))))
        .route("/schemas/ids/{id}", get(schema))
        .route("/schemas/ids/{id}/schema", get(schema_text))
        .route("/schemas/ids/{id}/subjects", get(schema_subjects))
        .route("/schemas/ids/{id}/versions", get(schema_versions))
        .route("/contexts", get(async || answer(&json!(["."]))))
        .route("/compatibility/subjects/{subject}/versions", post(compatible_with_all))
        .route("/compatibility/subjects/{subject}/versions/{version}", post(compatible_with_one))
        .nest("/config", settings::routes::<Mode>())
        .nest("/mode", settings::routes::<Access>())
        .fallback(async || not_found())
        .method_not_allowed_fallback(async || Refusal::new(StatusCode::METHOD_NOT_ALLOWED, 405, "no such method here"))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(middleware::from_fn(in_time))
        .with_state(Store::new(pool))
}

async fn in_time(request: extract::Request, next: Next) -> Answer {
    let answered = tokio::time::timeout(REQUEST_DEADLINE, next.run(request)).await;
    answered.map_err(|_| Refusal::too_slow(REQUEST_DEADLINE))
}

type Body = Result<Bytes, BytesRejection>;
/// The query's parameters; unknown ones are passed over, clients send many.
type Asked = HashMap<String, String>;

/// Parts of the path. What is wrong with them, such as bytes that are no text, is said as everything is.
struct Path<T>(T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let found = extract::Path::from_request_parts(parts, state).await;
        let refusal = |rejection: extract::rejection::PathRejection| {
            let status = rejection.status();
            Refusal::new(status, status.as_u16().into(), rejection.body_text())
        };
        found.map(|extract::Path(found)| Self(found)).map_err(refusal)
    }
}

/// Some clients write `True`.
fn wants(query: &Asked, flag: &str) -> bool {
    query.get(flag).is_some_and(|value| value.eq_ignore_ascii_case("true"))
}

fn deleted(query: &Asked) -> Deleted {
    match (wants(query, "deletedOnly"), wants(query, "deleted")) {
        (true, _) => Deleted::Only,
        (false, true) => Deleted::With,
        (false, false) => Deleted::Without,
    }
}

/// The part of a list that was asked for: `offset`, and `limit` where it isn't negative.
fn page<T: Serialize>(query: &Asked, list: Vec<T>) -> Response {
    let number = |name| query.get(name).and_then(|text| text.parse().ok());
    let list = list.into_iter().skip(number("offset").unwrap_or(0));
    answer(&list.take(number("limit").unwrap_or(usize::MAX)).collect::<Vec<_>>())
}

/// Adds a version to a subject; the schema's id, which it already has if it was ever registered anywhere.
async fn register(
    State(store): State<Store>,
    Path(subject): Path<String>,
    Query(query): Query<Asked>,
    body: Body,
) -> Answer {
    let subject = valid_subject(subject)?;
    let submitted = submitted(&store, &query, body).await?;
    let id = store.register(subject, submitted).await?;
    Ok(answer(&json!({ "id": id })))
}

/// Whether a subject has this schema, and as what.
async fn look_up(
    State(store): State<Store>,
    Path(subject): Path<String>,
    Query(query): Query<Asked>,
    body: Body,
) -> Answer {
    let submitted = submitted(&store, &query, body).await?;
    match store.find(&subject, &submitted, deleted(&query)).await? {
        Some(registered) => Ok(answer(&registered)),
        None => Err(store.missing(&subject, deleted(&query), Refusal::no_schema()).await?),
    }
}

async fn delete_subject(State(store): State<Store>, Path(subject): Path<String>, Query(query): Query<Asked>) -> Answer {
    Ok(answer(&store.delete_subject(subject, wants(&query, "permanent")).await?))
}

async fn delete_version(
    State(store): State<Store>,
    Path((subject, version)): Path<(String, String)>,
    Query(query): Query<Asked>,
) -> Answer {
    Ok(answer(&store.delete_version(subject, version.parse()?, wants(&query, "permanent")).await?))
}

async fn subjects(State(store): State<Store>, Query(query): Query<Asked>) -> Answer {
    let prefix = query.get("subjectPrefix").map_or("", String::as_str);
    Ok(page(&query, store.subjects(prefix, deleted(&query)).await?))
}

async fn versions(State(store): State<Store>, Path(subject): Path<String>, Query(query): Query<Asked>) -> Answer {
    match store.versions(&subject, deleted(&query)).await? {
        none if none.is_empty() => Err(Refusal::no_subject(&subject)),
        versions => Ok(page(&query, versions)),
    }
}

async fn version(
    State(store): State<Store>,
    Path((subject, version)): Path<(String, String)>,
    Query(query): Query<Asked>,
) -> Answer {
    Ok(answer(&registered(&store, &subject, &version, deleted(&query)).await?))
}

/// The schema itself, not wrapped into an answer.
async fn version_text(
    State(store): State<Store>,
    Path((subject, version)): Path<(String, String)>,
    Query(query): Query<Asked>,
) -> Answer {
    Ok(answer::raw(registered(&store, &subject, &version, deleted(&query)).await?.schema))
}

async fn referring(State(store): State<Store>, Path((subject, version)): Path<(String, String)>) -> Answer {
    let registered = registered(&store, &subject, &version, Deleted::With).await?;
    Ok(answer(&store.referring(&subject, registered.version).await?))
}

async fn registered(store: &Store, subject: &str, version: &str, deleted: Deleted) -> Result<Registered, Refusal> {
    let version: Version = version.parse()?;
    match store.version(subject, version, deleted).await? {
        Some(registered) => Ok(registered),
        None => Err(store.missing(subject, deleted, Refusal::no_version(version)).await?),
    }
}

/// Every version of every subject, or the newest of each.
async fn schemas(State(store): State<Store>, Query(query): Query<Asked>) -> Answer {
    let prefix = query.get("subjectPrefix").map_or("", String::as_str);
    let mut all = store.all(prefix, deleted(&query)).await?;
    if wants(&query, "latestOnly") {
        all.reverse();
        all.dedup_by(|older, newer| older.subject == newer.subject);
        all.reverse();
    }
    Ok(page(&query, all))
}

async fn schema(State(store): State<Store>, Path(id): Path<String>, Query(query): Query<Asked>) -> Answer {
    let Known { schema, references, resolved } = known(&store, &id).await?;
    let mut found = match query.get("format").map(String::as_str) {
        Some("resolved") => json!({ "schema": resolved.unwrap_or(schema) }),
        _ if references.is_empty() => json!({ "schema": schema }),
        _ => json!({ "schema": schema, "references": references }),
    };
    if wants(&query, "fetchMaxId") {
        found["maxId"] = store.newest_id().await?.into();
    }
    Ok(answer(&found))
}

async fn schema_text(State(store): State<Store>, Path(id): Path<String>) -> Answer {
    Ok(answer::raw(known(&store, &id).await?.schema))
}

async fn schema_subjects(State(store): State<Store>, Path(id): Path<String>, Query(query): Query<Asked>) -> Answer {
    known(&store, &id).await?;
    let mut subjects: Vec<_> =
        store.users(schema_id(&id)?, deleted(&query)).await?.into_iter().map(|user| user.subject).collect();
    subjects.dedup();
    Ok(page(&query, subjects))
}

async fn schema_versions(State(store): State<Store>, Path(id): Path<String>, Query(query): Query<Asked>) -> Answer {
    known(&store, &id).await?;
    Ok(page(&query, store.users(schema_id(&id)?, deleted(&query)).await?))
}

async fn known(store: &Store, id: &str) -> Result<Known, Refusal> {
    store.schema(schema_id(id)?).await?.ok_or_else(|| Refusal::no_id(id))
}

/// What is no number is no schema's id either.
fn schema_id(id: &str) -> Result<i32, Refusal> {
    id.parse().map_err(|_| Refusal::no_id(id))
}

/// As registering would answer.
async fn compatible_with_all(
    State(store): State<Store>,
    Path(subject): Path<String>,
    Query(query): Query<Asked>,
    body: Body,
) -> Answer {
    let submitted = submitted(&store, &query, body).await?;
    let level = store.level(&subject).await?;
    let earlier = store.earlier(&subject).await?;
    Ok(compatibility(&query, &submitted.incompatible(level, &earlier)?))
}

/// With one version only. A subject without versions asks nothing of its first.
async fn compatible_with_one(
    State(store): State<Store>,
    Path((subject, version)): Path<(String, String)>,
    Query(query): Query<Asked>,
    body: Body,
) -> Answer {
    let submitted = submitted(&store, &query, body).await?;
    let version: Version = version.parse()?;
    let mut earlier = store.earlier(&subject).await?;
    if let Version::Number(number) = version {
        earlier.retain(|registered| registered.version <= number);
        if earlier.last().is_none_or(|newest| newest.version != number) {
            return Err(store.missing(&subject, Deleted::Without, Refusal::no_version(version)).await?);
        }
    }
    let level = with_the_last(store.level(&subject).await?);
    Ok(compatibility(&query, &submitted.incompatible(level, &earlier)?))
}

fn with_the_last(level: Mode) -> Mode {
    match level {
        Mode::BackwardTransitive => Mode::Backward,
        Mode::ForwardTransitive => Mode::Forward,
        Mode::FullTransitive => Mode::Full,
        level => level,
    }
}

fn compatibility(query: &Asked, messages: &[String]) -> Response {
    let compatible = messages.is_empty();
    match wants(query, "verbose") {
        true => answer(&json!({ "is_compatible": compatible, "messages": messages })),
        false => answer(&json!({ "is_compatible": compatible })),
    }
}

async fn submitted(store: &Store, query: &Asked, body: Body) -> Result<Submitted, Refusal> {
    let request = Request::parse(&bytes(body)?)?;
    store.read(request, wants(query, "normalize")).await
}

fn bytes(body: Body) -> Result<Bytes, Refusal> {
    body.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => too_large(BODY_BYTES_MAX),
        status => Refusal::new(status, i32::from(status.as_u16()), rejection.body_text()),
    })
}

/// The first of these members that says something. Clients leave out what says nothing, or write it as null, or empty.
fn said<'n>(body: &Value, names: &[&'n str]) -> Option<&'n str> {
    let says_nothing = |value: &Value| match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(members) => members.is_empty(),
        Value::Bool(true) | Value::Number(_) => false,
    };
    names.iter().copied().find(|name| body.get(name).is_some_and(|value| !says_nothing(value)))
}

/// Long enough for every topic and record name; without what no name has and no database takes. `:.` begins the name of
/// a context.
fn valid_subject(subject: String) -> Result<String, Refusal> {
    const SUBJECT_BYTES_MAX: usize = 512;
    let is_context = subject.starts_with(":.");
    let is_name = !subject.is_empty() && subject.len() <= SUBJECT_BYTES_MAX && !subject.contains(char::is_control);
    match is_name && !is_context {
        true => Ok(subject),
        false => Err(Refusal::invalid_subject(&subject)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_come_is_given_up_in_time() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let head = "POST /subjects/a/versions HTTP/1.1\r\nhost: it\r\ncontent-length: 1000\r\n\r\n{";
        client.write_all(head.as_bytes()).await.unwrap();
        let nobody = PgPool::connect_lazy("postgres://127.0.0.1:1").unwrap();
        let (since, stop) = (tokio::time::Instant::now(), CancellationToken::new());
        let serving = tokio::spawn(serve(listener, nobody, stop.clone()));
        let mut heard = String::new();
        client.read_to_string(&mut heard).await.unwrap();
        assert!(heard.starts_with("HTTP/1.1 503 ") && heard.contains(r#""error_code":50002"#), "{heard}");
        assert!(since.elapsed() < REQUEST_DEADLINE * 2, "{:?}", since.elapsed());
        stop.cancel();
        assert!(serving.await.unwrap());
    }

    #[test]
    fn subjects_are_names_and_versions_count_from_one() {
        assert!(valid_subject("shop.order.v1-shop.order.OrderPlaced".to_owned()).is_ok());
        for wrong in [String::new(), "a\0b".to_owned(), "s".repeat(513), ":.other:a".to_owned()] {
            assert!(valid_subject(wrong).is_err());
        }
        for latest in ["latest", "-1"] {
            assert_eq!(latest.parse::<Version>().unwrap(), Version::Latest);
        }
        for wrong in ["0", "-2", "newest", "4294967296", ""] {
            assert!(wrong.parse::<Version>().is_err(), "{wrong}");
        }
    }
}
