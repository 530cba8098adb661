//! Random schemas, and small changes of them such as people make. Few names and symbols, so that schemas meet.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use serde_json::{Value as Json, json};
use std::collections::BTreeSet;

const DEPTH_MAX: u32 = 3;
const PRIMITIVES: &[&str] = &["null", "boolean", "int", "long", "float", "double", "bytes", "string"];
const LOGICAL: &[(&str, &str)] = &[
    ("int", "date"),
    ("int", "time-millis"),
    ("long", "time-micros"),
    ("long", "timestamp-millis"),
    ("long", "timestamp-micros"),
    ("long", "local-timestamp-micros"),
    ("string", "uuid"),
];
const NAMES: &[&str] = &["n.A", "n.B", "n.C", "n.D", "m.A", "m.B"];
const FIELDS: &[&str] = &["a", "b", "c", "d", "e"];
const SYMBOLS: &[&str] = &["X", "Y", "Z", "W"];

#[derive(Clone)]
enum Kind {
    Primitive(&'static str),
    Logical(&'static str, &'static str),
    Decimal {
        precision: u32,
        scale: u32,
    },
    Array(Box<Kind>),
    Map(Box<Kind>),
    Union(Vec<Kind>),
    Named(Name, Named),
    /// A type that was defined before; `long` where it was not.
    Reference(String),
}

#[derive(Clone)]
struct Name {
    fullname: String,
    aliases: Vec<String>,
}

#[derive(Clone)]
enum Named {
    Record(Vec<Field>),
    Enum { symbols: Vec<&'static str>, default: bool },
    Fixed { size: u32, decimal: bool },
}

#[derive(Clone)]
struct Field {
    name: String,
    aliases: Vec<String>,
    kind: Kind,
    default: bool,
}

pub struct Generator(StdRng);

impl Generator {
    pub fn seeded(seed: u64) -> Self {
        Self(StdRng::seed_from_u64(seed))
    }

    /// Versions of one schema, oldest first; now and then the newest has nothing to do with the others.
    pub fn history(&mut self) -> Vec<Json> {
        let mut kind = self.root();
        let mut history = vec![rendered(&kind)];
        for _ in 0..self.0.random_range(1..=2) {
            for _ in 0..self.0.random_range(1..=2) {
                self.change(&mut kind);
            }
            if self.one_in(8) {
                kind = self.root();
            }
            history.push(rendered(&kind));
        }
        history
    }

    fn one_in(&mut self, chances: u32) -> bool {
        self.0.random_range(0..chances) == 0
    }

    fn one<T: Clone>(&mut self, of: &[T]) -> T {
        of.choose(&mut self.0).expect("nothing to choose from").clone()
    }

    /// Most schemas are records.
    fn root(&mut self) -> Kind {
        if self.one_in(4) { self.kind(0) } else { self.named(0, 0) }
    }

    fn kind(&mut self, depth: u32) -> Kind {
        match self.0.random_range(0..if depth < DEPTH_MAX { 12 } else { 4 }) {
            0..=2 => Kind::Primitive(self.one(PRIMITIVES)),
            3 => self.logical(),
            4 => Kind::Array(Box::new(self.kind(depth + 1))),
            5 => Kind::Map(Box::new(self.kind(depth + 1))),
            6 | 7 => {
                let branches = self.0.random_range(1..=3);
                Kind::Union((0..branches).map(|_| self.kind(depth + 1)).collect())
            }
            8 => Kind::Reference(self.one(NAMES).to_owned()),
            _ => {
                let which = self.0.random_range(0..3);
                self.named(depth, which)
            }
        }
    }

    fn logical(&mut self) -> Kind {
        if self.one_in(3) {
            return Kind::Decimal { precision: self.0.random_range(4..6), scale: self.0.random_range(1..3) };
        }
        let (base, name) = self.one(LOGICAL);
        Kind::Logical(base, name)
    }

    fn named(&mut self, depth: u32, which: u32) -> Kind {
        let name = Name { fullname: self.one(NAMES).to_owned(), aliases: Vec::new() };
        let named = match which {
            0 => {
                let fields = self.0.random_range(0..=4);
                Named::Record((0..fields).map(|_| self.field(depth)).collect())
            }
            1 => {
                let symbols = self.0.random_range(1..=3);
                Named::Enum { symbols: SYMBOLS[..symbols].to_vec(), default: self.one_in(2) }
            }
            _ => Named::Fixed { size: self.0.random_range(4..7), decimal: self.one_in(3) },
        };
        Kind::Named(name, named)
    }

