//! Any bytes as a datum of every schema.
#![no_main]

#[path = "../../tests/fuzz/counting.rs"]
mod counting;
#[allow(dead_code, reason = "the other target's promises are in it too")]
#[path = "../../tests/fuzz/promises.rs"]
mod promises;

use libfuzzer_sys::fuzz_target;
use promises::Datums;
use std::sync::LazyLock;

static DATUMS: LazyLock<Datums> = LazyLock::new(Datums::new);

fuzz_target!(|datum: &[u8]| drop(DATUMS.outcome(datum)));
