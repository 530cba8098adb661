//! The protocol among owners that die, owners that don't know they are stale, answers that are lost or late, requests
//! that arrive when nobody waits for them, and a server that forgets. Compared with the log, which is all there is to say.
//!
//! The stores are played here; what an owner does is decided by [`Attempt`], [`repeats`] and [`Standing`], as ever.
//! A rebuild, for which owners wait, is not played.

use super::{Attempt, Step, Token, repeats};
use millrace_stream::Standing;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::collections::VecDeque;

const EVENTS: i64 = 40;
const TABLES: i64 = 2;
const BATCH_MAX: i64 = 8;
/// Random moves before the world heals.
const MOVES: usize = 600;
/// Far more than it takes until all is settled and every stale owner has heard so.
const MOVES_TO_HEAL: usize = 20_000;

/// Where an offset's event belongs.
fn table(offset: i64) -> i64 {
    offset % 3 % TABLES
}

/// Rows of one table, and how they are encoded: what a content's hash stands for.
#[derive(Debug, Clone, PartialEq)]
struct Block {
    table: i64,
    offsets: Vec<i64>,
    encoding: u32,
}

#[derive(Debug, Clone)]
enum Request {
    Plan {
        epoch: i64,
        range: (i64, i64),
    },
    Insert {
        block: Block,
        /// None where it goes together with others', too.
        token: Option<Token>,
    },
    Look {
        block: Block,
    },
    Settle {
        epoch: i64,
        range: (i64, i64),
    },
    /// What an owner asks first when it tries again.
    Position,
}

#[derive(Debug)]
enum Answer {
    Done,
    Missing(Block),
    /// Epoch and next.
    At(i64, i64),
    /// The statement changed nothing; the same.
    Refused(i64, i64),
    /// Whether it took effect or not.
    Failed,
}

enum Message {
    Request(Request),
    Answer(Answer),
}

/// The stores.
#[derive(Default)]
struct World {
    epoch: i64,
    next: i64,
    planned_to: Option<i64>,
    /// Every row that was ever stored.
    rows: Vec<(i64, i64)>,
    /// Those of inserts whose own tokens are remembered, among others.
    tokens: VecDeque<Option<Block>>,
    /// Tokens that are remembered.
    window: usize,
    /// Inserts of what a second look had found missing.
    repairs: usize,
}

impl World {
    fn take(&mut self, request: Request, forgets: bool) -> Answer {
        match request {
            Request::Plan { epoch, range: (from, to) } => self.fenced(epoch, from, |world| world.planned_to = Some(to)),
            Request::Settle { epoch, range: (from, to) } => self.fenced(epoch, from, |world| {
                world.assert_holds(from..to);
                (world.next, world.planned_to) = (to, None);
            }),
            Request::Insert { block, token } => self.insert(&block, token, forgets),
            Request::Look { block } => {
                let missing = block.offsets.iter().copied().filter(|offset| !self.has(block.table, *offset)).collect();
                Answer::Missing(Block { offsets: missing, ..block })
            }
            Request::Position => Answer::At(self.epoch, self.next),
        }
    }

    /// As the statements on the checkpoint do.
    fn fenced(&mut self, epoch: i64, from: i64, change: impl FnOnce(&mut Self)) -> Answer {
        if (epoch, from) != (self.epoch, self.next) {
            return Answer::Refused(self.epoch, self.next);
        }
        change(self);
        Answer::Done
    }

    /// `forgets`: killed between the token's log and the rows.
    fn insert(&mut self, block: &Block, token: Option<Token>, forgets: bool) -> Answer {
        self.repairs += usize::from(token == Some(Token::Unseen));
        let known = Some(block.clone()).filter(|_| token == Some(Token::Own));
        if known.is_some() && self.tokens.contains(&known) {
            return Answer::Done;
        }
        self.tokens.push_back(known);
        while self.tokens.len() > self.window {
            self.tokens.pop_front();
        }
        if !forgets {
            self.rows.extend(block.offsets.iter().map(|offset| (block.table, *offset)));
        }
        Answer::Done
    }

    fn has(&self, table: i64, offset: i64) -> bool {
        self.rows.contains(&(table, offset))
    }

    /// Nothing is settled that is not there.
    fn assert_holds(&self, mut offsets: std::ops::Range<i64>) {
        assert!(offsets.all(|offset| self.has(table(offset), offset)), "settled, and a row is lost");
    }
}

/// A worker that owns the partition, or believes so.
struct Owner {
    epoch: i64,
    encoding: u32,
    next: i64,
    /// What the owner before it had planned.
    inherited: Option<(i64, i64)>,
    batch: Option<InHand>,
    /// The requests whose answers it waits for.
    waits: Vec<u32>,
}

