//! Random contracts, events that more or less follow them, and broken text. Test data only.

use apache_avro::Schema;
use apache_avro::schema::{InnerDecimalSchema, UuidSchema};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Map, Value as Json, json};
use uuid::Uuid;

/// How deep types are nested.
const DEPTH: usize = 3;

pub(super) struct Generator {
    rng: StdRng,
    names: usize,
}

impl Generator {
    pub fn new(seed: u64) -> Self {
        Self { rng: StdRng::seed_from_u64(seed), names: 0 }
    }

    /// A record with the key `id`, somewhere among its fields.
    pub fn contract(&mut self) -> Json {
        let fields = self.rng.random_range(0..7);
        let mut record = self.record(DEPTH, fields);
        let id = if self.one_in(2) { json!("string") } else { json!({ "type": "string", "logicalType": "uuid" }) };
        let fields = record["fields"].as_array_mut().unwrap();
        fields.insert(self.rng.random_range(0..=fields.len()), json!({ "name": "id", "type": id }));
        record
    }

    fn one_in(&mut self, chances: u32) -> bool {
        self.rng.random_range(0..chances) == 0
    }

    fn pick<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.rng.random_range(0..of.len())].clone()
    }

    fn name(&mut self) -> String {
        self.names += 1;
        format!("n{}", self.names)
    }

    fn record(&mut self, depth: usize, fields: usize) -> Json {
        let fields: Vec<_> = (0..fields).map(|_| self.field(depth)).collect();
        json!({ "type": "record", "name": self.name(), "namespace": "it", "fields": fields })
    }

    fn field(&mut self, depth: usize) -> Json {
        let (of, default) = match self.rng.random_range(0..6) {
            0 => (self.union(depth), Some(json!(null))),
            1 => (json!("int"), Some(json!(-3))),
            2 => (json!({ "type": "array", "items": self.kind(depth) }), Some(json!([]))),
            _ => (self.kind(depth), None),
        };
        match default.filter(|_| self.one_in(2)) {
            Some(default) => json!({ "name": self.name(), "type": of, "default": default }),
            None => json!({ "name": self.name(), "type": of }),
        }
    }

    /// Null and one or two others; Avro allows each kind once.
    fn union(&mut self, depth: usize) -> Json {
        let first = self.kind(depth);
        let second = self.pick(&[json!("boolean"), json!("double"), json!("string"), json!("long")]);
        let kind = |kind: &Json| kind.get("type").unwrap_or(kind).clone();
        // Where one pass refuses a branch that the value tree takes, it goes on to the next.
        let alike = first.get("logicalType").is_none() && first != "float" && first != "double";
        match alike && kind(&first) != kind(&second) && self.one_in(3) {
            true => json!(["null", first, second]),
            false => json!(["null", first]),
        }
    }

    fn kind(&mut self, depth: usize) -> Json {
        match self.rng.random_range(0..20) {
            0 if depth > 0 => json!({ "type": "array", "items": self.kind(depth - 1) }),
            1 if depth > 0 => json!({ "type": "map", "values": self.kind(depth - 1) }),
            2 | 3 if depth > 0 => {
                let fields = self.rng.random_range(1..4);
                self.record(depth - 1, fields)
            }
            4 if depth > 0 => json!({ "type": "array", "items": self.union(depth - 1) }),
            _ => self.leaf(),
        }
    }

    fn leaf(&mut self) -> Json {
        let name = self.name();
        let precision = self.pick(&[1, 9, 18, 38]);
        self.pick(&[
            json!("boolean"),
            json!("int"),
            json!("long"),
            json!("float"),
            json!("double"),
            json!("bytes"),
            json!("string"),
            json!({ "type": "string", "logicalType": "uuid" }),
            json!({ "type": "int", "logicalType": "date" }),
            json!({ "type": "long", "logicalType": "timestamp-micros" }),
            json!({ "type": "long", "logicalType": "timestamp-millis" }),
            json!({ "type": "long", "logicalType": "local-timestamp-micros" }),
            json!({ "type": "long", "logicalType": "time-micros" }),
            json!({ "type": "int", "logicalType": "time-millis" }),
            json!({ "type": "fixed", "name": name, "size": 4, "logicalType": "decimal", "precision": 9, "scale": 2 }),
            json!({ "type": "fixed", "name": name, "size": 16, "logicalType": "uuid" }),
            json!({ "type": "bytes", "logicalType": "decimal", "precision": precision, "scale": 1 }),
            json!({ "type": "fixed", "name": name, "size": 3 }),
            json!({ "type": "enum", "name": name, "symbols": ["A", "B", "C"] }),
        ])
    }

    /// An event of this schema, most often: sometimes one of its values is another.
    pub fn event(&mut self, schema: &Schema) -> Json {
        let odd = if self.one_in(2) { 0 } else { self.rng.random_range(5..40) };
        self.value(schema, odd)
    }

    /// One value in `odd` is anything; none where that is 0.
    fn value(&mut self, schema: &Schema, odd: u32) -> Json {
        if odd > 0 && self.one_in(odd) {
            return self.anything();
        }
        match schema {
            Schema::Record(record) => {
                let mut members: Vec<(String, Json)> = Vec::new();
                for field in &record.fields {
                    if field.default.is_none() || self.one_in(2) {
                        let at = if self.one_in(3) { self.rng.random_range(0..=members.len()) } else { members.len() };
                        members.insert(at, (field.name.clone(), self.value(&field.schema, odd)));
                    }
                }
                if odd > 0 && self.one_in(odd) {
                    members.push((self.name(), self.anything()));
                }
                if odd > 0 && self.one_in(odd) {
                    members.pop();
                }
                Json::Object(Map::from_iter(members))
            }
            Schema::Array(array) => {
                let count = self.pick(&[0, 1, 2, 3, 70]);
                (0..count).map(|_| self.value(&array.items, odd * 4)).collect()
            }
            Schema::Map(map) => {
                let count = self.rng.random_range(0..4);
                (0..count).map(|_| (self.map_key(), self.value(&map.types, odd))).collect()
            }
            Schema::Union(union) => {
                let branch = self.pick(union.variants());
                let value = self.value(&branch, odd);
                let tag = branch
                    .name()
                    .map_or_else(|| crate::compatibility::base(&branch).into(), |name| name.fullname(None));
                if matches!(branch, Schema::Null) || self.one_in(2) { value } else { json!({ tag: value }) }
            }
            Schema::Null => json!(null),
            Schema::Boolean => json!(self.one_in(2)),
            Schema::Int | Schema::TimeMillis => json!(self.pick(&[0, 1, -1, 63, -64, 64, i32::MIN, i32::MAX])),
            Schema::Date => json!(self.pick(&[0, 20_000, -25_567, 120_529])),
            Schema::TimestampMicros => json!(self.pick(&[0, 1_767_225_600_123_456_i64, -1])),
            Schema::Long | Schema::TimeMicros | Schema::TimestampMillis | Schema::LocalTimestampMicros => {
                json!(self.pick(&[0, 1, -1, 1 << 40, i64::MIN, i64::MAX]))
            }
            Schema::Float => self.pick(&[json!(0.1), json!(-3), json!(1e30), json!("NaN"), json!("-Infinity")]),
            Schema::Double => self.pick(&[json!(0.1), json!(1e300), json!(u64::MAX), json!("Infinity")]),
            Schema::Uuid(UuidSchema::Fixed(_)) => json!("0123456789abc\u{0}\u{ff}\u{80}"),
            Schema::Uuid(_) => {
                let id = Uuid::from_u128(self.rng.random());
                let forms = [id.to_string(), id.to_string().to_uppercase(), id.simple().to_string()];
                json!(self.pick(&forms))
            }
            Schema::Enum(symbols) => json!(self.pick(&symbols.symbols)),
            Schema::Fixed(_) => json!(self.pick(&["abc", "\u{0}\u{ff}\u{80}"])),
            Schema::Decimal(decimal) if matches!(decimal.inner, InnerDecimalSchema::Fixed(_)) => {
                json!(self.pick(&["\u{0}\u{0}\u{0}\u{0}", "\u{ff}\u{ff}\u{ff}\u{fe}", "\u{7f}\u{ff}\u{ff}\u{ff}"]))
            }
            Schema::Decimal(_) => json!(self.pick(&["\u{0}", "\u{9}", "\u{ff}", "\u{0}\u{1}", "\u{a}", "\u{f6}"])),
            Schema::Bytes => json!(self.pick(&["", "a", "\u{0}\u{ff}"])),
            _ => json!(self.text()),
        }
    }

    fn text(&mut self) -> String {
        self.pick(&["", "a", "é\n\"\\", "string", "NaN", "7", "😀😀😀", "0198c0d4-1f6a-7b3e-8d27-5ac94e10b7f6"])
            .to_owned()
    }

    fn map_key(&mut self) -> String {
        let hostile =
            ["a\u{0}b", "string", "map", "null", "/~", "__proto__", "$ref", "\u{feff}", "\u{202e}x", "\\u0000"];
        if self.one_in(2) { self.text() } else { self.pick(&hostile).to_owned() }
    }

    fn anything(&mut self) -> Json {
        let text = self.text();
        self.pick(&[
            json!(null),
            json!(true),
            json!(0),
            json!(-0.0),
            json!(1.0),
            json!(1e300),
            json!(i64::MAX),
            json!(u64::MAX),
            json!(text),
            json!("a\u{0}b"),
            json!([]),
            json!([null, 1]),
            json!({}),
            json!({ "string": text }),
            json!({ "long": 5 }),
            json!({ "array": [] }),
            json!({ "null": null }),
        ])
    }

    /// Text with something cut out, doubled or replaced.
    pub fn broken(&mut self, text: &str) -> String {
        let mut chars: Vec<char> = text.chars().collect();
        for _ in 0..self.rng.random_range(1..4) {
            let (one, other) = (self.rng.random_range(0..chars.len()), self.rng.random_range(0..chars.len()));
            let (begin, end) = (one.min(other), one.max(other).min(one.min(other) + 20));
            match self.rng.random_range(0..4) {
                0 if chars.len() > 40 => drop(chars.drain(begin..end)),
                1 => {
                    let copy = chars[begin..end].to_vec();
                    chars.splice(one..one, copy);
                }
                2 => chars[one] = self.pick(&['{', '}', '[', ']', '"', ',', ':', '0', '\u{0}', '\\', 'e', '-', 'é']),
                _ => chars.swap(one, other),
            }
        }
        chars.into_iter().collect()
    }
}
