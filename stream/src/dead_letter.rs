//! Records that could not be applied: kept whole, explained, and replayable.

use crate::{Claim, Failure, Position, Range, Record, RecordBuilder, Reject, answered};
use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::BytesMut;
use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, Connection, PgConnection, PgPool, QueryBuilder, Row};
use std::collections::HashMap;
use uuid::Uuid;

/// More than a screen, less than a server's memory.
pub const LIST_MAX: i64 = 1_000;

/// A record on its way into the table.
#[derive(Debug, Clone)]
pub(crate) struct Rejected {
    pub record: Record,
    /// If it says.
    pub event_id: Option<Uuid>,
    pub reject: Reject,
}

/// What became of a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DeadLetterState {
    Open,
    Replayed,
    Discarded,
    /// Its event took effect by another record: one that came later and could be read, or another letter.
    Superseded,
}

/// One dead letter with every byte of its record.
#[derive(Debug, Clone)]
pub struct DeadLetter {
    pub id: i64,
    pub pipeline: String,
    pub record: Record,
    pub reason: String,
    pub error: String,
    pub attempts: i32,
    pub state: DeadLetterState,
    pub created_at: DateTime<Utc>,
    pub settled_at: Option<DateTime<Utc>>,
}

/// The records that a pipeline has set aside and not applied since, by their places.
#[derive(Debug, Clone, Default)]
pub struct SetAside(HashMap<Position, Unapplied>);

#[derive(Debug, Clone, Copy)]
struct Unapplied {
    event_id: Option<Uuid>,
    /// Nobody wants its event any more, or it has taken effect by another record.
    given_up: bool,
}

impl SetAside {
    /// Is this record among them?
    pub(crate) fn holds(&self, place: &Position, event_id: Uuid) -> bool {
        self.0.get(place).is_some_and(|found| found.is(Some(event_id)))
    }

    #[cfg(test)]
    pub(crate) fn of(places: impl IntoIterator<Item = Position>) -> Self {
        let unapplied = Unapplied { event_id: None, given_up: false };
        Self(places.into_iter().map(|place| (place, unapplied)).collect())
    }

    /// How many lie at this offset or behind it.
    pub(crate) fn count_from(&self, offset: i64) -> usize {
        self.0.keys().filter(|place| place.offset >= offset).count()
    }

    /// What was given up of this range and was not `before`, by offset.
    pub fn given_up_since(&self, before: &Self, range: &Range) -> Vec<i64> {
        let within = |place: &Position| {
            *place.topic == *range.topic
                && place.partition == range.partition
                && (range.from..range.to).contains(&place.offset)
        };
        let known = |place: &Position| before.0.get(place).is_some_and(|found| found.given_up);
        let given_up = self.0.iter().filter(|(place, found)| found.given_up && within(place) && !known(place));
        given_up.map(|(place, _)| place.offset).collect()
    }

    pub(crate) fn is_given_up(&self, place: &Position, event_id: Option<Uuid>) -> bool {
        self.0.get(place).is_some_and(|found| found.given_up && found.is(event_id))
    }
}

impl Unapplied {
    /// A letter of a former log of this name, from before logs were told apart, is most likely another event's, or of
    /// a record that said no event.
    fn is(&self, event_id: Option<Uuid>) -> bool {
        event_id.is_none_or(|found| self.event_id == Some(found))
    }
}

/// Which ones; everything empty means all of them.
#[derive(Debug, Clone, Default)]
pub struct DeadLetterFilter {
    pub id: Option<i64>,
    pub pipeline: Option<String>,
    pub reason: Option<String>,
    pub open_only: bool,
}

/// The dead letter table.
#[derive(Clone)]
pub struct DeadLetters {
    pool: PgPool,
}

