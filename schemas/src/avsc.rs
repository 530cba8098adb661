//! One contract file: is it JSON, is it Avro, does it keep our rules? Never looks at another file.

use crate::contract::{Cleanup, ContractError, Version};
use crate::json::value_from_default;
use apache_avro::Schema;
use serde_json::{Map, Value as Json};
use std::collections::{BTreeMap, BTreeSet};

/// The `millrace` attribute of a contract.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Header {
    pub event_type: String,
    pub topic: String,
    pub key: String,
    pub cleanup: Cleanup,
    pub erases: Option<String>,
}

/// The broken rules of one file.
pub(crate) struct Faults<'a> {
    file: String,
    found: &'a mut Vec<ContractError>,
}

impl<'a> Faults<'a> {
    pub(crate) fn of(file: &str, found: &'a mut Vec<ContractError>) -> Self {
        Self { file: file.to_owned(), found }
    }

    pub(crate) fn add(&mut self, path: &str, rule: &'static str, message: impl Into<String>) {
        self.add_against(None, path, rule, message);
    }

    /// The same, of what doesn't follow an earlier version.
    pub(crate) fn add_against(
        &mut self,
        against: Option<u32>,
        path: &str,
        rule: &'static str,
        message: impl Into<String>,
    ) {
        let (file, path, message) = (self.file.clone(), path.to_owned(), message.into());
        self.found.push(ContractError { file, path, rule, message, against });
    }
}

const HEADER_ATTRIBUTES: &[&str] = &["type", "topic", "key", "cleanup", "erases"];
const RECORD_ATTRIBUTES: &[&str] = &["type", "name", "namespace", "doc", "aliases", "fields"];
const CONTRACT_ATTRIBUTES: &[&str] = &["type", "name", "namespace", "doc", "aliases", "fields", "millrace"];
const FIELD_ATTRIBUTES: &[&str] =
    &["name", "type", "doc", "default", "aliases", "order", "unit", "pii", "low_cardinality"];
const ENUM_ATTRIBUTES: &[&str] = &["type", "name", "namespace", "doc", "aliases", "symbols", "default"];
const FIXED_ATTRIBUTES: &[&str] =
    &["type", "name", "namespace", "doc", "aliases", "size", "logicalType", "precision", "scale"];
const PRIMITIVE_ATTRIBUTES: &[&str] = &["type", "logicalType", "precision", "scale"];
const PRIMITIVES: &[&str] = &["null", "boolean", "int", "long", "float", "double", "bytes", "string"];
const COMPLEX: &[&str] = &["record", "enum", "array", "map", "fixed"];
/// Those that have a column, and what they annotate. Another one would silently become what it annotates.
const LOGICAL_TYPES: &[(&str, &[&str])] = &[
    ("uuid", &["string", "fixed"]),
    ("date", &["int"]),
    ("timestamp-micros", &["long"]),
    ("decimal", &["bytes", "fixed"]),
];
/// Columns that every table has.
const RESERVED: &[&str] = &["event_id", "occurred_at", "recorded_at", "subject", "source", "trace_id"];
/// What Postgres takes as an identifier.
const COLUMN_CHARS_MAX: usize = 63;
/// Where these were found, the Avro library would only say the same without the place.
const AVRO_RULES: &[&str] = &["avro", "record", "enum", "default", "reference", "union"];

/// Reads a version; `None` when it can't be compared with others.
pub(crate) fn read(
    event_type: &str,
    number: u32,
    bytes: &[u8],
    found: &mut Vec<ContractError>,
) -> Option<(Header, Version)> {
    let before = found.len();
    let mut faults = Faults::of(&format!("{event_type}/{number}.avsc"), found);
    let parsed = std::str::from_utf8(bytes).map_err(|error| format!("is not UTF-8: {error}"));
    let parsed =
        parsed.and_then(|text| Ok((text, serde_json::from_str(text).map_err(|e| format!("is not JSON: {e}"))?)));
    let (text, json): (&str, Json) = parsed.map_err(|message| faults.add("$", "json", message)).ok()?;
    let Some(top) = json.as_object().filter(|top| top.get("type").is_some_and(|kind| kind == "record")) else {
        faults.add("$", "record", "a contract is one Avro record: begin with {\"type\": \"record\", \"name\": …");
        return None;
    };
    let header = header(&mut faults, event_type, top);
    walk(&mut faults, top);
    let schema = Schema::parse_str(text);
    if let Err(error) = &schema
        && !found[before..].iter().any(|fault| AVRO_RULES.contains(&fault.rule))
    {
        Faults::of(&format!("{event_type}/{number}.avsc"), found).add("$", "avro", error.to_string());
    }
    let schema = schema.ok().filter(|schema| matches!(schema, Schema::Record(_)))?;
    Some((header?, Version { number, text: text.to_owned(), schema }))
}

