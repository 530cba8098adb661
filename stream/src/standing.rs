//! What a checkpoint's row says to an owner: a decision alone. `offsets` acts on it, and the model of the ClickHouse
//! pipeline plays it with owners that are stale and answers that are late.

/// Where a checkpoint stands, for an owner that wants to move it over a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Where the range begins: nobody has settled it.
    Before,
    /// Where it ends: its COMMIT took effect, though the answer was lost, or after somebody had asked for it.
    Settled,
    /// Not where this owner left it: somebody else has the partition.
    Lost,
}

impl Standing {
    /// `epoch`: the owner's. `found`: epoch and `next`, as the table has them now.
    pub fn of(epoch: i64, (from, to): (i64, i64), found: (i64, i64)) -> Self {
        match found {
            (newest, _) if newest != epoch => Self::Lost,
            (_, next) if next == from => Self::Before,
            (_, next) if next == to => Self::Settled,
            _ => Self::Lost,
        }
    }
}
