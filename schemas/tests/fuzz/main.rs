//! Damaged datums and damaged JSON: whatever is sent, nothing panics, and nothing asks for more memory than its bound.
//!
//! ```text
//! corpus, contracts' examples ─→ seeds ─→ damage ─→ decode, or encode ─→ what came of it is new? a seed
//! ```
//!
//! In process and on the stable toolchain, so that it runs with every other test, against the very build: cargo-fuzz
//! needs a nightly compiler and a build of everything with its own instrumentation. What it would have by coverage is
//! approximated by what came of an input. `MILLRACE_FUZZ_SECONDS=600 cargo test -p millrace-schemas --test fuzz` goes on
//! longer; an input that fails is written into the corpus, and fails from then on until it is mended.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test that can't go on panics, and prints its seed")]

mod counting;
mod mutate;

use apache_avro::Schema;
use counting::peak;
use millrace_schemas::{Contracts, JsonPlan, Version, WriterSchema, value_from_json};
use mutate::{BYTES_MAX, Mutator};
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

/// One length may ask for 4 MiB (`bounds::LENGTH_MAX`), and each list within a list for as much.
const DATUM_BYTES: usize = 3 * (4 << 20);
/// Values are larger than what they are read from: an item of one byte is 56 in memory, with its name more.
const DATUM_BYTES_PER_BYTE: usize = 400;
/// The largest datum, in these tests, that JSON may become: of more items than a list may have.
const ENCODED_BYTES_MAX: usize = 256 << 10;
/// For the datum as it doubles, and a page of violations.
const JSON_BYTES: usize = 3 * ENCODED_BYTES_MAX + (64 << 10);
const JSON_BYTES_PER_BYTE: usize = 8;

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

fn everything() -> String {
    std::fs::read_to_string(format!("{HERE}/everything.avsc")).unwrap()
}

#[test]
fn no_datum_takes_more_memory_than_its_bound() {
    let mut schemas = vec![WriterSchema::parse(1, &everything()).unwrap()];
    let mut seeds = Vec::new();
    for contract in Contracts::embedded().unwrap().iter() {
        let schema = WriterSchema::parse(1, &contract.newest().text).unwrap();
        let mut datum = Vec::new();
        schema.encode_value(&value_from_json(schema.schema, &contract.example).unwrap(), &mut datum).unwrap();
        seeds.push(datum);
        schemas.push(schema);
    }
    fuzz("datum", seeds, |datum| schemas.iter().map(|schema| decoded(schema, datum)).collect::<Vec<_>>().join("\n"));
}

fn decoded(schema: &WriterSchema, datum: &[u8]) -> String {
    let (read, bytes) = peak(|| schema.decode(datum));
    let bound = DATUM_BYTES + DATUM_BYTES_PER_BYTE * datum.len();
    assert!(bytes <= bound, "{} bytes of {} took {bytes} bytes of memory", datum.len(), schema.fullname);
    match read {
        Ok(value) => {
            let mut again = Vec::new();
            if let Err(error) = schema.encode_value(&value, &mut again) {
                return error.to_string(); // a decimal of no bytes is read, and never written
            }
            let again = schema.decode(&again).unwrap();
            let is_kept = again == value || format!("{value:?}").contains("NaN"); // which equals nothing
            assert!(is_kept, "{} does not keep {value:?}", schema.fullname);
            format!("{} bytes", "#".repeat(datum.len().ilog2() as usize))
        }
        Err(error) => error.to_string(),
    }
}

#[test]
fn no_json_takes_more_memory_than_its_bound() {
    let text = everything();
    let version = Version { number: 1, schema: Schema::parse_str(&text).unwrap(), text };
    let plan = |version: &Version, key: &str| {
        let plan = JsonPlan::compile(version, key, ENCODED_BYTES_MAX).unwrap();
        (plan, WriterSchema::parse(1, &version.text).unwrap())
    };
    let (everything, contracts) = (plan(&version, "id"), Contracts::embedded().unwrap());
    let plans: Vec<_> = contracts.iter().map(|contract| plan(contract.newest(), &contract.key)).collect();
    let seeds = contracts.iter().map(|contract| contract.example.to_string().into_bytes()).collect();
    fuzz("json", seeds, |json| {
        let json = String::from_utf8_lossy(json);
        let contract = &plans[json.len() % plans.len()];
        format!("{}\n{}", encoded(&everything, &json), encoded(contract, &json))
    });
}

fn encoded((plan, schema): &(JsonPlan, WriterSchema), json: &str) -> String {
    let mut datum = Vec::new();
    let (written, bytes) = peak(|| plan.encode(json, &mut datum));
    let bound = JSON_BYTES + JSON_BYTES_PER_BYTE * json.len();
    assert!(bytes <= bound, "{} bytes of JSON for {} took {bytes} bytes of memory", json.len(), schema.fullname);
    match written {
        Ok(key) => {
            schema.decode(&datum).unwrap_or_else(|error| panic!("{json} became what can't be read: {error}"));
            assert!(!std::str::from_utf8(&datum[key]).unwrap().is_empty());
            format!("{} bytes", "#".repeat(datum.len().ilog2() as usize))
        }
        Err(violations) => {
            assert!(datum.is_empty(), "something was written for {json}");
            violations.iter().map(|violation| violation.expected.as_str()).collect::<Vec<_>>().join(",")
        }
    }
}
