//! Avro's JSON encoding (specification 1.12, "JSON Encoding") and values: how examples are written, events shown.
//!
//! Unions are `{"type": value}`, bytes are text of ISO-8859-1, logical types are what they annotate.

use crate::compatibility::{base, fixed, named};
use apache_avro::Schema;
use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::schema::{EnumSchema, RecordSchema, ResolvedSchema, UnionSchema, UuidSchema};
use apache_avro::types::Value;
use apache_avro::writer::datum::GenericDatumWriter;
use serde_json::{Map, Value as Json};

/// What does not fit, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {message}")]
pub struct JsonError {
    /// JSON path.
    pub path: String,
    pub message: String,
}

/// How much of a wrong value an error quotes.
const QUOTE_CHARS_MAX: usize = 64;

/// Reads one value of a schema without named references. What a record leaves out takes its default.
///
/// # Errors
/// The first place that does not fit.
pub fn value_from_json(schema: &Schema, json: &Json) -> Result<Value, JsonError> {
    read(schema, json, "$", Unions::Tagged)
}

/// Reads a field's `default`, in which unions are not tagged.
pub(crate) fn value_from_default(schema: &Schema, json: &Json) -> Result<Value, JsonError> {
    read(schema, json, "$", Unions::Bare)
}

#[derive(Clone, Copy, PartialEq)]
enum Unions {
    Tagged,
    Bare,
}

fn read(schema: &Schema, json: &Json, path: &str, unions: Unions) -> Result<Value, JsonError> {
    let expected = |wanted: &str| error(path, format!("expected {wanted}, found {}", quote(json)));
    match schema {
        Schema::Null if json.is_null() => Ok(Value::Null),
        Schema::Null => Err(expected("null")),
        Schema::Boolean => json.as_bool().map(Value::Boolean).ok_or_else(|| expected("true or false")),
        Schema::Float => {
            let narrow =
                float(json, unions).map(|value| value as f32).filter(|value| value.is_finite() || json.is_string());
            narrow.map(Value::Float).ok_or_else(|| expected("a number that a float (32 bits) holds"))
        }
        Schema::Double => float(json, unions).map(Value::Double).ok_or_else(|| expected("a number")),
        Schema::String => json.as_str().map(|text| Value::String(text.to_owned())).ok_or_else(|| expected("a string")),
        Schema::Uuid(UuidSchema::String) => {
            let parsed = json.as_str().and_then(|text| uuid::Uuid::parse_str(text).ok());
            parsed.map(Value::Uuid).ok_or_else(|| expected("a uuid"))
        }
        Schema::Enum(symbols) => symbol(symbols, json, path),
        Schema::Array(array) => {
            let items = json.as_array().ok_or_else(|| expected("an array"))?.iter().enumerate();
            let items = items.map(|(index, item)| read(&array.items, item, &format!("{path}[{index}]"), unions));
            items.collect::<Result<_, _>>().map(Value::Array)
        }
        Schema::Map(map) => {
            let entries = json.as_object().ok_or_else(|| expected("an object"))?.iter();
            let entries = entries
                .map(|(key, value)| Ok((key.clone(), read(&map.types, value, &format!("{path}[{key:?}]"), unions)?)));
            entries.collect::<Result<_, _>>().map(Value::Map)
        }
        Schema::Union(union) => branch(union, json, path, unions),
        Schema::Record(schema) => record(schema, json.as_object().ok_or_else(|| expected("an object"))?, path, unions),
        Schema::Ref { name } => {
            Err(error(path, format!("`{}` is a reference, which is not read", name.fullname(None))))
        }
        other => match base(other) {
            "int" => {
                let value = json.as_i64().and_then(|value| i32::try_from(value).ok());
                value.map(|value| int(other, value)).ok_or_else(|| expected("an int (32 bits)"))
            }
            "long" => json.as_i64().map(|value| long(other, value)).ok_or_else(|| expected("a long (64 bits)")),
            _ => bytes(other, json, path),
        },
    }
}

