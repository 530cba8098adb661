//! From Avro types to ClickHouse columns. Knows types, names and defaults; knows no server and no event.
//!
//! An array of records becomes one array per field (`lines.product_id`, `lines.quantity`), ClickHouse's
//! nested style, rather than `Array(Tuple)`: a field added to the record later is then one `ADD COLUMN`
//! like any other, where a tuple would have to be rewritten. Analysts lose nothing: `array join lines as
//! line` and `line.quantity` read the same either way.

use super::row;
use apache_avro::Schema;
use apache_avro::schema::{Name, NamesRef, RecordField, RecordSchema, ResolvedSchema};
use apache_avro::types::Value;
use std::fmt;

/// A ClickHouse type, as far as contracts need them. Its text is exactly what the server calls it.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum ColumnType {
    Bool,
    Int32,
    Int64,
    Float32,
    Float64,
    String,
    /// An enum's symbol; what else a writer may send is the default.
    Symbol {
        symbols: Vec<String>,
        default: Option<String>,
    },
    Uuid,
    Date32,
    Micros,
    Millis,
    Decimal {
        precision: usize,
        scale: usize,
    },
    LowCardinality(Box<ColumnType>),
    Nullable(Box<ColumnType>),
    Array(Box<ColumnType>),
    Map(Box<ColumnType>),
}

impl fmt::Display for ColumnType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool => f.write_str("Bool"),
            Self::Int32 => f.write_str("Int32"),
            Self::Int64 => f.write_str("Int64"),
            Self::Float32 => f.write_str("Float32"),
            Self::Float64 => f.write_str("Float64"),
            Self::String | Self::Symbol { .. } => f.write_str("String"),
            Self::Uuid => f.write_str("UUID"),
            Self::Date32 => f.write_str("Date32"),
            Self::Micros => f.write_str("DateTime64(6, 'UTC')"),
            Self::Millis => f.write_str("DateTime64(3, 'UTC')"),
            Self::Decimal { precision, scale } => write!(f, "Decimal({precision}, {scale})"),
            Self::LowCardinality(inner) => write!(f, "LowCardinality({inner})"),
            Self::Nullable(inner) => write!(f, "Nullable({inner})"),
            Self::Array(items) => write!(f, "Array({items})"),
            Self::Map(values) => write!(f, "Map(String, {values})"),
        }
    }
}

impl ColumnType {
    fn nullable(self) -> Self {
        match self {
            // ClickHouse has no null arrays and maps: null is empty there.
            already @ (Self::Nullable(_) | Self::Array(_) | Self::Map(_)) => already,
            Self::LowCardinality(inner) => Self::LowCardinality(Box::new(inner.nullable())),
            other => Self::Nullable(Box::new(other)),
        }
    }
}

/// A column that comes out of an event's body, and the way to it.
#[derive(Debug, Clone)]
pub(super) struct Field {
    /// `total`, `address_city`, `lines.quantity`.
    pub name: String,
    pub doc: String,
    /// The type of one value, without the arrays that surround it.
    pub leaf: ColumnType,
    pub path: Vec<PathStep>,
    /// What rows written before the column existed read, where that is not the type's own default.
    pub default_sql: Option<String>,
    /// The column that holds the id of whose personal data this is.
    pub pii: Option<String>,
}

/// One step from a record to a column's value.
#[derive(Debug, Clone)]
pub(super) enum PathStep {
    Field {
        name: String,
        /// What the contract gives a writer that does not know the field yet: this column's bytes from here on.
        default: Option<Vec<u8>>,
    },
    Each,
}

impl Field {
    /// The column's whole type.
    pub fn column_type(&self) -> ColumnType {
        let arrays = self.path.iter().filter(|step| matches!(step, PathStep::Each)).count();
        (0..arrays).fold(self.leaf.clone(), |inner, _| ColumnType::Array(Box::new(inner)))
    }
}

