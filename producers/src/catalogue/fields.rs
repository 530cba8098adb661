//! A version's fields in words, and what changed from one version to the next.

use apache_avro::Schema;
use apache_avro::schema::RecordSchema;
use millrace_schemas::{Contract, Version};
use serde::Serialize;
use serde_json::Value as Json;

/// One field; nested ones stand behind the field that holds them.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Field {
    /// `lines[].product_id`; `[]` is each item of an array, `{}` each value of a map.
    pub path: String,
    /// `array of OrderLine`, `string or null`.
    #[serde(rename = "type")]
    pub kind: String,
    pub doc: String,
    /// What it is when it is left out, such as `null`; a field without one may not be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default: Option<Json>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// Personal data, and the field that says whose.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pii: Option<String>,
}

pub(crate) fn fields(version: &Version) -> Vec<Field> {
    let mut fields = Vec::new();
    add_record(&mut fields, version.record(), "");
    fields
}

fn add_record(fields: &mut Vec<Field>, record: &RecordSchema, above: &str) {
    for field in &record.fields {
        let path = format!("{above}{}", field.name);
        let attribute = |name: &str| Some(field.custom_attributes.get(name)?.as_str()?.to_owned());
        fields.push(Field {
            path: path.clone(),
            kind: kind(&field.schema),
            doc: field.doc.clone().unwrap_or_default(),
            default: field.default.clone(),
            unit: attribute("unit"),
            pii: attribute("pii"),
        });
        add_nested(fields, &field.schema, &path);
    }
}

fn add_nested(fields: &mut Vec<Field>, schema: &Schema, path: &str) {
    match schema {
        Schema::Record(record) => add_record(fields, record, &format!("{path}.")),
        Schema::Array(array) => add_nested(fields, &array.items, &format!("{path}[]")),
        Schema::Map(map) => add_nested(fields, &map.types, &format!("{path}{{}}")),
        Schema::Union(union) => union.variants().iter().for_each(|branch| add_nested(fields, branch, path)),
        _ => {}
    }
}

fn kind(schema: &Schema) -> String {
    match schema {
        Schema::Null => "null".into(),
        Schema::Boolean => "boolean".into(),
        Schema::Int => "int".into(),
        Schema::Long => "long".into(),
        Schema::Float => "float".into(),
        Schema::Double => "double".into(),
        Schema::Bytes => "bytes".into(),
        Schema::String => "string".into(),
        Schema::Uuid(_) => "uuid".into(),
        Schema::Date => "date".into(),
        Schema::TimestampMicros => "timestamp-micros".into(),
        Schema::Decimal(decimal) => format!("decimal({}, {})", decimal.precision, decimal.scale),
        Schema::Fixed(fixed) => format!("{} bytes", fixed.size),
        Schema::Enum(symbols) => symbols.symbols.join(" | "),
        Schema::Record(record) => record.name.name().to_owned(),
        Schema::Array(array) => format!("array of {}", kind(&array.items)),
        Schema::Map(map) => format!("map of {}", kind(&map.types)),
        Schema::Union(union) => {
            // What it is comes first; that it may be missing, behind it.
            let (null, others): (Vec<_>, Vec<_>) =
                union.variants().iter().partition(|branch| matches!(branch, Schema::Null));
            others.into_iter().chain(null).map(kind).collect::<Vec<_>>().join(" or ")
        }
        other => format!("{other:?}"), // no contract may have it
    }
}

/// What a version brought, and took, compared with the one before it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Changes {
    pub version: u32,
    /// A sentence each; none for the first version.
    pub changes: Vec<String>,
}

/// Oldest first.
pub(crate) fn history(contract: &Contract) -> Vec<Changes> {
    let versions = contract.versions();
    let before = std::iter::once(None).chain(versions.iter().map(Some));
    let changes = |(version, before): (&Version, Option<&Version>)| Changes {
        version: version.number,
        changes: before.map(|before| between(before, version)).unwrap_or_default(),
    };
    versions.iter().zip(before).map(changes).collect()
}

