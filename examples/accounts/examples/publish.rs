//! Publishes one event to the gateway, for what changes no database of its own: no outbox, nothing but HTTP.
//!
//! ```sh
//! cargo run -p millrace-accounts --example publish -- http://127.0.0.1:7070 .millrace/gateway/token
//! ```

use anyhow::Context;
use millrace_accounts::events::account_registered::AccountRegistered;
use millrace_client::{Client, Credential, Options};
use uuid::Uuid;

#[tokio::main]
#[allow(clippy::print_stdout, reason = "this program's output")]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (url, key_file) = arguments.next().zip(arguments.next()).context("usage: publish URL KEY_FILE")?;
    let key = std::fs::read_to_string(&key_file).with_context(|| format!("the key in {key_file}"))?;
    println!("{}", publish(&url, &key).await?);
    Ok(())
}

/// Returns the account.
pub async fn publish(url: &str, key: &str) -> anyhow::Result<Uuid> {
    let client = Client::new(Options::new(url, "/accounts", Credential::key(key)))?; // one a process
    let account_id = Uuid::now_v7();
    let (email, name, country) = ("grace@example.com".into(), "Grace Hopper".into(), "US".into());
    client.publish(&AccountRegistered { account_id, email, name, country }).await?; // all in-sync replicas have it
    client.settled().await; // before the process ends: what others of it have not awaited
    Ok(account_id)
}
