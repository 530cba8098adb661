//! Rules: which event calls whom. One YAML file each; read, checked against the contracts, never executed.

use crate::webhook;
use include_dir::{Dir, include_dir};
use millrace_schemas::Contracts;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;
use std::sync::Arc;

/// The reference project's rules, used where a project brings none.
static EMBEDDED: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/rules");

/// A rule is a few lines; a larger file is something else.
const FILE_BYTES_MAX: usize = 64 << 10;
/// One screen after another: more rules than this are generated, and want another design.
const RULES_MAX: usize = 1_000;
/// As long as a label may be before it breaks a table.
const NAME_CHARS_MAX: usize = 63;

/// "When this happens, tell them."
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// The file's name, and part of every delivery's identity: renaming a rule makes it a new one.
    pub name: String,
    pub doc: String,
    /// The event type it waits for, and the topic that type travels in.
    pub on: String,
    pub topic: String,
    pub channel: String,
    /// A name in the configuration; addresses and secrets have no place in a rule.
    pub endpoint: String,
}

/// A rule that can't be used: which file, which key, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleError {
    /// Relative to the project's `sinks/rules` directory.
    pub file: String,
    /// Empty when it is the whole file.
    pub key: String,
    pub message: String,
}

impl fmt::Display for RuleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, key, message } = self;
        if key.is_empty() { write!(f, "{file}: {message}") } else { write!(f, "{file} `{key}`: {message}") }
    }
}

impl std::error::Error for RuleError {}

/// What a file may say.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleFile {
    name: String,
    doc: String,
    on: String,
    channel: String,
    endpoint: String,
}

/// All rules of a project, by the event type they wait for. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Rules(Arc<BTreeMap<String, Vec<Rule>>>);

impl Rules {
    /// The reference project's.
    ///
    /// # Errors
    /// When they don't fit these contracts: a project with contracts of its own has rules of its own.
    pub fn embedded(contracts: &Contracts) -> Result<Self, Vec<RuleError>> {
        let file = |(path, bytes): (&Path, &[u8])| (path.display().to_string(), bytes.to_vec());
        Self::from_files(&Self::embedded_files().map(file).collect(), contracts)
    }

    /// The same as files, in the project's `sinks/rules`.
    pub fn embedded_files() -> impl Iterator<Item = (&'static Path, &'static [u8])> {
        EMBEDDED.files().map(|file| (file.path(), file.contents()))
    }

    /// Reads `*.yaml` in a directory. A directory that isn't there holds no rules.
    ///
    /// # Errors
    /// Everything wrong in every file, not only the first.
    pub fn load(directory: &Path, contracts: &Contracts) -> Result<Self, Vec<RuleError>> {
        let files = read_directory(directory).map_err(|error| vec![error])?;
        Self::from_files(&files, contracts)
    }

    fn from_files(files: &BTreeMap<String, Vec<u8>>, contracts: &Contracts) -> Result<Self, Vec<RuleError>> {
        if files.len() > RULES_MAX {
            let message = format!("{} rules, at most {RULES_MAX} are read", files.len());
            return Err(vec![RuleError { file: "rules".into(), key: String::new(), message }]);
        }
        let (mut rules, mut errors) = (BTreeMap::<String, Vec<Rule>>::new(), Vec::new());
        for (file, bytes) in files {
            match parse(file, bytes).and_then(|parsed| check(file, parsed, contracts)) {
                Ok(rule) => rules.entry(rule.on.clone()).or_default().push(rule),
                Err(found) => errors.extend(found),
            }
        }
        if errors.is_empty() { Ok(Self(Arc::new(rules))) } else { Err(errors) }
    }

    /// In the order of event types, then of names.
    pub fn iter(&self) -> impl Iterator<Item = &Rule> {
        self.0.values().flatten()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn on(&self, event_type: &str) -> &[Rule] {
        self.0.get(event_type).map_or(&[], Vec::as_slice)
    }

    /// What a pipeline must read, each topic once.
    pub(crate) fn topics(&self) -> Vec<String> {
        self.iter().map(|rule| rule.topic.clone()).collect::<BTreeSet<_>>().into_iter().collect()
    }
}

fn read_directory(directory: &Path) -> Result<BTreeMap<String, Vec<u8>>, RuleError> {
    let unreadable = |path: &Path, error: &std::io::Error| RuleError {
        file: path.display().to_string(),
        key: String::new(),
        message: format!("could not be read: {error}"),
    };
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(unreadable(directory, &error)),
    };
    let mut files = BTreeMap::new();
    for entry in entries {
        let path = entry.map_err(|error| unreadable(directory, &error))?.path();
        if is_rule(&path) {
            let bytes = std::fs::read(&path).map_err(|error| unreadable(&path, &error))?;
            files.insert(path.file_name().unwrap_or_default().to_string_lossy().into_owned(), bytes);
        }
    }
    Ok(files)
}

/// `.yml` is taken in too, to be refused by name rather than passed over in silence.
fn is_rule(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml")
}

fn parse(file: &str, bytes: &[u8]) -> Result<RuleFile, Vec<RuleError>> {
    let whole = |message: String| vec![RuleError { file: file.to_owned(), key: String::new(), message }];
    if bytes.len() > FILE_BYTES_MAX {
        return Err(whole(format!("{} bytes, at most {FILE_BYTES_MAX} are read", bytes.len())));
    }
    let text = std::str::from_utf8(bytes).map_err(|error| whole(format!("is not UTF-8 text: {error}")))?;
    serde_saphyr::from_str(text).map_err(|error| whole(said(&error)))
}

