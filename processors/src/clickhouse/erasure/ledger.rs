//! `millrace.erasure`: who asked to be forgotten, and when they were. And whose turn it is to erase.

use chrono::{DateTime, SubsecRound, Utc};
use millrace_schemas::Envelope;
use millrace_stream::{Failure, answered};
use serde::Serialize;
use sqlx::postgres::PgRow;
use sqlx::{Connection, PgConnection, PgPool, Row};
use std::time::Duration;
use tokio::time::timeout;
use uuid::Uuid;

/// Any number that is ours will do.
const TURN: i64 = 0x6572_6173_7572;
/// Taking a turn is one conversation; longer than that Postgres is away.
const TURN_DEADLINE: Duration = Duration::from_secs(30);

/// Somebody's wish to be forgotten, as its event has it.
#[derive(Debug, Clone)]
pub(super) struct Request {
    pub subject: String,
    pub event_id: Uuid,
    pub requested_at: DateTime<Utc>,
}

impl Request {
    /// The time as precisely as Postgres keeps it, so that the same request compares alike when it is read back.
    pub fn of(subject: &str, envelope: &Envelope) -> Self {
        let requested_at = envelope.occurred_at.trunc_subsecs(6);
        Self { subject: subject.to_owned(), event_id: envelope.id, requested_at }
    }

    /// What decides between two requests of one person, in any order.
    pub fn when(&self) -> (DateTime<Utc>, Uuid) {
        (self.requested_at, self.event_id)
    }
}

/// A request that was recorded here.
#[derive(Debug, Clone)]
pub(super) struct Recorded {
    pub subject: String,
    pub event_id: Uuid,
    pub recorded_at: DateTime<Utc>,
}

/// Writes requests down, one a subject. A later one of the same person begins anew; an earlier one says nothing.
pub(super) async fn record(tx: &mut PgConnection, requests: &[Request]) -> Result<(), Failure> {
    if requests.is_empty() {
        return Ok(());
    }
    let write = sqlx::query(
        "insert into millrace.erasure as known (subject, event_id, requested_at)
         select * from unnest($1::text[], $2::uuid[], $3::timestamptz[])
         on conflict (subject) do update set event_id = excluded.event_id, requested_at = excluded.requested_at,
             recorded_at = now(), erased_at = null
         where (known.requested_at, known.event_id) < (excluded.requested_at, excluded.event_id)",
    );
    write
        .bind(requests.iter().map(|request| request.subject.as_str()).collect::<Vec<_>>())
        .bind(requests.iter().map(|request| request.event_id).collect::<Vec<_>>())
        .bind(requests.iter().map(|request| request.requested_at).collect::<Vec<_>>())
        .execute(tx)
        .await?;
    Ok(())
}

/// How far the erasures are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Progress {
    /// People who asked and still wait.
    pub pending: i64,
    /// When the first of these was read here.
    pub oldest: Option<DateTime<Utc>>,
    /// People whose data is gone.
    pub erased: i64,
}

/// The erasures at a glance.
///
/// # Errors
/// When Postgres does not answer, or was not migrated.
pub async fn progress(pool: &PgPool) -> Result<Progress, Failure> {
    let row = sqlx::query(
        "select count(*) filter (where erased_at is null) as pending, count(erased_at) as erased,
             min(recorded_at) filter (where erased_at is null) as oldest
         from millrace.erasure",
    );
    let row = answered(pool, async |connection| Ok(row.fetch_one(connection).await?)).await?;
    Ok(Progress { pending: row.try_get("pending")?, oldest: row.try_get("oldest")?, erased: row.try_get("erased")? })
}

/// The worker's side of the table.
pub(super) struct Ledger {
    pool: PgPool,
}

/// The right to erase until it is dropped: Postgres gives it to one process at a time, and takes it back with the
/// connection.
pub(super) struct Turn(PgConnection);

impl Turn {
    /// Lets others have it at once.
    pub async fn end(self) {
        let _ = timeout(TURN_DEADLINE, self.0.close()).await; // the next best end is the connection's own
    }
}

impl Ledger {
    pub fn new(pool: PgPool) -> Self {
        Self { pool }
    }

    pub async fn progress(&self) -> Result<Progress, Failure> {
        progress(&self.pool).await
    }

    /// `None` while another process has it. Who freezes with the turn in hand loses it after `idle`.
    pub async fn turn(&self, idle: Duration) -> Result<Option<Turn>, Failure> {
        let taken = timeout(TURN_DEADLINE, self.take_turn(idle)).await;
        taken.unwrap_or_else(|_| {
            Err(Failure::retry(anyhow::anyhow!("postgres did not answer within {TURN_DEADLINE:?}")))
        })
    }

    async fn take_turn(&self, idle: Duration) -> Result<Option<Turn>, Failure> {
        // Detached: a lock that went back into the pool with its connection would never be free again.
        let mut connection = self.pool.acquire().await?.detach();
        sqlx::query("select set_config('idle_session_timeout', $1, false)")
            .bind(format!("{}ms", idle.as_millis()))
            .execute(&mut connection)
            .await?;
        let mine: bool =
            sqlx::query_scalar("select pg_try_advisory_lock($1)").bind(TURN).fetch_one(&mut connection).await?;
        let turn = Turn(connection);
        if mine {
            return Ok(Some(turn));
        }
        turn.end().await;
        Ok(None)
    }

    /// Who has waited longest.
    pub async fn pending(&self, at_most: u32) -> Result<Vec<Recorded>, Failure> {
        let rows = sqlx::query(
            "select subject, event_id, recorded_at from millrace.erasure
             where erased_at is null order by recorded_at limit $1",
        );
        let rows = rows.bind(i64::from(at_most));
        let rows = answered(&self.pool, async |connection| Ok(rows.fetch_all(connection).await?)).await?;
        rows.iter().map(recorded).collect()
    }

    /// Those who were erased, a page after this subject.
    pub async fn erased_after(&self, subject: &str, at_most: u32) -> Result<Vec<Recorded>, Failure> {
        let rows = sqlx::query(
            "select subject, event_id, recorded_at from millrace.erasure
             where erased_at is not null and subject > $1 order by subject limit $2",
        );
        let rows = rows.bind(subject).bind(i64::from(at_most));
        let rows = answered(&self.pool, async |connection| Ok(rows.fetch_all(connection).await?)).await?;
        rows.iter().map(recorded).collect()
    }

    /// They are forgotten; who has asked again meanwhile still waits.
    pub async fn erased(&self, people: &[Recorded]) -> Result<(), Failure> {
        let write = sqlx::query(
            "update millrace.erasure as known set erased_at = now()
             from unnest($1::text[], $2::uuid[]) as done (subject, event_id)
             where known.subject = done.subject and known.event_id = done.event_id and known.erased_at is null",
        );
        let write = write
            .bind(people.iter().map(|person| person.subject.as_str()).collect::<Vec<_>>())
            .bind(people.iter().map(|person| person.event_id).collect::<Vec<_>>());
        answered(&self.pool, async |connection| Ok(write.execute(connection).await?)).await?;
        Ok(())
    }
}

fn recorded(row: &PgRow) -> Result<Recorded, Failure> {
    let (subject, event_id) = (row.try_get("subject")?, row.try_get("event_id")?);
    Ok(Recorded { subject, event_id, recorded_at: row.try_get("recorded_at")? })
}
