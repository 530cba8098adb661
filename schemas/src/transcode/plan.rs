//! A schema, ready to write by: names resolved, defaults encoded, limits known.

use crate::bounds;
use crate::compatibility::{base, fixed};
use crate::json::value_from_default;
use anyhow::{Context, bail};
use apache_avro::Schema;
use apache_avro::schema::{DecimalSchema, EnumSchema, RecordField, RecordSchema, UnionSchema, UuidSchema};
use apache_avro::writer::datum::GenericDatumWriter;
use std::ops::RangeInclusive;

pub(super) const DAYS: RangeInclusive<i64> = *bounds::DAYS.start() as i64..=*bounds::DAYS.end() as i64;
/// The same days, to their last microsecond.
pub(super) const MICROS: RangeInclusive<i64> = bounds::SECONDS.start * 1_000_000..=bounds::SECONDS.end * 1_000_000 - 1;
pub(super) const INTS: RangeInclusive<i64> = i32::MIN as i64..=i32::MAX as i64;
pub(super) const LONGS: RangeInclusive<i64> = i64::MIN..=i64::MAX;

/// No longer than any other attribute of an event.
pub(super) const KEY_BYTES_MAX: usize = 1024;

/// How a value is written.
#[derive(Debug)]
pub(super) enum Node {
    Null,
    Boolean,
    /// Int and long are written alike; so are days and microseconds.
    Integer {
        range: RangeInclusive<i64>,
        expected: &'static str,
    },
    Float,
    Double,
    Text {
        /// Neither empty nor long: it is what the log is ordered by, and stands in two headers of the record besides.
        key: bool,
    },
    Uuid,
    Enum(Vec<String>),
    Bytes {
        /// Of a fixed type.
        size: Option<usize>,
        /// Digits of a decimal.
        precision: Option<u32>,
    },
    Array(Box<Node>),
    Map(Box<Node>),
    Union(Union),
    Record(Record),
}

#[derive(Debug)]
pub(super) struct Union {
    pub branches: Vec<(Tag, Node)>,
}

/// How a union calls a branch.
pub(crate) type Tag = String;

#[derive(Debug)]
pub(super) struct Record {
    pub name: String,
    pub fields: Vec<Field>,
    /// Of the field whose text is the event's key.
    pub key: Option<usize>,
}

#[derive(Debug)]
pub(super) struct Field {
    pub name: String,
    pub node: Node,
    /// Encoded.
    pub default: Option<Vec<u8>>,
}

impl Record {
    pub fn root(schema: &RecordSchema, key: &str) -> anyhow::Result<Self> {
        let mut record = Self::compile(schema)?;
        let index = record.fields.iter().position(|field| field.name == key);
        let index = index.with_context(|| format!("the key `{key}` is not a field of {}", record.name))?;
        match &mut record.fields[index].node {
            Node::Text { key } => *key = true,
            Node::Uuid => {}
            _ => bail!("the key `{key}` of {} is not text", record.name),
        }
        record.key = Some(index);
        Ok(record)
    }

    fn compile(schema: &RecordSchema) -> anyhow::Result<Self> {
        let fields = schema.fields.iter().map(Field::compile).collect::<anyhow::Result<_>>()?;
        Ok(Self { name: schema.name.name().to_owned(), fields, key: None })
    }
}

impl Field {
    fn compile(field: &RecordField) -> anyhow::Result<Self> {
        let node = Node::compile(&field.schema).with_context(|| format!("field `{}`", field.name))?;
        let encoded = |default| -> anyhow::Result<Vec<u8>> {
            let value = value_from_default(&field.schema, default)?;
            Ok(GenericDatumWriter::builder(&field.schema).build()?.write_value_to_vec(value)?)
        };
        let default = field.default.as_ref().map(encoded).transpose();
        Ok(Self { name: field.name.clone(), node, default: default.context("the default")? })
    }
}

