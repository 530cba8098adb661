//! Checkpoints: who owns a partition, and how far its effect reaches. The truth, kept in Postgres.
//!
//! Every new owner raises `epoch`; every write carries the epoch it was claimed with. A stale owner's
//! write touches no row and is therefore refused, in the same transaction as the effect it came with.

use crate::dead_letter::{self, Rejected};
use crate::memory_bound::Held;
use crate::{Failure, PartitionProgress, Position, Range, Record, Standing, answered, standstill};
use chrono::{DateTime, Utc};
use millrace_schemas::Envelope;
use serde_json::Value;
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, PgPool, Row};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use uuid::Uuid;

/// A process that freezes within a transaction keeps the row it has settled from its next owner. After this Postgres
/// ends the transaction: long enough for a slow batch's next statement, short enough for who waits to take over.
const NOT_FOR_EVER: &str = "set local idle_in_transaction_session_timeout = '15s'";

/// Of a reason: a server's message can quote a whole statement.
const HELD_UP_CHARS_MAX: usize = 2_000;

/// The checkpoint table.
#[derive(Clone)]
pub struct Checkpoints {
    pool: PgPool,
}

/// One row of it, as an operator sees it.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    pub pipeline: String,
    pub topic: String,
    /// Kafka's id of the topic that it has read.
    pub topic_id: String,
    pub partition: i32,
    pub epoch: i64,
    pub next: i64,
    pub reached_at: Option<DateTime<Utc>>,
    pub updated_at: DateTime<Utc>,
    pub held_up: Option<HeldUp>,
}

/// Why what comes next has not taken effect, and since when. Everything waits, nothing is lost.
#[derive(Debug, Clone)]
pub struct HeldUp {
    pub by: String,
    pub since: DateTime<Utc>,
}

/// The right to write a partition's effects, until somebody claims it after us.
#[derive(Debug, Clone)]
pub struct Claim {
    pub pipeline: Arc<str>,
    pub topic: Arc<str>,
    /// Kafka's id of the topic: which log of this name it is.
    pub(crate) topic_id: Arc<str>,
    pub partition: i32,
    epoch: i64,
    /// The first offset that has not taken effect.
    pub next: i64,
    /// One past the last offset of a range that an earlier owner had begun to write elsewhere: that is the next batch.
    pub planned_to: Option<i64>,
}

impl Checkpoints {
    pub fn new(pool: PgPool) -> Self {
        Self { pool }
    }

    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// Takes partitions over, all or none: every earlier owner's writes to them fail from now on.
    ///
    /// # Errors
    /// [`Failure::Stop`] when a topic was recreated under its name.
    pub(crate) async fn claim(&self, pipeline: &Arc<str>, wanted: Vec<Wanted>) -> Result<Vec<Claim>, Failure> {
        let topics: Vec<&str> = wanted.iter().map(|wanted| &*wanted.topic).collect();
        let topic_ids: Vec<&str> = wanted.iter().map(|wanted| &*wanted.topic_id).collect();
        let partitions: Vec<i32> = wanted.iter().map(|wanted| wanted.partition).collect();
        let starts: Vec<i64> = wanted.iter().map(|wanted| wanted.log_start).collect();
        // Two processes that claim at once lock the rows in the same order.
        let rows = sqlx::query(
            "insert into millrace.checkpoint as c (pipeline, topic, partition, topic_id, epoch, next)
             select $1, topic, partition, topic_id, 1, log_start
             from unnest($2::text[], $3::int[], $4::text[], $5::bigint[]) as w (topic, partition, topic_id, log_start)
             order by topic, partition
             on conflict (pipeline, topic, partition) do update
             set epoch = c.epoch + 1, held_up_by = null, held_up_since = null, updated_at = now()
             returning topic, partition, topic_id, epoch, next, plan",
        )
        .bind(&**pipeline)
        .bind(topics)
        .bind(partitions)
        .bind(topic_ids)
        .bind(starts)
        .fetch_all(&self.pool)
        .await?;
        let mut found = HashMap::new();
        for row in rows {
            found.insert((row.try_get::<String, _>("topic")?, row.try_get::<i32, _>("partition")?), row);
        }
        let row = |wanted: &Wanted| found.remove(&(wanted.topic.to_string(), wanted.partition));
        wanted.iter().zip(wanted.iter().map(row)).map(|(wanted, row)| Claim::of(pipeline, wanted, row)).collect()
    }