impl DeadLetters {
    pub fn new(pool: PgPool) -> Self {
        Self { pool }
    }

    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// In the order of the log within each pipeline.
    pub async fn list(&self, filter: &DeadLetterFilter, limit: i64) -> Result<Vec<DeadLetter>, Failure> {
        let rows = sqlx::query(
            "select * from millrace.dead_letter
             where ($1::bigint is null or id = $1) and ($2::text is null or pipeline = $2)
               and ($3::text is null or reason = $3) and (not $4 or state = 'open')
             order by pipeline, topic, partition, \"offset\" limit $5",
        )
        .bind(filter.id)
        .bind(&filter.pipeline)
        .bind(&filter.reason)
        .bind(filter.open_only)
        .bind(limit.min(LIST_MAX))
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(dead_letter).collect()
    }

    /// How many are open, by pipeline and reason.
    pub async fn open(&self) -> Result<Vec<(String, String, i64)>, Failure> {
        let rows = sqlx::query_as(
            "select pipeline, reason, count(*) from millrace.dead_letter where state = 'open'
             group by 1, 2 order by 1, 2",
        );
        Ok(rows.fetch_all(&self.pool).await?)
    }

    /// Gives up on it, for good and on the record.
    pub async fn discard(&self, id: i64) -> Result<bool, Failure> {
        let done = sqlx::query(
            "update millrace.dead_letter set state = 'discarded', settled_at = now() where id = $1 and state = 'open'",
        );
        Ok(done.bind(id).execute(&self.pool).await?.rows_affected() == 1)
    }

    /// What the pipeline has set aside of the logs that it reads now, or of a part of one: a topic that was recreated
    /// is another log. Letters from before logs were told apart are taken for this one's.
    pub async fn set_aside(&self, pipeline: &str, within: Option<&Range>) -> Result<SetAside, Failure> {
        let mut select = QueryBuilder::new(
            "select topic, partition, l.\"offset\", l.event_id, l.state <> 'open'
             from millrace.dead_letter l join millrace.checkpoint c using (pipeline, topic, partition)
             where l.state <> 'replayed' and l.topic_id in (c.topic_id, '') and pipeline = ",
        );
        select.push_bind(pipeline);
        if let Some(Range { topic, partition, from, to }) = within {
            select.push(" and topic = ").push_bind(topic).push(" and partition = ").push_bind(partition);
            select.push(" and l.\"offset\" >= ").push_bind(from).push(" and l.\"offset\" < ").push_bind(to);
        }
        select.push(" order by l.topic_id"); // where both logs have one at a place, this one's is the last
        let rows: Vec<(String, i32, i64, Option<Uuid>, bool)> =
            answered(&self.pool, async |connection| Ok(select.build_query_as().fetch_all(connection).await?)).await?;
        let one = |(topic, partition, offset, event_id, given_up): (String, i32, i64, Option<Uuid>, bool)| {
            (Position { topic: topic.into(), partition, offset }, Unapplied { event_id, given_up })
        };
        Ok(SetAside(rows.into_iter().map(one).collect()))
    }

    /// Has an event of which a record was set aside taken effect since?
    pub(crate) async fn took_effect(&self, claim: &Claim, event_id: Uuid) -> Result<bool, Failure> {
        let took = sqlx::query_scalar(AssertSqlSafe(format!(
            "select {TOOK_EFFECT} from (select $1::text as pipeline, $2::text as topic, $3::uuid as event_id) l"
        )));
        let took = took.bind(&*claim.pipeline).bind(&*claim.topic).bind(event_id);
        answered(&self.pool, async |connection| Ok(took.fetch_one(connection).await?)).await
    }

    /// The open ones of an event, with their records but for the values, which may be large.
    pub(crate) async fn open_of(
        &self,
        pipeline: &str,
        topic: &str,
        event_id: Uuid,
    ) -> Result<Vec<(i64, Record)>, Failure> {
        let open = sqlx::query(
            "select id, topic, partition, \"offset\", logged_at, key, ''::bytea as value, headers
             from millrace.dead_letter
             where pipeline = $1 and topic = $2 and event_id = $3 and state = 'open' order by id limit $4",
        );
        let open = open.bind(pipeline).bind(topic).bind(event_id).bind(LIST_MAX);
        let rows = answered(&self.pool, async |connection| Ok(open.fetch_all(connection).await?)).await?;
        rows.iter().map(|row| Ok((row.try_get("id")?, record(row)?))).collect()
    }

