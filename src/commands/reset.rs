//! `millrace reset TOPIC`: pipelines begin with what the log holds, where what comes next for them is not in it.
#![allow(clippy::print_stdout, reason = "this command's output")]

use crate::commands::Global;
use crate::config::Config;
use crate::exit::Exit;
use clap::Args;
use millrace_stream::{Admin, Checkpoint, Checkpoints};
use serde_json::json;

#[derive(Args)]
pub struct Arguments {
    /// One that was deleted and made again under its name, or of which records were deleted before they took effect:
    /// for any other this does nothing. What the log holds of events that took effect before counts again in Postgres
    #[arg(value_name = "TOPIC")]
    topic: String,
}

pub async fn run(Arguments { topic }: &Arguments, config: &Config, global: &Global) -> Result<(), Exit> {
    let log = Admin::new(config.kafka.clone());
    log.reachable().await.map_err(|error| Exit::unreachable("Kafka", format!("{error:#}")))?;
    let ids = log.topic_ids(vec![topic.clone()]).await?;
    let held = log.partitions(vec![topic.clone()]).await?;
    let checkpoints = Checkpoints::new(config.postgres.connect().await?);
    let _no_rebuild = checkpoints.rebuild(topic).await.map_err(|failure| Exit::failed(anyhow::anyhow!("{failure}")))?;
    let former = checkpoints.reset(topic, &ids[topic], &held).await.map_err(Exit::failed)?;
    if former.is_empty() {
        return Err(Exit::usage(format!(
            "nothing to reset: the log holds what comes next in {topic} for every pipeline"
        )));
    }
    former.iter().for_each(|row| tell(row, global));
    if !global.json {
        println!("Start the processes again that have stopped. docs/rebuilding.md says what becomes of rows and sums");
    }
    Ok(())
}

fn tell(Checkpoint { pipeline, topic, topic_id, partition, next, .. }: &Checkpoint, global: &Global) {
    match global.json {
        true => println!(
            "{}",
            json!({ "pipeline": pipeline, "topic": topic, "topic_id": topic_id, "partition": partition, "next": next })
        ),
        false => println!("{pipeline} was at {topic}[{partition}]@{next}, and begins with what the log holds"),
    }
}