    /// All checkpoints, for people.
    pub async fn list(&self) -> Result<Vec<Checkpoint>, sqlx::Error> {
        let rows = sqlx::query(
            "select pipeline, topic, topic_id, partition, epoch, next, reached_at, updated_at, held_up_by, held_up_since
             from millrace.checkpoint order by pipeline, topic, partition",
        );
        rows.fetch_all(&self.pool).await?.iter().map(checkpoint).collect()
    }

    /// Lets pipelines begin with what this log holds of a topic, where what comes next for them is not in it: the topic
    /// was recreated, or records were deleted before they took effect. Returns where they were. Nobody who had begun
    /// something there settles it.
    pub async fn reset(
        &self,
        topic: &str,
        topic_id: &str,
        log: &[PartitionProgress],
    ) -> Result<Vec<Checkpoint>, sqlx::Error> {
        let partitions: Vec<i32> = log.iter().map(|held| held.partition).collect();
        let starts: Vec<i64> = log.iter().map(|held| held.log_start).collect();
        let ends: Vec<i64> = log.iter().map(|held| held.log_end).collect();
        let rows = sqlx::query(
            "with log as (select * from unnest($3::int[], $4::bigint[], $5::bigint[]) as l (partition, log_start, log_end)),
             former as (
                 select c.* from millrace.checkpoint c left join log l using (partition)
                 where c.topic = $1 and (c.topic_id <> $2 or c.next not between l.log_start and l.log_end)
                 order by c.topic, c.partition for update of c),
             begun as (
                 update millrace.checkpoint c
                 set topic_id = $2, epoch = c.epoch + 1, next = l.log_start, plan = null, reached_at = null,
                     held_up_by = null, held_up_since = null, updated_at = now()
                 from former f join log l using (partition)
                 where c.pipeline = f.pipeline and c.topic = f.topic and c.partition = f.partition),
             gone as (
                 delete from millrace.checkpoint c using former f
                 where c.pipeline = f.pipeline and c.topic = f.topic and c.partition = f.partition
                   and f.partition not in (select partition from log))
             select pipeline, topic, topic_id, partition, epoch, next, reached_at, updated_at, held_up_by, held_up_since
             from former order by pipeline, partition",
        );
        let rows = rows.bind(topic).bind(topic_id).bind(partitions).bind(starts).bind(ends);
        rows.fetch_all(&self.pool).await?.iter().map(checkpoint).collect()
    }

    /// Notes why a range that begins at `from` has not taken effect. Settling it takes the note back.
    pub(crate) async fn note_held_up(&self, claim: &Claim, from: i64, by: &str) -> Result<(), sqlx::Error> {
        let by: String = by.chars().take(HELD_UP_CHARS_MAX).collect();
        let note = sqlx::query(
            "update millrace.checkpoint set held_up_by = $6, held_up_since = coalesce(held_up_since, now())
             where pipeline = $1 and topic = $2 and partition = $3 and epoch = $4 and next <= $5",
        );
        let note = note.bind(&*claim.pipeline).bind(&*claim.topic).bind(claim.partition);
        note.bind(claim.epoch).bind(from).bind(by).execute(&self.pool).await.map(drop)
    }

    /// After an answer was lost: did the range's settlement reach the disk?
    pub(crate) async fn has_settled(&self, claim: &Claim, range: (i64, i64)) -> Result<bool, Failure> {
        match answered(&self.pool, async |connection| claim.standing(range, connection).await).await? {
            Standing::Before => Ok(false),
            Standing::Settled => Ok(true),
            Standing::Lost => Err(claim.fenced()),
        }
    }
}

fn checkpoint(row: &PgRow) -> Result<Checkpoint, sqlx::Error> {
    Ok(Checkpoint {
        pipeline: row.try_get("pipeline")?,
        topic: row.try_get("topic")?,
        topic_id: row.try_get("topic_id")?,
        partition: row.try_get("partition")?,
        epoch: row.try_get("epoch")?,
        next: row.try_get("next")?,
        reached_at: row.try_get("reached_at")?,
        updated_at: row.try_get("updated_at")?,
        held_up: match (row.try_get("held_up_by")?, row.try_get("held_up_since")?) {
            (Some(by), Some(since)) => Some(HeldUp { by, since }),
            _ => None,
        },
    })
}

