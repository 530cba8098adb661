//! Our answers about schemas, held against Avro's Java library, over thousands of generated histories.
//!
//! Confluent's registry asks the same checker of that library. Both sides are asked for every pair of versions and for
//! every mode; where they differ, [`WE_DIFFER`] has the rule by which we do, or the test fails.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test that can't go on panics, and prints its seed")]

mod generate;

use apache_avro::Schema;
use generate::Generator;
use millrace_schemas::compatibility::{Incompatibility, Mode, can_read, check};
use serde_json::Value as Json;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

const HISTORIES: usize = 4000;
/// In the judge's order.
const MODES: [Mode; 6] = [
    Mode::Backward,
    Mode::BackwardTransitive,
    Mode::Forward,
    Mode::ForwardTransitive,
    Mode::Full,
    Mode::FullTransitive,
];
/// The goal's version too is pinned: it decides which jars are chosen.
const MAVEN_GOAL: &str = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies";
const HERE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/differential");

/// One reader and one writer, as all three see them.
struct Pair<'a> {
    ours: Vec<Incompatibility>,
    /// `y`, `n`, or `x` where it throws.
    checker: char,
    resolver: char,
    reader: &'a Json,
    writer: &'a Json,
}

/// What the judge's libraries do otherwise than we, on purpose.
type Rule = (&'static str, fn(&Pair) -> bool);
const WE_DIFFER: &[Rule] = &[
    // Avro resolves the types beneath, and so reads milliseconds as microseconds, and 1.25 as 12.5.
    ("a logical type is not read as another one, nor a decimal with another scale", |pair| {
        pair.checker == 'y' && !pair.ours.is_empty() && pair.ours.iter().all(is_about_logical_types)
    }),
    // The checker is content with any branch of a reader's union that fits. The specification takes the first that is
    // called so, whether it fits or not; and so does the resolver, which reads data. Symbols it leaves to the data.
    ("a reader's union is read by its first branch of the writer's name", |pair| {
        let is_refused = pair.resolver != 'y'
            || pair.ours.iter().all(|found| found.rule == "enum-symbols" || is_about_logical_types(found));
        let is_by_name = pair.ours.iter().any(is_in_a_union) && chooses_by_name(pair.reader);
        pair.checker == 'y' && is_refused && is_by_name
    }),
    // It throws at a branch in which an alias meets two fields, though nobody reads by it.
    ("a reader's union is read whatever the checker makes of its other branches", |pair| {
        pair.checker == 'x' && pair.resolver == 'y' && pair.ours.is_empty()
    }),
];
/// What the last two rules are about is drawn once in some ten thousand histories: kept, so that each run asks it.
const KEPT: [[&str; 2]; 2] = [
    [
        r#"[{"type": "fixed", "name": "n.A", "size": 5}]"#,
        r#"[{"type": "fixed", "name": "n.A", "size": 6}, {"type": "fixed", "name": "m.A", "size": 5}]"#,
    ],
    [
        r#"{"type": "record", "name": "n.A", "fields": [{"name": "b", "type": ["n.A",
            {"type": "record", "name": "n.B", "fields": [
                {"name": "a", "type": "int", "default": 0}, {"name": "b", "type": "int", "default": 0}]}]}]}"#,
        r#"{"type": "record", "name": "n.A", "fields": [{"name": "a", "aliases": ["b"], "type": ["n.A",
            {"type": "record", "name": "n.B", "fields": [
                {"name": "a", "type": "int", "default": 0}, {"name": "b", "type": "int", "default": 0}]}]}]}"#,
    ],
];

fn is_about_logical_types(found: &Incompatibility) -> bool {
    ["logical-type", "decimal"].contains(&found.rule)
}

fn explanation(pair: &Pair) -> Option<&'static str> {
    WE_DIFFER.iter().find(|(_, explains)| explains(pair)).map(|(name, _)| *name)
}

fn is_in_a_union(found: &Incompatibility) -> bool {
    ["$[", "type[", "items[", "values["].iter().any(|union| found.path.contains(union))
}

/// Whether a union has two types that have names.
fn chooses_by_name(kind: &Json) -> bool {
    let has_name =
        |branch: &&Json| branch["name"].is_string() || branch.as_str().is_some_and(|name| name.contains('.'));
    match kind {
        Json::Array(branches) => branches.iter().filter(has_name).count() > 1 || branches.iter().any(chooses_by_name),
        Json::Object(_) => {
            let mut fields = kind["fields"].as_array().into_iter().flatten();
            ["items", "values", "type"].iter().any(|part| chooses_by_name(&kind[*part]))
                || fields.any(|field| chooses_by_name(&field["type"]))
        }
        _ => false,
    }
}

