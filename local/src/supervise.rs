//! Keeps one server running: starts it, knows when it is ready, starts it again when it dies, ends it when asked.
//!
//! ```text
//! Preparing ─→ Starting ─→ Ready ─→ Down ─→ Starting …      stop(): Stopped      died too often: Failed
//! ```
//!
//! Each server has one thread that starts it and waits for it. The thread must live as long as the server: the
//! kernel's parent-death signal is tied to the thread that started a process, not to the whole parent. So a stack
//! needs no async runtime to stay up, and may be shared by tests that each bring their own.

use crate::Server;
use crate::directory::{found, write_json};
use crate::process::{self, Recorded};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use std::collections::VecDeque;
use std::fs;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// How often a starting server is asked whether it is ready.
const PROBE_INTERVAL: Duration = Duration::from_millis(50);
/// The wait before the first restart; each further one doubles it.
const WAIT_FIRST: Duration = Duration::from_millis(200);
/// The longest wait between restarts.
const WAIT_LONGEST: Duration = Duration::from_secs(5);
/// A server that dies more often than this within [`DEATHS_WITHIN`] will not get better by itself.
const DEATHS_MAX: usize = 10;
const DEATHS_WITHIN: Duration = Duration::from_secs(5 * 60);
/// A server that was never ready gets one more try: what an earlier run left behind may need a moment to go.
const DEATHS_BEFORE_READY_MAX: usize = 1;
/// How much of a log is shown when its server does not start.
const TAIL_LINES: usize = 12;
const TAIL_BYTES: u64 = 8 * 1024;

/// What one of the servers is: how it is made ready, started and asked.
pub(crate) trait Program: Send + 'static {
    /// Once, before the first start: configuration and data directory.
    fn prepare(&mut self) -> anyhow::Result<()>;
    fn command(&self) -> Command;
    /// Asks what a client would ask. Returns within a second or two.
    fn probe(&self) -> anyhow::Result<()>;
}

/// Where the traces of a server are kept.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub log: PathBuf,
    pub record: PathBuf,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Phase {
    Preparing,
    Starting,
    Ready,
    Down,
    Stopped,
    /// It will not be started again; the text says why.
    Failed(String),
}

impl Phase {
    fn is_last(&self) -> bool {
        matches!(self, Self::Stopped | Self::Failed(_))
    }
}

#[derive(Debug)]
struct Life {
    phase: Phase,
    /// Set exactly while the process exists, so that no signal ever reaches a stranger.
    pid: Option<u32>,
    /// Killed, but not yet noticed: it must not be called ready any more.
    doomed: bool,
    restarts: u32,
    stopping: bool,
}

/// A server under supervision. Dropping it kills the server.
pub(crate) struct Supervised {
    server: Server,
    life: Arc<watch::Sender<Life>>,
    thread: Option<JoinHandle<()>>,
}

impl Supervised {
    pub fn start(server: Server, program: impl Program, place: Place) -> Self {
        let life = Life { phase: Phase::Preparing, pid: None, doomed: false, restarts: 0, stopping: false };
        let life = Arc::new(watch::Sender::new(life));
        let mut keeper = Keeper { server, program: Box::new(program), place, life: life.clone() };
        let thread = thread::spawn(move || keeper.keep());
        Self { server, life, thread: Some(thread) }
    }

    pub fn server(&self) -> Server {
        self.server
    }

    pub fn pid(&self) -> Option<u32> {
        self.life.borrow().pid
    }

    pub fn restarts(&self) -> u32 {
        self.life.borrow().restarts
    }

    /// Kills the server without a word, as a crash would. Says whether there was one to kill.
    pub fn kill(&self) -> bool {
        let mut killed = false;
        self.life.send_modify(|life| {
            let Some(pid) = life.pid else { return };
            life.doomed = true;
            life.phase = Phase::Down;
            process::send(pid, Signal::KILL);
            killed = true;
        });
        killed
    }