    /// Marks a letter replayed whose effect was found to be there: false when it is no longer open.
    pub(crate) async fn note_replayed(&self, id: i64) -> Result<bool, Failure> {
        answered(&self.pool, async |connection| {
            let mut transaction = connection.begin().await?;
            let noted = mark_replayed(&mut transaction, id).await?;
            transaction.commit().await?;
            Ok(noted)
        })
        .await
    }

    /// Settles a letter whose event has taken effect by another record, if that has not settled it already: false when
    /// it has not taken effect.
    pub(crate) async fn settle_superseded(&self, id: i64) -> Result<bool, Failure> {
        let done = sqlx::query(AssertSqlSafe(format!(
            "update millrace.dead_letter l set state = 'superseded', settled_at = coalesce(settled_at, now())
             where id = $1 and state in ('open', 'superseded') and {TOOK_EFFECT}"
        )));
        Ok(done.bind(id).execute(&self.pool).await?.rows_affected() == 1)
    }

    /// Notes that a replay failed, and why.
    pub(crate) async fn note_failure(&self, id: i64, reject: &Reject) -> Result<(), Failure> {
        sqlx::query(
            "update millrace.dead_letter set attempts = attempts + 1, reason = $2, error = $3
             where id = $1 and state = 'open'",
        )
        .bind(id)
        .bind(reject.reason.as_str())
        .bind(postgres_text(&reject.error))
        .execute(&self.pool)
        .await?;
        Ok(())
    }
}

/// Writes rejected records beside the checkpoint. A range applied again finds them already there.
pub(crate) async fn write(tx: &mut PgConnection, claim: &Claim, rejected: &[Rejected]) -> Result<(), Failure> {
    // A statement carries at most 65,535 parameters; and a chunk of large records stays small this way.
    for chunk in rejected.chunks(100) {
        let mut insert = QueryBuilder::new(
            "insert into millrace.dead_letter
             (pipeline, topic, topic_id, partition, \"offset\", event_id, logged_at, key, value, headers, reason, error) ",
        );
        insert.push_values(chunk, |mut row, Rejected { record, event_id, reject }| {
            let Position { topic, partition, offset } = &record.position;
            row.push_bind(&*claim.pipeline).push_bind(&**topic).push_bind(&*claim.topic_id);
            row.push_bind(partition).push_bind(offset).push_bind(event_id);
            row.push_bind(record.timestamp).push_bind(record.key()).push_bind(record.value());
            row.push_bind(headers_to_json(record)).push_bind(reject.reason.as_str());
            row.push_bind(postgres_text(&reject.error));
        });
        insert.push(" on conflict (pipeline, topic, topic_id, partition, \"offset\") do nothing");
        insert.build().execute(&mut *tx).await?;
    }
    Ok(())
}

/// Of a letter `l`, or what would be one: has its event taken effect by another record?
const TOOK_EFFECT: &str = "exists (select from millrace.dead_letter other where other.pipeline = l.pipeline
    and other.topic = l.topic and other.event_id = l.event_id and other.state in ('replayed', 'superseded'))";

/// Events that came again and take effect now, after a record of theirs had been set aside: its letter must not give
/// them their effect once more.
///
/// # Errors
/// [`Failure::Stop`] when it has done so while this was on its way: roll back.
pub(crate) async fn supersede(tx: &mut PgConnection, claim: &Claim, events: &[Uuid]) -> Result<(), Failure> {
    if events.is_empty() {
        return Ok(()); // nearly always
    }
    sqlx::query(
        "update millrace.dead_letter set state = 'superseded', settled_at = now()
         where pipeline = $1 and topic = $2 and event_id = any($3) and state = 'open'",
    )
    .bind(&*claim.pipeline)
    .bind(&*claim.topic)
    .bind(events)
    .execute(&mut *tx)
    .await?;
    // A statement of its own, so that it sees whoever the one before has waited for.
    let replayed: Option<i64> = sqlx::query_scalar(
        "select id from millrace.dead_letter
         where pipeline = $1 and topic = $2 and event_id = any($3) and state = 'replayed' limit 1",
    )
    .bind(&*claim.pipeline)
    .bind(&*claim.topic)
    .bind(events)
    .fetch_optional(tx)
    .await?;
    let Some(letter) = replayed else { return Ok(()) };
    Err(Failure::stop(anyhow::anyhow!(
        "dead letter {letter} was replayed while its event came again: it is not applied twice; start again"
    )))
}

