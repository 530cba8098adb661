//! A table made anew from the log, beside the one in use, and put into its place once it is shown to be right.
//!
//! ```text
//! an empty shadow ─→ fill it from the log ─→ compare with the log ─→ carry over what the log does not have
//!    ─→ no event may be missing ─→ erase whom is to be erased ─→ stand still: what came meanwhile, exchange, drop the old one
//! ```
//!
//! Whatever dies before the exchange has changed nothing that anybody reads, and the next rebuild begins anew. The
//! exchange is one statement: views show the old rows or the new ones, never both and never none (ADR 0011).

mod exchange;
mod filling;
mod statements;

pub(super) use exchange::unless_exchanged;

use super::config::ClickHouseConfig;
use super::server::{Server, to_anyhow};
use super::table::{Found, Table};
use super::topology::Topology;
use super::verify::{Comparison, Difference, Found as Compared};
use super::{NAME, erasure, migrate};
use anyhow::{Context, ensure};
use filling::{Filling, Sum};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use millrace_schemas::{Cleanup, Contract, Contracts};
use millrace_stream::{
    DeadLetters, Failure, Handler, PipelineConfig, Range, Rebuilding, SetAside, Spine, crash_at, scan,
};
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;
use uuid::Uuid;

/// One statement: a copy of a month's rows takes longest.
const STATEMENT_DEADLINE: Duration = Duration::from_hours(1);
/// Ids that a server holds in memory to find those that are not among them: some 64 bytes each.
const EVENTS_AT_ONCE: u64 = 20_000_000;
/// In one statement, whose text has 256 KiB at most.
const OFFSETS_AT_ONCE: usize = 10_000;
/// Partitions read at once: each holds a consumer, two batches and a window of ids.
const PARTITIONS_AT_ONCE: usize = 4;
/// One that must not take long, or nothing of the topic is inserted meanwhile.
const MOMENT_DEADLINE: Duration = Duration::from_secs(30);
/// Rows get their time of insertion when an insert begins, and are there when it ends.
const LATE_SECONDS: u32 = 60;

/// What is to be made anew.
pub struct Rebuild<'a> {
    pub config: &'a ClickHouseConfig,
    pub contract: &'a Arc<Contract>,
    pub contracts: &'a Contracts,
    /// The part of the log that is read again; what lies outside is carried over. All have settled.
    pub ranges: Vec<Range>,
    pub pipeline: PipelineConfig,
    /// Put the new table into place also where events of the old one are not in it.
    pub fewer: bool,
}

/// How far it is.
#[derive(Debug, Clone, Copy)]
pub enum Progress {
    /// The log was read so far.
    Offsets { done: i64, of: i64 },
    /// Of what lies outside, so many months were carried over; told before the first and after each.
    Months { done: usize, of: usize },
    /// All is there: it is looked through, and put into the old one's place.
    Filled,
}

/// What came of it.
#[derive(Debug, Clone, Serialize)]
pub struct Rebuilt {
    pub table: String,
    pub ranges: Vec<Range>,
    /// Events of these ranges, in the old table and in the new one.
    pub before: u64,
    pub after: u64,
    /// Of the new one's, those that a compacted log has let go of.
    pub kept: u64,
    /// Of the old one's, those that are not in the log and not in the new one.
    pub left_out: u64,
    /// Records of these ranges, of any type, that could not be read.
    pub rejected: u64,
    /// How long nothing of the topic was inserted.
    pub still_seconds: f64,
}

/// A rebuild under way.
struct Work<'a> {
    rebuild: &'a Rebuild<'a>,
    spine: &'a Spine,
    /// Gives up after [`STATEMENT_DEADLINE`]; once nothing is inserted meanwhile, after [`MOMENT_DEADLINE`].
    server: Server,
    moment: Server,
    /// How far each partition was settled when this began.
    begun: Vec<(i32, i64)>,
    /// The one in use.
    table: Table,
    shadow: Table,
    /// What the pipeline had set aside when this began; at its end, what it has by then.
    set_aside: Arc<SetAside>,
    alone: Rebuilding,
}

