//! `millrace simulate`: the shop's traffic, and on request the proof that all of it took effect.
#![allow(clippy::print_stdout, reason = "this command's output")]

use crate::commands::{Global, status};
use crate::config::Config;
use crate::exit::{Exit, asked_to_stop};
use crate::verify::{Difference, Servers, differences};
use clap::Args;
use millrace_console::State;
use millrace_processors::clickhouse::erasure;
use millrace_producers::simulate::{self, Options, Report};
use millrace_producers::{Client, oracle};
use millrace_schemas::Contracts;
use millrace_sinks::{DeliveryState, Progress};
use serde::Serialize;
use sqlx::PgPool;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// Who the simulated events say they come from.
const SOURCE: &str = "/shop";
/// Effects that are later than this after the last event will not come by themselves.
const SETTLE_DEADLINE: Duration = Duration::from_secs(120);
/// How often it is asked whether everything took effect.
const SETTLE_INTERVAL: Duration = Duration::from_millis(250);
/// How often a line is printed while events flow.
const LINE_EVERY: Duration = Duration::from_secs(5);

#[derive(Args)]
pub struct Arguments {
    /// Equal seeds give equal events
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Events a second; 0 is as fast as they are taken
    #[arg(long, default_value_t = 1_000)]
    pub rate: u32,
    /// How many [default: until Ctrl-C]
    #[arg(long)]
    pub events: Option<u64>,
    /// Begin with this event of the seed: where an earlier run stopped
    #[arg(long, default_value_t = 0)]
    pub first: u64,
    /// Of a thousand events send so many twice, under the same id
    #[arg(long, default_value_t = 0, value_name = "PER_THOUSAND")]
    pub duplicates: u32,
    /// Then wait until everything took effect and compare ClickHouse, Postgres and the receiver with the oracle,
    /// which supposes that they hold this seed's events from the first on and nothing else (exit code 2 if they differ)
    #[arg(long)]
    pub verify: bool,
}

/// What was sent and, if asked, whether it is there.
#[derive(Serialize)]
pub struct Outcome {
    #[serde(flatten)]
    report: Report,
    seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    differences: Option<Vec<Difference>>,
}

pub async fn run(arguments: &Arguments, config: &Config, global: &Global) -> Result<(), Exit> {
    let contracts = global.contracts()?;
    let client = client(config, &contracts).await?;
    let cancelled = CancellationToken::new();
    let stopping = cancelled.clone();
    tokio::spawn(async move {
        asked_to_stop().await;
        stopping.cancel();
    });
    let begun = Instant::now();
    let report = simulate::run(&arguments.options(), &client, lines(global), &cancelled).await.map_err(Exit::failed)?;
    let seconds = begun.elapsed().as_secs_f64();
    let differences = match arguments.verify {
        true => Some(verified(arguments, &report, config, global, &contracts).await?),
        false => None,
    };
    finish(&Outcome { report, seconds, differences }, global)
}

impl Arguments {
    fn options(&self) -> Options {
        let Self { seed, rate, first, events, duplicates, .. } = *self;
        Options { seed, rate, first, events, duplicates_per_thousand: duplicates }
    }
}

/// # Errors
/// Which server does not answer.
pub async fn client(config: &Config, contracts: &Arc<Contracts>) -> Result<Client, Exit> {
    let registry = config.registry.client()?;
    registry.usable().await.map_err(|error| Exit::unreachable("the schema registry", error))?;
    let admin = millrace_stream::Admin::new(config.kafka.clone());
    admin.reachable().await.map_err(|error| Exit::unreachable("Kafka", format!("{error:#}")))?;
    Ok(Client::connect(&config.kafka, registry, contracts.clone(), SOURCE).await?)
}

fn lines(global: &Global) -> impl FnMut(&Report) + use<> {
    let quiet = global.json;
    let mut last = Instant::now();
    move |report| {
        if !quiet && last.elapsed() >= LINE_EVERY {
            last = Instant::now();
            println!("{:>12} published {:>12} acknowledged", report.published, report.acknowledged);
        }
    }
}

async fn verified(
    arguments: &Arguments,
    report: &Report,
    config: &Config,
    global: &Global,
    contracts: &Contracts,
) -> Result<Vec<Difference>, Exit> {
    let pool = config.postgres.connect_lazily()?;
    until_settled(config, &pool).await?;
    let receiver = global.receiver()?;
    let servers = Servers { config, contracts, pool: &pool, receiver: &receiver };
    Ok(differences(&servers, &oracle::expected(arguments.seed, report.next)).await?)
}

/// Waits until nothing is behind and no delivery is open. Servers may be away for a moment meanwhile.
///
/// # Errors
/// What still waits when [`SETTLE_DEADLINE`] has passed.
pub async fn until_settled(config: &Config, pool: &PgPool) -> Result<(), Exit> {
    let deadline = Instant::now() + SETTLE_DEADLINE;
    loop {
        let waiting = match waiting(config, pool).await {
            Ok(None) => return Ok(()),
            Ok(Some(waiting)) => waiting,
            Err(exit) => exit.to_string(),
        };
        if Instant::now() > deadline {
            return Err(Exit::failed(anyhow::anyhow!(
                "not everything took effect within {SETTLE_DEADLINE:?}: {waiting}"
            )));
        }
        tokio::time::sleep(SETTLE_INTERVAL).await;
    }
}

async fn waiting(config: &Config, pool: &PgPool) -> Result<Option<String>, Exit> {
    let status = status::ask(config, pool).await?;
    let behind =
        status.pipelines.iter().find(|pipeline| pipeline.lag_records > 0 || pipeline.state == State::Rebalancing);
    if let Some(pipeline) = behind {
        return Ok(Some(format!("{} is {} records behind", pipeline.name, pipeline.lag_records)));
    }
    if let Some(missing) = unstarted(&status) {
        return Ok(Some(format!("{missing} has not started")));
    }
    let is_open = |row: &&Progress| matches!(row.state, DeliveryState::Pending | DeliveryState::Leased);
    let open: i64 = millrace_sinks::progress(pool).await?.iter().filter(is_open).map(|row| row.deliveries).sum();
    Ok((open > 0).then(|| format!("{open} deliveries are open")))
}

/// A pipeline that never had a partition has no checkpoint, and looks as if nothing waited.
fn unstarted(status: &millrace_console::Status) -> Option<&'static str> {
    // What is compared does not depend on who was erased: it need not run.
    let mut compared = super::roles::pipelines().into_iter().filter(|name| *name != erasure::NAME);
    compared.find(|name| !status.pipelines.iter().any(|pipeline| pipeline.name == *name))
}

fn finish(outcome: &Outcome, global: &Global) -> Result<(), Exit> {
    let Outcome { report, seconds, differences } = outcome;
    if global.json {
        println!("{}", serde_json::json!(outcome));
    } else {
        println!(
            "{} events published and acknowledged in {seconds:.1} s; next is {}",
            report.acknowledged, report.next
        );
    }
    match differences.as_deref() {
        None => Ok(()),
        Some([]) => {
            if !global.json {
                println!("ClickHouse, Postgres and the receiver equal the oracle, field by field");
            }
            Ok(())
        }
        Some(differences) => Err(Exit::found(described(differences))),
    }
}

pub fn described(differences: &[Difference]) -> String {
    let line =
        |Difference { field, expected, found }: &Difference| format!("\n  {field}: expected {expected}, found {found}");
    let lines: Vec<String> = differences.iter().map(line).collect();
    format!("the servers differ from the oracle (first {}):{}", lines.len(), lines.concat())
}
