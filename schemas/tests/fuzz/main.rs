//! Damaged datums and damaged JSON: whatever is sent, nothing panics, and nothing asks for more memory than its bound.
//!
//! ```text
//! corpus, contracts' examples ─→ seeds ─→ damage ─→ decode, or encode ─→ what came of it is new? a seed
//! ```
//!
//! In process, so that it runs with every other test, against the very build: cargo-fuzz (`schemas/fuzz`, the same
//! promises and corpus) needs a build of everything with its own instrumentation. What it has by coverage is approximated
//! by what came of an input. `MILLRACE_FUZZ_SECONDS=600 cargo test -p millrace-schemas --test fuzz` goes on longer; an
//! input that fails is written into the corpus, and fails from then on until it is mended.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test that can't go on panics, and prints its seed")]

mod counting;
mod mutate;
mod promises;

use millrace_schemas::{Contract, Contracts, WriterSchema, value_from_json};
use mutate::{BYTES_MAX, Mutator};
use promises::{Datums, Jsons};
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const HERE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fuzz");
/// With every other test: enough for some ten thousand inputs in a build without optimization.
const SECONDS: u64 = 5;
/// Seeds at once: the first so many whose outcome was new.
const SEEDS_MAX: usize = 2000;

/// Long inputs are slow, and need luck of their own.
const LONG_ONE_IN: u64 = 100;

/// Tries damaged inputs until the time is over; `outcome` panics where a promise is broken.
fn fuzz(kind: &str, mut seeds: Vec<Vec<u8>>, outcome: impl Fn(&[u8]) -> String) {
    let corpus = Path::new(HERE).join("corpus").join(kind);
    for file in std::fs::read_dir(&corpus).unwrap() {
        seeds.push(std::fs::read(file.unwrap().path()).unwrap());
    }
    let seed: u64 = rand::random();
    let seconds = std::env::var("MILLRACE_FUZZ_SECONDS").map_or(SECONDS, |seconds| seconds.parse().unwrap());
    println!("{kind}: seed {seed}, {seconds} s");
    let (mut mutator, mut known, mut tried) = (Mutator::seeded(seed), BTreeSet::new(), 0_u64);
    for input in &seeds {
        known.insert(tried_out(&corpus, input, &outcome));
    }
    let whole = seeds.len(); // those that come are damaged
    let end = Instant::now() + Duration::from_secs(seconds);
    while Instant::now() < end {
        let input = match tried % LONG_ONE_IN {
            0 => mutator.lengthened(&seeds[..whole]),
            _ => mutator.mutated(&seeds),
        };
        let is_new = known.insert(tried_out(&corpus, &input, &outcome));
        if is_new && seeds.len() < SEEDS_MAX && input.len() <= BYTES_MAX {
            seeds.push(input);
        }
        tried += 1;
    }
    println!("{kind}: {tried} inputs, {} outcomes", known.len());
}

/// Without numbers and names, of which there are too many.
fn tried_out(corpus: &Path, input: &[u8], outcome: &impl Fn(&[u8]) -> String) -> String {
    let tried = catch_unwind(AssertUnwindSafe(|| outcome(input)));
    let outcome = tried.unwrap_or_else(|panic| {
        let file = found(corpus, input);
        println!("broken by {}", file.display());
        resume_unwind(panic)
    });
    outcome.chars().filter(|char| !char.is_ascii_digit()).take(120).collect()
}

fn found(corpus: &Path, input: &[u8]) -> PathBuf {
    let file = corpus.join(format!("found-{}", uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_OID, input).simple()));
    std::fs::write(&file, input).unwrap();
    file
}

#[test]
fn no_datum_takes_more_memory_than_its_bound() {
    let example = |contract: &Contract| {
        let schema = WriterSchema::parse(1, &contract.newest().text).unwrap();
        let mut datum = Vec::new();
        schema.encode_value(&value_from_json(schema.schema, &contract.example).unwrap(), &mut datum).unwrap();
        datum
    };
    let datums = Datums::new();
    fuzz("datum", seeds(example), |datum| datums.outcome(datum));
}

#[test]
fn no_json_takes_more_memory_than_its_bound() {
    let jsons = Jsons::new();
    fuzz("json", seeds(|contract| contract.example.to_string().into_bytes()), |json| jsons.outcome(json));
}

fn seeds(example: impl Fn(&Contract) -> Vec<u8>) -> Vec<Vec<u8>> {
    Contracts::embedded().unwrap().iter().map(|contract| example(contract)).collect()
}