    /// Until it answers, or will never.
    pub async fn ready(&self) -> Result<(), String> {
        match self.until(|phase| *phase == Phase::Ready || phase.is_last()).await {
            Phase::Ready => Ok(()),
            Phase::Failed(why) => Err(why),
            _ => Err("was stopped".to_owned()),
        }
    }

    /// Until it has died too often.
    pub async fn failed(&self) -> String {
        match self.until(|phase| matches!(phase, Phase::Failed(_))).await {
            Phase::Failed(why) => why,
            _ => std::future::pending().await,
        }
    }

    /// Asks it to end; when it has not after the deadline, kills it.
    pub async fn stop(&self) {
        self.ask_to_stop(self.server.stop_signal());
        if tokio::time::timeout(self.server.stop_deadline(), self.until(Phase::is_last)).await.is_err() {
            tracing::warn!("{} did not end when asked to: killing it", self.server);
            self.ask_to_stop(Signal::KILL);
            self.until(Phase::is_last).await;
        }
    }

    fn ask_to_stop(&self, signal: Signal) {
        self.life.send_modify(|life| {
            life.stopping = true;
            if let Some(pid) = life.pid {
                process::send(pid, signal);
            }
        });
        if let Some(thread) = &self.thread {
            thread.thread().unpark(); // it may be waiting before a restart
        }
    }

    async fn until(&self, reached: impl Fn(&Phase) -> bool) -> Phase {
        let mut life = self.life.subscribe();
        match life.wait_for(|life| reached(&life.phase)).await {
            Ok(life) => life.phase.clone(),
            Err(_) => Phase::Stopped,
        }
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        self.ask_to_stop(Signal::KILL);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that kept {} panicked", self.server);
        }
    }
}

/// Why a server that was started did not become ready.
enum Unready {
    Died,
    Late(String),
}

/// The thread's side.
struct Keeper {
    server: Server,
    program: Box<dyn Program>,
    place: Place,
    life: Arc<watch::Sender<Life>>,
}

impl Keeper {
    fn keep(&mut self) {
        let last = match self.program.prepare() {
            Ok(()) => self.start_until_stopped(),
            Err(error) => Phase::Failed(self.explained(&format!("could not be prepared: {error:#}"))),
        };
        self.life.send_modify(|life| life.phase = last);
    }

    fn start_until_stopped(&self) -> Phase {
        let mut deaths = Deaths::default();
        let mut was_ready = false;
        while !self.is_stopping() {
            let death = self.live(&mut was_ready);
            if self.is_stopping() {
                break;
            }
            let again = deaths.again(Instant::now());
            let Some(wait) = again.filter(|_| was_ready || deaths.count() <= DEATHS_BEFORE_READY_MAX) else {
                return Phase::Failed(self.explained(&if was_ready { deaths.told(&death) } else { death }));
            };
            tracing::warn!("{} {death}; starting it again in {wait:.1?}", self.server);
            self.pause(wait);
            self.life.send_modify(|life| life.restarts += 1);
        }
        Phase::Stopped
    }

    /// One life of the server, from start to death; returns how it died.
    fn live(&self, was_ready: &mut bool) -> String {
        let begun = Instant::now();
        let mut child = match self.born() {
            Ok(child) => child,
            Err(error) => return format!("could not be started: {error}"),
        };
        let ready = self.wait_until_ready(&child, begun);
        if ready.is_ok() {
            *was_ready = true;
            tracing::info!("{} is ready after {:.1?}", self.server, begun.elapsed());
        }
        wait_for_exit(&child, WaitIdOptions::empty());
        let status = self.buried(&mut child);
        match ready {
            Ok(()) => format!("died ({status})"),
            Err(Unready::Died) => format!("died while it was starting ({status})"),
            Err(Unready::Late(why)) => format!("was not ready within {:?}: {why}", self.server.ready_deadline()),
        }
    }

