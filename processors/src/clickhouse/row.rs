//! What a column makes of a value: its bytes, or why it cannot hold it. ClickHouse itself would store another
//! value without a word.
//!
//! Pure, and plainer than fast: what [`super::native`] does for every event is held against it by tests and by
//! `millrace verify`, and a contract's defaults are encoded so, once a plan.

pub(super) mod whole;

use super::column::{ColumnType, Field, PathStep, strip_null};
use apache_avro::Schema;
use apache_avro::schema::NamesRef;
use apache_avro::types::Value;
use chrono::{DateTime, Utc};
use millrace_schemas::WriterSchema;
use millrace_schemas::bounds::{DAYS, OCCURRED, SECONDS};
use uuid::Uuid;

/// One step from a writer's value towards a column.
#[derive(Debug, Clone)]
pub(super) enum Step {
    /// Into a record's field.
    Field(usize),
    /// Into every item of an array.
    Each,
    /// The writer does not know what comes next: the contract's default stands for it.
    Missing(Vec<u8>),
}

/// The way to a column through a writer's values.
///
/// # Errors
/// Why no value of that writer has one.
pub(super) fn steps<'s>(field: &Field, writer: &WriterSchema, names: &NamesRef<'s>) -> Result<Vec<Step>, String> {
    compile(field, writer.schema, names)
        .map_err(|error| format!("field `{}`: schema {} {error}", field.name, writer.id))
}

fn compile<'s>(field: &Field, schema: &'s Schema, names: &NamesRef<'s>) -> Result<Vec<Step>, String> {
    let (mut schema, mut steps) = (schema, Vec::new());
    for step in &field.path {
        (schema, _) = strip_null(schema, names)?;
        match (step, schema) {
            (PathStep::Each, Schema::Array(array)) => {
                steps.push(Step::Each);
                schema = &array.items;
            }
            (PathStep::Field { name, default }, Schema::Record(record)) => {
                let Some(index) = record.fields.iter().position(|field| field.name == *name) else {
                    let default = default.clone().ok_or(format!("has no `{name}`, and the contract no default"))?;
                    steps.push(Step::Missing(default));
                    return Ok(steps);
                };
                steps.push(Step::Field(index));
                schema = &record.fields[index].schema;
            }
            _ => return Err("has another shape than the contract".into()),
        }
    }
    same_scale(schema, &field.leaf, names)?;
    Ok(steps)
}

/// An Avro decimal carries no scale of its own: read with another one it would be another number.
fn same_scale<'s>(schema: &'s Schema, leaf: &ColumnType, names: &NamesRef<'s>) -> Result<(), String> {
    match (strip_null(schema, names)?.0, leaf) {
        (_, ColumnType::Nullable(inner)) => same_scale(schema, inner, names),
        (Schema::Array(array), ColumnType::Array(item)) => same_scale(&array.items, item, names),
        (Schema::Map(map), ColumnType::Map(of)) => same_scale(&map.types, of, names),
        (Schema::Decimal(found), ColumnType::Decimal { scale, .. }) if found.scale != *scale => {
            Err(format!("has decimals of scale {}, the contract of scale {scale}", found.scale))
        }
        _ => Ok(()),
    }
}

/// Appends one column's bytes.
pub(super) fn encode(steps: &[Step], leaf: &ColumnType, value: &Value, row: &mut Vec<u8>) -> Result<(), String> {
    let value = without_union(value);
    let Some((step, rest)) = steps.split_first() else { return put(leaf, value, row) };
    match (step, value) {
        (_, Value::Null) => put_null(steps, leaf, row),
        (Step::Missing(default), _) => {
            row.extend_from_slice(default);
            Ok(())
        }
        (Step::Field(index), Value::Record(fields)) => match fields.get(*index) {
            Some((_, value)) => encode(rest, leaf, value, row),
            None => Err("the value has fewer fields than its schema".into()),
        },
        (Step::Each, Value::Array(items)) => {
            put_length(items.len(), row);
            items.iter().try_for_each(|item| encode(rest, leaf, item, row))
        }
        _ => Err("the value has another shape than its schema".into()),
    }
}