/// The columns of a record's fields, nested ones flattened, in the contract's order.
///
/// # Errors
/// Which field has no column type, and why.
pub(super) fn fields(schema: &Schema) -> Result<Vec<Field>, String> {
    let resolved = ResolvedSchema::new(schema).map_err(|error| error.to_string())?;
    let Schema::Record(record) = schema else { return Err("the contract is not a record".into()) };
    let mut walk = Walk { root: schema, names: resolved.get_names(), open: Vec::new(), fields: Vec::new() };
    walk.nested(record, &Place::default())?;
    Ok(walk.fields)
}

/// Follows a reference to the named type it stands for.
pub(super) fn follow<'s>(schema: &'s Schema, names: &NamesRef<'s>) -> Result<&'s Schema, String> {
    match schema {
        Schema::Ref { name } => names.get(name).copied().ok_or_else(|| format!("type {name} is not defined")),
        other => Ok(other),
    }
}

/// `[null, T]` in either order is a T that may be null. Other unions have no column type.
pub(super) fn strip_null<'s>(schema: &'s Schema, names: &NamesRef<'s>) -> Result<(&'s Schema, bool), String> {
    let Schema::Union(union) = follow(schema, names)? else { return Ok((follow(schema, names)?, false)) };
    match union.variants() {
        [Schema::Null, other] | [other, Schema::Null] => Ok((follow(other, names)?, true)),
        _ => Err("a union is null and one other type, nothing else: use an enum or several fields".into()),
    }
}

/// Where in the contract the walk is.
#[derive(Clone, Default)]
struct Place {
    /// `lines.` or `address_`.
    prefix: String,
    nullable: bool,
    path: Vec<Ancestor>,
    /// Where the columns of the innermost array of records start.
    array: Option<usize>,
    /// The mark of the innermost field that has one: a record marked as a whole is personal in all its columns.
    pii: Option<String>,
}

#[derive(Clone)]
enum Ancestor {
    Field { name: String, index: usize, default: Option<Value> },
    Each,
}

struct Walk<'s> {
    root: &'s Schema,
    names: &'s NamesRef<'s>,
    /// The records being walked: one within itself would have endless columns.
    open: Vec<&'s Name>,
    fields: Vec<Field>,
}

impl<'s> Walk<'s> {
    fn record(&mut self, fields: &'s [RecordField], place: &Place) -> Result<(), String> {
        for (index, field) in fields.iter().enumerate() {
            self.field(field, index, place).map_err(|error| match error.starts_with("field `") {
                true => error,
                false => format!("field `{}{}`: {error}", place.prefix, field.name),
            })?;
        }
        Ok(())
    }

    fn field(&mut self, field: &'s RecordField, index: usize, place: &Place) -> Result<(), String> {
        let name = format!("{}{}", place.prefix, field.name);
        let (schema, null) = strip_null(&field.schema, self.names)?;
        let mut inside = place.clone();
        inside.nullable |= null;
        inside.path.push(Ancestor::Field { name: field.name.clone(), index, default: self.default(field)? });
        let mark = field.custom_attributes.get("pii").and_then(|mark| mark.as_str());
        inside.pii = mark.map(str::to_owned).or(inside.pii);
        match schema {
            Schema::Record(record) => {
                inside.prefix = format!("{name}_");
                self.nested(record, &inside)
            }
            Schema::Array(array) => match strip_null(&array.items, self.names)? {
                (Schema::Record(record), null) => {
                    inside.prefix = format!("{name}.");
                    inside.nullable = null;
                    inside.path.push(Ancestor::Each);
                    inside.array = Some(self.fields.len());
                    self.nested(record, &inside)
                }
                _ => self.leaf(name, field, schema, &inside),
            },
            _ => self.leaf(name, field, schema, &inside),
        }
    }

    fn nested(&mut self, record: &'s RecordSchema, inside: &Place) -> Result<(), String> {
        let name = &record.name;
        if self.open.contains(&name) {
            return Err(format!("record {name} contains itself, which no table can"));
        }
        if record.fields.is_empty() {
            return Err(format!("record {name} has no fields, hence no columns"));
        }
        self.open.push(name);
        self.record(&record.fields, inside)?;
        self.open.pop();
        Ok(())
    }

