//! The gateway's answers can be trusted: accepted is in the log, rejected is not, and bad input has its stated answer.

mod bad_days;
mod documents;
mod quarantine;
mod sharing;
mod spool;
mod tls;
mod tokens;

pub use spool::CRASH_POINTS;

use crate::backpressure::metric;
use crate::clients::{judge, kcat, run};
use crate::commands::Frozen;
use crate::platform::{Platform, Role, eventually, shared};
use crate::small_disk::with_a_disk;
use flate2::Compression;
use flate2::write::GzEncoder;
use millrace_local::{FreePorts, Server, token_file};
use reqwest::{RequestBuilder, StatusCode};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use uuid::Uuid;

const TOPIC: &str = "shop.account.v1";
/// What an answer may take beyond the deadline it keeps: the machine is busy.
const SLACK: Duration = Duration::from_secs(10);
/// Of the gateway, for the log's answer.
const DEFAULT_DEADLINE: Duration = Duration::from_secs(10);

/// A gateway of one test alone.
pub struct Door {
    pub role: Role,
    pub url: String,
    pub token: String,
    _ports: FreePorts,
}

impl Door {
    pub async fn open(platform: &Platform, environment: &[(&str, &str)]) -> Self {
        Self::open_at("http", platform, environment).await
    }

    async fn open_at(scheme: &str, platform: &Platform, environment: &[(&str, &str)]) -> Self {
        Self::open_by(scheme, platform, environment, |command| command).await
    }

    /// One whose process sees a disk of its own at `place`, of this size.
    async fn open_with_a_disk((place, size): (&Path, &str), platform: &Platform, environment: &[(&str, &str)]) -> Self {
        Self::open_by("http", platform, environment, |command| with_a_disk(place, size, &command)).await
    }

    async fn open_by(
        scheme: &str,
        platform: &Platform,
        environment: &[(&str, &str)],
        around: impl FnOnce(Command) -> Command,
    ) -> Self {
        let mut ports = FreePorts::default();
        let url = format!("{scheme}://127.0.0.1:{}", ports.take().unwrap());
        let token = std::fs::read_to_string(token_file(&platform.data)).unwrap();
        let role = started(around(command(platform, &url, environment)), platform, &url).await;
        Self { role, url, token, _ports: ports }
    }

    /// As a crash and a supervisor would.
    pub async fn kill_and_start_again(&mut self, platform: &Platform) {
        self.role.kill();
        self.role = start(platform, &self.url, &[]).await;
    }

    pub async fn accepts(&self) -> bool {
        answered(self.post(ONE, new_event().to_string())).await.1["status"] == "accepted"
    }

    fn post(&self, kind: &str, body: impl Into<reqwest::Body>) -> RequestBuilder {
        let request = reqwest::Client::new().post(format!("{}/v1/events", self.url)).bearer_auth(&self.token);
        request.header("content-type", kind).body(body)
    }

    fn host(&self) -> &str {
        host(&self.url)
    }

    /// A request of which only so much is sent.
    async fn begin(&self, body_bytes: usize, body: &[u8]) -> TcpStream {
        let mut stream = TcpStream::connect(self.host()).await.unwrap();
        let head = format!(
            "POST /v1/events HTTP/1.1\r\nhost: it\r\nauthorization: Bearer {}\r\n\
             content-type: application/cloudevents+json\r\ncontent-length: {body_bytes}\r\n\r\n",
            self.token
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(body).await.unwrap();
        stream
    }
}

async fn start(platform: &Platform, url: &str, environment: &[(&str, &str)]) -> Role {
    started(command(platform, url, environment), platform, url).await
}

fn command(platform: &Platform, url: &str, environment: &[(&str, &str)]) -> Command {
    let mut command = platform.command();
    command.arg("gateway").env("MILLRACE_GATEWAY__LISTEN", host(url)).envs(environment.iter().copied());
    command
}

async fn started(mut command: Command, platform: &Platform, url: &str) -> Role {
    let role = Role::start(&mut command, &platform.data, "gateway");
    let serves = format!("gateway on {url}");
    eventually("the gateway serves", async || role.log().contains(&serves)).await;
    role
}

fn host(url: &str) -> &str {
    url.split_once("://").unwrap().1
}

/// The one that tests share who leave it as it was.
fn door() -> &'static Door {
    static DOOR: OnceLock<Door> = OnceLock::new();
    DOOR.get_or_init(|| {
        let platform = &shared().platform;
        let runtime = Box::leak(Box::new(tokio::runtime::Runtime::new().unwrap()));
        std::thread::spawn(|| runtime.block_on(Door::open(platform, &[]))).join().unwrap()
    })
}