fn planned_to(plan: &Value) -> Result<i64, Failure> {
    plan["to"].as_i64().ok_or_else(|| Failure::stop(anyhow::anyhow!("checkpoint plan has no `to`: {plan}")))
}

/// A partition that is to be taken over.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub topic: Arc<str>,
    /// Kafka's id of the topic.
    pub topic_id: String,
    pub partition: i32,
    /// Where a pipeline that has never seen this partition begins.
    pub log_start: i64,
}

/// Another log under the same name.
pub(crate) fn recreated(pipeline: &str, topic: &str, known: &str, found: &str) -> Failure {
    Failure::stop(anyhow::anyhow!(
        "topic {topic} was recreated: {pipeline} has read topic id {known}, the broker now has {found}. \
         Its offsets mean nothing here; once you know what was lost, `millrace reset {topic}` lets pipelines begin with \
         what the log holds"
    ))
}

impl Claim {
    /// For reading: an epoch that no owner has, so that nothing can be settled with it.
    pub(crate) fn nobodys(pipeline: &str, topic: &str, partition: i32, next: i64) -> Self {
        let (pipeline, topic, topic_id) = (pipeline.into(), topic.into(), "".into());
        Self { pipeline, topic, topic_id, partition, epoch: 0, next, planned_to: None }
    }

    /// Does it only read?
    pub(crate) fn is_nobodys(&self) -> bool {
        self.epoch == 0
    }

    fn of(pipeline: &Arc<str>, wanted: &Wanted, row: Option<PgRow>) -> Result<Self, Failure> {
        let Wanted { topic, topic_id, partition, .. } = wanted;
        let row = row.ok_or_else(|| Failure::stop(anyhow::anyhow!("no checkpoint for {topic}[{partition}]")))?;
        let known: String = row.try_get("topic_id")?;
        if known != *topic_id {
            return Err(recreated(pipeline, topic, &known, topic_id));
        }
        let plan: Option<Value> = row.try_get("plan")?;
        Ok(Self {
            pipeline: pipeline.clone(),
            topic: topic.clone(),
            topic_id: known.into(),
            partition: *partition,
            epoch: row.try_get("epoch")?,
            next: row.try_get("next")?,
            planned_to: plan.as_ref().map(planned_to).transpose()?,
        })
    }

    fn fenced(&self) -> Failure {
        Failure::stop(anyhow::anyhow!(
            "{} lost {}[{}] to another owner (epoch {} is stale); nothing was written",
            self.pipeline,
            self.topic,
            self.partition,
            self.epoch
        ))
    }
}

/// A decoded event and where it was found.
#[derive(Debug, Clone)]
pub struct Event<E> {
    pub position: Position,
    pub logged_at: Option<DateTime<Utc>>,
    pub schema_id: u32,
    pub envelope: Envelope<'static>,
    pub body: E,
}

/// What a batch is for: moving a partition forward, or replaying one dead letter.
#[derive(Debug, Clone)]
pub(crate) enum Purpose {
    Advance { claim: Arc<Claim>, from: i64, to: i64, reached_at: Option<DateTime<Utc>> },
    Replay { letter: i64 },
}

/// Events of one contiguous range of one partition, on their way to taking effect.
#[derive(Debug)]
pub struct Batch<B> {
    pub block: B,
    /// How many are in the block.
    pub(crate) events: usize,
    /// Log timestamp of the oldest of them.
    pub(crate) oldest: Option<DateTime<Utc>>,
    pub(crate) rejected: Vec<Rejected>,
    /// Events in the block of which a record had been set aside before.
    pub(crate) superseding: Vec<Uuid>,
    /// What its records weighed; nothing for a replayed letter.
    pub(crate) held: Option<Held>,
    /// Its plan was written down, so that its effect may have begun.
    pub(crate) planned: AtomicBool,
    pub(crate) purpose: Purpose,
    pub(crate) pipeline: Arc<str>,
}

/// Proof that a batch's settlement is part of the caller's transaction.
#[must_use]
#[derive(Debug, PartialEq, Eq)]
pub struct Settled(());

