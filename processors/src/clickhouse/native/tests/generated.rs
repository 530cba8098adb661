//! Random contracts, writers that more or less follow them, values, and broken bytes. Test data only.

use apache_avro::schema::{InnerDecimalSchema, UuidSchema};
use apache_avro::types::Value;
use apache_avro::{Decimal, Schema};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value as Json, json};
use uuid::Uuid;

/// How deep types are nested.
const DEPTH: usize = 4;

pub(super) struct Generator {
    pub rng: StdRng,
    names: usize,
    /// Values that fit their columns, as far as types alone decide.
    sound: bool,
}

/// A type in the contract, and what a writer has instead.
type Pair = (Json, Json);

impl Generator {
    pub fn new(seed: u64) -> Self {
        Self { rng: StdRng::seed_from_u64(seed), names: 0, sound: false }
    }

    /// A contract, and a writer.
    pub fn schemas(&mut self) -> (String, String) {
        let fields = self.rng.random_range(1..8);
        let (mut contract, mut writer) = self.record(DEPTH, fields);
        contract["name"] = json!("R");
        writer["name"] = json!("R");
        (contract.to_string(), writer.to_string())
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

    fn record(&mut self, depth: usize, fields: usize) -> Pair {
        let (mut contract, mut writer) = (Vec::new(), Vec::new());
        for at in 0..fields {
            let name = self.name();
            let (mut ours, mut theirs) = self.field(depth);
            (ours["name"], theirs["name"]) = (json!(name), json!(name));
            match self.rng.random_range(0..10) {
                0 if at > 0 => contract.push(self.unknown_to_the_writer(&name)),
                1 => writer.push(theirs),
                _ => {
                    contract.push(ours);
                    let place = self.rng.random_range(0..=writer.len());
                    writer.insert(place, theirs);
                }
            }
        }
        if contract.is_empty() {
            contract.push(json!({ "name": self.name(), "type": "int", "default": 7 }));
        }
        let name = self.name();
        let record = |fields: Vec<Json>| json!({ "type": "record", "name": name, "fields": fields });
        (record(contract), record(writer))
    }

    fn field(&mut self, depth: usize) -> Pair {
        let (ours, theirs) = match self.rng.random_range(0..8) {
            0 if depth > 0 => self.nested_record(depth),
            1 if depth > 0 => {
                let (ours, theirs) = self.nested_record(depth);
                let (ours, theirs) = self.perhaps_null(ours, theirs);
                Self::collection("array", "items", &(ours, theirs))
            }
            _ => self.leaf(depth),
        };
        let (ours, theirs) = self.perhaps_null(ours, theirs);
        let few = self.one_in(3);
        (json!({ "type": ours, "low_cardinality": few }), json!({ "type": theirs }))
    }

    fn nested_record(&mut self, depth: usize) -> Pair {
        let fields = self.rng.random_range(1..4);
        self.record(depth - 1, fields)
    }

    /// A field only the contract has, most often with a default.
    fn unknown_to_the_writer(&mut self, name: &str) -> Json {
        let symbols = json!({ "type": "enum", "name": self.name(), "symbols": ["A", "B"] });
        let ints = json!({ "type": "array", "items": "int" });
        let (of, default) = self.pick(&[
            (json!(["null", "string"]), json!(null)),
            (json!("string"), json!("é")),
            (json!(["long", "null"]), json!(-1)),
            (json!("boolean"), json!(true)),
            (symbols, json!("B")),
            (ints, json!([])),
            (json!({ "type": "map", "values": ["string", "null"] }), json!({})),
        ]);
        match self.one_in(20) {
            true => json!({ "name": name, "type": of }),
            false => json!({ "name": name, "type": of, "default": default }),
        }
    }

    /// Null may be in the contract, the writer, both or none, first or second.
    fn perhaps_null(&mut self, ours: Json, theirs: Json) -> Pair {
        let mut either = |of: Json| if self.one_in(2) { json!(["null", of]) } else { json!([of, "null"]) };
        match (either(ours.clone()), either(theirs.clone()), self.rng.random_range(0..40)) {
            (ours, _, 0) => (ours, json!("null")),
            (ours, theirs, 1..12) => (ours, theirs),
            (ours, _, 12..16) => (ours, theirs),
            (_, theirs, 16..20) => (ours, theirs),
            _ => (ours, theirs),
        }
    }

    fn collection(kind: &str, of: &str, (ours, theirs): &Pair) -> Pair {
        (json!({ "type": kind, of: ours }), json!({ "type": kind, of: theirs }))
    }

    fn leaf(&mut self, depth: usize) -> Pair {
        match self.rng.random_range(0..12) {
            0 => self.promoted(),
            1 => self.enumeration(),
            2 => self.decimal(),
            3 if depth > 0 => Self::collection("array", "items", &self.item(depth - 1)),
            4 if depth > 0 => Self::collection("map", "values", &self.item(depth - 1)),
            5 if self.one_in(8) => {
                let scalars = [self.scalar(), self.scalar()];
                (scalars[0].clone(), scalars[1].clone())
            }
            _ => {
                let scalar = self.scalar();
                (scalar.clone(), scalar)
            }
        }
    }

    fn item(&mut self, depth: usize) -> Pair {
        let (ours, theirs) = self.leaf(depth);
        self.perhaps_null(ours, theirs)
    }

    fn scalar(&mut self) -> Json {
        let (fixed, uuid) = (self.name(), self.name());
        self.pick(&[
            json!("boolean"),
            json!("int"),
            json!("long"),
            json!("float"),
            json!("double"),
            json!("string"),
            json!("string"),
            json!("bytes"),
            json!({ "type": "int", "logicalType": "date" }),
            json!({ "type": "long", "logicalType": "timestamp-micros" }),
            json!({ "type": "long", "logicalType": "timestamp-millis" }),
            json!({ "type": "string", "logicalType": "uuid" }),
            json!({ "type": "fixed", "name": fixed, "size": 3 }),
            json!({ "type": "fixed", "name": uuid, "size": 16, "logicalType": "uuid" }),
        ])
    }

    fn promoted(&mut self) -> Pair {
        let uuid = json!({ "type": "string", "logicalType": "uuid" });
        self.pick(&[
            (json!("long"), json!("int")),
            (json!("float"), json!("int")),
            (json!("float"), json!("long")),
            (json!("double"), json!("int")),
            (json!("double"), json!("long")),
            (json!("double"), json!("float")),
            (json!("string"), json!("bytes")),
            (json!("bytes"), json!("string")),
            (uuid.clone(), json!("string")),
            (uuid, json!({ "type": "bytes", "logicalType": "uuid" })),
        ])
    }

    fn enumeration(&mut self) -> Pair {
        let (name, default) = (self.name(), self.one_in(2));
        let mut ours = json!({ "type": "enum", "name": name, "symbols": ["A", "B", "U"] });
        if default {
            ours["default"] = json!("U");
        }
        (ours, json!({ "type": "enum", "name": name, "symbols": ["B", "NEW", "A", "U"] }))
    }

    fn decimal(&mut self) -> Pair {
        let precision = self.pick(&[1_usize, 9, 10, 18, 19, 38]);
        let scale: usize = self.rng.random_range(0..=precision);
        let ours = json!({ "type": "bytes", "logicalType": "decimal", "precision": precision, "scale": scale });
        let fixed = json!({ "type": "fixed", "name": self.name(), "size": 17, "logicalType": "decimal",
                            "precision": precision, "scale": scale });
        let other_scale = json!({ "type": "bytes", "logicalType": "decimal", "precision": precision, "scale": scale.saturating_sub(1) });
        match self.rng.random_range(0..20) {
            0 => (ours, other_scale),
            1..8 => (ours, fixed),
            _ => (ours.clone(), ours),
        }
    }

    /// A value that fits its column wherever some value of its type does.
    pub fn sound_value(&mut self, schema: &Schema) -> Value {
        self.sound = true;
        let value = self.value(schema);
        self.sound = false;
        value
    }

    /// A value of a schema without references; now and then one that a column cannot hold.
    pub fn value(&mut self, schema: &Schema) -> Value {
        match schema {
            Schema::Null => Value::Null,
            Schema::Boolean => Value::Boolean(self.one_in(2)),
            Schema::Int => Value::Int(self.extreme(i32::MIN.into(), i32::MAX.into()) as i32),
            Schema::Long => Value::Long(self.extreme(i64::MIN, i64::MAX)),
            Schema::Float => {
                let any = f32::from_bits(self.rng.random());
                Value::Float(self.pick(&[0.0, -0.0, f32::MAX, f32::MIN_POSITIVE, f32::NAN, f32::NEG_INFINITY, any]))
            }
            Schema::Double => {
                let any = f64::from_bits(self.rng.random());
                Value::Double(self.pick(&[0.0, -0.0, f64::MIN, f64::EPSILON, f64::NAN, f64::INFINITY, any]))
            }
            Schema::Bytes => Value::Bytes(self.bytes()),
            Schema::String => Value::String(self.text()),
            Schema::Fixed(fixed) => Value::Fixed(fixed.size, vec![self.rng.random(); fixed.size]),
            Schema::Uuid(UuidSchema::String | UuidSchema::Bytes | UuidSchema::Fixed(_)) => {
                Value::Uuid(Uuid::from_u128(self.rng.random()))
            }
            Schema::Date => Value::Date(self.within(-25_567, 120_529) as i32),
            Schema::TimestampMicros => Value::TimestampMicros(self.within(SECONDS.0 * MICROS, SECONDS.1 * MICROS - 1)),
            Schema::TimestampMillis => Value::TimestampMillis(self.within(SECONDS.0 * 1_000, SECONDS.1 * 1_000 - 1)),
            Schema::Decimal(decimal) => {
                let size = match &decimal.inner {
                    InnerDecimalSchema::Fixed(fixed) => fixed.size,
                    InnerDecimalSchema::Bytes => self.pick(&[1, 4, 8, 16, 17, 20]),
                };
                Value::Decimal(Decimal::from(self.decimal_bytes(decimal.precision, size)))
            }
            Schema::Enum(symbols) => {
                let index = self.rng.random_range(0..symbols.symbols.len());
                Value::Enum(index as u32, symbols.symbols[index].clone())
            }
            Schema::Array(array) => {
                let count = self.pick(&[0, 1, 2, 5]);
                Value::Array((0..count).map(|_| self.value(&array.items)).collect())
            }
            Schema::Map(map) => {
                let count = self.pick(&[0, 1, 2, 5]);
                Value::Map((0..count).map(|_| (self.text(), self.value(&map.types))).collect())
            }
            Schema::Union(union) => {
                let index = self.rng.random_range(0..union.variants().len());
                Value::Union(index as u32, Box::new(self.value(&union.variants()[index])))
            }
            Schema::Record(record) => {
                let field = |field: &apache_avro::schema::RecordField| (field.name.clone(), self.value(&field.schema));
                Value::Record(record.fields.iter().map(field).collect())
            }
            other => panic!("no value of {other:?}"),
        }
    }

    fn extreme(&mut self, least: i64, greatest: i64) -> i64 {
        let any = self.rng.random_range(least..=greatest);
        self.pick(&[least, greatest, 0, -1, 1, 63, 64, any])
    }

    /// Within, at the ends, and a little beyond.
    fn within(&mut self, least: i64, greatest: i64) -> i64 {
        let any = self.rng.random_range(least..=greatest);
        match self.rng.random_range(0..40) {
            0 if !self.sound => least - 1,
            1 if !self.sound => greatest + 1,
            2 => least,
            3 => greatest,
            _ => any,
        }
    }

    fn decimal_bytes(&mut self, precision: usize, size: usize) -> Vec<u8> {
        let most = 10_i128.pow(precision as u32) - 1;
        let any = self.rng.random_range(-most..=most);
        let beyond = if self.sound { 0 } else { most + 1 };
        let number = self.pick(&[most, -most, 0, 1, -1, any, any, any, beyond]);
        let sign = if number < 0 { 0xff } else { 0 };
        let bytes = [&[sign; 8][..], &number.to_be_bytes()].concat();
        bytes[bytes.len() - size..].to_vec() // may cut it: then it is another number
    }

    fn bytes(&mut self) -> Vec<u8> {
        let length = self.pick(&[0, 1, 7, 130]);
        (0..length).map(|_| self.rng.random()).collect()
    }

    fn text(&mut self) -> String {
        let long = "long ".repeat(60);
        let id = Uuid::from_u128(self.rng.random()).to_string();
        let any: String = (0..self.rng.random_range(0..20)).map(|_| self.rng.random::<char>()).collect();
        self.pick(&["".into(), "a".into(), "b".into(), "żółć 🦀\0".into(), long, id, any])
    }

    /// Somewhat other bytes.
    pub fn mutated(&mut self, datum: &[u8]) -> Vec<u8> {
        let mut bytes = datum.to_vec();
        for _ in 0..self.rng.random_range(1..4) {
            let at = self.rng.random_range(0..=bytes.len());
            let byte = self.pick(&[0, 1, 2, 0x7f, 0x80, 0xff]);
            match self.rng.random_range(0..6) {
                0 => bytes.truncate(at),
                1 => bytes.insert(at, byte),
                2 if at < bytes.len() => drop(bytes.remove(at)),
                3 if at < bytes.len() => bytes[at] = byte,
                4 if at < bytes.len() => bytes[at] ^= 1 << self.rng.random_range(0..8),
                _ => drop(bytes.splice(at..at, [0xff; 9])),
            }
        }
        bytes
    }
}

const MICROS: i64 = 1_000_000;
const SECONDS: (i64, i64) = (-25_567 * 86_400, 120_530 * 86_400);
