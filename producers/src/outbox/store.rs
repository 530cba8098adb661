//! All that is asked of a source's database, on one connection: its tables are those of `outbox/outbox.sql`.

use super::row::Row;
use futures_util::TryStreamExt;
use millrace_stream::{Failure, in_time};
use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use std::time::Duration;

/// A database that is away is waited for no longer; readiness is asked for within three seconds.
const CONNECT_DEADLINE: Duration = Duration::from_secs(2);
/// Where writers say that there is something, to a relay that sleeps.
pub(super) const CHANNEL: &str = "millrace_outbox";
/// Held by a relay that sleeps; the trigger of `outbox.sql` looks for it.
pub(super) const SLEEPING: i64 = 7_885_914_471_301;

/// Sixteen times what a broker takes unless told otherwise; a term begins with [`super::term::ROWS_FIRST`] of them.
const ROW_BYTES_MAX: i32 = 16 << 20;
/// Somebody shall look long before; counting more of them would keep events waiting.
const SET_ASIDE_COUNTED_MAX: i64 = 10_001;

/// The owner's hold of an outbox.
pub(super) struct Store {
    connection: PgConnection,
    epoch: i64,
    lease: Duration,
}

/// What every look begins with.
pub(super) struct Look {
    /// The last seq that was drawn.
    pub written: i64,
    /// Every transaction below has ended.
    pub xmin: u64,
}

/// Why a row was not published.
pub(super) struct SetAside {
    pub seq: i64,
    pub reason: String,
}

/// Rows in their order.
pub(super) struct Rows {
    pub rows: Vec<Row>,
    /// There was no room for more.
    pub full: bool,
}

/// Rows are read along the primary key; a planner that knows a partition as it was before it was emptied and filled
/// might sort all of a backlog for each batch instead.
pub(super) fn options(database: PgConnectOptions) -> PgConnectOptions {
    let plans = [("enable_seqscan", "off"), ("enable_bitmapscan", "off"), ("enable_sort", "off")];
    // One of us that freezes keeps nobody waiting.
    let ends = [("statement_timeout", "30s"), ("idle_in_transaction_session_timeout", "10s")];
    // Whoever empties a partition must see what was committed before it was locked.
    let isolation = [("default_transaction_isolation", "read committed")];
    database.application_name("millrace relay").options(plans).options(ends).options(isolation)
}

/// # Errors
/// When the database does not answer, or its outbox is missing or not for this role.
pub(super) async fn reachable(database: &PgConnectOptions) -> anyhow::Result<()> {
    let mut connection = connect(database).await.map_err(|failure| anyhow::anyhow!("{failure}"))?;
    sqlx::query("select 1 from millrace.outbox_relay, millrace.outbox_published").execute(&mut connection).await?;
    Ok(connection.close().await?)
}

/// Not by a pool, which tries again and again and does not tell what it met.
async fn connect(database: &PgConnectOptions) -> Result<PgConnection, Failure> {
    let connected = tokio::time::timeout(CONNECT_DEADLINE, PgConnection::connect_with(database)).await;
    Ok(connected.map_err(|_| Failure::retry(anyhow::anyhow!("no answer within {CONNECT_DEADLINE:?}")))??)
}

/// Hears when a writer rings, on a connection of its own.
pub(super) async fn listen(database: &PgConnectOptions) -> Result<PgListener, Failure> {
    let one = PgPoolOptions::new().max_connections(1).acquire_timeout(CONNECT_DEADLINE);
    let mut listener = PgListener::connect_with(&one.connect_lazy_with(database.clone())).await?;
    listener.listen(CHANNEL).await?;
    Ok(listener)
}

impl Store {
    /// Owns the outbox from now on, unless somebody does: whose lease has not ended and whose connection is there.
    /// With what was published before.
    pub async fn take(
        database: &PgConnectOptions,
        owner: &str,
        lease: Duration,
    ) -> Result<Option<(Self, i64)>, Failure> {
        in_time(async {
            let mut connection = connect(database).await?;
            let taken = sqlx::query_scalar(
                "update millrace.outbox_relay set epoch = epoch + 1, owner = $1, backend = pg_backend_pid(),
                        until = clock_timestamp() + make_interval(secs => $2)
                 where until < clock_timestamp()
                    or until > clock_timestamp() + 2 * make_interval(secs => $2) -- the clock was set back
                    or not exists (select from pg_stat_activity where pid = backend)
                 returning epoch",
            );
            let taken = taken.bind(owner).bind(lease.as_secs_f64()).fetch_optional(&mut connection).await?;
            let Some(epoch) = taken else { return Ok(None) };
            // After the epoch is raised nobody else moves it.
            let published = sqlx::query_scalar("select last_value from millrace.outbox_published");
            let published = published.fetch_one(&mut connection).await?;
            Ok(Some((Self { connection, epoch, lease }, published)))
        })
        .await
    }

