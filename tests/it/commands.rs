//! The commands as scripts use them: what they print, what they leave behind, how they end.

use crate::clients::{judge, kcat, published};
use crate::platform::{BINARY, Finished, Platform, Role, ask_clickhouse, eventually, shared};
use millrace_local::{Addresses, Server};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use tempfile::TempDir;
use tokio::task::spawn_blocking;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// The binary, told nothing.
pub fn millrace(arguments: &[&str]) -> Command {
    let mut command = Command::new(BINARY);
    command.args(arguments).stdin(Stdio::null());
    command
}

pub fn finished(arguments: &[&str]) -> Finished {
    Finished::of(&mut millrace(arguments))
}

/// A directory that is removed at the end; Postgres, which may be another user, can reach it.
pub fn temporary() -> TempDir {
    let prefix = format!("it-{}-", std::process::id()); // what a dead process left, the next one sweeps away
    let open_to_all = std::fs::Permissions::from_mode(0o755);
    tempfile::Builder::new().prefix(&prefix).permissions(open_to_all).tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// Once everything there is ready.
pub async fn addresses(data: &Path) -> Addresses {
    let file = data.join("stack.json");
    eventually("stack.json is there", async || file.exists()).await;
    serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()
}

fn send(role: &Role, signal: Signal) {
    kill_process(Pid::from_raw(i32::try_from(role.pid()).unwrap()).unwrap(), signal).unwrap();
}

// ---- up ----

fn up<'a>(data: &'a Path, seed: &'a str, more: &[&'a str]) -> Command {
    let mut command = millrace(&["up", "--ports", "auto", "--json", "--seed", seed, "--data-dir"]);
    command.arg(data).args(more);
    command
}

/// Runs it to its end; its last line, which says that all is equal.
async fn equal(mut up: Command) -> Value {
    let finished = spawn_blocking(move || Finished::of(&mut up)).await.unwrap();
    assert_eq!(finished.code(), 0, "{}{}", finished.out, finished.err);
    let verdict = finished.json();
    assert_eq!(verdict["equal"], true, "{verdict:#}");
    assert_eq!(verdict["differences"], Value::Array(vec![]));
    assert_eq!(verdict["published"], verdict["acknowledged"]);
    assert_eq!(verdict["dead_letters"], 0);
    verdict
}

fn number(verdict: &Value, field: &str) -> u64 {
    verdict[field].as_u64().unwrap_or_else(|| panic!("no {field} in {verdict:#}"))
}

fn random_seed() -> String {
    let seed = uuid::Uuid::new_v4().as_fields().0.to_string();
    println!("seed {seed}");
    seed
}

#[tokio::test(flavor = "multi_thread")]
async fn up_goes_on_where_it_stopped_and_equals_the_oracle_each_time() {
    let (data, seed) = (temporary(), random_seed());
    let first = equal(up(data.path(), &seed, &["--for", "8s", "--rate", "500", "--fresh"])).await;
    assert!(number(&first, "published") > 0, "{first:#}"); // the first acknowledgement may take most of the time
    assert!(number(&first, "delivered") > 0, "{first:#}");
    for pipeline in ["clickhouse", "erasure", "order_status", "customer_summary", "webhook"] {
        assert!(number(&first["applied"], pipeline) > 0, "{first:#}");
    }
    let second = equal(up(data.path(), &seed, &["--for", "2s", "--rate", "500"])).await;
    assert_eq!(number(&second, "events"), number(&first, "events") + number(&second, "published"));
    assert!(number(&second, "published") > 0, "{second:#}");
    assert!(number(&second, "delivered") >= number(&first, "delivered"), "the receiver remembers: {second:#}");
    another_seed_is_refused(data.path(), &seed);
}

