//! `millrace local`: only the servers, until Ctrl-C.
#![allow(clippy::print_stdout, reason = "this command's output")]

use crate::commands::Global;
use crate::exit::Exit;
use clap::{Args, Subcommand};
use millrace_local::{Ports, Receiver, ReceiverOptions, Stack, StackError, StackOptions};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    pub stack: StackArguments,
    #[command(subcommand)]
    part: Option<Part>,
}

/// What `up` and `local` share.
#[derive(Args, Clone)]
pub struct StackArguments {
    /// Where the servers keep their data, their logs and stack.json
    #[arg(long, default_value = ".millrace", value_name = "DIR")]
    pub data_dir: PathBuf,
    /// The documented ports, or free ones (so that two stacks run side by side)
    #[arg(long, default_value = "default", value_enum)]
    pub ports: PortChoice,
    /// Start over: remove what an earlier stack left in the data directory
    #[arg(long)]
    pub fresh: bool,
}

#[derive(Clone, Copy, clap::ValueEnum)]
pub enum PortChoice {
    Default,
    Auto,
}

#[derive(Subcommand)]
enum Part {
    /// The ClickHouse engine behind its HTTP endpoint, started by `local` as a child process
    #[command(hide = true)]
    Clickhouse(EngineArguments),
}

#[derive(Args)]
struct EngineArguments {
    #[arg(long)]
    library: PathBuf,
    #[arg(long)]
    path: PathBuf,
    #[arg(long)]
    listen: SocketAddr,
}

pub async fn run(arguments: Arguments, global: &Global) -> Result<(), Exit> {
    if let Some(Part::Clickhouse(engine)) = arguments.part {
        let EngineArguments { library, path, listen } = engine;
        let options = millrace_local::engine::Options::new(library, path, listen);
        return Ok(millrace_local::engine::serve(options).await?);
    }
    let stack = start(&arguments.stack).await?;
    let receiver = receive(&stack, &arguments.stack.data_dir).await?;
    let issuer = millrace_local::issue(&arguments.stack.data_dir, stack.addresses()).await?;
    stack.write_stack_json().map_err(Exit::failed)?;
    if global.json {
        println!("{}", serde_json::json!(stack.addresses()));
    } else {
        println!("{}", describe(&stack));
        println!("Ctrl-C stops them; the data stays in {}", arguments.stack.data_dir.display());
    }
    let ended = tokio::select! {
        () = crate::exit::asked_to_stop() => Ok(()),
        failure = stack.failed() => Err(Exit::failed(failure)),
    };
    receiver.stop().await;
    issuer.stop().await;
    stack.stop().await;
    ended
}

/// The webhook receiver of a stack.
pub async fn receive(stack: &Stack, data_dir: &Path) -> Result<Receiver, Exit> {
    let options = ReceiverOptions::in_directory(data_dir, stack.addresses()).map_err(Exit::failed)?;
    Ok(millrace_local::receive(options).await?)
}

/// Starts the servers; what is wrong is one line.
pub async fn start(arguments: &StackArguments) -> Result<Stack, Exit> {
    let program = std::env::current_exe().map_err(Exit::failed)?;
    let options = StackOptions {
        data_dir: arguments.data_dir.clone(),
        ports: match arguments.ports {
            PortChoice::Default => Ports::Default,
            PortChoice::Auto => Ports::Auto,
        },
        fresh: arguments.fresh,
        cache: None,
        engine_command: vec![program.into(), "local".into(), "clickhouse".into()],
    };
    millrace_local::start(options).await.map_err(refused)
}

/// What another argument or another program would change, apart from what broke.
fn refused(error: StackError) -> Exit {
    match error {
        StackError::InUse { .. }
        | StackError::Foreign { .. }
        | StackError::OtherVersion { .. }
        | StackError::PortTaken { .. } => Exit::usage(error),
        StackError::Missing(_) => Exit::unavailable(error),
        _ => Exit::failed(error),
    }
}

/// One line a server.
pub fn describe(stack: &Stack) -> String {
    let addresses = stack.addresses();
    let redis =
        addresses.redis.as_deref().unwrap_or("not here: limits are kept per process (apt-get install redis-server)");
    let rows = [
        ("Kafka", addresses.kafka.as_str()),
        ("ClickHouse", &addresses.clickhouse),
        ("Postgres", &addresses.postgres),
        ("Redis", redis),
    ];
    rows.map(|(name, address)| format!("{name:<12} {address}")).join("\n")
}
