//! A schema that a client sent: is it Avro, is it the same as another, may it follow the earlier ones?

use super::answer::Refusal;
use super::store::Registered;
use apache_avro::Schema;
use millrace_schemas::compatibility::{Mode, check};
use serde::Deserialize;
use serde_json::Value;

pub(super) struct Submitted {
    /// As it was sent.
    pub text: String,
    /// Its JSON without spaces, keys sorted: two texts with the same are one schema.
    pub canonical: String,
    schema: Schema,
}

#[derive(Deserialize)]
struct Request {
    schema: String,
    #[serde(rename = "schemaType")]
    schema_type: Option<String>,
    references: Option<Vec<Value>>,
}

impl Submitted {
    pub fn parse(body: &[u8]) -> Result<Self, Refusal> {
        let request: Request = serde_json::from_slice(body).map_err(|error| Refusal::not_json(&error))?;
        if let Some(kind) = request.schema_type.filter(|kind| kind != "AVRO") {
            return Err(Refusal::invalid_schema(format!("it says it is {kind}, only AVRO is kept here")));
        }
        if request.references.is_some_and(|references| !references.is_empty()) {
            return Err(Refusal::invalid_schema("references are not supported: put the types into one schema"));
        }
        let schema = Schema::parse_str(&request.schema).map_err(Refusal::invalid_schema)?;
        let canonical = canonical(&request.schema).map_err(Refusal::invalid_schema)?;
        Ok(Self { text: request.schema, canonical, schema })
    }

    /// What keeps it from following those versions, which are all of a subject's, oldest first.
    pub fn incompatible(&self, level: Mode, earlier: &[Registered]) -> Result<Vec<String>, Refusal> {
        let schemas = earlier.iter().map(Registered::parse).collect::<Result<Vec<_>, _>>()?;
        let found = check(level, &self.schema, &schemas.iter().collect::<Vec<_>>());
        Ok(found.into_iter().map(|found| format!("{} [{}]: {}", found.path, found.rule, found.message)).collect())
    }
}

impl Registered {
    fn parse(&self) -> Result<Schema, Refusal> {
        let Self { subject, version, .. } = self;
        Schema::parse_str(&self.schema).map_err(|error| {
            Refusal::damaged(format!("version {version} of `{subject}` is not Avro any more: {error}"))
        })
    }
}

/// A bare name such as `string`, without quotes, is a schema too.
fn canonical(text: &str) -> Result<String, serde_json::Error> {
    let mut json: Value = serde_json::from_str(text)?;
    json.sort_all_objects();
    serde_json::to_string(&json)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parse(schema: &str) -> Submitted {
        Submitted::parse(json!({ "schema": schema }).to_string().as_bytes()).unwrap()
    }

    #[test]
    fn spaces_and_the_order_of_attributes_make_no_other_schema_and_words_do() {
        let one = parse(r#"{"type":"record","name":"A","fields":[{"name":"x","type":"int","doc":"d"}]}"#);
        let same =
            parse(r#"{ "name": "A", "type": "record", "fields": [ {"doc": "d", "type": "int", "name": "x"} ] }"#);
        let other = parse(r#"{"type":"record","name":"A","fields":[{"name":"x","type":"int","doc":"e"}]}"#);
        assert_eq!(one.canonical, same.canonical);
        assert_ne!(one.canonical, other.canonical);
    }

    #[test]
    fn what_is_no_avro_is_refused() {
        let bodies = [
            json!({ "schema": "{" }),
            json!({ "schema": r#"{"type":"record"}"# }),
            json!({ "schema": "\"string\"", "schemaType": "PROTOBUF" }),
            json!({ "schema": "\"string\"", "references": [{"name": "a", "subject": "b", "version": 1}] }),
            json!({ "scheme": "\"string\"" }),
        ];
        for body in bodies {
            assert!(Submitted::parse(body.to_string().as_bytes()).is_err(), "{body}");
        }
    }
}
