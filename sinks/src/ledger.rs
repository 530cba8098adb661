//! The delivery ledger: what is to be sent, who is sending it, and what came of it. Plain SQL, no policy.
//!
//! ```text
//! insert ─→ pending ─→ leased ─→ delivered
//!              ↑ retry ──┤└─ lease ran out: claimed again, outcome of that attempt unknown
//!              └─ again ─ failed
//! ```
//! A claim raises `attempt`; an outcome is recorded only for the newest attempt. All times are the database's.

use crate::channel::{Clock, Delivery, Outcome};
use crate::retry::Next;
use chrono::{DateTime, Utc};
use millrace_stream::Failure;
use serde::Serialize;
use sqlx::postgres::PgRow;
use sqlx::postgres::types::PgInterval;
use sqlx::{PgConnection, PgPool, Row};
use std::time::Duration;
use uuid::Uuid;

/// Rows in one statement: enough to amortise it, little enough to keep it in memory.
const INSERT_ROWS: usize = 1_000;
/// Rows removed in one statement: a short lock, and no long transaction to hold vacuum back.
const SWEEP_ROWS: i64 = 5_000;
/// Deliveries sent again by one call.
const AGAIN_MAX: i64 = 100_000;
/// Letters of an error that are kept.
const ERROR_CHARS_MAX: usize = 500;

/// The namespace of delivery ids. Changing it would send everything again.
const NAMESPACE: Uuid = uuid::uuid!("6f1d7f0a-3c1b-5f5e-9a53-0c8a4e7b2d11");

/// One thing for one recipient: the same event, rule, recipient and channel always give the same id.
pub(crate) fn delivery_id(event: Uuid, rule: &str, recipient: &str, channel: &str) -> Uuid {
    // Names hold no NUL, so no two different quadruples read the same.
    Uuid::new_v5(&NAMESPACE, format!("{event}\0{rule}\0{recipient}\0{channel}").as_bytes())
}

/// A delivery on its way into the ledger.
#[derive(Debug)]
pub(crate) struct New<'a> {
    pub id: Uuid,
    pub event_id: Uuid,
    pub rule: &'a str,
    pub channel: &'a str,
    pub endpoint: &'a str,
    pub body: &'a str,
    pub traceparent: Option<&'a str>,
}

/// Adds what is not there yet, within the caller's transaction; how many that were.
pub(crate) async fn insert(tx: &mut PgConnection, mut rows: Vec<New<'_>>) -> Result<u64, Failure> {
    // One order for everybody: two transactions with the same rows wait for each other instead of deadlocking.
    rows.sort_unstable_by_key(|row| row.id);
    let mut added = 0;
    for chunk in rows.chunks(INSERT_ROWS) {
        let done = sqlx::query(
            "insert into millrace.delivery (id, event_id, rule, channel, endpoint, body, traceparent)
             select * from unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[])
             on conflict (id) do nothing",
        )
        .bind(chunk.iter().map(|row| row.id).collect::<Vec<_>>())
        .bind(chunk.iter().map(|row| row.event_id).collect::<Vec<_>>())
        .bind(chunk.iter().map(|row| row.rule).collect::<Vec<_>>())
        .bind(chunk.iter().map(|row| row.channel).collect::<Vec<_>>())
        .bind(chunk.iter().map(|row| row.endpoint).collect::<Vec<_>>())
        .bind(chunk.iter().map(|row| row.body).collect::<Vec<_>>())
        .bind(chunk.iter().map(|row| row.traceparent).collect::<Vec<_>>())
        .execute(&mut *tx)
        .await?;
        added += done.rows_affected();
    }
    Ok(added)
}

/// One channel's part of the ledger, as its workers use it.
#[derive(Clone)]
pub(crate) struct Ledger {
    pool: PgPool,
    channel: &'static str,
    /// Who claims.
    owner: String,
}

