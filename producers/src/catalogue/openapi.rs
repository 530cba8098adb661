//! The gateway's interface as OpenAPI 3.1: what it always is stands in `openapi.json`, each contract's part is added.
//!
//! What the two say and what the gateway does are held together by a test that sees every documented answer.

use super::event;
use crate::gateway::cloudevent::{ATTRIBUTE_BYTES_MAX, BATCH_EVENTS_MAX, NAMES};
use crate::gateway::statuses;
use millrace_schemas::{Contract, Contracts};
use serde_json::{Map, Value as Json, json};

const INTERFACE: &str = include_str!("openapi.json");

pub(super) fn document(contracts: &Contracts) -> Json {
    let mut document: Json = serde_json::from_str(INTERFACE).unwrap_or_default(); // a test reads it
    let types: Vec<&str> = contracts.iter().map(|contract| contract.event_type.as_str()).collect();
    let components = &mut document["components"];
    components["parameters"]["Type"]["schema"]["enum"] = json!(types);
    let schemas = &mut components["schemas"];
    schemas["Verdict"]["properties"]["status"]["enum"] = json!(statuses());
    schemas["Event"] = any_event(contracts);
    schemas["Batch"] = json!({ "type": "array", "maxItems": BATCH_EVENTS_MAX, "items": reference("Event") });
    schemas["Data"] = any_data(contracts);
    schemas["event.avro"] = avro_event(&types);
    for contract in contracts.iter() {
        schemas[event_name(contract)] = one_event(contract);
        schemas[data_name(contract)] = contract.json_schema();
    }
    let publish = &mut document["paths"]["/v1/events"]["post"];
    if let Some(parameters) = publish["parameters"].as_array_mut() {
        parameters.extend(headers());
    }
    add_examples(&mut publish["requestBody"]["content"], contracts);
    document
}

fn event_name(contract: &Contract) -> String {
    format!("event.{}", contract.event_type)
}

fn data_name(contract: &Contract) -> String {
    format!("data.{}", contract.event_type)
}

fn reference(name: &str) -> Json {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

fn any_event(contracts: &Contracts) -> Json {
    let by_type = contracts.iter().map(|contract| reference(&event_name(contract)));
    json!({
        "description": "One event, with its data in JSON or as an Avro datum.",
        "oneOf": by_type.chain([reference("event.avro")]).collect::<Vec<_>>(),
    })
}

fn any_data(contracts: &Contracts) -> Json {
    let by_type: Vec<Json> = contracts.iter().map(|contract| reference(&data_name(contract))).collect();
    json!({ "description": "The data of the type that `ce-type` names.", "anyOf": by_type })
}

fn one_event(contract: &Contract) -> Json {
    let mut properties = attributes();
    properties.insert("type".into(), json!({ "const": contract.event_type }));
    let kind = json!({ "type": "string", "enum": ["application/json"] });
    properties.insert("datacontenttype".into(), kind);
    properties.insert("data".into(), reference(&data_name(contract)));
    json!({
        "type": "object",
        "title": contract.event_type,
        "description": contract.doc(),
        "properties": properties,
        "required": ["specversion", "id", "source", "type", "data"],
        "additionalProperties": false,
    })
}

fn avro_event(types: &[&str]) -> Json {
    let mut properties = attributes();
    properties.insert("type".into(), json!({ "type": "string", "enum": types }));
    properties.insert("datacontenttype".into(), json!({ "type": "string", "enum": ["application/avro"] }));
    let datum = "An Avro datum of the type's newest version, or of the one that `dataschema` names.";
    let data = json!({ "type": "string", "contentEncoding": "base64", "description": datum });
    properties.insert("data_base64".into(), data);
    json!({
        "type": "object",
        "title": "An event whose data is Avro",
        "properties": properties,
        "required": ["specversion", "id", "source", "type", "datacontenttype", "data_base64"],
        "additionalProperties": false,
    })
}

/// Without those that tell of the data.
fn attributes() -> Map<String, Json> {
    let others = NAMES.iter().filter(|name| !["type", "datacontenttype"].contains(name));
    others.map(|name| ((*name).to_owned(), attribute(name))).collect()
}

fn attribute(name: &str) -> Json {
    let text = |doc: &str| json!({ "type": "string", "maxLength": ATTRIBUTE_BYTES_MAX, "description": doc });
    let mut schema = text(match name {
        "specversion" => "Of CloudEvents.",
        "id" => "The event's identity everywhere, best a UUIDv7; the same when it is sent again.",
        "source" => "Who publishes.",
        "type" => "Names the contract.",
        "time" => "When it happened, from 1970 until a day from now; without one the UUIDv7 tells it.",
        "subject" | "partitionkey" => "The event's key, or nothing: it is taken from the data.",
        "datacontenttype" => "Of the data.",
        "dataschema" => "The registry's `…/schemas/ids/<id>` of another version than the newest.",
        "correlationid" => "What the event belongs to.",
        "causationid" => "What led to it.",
        "traceparent" | "tracestate" => "W3C Trace Context; else the request's own.",
        _ => "",
    });
    match name {
        "specversion" => schema["enum"] = json!(["1.0"]),
        "id" => schema["format"] = json!("uuid"),
        "source" => schema["minLength"] = json!(1),
        "time" => schema["format"] = json!("date-time"),
        _ => {}
    }
    schema
}

/// In binary mode attributes are headers.
fn headers() -> impl Iterator<Item = Json> {
    // `content-type` is `datacontenttype` there.
    let names = NAMES.iter().filter(|name| **name != "datacontenttype");
    names.map(|name| {
        let mut schema = attribute(name);
        let doc = schema.as_object_mut().and_then(|schema| schema.remove("description")).unwrap_or_default();
        let doc = format!("Binary mode only: {}", doc.as_str().unwrap_or_default());
        json!({ "name": format!("ce-{name}"), "in": "header", "required": false, "description": doc, "schema": schema })
    })
}

/// One of each type: whoever looks for a type finds how to write it.
fn add_examples(content: &mut Json, contracts: &Contracts) {
    let examples = |value: &dyn Fn(&Contract) -> Json| {
        let example = |contract: &Contract| (contract.event_type.clone(), json!({ "value": value(contract) }));
        contracts.iter().map(|contract| example(contract)).collect::<Map<_, _>>()
    };
    content["application/cloudevents+json"]["examples"] = examples(&event).into();
    content["application/cloudevents-batch+json"]["examples"] = examples(&|contract| json!([event(contract)])).into();
    content["application/json"]["examples"] = examples(&Contract::plain_example).into();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reference_leads_somewhere() {
        let document = document(&Contracts::embedded().unwrap());
        let text = document.to_string();
        let references = text.split("\"$ref\":\"#").skip(1).map(|rest| rest.split('"').next().unwrap());
        let mut seen = 0;
        for pointer in references {
            assert!(document.pointer(pointer).is_some(), "{pointer}");
            seen += 1;
        }
        assert!(seen > 50, "{seen}");
    }

    #[test]
    fn every_attribute_says_what_it_is() {
        for name in NAMES {
            assert_ne!(attribute(name)["description"], "", "{name}");
        }
    }
}
