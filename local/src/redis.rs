//! Redis, if the machine has one: nothing is fetched for it.

use crate::probe::Conversation;
use crate::process::{guarded, on_path};
use crate::supervise::Program;
use anyhow::ensure;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

/// It holds counters and short-lived keys.
const MEMORY_MAX: &str = "256mb";

pub(crate) struct Redis {
    pub program: PathBuf,
    pub home: PathBuf,
    pub port: u16,
}

impl Redis {
    pub const MISSING: &str = "redis is missing, so limits count per process instead of being shared: install it with \
        `sudo apt-get install -y redis-server` on Debian or Ubuntu, `brew install redis` on macOS";

    pub fn installed() -> Option<PathBuf> {
        on_path("redis-server").or_else(|| on_path("valkey-server"))
    }
}

impl Program for Redis {
    fn prepare(&mut self) -> anyhow::Result<()> {
        Ok(fs::create_dir_all(&self.home)?)
    }

    fn command(&self) -> Command {
        let mut command = guarded(&self.program);
        command.current_dir(&self.home); // where it writes
        command.args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "yes"]);
        command.args(["--maxmemory", MEMORY_MAX, "--maxmemory-policy", "volatile-ttl"]);
        command
    }

    fn probe(&self) -> anyhow::Result<()> {
        let mut redis = Conversation::open(self.port)?;
        redis.send(b"PING\r\n")?;
        let answer: [u8; 5] = redis.receive_exactly()?;
        ensure!(&answer == b"+PONG", "it answers {}", answer.escape_ascii());
        Ok(())
    }
}