impl<B: Default> Batch<B> {
    pub(crate) fn new(purpose: Purpose, pipeline: Arc<str>) -> Self {
        Self {
            block: B::default(),
            events: 0,
            oldest: None,
            rejected: Vec::new(),
            superseding: Vec::new(),
            held: None,
            planned: AtomicBool::new(false),
            purpose,
            pipeline,
        }
    }
}

impl<B> Batch<B> {
    /// Notes that the batch's range includes this record, whatever becomes of it.
    pub(crate) fn reached(&mut self, record: &Record) {
        if let Purpose::Advance { to, reached_at, .. } = &mut self.purpose {
            *to = (*to).max(record.position.offset + 1);
            *reached_at = (*reached_at).max(record.timestamp);
        }
    }

    /// Does it reach over any record?
    pub(crate) fn has_begun(&self) -> bool {
        self.range().is_some_and(|(from, to)| from < to)
    }

    /// Notes that this record's event is in the block.
    pub(crate) fn count(&mut self, record: &Record) {
        self.events += 1;
        self.oldest = self.oldest.min(record.timestamp).or(self.oldest).or(record.timestamp);
    }

    /// When the newest of its records was logged, where the log tells; not said of a replayed dead letter.
    pub fn logged_at(&self) -> Option<DateTime<Utc>> {
        match &self.purpose {
            Purpose::Advance { reached_at, .. } => *reached_at,
            Purpose::Replay { .. } => None,
        }
    }

    /// The range, as `(from, to)` with `to` excluded; none for a replayed dead letter.
    pub fn range(&self) -> Option<(i64, i64)> {
        match &self.purpose {
            Purpose::Advance { from, to, .. } => Some((*from, *to)),
            Purpose::Replay { .. } => None,
        }
    }

    /// The same with its topic and partition.
    pub fn place(&self) -> Option<Range> {
        let Purpose::Advance { claim, from, to, .. } = &self.purpose else { return None };
        Some(Range { topic: claim.topic.to_string(), partition: claim.partition, from: *from, to: *to })
    }

    /// How many of its records could not be read or be given their effect.
    pub fn rejected(&self) -> usize {
        self.rejected.len()
    }

    /// Was its plan written down, by any attempt so far?
    pub fn was_planned(&self) -> bool {
        self.planned.load(Ordering::Relaxed)
    }

    /// The range that the partition's owner before this one had planned and not settled, as [`Batch::range`] says it.
    pub fn inherited(&self) -> Option<(i64, i64)> {
        let Purpose::Advance { claim, .. } = &self.purpose else { return None };
        claim.planned_to.map(|to| (claim.next, to))
    }

    /// Moves the checkpoint over this batch and writes its dead letters, within the caller's transaction:
    /// commit it together with the effect, or not at all.
    ///
    /// # Errors
    /// [`Failure::Stop`] when another owner has the partition: roll back.
    pub async fn settle(&self, tx: &mut PgConnection) -> Result<Settled, Failure> {
        self.settle_planned(tx, None).await
    }

    /// The same for what was planned before, unless a rebuild did not wait for it for ever.
    ///
    /// # Errors
    /// [`Failure::Retry`] when it did not: what was written elsewhere may be in a table that is no longer in use.
    pub async fn settle_planned(&self, tx: &mut PgConnection, planned: Option<&Planned>) -> Result<Settled, Failure> {
        sqlx::query(NOT_FOR_EVER).execute(&mut *tx).await?;
        match &self.purpose {
            Purpose::Advance { claim, from, to, reached_at } => {
                let attempt = planned.map(|planned| planned.attempt);
                claim.advance(tx, *from, *to, *reached_at, attempt).await?;
                dead_letter::write(tx, claim, &self.rejected).await?;
                dead_letter::supersede(tx, claim, &self.superseding).await?;
            }
            Purpose::Replay { letter } => dead_letter::settle_replayed(tx, *letter).await?,
        }
        Ok(Settled(()))
    }

