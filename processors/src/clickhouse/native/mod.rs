//! From Avro datums straight to ClickHouse's Native blocks: columns, without a row or a value tree between.
//!
//! ```text
//! (writer's schema, table) ─→ plan: a program of small steps, once
//!                               │
//! datum ─→ walk, field by field as it was written ─→ columns, one buffer each ─→ block (bytes) ─→ hash
//!                               │ does not follow its schema, or does not fit
//!                               └─→ reject; the columns are as they were
//! ```
//!
//! What is accepted, what is refused and why is what [`super::row`] says: tests hold both side by side.
//! In the steady state nothing is allocated for an event. Pure: the same rows in the same order always
//! give the same bytes.

mod columns;
mod datum;
mod dictionary;
mod plan;
mod select;
mod skip;
#[cfg(test)]
mod tests;
mod walk;

pub use columns::{Columns, Origin, hash};
pub use plan::{Plan, Unlisted};
