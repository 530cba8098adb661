//! Holds a partition before a flood of bad records becomes a table full of dead letters.

use crate::Record;
use crate::dead_letter::SetAside;
use crate::decode::Decoded;
use std::sync::Arc;

/// Positions of a partition's log that are counted together, from a multiple of it on: whoever starts again goes on
/// counting, and comes to a halt at the same place.
pub(crate) const STORM_WINDOW: u32 = 1_000;

/// Watches the share of records that are set aside. Where it is large something is wrong with the project or the
/// publisher, and a full table of dead letters helps nobody, unless somebody says that it does.
pub(crate) struct Storm {
    /// Where the pipeline's settings are.
    section: Arc<str>,
    /// One more, and the partition is held.
    rejected_max: u32,
    /// Where those begin that are counted now.
    from: i64,
    rejected: u32,
}

impl Storm {
    pub fn new(section: Arc<str>, rejected_max: u32) -> Self {
        Self { section, rejected_max, from: 0, rejected: 0 }
    }

    /// Where those begin that are counted with this one.
    pub fn counts_from(offset: i64) -> i64 {
        offset - offset.rem_euclid(STORM_WINDOW.into())
    }

    /// From here on, where these were set aside before.
    pub fn go_on(&mut self, next: i64, set_aside: &SetAside) {
        self.from = Self::counts_from(next);
        self.rejected = u32::try_from(set_aside.count_from(self.from)).unwrap_or(u32::MAX);
    }

    /// Why the partition must go no further than the record before this one, where too many were set aside.
    pub fn note(&mut self, record: &Record, decoded: &Decoded) -> Option<String> {
        let from = Self::counts_from(record.position.offset);
        if from != self.from {
            (self.from, self.rejected) = (from, 0);
        }
        let Decoded::Rejected(newest) = decoded else { return None };
        self.rejected = self.rejected.saturating_add(1);
        if self.rejected <= self.rejected_max {
            return None;
        }
        let Self { section, rejected_max, rejected, .. } = self;
        let seen = record.position.offset - from + 1;
        let (reason, error) = (newest.reason.as_str(), &newest.error);
        Some(format!(
            "{rejected} of the last {seen} records are bad: this partition goes no further, and the others go on. \
             The newest is {}: {reason}: {error}; mend the cause and start again. Where they are bad for good, start with \
             `{section}.dead_letters_per_1000` = {STORM_WINDOW} (it is {rejected_max}): they are set aside, and what lies \
             behind them goes on",
            record.position
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Position, Reason, RecordBuilder, Reject};

    fn storm_after(rejected_max: u32, records: impl IntoIterator<Item = Decoded>) -> Option<String> {
        let mut storm = Storm::new("process.clickhouse".into(), rejected_max);
        (0..).zip(records).find_map(|(offset, decoded)| storm.note(&record(offset), &decoded))
    }

    fn at(offset: i64) -> Position {
        Position { topic: "t".into(), partition: 0, offset }
    }

    fn record(offset: i64) -> Record {
        RecordBuilder::new(&mut bytes::BytesMut::new(), None, None).build(at(offset), None)
    }

    fn bad() -> Decoded {
        Decoded::Rejected(Reject::new(Reason::BadFraming, "no Avro"))
    }

    #[test]
    fn a_storm_of_bad_records_halts_before_they_fill_the_table_and_names_the_setting_that_lets_them() {
        let halted = storm_after(500, (0..501).map(|_| bad())).unwrap();
        assert!(halted.starts_with("501 of the last 501 records"), "{halted}");
        assert!(halted.contains("t[0]@500: bad_framing: no Avro"), "{halted}");
        assert!(
            halted.contains("start with `process.clickhouse.dead_letters_per_1000` = 1000 (it is 500)"),
            "{halted}"
        );
    }

    #[test]
    fn bad_records_among_many_that_are_not_for_a_pipeline_are_no_storm() {
        let one_in_ten = (0..20_000).map(|at| if at % 10 == 0 { bad() } else { Decoded::Ignored });
        assert_eq!(storm_after(500, one_in_ten), None);
    }

    #[test]
    fn whoever_starts_again_halts_at_the_same_place() {
        let set_aside = SetAside::of((1_990..2_400).map(at)); // ten of them belong to those before
        for _start in 0..2 {
            let mut storm = Storm::new("process.clickhouse".into(), 500);
            storm.go_on(2_400, &set_aside);
            let halted = (2_400..).find_map(|offset| storm.note(&record(offset), &bad())).unwrap();
            assert!(halted.starts_with("501 of the last 501 records") && halted.contains("t[0]@2500"), "{halted}");
        }
    }

    #[test]
    fn who_says_that_all_may_be_bad_is_never_halted_and_who_says_none_at_the_first() {
        assert_eq!(storm_after(1_000, (0..5_000).map(|_| bad())), None);
        let halted = storm_after(0, [Decoded::Event, bad()]).unwrap();
        assert!(halted.starts_with("1 of the last 2 records"), "{halted}");
    }
}
