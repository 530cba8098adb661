//! Data that fits a JSON Schema as ours are. Test data only; it reads nothing but the schema, as a stranger would.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Map, Value as Json, json};
use uuid::Uuid;

pub(super) struct MadeUp(StdRng);

impl MadeUp {
    pub fn new(seed: u64) -> Self {
        Self(StdRng::seed_from_u64(seed))
    }

    pub fn value(&mut self, schema: &Json) -> Json {
        if let Some(branches) = schema["anyOf"].as_array() {
            let branch = self.0.random_range(0..branches.len());
            return self.value(&branches[branch]);
        }
        match schema["type"].as_str().unwrap() {
            "null" => Json::Null,
            "boolean" => json!(self.0.random::<bool>()),
            "integer" => {
                let [least, most] = ["minimum", "maximum"].map(|bound| schema[bound].as_i64().unwrap());
                let any = self.0.random_range(least..=most);
                json!(self.pick(&[least, most, any]))
            }
            "number" => {
                let bounds = ["minimum", "maximum"].map(|bound| schema[bound].as_f64().unwrap_or(1e300));
                json!(self.pick(&[bounds[0], bounds[1], 0.5, 3.0]))
            }
            "string" => json!(self.text(schema)),
            "array" => (0..self.0.random_range(0..4)).map(|_| self.value(&schema["items"])).collect(),
            _ => self.object(schema),
        }
    }

    fn object(&mut self, schema: &Json) -> Json {
        let Some(properties) = schema["properties"].as_object() else {
            let names = ["", "a", "strings", "none", "😀"]; // a type's name would be taken for Avro's tag of a branch
            let wanted = names.into_iter().filter(|_| self.0.random()).collect::<Vec<_>>();
            let members = wanted.into_iter().map(|name| (name.to_owned(), self.value(&schema["additionalProperties"])));
            return members.collect::<Map<_, _>>().into();
        };
        let required = schema["required"].as_array().unwrap();
        let wanted = properties.iter().filter(|(name, _)| required.contains(&json!(name)) || self.0.random());
        let wanted: Vec<_> = wanted.collect();
        wanted.into_iter().map(|(name, property)| (name.clone(), self.value(property))).collect::<Map<_, _>>().into()
    }

    fn text(&mut self, schema: &Json) -> String {
        if let Some(symbols) = schema["enum"].as_array() {
            return self.pick(symbols).as_str().unwrap().to_owned();
        }
        if schema["format"] == "uuid" {
            return Uuid::from_u128(self.0.random()).to_string();
        }
        let [least, most] = [("minLength", 0), ("maxLength", 20)].map(|(bound, usual)| match schema[bound].as_u64() {
            Some(found) => usize::try_from(found).unwrap(),
            None => usual,
        });
        let count = self.pick(&[least, most.min(least + 20)]);
        // Whether bytes are a decimal of so many digits, only the unit tells.
        let is_decimal = schema["x-unit"].as_str().is_some_and(|unit| unit.contains("digits"));
        match schema["pattern"].as_str().unwrap() {
            _ if is_decimal => "\u{0}".repeat(count.max(1)),
            pattern if pattern.contains("00ff") => (0..count).map(|_| char::from(self.0.random::<u8>())).collect(),
            _ => (0..count).map(|_| self.pick(&['a', '"', '\n', 'é', '😀', '\u{1}'])).collect(),
        }
    }

    fn pick<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.0.random_range(0..of.len())].clone()
    }
}
