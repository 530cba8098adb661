//! Can one schema read what another wrote? Avro's schema resolution, asked of two schemas. Never reads data.

use apache_avro::Schema;
use apache_avro::schema::{Alias, DecimalSchema, EnumSchema, FixedSchema, InnerDecimalSchema, Name};
use apache_avro::schema::{RecordField, RecordSchema, ResolvedSchema, UnionSchema, UuidSchema};
use std::collections::HashSet;
use std::fmt;
use std::str::FromStr;

/// Why a reader can't read all that a writer writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Incompatibility {
    /// JSON path such as `$.fields[3].type`: in the reader's schema, or in the new one where versions are checked.
    pub path: String,
    /// Its short, stable name.
    pub rule: &'static str,
    pub message: String,
    /// Which of the earlier versions it is about, by its place among them, where versions are checked.
    pub earlier: Option<usize>,
}

/// What a new version must be able to do, in the words of Confluent's registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    None,
    Backward,
    BackwardTransitive,
    Forward,
    ForwardTransitive,
    Full,
    FullTransitive,
}

impl FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(match text {
            "NONE" => Self::None,
            "BACKWARD" => Self::Backward,
            "BACKWARD_TRANSITIVE" => Self::BackwardTransitive,
            "FORWARD" => Self::Forward,
            "FORWARD_TRANSITIVE" => Self::ForwardTransitive,
            "FULL" => Self::Full,
            "FULL_TRANSITIVE" => Self::FullTransitive,
            other => return Err(format!("`{other}` is no compatibility mode")),
        })
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "NONE",
            Self::Backward => "BACKWARD",
            Self::BackwardTransitive => "BACKWARD_TRANSITIVE",
            Self::Forward => "FORWARD",
            Self::ForwardTransitive => "FORWARD_TRANSITIVE",
            Self::Full => "FULL",
            Self::FullTransitive => "FULL_TRANSITIVE",
        })
    }
}

/// Everything that keeps the reader from reading what the writer writes; empty when it can.
pub fn can_read(reader: &Schema, writer: &Schema) -> Vec<Incompatibility> {
    let differences = resolve(reader, writer).into_iter();
    let found = differences.map(|Difference { reader: path, rule, message, .. }| Incompatibility {
        path,
        rule,
        message,
        earlier: None,
    });
    found.collect()
}

/// `earlier` oldest first: messages count them from 1. Paths are in the new schema.
pub fn check(mode: Mode, new: &Schema, earlier: &[&Schema]) -> Vec<Incompatibility> {
    let mut found = Vec::new();
    let skip = if mode.is_transitive() { 0 } else { earlier.len().saturating_sub(1) };
    for (index, old) in earlier.iter().enumerate().skip(skip) {
        let (number, earlier) = (index + 1, Some(index));
        if mode.is_backward() {
            found.extend(resolve(new, old).into_iter().map(|Difference { reader: path, rule, message, .. }| {
                let message = format!("can't read what version {number} wrote: {message}");
                Incompatibility { path, rule, message, earlier }
            }));
        }
        if mode.is_forward() {
            found.extend(resolve(old, new).into_iter().map(|Difference { writer: path, rule, message, .. }| {
                let message = format!("version {number} can't read what this one writes: {message}");
                Incompatibility { path, rule, message, earlier }
            }));
        }
    }
    found
}

impl Mode {
    fn is_backward(self) -> bool {
        matches!(self, Self::Backward | Self::BackwardTransitive | Self::Full | Self::FullTransitive)
    }

    fn is_forward(self) -> bool {
        matches!(self, Self::Forward | Self::ForwardTransitive | Self::Full | Self::FullTransitive)
    }

    fn is_transitive(self) -> bool {
        matches!(self, Self::BackwardTransitive | Self::ForwardTransitive | Self::FullTransitive)
    }
}