/// Before anything is started, and with what to do.
fn another_seed_is_refused(data: &Path, seed: &str) {
    let refused = Finished::of(&mut up(data, "1", &["--for", "1s"]));
    assert_eq!(refused.code(), 64, "{}", refused.err);
    for part in [&format!("traffic of seed {seed}"), &format!("--seed {seed}"), "--fresh"] {
        assert!(refused.err.contains(part), "no `{part}` in {}", refused.err);
    }
    assert!(!refused.err.contains("is ready"), "nothing was started: {}", refused.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn up_killed_as_a_whole_in_mid_flow_is_equal_again() {
    let (data, seed) = (temporary(), random_seed());
    let mut running = Role::start(&mut up(data.path(), &seed, &["--rate", "1000"]), data.path(), "up");
    let clickhouse = addresses(data.path()).await.clickhouse;
    let rows = "select count() as n from merge('events_raw', '.*')";
    eventually("the flow is midway", async || {
        ask_clickhouse(&clickhouse, rows).await.is_ok_and(|rows| rows[0]["n"].as_i64() > Some(2_000))
    })
    .await;
    running.kill();
    let note: Value = serde_json::from_slice(&std::fs::read(data.path().join("up/traffic.json")).unwrap()).unwrap();
    let (next, attempted) = (number(&note, "next"), number(&note, "attempted"));
    assert!(attempted > next, "it was killed in mid-flow, or this shows nothing: {note}");
    let verdict = equal(up(data.path(), &seed, &["--for", "1s", "--rate", "1000"])).await;
    assert!(number(&verdict, "events") >= attempted, "what the log may have was sent again: {verdict:#}");
}

// ---- local and migrate ----

fn local(data: &Path) -> Role {
    let mut command = millrace(&["local", "--ports", "auto", "--json", "--data-dir"]);
    Role::start(command.arg(data), data, "local")
}

#[tokio::test(flavor = "multi_thread")]
async fn local_tells_where_its_servers_are_and_ctrl_c_ends_them() {
    let data = temporary();
    let running = local(data.path());
    let told = addresses(data.path()).await;
    let host = |url: &str| url.rsplit(['/', '@']).find(|part| part.contains(':')).unwrap().to_owned();
    let hosts = [&told.kafka, &told.clickhouse, &told.postgres, &told.receiver].map(|url| host(url));
    for host in &hosts {
        TcpStream::connect(host).unwrap_or_else(|error| panic!("{host}: {error}"));
    }
    assert_eq!(ask_clickhouse(&told.clickhouse, "select 1 as one").await.unwrap()[0]["one"], 1);
    send(&running, Signal::INT);
    let (code, out) = spawn_blocking(|| running.finish()).await.unwrap();
    assert_eq!(code, 0);
    assert_eq!(serde_json::from_str::<Addresses>(&out).unwrap(), told, "it printed what it wrote");
    assert!(!data.path().join("stack.json").exists(), "nobody is sent to servers that are gone");
    for host in &hosts {
        assert!(TcpStream::connect(host).is_err(), "{host} still listens");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_migrations_at_once_both_succeed_and_a_third_changes_nothing() {
    let data = temporary();
    let running = local(data.path());
    addresses(data.path()).await;
    let stack = data.path().join("stack.json").display().to_string();
    let migrate = move || finished(&["--stack", &stack, "migrate", "--json"]);
    let (one, other) = (spawn_blocking(migrate.clone()), spawn_blocking(migrate.clone()));
    let mut topics = 0;
    for migrated in [one.await.unwrap(), other.await.unwrap()] {
        assert_eq!(migrated.code(), 0, "{}", migrated.err);
        topics += migrated.json()["topics_created"].as_array().unwrap().len();
    }
    assert!(topics > 0, "one of them made the topics");
    let third = spawn_blocking(migrate).await.unwrap();
    assert_eq!(third.code(), 0, "{}", third.err);
    assert_eq!(third.json()["topics_created"], Value::Array(vec![]));
    assert_eq!(third.json()["clickhouse"], Value::Array(vec![]));
    assert_eq!(third.json()["subjects"], 13);
    assert_eq!(running.stop(), 0);
}

// ---- status, config, help ----

#[tokio::test(flavor = "multi_thread")]
async fn status_tells_of_every_pipeline_in_words_and_in_json() {
    published().await;
    // A server may be slow, and a role may have lost its place for a moment.
    eventually("status tells of all of them", async || {
        let json = spawn_blocking(|| shared().platform.run(&["status", "--json"])).await.unwrap();
        let words = spawn_blocking(|| shared().platform.run(&["status"])).await.unwrap();
        json.code() == 0 && words.code() == 0 && tells_of_all(&json.json(), &words.out)
    })
    .await;
}

fn tells_of_all(status: &Value, words: &str) -> bool {
    let all = ["clickhouse", "erasure", "order_status", "customer_summary", "webhook"].into_iter().all(|name| {
        let pipeline = status["pipelines"].as_array().unwrap().iter().find(|pipeline| pipeline["name"] == name);
        let line = words.lines().find(|line| line.starts_with(name));
        pipeline.is_some_and(|pipeline| pipeline["members"] == 1 && pipeline["partitions"][0]["next"].is_i64())
            && line.is_some_and(|line| line.split_whitespace().count() >= 6)
    });
    let delivered = status["deliveries"].as_array().unwrap().iter().find(|row| row["state"] == "delivered");
    all && delivered.is_some_and(|row| row["deliveries"].as_i64() > Some(0))
}

#[test]
fn config_shows_each_value_with_its_origin_and_no_secret() {
    let project = temporary();
    std::fs::write(project.path().join("millrace.toml"), "[kafka]\npartitions = 12\n").unwrap();
    let show = |more: &[&str]| {
        let mut command = millrace(&["config", "--project"]);
        command.arg(project.path()).args(more);
        command
            .env("MILLRACE_POSTGRES__PASSWORD", "sesame")
            .env("MILLRACE_KAFKA__PROPERTIES__SSL_KEY_PASSWORD", "hocuspocus");
        let shown = Finished::of(command.env("MILLRACE_POSTGRES__URL", "postgres://me:abracadabra@db/shop"));
        assert_eq!(shown.code(), 0, "{}", shown.err);
        for secret in ["sesame", "abracadabra", "hocuspocus"] {
            assert!(!shown.out.contains(secret), "{secret} in {}", shown.out);
        }
        shown
    };
    let text = show(&[]).out;
    let line = |key: &str| text.lines().find(|line| line.split(' ').next() == Some(key)).unwrap_or(&text).to_owned();
    assert!(line("kafka.partitions").contains("= 12  # ") && line("kafka.partitions").ends_with("millrace.toml"));
    assert!(line("registry.url").ends_with("# default"));
    assert!(line("postgres.password").ends_with("= (hidden)  # MILLRACE_POSTGRES__PASSWORD"));
    assert!(line("postgres.url").contains("postgres://me:***@db/shop"), "{}", line("postgres.url"));
    let json = show(&["--json"]).json();
    assert_eq!(json["postgres.password"]["from"], "MILLRACE_POSTGRES__PASSWORD");
    assert_eq!(json["kafka.partitions"]["value"], "12");
    assert_eq!(json.as_object().unwrap().len(), text.lines().count());
}

/// The names in the first column of the help.
fn commands() -> Vec<String> {
    let help = finished(&["--help"]);
    assert_eq!(help.code(), 0);
    let listed = help.out.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    listed.filter(|line| line.starts_with("  ") && !line.starts_with("   ")).map(first_word).collect()
}

fn first_word(line: &str) -> String {
    line.split_whitespace().next().unwrap_or_default().to_owned()
}

#[test]
fn the_help_and_the_readme_list_every_command() {
    let commands = commands();
    let promised = "up local init check migrate gateway registry process sink simulate status dead-letters quarantine deliveries erasure config";
    for command in promised.split(' ') {
        assert!(commands.iter().any(|listed| listed == command), "{command} is not in the help: {commands:?}");
    }
    let readme = std::fs::read_to_string(format!("{ROOT}/README.md")).unwrap();
    let (_, section) = readme.split_once("\n## Commands\n").expect("README.md has a section on the commands");
    let rows: String = section.lines().skip_while(|line| line.is_empty()).take_while(|line| !line.is_empty()).collect();
    for command in commands.iter().filter(|command| *command != "help") {
        let named = [format!("`millrace {command}"), format!("`{command}")];
        assert!(named.iter().any(|named| rows.contains(named)), "README.md does not list `{command}`");
        assert_eq!(finished(&[command, "--help"]).code(), 0);
    }
}

#[test]
fn init_makes_a_project_in_which_check_finds_nothing_and_touches_nothing_that_is_there() {
    let place = temporary();
    let project = place.path().join("mine");
    let init = || Finished::of(millrace(&["init", "--json"]).arg(&project));
    let made = init();
    assert_eq!(made.code(), 0, "{}", made.err);
    for file in made.json()["files"].as_array().unwrap() {
        assert!(project.join(file.as_str().unwrap()).is_file(), "{file}");
    }
    let of_project = |command: &str| Finished::of(millrace(&[command, "--json", "--project"]).arg(&project));
    let (shop, mine) = (finished(&["check", "--json"]), of_project("check"));
    assert_eq!((mine.code(), mine.json()), (0, shop.json()), "{}", mine.err);
    assert_eq!(of_project("config").json()["kafka.partitions"]["from"], "default");
    let again = init();
    assert_eq!(again.code(), 64, "{}", again.err);
    assert!(again.err.contains("mine is not empty, and nothing was touched"), "{}", again.err);
}

// ---- what a role shows of itself ----

/// `docs/metrics.md`: each metric's kind and labels.
fn documented() -> BTreeMap<String, (String, Vec<String>)> {
    let page = std::fs::read_to_string(format!("{ROOT}/docs/metrics.md")).unwrap();
    let row = |line: &str| {
        let cells: Vec<&str> = line.strip_prefix("| `millrace_")?.split('|').collect();
        let (kind, labels) = cells[1].trim().split_once(',').unwrap_or((cells[1].trim(), ""));
        let mut labels: Vec<String> = labels.split('`').skip(1).step_by(2).map(str::to_owned).collect();
        labels.sort_unstable();
        Some((format!("millrace_{}", cells[0].trim().trim_end_matches('`')), (kind.to_owned(), labels)))
    };
    page.lines().filter_map(row).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ops_port_serves_the_documented_metrics_in_openmetrics() {
    published().await;
    let documented = documented();
    let mut served = BTreeMap::new();
    for role in [&shared().process, &shared().sink] {
        let ops = role.ops().await;
        let alive = reqwest::get(format!("{ops}/livez")).await.unwrap();
        assert_eq!(alive.status(), 200);
        let read = judge("parse_metrics.py", &[&format!("{ops}/metrics")]);
        assert!(read["content_type"].as_str().unwrap().starts_with("application/openmetrics-text; version=1.0.0"));
        for (name, family) in read["families"].as_object().unwrap() {
            let (kind, labels) = documented.get(name).unwrap_or_else(|| panic!("{name} is not in docs/metrics.md"));
            assert_eq!(family["type"], kind.as_str(), "{name}");
            assert!(!family["help"].as_str().unwrap().is_empty(), "{name} does not say what it is");
            if family["samples"].as_u64() > Some(0) {
                assert_eq!(family["labels"], serde_json::json!(labels), "{name}");
                served.insert(name.clone(), ());
            }
        }
    }
    // What happened in this platform is counted; what did not happen may have no samples yet.
    for name in ["records_processed_total", "process_duration_seconds", "event_age_seconds", "sink_batch_records"] {
        assert!(served.contains_key(&format!("millrace_{name}")), "{name} is not counted: {served:?}");
    }
    for name in ["deliveries_total", "delivery_duration_seconds", "table_fresh_timestamp_seconds"] {
        assert!(served.contains_key(&format!("millrace_{name}")), "{name} is not counted: {served:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_are_json_lines_and_never_hold_a_payload() {
    published().await;
    let platform = &shared().platform;
    let personal =
        platform.clickhouse("select email, name from events.user_registered where email != '' limit 100").await;
    let email = personal[0]["email"].as_str().unwrap().to_owned();
    let bad = format!("not an event, but it holds {email}");
    let brokers = &platform.addresses().kafka;
    let topic = ["-P", "-t", "shop.account.v1", "-k", "somebody"];
    let mut kcat = kcat(brokers).args(topic).stdin(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut kcat.stdin.take().unwrap(), bad.as_bytes()).unwrap();
    assert!(kcat.wait().unwrap().success());
    let postgres = platform.postgres().await;
    eventually("it is set aside", async || {
        let sql = "select count(*) from millrace.dead_letter where topic = 'shop.account.v1'";
        sqlx::query_scalar::<_, i64>(sql).fetch_one(&postgres).await.unwrap() >= 2
    })
    .await;
    for role in [&shared().process, &shared().sink] {
        let log = role.log();
        let whole = log.rfind('\n').map_or("", |end| &log[..end]); // it is still written
        assert!(!whole.is_empty(), "{}", role.log.display());
        for line in whole.lines() {
            let entry: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
            for field in ["timestamp", "level", "message", "target"] {
                assert!(entry[field].is_string(), "no {field} in {line}");
            }
        }
        for person in &personal {
            let (email, name) = (person["email"].as_str().unwrap(), person["name"].as_str().unwrap());
            assert!(!log.contains(email) && !log.contains(name), "{name} is in {}", role.log.display());
        }
    }
}

/// A server that is there and does not answer; it goes on when dropped.
pub struct Frozen(Vec<Pid>);

impl Frozen {
    pub fn new(pid: u32) -> Self {
        let mut frozen = Self(Vec::new());
        frozen.stop(pid); // first, so that it has no more children
        children(pid).into_iter().for_each(|child| frozen.stop(child));
        frozen
    }

    /// Kills a server, and lets the next one get no further than its beginning; for a minute, after which the stack
    /// takes it for one that hangs.
    pub async fn down(platform: &Platform, server: Server) -> Self {
        let killed = platform.stack.pid(server);
        platform.stack.kill(server);
        let mut next = None;
        eventually("another is started", async || {
            next = platform.stack.pid(server).filter(|pid| Some(*pid) != killed);
            next.is_some()
        })
        .await;
        Self::new(next.unwrap())
    }

    fn stop(&mut self, pid: u32) {
        let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return };
        let _ = kill_process(pid, Signal::STOP); // one that has ended meanwhile needs no signal
        self.0.push(pid);
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        for pid in &self.0 {
            let _ = kill_process(*pid, Signal::CONT);
        }
    }
}

fn children(of: u32) -> Vec<u32> {
    let parent = |pid: u32| -> Option<u32> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
    };
    let pids = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_string_lossy().parse().ok());
    pids.filter(|pid| parent(*pid) == Some(of)).collect()
}

async fn readiness(ops: &str) -> (u16, Value) {
    let answer = reqwest::get(format!("{ops}/readyz")).await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn readyz_names_the_server_that_does_not_answer() {
    let platform = Platform::start().await;
    let process = platform.role(&["process"]);
    let ops = process.ops().await;
    eventually("everything is there", async || readiness(&ops).await.0 == 200).await;
    // Postgres goes last: our registry stands on it, and is named with it.
    for (server, name) in [(Server::Kafka, "kafka"), (Server::ClickHouse, "clickhouse"), (Server::Postgres, "postgres")]
    {
        let frozen = Frozen::new(platform.stack.pid(server).unwrap());
        // The first check may name another as well: on a busy machine one that is well can be slow.
        eventually("it is named, and no other", async || {
            let (status, said) = readiness(&ops).await;
            assert_eq!((status, &said["ready"]), (503, &Value::Bool(false)), "{server}: {said}");
            let not_ok = said["checks"].as_object().unwrap().iter().filter(|(_, answer)| *answer != "ok");
            let not_ok: Vec<&str> = not_ok.map(|(name, _)| name.as_str()).collect();
            assert!(not_ok.contains(&name), "{server}: {said}");
            not_ok.len() == 1 || server == Server::Postgres
        })
        .await;
        assert_eq!(reqwest::get(format!("{ops}/livez")).await.unwrap().status(), 200, "alive it is");
        drop(frozen);
        eventually("it is ready again", async || readiness(&ops).await.0 == 200).await;
    }
    assert_eq!(process.stop(), 0);
    platform.stop().await;
}

#[test]
fn who_reads_no_further_ends_a_command_in_silence() {
    let (nobody, closed) = std::io::pipe().unwrap();
    drop(nobody);
    let ended = millrace(&["config"]).stdout(closed).stderr(Stdio::piped()).spawn().unwrap();
    let ended = ended.wait_with_output().unwrap();
    assert_eq!((ended.status.code(), String::from_utf8_lossy(&ended.stderr).as_ref()), (Some(141), ""));
}
