//! Bad days of some length: the log does not answer for half a minute, thousands of senders say nothing.

use super::{BATCH, Door, ONE, SLACK, answered, erased, log, new_event};
use crate::backpressure::metric;
use crate::commands::Frozen;
use crate::platform::{BINARY, Platform, Role, eventually, shared};
use millrace_local::Server;
use reqwest::StatusCode;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use uuid::Uuid;

/// Resident memory of a process.
fn memory_bytes(role: &Role) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", role.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

const SENDERS: usize = 48;
const BATCH_EVENTS: usize = 20;
const DEADLINE: Duration = Duration::from_secs(2);
/// Less than all senders have in hand at once.
const INFLIGHT_BYTES: i64 = 512 << 10;
const HALF_A_MINUTE: Duration = Duration::from_secs(30);

/// What the senders saw.
#[derive(Default)]
struct Day {
    frozen: AtomicBool,
    over: AtomicBool,
    accepted: Mutex<BTreeSet<String>>,
    /// Batches that went in after the log came back.
    recovered: AtomicU64,
    unavailable: AtomicU64,
}

/// Sends batches, each until all of it is accepted, and checks every answer.
async fn send(url: String, token: String, day: Arc<Day>) {
    let client = reqwest::Client::new();
    while !day.over.load(Ordering::SeqCst) {
        let user = Uuid::now_v7();
        let events: Vec<Value> = (0..BATCH_EVENTS).map(|_| erased(Uuid::now_v7(), user, "it")).collect();
        let body = json!(events).to_string();
        loop {
            let (since, frozen) = (Instant::now(), day.frozen.load(Ordering::SeqCst));
            let sent = client.post(&url).bearer_auth(&token).header("content-type", BATCH).body(body.clone());
            let answer = sent.send().await.expect("it always answers");
            assert!(since.elapsed() < DEADLINE + Duration::from_secs(1) + SLACK, "{:?}", since.elapsed());
            let status = answer.status();
            if status != StatusCode::ACCEPTED {
                assert!(answer.headers().contains_key("retry-after"), "{status} says not when to come again");
            }
            let answer: Value = answer.json().await.unwrap();
            let results = answer["results"].as_array().cloned().unwrap_or_default();
            let known =
                results.iter().filter(|result| result["status"] == "accepted" || result["status"] == "duplicate");
            let known: Vec<String> = known.map(|result| result["id"].as_str().unwrap().to_owned()).collect();
            if frozen && day.frozen.load(Ordering::SeqCst) {
                let accepted = results.iter().any(|result| result["status"] == "accepted");
                assert!(!accepted, "accepted while nobody could: {answer}");
                day.unavailable.fetch_add(u64::from(status == StatusCode::SERVICE_UNAVAILABLE), Ordering::Relaxed);
            }
            let all = known.len() == BATCH_EVENTS;
            day.accepted.lock().unwrap().extend(known);
            if all {
                day.recovered.fetch_add(u64::from(!frozen), Ordering::Relaxed);
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await; // a sender more eager than it was asked to be
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn half_a_minute_without_the_log_costs_senders_time_and_nobody_an_event() {
    let platform = Platform::start().await;
    let (deadline, bytes) = (DEADLINE.as_millis().to_string(), INFLIGHT_BYTES.to_string());
    let limits = [
        ("MILLRACE_GATEWAY__DEADLINE_MS", deadline.as_str()),
        ("MILLRACE_GATEWAY__INFLIGHT_BYTES", bytes.as_str()),
        ("MILLRACE_GATEWAY__BODY_BYTES", "65536"),
    ];
    let door = Door::open(&platform, &limits).await;
    let (day, url) = (Arc::new(Day::default()), format!("{}/v1/events", door.url));
    let start = || tokio::spawn(send(url.clone(), door.token.clone(), day.clone()));
    let senders: Vec<_> = (0..SENDERS).map(|_| start()).collect();
    let accepted = || day.accepted.lock().unwrap().len();
    eventually("events flow", async || accepted() > 2_000).await;
    let before = memory_bytes(&door.role);

    let frozen = Frozen::new(platform.stack.pid(Server::Kafka).unwrap());
    day.frozen.store(true, Ordering::SeqCst);
    let (since, mut most) = (Instant::now(), 0);
    eventually("half a minute is over", async || {
        most = most.max(metric(&door.role, "millrace_gateway_inflight_bytes").await);
        since.elapsed() > HALF_A_MINUTE
    })
    .await;
    assert!(most > INFLIGHT_BYTES / 2, "the bound was never near: {most} of {INFLIGHT_BYTES}");
    assert!(most <= INFLIGHT_BYTES, "{most} of {INFLIGHT_BYTES}");
    let grown = memory_bytes(&door.role).saturating_sub(before);
    assert!(grown < 128 << 20, "it grew by {grown} bytes");
    let unavailable = day.unavailable.load(Ordering::Relaxed);
    assert!(unavailable > 100, "503 came {unavailable} times");

    day.frozen.store(false, Ordering::SeqCst);
    day.recovered.store(0, Ordering::SeqCst);
    drop(frozen);
    let enough = (5 * SENDERS) as u64;
    eventually("everybody publishes again", async || day.recovered.load(Ordering::Relaxed) > enough).await;
    day.over.store(true, Ordering::SeqCst);
    for sender in senders {
        sender.await.unwrap();
    }
    let found: BTreeSet<String> = log(&platform.addresses().kafka).into_iter().map(|(_, id)| id).collect();
    let lost = day.accepted.lock().unwrap().iter().filter(|id| !found.contains(*id)).count();
    println!("{} accepted, {} ids in the log, {unavailable} times 503, {most} bytes in hand", accepted(), found.len());
    assert_eq!(lost, 0, "accepted and not in the log");
    assert_eq!(door.role.stop(), 0);
    platform.stop().await;
}

/// Opens as many connections, which say nothing.
async fn idle(door: &Door, connections: usize) -> Vec<TcpStream> {
    let mut idle = Vec::with_capacity(connections);
    for _ in 0..connections {
        idle.push(TcpStream::connect(door.host()).await.unwrap());
    }
    idle
}

fn is_open(stream: &TcpStream) -> bool {
    stream.try_read(&mut [0]).is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
}

/// All that the other side says, to its end.
async fn heard(stream: &mut TcpStream) -> String {
    let mut heard = Vec::new();
    tokio::time::timeout(Duration::from_secs(20) + SLACK, stream.read_to_end(&mut heard)).await.unwrap().unwrap();
    String::from_utf8(heard).unwrap()
}

/// For both ends of a connection: an ordinary user may open 1024 files at first.
fn open_many_files() {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
}

const CONNECTIONS: usize = 3000;
/// Of one that says nothing.
const CONNECTION_BYTES_MAX: u64 = 16 << 10;

#[tokio::test(flavor = "multi_thread")]
async fn thousands_who_say_nothing_take_little_memory_and_make_room_and_one_more_is_told_so() {
    open_many_files();
    let bound = [("MILLRACE_GATEWAY__CONNECTIONS", "3000")];
    let door = Door::open(&shared().platform, &bound).await;
    let open = async || metric(&door.role, "millrace_gateway_connections").await;
    eventually("nobody is there", async || open().await == 0).await;
    let before = memory_bytes(&door.role);
    let mut silent = Vec::new();
    // Some may be closed while others still come, and some not be counted yet: a machine may be busy.
    let mut fill = async || {
        silent.retain(is_open);
        silent.extend(idle(&door, CONNECTIONS - silent.len()).await);
        open().await == CONNECTIONS as i64
    };
    eventually("all are let in", &mut fill).await;
    let grown = memory_bytes(&door.role).saturating_sub(before);
    println!("{CONNECTIONS} connections take {grown} bytes");
    assert!(grown < CONNECTIONS as u64 * CONNECTION_BYTES_MAX, "{grown} bytes for {CONNECTIONS} connections");

    let mut turned_away = 0;
    eventually("many are turned away", async || {
        fill().await;
        let answer = door.post(ONE, new_event().to_string()).send().await.expect("an answer, not a broken connection");
        if answer.status() != StatusCode::ACCEPTED {
            assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
            assert_eq!(answer.headers()["retry-after"], "1");
            let problem: Value = answer.json().await.unwrap();
            assert!(problem["detail"].as_str().unwrap().contains("gateway.connections"), "{problem}");
            turned_away += 1;
        }
        turned_away == 20
    })
    .await;

    let mut told = 0; // who came while another's end was not noticed yet
    for stream in &mut silent {
        let heard = heard(stream).await;
        assert!(heard.is_empty() || heard.starts_with("HTTP/1.1 503"), "closed without a word: {heard}");
        told += usize::from(!heard.is_empty());
    }
    assert!(told < CONNECTIONS / 10, "{told} who say nothing were told that there is no room");
    assert_eq!(answered(door.post(ONE, new_event().to_string())).await.0, 202, "there is room again");
    assert_eq!(door.role.stop(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_few_files_may_be_open_fewer_senders_are_let_in_and_the_log_is_still_reached() {
    let mut door = Door::open(&shared().platform, &[]).await;
    door.role.kill();
    let mut command = Command::new("bash");
    command.args(["-c", "ulimit -n 300 && exec \"$@\"", "bash", BINARY]);
    let usual = shared().platform.command();
    command.args(usual.get_args()).arg("gateway").env("MILLRACE_TELEMETRY__OPS", "127.0.0.1:0");
    command.env("MILLRACE_GATEWAY__LISTEN", door.host());
    door.role = Role::start(&mut command, &shared().platform.data, "gateway");
    let answers = async || reqwest::get(format!("{}/v1/contracts", door.url)).await.is_ok();
    eventually("it answers", answers).await;
    assert!(door.role.log().contains("open files (ulimit -n) are enough for 44 connections"), "{}", door.role.log());
    let mut silent = Vec::new();
    eventually("it is full", async || {
        // Who came first may be gone while others still come: a machine may be busy.
        let open = usize::try_from(metric(&door.role, "millrace_gateway_connections").await).unwrap();
        silent.extend(idle(&door, 44_usize.saturating_sub(open)).await);
        door.post(ONE, new_event().to_string()).send().await.is_ok_and(|answer| answer.status() == 503)
    })
    .await;
    drop(silent);
    let served = async || answered(door.post(ONE, new_event().to_string())).await.0 == 202;
    eventually("the log is reached", served).await;
    assert_eq!(door.role.stop(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_read_an_answer_holds_its_memory_for_a_while_and_not_for_ever() {
    let door = Door::open(&shared().platform, &[]).await;
    let unknown: String = (0..32).map(|n| format!("\"x{n}\":1,")).collect();
    let events = vec![format!("{{{unknown}\"id\":\"1\"}}"); 1000];
    let body = format!("[{}]", events.join(",")); // each event has a page of errors: more than a socket's buffers hold
    let mut unread = TcpStream::connect(door.host()).await.unwrap();
    let head = format!(
        "POST /v1/events HTTP/1.1\r\nhost: it\r\nauthorization: Bearer {}\r\ncontent-type: {BATCH}\r\n\
         content-length: {}\r\n\r\n",
        door.token,
        body.len()
    );
    unread.write_all(head.as_bytes()).await.unwrap();
    unread.write_all(body.as_bytes()).await.unwrap();
    let held = async || metric(&door.role, "millrace_gateway_inflight_bytes").await;
    eventually("the answer waits to be read", async || held().await > 1 << 20).await;
    assert_eq!(answered(door.post(ONE, new_event().to_string())).await.0, 202, "others are served meanwhile");
    let open = async || metric(&door.role, "millrace_gateway_connections").await;
    eventually("it is given up", async || (open().await, held().await) == (0, 0)).await;
    assert_eq!(door.role.stop(), 0);
    drop(unread);
}
