//! May a version follow the earlier ones? If not: in which field, against which of them, and what may be done instead.

use crate::avsc::{Faults, Header};
use crate::compatibility::{self, Incompatibility, Mode};
use crate::contract::Version;
use crate::place::locate;
use apache_avro::Schema;
use std::collections::BTreeSet;

/// Consumers replay all history, producers deploy in any order: each version reads each.
pub(super) fn evolution(faults: &mut Faults, version: &Version, earlier: &[(Header, Version)]) {
    let schemas: Vec<&Schema> = earlier.iter().map(|(_, version)| &version.schema).collect();
    let mut said = BTreeSet::new();
    for broken in compatibility::check(Mode::FullTransitive, &version.schema, &schemas) {
        // What breaks against version 1 most often breaks against all: once is enough. The name was looked at before.
        if broken.path == "$.name" || !said.insert((broken.path.clone(), broken.rule)) {
            continue;
        }
        let against = broken.earlier.and_then(|index| earlier.get(index)).map(|(_, version)| version.number);
        let message = format!("{}: {}", broken.message, remedy(&broken, version));
        faults.add_against(against, &broken.path, broken.rule, message);
    }
    let Some((_, before)) = earlier.last() else { return };
    for (index, field) in version.record().fields.iter().enumerate() {
        let Some(old) = before.record().fields.iter().find(|old| old.name == field.name) else { continue };
        let (now, then) = (compatibility::kind(&field.schema), compatibility::kind(&old.schema));
        let path = format!("$.fields[{index}].type");
        if now != then && !said.iter().any(|(said, _)| said.starts_with(&path)) {
            let message = format!("`{}` was {then} in version {} and is {now} here", field.name, before.number);
            let message = format!("{message}: a column keeps its type, add a field instead");
            faults.add_against(Some(before.number), &path, "column-type", message);
        }
    }
}

/// The legal change that comes nearest to what was meant.
fn remedy(broken: &Incompatibility, version: &Version) -> String {
    let field = locate(&version.text, &broken.path).field;
    match broken.rule {
        "missing-default" if broken.path.ends_with(']') => {
            format!("give it a default{}", example(version, &broken.path))
        }
        "missing-default" => "keep it: only a field that always had a default may go".to_owned(),
        "enum-symbols" => format!(
            "leave `{field}` as it is and add a field beside it whose enum has a default: only such an enum may change"
        ),
        _ if field.is_empty() => BREAKING.to_owned(),
        _ => format!("leave `{field}` as it is and add a field with a default beside it; {BREAKING}"),
    }
}

pub(super) const BREAKING: &str = "a breaking change is a new type, never an edit";

/// A default that would fit a new field at the top.
fn example(version: &Version, path: &str) -> String {
    let index = path.strip_prefix("$.fields[").and_then(|rest| rest.strip_suffix(']')?.parse::<usize>().ok());
    let Some(field) = index.and_then(|index| version.record().fields.get(index)) else { return String::new() };
    let default = match &field.schema {
        Schema::Union(union) if matches!(union.variants(), [Schema::Null, ..]) => "null",
        Schema::Enum(symbols) => match &symbols.default {
            Some(default) => return format!(", such as \"default\": \"{default}\""),
            None => return String::new(),
        },
        other => match compatibility::base(other) {
            "boolean" => "false",
            "int" | "long" | "float" | "double" => "0",
            "string" if compatibility::kind(other) == "string" => "\"\"",
            "array" => "[]",
            "map" => "{}",
            _ => return ", or make it [\"null\", …] with \"default\": null".to_owned(),
        },
    };
    format!(", such as \"default\": {default}")
}
