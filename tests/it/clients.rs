//! Other people's clients, as independent judges: kcat, Confluent's in Python, Java and Go, fastavro, clickhouse-connect,
//! curl, psql, AsyncAPI's parser, and the Standard Webhooks verifier.

use crate::platform::{Finished, eventually, shared};
use serde_json::{Value, json};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

const CLIENTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/clients");

/// Of the shared platform's roles `process` and `sink`.
const PIPELINES: usize = 5;

/// A Python that has the judges' libraries; made once a machine.
pub fn python() -> &'static Path {
    static PYTHON: OnceLock<PathBuf> = OnceLock::new();
    PYTHON.get_or_init(|| {
        let requirements = format!("{CLIENTS}/requirements.txt");
        let venv = made_once("judges", &requirements, |venv| {
            run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(venv));
            let mut install = Command::new(venv.join("bin/python"));
            run(install.args(["-m", "pip", "install", "--quiet", "--requirement", &requirements]));
        });
        venv.join("bin/python")
    })
}

/// Where Node.js finds the judges' libraries; made once a machine.
pub fn node() -> &'static Path {
    static MODULES: OnceLock<PathBuf> = OnceLock::new();
    MODULES.get_or_init(|| {
        let package = format!("{CLIENTS}/package.json");
        let directory = made_once("judges-node", &package, |directory| {
            let _ = std::fs::remove_dir_all(directory);
            std::fs::create_dir_all(directory).unwrap();
            std::fs::copy(&package, directory.join("package.json")).unwrap();
            run(Command::new("npm").args(["install", "--silent", "--no-audit", "--no-fund"]).current_dir(directory));
        });
        directory.join("node_modules")
    })
}

/// Confluent's Java client, asking this registry; its jars are fetched once a machine.
pub fn java_judge(registry: &str, subject: &str) -> Value {
    /// The goal's version too is pinned: it decides which jars are chosen.
    const MAVEN_GOAL: &str = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies";
    let (here, pom) = (format!("{CLIENTS}/registry-java"), format!("{CLIENTS}/registry-java/pom.xml"));
    let jars = made_once("judges-java", &pom, |jars| {
        let output = format!("-DoutputDirectory={}", jars.display());
        let _ = std::fs::remove_dir_all(jars);
        run(Command::new("mvn").args(["-q", "-B", MAVEN_GOAL, "-DincludeScope=runtime", "-f", &pom, &output]));
    });
    let mut java = Command::new("java");
    java.env("LC_ALL", "C.UTF-8"); // or it takes arguments for another text than they are
    java.arg("-cp").arg(jars.join("*")).arg(format!("{here}/JudgeRegistry.java")).args([registry, subject]);
    judgement(&run(&mut java))
}

/// Confluent's Go client, asking this registry; Go itself keeps what it has fetched and built.
pub fn go_judge(registry: &str, subject: &str) -> Value {
    let mut go = Command::new("go");
    // The client of the registry needs no C, unlike the one of Kafka beside it.
    go.args(["run", ".", registry, subject]).env("CGO_ENABLED", "0").current_dir(format!("{CLIENTS}/registry-go"));
    judgement(&run(&mut go))
}

fn judgement(out: &str) -> Value {
    serde_json::from_str(out).unwrap_or_else(|error| panic!("{error}: {out}"))
}

/// A directory that is made anew where it was made of another list than this one. Two test runs at once make it once.
fn made_once(name: &str, list: &str, make: impl FnOnce(&Path)) -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let lock = std::fs::File::create(directory.with_extension("lock")).unwrap();
    lock.lock().unwrap();
    let made_of = directory.join("made-of");
    if std::fs::read(&made_of).ok() != std::fs::read(list).ok() {
        make(&directory);
        std::fs::copy(list, &made_of).unwrap();
    }
    directory
}

pub fn run(command: &mut Command) -> String {
    let finished = Finished::of(command);
    assert!(finished.status.success(), "{command:?} failed: {}{}", finished.out, finished.err);
    finished.out
}

/// By itself it waits five seconds for what a broker knows of a topic, and a busy one may take longer.
pub fn kcat(brokers: &str) -> Command {
    let mut kcat = Command::new("kcat");
    kcat.args(["-m", "60", "-b", brokers]);
    kcat
}

pub fn judge(script: &str, arguments: &[&str]) -> Value {
    let out = run(Command::new(python()).arg(format!("{CLIENTS}/{script}")).args(arguments));
    judgement(&out)
}

