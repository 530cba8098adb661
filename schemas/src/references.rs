//! One schema of several: a type that another one defines is put where it is first used.

use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};

const PRIMITIVES: &[&str] = &["null", "boolean", "int", "long", "float", "double", "bytes", "string"];

/// The schema with everything in it. `referenced` are schemas that need no others, by the full name they define.
///
/// # Errors
/// When one of the texts is not JSON.
pub fn with_references(schema: &str, referenced: &[(String, String)]) -> Result<String, serde_json::Error> {
    let parse = |(name, text): &(String, String)| Ok((name.clone(), serde_json::from_str(text)?));
    let referenced = referenced.iter().map(parse).collect::<Result<_, serde_json::Error>>()?;
    let mut inlining = Inlining { referenced, defined: BTreeSet::new() };
    serde_json::to_string(&inlining.kind(serde_json::from_str(schema)?, "", Origin::Main))
}

/// Two that were referenced may bring the same third one, whose second definition becomes its name. The main schema's
/// own mistakes stay as they are.
#[derive(Clone, Copy, PartialEq)]
enum Origin {
    Main,
    Referenced,
}

struct Inlining {
    referenced: BTreeMap<String, Value>,
    defined: BTreeSet<String>,
}

impl Inlining {
    fn kind(&mut self, kind: Value, namespace: &str, origin: Origin) -> Value {
        match kind {
            Value::String(name) => self.name(name, namespace),
            Value::Array(branches) => branches.into_iter().map(|branch| self.kind(branch, namespace, origin)).collect(),
            Value::Object(object) => self.object(object, namespace, origin),
            other => other,
        }
    }

    fn name(&mut self, name: String, namespace: &str) -> Value {
        if PRIMITIVES.contains(&&*name) {
            return name.into();
        }
        let full = full_name(&name, namespace);
        match self.referenced.remove(&full) {
            Some(definition) if !self.defined.contains(&full) => self.kind(definition, "", Origin::Referenced),
            _ => name.into(),
        }
    }

    fn object(&mut self, mut object: Map<String, Value>, namespace: &str, origin: Origin) -> Value {
        let kind = object.get("type").and_then(Value::as_str).unwrap_or_default();
        if ["record", "error", "enum", "fixed"].contains(&kind) {
            return self.definition(object, namespace, origin);
        }
        let part = match kind {
            "array" => "items",
            "map" => "values",
            _ => "type",
        };
        self.replace(&mut object, part, namespace, origin);
        object.into()
    }

    fn definition(&mut self, mut object: Map<String, Value>, namespace: &str, origin: Origin) -> Value {
        let text = |name| object.get(name).and_then(Value::as_str);
        let (name, own) = (text("name").unwrap_or_default(), text("namespace"));
        let full = full_name(name, own.unwrap_or(namespace));
        let inherits = own.is_none() && !name.contains('.');
        if !self.defined.insert(full.clone()) && origin == Origin::Referenced {
            return full.into();
        }
        let inner = full.rsplit_once('.').map_or("", |(namespace, _)| namespace).to_owned();
        if origin == Origin::Referenced && inherits {
            object.insert("namespace".to_owned(), inner.clone().into()); // not that of where it is put
        }
        if let Some(Value::Array(fields)) = object.get_mut("fields") {
            for field in fields.iter_mut().filter_map(Value::as_object_mut) {
                self.replace(field, "type", &inner, origin);
            }
        }
        object.into()
    }

    fn replace(&mut self, within: &mut Map<String, Value>, part: &str, namespace: &str, origin: Origin) {
        if let Some(kind) = within.get_mut(part) {
            *kind = self.kind(kind.take(), namespace, origin);
        }
    }
}

fn full_name(name: &str, namespace: &str) -> String {
    if name.contains('.') || namespace.is_empty() { name.to_owned() } else { format!("{namespace}.{name}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use apache_avro::Schema;

    /// With ' for ".
    fn inlined(schema: &str, referenced: &[(&str, &str)]) -> String {
        let json = |text: &str| text.replace('\'', "\"");
        let referenced: Vec<_> = referenced.iter().map(|(name, text)| ((*name).to_owned(), json(text))).collect();
        let inlined = with_references(&json(schema), &referenced).unwrap();
        Schema::parse_str(&inlined).unwrap_or_else(|error| panic!("{inlined}: {error}"));
        inlined.replace('"', "'")
    }

    #[test]
    fn a_type_is_put_where_it_is_used_first_and_named_afterwards() {
        let order = "{'type':'record','name':'Order','namespace':'shop','fields':[
            {'name':'to','type':'shop.Address'},{'name':'from','type':['null','Address']}]}";
        let address =
            "{'type':'record','name':'Address','namespace':'shop','fields':[{'name':'city','type':'string'}]}";
        let expected = format!(
            "{{'type':'record','name':'Order','namespace':'shop','fields':[{{'name':'to','type':{address}}},\
             {{'name':'from','type':['null','Address']}}]}}"
        );
        assert_eq!(inlined(order, &[("shop.Address", address)]), expected);
        assert_eq!(inlined(address, &[]), address);
    }

    #[test]
    fn what_two_bring_is_defined_once_and_names_keep_their_namespaces() {
        let country = "{'type':'enum','name':'Country','symbols':['A']}";
        let with_country =
            |name: &str| format!("{{'type':'record','name':'{name}','fields':[{{'name':'c','type':{country}}}]}}");
        let (one, two) = (with_country("One"), with_country("Two"));
        let both = "{'type':'record','name':'n.Both','fields':[
            {'name':'one','type':{'type':'array','items':'One'}},{'name':'two','type':{'type':'map','values':'Two'}}]}";
        // Within `n`, `One` is n.One: only what is referenced by its full name is found.
        let names = [("n.One", one.replace("'One'", "'n.One'")), ("n.Two", two.replace("'Two'", "'n.Two'"))];
        let found = inlined(both, &[(names[0].0, &names[0].1), (names[1].0, &names[1].1)]);
        assert_eq!(found.matches("'enum'").count(), 1, "{found}");
        assert_eq!(found.matches("'n.Country'").count(), 1, "{found}");
    }
}
