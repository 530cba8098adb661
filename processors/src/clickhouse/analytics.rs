//! Business metrics: `analytics/<name>.sql` becomes the view `metrics.<name>`.
//!
//! A file is a comment that states the definition, then one SELECT over the views in `events`; who may read the metric
//! need not be let read what it reads. Its comment becomes the view's, so whoever finds a number finds what it means; and a page of the documentation, with the query
//! that may follow the definition as an example:
//!
//! ```text
//! -- What the number means. An empty line of comment begins a paragraph.
//! --
//! -- Example: what somebody may want to know.
//! -- select … from metrics.<name>
//! select …
//! ```

use super::column::{quote, text_literal};
use super::names;
use super::table::{METRICS, Tables};
use super::topology::Topology;
use include_dir::{Dir, include_dir};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// The reference project's metrics, used where a project brings none.
static EMBEDDED: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/analytics");

/// All metrics of a project, by name.
#[derive(Debug, Clone, Default)]
pub struct Analytics(BTreeMap<String, Metric>);

/// One view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metric {
    /// `revenue`: the file and the view.
    pub name: String,
    /// What the number means, in paragraphs with an empty line between.
    pub definition: String,
    pub example: Option<Example>,
    pub select: String,
}

/// A query over the metric.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Example {
    /// What it answers.
    pub question: String,
    pub query: String,
}

/// A file that is no metric, and what it lacks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}: {message}")]
pub struct MetricError {
    /// Relative to the project's `processors/analytics` directory.
    pub file: String,
    pub message: String,
}

impl MetricError {
    fn at(path: &Path, message: impl Into<String>) -> Self {
        let file = path.file_name().map_or_else(|| path.display().to_string(), |name| name.display().to_string());
        Self { file, message: message.into() }
    }
}

impl Analytics {
    /// The reference domain's.
    ///
    /// # Errors
    /// Never in a released binary: a test loads them.
    pub fn embedded() -> Result<Self, Vec<MetricError>> {
        Self::of(EMBEDDED.files().map(|file| {
            let text = file.contents_utf8().ok_or_else(|| MetricError::at(file.path(), "it is not UTF-8"))?;
            Metric::parse(file.path(), text)
        }))
    }

    /// The same as files, in the project's `processors/analytics`.
    pub fn embedded_files() -> impl Iterator<Item = (&'static Path, &'static [u8])> {
        EMBEDDED.files().map(|file| (file.path(), file.contents()))
    }

    /// Reads `*.sql` of a directory; other files are left alone.
    ///
    /// # Errors
    /// Every file that is not a metric, not only the first.
    pub fn load(directory: &Path) -> Result<Self, Vec<MetricError>> {
        let unreadable =
            |path: &Path, error| MetricError::at(path, format!("could not read {}: {error}", path.display()));
        let entries = std::fs::read_dir(directory).map_err(|error| vec![unreadable(directory, error)])?;
        let paths: std::io::Result<Vec<_>> = entries.map(|entry| Ok(entry?.path())).collect();
        let mut paths = paths.map_err(|error| vec![unreadable(directory, error)])?;
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "sql"));
        paths.sort_unstable(); // a directory has no order, and what is found must not change its own
        Self::of(paths.iter().map(|path| {
            let text = std::fs::read_to_string(path).map_err(|error| unreadable(path, error))?;
            Metric::parse(path, &text)
        }))
    }

    fn of(metrics: impl Iterator<Item = Result<Metric, MetricError>>) -> Result<Self, Vec<MetricError>> {
        let (mut named, mut errors) = (BTreeMap::new(), Vec::new());
        for metric in metrics {
            match metric {
                Ok(metric) => drop(named.insert(metric.name.clone(), metric)),
                Err(error) => errors.push(error),
            }
        }
        if errors.is_empty() { Ok(Self(named)) } else { Err(errors) }
    }

    /// Every metric that reads a view or a column that the contracts do not have.
    ///
    /// # Errors
    /// All of them, not only the first.
    pub fn check(&self, tables: &Tables) -> Result<(), Vec<MetricError>> {
        let wrong = |metric: &Metric| {
            let file = format!("{}.sql", metric.name);
            names::unknown(&metric.select, tables).map(|message| MetricError { file, message })
        };
        let errors: Vec<_> = self.iter().filter_map(wrong).collect();
        if errors.is_empty() { Ok(()) } else { Err(errors) }
    }

    /// In the order of their names: a metric over another one sorts behind it.
    pub fn iter(&self) -> impl Iterator<Item = &Metric> {
        self.0.values()
    }
}