/// The judge's jars; fetched once a machine.
fn jars() -> PathBuf {
    let jars = Path::new(env!("CARGO_TARGET_TMPDIR")).join("avro-java");
    let lock = File::create(jars.with_extension("lock")).unwrap();
    lock.lock().unwrap(); // two test runs at once fetch them once
    let (pom, made) = (format!("{HERE}/pom.xml"), jars.join("pom.xml"));
    if fs::read(&made).ok() != fs::read(&pom).ok() {
        let _ = fs::remove_dir_all(&jars);
        let output = format!("-DoutputDirectory={}", jars.display());
        let mut maven = Command::new("mvn");
        run(maven.args(["-q", "-B", MAVEN_GOAL, "-DincludeScope=runtime", "-f", &pom, &output]));
        fs::copy(pom, made).unwrap();
    }
    jars
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}; see tools/setup.sh"));
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?} failed: {out}{err}");
    out.into_owned()
}

/// One line for each history: Judge.java says what is in it.
fn judged(histories: &[Vec<Json>]) -> Vec<String> {
    let lines = histories.iter().map(|history| history.iter().map(Json::to_string).collect::<Vec<_>>().join("\t"));
    let asked = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("asked-{}", std::process::id()));
    fs::write(&asked, lines.collect::<Vec<_>>().join("\n")).unwrap();
    let mut java = Command::new("java");
    java.arg("-cp").arg(jars().join("*")).arg(format!("{HERE}/Judge.java")).stdin(File::open(&asked).unwrap());
    let answers = run(&mut java);
    fs::remove_file(asked).unwrap();
    answers.lines().map(str::to_owned).collect()
}

fn parsed(history: &[Json]) -> Vec<Schema> {
    let parse = |json: &Json| Schema::parse_str(&json.to_string()).unwrap_or_else(|error| panic!("{json}: {error}"));
    history.iter().map(parse).collect()
}

/// Every reader with every writer, in the judge's order.
fn pairs<'a>(history: &'a [Json], answer: &str) -> Vec<Pair<'a>> {
    let schemas = parsed(history);
    let both = (0..history.len()).flat_map(|reader| (0..history.len()).map(move |writer| (reader, writer)));
    let both = both.filter(|(reader, writer)| reader != writer);
    let pair = |((reader, writer), verdicts): ((usize, usize), &str)| {
        let (ours, mut verdicts) = (can_read(&schemas[reader], &schemas[writer]), verdicts.chars());
        let (checker, resolver) = (verdicts.next().unwrap(), verdicts.next().unwrap());
        Pair { ours, checker, resolver, reader: &history[reader], writer: &history[writer] }
    };
    both.zip(answer.split(' ')).map(pair).collect()
}

#[test]
fn we_answer_as_avros_own_library_or_by_a_named_rule() {
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut generator = Generator::seeded(seed);
    let kept = KEPT.map(|history| history.map(|text| serde_json::from_str(text).unwrap()).to_vec());
    let histories: Vec<Vec<Json>> = (0..HISTORIES).map(|_| generator.history()).chain(kept).collect();
    let answers = judged(&histories);
    assert_eq!(answers.len(), histories.len());
    let (mut agreed, mut differing, mut unexplained) = (0, BTreeMap::<_, usize>::new(), Vec::new());
    for (history, answer) in histories.iter().zip(&answers) {
        let (of_pairs, of_modes) = answer.split_once('\t').unwrap_or_else(|| panic!("{history:?}: {answer}"));
        let pairs = pairs(history, of_pairs);
        for pair in &pairs {
            match explanation(pair) {
                _ if pair.ours.is_empty() == (pair.checker == 'y') => agreed += 1,
                Some(rule) => *differing.entry(rule).or_default() += 1,
                None => unexplained.push(format!(
                    "{} read by {}: checker {}, resolver {}, we {:?}",
                    pair.writer, pair.reader, pair.checker, pair.resolver, pair.ours
                )),
            }
        }
        // What is explained for a pair says all there is to say about the modes that look at it.
        if pairs.iter().all(|pair| pair.ours.is_empty() == (pair.checker == 'y')) {
            let schemas = parsed(history);
            let (newest, earlier) = schemas.split_last().unwrap();
            let earlier: Vec<&Schema> = earlier.iter().collect();
            let may = |mode: Mode| if check(mode, newest, &earlier).is_empty() { 'y' } else { 'n' };
            assert_eq!(MODES.map(may).iter().collect::<String>(), of_modes.replace('x', "n"), "{history:?}");
            assert_eq!(check(Mode::None, newest, &earlier), []);
        }
    }
    println!("{agreed} pairs agree, {} differ: {differing:?}", differing.values().sum::<usize>());
    let some: Vec<_> = unexplained.iter().take(20).map(String::as_str).collect();
    assert!(unexplained.is_empty(), "{} pairs are not explained:\n{}", unexplained.len(), some.join("\n"));
    assert!(agreed > HISTORIES, "too few pairs were compared");
    assert_eq!(differing.len(), WE_DIFFER.len(), "a rule that nothing needs is to go");
}