    fn born(&self) -> io::Result<Child> {
        let child = process::spawn(self.program.command(), &self.place.log)?;
        if let Some(record) = Recorded::of(child.id())
            && let Err(error) = write_json(&self.place.record, &record)
        {
            tracing::warn!("could not record the process of {}: {error}", self.server);
        }
        self.life.send_modify(|life| {
            life.pid = Some(child.id());
            life.doomed = false;
            life.phase = Phase::Starting;
            if life.stopping {
                process::send(child.id(), Signal::KILL); // asked to stop while it was being started
            }
        });
        Ok(child)
    }

    /// When it takes too long, it is killed.
    fn wait_until_ready(&self, child: &Child, begun: Instant) -> Result<(), Unready> {
        loop {
            if wait_for_exit(child, WaitIdOptions::NOHANG) {
                return Err(Unready::Died);
            }
            match self.program.probe() {
                Ok(()) => {
                    self.life.send_modify(|life| {
                        if !life.doomed {
                            life.phase = Phase::Ready;
                        }
                    });
                    return Ok(());
                }
                Err(error) if begun.elapsed() > self.server.ready_deadline() => {
                    process::send(child.id(), Signal::KILL);
                    return Err(Unready::Late(format!("{error:#}")));
                }
                Err(_) => thread::sleep(PROBE_INTERVAL),
            }
        }
    }

    /// Takes the dead process from the kernel, after which its id may become another's.
    fn buried(&self, child: &mut Child) -> String {
        self.life.send_modify(|life| {
            life.pid = None;
            life.phase = Phase::Down;
        });
        if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process_group(group, Signal::KILL); // what it started itself; usually nobody
        }
        let status = child.wait().map_or_else(|error| error.to_string(), |status| status.to_string());
        if let Err(error) = found(fs::remove_file(&self.place.record)) {
            tracing::warn!("could not remove {}: {error}", self.place.record.display());
        }
        status
    }

    fn pause(&self, wait: Duration) {
        let until = Instant::now() + wait;
        while !self.is_stopping()
            && let Some(left) = until.checked_duration_since(Instant::now())
        {
            thread::park_timeout(left);
        }
    }

    fn is_stopping(&self) -> bool {
        self.life.borrow().stopping
    }

    fn explained(&self, what: &str) -> String {
        let tail = tail(&self.place.log);
        let advice = advice(&tail).map(|advice| format!(": {advice}")).unwrap_or_default();
        format!("{what}{advice}; the end of {}:\n{tail}", self.place.log.display())
    }
}

/// Waits without taking the dead process from the kernel, so that its id stays its own. Says whether it has died.
fn wait_for_exit(child: &Child, how: WaitIdOptions) -> bool {
    let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) else { return true };
    loop {
        match waitid(WaitId::Pid(pid), how | WaitIdOptions::EXITED | WaitIdOptions::NOWAIT) {
            Err(rustix::io::Errno::INTR) => {}
            Ok(None) => return false,
            Ok(Some(_)) | Err(_) => return true,
        }
    }
}

/// Remembers the recent deaths and says how long to wait before the next start, or that it's no use.
#[derive(Debug, Default)]
struct Deaths(VecDeque<Instant>);

impl Deaths {
    fn again(&mut self, now: Instant) -> Option<Duration> {
        self.0.retain(|death| now.duration_since(*death) < DEATHS_WITHIN);
        self.0.push_back(now);
        let doublings = u32::try_from(self.0.len() - 1).unwrap_or(u32::MAX);
        (self.0.len() <= DEATHS_MAX)
            .then(|| WAIT_FIRST.saturating_mul(2u32.saturating_pow(doublings)).min(WAIT_LONGEST))
    }

    fn count(&self) -> usize {
        self.0.len()
    }

    fn told(&self, last: &str) -> String {
        format!("ended {} times within {DEATHS_WITHIN:?}, at last it {last}", self.count())
    }
}

