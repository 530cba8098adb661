//! Stops a pipeline before a flood of bad records becomes a table full of dead letters.

use crate::decode::Decoded;
use crate::{Failure, Record};

/// A pipeline that would set aside more than this share of [`STORM_WINDOW`] records of a partition stops: something
/// is wrong with the project or the publisher, and a full table of dead letters helps nobody.
const STORM_RATIO: f64 = 0.5;
const STORM_WINDOW: usize = 1_000;

/// Watches the share of records that are set aside.
#[derive(Default)]
pub(crate) struct Storm {
    seen: usize,
    rejected: usize,
}

impl Storm {
    /// # Errors
    /// When too many were set aside: before those of the batch in hand are written.
    pub fn note(&mut self, record: &Record, decoded: &Decoded) -> Result<(), Failure> {
        // Counted in windows, each on its own.
        if self.seen >= STORM_WINDOW {
            *self = Self::default();
        }
        self.seen += 1;
        let Decoded::Rejected(newest) = decoded else { return Ok(()) };
        self.rejected += 1;
        let Self { seen, rejected } = *self;
        if rejected as f64 <= STORM_RATIO * STORM_WINDOW as f64 {
            return Ok(());
        }
        let (reason, error) = (newest.reason.as_str(), &newest.error);
        Err(Failure::stop(anyhow::anyhow!(
            "{rejected} of the last {seen} records would become dead letters: stopped before they do. \
             The newest is {}: {reason}: {error}; start again once the cause is gone",
            record.position
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Position, Reason, RecordBuilder, Reject};

    fn storm_after(records: impl IntoIterator<Item = Decoded>) -> Result<(), Failure> {
        let position = Position { topic: "t".into(), partition: 0, offset: 7 };
        let record = RecordBuilder::new(&mut bytes::BytesMut::new(), None, None).build(position, None);
        let mut storm = Storm::default();
        records.into_iter().try_for_each(|decoded| storm.note(&record, &decoded))
    }

    fn bad() -> Decoded {
        Decoded::Rejected(Reject::new(Reason::BadFraming, "no Avro"))
    }

    #[test]
    fn a_storm_of_bad_records_stops_before_they_fill_the_table() {
        let stopped = storm_after((0..501).map(|_| bad())).unwrap_err().to_string();
        assert!(stopped.starts_with("501 of the last 501 records"), "{stopped}");
        assert!(stopped.contains("t[0]@7: bad_framing: no Avro"), "{stopped}");
    }

    #[test]
    fn bad_records_among_many_that_are_not_for_a_pipeline_are_no_storm() {
        let one_in_ten = (0..20_000).map(|at| if at % 10 == 0 { bad() } else { Decoded::Ignored });
        assert!(storm_after(one_in_ten).is_ok());
    }
}