fn int(schema: &Schema, value: i32) -> Value {
    match schema {
        Schema::Date => Value::Date(value),
        Schema::TimeMillis => Value::TimeMillis(value),
        _ => Value::Int(value),
    }
}

fn long(schema: &Schema, value: i64) -> Value {
    match schema {
        Schema::TimeMicros => Value::TimeMicros(value),
        Schema::TimestampMillis => Value::TimestampMillis(value),
        Schema::TimestampMicros => Value::TimestampMicros(value),
        Schema::TimestampNanos => Value::TimestampNanos(value),
        Schema::LocalTimestampMillis => Value::LocalTimestampMillis(value),
        Schema::LocalTimestampMicros => Value::LocalTimestampMicros(value),
        Schema::LocalTimestampNanos => Value::LocalTimestampNanos(value),
        _ => Value::Long(value),
    }
}

/// JSON has no such numbers; Java's encoder writes them as text.
const NOT_FINITE: [(&str, f64); 3] = [("NaN", f64::NAN), ("Infinity", f64::INFINITY), ("-Infinity", f64::NEG_INFINITY)];

/// No default is one of them: the gateway writes it into events, in which it takes none.
fn float(json: &Json, unions: Unions) -> Option<f64> {
    let named = |text: &str| NOT_FINITE.iter().find(|(name, _)| *name == text).map(|(_, value)| *value);
    json.as_f64().or_else(|| json.as_str().filter(|_| unions == Unions::Tagged).and_then(named))
}

/// Bytes, fixed, and what annotates them: the bytes are written plainly and read as what they stand for.
fn bytes(schema: &Schema, json: &Json, path: &str) -> Result<Value, JsonError> {
    let text =
        json.as_str().ok_or_else(|| error(path, format!("expected a string of bytes, found {}", quote(json))))?;
    let bytes = text.chars().map(|char| u8::try_from(u32::from(char)));
    let bytes: Vec<u8> = bytes
        .collect::<Result<_, _>>()
        .map_err(|_| error(path, "expected bytes as characters up to \\u00ff, found a character beyond".to_owned()))?;
    if let Some(fixed) = fixed(schema).filter(|fixed| fixed.size != bytes.len()) {
        return Err(error(path, format!("expected {} bytes, found {}", fixed.size, bytes.len())));
    }
    as_annotated(schema, bytes).map_err(|cause| error(path, format!("{} does not fit: {cause}", quote(json))))
}

fn as_annotated(schema: &Schema, bytes: Vec<u8>) -> Result<Value, apache_avro::Error> {
    let datum = match fixed(schema) {
        Some(_) => bytes,
        None => GenericDatumWriter::builder(&Schema::Bytes).build()?.write_value_to_vec(Value::Bytes(bytes))?,
    };
    GenericDatumReader::builder(schema).build()?.read_value(&mut &datum[..])
}

fn symbol(schema: &EnumSchema, json: &Json, path: &str) -> Result<Value, JsonError> {
    let found = json.as_str().and_then(|text| Some((schema.symbols.iter().position(|symbol| symbol == text)?, text)));
    let (index, text) = found
        .ok_or_else(|| error(path, format!("expected one of {}, found {}", schema.symbols.join(", "), quote(json))))?;
    Ok(Value::Enum(index as u32, text.to_owned()))
}

fn branch(union: &UnionSchema, json: &Json, path: &str, unions: Unions) -> Result<Value, JsonError> {
    let chosen = |index: usize, value| Value::Union(index as u32, Box::new(value));
    let mut branches = union.variants().iter().enumerate();
    let tagged = json.as_object().filter(|object| object.len() == 1).and_then(|object| object.iter().next());
    if unions == Unions::Bare {
        let fitting = branches.find_map(|(index, branch)| Some(chosen(index, read(branch, json, path, unions).ok()?)));
        fitting.ok_or_else(|| error(path, format!("expected {}, found {}", tags(union), quote(json))))
    } else if let Some((index, branch)) = branches.clone().find(|(_, branch)| is_tag(branch, json, tagged)) {
        let inner = tagged.map_or(json, |(_, inner)| inner);
        let path = tagged.map_or(path.to_owned(), |(tag, _)| format!("{path}[{tag:?}]"));
        read(branch, inner, &path, unions).map(|value| chosen(index, value))
    } else {
        Err(error(path, format!("expected {}, found {}", tags(union), quote(json))))
    }
}