/// What a type is called: logical types by their own name, unions with null by the other type's.
pub(crate) fn kind(schema: &Schema) -> &'static str {
    match schema {
        Schema::Union(union) => match union.variants() {
            [Schema::Null, other] | [other, Schema::Null] => kind(other),
            _ => "union",
        },
        Schema::Decimal(_) => "decimal",
        Schema::BigDecimal => "big-decimal",
        Schema::Uuid(_) => "uuid",
        Schema::Date => "date",
        Schema::TimeMillis => "time-millis",
        Schema::TimeMicros => "time-micros",
        Schema::TimestampMillis => "timestamp-millis",
        Schema::TimestampMicros => "timestamp-micros",
        Schema::TimestampNanos => "timestamp-nanos",
        Schema::LocalTimestampMillis => "local-timestamp-millis",
        Schema::LocalTimestampMicros => "local-timestamp-micros",
        Schema::LocalTimestampNanos => "local-timestamp-nanos",
        Schema::Duration(_) => "duration",
        other => base(other),
    }
}

/// What it is on the wire.
pub(crate) fn base(schema: &Schema) -> &'static str {
    use Schema::{LocalTimestampMicros, LocalTimestampMillis, LocalTimestampNanos};
    use Schema::{TimeMicros, TimestampMicros, TimestampMillis, TimestampNanos};
    if fixed(schema).is_some() {
        return "fixed";
    }
    match schema {
        Schema::Null => "null",
        Schema::Boolean => "boolean",
        Schema::Int | Schema::Date | Schema::TimeMillis => "int",
        Schema::Long | TimeMicros | TimestampMillis | TimestampMicros | TimestampNanos => "long",
        LocalTimestampMillis | LocalTimestampMicros | LocalTimestampNanos => "long",
        Schema::Float => "float",
        Schema::Double => "double",
        Schema::String | Schema::Uuid(UuidSchema::String) => "string",
        Schema::Bytes | Schema::Decimal(_) | Schema::BigDecimal | Schema::Uuid(_) => "bytes",
        Schema::Array(_) => "array",
        Schema::Map(_) => "map",
        Schema::Union(_) => "union",
        Schema::Record(_) => "record",
        Schema::Enum(_) => "enum",
        Schema::Fixed(_) | Schema::Duration(_) => "fixed",
        Schema::Ref { .. } => "reference",
    }
}

/// What has a fixed length on the wire.
pub(crate) fn fixed(schema: &Schema) -> Option<&FixedSchema> {
    match schema {
        Schema::Fixed(fixed) | Schema::Duration(fixed) | Schema::Uuid(UuidSchema::Fixed(fixed)) => Some(fixed),
        Schema::Decimal(DecimalSchema { inner: InnerDecimalSchema::Fixed(fixed), .. }) => Some(fixed),
        _ => None,
    }
}

/// A place, as each side calls it.
#[derive(Clone)]
struct Place {
    reader: String,
    writer: String,
}

impl Place {
    fn below(&self, part: &str) -> Self {
        self.at(part, part)
    }

    fn at(&self, reader: &str, writer: &str) -> Self {
        Self { reader: format!("{}{reader}", self.reader), writer: format!("{}{writer}", self.writer) }
    }
}

struct Difference {
    reader: String,
    writer: String,
    rule: &'static str,
    message: String,
}

fn resolve(reader: &Schema, writer: &Schema) -> Vec<Difference> {
    let root = Place { reader: "$".to_owned(), writer: "$".to_owned() };
    let mut found = Vec::new();
    match (ResolvedSchema::new(reader), ResolvedSchema::new(writer)) {
        (Ok(readers), Ok(writers)) => {
            let mut resolution = Resolution { readers, writers, seen: HashSet::new(), found };
            resolution.compare(reader, writer, &root);
            found = resolution.found;
        }
        (Err(error), _) | (_, Err(error)) => {
            let Place { reader, writer } = root;
            found.push(Difference { reader, writer, rule: "reference", message: error.to_string() });
        }
    }
    found
}

