//! What lies in the log, as AsyncAPI 3.0: a channel for each topic, a message for each event type. For those who read
//! it; how to publish is the OpenAPI document's.

use super::EXAMPLE_ID;
use millrace_schemas::{Contract, Contracts};
use serde_json::{Map, Value as Json, json};

pub(super) fn document(contracts: &Contracts) -> Json {
    let topics = contracts.topics();
    let of_topic = |topic: &String| contracts.iter().filter(|contract| contract.topic == *topic).collect::<Vec<_>>();
    let channels: Map<_, _> = topics.keys().map(|topic| (topic.clone(), channel(topic, &of_topic(topic)))).collect();
    let operations: Map<_, _> = topics.keys().map(|topic| (format!("read.{topic}"), operation(topic))).collect();
    let messages: Map<_, _> =
        contracts.iter().map(|contract| (contract.event_type.clone(), message(contract))).collect();
    json!({
        "asyncapi": "3.0.0",
        "info": { "title": "Millrace events", "version": "1", "description": ABOUT },
        "defaultContentType": "application/avro",
        "channels": channels,
        "operations": operations,
        "components": { "messages": messages },
    })
}

const ABOUT: &str = "Every topic, and the events in it: Avro in Confluent's wire format (`0x00`, four bytes of schema \
    id, the datum), with CloudEvents attributes as headers. All events of one key lie in one partition, in order. One \
    event may lie there twice, under one `ce_id`.";

fn channel(topic: &str, contracts: &[&std::sync::Arc<Contract>]) -> Json {
    let messages: Map<_, _> = contracts
        .iter()
        .map(|contract| {
            (contract.event_type.clone(), json!({ "$ref": format!("#/components/messages/{}", contract.event_type) }))
        })
        .collect();
    let cleanup = contracts.first().map(|contract| contract.cleanup.to_string());
    json!({
        "address": topic,
        "messages": messages,
        "bindings": { "kafka": { "topic": topic, "topicConfiguration": { "cleanup.policy": [cleanup] } } },
    })
}

fn operation(topic: &str) -> Json {
    json!({
        "action": "receive",
        "channel": { "$ref": format!("#/channels/{topic}") },
        "summary": format!("Read {topic}."),
    })
}

fn message(contract: &Contract) -> Json {
    let schema: Json = serde_json::from_str(&contract.newest().text).unwrap_or_default(); // contracts are JSON
    let key = contract.json_schema()["properties"][&contract.key].clone();
    json!({
        "name": contract.event_type,
        "title": contract.newest().record().name.name(),
        "summary": contract.doc(),
        "contentType": "application/avro",
        "headers": headers(contract),
        "payload": { "schemaFormat": "application/vnd.apache.avro+json;version=1.9.0", "schema": schema },
        "bindings": { "kafka": {
            "key": key,
            "schemaIdLocation": "payload",
            "schemaIdPayloadEncoding": "confluent",
            "schemaLookupStrategy": "TopicRecordNameStrategy",
        } },
        "examples": [{ "name": "example", "headers": example_headers(contract), "payload": contract.example }],
    })
}

fn headers(contract: &Contract) -> Json {
    let text = |doc: &str| json!({ "type": "string", "description": doc });
    json!({
        "type": "object",
        "properties": {
            "ce_specversion": { "type": "string", "const": "1.0" },
            "ce_id": { "type": "string", "format": "uuid", "description": "The event's identity everywhere." },
            "ce_source": text("Who published it."),
            "ce_type": { "type": "string", "const": contract.event_type },
            "ce_subject": text("The record's key."),
            "ce_time": { "type": "string", "format": "date-time", "description": "When it happened." },
            "ce_recordedtime": { "type": "string", "format": "date-time", "description": "When it was taken in." },
            "ce_dataschema": text("Where the registry has its schema."),
            "ce_partitionkey": text("The record's key."),
            "ce_correlationid": text("What it belongs to."),
            "ce_causationid": text("What led to it."),
            "traceparent": text("W3C Trace Context."),
            "tracestate": text("W3C Trace Context."),
            "content-type": { "type": "string", "const": "application/avro" },
        },
        "required": ["ce_specversion", "ce_id", "ce_source", "ce_type", "ce_subject", "ce_time"],
    })
}

fn example_headers(contract: &Contract) -> Json {
    json!({
        "ce_specversion": "1.0",
        "ce_id": EXAMPLE_ID,
        "ce_source": "/example",
        "ce_type": contract.event_type,
        "ce_subject": contract.example[&contract.key],
        "ce_time": "2026-01-01T00:00:00Z",
        "content-type": "application/avro",
    })
}
