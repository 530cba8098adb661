//! What is done next with a batch on its way into ClickHouse: decisions alone, of docs/adr/0006.
//!
//! ```text
//! plan ─→ each block: insert ───────────────────────────→ next ─→ settle
//!                     insert again ─→ look ─┬─ all there ─→ next
//!                     encoded otherwise ────┴─ some missing ─→ insert these ─→ next
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
    /// Insert the block under its own token: it costs nothing where that was done before.
    Insert(usize),
    /// Ask which of the block's rows are there.
    Look(usize),
    /// Insert the others under a token that the server cannot have seen.
    InsertMissing(usize),
    /// Move the checkpoint.
    Settle,
}

/// What is known of a block when an attempt begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Known {
    /// Nobody can have begun to insert these rows.
    New,
    /// Somebody may have inserted exactly this block: its token is worth something, and proves nothing. A server
    /// killed between writing its token log and publishing the part forgets the rows and remembers the token.
    Planned,
    /// Somebody may have inserted these rows encoded otherwise, under another token.
    PlannedOtherwise,
}

impl Known {
    /// `begun`: this owner may have begun before, or cannot know who has. `planned`: whether exactly this block is in the
    /// plan that an earlier owner left; none where there is no such plan.
    pub fn of(begun: bool, planned: Option<bool>) -> Self {
        match (begun, planned) {
            (false, None) => Self::New,
            (true, None) | (_, Some(true)) => Self::Planned,
            (_, Some(false)) => Self::PlannedOtherwise,
        }
    }
}

/// One try at a batch.
#[derive(Debug)]
pub(super) struct Attempt {
    blocks: Vec<Known>,
    step: Step,
}

impl Attempt {
    pub fn new(blocks: Vec<Known>) -> Self {
        Self { blocks, step: Step::Plan }
    }

    pub fn step(&self) -> Step {
        self.step
    }

    /// The step took effect, and its answer came. `missing`: the look found that some rows are not there.
    pub fn done(&mut self, missing: bool) {
        self.step = match self.step {
            Step::Plan => self.begin(0),
            Step::Insert(at) if self.blocks[at] != Known::New => Step::Look(at),
            Step::Look(at) if missing => Step::InsertMissing(at),
            Step::Insert(at) | Step::Look(at) | Step::InsertMissing(at) => self.begin(at + 1),
            Step::Settle => Step::Settle,
        };
    }

    fn begin(&self, at: usize) -> Step {
        match self.blocks.get(at) {
            Some(Known::New | Known::Planned) => Step::Insert(at),
            Some(Known::PlannedOtherwise) => Step::Look(at),
            None => Step::Settle,
        }
    }
}

#[cfg(test)]
mod model;
