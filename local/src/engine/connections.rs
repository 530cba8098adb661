//! The engine in this process: its connections, the threads that use them, and who may run now.
//!
//! ```text
//! request ─→ place (bounded; else 202) ─→ thread ─→ connection ─→ statement
//!                                                        │
//!   idle, keyed by its settings  ←── untouched ──────────┤
//!   session, keyed by its id     ←── session_id ─────────┤
//!   closed                       ←── anything else ──────┘
//! ```
//! A connection is only used again where nobody could tell: with the same settings and database, and after statements
//! that leave no trace in it.

use super::exception::{Exception, raise};
use super::facts::Facts;
use super::library::{Connection, Counts, Library};
use super::request::Asked;
use super::running::{Statement, Watched};
use super::sessions::Sessions;
use super::setup::{Setup, within_session};
use anyhow::Context as _;
use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The engine's parser recurses; ClickHouse gives its own threads as much.
const STACK_BYTES: usize = 8 << 20;
/// Opening one costs a third of a millisecond: keep a few for clients that repeat themselves.
const IDLE_MAX: usize = 16;
/// How often a statement that shall end is told so: it may not have reached the engine at first.
const KILL_PAUSE: Duration = Duration::from_millis(50);
/// The longest pause between such orders, for a statement that is slow to obey.
const KILL_PAUSE_MAX: Duration = Duration::from_secs(1);

type Job = Box<dyn FnOnce() + Send>;

/// The engine and everything that is bounded about it.
pub struct Engine {
    library: &'static Library,
    path: PathBuf,
    pub facts: Facts,
    /// Keeps the engine up between statements, and ends or observes the statements of others.
    control: Mutex<Option<Connection>>,
    idle: Mutex<Vec<(Setup, Connection)>>,
    sessions: Sessions,
    jobs: mpsc::Sender<Job>,
    waiting: Arc<Semaphore>,
    running: Arc<Semaphore>,
    pub bounds: Bounds,
    statements: Mutex<HashMap<u64, Arc<Statement>>>,
    next_statement: AtomicU64,
}

/// How much at once, and how long.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Statements at once. Each takes a thread here and as many of the engine's as `max_threads` says.
    pub running_max: usize,
    /// Requests that wait for one of those to end; more are refused with code 202.
    pub waiting_max: usize,
    /// How long they wait.
    pub wait_max: Duration,
    /// One request's body. It is streamed, so this bounds time and disk, not memory.
    pub body_bytes_max: u64,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            running_max: 16, // every role's inserts, a console and a few analysts on one machine
            waiting_max: 256,
            wait_max: Duration::from_secs(10), // shorter than clients' own timeouts, so that they learn why
            body_bytes_max: 8 << 30,
        }
    }
}

/// A place among the running; dropped, it is free.
pub struct Place {
    _running: OwnedSemaphorePermit,
    _known: OwnedSemaphorePermit,
}

impl Engine {
    pub fn start(library: &'static Library, path: &Path, bounds: Bounds) -> anyhow::Result<Arc<Self>> {
        let mut control = Connection::open(library, path)?;
        let facts = Facts::ask(&mut control).context("could not ask the engine about itself")?;
        Ok(Arc::new(Self {
            library,
            path: path.to_owned(),
            facts,
            control: Mutex::new(Some(control)),
            idle: Mutex::default(),
            sessions: Sessions::default(),
            jobs: threads(bounds.running_max)?,
            waiting: Arc::new(Semaphore::new(bounds.running_max + bounds.waiting_max)),
            running: Arc::new(Semaphore::new(bounds.running_max)),
            bounds,
            statements: Mutex::default(),
            next_statement: AtomicU64::new(0),
        }))
    }

    /// Waits for a place to run, not for ever and not in any number.
    pub async fn enter(&self) -> Result<Place, Exception> {
        let too_many =
            |why: &str| raise::TOO_MANY_SIMULTANEOUS_QUERIES(format!("Too many simultaneous queries: {why}"));
        let known = Arc::clone(&self.waiting).try_acquire_owned();
        let known = known.map_err(|_| too_many("no more may wait (waiting_max)"))?;
        let running = tokio::time::timeout(self.bounds.wait_max, Arc::clone(&self.running).acquire_owned()).await;
        let running = running.map_err(|_| too_many("none of the running ones (running_max) ended in time"))?;
        let running = running.map_err(|_| raise::ABORTED("the engine is stopping"))?;
        Ok(Place { _running: running, _known: known })
    }

    /// Runs `job` on one of the threads; whoever calls holds a [`Place`], so one is free.
    pub fn spawn(&self, job: Job) -> Result<(), Exception> {
        self.jobs.send(job).map_err(|_| raise::ABORTED("the engine is stopping"))
    }

    /// Gives `work` a connection that is set up as asked, and keeps it for later if `work` says that it may.
    pub fn with_connection<T>(
        &self,
        asked: &Asked,
        work: impl FnOnce(&mut Connection) -> (Result<T, Exception>, Trace),
    ) -> Result<T, Exception> {
        let setup = Setup::of(asked);
        let Some(wish) = &asked.session else {
            let mut connection = self.connection(&setup)?;
            let (result, trace) = work(&mut connection);
            if trace == Trace::None {
                self.keep(setup, connection);
            }
            return result;
        };
        let mut connection = self.sessions.take(wish, || self.open())?;
        let result = within_session(&mut connection, &setup, work);
        self.sessions.give_back(wish, Some(connection));
        result
    }

