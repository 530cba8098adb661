//! Dependencies point one way: schemas ← stream ← {producers, processors, sinks, console} ← the binary.

use std::collections::BTreeMap;
use std::path::Path;

/// What each crate may know of the others.
const ALLOWED: &[(&str, &[&str])] = &[
    ("schemas", &[]),
    ("stream", &["schemas"]),
    ("outbox", &[]),
    ("client", &[]),
    // Only its tests: what the types write is held against what the gateway takes.
    ("codegen", &["client", "schemas"]),
    ("producers", &["schemas", "stream"]),
    ("processors", &["schemas", "stream"]),
    ("sinks", &["schemas", "stream"]),
    ("console", &["schemas", "stream"]),
    ("local", &[]),
    ("examples/accounts", &["client", "codegen", "outbox"]),
];

fn dependencies(manifest: &str) -> Vec<String> {
    let table: toml::Table = std::fs::read_to_string(manifest).unwrap().parse().unwrap();
    let sections = ["dependencies", "dev-dependencies", "build-dependencies"];
    let tables = sections.iter().filter_map(|section| table.get(*section)?.as_table());
    tables.flat_map(|table| table.keys().cloned()).collect()
}

#[test]
fn no_crate_knows_more_of_the_others_than_the_layout_allows() {
    for (name, allowed) in ALLOWED {
        let manifest = format!("{}/{name}/Cargo.toml", env!("CARGO_MANIFEST_DIR"));
        for dependency in dependencies(&manifest) {
            let Some(other) = dependency.strip_prefix("millrace-") else { continue };
            assert!(allowed.contains(&other), "{name} must not depend on {other}");
        }
    }
}

#[test]
fn only_the_spine_knows_that_the_kafka_client_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let manifests = ALLOWED.iter().map(|(name, _)| (*name, root.join(name).join("Cargo.toml")));
    let knowing: BTreeMap<&str, bool> = manifests
        .map(|(name, path)| (name, dependencies(&path.to_string_lossy()).iter().any(|found| found == "rdkafka")))
        .collect();
    let names: Vec<&str> = knowing.iter().filter(|(_, knows)| **knows).map(|(name, _)| *name).collect();
    assert_eq!(names, ["stream"]);
}