fn is_tag(branch: &Schema, json: &Json, tagged: Option<(&String, &Json)>) -> bool {
    match branch {
        Schema::Null => json.is_null(),
        branch => tagged.is_some_and(|(found, _)| *found == tag(branch)),
    }
}

/// How a union calls this branch.
fn tag(branch: &Schema) -> String {
    branch.name().map_or_else(|| base(branch).to_owned(), |name| name.fullname(None))
}

fn tags(union: &UnionSchema) -> String {
    let tag = |branch: &Schema| match branch {
        Schema::Null => "null".to_owned(),
        branch => format!("{{\"{}\": …}}", tag(branch)),
    };
    union.variants().iter().map(tag).collect::<Vec<_>>().join(" or ")
}

fn record(schema: &RecordSchema, json: &Map<String, Json>, path: &str, unions: Unions) -> Result<Value, JsonError> {
    let known = |name: &str| schema.fields.iter().any(|field| field.name == name);
    if let Some(unknown) = json.keys().find(|name| !known(name)) {
        return Err(error(&format!("{path}.{unknown}"), format!("{} has no such field", schema.name.name())));
    }
    let fields = schema.fields.iter().map(|field| {
        let path = format!("{path}.{}", field.name);
        let value = match (json.get(&field.name), &field.default) {
            (Some(json), _) => read(&field.schema, json, &path, unions),
            (None, Some(default)) => read(&field.schema, default, &path, Unions::Bare),
            (None, None) => Err(error(&path, "the field is missing and has no default".to_owned())),
        };
        Ok((field.name.clone(), value?))
    });
    fields.collect::<Result<_, _>>().map(Value::Record)
}

fn error(path: &str, message: String) -> JsonError {
    JsonError { path: path.to_owned(), message }
}