struct Resolution<'a> {
    readers: ResolvedSchema<'a>,
    writers: ResolvedSchema<'a>,
    /// Pairs of records already compared: recursive types end here, and each pair is compared once.
    seen: HashSet<(&'a Name, &'a Name)>,
    found: Vec<Difference>,
}

/// Avro 1.12, "Schema Resolution", case by case.
impl<'a> Resolution<'a> {
    fn compare(&mut self, reader: &'a Schema, writer: &'a Schema, place: &Place) {
        let (reader, writer) = (named(&self.readers, reader), named(&self.writers, writer));
        match (reader, writer) {
            (_, Schema::Union(writer)) => {
                for (index, branch) in writer.variants().iter().enumerate() {
                    self.compare(reader, branch, &place.at("", &format!("[{index}]")));
                }
            }
            (Schema::Union(union), _) => match self.branch(union, writer) {
                Some((index, branch)) => self.compare(branch, writer, &place.at(&format!("[{index}]"), "")),
                None => self.differ(place, "union", format!("no branch of the union takes {}", described(writer))),
            },
            (Schema::Record(reader), Schema::Record(writer)) => self.records(reader, writer, place),
            (Schema::Enum(reader), Schema::Enum(writer)) => self.enums(reader, writer, place),
            (Schema::Array(reader), Schema::Array(writer)) => {
                self.compare(&reader.items, &writer.items, &place.below(".items"));
            }
            (Schema::Map(reader), Schema::Map(writer)) => {
                self.compare(&reader.types, &writer.types, &place.below(".values"));
            }
            _ => self.leaves(reader, writer, place),
        }
    }

    fn differ(&mut self, place: &Place, rule: &'static str, message: String) {
        let Place { reader, writer } = place.clone();
        self.found.push(Difference { reader, writer, rule, message });
    }

    /// The one of the same full name, or that once had it, else the first that is the same type, else the first that
    /// the value can be promoted to.
    fn branch(&self, union: &'a UnionSchema, writer: &Schema) -> Option<(usize, &'a Schema)> {
        let branches = || union.variants().iter().map(|branch| named(&self.readers, branch)).enumerate();
        let same = || branches().filter(|(_, branch)| base(branch) == base(writer) && is_called(branch, writer));
        let very_same = same().find(|(_, branch)| branch.name() == writer.name());
        very_same
            .or_else(|| same().find(|(_, branch)| was_called(branch, writer)))
            .or_else(|| same().next())
            .or_else(|| branches().find(|(_, branch)| promotes(base(writer), base(branch))))
    }

    fn records(&mut self, reader: &'a RecordSchema, writer: &'a RecordSchema, place: &Place) {
        if !self.seen.insert((&reader.name, &writer.name)) {
            return;
        }
        if !names_match(&reader.name, reader.aliases.as_ref(), &writer.name) {
            self.names_differ(&reader.name, &writer.name, place);
        }
        for (index, field) in reader.fields.iter().enumerate() {
            let here = format!(".fields[{index}]");
            match written(field, &writer.fields)[..] {
                [(there, other)] => {
                    let place = place.at(&format!("{here}.type"), &format!(".fields[{there}].type"));
                    self.compare(&field.schema, &other.schema, &place);
                }
                [(_, one), (_, other), ..] => {
                    let message = format!("`{}` and `{}` are both written, and `{}`", one.name, other.name, field.name);
                    self.differ(&place.at(&here, ""), "alias", format!("{message} can be but one of them"));
                }
                [] if field.default.is_some() => {}
                [] => {
                    let message = format!("the field `{}` is not written and has no default to stand in", field.name);
                    self.differ(&place.at(&here, ""), "missing-default", message);
                }
            }
        }
    }