impl Metric {
    fn parse(path: &Path, text: &str) -> Result<Self, MetricError> {
        let wrong = |message: &str| Err(MetricError::at(path, message));
        let name = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default().to_owned();
        let (comment, select) = split(text);
        let (definition, example) = match comment.split_once("\nExample:") {
            Some((definition, example)) => (definition, Some(Example::parse(example))),
            None => (comment.as_str(), None),
        };
        let definition = paragraphs(definition);
        let first = select.split_whitespace().next().unwrap_or_default().to_lowercase();
        if !is_name(&name) {
            return wrong("name the file as the view: lower-case letters, digits and _");
        }
        if definition.is_empty() {
            return wrong("begin with a comment (-- …) that states what the number means");
        }
        if !["select", "with"].contains(&first.as_str()) {
            return wrong(&format!("after the comment comes one SELECT, not `{first}`"));
        }
        if select.contains(';') {
            return wrong("one SELECT and no semicolon within: it becomes a view");
        }
        if example.as_ref().is_some_and(|example| example.query.is_empty()) {
            return wrong("after `Example: what it answers` comes its query, on lines of its own");
        }
        Ok(Self { name, definition, example, select })
    }

    /// What it reads of `events`, as far as its words tell.
    pub fn views(&self) -> BTreeSet<&str> {
        names::views(&self.select)
    }

    pub(super) fn create_view(&self, topology: &Topology) -> String {
        let (name, comment) = (quote(&self.name), text_literal(&self.definition.replace("\n\n", " ")));
        let on_cluster = topology.on_cluster();
        format!(
            "create or replace view {METRICS}.{name}{on_cluster} definer = current_user sql security definer \
             comment {comment} as {}",
            self.select
        )
    }
}

impl Example {
    fn parse(text: &str) -> Self {
        let (question, query) = text.split_once('\n').unwrap_or((text, ""));
        Self { question: question.trim().to_owned(), query: query.trim().to_owned() }
    }
}

/// The comment lines at the top, without their dashes, and the rest.
fn split(text: &str) -> (String, String) {
    let is_comment = |line: &&str| line.trim_start().starts_with("--") || line.trim().is_empty();
    let comment = text.lines().take_while(is_comment).map(|line| line.trim().trim_start_matches('-').trim());
    let comment = comment.collect::<Vec<_>>().join("\n");
    let select = text.lines().skip_while(is_comment).collect::<Vec<_>>().join("\n");
    (comment, select.trim().trim_end_matches(';').trim_end().to_owned())
}

/// One line each, with an empty line between.
fn paragraphs(text: &str) -> String {
    let joined = text.split("\n\n").map(|paragraph| paragraph.split_whitespace().collect::<Vec<_>>().join(" "));
    joined.filter(|paragraph| !paragraph.is_empty()).collect::<Vec<_>>().join("\n\n")
}

fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}

#[cfg(test)]
mod tests {
    use super::*;
    use millrace_schemas::Contracts;

    fn parse(name: &str, text: &str) -> Result<Metric, MetricError> {
        Metric::parse(Path::new(name), text)
    }

    #[test]
    fn the_reference_metrics_are_metrics() {
        let names: Vec<_> = Analytics::embedded().unwrap().iter().map(|metric| metric.name.clone()).collect();
        let expected = [
            "active_users",
            "churn",
            "conversion",
            "freshness",
            "funnel",
            "mrr",
            "notifications",
            "orders",
            "page_speed",
            "payment_failures",
            "retention",
            "revenue",
        ];
        assert_eq!(names, expected);
    }

