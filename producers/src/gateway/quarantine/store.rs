//! Where invalid events are kept: one table of Postgres, bounded in events, bytes and days.
//!
//! At a bound nothing that is kept makes room: its sender was told that it is there. Who comes then hears that it is
//! full, and nobody may fill more than half of it.

use super::form::{Content, Reason, Row};
use super::seal::Key;
use super::{NotKept, QuarantineConfig};
use crate::gateway::access::Principal;
use anyhow::{Context, anyhow};
use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::postgres::PgRow;
use sqlx::types::Json;
use sqlx::{Connection, PgConnection, PgPool, QueryBuilder, Row as _};
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

/// More than a screen, less than a server's memory.
pub const LIST_MAX: i64 = 1_000;
/// Who keeps waits for this, so that the bounds hold however many gateways there are; any number that is ours will do.
const LOCK: i64 = 0x006d_696c_7175;
/// A gateway that froze in the middle of it holds the lock no longer.
const PATIENCE: &str = "5s";
/// Rows of one statement: large ones stay small this way.
const ROWS_AT_ONCE: usize = 100;

/// The table.
#[derive(Clone)]
pub struct Store {
    pool: PgPool,
}

/// Which ones; everything empty means all of them.
#[derive(Debug, Clone, Default)]
pub struct Which {
    pub id: Option<Uuid>,
    pub event_type: Option<String>,
    pub principal: Option<String>,
}

/// An invalid event that is kept, and why it is invalid.
#[derive(Debug, Clone, Serialize)]
pub struct KeptEvent {
    pub id: Uuid,
    pub kept_at: DateTime<Utc>,
    pub expires_at: DateTime<Utc>,
    pub principal: String,
    pub way: String,
    #[serde(rename = "type")]
    pub event_type: Option<String>,
    pub event_id: Option<Uuid>,
    pub errors: Vec<Reason>,
    /// Pointers to what was taken out because it is personal, or may be.
    pub personal: Vec<String>,
    /// Pointers to what was wrong there and is not kept as it was.
    pub lost: Vec<String>,
    pub data_bytes: i32,
    pub attempts: i32,
    /// By which key, where it is encrypted.
    pub sealed_by: Option<String>,
    #[serde(skip)]
    event: Option<String>,
    #[serde(skip)]
    sealed: Option<Vec<u8>>,
}

impl KeptEvent {
    /// The event as it is kept, a CloudEvent in JSON.
    pub(super) fn text(&self, key: Option<&Key>) -> Result<String, String> {
        if let Some(text) = &self.event {
            return Ok(text.clone());
        }
        let by = self.sealed_by.as_deref().unwrap_or_default();
        let sealed = self.sealed.as_deref().unwrap_or_default();
        match key {
            None => Err(format!("it is encrypted by key {by}: set gateway.quarantine.key_file")),
            Some(key) if key.id != by => Err(format!("it is encrypted by key {by}, and the one here is {}", key.id)),
            Some(key) => key.open(self.id, sealed).ok_or_else(|| "what was encrypted was changed since".to_owned()),
        }
    }
}

/// What waits for somebody.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Progress {
    pub events: i64,
    pub oldest: Option<DateTime<Utc>>,
}

/// What is kept altogether.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Held {
    pub events: i64,
    pub bytes: i64,
    /// Unix time, in seconds; 0 where there is none.
    pub oldest: i64,
    own_events: i64,
    own_bytes: i64,
}

impl Held {
    /// Takes one more, or says why not.
    fn admit(&mut self, bytes: i64, bounds: &QuarantineConfig) -> Option<NotKept> {
        let (events_max, bytes_max) = (i64::from(bounds.events), i64::try_from(bounds.bytes).unwrap_or(i64::MAX));
        if self.events + 1 > events_max || self.bytes + bytes > bytes_max {
            return Some(NotKept::Full);
        }
        // Whoever has nothing yet gets at least one in, however small the bounds.
        if self.own_events > 0 && (self.own_events + 1 > events_max / 2 || self.own_bytes + bytes > bytes_max / 2) {
            return Some(NotKept::Share);
        }
        (self.events, self.bytes) = (self.events + 1, self.bytes + bytes);
        (self.own_events, self.own_bytes) = (self.own_events + 1, self.own_bytes + bytes);
        None
    }
}

impl Store {
    pub fn new(pool: PgPool) -> Self {
        Self { pool }
    }

    /// One principal's events, as many as fit; of each why not, if it is not. And what is kept altogether.
    pub(super) async fn keep(
        &self,
        rows: &[&Row],
        principal: &Principal,
        bounds: &QuarantineConfig,
        until: Instant,
    ) -> anyhow::Result<(Vec<Option<NotKept>>, Held)> {
        let name = printable(&principal.name);
        let kept = async |connection: &mut PgConnection| {
            let mut tx = connection.begin().await?;
            begin(&mut tx).await?;
            let ids: Vec<Uuid> = rows.iter().map(|row| row.id).collect();
            let mut held = held(&mut tx, (&name, principal.way.word()), &ids).await?;
            let (refused, admitted) = admitted(rows, &mut held, bounds);
            for rows in admitted.chunks(ROWS_AT_ONCE) {
                insert(&mut tx, rows, (&name, principal.way.word()), bounds.days).await?;
            }
            tx.commit().await?;
            Ok((refused, held))
        };
        self.answered(until, kept).await
    }