    pub async fn look(&mut self) -> Result<Look, Failure> {
        let look = sqlx::query_as(
            "select case when is_called then last_value else 0 end as written,
                    pg_snapshot_xmin(pg_current_snapshot())::text as xmin
             from millrace.outbox_seq",
        );
        let (written, xmin): (i64, String) = in_time(async { Ok(look.fetch_one(&mut self.connection).await?) }).await?;
        Ok(Look { written, xmin: transaction_number(&xmin)? })
    }

    /// A number higher than that of every transaction which has one.
    pub async fn draw_xid(&mut self) -> Result<u64, Failure> {
        let drawn = sqlx::query_scalar("select pg_current_xact_id()::text");
        let text: String = in_time(async { Ok(drawn.fetch_one(&mut self.connection).await?) }).await?;
        transaction_number(&text)
    }

    /// Those behind `after`, up to `through`, as many as there is room for and at least one.
    pub async fn read(&mut self, after: i64, through: i64, rows_max: i64, bytes_max: usize) -> Result<Rows, Failure> {
        let found = sqlx::query(
            "select seq, id, read.*,
                    case when bytes > $4::int then format('too large: %s bytes where %s are possible', bytes, $4::int)
                         when read.occurred_at is null then '/time: expected a time in the years 1 to 9999' end as unfit
             from (select *, data::text as json_text,
                          greatest(octet_length(data::text), octet_length(avro), octet_length(type), octet_length(key),
                                   octet_length(dataschema), octet_length(correlation_id), octet_length(causation_id),
                                   octet_length(traceparent), octet_length(tracestate)) as bytes
                   from millrace.outbox where seq > $1 and seq <= $2 order by seq limit $3) as event
             left join lateral (
                 select type, key, json_text as data, avro, dataschema, correlation_id, causation_id, traceparent, tracestate,
                        case when event.occurred_at >= '0001-01-01 00:00Z' and event.occurred_at < '10000-01-01 00:00Z'
                             then event.occurred_at end as occurred_at,
                        case when isfinite(written_at) then extract(epoch from written_at)::float8 end as written_at
                 where bytes <= $4::int) as read on true
             order by seq",
        );
        let mut found = found.bind(after).bind(through).bind(rows_max).bind(ROW_BYTES_MAX).fetch(&mut self.connection);
        in_time(async {
            let (mut rows, mut bytes) = (Vec::new(), 0);
            while let Some(row) = found.try_next().await? {
                let row = Row::read(&row)?;
                bytes += row.bytes();
                rows.push(row);
                if bytes >= bytes_max {
                    return Ok(Rows { rows, full: true });
                }
            }
            let full = i64::try_from(rows.len()).is_ok_and(|rows| rows >= rows_max);
            Ok(Rows { rows, full })
        })
        .await
    }

    /// Keeps what fits no contract, before it counts as published.
    pub async fn set_aside(&mut self, refused: &[SetAside]) -> Result<(), Failure> {
        let seqs: Vec<i64> = refused.iter().map(|row| row.seq).collect();
        let reasons: Vec<&str> = refused.iter().map(|row| row.reason.as_str()).collect();
        let kept = sqlx::query(
            "with mine as materialized (select 1 from millrace.outbox_relay where epoch = $1 for share)
             insert into millrace.outbox_set_aside (seq, id, type, key, data, avro, dataschema, occurred_at,
                    correlation_id, causation_id, traceparent, tracestate, written_at, reason)
             select seq, id, type, key, data, avro, dataschema, occurred_at,
                    correlation_id, causation_id, traceparent, tracestate, written_at, refused.reason
             from mine, unnest($2::bigint[], $3::text[]) as refused (seq, reason) join millrace.outbox using (seq)
             on conflict (seq) do nothing",
        );
        let kept = kept.bind(self.epoch).bind(seqs).bind(reasons);
        in_time(async { Ok(kept.execute(&mut self.connection).await.map(drop)?) }).await
    }

    /// Everything up to here is in the log or set aside. False where somebody else owns the outbox by now.
    pub async fn settle(&mut self, published: i64) -> Result<bool, Failure> {
        // The row is locked before anything moves: the next owner reads what was published after raising the epoch.
        let moved = sqlx::query(
            "with mine as materialized (select 1 from millrace.outbox_relay where epoch = $1 for share)
             select setval('millrace.outbox_published', $2) from mine",
        );
        let moved = moved.bind(self.epoch).bind(published);
        in_time(async { Ok(moved.fetch_optional(&mut self.connection).await?.is_some()) }).await
    }

    /// False where somebody else owns the outbox by now.
    pub async fn renew(&mut self) -> Result<bool, Failure> {
        self.own_for(Some(self.lease)).await
    }