/// Shares nothing, so that a limit is exactly its own.
const ALONE: (&str, &str) = ("MILLRACE_REDIS__URL", "");
/// Keys alone, without the issuer of the stack.
const NO_TOKENS: (&str, &str) = ("MILLRACE_GATEWAY__JWT__ISSUER", "");
const ONE: &str = "application/cloudevents+json";
const BATCH: &str = "application/cloudevents-batch+json";

fn erased(id: Uuid, user: Uuid, by: &str) -> Value {
    let data = json!({ "user_id": user, "requested_by": by });
    json!({ "specversion": "1.0", "id": id, "source": "/it", "type": "user.erased", "data": data })
}

fn new_event() -> Value {
    erased(Uuid::now_v7(), Uuid::now_v7(), "it")
}

async fn answered(request: RequestBuilder) -> (u16, Value) {
    let answer = request.send().await.unwrap();
    let status = answer.status().as_u16();
    let text = answer.text().await.unwrap();
    (status, serde_json::from_str(&text).unwrap_or_else(|error| panic!("{status} {error}: {text}")))
}

/// Records in the order of their partitions: key and id.
pub fn log(brokers: &str) -> Vec<(String, String)> {
    let format = "%k|%h\n";
    let out = run(kcat(brokers).args(["-C", "-t", TOPIC, "-o", "beginning", "-e", "-q", "-f", format]));
    let record = |line: &str| {
        let (key, headers) = line.split_once('|').unwrap();
        let id = headers.split(',').find_map(|header| header.strip_prefix("ce_id=")).unwrap();
        (key.to_owned(), id.to_owned())
    };
    out.lines().filter(|line| line.contains("ce_id=")).map(record).collect()
}

/// Of the event with this id.
pub fn headers(brokers: &str, id: Uuid) -> String {
    let out = run(kcat(brokers).args(["-C", "-t", TOPIC, "-o", "beginning", "-e", "-q", "-f", "%h\n"]));
    out.lines().find(|line| line.contains(&format!("ce_id={id}"))).unwrap_or_default().to_owned()
}

