//! While the log is away events wait on the gateway's disk, and whatever dies meanwhile, all of them come into the log.

use super::{BATCH, Door, ONE, TOPIC, answered, erased, log, new_event, start};
use crate::backpressure::metric;
use crate::clients::judge;
use crate::commands::Frozen;
use crate::crash_points::assert_crashed_at;
use crate::platform::{Finished, Platform, Role, directory, eventually};
use millrace_local::Server;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use uuid::Uuid;

/// A busy machine's log answers within it.
const DEADLINE: (&str, &str) = ("MILLRACE_GATEWAY__DEADLINE_MS", "3000");
const DIRECTORY: &str = "MILLRACE_GATEWAY__SPOOL__DIRECTORY";
/// So many that there is always one under way: the spool must become empty all the same.
const SENDERS: u128 = 16;
const BATCH_EVENTS: u64 = 5;
/// Each sends twenty batches a second at most.
const PACE: Duration = Duration::from_millis(50);

/// Where it dies in [`whatever_dies_while_the_log_is_away_every_spooled_event_comes_into_it_in_order`]: between the disk
/// and the answer, and between the log and the disk.
pub const CRASH_POINTS: [&str; 2] = ["gateway_spool_synced", "gateway_spool_drained"];

/// What senders sent and were promised.
#[derive(Default)]
struct Day {
    over: AtomicBool,
    /// Of each id its number among those of its sender, who has one key.
    sent: Mutex<HashMap<String, u64>>,
    accepted: Mutex<BTreeSet<String>>,
    spooled: Mutex<BTreeSet<String>>,
}

impl Day {
    fn spooled(&self) -> usize {
        self.spooled.lock().unwrap().len()
    }

    fn accepted(&self) -> usize {
        self.accepted.lock().unwrap().len()
    }

    /// True for an event that need not be sent again.
    fn note(&self, result: &Value) -> bool {
        let id = result["id"].as_str().unwrap().to_owned();
        match result["status"].as_str().unwrap() {
            "accepted" | "duplicate" => drop(self.accepted.lock().unwrap().insert(id)),
            "spooled" => drop(self.spooled.lock().unwrap().insert(id)),
            _ => return false,
        }
        true
    }
}

/// Batches of one key, each sent until all of it is in good hands, then the next.
async fn send(url: String, token: String, user: Uuid, day: Arc<Day>) {
    let client = reqwest::Client::builder().timeout(Duration::from_secs(30)).build().unwrap();
    let (mut pace, mut number) = (tokio::time::interval(PACE), 0);
    while !day.over.load(Ordering::SeqCst) {
        let events: Vec<Value> = (0..BATCH_EVENTS).map(|_| erased(Uuid::now_v7(), user, "it")).collect();
        for event in &events {
            day.sent.lock().unwrap().insert(event["id"].as_str().unwrap().to_owned(), number);
            number += 1;
        }
        let body = json!(events).to_string();
        loop {
            pace.tick().await;
            let sent = client.post(&url).bearer_auth(&token).header("content-type", BATCH).body(body.clone());
            let Ok(answer) = sent.send().await else { continue };
            let Ok(answer) = answer.json::<Value>().await else { continue };
            let results = answer["results"].as_array().cloned().unwrap_or_default();
            if results.iter().filter(|result| day.note(result)).count() as u64 == BATCH_EVENTS {
                break;
            }
        }
    }
}

/// What was written last when a process died in the middle of a write.
fn tear(spool: &Path) {
    let files = std::fs::read_dir(spool).unwrap().map(|entry| entry.unwrap().path());
    let newest: PathBuf = files.filter(|path| path.extension().is_some_and(|kind| kind == "spool")).max().unwrap();
    std::fs::OpenOptions::new().append(true).open(newest).unwrap().write_all(b"\x40\0\0\0half an event").unwrap();
}

