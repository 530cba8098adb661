//! `GET /v1/contracts`: what may be published, for people and programs that hold a key or a token.

use super::Shared;
use super::answer::Problem;
use axum::Json;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use millrace_schemas::Contract;
use serde_json::{Value, json};
use std::sync::Arc;

pub(super) async fn list(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Result<Json<Value>, Problem> {
    shared.principal(&headers).await?;
    let contracts: Vec<Value> = shared.routes.contracts.iter().map(|contract| summary(contract)).collect();
    Ok(Json(json!({ "contracts": contracts })))
}

pub(super) async fn one(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    Path(event_type): Path<String>,
) -> Result<Json<Value>, Problem> {
    shared.principal(&headers).await?;
    let contract = find(&shared, &event_type)?;
    let mut found = summary(&contract);
    let numbers: Vec<u32> = contract.versions().iter().map(|version| version.number).collect();
    found["versions"] = json!(numbers);
    found["schema"] = serde_json::from_str(&contract.newest().text).unwrap_or(Value::Null); // contracts are JSON
    found["example"] = contract.example.clone();
    Ok(Json(found))
}

/// The file itself.
pub(super) async fn version(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    Path((event_type, number)): Path<(String, String)>,
) -> Result<Response, Problem> {
    shared.principal(&headers).await?;
    let contract = find(&shared, &event_type)?;
    let version = contract.versions().iter().find(|version| version.number.to_string() == number);
    let version = version.ok_or_else(|| missing(format!("{} has no such version", contract.event_type)))?;
    Ok(([(header::CONTENT_TYPE, "application/json")], version.text.clone()).into_response())
}

fn find(shared: &Shared, event_type: &str) -> Result<Arc<Contract>, Problem> {
    let found = shared.routes.contracts.get(event_type).cloned();
    found.ok_or_else(|| missing("no contract describes such a type; GET /v1/contracts lists those there are"))
}

fn missing(detail: impl Into<String>) -> Problem {
    Problem::new(StatusCode::NOT_FOUND, detail)
}

fn summary(contract: &Contract) -> Value {
    json!({
        "type": contract.event_type,
        "topic": contract.topic,
        "key": contract.key,
        "subject": contract.subject(),
        "version": contract.newest().number,
        "doc": contract.doc(),
    })
}
