//! The schema registry: Confluent's HTTP API over Postgres, for Avro. Every client of that registry can use it.
//!
//! Schemas and subjects are only ever added here; it keeps nothing in memory, so any number may serve one database.

mod answer;
mod store;
mod submitted;

use answer::{Answer, Refusal, answer, not_found, too_large};
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Router, http::StatusCode};
use millrace_schemas::compatibility::Mode;
use serde_json::{Value, json};
use sqlx::PgPool;
use std::collections::HashMap;
use store::{Registered, Store, Version};
use submitted::Submitted;

/// What a subject asks of its next version where nobody said anything else.
pub const DEFAULT_LEVEL: Mode = Mode::FullTransitive;
/// A schema larger than this is a mistake.
const BODY_BYTES_MAX: usize = 1 << 20;

/// The registry over a database that `millrace migrate` prepared.
pub fn router(pool: PgPool) -> Router {
    Router::new()
        .route("/", get(async || answer(&json!({}))))
        .route("/subjects", get(subjects))
        .route("/subjects/{subject}", post(look_up))
        .route("/subjects/{subject}/versions", get(versions).post(register))
        .route("/subjects/{subject}/versions/{version}", get(version))
        .route("/subjects/{subject}/versions/{version}/schema", get(version_text))
        .route("/subjects/{subject}/versions/{version}/referencedby", get(async || answer(&json!([]))))
        .route("/schemas/types", get(async || answer(&json!(["AVRO"]))))
        .route("/schemas/ids/{id}", get(schema))
        .route("/schemas/ids/{id}/schema", get(schema_text))
        .route("/schemas/ids/{id}/subjects", get(schema_subjects))
        .route("/schemas/ids/{id}/versions", get(schema_versions))
        .route("/compatibility/subjects/{subject}/versions", post(compatible_with_all))
        .route("/compatibility/subjects/{subject}/versions/{version}", post(compatible_with_one))
        .route("/config", get(default_level).put(set_default_level))
        .route("/config/{subject}", get(level).put(set_level))
        .route("/mode", get(mode))
        .route("/mode/{subject}", get(mode))
        .fallback(async || not_found())
        .method_not_allowed_fallback(async || Refusal::new(StatusCode::METHOD_NOT_ALLOWED, 405, "no such method here"))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(Store::new(pool))
}

type Body = Result<Bytes, BytesRejection>;
/// The query's parameters; unknown ones are passed over, clients send many.
type Asked = HashMap<String, String>;

/// Some clients write `True`.
fn wants(query: &Asked, flag: &str) -> bool {
    query.get(flag).is_some_and(|value| value.eq_ignore_ascii_case("true"))
}

/// Adds a version to a subject; the schema's id, which it already has if it was ever registered anywhere.
async fn register(State(store): State<Store>, Path(subject): Path<String>, body: Body) -> Answer {
    let subject = valid_subject(subject)?;
    let submitted = submitted(body)?;
    let id = store.register(subject, submitted).await?;
    Ok(answer(&json!({ "id": id })))
}

/// Whether a subject has this schema, and as what.
async fn look_up(State(store): State<Store>, Path(subject): Path<String>, body: Body) -> Answer {
    let submitted = submitted(body)?;
    match store.find(&subject, &submitted).await? {
        Some(registered) => Ok(answer(&registered)),
        None => Err(store.missing(&subject, Refusal::no_schema()).await?),
    }
}

async fn subjects(State(store): State<Store>, Query(query): Query<Asked>) -> Answer {
    let prefix = query.get("subjectPrefix").map_or("", String::as_str);
    Ok(answer(&store.subjects(prefix).await?))
}

async fn versions(State(store): State<Store>, Path(subject): Path<String>) -> Answer {
    match store.versions(&subject).await? {
        none if none.is_empty() => Err(Refusal::no_subject(&subject)),
        versions => Ok(answer(&versions)),
    }
}

async fn version(State(store): State<Store>, Path((subject, version)): Path<(String, String)>) -> Answer {
    Ok(answer(&registered(&store, &subject, &version).await?))
}

/// The schema itself, not wrapped into an answer.
async fn version_text(State(store): State<Store>, Path((subject, version)): Path<(String, String)>) -> Answer {
    Ok(answer::raw(registered(&store, &subject, &version).await?.schema))
}