    fn field(&mut self, depth: u32) -> Field {
        let (name, kind) = (self.one(FIELDS).to_owned(), self.kind(depth + 1));
        Field { name, aliases: Vec::new(), kind, default: self.one_in(2) }
    }

    /// Something within changes, or this itself.
    fn change(&mut self, kind: &mut Kind) {
        if self.one_in(3) {
            return self.change_here(kind);
        }
        match kind {
            Kind::Array(inner) | Kind::Map(inner) => self.change(inner),
            Kind::Union(branches) if !branches.is_empty() => {
                let index = self.0.random_range(0..branches.len());
                self.change(&mut branches[index]);
            }
            Kind::Named(_, Named::Record(fields)) if !fields.is_empty() => {
                let index = self.0.random_range(0..fields.len());
                match self.one_in(3) {
                    true => self.change_field(&mut fields[index]),
                    false => self.change(&mut fields[index].kind),
                }
            }
            _ => self.change_here(kind),
        }
    }

    fn change_here(&mut self, kind: &mut Kind) {
        match kind {
            _ if self.one_in(8) => *kind = Kind::Union(vec![Kind::Primitive("null"), kind.clone()]),
            Kind::Union(branches) => self.change_union(branches),
            Kind::Named(name, named) => match self.one_in(3) {
                true => self.rename(&mut name.fullname, &mut name.aliases, NAMES),
                false => self.change_named(named),
            },
            Kind::Primitive(name) => *name = self.one(PRIMITIVES),
            Kind::Decimal { scale, .. } => *scale = self.0.random_range(1..3),
            _ => *kind = self.kind(1),
        }
    }

    fn change_union(&mut self, branches: &mut Vec<Kind>) {
        match self.0.random_range(0..3) {
            0 if branches.len() > 1 => drop(branches.remove(self.0.random_range(0..branches.len()))),
            1 => branches.reverse(),
            _ => {
                let index = self.0.random_range(0..=branches.len());
                branches.insert(index, self.kind(2));
            }
        }
    }

    fn change_named(&mut self, named: &mut Named) {
        match named {
            Named::Record(fields) => match self.0.random_range(0..3) {
                0 if !fields.is_empty() => drop(fields.remove(self.0.random_range(0..fields.len()))),
                1 => fields.reverse(),
                _ => {
                    let index = self.0.random_range(0..=fields.len());
                    fields.insert(index, self.field(1));
                }
            },
            Named::Enum { symbols, default } => match self.0.random_range(0..3) {
                0 => *default = !*default,
                1 if symbols.len() > 1 => drop(symbols.remove(0)),
                _ => *symbols = SYMBOLS[..self.0.random_range(1..=SYMBOLS.len())].to_vec(),
            },
            Named::Fixed { size, decimal } => match self.one_in(2) {
                true => *size = self.0.random_range(4..7),
                false => *decimal = !*decimal,
            },
        }
    }

    fn change_field(&mut self, field: &mut Field) {
        match self.one_in(2) {
            true => field.default = !field.default,
            false => self.rename(&mut field.name, &mut field.aliases, FIELDS),
        }
    }

    /// With an alias or without.
    fn rename(&mut self, name: &mut String, aliases: &mut Vec<String>, names: &[&str]) {
        let before = std::mem::replace(name, self.one(names).to_owned());
        if !self.one_in(3) && !aliases.contains(&before) {
            aliases.push(before);
        }
    }
}

fn rendered(kind: &Kind) -> Json {
    Rendering::default().kind(kind)
}

/// Makes what was drawn valid Avro: no name is defined twice, no union has two branches of one type.
#[derive(Default)]
struct Rendering {
    defined: BTreeSet<String>,
    /// By what was defined: a name means one thing, also a former one.
    aliases: BTreeSet<String>,
}

impl Rendering {
    fn kind(&mut self, kind: &Kind) -> Json {
        match kind {
            Kind::Primitive(name) => json!(name),
            Kind::Logical(base, name) => json!({ "type": base, "logicalType": name }),
            Kind::Decimal { precision, scale } => {
                json!({ "type": "bytes", "logicalType": "decimal", "precision": precision, "scale": scale })
            }
            Kind::Array(items) => json!({ "type": "array", "items": self.kind(items) }),
            Kind::Map(values) => json!({ "type": "map", "values": self.kind(values) }),
            Kind::Union(branches) => self.union(branches),
            Kind::Reference(name) if self.defined.contains(name) => json!(name),
            Kind::Reference(_) => json!("long"),
            Kind::Named(name, _) if self.defined.contains(&name.fullname) => json!(name.fullname),
            Kind::Named(name, _) if self.aliases.contains(&name.fullname) => json!("long"),
            Kind::Named(name, named) => self.named(name, named),
        }
    }

