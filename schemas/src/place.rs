//! Where in a JSON text a path such as `$.fields[3].type` leads.

use serde_json::value::RawValue;
use std::collections::BTreeMap;

/// As near as the text has it: a path may lead to what is missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Counted from 1.
    pub line: usize,
    /// The fields on the way, joined by dots: `lines.quantity`. Empty for the whole.
    pub field: String,
}

enum Step<'p> {
    Member(&'p str),
    Element(usize),
}

pub fn locate(text: &str, path: &str) -> Place {
    let (mut here, mut names, mut among_fields) = (text, Vec::new(), false);
    for step in steps(path) {
        let Some(next) = part(here, &step) else { break };
        here = next;
        if among_fields {
            names.extend(name(here));
        }
        among_fields = matches!(step, Step::Member("fields"));
    }
    let before = here.as_ptr() as usize - text.as_ptr() as usize; // `here` is a part of `text`
    Place { line: text[..before].matches('\n').count() + 1, field: names.join(".") }
}

/// Those of `.name`, `[7]` and `["a name with dots"]`.
fn steps(path: &str) -> impl Iterator<Item = Step<'_>> {
    let mut rest = path.trim_start_matches('$');
    std::iter::from_fn(move || {
        let (step, after) = if let Some(quoted) = rest.strip_prefix("[\"") {
            let (name, after) = quoted.split_once("\"]")?;
            (Step::Member(name), after)
        } else if let Some(index) = rest.strip_prefix('[') {
            let (index, after) = index.split_once(']')?;
            (Step::Element(index.parse().ok()?), after)
        } else {
            let name = rest.strip_prefix('.')?;
            let (name, after) = name.split_at(name.find(['.', '[']).unwrap_or(name.len()));
            (Step::Member(name), after)
        };
        rest = after;
        Some(step)
    })
}

fn part<'t>(text: &'t str, step: &Step) -> Option<&'t str> {
    let part: &RawValue = match step {
        Step::Member(name) => serde_json::from_str::<BTreeMap<String, &RawValue>>(text).ok()?.remove(*name)?,
        Step::Element(index) => serde_json::from_str::<Vec<&RawValue>>(text).ok()?.get(*index)?,
    };
    Some(part.get())
}

fn name(field: &str) -> Option<String> {
    serde_json::from_str(part(field, &Step::Member("name"))?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_leads_to_a_line_and_a_field_or_as_near_as_there_is() {
        let text =
            "{\"type\": \"record\",\n \"fields\": [\n  {\"name\": \"a\", \"type\": \"int\"},\n  {\"name\": \"lines\",
   \"type\": {\"items\": {\"fields\": [\n    {\"name\": \"quantity\", \"type\":\n \"int\"}]}}}]}";
        let located = |path| {
            let Place { line, field } = locate(text, path);
            format!("{line} {field}")
        };
        let cases = [
            ("$", "1 "),
            ("$.fields[0].type", "3 a"),
            ("$.fields[1]", "4 lines"),
            ("$.fields[1].type.items.fields[0].type", "7 lines.quantity"),
            ("$.fields[1].default", "4 lines"),
            ("$.fields[7]", "2 "),
            ("$.millrace.topic", "1 "),
        ];
        for (path, expected) in cases {
            assert_eq!(located(path), expected, "{path}");
        }
        assert_eq!(locate("{\n \"a.b[0]\": 1,\n \"a\": {} }", "$[\"a.b[0]\"]").line, 2);
        assert_eq!(locate("{", "$.fields"), Place { line: 1, field: String::new() });
    }
}
