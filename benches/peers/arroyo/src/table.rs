//! Where the events of a schema go: found once by the schema's id, then kept.

use anyhow::Context;
use apache_avro::Schema;
use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::schema::RecordSchema;
use serde_json::Value as Json;

/// What is known of every event, after its own fields.
const ENVELOPE: [&str; 10] = [
    "event_id",
    "occurred_at",
    "subject",
    "source",
    "trace_id",
    "_topic",
    "_partition",
    "_offset",
    "_recorded_at",
    "_schema_id",
];

pub struct Table {
    /// `insert into … format RowBinary`
    pub statement: String,
    pub reader: GenericDatumReader<'static>,
    /// How each field of the record is laid out.
    pub fields: Vec<Field>,
}

pub enum Field {
    Plain,
    /// An array of records of so many fields: a column each.
    Nested(usize),
}

impl Table {
    pub async fn of(registry: &str, database: &str, schema_id: u32) -> anyhow::Result<Self> {
        let url = format!("{registry}/schemas/ids/{schema_id}");
        let answer: Json = reqwest::get(url).await?.error_for_status()?.json().await?;
        let text = answer["schema"].as_str().context("the registry answered without a schema")?;
        let event_type = serde_json::from_str::<Json>(text)?["millrace"]["type"].as_str().map(str::to_owned);
        let name = event_type.context("the schema names no event type")?.replace('.', "_");
        // There are few schemas, and each is needed until the end.
        let schema: &'static Schema = Box::leak(Box::new(Schema::parse_str(text)?));
        let Schema::Record(record) = schema else { anyhow::bail!("schema {schema_id} is not a record's") };
        let columns = [columns(record), ENVELOPE.map(str::to_owned).to_vec()].concat();
        let columns: Vec<String> = columns.iter().map(|column| format!("`{column}`")).collect();
        Ok(Self {
            statement: format!("insert into {database}.{name} ({}) format RowBinary", columns.join(", ")),
            reader: GenericDatumReader::builder(schema).build()?,
            fields: record.fields.iter().map(|field| nested(&field.schema).map_or(Field::Plain, Field::of)).collect(),
        })
    }
}

impl Field {
    fn of(item: &RecordSchema) -> Self {
        Self::Nested(item.fields.len())
    }
}

fn columns(record: &RecordSchema) -> Vec<String> {
    let mut columns = Vec::new();
    for field in &record.fields {
        match nested(&field.schema) {
            Some(item) => columns.extend(item.fields.iter().map(|inner| format!("{}.{}", field.name, inner.name))),
            None => columns.push(field.name.clone()),
        }
    }
    columns
}

fn nested(schema: &Schema) -> Option<&RecordSchema> {
    let Schema::Array(array) = schema else { return None };
    let Schema::Record(item) = &*array.items else { return None };
    Some(item)
}