    fn union(&mut self, branches: &[Kind]) -> Json {
        let (mut rendered, mut kinds) = (Vec::<Json>::new(), BTreeSet::new());
        for branch in branches {
            let before = (self.defined.clone(), self.aliases.clone());
            let branch = self.kind(branch);
            if !branch.is_array() && kinds.insert(branch_name(&branch)) {
                rendered.push(branch);
            } else {
                (self.defined, self.aliases) = before;
            }
        }
        if rendered.is_empty() { json!(["null"]) } else { rendered.into() }
    }

    fn named(&mut self, name: &Name, named: &Named) -> Json {
        let Name { fullname, aliases } = name;
        let (namespace, short) = fullname.split_once('.').expect("names have one namespace");
        self.defined.insert(fullname.clone());
        let mut json = json!({ "name": short, "namespace": namespace });
        let fresh = |alias: &&String| !self.defined.contains(*alias) && self.aliases.insert((*alias).clone());
        let aliases: Vec<_> = aliases.iter().filter(fresh).collect();
        if !aliases.is_empty() {
            json["aliases"] = json!(aliases);
        }
        match named {
            Named::Record(fields) => {
                json["type"] = json!("record");
                json["fields"] = self.fields(fields);
            }
            Named::Enum { symbols, default } => {
                json["type"] = json!("enum");
                json["symbols"] = json!(symbols);
                if *default {
                    json["default"] = json!(symbols[0]);
                }
            }
            Named::Fixed { size, decimal } => {
                json["type"] = json!("fixed");
                json["size"] = json!(size);
                if *decimal {
                    json["logicalType"] = json!("decimal");
                    json["precision"] = json!(6);
                }
            }
        }
        json
    }

    fn fields(&mut self, fields: &[Field]) -> Json {
        let mut names = BTreeSet::new();
        let fields: Vec<_> = fields.iter().filter(|field| names.insert(&field.name)).collect();
        let rendered = fields.into_iter().map(|field| {
            let kind = self.kind(&field.kind);
            let mut json = json!({ "name": field.name, "type": kind });
            let aliases: Vec<_> = field.aliases.iter().filter(|alias| names.insert(*alias)).collect();
            if !aliases.is_empty() {
                json["aliases"] = json!(aliases);
            }
            if let Some(default) = default_of(&json["type"]).filter(|_| field.default) {
                json["default"] = default;
            }
            json
        });
        rendered.collect()
    }
}

/// Under which a union may have it once.
fn branch_name(branch: &Json) -> String {
    let namespace = branch["namespace"].as_str().map(|namespace| format!("{namespace}."));
    let name = branch["name"].as_str().or_else(|| branch["type"].as_str()).or_else(|| branch.as_str());
    format!("{}{}", namespace.unwrap_or_default(), name.unwrap_or_default())
}

/// None for a type that is defined elsewhere.
fn default_of(kind: &Json) -> Option<Json> {
    let name = match kind {
        Json::Array(branches) => return default_of(branches.first()?),
        Json::Object(object) => object["type"].as_str()?,
        name => name.as_str()?,
    };
    Some(match name {
        "null" => Json::Null,
        "boolean" => json!(true),
        "int" | "long" => json!(0),
        "float" | "double" => json!(0.5),
        "string" if kind["logicalType"] == "uuid" => json!("1d2f7a4e-9f0b-4c68-8a35-0c7d52b1e6f9"),
        "bytes" if kind["logicalType"] == "decimal" => json!("\0"), // one of no bytes is none
        "bytes" | "string" => json!(""),
        "array" => json!([]),
        "map" => json!({}),
        "fixed" => json!("\0".repeat(usize::try_from(kind["size"].as_u64()?).ok()?)),
        "enum" => kind["symbols"][0].clone(),
        "record" => {
            // The library that we parse with refuses some unions' within.
            let is_plain = |field: &&Json| !field["type"].is_array() || field["type"][0] == "null";
            let member = |field: &Json| {
                let field = Some(field).filter(is_plain)?;
                Some((field["name"].as_str()?.to_owned(), default_of(&field["type"])?))
            };
            let members = kind["fields"].as_array()?.iter().map(member);
            members.collect::<Option<serde_json::Map<_, _>>>()?.into()
        }
        _ => return None,
    })
}
