//! Avro datums in and out. Bounded: no length in a datum makes us allocate more than it can hold.

use crate::bounds::LENGTH_MAX;
use crate::compatibility::{fixed, named};
use apache_avro::Schema;
use apache_avro::error::Details;
use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::schema::{Name, RecordSchema, ResolvedSchema};
use apache_avro::types::Value;
use apache_avro::util::max_allocation_bytes;
use apache_avro::writer::datum::GenericDatumWriter;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::HashMap;
use std::io;

#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    #[error("the value does not follow schema {schema_id} ({fullname}): {error}")]
    Malformed { schema_id: u32, fullname: String, error: Box<apache_avro::Error> },
    #[error("the value ends before schema {schema_id} ({fullname}) does: it was cut off, or written with another")]
    Truncated { schema_id: u32, fullname: String },
    #[error("{left} bytes are left over after the value that schema {schema_id} ({fullname}) describes")]
    TrailingBytes { schema_id: u32, fullname: String, left: usize },
}

#[derive(Debug, thiserror::Error)]
#[error("the event does not fit {fullname}: {}", reason(error))]
pub struct EncodeError {
    fullname: String,
    error: Box<apache_avro::Error>,
}

/// The schema a record was written with, ready to use.
pub struct WriterSchema {
    /// As the registry numbers it.
    pub id: u32,
    /// Namespace and name of the record.
    pub fullname: String,
    /// Lives as long as the process: registries hold few schemas, and every event needs one.
    pub schema: &'static Schema,
    reader: GenericDatumReader<'static>,
    writer: GenericDatumWriter<'static>,
}

impl WriterSchema {
    /// # Errors
    /// When the text is not an Avro schema, not a record's, or one whose values may nest without end: values are read
    /// by recursion, and a stack has one.
    pub fn parse(id: u32, text: &str) -> anyhow::Result<Self> {
        max_allocation_bytes(LENGTH_MAX); // the first call counts, all ask the same
        let schema = Schema::parse_str(text)?;
        let fullname = readable(id, &schema)?;
        // What was refused is asked for again, and must not stay.
        let schema: &'static Schema = Box::leak(Box::new(schema));
        Ok(Self {
            id,
            fullname,
            schema,
            reader: GenericDatumReader::builder(schema).build()?,
            // Or serde's uuids would be bytes, where contracts say strings.
            writer: GenericDatumWriter::builder(schema).human_readable(true).build()?,
        })
    }

    /// Reads a whole datum.
    ///
    /// # Errors
    /// When bytes are missing, wrong or left over.
    pub fn decode(&self, datum: &[u8]) -> Result<Value, DecodeError> {
        match self.read(datum)? {
            (value, 0) => Ok(value),
            (_, left) => Err(DecodeError::TrailingBytes { schema_id: self.id, fullname: self.fullname.clone(), left }),
        }
    }

    /// Reads a datum of which this schema describes the first fields only; the others are passed over.
    ///
    /// # Errors
    /// When bytes are missing or wrong.
    pub fn decode_front(&self, datum: &[u8]) -> Result<Value, DecodeError> {
        Ok(self.read(datum)?.0)
    }

    /// A value, and how many bytes are left behind it.
    fn read(&self, datum: &[u8]) -> Result<(Value, usize), DecodeError> {
        let mut datum = Datum { rest: datum, overrun: false };
        let read = self.reader.read_value(&mut datum);
        if datum.overrun {
            return Err(DecodeError::Truncated { schema_id: self.id, fullname: self.fullname.clone() });
        }
        read.map(|value| (value, datum.rest.len())).map_err(|error| self.malformed(error))
    }

    /// Reads a whole datum into a type that names the fields it wants; the others are skipped.
    ///
    /// By way of a value: the library's direct way can't skip a record within a record, wants types named as in the
    /// schema, and takes no `String` for an enum.
    ///
    /// # Errors
    /// When bytes are missing, wrong or left over, or the type wants something else.
    pub fn decode_as<T: DeserializeOwned>(&self, datum: &[u8]) -> Result<T, DecodeError> {
        let value = self.decode(datum)?;
        apache_avro::from_value(&value).map_err(|error| self.malformed(error))
    }

