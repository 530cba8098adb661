//! PostgreSQL as the stack runs it: durable, on loopback only, and never with the rights of root.

use crate::identity::Identity;
use crate::probe::Conversation;
use crate::process::{await_leaving, run};
use crate::supervise::Program;
use anyhow::{Context, ensure};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

pub(crate) const DATABASE: &str = "millrace";
pub(crate) const USER: &str = "millrace";

/// Enough for a laptop; everything that concerns durability is as Postgres ships it.
const SETTINGS: &str = "
# written once by millrace
shared_buffers = 128MB
max_connections = 200
max_wal_size = 1GB
checkpoint_timeout = 15min
log_min_messages = warning
log_checkpoints = off
log_timezone = 'UTC'
timezone = 'UTC'
";

/// Whoever reaches the port may be anyone but the superuser, who can read files and start programs.
const ACCESS: &str = "
# written once by millrace
host  all  postgres  all           reject
host  all  all       127.0.0.1/32  trust
host  all  all       ::1/128       trust
";

const FIRST_STATEMENTS: &str = "
CREATE ROLE millrace LOGIN CREATEDB CREATEROLE IN ROLE pg_monitor;
CREATE DATABASE millrace OWNER millrace;
";

/// How long what a killed Postgres left running may take to notice; it looks before it waits for anything.
const LEAVING_DEADLINE: Duration = Duration::from_secs(10);

pub(crate) struct Postgres {
    /// Where `bin/postgres` is.
    pub install: PathBuf,
    pub home: PathBuf,
    pub log: PathBuf,
    pub port: u16,
    pub identity: Identity,
}

impl Program for Postgres {
    /// Made aside and renamed: a directory with the right name is a whole one.
    fn prepare(&mut self) -> anyhow::Result<()> {
        if self.home.join("PG_VERSION").exists() {
            return self.forget_the_dead();
        }
        let aside = self.home.with_extension("new");
        if aside.exists() {
            fs::remove_dir_all(&aside)?;
        }
        self.make(&aside)?;
        Ok(fs::rename(&aside, &self.home)?)
    }

    fn command(&self) -> Command {
        let mut command = self.program("postgres");
        command.arg("-D").arg(&self.home).args(["-p", &self.port.to_string()]);
        command.args(["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="]);
        command
    }

    /// Logs in as a client would: while it recovers it refuses that, though it listens.
    fn probe(&self) -> anyhow::Result<()> {
        let mut postgres = Conversation::open(self.port)?;
        postgres.send(&startup_message())?;
        let [kind] = postgres.receive_exactly()?;
        ensure!(kind == b'R', "it refuses to log {USER} in");
        postgres.send(b"X\0\0\0\x04")?; // goodbye
        Ok(())
    }
}

impl Postgres {
    fn make(&self, home: &Path) -> anyhow::Result<()> {
        self.identity.make_directory(home)?;
        let mut initdb = self.program("initdb");
        initdb.stdin(Stdio::null());
        initdb.arg("-D").arg(home).args(["-U", "postgres", "--auth=trust", "--encoding=UTF8", "--no-instructions"]);
        initdb.args(["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]); // the same on every machine
        run(initdb, &self.log).context("could not make its data directory")?;
        append(&home.join("postgresql.conf"), SETTINGS)?;
        fs::write(home.join("pg_hba.conf"), ACCESS)?;
        self.first_statements(home).context("could not make its database")
    }

    /// A single-user server: nobody else can connect meanwhile, and no port is needed.
    fn first_statements(&self, home: &Path) -> anyhow::Result<()> {
        let statements = home.join("first.sql");
        fs::write(&statements, FIRST_STATEMENTS)?;
        let mut single = self.program("postgres");
        single.args(["--single", "-D"]).arg(home).arg("postgres").stdin(File::open(&statements)?);
        run(single, &self.log)?;
        Ok(fs::remove_file(statements)?)
    }

    /// Postgres refuses to start while the process named in its lock file exists: though it be a zombie that the
    /// machine's first process has not taken in yet, or a stranger with the same number after a reboot. Both are
    /// common in containers. So the lock of a directory in which nobody works any more goes.
    fn forget_the_dead(&self) -> anyhow::Result<()> {
        let lock = self.home.join("postmaster.pid");
        if lock.exists() && await_leaving(&self.home, LEAVING_DEADLINE) {
            fs::remove_file(lock)?;
        }
        Ok(()) // if somebody does, it says so itself
    }

    fn program(&self, name: &str) -> Command {
        let mut command = self.identity.command(&self.install.join("bin").join(name));
        command.current_dir("/").env("LC_ALL", "C"); // its messages are read for known signs
        command
    }
}

fn append(file: &Path, text: &str) -> std::io::Result<()> {
    File::options().append(true).open(file)?.write_all(text.as_bytes())
}

/// StartupMessage, protocol 3.0: <https://www.postgresql.org/docs/18/protocol-message-formats.html>.
fn startup_message() -> Vec<u8> {
    let parameters = format!("user\0{USER}\0database\0{DATABASE}\0\0");
    let size = u32::try_from(8 + parameters.len()).unwrap_or(u32::MAX);
    [&size.to_be_bytes(), &0x0003_0000_u32.to_be_bytes(), parameters.as_bytes()].concat()
}