/// What a lane asks for.
pub(crate) struct Ask<'a> {
    pub endpoint: &'a str,
    pub rows: usize,
    pub lease: Duration,
    /// A lease that ran out after as many tries is not claimed again: see [`Ledger::fail_exhausted`].
    pub tries_max: i32,
}

/// What a lane got.
#[derive(Debug, Default)]
pub(crate) struct Claimed {
    pub deliveries: Vec<Delivery>,
    /// How many of them somebody claimed before and never reported on.
    pub unknown: usize,
}

/// An attempt that ended, and what is to become of its delivery.
#[derive(Debug)]
pub(crate) struct Ended {
    pub id: Uuid,
    pub attempt: i32,
    pub outcome: Outcome,
    pub next: Next,
    pub took: Duration,
}

impl Ledger {
    pub fn new(pool: PgPool, channel: &'static str, owner: String) -> Self {
        Self { pool, channel, owner }
    }

    /// Which of these endpoints have something due. One look into the index each.
    pub async fn ready(&self, endpoints: &[String]) -> Result<Vec<String>, Failure> {
        let ready = sqlx::query_scalar(
            "select wanted.endpoint from unnest($2::text[]) as wanted (endpoint) where exists (
                 select from millrace.delivery as d
                 where d.channel = $1 and d.endpoint = wanted.endpoint
                   and d.state in ('pending', 'leased') and d.due_at <= now())",
        );
        Ok(ready.bind(self.channel).bind(endpoints).fetch_all(&self.pool).await?)
    }

    /// Leases what is due, the longest overdue first. A lease that ran out is noted as an attempt of unknown outcome.
    pub async fn claim(&self, ask: &Ask<'_>) -> Result<Claimed, Failure> {
        let rows = sqlx::query(
            "with due as materialized (
                 select id, attempt, state = 'leased' as unknown from millrace.delivery
                 where channel = $1 and endpoint = $2 and state in ('pending', 'leased') and due_at <= now()
                   and (state = 'pending' or tries < $3)
                 order by due_at limit $4 for update skip locked
             ), noted as (
                 insert into millrace.delivery_attempt (delivery, attempt, outcome)
                 select id, attempt, 'unknown' from due where unknown on conflict do nothing
             )
             update millrace.delivery as d
             set state = 'leased', attempt = d.attempt + 1, tries = d.tries + 1, leased_by = $5, due_at = now() + $6
             from due where d.id = due.id
             returning d.id, d.rule, d.endpoint, d.body, d.traceparent, d.attempt, d.tries, due.unknown,
                 clock_timestamp() as asked",
        )
        .bind(self.channel)
        .bind(ask.endpoint)
        .bind(ask.tries_max)
        .bind(i64::try_from(ask.rows).unwrap_or(i64::MAX))
        .bind(&self.owner)
        .bind(interval(ask.lease))
        .fetch_all(&self.pool)
        .await?;
        let mut claimed = Claimed::default();
        for row in &rows {
            claimed.unknown += usize::from(row.try_get::<bool, _>("unknown")?);
            claimed.deliveries.push(delivery(row)?);
        }
        Ok(claimed)
    }

    /// Records outcomes; how many still counted. An attempt that was claimed over meanwhile changes nothing but
    /// its own line in the log.
    pub async fn record(&self, ended: &[Ended]) -> Result<u64, Failure> {
        let done = sqlx::query(
            "with ended as (
                 select * from unnest($1::uuid[], $2::int[], $3::text[], $4::interval[], $5::text[], $6::int[], $7::text[], $8::int[])
                     as e (id, attempt, state, wait, outcome, code, error, took_ms)
             ), logged as (
                 insert into millrace.delivery_attempt (delivery, attempt, outcome, code, error, took_ms)
                 select d.id, e.attempt, e.outcome, e.code, e.error, e.took_ms
                 from ended as e join millrace.delivery as d on d.id = e.id
                 on conflict (delivery, attempt) do update set outcome = excluded.outcome, code = excluded.code,
                     error = excluded.error, took_ms = excluded.took_ms, recorded_at = excluded.recorded_at
             )
             update millrace.delivery as d
             set state = e.state, due_at = now() + e.wait, leased_by = null, last_code = e.code, last_error = e.error,
                 settled_at = case e.state when 'pending' then null else now() end
             from ended as e where d.id = e.id and d.attempt = e.attempt and d.state = 'leased'",
        )
        .bind(ended.iter().map(|e| e.id).collect::<Vec<_>>())
        .bind(ended.iter().map(|e| e.attempt).collect::<Vec<_>>())
        .bind(ended.iter().map(|e| state(e.next)).collect::<Vec<_>>())
        .bind(ended.iter().map(|e| interval(wait(e.next))).collect::<Vec<_>>())
        .bind(ended.iter().map(|e| word(&e.outcome)).collect::<Vec<_>>())
        .bind(ended.iter().map(|e| code(&e.outcome)).collect::<Vec<_>>())
        .bind(ended.iter().map(|e| error(&e.outcome)).collect::<Vec<_>>())
        .bind(ended.iter().map(|e| i32::try_from(e.took.as_millis()).unwrap_or(i32::MAX)).collect::<Vec<_>>())
        .execute(&self.pool)
        .await?;
        Ok(done.rows_affected())
    }

    /// Deliveries that wait or are being sent, counted no further than `at_most`.
    pub async fn backlog(&self, at_most: i64) -> Result<i64, Failure> {
        let count = sqlx::query_scalar(
            "select count(*) from (select from millrace.delivery
             where channel = $1 and state in ('pending', 'leased') limit $2) as open",
        );
        Ok(count.bind(self.channel).bind(at_most).fetch_one(&self.pool).await?)
    }

    /// Gives up on deliveries whose last permitted attempt ended without a word.
    pub async fn fail_exhausted(&self, tries_max: i32) -> Result<u64, Failure> {
        let done = sqlx::query(
            "with noted as (
                 insert into millrace.delivery_attempt (delivery, attempt, outcome)
                 select id, attempt, 'unknown' from millrace.delivery
                 where channel = $1 and state = 'leased' and due_at <= now() and tries >= $2 on conflict do nothing
             )
             update millrace.delivery set state = 'failed', leased_by = null, settled_at = now(),
                 last_error = 'the last attempt ended without a word: it may have arrived or not'
             where channel = $1 and state = 'leased' and due_at <= now() and tries >= $2",
        );
        Ok(done.bind(self.channel).bind(tries_max).execute(&self.pool).await?.rows_affected())
    }

    /// Removes some of what was delivered long ago; true when there may be more.
    pub async fn forget_delivered(&self, keep_days: u32) -> Result<bool, Failure> {
        let done = sqlx::query(
            "delete from millrace.delivery where id in (
                 select id from millrace.delivery
                 where channel = $1 and state = 'delivered' and settled_at < now() - make_interval(days => $2)
                 limit $3 for update skip locked)",
        );
        let done = done.bind(self.channel).bind(i32::try_from(keep_days).unwrap_or(i32::MAX)).bind(SWEEP_ROWS);
        Ok(done.execute(&self.pool).await?.rows_affected() == SWEEP_ROWS.unsigned_abs())
    }
}