fn header(faults: &mut Faults, event_type: &str, top: &Map<String, Json>) -> Option<Header> {
    const MISSING: &str = "`millrace` is missing: add {\"type\": …, \"topic\": …, \"key\": …} beside `fields`";
    let attribute = top.get("millrace").and_then(Json::as_object);
    let attribute = attribute.or_else(|| {
        faults.add("$.millrace", "millrace", MISSING);
        None
    })?;
    known(faults, "$.millrace", "millrace", attribute, HEADER_ATTRIBUTES);
    let [found_type, topic, key] = ["type", "topic", "key"].map(|name| {
        let text = attribute.get(name).and_then(Json::as_str);
        if text.is_none() {
            faults.add(&format!("$.millrace.{name}"), "millrace", format!("`{name}` is missing: add it, a string"));
        }
        text
    });
    if !is_event_type(event_type) {
        let message = format!("the folder `{event_type}` is no event type: use lower case words joined by dots");
        faults.add("$.millrace.type", "type", format!("{message}, such as order.placed"));
    }
    if let Some(found) = found_type.filter(|found| *found != event_type) {
        let message = format!("the type is `{found}`, but its folder is `{event_type}`: make them equal");
        faults.add("$.millrace.type", "type", message);
    }
    if let Some(topic) = topic.filter(|topic| !is_topic(topic)) {
        let message = format!("`{topic}` is not <domain>.<aggregate>.v<major>, such as shop.order.v1");
        faults.add("$.millrace.topic", "topic", message);
    }
    if let Some(key) = key {
        check_key(faults, key, top);
    }
    let cleanup = cleanup(faults, attribute.get("cleanup"));
    let erases = erases(faults, attribute.get("erases"), top);
    Some(Header { event_type: event_type.to_owned(), topic: topic?.to_owned(), key: key?.to_owned(), cleanup, erases })
}

fn cleanup(faults: &mut Faults, found: Option<&Json>) -> Cleanup {
    match found.map(|found| found.as_str().unwrap_or_default()) {
        None | Some("delete") => Cleanup::Delete,
        Some("compact") => Cleanup::Compact,
        Some(_) => {
            let message = format!("{} is not `delete` (facts) or `compact` (states)", found.unwrap_or(&Json::Null));
            faults.add("$.millrace.cleanup", "cleanup", message);
            Cleanup::Delete
        }
    }
}

fn check_key(faults: &mut Faults, key: &str, top: &Map<String, Json>) {
    let message = match field_named(top, key).map(|field| field.get("type")) {
        None => format!("the key `{key}` is not a field{}", nearest(key, &field_names(top))),
        Some(Some(kind)) if base(kind) == Some("string") => return,
        Some(_) => format!("the key `{key}` is not a plain string or uuid: the aggregate's id is text and never null"),
    };
    faults.add("$.millrace.key", "key", message);
}

/// Whose personal data the event asks to be erased.
fn erases(faults: &mut Faults, found: Option<&Json>, top: &Map<String, Json>) -> Option<String> {
    let found = found?;
    let subject = found.as_str().unwrap_or_default();
    let message = match field_named(top, subject).map(|field| field.get("type")) {
        None => format!("{found} names no field at the top{}", nearest(subject, &field_names(top))),
        Some(Some(kind)) if base(kind) == Some("string") => return Some(subject.to_owned()),
        Some(_) => format!("`{subject}` is not a plain string or uuid: an erasure is always somebody's, never null"),
    };
    faults.add("$.millrace.erases", "erases", message);
    None
}

/// `order.placed`: `^[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+$`.
fn is_event_type(text: &str) -> bool {
    text.contains('.') && text.split('.').all(is_word)
}