    /// Appends the datum.
    ///
    /// # Errors
    /// When a field is missing or of another type.
    pub fn encode<T: Serialize>(&self, event: &T, into: &mut Vec<u8>) -> Result<(), EncodeError> {
        self.writer.write_ser(into, event).map(drop).map_err(|error| self.does_not_fit(error))
    }

    /// Appends the datum of a value tree.
    ///
    /// # Errors
    /// When the value is not of this schema.
    pub fn encode_value(&self, value: &Value, into: &mut Vec<u8>) -> Result<(), EncodeError> {
        self.writer.write_value_ref(into, value).map(drop).map_err(|error| self.does_not_fit(error))
    }

    fn malformed(&self, error: apache_avro::Error) -> DecodeError {
        DecodeError::Malformed { schema_id: self.id, fullname: self.fullname.clone(), error: Box::new(error) }
    }

    fn does_not_fit(&self, error: apache_avro::Error) -> EncodeError {
        EncodeError { fullname: self.fullname.clone(), error: Box::new(error) }
    }
}

/// The full name of a record whose values are bounded by their bytes.
fn readable(id: u32, schema: &Schema) -> anyhow::Result<String> {
    let Schema::Record(record) = schema else { anyhow::bail!("schema {id} is not a record's") };
    anyhow::ensure!(
        !contains_itself(record, &mut Vec::new()),
        "schema {id} contains itself: values of it are not read"
    );
    let nothings = nothings(schema, &ResolvedSchema::new(schema)?, &mut HashMap::new());
    anyhow::ensure!(
        nothings.most <= NOTHINGS_MAX,
        "schema {id} has values that take no bytes, or lists of them: a few bytes could say that there are millions"
    );
    Ok(record.name.fullname(None).to_string())
}

/// Whether a value may hold another one of its own type. Avro knows a name from its definition on, so only a record
/// around can be the one that is meant.
fn contains_itself<'s>(record: &'s RecordSchema, around: &mut Vec<&'s Name>) -> bool {
    around.push(&record.name);
    let found = record.fields.iter().any(|field| leads_back(&field.schema, around));
    around.pop();
    found
}

fn leads_back<'s>(schema: &'s Schema, around: &mut Vec<&'s Name>) -> bool {
    match schema {
        Schema::Ref { name } => around.contains(&name),
        Schema::Record(record) => contains_itself(record, around),
        Schema::Array(array) => leads_back(&array.items, around),
        Schema::Map(map) => leads_back(&map.types, around),
        Schema::Union(union) => union.variants().iter().any(|variant| leads_back(variant, around)),
        _ => false,
    }
}

/// Values within one that take no bytes. Contracts have none, others a few; each item of a list may have so many.
const NOTHINGS_MAX: u64 = 16;

/// What a value may be made of that no byte of a datum pays for.
#[derive(Clone, Copy, Default)]
struct Nothings {
    /// At most so many, where lists are as long as their bytes say.
    most: u64,
    /// It is one altogether.
    whole: bool,
}

/// Each named type is counted once: it may be used more often than anybody could walk.
fn nothings<'s>(
    schema: &'s Schema,
    names: &'s ResolvedSchema<'s>,
    known: &mut HashMap<&'s Name, Nothings>,
) -> Nothings {
    match named(names, schema) {
        Schema::Null => Nothings { most: 1, whole: true },
        Schema::Array(array) => match nothings(&array.items, names, known) {
            Nothings { whole: true, .. } => Nothings { most: u64::MAX, whole: false }, // its length is free
            items => Nothings { whole: false, ..items },
        },
        Schema::Map(map) => Nothings { whole: false, ..nothings(&map.types, names, known) },
        Schema::Union(union) => {
            let branches = union.variants().iter().filter(|branch| **branch != Schema::Null); // it takes a byte to say which
            let most = branches.map(|branch| nothings(branch, names, known).most).max();
            Nothings { most: most.unwrap_or_default(), whole: false }
        }
        Schema::Record(record) => {
            if let Some(found) = known.get(&record.name) {
                return *found;
            }
            let fields: Vec<_> = record.fields.iter().map(|field| nothings(&field.schema, names, known)).collect();
            let most = fields.iter().fold(0u64, |most, field| most.saturating_add(field.most));
            let found = Nothings { most: most.max(1), whole: fields.iter().all(|field| field.whole) };
            known.insert(&record.name, found);
            found
        }
        other if fixed(other).is_some_and(|fixed| fixed.size == 0) => Nothings { most: 1, whole: true },
        _ => Nothings::default(),
    }
}

