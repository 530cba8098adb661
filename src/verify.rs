//! Do ClickHouse, Postgres and the receiver hold what the oracle says? Field by field, over all rows.

use crate::config::Config;
use anyhow::{Context, ensure};
use chrono::{DateTime, SecondsFormat, Utc};
use millrace_processors::clickhouse::ClickHouseConfig;
use millrace_producers::oracle::{self, Expected};
use millrace_schemas::Contracts;
use reqwest::{RequestBuilder, StatusCode};
use serde::Serialize;
use serde_json::{Map, Value, json};
use sqlx::PgPool;
use std::collections::BTreeSet;
use std::time::Duration;
use uuid::Uuid;

/// Enough to see a pattern; a wrong run could differ in a million places.
const DIFFERENCES_MAX: usize = 20;

/// Some metrics read every event there is, and the receiver lists every delivery: minutes where there are many. A server
/// that took a request and answers none would otherwise keep the verdict, and who waits for it, for ever.
const ANSWER_DEADLINE: Duration = Duration::from_secs(300);

/// One place where the servers do not hold what they must.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// `orders.<id>.captured`.
    pub field: String,
    pub expected: Value,
    pub found: Value,
}

/// Where to look.
pub struct Servers<'a> {
    pub config: &'a Config,
    pub contracts: &'a Contracts,
    pub pool: &'a PgPool,
    /// The receiver's base URL.
    pub receiver: &'a str,
}

/// The first differences; none means everything is equal.
pub async fn differences(servers: &Servers<'_>, expected: &Expected) -> anyhow::Result<Vec<Difference>> {
    let expected = serde_json::to_value(expected)?;
    let found = found(servers).await?;
    let mut differences = Vec::new();
    compare("", &expected, &found, &mut differences);
    Ok(differences)
}

/// The same shape as [`Expected`] has in JSON.
async fn found(servers: &Servers<'_>) -> anyhow::Result<Value> {
    Ok(json!({
        "events": events(servers).await?,
        "metrics": metrics(servers.config).await?,
        "orders": orders(servers.pool).await?,
        "customers": customers(servers.pool).await?,
        "spend": spend(servers.pool).await?,
        "failed_payments": delivered_events(servers).await?,
    }))
}

fn compare(field: &str, expected: &Value, found: &Value, differences: &mut Vec<Difference>) {
    if differences.len() >= DIFFERENCES_MAX || expected == found {
        return;
    }
    if let (Value::Object(expected), Value::Object(found)) = (expected, found) {
        let keys: BTreeSet<&String> = expected.keys().chain(found.keys()).collect();
        for key in keys {
            let field = if field.is_empty() { key.clone() } else { format!("{field}.{key}") };
            compare(
                &field,
                expected.get(key).unwrap_or(&Value::Null),
                found.get(key).unwrap_or(&Value::Null),
                differences,
            );
        }
        return;
    }
    differences.push(Difference { field: field.to_owned(), expected: expected.clone(), found: found.clone() });
}

// ---- ClickHouse ----

async fn events(servers: &Servers<'_>) -> anyhow::Result<Value> {
    let mut events = Map::new();
    for contract in servers.contracts.iter() {
        let sql = format!(
            "select count() as count, groupBitXor(bitXor(toUInt64(bitShiftRight(n, 64)), \
             toUInt64(bitAnd(n, 18446744073709551615)))) as digest \
             from (select toUInt128(event_id) as n from events.{})",
            contract.table()
        );
        let row = ask(servers.config, &sql).await?.pop().context("an aggregate without a row")?;
        events.insert(contract.event_type.clone(), row);
    }
    Ok(Value::Object(events))
}

async fn metrics(config: &Config) -> anyhow::Result<Value> {
    let mut metrics = Map::new();
    for (metric, keys) in oracle::METRICS {
        let sql = format!("select * from metrics.{metric} settings output_format_json_quote_64bit_floats = 1");
        let rows = ask(config, &sql).await.with_context(|| format!("metrics.{metric}"))?;
        metrics.insert(metric.to_owned(), json!(oracle::keyed(keys, rows)));
    }
    Ok(Value::Object(metrics))
}

/// One JSON object a row, over the ordinary HTTP interface: what any analyst's tool would see.
pub async fn ask(config: &Config, sql: &str) -> anyhow::Result<Vec<Value>> {
    let settings = [("default_format", "JSONEachRow"), ("output_format_json_quote_64bit_integers", "0")];
    let ClickHouseConfig { url, user, password, .. } = &config.clickhouse;
    let request = reqwest::Client::new().post(url).query(&settings).body(sql.to_owned());
    let request = request.header("x-clickhouse-user", user).header("x-clickhouse-key", password.reveal());
    let (status, body) = answer("ClickHouse", request, ANSWER_DEADLINE).await?;
    ensure!(status.is_success(), "ClickHouse: {status}: {}", body.trim());
    body.lines().map(|line| serde_json::from_str(line).with_context(|| line.to_owned())).collect()
}

/// A server's answer, to its last byte.
async fn answer(server: &str, request: RequestBuilder, within: Duration) -> anyhow::Result<(StatusCode, String)> {
    let answer = async {
        let answer = request.send().await?;
        Ok::<_, reqwest::Error>((answer.status(), answer.text().await?))
    };
    let answer = tokio::time::timeout(within, answer).await.ok();
    answer.with_context(|| format!("{server} gave no answer within {within:?}"))?.with_context(|| server.to_owned())
}