    fn leaf(&mut self, name: String, field: &RecordField, schema: &'s Schema, place: &Place) -> Result<(), String> {
        let mut leaf = self.column_type(schema)?;
        let wants_few = field.custom_attributes.get("low_cardinality") == Some(&serde_json::Value::Bool(true));
        if wants_few && leaf == ColumnType::String {
            leaf = ColumnType::LowCardinality(Box::new(leaf));
        }
        if place.nullable {
            leaf = leaf.nullable();
        }
        let path = steps(&place.path, &leaf)?;
        let default_sql = self.default_sql(&place.path, place.array)?;
        let (doc, pii) = (field.doc.clone().unwrap_or_default(), place.pii.clone());
        self.fields.push(Field { name, doc, leaf, path, default_sql, pii });
        Ok(())
    }

    fn column_type(&self, schema: &'s Schema) -> Result<ColumnType, String> {
        Ok(match schema {
            Schema::Boolean => ColumnType::Bool,
            Schema::Int => ColumnType::Int32,
            Schema::Long => ColumnType::Int64,
            Schema::Float => ColumnType::Float32,
            Schema::Double => ColumnType::Float64,
            Schema::String | Schema::Bytes | Schema::Fixed(_) => ColumnType::String,
            Schema::Enum(symbols) => ColumnType::LowCardinality(Box::new(ColumnType::Symbol {
                symbols: symbols.symbols.clone(),
                default: symbols.default.clone(),
            })),
            Schema::Uuid(_) => ColumnType::Uuid,
            Schema::Date => ColumnType::Date32,
            Schema::TimestampMicros => ColumnType::Micros,
            Schema::TimestampMillis => ColumnType::Millis,
            Schema::Decimal(decimal) if decimal.precision <= DECIMAL_DIGITS_MAX => {
                ColumnType::Decimal { precision: decimal.precision, scale: decimal.scale }
            }
            Schema::Decimal(decimal) => {
                return Err(format!("a decimal has at most {DECIMAL_DIGITS_MAX} digits, not {}", decimal.precision));
            }
            Schema::Array(array) => ColumnType::Array(Box::new(self.item_type(&array.items)?)),
            Schema::Map(map) => ColumnType::Map(Box::new(self.item_type(&map.types)?)),
            other => return Err(format!("{} has no column type", kind(other))),
        })
    }

    fn item_type(&self, schema: &'s Schema) -> Result<ColumnType, String> {
        let (schema, null) = strip_null(schema, self.names)?;
        let item = self.column_type(schema)?;
        Ok(if null { item.nullable() } else { item })
    }

    /// The contract's default, as a value of the field's type.
    fn default(&self, field: &RecordField) -> Result<Option<Value>, String> {
        let Some(json) = &field.default else { return Ok(None) };
        let value = Value::try_from(json.clone()).and_then(|value| match value {
            Value::Null => Ok(Value::Null), // resolving needs no help, and unions may list null second
            value => value.resolve_schemata(&field.schema, vec![self.root]),
        });
        value.map(Some).map_err(|error| format!("its default does not fit its type: {error}"))
    }

    /// Rows older than a column read its innermost default; within arrays, one for each item there is.
    fn default_sql(&self, path: &[Ancestor], array: Option<usize>) -> Result<Option<String>, String> {
        let Some(Ancestor::Field { default: Some(default), .. }) = path.last() else { return Ok(None) };
        let Some(literal) = literal(default)? else { return Ok(None) };
        match array.map(|first| self.fields.get(first)) {
            None => Ok(Some(literal)),
            Some(None) => Ok(None), // the array's first column: older rows have no items
            Some(Some(sibling)) if path.iter().filter(|step| matches!(step, Ancestor::Each)).count() == 1 => {
                Ok(Some(format!("arrayMap(item -> {literal}, {})", quote(&sibling.name))))
            }
            Some(Some(_)) => Err("a default other than null, inside arrays of arrays, has no column default".into()),
        }
    }
}

/// What fits 128 bits, hence plain arithmetic.
const DECIMAL_DIGITS_MAX: usize = 38;

