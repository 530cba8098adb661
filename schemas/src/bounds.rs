//! What readers read and ClickHouse's types hold. One place, so that nothing is accepted at the door which no pipeline
//! can read or no table keep.

use apache_avro::types::Value;
use std::ops::{Range, RangeInclusive};

/// 1900-01-01 to 2299-12-31, in days since 1970-01-01: all that Date32 holds.
pub const DAYS: RangeInclusive<i32> = -25_567..=120_529;
/// The same days, in seconds, the end excluded: all that DateTime64 holds.
pub const SECONDS: Range<i64> = *DAYS.start() as i64 * 86_400..(*DAYS.end() as i64 + 1) * 86_400;
/// 1970-01-01 to 2105-12-31, in seconds: what ClickHouse's 16-bit days and 32-bit seconds hold, and with them the sort
/// key, the partitions, and every `toDate(occurred_at)` an analyst writes.
pub const OCCURRED: Range<i64> = 0..4_291_747_200;

/// What one length within a datum may ask a reader to allocate: a record is at most 1 MiB, this leaves room for its parts.
pub const LENGTH_MAX: usize = 4 << 20;
/// Items of one array, over all of its blocks: what they weigh as the codec's values.
pub const ARRAY_ITEMS_MAX: usize = LENGTH_MAX / size_of::<Value>();
/// Entries of one map, over all of its blocks, in the same way.
pub const MAP_ENTRIES_MAX: usize = LENGTH_MAX / size_of::<(String, Value)>();
