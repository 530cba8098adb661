//! The demo's traffic: one seed's events, going on where an earlier run of the same data directory stopped.
//!
//! The file says how far the log certainly has the events (`next`) and how far it may have them (`attempted`),
//! written ahead. After a crash the events between are sent again, under the same ids.

use crate::commands::simulate;
use crate::config::Config;
use crate::exit::Exit;
use millrace_producers::Client;
use millrace_producers::simulate::{Options, Report, run};
use millrace_schemas::Contracts;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// How far ahead `attempted` is written: more than is sent between two looks at it, at any rate.
const AHEAD: u64 = 200_000;
/// Of a thousand events so many are sent twice, so that deduplication has something to do.
const DUPLICATES_PER_THOUSAND: u32 = 2;

pub struct TrafficOptions {
    pub seed: u64,
    pub rate: u32,
    /// Where it is noted how far the seed has come.
    pub file: PathBuf,
}

/// How far the seed has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Progress {
    seed: u64,
    next: u64,
    attempted: u64,
}

impl Progress {
    fn read(options: &TrafficOptions) -> Result<Self, Exit> {
        let TrafficOptions { seed, file, .. } = options;
        let begin = Self { seed: *seed, next: 0, attempted: 0 };
        let Ok(text) = std::fs::read_to_string(file) else { return Ok(begin) };
        let known: Self = serde_json::from_str(&text).map_err(Exit::failed)?;
        if known.seed == *seed {
            return Ok(known);
        }
        Err(Exit::usage(format!(
            "this data directory holds the traffic of seed {}: go on with --seed {}, or start over with --fresh",
            known.seed, known.seed
        )))
    }

    /// Replaces the file whole, so that a crash leaves the old one or the new one.
    fn write(self, file: &Path) {
        let temporary = file.with_extension("tmp");
        let written = serde_json::to_vec(&self).map_err(std::io::Error::from);
        let written = written.and_then(|text| std::fs::write(&temporary, text));
        if let Err(error) = written.and_then(|()| std::fs::rename(&temporary, file)) {
            tracing::warn!("could not note the traffic's progress in {}: {error}", file.display());
        }
    }

    fn advance(&mut self, report: &Report, file: &Path) {
        self.next = report.next;
        if self.attempted < self.next + AHEAD / 2 {
            self.attempted = self.next + AHEAD;
        }
        self.write(file);
    }
}

/// Traffic on its way; none if none was asked for.
pub struct Traffic {
    task: Option<JoinHandle<Result<Report, Exit>>>,
    latest: Arc<Mutex<Report>>,
    cancelled: CancellationToken,
}

impl Traffic {
    pub fn none() -> Self {
        Self { task: None, latest: Arc::default(), cancelled: CancellationToken::new() }
    }

    /// # Errors
    /// When the data directory has another seed's traffic, or a server does not answer.
    pub async fn start(options: TrafficOptions, config: &Config, contracts: &Arc<Contracts>) -> Result<Self, Exit> {
        if let Some(above) = options.file.parent() {
            std::fs::create_dir_all(above).map_err(Exit::failed)?;
        }
        let progress = Progress::read(&options)?;
        let client = simulate::client(config, contracts).await?;
        let (latest, cancelled) = (Arc::<Mutex<Report>>::default(), CancellationToken::new());
        let task = tokio::spawn(send(options, progress, client, latest.clone(), cancelled.clone()));
        Ok(Self { task: Some(task), latest, cancelled })
    }

    /// Reads what was sent so far.
    pub fn latest(&self) -> impl Fn() -> Report + use<> {
        let latest = self.latest.clone();
        move || latest.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Resolves when it ended by itself, which only an error makes it do.
    pub async fn ended(&mut self) -> Result<(), Exit> {
        match &mut self.task {
            Some(task) => {
                let ended = task.await.map_err(Exit::failed)?;
                self.task = None;
                ended.map(drop)
            }
            None => std::future::pending().await,
        }
    }

    /// Stops sending and waits for what is under way.
    pub async fn finish(self) -> Result<Report, Exit> {
        self.cancelled.cancel();
        match self.task {
            Some(task) => task.await.map_err(Exit::failed)?,
            None => Ok(Report::default()),
        }
    }
}

async fn send(
    options: TrafficOptions,
    mut progress: Progress,
    client: Client,
    latest: Arc<Mutex<Report>>,
    cancelled: CancellationToken,
) -> Result<Report, Exit> {
    let note = |report: &Report| *latest.lock().unwrap_or_else(PoisonError::into_inner) = report.clone();
    let TrafficOptions { seed, rate, file } = options;
    let base =
        Options { seed, rate, first: progress.next, events: None, duplicates_per_thousand: DUPLICATES_PER_THOUSAND };
    if progress.attempted > progress.next {
        let unsure = progress.attempted - progress.next;
        tracing::info!("an earlier run was cut off: sending its last {unsure} events again, under the same ids");
        let again = Options { rate: 0, events: Some(unsure), ..base.clone() };
        progress.next = run(&again, &client, note, &CancellationToken::new()).await.map_err(Exit::failed)?.next;
    }
    progress.attempted = progress.next + AHEAD;
    progress.write(&file);
    let onward = Options { first: progress.next, ..base };
    let noted = |report: &Report| {
        note(report);
        progress.advance(report, &file);
    };
    let report = run(&onward, &client, noted, &cancelled).await.map_err(Exit::failed)?;
    Progress { seed, next: report.next, attempted: onward.first + report.published }.write(&file);
    Ok(report)
}