    /// Removes what has expired; what is kept altogether.
    pub(super) async fn tidy(&self, until: Instant) -> anyhow::Result<Held> {
        let tidied = async |connection: &mut PgConnection| {
            remove_expired(connection).await?;
            held(connection, ("", ""), &[]).await
        };
        self.answered(until, tidied).await
    }

    /// What was cut off in the middle of a conversation is no use to the next one.
    async fn answered<T>(
        &self,
        until: Instant,
        work: impl AsyncFnOnce(&mut PgConnection) -> sqlx::Result<T>,
    ) -> anyhow::Result<T> {
        let late = || anyhow!("no answer in time");
        let connection = timeout_at(until, self.pool.acquire()).await.map_err(|_| late())?;
        let mut connection = connection.context("no connection")?;
        match timeout_at(until, work(&mut connection)).await {
            Ok(done) => Ok(done?),
            Err(_) => {
                connection.close_on_drop();
                Err(late())
            }
        }
    }

    /// In the order in which they came.
    ///
    /// # Errors
    /// When Postgres does not answer.
    pub async fn list(&self, which: &Which, limit: i64) -> anyhow::Result<Vec<KeptEvent>> {
        let rows = sqlx::query(
            "select * from millrace.quarantine
             where expires_at > now() and ($1::uuid is null or id = $1) and ($2::text is null or type = $2)
               and ($3::text is null or principal = $3)
             order by kept_at, event_id, id limit $4",
        )
        .bind(which.id)
        .bind(&which.event_type)
        .bind(&which.principal)
        .bind(limit.min(LIST_MAX))
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(|row| Ok(kept_event(row)?)).collect()
    }

    /// How many are kept, and since when the oldest is.
    ///
    /// # Errors
    /// When Postgres does not answer.
    pub async fn progress(&self) -> anyhow::Result<Progress> {
        let counted = "select count(*), min(kept_at) from millrace.quarantine where expires_at > now()";
        let (events, oldest) = sqlx::query_as(counted).fetch_one(&self.pool).await?;
        Ok(Progress { events, oldest })
    }

    /// Gives up on it, for good. False where there is none.
    ///
    /// # Errors
    /// When Postgres does not answer.
    pub async fn discard(&self, id: Uuid) -> anyhow::Result<bool> {
        let removed = sqlx::query("delete from millrace.quarantine where id = $1").bind(id).execute(&self.pool).await?;
        Ok(removed.rows_affected() == 1)
    }

    /// It is in the log. One that took its place meanwhile stays.
    pub(super) async fn published(&self, event: &KeptEvent) -> anyhow::Result<()> {
        let removed = sqlx::query("delete from millrace.quarantine where id = $1 and kept_at = $2");
        removed.bind(event.id).bind(event.kept_at).execute(&self.pool).await?;
        Ok(())
    }

    /// It was tried again; with what is wrong now, where that was found out.
    pub(super) async fn tried(&self, event: &KeptEvent, errors: Option<&[Reason]>) -> anyhow::Result<()> {
        let noted = sqlx::query(
            "update millrace.quarantine set attempts = attempts + 1, errors = coalesce($3, errors)
             where id = $1 and kept_at = $2",
        );
        noted.bind(event.id).bind(event.kept_at).bind(errors.map(Json)).execute(&self.pool).await?;
        Ok(())
    }
}

async fn begin(tx: &mut PgConnection) -> sqlx::Result<()> {
    let patient = sqlx::query(
        "select set_config('idle_in_transaction_session_timeout', $1, true), set_config('statement_timeout', $1, true)",
    );
    patient.bind(PATIENCE).execute(&mut *tx).await?;
    sqlx::query("select pg_advisory_xact_lock($1)").bind(LOCK).execute(&mut *tx).await?;
    remove_expired(tx).await
}

async fn remove_expired(connection: &mut PgConnection) -> sqlx::Result<()> {
    sqlx::query("delete from millrace.quarantine where expires_at <= now()").execute(connection).await?;
    Ok(())
}

