//! JSON text straight into a validated Avro datum, in one pass and without a tree of values.
//!
//! ```text
//! JSON ─→ serde_json's deserializer ─→ visitor (a step of the plan for each value) ─→ datum
//!                                        └→ what does not fit: pointer, expected, found
//! ```
//!
//! A plan is compiled once from a version of a contract. The datum grows as the JSON is read; a violation makes it
//! worthless and reading goes on, so that a sender hears of all of them at once. The mapping is Avro's JSON encoding
//! as [`crate::json`] has it, with what people write by hand besides: in a union a value may stand without its tag.
//! It is stricter where a consumer could not use the value: text without NUL, finite numbers, times and decimals that
//! fit.

mod json_schema;
mod plan;
mod visit;

#[cfg(test)]
mod tests;

use crate::Version;
pub(crate) use plan::tag;
use plan::{Node, Record};
use serde::de::DeserializeSeed;
use std::fmt;
use std::ops::Range;
pub(crate) use visit::escaped;
pub use visit::pointer_step;
use visit::{Output, Place, Slot};

/// Violations listed for one event: enough to repair a sender by, and no more than a page.
pub const VIOLATIONS_MAX: usize = 32;

/// What does not fit, and where.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Violation {
    /// JSON pointer (RFC 6901); empty for the whole.
    pub pointer: String,
    pub expected: String,
    /// A quote of the beginning, for values; a word, for what is larger.
    pub found: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pointer, expected, found } = self;
        write!(f, "{pointer}: expected {expected}, found {found}")
    }
}

impl Violation {
    pub fn new(pointer: impl Into<String>, expected: impl Into<String>, found: impl Into<String>) -> Self {
        Self { pointer: pointer.into(), expected: expected.into(), found: found.into() }
    }
}

/// How to write the events of one version of a contract, whose key is known.
#[derive(Debug)]
pub struct JsonPlan {
    root: Node,
    bytes_max: usize,
}

impl JsonPlan {
    /// `key` is the field that holds the aggregate's id; a datum has at most `bytes_max` bytes.
    ///
    /// # Errors
    /// A schema that no contract may have.
    pub fn compile(version: &Version, key: &str, bytes_max: usize) -> anyhow::Result<Self> {
        Ok(Self { root: Node::Record(Record::root(version.record(), key)?), bytes_max })
    }

    /// Appends the datum; returns where in `into` the key's text lies. After an error nothing was appended.
    ///
    /// # Errors
    /// Everything that does not fit, at most [`VIOLATIONS_MAX`].
    pub fn encode(&self, json: &str, into: &mut Vec<u8>) -> Result<Range<usize>, Vec<Violation>> {
        let start = into.len();
        let mut output = Output::new(into, self.bytes_max);
        let mut json = serde_json::Deserializer::from_str(json);
        let whole = Slot { node: &self.root, at: &Place::Whole, output: &mut output };
        let read = whole.deserialize(&mut json).and_then(|()| json.end());
        if let Err(error) = read {
            output.broken_off(&error);
        }
        match output.finished() {
            Ok(key) => Ok(key),
            Err(violations) => {
                into.truncate(start);
                Err(violations)
            }
        }
    }
}
