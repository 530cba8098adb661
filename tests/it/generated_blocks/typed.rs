//! An event's row in the types that the `clickhouse` crate has for columns: what it serialises is no code of ours. The
//! way there, from a contract's type and a writer's value, is shared with neither of our encoders.

use apache_avro::Schema;
use apache_avro::schema::{RecordField, RecordSchema};
use apache_avro::types::Value;
use chrono::{DateTime, Days, NaiveDate, Utc};
use millrace_schemas::Envelope;
use millrace_stream::Position;
use serde::ser::{Serialize, SerializeTuple, Serializer};
use std::collections::BTreeMap;
use std::marker::PhantomData;
use uuid::Uuid;

/// What is inserted: all columns as one, since the crate wants columns' names when it is compiled.
#[derive(clickhouse::Row, serde::Serialize)]
pub(super) struct Row {
    pub row: Columns,
}

pub(super) struct Columns(Vec<Typed>);

#[derive(Debug, Clone)]
enum Typed {
    Null,
    Some(Box<Typed>),
    Bool(bool),
    Int32(i32),
    Int64(i64),
    Int128(i128),
    UInt32(u32),
    Float32(f32),
    Float64(f64),
    Text(String),
    Bytes(Vec<u8>),
    Uuid(Uuid),
    Date(NaiveDate),
    Micros(DateTime<Utc>),
    Millis(DateTime<Utc>),
    Array(Vec<Typed>),
    /// In the order of its keys, as our columns have it.
    Map(BTreeMap<String, Typed>),
}

/// The crate's serialiser is of another type at each level of arrays, maps and nullable values: the compiler has to see
/// an end of them.
struct At<'v, Level>(&'v Typed, PhantomData<Level>);
struct Above<Level>(PhantomData<Level>);
struct Deepest;

/// As many as generated contracts have, and more.
type Levels = Above<Above<Above<Above<Above<Above<Above<Above<Deepest>>>>>>>>;

fn at<Level>(value: &Typed) -> At<'_, Level> {
    At(value, PhantomData)
}

impl Serialize for Columns {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut tuple = serializer.serialize_tuple(self.0.len())?;
        self.0.iter().try_for_each(|column| tuple.serialize_element(&at::<Levels>(column)))?;
        tuple.end()
    }
}

impl Serialize for At<'_, Deepest> {
    fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        panic!("nested deeper than `Levels`: {:?}", self.0)
    }
}

impl<Below> Serialize for At<'_, Above<Below>>
where
    for<'v> At<'v, Below>: Serialize,
{
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use clickhouse::serde::{chrono, uuid};
        match self.0 {
            Typed::Null => serializer.serialize_none(),
            Typed::Some(value) => serializer.serialize_some(&at::<Below>(value)),
            Typed::Bool(value) => value.serialize(serializer),
            Typed::Int32(value) => value.serialize(serializer),
            Typed::Int64(value) => value.serialize(serializer),
            Typed::Int128(value) => value.serialize(serializer),
            Typed::UInt32(value) => value.serialize(serializer),
            Typed::Float32(value) => value.serialize(serializer),
            Typed::Float64(value) => value.serialize(serializer),
            Typed::Text(text) => text.serialize(serializer),
            Typed::Bytes(bytes) => serializer.serialize_bytes(bytes),
            Typed::Uuid(id) => uuid::serialize(id, serializer),
            Typed::Date(date) => chrono::date32::serialize(date, serializer),
            Typed::Micros(at) => chrono::datetime64::micros::serialize(at, serializer),
            Typed::Millis(at) => chrono::datetime64::millis::serialize(at, serializer),
            Typed::Array(items) => serializer.collect_seq(items.iter().map(at::<Below>)),
            Typed::Map(entries) => serializer.collect_map(entries.iter().map(|(key, value)| (key, at::<Below>(value)))),
        }
    }
}

