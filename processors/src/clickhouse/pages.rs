//! The documentation's pages on metrics, one each, made from the files that define them.

use super::analytics::{Analytics, Example, Metric};
use super::table::METRICS;
use std::collections::BTreeMap;

/// Text by file name, for `docs/analytics`.
pub fn pages(analytics: &Analytics) -> BTreeMap<String, String> {
    let mut pages: BTreeMap<String, String> =
        analytics.iter().map(|metric| (format!("{}.md", metric.name), page(metric))).collect();
    pages.insert("README.md".to_owned(), index(analytics));
    pages
}

fn page(metric: &Metric) -> String {
    let Metric { name, definition, example, select } = metric;
    let file = format!("processors/analytics/{name}.sql");
    let example = example.as_ref().map(section).unwrap_or_default();
    format!(
        "<!-- Made from {file} by `make pages`. -->\n\n# {METRICS}.{name}\n\n{definition}\n\n{example}## In SQL\n\n\
         The view is this SELECT, from [{file}](../../{file}):\n\n```sql\n{select}\n```\n"
    )
}

fn section(example: &Example) -> String {
    let Example { question, query } = example;
    let mut letters = question.trim_end_matches('.').chars();
    let first: String = letters.next().into_iter().flat_map(char::to_uppercase).collect();
    let rest = letters.as_str();
    format!("## Example\n\n{first}{rest}:\n\n```sql\n{query}\n```\n\n")
}

fn index(analytics: &Analytics) -> String {
    let line = |metric: &Metric| {
        let Metric { name, definition, .. } = metric;
        let meaning = definition.split("\n\n").next().unwrap_or_default();
        format!("| [`{METRICS}.{name}`]({name}.md) | {} |\n", meaning.replace('|', "\\|"))
    };
    format!(
        "<!-- Made from processors/analytics by `make pages`. -->\n\n# Business metrics\n\n\
         What the numbers mean. Each is defined once, as SQL, and compared with an independent computation over the same \
         events by `millrace simulate --verify` and by the tests. Days are UTC; amounts are in minor units of their \
         currency, and nothing is summed across currencies. A number is about when things happened, not when they were \
         told: an event that arrives late changes the days it belongs to.\n\n\
         | view | means |\n|---|---|\n{}",
        analytics.iter().map(line).collect::<String>()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    /// `make pages` writes them.
    #[test]
    fn the_pages_in_docs_are_those_of_the_metrics() {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/analytics");
        let pages = pages(&Analytics::embedded().unwrap());
        if std::env::var_os("MILLRACE_WRITE_PAGES").is_some() {
            std::fs::create_dir_all(&directory).unwrap();
            pages.iter().for_each(|(name, text)| std::fs::write(directory.join(name), text).unwrap());
        }
        for (name, text) in &pages {
            let found = std::fs::read_to_string(directory.join(name)).unwrap_or_default();
            assert!(found == *text, "docs/analytics/{name} is stale: run `make pages`");
        }
        let found = std::fs::read_dir(&directory).unwrap().count();
        assert_eq!(found, pages.len(), "docs/analytics has a page of no metric: remove it");
    }

    #[test]
    fn every_reference_metric_has_an_example_over_itself() {
        for metric in Analytics::embedded().unwrap().iter() {
            let query = metric.example.as_ref().map_or("", |example| &example.query);
            assert!(query.contains(&format!("metrics.{}", metric.name)), "{}: {query}", metric.name);
        }
    }
}