/// Marks a letter replayed, in the transaction of its effect: a second replay finds nothing to do, nor does one of
/// another letter of the same event.
pub(crate) async fn settle_replayed(tx: &mut PgConnection, letter: i64) -> Result<(), Failure> {
    match mark_replayed(tx, letter).await? {
        true => Ok(()),
        false => Err(Failure::stop(anyhow::anyhow!(
            "dead letter {letter} is no longer open: somebody was faster. `millrace dead-letters show {letter}` says what \
             became of it; where its event is in ClickHouse twice by now, `millrace verify clickhouse` names it"
        ))),
    }
}

/// False when it is no longer open, or its event has taken effect by another record.
async fn mark_replayed(tx: &mut PgConnection, letter: i64) -> Result<bool, Failure> {
    let done = sqlx::query(AssertSqlSafe(format!(
        "update millrace.dead_letter l set state = 'replayed', settled_at = now(), attempts = attempts + 1
         where id = $1 and state = 'open' and not {TOOK_EFFECT}"
    )));
    if done.bind(letter).execute(&mut *tx).await?.rows_affected() != 1 {
        return Ok(false);
    }
    // Two that are replayed at once wait for each other here, and Postgres gives one of them up.
    let others = sqlx::query(
        "update millrace.dead_letter other set state = 'superseded', settled_at = now()
         from millrace.dead_letter l where l.id = $1 and other.state = 'open'
         and other.pipeline = l.pipeline and other.topic = l.topic and other.event_id = l.event_id",
    );
    others.bind(letter).execute(tx).await?;
    Ok(true)
}

/// Postgres text holds every character but NUL, which others may well put into theirs.
pub fn postgres_text(text: &str) -> String {
    text.replace('\0', "\\0")
}

fn headers_to_json(record: &Record) -> serde_json::Value {
    let pair = |(name, value): (&str, Option<&[u8]>)| {
        serde_json::json!([postgres_text(name), value.map(|bytes| BASE64_STANDARD.encode(bytes))])
    };
    record.headers().map(pair).collect()
}

fn dead_letter(row: &PgRow) -> Result<DeadLetter, Failure> {
    Ok(DeadLetter {
        id: row.try_get("id")?,
        pipeline: row.try_get("pipeline")?,
        record: record(row)?,
        reason: row.try_get("reason")?,
        error: row.try_get("error")?,
        attempts: row.try_get("attempts")?,
        state: state(row.try_get("state")?),
        created_at: row.try_get("created_at")?,
        settled_at: row.try_get("settled_at")?,
    })
}

fn state(text: &str) -> DeadLetterState {
    match text {
        "replayed" => DeadLetterState::Replayed,
        "discarded" => DeadLetterState::Discarded,
        "superseded" => DeadLetterState::Superseded,
        _ => DeadLetterState::Open,
    }
}

fn record(row: &PgRow) -> Result<Record, Failure> {
    let (key, value): (Option<Vec<u8>>, Option<Vec<u8>>) = (row.try_get("key")?, row.try_get("value")?);
    let headers: serde_json::Value = row.try_get("headers")?;
    let header = |pair: &serde_json::Value| {
        let value = pair[1].as_str().map(|text| BASE64_STANDARD.decode(text)).transpose().map_err(Failure::stop)?;
        Ok((pair[0].as_str().unwrap_or_default().as_bytes().to_vec(), value))
    };
    let headers = headers.as_array().into_iter().flatten().map(header).collect::<Result<Vec<_>, Failure>>()?;
    let topic: String = row.try_get("topic")?;
    let position =
        Position { topic: topic.into(), partition: row.try_get("partition")?, offset: row.try_get("offset")? };
    let mut space = BytesMut::new();
    let record = RecordBuilder::new(&mut space, key.as_deref(), value.as_deref());
    Ok(record.headers(headers).build(position, row.try_get("logged_at")?))
}
