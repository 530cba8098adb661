//! `millrace migrate`: topics, subjects, Postgres and ClickHouse, brought to what the project says.
#![allow(clippy::print_stdout, reason = "this command's output")]

use crate::commands::{Global, roles};
use crate::config::Config;
use crate::exit::Exit;
use millrace_processors::clickhouse::{self, erasure};
use millrace_processors::postgres;
use millrace_schemas::registry::RegistryError;
use millrace_schemas::{Contracts, without_password};
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
    let stop = CancellationToken::new();
    let _stopped = stop.clone().drop_guard();
    let config = with_a_registry(config, &stop).await?;
    let migrated = everything_else(&config, global, &contracts).await?;
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
    let others =
        [postgres::MIGRATIONS, erasure::MIGRATIONS, millrace_sinks::MIGRATIONS, millrace_producers::MIGRATIONS];
    let address = format!("Postgres at {}", without_password(&config.postgres.url));
    let migrated = millrace_stream::migrate(options, &config.postgres.projections_schema, &others).await;
    migrated.map_err(|error| match error.downcast_ref::<sqlx::Error>() {
        Some(sqlx::Error::Io(_)) => Exit::unreachable(&address, format!("{error:#}")),
        _ => Exit::failed(error),
    })
}

/// On the local stack a service may use our own database. Elsewhere an outbox is its service's to make.
pub async fn local_outbox(config: &Config) -> Result<(), Exit> {
    let pool = config.postgres.connect().await?;
    sqlx::raw_sql(millrace_outbox::SCHEMA).execute(&pool).await.map_err(Exit::failed)?;
    Ok(())
}

/// Topics, subjects and ClickHouse; needs a registry that answers.
pub async fn everything_else(config: &Config, global: &Global, contracts: &Contracts) -> Result<Migrated, Exit> {
    let admin = Admin::new(config.kafka.clone());
    admin.reachable().await.map_err(|error| Exit::unreachable("Kafka", format!("{error:#}")))?;
    let topic = |(name, cleanup)| Topic { name, cleanup };
    let topics: Vec<Topic> = contracts.topics().into_iter().map(topic).collect();
    let topics_created = admin.ensure_topics(&topics).await?;
    let registry = config.registry.client()?;
    let subjects = registry.register_all(contracts).await.map_err(|error| match error {
        RegistryError::Unreachable(_) => Exit::unreachable("the schema registry", error),
        refused => Exit::failed(refused),
    })?;
    roles::reach_clickhouse(&config.clickhouse).await?;
    let pool = config.postgres.connect().await?;
    let _as_they_are = clickhouse::keep_from_exchange(&config.clickhouse, contracts, &pool).await?;
    let clickhouse = clickhouse::migrate(&config.clickhouse, contracts, &global.analytics()?).await?;
    Ok(Migrated { topics_created, subjects: subjects.len(), clickhouse })
}

/// On a fresh machine no registry runs yet, and subjects need one: ours serves while we migrate. On a port of its
/// own, so that another migration at the same time neither finds the port taken nor loses its registry with ours.
async fn with_a_registry(config: &Config, stop: &CancellationToken) -> Result<Config, Exit> {
    let mut config = config.clone();
    let ours = config.registry.url.trim_end_matches('/').ends_with(&config.registry.listen);
    if ours && config.registry.client()?.reachable().await.is_err() {
        let listener = roles::listen("127.0.0.1:0", "registry.listen").await?;
        config.registry.cache = String::new(); // nobody asks at this address again
        config.registry.url = format!("http://{}", listener.local_addr().map_err(Exit::failed)?);
        roles::serve_registry(listener, config.postgres.connect().await?, stop);
    }
    Ok(config)
}