fn delivery(row: &PgRow) -> Result<Delivery, Failure> {
    Ok(Delivery {
        id: row.try_get("id")?,
        rule: row.try_get("rule")?,
        endpoint: row.try_get("endpoint")?,
        body: row.try_get("body")?,
        traceparent: row.try_get("traceparent")?,
        attempt: row.try_get("attempt")?,
        tries: row.try_get("tries")?,
        clock: Clock::showing(row.try_get("asked")?),
    })
}

fn state(next: Next) -> &'static str {
    match next {
        Next::Delivered => "delivered",
        Next::Failed => "failed",
        Next::Pending(_) => "pending",
    }
}

fn wait(next: Next) -> Duration {
    match next {
        Next::Pending(wait) => wait,
        Next::Delivered | Next::Failed => Duration::ZERO,
    }
}

fn word(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Delivered { .. } => "delivered",
        Outcome::Retry { .. } => "retry",
        Outcome::Refused { .. } => "refused",
    }
}

fn code(outcome: &Outcome) -> Option<i32> {
    let (Outcome::Delivered { code } | Outcome::Retry { code, .. } | Outcome::Refused { code, .. }) = outcome;
    code.map(i32::from)
}

fn error(outcome: &Outcome) -> Option<String> {
    match outcome {
        Outcome::Delivered { .. } => None,
        Outcome::Retry { error, .. } | Outcome::Refused { error, .. } => Some(printable(error)),
    }
}

