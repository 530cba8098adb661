//! The stack's data directory: who holds it, which versions wrote it, which processes were started from it.
//! It deletes nothing but what the stack itself made.

use crate::StackError;
use crate::process::Recorded;
use serde::{Deserialize, Serialize};
use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

/// Says that the stack made this directory, and with which servers.
const MARKER: &str = "millrace-stack.json";
const LOCK: &str = "lock";
/// Everything else that the stack, or `millrace up` on top of it, keeps here. `--fresh` deletes these.
const OURS: [&str; 12] = [
    "kafka",
    "clickhouse",
    "postgres",
    "postgres.new",
    "redis",
    "receiver",
    "gateway",
    "issuer",
    "up",
    "run",
    "logs",
    "stack.json",
];
/// With less than this a server would stop in the middle of its first minutes.
const SPACE_MIN: u64 = 512 * 1024 * 1024;

/// The versions whose data cannot be mixed, and what must stay the same across starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Marker {
    pub made_by: String,
    pub kafka: String,
    pub clickhouse: String,
    pub postgres: String,
    /// Kafka refuses a log directory of another cluster.
    pub kafka_cluster: String,
}

/// A data directory that this process, and no other, uses.
#[derive(Debug)]
pub(crate) struct Directory {
    root: PathBuf,
    pub marker: Marker,
    _lock: File,
}

impl Directory {
    /// Takes the directory, or says why not. No data in it is touched before all checks have passed.
    pub fn take(data_dir: &Path, fresh: bool, ours: Marker) -> Result<Self, StackError> {
        let root = created(data_dir).map_err(|error| {
            StackError::directory(data_dir, format!("could not make it: {error}; give another --data-dir"))
        })?;
        let marker = read_marker(&root)?;
        if marker.is_none() {
            refuse_foreign(&root)?;
        }
        let lock = lock(&root)?;
        end_orphans(&root).map_err(|error| StackError::directory(&root, error))?;
        if fresh {
            empty(&root).map_err(|error| StackError::directory(&root, format!("could not empty it: {error}")))?;
        }
        let marker = match marker.filter(|_| !fresh) {
            Some(found) => compatible(&root, found, &ours)?,
            None => ours,
        };
        enough_space(&root)?;
        prepare(&root, &marker).map_err(|error| StackError::directory(&root, error))?;
        Ok(Self { root, marker, _lock: lock })
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    pub fn log(&self, server: &str) -> PathBuf {
        self.root.join("logs").join(format!("{server}.log"))
    }

    pub fn record(&self, server: &str) -> PathBuf {
        self.root.join("run").join(format!("{server}.json"))
    }
}

fn created(data_dir: &Path) -> io::Result<PathBuf> {
    fs::create_dir_all(data_dir)?;
    data_dir.canonicalize()
}

fn read_marker(root: &Path) -> Result<Option<Marker>, StackError> {
    let path = root.join(MARKER);
    match fs::read(&path) {
        Ok(text) => serde_json::from_slice(&text).map(Some).map_err(|error| StackError::directory(path, error)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(StackError::directory(path, error)),
    }
}

/// Without the marker, what has one of our names is somebody else's.
fn refuse_foreign(root: &Path) -> Result<(), StackError> {
    match OURS.iter().find(|name| root.join(name).exists()) {
        Some(found) => Err(StackError::Foreign { dir: root.to_owned(), found: (*found).to_owned() }),
        None => Ok(()),
    }
}

/// The lock is the kernel's: it ends with this process, and children do not inherit it.
fn lock(root: &Path) -> Result<File, StackError> {
    let path = root.join(LOCK);
    let failed = |error: io::Error| StackError::directory(&path, error);
    let options = File::options().read(true).write(true).create(true).truncate(false).to_owned();
    let mut file = options.open(&path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => write_holder(&mut file).map(|()| file).map_err(failed),
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            file.read_to_string(&mut holder).map_err(failed)?;
            Err(StackError::InUse { dir: root.to_owned(), holder })
        }
        Err(TryLockError::Error(error)) => Err(failed(error)),
    }
}

fn write_holder(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    write!(file, "process {}", std::process::id())
}

/// Ends what an earlier stack left running: its process was killed before it could stop its children.
fn end_orphans(root: &Path) -> io::Result<()> {
    let Some(entries) = found(fs::read_dir(root.join("run")))? else { return Ok(()) };
    for entry in entries {
        let path = entry?.path();
        if let Some(orphan) = Recorded::read(&path)
            && orphan.end()
        {
            tracing::warn!("ended process {} of {}, left by an earlier run", orphan.pid, path.display());
        }
        fs::remove_file(&path)?;
    }
    Ok(())
}

fn empty(root: &Path) -> io::Result<()> {
    for path in OURS.iter().map(|name| root.join(name)) {
        match found(path.symlink_metadata())? {
            Some(entry) if entry.is_dir() => fs::remove_dir_all(path)?,
            Some(_) => fs::remove_file(path)?,
            None => {}
        }
    }
    Ok(())
}

/// A server may be newer than its data only where its makers promise to read the older: none here does both ways.
fn compatible(root: &Path, found: Marker, ours: &Marker) -> Result<Marker, StackError> {
    let versions = [
        ("kafka", &found.kafka, &ours.kafka),
        ("the clickhouse engine", &found.clickhouse, &ours.clickhouse),
        ("postgres", &found.postgres, &ours.postgres),
    ];
    if let Some((server, found, ours)) = versions.iter().find(|(_, found, ours)| found != ours) {
        let (found, ours) = ((*found).clone(), (*ours).clone());
        return Err(StackError::OtherVersion { dir: root.to_owned(), server, found, ours });
    }
    Ok(found)
}

fn enough_space(root: &Path) -> Result<(), StackError> {
    let disk = rustix::fs::statvfs(root).map_err(|error| StackError::directory(root, error))?;
    let free = disk.f_bavail * disk.f_frsize;
    if free < SPACE_MIN {
        let why = format!("only {} MB are free there, and the servers need {} MB", free >> 20, SPACE_MIN >> 20);
        return Err(StackError::directory(root, why));
    }
    Ok(())
}

fn prepare(root: &Path, marker: &Marker) -> io::Result<()> {
    write_json(&root.join(MARKER), marker)?;
    for name in ["run", "logs"] {
        fs::create_dir_all(root.join(name))?;
    }
    put_logs_aside(&root.join("logs"))?;
    found(fs::remove_file(root.join("stack.json"))).map(|_| ())
}

/// Each run begins its logs anew, so that what is shown of them is about this run; the last run's are kept beside.
fn put_logs_aside(logs: &Path) -> io::Result<()> {
    for entry in fs::read_dir(logs)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "log") {
            fs::rename(&path, path.with_extension("log.old"))?;
        }
    }
    Ok(())
}