/// Without those that are to be replaced.
async fn held(connection: &mut PgConnection, (principal, way): (&str, &str), without: &[Uuid]) -> sqlx::Result<Held> {
    let counted = sqlx::query(
        "select count(*), coalesce(sum(bytes), 0)::bigint, coalesce(extract(epoch from min(kept_at)), 0)::bigint,
                count(*) filter (where principal = $1 and way = $2),
                coalesce(sum(bytes) filter (where principal = $1 and way = $2), 0)::bigint
         from millrace.quarantine where id <> all($3)",
    );
    let row = counted.bind(principal).bind(way).bind(without).fetch_one(connection).await?;
    Ok(Held {
        events: row.try_get(0)?,
        bytes: row.try_get(1)?,
        oldest: row.try_get(2)?,
        own_events: row.try_get(3)?,
        own_bytes: row.try_get(4)?,
    })
}

/// Why each is not, and those that are; of two of one id the later one, since a statement can't write a row twice.
fn admitted<'r>(rows: &[&'r Row], held: &mut Held, bounds: &QuarantineConfig) -> (Vec<Option<NotKept>>, Vec<&'r Row>) {
    let mut admitted: Vec<&Row> = Vec::with_capacity(rows.len());
    let refused = rows.iter().map(|row| {
        let refused = held.admit(i64::try_from(row.bytes()).unwrap_or(i64::MAX), bounds);
        if refused.is_none() {
            admitted.push(row);
        }
        refused
    });
    let refused = refused.collect();
    let mut seen = std::collections::HashSet::new();
    admitted.reverse();
    admitted.retain(|row| seen.insert(row.id));
    admitted.reverse();
    (refused, admitted)
}

async fn insert(tx: &mut PgConnection, rows: &[&Row], (principal, way): (&str, &str), days: u32) -> sqlx::Result<()> {
    let mut insert = QueryBuilder::new(
        "insert into millrace.quarantine (id, expires_at, principal, way, type, event_id, errors, personal, lost,
         data_bytes, event, sealed, sealed_by, bytes) ",
    );
    let number = |bytes: usize| i32::try_from(bytes).unwrap_or(i32::MAX);
    insert.push_values(rows, |mut values, row| {
        let (event, sealed, by) = match &row.content {
            Content::Plain(text) => (Some(text), None, None),
            Content::Sealed { sealed, by } => (None, Some(sealed), Some(by)),
        };
        values.push_bind(row.id).push("now() + make_interval(days => ");
        values.push_bind_unseparated(i32::try_from(days).unwrap_or(i32::MAX)).push_unseparated(")");
        values.push_bind(principal).push_bind(way).push_bind(&row.event_type).push_bind(row.event_id);
        values.push_bind(Json(&row.errors)).push_bind(&row.personal).push_bind(&row.lost);
        values.push_bind(number(row.data_bytes)).push_bind(event).push_bind(sealed).push_bind(by);
        values.push_bind(number(row.bytes()));
    });
    insert.push(
        " on conflict (id) do update set kept_at = now(), expires_at = excluded.expires_at, type = excluded.type,
          errors = excluded.errors, personal = excluded.personal, lost = excluded.lost,
          data_bytes = excluded.data_bytes, event = excluded.event, sealed = excluded.sealed,
          sealed_by = excluded.sealed_by, bytes = excluded.bytes, attempts = 0",
    );
    insert.build().execute(tx).await.map(drop)
}

fn kept_event(row: &PgRow) -> sqlx::Result<KeptEvent> {
    let Json(errors) = row.try_get("errors")?;
    Ok(KeptEvent {
        id: row.try_get("id")?,
        kept_at: row.try_get("kept_at")?,
        expires_at: row.try_get("expires_at")?,
        principal: row.try_get("principal")?,
        way: row.try_get("way")?,
        event_type: row.try_get("type")?,
        event_id: row.try_get("event_id")?,
        errors,
        personal: row.try_get("personal")?,
        lost: row.try_get("lost")?,
        data_bytes: row.try_get("data_bytes")?,
        attempts: row.try_get("attempts")?,
        sealed_by: row.try_get("sealed_by")?,
        event: row.try_get("event")?,
        sealed: row.try_get("sealed")?,
    })
}

/// Postgres text holds every character but NUL, which a token's subject may have.
fn printable(text: &str) -> String {
    text.replace('\0', "\\0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_fills_more_than_half_and_all_together_not_more_than_there_is() {
        let bounds = QuarantineConfig { events: 6, bytes: 1000, ..QuarantineConfig::default() };
        let filled = |mut held: Held, bytes: i64| {
            let refused = std::iter::from_fn(|| Some(held.admit(bytes, &bounds))).take(20).flatten().last();
            (held.own_events, refused)
        };
        let others = |events, bytes| Held { events, bytes, ..Held::default() };
        assert_eq!(filled(others(0, 0), 1), (3, Some(NotKept::Share)));
        assert_eq!(filled(others(0, 0), 200), (2, Some(NotKept::Share)));
        assert_eq!(filled(others(4, 0), 1), (2, Some(NotKept::Full)));
        assert_eq!(filled(others(1, 850), 100), (1, Some(NotKept::Full)));
        assert_eq!(filled(others(0, 0), 900), (1, Some(NotKept::Full)), "one gets in, however large");
    }
}