fn quote(json: &Json) -> String {
    let text = json.to_string();
    match text.char_indices().nth(QUOTE_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// Writes a value of this schema; what is not of it, as good as it can be shown.
pub fn value_to_json(schema: &Schema, value: &Value) -> Json {
    match ResolvedSchema::new(schema) {
        Ok(names) => write(&names, schema, value),
        Err(_) => Json::Null, // no value was ever read with such a schema
    }
}

fn write<'a>(names: &ResolvedSchema<'a>, schema: &'a Schema, value: &Value) -> Json {
    let schema = named(names, schema);
    match (schema, value) {
        (Schema::Union(union), Value::Union(index, value)) => match union.variants().get(*index as usize) {
            Some(Schema::Null) | None => Json::Null,
            Some(branch) => {
                let branch = named(names, branch);
                Json::Object(Map::from_iter([(tag(branch), write(names, branch, value))]))
            }
        },
        (Schema::Record(record), Value::Record(values)) => {
            let fields = record.fields.iter().zip(values);
            fields.map(|(field, (_, value))| (field.name.clone(), write(names, &field.schema, value))).collect()
        }
        (Schema::Array(array), Value::Array(items)) => {
            items.iter().map(|item| write(names, &array.items, item)).collect()
        }
        (Schema::Map(map), Value::Map(entries)) => {
            let mut entries: Vec<_> = entries.iter().collect();
            entries.sort_by_key(|(key, _)| *key);
            entries.into_iter().map(|(key, value)| (key.clone(), write(names, &map.types, value))).collect()
        }
        (schema, value) => write_leaf(schema, value),
    }
}

fn write_leaf(schema: &Schema, value: &Value) -> Json {
    match value {
        Value::Null => Json::Null,
        Value::Boolean(value) => (*value).into(),
        Value::Int(value) | Value::Date(value) | Value::TimeMillis(value) => (*value).into(),
        Value::Long(value) | Value::TimeMicros(value) => (*value).into(),
        Value::TimestampMillis(value) | Value::TimestampMicros(value) | Value::TimestampNanos(value) => (*value).into(),
        Value::LocalTimestampMillis(value) | Value::LocalTimestampMicros(value) => (*value).into(),
        Value::LocalTimestampNanos(value) => (*value).into(),
        // By way of its shortest text: 0.1 shall not become 0.10000000149011612.
        Value::Float(value) => number(value.to_string().parse().unwrap_or(f64::from(*value))),
        Value::Double(value) => number(*value),
        Value::String(text) | Value::Enum(_, text) => text.as_str().into(),
        Value::Uuid(uuid) if base(schema) == "string" => uuid.to_string().into(),
        Value::Bytes(bytes) | Value::Fixed(_, bytes) => latin1(bytes),
        annotated => as_bytes(schema, annotated).map_or(Json::Null, |bytes| latin1(&bytes)),
    }
}

fn number(value: f64) -> Json {
    let named = || {
        let name = if value.is_nan() {
            "NaN"
        } else if value > 0.0 {
            "Infinity"
        } else {
            "-Infinity"
        };
        Json::from(name)
    };
    serde_json::Number::from_f64(value).map_or_else(named, Json::Number)
}

fn latin1(bytes: &[u8]) -> Json {
    bytes.iter().map(|byte| char::from(*byte)).collect::<String>().into()
}

/// The way back from [`as_annotated`].
fn as_bytes(schema: &Schema, value: &Value) -> Option<Vec<u8>> {
    let mut datum = Vec::new();
    GenericDatumWriter::builder(schema).build().ok()?.write_value_ref(&mut datum, value).ok()?;
    if fixed(schema).is_some() {
        return Some(datum);
    }
    match GenericDatumReader::builder(&Schema::Bytes).build().ok()?.read_value(&mut &datum[..]).ok()? {
        Value::Bytes(bytes) => Some(bytes),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn every_kind() -> Schema {
        let kinds = json!([
            ["nothing", "null"], ["flag", "boolean"], ["int", "int"], ["long", "long"], ["float", "float"],
            ["double", "double"], ["bytes", "bytes"], ["text", "string"],
            ["uuid", {"type": "string", "logicalType": "uuid"}],
            ["uuid_fixed", {"type": {"type": "fixed", "name": "U", "size": 16}, "logicalType": "uuid"}],
            ["date", {"type": "int", "logicalType": "date"}],
            ["millis", {"type": "int", "logicalType": "time-millis"}],
            ["time", {"type": "long", "logicalType": "time-micros"}],
            ["at", {"type": "long", "logicalType": "timestamp-micros"}],
            ["local", {"type": "long", "logicalType": "local-timestamp-millis"}],
            ["decimal", {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}],
            ["decimal_fixed", {"type": {"type": "fixed", "name": "D", "size": 3}, "logicalType": "decimal", "precision": 5}],
            ["duration", {"type": {"type": "fixed", "name": "P", "size": 12}, "logicalType": "duration"}],
            ["big", {"type": "bytes", "logicalType": "big-decimal"}],
            ["fixed", {"type": "fixed", "name": "F", "size": 2}],
            ["symbol", {"type": "enum", "name": "E", "symbols": ["A", "B"]}],
            ["items", {"type": "array", "items": ["null", "long"]}],
            ["map", {"type": "map", "values": "int"}],
            ["maybe", ["null", {"type": "record", "name": "I", "fields": [{"name": "x", "type": "int"}]}]],
        ]);
        let field = |kind: &Json| json!({"name": kind[0], "type": kind[1]});
        let fields: Vec<_> = kinds.as_array().unwrap().iter().map(field).collect();
        Schema::parse(&json!({"type": "record", "name": "R", "namespace": "n", "fields": fields})).unwrap()
    }

    #[test]
    fn every_kind_of_value_comes_back_as_it_was_written() {
        let json = json!({
            "nothing": null, "flag": true, "int": -1, "long": i64::MIN, "float": 0.1, "double": "NaN",
            "bytes": "\u{0}\u{ff}a", "text": "grün", "uuid": "019ab523-41c9-7e6f-b2d4-8a7c05e19f3b",
            "uuid_fixed": "0123456789abcdef", "date": 20000, "millis": 1, "time": 2, "at": 1_700_000_000_000_000_i64,
            "local": 3, "decimal": "\u{ff}\u{38}", "decimal_fixed": "\u{0}\u{1}\u{2}", "duration": "abcdefghijkl",
            "big": "\u{2}\u{7}\u{4}", "fixed": "xy", "symbol": "B", "items": [null, {"long": 7}],
            "map": {"a": 1, "b": 2}, "maybe": {"n.I": {"x": 5}},
        });
        let schema = every_kind();
        let value = value_from_json(&schema, &json).unwrap();
        assert_eq!(value_to_json(&schema, &value), json);
        let writer = crate::WriterSchema::parse(1, &serde_json::to_string(&schema).unwrap()).unwrap();
        let mut datum = Vec::new();
        writer.encode_value(&value, &mut datum).unwrap();
        assert_eq!(value_to_json(&schema, &writer.decode(&datum).unwrap()), json);
    }

    #[test]
    fn what_does_not_fit_is_named_with_its_place() {
        let schema = Schema::parse(&json!({"type": "record", "name": "R", "fields": [
            {"name": "n", "type": "int", "default": 3},
            {"name": "maybe", "type": ["null", "string"], "default": null},
            {"name": "lines", "type": {"type": "array", "items": {"type": "record", "name": "L", "fields": [
                {"name": "e", "type": {"type": "enum", "name": "E", "symbols": ["A", "B"]}, "default": "A"}]}}},
            {"name": "b", "type": {"type": "fixed", "name": "F", "size": 2}, "default": "\u{0}\u{ff}"}]}));
        let schema = schema.unwrap();
        let full = json!({"n": 3, "maybe": null, "lines": [{"e": "A"}], "b": "\u{0}\u{ff}"});
        let value = value_from_json(&schema, &json!({"lines": [{}]})).unwrap();
        assert_eq!(value_to_json(&schema, &value), full, "defaults stand in");
        let cases = [
            (json!([]), "$: expected an object, found []"),
            (json!({}), "$.lines: the field is missing and has no default"),
            (json!({"lines": [], "m": 1}), "$.m: R has no such field"),
            (json!({"n": 2_147_483_648_i64}), "$.n: expected an int (32 bits), found 2147483648"),
            (json!({"n": 1.0}), "$.n: expected an int (32 bits), found 1.0"),
            (json!({"maybe": "x"}), "$.maybe: expected null or {\"string\": …}, found \"x\""),
            (json!({"maybe": {"string": 1}}), "$.maybe[\"string\"]: expected a string, found 1"),
            (json!({"lines": [{"e": "A"}, {"e": "C"}]}), "$.lines[1].e: expected one of A, B, found \"C\""),
            (json!({"lines": [], "b": "abc"}), "$.b: expected 2 bytes, found 3"),
            (
                json!({"lines": [], "b": "…"}),
                "$.b: expected bytes as characters up to \\u00ff, found a character beyond",
            ),
        ];
        for (json, expected) in cases {
            assert_eq!(value_from_json(&schema, &json).unwrap_err().to_string(), expected);
        }
    }

    #[test]
    fn values_of_recursive_schemas_are_shown() {
        let list = json!({"type": "record", "name": "L", "fields": [{"name": "next", "type": ["null", "L"]}]});
        let schema = Schema::parse(&list).unwrap();
        let end = Value::Record(vec![("next".to_owned(), Value::Union(0, Box::new(Value::Null)))]);
        let value = Value::Record(vec![("next".to_owned(), Value::Union(1, Box::new(end)))]);
        assert_eq!(value_to_json(&schema, &value), json!({"next": {"L": {"next": null}}}));
    }
}