fn without_union(value: &Value) -> &Value {
    match value {
        Value::Union(_, inner) => without_union(inner),
        other => other,
    }
}

/// A record or an array that is null: so is everything beneath it.
fn put_null(steps: &[Step], leaf: &ColumnType, row: &mut Vec<u8>) -> Result<(), String> {
    if steps.iter().any(|step| matches!(step, Step::Each)) {
        put_length(0, row);
        return Ok(());
    }
    put(leaf, &Value::Null, row)
}

/// Appends one value as its type wants it (RowBinary: little-endian, strings and arrays behind their length).
fn put(leaf: &ColumnType, value: &Value, row: &mut Vec<u8>) -> Result<(), String> {
    match (leaf, without_union(value)) {
        (ColumnType::LowCardinality(inner), value) => return put(inner, value, row),
        (ColumnType::Nullable(_), Value::Null) => row.push(1),
        (ColumnType::Nullable(inner), value) => {
            row.push(0);
            return put(inner, value, row);
        }
        (ColumnType::Array(_) | ColumnType::Map(_), Value::Null) => put_length(0, row),
        (ColumnType::Bool, Value::Boolean(value)) => row.push(u8::from(*value)),
        (ColumnType::Int32, Value::Int(value)) => row.extend(value.to_le_bytes()),
        (ColumnType::Int64, Value::Long(value)) => row.extend(value.to_le_bytes()),
        (ColumnType::Int64, Value::Int(value)) => row.extend(i64::from(*value).to_le_bytes()),
        (ColumnType::Float32, Value::Float(value)) => row.extend(value.to_le_bytes()),
        (ColumnType::Float32, Value::Int(value)) => row.extend((*value as f32).to_le_bytes()),
        (ColumnType::Float32, Value::Long(value)) => row.extend((*value as f32).to_le_bytes()),
        (ColumnType::Float64, Value::Double(value)) => row.extend(value.to_le_bytes()),
        (ColumnType::Float64, Value::Float(value)) => row.extend(f64::from(*value).to_le_bytes()),
        (ColumnType::Float64, Value::Int(value)) => row.extend(f64::from(*value).to_le_bytes()),
        (ColumnType::Float64, Value::Long(value)) => row.extend((*value as f64).to_le_bytes()),
        (ColumnType::String, Value::String(text)) => put_bytes(text.as_bytes(), row),
        (ColumnType::String, Value::Bytes(bytes) | Value::Fixed(_, bytes)) => put_bytes(bytes, row),
        (ColumnType::Symbol { symbols, default }, Value::Enum(_, found)) => {
            put_bytes(known(found, symbols, default.as_ref())?.as_bytes(), row);
        }
        (ColumnType::Uuid, Value::Uuid(id)) => put_uuid(id.as_u128(), row),
        (ColumnType::Uuid, Value::String(text)) => {
            put_uuid(Uuid::parse_str(text).map_err(|_| "the text is not a UUID")?.as_u128(), row);
        }
        (ColumnType::Date32, Value::Date(days)) => put_date(*days, row)?,
        (ColumnType::Micros, Value::TimestampMicros(at)) => put_time(*at, 1_000_000, row)?,
        (ColumnType::Millis, Value::TimestampMillis(at)) => put_time(*at, 1_000, row)?,
        (ColumnType::Decimal { precision, .. }, Value::Decimal(decimal)) => {
            let bytes = Vec::<u8>::try_from(decimal).map_err(|error| error.to_string())?;
            put_decimal(&bytes, *precision, row)?;
        }
        (ColumnType::Array(item), Value::Array(items)) => {
            put_length(items.len(), row);
            items.iter().try_for_each(|value| put(item, value, row))?;
        }
        (ColumnType::Map(of), Value::Map(entries)) => {
            let mut entries: Vec<_> = entries.iter().collect();
            entries.sort_unstable_by_key(|(key, _)| *key); // a map has no order, and equal events must give equal bytes
            put_length(entries.len(), row);
            for (key, value) in entries {
                put_bytes(key.as_bytes(), row);
                put(of, value, row)?;
            }
        }
        (column, Value::Null) => return Err(format!("null, in a {column} that is never null")),
        (column, _) => return Err(format!("a {column} cannot hold this type of value")),
    }
    Ok(())
}

