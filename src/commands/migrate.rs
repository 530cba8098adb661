//! `millrace migrate`: topics, subjects, Postgres and ClickHouse, brought to what the project says.
#![allow(clippy::print_stdout, reason = "this command's output")]

use crate::commands::{Global, roles};
use crate::config::{Config, without_password};
use crate::exit::Exit;
use millrace_processors::{clickhouse, postgres};
use millrace_schemas::Contracts;
use millrace_schemas::registry::{Registry, RegistryError};
use millrace_stream::{Admin, Topic};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

/// What was done.
#[derive(Debug, Default, Serialize)]
pub struct Migrated {
    pub topics_created: Vec<String>,
    pub subjects: usize,
    pub clickhouse: Vec<String>,
}

pub async fn run(config: &Config, global: &Global) -> Result<(), Exit> {
    let contracts = global.contracts()?;
    postgres_schema(config).await?;
    let own_registry = serve_registry_meanwhile(config).await?;
    let migrated = everything_else(config, global, &contracts).await;
    if let Some(stop) = own_registry {
        stop.cancel();
    }
    let migrated = migrated?;
    if global.json {
        println!("{}", serde_json::json!(migrated));
    } else {
        let Migrated { topics_created, subjects, clickhouse } = &migrated;
        println!("Postgres: up to date");
        println!("Kafka: {} topics created {}", topics_created.len(), topics_created.join(" "));
        println!("registry: {subjects} subjects");
        println!("ClickHouse: {} statements applied", clickhouse.len());
    }
    Ok(())
}

/// Our own tables come first: the registry keeps its schemas in them.
pub async fn postgres_schema(config: &Config) -> Result<(), Exit> {
    let options = config.postgres.options()?;
    let others = [postgres::MIGRATIONS, millrace_sinks::MIGRATIONS, millrace_producers::MIGRATIONS];
    let address = format!("Postgres at {}", without_password(&config.postgres.url));
    let migrated = millrace_stream::migrate(options, &config.postgres.projections_schema, &others).await;
    migrated.map_err(|error| match error.downcast_ref::<sqlx::Error>() {
        Some(sqlx::Error::Io(_)) => Exit::unreachable(&address, format!("{error:#}")),
        _ => Exit::failed(error),
    })
}

/// Topics, subjects and ClickHouse; needs a registry that answers.
pub async fn everything_else(config: &Config, global: &Global, contracts: &Contracts) -> Result<Migrated, Exit> {
    let admin = Admin::new(config.kafka.clone());
    admin.reachable().await.map_err(|error| Exit::unreachable("Kafka", format!("{error:#}")))?;
    let topic = |(name, cleanup)| Topic { name, cleanup };
    let topics: Vec<Topic> = contracts.topics().into_iter().map(topic).collect();
    let topics_created = admin.ensure_topics(&topics).await?;
    let registry = Registry::new(&config.registry.url)?;
    let subjects = registry.register_all(contracts).await.map_err(|error| match error {
        RegistryError::Unreachable(_) => Exit::unreachable("the schema registry", error),
        refused => Exit::failed(refused),
    })?;
    let address = format!("ClickHouse at {}", config.clickhouse.url);
    let reachable = clickhouse::reachable(&config.clickhouse).await;
    reachable.map_err(|error| Exit::unreachable(&address, format!("{error:#}")))?;
    let clickhouse = clickhouse::migrate(&config.clickhouse, contracts, &global.analytics()?).await?;
    Ok(Migrated { topics_created, subjects: subjects.len(), clickhouse })
}

/// On a fresh machine no registry runs yet, and subjects need one: ours serves while we migrate.
async fn serve_registry_meanwhile(config: &Config) -> Result<Option<CancellationToken>, Exit> {
    let ours = config.registry.url.trim_end_matches('/').ends_with(&config.registry.listen);
    if !ours || Registry::new(&config.registry.url)?.reachable().await.is_ok() {
        return Ok(None);
    }
    let stop = CancellationToken::new();
    roles::serve_registry(config, config.postgres.connect().await?, &stop).await?;
    Ok(Some(stop))
}
