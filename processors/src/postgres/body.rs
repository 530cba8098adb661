//! An event's fields, by name and type. It knows nothing of any event.
//!
//! Projections ask for the few fields they need and skip the rest. A struct for serde would be the obvious
//! way, but the Avro library (0.22) can't pass over an enum or a nested record that the struct leaves out,
//! and wants every struct to bear its record's name.

use apache_avro::types::Value;
use millrace_schemas::WriterSchema;
use millrace_stream::{Reason, Reject};
use uuid::Uuid;

pub struct Body(Vec<(String, Value)>);

impl Body {
    /// # Errors
    /// When the bytes don't follow their schema.
    pub fn read(writer: &WriterSchema, datum: &[u8]) -> Result<Self, Reject> {
        match writer.decode(datum) {
            Ok(Value::Record(fields)) => Ok(Self(fields)),
            Ok(_) => Err(undecodable(format!("schema {} is not a record's", writer.id))),
            Err(error) => Err(undecodable(error.to_string())),
        }
    }

    pub fn id(&self, field: &str) -> Result<Uuid, Reject> {
        self.optional_id(field)?.ok_or_else(|| wrong(field, "an id"))
    }

    /// `None` where the field is null.
    pub fn optional_id(&self, field: &str) -> Result<Option<Uuid>, Reject> {
        match self.value(field)? {
            Value::Uuid(id) => Ok(Some(*id)),
            Value::Null => Ok(None),
            _ => Err(wrong(field, "an id")),
        }
    }

    pub fn long(&self, field: &str) -> Result<i64, Reject> {
        match self.value(field)? {
            Value::Long(number) => Ok(*number),
            _ => Err(wrong(field, "a long")),
        }
    }

    pub fn text(&self, field: &str) -> Result<&str, Reject> {
        match self.value(field)? {
            Value::String(text) => Ok(text),
            _ => Err(wrong(field, "a string")),
        }
    }

    /// Whatever union it stands in.
    fn value(&self, field: &str) -> Result<&Value, Reject> {
        match self.0.iter().find(|(name, _)| name == field) {
            Some((_, Value::Union(_, value))) => Ok(value),
            Some((_, value)) => Ok(value),
            None => Err(undecodable(format!("the event has no field `{field}`"))),
        }
    }
}

fn wrong(field: &str, wanted: &str) -> Reject {
    undecodable(format!("`{field}` is not {wanted}"))
}

fn undecodable(error: String) -> Reject {
    Reject::new(Reason::Undecodable, error)
}