fn is_topic(text: &str) -> bool {
    let parts: Vec<_> = text.split('.').collect();
    let [domain, aggregate, version] = parts[..] else { return false };
    let major = version.strip_prefix('v').and_then(|digits| digits.parse::<u32>().ok());
    is_word(domain) && is_word(aggregate) && major.is_some_and(|major| format!("v{major}") == version)
}

/// `^[a-z][a-z0-9_]*$`.
fn is_word(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_lowercase())
        && text.chars().all(|char| char.is_ascii_lowercase() || char.is_ascii_digit() || char == '_')
}

/// `^[A-Za-z_][A-Za-z0-9_]*$`: names and symbols, as Avro says.
fn is_avro_name(text: &str) -> bool {
    !text.starts_with(|first: char| first.is_ascii_digit())
        && !text.is_empty()
        && text.chars().all(|char| char.is_ascii_alphanumeric() || char == '_')
}

fn walk(faults: &mut Faults, top: &Map<String, Json>) {
    let name = text(top, "name").unwrap_or_default();
    if text(top, "namespace").is_none_or(str::is_empty) && !name.contains('.') {
        faults.add("$.namespace", "namespace", "`namespace` is missing: add one, such as \"shop.order\"");
    }
    known(faults, "$", "attribute", top, CONTRACT_ATTRIBUTES);
    let mut walk = Walk { faults, top, names: BTreeSet::new(), columns: BTreeMap::new() };
    walk.record(top, "$", Some(""));
}

/// Goes through a record's JSON, beside the Avro library: it knows where it is.
struct Walk<'a, 'f> {
    faults: &'a mut Faults<'f>,
    top: &'a Map<String, Json>,
    /// Of the named types so far, without namespaces.
    names: BTreeSet<String>,
    /// Where each column comes from: nested records become columns joined by `_`.
    columns: BTreeMap<String, String>,
}

impl Walk<'_, '_> {
    /// `columns` begins the names of the record's columns; `None` inside of arrays and maps.
    fn record(&mut self, record: &Map<String, Json>, path: &str, columns: Option<&str>) {
        self.named(record, path);
        self.doc(record, path, "record");
        let Some(fields) = record.get("fields").and_then(Json::as_array) else {
            return self.faults.add(
                &format!("{path}.fields"),
                "avro",
                "`fields` is missing: a record lists its fields",
            );
        };
        let mut names = BTreeSet::new();
        for (index, field) in fields.iter().enumerate() {
            let path = format!("{path}.fields[{index}]");
            match field.as_object() {
                Some(field) => self.field(record, field, &path, columns, &mut names),
                None => self.faults.add(&path, "avro", format!("a field is an object, found {field}")),
            }
        }
    }

