//! Inserts of several partitions that go to the server as one.
//!
//! What an insert costs the server beside its rows (a part in each month, its merges) is the same for one row and for a
//! hundred thousand. So what the partitions of a topic bring in one round ([`Rounds`]) goes together, and what else comes
//! for a table while its insert is under way goes in the next one: the busier the server is, the more go together.
//!
//! An insert of several has no token: nobody could repeat it as it was. Each of its blocks is looked for instead, see
//! `protocol`.

use super::block::{Block, Span};
use super::rounds::Rounds;
use bytes::Bytes;
use millrace_stream::{Failure, crash_at};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{Semaphore, oneshot};

/// Over all tables; of each there is one. More would share the server's time and leave less to go together.
const UNDER_WAY_MAX: usize = 4;

/// Bytes that go together, before they are compressed: as many as one batch may have, which servers must take anyway,
/// and far beyond what makes an insert's own costs count. One block may have more.
const BYTES_MAX: usize = 32 << 20;

/// Rows of one table, ready to be sent.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Insert {
    pub table: String,
    pub statement: String,
    pub rows: usize,
    /// Native blocks, one after the other.
    pub blocks: Vec<Bytes>,
    /// What the server knows it by, where it may come again.
    pub token: Option<String>,
    /// The latest `occurred_at`, in microseconds since 1970.
    pub newest: i64,
    /// Whose round it goes in.
    pub topic: Arc<str>,
}

impl Insert {
    pub fn of(block: &Block<'_>, span: &Span) -> Self {
        Self {
            table: block.table.name().to_owned(),
            statement: block.table.insert_statement(),
            rows: block.len(),
            blocks: vec![block.bytes().clone()],
            token: Some(block.token(span)),
            newest: block.newest(),
            topic: span.topic.clone(),
        }
    }

    fn bytes(&self) -> usize {
        self.blocks.iter().map(Bytes::len).sum()
    }

    fn and(mut self, other: Self) -> Self {
        self.rows += other.rows;
        self.blocks.extend(other.blocks);
        self.token = None;
        self.newest = self.newest.max(other.newest);
        self
    }
}

/// Who carries inserts out.
pub(super) trait Inserting: Send + Sync + 'static {
    fn insert(&self, insert: &Insert) -> impl Future<Output = Result<(), Failure>> + Send;
}

/// One queue a statement: rows of different columns can't go together.
pub(super) struct Together<S> {
    server: Arc<S>,
    road: Arc<Road>,
    queues: Mutex<HashMap<String, Arc<Queue>>>,
}

/// What all tables share.
struct Road {
    under_way: Semaphore,
    rounds: Rounds,
}

struct Queue {
    /// Whose turn it is.
    turn: tokio::sync::Mutex<()>,
    road: Arc<Road>,
    waiting: Mutex<Vec<Waiting>>,
}

struct Waiting {
    insert: Insert,
    answer: oneshot::Sender<Result<(), Failure>>,
}

impl<S: Inserting> Together<S> {
    pub fn new(server: S, inserts_per_second: u32) -> Self {
        let road = Road { under_way: Semaphore::new(UNDER_WAY_MAX), rounds: Rounds::new(inserts_per_second) };
        Self { server: Arc::new(server), road: Arc::new(road), queues: Mutex::default() }
    }

    pub fn rounds(&self) -> &Rounds {
        &self.road.rounds
    }

    /// For what goes alone.
    pub fn server(&self) -> &S {
        &self.server
    }

    /// Is queued at once, and done when the server has it. An error may be one after the fact, and somebody else's: the
    /// rows of this one may be there.
    pub fn insert(&self, insert: Insert) -> impl Future<Output = Result<(), Failure>> + use<S> {
        let queue = self.queue(&insert.statement);
        let (answer, answered) = oneshot::channel();
        queue.waiting().push(Waiting { insert, answer });
        // In a task of its own: whoever gives up meanwhile takes nobody's insert along.
        tokio::spawn(queue.take_turn(self.server.clone()));
        async {
            let gone = |_| Err(Failure::retry(anyhow::anyhow!("nobody said what became of the insert")));
            answered.await.unwrap_or_else(gone)
        }
    }