/// One line, without the excerpt that the parser would draw.
fn said(error: &serde_saphyr::Error) -> String {
    let error = error.without_snippet().render_with_formatter(&serde_saphyr::UserMessageFormatter);
    error.lines().collect::<Vec<_>>().join(" ")
}

/// The four things a rule must agree with: its file, the contracts, the channels, and itself.
fn check(file: &str, parsed: RuleFile, contracts: &Contracts) -> Result<Rule, Vec<RuleError>> {
    let mut errors = Vec::new();
    let mut wrong =
        |key: &str, message: String| errors.push(RuleError { file: file.to_owned(), key: key.to_owned(), message });
    let RuleFile { name, doc, on, channel, endpoint } = parsed;
    if !is_name(&name) {
        wrong("name", format!("`{name}` must begin with a lower-case letter and go on with those, digits and _"));
    } else if file != format!("{name}.yaml") {
        wrong("name", format!("`{name}` belongs into {name}.yaml: a rule is named like its file"));
    }
    if doc.trim().is_empty() {
        wrong("doc", "say in a sentence whom this tells what, and why".into());
    }
    if channel != webhook::NAME {
        wrong("channel", format!("there is no channel `{channel}`; there is `{}`", webhook::NAME));
    }
    if !is_name(&endpoint) {
        let what = "must be the name of an endpoint in the configuration: lower-case letters, digits and _";
        wrong("endpoint", format!("`{endpoint}` {what}"));
    }
    let contract = contracts.get(&on);
    if contract.is_none() {
        wrong("on", format!("no contract describes the event type `{on}`{}", nearest(&on, contracts)));
    }
    match contract {
        Some(contract) if errors.is_empty() => {
            Ok(Rule { name, doc, on, topic: contract.topic.clone(), channel, endpoint })
        }
        _ => Err(errors),
    }
}

/// One word in files, configuration, environment, labels and tables.
pub(crate) fn is_name(name: &str) -> bool {
    name.len() <= NAME_CHARS_MAX
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}

fn nearest(wanted: &str, contracts: &Contracts) -> String {
    let known = contracts.iter().map(|contract| contract.event_type.as_str());
    let nearest = known.max_by(|a, b| strsim::jaro(wanted, a).total_cmp(&strsim::jaro(wanted, b)));
    nearest.map(|known| format!("; the nearest is `{known}`")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "name: r\ndoc: Tells them.\non: order.placed\nchannel: webhook\nendpoint: shop\n";

    fn rules(files: &[(&str, &str)]) -> Result<Rules, Vec<String>> {
        let files = files.iter().map(|(name, text)| ((*name).to_owned(), text.as_bytes().to_vec())).collect();
        let said = |errors: Vec<RuleError>| errors.iter().map(RuleError::to_string).collect();
        Rules::from_files(&files, &Contracts::embedded().unwrap()).map_err(said)
    }

    fn errors(file: &str, text: &str) -> Vec<String> {
        rules(&[(file, text)]).unwrap_err()
    }

    #[test]
    fn the_shipped_rules_fit_the_shipped_contracts() {
        let rules = Rules::embedded(&Contracts::embedded().unwrap()).unwrap();
        let named: Vec<_> =
            rules.iter().map(|rule| (rule.name.as_str(), rule.on.as_str(), rule.endpoint.as_str())).collect();
        assert_eq!(named, [("payment_failed", "payment.failed", "shop_backoffice")]);
        assert_eq!(rules.topics(), ["shop.order.v1"]);
        assert!(rules.on("order.placed").is_empty());
    }

    #[test]
    fn a_directory_of_rules_is_read_and_one_that_is_missing_is_empty() {
        let directory = tempfile::tempdir().unwrap();
        let contracts = Contracts::embedded().unwrap();
        std::fs::write(directory.path().join("r.yaml"), GOOD).unwrap();
        std::fs::write(directory.path().join("notes.md"), "not a rule").unwrap();
        assert_eq!(Rules::load(directory.path(), &contracts).unwrap().iter().count(), 1);
        assert!(Rules::load(&directory.path().join("missing"), &contracts).unwrap().is_empty());
    }

    #[test]
    fn every_mistake_is_reported_with_its_file_and_key_at_once() {
        let bad = "name: Other\ndoc: ' '\non: order.plced\nchannel: pigeon\nendpoint: Shop-1\n";
        assert_eq!(
            errors("r.yaml", bad),
            [
                "r.yaml `name`: `Other` must begin with a lower-case letter and go on with those, digits and _",
                "r.yaml `doc`: say in a sentence whom this tells what, and why",
                "r.yaml `channel`: there is no channel `pigeon`; there is `webhook`",
                "r.yaml `endpoint`: `Shop-1` must be the name of an endpoint in the configuration: lower-case letters, digits and _",
                "r.yaml `on`: no contract describes the event type `order.plced`; the nearest is `order.placed`",
            ]
        );
    }

    #[test]
    fn a_rule_is_named_like_its_file() {
        let other = errors("other.yaml", GOOD);
        assert_eq!(other, ["other.yaml `name`: `r` belongs into r.yaml: a rule is named like its file"]);
        assert_eq!(errors("r.yml", GOOD).len(), 1);
    }

    #[test]
    fn what_is_not_a_rule_at_all_is_one_clear_line() {
        for (text, part) in [
            ("name: r\n", "doc"),
            (&format!("{GOOD}whem: x\n"), "whem"),
            (&format!("{GOOD}name: twice\n"), "name"),
            ("- a\n- b\n", "r.yaml"),
            ("name: [\n", "r.yaml"),
            ("", "r.yaml"),
        ] {
            let errors = errors("r.yaml", text);
            assert!(errors.len() == 1 && errors[0].contains(part) && !errors[0].contains('\n'), "{errors:?}");
        }
    }
}
