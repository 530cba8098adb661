//! A schema without the ways in which the same thing can be written differently: `normalize=true` in Confluent's API.

use serde_json::{Map, Value};

/// Full names, no namespaces; `{"type": "int"}` as `"int"`; nothing that says what goes without saying.
pub(super) fn normalized(schema: Value) -> Value {
    kind(schema, "")
}

fn kind(schema: Value, namespace: &str) -> Value {
    match schema {
        Value::String(name) => full_name(&name, namespace).into(),
        Value::Array(branches) => branches.into_iter().map(|branch| kind(branch, namespace)).collect(),
        Value::Object(object) => of_object(object, namespace),
        other => other,
    }
}

fn of_object(mut object: Map<String, Value>, namespace: &str) -> Value {
    let mut inner = namespace.to_owned();
    let named = object.get("name").and_then(Value::as_str).map(str::to_owned);
    if let Some(name) = named {
        let own = object.shift_remove("namespace");
        let full = full_name(&name, own.as_ref().and_then(Value::as_str).unwrap_or(namespace));
        inner = full.rsplit_once('.').map_or("", |(namespace, _)| namespace).to_owned();
        object.insert("name".to_owned(), full.into());
    }
    drop_empty(&mut object);
    for part in ["items", "values", "type"] {
        replace(&mut object, part, &inner);
    }
    if let Some(Value::Array(fields)) = object.get_mut("fields") {
        for field in fields.iter_mut().filter_map(Value::as_object_mut) {
            drop_empty(field);
            if field.get("order").is_some_and(|order| order == "ascending") {
                field.shift_remove("order");
            }
            replace(field, "type", &inner);
        }
    }
    match object.get("type") {
        Some(only) if object.len() == 1 => only.clone(),
        _ => object.into(),
    }
}

fn drop_empty(object: &mut Map<String, Value>) {
    object.retain(|name, value| name != "aliases" || *value != Value::Array(Vec::new()));
}

fn replace(object: &mut Map<String, Value>, part: &str, namespace: &str) {
    if let Some(part) = object.get_mut(part) {
        *part = kind(part.take(), namespace);
    }
}

/// The names of Avro's own types stay as they are.
fn full_name(name: &str, namespace: &str) -> String {
    const OWN: &[&str] = &[
        "null", "boolean", "int", "long", "float", "double", "bytes", "string", "record", "error", "enum", "fixed",
        "array", "map",
    ];
    let stays = name.contains('.') || namespace.is_empty() || OWN.contains(&name);
    if stays { name.to_owned() } else { format!("{namespace}.{name}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn two_ways_to_write_one_schema_become_one() {
        let one = json!({ "type": "record", "name": "A", "namespace": "n", "aliases": [], "fields": [
            { "name": "x", "type": { "type": "int" }, "order": "ascending" },
            { "name": "y", "type": ["null", { "type": "fixed", "name": "F", "size": 1 }] },
            { "name": "z", "type": { "type": "array", "items": "F" } } ] });
        let other = json!({ "type": "record", "name": "n.A", "fields": [
            { "name": "x", "type": "int" },
            { "name": "y", "type": ["null", { "type": "fixed", "name": "n.F", "size": 1 }] },
            { "name": "z", "type": { "type": "array", "items": "n.F" } } ] });
        assert_eq!(normalized(one), other);
        assert_eq!(normalized(other.clone()), other);
        let words = json!({ "type": "string", "logicalType": "uuid" });
        assert_eq!(normalized(words.clone()), words);
    }
}
