//! Makes Rust types of contracts, in a service's build script. One call in `build.rs`:
//!
//! ```no_run
//! fn main() -> Result<(), millrace_codegen::Error> {
//!     millrace_codegen::generate("../schemas/avro")
//! }
//! ```
//!
//! and one line where the types shall be:
//!
//! ```ignore
//! pub mod events {
//!     include!(concat!(env!("OUT_DIR"), "/events.rs"));
//! }
//! ```
//!
//! Each event type becomes a module named as its table, `order_placed` for `order.placed`, with a struct for the newest
//! version of its record and a type for each record and enum in it. Names are the contract's, and so is their
//! documentation. The service depends on `millrace-client`, `serde` and `uuid`.
//!
//! Says what it can't translate; whether the contracts keep their rules is for `millrace check` to say.

mod schema;
mod write;

use schema::Contract;
use std::fmt;
use std::path::{Path, PathBuf};

/// Which file, and what is wrong with it.
pub struct Error(String);

impl Error {
    pub(crate) fn at(file: &Path, what: impl fmt::Display) -> Self {
        Self(format!("{}: {what}", file.display()))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a build script that returns it prints.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Error {}

/// Writes `events.rs` into cargo's `OUT_DIR`, from the newest version of each contract in the directory, and has cargo
/// call the build script again when something there changes.
///
/// # Errors
/// A file that can't be read, or is no contract; outside of a build script.
#[allow(clippy::print_stdout)] // how a build script speaks to cargo
pub fn generate(contracts: impl AsRef<Path>) -> Result<(), Error> {
    let contracts = contracts.as_ref();
    println!("cargo::rerun-if-changed={}", contracts.display());
    let out = std::env::var_os("OUT_DIR").ok_or_else(|| Error("OUT_DIR is not set: call this in build.rs".into()))?;
    let file = PathBuf::from(out).join("events.rs");
    std::fs::write(&file, source(contracts)?).map_err(|error| Error::at(&file, error))
}

/// What [`generate`] writes.
///
/// # Errors
/// As there.
pub fn source(contracts: &Path) -> Result<String, Error> {
    let mut folders = entries(contracts)?;
    folders.retain(|path| path.is_dir());
    folders.sort();
    if folders.is_empty() {
        return Err(Error::at(contracts, "no contracts here: begin with `order.placed/1.avsc`"));
    }
    let contracts = folders.iter().map(|folder| newest(folder));
    Ok(contracts.collect::<Result<Vec<_>, _>>()?.iter().map(write::module).collect())
}

fn newest(folder: &Path) -> Result<Contract, Error> {
    let files = entries(folder)?;
    let numbered = files.into_iter().filter_map(|file| Some((version(&file)?, file)));
    let (_, file) = numbered.max().ok_or_else(|| Error::at(folder, "no version here, such as `1.avsc`"))?;
    let text = std::fs::read_to_string(&file).map_err(|error| Error::at(&file, error))?;
    Contract::read(&text).map_err(|what| Error::at(&file, what))
}

fn version(file: &Path) -> Option<u32> {
    file.file_name()?.to_str()?.strip_suffix(".avsc")?.parse().ok()
}

fn entries(directory: &Path) -> Result<Vec<PathBuf>, Error> {
    let read = std::fs::read_dir(directory).and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect());
    read.map_err(|error| Error::at(directory, format!("could not read the directory: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(files: &[(&str, &str)]) -> String {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let file = directory.path().join(name);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, text).unwrap();
        }
        let said = source(directory.path()).unwrap_or_else(|error| error.to_string());
        said.replace(directory.path().to_str().unwrap(), "contracts")
    }

    fn of_type(kind: &str) -> String {
        format!(
            r#"{{ "type": "record", "name": "Made", "millrace": {{ "type": "thing.made" }},
                  "fields": [{{ "name": "part", "type": {kind} }}] }}"#
        )
    }

    /// tests/generated.rs compiles and uses it. `MILLRACE_WRITE_PAGES=1` writes it anew.
    #[test]
    fn a_contract_with_a_field_of_each_kind_becomes_the_source_in_the_tree() {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/generated");
        let made = source(&directory.join("contracts")).unwrap();
        let file = directory.join("events.rs");
        if std::env::var_os("MILLRACE_WRITE_PAGES").is_some() {
            std::fs::write(&file, &made).unwrap();
        }
        assert_eq!(made, std::fs::read_to_string(file).unwrap());
    }

    #[test]
    fn the_newest_version_is_the_one() {
        let (one, two) = (of_type("\"int\""), of_type("\"long\""));
        let said = said(&[
            ("thing.made/1.avsc", &of_type("\"string\"")),
            ("thing.made/9.avsc", &one),
            ("thing.made/10.avsc", &two),
        ]);
        assert!(said.contains("pub part: i64,"), "{said}");
    }

    #[test]
    fn what_is_no_contract_is_said_with_its_file_and_place() {
        assert!(said(&[]).contains("contracts: no contracts here"));
        assert!(said(&[("thing.made/example.json", "{}")]).contains("contracts/thing.made: no version here"));
        for (text, expected) in [
            ("{", "no JSON"),
            ("{}", "`millrace.type` is missing"),
            (&of_type("\"strin\""), "field `part`: `strin` is no type"),
            (&of_type(r#"["int", "string"]"#), "field `part`: a union is of null and one other"),
            (&of_type(r#"{ "type": "array" }"#), "field `part`: `items` is missing"),
        ] {
            let said = said(&[("thing.made/1.avsc", text)]);
            assert!(said.contains(&format!("contracts/thing.made/1.avsc: {expected}")), "{said}");
        }
        assert!(source(Path::new("/nowhere/at/all")).unwrap_err().to_string().contains("could not read the directory"));
    }
}