struct InHand {
    range: (i64, i64),
    blocks: Vec<Block>,
    planned: bool,
    /// None where it asks first whether an earlier one has settled after all.
    attempt: Option<Attempt>,
    missing: Option<Block>,
}

struct Game {
    rng: StdRng,
    world: World,
    owners: Vec<Owner>,
    /// Requests and answers on their way: whose they are, who may wait no more.
    wire: Vec<(u32, Message)>,
    sent: u32,
    /// Looks before it trusts a token. Without it the checker must find a loss.
    looks: bool,
}

impl Game {
    fn new(seed: u64, window: usize, looks: bool) -> Self {
        let world = World { window, ..World::default() };
        let rng = StdRng::seed_from_u64(seed);
        Self { rng, world, owners: Vec::new(), wire: Vec::new(), sent: 0, looks }
    }

    fn one_in(&mut self, chances: u32) -> bool {
        self.rng.random_range(0..chances) == 0
    }

    fn play(mut self) -> World {
        for _ in 0..MOVES {
            match self.rng.random_range(0..100) {
                0 => self.start_owner(),
                1..50 => self.deliver(true),
                _ if self.owners.is_empty() => self.start_owner(),
                move_of_an_owner => {
                    let at = self.rng.random_range(0..self.owners.len());
                    match move_of_an_owner {
                        50..52 => drop(self.owners.swap_remove(at)), // kill -9, or it gave the partition up
                        52..57 => self.give_up_waiting(at),
                        _ => self.go_on(at),
                    }
                }
            }
        }
        self.heal();
        self.world
    }

    /// No more faults; what is still on its way arrives whenever it likes, and whoever is stale hears so.
    fn heal(&mut self) {
        for _ in 0..MOVES_TO_HEAL {
            if self.world.next < EVENTS && self.owners.iter().all(|owner| owner.epoch < self.world.epoch) {
                self.start_owner();
            }
            if self.wire.is_empty() && self.owners.iter().all(Owner::is_through) {
                return self.assert_equals_the_log();
            }
            (0..self.owners.len()).for_each(|at| self.go_on(at));
            self.deliver(false);
        }
        panic!("somebody never ends");
    }

    fn assert_equals_the_log(&self) {
        assert_eq!(self.world.next, EVENTS);
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
        let (epoch, next) = (self.world.epoch, self.world.next);
        let inherited = self.world.planned_to.map(|to| (next, to));
        let encoding = self.rng.random_range(0..2);
        self.owners.push(Owner { epoch, encoding, next, inherited, batch: None, waits: Vec::new() });
    }

    /// Its deadline passed; the request travels on.
    fn give_up_waiting(&mut self, at: usize) {
        if !self.owners[at].waits.is_empty() {
            self.owners[at].begin_anew();
        }
    }

    /// An owner that waits for nothing sends its next requests.
    fn go_on(&mut self, at: usize) {
        if !self.owners[at].waits.is_empty() || (self.owners[at].batch.is_none() && !self.gather(at)) {
            return;
        }
        for request in self.requests(at) {
            self.sent += 1;
            self.owners[at].waits.push(self.sent);
            self.wire.push((self.sent, Message::Request(request)));
        }
    }

    fn gather(&mut self, at: usize) -> bool {
        let random = self.rng.random_range(1..=BATCH_MAX);
        let owner = &mut self.owners[at];
        let planned = owner.inherited.filter(|(from, _)| *from == owner.next).map(|(_, to)| to);
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
        owner.batch = Some(InHand { range: (from, to), blocks, planned: false, attempt: None, missing: None });
        owner.attempt(self.looks);
        true
    }

    fn requests(&mut self, at: usize) -> Vec<Request> {
        let mut together = || self.rng.random_range(0..2) == 0;
        let Owner { epoch, batch: Some(batch), .. } = &self.owners[at] else { return Vec::new() };
        let (epoch, range) = (*epoch, batch.range);
        let Some(attempt) = &batch.attempt else { return vec![Request::Position] };
        vec![match attempt.step() {
            Step::Plan => Request::Plan { epoch, range },
            Step::Insert(_) => {
                let token = |together| if together { None } else { Some(Token::Own) };
                let insert = |block: &Block| Request::Insert { block: block.clone(), token: token(together()) };
                return batch.blocks.iter().map(insert).collect(); // all at once
            }
            Step::Look(at) | Step::LookAgain(at) => Request::Look { block: batch.blocks[at].clone() },
            Step::InsertMissing(_, token) => {
                let block = batch.missing.clone().expect("a look found some");
                Request::Insert { block, token: Some(token) }
            }
            Step::Settle => Request::Settle { epoch, range },
        }]
    }

