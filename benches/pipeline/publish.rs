//! Fills the log: with a seed's events as they come, or with those of one type.

use crate::Arguments;
use crate::platform::Platform;
use crate::processes::Meter;
use crate::report::Figures;
use millrace_producers::client::{Client, Occurrence, Sending};
use millrace_producers::simulate::{Shop, occurrence};
use millrace_schemas::Contracts;
use millrace_schemas::registry::Registry;
use millrace_stream::KafkaConfig;
use serde::Serialize;
use std::collections::VecDeque;
use std::io::Read;
use std::process::Stdio;
use std::sync::Arc;

/// As many may be on their way at once as the simulator allows itself.
const AHEAD_MAX: usize = 10_000;

/// Returns who published, and what it took.
pub async fn publish(platform: &Platform, arguments: &Arguments) -> anyhow::Result<(&'static str, Figures)> {
    match &arguments.event_type {
        None => Ok(("millrace simulate --rate 0", simulate(platform, arguments)?)),
        Some(event_type) => Ok(("one type, by the benchmark", publish_only(platform, arguments, event_type).await?)),
    }
}

fn simulate(platform: &Platform, arguments: &Arguments) -> anyhow::Result<Figures> {
    let (seed, events) = (arguments.seed.to_string(), arguments.events.to_string());
    let mut command = platform.command();
    command.args(["--json", "simulate", "--rate", "0", "--seed", &seed, "--events", &events]).stdout(Stdio::piped());
    let mut simulator = command.spawn()?;
    let meter = Meter::start(platform, simulator.id());
    simulator.stdout.take().unwrap().read_to_string(&mut String::new())?;
    let figures = meter.stop(arguments.events); // it has ended; as long as nobody waits for it, /proc still has it
    anyhow::ensure!(simulator.wait()?.success(), "the simulator failed");
    Ok(figures)
}

/// Through the same client, so that the records are the same; the other types' events happen and are not sent.
async fn publish_only(platform: &Platform, arguments: &Arguments, event_type: &str) -> anyhow::Result<Figures> {
    let contracts = Contracts::embedded().map_err(|errors| anyhow::anyhow!("{errors:?}"))?;
    anyhow::ensure!(contracts.get(event_type).is_some(), "no contract describes `{event_type}`");
    let of_type = Shop::open(arguments.seed).filter(|event| event.body.event_type() == event_type);
    let events = of_type.take(arguments.events as usize).map(|event| Event {
        event_type: event_type.to_owned(),
        occurrence: occurrence(&event),
        body: event.body,
    });
    publish_events(platform, contracts, events).await
}

/// What the client is told of an event.
pub struct Event<B> {
    pub event_type: String,
    pub occurrence: Occurrence,
    pub body: B,
}

pub async fn publish_events<B: Serialize>(
    platform: &Platform,
    contracts: Contracts,
    events: impl Iterator<Item = Event<B>>,
) -> anyhow::Result<Figures> {
    let kafka = KafkaConfig { brokers: platform.addresses().kafka.clone(), ..KafkaConfig::default() };
    let registry = Registry::new(&platform.addresses().registry)?;
    let client = Client::connect(&kafka, registry, Arc::new(contracts), "/shop").await?;
    let meter = Meter::start(platform, std::process::id());
    let mut sending = VecDeque::with_capacity(AHEAD_MAX);
    let mut sent = 0;
    for Event { event_type, occurrence, body } in events {
        if sending.len() == AHEAD_MAX {
            acknowledged(&mut sending).await?;
        }
        sending.push_back(client.send(&event_type, occurrence, &body).await?);
        sent += 1;
    }
    while !sending.is_empty() {
        acknowledged(&mut sending).await?;
    }
    Ok(meter.stop(sent))
}

async fn acknowledged(sending: &mut VecDeque<Sending>) -> anyhow::Result<()> {
    match sending.pop_front() {
        Some(oldest) => Ok(oldest.acknowledged().await?),
        None => Ok(()),
    }
}
