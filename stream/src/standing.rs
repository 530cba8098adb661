//! What a checkpoint's row says to an owner: a decision alone. `offsets` acts on it, and the model of the ClickHouse
//! pipeline plays it with owners that are stale and answers that are late.

/// Where a checkpoint stands, for an owner that wants to move it over a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Where the range begins: nobody has settled it.
    Before,
    /// Where it ends: its COMMIT took effect, though the answer was lost, or after somebody had asked for it.
    Settled,
    /// Not where this owner left it: somebody else has the partition, or it was reset.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_newest_owner_moves_a_checkpoint_and_only_from_where_it_stands() {
        let of = |found| Standing::of(7, (10, 20), found);
        assert_eq!((of((7, 10)), of((7, 20))), (Standing::Before, Standing::Settled));
        assert_eq!([(8, 10), (8, 20), (6, 10), (7, 15), (7, 30), (7, 0)].map(of), [Standing::Lost; 6]);
    }
}