impl Row {
    /// Of a value that fits the contract, though it may be an older or a newer writer's.
    pub fn of(contract: &Schema, value: &Value, envelope: &Envelope<'_>, position: &Position, schema_id: u32) -> Self {
        let Schema::Record(record) = contract else { panic!("a contract is a record") };
        let mut columns = of_record(record, value, false);
        let text = |text: &str| Typed::Text(text.to_owned());
        columns.extend([
            Typed::Uuid(envelope.id),
            Typed::Micros(envelope.occurred_at),
            text(&envelope.subject),
            text(&envelope.source),
            text(envelope.trace_id().unwrap_or_default()),
            text(&position.topic),
            Typed::Int32(position.partition),
            Typed::Int64(position.offset),
            envelope.recorded_at.map_or(Typed::Null, |at| Typed::Some(Box::new(Typed::Micros(at)))),
            Typed::UInt32(schema_id),
        ]);
        Self { row: Columns(columns) }
    }
}

/// The record's columns. `nullable`: it, or what surrounds it, may be null.
fn of_record(record: &RecordSchema, value: &Value, nullable: bool) -> Vec<Typed> {
    let columns = |field: &RecordField| of_field(&field.schema, &field_of(field, value), nullable);
    record.fields.iter().flat_map(columns).collect()
}

/// The writer's value of a contract's field, or the contract's default.
fn field_of(field: &RecordField, value: &Value) -> Value {
    let Value::Record(fields) = value else { return Value::Null }; // of a record that is null
    match (fields.iter().find(|(name, _)| *name == field.name), &field.default) {
        (Some((_, value)), _) => without_union(value).clone(),
        (None, Some(default)) => Value::try_from(default.clone()).unwrap(),
        (None, None) => panic!("`{}` has neither a value nor a default", field.name),
    }
}

fn of_field(schema: &Schema, value: &Value, nullable: bool) -> Vec<Typed> {
    let (schema, null) = without_null(schema);
    match schema {
        Schema::Record(record) => of_record(record, value, nullable || null),
        Schema::Array(array) => match without_null(&array.items) {
            (Schema::Record(record), null) => of_records(record, null, value),
            _ => vec![typed(schema, nullable || null, value)],
        },
        _ => vec![typed(schema, nullable || null, value)],
    }
}

/// An array of records is an array for each of their columns.
fn of_records(record: &RecordSchema, nullable: bool, value: &Value) -> Vec<Typed> {
    let items: &[Value] = if let Value::Array(items) = value { items } else { &[] };
    let mut columns = vec![Vec::new(); width(record)];
    for item in items {
        let item = of_record(record, without_union(item), nullable);
        columns.iter_mut().zip(item).for_each(|(column, value)| column.push(value));
    }
    columns.into_iter().map(Typed::Array).collect()
}

fn width(record: &RecordSchema) -> usize {
    let width = |field: &RecordField| match without_null(&field.schema).0 {
        Schema::Record(record) => width(record),
        Schema::Array(array) => match without_null(&array.items).0 {
            Schema::Record(record) => width(record),
            _ => 1,
        },
        _ => 1,
    };
    record.fields.iter().map(width).sum()
}

fn typed(schema: &Schema, nullable: bool, value: &Value) -> Typed {
    match (schema, value) {
        (Schema::Array(_), Value::Null) => Typed::Array(Vec::new()),
        (Schema::Map(_), Value::Null) => Typed::Map(BTreeMap::new()),
        (Schema::Array(_) | Schema::Map(_), value) => not_null(schema, value),
        (_, Value::Null) if nullable => Typed::Null,
        (_, value) if nullable => Typed::Some(Box::new(not_null(schema, value))),
        (_, value) => not_null(schema, value),
    }
}

