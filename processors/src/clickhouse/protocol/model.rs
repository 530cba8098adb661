//! The protocol among owners that die, owners that don't know they are stale, answers that are lost, requests that
//! arrive when nobody waits for them, and a server that forgets. Compared with the log, which is all there is to say.

use super::{Attempt, Step};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::collections::VecDeque;

const EVENTS: usize = 40;
const TABLES: usize = 2;
const BATCH_MAX: usize = 8;
/// Random moves before the world heals.
const MOVES: usize = 400;

/// Where an offset's event belongs.
fn table(offset: usize) -> usize {
    offset % 3 % TABLES
}

/// Rows of one table, and how they are encoded: what a content's hash stands for.
#[derive(Debug, Clone, PartialEq)]
struct Block {
    table: usize,
    offsets: Vec<usize>,
    encoding: u32,
}

#[derive(Debug, Clone, PartialEq)]
enum Token {
    Own(Block),
    /// Of one insert alone.
    Unseen(u32),
}

#[derive(Debug, Clone)]
enum Request {
    Plan {
        epoch: u32,
        next: usize,
        to: usize,
    },
    Insert {
        block: Block,
        token: Token,
        /// Of rows that a second look found missing.
        is_repair: bool,
    },
    Look {
        block: Block,
    },
    Settle {
        epoch: u32,
        from: usize,
        to: usize,
    },
    /// What an owner asks first when it tries again.
    HasSettled,
}

#[derive(Debug)]
enum Answer {
    Done,
    Missing(Block),
    /// Epoch and position.
    At(u32, usize),
    Fenced,
    /// Try again: the range has been settled after all.
    Late,
}

/// The stores.
#[derive(Default)]
struct World {
    epoch: u32,
    next: usize,
    planned_to: Option<usize>,
    /// Every row that was ever stored.
    rows: Vec<(usize, usize)>,
    tokens: VecDeque<Token>,
    /// Tokens that are remembered.
    window: usize,
    /// Inserts of what a look had found missing.
    repairs: usize,
}

impl World {
    fn take(&mut self, request: &Request, forgets: bool) -> Answer {
        match request {
            Request::Plan { epoch, next, to } => {
                self.fenced(*epoch, (*next, *to), |world| world.planned_to = Some(*to))
            }
            Request::Settle { epoch, from, to } => self.fenced(*epoch, (*from, *to), |world| {
                world.assert_holds(*from..*to);
                (world.next, world.planned_to) = (*to, None);
            }),
            Request::Insert { block, token, is_repair } => {
                self.repairs += usize::from(*is_repair);
                self.insert(block, token, forgets)
            }
            Request::Look { block } => {
                let missing = block.offsets.iter().copied().filter(|offset| !self.has(block.table, *offset)).collect();
                Answer::Missing(Block { offsets: missing, ..block.clone() })
            }
            Request::HasSettled => Answer::At(self.epoch, self.next),
        }
    }

    /// As the statements on the checkpoint do. A settlement that took effect late is no stale owner's.
    fn fenced(&mut self, epoch: u32, (from, to): (usize, usize), change: impl FnOnce(&mut Self)) -> Answer {
        match (epoch == self.epoch, self.next) {
            (true, next) if next == from => change(self),
            (true, next) if next == to => return Answer::Late,
            _ => return Answer::Fenced,
        }
        Answer::Done
    }

    /// `forgets`: killed between the token's log and the rows.
    fn insert(&mut self, block: &Block, token: &Token, forgets: bool) -> Answer {
        if self.tokens.contains(token) {
            return Answer::Done;
        }
        self.tokens.push_back(token.clone());
        while self.tokens.len() > self.window {
            self.tokens.pop_front();
        }
        if !forgets {
            self.rows.extend(block.offsets.iter().map(|offset| (block.table, *offset)));
        }
        Answer::Done
    }

    fn has(&self, table: usize, offset: usize) -> bool {
        self.rows.contains(&(table, offset))
    }

    /// Nothing is settled that is not there.
    fn assert_holds(&self, mut offsets: std::ops::Range<usize>) {
        assert!(offsets.all(|offset| self.has(table(offset), offset)), "settled, and a row is lost");
    }
}

/// A process that owns the partition, or believes so.
struct Owner {
    epoch: u32,
    encoding: u32,
    next: usize,
    planned_to: Option<usize>,
    begun: Option<(usize, usize)>,
    batch: Option<InHand>,
    /// The request whose answer it waits for.
    waits: Option<u32>,
}

