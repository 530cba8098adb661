//! Runs become medians, one table for people and one JSON file for programs.

use crate::processes::machine;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

/// What one run measured, by name; the unit is part of the name.
pub type Figures = BTreeMap<&'static str, f64>;

/// Columns of the table, and what is written above them. One that nothing was measured for is left out.
const COLUMNS: [(&str, &str); 30] = [
    ("ratio", "ratio"),
    ("views_ms", "through views ms"),
    ("plain_ms", "plain tables ms"),
    ("views_cpu_ms", "views CPU ms"),
    ("plain_cpu_ms", "plain CPU ms"),
    ("p50_ms", "p50 ms"),
    ("p90_ms", "p90 ms"),
    ("p99_ms", "p99 ms"),
    ("max_ms", "max ms"),
    ("looks_per_s", "looks/s"),
    ("requests_per_s", "requests/s"),
    ("events_per_s", "events/s"),
    ("client_cpu_s_per_million", "client CPU s/M"),
    ("clickhouse_cpu_s_per_million", "ClickHouse CPU s/M"),
    ("clickhouse_cpu_s_per_million_with_merges", "with merges s/M"),
    ("inserts", "inserts"),
    ("parts_inserted", "parts"),
    ("inserted_bytes", "bytes inserted"),
    ("inserted_bytes_on_disk", "bytes on disk"),
    ("postgres_cpu_s_per_million", "Postgres CPU s/M"),
    ("kafka_cpu_s_per_million", "Kafka CPU s/M"),
    ("load_cpu_s_per_million", "load CPU s/M"),
    ("connections", "connections"),
    ("accepted_per_s", "accepted/s"),
    ("refused_per_s", "refused/s"),
    ("rss_median_mb", "median RSS MB"),
    ("client_peak_rss_mb", "peak RSS MB"),
    ("rss_growth_mb_per_minute", "RSS growth MB/min"),
    ("arrived_s", "arrived after s"),
    ("others_cores", "others' cores"),
];

/// Everything measured so far.
pub struct Report {
    name: String,
    settings: Value,
    machine: Value,
    subjects: Vec<Subject>,
}

/// One thing that was run several times.
struct Subject {
    group: String,
    name: String,
    runs: Vec<Figures>,
}

impl Report {
    pub fn new(name: &str, settings: Value) -> Self {
        Self { name: name.to_owned(), settings, machine: machine(), subjects: Vec::new() }
    }

    pub fn add(&mut self, group: &str, name: &str, run: Figures) {
        let known = self.subjects.iter().position(|subject| (&*subject.group, &*subject.name) == (group, name));
        let at = known.unwrap_or_else(|| {
            self.subjects.push(Subject { group: group.to_owned(), name: name.to_owned(), runs: Vec::new() });
            self.subjects.len() - 1
        });
        let measured = COLUMNS.iter().filter_map(|(figure, head)| Some(format!("{} {head}", shown(*run.get(figure)?))));
        eprintln!("{group:<18} {name:<32} {}", measured.collect::<Vec<_>>().join(", "));
        self.subjects[at].runs.push(run);
    }

    /// One line a subject: medians, each with the least and the greatest of its runs.
    pub fn print(&self) {
        println!("{}", self.machine);
        println!("{}: {}; median (least–greatest)", commit(), self.settings);
        let measured = |figure: &str| self.subjects.iter().any(|subject| subject.median(figure).is_some());
        let columns: Vec<_> = COLUMNS.into_iter().filter(|(figure, _)| measured(figure)).collect();
        let heads: Vec<String> = columns.iter().map(|(_, head)| format!("{head:>26}")).collect();
        println!("{:<50}{}", "", heads.concat());
        for subject in &self.subjects {
            let cells: Vec<String> =
                columns.iter().map(|(figure, _)| format!("{:>26}", subject.cell(figure))).collect();
            println!("{:<50}{}", format!("{}: {}", subject.group, subject.name), cells.concat());
        }
    }

    /// Writes `target/bench/<name>.json`.
    pub fn write(&self, ratios: &Value) -> anyhow::Result<PathBuf> {
        let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).with_file_name("bench");
        std::fs::create_dir_all(&directory)?;
        let file = directory.join(format!("{}.json", self.name));
        let by_subject = |of: fn(&Subject) -> Value| {
            let mut groups = BTreeMap::<&str, BTreeMap<&str, Value>>::new();
            for subject in &self.subjects {
                groups.entry(&subject.group).or_default().insert(&subject.name, of(subject));
            }
            json!(groups)
        };
        let all = json!({
            "machine": self.machine,
            "commit": commit(),
            "settings": self.settings,
            "runs": by_subject(|subject| json!(subject.runs)),
            "medians": by_subject(|subject| json!(subject.medians())),
            "ratios": ratios,
        });
        std::fs::write(&file, serde_json::to_vec_pretty(&all)?)?;
        Ok(file)
    }

    /// How much of another subject's figure this one reaches.
    pub fn ratio(&self, group: &str, (subject, other): (&str, &str), figure: &str) -> Option<f64> {
        let median = |name: &str| self.find(group, name)?.median(figure);
        Some(rounded(median(subject)? / median(other)?))
    }

    /// A figure's median of every subject in a group.
    pub fn medians(&self, group: &str, figure: &str) -> BTreeMap<&str, f64> {
        let subjects = self.subjects.iter().filter(|subject| subject.group == group);
        subjects.filter_map(|subject| Some((&*subject.name, rounded(subject.median(figure)?)))).collect()
    }

    fn find(&self, group: &str, name: &str) -> Option<&Subject> {
        self.subjects.iter().find(|subject| (&*subject.group, &*subject.name) == (group, name))
    }
}

impl Subject {
    fn sorted(&self, figure: &str) -> Vec<f64> {
        let mut values: Vec<f64> = self.runs.iter().filter_map(|run| run.get(figure).copied()).collect();
        values.sort_by(f64::total_cmp);
        values
    }

    fn median(&self, figure: &str) -> Option<f64> {
        let values = self.sorted(figure);
        let middle = values.len() / 2;
        match values.len() {
            0 => None,
            even if even % 2 == 0 => Some(f64::midpoint(values[middle - 1], values[middle])),
            _ => Some(values[middle]),
        }
    }

    fn medians(&self) -> Figures {
        let names = self.runs.iter().flat_map(BTreeMap::keys);
        names.filter_map(|name| Some((*name, self.median(name)?))).collect()
    }

    fn cell(&self, figure: &str) -> String {
        let values = self.sorted(figure);
        let (Some(median), [least, .., greatest]) = (self.median(figure), &values[..]) else {
            return self.median(figure).map_or_else(|| "–".to_owned(), shown);
        };
        format!("{} ({}–{})", shown(median), shown(*least), shown(*greatest))
    }
}

fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

fn shown(value: f64) -> String {
    if value.abs() >= 100.0 { format!("{value:.0}") } else { format!("{value:.2}") }
}

/// What was built, as far as git knows.
fn commit() -> String {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).output().ok();
        output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
    };
    let changed = !git(&["status", "--porcelain", "--untracked-files=no"]).is_empty();
    format!("{}{}", git(&["rev-parse", "--short", "HEAD"]), if changed { " with changes" } else { "" })
}
