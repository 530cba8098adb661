//! `millrace deliveries`: what must reach the outside, what was given up and why, and another round for that.
#![allow(clippy::print_stdout, reason = "these commands' output")]

use crate::commands::Global;
use crate::config::Config;
use crate::exit::Exit;
use clap::{Args, Subcommand};
use millrace_sinks::{Failed, Progress};
use serde_json::json;
use sqlx::PgPool;

#[derive(Subcommand)]
pub enum Action {
    /// How many are in which state, by endpoint, and those given up last
    List {
        #[command(flatten)]
        which: Which,
        /// At most this many of those given up, the newest first
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(i64).range(0..=10_000))]
        limit: i64,
    },
    /// Send what was given up again, under the same ids; at most 100000 at once
    Retry(Which),
}

#[derive(Args)]
pub struct Which {
    /// Only those to this endpoint
    #[arg(long, value_name = "NAME")]
    endpoint: Option<String>,
}

pub async fn run(action: Action, config: &Config, global: &Global) -> Result<(), Exit> {
    let pool = config.postgres.connect().await?;
    match action {
        Action::List { which, limit } => list(&pool, &which, limit, global).await,
        Action::Retry(which) => retry(&pool, &which, global).await,
    }
}

async fn list(pool: &PgPool, which: &Which, limit: i64, global: &Global) -> Result<(), Exit> {
    let progress = which.progress(pool).await?;
    let failed = millrace_sinks::failed(pool, which.endpoint.as_deref(), limit).await?;
    if global.json {
        println!("{}", json!({ "deliveries": progress, "failed": failed }));
        return Ok(());
    }
    if progress.is_empty() {
        println!("none");
    }
    for Progress { channel, endpoint, state, deliveries, oldest } in &progress {
        let state = format!("{state:?}").to_lowercase();
        println!(
            "{channel:<8} {endpoint:<24} {state:<10} {deliveries:>9}  the oldest since {}",
            oldest.format("%F %T")
        );
    }
    if !failed.is_empty() {
        println!("\nGiven up, the newest first; `millrace deliveries retry` sends all of them again:");
    }
    failed.iter().for_each(|failed| println!("{}", line(failed)));
    Ok(())
}

fn line(failed: &Failed) -> String {
    let Failed { id, rule, endpoint, tries, code, error, failed_at, .. } = failed;
    let code = code.map_or_else(|| "no answer".to_owned(), |code| code.to_string());
    let error = error.as_deref().unwrap_or_default();
    let at = failed_at.format("%F %T");
    format!("{id}  {at}  {rule} to {endpoint}: {code} after {tries} attempts: {error}")
}

async fn retry(pool: &PgPool, which: &Which, global: &Global) -> Result<(), Exit> {
    which.progress(pool).await?;
    let again = millrace_sinks::send_again(pool, which.endpoint.as_deref()).await?;
    if global.json {
        println!("{}", json!({ "sent_again": again }));
    } else {
        println!("{again} deliveries are due again; `millrace sink` sends them");
    }
    Ok(())
}

impl Which {
    /// # Errors
    /// When nothing was ever to go to that endpoint: its name is mistyped.
    async fn progress(&self, pool: &PgPool) -> Result<Vec<Progress>, Exit> {
        let all = millrace_sinks::progress(pool).await?;
        let Some(wanted) = &self.endpoint else { return Ok(all) };
        let mut known: Vec<String> = all.iter().map(|progress| progress.endpoint.clone()).collect();
        known.sort_unstable();
        known.dedup();
        let found: Vec<Progress> = all.into_iter().filter(|progress| progress.endpoint == *wanted).collect();
        if found.is_empty() {
            let known = if known.is_empty() { "no endpoint at all".to_owned() } else { known.join(", ") };
            return Err(Exit::usage(format!("--endpoint {wanted}: no delivery went there, only to {known}")));
        }
        Ok(found)
    }
}