fn between(before: &Version, now: &Version) -> Vec<String> {
    let (old, new) = (fields(before), fields(now));
    let find = |fields: &[Field], path: &str| fields.iter().find(|field| field.path == path).cloned();
    let mut said = Vec::new();
    if before.record().doc != now.record().doc {
        said.push("what the event means is told anew".to_owned());
    }
    for field in &new {
        match find(&old, &field.path) {
            None => said.push(format!("added `{}`: {}{}", field.path, field.kind, and_default(field))),
            Some(was) => said.extend(changed(&was, field)),
        }
    }
    let removed = old.iter().filter(|was| find(&new, &was.path).is_none());
    said.extend(removed.map(|was| format!("removed `{}`: {}", was.path, was.kind)));
    said
}

fn and_default(field: &Field) -> String {
    field.default.as_ref().map(|default| format!(", {default} when left out")).unwrap_or_default()
}

fn changed(was: &Field, now: &Field) -> Vec<String> {
    let path = &now.path;
    let json = |value: &Option<Json>| value.as_ref().map_or_else(|| "none".to_owned(), Json::to_string);
    let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "none".into());
    let mut said = Vec::new();
    let mut compare = |what: &str, was: String, now: String| {
        if was != now {
            said.push(format!("`{path}`: {what} was {was}, is {now}"));
        }
    };
    compare("type", was.kind.clone(), now.kind.clone());
    compare("default", json(&was.default), json(&now.default));
    compare("unit", text(&was.unit), text(&now.unit));
    compare("whose personal data it is", text(&was.pii), text(&now.pii));
    if was.doc != now.doc {
        said.push(format!("`{path}`: described anew"));
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::tests::project;
    use serde_json::json;

    #[test]
    fn nested_fields_stand_behind_the_field_that_holds_them() {
        let contracts = millrace_schemas::Contracts::embedded().unwrap();
        let fields = fields(contracts.get("order.placed").unwrap().newest());
        let told: Vec<String> = fields.iter().map(|field| format!("{}: {}", field.path, field.kind)).collect();
        assert_eq!(
            told,
            [
                "order_id: uuid",
                "user_id: uuid",
                "session_id: uuid or null",
                "lines: array of OrderLine",
                "lines[].product_id: uuid",
                "lines[].quantity: int",
                "lines[].unit_price: long",
                "total: long",
                "currency: string",
                "coupon: string or null",
            ]
        );
        assert_eq!((fields[2].default.clone(), fields[7].unit.as_deref()), (Some(Json::Null), Some("minor")));
    }

    #[test]
    fn what_a_version_changed_is_said_in_words() {
        let field = |name: &str, kind: Json, default: Option<Json>| match default {
            None => json!({ "name": name, "type": kind, "doc": "One." }),
            Some(default) => json!({ "name": name, "type": kind, "doc": "One.", "default": default }),
        };
        let id = field("id", json!("string"), None);
        let colours = |symbols: &[&str]| {
            let colours = json!({ "type": "enum", "name": "Colour", "symbols": symbols, "default": "RED" });
            field("colour", colours, Some(json!("RED")))
        };
        let mut first = vec![id.clone(), field("gone", json!("int"), Some(json!(0))), colours(&["RED"])];
        let second = vec![id, colours(&["RED", "BLUE"]), field("note", json!(["null", "string"]), Some(Json::Null))];
        first[0]["doc"] = json!("Another.");
        let (_directory, contracts) = project(&[&first, &second], &json!({ "id": "a" }));
        let history = history(contracts.get("it.happened").unwrap());
        assert_eq!(history[0], Changes { version: 1, changes: vec![] });
        assert_eq!(
            history[1].changes,
            [
                "`id`: described anew",
                "`colour`: type was RED, is RED | BLUE",
                "added `note`: string or null, null when left out",
                "removed `gone`: int",
            ]
        );
    }
}
