//! One Apache Kafka node, broker and controller at once, as the stack runs it.

use crate::probe::Conversation;
use crate::process::{guarded, run};
use crate::supervise::Program;
use anyhow::{Context, ensure};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Java's share of a laptop; the page cache does the rest.
const HEAP: [&str; 2] = ["-Xms256m", "-Xmx512m"];
/// A record of 5 MB must pass, with its headers and its batch.
const RECORD_BYTES_MAX: u32 = 8 * 1024 * 1024;
/// The only log lines wanted besides warnings: when it came up and went down.
const LOUD: &str = "-Dorg.slf4j.simpleLogger.log.kafka.server.KafkaRaftServer=info";

pub(crate) struct Kafka {
    pub java: PathBuf,
    /// Where Kafka's jars are.
    pub jars: PathBuf,
    /// What it may write into.
    pub home: PathBuf,
    pub log: PathBuf,
    pub cluster: String,
    pub port: u16,
    /// Where the node's broker half talks to its controller half.
    pub controller_port: u16,
}

impl Program for Kafka {
    /// Formats once. The meta file is the last thing that formatting writes, so a formatting that was cut short is
    /// done again; `--ignore-formatted` lets it.
    fn prepare(&mut self) -> anyhow::Result<()> {
        fs::create_dir_all(&self.home)?;
        fs::write(self.config_file(), self.config())?;
        if self.data().join("meta.properties").exists() {
            return Ok(());
        }
        let mut format = self.java();
        format.stdin(Stdio::null());
        format.args(["kafka.tools.StorageTool", "format", "--ignore-formatted", "-t", &self.cluster, "-c"]);
        format.arg(self.config_file());
        run(format, &self.log).context("could not format its log directory")
    }

    fn command(&self) -> Command {
        let mut command = self.java();
        command.args(HEAP).args(["-XX:+ExitOnOutOfMemoryError", LOUD, "kafka.Kafka"]).arg(self.config_file());
        command
    }

    /// It is ready when it names itself among the brokers: before that it answers, but leads nothing.
    fn probe(&self) -> anyhow::Result<()> {
        let mut kafka = Conversation::open(self.port)?;
        kafka.send(&metadata_request())?;
        let size = u32::from_be_bytes(kafka.receive_exactly()?);
        ensure!((12..4096).contains(&size), "its answer is {size} bytes long");
        let [_, _, _, _, a, b, c, d] = kafka.receive_exactly()?; // correlation id, then how many brokers
        ensure!(i32::from_be_bytes([a, b, c, d]) > 0, "it has no broker yet");
        Ok(())
    }
}

impl Kafka {
    fn java(&self) -> Command {
        let mut command = guarded(&self.java);
        command.current_dir(&self.home).arg("-cp").arg(self.jars.join("*"));
        command.args(["-Djava.awt.headless=true", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"]);
        command.args([
            "-Dorg.slf4j.simpleLogger.showDateTime=true",
            "-Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS",
        ]);
        command
    }

    fn data(&self) -> PathBuf {
        self.home.join("data")
    }

    fn config_file(&self) -> PathBuf {
        self.home.join("server.properties")
    }

    fn config(&self) -> String {
        let Self { port, controller_port, .. } = self;
        let data = self.data().display().to_string().replace('\\', "\\\\");
        format!(
            "# written at every start; changes are lost
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller_port}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs={data}

# one node: one copy of everything, and few partitions of what Kafka keeps for itself
num.partitions=4
default.replication.factor=1
min.insync.replicas=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=1
log.cleaner.dedupe.buffer.size=16777216

# topics are made by `millrace migrate`, never by a misspelt name
auto.create.topics.enable=false
message.max.bytes={RECORD_BYTES_MAX}
replica.fetch.max.bytes={RECORD_BYTES_MAX}
group.initial.rebalance.delay.ms=0

# after a crash the broker is let in again when its old session has ended: by default nine seconds
broker.session.timeout.ms=4000
broker.heartbeat.interval.ms=500
"
        )
    }
}

/// Sixteen random bytes as Kafka writes them. Like Kafka's own, it never begins with `-`, which the tool that formats
/// would take for an option: without its first bit a number never does.
pub(crate) fn new_cluster_id() -> String {
    cluster_id(uuid::Uuid::new_v4().into_bytes())
}

fn cluster_id(mut bytes: [u8; 16]) -> String {
    bytes[0] &= 0x7f;
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Metadata, version 1, of no topic: <https://kafka.apache.org/protocol.html#The_Messages_Metadata>.
fn metadata_request() -> Vec<u8> {
    let mut body = Vec::new();
    body.extend(3i16.to_be_bytes()); // Metadata
    body.extend(1i16.to_be_bytes()); // version
    body.extend(1i32.to_be_bytes()); // correlation id
    body.extend(8i16.to_be_bytes());
    body.extend(b"millrace"); // client id
    body.extend(0i32.to_be_bytes()); // topics
    let size = u32::try_from(body.len()).unwrap_or(u32::MAX);
    [size.to_be_bytes().to_vec(), body].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_id_is_never_taken_for_an_option() {
        assert!((0..=255).all(|first| !cluster_id([first; 16]).starts_with('-')));
        assert_eq!(new_cluster_id().len(), 22);
    }

    #[test]
    fn a_request_says_how_long_it_is() {
        let request = metadata_request();
        assert_eq!(request[..4], u32::to_be_bytes(request.len() as u32 - 4));
    }
}
