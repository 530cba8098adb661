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
//! begins from the plan, by this owner or the next, who knows that it repeats: [`Begun`]. Who owns the partition, and
//! whether a settlement took effect after all, is [`Standing`](millrace_stream::Standing)'s to say. `protocol/model.rs`
//! plays all of these together for thousands of seeds.

use super::block::Span;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

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

/// The span each partition has begun to insert and not seen to its end; one entry a partition, one of these a process.
#[derive(Default)]
pub(super) struct Begun(Mutex<HashMap<(Arc<str>, i32), String>>);

impl Begun {
    /// May somebody have begun to insert these rows before? `range`: the batch's; a replayed letter has none, and neither
    /// plan nor predecessor that we would know of. `left`: what the owner before this one had planned.
    pub fn repeats(&self, span: &Span, range: Option<(i64, i64)>, left: Option<(i64, i64)>) -> bool {
        range.is_none() || range == left || self.has(span)
    }

    /// Was this very span begun here?
    fn has(&self, span: &Span) -> bool {
        self.spans().get(&(span.topic.clone(), span.partition)) == Some(&span.offsets)
    }

    /// Its plan is written down.
    pub fn begin(&self, span: &Span) {
        self.spans().insert((span.topic.clone(), span.partition), span.offsets.clone());
    }

    /// It is settled. A stale owner of this process may end late: then the entry is its successor's, and stays.
    pub fn end(&self, span: &Span) {
        let partition = (span.topic.clone(), span.partition);
        let mut spans = self.spans();
        if spans.get(&partition) == Some(&span.offsets) {
            spans.remove(&partition);
        }
    }

    fn spans(&self) -> MutexGuard<'_, HashMap<(Arc<str>, i32), String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod model;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_begun_twice_without_an_end_is_a_repeat() {
        let begun = Begun::default();
        let span = |offsets: &str| Span { topic: "t".into(), partition: 1, offsets: offsets.into() };
        assert!(!begun.has(&span("0-9")), "first");
        begun.begin(&span("0-9"));
        assert!(begun.has(&span("0-9")), "again");
        begun.end(&span("0-9"));
        assert!(!begun.has(&span("0-9")), "another time");
        begun.begin(&span("10-19"));
        begun.end(&span("0-9"));
        assert!(begun.has(&span("10-19")), "an end that came late is not the next one's");
        assert!(!begun.has(&span("20-29")), "another");
    }

    #[test]
    fn what_was_planned_before_and_every_letter_are_repeats_whoever_began() {
        let (begun, span) = (Begun::default(), Span { topic: "t".into(), partition: 1, offsets: "0-9".into() });
        assert!(!begun.repeats(&span, Some((0, 10)), None));
        assert!(begun.repeats(&span, Some((0, 10)), Some((0, 10))));
        assert!(!begun.repeats(&span, Some((10, 20)), Some((0, 10))), "the batch behind it");
        assert!(begun.repeats(&span, None, None), "a replayed letter");
    }
}
