//! `millrace dead-letters`: look at what was set aside, and give it its effect once the cause is gone.
#![allow(clippy::print_stdout, reason = "these commands' output")]

use crate::commands::{Global, roles};
use crate::config::Config;
use crate::exit::Exit;
use base64::{Engine, prelude::BASE64_STANDARD};
use clap::{Args, Subcommand};
use millrace_stream::{DeadLetter, DeadLetterFilter, DeadLetterState, DeadLetters, Record, ReplayOutcome};
use serde_json::{Value, json};

/// Bytes of a value shown to people; `--json` has them all.
const SHOWN_BYTES: usize = 256;

#[derive(Subcommand)]
pub enum Action {
    /// One line each, in the order of the log
    List(Which),
    /// Everything about one: where it was, why, its headers and bytes
    Show { id: i64 },
    /// Run them through their pipeline again; each takes effect once
    Replay(Which),
    /// Give one up, on the record
    Discard { id: i64 },
}

#[derive(Args)]
pub struct Which {
    /// Only this one
    id: Option<i64>,
    /// Only those of this pipeline
    #[arg(long)]
    pipeline: Option<String>,
    /// Only those with this reason
    #[arg(long)]
    reason: Option<String>,
    /// At most this many, the log's oldest first
    #[arg(long, default_value_t = 100)]
    limit: i64,
    /// Also those already replayed, discarded or superseded
    #[arg(long)]
    all: bool,
}

impl Which {
    fn filter(&self) -> DeadLetterFilter {
        DeadLetterFilter {
            id: self.id,
            pipeline: self.pipeline.clone(),
            reason: self.reason.clone(),
            open_only: !self.all,
        }
    }
}

pub async fn run(action: Action, config: &Config, global: &Global) -> Result<(), Exit> {
    let letters = DeadLetters::new(config.postgres.connect().await?);
    match action {
        Action::List(which) => list(&letters, &which, global).await,
        Action::Show { id } => show(&letters, id, config, global).await,
        Action::Replay(which) => replay(&letters, &which, config, global).await,
        Action::Discard { id } => match letters.discard(id).await? {
            true => Ok(()),
            false => Err(Exit::found(format!("no open dead letter has the id {id}"))),
        },
    }
}

async fn list(letters: &DeadLetters, which: &Which, global: &Global) -> Result<(), Exit> {
    let found = letters.list(&which.filter(), which.limit).await?;
    if global.json {
        println!("{}", Value::from_iter(found.iter().map(summary)));
        return Ok(());
    }
    if found.is_empty() {
        println!("none");
    }
    for letter in &found {
        let DeadLetter { id, pipeline, record, reason, error, state, .. } = letter;
        let state = match state {
            DeadLetterState::Open => "",
            DeadLetterState::Replayed => " (replayed)",
            DeadLetterState::Discarded => " (discarded)",
            DeadLetterState::Superseded => " (superseded)",
        };
        println!("{id:>6}  {pipeline:<18} {:<28} {reason}: {error}{state}", record.position.to_string());
    }
    Ok(())
}

async fn one(letters: &DeadLetters, id: i64) -> Result<DeadLetter, Exit> {
    let filter = DeadLetterFilter { id: Some(id), ..Default::default() };
    let found = letters.list(&filter, 1).await?.into_iter().next();
    found.ok_or_else(|| Exit::found(format!("no dead letter has the id {id}")))
}

async fn show(letters: &DeadLetters, id: i64, config: &Config, global: &Global) -> Result<(), Exit> {
    let letter = one(letters, id).await?;
    let event = decoded(&letter.record, config, global).await;
    if global.json {
        let mut whole = summary(&letter);
        whole["key"] = letter.record.key().map(|key| BASE64_STANDARD.encode(key)).into();
        whole["value"] = letter.record.value().map(|value| BASE64_STANDARD.encode(value)).into();
        let pair = |(name, value): (&str, Option<&[u8]>)| json!([name, value.map(readable)]);
        whole["headers"] = letter.record.headers().map(pair).collect();
        whole["event"] = event.unwrap_or(Value::Null);
        println!("{whole}");
        return Ok(());
    }
    print_letter(&letter);
    if let Some(event) = event {
        println!("event      {event}");
    }
    println!("\nOnce the cause is gone: millrace dead-letters replay {id}");
    Ok(())
}