impl Node {
    fn compile(schema: &Schema) -> anyhow::Result<Self> {
        let integer = |range, expected| Ok(Self::Integer { range, expected });
        match schema {
            Schema::Uuid(UuidSchema::String) => Ok(Self::Uuid),
            Schema::Date => integer(DAYS, "days since 1970-01-01, within 1900-01-01 to 2299-12-31"),
            Schema::TimestampMicros => {
                integer(MICROS, "microseconds since 1970-01-01T00:00:00Z, within the years 1900 to 2299")
            }
            Schema::Enum(EnumSchema { symbols, .. }) => Ok(Self::Enum(symbols.clone())),
            Schema::Array(array) => Ok(Self::Array(Box::new(Self::compile(&array.items)?))),
            Schema::Map(map) => Ok(Self::Map(Box::new(Self::compile(&map.types)?))),
            Schema::Union(union) => Ok(Self::Union(Union::compile(union)?)),
            Schema::Record(record) => Ok(Self::Record(Record::compile(record)?)),
            Schema::BigDecimal => bail!("big-decimal is not in any contract: use decimal"),
            Schema::Ref { name } => bail!("refers to `{}`: contracts have no references", name.fullname(None)),
            other => match base(other) {
                "null" => Ok(Self::Null),
                "boolean" => Ok(Self::Boolean),
                "int" => integer(INTS, "an int (32 bits)"),
                "long" => integer(LONGS, "a long (64 bits)"),
                "float" => Ok(Self::Float),
                "double" => Ok(Self::Double),
                "string" => Ok(Self::Text { key: false }),
                _ => Ok(Self::bytes(other)),
            },
        }
    }

    fn bytes(schema: &Schema) -> Self {
        let precision = match schema {
            Schema::Decimal(DecimalSchema { precision, .. }) => u32::try_from(*precision).ok(),
            _ => None,
        };
        Self::Bytes { size: fixed(schema).map(|fixed| fixed.size), precision }
    }

    /// What an error says was expected.
    pub fn expected(&self) -> String {
        match self {
            Self::Null => "null".into(),
            Self::Boolean => "true or false".into(),
            Self::Integer { expected, .. } => (*expected).into(),
            Self::Float => "a finite number that a float (32 bits) holds".into(),
            Self::Double => "a finite number".into(),
            Self::Text { key: true } => format!("text of 1 to {KEY_BYTES_MAX} bytes: it is the key"),
            Self::Text { key: false } => "a string".into(),
            Self::Uuid => "a uuid".into(),
            Self::Enum(symbols) => format!("one of {}", symbols.join(", ")),
            Self::Bytes { size: Some(size), precision: None } => {
                format!("a string of {size} bytes, \\u0000 to \\u00ff")
            }
            Self::Bytes { size: None, precision: None } => "a string of bytes, \\u0000 to \\u00ff".into(),
            Self::Bytes { precision: Some(digits), .. } => {
                format!("a decimal of at most {digits} digits as a string of bytes, two's complement, big-endian")
            }
            Self::Array(_) => "an array".into(),
            Self::Map(_) => "an object".into(),
            Self::Union(union) => union.expected(),
            Self::Record(record) => format!("an object: {}", record.name),
        }
    }
}

impl Union {
    fn compile(union: &UnionSchema) -> anyhow::Result<Self> {
        let branch = |schema| Ok((tag(schema), Node::compile(schema)?));
        Ok(Self { branches: union.variants().iter().map(branch).collect::<anyhow::Result<_>>()? })
    }

    fn expected(&self) -> String {
        let branches = self.branches.iter().map(|(tag, node)| match node {
            Node::Null => node.expected(),
            _ => format!("{} ({tag})", node.expected()),
        });
        branches.collect::<Vec<_>>().join(" or ")
    }
}

/// How a union calls this branch.
pub(crate) fn tag(branch: &Schema) -> Tag {
    branch.name().map_or_else(|| base(branch).to_owned(), |name| name.fullname(None))
}