pub(super) fn known<'a>(found: &'a str, symbols: &[String], default: Option<&'a String>) -> Result<&'a str, String> {
    if symbols.iter().any(|symbol| symbol == found) {
        return Ok(found);
    }
    default.map(String::as_str).ok_or_else(|| "a symbol the contract does not list, and its enum has no default".into())
}

pub(super) fn put_date(days: i32, row: &mut Vec<u8>) -> Result<(), String> {
    if !DAYS.contains(&days) {
        return Err("the date is not within 1900-01-01 to 2299-12-31".into());
    }
    row.extend_from_slice(&days.to_le_bytes());
    Ok(())
}

pub(super) fn put_time(at: i64, ticks_per_second: i64, row: &mut Vec<u8>) -> Result<(), String> {
    if !SECONDS.contains(&at.div_euclid(ticks_per_second)) {
        return Err("the time is not within 1900-01-01 to 2299-12-31".into());
    }
    row.extend_from_slice(&at.to_le_bytes());
    Ok(())
}

/// `bytes` are two's complement, big-endian, of any length.
pub(super) fn put_decimal(bytes: &[u8], precision: usize, row: &mut Vec<u8>) -> Result<(), String> {
    let too_long = || format!("the decimal has more than {precision} digits");
    let number = sign_extended(bytes).ok_or_else(too_long)?;
    let limit = 10_u128.pow(u32::try_from(precision).map_err(|_| too_long())?); // at most 10^38, which fits
    if number.unsigned_abs() >= limit {
        return Err(too_long());
    }
    row.extend_from_slice(&number.to_le_bytes()[..decimal_width(precision)]);
    Ok(())
}

/// Bytes of a decimal.
pub(super) fn decimal_width(precision: usize) -> usize {
    match precision {
        0..=9 => 4,
        10..=18 => 8,
        _ => 16,
    }
}

fn sign_extended(bytes: &[u8]) -> Option<i128> {
    let sign = if bytes.first().is_some_and(|first| first & 0x80 != 0) { 0xff } else { 0 };
    let (extra, bytes) = bytes.split_at(bytes.len().saturating_sub(16));
    let mut number = [sign; 16];
    number[16 - bytes.len()..].copy_from_slice(bytes);
    let number = i128::from_be_bytes(number);
    let fits = extra.iter().all(|byte| *byte == sign) && (number < 0) == (sign == 0xff);
    fits.then_some(number)
}

pub(super) fn put_occurred_at(at: DateTime<Utc>, row: &mut Vec<u8>) -> Result<(), String> {
    if !OCCURRED.contains(&at.timestamp()) {
        return Err("`occurred_at` does not fit its column: an event's time lies within 1970 to 2105".into());
    }
    put_time(at.timestamp_micros(), 1_000_000, row)
}

/// Two little-endian halves, the high one first.
#[inline]
pub(super) fn put_uuid(id: u128, row: &mut Vec<u8>) {
    row.extend_from_slice(&id.rotate_left(64).to_le_bytes());
}

pub(super) fn put_bytes(bytes: &[u8], row: &mut Vec<u8>) {
    put_length(bytes.len(), row);
    row.extend_from_slice(bytes);
}

