//! Every random choice of the simulated shop, from one seeded stream. Integers only: no logarithm whose last bit
//! could differ between machines.

use super::events::{Id, Text};
use chrono::{DateTime, Utc};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use std::ops::RangeInclusive;
use uuid::{Builder, Uuid};

pub(super) struct Dice(ChaCha8Rng);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(ChaCha8Rng::seed_from_u64(seed))
    }

    /// Less than `n`, which is not 0. By multiplication: the bias, n in 2^64, is nobody's concern here.
    pub fn below(&mut self, n: u64) -> u64 {
        let product = u128::from(self.0.next_u64()) * u128::from(n);
        (product >> 64) as u64
    }

    pub fn between(&mut self, range: RangeInclusive<i64>) -> i64 {
        let width = range.end().abs_diff(*range.start()) + 1;
        range.start() + self.below(width).cast_signed()
    }

    pub fn percent(&mut self, chance: u64) -> bool {
        self.below(100) < chance
    }

    pub fn index<T>(&mut self, of: &[T]) -> usize {
        self.below(of.len() as u64) as usize
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.index(from)]
    }

    pub fn word(&mut self, from: &'static [&'static str]) -> Text {
        Text::Borrowed(self.pick(from))
    }

    /// An aggregate's id: version 4, all random.
    pub fn id(&mut self) -> Id {
        let bytes = Uuid::from_u64_pair(self.0.next_u64(), self.0.next_u64()).into_bytes();
        Id(Builder::from_random_bytes(bytes).into_uuid())
    }

    /// An event's id: version 7, of the simulated time.
    pub fn event_id(&mut self, at: DateTime<Utc>) -> Uuid {
        let mut random = [0; 10];
        self.0.fill_bytes(&mut random);
        let millis = at.timestamp_millis().unsigned_abs();
        Builder::from_unix_timestamp_millis(millis, &random).into_uuid()
    }
}