/// Publishes a little of the shop's traffic, once, and waits until it is everywhere. Other tests publish too: so it is
/// not compared with the oracle.
pub async fn published() {
    static PUBLISHED: tokio::sync::OnceCell<()> = tokio::sync::OnceCell::const_new();
    let publish = async || {
        let simulate = ["simulate", "--seed", "11", "--events", "3000", "--rate", "0", "--json"];
        let finished = tokio::task::spawn_blocking(move || shared().platform.run(&simulate)).await.unwrap();
        assert_eq!(finished.code(), 0, "{}{}", finished.out, finished.err);
        eventually("every pipeline has caught up, and something is delivered", async || {
            let status = || shared().platform.run(&["status", "--json"]);
            let status = tokio::task::spawn_blocking(status).await.unwrap();
            if status.code() != 0 {
                return false; // a server was slow
            }
            let status = status.json();
            let pipelines = status["pipelines"].as_array().unwrap();
            // A sink has caught up once what is to be delivered is in its ledger.
            let delivered = status["deliveries"].as_array().unwrap().iter().any(|row| row["state"] == "delivered");
            let all = pipelines.len() >= PIPELINES && pipelines.iter().all(|pipeline| pipeline["state"] == "caught_up");
            all && delivered
        })
        .await;
    };
    PUBLISHED.get_or_init(publish).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kcat_shows_keys_and_cloudevents_headers() {
    published().await;
    let brokers = &shared().platform.addresses().kafka;
    let format = r#"%k|%h\n"#;
    let out = run(kcat(brokers).args(["-C", "-t", "shop.order.v1", "-e", "-q", "-f", format]));
    let line = out.lines().find(|line| line.contains("ce_type=order.placed")).expect("no order.placed in the topic");
    let (key, headers) = line.split_once('|').unwrap();
    assert!(uuid::Uuid::parse_str(key).is_ok(), "the key is the order's id: {key}");
    for header in ["ce_specversion=1.0", "ce_source=", "ce_time=2025-", "content-type=application/avro"] {
        assert!(headers.contains(header), "{header} in {headers}");
    }
    assert!(headers.contains(&format!("ce_subject={key}")), "{headers}");
}

#[tokio::test(flavor = "multi_thread")]
async fn confluents_client_and_fastavro_read_the_same_event() {
    published().await;
    let addresses = shared().platform.addresses();
    let read = judge("read_avro.py", &[&addresses.kafka, &addresses.registry, "shop.order.v1", "order.placed"]);
    assert_eq!(read["key"], read["event"]["order_id"]);
    let lines = read["event"]["lines"].as_array().unwrap();
    let sum: i64 =
        lines.iter().map(|line| line["quantity"].as_i64().unwrap() * line["unit_price"].as_i64().unwrap()).sum();
    assert_eq!(read["event"]["total"], sum);
}

#[tokio::test(flavor = "multi_thread")]
async fn clickhouse_connect_queries_inserts_and_sees_errors() {
    published().await;
    let read = judge("query_clickhouse.py", &[&shared().platform.addresses().clickhouse]);
    assert_eq!(read["rows"], 3);
    assert_eq!(read["named"], 42);
    assert_eq!(read["back"], json!(["één", "two\nlines\u{0}"]));
    assert!(read["error"].as_str().unwrap().contains("UNKNOWN_IDENTIFIER"), "{}", read["error"]);
    assert!(read["columns"].as_array().unwrap().contains(&json!("occurred_at")));
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_counts_what_psql_lists() {
    published().await;
    let addresses = shared().platform.addresses();
    let psql = ["-Atc", "select count(*) from order_status where placed_at is not null"];
    let counted = async || {
        let asked =
            ["-sS", "--fail", &addresses.clickhouse, "--data-binary", "select count() from events.order_placed"];
        let placed = run(Command::new("curl").args(asked));
        let rows = run(Command::new("psql").arg(&addresses.postgres).args(psql));
        placed.trim() == rows.trim() && placed.trim() != "0"
    };
    eventually("both count the same", counted).await; // other tests may order something meanwhile
}

#[tokio::test(flavor = "multi_thread")]
async fn another_languages_verifier_accepts_a_delivery() {
    published().await;
    let receiver = &shared().platform.receiver;
    eventually("a webhook arrived", async || receiver.newest().is_some()).await;
    let delivery = receiver.newest().unwrap();
    let secret = std::fs::read_to_string(millrace_local::secret_file(&shared().platform.data)).unwrap();
    let mut judge = Command::new(python())
        .args([&format!("{CLIENTS}/verify_webhook.py"), &secret])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let headers: serde_json::Map<String, Value> =
        delivery.headers.iter().map(|(name, value)| (name.to_string(), value.to_str().unwrap().into())).collect();
    let json = json!({ "headers": headers, "body": String::from_utf8(delivery.body.to_vec()).unwrap() });
    judge.stdin.take().unwrap().write_all(json.to_string().as_bytes()).unwrap();
    let judged = judge.wait_with_output().unwrap();
    assert!(judged.status.success());
    assert!(uuid::Uuid::parse_str(String::from_utf8_lossy(&judged.stdout).trim()).is_ok());
}