impl Rebuild<'_> {
    /// Does all of it. `told` hears how far it is.
    ///
    /// # Errors
    /// What stood against it. The table in use is as it was.
    pub async fn run(&self, spine: &Spine, told: impl Fn(Progress) + Sync) -> anyhow::Result<Rebuilt> {
        let mut work = self.begin(spine).await?;
        let mark = work.now().await?;
        work.create().await?;
        let rejected = work.fill(&told).await?;
        work.carry_over(&told).await?;
        told(Progress::Filled);
        let (kept, left_out) = work.keep(rejected).await?;
        let [before, after] = [work.events(&work.table).await?, work.events(&work.shadow).await?];
        work.erase().await?;
        let still_seconds = work.exchange(mark).await?;
        work.show().await?;
        let (table, ranges) = (work.table.name().into(), self.ranges.clone());
        Ok(Rebuilt { table, ranges, before, after, kept, left_out, rejected, still_seconds })
    }

    async fn begin<'a>(&'a self, spine: &'a Spine) -> anyhow::Result<Work<'a>> {
        ensure!(
            self.config.topology() == Topology::Single,
            "clickhouse.cluster is set: a cluster's tables are not rebuilt yet; docs/rebuilding.md says what to do there"
        );
        let tables = super::tables(self.config, self.contracts)?;
        let table = tables.index(&self.contract.event_type).map(|at| tables.get(at).as_ref().clone());
        let table = table.with_context(|| format!("{} has no table", self.contract.event_type))?;
        let alone = spine.checkpoints.rebuild(&self.contract.topic).await.map_err(to_anyhow)?;
        let server = Server::with_timeout(self.config, STATEMENT_DEADLINE)?;
        let moment = Server::with_timeout(self.config, MOMENT_DEADLINE)?;
        exchange::finish(&moment, spine.checkpoints.pool(), &self.contract.topic).await.map_err(to_anyhow)?;
        let begun = self.settled(spine).await?;
        let letters = DeadLetters::new(spine.checkpoints.pool().clone());
        let set_aside = Arc::new(letters.set_aside(NAME, None).await.map_err(to_anyhow)?);
        let shadow = table.shadow(&Uuid::now_v7().simple().to_string());
        Ok(Work { rebuild: self, spine, server, moment, begun, table, shadow, set_aside, alone })
    }

    async fn settled(&self, spine: &Spine) -> anyhow::Result<Vec<(i32, i64)>> {
        let all = spine.checkpoints.list().await?;
        let ours = all.into_iter().filter(|row| row.pipeline == NAME && row.topic == self.contract.topic);
        Ok(ours.map(|row| (row.partition, row.next)).collect())
    }
}

