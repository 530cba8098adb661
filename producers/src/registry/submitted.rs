//! A schema that a client sent: is it Avro, is it the same as another, may it follow the earlier ones?

use super::answer::Refusal;
use super::normal::normalized;
use super::said;
use super::store::Registered;
use apache_avro::Schema;
use millrace_schemas::compatibility::{Mode, check};
use millrace_schemas::with_references;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What Confluent's registry keeps with a schema. Who sends it must not believe that it counts here.
const NOT_KEPT: &[&str] = &["metadata", "ruleSet", "schemaTagsToAdd", "schemaTagsToRemove"];
/// More than any schema uses; each is looked up.
const REFERENCES_MAX: usize = 100;

/// A name that the schema uses, and the version that defines it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Reference {
    pub name: String,
    pub subject: String,
    pub version: i32,
}

/// What a client sent.
#[derive(Deserialize)]
pub(super) struct Request {
    schema: String,
    #[serde(rename = "schemaType")]
    schema_type: Option<String>,
    references: Option<Vec<Reference>>,
}

pub(super) struct Submitted {
    /// As it was sent, or as it is normally written.
    pub text: String,
    pub references: Vec<Reference>,
    /// With what it refers to in it; none where it refers to nothing.
    pub resolved: Option<String>,
    /// Its JSON without spaces, keys sorted, and its references: two with the same are one schema.
    pub canonical: String,
    /// Whether the client asked for it to be compared as it is normally written.
    pub normal: bool,
    schema: Schema,
}

impl Request {
    pub fn parse(body: &[u8]) -> Result<Self, Refusal> {
        let body: Value = serde_json::from_slice(body).map_err(|error| Refusal::not_json(&error))?;
        if let Some(name) = said(&body, NOT_KEPT) {
            return Err(Refusal::invalid_schema(format!("`{name}` is not kept here, leave it out")));
        }
        let request: Self = serde_json::from_value(body).map_err(|error| Refusal::not_json(&error))?;
        if let Some(kind) = request.schema_type.as_ref().filter(|kind| *kind != "AVRO") {
            return Err(Refusal::invalid_schema(format!("it says it is {kind}, only AVRO is kept here")));
        }
        if request.references().len() > REFERENCES_MAX {
            return Err(Refusal::invalid_schema(format!("it has more than {REFERENCES_MAX} references")));
        }
        Ok(request)
    }

    pub fn references(&self) -> &[Reference] {
        self.references.as_deref().unwrap_or_default()
    }

    /// `referenced` has the schema of each reference, by its name.
    pub fn resolve(self, referenced: &[(String, String)], normal: bool) -> Result<Submitted, Refusal> {
        let Self { mut schema, references, .. } = self;
        let references = references.unwrap_or_default();
        if normal {
            schema = as_normally_written(&schema).map_err(Refusal::invalid_schema)?;
        }
        let resolved = match references.is_empty() {
            true => None,
            false => Some(with_references(&schema, referenced).map_err(Refusal::invalid_schema)?),
        };
        let parsed = Schema::parse_str(resolved.as_ref().unwrap_or(&schema)).map_err(Refusal::invalid_schema)?;
        let canonical = canonical(&schema, &references).map_err(Refusal::invalid_schema)?;
        Ok(Submitted { text: schema, references, resolved, canonical, normal, schema: parsed })
    }
}

impl Submitted {
    /// What keeps it from following those versions, which are all of a subject's, oldest first.
    pub fn incompatible(&self, level: Mode, earlier: &[Registered]) -> Result<Vec<String>, Refusal> {
        let schemas = earlier.iter().map(Registered::parse).collect::<Result<Vec<_>, _>>()?;
        let found = check(level, &self.schema, &schemas.iter().collect::<Vec<_>>());
        Ok(found.into_iter().map(|found| format!("{} [{}]: {}", found.path, found.rule, found.message)).collect())
    }

    /// Whether a version is this schema, written in another way.
    pub fn is_normally(&self, registered: &Registered) -> bool {
        self.references == registered.references
            && as_normally_written(&registered.schema)
                .and_then(|text| canonical(&text, &registered.references))
                .is_ok_and(|canonical| canonical == self.canonical)
    }
}

impl Registered {
    fn parse(&self) -> Result<Schema, Refusal> {
        let Self { subject, version, .. } = self;
        Schema::parse_str(self.resolved()).map_err(|error| {
            Refusal::damaged(format!("version {version} of `{subject}` is not Avro any more: {error}"))
        })
    }
}

fn as_normally_written(text: &str) -> Result<String, serde_json::Error> {
    let mut json = normalized(serde_json::from_str(text)?);
    json.sort_all_objects();
    serde_json::to_string(&json)
}

/// A bare name such as `string`, without quotes, is a schema too.
fn canonical(text: &str, references: &[Reference]) -> Result<String, serde_json::Error> {
    let mut json: Value = serde_json::from_str(text)?;
    json.sort_all_objects();
    let schema = serde_json::to_string(&json)?;
    match references {
        [] => Ok(schema),
        references => Ok(format!("{schema} {}", serde_json::to_string(references)?)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parse(body: &Value, normal: bool) -> Result<Submitted, Refusal> {
        Request::parse(body.to_string().as_bytes())?.resolve(&[], normal)
    }

    fn schema(text: &str) -> Submitted {
        parse(&json!({ "schema": text }), false).unwrap()
    }

    #[test]
    fn spaces_and_the_order_of_attributes_make_no_other_schema_and_words_do() {
        let one = schema(r#"{"type":"record","name":"A","fields":[{"name":"x","type":"int","doc":"d"}]}"#);
        let same =
            schema(r#"{ "name": "A", "type": "record", "fields": [ {"doc": "d", "type": "int", "name": "x"} ] }"#);
        let other = schema(r#"{"type":"record","name":"A","fields":[{"name":"x","type":"int","doc":"e"}]}"#);
        assert_eq!(one.canonical, same.canonical);
        assert_ne!(one.canonical, other.canonical);
    }

    #[test]
    fn the_same_in_other_words_is_the_same_where_it_is_asked_for() {
        let [one, other] = ["\"int\"", "{\"type\": \"int\"}"].map(|text| json!({ "schema": text }));
        let canonical = |body, normal| parse(body, normal).unwrap().canonical;
        assert_eq!(canonical(&one, true), canonical(&other, true));
        assert_ne!(canonical(&one, false), canonical(&other, false));
    }

    #[test]
    fn what_is_no_avro_is_refused() {
        let reference = json!({ "name": "a.B", "subject": "b", "version": 1 });
        let bodies = [
            json!({ "schema": "{" }),
            json!({ "schema": r#"{"type":"record"}"# }),
            json!({ "schema": "\"string\"", "schemaType": "PROTOBUF" }),
            json!({ "schema": "\"a.B\"", "references": [] }),
            json!({ "schema": "\"string\"", "references": vec![reference; REFERENCES_MAX + 1] }),
            json!({ "scheme": "\"string\"" }),
            json!({ "schema": "\"string\"", "ruleSet": { "domainRules": [{ "name": "r" }] } }),
            json!({ "schema": "\"string\"", "metadata": { "properties": { "owner": "us" } } }),
        ];
        for body in bodies {
            assert!(parse(&body, false).is_err(), "{body}");
        }
    }

    #[test]
    fn what_says_nothing_is_as_if_it_were_not_there() {
        let body =
            json!({ "schema": "\"string\"", "schemaType": null, "references": null, "ruleSet": null, "metadata": {} });
        assert!(parse(&body, false).is_ok());
    }
}