    #[test]
    fn the_reference_metrics_read_nothing_that_the_contracts_do_not_have() {
        let tables = Tables::of(&Contracts::embedded().unwrap()).unwrap();
        let metrics = Analytics::embedded().unwrap();
        assert_eq!(metrics.check(&tables), Ok(()));
        assert_eq!(metrics.0["orders"].views(), BTreeSet::from(["order_placed"]));
        let typo = parse("orders.sql", "-- Orders.\nselect sum(totl) as gross from events.order_placed").unwrap();
        let errors = Analytics(BTreeMap::from([("orders".to_owned(), typo)])).check(&tables).unwrap_err();
        assert!(errors[0].to_string().starts_with("orders.sql: `totl` is no column"), "{errors:?}");
    }

    #[test]
    fn an_example_is_a_question_and_its_query_and_no_part_of_the_definition() {
        let text = "-- Orders\n-- of a day.\n--\n-- All of them.\n--\n-- Example: how many?\n-- select sum(x)\n-- from y\nselect 1 as x";
        let metric = parse("orders.sql", text).unwrap();
        assert_eq!(metric.definition, "Orders of a day.\n\nAll of them.");
        assert!(metric.create_view(&Topology::Single).contains("comment 'Orders of a day. All of them.' as select 1"));
        let example = metric.example.unwrap();
        assert_eq!((example.question.as_str(), example.query.as_str()), ("how many?", "select sum(x)\nfrom y"));
        let no_query = parse("x.sql", "-- X\n--\n-- Example: why?\nselect 1").unwrap_err();
        assert!(no_query.to_string().contains("comes its query"));
    }

    #[test]
    fn a_project_brings_its_own_from_a_directory() {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("analytics");
        let loaded: Vec<_> = Analytics::load(&directory).unwrap().iter().cloned().collect();
        assert_eq!(loaded, Analytics::embedded().unwrap().iter().cloned().collect::<Vec<_>>());
        assert!(
            Analytics::load(Path::new("/nowhere/analytics")).unwrap_err()[0].to_string().contains("/nowhere/analytics")
        );
    }

    #[test]
    fn every_file_that_is_no_metric_is_named_not_only_the_first() {
        let files = [("a.sql", "select 1"), ("b.sql", "-- B\nselect 1"), ("c.sql", "-- C\ndrop table y")];
        let errors = Analytics::of(files.iter().map(|(name, text)| parse(name, text))).unwrap_err();
        assert_eq!(errors.iter().map(|error| error.file.as_str()).collect::<Vec<_>>(), ["a.sql", "c.sql"]);
    }

    #[test]
    fn a_files_comment_is_the_views_and_its_name_the_views_name() {
        let metric = parse("a/orders.sql", "-- Orders\n--   a day's.\n\nselect 1 as x\n;\n").unwrap();
        let sql = |topology| metric.create_view(&topology);
        assert_eq!(
            sql(Topology::Single),
            "create or replace view metrics.`orders` definer = current_user sql security definer \
             comment 'Orders a day\\'s.' as select 1 as x"
        );
        assert_eq!(
            sql(Topology::Cluster("main".into())),
            "create or replace view metrics.`orders` on cluster `main` definer = current_user sql security definer \
             comment 'Orders a day\\'s.' as select 1 as x"
        );
    }

    #[test]
    fn what_is_not_a_definition_and_a_select_is_refused() {
        let refused = |name: &str, text: &str| parse(name, text).unwrap_err().to_string();
        assert!(refused("x.sql", "select 1").contains("begin with a comment"));
        assert!(refused("x.sql", "-- X\ndrop table y").contains("one SELECT, not `drop`"));
        assert!(refused("x.sql", "-- X\nselect 1; drop table y").contains("no semicolon"));
        assert!(refused("X y.sql", "-- X\nselect 1").contains("name the file as the view"));
    }
}