/// Unsigned LEB128.
pub(super) fn put_length(mut length: usize, row: &mut Vec<u8>) {
    while length >= 0x80 {
        row.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    row.push(length as u8);
}

#[cfg(test)]
mod tests {
    use super::super::table::Table;
    use super::whole::Plan;
    use super::*;
    use apache_avro::Decimal;
    use millrace_schemas::Envelope;
    use millrace_stream::Position;
    use std::collections::{BTreeSet, HashMap};

    fn record(fields: &str) -> String {
        format!(r#"{{"type": "record", "name": "R", "fields": [{fields}]}}"#)
    }

    /// The body's bytes of a value written with one schema, for the table of another one.
    fn read_as(contract: &str, writer: &str, value: &[(&str, Value)]) -> Result<Vec<u8>, String> {
        let table = Table::from_schema("r", "", &Schema::parse_str(&record(contract)).unwrap()).unwrap();
        let writer = WriterSchema::parse(7, &record(writer)).unwrap();
        let value = Value::Record(value.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect());
        let mut datum = Vec::new();
        writer.encode_value(&value, &mut datum).unwrap();
        let mut row = Vec::new();
        Plan::compile(&writer, &table)?.body(&BTreeSet::new(), &writer.decode(&datum).unwrap(), &mut row)?;
        Ok(row)
    }

    fn field(avro: &str, value: Value) -> Result<Vec<u8>, String> {
        let field = format!(r#"{{"name": "x", "type": {avro}}}"#);
        read_as(&field, &field, &[("x", value)])
    }

    fn some(value: Value) -> Value {
        Value::Union(1, Box::new(value))
    }

    fn decimal(number: i128) -> Value {
        Value::Decimal(Decimal::from(number.to_be_bytes()))
    }

    const DATE: &str = r#"{"type": "int", "logicalType": "date"}"#;
    const TIME: &str = r#"{"type": "long", "logicalType": "timestamp-micros"}"#;
    const DECIMAL: &str = r#"{"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}"#;
    const LONG_DECIMAL: &str = r#"{"type": "bytes", "logicalType": "decimal", "precision": 38, "scale": 2}"#;

    #[test]
    fn every_type_is_encoded_as_the_server_reads_it() {
        let uuid = Uuid::from_u128(0x0011_2233_4455_6677_8899_aabb_ccdd_eeff);
        let uuid_bytes =
            vec![0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11, 0, 0xff, 0xee, 0xdd, 0xcc, 0xbb, 0xaa, 0x99, 0x88];
        let map = HashMap::from([("b".to_owned(), Value::Int(2)), ("a".to_owned(), Value::Int(1))]);
        let cases: Vec<(&str, Value, Vec<u8>)> = vec![
            (r#""boolean""#, Value::Boolean(true), vec![1]),
            (r#""int""#, Value::Int(-2), vec![0xfe, 0xff, 0xff, 0xff]),
            (r#""long""#, Value::Long(258), vec![2, 1, 0, 0, 0, 0, 0, 0]),
            (r#""float""#, Value::Float(1.0), vec![0, 0, 0x80, 0x3f]),
            (r#""double""#, Value::Double(1.0), vec![0, 0, 0, 0, 0, 0, 0xf0, 0x3f]),
            (r#""string""#, Value::String("é\0".into()), vec![3, 0xc3, 0xa9, 0]),
            (r#""bytes""#, Value::Bytes(vec![0xff]), vec![1, 0xff]),
            (r#"["null", "int"]"#, Value::Union(0, Box::new(Value::Null)), vec![1]),
            (r#"["null", "int"]"#, some(Value::Int(1)), vec![0, 1, 0, 0, 0]),
            (r#"{"type": "string", "logicalType": "uuid"}"#, Value::Uuid(uuid), uuid_bytes),
            (r#"{"type": "enum", "name": "E", "symbols": ["A", "B"]}"#, Value::Enum(1, "B".into()), vec![1, b'B']),
            (r#"{"type": "array", "items": "boolean"}"#, Value::Array(vec![Value::Boolean(true)]), vec![1, 1]),
            (r#"["null", {"type": "array", "items": "int"}]"#, Value::Union(0, Box::new(Value::Null)), vec![0]),
            (r#"{"type": "map", "values": "int"}"#, Value::Map(map), vec![2, 1, b'a', 1, 0, 0, 0, 1, b'b', 2, 0, 0, 0]),
            (DATE, Value::Date(-25_567), (-25_567_i32).to_le_bytes().to_vec()),
            (TIME, Value::TimestampMicros(-1), (-1_i64).to_le_bytes().to_vec()),
            (DECIMAL, decimal(-999_999_999), (-999_999_999_i32).to_le_bytes().to_vec()),
            (LONG_DECIMAL, decimal(10_i128.pow(38) - 1), (10_i128.pow(38) - 1).to_le_bytes().to_vec()),
        ];
        for (avro, value, expected) in cases {
            assert_eq!(field(avro, value.clone()), Ok(expected), "{avro} {value:?}");
        }
    }

    #[test]
    fn what_a_column_cannot_hold_is_refused_by_its_fields_name() {
        let last_day = 120_530_i64 * 86_400_000_000;
        let wide = Value::Decimal(Decimal::from([1_u8; 17]));
        let cases = [
            (DATE, Value::Date(-25_568), "the date is not within 1900-01-01 to 2299-12-31"),
            (DATE, Value::Date(120_530), "the date is not within"),
            (TIME, Value::TimestampMicros(last_day), "the time is not within 1900-01-01 to 2299-12-31"),
            (TIME, Value::TimestampMicros(i64::MIN), "the time is not within"),
            (DECIMAL, decimal(1_000_000_000), "the decimal has more than 9 digits"),
            (LONG_DECIMAL, wide, "the decimal has more than 38 digits"),
            (LONG_DECIMAL, decimal(i128::MIN), "the decimal has more than 38 digits"),
        ];
        for (avro, value, expected) in cases {
            let error = field(avro, value).unwrap_err();
            assert!(error.starts_with(&format!("field `x` does not fit its column: {expected}")), "{error}");
        }
    }

    #[test]
    fn an_array_of_records_is_one_array_a_field() {
        let avro = r#"{"type": "array", "items": {"type": "record", "name": "L", "fields": [
            {"name": "on", "type": "boolean"}, {"name": "n", "type": ["null", "int"]}]}}"#;
        let line = |on, n| Value::Record(vec![("on".into(), Value::Boolean(on)), ("n".into(), n)]);
        let lines = vec![line(true, some(Value::Int(5))), line(false, Value::Union(0, Box::new(Value::Null)))];
        assert_eq!(field(avro, Value::Array(lines)), Ok(vec![2, 1, 0, 2, 0, 5, 0, 0, 0, 1]));
    }

    #[test]
    fn a_null_record_is_null_in_each_of_its_columns() {
        let avro = r#"["null", {"type": "record", "name": "N", "fields": [
            {"name": "a", "type": "int"}, {"name": "b", "type": {"type": "array", "items": "int"}}]}]"#;
        assert_eq!(field(avro, Value::Union(0, Box::new(Value::Null))), Ok(vec![1, 0]));
        let there = Value::Record(vec![("a".into(), Value::Int(1)), ("b".into(), Value::Array(vec![]))]);
        assert_eq!(field(avro, some(there)), Ok(vec![0, 1, 0, 0, 0, 0]));
    }

    #[test]
    fn a_field_the_writer_does_not_know_is_the_contracts_default() {
        let line = |more: &str| {
            format!(
                r#"{{"name": "lines", "type": {{"type": "array", "items": {{"type": "record", "name": "L", "fields": [
                {{"name": "on", "type": "boolean"}}{more}]}}}}}}"#
            )
        };
        let contract = format!(
            r#"{{"name": "new", "type": "int", "default": 7}}, {{"name": "maybe", "type": ["null", "string"], "default": null}}, {}"#,
            line(r#", {"name": "tax", "type": "string", "default": "x"}"#)
        );
        let on = Value::Record(vec![("on".into(), Value::Boolean(true))]);
        let row = read_as(&contract, &line(""), &[("lines", Value::Array(vec![on.clone(), on]))]);
        assert_eq!(row, Ok(vec![7, 0, 0, 0, 1, 2, 1, 1, 2, 1, b'x', 1, b'x']));
        let error = read_as(r#"{"name": "new", "type": "int"}"#, &line(""), &[("lines", Value::Array(vec![]))]);
        assert_eq!(error, Err("field `new`: schema 7 has no `new`, and the contract no default".into()));
    }

    #[test]
    fn fields_are_matched_by_name_and_promoted_as_avro_says() {
        let contract = r#"{"name": "a", "type": "long"}, {"name": "b", "type": "double"}"#;
        let writer =
            r#"{"name": "b", "type": "int"}, {"name": "unknown", "type": "int"}, {"name": "a", "type": "int"}"#;
        let value = [("b", Value::Int(1)), ("unknown", Value::Int(9)), ("a", Value::Int(-1))];
        let expected = [(-1_i64).to_le_bytes(), 1.0_f64.to_le_bytes()].concat();
        assert_eq!(read_as(contract, writer, &value), Ok(expected));
    }

    #[test]
    fn an_unknown_symbol_is_the_enums_default_and_without_one_it_does_not_fit() {
        let symbols = |symbols: &str| format!(r#"{{"name": "e", "type": {{"type": "enum", "name": "E", {symbols}}}}}"#);
        let (with, without) = (r#""symbols": ["A", "U"], "default": "U""#, r#""symbols": ["A"]"#);
        let writer = symbols(r#""symbols": ["A", "NEW"]"#);
        let value = [("e", Value::Enum(1, "NEW".into()))];
        assert_eq!(read_as(&symbols(with), &writer, &value), Ok(vec![1, b'U']));
        let error = read_as(&symbols(without), &writer, &value).unwrap_err();
        assert_eq!(
            error,
            "field `e` does not fit its column: a symbol the contract does not list, and its enum has no default"
        );
    }

    #[test]
    fn a_decimal_of_another_scale_is_never_read_as_if_it_had_ours() {
        let field = |around: &str, scale: u8| {
            let decimal = format!(r#"{{"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": {scale}}}"#);
            format!(r#"{{"name": "x", "type": {}}}"#, around.replace('?', &decimal))
        };
        let each = |values| Value::Array(vec![values]);
        let cases = [
            ("?", decimal(1)),
            (r#"["null", ?]"#, some(decimal(1))),
            (r#"{"type": "array", "items": ?}"#, each(decimal(1))),
            (
                r#"{"type": "array", "items": ["null", {"type": "array", "items": ["null", ?]}]}"#,
                each(some(each(some(decimal(1))))),
            ),
            (r#"{"type": "map", "values": ?}"#, Value::Map(HashMap::from([("a".to_owned(), decimal(1))]))),
        ];
        for (around, value) in cases {
            let read = |scale| read_as(&field(around, 2), &field(around, scale), &[("x", value.clone())]);
            assert_eq!(read(3).unwrap_err(), "field `x`: schema 7 has decimals of scale 3, the contract of scale 2");
            assert!(read(2).is_ok(), "{around}");
        }
    }

    #[test]
    fn an_event_outside_of_what_days_and_hours_can_hold_is_refused() {
        for (at, fits) in [(-1, false), (0, true), (OCCURRED.end - 1, true), (OCCURRED.end, false)] {
            let result = put_occurred_at(DateTime::from_timestamp(at, 0).unwrap(), &mut Vec::new());
            assert_eq!(result.is_ok(), fits, "{at}: {result:?}");
        }
        assert_eq!(DateTime::from_timestamp(OCCURRED.end, 0).unwrap().to_rfc3339(), "2106-01-01T00:00:00+00:00");
    }

    #[test]
    fn a_row_ends_with_its_envelope_and_its_place_in_the_log() {
        let table = Table::from_schema(
            "r",
            "",
            &Schema::parse_str(&record("{\"name\": \"x\", \"type\": \"boolean\"}")).unwrap(),
        );
        let writer = WriterSchema::parse(7, &record("{\"name\": \"x\", \"type\": \"boolean\"}")).unwrap();
        let plan = Plan::compile(&writer, &table.unwrap()).unwrap();
        let mut envelope = Envelope::new("/shop", "a.b", "o-1");
        (envelope.id, envelope.occurred_at) = (Uuid::from_u128(1), DateTime::from_timestamp_micros(2).unwrap());
        let position = Position { topic: "t".into(), partition: 3, offset: 4 };
        let row = plan
            .row(&BTreeSet::new(), &Value::Record(vec![("x".into(), Value::Boolean(true))]), &envelope, &position)
            .unwrap();
        let id = [[0; 8], 1_u64.to_le_bytes()].concat();
        let expected: Vec<&[u8]> = vec![
            &[1],
            &id,
            &[2, 0, 0, 0, 0, 0, 0, 0],
            b"\x03o-1\x05/shop\x00",
            b"\x01t\x03\x00\x00\x00\x04\x00\x00\x00\x00\x00\x00\x00\x01\x07\x00\x00\x00",
        ];
        assert_eq!(row, expected.concat());
    }
}
