//! A Redis for the tests beside this: the machine's own program, at a socket in a directory of its own.

use super::{Reached, Redis, RedisConfig};
use crate::gateway::metrics::GatewayMetrics;
use redis::aio::MultiplexedConnection;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Long: a busy machine must not look like a Redis that is away.
pub const DEADLINE: Duration = Duration::from_secs(1);
/// A server that begins takes some milliseconds.
const START_DEADLINE: Duration = Duration::from_secs(30);

pub struct Real {
    server: Child,
    directory: TempDir,
}

impl Real {
    pub fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let is_there = |program: &&str| Command::new(program).arg("--version").output().is_ok();
        let program = ["redis-server", "valkey-server"].into_iter().find(is_there);
        let program = program.expect("no Redis on this machine: `make test` installs it");
        let mut server = Command::new(program);
        server.args(["--port", "0", "--unixsocket", "socket", "--save", ""]).current_dir(directory.path());
        let server = server.stdout(Stdio::null()).spawn().unwrap();
        Self { server, directory }
    }

    /// As a gateway has it once it was reached.
    pub async fn shared(&self) -> (Arc<Redis>, GatewayMetrics) {
        let (deadline_ms, metrics) = (DEADLINE.as_millis() as u64, GatewayMetrics::default());
        let url = format!("redis+unix://{}/socket", self.directory.path().display());
        let config = RedisConfig { url, deadline_ms, ..RedisConfig::default() };
        let redis = Redis::of(&config, Arc::default(), &metrics).unwrap().unwrap();
        let reached = Reached { connection: connected(&redis).await, since: Instant::now() };
        *redis.reached.write().unwrap() = Some(reached);
        (redis, metrics)
    }
}

async fn connected(redis: &Redis) -> MultiplexedConnection {
    let until = Instant::now() + START_DEADLINE;
    loop {
        match redis.connect().await {
            Ok(connection) => return connection,
            Err(error) => assert!(Instant::now() < until, "{error:#}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

impl Drop for Real {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}
