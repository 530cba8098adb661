//! `millrace reset TOPIC`: pipelines begin with the new log of a topic that was recreated under its name.
#![allow(clippy::print_stdout, reason = "this command's output")]

use crate::commands::Global;
use crate::config::Config;
use crate::exit::Exit;
use clap::Args;
use millrace_stream::{Admin, Checkpoint, Checkpoints};
use serde_json::json;

#[derive(Args)]
pub struct Arguments {
    /// One that was deleted and made again: for any other this does nothing
    #[arg(value_name = "TOPIC")]
    topic: String,
}

pub async fn run(Arguments { topic }: &Arguments, config: &Config, global: &Global) -> Result<(), Exit> {
    let admin = Admin::new(config.kafka.clone());
    admin.reachable().await.map_err(|error| Exit::unreachable("Kafka", format!("{error:#}")))?;
    let ids = admin.existing_topic_ids(vec![topic.clone()]).await?;
    let id = ids.get(topic).ok_or_else(|| Exit::usage(format!("Kafka has no topic {topic}")))?;
    let pool = config.postgres.connect().await?;
    let forgotten = Checkpoints::new(pool).forget_former(topic, id).await.map_err(Exit::failed)?;
    if forgotten.is_empty() {
        return Err(Exit::usage(format!("{topic} was not recreated: every pipeline reads the log that is there")));
    }
    for row in &forgotten {
        tell(row, global);
    }
    Ok(())
}

fn tell(Checkpoint { pipeline, topic, topic_id, partition, next, .. }: &Checkpoint, global: &Global) {
    if global.json {
        let row =
            json!({ "pipeline": pipeline, "topic": topic, "topic_id": topic_id, "partition": partition, "next": next });
        return println!("{row}");
    }
    println!("{pipeline} had come to {topic}[{partition}]@{next} in the former log, and begins with the new one");
}
