//! Any text as the JSON of an event.
#![no_main]

#[path = "../../tests/fuzz/counting.rs"]
mod counting;
#[allow(dead_code, reason = "the other target's promises are in it too")]
#[path = "../../tests/fuzz/promises.rs"]
mod promises;

use libfuzzer_sys::fuzz_target;
use promises::Jsons;
use std::sync::LazyLock;

static JSONS: LazyLock<Jsons> = LazyLock::new(Jsons::new);

fuzz_target!(|json: &[u8]| drop(JSONS.outcome(json)));
