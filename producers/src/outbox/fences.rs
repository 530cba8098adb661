//! Up to which seq of an outbox everything is decided: committed or rolled back, and nothing can still turn up.
//!
//! ```text
//! seq        … 7   8   9 │10  11 │12          drawn, in this order, by transactions that have a number
//! fence                  │xid 500│xid 507     a number drawn afterwards is higher than theirs
//! decided    ───────────→│                    once every transaction up to 500 has ended (pg_snapshot_xmin > 500)
//! ```
//!
//! Never speaks to Postgres, never reads a clock but its caller's.

use std::collections::VecDeque;
use std::time::Instant;

/// Those that wait. While a long transaction holds all of them back, more would only cost transaction numbers.
const PENDING_MAX: usize = 64;

#[derive(Debug)]
struct Fence {
    seq: i64,
    xid: u64,
    since: Instant,
}

/// Of one outbox, while one relay has it.
#[derive(Debug)]
pub(super) struct Fences {
    pending: VecDeque<Fence>,
    /// Nothing up to here can still turn up.
    decided: i64,
}

impl Fences {
    /// `published`: what was published is decided.
    pub fn new(published: i64) -> Self {
        Self { pending: VecDeque::new(), decided: published }
    }

    pub fn decided(&self) -> i64 {
        self.decided
    }

    /// Whether seqs up to `written` were drawn behind the newest fence, and one more may be put up.
    pub fn wants(&self, written: i64) -> bool {
        written > self.newest() && self.pending.len() < PENDING_MAX
    }

    /// The number must have been drawn after `seq` was seen.
    pub fn put(&mut self, seq: i64, xid: u64, now: Instant) {
        self.pending.push_back(Fence { seq, xid, since: now });
    }

    /// Every transaction below this number has ended, for good.
    pub fn ended_below(&mut self, xmin: u64) {
        while let Some(fence) = self.pending.pop_front_if(|fence| fence.xid < xmin) {
            self.decided = fence.seq;
        }
    }

    /// Since when the oldest has waited.
    pub fn waiting_since(&self) -> Option<Instant> {
        self.pending.front().map(|fence| fence.since)
    }

    pub fn newest(&self) -> i64 {
        self.pending.back().map_or(self.decided, |fence| fence.seq)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::{Rng, SeedableRng};
    use std::collections::{BTreeMap, BTreeSet};

    #[test]
    fn nothing_is_decided_while_a_transaction_from_before_the_fence_runs() {
        let mut fences = Fences::new(7);
        fences.put(9, 500, Instant::now());
        fences.put(11, 507, Instant::now());
        fences.ended_below(500);
        assert_eq!((fences.decided(), fences.newest()), (7, 11));
        fences.ended_below(501);
        assert_eq!(fences.decided(), 9);
        fences.ended_below(600);
        assert_eq!((fences.decided(), fences.waiting_since()), (11, None));
    }

    #[test]
    fn a_transaction_that_never_ends_costs_a_bounded_number_of_fences() {
        let mut fences = Fences::new(0);
        for seq in 1.. {
            if !fences.wants(seq) {
                break;
            }
            fences.put(seq, 100, Instant::now());
        }
        assert_eq!(fences.pending.len(), PENDING_MAX);
    }

    /// A database as Postgres behaves: numbers in the order in which transactions first ask, seqs likewise.
    #[derive(Default)]
    struct Database {
        next_xid: u64,
        last_seq: i64,
        running: BTreeMap<u64, Vec<i64>>,
        committed: BTreeSet<i64>,
    }

    impl Database {
        fn number(&mut self) -> u64 {
            self.next_xid += 1;
            self.next_xid
        }

        fn xmin(&self) -> u64 {
            self.running.keys().next().copied().unwrap_or(self.next_xid + 1)
        }
    }

    #[test]
    fn whatever_commits_when_no_seq_turns_up_behind_what_was_decided() {
        for seed in 0..300 {
            let mut dice = ChaCha8Rng::seed_from_u64(seed);
            let (mut database, mut fences, mut published) = (Database::default(), Fences::new(0), BTreeSet::new());
            for _ in 0..400 {
                let at = |database: &Database, die: u32| {
                    database.running.keys().nth(die as usize % database.running.len().max(1)).copied()
                };
                let die = dice.next_u32();
                match die % 6 {
                    0 => {
                        let xid = database.number();
                        database.running.insert(xid, vec![]);
                    }
                    1 | 2 => {
                        if let Some(xid) = at(&database, die / 6) {
                            database.last_seq += 1;
                            let seq = database.last_seq;
                            database.running.get_mut(&xid).unwrap().push(seq);
                        }
                    }
                    3 => {
                        if let Some(xid) = at(&database, die / 6) {
                            let seqs = database.running.remove(&xid).unwrap();
                            let late = seqs.iter().filter(|seq| **seq <= fences.decided()).count();
                            assert_eq!(late, 0, "seed {seed}: {seqs:?} came behind {}", fences.decided());
                            if die & 1 << 20 == 0 {
                                database.committed.extend(seqs);
                            }
                        }
                    }
                    4 => {
                        let written = database.last_seq;
                        if fences.wants(written) {
                            let xid = database.number();
                            fences.put(written, xid, Instant::now());
                        }
                    }
                    _ => {
                        fences.ended_below(database.xmin());
                        published.extend(database.committed.range(..=fences.decided()));
                    }
                }
            }
            let due: BTreeSet<i64> = database.committed.range(..=fences.decided()).copied().collect();
            published.extend(&due);
            assert_eq!(published, due, "seed {seed}");
        }
    }
}
