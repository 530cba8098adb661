//! Child processes that cannot outlive this one unnoticed: how they are started, recorded, found again and ended.

use rustix::fs::{Access, access};
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

/// Formatting a disk's worth of nothing takes a second or two; a machine that needs this long is stuck.
const PREPARE_DEADLINE: Duration = Duration::from_secs(120);
/// How long a killed process may take to be gone; it is the kernel's work alone.
const GONE_DEADLINE: Duration = Duration::from_secs(10);
/// How often to look whether something has come about.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// The command for a program that the kernel kills when the thread that started it ends, where the kernel can.
///
/// `setpriv` asks for that signal because doing it here would need code that Rust cannot check. It replaces itself
/// by the program, so the process id is the program's. Elsewhere the record beside the data is what finds orphans.
pub(crate) fn guarded(program: impl AsRef<OsStr>) -> Command {
    match setpriv() {
        Some(setpriv) => {
            let mut command = Command::new(setpriv);
            command.args(["--pdeathsig", "KILL", "--"]).arg(program);
            command
        }
        None => Command::new(program),
    }
}

pub(crate) fn setpriv() -> Option<&'static Path> {
    static FOUND: LazyLock<Option<PathBuf>> = LazyLock::new(|| {
        let setpriv = on_path("setpriv")?;
        let help = Command::new(&setpriv).arg("--help").output().ok()?;
        String::from_utf8_lossy(&help.stdout).contains("--pdeathsig").then_some(setpriv)
    });
    FOUND.as_deref()
}

/// Where a program is, as a shell would find it.
pub(crate) fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let mut places = std::env::split_paths(&path).map(|dir| dir.join(program));
    places.find(|file| file.is_file() && access(file, Access::EXEC_OK).is_ok())
}

/// Starts it in a process group of its own, so that Ctrl-C reaches this process alone, which then stops the others
/// in order.
pub(crate) fn spawn(mut command: Command, log: &Path) -> io::Result<Child> {
    let out = open_log(log)?;
    command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out).process_group(0).spawn()
}

/// Runs to its end a program that prepares something, its output in the same log.
pub(crate) fn run(mut command: Command, log: &Path) -> anyhow::Result<()> {
    let out = open_log(log)?;
    let mut child = command.stdout(out.try_clone()?).stderr(out).spawn()?;
    let ended = wait_until(PREPARE_DEADLINE, || !matches!(child.try_wait(), Ok(None)));
    if !ended {
        child.kill()?;
    }
    let status = child.wait()?;
    anyhow::ensure!(ended, "it took longer than {PREPARE_DEADLINE:?}");
    anyhow::ensure!(status.success(), "it ended with {status}");
    Ok(())
}

fn open_log(log: &Path) -> io::Result<File> {
    File::options().append(true).create(true).open(log)
}

/// A process by its id and by when it started: the id alone may have become another's.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Recorded {
    pub pid: u32,
    started: String,
}

impl Recorded {
    pub fn of(pid: u32) -> Option<Self> {
        started(pid).map(|started| Self { pid, started })
    }

    /// A record that can't be read names nobody.
    pub fn read(path: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(path).ok()?).ok()
    }

    fn is_running(&self) -> bool {
        started(self.pid).is_some_and(|started| started == self.started)
    }

    /// Kills it if it still runs, waits until it is gone, and says whether there was anything to kill.
    pub fn end(&self) -> bool {
        if !self.is_running() {
            return false;
        }
        send(self.pid, Signal::KILL);
        wait_until(GONE_DEADLINE, || !self.is_running());
        true
    }
}

fn wait_until(deadline: Duration, mut reached: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + deadline;
    while !reached() {
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(LOOK_INTERVAL);
    }
    true
}

/// Waits until no process works in `dir`; says whether it came to that, which only Linux can tell.
pub(crate) fn await_leaving(dir: &Path, deadline: Duration) -> bool {
    Path::new("/proc/self/cwd").exists() && wait_until(deadline, || !is_worked_in(dir))
}

/// Whether any process that may be asked has `dir` as its working directory. Zombies have none.
fn is_worked_in(dir: &Path) -> bool {
    let mut processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    processes.any(|process| fs::read_link(process.path().join("cwd")).is_ok_and(|cwd| cwd == dir))
}

/// A process that is gone needs no signal: that one fails is no error.
pub(crate) fn send(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw)
        && let Err(error) = kill_process(pid, signal)
    {
        tracing::debug!("process {pid:?} got no signal: {error}");
    }
}

/// When a living process started, in the kernel's own words.
#[cfg(target_os = "linux")]
fn started(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let dead = matches!(*fields.first()?, "Z" | "X");
    fields.get(19).filter(|_| !dead).map(|ticks| (*ticks).to_owned()) // field 22 of proc(5); two went with the name
}

#[cfg(not(target_os = "linux"))]
fn started(pid: u32) -> Option<String> {
    let listed = Command::new("ps").args(["-o", "lstart=", "-p", &pid.to_string()]).output().ok()?;
    Some(String::from_utf8_lossy(&listed.stdout).trim().to_owned()).filter(|started| !started.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_left_when_the_last_process_in_it_ends() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().canonicalize().unwrap();
        let mut child = Command::new("sleep").arg("600").current_dir(&place).spawn().unwrap();
        assert!(!await_leaving(&place, Duration::ZERO));
        child.kill().unwrap();
        assert!(await_leaving(&place, Duration::from_secs(10)));
        child.wait().unwrap();
    }

    #[test]
    fn programs_are_found_where_a_shell_finds_them() {
        assert!(on_path("sh").is_some_and(|sh| sh.ends_with("sh")));
        assert_eq!(on_path("no-such-program-anywhere"), None);
    }
}
