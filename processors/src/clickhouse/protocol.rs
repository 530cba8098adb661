//! What is done next with a batch on its way into ClickHouse: decisions alone, of docs/adr/0006 and 0013.
//!
//! ```text
//! plan ─→ each block, the first time: insert ────────────────────────────────────→ next ─→ settle
//!                     again: look ─┬─ all there ─────────────────────────────────→ next
//!                                  └─ insert what is missing ─→ look ─┬─ all there → next
//!                                                                     └─ insert it ─→ next
//! ```
//!
//! Every step may fail, take effect without an answer, or take effect late. Then the attempt is over, and another one
//! begins from the plan, by this owner or the next, knowing that it repeats. `protocol/model.rs` plays that for
//! thousands of seeds.

/// The next thing to do. Blocks are named by their places in the batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Write down in Postgres what is about to be inserted.
    Plan,
    /// Insert the block, alone or together with others of its table. All of a batch may be begun at once.
    Insert(usize),
    /// Ask which of the block's rows are there.
    Look(usize),
    /// Insert the others under a token made of what they are: should somebody have inserted just these, which the look
    /// came too early to see, the server leaves them out.
    InsertMissing(usize),
    /// Ask again. A server killed between writing its token log and publishing the part has forgotten the rows and
    /// remembers the token.
    LookAgain(usize),
    /// Insert what is still missing under a token that the server cannot have seen.
    InsertLost(usize),
    /// Move the checkpoint.
    Settle,
}

/// One try at a batch.
#[derive(Debug)]
pub(super) struct Attempt {
    blocks: usize,
    /// Somebody may have begun to insert these rows before.
    repeats: bool,
    step: Step,
}

impl Attempt {
    pub fn new(blocks: usize, repeats: bool) -> Self {
        Self { blocks, repeats, step: Step::Plan }
    }

    pub fn step(&self) -> Step {
        self.step
    }

    /// The step took effect, and its answer came. `missing`: the look found that some rows are not there.
    pub fn done(&mut self, missing: bool) {
        self.step = match self.step {
            Step::Plan => self.begin(0),
            Step::Look(at) if missing => Step::InsertMissing(at),
            Step::InsertMissing(at) => Step::LookAgain(at),
            Step::LookAgain(at) if missing => Step::InsertLost(at),
            Step::Insert(at) | Step::Look(at) | Step::LookAgain(at) | Step::InsertLost(at) => self.begin(at + 1),
            Step::Settle => Step::Settle,
        };
    }

    fn begin(&self, at: usize) -> Step {
        match self.repeats {
            _ if at == self.blocks => Step::Settle,
            true => Step::Look(at),
            false => Step::Insert(at),
        }
    }
}

#[cfg(test)]
mod model;
