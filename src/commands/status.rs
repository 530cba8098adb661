//! `millrace status`: one screen that says whether anything is behind, stopped or set aside.
#![allow(clippy::print_stdout, reason = "this command's output")]

use crate::commands::Global;
use crate::config::Config;
use crate::exit::Exit;
use millrace_console::{HeldUpStatus, PipelineStatus, State, Status};
use millrace_processors::clickhouse::erasure;
use millrace_producers::quarantine;
use millrace_sinks::Progress;
use millrace_stream::{Admin, Checkpoints};
use sqlx::PgPool;

pub async fn run(config: &Config, global: &Global) -> Result<(), Exit> {
    let pool = config.postgres.connect().await?;
    let status = ask(config, &pool).await?;
    let deliveries = millrace_sinks::progress(&pool).await?;
    let erasures = erasure::progress(&pool).await?;
    let quarantine = quarantine::Store::new(pool.clone()).progress().await?;
    if global.json {
        let (at, pipelines) = (status.at, status.pipelines);
        let all = serde_json::json!({ "at": at, "pipelines": pipelines, "deliveries": deliveries, "erasures": erasures,
            "quarantine": quarantine });
        println!("{all}");
        return Ok(());
    }
    print!("{}", table(&status));
    for Progress { channel, endpoint, state, deliveries, oldest } in &deliveries {
        println!("{channel} {endpoint}: {deliveries} {state:?}, the oldest since {}", oldest.format("%F %T"));
    }
    if erasures.pending > 0 {
        println!("{}", super::erasure::line(&erasures));
    }
    if let Some(oldest) = quarantine.oldest {
        let (events, oldest) = (quarantine.events, oldest.format("%F %T"));
        println!("quarantine: {events} invalid events are kept, the oldest since {oldest}; `millrace quarantine list`");
    }
    Ok(())
}

/// # Errors
/// [`Exit::unreachable`] when Kafka does not answer.
pub async fn ask(config: &Config, pool: &PgPool) -> Result<Status, Exit> {
    let admin = Admin::new(config.kafka.clone());
    admin.reachable().await.map_err(|error| Exit::unreachable("Kafka", format!("{error:#}")))?;
    Ok(millrace_console::status(&admin, &Checkpoints::new(pool.clone())).await?)
}

/// The same table `up` prints.
pub fn table(status: &Status) -> String {
    let mut text = format!(
        "{:<18} {:<12} {:>7} {:>12} {:>9} {:>12}\n",
        "pipeline", "state", "members", "lag records", "lag s", "dead letters"
    );
    for pipeline in &status.pipelines {
        text += &row(pipeline);
    }
    if status.pipelines.is_empty() {
        text += "no pipeline has run yet: `millrace process` and `millrace sink` start them\n";
    }
    text.extend(status.pipelines.iter().filter_map(held_up));
    text.extend(status.pipelines.iter().flat_map(recreated));
    text
}

fn recreated(pipeline: &PipelineStatus) -> impl Iterator<Item = String> {
    let line = move |topic: &String| {
        format!(
            "{} has read another {topic} than there is now: the topic was recreated. \
             Once you know what was lost, `millrace reset {topic}` lets it begin with what there is now\n",
            pipeline.name
        )
    };
    pipeline.recreated.iter().map(line)
}

/// What it waits for, or what it stopped at.
fn held_up(pipeline: &PipelineStatus) -> Option<String> {
    let HeldUpStatus { partitions, since, by, latest } = pipeline.held_up.as_ref()?;
    let (name, since) = (&pipeline.name, since.format("%F %T"));
    let latest = latest.iter().map(|latest| format!("{name}, in another partition, latest: {latest}\n"));
    Some(format!("{name} is held up since {since} in {partitions} partitions: {by}\n") + &latest.collect::<String>())
}

fn row(pipeline: &PipelineStatus) -> String {
    let state = match pipeline.state {
        State::CaughtUp => "caught up",
        State::Behind => "behind",
        State::HeldUp => "held up",
        State::Rebalancing => "rebalancing",
        State::Stopped => "stopped",
    };
    let PipelineStatus { name, members, lag_records, lag_seconds, dead_letters, .. } = pipeline;
    format!("{name:<18} {state:<12} {members:>7} {lag_records:>12} {lag_seconds:>9.1} {dead_letters:>12}\n")
}
