//! The one binary: parse, configure, start the role that was asked for, drain.

mod commands;
mod config;
mod exit;
mod ops;
mod telemetry;
mod verify;

use clap::Parser;
use commands::{Cli, Command};
use exit::Exit;
use std::process::ExitCode;

fn main() -> ExitCode {
    exit::in_silence_when_nobody_reads(start)
}

fn start() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return exit::usage(&error),
    };
    // The TLS library wants one provider a process; nothing else has installed one yet.
    let _ = rustls::crypto::ring::default_provider().install_default();
    match tokio::runtime::Runtime::new().map_err(Exit::failed).and_then(|runtime| runtime.block_on(run(cli))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(exit) => exit.report(),
    }
}

async fn run(cli: Cli) -> Result<(), Exit> {
    let Cli { global, command } = cli;
    telemetry::start();
    let config = || config::Config::load(&global);
    match command {
        // Boxed: it holds every role's state.
        Command::Up(arguments) => Box::pin(commands::up::run(arguments, &global)).await,
        Command::Local(arguments) => commands::local::run(arguments, &global).await,
        Command::Init(arguments) => commands::init::run(&arguments, &global),
        Command::Check(arguments) => commands::check::run(&arguments, &global).await,
        Command::Docs(document) => commands::docs::run(document, &global),
        Command::Migrate => commands::migrate::run(&config()?, &global).await,
        Command::Gateway => commands::roles::gateway(&config()?, &global).await,
        Command::Relay(names) => commands::roles::relay(&config()?, &global, &names).await,
        Command::Registry => commands::roles::registry(&config()?).await,
        Command::Process(names) => commands::roles::process(&config()?, &global, &names).await,
        Command::Sink(names) => commands::roles::sink(&config()?, &global, &names).await,
        Command::Simulate(arguments) => commands::simulate::run(&arguments, &config()?, &global).await,
        Command::Status => commands::status::run(&config()?, &global).await,
        Command::Verify(what) => Box::pin(commands::verify::run(&config()?, &global, &what)).await,
        Command::Rebuild(what) => commands::rebuild::run(&config()?, &global, &what).await,
        Command::Reset(topic) => commands::reset::run(&topic, &config()?, &global).await,
        Command::DeadLetters(action) => commands::dead_letters::run(action, &config()?, &global).await,
        Command::Quarantine(action) => commands::quarantine::run(action, &config()?, &global).await,
        Command::Deliveries(action) => commands::deliveries::run(action, &config()?, &global).await,
        Command::Erasure => commands::erasure::run(&config()?, &global).await,
        Command::Config => config()?.print(&global),
    }
}