    fn queue(&self, statement: &str) -> Arc<Queue> {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        queues.entry(statement.to_owned()).or_insert_with(|| Arc::new(Queue::new(&self.road))).clone()
    }
}

impl Queue {
    fn new(road: &Arc<Road>) -> Self {
        Self { turn: tokio::sync::Mutex::default(), road: road.clone(), waiting: Mutex::default() }
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, Vec<Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// There are as many as inserts, and each takes one at least, if those before have left any.
    async fn take_turn<S: Inserting>(self: Arc<Self>, server: Arc<S>) {
        let _turn = self.turn.lock().await;
        let Some(topic) = self.still_waiting().first().map(|first| first.insert.topic.clone()) else { return };
        self.road.rounds.all_there(&topic).await;
        let Ok(_under_way) = self.road.under_way.acquire().await else { return };
        let (inserts, answers): (Vec<_>, Vec<_>) =
            self.next().into_iter().map(|next| (next.insert, next.answer)).unzip();
        let Some(insert) = inserts.into_iter().reduce(Insert::and) else { return };
        let inserted = server.insert(&insert).await;
        if insert.token.is_none() {
            crash_at("clickhouse_together"); // several partitions' rows are there, and nobody knows
        }
        for answer in answers {
            let _ = answer.send(copy(&inserted)); // it may wait no more
        }
    }

    /// Without those that nobody waits for any more.
    fn still_waiting(&self) -> std::sync::MutexGuard<'_, Vec<Waiting>> {
        let mut waiting = self.waiting();
        waiting.retain(|waiting| !waiting.answer.is_closed());
        waiting
    }

    /// The first that waits, and of those behind it as many as fit.
    fn next(&self) -> Vec<Waiting> {
        let mut waiting = self.still_waiting();
        let mut bytes = 0;
        let fits = |waiting: &&Waiting| {
            bytes += waiting.insert.bytes();
            bytes <= BYTES_MAX
        };
        let fitting = waiting.iter().take_while(fits).count().max(1).min(waiting.len());
        waiting.drain(..fitting).collect()
    }
}