fn is_in_the_log(id: &Value) -> bool {
    log(&shared().platform.addresses().kafka).iter().any(|(_, found)| found == id.as_str().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_is_in_the_log_once_it_is_accepted_in_whichever_mode_it_came() {
    let (one, two, three) = (new_event(), new_event(), new_event());
    let (status, answer) = answered(door().post(ONE, one.to_string())).await;
    assert_eq!((status, answer), (202, json!({ "id": one["id"], "status": "accepted" })));
    assert!(is_in_the_log(&one["id"]));

    let (status, answer) = answered(door().post(BATCH, json!([two, three]).to_string())).await;
    let accepted = |event: &Value| json!({ "id": event["id"], "status": "accepted" });
    assert_eq!((status, answer), (202, json!({ "results": [accepted(&two), accepted(&three)] })));
    assert!(is_in_the_log(&two["id"]) && is_in_the_log(&three["id"]));

    let (id, user) = (Uuid::now_v7().to_string(), Uuid::now_v7().to_string());
    let binary = |kind, body: Vec<u8>| {
        let request = door().post(kind, body).header("ce-specversion", "1.0").header("ce-source", "/it");
        request.header("ce-type", "user.erased").header("ce-subject", &user)
    };
    let data = json!({ "user_id": user, "requested_by": "it" }).to_string();
    let (status, answer) = answered(binary("application/json", data.into()).header("ce-id", &id)).await;
    assert_eq!(status, 202, "{answer}");
    assert!(is_in_the_log(&json!(id)));

    let id = Uuid::now_v7().to_string();
    let datum = [&[72][..], user.as_bytes(), &[4], b"it"].concat(); // lengths are zigzag
    let (status, answer) = answered(binary("application/avro", datum).header("ce-id", &id)).await;
    assert_eq!(status, 202, "{answer}");
    assert!(is_in_the_log(&json!(id)));
}

#[tokio::test(flavor = "multi_thread")]
async fn compressed_bodies_are_events_too() {
    let event = new_event();
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(event.to_string().as_bytes()).unwrap();
    let sent = door().post(ONE, gzip.finish().unwrap()).header("content-encoding", "gzip");
    assert_eq!(answered(sent).await.0, 202);
    let other = new_event();
    let zstd = zstd::encode_all(other.to_string().as_bytes(), 3).unwrap();
    assert_eq!(answered(door().post(ONE, zstd).header("content-encoding", "zstd")).await.0, 202);
    assert!(is_in_the_log(&event["id"]) && is_in_the_log(&other["id"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_has_a_verdict_for_each_event_and_publishes_what_fits() {
    let (good, mut bad) = (new_event(), new_event());
    bad["data"] = json!({ "user_id": "nobody", "requested_by": 7 });
    let (status, answer) = answered(door().post(BATCH, json!([good, bad, good, 7]).to_string())).await;
    assert_eq!(status, 207, "{answer}");
    let statuses: Vec<_> = answer["results"].as_array().unwrap().iter().map(|result| &result["status"]).collect();
    assert_eq!(statuses, ["accepted", "invalid", "duplicate", "invalid"]);
    let errors = json!([
        { "pointer": "/data/user_id", "expected": "a uuid", "found": "\"nobody\"" },
        { "pointer": "/data/requested_by", "expected": "a string", "found": "7" },
    ]);
    assert_eq!(answer["results"][1]["errors"], errors);
    assert!(is_in_the_log(&good["id"]) && !is_in_the_log(&bad["id"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_that_comes_again_is_a_duplicate_with_the_same_body_and_a_conflict_with_another() {
    let event = new_event();
    assert_eq!(answered(door().post(ONE, event.to_string())).await.0, 202);
    let (status, answer) = answered(door().post(ONE, event.to_string())).await;
    assert_eq!((status, &answer["status"]), (202, &json!("duplicate")));
    let mut other = event.clone();
    other["data"]["requested_by"] = json!("somebody else");
    let (status, answer) = answered(door().post(ONE, other.to_string())).await;
    assert_eq!((status, &answer["status"], &answer["errors"][0]["pointer"]), (409, &json!("invalid"), &json!("/id")));
    let found = log(&shared().platform.addresses().kafka);
    assert_eq!(found.iter().filter(|(_, id)| event["id"] == **id).count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_kind_of_bad_input_has_its_stated_answer_and_nothing_of_it_is_in_the_log() {
    let event = new_event();
    let data = |data: &str| {
        let text = event.to_string();
        let (before, _) = text.split_once("\"data\":").unwrap();
        format!("{before}\"data\":{data}}}").into_bytes()
    };
    let user = Uuid::now_v7();
    let by = |by: &str| data(&format!(r#"{{"user_id": "{user}", "requested_by": {by}}}"#));
    let deep = [b"[".repeat(1 << 20), b"]".repeat(1 << 20)].concat();
    let mut not_utf8 = by("\"x\"");
    let at = not_utf8.iter().position(|byte| *byte == b'x').unwrap();
    not_utf8[at] = 0xff;
    let cases: Vec<(&str, u16, Vec<u8>)> = vec![
        ("no JSON", 400, b"{".to_vec()),
        ("nothing", 400, vec![]),
        ("NaN, which is no JSON", 400, by("NaN")), // as a number's text: `bad_values`
        ("NUL in text", 400, by(r#""a\u0000b""#)),
        ("bytes that are no UTF-8", 400, not_utf8),
        ("half a character", 400, by(r#""\ud800""#)),
        ("a number beyond all types", 400, by("1e999")),
        ("deep nesting", 400, deep.clone()),
        ("deep nesting in the data", 400, data(&String::from_utf8(deep).unwrap())),
        ("a field that is missing", 400, data("{}")),
        ("more than a body may have", 413, vec![b' '; (8 << 20) + 1]),
        ("an event that no record holds", 400, by(&format!("\"{}\"", "x".repeat(1 << 20)))),
    ];
    for (what, expected, body) in cases {
        let (status, answer) = answered(door().post(ONE, body)).await;
        assert_eq!(status, expected, "{what}: {answer}");
    }
    let zeros = vec![0; 64 << 20];
    let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
    gzip.write_all(&zeros).unwrap();
    for (encoding, bomb) in [("gzip", gzip.finish().unwrap()), ("zstd", zstd::encode_all(&zeros[..], 3).unwrap())] {
        let (status, answer) = answered(door().post(ONE, bomb).header("content-encoding", encoding)).await;
        assert_eq!(status, 413, "{encoding}: {answer}");
    }
    assert_eq!(answered(door().post("text/plain", event.to_string())).await.0, 415);
    assert_eq!(answered(door().post(ONE, event.to_string()).header("content-encoding", "br")).await.0, 415);
    for (what, datum) in [("huge", &[0xfe, 0xff, 0xff, 0xff, 0x7f][..]), ("truncated", &[72, b'0']), ("none", &[])] {
        let sent = door().post("application/avro", datum.to_vec()).header("ce-specversion", "1.0");
        let sent = sent.header("ce-id", Uuid::now_v7().to_string()).header("ce-source", "/it");
        let (status, answer) = answered(sent.header("ce-type", "user.erased")).await;
        assert_eq!((status, &answer["status"]), (400, &json!("invalid")), "{what}: {answer}");
    }
    let mut unknown = event.clone();
    unknown["dataschema"] = json!("http://somewhere/schemas/ids/999999");
    let (status, answer) = answered(door().post(ONE, unknown.to_string())).await;
    assert_eq!((status, &answer["errors"][0]["pointer"]), (400, &json!("/dataschema")), "{answer}");
    assert!(!is_in_the_log(&event["id"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_key_or_with_another_topics_nobody_publishes_or_looks_around() {
    let platform = &shared().platform;
    let hash = format!("[\"{}\"]", millrace_hash("only-orders"));
    let keys = [
        NO_TOKENS,
        ("MILLRACE_GATEWAY__KEYS__ORDERS__SHA256", hash.as_str()),
        ("MILLRACE_GATEWAY__KEYS__ORDERS__SCOPES", r#"["publish:shop.order.*"]"#),
    ];
    let door = Door::open(platform, &keys).await;
    let event = new_event();
    let url = format!("{}/v1/events", door.url);
    let send = |header: Option<(&'static str, &'static str)>| {
        let request = reqwest::Client::new().post(&url).header("content-type", ONE).body(event.to_string());
        header.into_iter().fold(request, |request, (name, value)| request.header(name, value))
    };
    for wrong in
        [None, Some(("authorization", "Bearer wrong")), Some(("authorization", "Basic eDp5")), Some(("x-api-key", ""))]
    {
        let answer = send(wrong).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED, "{wrong:?}");
        assert_eq!(answer.headers()["www-authenticate"], "Bearer");
    }
    let (status, answer) = answered(send(Some(("x-api-key", "only-orders")))).await;
    assert_eq!((status, &answer["status"]), (403, &json!("unauthorized")), "{answer}");
    assert_eq!(reqwest::get(format!("{}/v1/contracts", door.url)).await.unwrap().status(), 401);
    assert!(!is_in_the_log(&event["id"]));
    assert!(!door.role.log().contains("only-orders"), "no key is in the logs");
    assert_eq!(door.role.stop(), 0);

    let closed =
        platform.command().arg("gateway").env("MILLRACE_GATEWAY__KEYS", "{}").envs([NO_TOKENS]).output().unwrap();
    let said = String::from_utf8_lossy(&closed.stderr).into_owned();
    assert_eq!(closed.status.code(), Some(64), "{said}");
    assert!(said.contains("`gateway.keys` is empty"), "{said}");
}

fn millrace_hash(key: &str) -> String {
    let hashed = run(Command::new("bash").args(["-c", &format!("printf %s {key} | sha256sum")]));
    hashed.split(' ').next().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn contracts_are_listed_and_shown_with_schema_and_example() {
    let door = door();
    let get = async |path: &str| {
        answered(reqwest::Client::new().get(format!("{}{path}", door.url)).bearer_auth(&door.token)).await
    };
    let (status, listed) = get("/v1/contracts").await;
    assert_eq!((status, listed["contracts"].as_array().unwrap().len()), (200, 13));
    let browser = async |path: &str, password: Option<&str>| {
        let request = reqwest::Client::new().get(format!("{}{path}", door.url));
        password.into_iter().fold(request, |request, key| request.basic_auth("me", Some(key))).send().await.unwrap()
    };
    let asked = browser("/contracts/order.placed", None).await;
    assert!(asked.headers()["www-authenticate"].to_str().unwrap().starts_with("Basic realm="), "{asked:?}");
    let page = browser("/contracts/payment.failed", Some(&door.token)).await;
    assert!(page.headers()["content-security-policy"].to_str().unwrap().starts_with("default-src 'none'"), "{page:?}");
    assert!(page.text().await.unwrap().contains("calls the endpoint"), "it tells who reads the event");
    let (status, order) = get("/v1/contracts/order.placed").await;
    assert_eq!((status, &order["topic"], &order["key"]), (200, &json!("shop.order.v1"), &json!("order_id")));
    assert_eq!(order["owners"], json!(["Checkout, checkout@example.com"]));
    let (consumers, metrics) = (order["consumers"].to_string(), order["metrics"].as_array().unwrap());
    assert!(consumers.contains("customer_summary") && metrics.contains(&json!("orders")), "{order:#}");
    assert_eq!(get("/v1/contracts/order.placed/versions/1").await, (200, order["schema"].clone()));
    for missing in ["/v1/contracts/order.eaten", "/v1/contracts/order.placed/versions/9", "/v1", "/v1/contracts/a%2Fb"]
    {
        assert_eq!(get(missing).await.0, 404, "{missing}");
    }
    let (status, accepted) = answered(door.post(
        ONE,
        json!({ "specversion": "1.0", "id": Uuid::now_v7(), "source": "/it", "type": "order.placed", "data": order["example"] }).to_string(),
    ))
    .await;
    assert_eq!(status, 202, "the example fits: {accepted}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_sends_headers_or_a_body_slowly_is_sent_away_and_holds_nobody_up() {
    let (slow_body, mut slow_head) = (door().begin(1000, b"{").await, TcpStream::connect(door().host()).await.unwrap());
    slow_head.write_all(b"POST /v1/events HTTP/1.1\r\nhost: it\r\n").await.unwrap();
    assert_eq!(answered(door().post(ONE, new_event().to_string())).await.0, 202, "others are served meanwhile");
    let ended = async |mut stream: TcpStream| {
        let mut said = Vec::new();
        tokio::time::timeout(Duration::from_secs(20) + SLACK, stream.read_to_end(&mut said)).await.unwrap().unwrap();
        String::from_utf8(said).unwrap()
    };
    let (body, head) = tokio::join!(ended(slow_body), ended(slow_head));
    assert!(body.starts_with("HTTP/1.1 408 "), "{body}");
    assert_eq!(head, "", "nobody has asked anything yet");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_before_sending_a_body_that_is_too_large_is_told_so_and_sends_none() {
    let mut stream = TcpStream::connect(door().host()).await.unwrap();
    let head = format!(
        "POST /v1/events HTTP/1.1\r\nhost: it\r\nauthorization: Bearer {}\r\nexpect: 100-continue\r\n\
         content-type: {ONE}\r\ncontent-length: 9000000\r\n\r\n",
        door().token
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut said = Vec::new();
    tokio::time::timeout(SLACK, stream.read_to_end(&mut said)).await.unwrap().unwrap();
    let said = String::from_utf8(said).unwrap();
    assert!(said.starts_with("HTTP/1.1 413 "), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_beyond_the_memory_hears_429_and_when_to_come_again() {
    let limits = [("MILLRACE_GATEWAY__BODY_BYTES", "65536"), ("MILLRACE_GATEWAY__INFLIGHT_BYTES", "81920")];
    let door = Door::open(&shared().platform, &limits).await;
    let inflight = async || metric(&door.role, "millrace_gateway_inflight_bytes").await;
    let mut held = None;
    let busy = async || {
        // It has so long for its body, and then it begins anew.
        if inflight().await < 59_000 {
            held = Some(door.begin(60_000, &[b' '; 59_000]).await);
            eventually("it is read", async || inflight().await >= 59_000).await;
        }
        let answer = door.post(ONE, new_event().to_string()).send().await.unwrap();
        answer.status() == StatusCode::TOO_MANY_REQUESTS && answer.headers().contains_key("retry-after")
    };
    eventually("the memory is full", busy).await;
    drop(held);
    let served = async || answered(door.post(ONE, new_event().to_string())).await.0 == 202;
    eventually("it is free again", served).await;
    assert_eq!(door.role.stop(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_and_the_python_cloudevents_sdk_publish() {
    let event = new_event();
    let (url, key) = (format!("{}/v1/events", door().url), format!("authorization: Bearer {}", door().token));
    let kind = format!("content-type: {ONE}");
    let said =
        run(Command::new("curl").args(["-sS", "--fail", &url, "-H", &key, "-H", &kind, "-d", &event.to_string()]));
    assert_eq!(serde_json::from_str::<Value>(&said).unwrap()["status"], "accepted");
    let answers = judge("publish_cloudevent.py", &[&url, &door().token]);
    for answer in answers.as_array().unwrap() {
        assert_eq!(answer["status"], "accepted", "{answers}");
        assert!(is_in_the_log(&answer["id"]));
    }
    assert_eq!(answers.as_array().unwrap().len(), 2);
}

/// What senders were told, and what they will look for.
#[derive(Default)]
struct Told {
    /// From then on nobody begins another batch.
    enough: AtomicBool,
    accepted: Mutex<BTreeSet<String>>,
    rejected: Mutex<BTreeSet<String>>,
    /// How often an answer was `retry`, an error of the connection, or none.
    unsure: AtomicU64,
}

const SENDERS: u128 = 4;
const BATCH_EVENTS: u64 = 20;

/// One sender's events, all of one key, in order: a batch is sent until all of it is accepted, then the next. How many
/// batches there were.
async fn send(url: String, token: String, user: Uuid, told: Arc<Told>, ids: Arc<Mutex<HashMap<String, u64>>>) -> usize {
    let client = reqwest::Client::builder().timeout(Duration::from_secs(30)).build().unwrap();
    for batch in 0.. {
        if told.enough.load(Ordering::Relaxed) {
            return batch as usize;
        }
        let mut events: Vec<Value> = (0..BATCH_EVENTS).map(|_| erased(Uuid::now_v7(), user, "it")).collect();
        for (n, event) in events.iter().enumerate() {
            let id = event["id"].as_str().unwrap().to_owned();
            ids.lock().unwrap().insert(id, batch * BATCH_EVENTS + n as u64);
        }
        let mut bad = erased(Uuid::now_v7(), user, "it");
        bad["data"]["colour"] = json!("red");
        events.insert(7, bad);
        let body = json!(events).to_string();
        loop {
            let sent =
                client.post(&url).bearer_auth(&token).header("content-type", BATCH).body(body.clone()).send().await;
            let answer: Value = match sent {
                Ok(answer) => answer.json().await.unwrap_or_default(),
                Err(_) => Value::Null,
            };
            let results = answer["results"].as_array().cloned().unwrap_or_default();
            for result in &results {
                let id = result["id"].as_str().unwrap().to_owned();
                match result["status"].as_str().unwrap() {
                    "accepted" | "duplicate" => drop(told.accepted.lock().unwrap().insert(id)),
                    "invalid" => drop(told.rejected.lock().unwrap().insert(id)),
                    _ => {}
                }
            }
            let done =
                results.iter().filter(|result| ["accepted", "duplicate"].contains(&result["status"].as_str().unwrap()));
            if done.count() as u64 == BATCH_EVENTS {
                break;
            }
            told.unsure.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    unreachable!("it never ends by itself")
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_dies_every_accepted_event_is_in_the_log_in_order_and_no_rejected_one_is() {
    let platform = Platform::start().await;
    let deadline = [("MILLRACE_GATEWAY__DEADLINE_MS", "5000")];
    let mut door = Door::open(&platform, &deadline).await;
    let (told, ids) = (Arc::new(Told::default()), Arc::new(Mutex::new(HashMap::new())));
    let url = format!("{}/v1/events", door.url);
    let senders: Vec<_> = (0..SENDERS)
        .map(|n| tokio::spawn(send(url.clone(), door.token.clone(), Uuid::from_u128(n), told.clone(), ids.clone())))
        .collect();
    let accepted = || told.accepted.lock().unwrap().len();
    let goes_on = async || {
        let before = accepted();
        eventually("more is accepted", async || accepted() >= before + 1_000).await;
    };
    goes_on().await;
    door.role.kill();
    door.role = start(&platform, &door.url, &deadline).await;
    goes_on().await;
    platform.kill_server(Server::Kafka).await;
    goes_on().await;
    door.role.signal(Signal::TERM);
    assert_eq!(door.role.ended().await.code(), Some(0), "requests in hand are answered: {}", door.role.log());
    door.role = start(&platform, &door.url, &deadline).await;
    goes_on().await;
    told.enough.store(true, Ordering::Relaxed);
    let mut batches = 0;
    for sender in senders {
        batches += sender.await.unwrap();
    }
    assert!(told.unsure.load(Ordering::Relaxed) >= 3, "each fault was noticed by somebody");
    let expected = (batches * BATCH_EVENTS as usize, batches);
    assert_eq!((accepted(), told.rejected.lock().unwrap().len()), expected);

    let found = log(&platform.addresses().kafka);
    let in_log: BTreeSet<&String> = found.iter().map(|(_, id)| id).collect();
    println!(
        "{} accepted, {} records, {} unsure answers",
        accepted(),
        found.len(),
        told.unsure.load(Ordering::Relaxed)
    );
    let lost: Vec<_> = told.accepted.lock().unwrap().iter().filter(|id| !in_log.contains(id)).cloned().collect();
    assert!(lost.is_empty(), "accepted and not in the log: {lost:?}");
    assert!(told.rejected.lock().unwrap().iter().all(|id| !in_log.contains(id)), "a rejected one is in the log");
    let ids = ids.lock().unwrap().clone();
    let (mut seen, mut last) = (BTreeSet::new(), BTreeMap::new());
    for (key, id) in &found {
        if seen.insert(id) {
            let number = ids[id];
            let before = last.insert(key, number);
            assert!(before.is_none_or(|before| before < number), "{key}: {number} behind {before:?}");
        }
    }
    assert_eq!(door.role.stop(), 0);
    platform.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_kafka_is_away_the_answer_is_503_within_the_deadline_and_never_accepted() {
    let platform = Platform::start().await;
    let door = Door::open(&platform, &[("MILLRACE_GATEWAY__DEADLINE_MS", "2000")]).await;
    let (before, unsure) = (new_event(), new_event());
    let is_accepted = async |event: &Value| answered(door.post(ONE, event.to_string())).await.1["status"] == "accepted";
    eventually("the log answers in time", async || is_accepted(&before).await).await;
    let kept_down = Frozen::down(&platform, Server::Kafka).await;
    let mut quickest = Duration::MAX;
    for _ in 0..3 {
        let since = Instant::now();
        let answer = door.post(ONE, unsure.to_string()).send().await.unwrap();
        assert!(since.elapsed() < Duration::from_secs(3) + SLACK, "{:?}", since.elapsed());
        quickest = quickest.min(since.elapsed());
        assert!(answer.headers().contains_key("retry-after"));
        let (status, answer) = (answer.status().as_u16(), answer.json::<Value>().await.unwrap());
        assert_eq!((status, &answer["status"]), (503, &json!("retry")), "{answer}");
    }
    assert!(quickest < DEFAULT_DEADLINE, "{quickest:?}: it is not the deadline of two seconds that was kept");
    drop(kept_down);
    platform.stack.wait_ready(Server::Kafka).await.unwrap();
    let again = new_event();
    eventually("it goes on by itself", async || is_accepted(&again).await).await;
    // It has a partition of its own, which may need longer.
    eventually("what was `retry` is no duplicate", async || is_accepted(&unsure).await).await;
    let found = log(&platform.addresses().kafka);
    for event in [before, unsure, again] {
        assert!(found.iter().any(|(_, id)| event["id"] == **id));
    }
    assert_eq!(door.role.stop(), 0);
    platform.stop().await;
}