/// Without the whole schema, which the library prints.
fn reason(error: &apache_avro::Error) -> String {
    match error.details() {
        Details::SerializeRecordFieldWithSchema { field_name, error, .. } => format!("field `{field_name}`: {error}"),
        Details::SerializeValueWithSchema { value_type, value, .. } => format!("{value_type}: {value}"),
        Details::MissingDefaultForSkippedField { field_name, .. } => format!("field `{field_name}` is missing"),
        _ => error.to_string(),
    }
}

/// Remembers that more was asked for than there is: the Avro library takes the end of the bytes for a null, and a
/// value cut off in a string or before a union would pass for a whole one.
struct Datum<'d> {
    rest: &'d [u8],
    overrun: bool,
}

impl io::Read for Datum<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.overrun |= into.len() > self.rest.len();
        self.rest.read(into)
    }

    fn read_exact(&mut self, into: &mut [u8]) -> io::Result<()> {
        self.overrun |= into.len() > self.rest.len();
        self.rest.read_exact(into)
    }
}

impl std::fmt::Debug for WriterSchema {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "schema {} ({})", self.id, self.fullname)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Contracts, value_from_json};
    use serde::{Deserialize, Serialize};
    use uuid::Uuid;

    fn example(event_type: &str) -> (WriterSchema, Vec<u8>) {
        let contract = Contracts::embedded().unwrap().get(event_type).unwrap().clone();
        let writer = WriterSchema::parse(1, &contract.newest().text).unwrap();
        let mut datum = Vec::new();
        writer.encode_value(&value_from_json(writer.schema, &contract.example).unwrap(), &mut datum).unwrap();
        (writer, datum)
    }

    fn encoded<T: Serialize>(writer: &WriterSchema, event: &T) -> Vec<u8> {
        let mut datum = Vec::new();
        writer.encode(event, &mut datum).unwrap();
        datum
    }

    #[derive(Serialize, Deserialize)]
    struct Line<Id> {
        product_id: Id,
        quantity: i32,
        unit_price: i64,
    }

    #[derive(Serialize, Deserialize)]
    struct Order<Id> {
        user_id: Id,
        order_id: Id,
        session_id: Option<Id>,
        lines: Vec<Line<Id>>,
        total: i64,
        currency: String,
        coupon: Option<String>,
    }

    #[test]
    fn structs_with_uuids_or_text_in_any_order_of_fields_travel_both_ways() {
        let (writer, datum) = example("order.placed");
        assert_eq!(encoded(&writer, &writer.decode_as::<Order<Uuid>>(&datum).unwrap()), datum);
        assert_eq!(encoded(&writer, &writer.decode_as::<Order<String>>(&datum).unwrap()), datum);
    }

    #[derive(Serialize, Deserialize, Debug, PartialEq)]
    #[serde(rename_all = "SCREAMING_SNAKE_CASE")]
    enum Method {
        Card,
        Paypal,
        BankTransfer,
        Unknown,
    }

    #[derive(Serialize, Deserialize)]
    struct Captured<M> {
        payment_id: Uuid,
        order_id: Uuid,
        user_id: Uuid,
        amount: i64,
        currency: String,
        method: M,
        attempt: i32,
    }

    #[test]
    fn enums_are_read_as_enums_or_text_and_written_as_enums() {
        let (writer, datum) = example("payment.captured");
        let event: Captured<Method> = writer.decode_as(&datum).unwrap();
        assert_eq!(event.method, Method::Card);
        assert_eq!(encoded(&writer, &event), datum);
        let event: Captured<String> = writer.decode_as(&datum).unwrap();
        assert_eq!(event.method, "CARD");
        let refused = writer.encode(&event, &mut Vec::new()).unwrap_err().to_string();
        assert!(
            refused.starts_with("the event does not fit shop.order.PaymentCaptured: field `method`: "),
            "{refused}"
        );
    }

    #[test]
    fn a_type_may_want_a_few_fields_and_only_such_as_there_are() {
        #[derive(Deserialize, Serialize, Debug)]
        struct Few {
            total: u64,
            coupon: Option<String>,
        }
        #[derive(Deserialize, Debug)]
        struct Other {
            #[allow(dead_code)]
            colour: String,
        }
        let (writer, datum) = example("order.placed");
        let few: Few = writer.decode_as(&datum).unwrap();
        assert_eq!((few.total, few.coupon.as_deref()), (10242, Some("WELCOME10")));
        let missing = writer.decode_as::<Other>(&datum).unwrap_err().to_string();
        assert!(missing.ends_with("missing field `colour`"), "{missing}");
        let refused = writer.encode(&few, &mut Vec::new()).unwrap_err().to_string();
        assert!(refused.starts_with("the event does not fit shop.order.OrderPlaced: field `total`: "), "{refused}");
    }

    #[test]
    fn bytes_cut_off_or_left_over_are_no_event() {
        let (writer, mut datum) = example("order.placed");
        for cut in 0..datum.len() {
            assert!(matches!(writer.decode(&datum[..cut]), Err(DecodeError::Truncated { .. })), "cut at {cut}");
        }
        datum.push(0);
        assert!(matches!(writer.decode(&datum), Err(DecodeError::TrailingBytes { left: 1, .. })));
    }

    #[test]
    fn a_schema_whose_values_could_nest_without_end_is_not_read() {
        let within =
            |field: &str| format!(r#"{{"type": "record", "name": "R", "fields": [{{"name": "x", "type": {field}}}]}}"#);
        for leads_back in
            [r#"["null", "R"]"#, r#"{"type": "array", "items": "R"}"#, r#"{"type": "map", "values": "R"}"#]
        {
            let refused = WriterSchema::parse(7, &within(leads_back)).unwrap_err().to_string();
            assert_eq!(refused, "schema 7 contains itself: values of it are not read");
        }
        let twice = r#"{"type": "record", "name": "R", "fields": [
            {"name": "a", "type": {"type": "fixed", "name": "F", "size": 1}}, {"name": "b", "type": "F"}]}"#;
        assert!(WriterSchema::parse(7, twice).is_ok(), "a name used twice contains nothing");
    }

    #[test]
    fn a_schema_that_says_twice_as_much_with_each_level_is_not_read_and_costs_no_time() {
        let mut level = r#"{"name": "R40", "type": "record", "fields": [{"name": "a", "type": "null"}]}"#.to_owned();
        for at in (0..40).rev() {
            let inner = format!(r#"{{"name": "a", "type": {level}}}, {{"name": "b", "type": "R{}"}}"#, at + 1);
            level = format!(r#"{{"name": "R{at}", "type": "record", "fields": [{inner}]}}"#);
        }
        let refused = WriterSchema::parse(7, &level).err().unwrap().to_string();
        assert!(refused.starts_with("schema 7 has values that take no bytes"), "{refused}");
    }

    #[test]
    fn a_schema_that_can_list_millions_of_nothings_in_a_few_bytes_is_not_read() {
        let listing = |items: &str| {
            let field = format!(r#"{{"name": "x", "type": {{"type": "array", "items": {items}}}}}"#);
            let empty = r#"{"name": "e", "type": {"type": "record", "name": "Empty", "fields": []}}"#;
            WriterSchema::parse(7, &format!(r#"{{"type": "record", "name": "R", "fields": [{empty}, {field}]}}"#))
        };
        for nothing in [r#""null""#, r#""Empty""#, r#"{"type": "array", "items": "null"}"#] {
            let refused = listing(nothing).unwrap_err().to_string();
            assert!(refused.starts_with("schema 7 has values that take no bytes, or lists of them"), "{refused}");
        }
        assert!(listing(r#"["null", "Empty"]"#).is_ok(), "a union's branch takes a byte");
    }
}