// ---- Postgres ----

type Time = Option<DateTime<Utc>>;

async fn orders(pool: &PgPool) -> anyhow::Result<Value> {
    type Row = (Uuid, Uuid, String, Option<String>, Option<i64>, Option<i64>, Option<i64>, Time, Time);
    let sql = "select order_id, user_id, status, currency, total, captured, refunded, placed_at, updated_at from order_status";
    let rows: Vec<Row> = sqlx::query_as(sql).fetch_all(pool).await.context("order_status")?;
    let row = |(order_id, user_id, status, currency, total, captured, refunded, placed_at, updated_at): Row| {
        let fields = json!({
            "user_id": user_id, "status": status, "currency": currency, "total": total, "captured": captured,
            "refunded": refunded, "placed_at": time(placed_at), "updated_at": time(updated_at),
        });
        (order_id.to_string(), fields)
    };
    Ok(rows.into_iter().map(row).collect())
}

async fn customers(pool: &PgPool) -> anyhow::Result<Value> {
    let sql = "select user_id, registered_at, orders, last_seen_at, erased_at from customer_summary";
    let rows: Vec<(Uuid, Time, i64, Time, Time)> =
        sqlx::query_as(sql).fetch_all(pool).await.context("customer_summary")?;
    let row = |(user_id, registered_at, orders, last_seen_at, erased_at): (Uuid, Time, i64, Time, Time)| {
        let fields = json!({
            "registered_at": time(registered_at), "orders": orders, "last_seen_at": time(last_seen_at),
            "erased_at": time(erased_at),
        });
        (user_id.to_string(), fields)
    };
    Ok(rows.into_iter().map(row).collect())
}

async fn spend(pool: &PgPool) -> anyhow::Result<Value> {
    let sql = "select user_id, currency, captured, refunded from customer_spend";
    let rows: Vec<(Uuid, String, i64, i64)> = sqlx::query_as(sql).fetch_all(pool).await.context("customer_spend")?;
    let mut spend = Map::new();
    for (user_id, currency, captured, refunded) in rows {
        let currencies = spend.entry(user_id.to_string()).or_insert_with(|| json!({}));
        currencies[currency] = json!({ "captured": captured, "refunded": refunded });
    }
    Ok(Value::Object(spend))
}

/// As chrono writes it in the oracle's JSON.
fn time(at: Time) -> Value {
    at.map_or(Value::Null, |at| at.to_rfc3339_opts(SecondsFormat::AutoSi, true).into())
}

// ---- the receiver ----

/// The events whose deliveries arrived there, by way of the ledger. An id that the ledger does not know stands
/// for itself, and will be a difference.
async fn delivered_events(servers: &Servers<'_>) -> anyhow::Result<Value> {
    let url = format!("{}/received?limit={}", servers.receiver, i32::MAX);
    let (_, body) = answer("the receiver", reqwest::Client::new().get(url), ANSWER_DEADLINE).await?;
    let answer: Value = serde_json::from_str(&body).context("the receiver")?;
    let received = answer["ids"].as_array().context("the receiver lists no ids")?;
    let received: BTreeSet<&str> = received.iter().filter_map(Value::as_str).collect();
    let ledger: Vec<(Uuid, Uuid)> =
        sqlx::query_as("select id, event_id from millrace.delivery").fetch_all(servers.pool).await?;
    let known: std::collections::BTreeMap<String, Uuid> =
        ledger.into_iter().map(|(id, event)| (id.to_string(), event)).collect();
    let mut events: Vec<String> =
        received.iter().map(|id| known.get(*id).map_or_else(|| (*id).to_owned(), Uuid::to_string)).collect();
    events.sort_unstable(); // UUIDv7s sort as their events happened
    Ok(json!(events))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn who_waits_for_a_server_that_hangs_is_told_which_and_for_how_long() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        // Before its first byte, and within its answer.
        for begun in ["", "HTTP/1.1 200 OK\r\nContent-Length: 80\r\n\r\nnot all of it"] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let request = reqwest::Client::new().get(format!("http://{}", listener.local_addr().unwrap()));
            let hanging = tokio::spawn(async move {
                let (mut connection, _) = listener.accept().await.unwrap();
                let _request = connection.read(&mut [0; 1 << 16]).await.unwrap();
                connection.write_all(begun.as_bytes()).await.unwrap();
                std::future::pending::<()>().await;
            });
            let error = answer("the receiver", request, Duration::from_millis(200)).await.unwrap_err();
            assert_eq!(format!("{error:#}"), "the receiver gave no answer within 200ms");
            hanging.abort();
        }
    }

    #[test]
    fn a_difference_is_named_by_its_field_and_nothing_else_is_one() {
        let expected = json!({ "a": { "b": 1, "c": [1, 2] }, "only_expected": true });
        let found = json!({ "a": { "c": [1, 2], "b": 2 }, "only_found": 3 });
        let mut differences = Vec::new();
        compare("", &expected, &found, &mut differences);
        let fields: Vec<&str> = differences.iter().map(|difference| difference.field.as_str()).collect();
        assert_eq!(fields, ["a.b", "only_expected", "only_found"]);
        assert_eq!((&differences[0].expected, &differences[0].found), (&json!(1), &json!(2)));
    }
}