async fn registered(store: &Store, subject: &str, version: &str) -> Result<Registered, Refusal> {
    let version: Version = version.parse()?;
    match store.version(subject, version).await? {
        Some(registered) => Ok(registered),
        None => Err(store.missing(subject, Refusal::no_version(version)).await?),
    }
}

async fn schema(State(store): State<Store>, Path(id): Path<String>, Query(query): Query<Asked>) -> Answer {
    let mut found = json!({ "schema": text(&store, &id).await? });
    if wants(&query, "fetchMaxId") {
        found["maxId"] = store.newest_id().await?.into();
    }
    Ok(answer(&found))
}

async fn schema_text(State(store): State<Store>, Path(id): Path<String>) -> Answer {
    Ok(answer::raw(text(&store, &id).await?))
}

async fn schema_subjects(State(store): State<Store>, Path(id): Path<String>) -> Answer {
    text(&store, &id).await?;
    let subjects = store.users(schema_id(&id)?).await?.into_iter().map(|user| user.subject);
    Ok(answer(&subjects.collect::<Vec<_>>()))
}

async fn schema_versions(State(store): State<Store>, Path(id): Path<String>) -> Answer {
    text(&store, &id).await?;
    Ok(answer(&store.users(schema_id(&id)?).await?))
}

async fn text(store: &Store, id: &str) -> Result<String, Refusal> {
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
    let submitted = submitted(body)?;
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
    let submitted = submitted(body)?;
    let version: Version = version.parse()?;
    let mut earlier = store.earlier(&subject).await?;
    if let Version::Number(number) = version {
        earlier.retain(|registered| registered.version <= number);
        if earlier.last().is_none_or(|newest| newest.version != number) {
            return Err(store.missing(&subject, Refusal::no_version(version)).await?);
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

async fn default_level(State(store): State<Store>) -> Answer {
    Ok(answer(&json!({ "compatibilityLevel": store.default_level().await?.to_string() })))
}

async fn level(State(store): State<Store>, Path(subject): Path<String>, Query(query): Query<Asked>) -> Answer {
    let level = match store.own_level(&subject).await? {
        Some(level) => level,
        None if wants(&query, "defaultToGlobal") => store.default_level().await?,
        None => return Err(Refusal::no_level(&subject)),
    };
    Ok(answer(&json!({ "compatibilityLevel": level.to_string() })))
}

async fn set_default_level(State(store): State<Store>, body: Body) -> Answer {
    let level = submitted_level(body)?;
    store.set_default_level(level).await?;
    Ok(answer(&json!({ "compatibility": level.to_string() })))
}

async fn set_level(State(store): State<Store>, Path(subject): Path<String>, body: Body) -> Answer {
    let subject = valid_subject(subject)?;
    let level = submitted_level(body)?;
    store.set_level(&subject, level).await?;
    Ok(answer(&json!({ "compatibility": level.to_string() })))
}

async fn mode() -> Response {
    answer(&json!({ "mode": "READWRITE" }))
}

fn submitted(body: Body) -> Result<Submitted, Refusal> {
    Submitted::parse(&bytes(body)?)
}

fn submitted_level(body: Body) -> Result<Mode, Refusal> {
    let body: Value = serde_json::from_slice(&bytes(body)?).map_err(|error| Refusal::not_json(&error))?;
    let level = body["compatibility"].as_str().unwrap_or_default();
    level.parse().map_err(|_| Refusal::no_such_level(level))
}

fn bytes(body: Body) -> Result<Bytes, Refusal> {
    body.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => too_large(BODY_BYTES_MAX),
        status => Refusal::new(status, i32::from(status.as_u16()), rejection.body_text()),
    })
}

/// Long enough for every topic and record name; without what no name has and no database takes.
fn valid_subject(subject: String) -> Result<String, Refusal> {
    const SUBJECT_BYTES_MAX: usize = 512;
    match !subject.is_empty() && subject.len() <= SUBJECT_BYTES_MAX && !subject.contains(char::is_control) {
        true => Ok(subject),
        false => Err(Refusal::invalid_subject(&subject)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_are_names_and_versions_count_from_one() {
        assert!(valid_subject("shop.order.v1-shop.order.OrderPlaced".to_owned()).is_ok());
        for wrong in [String::new(), "a\0b".to_owned(), "s".repeat(513)] {
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
