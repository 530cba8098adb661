//! Inputs made of others by small damages, such as a careless or a malicious sender would do.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

/// Larger than any seed, so that growing is tried too; small, so that many are.
pub const BYTES_MAX: usize = 4096;
/// What is put into a list at once: more items than any reader takes.
const LIST_BYTES: usize = 256 << 10;
/// What lengths and counts become: around the edges of types and limits. Zigzag varints, as Avro writes them.
const LENGTHS: &[i64] =
    &[0, -1, 1, -64, 127, 1 << 16, (4 << 20) - 1, 4 << 20, (4 << 20) + 1, 1 << 31, i64::MAX, i64::MIN, -(1 << 40)];
/// Pieces of JSON that mean something to a parser, or should not.
const TOKENS: &[&str] = &[
    "null",
    "true",
    "[]",
    "{}",
    "[[[[",
    "{\"\":{\"\":",
    "\"\\u0000\"",
    "\"\\ud800\"",
    "1e999",
    "-0",
    "18446744073709551616",
    "0.1e-400",
    "\"\"",
    ",",
    ":",
    "}",
    "]",
    "\"string\":",
    "{\"long\": 9223372036854775808}",
    "\\",
    "\u{feff}",
    "NaN",
];

pub struct Mutator(StdRng);

impl Mutator {
    pub fn seeded(seed: u64) -> Self {
        Self(StdRng::seed_from_u64(seed))
    }

    pub fn one_of<'s>(&mut self, seeds: &'s [Vec<u8>]) -> &'s [u8] {
        seeds.choose(&mut self.0).expect("there are seeds")
    }

    /// A few damages at once.
    pub fn mutated(&mut self, seeds: &[Vec<u8>]) -> Vec<u8> {
        let mut input = self.one_of(seeds).to_vec();
        for _ in 0..self.0.random_range(1..=4) {
            let other = self.one_of(seeds);
            self.damage(&mut input, other);
        }
        input.truncate(BYTES_MAX);
        input
    }

    /// What stands between a comma and the next, again and again: most often a list that is too long.
    pub fn lengthened(&mut self, seeds: &[Vec<u8>]) -> Vec<u8> {
        let mut input = self.one_of(seeds).to_vec();
        let at = self.0.random_range(0..=input.len());
        let Some(from) = input[at..].iter().position(|byte| *byte == b',').map(|next| at + next) else { return input };
        let behind = input[from + 1..].iter().position(|byte| b",]}".contains(byte));
        let piece = input[from..behind.map_or(input.len(), |next| from + 1 + next)].to_vec();
        insert(&mut input, from, LIST_BYTES / piece.len(), &piece);
        input
    }

    fn damage(&mut self, input: &mut Vec<u8>, other: &[u8]) {
        let at = self.0.random_range(0..=input.len());
        match self.0.random_range(0..7) {
            0 => input.truncate(at),
            1 => self.flip(input),
            2 => {
                let byte = self.0.random_range(0..=u8::MAX);
                insert(input, at, 1, &[byte]);
            }
            3 => {
                let length = *LENGTHS.choose(&mut self.0).expect("there are lengths");
                self.replace(input, at, &varint(length));
            }
            4 => {
                let token = TOKENS.choose(&mut self.0).expect("there are tokens");
                self.replace(input, at, token.as_bytes());
            }
            5 => {
                let repeated = self.0.random_range(2..=64);
                let piece = input[at..input.len().min(at + 16)].to_vec();
                insert(input, at, repeated, &piece);
            }
            _ => {
                let from = self.0.random_range(0..=other.len());
                input.truncate(at);
                input.extend(&other[from..]);
            }
        }
    }

    fn flip(&mut self, input: &mut [u8]) {
        if let Some(at) = input.len().checked_sub(1) {
            let at = self.0.random_range(0..=at);
            input[at] ^= 1 << self.0.random_range(0..8);
        }
    }

    /// Over what is there, so that what follows stays where it is, or in between.
    fn replace(&mut self, input: &mut Vec<u8>, at: usize, piece: &[u8]) {
        let over = self.0.random_range(0..=1);
        input.splice(at..input.len().min(at + over), piece.iter().copied());
    }
}

fn insert(input: &mut Vec<u8>, at: usize, times: usize, piece: &[u8]) {
    input.splice(at..at, piece.repeat(times));
}

fn varint(value: i64) -> Vec<u8> {
    let mut rest = ((value << 1) ^ (value >> 63)).cast_unsigned();
    let mut bytes = Vec::new();
    while rest >= 0x80 {
        bytes.push(u8::try_from(rest & 0x7f).expect("seven bits") | 0x80);
        rest >>= 7;
    }
    bytes.push(u8::try_from(rest).expect("seven bits"));
    bytes
}