/// An error may quote what a receiver sent, and a receiver may send anything.
fn printable(error: &str) -> String {
    error.chars().map(|c| if c.is_control() { ' ' } else { c }).take(ERROR_CHARS_MAX).collect()
}

fn interval(duration: Duration) -> PgInterval {
    PgInterval { months: 0, days: 0, microseconds: i64::try_from(duration.as_micros()).unwrap_or(i64::MAX) }
}

/// What became of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DeliveryState {
    /// Waits to be sent, for the first time or again.
    Pending,
    /// Is being sent, or its sender died.
    Leased,
    Delivered,
    /// Given up: somebody must look.
    Failed,
}

/// How many deliveries of an endpoint are in one state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Progress {
    pub channel: String,
    pub endpoint: String,
    pub state: DeliveryState,
    pub deliveries: i64,
    /// When the oldest of them was written.
    pub oldest: DateTime<Utc>,
}

/// The ledger at a glance, for people; endpoints that are not configured any more included.
///
/// # Errors
/// When Postgres does not answer, or was not migrated.
pub async fn progress(pool: &PgPool) -> Result<Vec<Progress>, Failure> {
    let rows = sqlx::query(
        "select channel, endpoint, state, count(*) as deliveries, min(created_at) as oldest
         from millrace.delivery group by 1, 2, 3 order by 1, 2, 3",
    );
    rows.fetch_all(pool).await?.iter().map(one_progress).collect()
}

fn one_progress(row: &PgRow) -> Result<Progress, Failure> {
    Ok(Progress {
        channel: row.try_get("channel")?,
        endpoint: row.try_get("endpoint")?,
        state: delivery_state(row.try_get("state")?),
        deliveries: row.try_get("deliveries")?,
        oldest: row.try_get("oldest")?,
    })
}

/// The table's own check allows no other words.
fn delivery_state(text: &str) -> DeliveryState {
    match text {
        "leased" => DeliveryState::Leased,
        "delivered" => DeliveryState::Delivered,
        "failed" => DeliveryState::Failed,
        _ => DeliveryState::Pending,
    }
}

/// A delivery that was given up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Failed {
    pub id: Uuid,
    pub event_id: Uuid,
    pub rule: String,
    pub channel: String,
    pub endpoint: String,
    /// Attempts of its last round.
    pub tries: i32,
    /// What the receiver answered last, for HTTP its status.
    pub code: Option<i32>,
    pub error: Option<String>,
    pub failed_at: DateTime<Utc>,
}

/// What was given up last, newest first; of one endpoint, or of all.
///
/// # Errors
/// When Postgres does not answer, or was not migrated.
pub async fn failed(pool: &PgPool, endpoint: Option<&str>, limit: i64) -> Result<Vec<Failed>, Failure> {
    let rows = sqlx::query(
        "select id, event_id, rule, channel, endpoint, tries, last_code, last_error, settled_at
         from millrace.delivery where state = 'failed' and ($1::text is null or endpoint = $1)
         order by settled_at desc, id limit $2",
    );
    rows.bind(endpoint).bind(limit).fetch_all(pool).await?.iter().map(one_failed).collect()
}

