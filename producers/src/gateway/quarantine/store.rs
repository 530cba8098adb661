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
use millrace_stream::postgres_text;
use serde::Serialize;
use sqlx::postgres::PgRow;
use sqlx::types::Json;
use sqlx::{Connection, PgConnection, PgPool, QueryBuilder, Row as _};
use std::collections::{HashMap, HashSet};
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
    /// Takes one more, in the place of the one of the same id where there is one; or says why not, and that one stays.
    fn admit(&mut self, bytes: i64, replaced: Option<i64>, bounds: &QuarantineConfig) -> Option<NotKept> {
        let (events_max, bytes_max) = (i64::from(bounds.events), i64::try_from(bounds.bytes).unwrap_or(i64::MAX));
        let (more_events, more_bytes) = (1 - i64::from(replaced.is_some()), bytes - replaced.unwrap_or(0));
        let (events, bytes) = (self.events + more_events, self.bytes + more_bytes);
        let (own_events, own_bytes) = (self.own_events + more_events, self.own_bytes + more_bytes);
        if events > events_max || bytes > bytes_max {
            return Some(NotKept::Full);
        }
        // Whoever has nothing else gets one in, however small the bounds.
        if own_events > 1 && (own_events > events_max / 2 || own_bytes > bytes_max / 2) {
            return Some(NotKept::Share);
        }
        *self = Self { events, bytes, own_events, own_bytes, ..*self };
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
        let name = postgres_text(&principal.name);
        let kept = async |connection: &mut PgConnection| {
            let mut tx = connection.begin().await?;
            begin(&mut tx).await?;
            let ids: Vec<Uuid> = rows.iter().map(|row| row.id).collect();
            let mut held = held(&mut tx, (&name, principal.way.word())).await?;
            let (refused, admitted) = admitted(rows, weights(&mut tx, &ids).await?, &mut held, bounds);
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
            held(connection, ("", "")).await
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

async fn held(connection: &mut PgConnection, (principal, way): (&str, &str)) -> sqlx::Result<Held> {
    let counted = sqlx::query(
        "select count(*), coalesce(sum(bytes), 0)::bigint, coalesce(extract(epoch from min(kept_at)), 0)::bigint,
                count(*) filter (where principal = $1 and way = $2),
                coalesce(sum(bytes) filter (where principal = $1 and way = $2), 0)::bigint
         from millrace.quarantine",
    );
    let row = counted.bind(principal).bind(way).fetch_one(connection).await?;
    Ok(Held {
        events: row.try_get(0)?,
        bytes: row.try_get(1)?,
        oldest: row.try_get(2)?,
        own_events: row.try_get(3)?,
        own_bytes: row.try_get(4)?,
    })
}

/// Bytes of those of these ids that are kept.
async fn weights(connection: &mut PgConnection, ids: &[Uuid]) -> sqlx::Result<HashMap<Uuid, i64>> {
    let kept = sqlx::query_as("select id, bytes::bigint from millrace.quarantine where id = any($1)");
    let kept: Vec<(Uuid, i64)> = kept.bind(ids).fetch_all(connection).await?;
    Ok(kept.into_iter().collect())
}

/// Why each is not, and those that are; of two of one id the later one, since a statement can't write a row twice.
fn admitted<'r>(
    rows: &[&'r Row],
    mut kept: HashMap<Uuid, i64>,
    held: &mut Held,
    bounds: &QuarantineConfig,
) -> (Vec<Option<NotKept>>, Vec<&'r Row>) {
    let (mut refused, mut admitted) = (Vec::with_capacity(rows.len()), Vec::with_capacity(rows.len()));
    for row in rows {
        let bytes = i64::from(number(row.bytes())); // as the table has it
        let why = held.admit(bytes, kept.get(&row.id).copied(), bounds);
        if why.is_none() {
            kept.insert(row.id, bytes);
            admitted.push(*row);
        }
        refused.push(why);
    }
    let mut seen = HashSet::new();
    admitted.reverse();
    admitted.retain(|row| seen.insert(row.id));
    admitted.reverse();
    (refused, admitted)
}

fn number(bytes: usize) -> i32 {
    i32::try_from(bytes).unwrap_or(i32::MAX)
}

async fn insert(tx: &mut PgConnection, rows: &[&Row], (principal, way): (&str, &str), days: u32) -> sqlx::Result<()> {
    let mut insert = QueryBuilder::new(
        "insert into millrace.quarantine (id, expires_at, principal, way, type, event_id, errors, personal, lost,
         data_bytes, event, sealed, sealed_by, bytes) ",
    );
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

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::{Rng, SeedableRng};
    use std::collections::BTreeMap;

    #[test]
    fn nobody_fills_more_than_half_and_all_together_not_more_than_there_is() {
        let bounds = QuarantineConfig { events: 6, bytes: 1000, ..QuarantineConfig::default() };
        let filled = |mut held: Held, bytes: i64| {
            let refused = std::iter::from_fn(|| Some(held.admit(bytes, None, &bounds))).take(20).flatten().last();
            (held.own_events, refused)
        };
        let others = |events, bytes| Held { events, bytes, ..Held::default() };
        assert_eq!(filled(others(0, 0), 1), (3, Some(NotKept::Share)));
        assert_eq!(filled(others(0, 0), 200), (2, Some(NotKept::Share)));
        assert_eq!(filled(others(4, 0), 1), (2, Some(NotKept::Full)));
        assert_eq!(filled(others(1, 850), 100), (1, Some(NotKept::Full)));
        assert_eq!(filled(others(0, 0), 900), (1, Some(NotKept::Full)), "one gets in, however large");
    }

    fn row(id: u128, bytes: usize) -> Row {
        let content = Content::Plain("x".repeat(bytes));
        let (errors, personal, lost) = (vec![], vec![], vec![]);
        let (event_type, event_id, data_bytes) = (None, None, bytes);
        Row { id: Uuid::from_u128(id), event_type, event_id, errors, personal, lost, data_bytes, content }
    }

    /// Of one sender, by id: bytes.
    type Table = BTreeMap<u128, i64>;

    /// By hand: put it in, look, take it out again where that was too much.
    fn put(own: &mut Table, others: &Table, (id, bytes): (u128, i64), bounds: &QuarantineConfig) -> Option<NotKept> {
        let mut then = own.clone();
        then.insert(id, bytes);
        let weight = |table: &Table| (table.len() as u32, table.values().sum::<i64>() as u64);
        let ((own_events, own_bytes), (other_events, other_bytes)) = (weight(&then), weight(others));
        if own_events + other_events > bounds.events || own_bytes + other_bytes > bounds.bytes {
            return Some(NotKept::Full);
        }
        if own_events > 1 && (own_events > bounds.events / 2 || own_bytes > bounds.bytes / 2) {
            return Some(NotKept::Share);
        }
        *own = then;
        None
    }

    #[test]
    fn whatever_replaces_whatever_the_bounds_hold_as_a_naive_model_says() {
        for seed in 0..2_000 {
            let mut dice = ChaCha8Rng::seed_from_u64(seed);
            let mut roll = move |from: u32, to: u32| from + dice.next_u32() % (to - from);
            let bounds =
                QuarantineConfig { events: roll(1, 12), bytes: roll(1, 300).into(), ..QuarantineConfig::default() };
            let others: Table = (0..roll(0, 4)).map(|id| (u128::from(id), roll(1, 40).into())).collect();
            let mut own = Table::new();
            for request in 0..8 {
                let sent: Vec<Row> = (0..roll(1, 10)).map(|_| row(roll(0, 9).into(), roll(1, 60) as usize)).collect();
                let sum = |table: &Table| table.values().sum::<i64>();
                let (own_events, own_bytes) = (own.len() as i64, sum(&own));
                let (events, bytes) = (own_events + others.len() as i64, own_bytes + sum(&others));
                let mut held = Held { events, bytes, own_events, own_bytes, oldest: 0 };
                let kept = own.iter().map(|(id, bytes)| (Uuid::from_u128(*id), *bytes)).collect();
                let (refused, admitted) = admitted(&sent.iter().collect::<Vec<_>>(), kept, &mut held, &bounds);

                let mut stored = own.clone();
                stored.extend(admitted.iter().map(|row| (row.id.as_u128(), row.bytes() as i64)));
                let pairs = sent.iter().map(|row| (row.id.as_u128(), row.bytes() as i64));
                let said: Vec<_> = pairs.map(|pair| put(&mut own, &others, pair, &bounds)).collect();
                assert_eq!((refused, stored), (said, own.clone()), "seed {seed}, request {request}");
                let own = (own.len() as i64, sum(&own));
                assert_eq!((held.own_events, held.own_bytes), own, "seed {seed}, request {request}");
            }
        }
    }
}
