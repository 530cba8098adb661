//! Every role's ops port: is it alive, is it ready, what does it count.

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use futures_util::future::{BoxFuture, join_all};
use millrace_producers::serve::{Limits, plainly};
use prometheus_client::registry::Registry as Metrics;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// A dependency that takes longer to answer is not ready.
pub const CHECK_DEADLINE: Duration = Duration::from_secs(3);

/// Those who scrape and probe, and a few people.
const CONNECTIONS_MAX: usize = 32;
const NO_ROOM: &str = "as many connections are open as an ops port takes; ask again";
/// Longer than an answer takes; its loss is nobody's.
const DRAIN_DEADLINE: Duration = Duration::from_secs(5);

/// Asks one dependency; the error is shown to the operator.
pub type Check = Box<dyn Fn() -> BoxFuture<'static, anyhow::Result<()>> + Send + Sync>;

/// What a role shows of itself.
pub struct Ops {
    pub metrics: Metrics,
    /// By the dependency's name.
    pub checks: Vec<(&'static str, Check)>,
}

/// Serves until cancelled. False when somebody was left without an answer.
pub async fn serve(listener: TcpListener, ops: Ops, stop: CancellationToken) -> bool {
    let router = Router::new()
        .route("/livez", get(async || "alive\n"))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(Arc::new(ops));
    let limits = Limits { connections: CONNECTIONS_MAX, no_room: NO_ROOM, drain: DRAIN_DEADLINE };
    plainly(listener, router, limits, stop).await
}

async fn readyz(State(ops): State<Arc<Ops>>) -> Response {
    let asked = ops.checks.iter().map(async |(name, check)| {
        let answer = match tokio::time::timeout(CHECK_DEADLINE, check()).await {
            Ok(Ok(())) => Value::from("ok"),
            Ok(Err(error)) => Value::from(format!("{error:#}")),
            Err(_) => Value::from(format!("no answer within {CHECK_DEADLINE:?}")),
        };
        (*name, answer)
    });
    let answers = join_all(asked).await;
    let ready = answers.iter().all(|(_, answer)| answer == "ok");
    let checks: serde_json::Map<String, Value> =
        answers.into_iter().map(|(name, answer)| (name.to_owned(), answer)).collect();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(json!({ "ready": ready, "checks": checks }))).into_response()
}

async fn metrics(State(ops): State<Arc<Ops>>) -> Response {
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, &ops.metrics) {
        Ok(()) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], text).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