struct InHand {
    from: usize,
    to: usize,
    blocks: Vec<Block>,
    attempt: Attempt,
    missing: Option<Block>,
    /// Tried before: ask whether that worked after all.
    again: bool,
}

struct Game {
    rng: StdRng,
    world: World,
    owners: Vec<Owner>,
    /// Requests on their way: who sent them and who may wait no more.
    wire: Vec<(u32, Request)>,
    sent: u32,
    /// Looks before it trusts a token. Without it the checker must find a loss.
    looks: bool,
}

impl Game {
    fn new(seed: u64, window: usize, looks: bool) -> Self {
        let world = World { window, ..World::default() };
        Self { rng: StdRng::seed_from_u64(seed), world, owners: Vec::new(), wire: Vec::new(), sent: 0, looks }
    }

    fn one_in(&mut self, chances: u32) -> bool {
        self.rng.random_range(0..chances) == 0
    }

    fn play(mut self) -> World {
        for _ in 0..MOVES {
            match self.rng.random_range(0..20) {
                0 => self.start_owner(),
                1..8 => self.deliver(true),
                _ if self.owners.is_empty() => {}
                move_of_an_owner => {
                    let at = self.rng.random_range(0..self.owners.len());
                    match move_of_an_owner {
                        8 => drop(self.owners.swap_remove(at)), // kill -9
                        9 => self.give_up_waiting(at),
                        _ => self.go_on(at),
                    }
                }
            }
        }
        self.heal();
        self.world
    }

    /// No more faults, one owner; what is still on its way arrives whenever it likes.
    fn heal(&mut self) {
        self.owners.clear();
        while self.world.next < EVENTS {
            if self.owners.is_empty() {
                self.start_owner();
            }
            self.go_on(0);
            self.deliver(false);
        }
        while !self.wire.is_empty() {
            self.deliver(false);
        }
        self.assert_equals_the_log();
    }

    fn assert_equals_the_log(&self) {
        let mut seen = self.world.rows.clone();
        seen.sort_unstable();
        seen.dedup(); // as the views do
        let mut log: Vec<_> = (0..EVENTS).map(|offset| (table(offset), offset)).collect();
        log.sort_unstable();
        assert_eq!(seen, log);
    }

    /// Claims the partition: everybody else is stale from now on, and may not know.
    fn start_owner(&mut self) {
        self.world.epoch += 1;
        let (epoch, next, planned_to) = (self.world.epoch, self.world.next, self.world.planned_to);
        let encoding = self.rng.random_range(0..2);
        self.owners.push(Owner { epoch, encoding, next, planned_to, begun: None, batch: None, waits: None });
    }

    /// Its deadline passed; the request travels on.
    fn give_up_waiting(&mut self, at: usize) {
        self.owners[at].waits = None;
        self.try_again(at);
    }

    fn try_again(&mut self, at: usize) {
        let looks = self.looks;
        let owner = &mut self.owners[at];
        if let Some(batch) = owner.batch.take() {
            let attempt = owner.attempt((batch.from, batch.to), batch.blocks.len(), looks);
            owner.batch = Some(InHand { attempt, missing: None, again: true, ..batch });
        }
    }

    /// An owner that waits for nothing sends its next request.
    fn go_on(&mut self, at: usize) {
        if self.owners[at].waits.is_some() || (self.owners[at].batch.is_none() && !self.gather(at)) {
            return;
        }
        self.sent += 1;
        let (id, alone) = (self.sent, self.one_in(2));
        let owner = &mut self.owners[at];
        owner.waits = Some(id);
        let Some(request) = owner.request(id, alone) else { return };
        self.wire.push((id, request));
    }

    fn gather(&mut self, at: usize) -> bool {
        let (random, looks) = (self.rng.random_range(1..=BATCH_MAX), self.looks);
        let owner = &mut self.owners[at];
        let planned = owner.planned_to.filter(|_| owner.next < EVENTS);
        let (from, to) = (owner.next, planned.unwrap_or(owner.next + random).min(EVENTS));
        if from == to {
            return false;
        }
        let of = |place| Block {
            table: place,
            offsets: (from..to).filter(|offset| table(*offset) == place).collect(),
            encoding: owner.encoding,
        };
        let blocks: Vec<_> = (0..TABLES).map(of).filter(|block| !block.offsets.is_empty()).collect();
        let attempt = owner.attempt((from, to), blocks.len(), looks);
        owner.batch = Some(InHand { from, to, blocks, attempt, missing: None, again: false });
        true
    }

