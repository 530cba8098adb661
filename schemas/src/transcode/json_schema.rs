//! What [`super::JsonPlan`] takes, as JSON Schema (2020-12): for documents that other people's tools read.
//!
//! Says as much of it as JSON Schema can; where they differ the plan decides, which every event meets.

use super::plan::{DAYS, INTS, KEY_BYTES_MAX, LONGS, MICROS, tag};
use crate::bounds::{ARRAY_ITEMS_MAX, MAP_ENTRIES_MAX};
use crate::compatibility::{base, fixed};
use crate::{Contract, Version};
use apache_avro::Schema;
use apache_avro::schema::{EnumSchema, RecordField, RecordSchema, UnionSchema, UuidSchema};
use serde_json::{Map, Value as Json, json};
use std::ops::RangeInclusive;

/// No column holds NUL.
const TEXT: &str = "^[^\\u0000]*$";
/// Bytes travel in JSON as the characters of these codes.
const LATIN1: &str = "^[\\u0000-\\u00ff]*$";
/// Of a field, beside what Avro knows.
const ATTRIBUTES: [&str; 2] = ["unit", "pii"];

impl Contract {
    /// An event's data of the newest version.
    pub fn json_schema(&self) -> Json {
        data(self.newest(), &self.key)
    }

    /// The example as people write it: without the tags of nullable fields.
    pub fn plain_example(&self) -> Json {
        plain(&self.newest().schema, &self.example)
    }
}

pub(super) fn data(version: &Version, key: &str) -> Json {
    let mut schema = record(version.record());
    let key = &mut schema["properties"][key];
    if key.get("format").is_none() {
        (key["minLength"], key["maxLength"]) = (json!(1), json!(KEY_BYTES_MAX));
    }
    schema
}

fn record(record: &RecordSchema) -> Json {
    let properties: Map<_, _> = record.fields.iter().map(|field| (field.name.clone(), property(field))).collect();
    let required: Vec<&str> =
        record.fields.iter().filter(|field| field.default.is_none()).map(|field| field.name.as_str()).collect();
    json!({
        "type": "object",
        "title": record.name.name(),
        "description": record.doc,
        "properties": properties,
        "required": required,
        "additionalProperties": false,
    })
}

fn property(field: &RecordField) -> Json {
    let mut schema = of(&field.schema);
    schema["description"] = json!(field.doc);
    if let Some(default) = &field.default {
        schema["default"] = default.clone();
    }
    for name in ATTRIBUTES {
        if let Some(value) = field.custom_attributes.get(name) {
            schema[format!("x-{name}")] = value.clone();
        }
    }
    schema
}

fn of(schema: &Schema) -> Json {
    match schema {
        Schema::Uuid(UuidSchema::String) => json!({ "type": "string", "format": "uuid" }),
        Schema::Date => integer(&DAYS, "days since 1970-01-01"),
        Schema::TimestampMicros => integer(&MICROS, "microseconds since 1970-01-01T00:00:00Z"),
        Schema::Enum(EnumSchema { symbols, .. }) => json!({ "type": "string", "enum": symbols }),
        Schema::Array(array) => json!({ "type": "array", "items": of(&array.items), "maxItems": ARRAY_ITEMS_MAX }),
        Schema::Map(map) => json!({
            "type": "object",
            "additionalProperties": of(&map.types),
            "propertyNames": { "pattern": TEXT },
            "maxProperties": MAP_ENTRIES_MAX,
        }),
        Schema::Union(branches) => union(branches),
        Schema::Record(inner) => record(inner),
        other => match base(other) {
            "null" => json!({ "type": "null" }),
            "boolean" => json!({ "type": "boolean" }),
            "int" => integer(&INTS, ""),
            "long" => integer(&LONGS, ""),
            "float" => json!({ "type": "number", "minimum": f32::MIN, "maximum": f32::MAX }),
            "double" => json!({ "type": "number" }),
            "string" => json!({ "type": "string", "pattern": TEXT }),
            _ => bytes(other),
        },
    }
}

fn integer(range: &RangeInclusive<i64>, unit: &str) -> Json {
    let mut schema = json!({ "type": "integer", "minimum": range.start(), "maximum": range.end() });
    if !unit.is_empty() {
        schema["x-unit"] = json!(unit);
    }
    schema
}

fn bytes(schema: &Schema) -> Json {
    let mut text = json!({ "type": "string", "pattern": LATIN1 });
    if let Some(fixed) = fixed(schema) {
        (text["minLength"], text["maxLength"]) = (json!(fixed.size), json!(fixed.size));
    }
    if let Schema::Decimal(decimal) = schema {
        text["x-unit"] = json!(format!("two's complement, big-endian, {} digits at most", decimal.precision));
    }
    text
}