    fn enums(&mut self, reader: &EnumSchema, writer: &EnumSchema, place: &Place) {
        if !names_match(&reader.name, reader.aliases.as_ref(), &writer.name) {
            self.names_differ(&reader.name, &writer.name, place);
        }
        let unknown: Vec<_> = writer.symbols.iter().filter(|symbol| !reader.symbols.contains(symbol)).collect();
        if reader.default.is_none() && !unknown.is_empty() {
            let unknown = unknown.iter().map(|symbol| format!("`{symbol}`")).collect::<Vec<_>>().join(", ");
            let message = format!("the enum does not know {unknown} and has no default to stand in");
            self.differ(&place.below(".symbols"), "enum-symbols", message);
        }
    }

    fn leaves(&mut self, reader: &Schema, writer: &Schema, place: &Place) {
        let (from, to) = (base(writer), base(reader));
        if from != to && !promotes(from, to) {
            let message = format!("{} can't become {}", described(writer), described(reader));
            return self.differ(place, "type", message);
        }
        if let (Some(reader), Some(writer)) = (fixed(reader), fixed(writer)) {
            if !names_match(&reader.name, reader.aliases.as_ref(), &writer.name) {
                self.names_differ(&reader.name, &writer.name, place);
            }
            if reader.size != writer.size {
                let message = format!("{} bytes are written, {} are read", writer.size, reader.size);
                self.differ(&place.below(".size"), "fixed-size", message);
            }
        }
        if let (Schema::Decimal(reader), Schema::Decimal(writer)) = (reader, writer) {
            let [read, written] = [reader, writer].map(|decimal| (decimal.precision, decimal.scale));
            if read != written {
                let message = format!("decimal{written:?} is written, decimal{read:?} is read (precision, scale)");
                self.differ(place, "decimal", message);
            }
        } else if kind(reader) != kind(writer) && kind(reader) != to && kind(writer) != from {
            // The specification resolves the types beneath, and so would misread milliseconds as microseconds.
            let message = format!("{} would be misread as {}", kind(writer), kind(reader));
            self.differ(place, "logical-type", message);
        }
    }

    fn names_differ(&mut self, reader: &Name, writer: &Name, place: &Place) {
        let message = format!("`{}` is written, `{}` is read", writer.fullname(None), reader.fullname(None));
        self.differ(&place.below(".name"), "name", message);
    }
}

/// What a reference stands for.
pub(crate) fn named<'a>(names: &ResolvedSchema<'a>, schema: &'a Schema) -> &'a Schema {
    match schema {
        Schema::Ref { name } => names.get_names().get(name).copied().unwrap_or(schema),
        other => other,
    }
}

/// The fields that the writer has for this one: of its name, or of one that it had before. Avro's own libraries read
/// nothing where there are two.
fn written<'a>(field: &RecordField, writer: &'a [RecordField]) -> Vec<(usize, &'a RecordField)> {
    let is_it = |other: &RecordField| other.name == field.name || field.aliases.contains(&other.name);
    writer.iter().enumerate().filter(|(_, other)| is_it(other)).collect()
}

fn promotes(from: &str, to: &str) -> bool {
    match from {
        "int" => matches!(to, "long" | "float" | "double"),
        "long" => matches!(to, "float" | "double"),
        "float" => to == "double",
        "string" => to == "bytes",
        "bytes" => to == "string",
        _ => false,
    }
}

/// Unqualified names match; a reader's alias is another name for it.
fn names_match(reader: &Name, aliases: Option<&Vec<Alias>>, writer: &Name) -> bool {
    reader.name() == writer.name() || is_alias(reader, aliases, writer)
}

fn is_alias(reader: &Name, aliases: Option<&Vec<Alias>>, writer: &Name) -> bool {
    let is_it = |alias: &Alias| alias.fullname(reader.namespace()) == writer.fullname(None);
    aliases.is_some_and(|aliases| aliases.iter().any(is_it))
}

/// Only named types can be called something else.
fn is_called(branch: &Schema, writer: &Schema) -> bool {
    match (branch.name(), writer.name()) {
        (Some(reader), Some(writer)) => names_match(reader, branch.aliases(), writer),
        _ => true,
    }
}

