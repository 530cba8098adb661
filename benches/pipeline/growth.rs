//! What an event costs when there are more of them, more partitions, or more types of event: `millrace process
//! clickhouse` from an empty checkpoint to the end of the log, on servers of its own for each point.

use crate::platform::{Platform, local_engine};
use crate::publish::{self, Event};
use crate::report::Report;
use crate::{Arguments, Bench, clickhouse};
use millrace_producers::client::Occurrence;
use millrace_schemas::Contracts;
use serde::Serialize;
use serde_json::json;
use std::path::Path;
use uuid::Uuid;

/// Of the log, where it is not their number that grows.
const EVENTS: u64 = 100_000;
/// Numbers of events; `--events` is the greatest.
const STEPS: [u64; 2] = [100_000, 300_000];
/// The generated project's only topic, so that more types are not more partitions too.
const TOPIC: &str = "bench.events.v1";

pub async fn measure(arguments: &Arguments, report: &mut Report) -> anyhow::Result<()> {
    let steps = STEPS.into_iter().filter(|step| *step < arguments.events);
    for events in steps.chain([arguments.events]) {
        let bench = of_shop(arguments, events, None, report).await?;
        point(bench, "events", events, report).await?;
    }
    let events = EVENTS.min(arguments.events);
    for partitions in &arguments.partitions {
        let project = tempfile::tempdir()?;
        std::fs::write(project.path().join("millrace.toml"), format!("[kafka]\npartitions = {partitions}\n"))?;
        let bench = of_shop(arguments, events, Some(project.path()), report).await?;
        point(bench, "partitions", u64::from(*partitions), report).await?;
    }
    for types in &arguments.types {
        let project = tempfile::tempdir()?;
        write_project(project.path(), *types)?;
        let bench = of_project(project.path(), *types, events, report).await?;
        point(bench, "types", u64::from(*types), report).await?;
    }
    Ok(())
}

async fn point(bench: Bench, group: &str, size: u64, report: &mut Report) -> anyhow::Result<()> {
    let (mut figures, batches) = clickhouse::millrace(&bench).await?;
    figures.insert("batches", batches as f64);
    report.add(group, &size.to_string(), figures);
    bench.stop().await;
    Ok(())
}

/// The shop's own events.
async fn of_shop(
    arguments: &Arguments,
    events: u64,
    project: Option<&Path>,
    report: &mut Report,
) -> anyhow::Result<Bench> {
    let platform = Platform::start_with(local_engine(), project).await;
    let arguments = Arguments { events, event_type: None, ..arguments.clone() };
    Bench::start_on(platform, &arguments, report).await
}

/// Small events of all generated types, by turns.
async fn of_project(project: &Path, types: u32, events: u64, report: &mut Report) -> anyhow::Result<Bench> {
    let platform = Platform::start_with(local_engine(), Some(project)).await;
    let contracts = Contracts::load(&project.join("schemas/avro")).map_err(|errors| anyhow::anyhow!("{errors:?}"))?;
    let event = |number: u64| {
        let id = Uuid::from_u128(u128::from(number) + 1);
        let body = Counted { counter_id: id, quantity: (number % 1000) as i32 };
        Event {
            event_type: event_type(number % u64::from(types)),
            occurrence: Occurrence { id, ..Occurrence::now() },
            body,
        }
    };
    let published = publish::publish_events(&platform, contracts, (0..events).map(event)).await?;
    report.add("publish", "generated types, by the benchmark", published);
    Bench::of(platform, vec![TOPIC.to_owned()], events, 1).await
}

/// What every generated type says.
#[derive(Serialize)]
struct Counted {
    counter_id: Uuid,
    quantity: i32,
}

fn event_type(number: u64) -> String {
    format!("thing.counted_{number}")
}

/// So many contracts, and no metric: the shop's would have nothing to read.
fn write_project(directory: &Path, types: u32) -> anyhow::Result<()> {
    for empty in ["processors/analytics", "sinks/rules"] {
        std::fs::create_dir_all(directory.join(empty))?;
    }
    for number in 0..u64::from(types) {
        let contract = directory.join("schemas/avro").join(event_type(number));
        std::fs::create_dir_all(&contract)?;
        let schema = json!({
            "type": "record",
            "name": format!("ThingCounted{number}"),
            "namespace": "bench.events",
            "doc": "Things were counted.",
            "millrace": { "type": event_type(number), "topic": TOPIC, "key": "counter_id" },
            "fields": [
                { "name": "counter_id", "type": { "type": "string", "logicalType": "uuid" }, "doc": "Who counted." },
                { "name": "quantity", "type": "int", "doc": "How many things there were." },
            ],
        });
        std::fs::write(contract.join("1.avsc"), serde_json::to_vec_pretty(&schema)?)?;
        let example = json!({ "counter_id": "019ab51d-7e42-7d1b-a6c8-90f2b7e3c415", "quantity": 2 });
        std::fs::write(contract.join("example.json"), serde_json::to_vec_pretty(&example)?)?;
    }
    Ok(())
}
