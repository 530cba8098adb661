//! `millrace quarantine`: look at the invalid events that the gateway kept, and publish them once the contract is right.
#![allow(clippy::print_stdout, reason = "these commands' output")]

use crate::commands::Global;
use crate::config::Config;
use crate::exit::Exit;
use clap::{Args, Subcommand};
use millrace_producers::quarantine::{KeptEvent, Outcome, Reason, Replay, Store, Which as Filter};
use millrace_stream::Admin;
use serde_json::{Value, json};
use uuid::Uuid;

#[derive(Subcommand)]
pub enum Action {
    /// One line each, in the order in which they came
    List(Which),
    /// Everything about one: who sent it, what does not fit, what is not kept, and the event
    Show { id: Uuid },
    /// Check them by the contracts as they are now, and publish those that fit, under their own ids and times
    Replay(Which),
    /// Give one up, for good
    Discard { id: Uuid },
}

#[derive(Args)]
pub struct Which {
    /// Only this one
    id: Option<Uuid>,
    /// Only those of this event type
    #[arg(long = "type", value_name = "TYPE")]
    event_type: Option<String>,
    /// Only those of this sender
    #[arg(long, value_name = "NAME")]
    principal: Option<String>,
    /// At most this many, the oldest first
    #[arg(long, default_value_t = 100)]
    limit: i64,
}

impl Which {
    /// # Errors
    /// When there is none of the id that was asked for.
    async fn found(&self, store: &Store) -> Result<Vec<KeptEvent>, Exit> {
        let Self { id, event_type, principal, .. } = self;
        let filter = Filter { id: *id, event_type: event_type.clone(), principal: principal.clone() };
        let found = store.list(&filter, self.limit).await?;
        match id {
            Some(id) if found.is_empty() => Err(nothing(*id)),
            _ => Ok(found),
        }
    }
}

fn nothing(id: Uuid) -> Exit {
    Exit::found(format!("no event is kept under {id}: it was published, discarded, or has expired"))
}

pub async fn run(action: Action, config: &Config, global: &Global) -> Result<(), Exit> {
    let store = Store::new(config.postgres.connect().await?);
    match action {
        Action::List(which) => list(&which.found(&store).await?, global),
        Action::Show { id } => show(&store, id, config, global).await,
        Action::Replay(which) => replay(&store, &which, config, global).await,
        Action::Discard { id } => match store.discard(id).await? {
            true => Ok(()),
            false => Err(nothing(id)),
        },
    }
}

fn list(found: &[KeptEvent], global: &Global) -> Result<(), Exit> {
    if global.json {
        println!("{}", json!(found));
        return Ok(());
    }
    if found.is_empty() {
        println!("none");
    }
    for event in found {
        let KeptEvent { id, kept_at, principal, errors, .. } = event;
        let (at, principal, event_type) = (kept_at.format("%F %T"), printable(principal), event_type(event));
        println!("{id}  {at}  {principal:<16} {event_type:<24} {}", in_short(errors));
    }
    Ok(())
}

/// A terminal obeys control characters, and these are a sender's.
fn printable(text: &str) -> String {
    let plain = |char: char| if char.is_control() { char::REPLACEMENT_CHARACTER } else { char };
    text.chars().map(plain).collect()
}

fn event_type(event: &KeptEvent) -> &str {
    event.event_type.as_deref().unwrap_or("(no type)")
}

fn in_short(errors: &[Reason]) -> String {
    let Some(first) = errors.first() else { return "nothing was said".to_owned() };
    match errors.len() - 1 {
        0 => line(first),
        more => format!("{}, and {more} more", line(first)),
    }
}

fn line(Reason { pointer, expected }: &Reason) -> String {
    format!("{}: expected {expected}", if pointer.is_empty() { "the event" } else { pointer })
}

async fn show(store: &Store, id: Uuid, config: &Config, global: &Global) -> Result<(), Exit> {
    let found = store.list(&Filter { id: Some(id), ..Filter::default() }, 1).await?;
    let event = found.first().ok_or_else(|| nothing(id))?;
    let text = Replay::open(&config.gateway, event);
    if global.json {
        let mut whole = json!(event);
        whole["event"] = text.ok().and_then(|text| serde_json::from_str(&text).ok()).unwrap_or(Value::Null);
        println!("{whole}");
        return Ok(());
    }
    print_event(event);
    match text {
        Ok(text) => println!("event      {}", printable(&text)),
        Err(unreadable) => println!("event      {unreadable}"),
    }
    println!("\nOnce the contract is right: millrace quarantine replay {id}");
    Ok(())
}

fn print_event(event: &KeptEvent) {
    let KeptEvent { kept_at, expires_at, principal, way, event_id, personal, lost, data_bytes, attempts, .. } = event;
    println!("type       {}", event_type(event));
    println!("event id   {}", event_id.map_or("none".to_owned(), |id| id.to_string()));
    println!("sender     {}, by {way}", printable(principal));
    println!(
        "kept       {}, until {}; replayed in vain {attempts} times",
        kept_at.to_rfc3339(),
        expires_at.to_rfc3339()
    );
    event.errors.iter().for_each(|error| println!("wrong      {}", line(error)));
    if !personal.is_empty() {
        println!("taken out  {} (personal, or may be)", personal.join(" "));
    }
    if !lost.is_empty() {
        println!("not kept   {} (as it was sent)", lost.join(" "));
    }
    println!("data       {data_bytes} bytes, as they were sent");
}

async fn replay(store: &Store, which: &Which, config: &Config, global: &Global) -> Result<(), Exit> {
    let found = which.found(store).await?;
    let kafka = Admin::new(config.kafka.clone());
    kafka.reachable().await.map_err(|error| Exit::unreachable("Kafka", format!("{error:#}")))?;
    let (contracts, registry) = (global.contracts()?, config.registry.client()?);
    registry.usable().await.map_err(|error| Exit::unreachable("the schema registry", error))?;
    let replay = Replay::connect(&config.gateway, &config.kafka, &registry, contracts, store.clone()).await?;
    let outcomes = replay.run(&found).await?;
    found.iter().zip(&outcomes).for_each(|(event, outcome)| report(event, outcome, global));
    match outcomes.iter().filter(|outcome| !matches!(outcome, Outcome::Published { .. })).count() {
        0 => Ok(()),
        still => Err(Exit::found(format!("{still} of {} are still kept", found.len()))),
    }
}

fn report(event: &KeptEvent, outcome: &Outcome, global: &Global) {
    let (word, text) = match outcome {
        Outcome::Published { without } if without.is_empty() => ("published", "published".to_owned()),
        Outcome::Published { without } => {
            ("published", format!("published without {} (personal data)", without.join(" ")))
        }
        Outcome::Invalid(errors) => ("invalid", in_short(errors)),
        Outcome::Refused(why) => ("refused", why.clone()),
        Outcome::Unsure(why) => ("unsure", format!("not known to be in the log, replay it again: {why}")),
    };
    if global.json {
        println!("{}", json!({ "id": event.id, "type": event.event_type, "outcome": word, "detail": text }));
    } else {
        println!("{}  {:<24} {text}", event.id, event_type(event));
    }
}