fn was_called(branch: &Schema, writer: &Schema) -> bool {
    let names = branch.name().zip(writer.name());
    names.is_some_and(|(reader, writer)| is_alias(reader, branch.aliases(), writer))
}

fn described(schema: &Schema) -> String {
    match schema.name() {
        Some(name) => format!("{} {}", kind(schema), name.fullname(None)),
        None => kind(schema).to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With ' for ".
    fn schema(text: &str) -> Schema {
        Schema::parse_str(&text.replace('\'', "\"")).unwrap()
    }

    fn record(fields: &str) -> Schema {
        schema(&format!("{{'type': 'record', 'name': 'R', 'fields': [{fields}]}}"))
    }

    fn said(found: &[Incompatibility]) -> String {
        let lines = found.iter().map(|found| format!("{} [{}]: {}", found.path, found.rule, found.message));
        lines.collect::<Vec<_>>().join("\n")
    }

    const FIXED: &str = "{'type': 'fixed', 'name': 'F', 'size': 4}";
    const DECIMAL: &str = "{'type': 'bytes', 'logicalType': 'decimal', 'precision': 10, 'scale': 2}";
    const MICROS: &str = "{'type': 'long', 'logicalType': 'timestamp-micros'}";
    const ENUM: &str = "{'type': 'enum', 'name': 'E', 'symbols': ['A', 'B']}";
    const LIST: &str = "{'type': 'record', 'name': 'L', 'fields': [{'name': 'next', 'type': ['null', 'L']}]}";

    #[test]
    fn what_the_specification_lets_be_read_is_read() {
        let pairs = [
            ("'long'", "'int'"),
            ("'double'", "'float'"),
            ("'bytes'", "'string'"),
            ("'string'", "{'type': 'string', 'logicalType': 'uuid'}"),
            ("'long'", MICROS),
            ("['null', 'int']", "'int'"),
            ("['null', 'long']", "['int', 'null']"),
            ("'int'", "['int']"),
            ("{'type': 'array', 'items': 'double'}", "{'type': 'array', 'items': 'long'}"),
            ("{'type': 'map', 'values': ['null', 'string']}", "{'type': 'map', 'values': 'string'}"),
            ("{'type': 'enum', 'name': 'E', 'symbols': ['A'], 'default': 'A'}", ENUM),
            ("{'type': 'enum', 'name': 'N', 'aliases': ['E'], 'symbols': ['B', 'A']}", ENUM),
            (FIXED, FIXED),
            (
                "[{'type': 'fixed', 'name': 'm.F', 'size': 5}, {'type': 'fixed', 'name': 'n.F', 'size': 4}]",
                "{'type': 'fixed', 'name': 'n.F', 'size': 4}",
            ),
            (
                "[{'type': 'fixed', 'name': 'n.F', 'size': 5}, {'type': 'fixed', 'name': 'n.G', 'aliases': ['m.F'], 'size': 4}]",
                "{'type': 'fixed', 'name': 'm.F', 'size': 4}",
            ),
            (DECIMAL, DECIMAL),
            (LIST, LIST),
        ];
        for (reader, writer) in pairs {
            assert_eq!(said(&can_read(&schema(reader), &schema(writer))), "", "{reader} reading {writer}");
        }
    }

    #[test]
    fn what_can_not_be_read_is_said_with_its_place() {
        let pairs = [
            ("'int'", "'long'", "$ [type]: long can't become int"),
            ("'int'", "['null', 'int']", "$ [type]: null can't become int"),
            ("['null', 'string']", "'int'", "$ [union]: no branch of the union takes int"),
            (
                "{'type': 'array', 'items': 'int'}",
                "{'type': 'array', 'items': 'string'}",
                "$.items [type]: string can't become int",
            ),
            (
                "{'type': 'map', 'values': 'int'}",
                "{'type': 'array', 'items': 'int'}",
                "$ [type]: array can't become map",
            ),
            (
                "{'type': 'enum', 'name': 'E', 'symbols': ['A']}",
                ENUM,
                "$.symbols [enum-symbols]: the enum does not know `B` and has no default to stand in",
            ),
            (
                "{'type': 'enum', 'name': 'N', 'symbols': ['A', 'B']}",
                ENUM,
                "$.name [name]: `E` is written, `N` is read",
            ),
            (
                "{'type': 'fixed', 'name': 'F', 'size': 5}",
                FIXED,
                "$.size [fixed-size]: 4 bytes are written, 5 are read",
            ),
            (
                "{'type': 'bytes', 'logicalType': 'decimal', 'precision': 10, 'scale': 3}",
                DECIMAL,
                "$ [decimal]: decimal(10, 2) is written, decimal(10, 3) is read (precision, scale)",
            ),
            (
                "{'type': 'long', 'logicalType': 'timestamp-millis'}",
                MICROS,
                "$ [logical-type]: timestamp-micros would be misread as timestamp-millis",
            ),
            (
                "{'type': 'record', 'name': 'R', 'fields': [{'name': 'a', 'type': 'int', 'aliases': ['b']}]}",
                "{'type': 'record', 'name': 'R', 'fields': [{'name': 'a', 'type': 'int'}, {'name': 'b', 'type': 'int'}]}",
                "$.fields[0] [alias]: `a` and `b` are both written, and `a` can be but one of them",
            ),
            (
                "{'type': 'record', 'name': 'L', 'fields': [{'name': 'next', 'type': ['null', 'L']}, {'name': 'x', 'type': 'int'}]}",
                LIST,
                "$.fields[1] [missing-default]: the field `x` is not written and has no default to stand in",
            ),
        ];
        for (reader, writer, expected) in pairs {
            assert_eq!(said(&can_read(&schema(reader), &schema(writer))), expected, "{reader} reading {writer}");
        }
    }

    #[test]
    fn each_mode_looks_where_its_name_says() {
        let bare = record("{'name': 'a', 'type': 'int'}");
        let renamed = record("{'name': 'b', 'type': 'int', 'aliases': ['a']}");
        let wide = record("{'name': 'a', 'type': 'long'}, {'name': 'c', 'type': 'int'}");
        let rules = |mode: &str, new: &Schema, earlier: &[&Schema]| -> Vec<_> {
            let mode: Mode = mode.parse().unwrap();
            assert_eq!(mode.to_string().parse(), Ok(mode));
            check(mode, new, earlier).iter().map(|found| format!("{} {}", found.path, found.rule)).collect()
        };
        assert_eq!(rules("NONE", &wide, &[&bare]), [""; 0]);
        assert_eq!(rules("BACKWARD", &renamed, &[&bare]), [""; 0]);
        assert_eq!(rules("FORWARD", &renamed, &[&bare]), ["$ missing-default"]);
        assert_eq!(rules("BACKWARD", &wide, &[&bare]), ["$.fields[1] missing-default"]);
        assert_eq!(rules("FORWARD", &wide, &[&bare]), ["$.fields[0].type type"]);
        assert_eq!(rules("FULL", &wide, &[&bare]), ["$.fields[1] missing-default", "$.fields[0].type type"]);
        assert_eq!(rules("BACKWARD", &wide, &[&bare, &wide]), [""; 0]);
        assert_eq!(rules("BACKWARD_TRANSITIVE", &wide, &[&bare, &wide]), ["$.fields[1] missing-default"]);
        assert_eq!(rules("FORWARD_TRANSITIVE", &wide, &[&bare, &wide]), ["$.fields[0].type type"]);
        assert_eq!(rules("FULL_TRANSITIVE", &bare, &[&bare, &bare]), [""; 0]);
        assert_eq!("full".parse::<Mode>(), Err("`full` is no compatibility mode".to_owned()));
    }
}