    /// Writes down what is about to be written elsewhere, before it is; not while its topic stands still. A replay needs
    /// no plan.
    pub async fn plan(&self, pool: &PgPool, note: &Value) -> Result<Option<Planned>, Failure> {
        let Purpose::Advance { claim, from, to, .. } = &self.purpose else { return Ok(None) };
        let planned = Planned { claim: claim.clone(), attempt: Uuid::new_v4() };
        let plan = serde_json::json!({ "to": to, "note": note, "attempt": planned.attempt });
        let statement = sqlx::query(
            "update millrace.checkpoint set plan = $6, updated_at = now()
             where pipeline = $1 and topic = $2 and partition = $3 and epoch = $4 and next = $5
             and ((plan is not null and plan -> 'waits' is null) or millrace.may_begin($7, $2))",
        )
        .bind(&*claim.pipeline)
        .bind(&*claim.topic)
        .bind(claim.partition)
        .bind(claim.epoch)
        .bind(from)
        .bind(plan)
        .bind(standstill::STANDING_STILL);
        answered(pool, async |connection| {
            let done = statement.execute(&mut *connection).await?;
            match done.rows_affected() {
                1 => Ok(()),
                _ => Err(claim.may_not((*from, *to), connection).await?),
            }
        })
        .await?;
        self.planned.store(true, Ordering::Relaxed);
        Ok(Some(planned))
    }
}

/// An attempt at a plan.
#[derive(Debug)]
pub struct Planned {
    claim: Arc<Claim>,
    attempt: Uuid,
}

impl Planned {
    /// Says that this attempt is over and nothing settled: the next one asks again whether its topic stands still, so a
    /// rebuild need not wait for it. A statement that takes effect late finds another attempt and changes nothing.
    pub async fn lay_down(&self, pool: &PgPool) -> Result<(), Failure> {
        let statement = sqlx::query(
            "update millrace.checkpoint set plan = plan || '{\"waits\": true}'
             where pipeline = $1 and topic = $2 and partition = $3 and epoch = $4 and plan ->> 'attempt' = $5",
        );
        let claim = &self.claim;
        let statement = statement.bind(&*claim.pipeline).bind(&*claim.topic).bind(claim.partition);
        let statement = statement.bind(claim.epoch).bind(self.attempt.to_string());
        answered(pool, async |connection| Ok(statement.execute(connection).await.map(drop)?)).await
    }
}

impl Claim {
    async fn advance(
        &self,
        tx: &mut PgConnection,
        from: i64,
        to: i64,
        reached_at: Option<DateTime<Utc>>,
        attempt: Option<Uuid>,
    ) -> Result<(), Failure> {
        let done = sqlx::query(
            "update millrace.checkpoint
             set next = $6, plan = null, reached_at = greatest(reached_at, $7), held_up_by = null, held_up_since = null,
                 updated_at = now()
             where pipeline = $1 and topic = $2 and partition = $3 and epoch = $4 and next = $5
             and ($8 is null or (plan ->> 'attempt' = $8 and plan -> 'waits' is null))",
        )
        .bind(&*self.pipeline)
        .bind(&*self.topic)
        .bind(self.partition)
        .bind(self.epoch)
        .bind(from)
        .bind(to)
        .bind(reached_at)
        .bind(attempt.map(|attempt| attempt.to_string()))
        .execute(&mut *tx)
        .await?;
        if done.rows_affected() == 1 {
            return Ok(());
        }
        Err(self.may_not((from, to), tx).await?)
    }

    /// Why a range may not begin, or may not be settled.
    async fn may_not(&self, range: (i64, i64), connection: &mut PgConnection) -> Result<Failure, Failure> {
        Ok(match self.standing(range, connection).await? {
            Standing::Before => standstill::stands_still(&self.topic), // a rebuild did not wait for it for ever
            Standing::Settled => {
                Failure::retry(anyhow::anyhow!("the range up to {} has just been settled after all", range.1))
            }
            Standing::Lost => self.fenced(),
        })
    }

    async fn standing(&self, range: (i64, i64), connection: &mut PgConnection) -> Result<Standing, Failure> {
        let row = sqlx::query_as(
            "select epoch, next from millrace.checkpoint where pipeline = $1 and topic = $2 and partition = $3",
        );
        let row = row.bind(&*self.pipeline).bind(&*self.topic).bind(self.partition);
        let found = row.fetch_optional(connection).await?;
        Ok(found.map_or(Standing::Lost, |found| Standing::of(self.epoch, range, found))) // `reset` takes it away
    }
}