/// Everybody is told the same.
fn copy(inserted: &Result<(), Failure>) -> Result<(), Failure> {
    match inserted {
        Ok(()) => Ok(()),
        Err(Failure::Retry(error)) => Err(Failure::Retry(anyhow::anyhow!("{error:#}"))),
        Err(Failure::Stop(error)) => Err(Failure::Stop(anyhow::anyhow!("{error:#}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};
    use tokio::sync::watch;

    /// Takes inserts once it is open, and fails those that hold a row too many.
    #[derive(Clone)]
    struct Recorder {
        open: watch::Sender<bool>,
        taken: Arc<Mutex<Vec<Insert>>>,
        fails: Arc<AtomicBool>,
    }

    impl Recorder {
        fn shut() -> Self {
            Self { open: watch::channel(false).0, taken: Arc::default(), fails: Arc::default() }
        }

        fn taken(&self) -> Vec<Insert> {
            self.taken.lock().unwrap().clone()
        }
    }

    impl Inserting for Recorder {
        async fn insert(&self, insert: &Insert) -> Result<(), Failure> {
            self.taken.lock().unwrap().push(insert.clone());
            self.open.subscribe().wait_for(|open| *open).await.unwrap();
            match self.fails.load(Ordering::Relaxed) {
                true => Err(Failure::retry(anyhow::anyhow!("Code: 252. too many parts"))),
                false => Ok(()),
            }
        }
    }

    fn of(partition: u8, statement: &str, bytes: usize) -> Insert {
        Insert {
            table: "t".into(),
            statement: statement.into(),
            rows: 1,
            blocks: vec![vec![partition; bytes].into()],
            token: Some(partition.to_string()),
            newest: partition.into(),
            topic: "shop".into(),
        }
    }

    /// Hands inserts over one after the other; each has been queued before the next is.
    async fn all_at_once(server: &Recorder, inserts: Vec<Insert>) -> Vec<tokio::task::JoinHandle<Result<(), Failure>>> {
        let together = Arc::new(Together::new(server.clone(), u32::MAX));
        let mut handed = Vec::new();
        for insert in inserts {
            let together = together.clone();
            handed.push(tokio::spawn(async move { together.insert(insert).await }));
            tokio::task::yield_now().await;
            tokio::task::yield_now().await;
        }
        handed
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_while_the_server_is_busy_goes_together_and_without_a_token() {
        let server = Recorder::shut();
        let handed = all_at_once(&server, (0..6).map(|partition| of(partition, "a", 1)).collect()).await;
        server.open.send_replace(true);
        for handed in handed {
            handed.await.unwrap().unwrap();
        }
        let taken = server.taken();
        assert_eq!(taken.iter().map(|insert| insert.rows).collect::<Vec<_>>(), [1, 5]);
        assert_eq!(taken[0].token.as_deref(), Some("0"));
        assert_eq!((taken[1].token.as_ref(), taken[1].newest), (None, 5));
        assert_eq!(taken[1].blocks, (1..6).map(|partition| Bytes::from(vec![partition])).collect::<Vec<_>>());
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_round_brings_goes_as_one() {
        let server = Recorder::shut();
        server.open.send_replace(true);
        let together = Together::new(server.clone(), u32::MAX);
        tokio::join!(together.rounds().join("shop", 0), together.rounds().join("shop", 1));
        let first = tokio::spawn(together.insert(of(0, "a", 1)));
        drop(together.rounds().hand_over("shop", 0));
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        assert_eq!(server.taken(), [], "the other is waited for");
        let second = tokio::spawn(together.insert(of(1, "a", 1)));
        drop(together.rounds().hand_over("shop", 1));
        first.await.unwrap().unwrap();
        second.await.unwrap().unwrap();
        assert_eq!(server.taken().iter().map(|insert| insert.rows).collect::<Vec<_>>(), [2]);
    }

    #[tokio::test(start_paused = true)]
    async fn rows_of_other_columns_and_more_than_fits_go_apart() {
        let server = Recorder::shut();
        let (half, whole) = (BYTES_MAX / 2, BYTES_MAX + 1);
        let inserts = [(0, "a", 1), (1, "a", half), (2, "b", 1), (3, "a", half), (4, "a", whole), (5, "a", 1)];
        let handed = all_at_once(&server, inserts.map(|(at, statement, bytes)| of(at, statement, bytes)).into()).await;
        server.open.send_replace(true);
        for handed in handed {
            handed.await.unwrap().unwrap();
        }
        let newest: Vec<_> = server.taken().iter().map(|insert| (insert.newest, insert.rows)).collect();
        assert_eq!(newest, [(0, 1), (2, 1), (3, 2), (4, 1), (5, 1)]);
    }

    #[tokio::test(start_paused = true)]
    async fn everybody_is_told_what_failed_and_who_gave_up_is_left_out() {
        let server = Recorder::shut();
        let mut handed = all_at_once(&server, (0..6).map(|partition| of(partition, "a", 1)).collect()).await;
        handed.remove(3).abort();
        tokio::task::yield_now().await;
        server.fails.store(true, Ordering::Relaxed);
        server.open.send_replace(true);
        for handed in handed {
            let failure = handed.await.unwrap().unwrap_err();
            assert!(matches!(failure, Failure::Retry(_)) && failure.to_string().contains("Code: 252"), "{failure}");
        }
        assert_eq!(server.taken().iter().map(|insert| insert.rows).collect::<Vec<_>>(), [1, 4]);
    }
}