    /// A request arrives, not always the oldest, and its answer, not always.
    fn deliver(&mut self, faults: bool) {
        if self.wire.is_empty() {
            return;
        }
        let (id, request) = self.wire.swap_remove(self.rng.random_range(0..self.wire.len()));
        let (lost, unanswered, forgets) = match faults {
            true => (self.one_in(12), self.one_in(8), self.one_in(6)),
            false => (false, false, false),
        };
        let answer = (!lost).then(|| self.world.take(&request, forgets));
        let Some(at) = self.owners.iter().position(|owner| owner.waits == Some(id)) else { return };
        self.owners[at].waits = None;
        // A server that forgets was killed: it answers nobody.
        match answer.filter(|_| !unanswered && !forgets) {
            None => self.try_again(at),
            Some(answer) => {
                let stale = self.owners[at].epoch != self.world.epoch;
                assert!(stale || !matches!(answer, Answer::Fenced), "the owner was told that it is stale");
                if self.owners[at].hears(answer).is_none() {
                    self.owners.swap_remove(at);
                }
            }
        }
    }
}

impl Owner {
    fn attempt(&mut self, span: (usize, usize), blocks: usize, looks: bool) -> Attempt {
        let begun = self.begun.replace(span) == Some(span);
        Attempt::new(blocks, looks && (begun || self.planned_to.is_some()))
    }

    /// `alone`: an insert goes together with nobody else's.
    fn request(&mut self, id: u32, alone: bool) -> Option<Request> {
        let batch = self.batch.as_ref()?;
        if batch.again {
            return Some(Request::HasSettled);
        }
        let (from, to, epoch) = (batch.from, batch.to, self.epoch);
        let insert = |block: Block, own: bool, is_repair| {
            let token = if own { Token::Own(block.clone()) } else { Token::Unseen(id) };
            Request::Insert { block, token, is_repair }
        };
        Some(match batch.attempt.step() {
            Step::Plan => Request::Plan { epoch, next: from, to },
            Step::Insert(at) => insert(batch.blocks[at].clone(), alone, false),
            Step::Look(at) | Step::LookAgain(at) => Request::Look { block: batch.blocks[at].clone() },
            Step::InsertMissing(_) => insert(batch.missing.clone()?, true, false),
            Step::InsertLost(_) => insert(batch.missing.clone()?, false, true),
            Step::Settle => Request::Settle { epoch, from, to },
        })
    }

    /// `None` when it must stop.
    fn hears(&mut self, answer: Answer) -> Option<()> {
        let batch = self.batch.as_mut()?;
        match answer {
            Answer::Fenced => return None,
            Answer::Late => batch.again = true,
            Answer::At(epoch, _) if epoch != self.epoch => return None,
            Answer::At(_, next) if next == batch.to => self.settled(),
            Answer::At(..) => batch.again = false,
            Answer::Done if batch.attempt.step() == Step::Settle => self.settled(),
            Answer::Done => batch.attempt.done(false),
            Answer::Missing(block) => {
                batch.attempt.done(!block.offsets.is_empty());
                batch.missing = Some(block);
            }
        }
        Some(())
    }

    fn settled(&mut self) {
        if let Some(batch) = self.batch.take() {
            (self.next, self.planned_to, self.begun) = (batch.to, None, None);
        }
    }
}

const SEEDS: u64 = 4_000;

/// Repairs, and rows that were stored more than once; or the seed that broke it.
fn play(window: usize, looks: bool) -> Result<(usize, usize), u64> {
    (0..SEEDS).try_fold((0, 0), |(repairs, doubled), seed| {
        let played = std::panic::catch_unwind(|| Game::new(seed, window, looks).play());
        let world = played.map_err(|_| seed)?;
        Ok((repairs + world.repairs, doubled + world.rows.len() - EVENTS))
    })
}

#[test]
fn every_row_is_seen_once_whoever_dies_and_whatever_is_forgotten() {
    let (repairs, doubled) = play(10, true).expect("the seed that broke it");
    assert!(repairs > 0 && doubled > 0, "nothing happened that a view or a look had to mend");
}

#[test]
fn tokens_save_work_and_are_not_needed() {
    let ((_, with), (_, without)) = (play(10, true).expect("a seed"), play(0, true).expect("a seed"));
    assert!(with < without, "rows stored more than once: {with} with tokens, {without} without");
}

#[test]
fn the_model_would_notice_an_owner_that_trusts_the_token() {
    assert!(play(10, false).is_err());
}