/// With Avro's tag, or without one where the value tells its branch.
fn union(union: &UnionSchema) -> Json {
    let branches = union.variants();
    let is_object = |branch: &Schema| matches!(branch, Schema::Record(_) | Schema::Map(_));
    let is_only = |is_kind: &dyn Fn(&Schema) -> bool| branches.iter().filter(|branch| is_kind(branch)).count() == 1;
    let objects_are_told = is_only(&is_object);
    let bare = branches.iter().filter(|branch| !is_object(branch) || objects_are_told).map(of);
    let tagged = branches.iter().filter(|branch| !matches!(branch, Schema::Null)).map(|branch| {
        let tag = tag(branch);
        json!({ "type": "object", "properties": { &tag: of(branch) }, "required": [tag], "additionalProperties": false })
    });
    json!({ "anyOf": bare.chain(tagged).collect::<Vec<_>>() })
}

fn plain(schema: &Schema, json: &Json) -> Json {
    match (schema, json) {
        (Schema::Record(record), Json::Object(found)) => {
            let field = |field: &RecordField| Some((field.name.clone(), plain(&field.schema, found.get(&field.name)?)));
            record.fields.iter().filter_map(field).collect::<Map<_, _>>().into()
        }
        (Schema::Array(array), Json::Array(items)) => items.iter().map(|item| plain(&array.items, item)).collect(),
        (Schema::Map(map), Json::Object(found)) => {
            found.iter().map(|(name, value)| (name.clone(), plain(&map.types, value))).collect::<Map<_, _>>().into()
        }
        (Schema::Union(union), Json::Object(tagged)) => match union.variants() {
            // Without a tag a map might be taken for one.
            [Schema::Null, branch] | [branch, Schema::Null] if !matches!(branch, Schema::Map(_)) => {
                tagged.get(&tag(branch)).map_or_else(|| json.clone(), |value| plain(branch, value))
            }
            _ => json.clone(),
        },
        _ => json.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Contracts, JsonPlan};

    #[test]
    fn an_example_without_tags_is_the_same_event() {
        for contract in Contracts::embedded().unwrap().iter() {
            let plan = JsonPlan::compile(contract.newest(), &contract.key, 1 << 20).unwrap();
            let encoded = |json: &Json| {
                let mut datum = Vec::new();
                plan.encode(&json.to_string(), &mut datum).map(|_| datum)
            };
            let plain = contract.plain_example();
            assert_eq!(encoded(&plain).unwrap(), encoded(&contract.example).unwrap(), "{}", contract.event_type);
            assert!(!plain.to_string().contains(r#"{"string""#), "{plain}");
        }
    }

    #[test]
    fn each_type_is_described_as_it_may_be_written() {
        let schema = |avro: Json| of(&Schema::parse(&avro).unwrap());
        let cases = [
            (json!("int"), json!({ "type": "integer", "minimum": i32::MIN, "maximum": i32::MAX })),
            (json!("double"), json!({ "type": "number" })),
            (json!({ "type": "string", "logicalType": "uuid" }), json!({ "type": "string", "format": "uuid" })),
            (
                json!({ "type": "fixed", "name": "it.F", "size": 2 }),
                json!({ "type": "string", "pattern": LATIN1, "minLength": 2, "maxLength": 2 }),
            ),
            (
                json!(["null", "boolean"]),
                json!({ "anyOf": [
                    { "type": "null" },
                    { "type": "boolean" },
                    { "type": "object", "properties": { "boolean": { "type": "boolean" } },
                      "required": ["boolean"], "additionalProperties": false },
                ] }),
            ),
        ];
        for (avro, expected) in cases {
            assert_eq!(schema(avro.clone()), expected, "{avro}");
        }
        let two = json!([
            { "type": "map", "values": "int" },
            { "type": "record", "name": "it.R", "fields": [{ "name": "a", "type": "int" }] },
        ]);
        assert_eq!(schema(two)["anyOf"].as_array().unwrap().len(), 2, "which of two objects it is, only a tag tells");
    }

    #[test]
    fn what_has_a_default_may_be_left_out_and_personal_data_is_marked() {
        let contracts = Contracts::embedded().unwrap();
        let schema = contracts.get("user.registered").unwrap().json_schema();
        assert_eq!(schema["required"], json!(["user_id", "email", "name", "locale", "country", "channel"]));
        assert_eq!(schema["properties"]["email"]["x-pii"], "user_id");
        assert_eq!(schema["properties"]["anonymous_id"]["default"], Json::Null);
    }
}
