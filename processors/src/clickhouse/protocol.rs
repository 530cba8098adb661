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
//! begins from the plan, by this owner or the next, who knows that it [`repeats`]. Who owns the partition, and
//! whether a settlement took effect after all, is [`Standing`](millrace_stream::Standing)'s to say. `protocol/model.rs`
//! plays all of these together for thousands of seeds.

/// The next thing to do. Blocks are named by their places in the batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Write down in Postgres what is about to be inserted.
    Plan,
    /// Insert the block, alone or together with others of its table. All of a batch may be begun at once.
    Insert(usize),
    /// Ask which of the block's rows are there.
    Look(usize),
    /// Insert the others.
    InsertMissing(usize, Token),
    /// Ask again. A server killed between writing its token log and publishing the part has forgotten the rows and
    /// remembers the token.
    LookAgain(usize),
    /// Move the checkpoint.
    Settle,
}

/// Under which token rows are inserted again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Token {
    /// One made of what they are: should somebody have inserted just these, which the look came too early to see, the
    /// server leaves them out.
    Own,
    /// One that the server cannot have seen.
    Unseen,
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
            Step::Look(at) if missing => Step::InsertMissing(at, Token::Own),
            Step::InsertMissing(at, Token::Own) => Step::LookAgain(at),
            Step::LookAgain(at) if missing => Step::InsertMissing(at, Token::Unseen),
            Step::Insert(at) | Step::Look(at) | Step::LookAgain(at) => self.begin(at + 1),
            Step::InsertMissing(at, Token::Unseen) => self.begin(at + 1),
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

/// May somebody have begun to insert these rows before? `range`: the batch's; a replayed letter has none, and neither plan
/// nor predecessor that we would know of. `inherited`: what the owner before this one had planned. `planned`: an attempt
/// before this one came so far.
pub(super) fn repeats(range: Option<(i64, i64)>, inherited: Option<(i64, i64)>, planned: bool) -> bool {
    planned || range.is_none() || range == inherited
}

#[cfg(test)]
mod model;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_planned_before_and_every_letter_are_repeats() {
        assert!(!repeats(Some((0, 10)), None, false));
        assert!(repeats(Some((0, 10)), None, true), "by an attempt before");
        assert!(repeats(Some((0, 10)), Some((0, 10)), false), "by an owner before");
        assert!(!repeats(Some((10, 20)), Some((0, 10)), false), "the batch behind it");
        assert!(repeats(None, None, false), "a replayed letter");
    }
}