    fn connection(&self, setup: &Setup) -> Result<Connection, Exception> {
        let mut idle = lock(&self.idle);
        if let Some(at) = idle.iter().rposition(|(made, _)| made == setup) {
            return Ok(idle.remove(at).1);
        }
        drop(idle);
        let mut connection = self.open()?;
        setup.apply(&mut connection)?;
        Ok(connection)
    }

    fn keep(&self, setup: Setup, connection: Connection) {
        let mut idle = lock(&self.idle);
        idle.push((setup, connection));
        let oldest = (idle.len() > IDLE_MAX).then(|| idle.remove(0));
        drop(idle);
        drop(oldest); // closing takes a moment: not while others wait for the lock
    }

    fn open(&self) -> Result<Connection, Exception> {
        Connection::open(self.library, &self.path).map_err(|error| raise::UNKNOWN_EXCEPTION(format!("{error:#}")))
    }

    /// A statement that can be ended from outside until the guard is dropped.
    pub fn watch(self: &Arc<Self>) -> Watched {
        let number = self.next_statement.fetch_add(1, Ordering::Relaxed);
        let statement = Arc::new(Statement::default());
        lock(&self.statements).insert(number, Arc::clone(&statement));
        Watched { engine: Arc::clone(self), number, statement }
    }

    /// Ends a statement, whether it waits, runs or is done.
    pub async fn cancel(self: Arc<Self>, statement: Arc<Statement>) {
        statement.cancel();
        let mut pause = KILL_PAUSE;
        while !statement.is_done() {
            let (engine, order) = (Arc::clone(&self), Arc::clone(&statement));
            let _ = tokio::task::spawn_blocking(move || engine.kill(&order)).await;
            tokio::time::sleep(pause).await;
            pause = KILL_PAUSE_MAX.min(pause * 2);
        }
    }

    /// For [`Watched`], when it is done.
    pub fn forget(&self, number: u64) {
        lock(&self.statements).remove(&number);
    }

    pub async fn cancel_all(self: Arc<Self>) {
        let statements: Vec<_> = lock(&self.statements).values().cloned().collect();
        futures_util::future::join_all(statements.into_iter().map(|statement| Arc::clone(&self).cancel(statement)))
            .await;
    }

    /// The engine knows a statement by the threads that work for it; ours is among them.
    fn kill(&self, statement: &Statement) {
        statement.on_thread(|thread| {
            let sql = format!("KILL QUERY WHERE has(thread_ids, {thread}) ASYNC FORMAT Null");
            self.control(|control| control.query(sql.as_bytes(), "Null", &[]).is_ok());
        });
    }

    /// How far a running statement has come.
    pub fn progress(&self, statement: &Statement) -> Option<Counts> {
        let sql = format!(
            "SELECT read_rows, read_bytes, written_rows, written_bytes \
             FROM system.processes WHERE has(thread_ids, {})",
            statement.thread()?
        );
        let output = self.control(|control| control.query(sql.as_bytes(), "TabSeparated", &[]).ok())??.output;
        let mut counts = std::str::from_utf8(&output).ok()?.split_whitespace().map_while(|count| count.parse().ok());
        Some(Counts {
            read_rows: counts.next()?,
            read_bytes: counts.next()?,
            written_rows: counts.next()?,
            written_bytes: counts.next()?,
            ..Counts::default()
        })
    }

    fn control<T>(&self, work: impl FnOnce(&mut Connection) -> T) -> Option<T> {
        lock(&self.control).as_mut().map(work)
    }

    /// Nobody who still waits for a place gets one.
    pub fn refuse_more(&self) {
        self.running.close();
    }

    pub fn is_still(&self) -> bool {
        lock(&self.statements).is_empty()
    }

    /// Closes every connection, so that nothing is left to be repaired. Statements must have ended.
    pub fn close(&self) {
        self.sessions.close_all();
        lock(&self.idle).clear();
        lock(&self.control).take();
        self.library.stop_threads();
    }
}

/// What a statement left in its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trace {
    None,
    Perhaps,
}

/// Threads that run one job after the other, for as long as there is a sender. A job that panics ends alone.
fn threads(count: usize) -> anyhow::Result<mpsc::Sender<Job>> {
    let (sender, receiver) = mpsc::channel::<Job>(); // bounded by the places
    let receiver = Arc::new(Mutex::new(receiver));
    for number in 0..count {
        let receiver = Arc::clone(&receiver);
        let thread = std::thread::Builder::new().name(format!("statement-{number}")).stack_size(STACK_BYTES);
        let work = move || {
            while let Ok(job) = { lock(&receiver).recv() } {
                if std::panic::catch_unwind(AssertUnwindSafe(job)).is_err() {
                    tracing::error!("a statement's thread panicked; the statement was given up");
                }
            }
        };
        thread.spawn(work).context("could not start a thread for statements")?;
    }
    Ok(sender)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panicking_job_takes_no_thread_with_it() {
        let jobs = threads(1).unwrap();
        let (sender, done) = mpsc::channel();
        jobs.send(Box::new(|| panic!("on purpose"))).unwrap();
        jobs.send(Box::new(move || sender.send(()).unwrap())).unwrap();
        done.recv_timeout(Duration::from_secs(10)).unwrap();
    }
}
