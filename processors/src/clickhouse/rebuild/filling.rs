//! The handler that fills a table's shadow, and sums up by another way what must be in it afterwards.

use super::super::block::Rows;
use super::super::exception::table_is_gone;
use super::super::native;
use super::super::readers::Readers;
use super::super::row::whole;
use super::super::server::Server;
use super::super::table::{Table, Tables};
use super::super::together::Insert;
use millrace_schemas::{Contract, WriterSchema};
use millrace_stream::{Batch, Failure, Handler, Incoming, Reason, Reject};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A server restarts within this. What it refuses for longer somebody has to mend, and whoever waits for a rebuild wants
/// to hear of it: nothing has changed, and the next one begins anew.
const REFUSED_FOR: Duration = Duration::from_secs(300);

/// Takes the events of one type.
pub(super) struct Filling {
    event_type: String,
    server: Server,
    readers: Readers<native::Plan>,
    /// Reads the same by way of value trees, so that a fault of the fast way shows.
    judges: Readers<whole::Plan>,
    sums: Mutex<BTreeMap<i32, Sum>>,
    /// Records that could not be read.
    rejected: AtomicU64,
    /// Since when no insert has succeeded.
    refused: Mutex<Option<Instant>>,
}

/// Rows, in any order: how many, and what is in all their columns but `_inserted_at`.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sum {
    pub rows: u64,
    /// Of the first eight bytes of each row's SHA-256, wrapping.
    pub hashes: u64,
}

impl Sum {
    fn add(&mut self, other: Self) {
        self.rows += other.rows;
        self.hashes = self.hashes.wrapping_add(other.hashes);
    }

    fn of(hash: [u8; 32]) -> Self {
        let mut first = [0; 8];
        first.copy_from_slice(&hash[..8]);
        Self { rows: 1, hashes: u64::from_le_bytes(first) }
    }
}

/// A batch's rows, and their sum.
#[derive(Debug, Default)]
pub struct Filled {
    rows: Rows,
    sum: Sum,
}

impl Filling {
    pub fn new(server: Server, contract: &Contract, shadow: &Table) -> Self {
        let tables = || Tables::one(&contract.event_type, shadow.clone());
        Self {
            event_type: contract.event_type.clone(),
            server,
            readers: Readers::new(tables(), native::Plan::compile),
            judges: Readers::new(tables(), whole::Plan::compile),
            sums: Mutex::default(),
            rejected: AtomicU64::default(),
            refused: Mutex::default(),
        }
    }

    /// By partition, of what was filled in.
    pub fn sums(&self) -> MutexGuard<'_, BTreeMap<i32, Sum>> {
        self.sums.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many records of any type could not be read.
    pub fn rejected(&self) -> u64 {
        self.rejected.load(Ordering::Relaxed)
    }

    async fn insert(&self, insert: &Insert) -> Result<(), Failure> {
        let inserted = self.server.insert(insert).await;
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        *refused = inserted.as_ref().err().map(|_| refused.unwrap_or_else(Instant::now));
        let for_good =
            inserted.as_ref().is_err_and(table_is_gone) || refused.is_some_and(|at| at.elapsed() > REFUSED_FOR);
        match inserted {
            Err(Failure::Retry(why)) if for_good => Err(Failure::Stop(why)),
            inserted => inserted,
        }
    }

    fn sum(&self, incoming: &Incoming<'_>) -> Result<Sum, Reject> {
        let Some(judge) = self.judges.get(&self.event_type, incoming.writer) else { return Ok(Sum::default()) };
        let plan = judge.plan.as_ref().map_err(|error| Reject::new(Reason::DoesNotFit, error))?;
        let value = incoming.writer.decode(incoming.datum).map_err(|error| Reject::new(Reason::Undecodable, error))?;
        Ok(Sum::of(plan.hash(&BTreeSet::new(), &value, incoming)?))
    }
}

impl Handler for Filling {
    type Block = Filled;

    /// As the pipeline does. The table in use mostly has the column, and its shadow with it; not where all that was written
    /// with this schema are dead letters.
    async fn meet(&self, contract: &Contract, writer: &WriterSchema) -> Result<(), Failure> {
        if contract.event_type != self.event_type {
            return Ok(());
        }
        self.judges.brought(contract, writer).into_iter().for_each(|table| self.judges.follow(&self.event_type, table));
        let Some(table) = self.readers.brought(contract, writer) else { return Ok(()) };
        // Several partitions may be at it at once: a column is added if it is not there.
        super::bring(&self.server, &table).await?;
        self.readers.follow(&self.event_type, table);
        Ok(())
    }

    fn decode(&self, incoming: &Incoming<'_>, filled: &mut Filled) -> Result<bool, Reject> {
        if incoming.contract.event_type != self.event_type {
            return Ok(false);
        }
        let sum = self.sum(incoming)?;
        let appended = filled.rows.append(incoming, &self.readers)?;
        if appended {
            filled.sum.add(sum);
        }
        Ok(appended)
    }

    /// Inserted again after an error under the same token; whatever comes of that, the sums are compared in the end.
    async fn apply(&self, batch: &Batch<Filled>) -> Result<(), Failure> {
        let Filled { rows, sum } = &batch.block;
        if let Some(span) = rows.span(batch.range()) {
            for block in rows.blocks() {
                self.insert(&Insert::of(&block, &span)).await?;
            }
            self.sums().entry(span.partition).or_default().add(*sum);
        }
        self.rejected.fetch_add(batch.rejected() as u64, Ordering::Relaxed);
        Ok(())
    }
}
