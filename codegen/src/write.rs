//! Types, written as Rust.

use crate::schema::{Contract, Field, Named};

/// Words that can't be names, not even behind `r#`.
const NEVER_NAMES: &[&str] = &["self", "Self", "super", "crate", "_"];
/// Words that can be names behind `r#`.
const KEYWORDS: &[&str] = &[
    "abstract", "as", "async", "await", "become", "box", "break", "const", "continue", "do", "dyn", "else", "enum",
    "extern", "false", "final", "fn", "for", "gen", "if", "impl", "in", "let", "loop", "macro", "match", "mod", "move",
    "mut", "override", "priv", "pub", "ref", "return", "static", "struct", "trait", "true", "try", "type", "typeof",
    "unsafe", "unsized", "use", "virtual", "where", "while", "yield",
];

pub(crate) fn module(contract: &Contract) -> String {
    let Contract { event_type, name, types } = contract;
    let types: String = types.iter().map(named).collect();
    format!(
        "/// `{event_type}`.\n\
         #[allow(dead_code, non_camel_case_types, clippy::upper_case_acronyms)] // names are the contract's, and not all are used\n\
         pub mod {module} {{\n\
         {types}\
         \x20   impl ::millrace_client::Event for {name} {{\n\
         \x20       const TYPE: &'static str = {event_type:?};\n\
         \x20   }}\n\
         }}\n",
        module = identifier(&event_type.replace('.', "_")),
    )
}

fn named(kind: &Named) -> String {
    match kind {
        Named::Record { name, doc, fields } => {
            let fields: String = fields.iter().map(field).collect();
            format!("{}    {DERIVES}\n    pub struct {name} {{\n{fields}    }}\n\n", documented(doc, 4))
        }
        Named::Enum { name, doc, symbols } => {
            let symbols: String = symbols.iter().map(|symbol| symbol_of(symbol)).collect();
            let derives = "#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, ::serde::Serialize)]";
            format!("{}    {derives}\n    pub enum {name} {{\n{symbols}    }}\n\n", documented(doc, 4))
        }
    }
}

const DERIVES: &str = "#[derive(Debug, Clone, PartialEq, ::serde::Serialize)]";

fn field(field: &Field) -> String {
    let Field { name, doc, rust } = field;
    format!("{}{}        pub {}: {rust},\n", documented(doc, 8), renamed(name), identifier(name))
}

fn symbol_of(symbol: &str) -> String {
    format!("{}        {},\n", renamed(symbol), identifier(symbol))
}

fn documented(doc: &str, indent: usize) -> String {
    if doc.is_empty() { String::new() } else { format!("{:indent$}#[doc = {doc:?}]\n", "") }
}

/// What serde writes, where Rust has to call it otherwise. (It leaves `r#` out by itself.)
fn renamed(name: &str) -> String {
    if NEVER_NAMES.contains(&name) { format!("        #[serde(rename = {name:?})]\n") } else { String::new() }
}

/// A name that Rust takes, of a field, symbol, type or module.
pub(crate) fn identifier(name: &str) -> String {
    if NEVER_NAMES.contains(&name) {
        format!("{name}_")
    } else if KEYWORDS.contains(&name) {
        format!("r#{name}")
    } else {
        name.to_owned()
    }
}