impl Work<'_> {
    /// By the server's clock, in milliseconds.
    async fn now(&self) -> anyhow::Result<i64> {
        self.ask("select toUnixTimestamp64Milli(now64(3))").await
    }

    /// The shadow, as the table in use is and as the contract says: types may differ, it is empty. Those that dead
    /// rebuilds left are dropped: nobody else is at it.
    async fn create(&self) -> anyhow::Result<()> {
        let left = self.server.query(statements::SHADOWS).param("table", self.table.name());
        for shadow in self.server.within(left.fetch_all::<String>()).await.map_err(to_anyhow)? {
            self.execute(&statements::drop_with_its_rows(&shadow)).await?;
        }
        for statement in statements::create(&self.table, &self.shadow) {
            self.execute(&statement).await?;
        }
        bring(&self.server, &self.shadow).await.map_err(to_anyhow)
    }

    /// How many records could not be read.
    async fn fill(&self, told: &(impl Fn(Progress) + Sync)) -> anyhow::Result<u64> {
        let Rebuild { contract, ranges, .. } = self.rebuild;
        let filling = Arc::new(Filling::new(self.server.clone(), contract, &self.shadow));
        let (of, done) = (ranges.iter().map(|range| range.to - range.from).sum(), AtomicI64::new(0));
        let scans = ranges.iter().map(|range| self.fill_from(&filling, range, &done, of, told));
        stream::iter(scans).buffer_unordered(PARTITIONS_AT_ONCE).try_collect::<Vec<()>>().await?;
        crash_at("rebuild_filled");
        self.judge(&filling).await?;
        Ok(filling.rejected())
    }

    async fn fill_from(
        &self,
        filling: &Arc<Filling>,
        range: &Range,
        done: &AtomicI64,
        of: i64,
        told: &(impl Fn(Progress) + Sync),
    ) -> anyhow::Result<()> {
        let before = AtomicI64::new(range.from);
        let reached = |next: i64| {
            let more = next - before.swap(next, Ordering::Relaxed);
            told(Progress::Offsets { done: done.fetch_add(more, Ordering::Relaxed) + more, of });
        };
        let scanned = self.scan(filling.clone(), range, reached).await;
        scanned.map_err(to_anyhow).with_context(|| format!("{}[{}]", range.topic, range.partition))
    }

    /// Is in the shadow what the log says, by another way than it was inserted? A sum that differs need not be a
    /// fault: an event that is in the log twice may be one row by now. Then each is compared.
    async fn judge(&self, filling: &Filling) -> anyhow::Result<()> {
        let found = self.sums().await?;
        for range in &self.rebuild.ranges {
            let expected = filling.sums().get(&range.partition).copied().unwrap_or_default();
            if found.get(&range.partition).copied().unwrap_or_default() != expected {
                self.compare(range).await?;
            }
        }
        Ok(())
    }

    async fn sums(&self) -> anyhow::Result<BTreeMap<i32, Sum>> {
        let sql = statements::sums(&self.shadow, &self.rebuild.ranges);
        let rows = self.server.query(&sql).fetch_all::<(i32, u64, u64)>();
        let rows = self.server.within(rows).await.map_err(to_anyhow)?;
        Ok(rows.into_iter().map(|(partition, rows, hashes)| (partition, Sum { rows, hashes })).collect())
    }

    async fn scan<H: Handler>(&self, handler: Arc<H>, range: &Range, reached: impl Fn(i64)) -> Result<(), Failure> {
        let config = self.rebuild.pipeline.clone();
        // Boxed: it is large, and the compiler gives up on what would hold several of it within each other.
        Box::pin(scan(self.spine, "rebuild", handler, config, range.clone(), self.set_aside.clone(), reached)).await
    }

    async fn compare(&self, range: &Range) -> anyhow::Result<()> {
        let (server, contract) = (self.server.clone(), self.rebuild.contract);
        let comparison = Arc::new(Comparison::of_shadow(server, contract, &self.shadow).await?);
        self.scan(comparison.clone(), range, |_| {}).await.map_err(to_anyhow)?;
        let Compared { differences, named, .. } = comparison.take();
        let some: Vec<_> = named.iter().map(Difference::to_string).collect();
        ensure!(differences == 0, "{differences} rows are not as the log has them: {}", some.join("; "));
        Ok(())
    }

    /// Events of the ranges that the log did not give: how many of them are kept, since a compacted log has let go of
    /// their records, and how many are left out.
    async fn keep(&self, rejected: u64) -> anyhow::Result<(u64, u64)> {
        let Rebuild { contract, ranges, fewer, .. } = self.rebuild;
        let rows: u64 = self.ask(&format!("select count() from {}", self.shadow.raw())).await?;
        let shares = rows / EVENTS_AT_ONCE + 1;
        let (mut kept, mut left_out) = (0, 0);
        for share in 0..shares {
            let not_given = statements::not_given(&self.shadow, ranges, share, shares);
            let before = self.events_where(&not_given).await?;
            if contract.cleanup == Cleanup::Compact && before > 0 {
                self.copy(&statements::let_go(&self.shadow, ranges, share, shares)).await?;
            }
            let after = self.events_where(&not_given).await?;
            kept += before - after;
            left_out += after;
        }
        ensure!(left_out == 0 || *fewer, "{}", self.fewer(left_out, rejected));
        Ok((kept, left_out))
    }

    fn fewer(&self, left_out: u64, rejected: u64) -> String {
        let table = self.table.raw();
        let unread = match rejected {
            0 => String::new(),
            some => format!("; {some} records of that range could not be read: see `millrace dead-letters list`"),
        };
        format!(
            "{left_out} events of {table} are not in the log: `millrace verify clickhouse` names them, and --fewer does \
             without them. Where the topic was recreated they may be of the former log, and nowhere else{unread}"
        )
    }

    async fn events_where(&self, which: &str) -> anyhow::Result<u64> {
        self.ask(&format!("select uniqExact(event_id) from {} where {which}", self.table.raw())).await
    }

    /// Events of the ranges.
    async fn events(&self, table: &Table) -> anyhow::Result<u64> {
        self.ask(&statements::events(table, &self.rebuild.ranges)).await
    }

    /// What the log does not have any more, or was not asked for, a month at a time.
    async fn carry_over(&self, told: &impl Fn(Progress)) -> anyhow::Result<()> {
        let outside = format!("not {}", statements::within(&self.rebuild.ranges));
        let months = format!("select distinct toYYYYMM(occurred_at) from {} where {outside}", self.table.raw());
        let months = self.server.within(self.server.query(&months).fetch_all::<u32>()).await.map_err(to_anyhow)?;
        for (done, month) in months.iter().enumerate() {
            told(Progress::Months { done, of: months.len() });
            self.copy(&format!("toYYYYMM(occurred_at) = {month} and {outside}")).await?;
        }
        told(Progress::Months { done: months.len(), of: months.len() });
        Ok(())
    }

    /// A dead letter that can be read by now is in the shadow, as long as it is open. Meanwhile somebody may have discarded
    /// it, or its event came again: then it is superseded by a row of the table in use.
    async fn leave_out_what_was_given_up(&mut self) -> anyhow::Result<()> {
        let letters = DeadLetters::new(self.spine.checkpoints.pool().clone());
        let now = letters.set_aside(NAME, None).await.map_err(to_anyhow)?;
        for range in &self.rebuild.ranges {
            for offsets in now.given_up_since(&self.set_aside, range).chunks(OFFSETS_AT_ONCE) {
                self.execute(&statements::leave_out(&self.shadow, range, offsets)).await?;
            }
        }
        self.set_aside = Arc::new(now);
        Ok(())
    }

    async fn erase(&self) -> anyhow::Result<()> {
        erasure::erase_shadow(&self.server, self.shadow.stored_as()).await.map_err(to_anyhow)
    }

    /// Outside of the ranges: within them the log says what is right. That an event is there twice is no harm.
    async fn copy_since(&self, mark: i64) -> anyhow::Result<()> {
        let (since, within) = (mark - i64::from(LATE_SECONDS) * 1_000, statements::within(&self.rebuild.ranges));
        self.copy(&format!("_inserted_at >= fromUnixTimestamp64Milli({since}, 'UTC') and not {within}")).await
    }

    /// Also the values of columns that came meanwhile.
    async fn copy(&self, which: &str) -> anyhow::Result<()> {
        let found = self.found().await?;
        for statement in statements::add_columns(&self.table, &self.shadow, &found) {
            self.execute(&statement).await?;
        }
        self.execute(&statements::copy(&self.table, &self.shadow, &found, which)).await
    }

    async fn show(&self) -> anyhow::Result<()> {
        let shown = migrate::bring(&self.server, &[&self.table]).await.map_err(to_anyhow)?;
        shown.map(drop).map_err(anyhow::Error::msg)
    }

    async fn found(&self) -> anyhow::Result<Found> {
        self.server.found().await.map_err(to_anyhow)
    }

    async fn ask<T>(&self, sql: &str) -> anyhow::Result<T>
    where
        T: clickhouse::RowOwned + clickhouse::RowRead,
    {
        self.server.within(self.server.query(sql).fetch_one::<T>()).await.map_err(to_anyhow)
    }

    async fn execute(&self, sql: &str) -> anyhow::Result<()> {
        execute(&self.server, sql).await.map_err(to_anyhow)
    }
}

/// Gives a shadow all that its form has.
async fn bring(server: &Server, shadow: &Table) -> Result<(), Failure> {
    let changes = shadow.statements(&server.found().await?).map_err(|why| Failure::stop(anyhow::Error::msg(why)))?;
    for statement in &changes {
        execute(server, statement).await?;
    }
    Ok(())
}

async fn execute(server: &Server, sql: &str) -> Result<(), Failure> {
    let about = || format!("could not run `{}`", sql.lines().next().unwrap_or_default());
    server.execute(sql).await.map_err(|failure| failure.context(about()))
}
