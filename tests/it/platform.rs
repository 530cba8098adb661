//! The platform under test: real servers, and each role as its own process of the real binary.

use millrace_local::{Addresses, Issuer, Ports, Receiver, ReceiverOptions, Server, Stack, StackOptions};
use rustix::process::Signal;
use serde_json::Value;
use sqlx::PgPool;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{OnceLock, mpsc};
use std::time::{Duration, Instant};

pub const BINARY: &str = env!("CARGO_BIN_EXE_millrace");
/// A condition that has not come true by then never will; generous, for a busy machine.
pub const DEADLINE: Duration = Duration::from_secs(240);

/// Servers, migrated, with a receiver and a registry; roles are started by the test.
pub struct Platform {
    pub stack: Stack,
    pub receiver: Receiver,
    issuer: Issuer,
    pub data: PathBuf,
    /// Every command's, in place of the shop.
    project: Option<PathBuf>,
    registry: Role,
}

impl Platform {
    pub async fn start() -> Self {
        Self::start_on(local_engine()).await
    }

    /// With the program that serves the ClickHouse engine, and its first arguments.
    pub async fn start_on(engine_command: Vec<OsString>) -> Self {
        Self::start_with(engine_command, None).await
    }

    /// With the topics and contracts of another project than the shop, if one is given.
    pub async fn start_with(engine_command: Vec<OsString>, project: Option<&Path>) -> Self {
        prepare_http();
        let data = directory();
        let options =
            StackOptions { data_dir: data.clone(), ports: Ports::Auto, fresh: false, cache: None, engine_command };
        let stack = millrace_local::start(options).await.unwrap_or_else(|error| {
            panic!("the test servers did not start: {error}\n`make test` installs what they need");
        });
        let stack_json = stack.write_stack_json().unwrap();
        let receiver = ReceiverOptions::in_directory(&data, stack.addresses()).unwrap();
        let receiver = millrace_local::receive(receiver).await.unwrap();
        let issuer = millrace_local::issue(&data, stack.addresses()).await.unwrap();
        let migrated = command(&stack_json, project).arg("migrate").output().unwrap();
        assert!(migrated.status.success(), "migrate: {}", String::from_utf8_lossy(&migrated.stderr));
        let registry = Role::start(command(&stack_json, project).arg("registry"), &data, "registry");
        let project = project.map(Path::to_path_buf);
        let platform = Self { stack, receiver, issuer, data, project, registry };
        let url = format!("{}/subjects", platform.addresses().registry);
        eventually("the registry answers", async || {
            reqwest::get(&url).await.is_ok_and(|answer| answer.status() == 200)
        })
        .await;
        platform
    }

    pub fn addresses(&self) -> &Addresses {
        self.stack.addresses()
    }

    /// The binary, pointed at these servers.
    pub fn command(&self) -> Command {
        command(&self.data.join("stack.json"), self.project.as_deref())
    }

    /// Runs a command to its end and returns what it printed.
    pub fn run(&self, arguments: &[&str]) -> Finished {
        Finished::of(self.command().args(arguments))
    }

    /// Starts a role as a process of its own.
    pub fn role(&self, arguments: &[&str]) -> Role {
        Role::start(self.command().args(arguments), &self.data, &arguments.join("-"))
    }

