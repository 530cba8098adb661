//! The catalogue's pages: plain HTML that loads nothing from elsewhere. No text is trusted, whoever wrote it: each goes
//! through [`Text`], and the answer's policy forbids scripts that are not the gateway's own file.

use super::event;
use super::fields::{Changes, Field, fields, history};
use super::{Consumer, Readers};
use millrace_schemas::{Contract, Contracts};
use serde_json::Value as Json;
use std::fmt::{self, Display, Write as _};

pub(crate) const STYLE: &str = include_str!("page.css");
pub(crate) const SCRIPT: &str = include_str!("page.js");

/// Text as HTML shows it, in an element or in an attribute's quotes.
struct Text<'a>(&'a str);

impl Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for char in self.0.chars() {
            match char {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                other => f.write_char(other)?,
            }
        }
        Ok(())
    }
}

/// The same, with what stands between backquotes as code.
struct Prose<'a>(&'a str);

impl Display for Prose<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, part) in self.0.split('`').enumerate() {
            match at % 2 {
                0 => write!(f, "{}", Text(part))?,
                _ => write!(f, "<code>{}</code>", Text(part))?,
            }
        }
        Ok(())
    }
}

fn page(title: &str, body: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>{}</title>\n\
         <link rel=\"stylesheet\" href=\"/contracts.css\">\n<script src=\"/contracts.js\" defer></script>\n</head>\n\
         <body>\n{body}</body>\n</html>\n",
        Text(title)
    )
}

/// Every type, under its topic.
pub(super) fn list(contracts: &Contracts) -> String {
    let mut body = String::from(
        "<header><h1>Events</h1>\n<p>What may be published and read. For programs: <a href=\"/v1/contracts\">JSON</a>, \
         <a href=\"/v1/openapi.json\">OpenAPI</a> to publish, <a href=\"/v1/asyncapi.json\">AsyncAPI</a> to read.</p>\n\
         <input id=\"search\" type=\"search\" placeholder=\"Search types, topics, fields, owners\" \
         aria-label=\"Search\" hidden></header>\n<main>\n",
    );
    for (topic, cleanup) in contracts.topics() {
        let of_topic: String =
            contracts.iter().filter(|contract| contract.topic == topic).map(|contract| entry(contract)).collect();
        let kept = if cleanup.to_string() == "compact" { "the newest of each key is kept" } else { "facts" };
        let owners =
            contracts.iter().find(|contract| contract.topic == topic).map(|contract| contract.owners.join("; "));
        let owned = owners.filter(|owners| !owners.is_empty()).map(|owners| format!(" · {owners}")).unwrap_or_default();
        body += &format!(
            "<section>\n<h2>{} <small>{kept}{}</small></h2>\n<ul>\n{of_topic}</ul>\n</section>\n",
            Text(&topic),
            Text(&owned)
        );
    }
    body += "<p id=\"nothing\" hidden>Nothing has all of these words.</p>\n</main>\n";
    page("Events", &body)
}

/// Found by all that it says, and by its fields' names.
fn entry(contract: &Contract) -> String {
    let (event_type, topic) = (&contract.event_type, &contract.topic);
    let fields = fields(contract.newest());
    let names: Vec<&str> = fields.iter().map(|field| field.path.as_str()).collect();
    let owners = contract.owners.join(" ");
    let words = format!("{event_type} {topic} {owners} {} {}", contract.doc(), names.join(" ")).to_lowercase();
    let personal = if fields.iter().any(|field| field.pii.is_some()) { PERSONAL } else { "" };
    format!(
        "<li data-words=\"{}\"><a href=\"/contracts/{}\">{}</a>{personal} <span>{}</span></li>\n",
        Text(&words),
        Text(event_type),
        Text(event_type),
        Prose(contract.doc())
    )
}

const PERSONAL: &str = " <b class=\"personal\">personal data</b>";

/// All about one type.
pub(super) fn one(contract: &Contract, readers: &Readers) -> String {
    let event_type = &contract.event_type;
    let body = format!(
        "<header><p><a href=\"/contracts\">Events</a></p>\n<h1>{}</h1>\n<p>{}</p></header>\n<main>\n{}{}{}{}{}</main>\n",
        Text(event_type),
        Prose(contract.doc()),
        facts(contract, readers),
        fields_table(contract),
        examples(contract),
        versions(&history(contract)),
        programs(contract),
    );
    page(event_type, &body)
}