async fn waiting(role: &Role) -> i64 {
    metric(role, "millrace_gateway_spool_events").await
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_dies_while_the_log_is_away_every_spooled_event_comes_into_it_in_order() {
    let platform = Platform::start().await;
    let spool = directory().join("spool");
    let settings = [DEADLINE, (DIRECTORY, spool.to_str().unwrap())];
    let mut door = Door::open(&platform, &settings).await;
    let (day, url) = (Arc::new(Day::default()), format!("{}/v1/events", door.url));
    let start_sender = |n| tokio::spawn(send(url.clone(), door.token.clone(), Uuid::from_u128(n), day.clone()));
    let senders: Vec<_> = (0..SENDERS).map(start_sender).collect();
    let more = async |more: usize| {
        let before = day.spooled();
        eventually("more is spooled", async || day.spooled() >= before + more).await;
    };
    eventually("events flow", async || day.accepted() > 200).await;

    let frozen = Frozen::new(platform.stack.pid(Server::Kafka).unwrap());
    more(1000).await;
    assert!(metric(&door.role, "millrace_gateway_spool_oldest_timestamp_seconds").await > 1_700_000_000);
    let mut second = platform.command();
    let second = Finished::of(second.arg("gateway").env("MILLRACE_GATEWAY__LISTEN", "127.0.0.1:0").envs(settings));
    assert!(second.code() == 1 && second.err.contains("another process uses it"), "{}", second.err);

    door.role.kill();
    tear(&spool);
    let [synced, drained] = CRASH_POINTS;
    let dying = |point| [settings[0], settings[1], ("MILLRACE_CRASH_AT", point)];
    door.role = start(&platform, &door.url, &dying(synced)).await;
    assert!(door.role.log().contains("no whole event: cut off"), "{}", door.role.log());
    assert_crashed_at(synced, &mut door.role).await;
    door.role = start(&platform, &door.url, &dying(drained)).await;
    more(1000).await;

    full(&platform).await;
    drop(frozen);
    let (back, spooled) = (Instant::now(), day.spooled());
    assert_crashed_at(drained, &mut door.role).await;
    door.role = start(&platform, &door.url, &settings).await;
    assert!(door.role.log().contains("wait in"), "{}", door.role.log());
    let before = day.accepted();
    eventually("events are accepted again", async || day.accepted() > before + 200).await;
    println!("{spooled} were spooled, and accepted again after {:?}", back.elapsed());
    day.over.store(true, Ordering::SeqCst);
    for sender in senders {
        sender.await.unwrap();
    }
    eventually("nothing waits any more", async || waiting(&door.role).await == 0).await;
    assert_eq!(metric(&door.role, "millrace_gateway_spool_bytes").await, 0);
    assert_eq!(metric(&door.role, "millrace_gateway_spool_oldest_timestamp_seconds").await, 0);
    assert!(metric(&door.role, "millrace_gateway_spool_drained_total").await > 1000);
    assert_in_the_log(&platform, &day);
    assert_eq!(door.role.stop(), 0);
    refusing(&platform).await;
    platform.stop().await;
}

/// What the log refuses while it is there is its sender's, and nobody else's events wait for it; what is in the spool
/// already is named, waited for, and passed by nothing.
async fn refusing(platform: &Platform) {
    let (spool, kafka) = (directory().join("spool"), &platform.addresses().kafka);
    // Longer than a busy broker takes to say no: in the spool what it refuses would stay.
    let deadline = (DEADLINE.0, "20000");
    let door = Door::open(platform, &[deadline, (DIRECTORY, spool.to_str().unwrap())]).await;
    let limit = |bytes: &str| assert_eq!(judge("spoil_topic.py", &[kafka, TOPIC, bytes]), true);
    let (mate, user) = (Uuid::now_v7(), Uuid::now_v7());
    let large = |of| erased(Uuid::now_v7(), of, &(0..500).map(|_| Uuid::new_v4().to_string()).collect::<String>());
    let order = example(&door, "order.placed").await;
    limit("4000");
    eventually("large records are refused", async || answered(door.post(ONE, large(mate).to_string())).await.0 == 503)
        .await;
    let small = erased(Uuid::now_v7(), mate, "it");
    let (_, answer) = answered(door.post(BATCH, json!([large(mate), small, order()]).to_string())).await;
    // One key, one partition: the broker refuses both if they came to it as one batch.
    let of_small = answer["results"][1]["status"].as_str().unwrap();
    assert!(matches!(of_small, "retry" | "accepted"), "{answer}");
    assert_eq!(statuses(&answer), ["retry", of_small, "accepted"], "{answer}");
    assert!(answer["results"][0]["message"].as_str().unwrap().contains("larger than its topic takes"), "{answer}");
    let (_, alone) = answered(door.post(ONE, small.to_string())).await;
    let expected = if of_small == "retry" { "accepted" } else { "duplicate" };
    assert_eq!(alone["status"], expected, "{alone}");
    assert_eq!(waiting(&door.role).await, 0);

    let frozen = Frozen::new(platform.stack.pid(Server::Kafka).unwrap());
    assert_eq!(answered(door.post(ONE, order().to_string())).await.1["status"], "spooled");
    let (before, refused, behind) =
        (erased(Uuid::now_v7(), user, "it"), large(user), erased(Uuid::now_v7(), user, "it"));
    let (_, answer) = answered(door.post(BATCH, json!([before, refused, behind, order()]).to_string())).await;
    assert_eq!(statuses(&answer), ["spooled"; 4], "{answer}");
    drop(frozen);
    let said = format!("not in the log yet: event {} of {TOPIC}", refused["id"].as_str().unwrap());
    eventually("the refused event is named", async || {
        door.role.log().contains(&said) && waiting(&door.role).await == 3
    })
    .await;
    // What went before the refused one is sent again with it, unless both came to the broker as one batch.
    let of_user = || {
        let of_user = log(kafka).into_iter().filter(|(key, _)| *key == user.to_string());
        let mut ids: Vec<_> = of_user.map(|(_, id)| json!(id)).collect();
        ids.dedup_by(|next, last| next == last && *last == before["id"]);
        ids
    };
    assert_eq!(of_user(), [before["id"].clone()], "what was in front of it alone");
    limit("1048576");
    eventually("nothing waits any more", async || waiting(&door.role).await == 0).await;
    let in_their_order = [&before, &refused, &behind].map(|event| event["id"].clone());
    assert_eq!(of_user(), in_their_order);

    let view = example(&door, "page.viewed").await;
    assert_eq!(judge("spoil_topic.py", &[kafka, "shop.visit.v1"]), true);
    let (_, answer) = answered(door.post(BATCH, json!([view(), order()]).to_string())).await;
    assert_eq!(statuses(&answer), ["retry", "accepted"], "of a topic that is not there: {answer}");
    assert_eq!(waiting(&door.role).await, 0);
    assert_eq!(door.role.stop(), 0);
}

/// Makes the contract's example, each time under an id of its own.
async fn example(door: &Door, event_type: &'static str) -> impl Fn() -> Value + use<> {
    let url = format!("{}/v1/contracts/{event_type}", door.url);
    let (_, contract) = answered(reqwest::Client::new().get(url).bearer_auth(&door.token)).await;
    move || {
        let (id, data) = (Uuid::now_v7(), &contract["example"]);
        json!({ "specversion": "1.0", "id": id, "source": "/it", "type": event_type, "data": data })
    }
}

fn statuses(answer: &Value) -> Vec<&str> {
    answer["results"].as_array().unwrap().iter().map(|result| result["status"].as_str().unwrap()).collect()
}

/// A spool that is full, or whose disk is.
async fn full(platform: &Platform) {
    let (soon, spool, disk) = ((DEADLINE.0, "500"), directory().join("spool"), directory());
    let bound = ("MILLRACE_GATEWAY__SPOOL__MAX_BYTES", "1048576");
    let door = Door::open(platform, &[soon, bound, (DIRECTORY, spool.to_str().unwrap())]).await;
    takes_what_fits(door, "the spool is full").await;
    let on_disk = disk.join("spool");
    let settings = [soon, (DIRECTORY, on_disk.to_str().unwrap())];
    let door = Door::open_with_a_disk((&disk, "1m"), platform, &settings).await;
    takes_what_fits(door, "the spool could not be written: No space left on device").await;
}

/// The rest hears 503, and nothing of it is lost by its sender.
async fn takes_what_fits(door: Door, why: &str) {
    let large = "x".repeat(100 << 10);
    let (mut spooled, mut late) = (0, 0);
    let answer = loop {
        let event = erased(Uuid::now_v7(), Uuid::now_v7(), &large);
        let answer = door.post(ONE, event.to_string()).send().await.unwrap();
        let (status, again) = (answer.status(), answer.headers().get("retry-after").cloned());
        let answer = answer.json::<Value>().await.unwrap();
        if status == 202 {
            assert_eq!(answer["status"], "spooled");
            spooled += 1;
            continue;
        }
        assert_eq!((status.as_u16(), again.unwrap().to_str().unwrap()), (503, "5"));
        // A slow disk may have it all the same.
        if !answer["message"].as_str().unwrap().contains("did not answer within") {
            break answer;
        }
        late += 1;
    };
    assert!(answer["message"].as_str().unwrap().contains(why), "{answer}");
    assert_eq!(waiting(&door.role).await, 10);
    assert!((10 - late..=10).contains(&spooled), "{spooled} were spooled, {late} were late");
    let (status, answer) = answered(door.post(ONE, new_event().to_string())).await;
    assert_eq!((status, &answer["status"]), (202, &json!("spooled")), "there is room for a small one: {answer}");
    assert_eq!(door.role.stop(), 0, "what it has is on disk");
}

fn assert_in_the_log(platform: &Platform, day: &Day) {
    let found = log(&platform.addresses().kafka);
    let ids: BTreeSet<&String> = found.iter().map(|(_, id)| id).collect();
    let (accepted, spooled) = (day.accepted.lock().unwrap(), day.spooled.lock().unwrap());
    println!("{} accepted, {} spooled, {} records of {} ids", accepted.len(), spooled.len(), found.len(), ids.len());
    let lost: Vec<_> = accepted.iter().chain(spooled.iter()).filter(|id| !ids.contains(id)).collect();
    assert!(lost.is_empty(), "promised and not in the log: {lost:?}");
    let (sent, mut seen, mut last) = (day.sent.lock().unwrap(), BTreeSet::new(), BTreeMap::new());
    for (key, id) in &found {
        let Some(number) = sent.get(id).filter(|_| seen.insert(id)) else { continue };
        let before = last.insert(key, number);
        assert!(before.is_none_or(|before| before < number), "{key}: {number} behind {before:?}");
    }
}
