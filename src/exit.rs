//! How the process ends: one line for people, one code for scripts (README, "Exit codes").

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::process::ExitCode;

/// Why a command did not succeed.
#[derive(Debug)]
pub struct Exit {
    code: u8,
    message: String,
}

impl Exit {
    /// It failed, and no better code fits.
    pub fn failed(error: impl Into<anyhow::Error>) -> Self {
        Self { code: 1, message: format!("{:#}", error.into()) }
    }

    /// A check found something.
    pub fn found(message: impl fmt::Display) -> Self {
        Self { code: 2, message: message.to_string() }
    }

    /// Bad usage or configuration; the message names the argument or key.
    pub fn usage(message: impl fmt::Display) -> Self {
        Self { code: 64, message: message.to_string() }
    }

    /// A server this command needs can't be reached; the message says which and how to start it.
    pub fn unreachable(server: &str, error: impl fmt::Display) -> Self {
        let hint = "`millrace local` starts one here; or set its address (see `millrace config`)";
        Self { code: 69, message: format!("{server} can't be reached: {error}; {hint}") }
    }

    /// A program that this command needs is not installed; the message says how to get it.
    pub fn unavailable(message: impl fmt::Display) -> Self {
        Self { code: 69, message: message.to_string() }
    }

    /// The drain deadline passed with work in hand.
    pub fn late(message: impl fmt::Display) -> Self {
        Self { code: 75, message: message.to_string() }
    }

    /// Prints the one line.
    pub fn report(self) -> ExitCode {
        eprintln!("millrace: {}", self.message);
        ExitCode::from(self.code)
    }
}

/// As a shell shows a program that a closed pipe ended (128 + SIGPIPE).
const PIPE_CLOSED: u8 = 141;
/// The words of the standard library's `println!`.
const NOBODY_READS: &str = "failed printing to stdout: Broken pipe";

/// `millrace verify clickhouse | head` ends in silence, and whatever it had started ends with it. (The signal itself is
/// not let through: it would end a role whose server closes a connection.)
pub fn in_silence_when_nobody_reads(run: impl FnOnce() -> ExitCode) -> ExitCode {
    let others = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !nobody_reads(panic.payload()) {
            others(panic);
        }
    }));
    std::panic::catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| match nobody_reads(&*panic) {
        true => ExitCode::from(PIPE_CLOSED),
        false => resume_unwind(panic),
    })
}

fn nobody_reads(panic: &(dyn Any + Send)) -> bool {
    panic.downcast_ref::<String>().is_some_and(|said| said.starts_with(NOBODY_READS))
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<anyhow::Error> for Exit {
    fn from(error: anyhow::Error) -> Self {
        Self::failed(error)
    }
}

impl From<millrace_stream::Failure> for Exit {
    fn from(failure: millrace_stream::Failure) -> Self {
        Self { code: 1, message: failure.to_string() }
    }
}

/// What clap found: help and version are no failure.
pub fn usage(error: &clap::Error) -> ExitCode {
    let _ = error.print();
    if error.use_stderr() { ExitCode::from(64) } else { ExitCode::SUCCESS }
}

/// Ctrl-C or SIGTERM. A second one ends the process at once, as an impatient operator expects.
pub async fn asked_to_stop() {
    signal().await;
    tokio::spawn(async {
        signal().await;
        eprintln!("millrace: stopped without draining");
        std::process::exit(130);
    });
}

async fn signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut terminate) = signal(SignalKind::terminate()) else { return std::future::pending().await };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
}
