//! An event's data without what is personal: what a place may keep that must hold no personal data.
//!
//! Strict: only what the contract describes, as it describes it, and not as personal stays. A field that it does not
//! know may be anybody's address, written where it does not belong; so may text where a number should stand.

use crate::Contract;
use crate::compatibility::base;
use crate::transcode::{escaped, tag};
use apache_avro::Schema;
use apache_avro::schema::{RecordField, RecordSchema, UnionSchema, UuidSchema};
use serde_json::{Map, Value as Json};

/// Names longer than this are nobody's.
const NAME_CHARS_MAX: usize = 64;

impl Contract {
    /// Takes out what is personal, or may be. Returns where something was: JSON pointers, into the data.
    pub fn strip_personal(&self, data: &mut Json) -> Vec<String> {
        let mut taken = Vec::new();
        match data {
            Json::Object(members) => record(self.newest().record(), members, "", &mut taken),
            other => {
                *other = Json::Null;
                taken.push(String::new());
            }
        }
        taken
    }

    /// Whether an event may do without what stood there: personal data, where the contract has something in its place.
    pub fn spares(&self, pointer: &str) -> bool {
        let mut names = pointer.split('/').skip(1).peekable();
        let mut at = Some(self.newest().record());
        while let (Some(record), Some(name)) = (at, names.next()) {
            let Some(field) = record.fields.iter().find(|field| field.name == name) else { return false };
            if is_personal(field) {
                return names.peek().is_none() && (is_nullable(&field.schema) || field.default.is_some());
            }
            at = record_in(&field.schema);
        }
        false
    }
}

/// Whether this may be the name of something in a contract. An address or a number is none.
pub fn is_name(text: &str) -> bool {
    let mut chars = text.chars();
    chars.next().is_some_and(|first| first.is_ascii_alphabetic() || first == '_')
        && text.len() <= NAME_CHARS_MAX
        && chars.all(|char| char.is_ascii_alphanumeric() || char == '_')
}

fn is_personal(field: &RecordField) -> bool {
    field.custom_attributes.contains_key("pii")
}

fn is_nullable(schema: &Schema) -> bool {
    matches!(schema, Schema::Union(union) if union.variants().contains(&Schema::Null))
}

fn below(at: &str, name: &str) -> String {
    format!("{at}/{}", escaped(name))
}

/// The record that the schema is, or its union has.
fn record_in(schema: &Schema) -> Option<&RecordSchema> {
    match schema {
        Schema::Record(record) => Some(record),
        Schema::Union(union) => union.variants().iter().find_map(record_in),
        _ => None,
    }
}

fn record(schema: &RecordSchema, members: &mut Map<String, Json>, at: &str, taken: &mut Vec<String>) {
    members.retain(|name, json| {
        let here = below(at, name);
        match schema.fields.iter().find(|field| field.name == *name) {
            Some(field) if is_personal(field) => {
                let leaves_null = is_nullable(&field.schema);
                if !json.is_null() {
                    taken.push(here);
                    *json = Json::Null;
                }
                leaves_null
            }
            Some(field) => value(&field.schema, json, &here, taken),
            None => {
                taken.push(here);
                false
            }
        }
    });
}

/// False where nothing of it may stay.
fn value(schema: &Schema, json: &mut Json, at: &str, taken: &mut Vec<String>) -> bool {
    let stays = match (schema, &mut *json) {
        (_, Json::Null) => true,
        (Schema::Record(schema), Json::Object(members)) => {
            record(schema, members, at, taken);
            true
        }
        (Schema::Array(array), Json::Array(items)) => {
            for (index, item) in items.iter_mut().enumerate() {
                if !value(&array.items, item, &format!("{at}/{index}"), taken) {
                    *item = Json::Null; // the others keep their places
                }
            }
            true
        }
        (Schema::Map(map), Json::Object(members)) => {
            members.retain(|name, json| value(&map.types, json, &below(at, name), taken));
            true
        }
        (Schema::Union(union), json) => return optional(union, json, at, taken),
        (schema, json) => is_described(schema, json),
    };
    if !stays {
        taken.push(at.to_owned());
    }
    stays
}

/// Contracts have unions of null and one thing more, whose tag may stand before it.
fn optional(union: &UnionSchema, json: &mut Json, at: &str, taken: &mut Vec<String>) -> bool {
    let Some(schema) = union.variants().iter().find(|schema| **schema != Schema::Null) else { return true };
    let tag = tag(schema);
    match json.as_object_mut().filter(|members| members.len() == 1).and_then(|members| members.get_mut(&tag)) {
        Some(tagged) => value(schema, tagged, at, taken),
        None => value(schema, json, at, taken),
    }
}

