//! Avro's JSON encoding (specification 1.12, "JSON Encoding") into values: how examples are written.

use apache_avro::Schema;
use apache_avro::types::Value;
use serde_json::Value as Json;

/// What does not fit, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {message}")]
pub struct JsonError {
    /// JSON path.
    pub path: String,
    pub message: String,
}

/// Reads one value of a schema without named references.
///
/// # Errors
/// The first place that does not fit.
pub fn value_from_json(schema: &Schema, json: &Json) -> Result<Value, JsonError> {
    read(schema, json, "$")
}

fn read(schema: &Schema, json: &Json, path: &str) -> Result<Value, JsonError> {
    let wrong =
        |wanted: &str| JsonError { path: path.to_owned(), message: format!("{wanted} was expected, found {json}") };
    Ok(match (schema, json) {
        (Schema::Null, Json::Null) => Value::Null,
        (Schema::Boolean, Json::Bool(value)) => Value::Boolean(*value),
        (Schema::String, Json::String(text)) => Value::String(text.clone()),
        _ => return Err(wrong("something else")),
    })
}