    fn field<'j>(
        &mut self,
        record: &Map<String, Json>,
        field: &'j Map<String, Json>,
        path: &str,
        columns: Option<&str>,
        names: &mut BTreeSet<&'j str>,
    ) {
        known(self.faults, path, "attribute", field, FIELD_ATTRIBUTES);
        let name = text(field, "name").unwrap_or_default();
        let fresh = names.insert(name);
        let column = columns.filter(|_| fresh).map(|prefix| format!("{prefix}{name}"));
        self.field_name(field.get("name"), name, path, fresh);
        if let Some(column) = column.as_deref().filter(|_| is_word(name)) {
            self.column(column, path);
        }
        self.doc(field, path, "field");
        let Some(kind) = field.get("type") else {
            return self.faults.add(&format!("{path}.type"), "avro", format!("`type` is missing in field `{name}`"));
        };
        self.kind(kind, &format!("{path}.type"), column.map(|column| format!("{column}_")).as_deref());
        self.default(field, kind, path);
        self.unit(record, field, kind, path);
        self.personal(field, path, columns.is_some());
        self.marks(field, kind, path);
    }

    fn field_name(&mut self, found: Option<&Json>, name: &str, path: &str, fresh: bool) {
        let path = format!("{path}.name");
        if found.and_then(Json::as_str).is_none() {
            self.faults.add(&path, "avro", "`name` is missing: every field has one");
        } else if !is_word(name) || name.len() > COLUMN_CHARS_MAX {
            let rule = format!("begin with a-z, go on with a-z, 0-9 and _, at most {COLUMN_CHARS_MAX} characters");
            self.faults.add(&path, "field-name", format!("`{name}` can't be a column: {rule}"));
        } else if !fresh {
            self.faults.add(&path, "avro", format!("two fields are named `{name}`: rename one"));
        }
    }

    fn column(&mut self, column: &str, path: &str) {
        let path = format!("{path}.name");
        if RESERVED.contains(&column) {
            let message = format!("`{column}` is a column of every table, filled from the envelope: rename the field");
            self.faults.add(&path, "field-name", message);
        } else if let Some(other) = self.columns.insert(column.to_owned(), path.clone()) {
            let message = format!("becomes the column `{column}`, as does {other}: rename one of them");
            self.faults.add(&path, "field-name", message);
        } else if column.len() > COLUMN_CHARS_MAX {
            let message = format!("becomes the column `{column}`, longer than {COLUMN_CHARS_MAX} characters");
            self.faults.add(&path, "field-name", message);
        }
    }

    fn doc(&mut self, of: &Map<String, Json>, path: &str, what: &str) {
        if text(of, "doc").is_none_or(|doc| doc.trim().is_empty()) {
            let name = text(of, "name").unwrap_or("?");
            let message = format!("{what} `{name}` has no doc: say in one sentence what it means");
            self.faults.add(&format!("{path}.doc"), "doc", message);
        }
    }

    /// The name of a record, enum or fixed; it may be defined only once.
    fn named(&mut self, named: &Map<String, Json>, path: &str) {
        let path = format!("{path}.name");
        let Some(name) = text(named, "name") else {
            return self.faults.add(&path, "avro", "`name` is missing: records, enums and fixed have one");
        };
        if !name.split('.').all(is_avro_name) {
            self.faults.add(&path, "avro", format!("`{name}` is no Avro name: use letters, digits and _"));
        } else if !self.names.insert(unqualified(name).to_owned()) {
            self.faults.add(&path, "avro", format!("`{name}` is defined twice: give each type its own name"));
        }
    }

    /// Any type.
    fn kind(&mut self, kind: &Json, path: &str, columns: Option<&str>) {
        match kind {
            Json::String(name) => self.type_name(name, path),
            Json::Array(branches) => self.union(branches, path, columns),
            Json::Object(object) => match object.get("type") {
                Some(Json::String(name)) => self.object(name, object, path, columns),
                Some(inner) => {
                    known(self.faults, path, "attribute", object, PRIMITIVE_ATTRIBUTES);
                    self.kind(inner, &format!("{path}.type"), columns);
                    self.logical(object, base(inner).unwrap_or("a union"), path);
                }
                None => self.faults.add(&format!("{path}.type"), "avro", "`type` is missing: say which type it is"),
            },
            other => self.faults.add(path, "avro", format!("a type is a name, an object or a union, found {other}")),
        }
    }

    fn type_name(&mut self, name: &str, path: &str) {
        if PRIMITIVES.contains(&name) {
        } else if self.names.contains(unqualified(name)) {
            let message = format!("refers to the type `{name}`: contracts have no references and no recursion");
            self.faults.add(path, "reference", format!("{message}, write the type out under another name"));
        } else if COMPLEX.contains(&name) {
            self.faults.add(path, "avro", format!("`{name}` needs its parts: write {{\"type\": \"{name}\", …}}"));
        } else {
            let near = nearest(name, &[PRIMITIVES, COMPLEX].concat());
            self.faults.add(path, "avro", format!("`{name}` is no Avro type{near}"));
        }
    }

    fn union(&mut self, branches: &[Json], path: &str, columns: Option<&str>) {
        let nulls = branches.iter().filter(|branch| *branch == "null").count();
        if branches.len() != 2 || nulls != 1 || branches.iter().any(Json::is_array) {
            let message = "the only unions are [\"null\", T] and [T, \"null\"]: split the rest into fields or types";
            self.faults.add(path, "union", message);
        }
        for (index, branch) in branches.iter().enumerate() {
            self.kind(branch, &format!("{path}[{index}]"), columns);
        }
    }

    fn object(&mut self, name: &str, object: &Map<String, Json>, path: &str, columns: Option<&str>) {
        let attributes = match name {
            "record" => RECORD_ATTRIBUTES,
            "enum" => ENUM_ATTRIBUTES,
            "fixed" => FIXED_ATTRIBUTES,
            "array" => &["type", "items"],
            "map" => &["type", "values"],
            _ => PRIMITIVE_ATTRIBUTES,
        };
        known(self.faults, path, "attribute", object, attributes);
        match name {
            "record" => self.record(object, path, columns),
            "enum" => self.enumeration(object, path),
            "array" => self.part(object, "items", path),
            "map" => self.part(object, "values", path),
            "fixed" => {
                self.named(object, path);
                if object.get("size").and_then(Json::as_u64).is_none() {
                    self.faults.add(&format!("{path}.size"), "avro", "`size` is missing: how many bytes it has");
                }
            }
            other => self.type_name(other, &format!("{path}.type")),
        }
        self.logical(object, name, path);
    }

    fn part(&mut self, object: &Map<String, Json>, name: &str, path: &str) {
        let path = format!("{path}.{name}");
        match object.get(name) {
            Some(part) => self.kind(part, &path, None),
            None => self.faults.add(&path, "avro", format!("`{name}` is missing: say which type they have")),
        }
    }

    fn enumeration(&mut self, object: &Map<String, Json>, path: &str) {
        self.named(object, path);
        let Some(symbols) = object.get("symbols").and_then(Json::as_array) else {
            return self.faults.add(&format!("{path}.symbols"), "enum", "`symbols` is missing: an enum lists them");
        };
        let mut seen = BTreeSet::new();
        for (index, symbol) in symbols.iter().enumerate() {
            let path = format!("{path}.symbols[{index}]");
            match symbol.as_str() {
                Some(name) if !is_avro_name(name) => {
                    let message =
                        format!("`{name}` is no symbol: use letters, digits and _, not beginning with a digit");
                    self.faults.add(&path, "enum", message);
                }
                Some(name) if !seen.insert(name) => {
                    self.faults.add(&path, "enum", format!("the symbol `{name}` is there twice: remove one"));
                }
                Some(_) => {}
                None => self.faults.add(&path, "enum", format!("a symbol is a string, found {symbol}")),
            }
        }
        let message = match object.get("default") {
            Some(Json::String(default)) if seen.contains(default.as_str()) => return,
            Some(default) => format!("{default} is not among the symbols"),
            None => "the enum has no default: add one, such as \"UNKNOWN\", for readers that don't know a later symbol"
                .to_owned(),
        };
        self.faults.add(&format!("{path}.default"), "enum", message);
    }

    fn logical(&mut self, object: &Map<String, Json>, base: &str, path: &str) {
        let Some(found) = object.get("logicalType") else { return };
        let path = format!("{path}.logicalType");
        let name = found.as_str().unwrap_or_default();
        let message = match LOGICAL_TYPES.iter().find(|(known, _)| *known == name) {
            Some((_, bases)) if bases.contains(&base) => return,
            Some((_, bases)) => format!("`{name}` annotates {}, not {base}", bases.join(" or ")),
            None if name.contains("time") => {
                format!("{found} has no column: times are timestamp-micros on long, in UTC")
            }
            None => format!("{found} has no column: known are uuid, date, timestamp-micros and decimal"),
        };
        self.faults.add(&path, "logical-type", message);
    }

    fn default(&mut self, field: &Map<String, Json>, kind: &Json, path: &str) {
        let Some(default) = field.get("default") else { return };
        // A type that is wrong was reported where it is.
        let Ok(schema) = Schema::parse(kind) else { return };
        let (schema, which) = match &schema {
            Schema::Union(union) => (&union.variants()[0], "the union's first type"),
            schema => (schema, "the field's type"),
        };
        if let Err(error) = value_from_default(schema, default) {
            let path = format!("{path}.default{}", &error.path[1..]);
            let message = format!("the default does not fit {which}: {}", error.message);
            self.faults.add(&path, "default", message);
        }
    }

    fn unit(&mut self, record: &Map<String, Json>, field: &Map<String, Json>, kind: &Json, path: &str) {
        let Some(unit) = field.get("unit") else { return };
        let name = text(field, "name").unwrap_or_default();
        let message = if unit != "minor" {
            format!("{unit} is no unit: the one known is \"minor\", money in minor units of currency")
        } else if value_base(kind) != Some("long") {
            format!("`{name}` is not a long: money is a whole number of minor units")
        } else if field_named(record, "currency").or(field_named(self.top, "currency")).is_none() {
            format!("`{name}` is money, but no field `currency` says of which currency: add it (ISO 4217)")
        } else {
            return;
        };
        self.faults.add(&format!("{path}.unit"), "unit", message);
    }

    /// Personal data can be told apart by whose it is, and erased by column.
    fn personal(&mut self, field: &Map<String, Json>, path: &str, has_columns: bool) {
        let Some(found) = field.get("pii") else { return };
        let subject = found.as_str().and_then(|subject| field_named(self.top, subject));
        let message = match subject.map(|subject| subject.get("type")) {
            None => {
                let near = nearest(found.as_str().unwrap_or_default(), &field_names(self.top));
                format!("{found} names no field at the top: pii says which field holds whose data it is{near}")
            }
            Some(kind) if kind.and_then(value_base) != Some("string") => {
                format!("{found} is not a string or uuid: pii says which field holds the id of whose data it is")
            }
            _ if found.as_str() == text(field, "name") => {
                "a field is not its own: pii says which other field holds the id of whose data it is".to_owned()
            }
            _ if !has_columns => {
                "within an array or a map there is no column to erase: move the field to the top or into a record, \
                 or mark the whole array"
                    .to_owned()
            }
            _ => return,
        };
        self.faults.add(&format!("{path}.pii"), "pii", message);
    }

    fn marks(&mut self, field: &Map<String, Json>, kind: &Json, path: &str) {
        if let Some(mark) = field.get("low_cardinality")
            && (!mark.is_boolean() || value_base(kind) != Some("string"))
        {
            let message = format!("found {mark}: it is true or false, and only on strings");
            self.faults.add(&format!("{path}.low_cardinality"), "attribute", message);
        }
    }
}

