//! Other people's tools for the same work, each as a process of its own. Their sources are in benches/peers, outside
//! the workspace, and are built only here: nobody who builds Millrace pays for them.

use crate::platform::Role;
use crate::{ASKED_EVERY, Bench, SETTLED_WITHIN};
use anyhow::{Context, ensure};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const SOURCES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/peers");
/// A broker that does not answer within this is asked again.
const ANSWERED_WITHIN: Duration = Duration::from_secs(5);

/// One of them, ready to start.
pub struct Peer {
    /// What the report calls it.
    pub name: &'static str,
    /// Columns that it does not fill.
    pub leaves_out: &'static [&'static str],
    program: PathBuf,
    arguments: Vec<PathBuf>,
}

/// # Errors
/// What is missing to build one, or why it does not build.
pub fn build() -> anyhow::Result<Vec<Peer>> {
    eprintln!("building the peers; the first time takes minutes, and --no-peers leaves them out");
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("peers");
    Ok(vec![arroyo(&directory)?, bento(&directory)?])
}

fn arroyo(directory: &Path) -> anyhow::Result<Peer> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--release", "--locked", "--target-dir"]).arg(directory);
    build_with(cargo.current_dir(Path::new(SOURCES).join("arroyo")), "cargo")?;
    Ok(Peer {
        name: "peer: arroyo",
        leaves_out: &[],
        program: directory.join("release/arroyo-peer"),
        arguments: Vec::new(),
    })
}

fn bento(directory: &Path) -> anyhow::Result<Peer> {
    let sources = Path::new(SOURCES).join("bento");
    let program = directory.join("bento");
    let mut go = Command::new("go");
    go.args(["build", "-buildvcs=false", "-o"]).arg(&program).current_dir(&sources);
    build_with(&mut go, "go")?;
    Ok(Peer {
        name: "peer: bento",
        leaves_out: &["_schema_id"],
        program,
        arguments: vec!["-c".into(), sources.join("config.yaml")],
    })
}

fn build_with(command: &mut Command, tool: &str) -> anyhow::Result<()> {
    let missing =
        || format!("could not run `{tool}`, which builds a peer: install it, or leave them out by --no-peers");
    let status = command.status().with_context(missing)?;
    ensure!(status.success(), "`{tool} build` in benches/peers failed: {status}");
    Ok(())
}

impl Peer {
    /// Starts it in a group of its own and returns once it has its partitions.
    pub async fn start(&self, bench: &Bench, database: &str, run: u32) -> anyhow::Result<Role> {
        let name = self.name.trim_start_matches("peer: ");
        let (addresses, group) = (bench.platform.addresses(), format!("{name}-{run}"));
        let mut command = Command::new("sh"); // what a peer says on its standard output is for its log too
        command
            .args(["-c", r#"exec "$0" "$@" >&2"#])
            .arg(&self.program)
            .args(&self.arguments)
            .env("BROKERS", &addresses.kafka)
            .env("REGISTRY", &addresses.registry)
            .env("CLICKHOUSE", addresses.clickhouse.trim_end_matches('/'))
            .env("DATABASE", database)
            .env("GROUP", &group)
            .env("TOPICS", bench.log.topics().join(","));
        let mut role = Role::start(&mut command, &bench.platform.data, name);
        let kafka: BaseConsumer = ClientConfig::new().set("bootstrap.servers", &addresses.kafka).create()?;
        let deadline = Instant::now() + SETTLED_WITHIN;
        while !is_stable(&kafka, &group) {
            ensure!(role.is_running(), "{name} ended:\n{}", role.log());
            ensure!(Instant::now() < deadline, "{name} got no partitions:\n{}", role.log());
            tokio::time::sleep(ASKED_EVERY).await;
        }
        Ok(role)
    }
}

fn is_stable(kafka: &BaseConsumer, group: &str) -> bool {
    let found = kafka.fetch_group_list(Some(group), ANSWERED_WITHIN);
    found.is_ok_and(|found| found.groups().iter().any(|group| group.state() == "Stable"))
}