fn kind(schema: &Schema) -> &'static str {
    match schema {
        Schema::Null => "null alone",
        Schema::Record(_) => "a record inside a map or an array of arrays",
        Schema::BigDecimal => "big-decimal (use decimal with precision and scale)",
        Schema::TimeMillis | Schema::TimeMicros => "a time of day (use a long in milliseconds)",
        Schema::TimestampNanos => "timestamp-nanos (use timestamp-micros)",
        Schema::LocalTimestampMillis | Schema::LocalTimestampMicros | Schema::LocalTimestampNanos => {
            "a local timestamp (use timestamp-micros, in UTC)"
        }
        Schema::Duration(_) => "duration (use a long in milliseconds)",
        _ => "this type",
    }
}

/// The path, each step with the column's bytes for a writer that does not know the field.
fn steps(path: &[Ancestor], leaf: &ColumnType) -> Result<Vec<PathStep>, String> {
    let step = |(at, ancestor): (usize, &Ancestor)| match ancestor {
        Ancestor::Each => Ok(PathStep::Each),
        Ancestor::Field { name, default, .. } => {
            let rest = path[at + 1..].iter().map(in_the_contract).collect::<Vec<_>>();
            let encode = |value: &Value| {
                let mut bytes = Vec::new();
                row::encode(&rest, leaf, value, &mut bytes).map_err(|error| format!("its default: {error}"))?;
                Ok::<_, String>(bytes)
            };
            Ok(PathStep::Field { name: name.clone(), default: default.as_ref().map(encode).transpose()? })
        }
    };
    path.iter().enumerate().map(step).collect()
}

fn in_the_contract(ancestor: &Ancestor) -> row::Step {
    match ancestor {
        Ancestor::Each => row::Step::Each,
        Ancestor::Field { index, .. } => row::Step::Field(*index),
    }
}

/// A default as SQL; none where it is what the column's type gives anyway.
fn literal(value: &Value) -> Result<Option<String>, String> {
    Ok(Some(match value {
        Value::Union(_, inner) => return literal(inner),
        Value::Null => return Ok(None),
        Value::Array(items) if items.is_empty() => return Ok(None),
        Value::Map(entries) if entries.is_empty() => return Ok(None),
        Value::Boolean(value) => value.to_string(),
        Value::Int(value) => value.to_string(),
        Value::Long(value) => value.to_string(),
        Value::Float(value) if value.is_finite() => format!("{value:?}"),
        Value::Double(value) if value.is_finite() => format!("{value:?}"),
        Value::String(text) | Value::Enum(_, text) => text_literal(text),
        Value::Uuid(id) => text_literal(&id.to_string()),
        Value::Date(days) => format!("addDays(toDate32('1970-01-01'), {days})"),
        Value::TimestampMicros(at) => format!("fromUnixTimestamp64Micro({at}, 'UTC')"),
        Value::TimestampMillis(at) => format!("fromUnixTimestamp64Milli({at}, 'UTC')"),
        _ => return Err("a default of this type has no column default: use null or an empty one".into()),
    }))
}

/// A name in SQL. Names come from validated contracts; they are quoted all the same.
pub(super) fn quote(name: &str) -> String {
    format!("`{}`", name.replace('\\', "\\\\").replace('`', "\\`"))
}