/// Refuses what nobody reads: a misspelt `default` or `pii` must not pass for none. Other tools' attributes, which
/// carry a `.` or `-` such as `avro.java.string`, are theirs.
fn known(faults: &mut Faults, path: &str, rule: &'static str, object: &Map<String, Json>, known: &[&str]) {
    let strange = |name: &str| !known.contains(&name) && !name.contains(['.', '-']);
    for (name, logical) in object.iter().filter(|(name, _)| strange(name)) {
        let message = if name == "logicalType" {
            let kind = object.get("type").unwrap_or(&Json::Null);
            format!("it annotates a type: write \"type\": {{\"type\": {kind}, \"logicalType\": {logical}}}")
        } else {
            format!("`{name}` is not known here{}", nearest(name, known))
        };
        faults.add(&format!("{path}.{name}"), rule, message);
    }
}

pub(crate) fn nearest(word: &str, known: &[&str]) -> String {
    let nearest = known.iter().min_by_key(|known| strsim::damerau_levenshtein(word, known));
    nearest.map_or(String::new(), |nearest| format!(", the nearest known is `{nearest}`"))
}

fn text<'j>(object: &'j Map<String, Json>, name: &str) -> Option<&'j str> {
    object.get(name).and_then(Json::as_str)
}

fn unqualified(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or(name)
}

fn fields(record: &Map<String, Json>) -> impl Iterator<Item = &Map<String, Json>> {
    record.get("fields").and_then(Json::as_array).into_iter().flatten().filter_map(Json::as_object)
}

fn field_named<'j>(record: &'j Map<String, Json>, name: &str) -> Option<&'j Map<String, Json>> {
    fields(record).find(|field| text(field, "name") == Some(name))
}

fn field_names(record: &Map<String, Json>) -> Vec<&str> {
    fields(record).filter_map(|field| text(field, "name")).collect()
}

/// The name of a type that is not a union.
fn base(kind: &Json) -> Option<&str> {
    match kind {
        Json::Object(object) => object.get("type").and_then(base),
        other => other.as_str(),
    }
}

/// The same, of the value beside null.
fn value_base(kind: &Json) -> Option<&str> {
    let branch = kind.as_array().and_then(|branches| branches.iter().find(|branch| *branch != "null"));
    base(branch.unwrap_or(kind))
}