fn facts(contract: &Contract, readers: &Readers) -> String {
    let mut facts = String::from("<dl>\n");
    let mut fact = |name: &str, value: &dyn Display| facts += &format!("<dt>{name}</dt><dd>{value}</dd>\n");
    fact("Topic", &format!("{}, {}", code(&contract.topic), kept(contract)));
    match &contract.owners[..] {
        [] => fact("Owned by", &"nobody that this project names"),
        owners => fact("Owned by", &list_of(owners.iter().map(|owner| Text(owner)))),
    }
    fact("Key", &format!("{}: all events of one {0} are in order", code(&contract.key)));
    if let Some(subject) = &contract.erases {
        fact("Erases", &format!("the personal data of whom {} names", code(subject)));
    }
    fact("Schema subject", &code(&contract.subject()));
    fact("For analysts", &code(&format!("events.{}", contract.table())));
    let reads = |Consumer { name, does }: &Consumer| format!("{}: {}", code(name), Prose(does));
    match &readers.consumers[..] {
        [] => fact("Read by", &"nobody that this project tells of"),
        some => fact("Read by", &list_of(some.iter().map(reads))),
    }
    if !readers.metrics.is_empty() {
        fact("Counts in", &list_of(readers.metrics.iter().map(|metric| code(&format!("metrics.{metric}")))));
    }
    facts + "</dl>\n"
}

fn list_of(items: impl Iterator<Item = impl Display>) -> String {
    format!("<ul>{}</ul>", items.map(|item| format!("<li>{item}</li>")).collect::<String>())
}

fn kept(contract: &Contract) -> &'static str {
    match contract.cleanup {
        millrace_schemas::Cleanup::Delete => "facts, kept for a time",
        millrace_schemas::Cleanup::Compact => "states, of which the newest of each key is kept",
    }
}

fn code(text: &str) -> String {
    format!("<code>{}</code>", Text(text))
}

fn fields_table(contract: &Contract) -> String {
    let rows: String = fields(contract.newest()).iter().map(|field| row(field, contract)).collect();
    format!(
        "<h2>Fields</h2>\n<div class=\"wide\"><table>\n<thead><tr><th>Field</th><th>Type</th><th>Default</th>\
         <th>Meaning</th></tr></thead>\n<tbody>\n{rows}</tbody>\n</table></div>\n"
    )
}

fn row(field: &Field, contract: &Contract) -> String {
    let default = match &field.default {
        Some(default) => code(&default.to_string()),
        None => "required".into(),
    };
    let mut marks = String::new();
    if field.path == contract.key {
        marks += " <b>key</b>";
    }
    if let Some(unit) = &field.unit {
        marks += &format!(" <b>{} units</b>", Text(unit));
    }
    if let Some(subject) = &field.pii {
        marks += &format!(" <b class=\"personal\">personal data of {}</b>", Text(subject));
    }
    format!(
        "<tr><th scope=\"row\"><code>{}</code></th><td>{}</td><td>{default}</td><td>{}{marks}</td></tr>\n",
        Breakable(&field.path),
        Text(&field.kind),
        Prose(&field.doc)
    )
}

/// A path, which may go on in the next line behind a dot.
struct Breakable<'a>(&'a str);

impl Display for Breakable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = self.0.split('.');
        write!(f, "{}", Text(parts.next().unwrap_or_default()))?;
        parts.try_for_each(|part| write!(f, ".<wbr>{}", Text(part)))
    }
}

fn examples(contract: &Contract) -> String {
    format!(
        "<h2>Example</h2>\n<p>As <code>POST /v1/events</code> takes it with \
         <code>content-type: application/cloudevents+json</code>; a new event takes a new <code>id</code>.</p>\n{}",
        pretty(&event(contract))
    )
}

fn pretty(json: &Json) -> String {
    format!("<pre tabindex=\"0\">{}</pre>\n", Text(&format!("{json:#}")))
}

