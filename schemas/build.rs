//! Rebuilds when a contract is added or removed: embedding by itself notices only edits.

#[allow(clippy::print_stdout)] // how a build script speaks to cargo
fn main() {
    println!("cargo::rerun-if-changed=avro");
}
