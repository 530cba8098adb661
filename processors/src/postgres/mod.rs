//! Postgres projections: read models that services query, folded from the log and compiled in.
//!
//! To add one: a file with its fold, a migration with its table, a line in [`NAMES`], [`start`], [`replay`] and [`reads`].

mod body;
mod customer_summary;
mod handler;
mod money;
mod order_status;
mod projection;
#[cfg(test)]
mod tests;

use anyhow::Context;
use body::Body;
use customer_summary::CustomerSummary;
use handler::Projector;
use millrace_schemas::{Contract, Contracts, WriterSchema, value_from_json};
use millrace_stream::{
    DeadLetter, DeadLetters, Decoder, Failure, Migration, Pipeline, PipelineConfig, PipelineHandle, ReplayOutcome,
    Spine,
};
use order_status::OrderStatus;
use projection::Projection;
use sqlx::PgPool;
use std::collections::BTreeSet;

/// Every projection there is.
pub const NAMES: &[&str] = &[OrderStatus::NAME, CustomerSummary::NAME];

/// Their tables, in the schema that the connection's `search_path` names first.
pub const MIGRATIONS: &[Migration] = &[
    Migration { number: 201, name: "order status", sql: include_str!("../../migrations/0201_order_status.sql") },
    Migration {
        number: 202,
        name: "customer summary",
        sql: include_str!("../../migrations/0202_customer_summary.sql"),
    },
];

/// Starts a projection; `None` when there is none of this name.
///
/// The pool's `search_path` must begin with the projections' schema.
///
/// # Errors
/// When the project's contracts lack an event type or a field that it needs, or Kafka's settings are wrong.
pub fn start(
    name: &str,
    spine: &Spine,
    contracts: &Contracts,
    pool: PgPool,
    config: PipelineConfig,
) -> anyhow::Result<Option<PipelineHandle>> {
    match name {
        OrderStatus::NAME => start_one::<OrderStatus>(spine, contracts, pool, config).map(Some),
        CustomerSummary::NAME => start_one::<CustomerSummary>(spine, contracts, pool, config).map(Some),
        _ => Ok(None),
    }
}

/// Gives one of a projection's dead letters its effect, once; `None` when there is no projection of this name.
pub async fn replay(
    name: &str,
    letters: &DeadLetters,
    decoder: &Decoder,
    letter: &DeadLetter,
    pool: PgPool,
) -> Option<Result<ReplayOutcome, Failure>> {
    Some(match name {
        OrderStatus::NAME => {
            millrace_stream::replay(letters, decoder, &Projector::<OrderStatus>::new(pool), letter).await
        }
        CustomerSummary::NAME => {
            millrace_stream::replay(letters, decoder, &Projector::<CustomerSummary>::new(pool), letter).await
        }
        _ => return None,
    })
}

/// The event types a projection reads; none when there is none of this name.
pub fn reads(name: &str) -> &'static [&'static str] {
    match name {
        OrderStatus::NAME => OrderStatus::READS,
        CustomerSummary::NAME => CustomerSummary::READS,
        _ => &[],
    }
}

/// The topics a projection reads; `None` when there is none of this name.
///
/// # Errors
/// When the project's contracts lack an event type that it needs.
pub fn topics(name: &str, contracts: &Contracts) -> Option<anyhow::Result<Vec<String>>> {
    match name {
        OrderStatus::NAME => Some(topics_of::<OrderStatus>(contracts)),
        CustomerSummary::NAME => Some(topics_of::<CustomerSummary>(contracts)),
        _ => None,
    }
}

fn start_one<P: Projection>(
    spine: &Spine,
    contracts: &Contracts,
    pool: PgPool,
    config: PipelineConfig,
) -> anyhow::Result<PipelineHandle> {
    let topics = topics_of::<P>(contracts)?;
    check_fields::<P>(contracts)?;
    let (name, handler, section) = (P::NAME, Projector::<P>::new(pool), format!("process.{}", P::NAME));
    Pipeline { name, topics, handler, config, section }.start(spine)
}

fn topics_of<P: Projection>(contracts: &Contracts) -> anyhow::Result<Vec<String>> {
    let mut topics = BTreeSet::new();
    for event_type in P::READS {
        let missing = || {
            format!(
                "{} reads `{event_type}`, which no contract of this project describes: \
                 add the contract, or leave {} out of what is run",
                P::NAME,
                P::NAME
            )
        };
        topics.insert(contracts.get(event_type).with_context(missing)?.topic.clone());
    }
    Ok(topics.into_iter().collect())
}

/// A contract without a field we need would turn every record into a dead letter: say so before the first.
fn check_fields<P: Projection>(contracts: &Contracts) -> anyhow::Result<()> {
    for contract in P::READS.iter().filter_map(|event_type| contracts.get(event_type)) {
        let what = || format!("{} can't read `{}` as its contract describes it", P::NAME, contract.event_type);
        read_example::<P>(contract).with_context(what)?;
    }
    Ok(())
}

fn read_example<P: Projection>(contract: &Contract) -> anyhow::Result<Option<P::Event>> {
    let newest = contract.newest();
    let writer = WriterSchema::parse(0, &newest.text)?;
    let mut datum = Vec::new();
    writer.encode_value(&value_from_json(&newest.schema, &contract.example)?, &mut datum)?;
    let event = Body::read(&writer, &datum).and_then(|body| P::decode(&contract.event_type, &body));
    event.map_err(|reject| anyhow::anyhow!(reject.error))
}