/// Written aside and renamed: a reader sees all of it or nothing.
pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> io::Result<()> {
    let aside = path.with_extension("new");
    let mut text = serde_json::to_vec_pretty(value)?;
    text.push(b'\n');
    fs::write(&aside, text)?;
    fs::rename(aside, path)
}

/// What isn't there is no error.
pub(crate) fn found<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ours(postgres: &str) -> Marker {
        let [made_by, kafka, clickhouse, kafka_cluster] = ["millrace 0", "4.1", "26.7", "c1"].map(str::to_owned);
        Marker { made_by, kafka, clickhouse, postgres: postgres.to_owned(), kafka_cluster }
    }

    fn holding(files: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for file in files {
            fs::create_dir_all(dir.path().join(file).parent().unwrap()).unwrap();
            fs::write(dir.path().join(file), "x").unwrap();
        }
        dir
    }

    #[test]
    fn a_second_stack_is_told_who_holds_the_directory() {
        let dir = holding(&[]);
        let _first = Directory::take(dir.path(), false, ours("18")).unwrap();
        let refused = Directory::take(dir.path(), true, ours("18")).unwrap_err().to_string();
        assert!(refused.contains(&format!("process {}", std::process::id())), "{refused}");
    }

    #[test]
    fn somebody_elses_directory_is_refused_and_left_as_it_is() {
        let dir = holding(&["postgres/precious"]);
        let refused = Directory::take(dir.path(), true, ours("18")).unwrap_err();
        assert!(matches!(refused, StackError::Foreign { .. }), "{refused}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn fresh_deletes_what_the_stack_made_and_nothing_else() {
        let dir = holding(&["notes.txt"]);
        drop(Directory::take(dir.path(), false, ours("18")).unwrap());
        fs::create_dir(dir.path().join("kafka")).unwrap();
        let taken = Directory::take(dir.path(), true, ours("18")).unwrap();
        assert!(!taken.path("kafka").exists() && taken.path("notes.txt").exists());
    }

    #[test]
    fn data_of_another_version_is_refused_until_told_to_start_over() {
        let dir = holding(&[]);
        drop(Directory::take(dir.path(), false, ours("17")).unwrap());
        let refused = Directory::take(dir.path(), false, ours("18")).unwrap_err().to_string();
        assert!(refused.contains("postgres 17") && refused.contains("--fresh"), "{refused}");
        Directory::take(dir.path(), true, ours("18")).unwrap();
    }

    #[test]
    fn the_cluster_stays_the_same_across_starts() {
        let dir = holding(&[]);
        drop(Directory::take(dir.path(), false, ours("18")).unwrap());
        let again =
            Directory::take(dir.path(), false, Marker { kafka_cluster: "c2".to_owned(), ..ours("18") }).unwrap();
        assert_eq!(again.marker.kafka_cluster, "c1");
    }

    #[test]
    fn what_a_killed_run_left_running_is_ended_and_a_reused_id_is_spared() {
        let dir = holding(&[]);
        let first = Directory::take(dir.path(), false, ours("18")).unwrap();
        let mut orphan = std::process::Command::new("sleep").arg("600").spawn().unwrap();
        write_json(&first.record("kafka"), &Recorded::of(orphan.id()).unwrap()).unwrap();
        fs::write(first.record("redis"), format!("{{\"pid\":{},\"started\":\"1\"}}", std::process::id())).unwrap();
        drop(first);
        let again = Directory::take(dir.path(), false, ours("18")).unwrap();
        assert!(orphan.try_wait().unwrap().is_some());
        assert!(!again.record("kafka").exists() && !again.record("redis").exists());
    }
}
