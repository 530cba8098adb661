//! What happens to each JSON value: it is written as its node of the plan says, or noted as a violation.

use super::plan::{Field, KEY_BYTES_MAX, Node, Record, Union};
use super::{VIOLATIONS_MAX, Violation};
use crate::bounds::{ARRAY_ITEMS_MAX, MAP_ENTRIES_MAX};
use serde::Deserializer;
use serde::de::{DeserializeSeed, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::collections::HashSet;
use std::fmt;
use std::ops::Range;

/// How much of a sender's text an error repeats.
const QUOTE_CHARS_MAX: usize = 64;
/// Fields of a usual record, nested ones included: no second allocation.
const SPANS_USUAL: usize = 32;

/// Where in the JSON we are; made into a pointer only when something is wrong there.
pub(super) enum Place<'p> {
    Whole,
    Member(&'p Place<'p>, &'p str),
    Item(&'p Place<'p>, usize),
}

impl Place<'_> {
    fn pointer(&self) -> String {
        match self {
            Self::Whole => String::new(),
            Self::Member(above, name) => format!("{}/{}", above.pointer(), pointer_step(name)),
            Self::Item(above, index) => format!("{}/{index}", above.pointer()),
        }
    }
}

/// A name as a step of a JSON pointer (RFC 6901, section 3).
pub(crate) fn escaped(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

/// The same of a name that a sender chose: no longer than an error repeats.
pub fn pointer_step(name: &str) -> String {
    escaped(&shortened(name))
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(QUOTE_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// A field's bytes in the output; none where it was not met.
type Span = Option<(u32, u32)>;

/// The datum as far as it has come, and what is wrong with it.
pub(super) struct Output<'o> {
    into: &'o mut Vec<u8>,
    /// The datum may grow up to here.
    end_max: usize,
    /// Of the fields of all records that are being read, the innermost one's last.
    spans: Vec<Span>,
    /// Where a record's fields are put into the schema's order.
    scratch: Vec<u8>,
    violations: Vec<Violation>,
    key: Option<Range<usize>>,
    /// Nothing more is wanted: too many violations, or too large.
    full: bool,
}

impl<'o> Output<'o> {
    pub fn new(into: &'o mut Vec<u8>, bytes_max: usize) -> Self {
        let end_max = into.len().saturating_add(bytes_max);
        let (spans, scratch, violations) = (Vec::with_capacity(SPANS_USUAL), Vec::new(), Vec::new());
        Self { into, end_max, spans, scratch, violations, key: None, full: false }
    }

    /// The JSON ended early, or we wanted no more of it.
    pub fn broken_off(&mut self, error: &serde_json::Error) {
        if !self.full {
            self.violations.push(Violation::new("", "JSON", error.to_string()));
        }
    }

    pub fn finished(self) -> Result<Range<usize>, Vec<Violation>> {
        match self.key {
            Some(key) if self.violations.is_empty() => Ok(key),
            _ => Err(self.violations),
        }
    }

    fn violation<E: Error>(&mut self, at: &Place<'_>, expected: impl Into<String>, found: &str) -> Result<(), E> {
        self.violations.push(Violation::new(at.pointer(), expected, found));
        self.full = self.violations.len() >= VIOLATIONS_MAX;
        if self.full { Err(E::custom("too many violations")) } else { Ok(()) }
    }

    /// A few bytes of JSON may stand for a record of long defaults: looked at after each item.
    fn refuse_too_large<E: Error>(&mut self) -> Result<(), E> {
        if self.into.len() <= self.end_max {
            return Ok(());
        }
        let found = "a larger one, which ends here";
        self.violations.push(Violation::new("", "an event that fits a record of the log", found));
        self.full = true;
        Err(E::custom("too large"))
    }

    fn scalar<E: Error>(&mut self, node: &Node, at: &Place<'_>, value: Scalar<'_>) -> Result<(), E> {
        if put(node, value, self.into) {
            return Ok(());
        }
        let expected = match (node, value) {
            (Node::Text { .. } | Node::Union(_), Scalar::Text(text)) if text.contains('\0') => {
                "text without NUL".into()
            }
            _ => node.expected(),
        };
        self.violation(at, expected, &value.quoted())
    }

    /// `first` is a member's name that was read already.
    fn record<'de, A: MapAccess<'de>>(
        &mut self,
        record: &Record,
        at: &Place<'_>,
        mut first: Option<String>,
        json: &mut A,
    ) -> Result<(), A::Error> {
        let (start, base) = (self.into.len(), self.spans.len());
        self.spans.resize(base + record.fields.len(), None);
        let (mut next, mut in_order) = (0, true);
        loop {
            let name = FieldName { record, next, at, output: self };
            let found = match first.take() {
                Some(text) => Some(name.find(&text)?),
                None => json.next_key_seed(name)?,
            };
            match found {
                None => break,
                Some(Some(index)) if self.spans[base + index].is_none() => {
                    self.field(&record.fields[index], base + index, at, json)?;
                    in_order &= index == next;
                    next = index + 1;
                }
                Some(found) => {
                    if let Some(Field { name, .. }) = found.map(|index| &record.fields[index]) {
                        self.violation::<A::Error>(&Place::Member(at, name), "the field once", "it again")?;
                    }
                    json.next_value::<IgnoredAny>()?;
                }
            }
        }
        let written = if in_order { next } else { 0 };
        self.arrange(record, at, start, base, written)?;
        self.spans.truncate(base);
        self.refuse_too_large()
    }

    fn field<'de, A: MapAccess<'de>>(
        &mut self,
        field: &Field,
        span: usize,
        at: &Place<'_>,
        json: &mut A,
    ) -> Result<(), A::Error> {
        let begin = self.into.len();
        json.next_value_seed(Slot { node: &field.node, at: &Place::Member(at, &field.name), output: self })?;
        self.spans[span] = Some((begin as u32, self.into.len() as u32));
        Ok(())
    }

    /// The fields in the schema's order, with defaults where there was none. The first `written` stand in it already.
    fn arrange<E: Error>(
        &mut self,
        record: &Record,
        at: &Place<'_>,
        start: usize,
        base: usize,
        written: usize,
    ) -> Result<(), E> {
        let mut key = record.key.and_then(|key| self.spans[base + key]).map(|(begin, _)| begin as usize);
        let front = if written == 0 { start } else { self.into.len() };
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        for (index, field) in record.fields.iter().enumerate().skip(written) {
            match (self.spans[base + index], &field.default) {
                (Some((begin, end)), _) => {
                    if record.key == Some(index) {
                        key = Some(front + scratch.len());
                    }
                    scratch.extend_from_slice(&self.into[begin as usize..end as usize]);
                }
                (None, Some(default)) => scratch.extend_from_slice(default),
                (None, None) => {
                    self.violation(&Place::Member(at, &field.name), field.node.expected(), "no such field")?;
                }
            }
        }
        self.into.truncate(front);
        self.into.extend_from_slice(&scratch);
        self.scratch = scratch;
        if record.key.is_some() {
            self.key = key.and_then(|begin| text_at(self.into, begin));
        }
        Ok(())
    }

    fn array<'de, A: SeqAccess<'de>>(&mut self, items: &Node, at: &Place<'_>, json: &mut A) -> Result<(), A::Error> {
        let block = self.begin_block();
        let mut count = 0;
        while count < ARRAY_ITEMS_MAX
            && json.next_element_seed(Slot { node: items, at: &Place::Item(at, count), output: self })?.is_some()
        {
            count += 1;
            self.refuse_too_large()?;
        }
        self.end_block(block, count);
        if count < ARRAY_ITEMS_MAX || json.next_element::<IgnoredAny>()?.is_none() {
            return Ok(());
        }
        while json.next_element::<IgnoredAny>()?.is_some() {}
        self.violation(at, format!("an array of at most {ARRAY_ITEMS_MAX} items"), "more of them")
    }

    fn map<'de, A: MapAccess<'de>>(
        &mut self,
        values: &Node,
        at: &Place<'_>,
        mut first: Option<String>,
        json: &mut A,
    ) -> Result<(), A::Error> {
        let block = self.begin_block();
        let mut names = HashSet::new();
        while let Some(name) = first.take().map_or_else(|| json.next_key::<String>(), |first| Ok(Some(first)))? {
            if names.len() == MAP_ENTRIES_MAX {
                json.next_value::<IgnoredAny>()?;
                while json.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                return self.violation(at, format!("an object of at most {MAP_ENTRIES_MAX} members"), "more of them");
            }
            let at = Place::Member(at, &name);
            if name.contains('\0') {
                self.violation(&at, "a name without NUL", "one")?;
            }
            put_bytes(name.as_bytes(), self.into);
            json.next_value_seed(Slot { node: values, at: &at, output: self })?;
            self.refuse_too_large()?;
            if names.contains(&name) {
                self.violation(&at, "the name once", "it again")?;
            }
            names.insert(name);
        }
        self.end_block(block, names.len());
        Ok(())
    }

    /// Items are counted before they come: one byte is kept for the count, which most often is enough.
    fn begin_block(&mut self) -> usize {
        self.into.push(0);
        self.into.len() - 1
    }

    fn end_block(&mut self, at: usize, count: usize) {
        if count == 0 {
            return; // the byte that was kept is the end
        }
        let mut bytes = Vec::new();
        put_long(count as i64, &mut bytes);
        self.into.splice(at..=at, bytes);
        self.into.push(0);
    }
}

/// A text in the datum, behind its length.
fn text_at(datum: &[u8], begin: usize) -> Option<Range<usize>> {
    let (mut length, mut at) = (0_usize, begin);
    loop {
        let byte = *datum.get(at)?;
        length |= usize::from(byte & 0x7f).checked_shl(7 * (at - begin) as u32)?;
        at += 1;
        if byte & 0x80 == 0 {
            break Some(at..at + length / 2); // zigzag: lengths are even
        }
    }
}

/// A JSON value that has no parts.
#[derive(Clone, Copy)]
enum Scalar<'s> {
    Null,
    Boolean(bool),
    Integer(i64),
    /// Beyond a long.
    Large(u64),
    Number(f64),
    Text(&'s str),
}

impl Scalar<'_> {
    fn quoted(self) -> String {
        match self {
            Self::Null => "null".into(),
            Self::Boolean(value) => value.to_string(),
            Self::Integer(value) => value.to_string(),
            Self::Large(value) => value.to_string(),
            Self::Number(value) => format!("{value:?}"),
            Self::Text(text) => format!("{:?}", shortened(text)),
        }
    }

    fn number(self) -> Option<f64> {
        match self {
            Self::Integer(value) => Some(value as f64),
            Self::Large(value) => Some(value as f64),
            Self::Number(value) => Some(value),
            // "NaN", as Java's encoder writes it, is none either: one of them, and a column has no sum.
            Self::Null | Self::Boolean(_) | Self::Text(_) => None,
        }
    }
}

/// Appends a value if it fits; else appends nothing and says so.
fn put(node: &Node, value: Scalar<'_>, into: &mut Vec<u8>) -> bool {
    match (node, value) {
        (Node::Null, Scalar::Null) => {}
        (Node::Boolean, Scalar::Boolean(value)) => into.push(u8::from(value)),
        (Node::Integer { range, .. }, Scalar::Integer(value)) if range.contains(&value) => put_long(value, into),
        (Node::Float | Node::Double, value) => return put_number(node, value, into),
        (Node::Text { key }, Scalar::Text(text)) if !text.contains('\0') && (!key || is_key(text)) => {
            put_bytes(text.as_bytes(), into);
        }
        (Node::Uuid, Scalar::Text(text)) => return put_uuid(text, into),
        (Node::Enum(symbols), Scalar::Text(text)) => return put_symbol(symbols, text, into),
        (Node::Bytes { size, precision }, Scalar::Text(text)) => return put_latin1(text, *size, *precision, into),
        (Node::Union(union), value) => return put_branch(union, value, into),
        _ => return false,
    }
    true
}

fn is_key(text: &str) -> bool {
    (1..=KEY_BYTES_MAX).contains(&text.len())
}

/// Without its tag a value is of the first branch that it fits, as in a default.
fn put_branch(union: &Union, value: Scalar<'_>, into: &mut Vec<u8>) -> bool {
    let start = into.len();
    union.branches.iter().enumerate().any(|(index, (_, node))| {
        into.truncate(start);
        put_long(index as i64, into);
        put(node, value, into)
    }) || {
        into.truncate(start);
        false
    }
}

/// Zigzag, then seven bits a byte, the lowest first.
fn put_long(value: i64, into: &mut Vec<u8>) {
    let mut rest = ((value << 1) ^ (value >> 63)) as u64;
    while rest >= 0x80 {
        into.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    into.push(rest as u8);
}

fn put_bytes(bytes: &[u8], into: &mut Vec<u8>) {
    put_long(bytes.len() as i64, into);
    into.extend_from_slice(bytes);
}

fn put_number(node: &Node, value: Scalar<'_>, into: &mut Vec<u8>) -> bool {
    let Some(value) = value.number() else { return false };
    if matches!(node, Node::Double) {
        into.extend_from_slice(&value.to_le_bytes());
        return true;
    }
    let narrow = value as f32;
    if narrow.is_infinite() {
        return false; // a float can't hold it
    }
    into.extend_from_slice(&narrow.to_le_bytes());
    true
}

fn put_symbol(symbols: &[String], text: &str, into: &mut Vec<u8>) -> bool {
    let Some(index) = symbols.iter().position(|symbol| symbol == text) else { return false };
    put_long(index as i64, into);
    true
}

fn put_uuid(text: &str, into: &mut Vec<u8>) -> bool {
    let Ok(id) = uuid::Uuid::try_parse(text) else { return false };
    let mut buffer = uuid::Uuid::encode_buffer();
    put_bytes(id.hyphenated().encode_lower(&mut buffer).as_bytes(), into);
    true
}

fn put_latin1(text: &str, size: Option<usize>, precision: Option<u32>, into: &mut Vec<u8>) -> bool {
    let bytes: Result<Vec<u8>, _> = text.chars().map(|char| u8::try_from(u32::from(char))).collect();
    let Ok(bytes) = bytes else { return false };
    if size.is_some_and(|size| size != bytes.len()) || precision.is_some_and(|digits| !is_decimal(&bytes, digits)) {
        return false;
    }
    match size {
        Some(_) => into.extend_from_slice(&bytes),
        None => put_bytes(&bytes, into),
    }
    true
}

/// Two's complement, big-endian, of any length. Wider ones than 38 digits are in no contract.
fn is_decimal(bytes: &[u8], digits: u32) -> bool {
    let Some(first) = bytes.first() else { return false };
    let sign = if first & 0x80 == 0 { 0 } else { 0xff };
    let (extra, bytes) = bytes.split_at(bytes.len().saturating_sub(16));
    let mut number = [sign; 16];
    number[16 - bytes.len()..].copy_from_slice(bytes);
    let number = i128::from_be_bytes(number);
    let fits = extra.iter().all(|byte| *byte == sign) && (number < 0) == (sign == 0xff);
    fits && 10_u128.checked_pow(digits).is_none_or(|limit| number.unsigned_abs() < limit)
}

/// A value that is to be read.
pub(super) struct Slot<'a, 'o> {
    pub node: &'a Node,
    pub at: &'a Place<'a>,
    pub output: &'a mut Output<'o>,
}

impl<'de> DeserializeSeed<'de> for Slot<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Slot<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.node.expected())
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        self.output.scalar(self.node, self.at, Scalar::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<(), E> {
        self.output.scalar(self.node, self.at, Scalar::Boolean(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<(), E> {
        self.output.scalar(self.node, self.at, Scalar::Integer(value))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<(), E> {
        let value = i64::try_from(value).map_or(Scalar::Large(value), Scalar::Integer);
        self.output.scalar(self.node, self.at, value)
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<(), E> {
        self.output.scalar(self.node, self.at, Scalar::Number(value))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        self.output.scalar(self.node, self.at, Scalar::Text(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut json: A) -> Result<(), A::Error> {
        let Self { node, at, output } = self;
        let found = match node {
            Node::Union(union) => branch(union, |node| matches!(node, Node::Array(_))),
            node => Some((None, node)),
        };
        if let Some((index, Node::Array(items))) = found {
            put_index(index, output.into);
            return output.array(items, at, &mut json);
        }
        while json.next_element::<IgnoredAny>()?.is_some() {}
        output.violation(at, node.expected(), "an array")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut json: A) -> Result<(), A::Error> {
        let Self { node, at, output } = self;
        match node {
            Node::Record(record) => output.record(record, at, None, &mut json),
            Node::Map(values) => output.map(values, at, None, &mut json),
            Node::Union(union) => in_union(union, node, at, output, &mut json),
            _ => refuse_object(node, at, output, &mut json),
        }
    }
}

fn refuse_object<'de, A: MapAccess<'de>>(
    node: &Node,
    at: &Place<'_>,
    output: &mut Output<'_>,
    json: &mut A,
) -> Result<(), A::Error> {
    while json.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
    output.violation(at, node.expected(), "an object")
}

/// The only branch of a kind, and its index; where there are several only a tag can tell.
fn branch(union: &Union, is_kind: impl Fn(&Node) -> bool) -> Option<(Option<usize>, &Node)> {
    let mut fitting = union.branches.iter().enumerate().filter(|(_, (_, node))| is_kind(node));
    let (index, (_, node)) = fitting.next()?;
    fitting.next().is_none().then_some((Some(index), node))
}

fn put_index(index: Option<usize>, into: &mut Vec<u8>) {
    if let Some(index) = index {
        put_long(index as i64, into);
    }
}

/// `{"tag": value}`, or the members of the only record or map among the branches.
fn in_union<'de, A: MapAccess<'de>>(
    union: &Union,
    node: &Node,
    at: &Place<'_>,
    output: &mut Output<'_>,
    json: &mut A,
) -> Result<(), A::Error> {
    let first = json.next_key_seed(TagName(union))?;
    let first = match first {
        Some(Ok(index)) => return tagged(union, index, at, output, json),
        Some(Err(name)) => Some(name),
        None => None,
    };
    match branch(union, |node| matches!(node, Node::Record(_) | Node::Map(_))) {
        Some((index, Node::Record(record))) => {
            put_index(index, output.into);
            output.record(record, at, first, json)
        }
        Some((index, Node::Map(values))) => {
            put_index(index, output.into);
            output.map(values, at, first, json)
        }
        _ => {
            if first.is_some() {
                json.next_value::<IgnoredAny>()?;
            }
            refuse_object(node, at, output, json)
        }
    }
}

fn tagged<'de, A: MapAccess<'de>>(
    union: &Union,
    index: usize,
    at: &Place<'_>,
    output: &mut Output<'_>,
    json: &mut A,
) -> Result<(), A::Error> {
    let (tag, node) = &union.branches[index];
    put_long(index as i64, output.into);
    json.next_value_seed(Slot { node, at: &Place::Member(at, tag), output })?;
    if json.next_key::<IgnoredAny>()?.is_none() {
        return Ok(());
    }
    json.next_value::<IgnoredAny>()?;
    while json.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
    output.violation(at, format!("one member, {tag:?}"), "more of them")
}

/// Reads a member's name as a branch's tag; another name is given back.
struct TagName<'a>(&'a Union);

impl<'de> DeserializeSeed<'de> for TagName<'_> {
    type Value = Result<usize, String>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_str(self)
    }
}

impl Visitor<'_> for TagName<'_> {
    type Value = Result<usize, String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<Self::Value, E> {
        let is_tag = |(tag, node): &(String, Node)| tag == name && !matches!(node, Node::Null);
        Ok(self.0.branches.iter().position(is_tag).ok_or_else(|| name.to_owned()))
    }
}

/// Reads a member's name as a field's index; `None` for a name that no field has, which is noted.
struct FieldName<'a, 'o> {
    record: &'a Record,
    /// Most senders keep the schema's order.
    next: usize,
    at: &'a Place<'a>,
    output: &'a mut Output<'o>,
}

impl FieldName<'_, '_> {
    fn find<E: Error>(self, name: &str) -> Result<Option<usize>, E> {
        let Self { record, next, at, output } = self;
        if record.fields.get(next).is_some_and(|field| field.name == name) {
            return Ok(Some(next));
        }
        let found = record.fields.iter().position(|field| field.name == name);
        if found.is_none() {
            output.violation::<E>(&Place::Member(at, name), no_such_field(record, name), "an unknown one")?;
        }
        Ok(found)
    }
}

fn no_such_field(record: &Record, name: &str) -> String {
    let name = shortened(name);
    let distance = |field: &&Field| strsim::damerau_levenshtein(&field.name, &name);
    let nearest = record.fields.iter().min_by_key(distance).map_or("", |field| &field.name);
    format!("a field of {}, the nearest is `{nearest}`", record.name)
}

impl<'de> DeserializeSeed<'de> for FieldName<'_, '_> {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Option<usize>, D::Error> {
        json.deserialize_str(self)
    }
}

impl Visitor<'_> for FieldName<'_, '_> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<Option<usize>, E> {
        self.find(name)
    }
}