    /// Starts a role as the group member of this name.
    pub fn member(&self, name: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Role {
        let mut command = self.command();
        command.args(arguments).env("MILLRACE_KAFKA__INSTANCE", name).envs(environment.iter().copied());
        Role::start(&mut command, &self.data, name)
    }

    pub async fn postgres(&self) -> PgPool {
        PgPool::connect(&self.addresses().postgres).await.unwrap()
    }

    /// One number from ClickHouse.
    pub async fn number(&self, sql: &str) -> i64 {
        self.clickhouse(&format!("select toInt64(({sql})) as n")).await[0]["n"].as_i64().unwrap()
    }

    /// Asks ClickHouse; one JSON object a row.
    pub async fn clickhouse(&self, sql: &str) -> Vec<Value> {
        ask_clickhouse(&self.addresses().clickhouse, sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    /// Kills a server and returns when it is back.
    pub async fn kill_server(&self, server: Server) {
        assert!(self.stack.kill(server), "{server} was not running");
        self.stack.wait_ready(server).await.unwrap();
    }

    /// From now on nobody answers where the registry was. Its exit code.
    pub async fn stop_registry(&mut self) -> Option<i32> {
        self.registry.signal(Signal::TERM);
        self.registry.ended().await.code()
    }

    /// Stops everything and removes the data; a test that failed keeps it for a look.
    pub async fn stop(self) {
        let Self { stack, receiver, issuer, data, mut registry, .. } = self;
        if registry.is_running() {
            registry.stop();
        }
        receiver.stop().await;
        issuer.stop().await;
        stack.stop().await;
        let _ = std::fs::remove_dir_all(data);
    }
}

/// The tests' own HTTP client wants a TLS provider; only the first call installs it.
fn prepare_http() {
    let _ = rustls::crypto::ring::default_provider().install_default();
}

pub async fn ask_clickhouse(url: &str, sql: &str) -> Result<Vec<Value>, String> {
    prepare_http();
    let client = reqwest::Client::new();
    let sent =
        client.post(url).query(&[("default_format", "JSONEachRow"), ("output_format_json_quote_64bit_integers", "0")]);
    let answer = sent.body(sql.to_owned()).send().await.map_err(|error| error.to_string())?;
    let (status, text) = (answer.status(), answer.text().await.map_err(|error| error.to_string())?);
    if !status.is_success() {
        return Err(text);
    }
    text.lines().map(|line| serde_json::from_str(line).map_err(|error| format!("{error}: {line}"))).collect()
}

/// Serves the ClickHouse engine: this binary does.
pub fn local_engine() -> Vec<OsString> {
    vec![BINARY.into(), "local".into(), "clickhouse".into()]
}

fn command(stack_json: &Path, project: Option<&Path>) -> Command {
    let mut command = Command::new(BINARY);
    command.arg("--stack").arg(stack_json);
    if let Some(project) = project {
        command.arg("--project").arg(project);
    }
    command.env("MILLRACE_TELEMETRY__OPS", "127.0.0.1:0").env_remove("MILLRACE_CRASH_AT");
    command.stdin(Stdio::null());
    command
}

/// What a command that ended had to say.
pub struct Finished {
    pub status: ExitStatus,
    pub out: String,
    pub err: String,
}

impl Finished {
    pub fn of(command: &mut Command) -> Self {
        let output = command.output().unwrap_or_else(|error| {
            let program = command.get_program().display();
            panic!("could not run {program}: {error}; `make test` installs what tests need")
        });
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Self { status: output.status, out: text(output.stdout), err: text(output.stderr) }
    }

    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or(-1)
    }

    /// The last line that it printed, as JSON.
    pub fn json(&self) -> Value {
        let line = self.out.lines().last().unwrap_or_default();
        serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: `{line}`\n{}", self.err))
    }
}

/// A process of one role; killed when dropped.
pub struct Role {
    child: Child,
    pub log: PathBuf,
}

impl Role {
    pub fn start(command: &mut Command, data: &Path, name: &str) -> Self {
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let log = data.join(format!("{name}-{}.log", STARTED.fetch_add(1, Ordering::Relaxed)));
        let file = std::fs::File::create(&log).unwrap();
        let mut dying_with_us = Command::new("setpriv");
        dying_with_us.args(["--pdeathsig", "KILL"]).arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => dying_with_us.env(name, value),
                None => dying_with_us.env_remove(name),
            };
        }
        if let Some(directory) = command.get_current_dir() {
            dying_with_us.current_dir(directory);
        }
        dying_with_us.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(file);
        Self { child: spawn(dying_with_us), log }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// As a crash would end it.
    pub fn kill(&mut self) {
        assert!(self.is_running(), "it had ended before it could be killed:\n{}", self.log());
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// As an operator would stop it; returns its exit code.
    pub fn stop(mut self) -> i32 {
        self.signal(Signal::TERM);
        self.child.wait().unwrap().code().unwrap_or(-1)
    }

    pub fn signal(&self, signal: Signal) {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits until it has ended by itself.
    pub async fn ended(&mut self) -> ExitStatus {
        eventually("the role ends", async || !self.is_running()).await;
        self.child.wait().unwrap()
    }

    /// Waits for its own end; what it printed, and its exit code.
    pub fn finish(mut self) -> (i32, String) {
        let mut out = String::new();
        if let Some(stdout) = &mut self.child.stdout {
            std::io::Read::read_to_string(stdout, &mut out).unwrap();
        }
        (self.child.wait().unwrap().code().unwrap_or(-1), out)
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Where its ops port is, once it says so.
    pub async fn ops(&self) -> String {
        prepare_http();
        let find = || {
            let log = self.log();
            let from = log.find("ops on http://")? + "ops on ".len();
            Some(
                log[from..]
                    .split([':', ' ', '"'])
                    .take(3)
                    .collect::<Vec<_>>()
                    .join(":")
                    .trim_end_matches(':')
                    .to_owned(),
            )
        };
        eventually("the role tells its ops port", async || find().is_some()).await;
        find().unwrap()
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // A machine far away shows a failure by nothing but its output.
            eprintln!("the last lines of {}:\n{}", self.log.display(), last_lines(&self.log(), 20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn last_lines(text: &str, most: usize) -> String {
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(most)..].join("\n")
}

/// Starts it from a thread that lives as long as this process: the kernel ends a child with its parent *thread*.
fn spawn(command: Command) -> Child {
    type Order = (Command, mpsc::Sender<std::io::Result<Child>>);
    static SPAWNER: OnceLock<mpsc::Sender<Order>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (orders, received) = mpsc::channel::<Order>();
        std::thread::spawn(move || {
            for (mut command, reply) in received {
                let _ = reply.send(command.spawn());
            }
        });
        orders
    });
    let (reply, child) = mpsc::channel();
    spawner.send((command, reply)).unwrap();
    child.recv().unwrap().unwrap()
}

/// Waits for a condition; panics with its name when it never comes true.
pub async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !holds().await {
        assert!(Instant::now() < deadline, "waited {DEADLINE:?} in vain: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A directory of this process alone; those that dead processes left are removed first.
pub fn directory() -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    static SWEPT: OnceLock<()> = OnceLock::new();
    let root = Path::new(env!("CARGO_TARGET_TMPDIR"));
    SWEPT.get_or_init(|| sweep(root));
    let directory = root.join(format!("it-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)));
    std::fs::create_dir_all(&directory).unwrap();
    directory
}

fn sweep(root: &Path) {
    for entry in std::fs::read_dir(root).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let pid = name.strip_prefix("it-").and_then(|rest| rest.split('-').next()?.parse::<u32>().ok());
        if pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// One platform with all roles, shared by the tests that can share it. It lives as long as the process.
pub struct Shared {
    pub platform: Platform,
    pub process: Role,
    pub sink: Role,
}

/// The shared platform, started by whoever asks first.
pub fn shared() -> &'static Shared {
    static SHARED: OnceLock<Shared> = OnceLock::new();
    SHARED.get_or_init(|| {
        // A runtime of its own, never dropped: the receiver must outlive the test that started it.
        let runtime = Box::leak(Box::new(tokio::runtime::Runtime::new().unwrap()));
        std::thread::spawn(|| runtime.block_on(start_shared())).join().expect("the shared platform did not start")
    })
}

async fn start_shared() -> Shared {
    let platform = Platform::start().await;
    let (process, sink) = (platform.role(&["process"]), platform.role(&["sink"]));
    Shared { platform, process, sink }
}