    /// A request arrives, or an answer. The newer sooner: so some are very late.
    fn deliver(&mut self, faults: bool) {
        let Some(last) = self.wire.len().checked_sub(1) else { return };
        let mut any = || self.rng.random_range(0..=last);
        let at = if faults { any().max(any()) } else { any() };
        match self.wire.remove(at) {
            (id, Message::Request(request)) => {
                let answer = self.take(request, faults);
                self.wire.push((id, Message::Answer(answer)));
            }
            (id, Message::Answer(answer)) => self.answer(id, answer),
        }
    }

    fn take(&mut self, request: Request, faults: bool) -> Answer {
        let (lost, unanswered, forgets) = match faults {
            true => (self.one_in(24), self.one_in(16), self.one_in(8)),
            false => (false, false, false),
        };
        if lost {
            return Answer::Failed;
        }
        let answer = self.world.take(request, forgets);
        // A server that forgets was killed: it answers nobody.
        if unanswered || forgets { Answer::Failed } else { answer }
    }

    fn answer(&mut self, id: u32, answer: Answer) {
        let Some(at) = self.owners.iter().position(|owner| owner.waits.contains(&id)) else { return };
        let owner = &mut self.owners[at];
        owner.waits.retain(|other| *other != id);
        let is_told = matches!(answer, Answer::At(epoch, _) | Answer::Refused(epoch, _) if epoch != owner.epoch);
        let stops = owner.hears(answer, self.looks).is_none();
        assert_eq!(stops, is_told, "whoever is told of another owner stops, and nobody else");
        assert!(owner.next <= self.world.next, "somebody believes that settled what is not");
        if stops {
            self.owners.swap_remove(at);
        }
    }
}

impl Owner {
    /// Has it nothing to do?
    fn is_through(&self) -> bool {
        self.batch.is_none() && self.next == EVENTS
    }

    fn attempt(&mut self, looks: bool) {
        if let Some(batch) = &mut self.batch {
            let repeats = repeats(Some(batch.range), self.inherited, batch.planned);
            batch.attempt = Some(Attempt::new(batch.blocks.len(), looks && repeats));
        }
    }

    /// Whatever it waits for may still take effect.
    fn begin_anew(&mut self) {
        self.waits.clear();
        if let Some(batch) = &mut self.batch {
            batch.attempt = None;
        }
    }

    /// `None` when it must stop.
    fn hears(&mut self, answer: Answer, looks: bool) -> Option<()> {
        let batch = self.batch.as_mut()?;
        match answer {
            Answer::Failed => self.begin_anew(),
            Answer::Refused(epoch, next) => match Standing::of(self.epoch, batch.range, (epoch, next)) {
                Standing::Before | Standing::Settled => self.begin_anew(),
                Standing::Lost => return None,
            },
            Answer::At(epoch, next) => match Standing::of(self.epoch, batch.range, (epoch, next)) {
                Standing::Before => self.attempt(looks),
                Standing::Settled => self.settled(),
                Standing::Lost => return None,
            },
            Answer::Done | Answer::Missing(_) => self.step_done(answer),
        }
        Some(())
    }

    fn step_done(&mut self, answer: Answer) {
        let Some(InHand { planned, attempt: Some(attempt), missing, .. }) = &mut self.batch else { return };
        match attempt.step() {
            Step::Plan => *planned = true,
            Step::Settle => return self.settled(),
            _ => {}
        }
        *missing = match answer {
            Answer::Missing(block) if !block.offsets.is_empty() => Some(block),
            _ => None,
        };
        attempt.done(missing.is_some());
    }

    fn settled(&mut self) {
        if let Some(batch) = self.batch.take() {
            self.next = batch.range.1;
        }
    }
}

const SEEDS: u64 = 4_000;

/// Repairs, and rows that were stored more than once; or the seed that broke it.
fn play(window: usize, looks: bool) -> Result<(usize, usize), u64> {
    (0..SEEDS).try_fold((0, 0), |(repairs, doubled), seed| {
        let played = std::panic::catch_unwind(|| Game::new(seed, window, looks).play());
        let world = played.map_err(|_| seed)?;
        Ok((repairs + world.repairs, doubled + world.rows.len() - EVENTS as usize))
    })
}

#[test]
fn every_row_is_seen_once_whoever_dies_and_whatever_is_forgotten() {
    let (repairs, doubled) = play(10, true).expect("the seed that broke it");
    println!("{repairs} repairs, {doubled} rows stored more than once");
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
