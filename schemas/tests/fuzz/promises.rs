//! What is promised whatever is sent; broken, it panics. For the tests beside it, and for cargo-fuzz in `schemas/fuzz`.

use crate::counting::peak;
use apache_avro::Schema;
use millrace_schemas::{Contracts, JsonPlan, Version, WriterSchema, value_to_json};

const EVERYTHING: &str = include_str!("everything.avsc");

/// One length may ask for 4 MiB (`bounds::LENGTH_MAX`), and each list within a list for as much.
const DATUM_BYTES: usize = 3 * (4 << 20);
/// Values are larger than what they are read from: an item of one byte is 56 in memory, with its name more.
const DATUM_BYTES_PER_BYTE: usize = 400;
/// The largest datum, in these tests, that JSON may become: of more items than a list may have.
const ENCODED_BYTES_MAX: usize = 256 << 10;
/// For the datum as it doubles, and a page of violations.
const JSON_BYTES: usize = 3 * ENCODED_BYTES_MAX + (64 << 10);
const JSON_BYTES_PER_BYTE: usize = 8;

/// Datums, by a schema of every type and by each contract's.
pub struct Datums(Vec<WriterSchema>);

impl Datums {
    pub fn new() -> Self {
        let contracts = Contracts::embedded().unwrap();
        let texts = contracts.iter().map(|contract| contract.newest().text.as_str());
        Self([EVERYTHING].into_iter().chain(texts).map(|text| WriterSchema::parse(1, text).unwrap()).collect())
    }

    pub fn outcome(&self, datum: &[u8]) -> String {
        self.0.iter().map(|schema| decoded(schema, datum)).collect::<Vec<_>>().join("\n")
    }
}

fn decoded(schema: &WriterSchema, datum: &[u8]) -> String {
    let (read, bytes) = peak(|| schema.decode(datum));
    let bound = DATUM_BYTES + DATUM_BYTES_PER_BYTE * datum.len();
    assert!(bytes <= bound, "{} bytes of {} took {bytes} bytes of memory", datum.len(), schema.fullname);
    match read {
        Ok(value) => {
            // As the gateway does with Avro that it is sent.
            let (_, bytes) = peak(|| value_to_json(schema.schema, &value).to_string());
            assert!(bytes <= bound, "{} bytes of {} took {bytes} bytes as JSON", datum.len(), schema.fullname);
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

/// JSON, by a schema of every type and by the contracts', each in its turn.
pub struct Jsons {
    everything: (JsonPlan, WriterSchema),
    contracts: Vec<(JsonPlan, WriterSchema)>,
}

impl Jsons {
    pub fn new() -> Self {
        let version =
            Version { number: 1, schema: Schema::parse_str(EVERYTHING).unwrap(), text: EVERYTHING.to_owned() };
        let contracts = Contracts::embedded().unwrap();
        let contracts = contracts.iter().map(|contract| planned(contract.newest(), &contract.key)).collect();
        Self { everything: planned(&version, "id"), contracts }
    }

    pub fn outcome(&self, json: &[u8]) -> String {
        let json = String::from_utf8_lossy(json);
        let contract = &self.contracts[json.len() % self.contracts.len()];
        format!("{}\n{}", encoded(&self.everything, &json), encoded(contract, &json))
    }
}

fn planned(version: &Version, key: &str) -> (JsonPlan, WriterSchema) {
    let plan = JsonPlan::compile(version, key, ENCODED_BYTES_MAX).unwrap();
    (plan, WriterSchema::parse(1, &version.text).unwrap())
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