fn print_letter(letter: &DeadLetter) {
    let DeadLetter { pipeline, record, reason, error, attempts, state, created_at, .. } = letter;
    println!("pipeline   {pipeline}");
    println!("record     {}", record.position);
    println!("logged at  {}", record.timestamp.map_or("unknown".into(), |at| at.to_rfc3339()));
    println!("reason     {reason}: {error}");
    println!("state      {state:?}, {attempts} attempts, set aside {}", created_at.to_rfc3339());
    println!("key        {}", record.key().map_or("null".into(), readable));
    for (name, value) in record.headers() {
        println!("header     {name}: {}", value.map_or("null".into(), readable));
    }
    match record.value() {
        None => println!("value      null"),
        Some(value) => println!("value      {} bytes\n{}", value.len(), hex_lines(value)),
    }
}

/// The event in the value, where the registry knows its schema and the bytes follow it.
async fn decoded(record: &Record, config: &Config, global: &Global) -> Option<Value> {
    let registry = config.registry.client().ok()?;
    let (id, datum) = millrace_schemas::wire::unframe(record.value()?).ok()?;
    let writer = registry.by_id(id).await.ok()?;
    global.contracts().ok()?;
    millrace_schemas::value_to_json(writer.schema, &writer.decode(datum).ok()?).into()
}

async fn replay(letters: &DeadLetters, which: &Which, config: &Config, global: &Global) -> Result<(), Exit> {
    let found = letters.list(&DeadLetterFilter { open_only: true, ..which.filter() }, which.limit).await?;
    if let (Some(id), true) = (which.id, found.is_empty()) {
        let state = one(letters, id).await?.state;
        return Err(Exit::found(format!("dead letter {id} is not open: {state:?}")));
    }
    let base = roles::Base::connect(config, global).await?;
    let mut still = 0;
    for letter in &found {
        match base.replay(letters, letter).await {
            Ok(outcome) => {
                still += usize::from(matches!(outcome, ReplayOutcome::Rejected(_)));
                report(letter, &outcome, global);
            }
            // The others may still be saved.
            Err(exit) => {
                still += 1;
                eprintln!("millrace: {exit}");
            }
        }
    }
    match still {
        0 => Ok(()),
        still => Err(Exit::found(format!("{still} of {} still can't be applied", found.len()))),
    }
}

fn report(letter: &DeadLetter, outcome: &ReplayOutcome, global: &Global) {
    let text = match outcome {
        ReplayOutcome::Applied => "applied".to_owned(),
        ReplayOutcome::Ignored => "not for this pipeline any more; settled".to_owned(),
        ReplayOutcome::Superseded => "its event has taken effect by another record; settled".to_owned(),
        ReplayOutcome::Rejected(reject) => format!("{}: {}", reject.reason.as_str(), reject.error),
    };
    if global.json {
        println!("{}", json!({ "id": letter.id, "pipeline": letter.pipeline, "outcome": text }));
    } else {
        println!("{:>6}  {:<18} {}: {text}", letter.id, letter.pipeline, letter.record.position);
    }
}

fn summary(letter: &DeadLetter) -> Value {
    let DeadLetter { id, pipeline, record, reason, error, attempts, state, created_at, settled_at } = letter;
    json!({
        "id": id, "pipeline": pipeline, "topic": &*record.position.topic, "partition": record.position.partition,
        "offset": record.position.offset, "reason": reason, "error": error, "attempts": attempts, "state": state,
        "created_at": created_at, "settled_at": settled_at,
    })
}

/// Text as text, anything else as hex.
fn readable(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.contains(|c: char| c.is_control()) => text.to_owned(),
        _ => format!("0x{}", hex(bytes)),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn hex_lines(bytes: &[u8]) -> String {
    let shown = &bytes[..bytes.len().min(SHOWN_BYTES)];
    let line = |(at, line): (usize, &[u8])| {
        let text: String = line.iter().map(|byte| if byte.is_ascii_graphic() { *byte as char } else { '.' }).collect();
        format!("  {:04x}  {:<32}  {text}", at * 16, hex(line))
    };
    let mut lines: Vec<String> = shown.chunks(16).enumerate().map(line).collect();
    if shown.len() < bytes.len() {
        lines.push(format!("  … {} more bytes; `--json` has them all", bytes.len() - shown.len()));
    }
    lines.join("\n")
}