fn not_null(schema: &Schema, value: &Value) -> Typed {
    let item = |schema: &Schema, value: &Value| {
        let (schema, null) = without_null(schema);
        typed(schema, null, without_union(value))
    };
    match (schema, value) {
        (Schema::Boolean, Value::Boolean(value)) => Typed::Bool(*value),
        (Schema::Int, Value::Int(value)) => Typed::Int32(*value),
        (Schema::Long, Value::Int(value)) => Typed::Int64((*value).into()),
        (Schema::Long, Value::Long(value)) => Typed::Int64(*value),
        (Schema::Float, Value::Int(value)) => Typed::Float32(*value as f32),
        (Schema::Float, Value::Long(value)) => Typed::Float32(*value as f32),
        (Schema::Float, Value::Float(value)) => Typed::Float32(*value),
        (Schema::Double, Value::Int(value)) => Typed::Float64((*value).into()),
        (Schema::Double, Value::Long(value)) => Typed::Float64(*value as f64),
        (Schema::Double, Value::Float(value)) => Typed::Float64((*value).into()),
        (Schema::Double, Value::Double(value)) => Typed::Float64(*value),
        (Schema::String | Schema::Bytes | Schema::Fixed(_), Value::String(text)) => Typed::Text(text.clone()),
        (Schema::String | Schema::Bytes | Schema::Fixed(_), Value::Bytes(bytes) | Value::Fixed(_, bytes)) => {
            Typed::Bytes(bytes.clone())
        }
        (Schema::Enum(of), Value::Enum(_, symbol) | Value::String(symbol)) => {
            let known = of.symbols.contains(symbol);
            Typed::Text(if known { symbol } else { of.default.as_ref().expect("a default") }.clone())
        }
        (Schema::Uuid(_), Value::Uuid(id)) => Typed::Uuid(*id),
        (Schema::Uuid(_), Value::String(text)) => Typed::Uuid(text.parse().expect("a UUID")),
        (Schema::Date, Value::Date(days)) => Typed::Date(date(*days)),
        (Schema::TimestampMicros, Value::TimestampMicros(at)) => {
            Typed::Micros(DateTime::from_timestamp_micros(*at).expect("a time"))
        }
        (Schema::TimestampMillis, Value::TimestampMillis(at)) => {
            Typed::Millis(DateTime::from_timestamp_millis(*at).expect("a time"))
        }
        (Schema::Decimal(of), Value::Decimal(decimal)) => {
            let number = number(&Vec::<u8>::try_from(decimal).unwrap());
            match of.precision {
                0..=9 => Typed::Int32(number.try_into().expect("nine digits")),
                10..=18 => Typed::Int64(number.try_into().expect("eighteen digits")),
                _ => Typed::Int128(number),
            }
        }
        (Schema::Array(array), Value::Array(items)) => {
            Typed::Array(items.iter().map(|value| item(&array.items, value)).collect())
        }
        (Schema::Map(map), Value::Map(entries)) => {
            Typed::Map(entries.iter().map(|(key, value)| (key.clone(), item(&map.types, value))).collect())
        }
        (schema, value) => panic!("was accepted: {value:?} as {schema:?}"),
    }
}

fn without_null(schema: &Schema) -> (&Schema, bool) {
    let Schema::Union(union) = schema else { return (schema, false) };
    let ([Schema::Null, other] | [other, Schema::Null]) = union.variants() else { panic!("no column for {schema:?}") };
    (other, true)
}

fn without_union(value: &Value) -> &Value {
    if let Value::Union(_, value) = value { value } else { value }
}

fn date(days: i32) -> NaiveDate {
    let (day, distance) = (NaiveDate::default(), Days::new(days.unsigned_abs().into()));
    if days < 0 { day - distance } else { day + distance }
}

/// Two's complement, the most significant byte first.
fn number(bytes: &[u8]) -> i128 {
    let sign = if bytes[0] < 0x80 { 0 } else { -1 };
    let byte = |number: i128, byte: &u8| number.checked_mul(256)?.checked_add((*byte).into());
    bytes.iter().try_fold(sign, byte).expect("no more than 128 bits")
}
