//! A contract's JSON, read into what is to be written: named types, and the Rust type of each field.

use crate::write::identifier;
use serde_json::{Map, Value as Json};

pub(crate) struct Contract {
    /// `order.placed`.
    pub event_type: String,
    /// The event's own record, as Rust has it.
    pub name: String,
    /// Every record and enum, the event's own first.
    pub types: Vec<Named>,
}

/// Their names as Rust has them.
pub(crate) enum Named {
    Record { name: String, doc: String, fields: Vec<Field> },
    Enum { name: String, doc: String, symbols: Vec<String> },
}

pub(crate) struct Field {
    pub name: String,
    pub doc: String,
    /// Its type, as Rust has it: with the whole path, since the contract may have an `Option` or a `String` of its own.
    pub rust: String,
}

type Object = Map<String, Json>;

impl Contract {
    pub fn read(text: &str) -> Result<Self, String> {
        let json: Json = serde_json::from_str(text).map_err(|error| format!("no JSON: {error}"))?;
        let event_type = json.pointer("/millrace/type").and_then(Json::as_str).ok_or("`millrace.type` is missing")?;
        let top = json.as_object().filter(|top| top.get("type").is_some_and(|kind| kind == "record"));
        let mut types = Types::default();
        let name = types.record(top.ok_or("a contract is one Avro record")?)?;
        let mut types = types.0;
        types.reverse(); // a record stands behind those that it is made of
        Ok(Self { event_type: event_type.to_owned(), name, types })
    }
}

/// The named types that were met.
#[derive(Default)]
struct Types(Vec<Named>);

impl Types {
    /// Its name in Rust.
    fn record(&mut self, record: &Object) -> Result<String, String> {
        let name = identifier(&name(record)?);
        let fields = record.get("fields").and_then(Json::as_array).ok_or_else(|| format!("`{name}` has no fields"))?;
        let fields = fields.iter().map(|field| self.field(field)).collect::<Result<_, _>>()?;
        self.0.push(Named::Record { name: name.clone(), doc: doc(record), fields });
        Ok(name)
    }

    fn field(&mut self, field: &Json) -> Result<Field, String> {
        let field = field.as_object().ok_or("a field is an object")?;
        let name = name(field)?;
        let kind = field.get("type").ok_or_else(|| format!("field `{name}` has no type"))?;
        let rust = self.kind(kind).map_err(|what| format!("field `{name}`: {what}"))?;
        Ok(Field { name, doc: doc(field), rust })
    }

    fn kind(&mut self, kind: &Json) -> Result<String, String> {
        match kind {
            Json::String(name) => self.named(name, &Object::new()),
            Json::Array(branches) => self.union(branches),
            Json::Object(object) => match object.get("type") {
                Some(Json::String(name)) => self.named(name, object),
                Some(inner) => self.kind(inner),
                None => Err("a type without `type`".into()),
            },
            other => Err(format!("`{other}` is no type")),
        }
    }

    fn union(&mut self, branches: &[Json]) -> Result<String, String> {
        let others: Vec<&Json> = branches.iter().filter(|branch| *branch != "null").collect();
        match others[..] {
            [other] if branches.len() == 2 => Ok(format!("::core::option::Option<{}>", self.kind(other)?)),
            _ => Err("a union is of null and one other".into()),
        }
    }

    fn named(&mut self, kind: &str, object: &Object) -> Result<String, String> {
        let logical = object.get("logicalType").and_then(Json::as_str).unwrap_or_default();
        let number = |name: &str| object.get(name).and_then(Json::as_u64);
        let size = || number("size").ok_or_else(|| "a fixed type without `size`".to_owned());
        let scale = number("scale").unwrap_or_default();
        let rust = match (kind, logical) {
            ("string", "uuid") => "::uuid::Uuid".into(),
            ("int", "date") => "::millrace_client::avro::Date".into(),
            ("long", "timestamp-micros") => "::millrace_client::avro::Timestamp".into(),
            ("bytes", "decimal") => format!("::millrace_client::avro::Decimal<{scale}>"),
            ("fixed", "decimal") => format!("::millrace_client::avro::Decimal<{scale}, {}>", size()?),
            ("fixed", _) => format!("::millrace_client::avro::Fixed<{}>", size()?),
            ("bytes", _) => "::millrace_client::avro::Bytes".into(),
            ("null", _) => "()".into(),
            ("boolean", _) => "bool".into(),
            ("int", _) => "i32".into(),
            ("long", _) => "i64".into(),
            ("float", _) => "f32".into(),
            ("double", _) => "f64".into(),
            ("string", _) => "::std::string::String".into(),
            ("array", _) => format!("::std::vec::Vec<{}>", self.part(object, "items")?),
            ("map", _) => {
                let values = self.part(object, "values")?;
                format!("::std::collections::BTreeMap<::std::string::String, {values}>")
            }
            ("record", _) => self.record(object)?,
            ("enum", _) => self.enumeration(object)?,
            (other, _) => return Err(format!("`{other}` is no type")),
        };
        Ok(rust)
    }

    fn part(&mut self, object: &Object, of: &str) -> Result<String, String> {
        self.kind(object.get(of).ok_or_else(|| format!("`{of}` is missing"))?)
    }

    fn enumeration(&mut self, object: &Object) -> Result<String, String> {
        let name = identifier(&name(object)?);
        let symbols = object.get("symbols").and_then(Json::as_array);
        let symbols = symbols.and_then(|all| all.iter().map(|one| Some(one.as_str()?.to_owned())).collect());
        let symbols = symbols.ok_or_else(|| format!("`{name}` has no symbols"))?;
        self.0.push(Named::Enum { name: name.clone(), doc: doc(object), symbols });
        Ok(name)
    }
}

/// Without its namespace.
fn name(object: &Object) -> Result<String, String> {
    let name = object.get("name").and_then(Json::as_str).ok_or("a record, enum or field without a name")?;
    Ok(name.rsplit('.').next().unwrap_or(name).to_owned())
}

fn doc(object: &Object) -> String {
    object.get("doc").and_then(Json::as_str).unwrap_or_default().to_owned()
}