/// A text in SQL: comments and defaults out of contracts, never data.
pub(super) fn text_literal(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns(fields: &str) -> Result<Vec<String>, String> {
        let schema = format!(r#"{{"type": "record", "name": "R", "fields": [{fields}]}}"#);
        let fields = super::fields(&Schema::parse_str(&schema).unwrap())?;
        Ok(fields.iter().map(|field| format!("{} {}", field.name, field.column_type())).collect())
    }

    fn column(avro: &str) -> Result<String, String> {
        let columns = columns(&format!(r#"{{"name": "x", "type": {avro}}}"#))?;
        Ok(columns.join(", "))
    }

    #[test]
    fn every_avro_type_has_the_column_the_design_says() {
        let cases = [
            (r#""boolean""#, "x Bool"),
            (r#""int""#, "x Int32"),
            (r#""long""#, "x Int64"),
            (r#""float""#, "x Float32"),
            (r#""double""#, "x Float64"),
            (r#""string""#, "x String"),
            (r#""bytes""#, "x String"),
            (r#"["null", "long"]"#, "x Nullable(Int64)"),
            (r#"["string", "null"]"#, "x Nullable(String)"),
            (r#"{"type": "string", "logicalType": "uuid"}"#, "x UUID"),
            (r#"{"type": "int", "logicalType": "date"}"#, "x Date32"),
            (r#"{"type": "long", "logicalType": "timestamp-micros"}"#, "x DateTime64(6, 'UTC')"),
            (r#"{"type": "bytes", "logicalType": "decimal", "precision": 10, "scale": 2}"#, "x Decimal(10, 2)"),
            (r#"{"type": "enum", "name": "E", "symbols": ["A"], "default": "A"}"#, "x LowCardinality(String)"),
            (r#"["null", {"type": "enum", "name": "E", "symbols": ["A"]}]"#, "x LowCardinality(Nullable(String))"),
            (r#"{"type": "array", "items": "string"}"#, "x Array(String)"),
            (r#"["null", {"type": "array", "items": ["null", "int"]}]"#, "x Array(Nullable(Int32))"),
            (r#"{"type": "map", "values": "double"}"#, "x Map(String, Float64)"),
        ];
        for (avro, expected) in cases {
            assert_eq!(column(avro).as_deref(), Ok(expected), "{avro}");
        }
    }

    #[test]
    fn a_field_marked_so_is_low_cardinality() {
        let columns = columns(r#"{"name": "x", "type": ["null", "string"], "default": null, "low_cardinality": true}"#);
        assert_eq!(columns.unwrap(), ["x LowCardinality(Nullable(String))"]);
    }

    #[test]
    fn nested_records_are_flattened_and_arrays_of_records_become_parallel_arrays() {
        let money = r#"{"type": "record", "name": "Money", "fields": [{"name": "amount", "type": "long"}]}"#;
        let line = r#"{"type": "record", "name": "Line", "fields": [{"name": "price", "type": "Money"},
            {"name": "tags", "type": {"type": "array", "items": "string"}}]}"#;
        let nested = columns(&format!(
            r#"{{"name": "total", "type": {money}}}, {{"name": "fee", "type": ["null", "Money"]}},
               {{"name": "lines", "type": {{"type": "array", "items": {line}}}}}"#
        ));
        assert_eq!(
            nested.unwrap(),
            [
                "total_amount Int64",
                "fee_amount Nullable(Int64)",
                "lines.price_amount Array(Int64)",
                "lines.tags Array(Array(String))"
            ]
        );
    }

    #[test]
    fn what_has_no_column_type_is_refused_by_name() {
        let cases = [
            (r#"["null", "int", "string"]"#, "field `x`: a union is null and one other type"),
            (r#"{"type": "int", "logicalType": "time-millis"}"#, "field `x`: a time of day (use a long"),
            (r#"{"type": "bytes", "logicalType": "decimal", "precision": 40}"#, "field `x`: a decimal has at most 38"),
            (r#"["null", "R"]"#, "contains itself"),
        ];
        for (avro, expected) in cases {
            let error = column(avro).unwrap_err();
            assert!(error.contains(expected), "{avro}: {error}");
        }
    }

    #[test]
    fn rows_older_than_a_column_read_the_contracts_default() {
        let schema = r#"{"type": "record", "name": "R", "fields": [
            {"name": "a", "type": {"type": "enum", "name": "E", "symbols": ["ITS"]}, "default": "ITS"},
            {"name": "b", "type": ["null", "long"], "default": null},
            {"name": "lines", "type": {"type": "array", "items": {"type": "record", "name": "L", "fields": [
                {"name": "id", "type": "int"}, {"name": "tax", "type": "long", "default": 7}]}}}]}"#;
        let fields = super::fields(&Schema::parse_str(schema).unwrap()).unwrap();
        let defaults: Vec<_> = fields.iter().map(|field| field.default_sql.as_deref()).collect();
        assert_eq!(defaults, [Some("'ITS'"), None, None, Some("arrayMap(item -> 7, `lines.id`)")]);
        assert_eq!(text_literal(r"it's \"), r"'it\'s \\'");
    }
}