    /// Anybody may take it at once.
    pub async fn release(&mut self) -> Result<bool, Failure> {
        self.own_for(None).await
    }

    async fn own_for(&mut self, lease: Option<Duration>) -> Result<bool, Failure> {
        let renewed = sqlx::query(
            "update millrace.outbox_relay set until = coalesce(clock_timestamp() + make_interval(secs => $2), '-infinity')
             where epoch = $1",
        );
        let renewed = renewed.bind(self.epoch).bind(lease.map(|lease| lease.as_secs_f64()));
        in_time(async { Ok(renewed.execute(&mut self.connection).await?.rows_affected() == 1) }).await
    }

    /// From now on writers notify. False while one that has not ended was told before that there is no need.
    pub async fn fall_asleep(&mut self) -> Result<bool, Failure> {
        let lock = sqlx::query_scalar("select pg_try_advisory_lock($1)").bind(SLEEPING);
        in_time(async { Ok(lock.fetch_one(&mut self.connection).await?) }).await
    }

    pub async fn wake_up(&mut self) -> Result<(), Failure> {
        let lock = sqlx::query("select pg_advisory_unlock($1)").bind(SLEEPING);
        in_time(async { Ok(lock.execute(&mut self.connection).await.map(drop)?) }).await
    }

    /// When the oldest row behind `published` was written, Unix time in seconds.
    pub async fn oldest(&mut self, published: i64) -> Result<Option<f64>, Failure> {
        let oldest = sqlx::query_scalar(
            "select case when isfinite(written_at) then extract(epoch from written_at)::float8 end
             from millrace.outbox where seq > $1 order by seq limit 1",
        );
        let oldest = oldest.bind(published);
        in_time(async { Ok(oldest.fetch_optional(&mut self.connection).await?.flatten()) }).await
    }

    /// At most [`SET_ASIDE_COUNTED_MAX`].
    pub async fn count_set_aside(&mut self) -> Result<i64, Failure> {
        let count =
            sqlx::query_scalar("select count(*) from (select from millrace.outbox_set_aside limit $1) as counted");
        let count = count.bind(SET_ASIDE_COUNTED_MAX);
        in_time(async { Ok(count.fetch_one(&mut self.connection).await?) }).await
    }

    /// Whose transaction has been running longest, of those that hold the relay back.
    pub async fn holder(&mut self) -> Result<Option<String>, Failure> {
        let oldest = sqlx::query_scalar(
            "select who from (
                 select concat_ws(', ', 'pid ' || pid, 'application_name ' || quote_literal(application_name),
                                  'database ' || datname, nullif(state, ''), 'running since ' || xact_start) as who,
                        age(backend_xid) as age
                 from pg_stat_activity where backend_xid is not null and pid <> pg_backend_pid()
                 union all
                 select format('prepared transaction %L of database %s, prepared %s', gid, database, prepared), age(transaction)
                 from pg_prepared_xacts
             ) as running order by age desc limit 1",
        );
        in_time(async { Ok(oldest.fetch_optional(&mut self.connection).await?) }).await
    }

    /// Empties the partitions that are neither in use nor were a minute ago, and all of which is published.
    pub async fn empty_partitions(&mut self, published: i64) -> Result<(), Failure> {
        let done = sqlx::query_scalar(
            "with minute as (select extract(epoch from clock_timestamp())::bigint / 60 as now)
             select ring.slot from minute, generate_series(0, 3) as ring (slot)
             where ring.slot not in (now % 4, (now + 3) % 4)
               and exists (select from millrace.outbox where outbox.slot = ring.slot)
               and not exists (select from millrace.outbox where outbox.slot = ring.slot and seq > $1)",
        );
        let done: Vec<i32> = in_time(async { Ok(done.bind(published).fetch_all(&mut self.connection).await?) }).await?;
        for slot in done {
            let empty = AssertSqlSafe(empty(slot, published));
            in_time(async { Ok(sqlx::raw_sql(empty).execute(&mut self.connection).await.map(drop)?) }).await?;
        }
        Ok(())
    }
}

/// Behind the lock nobody's uncommitted row can be in there. It is not waited for: a writer would wait behind us. All
/// of it at once on the server, so that one of us that freezes never holds the lock.
fn empty(slot: i32, published: i64) -> String {
    format!(
        "do $$ begin
             lock table millrace.outbox_{slot} in access exclusive mode nowait;
             if not exists (select from millrace.outbox where slot = {slot} and seq > {published}) then
                 truncate millrace.outbox_{slot};
             end if;
         exception when lock_not_available then null;
         end $$"
    )
}

/// sqlx knows Postgres' `xid8` as text only.
fn transaction_number(text: &str) -> Result<u64, Failure> {
    text.parse().map_err(Failure::stop)
}