/// A symbol that an enum lacks may be one of its next version; text that is no symbol is anything.
fn is_described(schema: &Schema, json: &Json) -> bool {
    match schema {
        Schema::Null => json.is_null(),
        Schema::Boolean => json.is_boolean(),
        Schema::Uuid(UuidSchema::String) => json.as_str().is_some_and(|text| uuid::Uuid::try_parse(text).is_ok()),
        Schema::Enum(_) => json.as_str().is_some_and(is_name),
        Schema::Array(_) | Schema::Map(_) | Schema::Record(_) | Schema::Union(_) | Schema::Ref { .. } => false,
        other => match base(other) {
            "int" | "long" | "float" | "double" => json.is_number(),
            _ => json.is_string(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Contracts;
    use serde_json::json;
    use std::sync::Arc;

    const PARCEL: &str = r#"{ "type": "record", "name": "ParcelSent", "namespace": "it", "doc": "It.",
      "millrace": { "type": "parcel.sent", "topic": "it.parcel.v1", "key": "id" }, "fields": [
        { "name": "id", "type": { "type": "string", "logicalType": "uuid" }, "doc": "It." },
        { "name": "phone", "type": ["null", "string"], "pii": "id", "doc": "It." },
        { "name": "note", "type": "string", "default": "", "pii": "id", "doc": "It." },
        { "name": "to", "doc": "It.", "type": ["null", { "type": "record", "name": "Address", "doc": "It.", "fields": [
          { "name": "street", "type": "string", "pii": "id", "doc": "It." },
          { "name": "city", "type": "string", "doc": "It." } ] }] },
        { "name": "items", "doc": "It.", "type": { "type": "array", "items": { "type": "record", "name": "Item", "doc": "It.",
          "fields": [{ "name": "grams", "type": "long", "doc": "It." }] } } },
        { "name": "tags", "doc": "It.", "type": { "type": "map", "values": "long" } },
        { "name": "size", "doc": "It.", "type": ["null", "string"] } ] }"#;
    const EXAMPLE: &str = r#"{ "id": "019b76da-a800-7000-8000-000000000001", "phone": null, "note": "", "to": null,
      "items": [], "tags": {}, "size": null }"#;

    fn parcel() -> Arc<Contract> {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().join("parcel.sent");
        std::fs::create_dir(&place).unwrap();
        std::fs::write(place.join("1.avsc"), PARCEL).unwrap();
        std::fs::write(place.join("example.json"), EXAMPLE).unwrap();
        let contracts = Contracts::load(directory.path()).unwrap();
        contracts.get("parcel.sent").unwrap().clone()
    }

    fn registered() -> Arc<Contract> {
        Contracts::embedded().unwrap().get("user.registered").unwrap().clone()
    }

    #[test]
    fn only_what_the_contract_describes_and_not_as_personal_stays() {
        let id = "019b76da-a800-7000-8000-000000000001";
        let mut data = json!({
            "user_id": id, "anonymous_id": "anna@example.com", "email": "anna@example.com", "name": 7,
            "locale": "de-DE", "country": { "of": "Anna" }, "channel": "FRIEND", "phone": "+49 30 1234",
        });
        let mut taken = registered().strip_personal(&mut data);
        taken.sort_unstable();
        assert_eq!(taken, ["/anonymous_id", "/country", "/email", "/name", "/phone"]);
        assert_eq!(data, json!({ "user_id": id, "locale": "de-DE", "channel": "FRIEND" }));
    }
    #[test]
    fn what_is_nested_is_looked_into_and_what_can_be_nobodys_keeps_its_place() {
        let mut data = json!({
            "id": 7, "phone": "030", "note": "for Anna", "to": { "it.Address": { "street": "A 1", "city": "B", "a/b": 1 } },
            "items": [{ "grams": 1, "for": "Anna" }, "Anna", { "grams": "Anna" }],
            "tags": { "a": 1, "b": "Anna" }, "size": { "string": "L" },
        });
        let taken = parcel().strip_personal(&mut data);
        let expected = [
            "/id",
            "/phone",
            "/note",
            "/to/street",
            "/to/a~1b",
            "/items/0/for",
            "/items/1",
            "/items/2/grams",
            "/tags/b",
        ];
        assert_eq!(taken, expected);
        let left = json!({ "phone": null, "to": { "it.Address": { "city": "B" } }, "items": [{ "grams": 1 }, null, {}],
            "tags": { "a": 1 }, "size": { "string": "L" } });
        assert_eq!(data, left);
        let mut plain = json!({ "to": { "street": "A 1", "city": "B" }, "size": [] });
        assert_eq!(parcel().strip_personal(&mut plain), ["/to/street", "/size"]);
        assert_eq!(plain, json!({ "to": { "city": "B" } }));
        assert_eq!(parcel().strip_personal(&mut json!("Anna")), [""]);
    }

    #[test]
    fn an_event_may_do_without_personal_data_that_has_something_in_its_place() {
        let spared = |pointer: &str| parcel().spares(pointer);
        assert!(spared("/phone") && spared("/note"));
        for not in ["", "/", "/id", "/to", "/to/street", "/to/city", "/phone/number", "/items/0/for", "/items/2/grams"]
        {
            assert!(!spared(not), "{not}");
        }
    }

    #[test]
    fn a_name_is_none_of_a_person() {
        assert!(is_name("user_id") && is_name("_1"));
        for other in ["", "anna@example.com", "4930", "Anna Smith", "é", &"a".repeat(65)] {
            assert!(!is_name(other), "{other}");
        }
    }
}
