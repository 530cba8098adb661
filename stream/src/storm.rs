//! Stops a pipeline before a flood of bad records becomes a table full of dead letters.

use crate::decode::Decoded;
use crate::{Failure, Record};
use std::sync::Arc;

/// Records of a partition that are counted together, each such window on its own.
pub(crate) const STORM_WINDOW: u32 = 1_000;

/// Watches the share of records that are set aside. Where it is large something is wrong with the project or the
/// publisher, and a full table of dead letters helps nobody, unless somebody says that it does.
pub(crate) struct Storm {
    /// Where the pipeline's settings are.
    section: Arc<str>,
    /// One more stops the pipeline.
    rejected_max: u32,
    seen: u32,
    rejected: u32,
}

impl Storm {
    pub fn new(section: Arc<str>, rejected_max: u32) -> Self {
        Self { section, rejected_max, seen: 0, rejected: 0 }
    }

    /// # Errors
    /// When too many were set aside: before those of the batch in hand are written.
    pub fn note(&mut self, record: &Record, decoded: &Decoded) -> Result<(), Failure> {
        if self.seen >= STORM_WINDOW {
            (self.seen, self.rejected) = (0, 0);
        }
        self.seen += 1;
        let Decoded::Rejected(newest) = decoded else { return Ok(()) };
        self.rejected += 1;
        if self.rejected <= self.rejected_max {
            return Ok(());
        }
        let Self { section, rejected_max, seen, rejected } = self;
        let (reason, error) = (newest.reason.as_str(), &newest.error);
        Err(Failure::stop(anyhow::anyhow!(
            "{rejected} of the last {seen} records would become dead letters: stopped before they do. \
             The newest is {}: {reason}: {error}; mend the cause and start again. Where they are bad for good, start with \
             `{section}.dead_letters_per_1000` = {STORM_WINDOW} (it is {rejected_max}): they are set aside, and the others go on",
            record.position
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Position, Reason, RecordBuilder, Reject};

    fn storm_after(rejected_max: u32, records: impl IntoIterator<Item = Decoded>) -> Result<(), Failure> {
        let position = Position { topic: "t".into(), partition: 0, offset: 7 };
        let record = RecordBuilder::new(&mut bytes::BytesMut::new(), None, None).build(position, None);
        let mut storm = Storm::new("process.clickhouse".into(), rejected_max);
        records.into_iter().try_for_each(|decoded| storm.note(&record, &decoded))
    }

    fn bad() -> Decoded {
        Decoded::Rejected(Reject::new(Reason::BadFraming, "no Avro"))
    }

    #[test]
    fn a_storm_of_bad_records_stops_before_they_fill_the_table_and_names_the_setting_that_lets_them() {
        let stopped = storm_after(500, (0..501).map(|_| bad())).unwrap_err().to_string();
        assert!(stopped.starts_with("501 of the last 501 records"), "{stopped}");
        assert!(stopped.contains("t[0]@7: bad_framing: no Avro"), "{stopped}");
        assert!(
            stopped.contains("start with `process.clickhouse.dead_letters_per_1000` = 1000 (it is 500)"),
            "{stopped}"
        );
    }

    #[test]
    fn bad_records_among_many_that_are_not_for_a_pipeline_are_no_storm() {
        let one_in_ten = (0..20_000).map(|at| if at % 10 == 0 { bad() } else { Decoded::Ignored });
        assert!(storm_after(500, one_in_ten).is_ok());
    }

    #[test]
    fn who_says_that_all_may_be_bad_is_never_stopped_and_who_says_none_at_the_first() {
        assert!(storm_after(1_000, (0..5_000).map(|_| bad())).is_ok());
        let stopped = storm_after(0, [Decoded::Event, bad()]).unwrap_err().to_string();
        assert!(stopped.starts_with("1 of the last 2 records"), "{stopped}");
    }
}
