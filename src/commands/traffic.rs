//! The demo's traffic: one seed's events, going on where an earlier run of the same data directory stopped.
//!
//! The file says how far the log certainly has the events (`next`) and how far it may have them (`attempted`),
//! written ahead. After a crash the events between are sent again, under the same ids.

use crate::exit::Exit;
use millrace_producers::Client;
use millrace_producers::simulate::{Options, Report, run};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// More than is sent between two looks at the progress, beyond what the rate allows: a burst after a stall.
const BURST: u64 = 20_000;
/// The same when no rate bounds it.
const UNBOUNDED_BURST: u64 = 200_000;
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

impl TrafficOptions {
    /// # Errors
    /// When the data directory has another seed's traffic.
    pub fn refuse_another_seed(&self) -> Result<(), Exit> {
        Progress::read(self).map(drop)
    }
}

impl Progress {
    fn read(options: &TrafficOptions) -> Result<Self, Exit> {
        let TrafficOptions { seed, file, .. } = options;
        let begin = Self { seed: *seed, next: 0, attempted: 0 };
        let wrong = |error: &dyn std::fmt::Display| {
            Exit::failed(anyhow::anyhow!("{}: {error}; --fresh starts over", file.display()))
        };
        let text = match std::fs::read_to_string(file) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(begin),
            // To begin at 0 would publish every event of the seed again.
            Err(error) => return Err(wrong(&error)),
        };
        let known: Self = serde_json::from_str(&text).map_err(|error| wrong(&error))?;
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

    /// `sent` counts from the seed's first event; `ahead` is written ahead of it.
    fn advance(&mut self, next: u64, sent: u64, ahead: u64, file: &Path) {
        self.next = next;
        if self.attempted < sent + ahead / 2 {
            self.attempted = sent + ahead;
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
    /// When the data directory has another seed's traffic, or can't be written.
    pub fn start(options: TrafficOptions, client: Client) -> Result<Self, Exit> {
        if let Some(above) = options.file.parent() {
            std::fs::create_dir_all(above).map_err(Exit::failed)?;
        }
        let progress = Progress::read(&options)?;
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
    let duplicates_per_thousand = DUPLICATES_PER_THOUSAND;
    let from = |first, events| Options { seed, rate, first, events, duplicates_per_thousand };
    let mut again = Report::default();
    if progress.attempted > progress.next {
        let unsure = progress.attempted - progress.next;
        tracing::info!("an earlier run was cut off: the log may lack any of the next {unsure} events, so all are sent");
        let unsure = Options { rate: 0, ..from(progress.next, Some(unsure)) };
        again = run(&unsure, &client, note, &CancellationToken::new()).await.map_err(Exit::failed)?;
        progress.next = again.next;
    }
    let first = progress.next;
    let ahead = if rate == 0 { UNBOUNDED_BURST } else { BURST + 2 * u64::from(rate) };
    progress.advance(first, first, ahead, &file);
    let noted = |report: &Report| {
        progress.advance(report.next, first + report.published, ahead, &file);
        note(&together(&again, report));
    };
    let report = run(&from(first, None), &client, noted, &cancelled).await.map_err(Exit::failed)?;
    Progress { seed, next: report.next, attempted: first + report.published }.write(&file);
    Ok(together(&again, &report))
}

/// What was sent again counts as well.
fn together(again: &Report, report: &Report) -> Report {
    Report {
        published: again.published + report.published,
        acknowledged: again.acknowledged + report.acknowledged,
        repeated: again.repeated + report.repeated,
        ..report.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_where_there_is_no_progress_the_traffic_begins_at_its_first_event() {
        let directory = tempfile::tempdir().unwrap();
        let read = |file: PathBuf| Progress::read(&TrafficOptions { seed: 7, rate: 1, file });
        let file = directory.path().join("traffic.json");
        assert_eq!(read(file.clone()).unwrap(), Progress { seed: 7, next: 0, attempted: 0 });
        let progress = Progress { seed: 7, next: 5, attempted: 9 };
        progress.write(&file);
        assert_eq!(read(file).unwrap(), progress);
        let unreadable = directory.path().to_path_buf();
        let error = read(unreadable.clone()).unwrap_err().to_string();
        assert!(error.contains(&unreadable.display().to_string()) && error.contains("--fresh starts over"), "{error}");
    }
}