/// Newest first.
fn versions(history: &[Changes]) -> String {
    let version = |Changes { version, changes }: &Changes| {
        let changes: String = match &changes[..] {
            [] if *version == 1 => "<li>the first</li>".into(),
            [] => "<li>nothing that a sender or a reader would notice</li>".into(),
            some => some.iter().map(|change| format!("<li>{}</li>", Prose(change))).collect(),
        };
        format!("<dt>{version}</dt><dd><ul>{changes}</ul></dd>\n")
    };
    let versions: String = history.iter().rev().map(version).collect();
    format!("<h2>Versions</h2>\n<dl class=\"versions\">\n{versions}</dl>\n")
}

fn programs(contract: &Contract) -> String {
    let event_type = Text(&contract.event_type);
    let avro = |version: &millrace_schemas::Version| {
        format!(", <a href=\"/v1/contracts/{event_type}/versions/{0}\">Avro schema of version {0}</a>", version.number)
    };
    let files: String = contract.versions().iter().rev().map(avro).collect();
    format!(
        "<h2>For programs</h2>\n<p><a href=\"/v1/contracts/{event_type}\">All of this as JSON</a>{files}</p>\n\
         <details><summary>The data as JSON Schema</summary>\n{}</details>\n",
        pretty(&contract.json_schema())
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::tests::project;
    use serde_json::json;

    const HOSTILE: &str = r#"</pre><script>alert(1)</script><img src=x onerror="alert(2)">'`<b>`&amp;"#;

    #[test]
    fn whatever_a_contract_says_the_page_shows_it_and_does_nothing_of_it() {
        let id = json!({ "name": "id", "type": "string", "doc": HOSTILE });
        let note = json!({ "name": "note", "type": "string", "doc": HOSTILE, "default": HOSTILE, "pii": "id" });
        let first = [id.clone()];
        let second = [id, note];
        let (directory, _) = project(&[&first, &second], &json!({ "id": HOSTILE, "note": HOSTILE }));
        std::fs::write(directory.path().join("owners.json"), json!({ "it.*": [HOSTILE] }).to_string()).unwrap();
        let contracts = Contracts::load(directory.path()).unwrap();
        let consumers = vec![Consumer { name: HOSTILE.into(), does: HOSTILE.into() }];
        let readers = Readers { consumers, metrics: vec![HOSTILE.into()] };
        let contract = contracts.get("it.happened").unwrap();
        assert_eq!(contract.owners, [HOSTILE]);
        let pages = [one(contract, &readers), list(&contracts)];
        for page in pages {
            let (elements, own) =
                (page.matches("<script").count(), page.matches(r#"<script src="/contracts.js""#).count());
            assert_eq!((elements, own), (1, 1), "{page}");
            assert!(!page.contains("<img") && !page.contains("onerror=\""), "{page}");
            assert_eq!(page.matches("<pre").count(), page.matches("</pre>").count(), "{page}");
        }
    }

    #[test]
    fn a_page_names_the_key_whose_data_is_personal_and_what_versions_changed() {
        let contracts = Contracts::embedded().unwrap();
        let page = one(contracts.get("user.registered").unwrap(), &Readers::default());
        let owner = "<dt>Owned by</dt><dd><ul><li>Shop, shop@example.com</li></ul></dd>";
        for told in ["<b>key</b>", "personal data of user_id", "shop.account.v1", "<li>the first</li>", owner] {
            assert!(page.contains(told), "{told}");
        }
        let id = json!({ "name": "id", "type": "string", "doc": "It." });
        let colour = json!({ "name": "colour", "type": "string", "doc": "It.", "default": "red" });
        let (first, second) = ([id.clone()], [id, colour]);
        let (_directory, project) = project(&[&first, &second], &json!({ "id": "1", "colour": "blue" }));
        let page = one(project.get("it.happened").unwrap(), &Readers::default());
        let second =
            "<dt>2</dt><dd><ul><li>added <code>colour</code>: string, &quot;red&quot; when left out</li></ul></dd>";
        assert!(page.contains(second), "{page}");
        assert!(list(&contracts).contains(r#"<a href="/contracts/order.placed">order.placed</a>"#));
    }
}