/// What to do about the faults that people really meet.
fn advice(log: &str) -> Option<&'static str> {
    const KNOWN: [(&str, &str); 6] = [
        ("No space left on device", "the disk is full: make room and start again"),
        ("Address already in use", "its port is taken: stop what listens there, or use --ports auto"),
        ("UnsupportedClassVersionError", "its Java is too old: install Java 17 or newer"),
        ("OutOfMemoryError", "it ran out of memory"),
        ("Cannot allocate memory", "the machine is out of memory"),
        ("Permission denied", "it may not read or write its files: see whose they are"),
    ];
    KNOWN.iter().find(|(sign, _)| log.contains(sign)).map(|(_, advice)| *advice)
}

fn tail(log: &Path) -> String {
    let read = || -> io::Result<String> {
        let mut file = fs::File::open(log)?;
        let begin = file.metadata()?.len().saturating_sub(TAIL_BYTES);
        file.seek(SeekFrom::Start(begin))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = read().unwrap_or_else(|error| format!("(it could not be read: {error})"));
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    /// A shell script in place of a server; it answers at once.
    struct Script(&'static str);

    impl Program for Script {
        fn prepare(&mut self) -> anyhow::Result<()> {
            Ok(())
        }

        fn command(&self) -> Command {
            let mut command = process::guarded("sh");
            command.args(["-c", self.0]);
            command
        }

        fn probe(&self) -> anyhow::Result<()> {
            anyhow::ensure!(!self.0.contains("exit"), "not yet");
            Ok(())
        }
    }

    fn run(script: &'static str) -> (Supervised, TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let place = Place { log: dir.path().join("log"), record: dir.path().join("record.json") };
        (Supervised::start(Server::Redis, Script(script), place), dir)
    }

    #[tokio::test]
    async fn what_is_killed_is_started_again() {
        let (server, dir) = run("exec sleep 600");
        server.ready().await.unwrap();
        let first = server.pid();
        assert!(server.kill());
        server.ready().await.unwrap();
        assert_ne!(server.pid(), first);
        assert_eq!(server.restarts(), 1);
        assert_eq!(Recorded::read(&dir.path().join("record.json")).map(|record| record.pid), server.pid());
        server.stop().await;
        assert_eq!(server.pid(), None);
    }

    #[tokio::test]
    async fn what_never_gets_ready_fails_with_the_end_of_its_log() {
        let (server, _dir) = run("echo no such luck; exit 3");
        let why = server.ready().await.unwrap_err();
        assert!(why.contains("exit status: 3") && why.contains("no such luck"), "{why}");
        assert_eq!(server.failed().await, why);
    }

    #[test]
    fn a_server_outlives_the_runtime_that_started_it_and_not_its_keeper() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let (server, _dir) = run("exec sleep 600");
        runtime.block_on(server.ready()).unwrap();
        drop(runtime);
        let alive = server.pid().and_then(Recorded::of).unwrap();
        drop(server);
        assert!(!alive.end(), "it was still there");
    }

    #[test]
    fn restarts_slow_down_and_end() {
        let mut deaths = Deaths::default();
        let now = Instant::now();
        let waits: Vec<_> = (0..=DEATHS_MAX).map(|_| deaths.again(now)).collect();
        assert_eq!(waits[0], Some(WAIT_FIRST));
        assert_eq!(waits[1], Some(WAIT_FIRST * 2));
        assert_eq!(waits[DEATHS_MAX - 1], Some(WAIT_LONGEST));
        assert_eq!(waits[DEATHS_MAX], None);
    }

    #[test]
    fn deaths_of_long_ago_are_forgiven() {
        let mut deaths = Deaths::default();
        let now = Instant::now();
        for _ in 0..=DEATHS_MAX {
            deaths.again(now);
        }
        assert_eq!(deaths.again(now + DEATHS_WITHIN), Some(WAIT_FIRST));
    }

    #[test]
    fn a_full_disk_is_called_a_full_disk() {
        assert_eq!(
            advice("FATAL: could not write lock file: No space left on device"),
            Some("the disk is full: make room and start again")
        );
        assert_eq!(advice("all is well"), None);
    }
}
