//! What times ClickHouse's types hold. One place, so that nothing is accepted at the door which no table can keep.

use std::ops::{Range, RangeInclusive};

/// 1900-01-01 to 2299-12-31, in days since 1970-01-01: all that Date32 holds.
pub const DAYS: RangeInclusive<i32> = -25_567..=120_529;
/// The same days, in seconds, the end excluded: all that DateTime64 holds.
pub const SECONDS: Range<i64> = *DAYS.start() as i64 * 86_400..(*DAYS.end() as i64 + 1) * 86_400;
/// 1970-01-01 to 2105-12-31, in seconds: what ClickHouse's 16-bit days and 32-bit seconds hold, and with them the sort
/// key, the partitions, and every `toDate(occurred_at)` an analyst writes.
pub const OCCURRED: Range<i64> = 0..4_291_747_200;
