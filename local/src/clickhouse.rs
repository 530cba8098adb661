//! The ClickHouse engine behind HTTP, a process of its own: a crash of the engine is a crash of that process alone.

use crate::probe::Conversation;
use crate::process::guarded;
use crate::supervise::Program;
use anyhow::{Context, ensure};
use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

pub(crate) struct ClickHouse {
    /// The program that serves the engine, and its first arguments.
    pub engine_command: Vec<OsString>,
    pub library: PathBuf,
    pub home: PathBuf,
    pub port: u16,
}

impl Program for ClickHouse {
    fn prepare(&mut self) -> anyhow::Result<()> {
        self.engine_command.first().context("no command for the engine was given")?;
        Ok(fs::create_dir_all(&self.home)?)
    }

    fn command(&self) -> Command {
        let (program, first) = self.engine_command.split_first().map_or((None, [].as_slice()), |(p, a)| (Some(p), a));
        let mut command = guarded(program.map(OsString::as_os_str).unwrap_or_default());
        command.args(first).arg("--library").arg(&self.library).arg("--path").arg(&self.home);
        command.arg("--listen").arg(format!("127.0.0.1:{}", self.port));
        command
    }

    /// `/ping` says that the door is open, the query that the engine is behind it.
    fn probe(&self) -> anyhow::Result<()> {
        for path in ["/ping", "/?query=SELECT%201"] {
            let mut clickhouse = Conversation::open(self.port)?;
            clickhouse
                .send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").as_bytes())?;
            let answer = clickhouse.receive_all(4096)?;
            let status = answer.lines().next().unwrap_or_default();
            ensure!(status.contains(" 200 "), "GET {path} answers `{status}`");
        }
        Ok(())
    }
}