fn one_failed(row: &PgRow) -> Result<Failed, Failure> {
    Ok(Failed {
        id: row.try_get("id")?,
        event_id: row.try_get("event_id")?,
        rule: row.try_get("rule")?,
        channel: row.try_get("channel")?,
        endpoint: row.try_get("endpoint")?,
        tries: row.try_get("tries")?,
        code: row.try_get("last_code")?,
        error: row.try_get("last_error")?,
        failed_at: row.try_get("settled_at")?,
    })
}

/// One attempt at a delivery.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Attempt {
    pub attempt: i32,
    /// `delivered`, `retry`, `refused` or `unknown`.
    pub outcome: String,
    pub code: Option<i32>,
    pub error: Option<String>,
    pub took_ms: Option<i32>,
    pub recorded_at: DateTime<Utc>,
}

/// What was tried, oldest first.
///
/// # Errors
/// When Postgres does not answer.
pub async fn attempts(pool: &PgPool, delivery: Uuid) -> Result<Vec<Attempt>, Failure> {
    let rows = sqlx::query(
        "select attempt, outcome, code, error, took_ms, recorded_at
         from millrace.delivery_attempt where delivery = $1 order by attempt",
    );
    rows.bind(delivery).fetch_all(pool).await?.iter().map(one_attempt).collect()
}

fn one_attempt(row: &PgRow) -> Result<Attempt, Failure> {
    Ok(Attempt {
        attempt: row.try_get("attempt")?,
        outcome: row.try_get("outcome")?,
        code: row.try_get("code")?,
        error: row.try_get("error")?,
        took_ms: row.try_get("took_ms")?,
        recorded_at: row.try_get("recorded_at")?,
    })
}

/// Gives failed deliveries of an endpoint (or of all) another round of attempts, under the same ids.
/// Their old attempts are forgotten, so that a log is never longer than one round.
///
/// # Errors
/// When Postgres does not answer.
pub async fn send_again(pool: &PgPool, endpoint: Option<&str>) -> Result<u64, Failure> {
    let done = sqlx::query(
        "with again as materialized (
             select id from millrace.delivery
             where state = 'failed' and ($1::text is null or endpoint = $1)
             order by settled_at limit $2 for update skip locked
         ), forgotten as (
             delete from millrace.delivery_attempt where delivery in (select id from again)
         )
         update millrace.delivery as d set state = 'pending', due_at = now(), tries = 0, settled_at = null
         from again where d.id = again.id",
    );
    Ok(done.bind(endpoint).bind(AGAIN_MAX).execute(pool).await?.rows_affected())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_depends_on_event_rule_recipient_and_channel_and_on_nothing_else() {
        let event = uuid::uuid!("019ab523-a000-7000-8000-000000000001");
        let id = delivery_id(event, "payment_failed", "shop_backoffice", "webhook");
        assert_eq!(id, delivery_id(event, "payment_failed", "shop_backoffice", "webhook"));
        // Pinned: another value would send everything in every ledger again.
        assert_eq!(id.to_string(), "e474008d-fc42-5919-a2eb-647c17297c49");
        let others = [
            delivery_id(Uuid::nil(), "payment_failed", "shop_backoffice", "webhook"),
            delivery_id(event, "payment_failed2", "shop_backoffice", "webhook"),
            delivery_id(event, "payment_failed", "shop", "_backofficewebhook"),
            delivery_id(event, "payment_failed", "shop_backoffice", "email"),
        ];
        assert!(others.iter().all(|other| *other != id));
    }

    #[test]
    fn what_a_receiver_says_cannot_break_the_table() {
        assert_eq!(printable("a\0b\r\nc"), "a b  c");
        assert_eq!(printable(&"ü".repeat(2_000)).chars().count(), ERROR_CHARS_MAX);
    }
}
