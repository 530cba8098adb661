//! Whatever is put into a topic: it is applied, or it is a dead letter that explains itself. The flow goes on.

use crate::clients::kcat;
use crate::crash_points::assert_died_at;
use crate::held_back::HeldBack;
use crate::platform::{Finished, Platform, Role, eventually};
use serde_json::Value;
use sqlx::PgPool;
use std::os::unix::ffi::OsStrExt;
use std::process::Stdio;

const TOPIC: &str = "shop.order.v1";
/// The example's order.
const KEY: &str = "019ab523-41c9-7e6f-b2d4-8a7c05e19f3b";

/// A record as kcat puts it into the log: somebody else's producer.
struct Sent {
    key: Option<String>,
    headers: Vec<(&'static str, String)>,
    value: Option<Vec<u8>>,
    /// One more header, whose name is not UTF-8.
    odd_header: bool,
}

impl Sent {
    /// A good `payment.failed` in everything but what a test changes.
    fn good(value: &[u8]) -> Self {
        let id = uuid::Uuid::now_v7().to_string();
        let header = |name, value: &str| (name, value.to_owned());
        let headers = vec![
            header("ce_specversion", "1.0"),
            header("ce_id", &id),
            header("ce_source", "/judge"),
            header("ce_type", "payment.failed"),
            header("ce_time", "2026-03-01T12:00:00Z"),
        ];
        Self { key: Some(KEY.to_owned()), headers, value: Some(value.to_vec()), odd_header: false }
    }

    fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.retain(|(known, _)| *known != name);
        self.headers.push((name, value.to_owned()));
        self
    }

    fn into_topic(self, platform: &Platform) {
        let file = platform.data.join(format!("record-{}", uuid::Uuid::new_v4()));
        std::fs::write(&file, self.value.as_deref().unwrap_or_default()).unwrap();
        let mut kcat = kcat(&platform.addresses().kafka);
        kcat.args(["-P", "-t", TOPIC, "-X", "message.max.bytes=8000000"]);
        for (name, value) in &self.headers {
            kcat.args(["-H", &format!("{name}={value}")]);
        }
        if self.odd_header {
            kcat.arg("-H").arg(std::ffi::OsStr::from_bytes(b"od\xff\xfed=1"));
        }
        match (&self.key, &self.value) {
            // Only a line that ends after its key becomes a null value.
            (Some(key), None) => {
                std::fs::write(&file, format!("{key}|\n")).unwrap();
                kcat.args(["-Z", "-K", "|", "-l"]);
            }
            (Some(key), Some(_)) => drop(kcat.args(["-k", key])),
            (None, _) => {}
        }
        assert!(kcat.arg(&file).stdin(Stdio::null()).status().unwrap().success());
    }
}

/// The bytes of a real record: what its publisher would have put into the log.
async fn real_value(platform: &Platform) -> Vec<u8> {
    let text: String =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/schemas/avro/payment.failed/1.avsc")).unwrap();
    let example = include_str!("../../schemas/avro/payment.failed/example.json");
    let id: i64 = schema_id(platform).await;
    let schema = millrace_schemas::WriterSchema::parse(u32::try_from(id).unwrap(), &text).unwrap();
    let value = millrace_schemas::value_from_json(schema.schema, &serde_json::from_str(example).unwrap()).unwrap();
    let mut bytes = millrace_schemas::wire::header(schema.id).to_vec();
    schema.encode_value(&value, &mut bytes).unwrap();
    bytes
}

async fn schema_id(platform: &Platform) -> i64 {
    let url = format!("{}/subjects/{TOPIC}-shop.order.PaymentFailed/versions/latest", platform.addresses().registry);
    let answer: Value = reqwest::get(url).await.unwrap().json().await.unwrap();
    answer["id"].as_i64().unwrap()
}

async fn letters(postgres: &PgPool, pipeline: &str) -> Vec<(String, String)> {
    let sql = "select reason, error from millrace.dead_letter where pipeline = $1 order by id";
    sqlx::query_as(sql).bind(pipeline).fetch_all(postgres).await.unwrap()
}

async fn rows(platform: &Platform, table: &str) -> i64 {
    platform.clickhouse(&format!("select count() as n from events.{table}")).await[0]["n"].as_i64().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_bad_record_is_set_aside_explained_and_the_flow_goes_on() {
    let platform = Platform::start().await;
    let process = platform.role(&["process", "clickhouse"]);
    let postgres = platform.postgres().await;
    let good = real_value(&platform).await;
    let unknown_id = [&900_001_u32.to_be_bytes()[..], &good[5..]].concat();
    let faults: Vec<(&str, Sent)> = vec![
        ("bad_header", Sent { key: Some("k".into()), headers: vec![], ..Sent::good(b"garbage") }),
        ("bad_framing", Sent::good(b"{\"json\": \"is not Avro\"}")),
        ("bad_framing", Sent::good(&[0, 0])),
        ("unknown_schema", Sent::good(&[&[0][..], &unknown_id].concat())),
        ("undecodable", Sent::good(&good[..good.len() - 3])),
        ("undecodable", Sent::good(&[&good[..], b"more"].concat())),
        ("no_key", Sent { key: None, ..Sent::good(&good) }),
        ("no_value", Sent { value: None, ..Sent::good(&good) }),
        ("too_large", Sent::good(&vec![0; 5 << 20])),
        ("unknown_type", Sent::good(&good).header("ce_type", "payment.imagined")),
        ("bad_header", Sent::good(&good).header("ce_id", "seven")),
        ("bad_header", Sent::good(&good).header("ce_time", "yesterday")),
        ("bad_framing", Sent { key: Some(random_text(4_096)), ..Sent::good(b"a key that no index holds") }),
    ];
    let mut expected: Vec<&str> = faults.iter().map(|(reason, _)| *reason).collect();
    for (at, (reason, record)) in faults.into_iter().enumerate() {
        record.into_topic(&platform);
        eventually(reason, async || letters(&postgres, "clickhouse").await.len() == at + 1).await;
        Sent::good(&good).into_topic(&platform); // the flow goes on behind each
    }
    let count = i64::try_from(expected.len()).unwrap();
    eventually("the good ones are in ClickHouse", async || rows(&platform, "payment_failed").await == count).await;
    let found = letters(&postgres, "clickhouse").await;
    let mut reasons: Vec<&str> = found.iter().map(|(reason, _)| reason.as_str()).collect();
    reasons.sort_unstable();
    expected.sort_unstable();
    assert_eq!(reasons, expected, "{found:#?}");
    show_explains_each(&platform, &found);
    assert_eq!(process.stop(), 0);
    platform.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_was_set_aside_counts_once_when_it_comes_again_corrected() {
    let platform = Platform::start().await;
    let postgres = platform.postgres().await;
    let good = real_value(&platform).await;
    let bad = &good[..good.len() - 3];
    let start = || platform.member("process", &["process", "clickhouse", "order_status"], &[]);
    let mut process = start();
    let [first, second] = [(); 2].map(|()| uuid::Uuid::now_v7().to_string());
    for (at, event) in [&first, &second].into_iter().enumerate() {
        Sent::good(bad).header("ce_id", event).into_topic(&platform);
        for pipeline in ["clickhouse", "order_status"] {
            eventually("it is set aside", async || letters(&postgres, pipeline).await.len() == at + 1).await;
        }
        if *event == second {
            assert_eq!(process.stop(), 0); // whoever comes next knows of the letter, too
            process = start();
        }
        Sent::good(&good).header("ce_id", event).into_topic(&platform);
        let count = i64::try_from(at).unwrap() + 1;
        eventually("it is applied", async || rows(&platform, "payment_failed").await == count).await;
    }
    let superseded = "select count(*) from millrace.dead_letter where state = 'superseded'";
    eventually("no letter is left to be replayed", async || {
        sqlx::query_scalar::<_, i64>(superseded).fetch_one(&postgres).await.unwrap() == 4
    })
    .await;
    let first_letter: i64 =
        sqlx::query_scalar("select min(id) from millrace.dead_letter").fetch_one(&postgres).await.unwrap();
    let replayed = platform.run(&["dead-letters", "replay", &first_letter.to_string()]);
    assert_eq!(replayed.code(), 2, "{}", replayed.out);
    assert!(replayed.err.contains(&format!("dead letter {first_letter} is not open: Superseded")), "{}", replayed.err);
    Sent::good(&good).header("ce_id", &first).into_topic(&platform);
    Sent::good(&good).into_topic(&platform);
    eventually("a third time it is a duplicate", async || rows(&platform, "payment_failed").await == 3).await;
    nothing_differs(platform, process).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_bad_records_holds_its_partition_alone_until_somebody_leads_it_past() {
    let platform = Platform::start().await;
    let good = real_value(&platform).await;
    Sent::good(&good).into_topic(&platform);
    flood(&platform, 2_000);
    Sent::good(&good).into_topic(&platform);
    let member = |more: &[(&str, &str)]| platform.member("clickhouse", &["process", "clickhouse"], more);
    let postgres = platform.postgres().await;
    for start in 1..=2 {
        let mut process = member(&[]);
        eventually("status says why it waits", async || {
            let by = held_up_by(&platform).unwrap_or_default();
            by.contains("501 of the last 502 records are bad: this partition goes no further")
                && by.contains("`process.clickhouse.dead_letters_per_1000` = 1000")
        })
        .await;
        Sent { key: Some("elsewhere".into()), ..Sent::good(&good) }.into_topic(&platform);
        eventually("what came before them is there, and another partition goes on", async || {
            rows(&platform, "payment_failed").await == 1 + start
        })
        .await;
        assert_eq!(letters(&postgres, "clickhouse").await.len(), 500, "each start comes to the same place");
        assert!(process.is_running(), "{}", process.log());
        assert_eq!(process.stop(), 0);
    }
    let process = member(&[("MILLRACE_PROCESS__CLICKHOUSE__DEAD_LETTERS_PER_1000", "1000")]);
    eventually("what lies behind them is there", async || rows(&platform, "payment_failed").await == 4).await;
    eventually("and they are set aside", async || letters(&postgres, "clickhouse").await.len() == 2_000).await;
    eventually("nothing is held up", async || held_up_by(&platform).is_some_and(|by| by.is_empty())).await;
    assert_eq!(process.stop(), 0);
    platform.stop().await;
}

/// What `status` says that the pipeline `clickhouse` waits for; none where a server was too slow to tell.
fn held_up_by(platform: &Platform) -> Option<String> {
    let status = platform.run(&["status", "--json"]);
    if status.code() != 0 {
        return None;
    }
    let status = status.json();
    let pipelines = status["pipelines"].as_array().unwrap();
    let clickhouse = pipelines.iter().find(|pipeline| pipeline["name"] == "clickhouse");
    Some(clickhouse.and_then(|pipeline| pipeline["held_up"]["by"].as_str()).unwrap_or_default().to_owned())
}

/// Records that nobody can read, in the partition of what [`Sent::good`] is about.
fn flood(platform: &Platform, count: usize) {
    let file = platform.data.join("flood");
    std::fs::write(&file, "garbage\n".repeat(count)).unwrap();
    let mut kcat = kcat(&platform.addresses().kafka);
    kcat.args(["-P", "-t", TOPIC, "-k", KEY, "-l"]).arg(&file);
    assert!(kcat.stdin(Stdio::null()).status().unwrap().success());
}

/// Text that does not compress.
fn random_text(length: usize) -> String {
    std::iter::repeat_with(|| uuid::Uuid::new_v4().simple().to_string()).take(length / 32).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_client_would_write_is_read_all_the_same() {
    let platform = Platform::start().await;
    let mut process = platform.role(&["process", "clickhouse"]);
    let good = real_value(&platform).await;
    let mut odd = Sent::good(&good);
    odd.odd_header = true;
    odd.into_topic(&platform);
    eventually("a header name that is not UTF-8 stops nothing", async || rows(&platform, "payment_failed").await == 1)
        .await;
    // A time long before any clock; the record itself is good, so it is applied.
    let addresses = platform.addresses();
    let record = Sent::good(&good);
    let headers: Vec<String> = record.headers.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let value: String = good.iter().map(|byte| format!("{byte:02x}")).collect();
    let key = record.key.unwrap();
    let mut arguments = vec![addresses.kafka.as_str(), TOPIC, &key, &value, "-1000000000000000"];
    arguments.extend(headers.iter().map(String::as_str));
    crate::clients::judge("odd_time.py", &arguments);
    eventually("nor does a time before all clocks", async || rows(&platform, "payment_failed").await == 2).await;
    let mut odd = Sent::good(b"garbage");
    odd.headers.extend([("b", "1".to_owned()), ("b", String::new()), ("a", "é=2".to_owned())]);
    let mut sent: Vec<_> = odd.headers.iter().map(|(name, value)| serde_json::json!([name, value])).collect();
    sent.push(serde_json::json!(["od\u{fffd}\u{fffd}d", "1"]));
    odd.odd_header = true;
    odd.into_topic(&platform);
    let postgres = platform.postgres().await;
    eventually("it is set aside", async || letters(&postgres, "clickhouse").await.len() == 1).await;
    let listed = platform.run(&["dead-letters", "list", "--json"]).json();
    let shown = platform.run(&["dead-letters", "show", &listed[0]["id"].to_string(), "--json"]).json();
    assert_eq!(shown["headers"], Value::from(sent), "every header is kept, in its order");
    assert!(process.is_running(), "{}", process.log());
    assert_eq!(process.stop(), 0);
    platform.stop().await;
}

fn show_explains_each(platform: &Platform, found: &[(String, String)]) {
    let listed = platform.run(&["dead-letters", "list", "--json"]).json();
    for letter in listed.as_array().unwrap() {
        let id = letter["id"].to_string();
        let shown = platform.run(&["dead-letters", "show", &id]);
        assert_eq!(shown.code(), 0, "{}", shown.err);
        let reason = letter["reason"].as_str().unwrap();
        assert!(
            found.iter().any(|(known, error)| known == reason && shown.out.contains(error.as_str())),
            "{}",
            shown.out
        );
        assert!(shown.out.contains(&format!("{TOPIC}[")), "{}", shown.out);
        let json = platform.run(&["dead-letters", "show", &id, "--json"]).json();
        assert_eq!(json["value"].is_null(), reason == "no_value", "every byte is kept");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_after_the_fix_applies_once() {
    let platform = Platform::start().await;
    let mut process = platform.role(&["process", "clickhouse", "order_status"]);
    let postgres = platform.postgres().await;
    let good = real_value(&platform).await;
    let (next, early) = written_too_early(&platform, &good).await;
    let event = uuid::Uuid::now_v7().to_string();
    for _ in 0..2 {
        Sent::good(&early).header("ce_id", &event).into_topic(&platform);
    }
    for pipeline in ["clickhouse", "order_status"] {
        eventually("both records are set aside", async || letters(&postgres, pipeline).await.len() == 2).await;
    }
    assert_eq!(platform.run(&["dead-letters", "replay"]).code(), 2, "nothing is fixed yet");
    register_with_a_new_field(&platform, next).await;
    assert_is_applied_by_a_replay(&platform, &postgres).await;
    assert_eq!(platform.run(&["dead-letters", "replay", "--json"]).out, "", "none is open any more");
    // What was replayed stays applied once when it comes again, also for a processor that starts again.
    Sent::good(&good).header("ce_id", &event).into_topic(&platform);
    Sent::good(&good).into_topic(&platform);
    eventually("the flow goes on", async || rows(&platform, "payment_failed").await == 2).await;
    process.kill();
    let process: Role = platform.role(&["process", "clickhouse", "order_status"]);
    Sent::good(&good).header("ce_id", &event).into_topic(&platform);
    Sent::good(&good).into_topic(&platform);
    eventually("the flow goes on", async || rows(&platform, "payment_failed").await == 3).await;
    assert_eq!(process.stop(), 0);
    platform.stop().await;
}

async fn assert_is_applied_by_a_replay(platform: &Platform, postgres: &PgPool) {
    let replayed = platform.run(&["dead-letters", "replay"]);
    assert_eq!(replayed.code(), 0, "{}{}", replayed.out, replayed.err);
    assert_eq!(replayed.out.matches(": applied").count(), 2, "{}", replayed.out);
    assert_eq!(replayed.out.matches("its event has taken effect by another record").count(), 2, "{}", replayed.out);
    assert_eq!(rows(platform, "payment_failed").await, 1);
    let orders: i64 = sqlx::query_scalar("select count(*) from order_status").fetch_one(postgres).await.unwrap();
    assert_eq!(orders, 1);
}

/// Where a replay dies, and what is there by then: rows of its event, and its letter's state.
const REPLAY_CRASHES: [(&str, i64, &str); 3] =
    [("clickhouse_planned", 0, "open"), ("clickhouse_inserted", 1, "open"), ("clickhouse_settled", 1, "replayed")];

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_that_dies_anywhere_applies_once_when_it_is_repeated() {
    let platform = Platform::start().await;
    let process = platform.role(&["process", "clickhouse"]);
    let events = REPLAY_CRASHES.map(|_| uuid::Uuid::now_v7());
    let (_, letters) = readable_by_now(&platform, &events).await;
    for ((letter, event), (point, inserted, state)) in letters.iter().zip(events).zip(REPLAY_CRASHES) {
        replay_dies_at(&platform, letter, point);
        assert_eq!(stand_of(&platform, letter, event).await, (inserted, inserted, state.to_owned()), "{point}");
        let repeated = platform.run(&["dead-letters", "replay", letter]);
        match state {
            "open" => assert!(repeated.out.contains(": applied"), "{point}: {}{}", repeated.out, repeated.err),
            _ => assert!(repeated.err.contains("is not open: Replayed"), "{point}: {}{}", repeated.out, repeated.err),
        }
        // It looks for its row before it inserts: not even the table beneath holds it twice, which views would hide.
        assert_eq!(stand_of(&platform, letter, event).await, (1, 1, "replayed".to_owned()), "{point}");
    }
    assert_eq!(platform.run(&["dead-letters", "replay", "--json"]).out, "", "none is open any more");
    nothing_differs(platform, process).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_again_after_its_replay_died_counts_once() {
    let platform = Platform::start().await;
    let process = platform.role(&["process", "clickhouse"]);
    let [again, twice] = [(); 2].map(|()| uuid::Uuid::now_v7());
    let (good, letters) = readable_by_now(&platform, &[again, twice, twice]).await;
    replay_dies_at(&platform, &letters[0], "clickhouse_inserted");
    replay_dies_at(&platform, &letters[1], "clickhouse_inserted");
    send_again(&platform, &good, again);
    let second = platform.run(&["dead-letters", "replay", &letters[2]]);
    assert!(second.out.contains("its event has taken effect by another record"), "{}{}", second.out, second.err);
    for (letter, event) in [(&letters[0], again), (&letters[1], twice)] {
        eventually("its row was found and its letter settled", async || {
            stand_of(&platform, letter, event).await == (1, 1, "replayed".to_owned())
        })
        .await;
    }
    nothing_differs(platform, process).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_takes_in_what_can_be_read_by_now_once_and_what_was_given_up_out() {
    let platform = Platform::start().await;
    let process = platform.role(&["process", "clickhouse"]);
    let [readable, given_up] = [(); 2].map(|()| uuid::Uuid::now_v7());
    let (good, letters) = readable_by_now(&platform, &[readable, given_up]).await;
    replay_dies_at(&platform, &letters[1], "clickhouse_inserted");
    assert_eq!(platform.run(&["dead-letters", "discard", &letters[1]]).code(), 0);
    let verified = platform.run(&["verify", "clickhouse"]);
    assert_eq!(verified.code(), 2, "{}{}", verified.out, verified.err);
    assert!(verified.out.contains(&given_up.to_string()), "{}", verified.out);
    let rebuilt = platform.run(&["rebuild", "clickhouse", "payment_failed", "--fewer"]);
    assert_eq!(rebuilt.code(), 0, "{}{}", rebuilt.out, rebuilt.err);
    assert_eq!(stand_of(&platform, &letters[0], readable).await, (1, 1, "open".to_owned()));
    send_again(&platform, &good, readable);
    eventually("its row was found and its letter settled", async || {
        stand_of(&platform, &letters[0], readable).await == (1, 1, "replayed".to_owned())
    })
    .await;
    nothing_differs(platform, process).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_given_up_while_a_rebuild_is_under_way_is_not_in_the_new_table() {
    let platform = Platform::start().await;
    let process = platform.role(&["process", "clickhouse"]);
    let [again, discarded] = [(); 2].map(|()| uuid::Uuid::now_v7());
    let (good, letters) = readable_by_now(&platform, &[again, discarded]).await;
    let verified = platform.run(&["verify", "clickhouse"]);
    let named = |event: uuid::Uuid| verified.out.contains(&format!("event {event} is missing from"));
    assert!(verified.code() == 2 && named(again) && named(discarded), "{}{}", verified.out, verified.err);
    let held = HeldBack::before(&platform.addresses().clickhouse, "insert into").await;
    let through = [("MILLRACE_CLICKHOUSE__URL", &*held.url)];
    let rebuild = platform.member("rebuild", &["rebuild", "clickhouse", "payment_failed"], &through);
    held.arrived().await; // it has taken both in, and copies what came meanwhile
    send_again(&platform, &good, again);
    eventually("it is applied", async || rows(&platform, "payment_failed").await == 1).await;
    assert_eq!(platform.run(&["dead-letters", "discard", &letters[1]]).code(), 0);
    held.let_go().await;
    let (code, out) = rebuild.finish();
    assert_eq!(code, 0, "{out}");
    assert_eq!(rows(&platform, "payment_failed").await, 1);
    nothing_differs(platform, process).await;
}

/// In the end, between the log and the tables.
async fn nothing_differs(platform: Platform, process: Role) {
    assert_eq!(process.stop(), 0);
    let verified = platform.run(&["verify", "clickhouse"]);
    assert_eq!(verified.code(), 0, "{}{}", verified.out, verified.err);
    platform.stop().await;
}

/// A value that anybody can read; and letters of these events, each by itself, whose schema was not known when they came,
/// and is now.
async fn readable_by_now(platform: &Platform, events: &[uuid::Uuid]) -> (Vec<u8>, Vec<String>) {
    let (postgres, good) = (platform.postgres().await, real_value(platform).await);
    let (next, early) = written_too_early(platform, &good).await;
    for (at, event) in events.iter().enumerate() {
        Sent::good(&early).header("ce_id", &event.to_string()).into_topic(platform);
        eventually("it is set aside", async || letters(&postgres, "clickhouse").await.len() == at + 1).await;
    }
    register_with_a_new_field(platform, next).await;
    let ids = "select id::text from millrace.dead_letter order by id";
    (good, sqlx::query_scalar(ids).fetch_all(&postgres).await.unwrap())
}

fn replay_dies_at(platform: &Platform, letter: &str, point: &str) {
    let mut replay = platform.command();
    replay.args(["dead-letters", "replay", letter]).env("MILLRACE_CRASH_AT", point);
    let crashed = Finished::of(&mut replay);
    assert_died_at(point, crashed.status, &crashed.err);
}

/// Its publisher gives it another time by now, hours away: in its table that is the key of another row.
fn send_again(platform: &Platform, good: &[u8], event: uuid::Uuid) {
    Sent::good(good).header("ce_id", &event.to_string()).header("ce_time", "2026-03-01T19:00:00Z").into_topic(platform);
}

/// Rows of the event in its view and in the table beneath, and the state of its letter, which was settled once at most.
async fn stand_of(platform: &Platform, letter: &str, event: uuid::Uuid) -> (i64, i64, String) {
    let rows = async |database: &str| {
        platform.number(&format!("select count() from {database}.payment_failed where event_id = '{event}'")).await
    };
    let shown = platform.run(&["dead-letters", "show", letter, "--json"]).json();
    let state = shown["state"].as_str().unwrap().to_owned();
    // Setting it aside was the first attempt, and the one that settles it is the next that Postgres hears of.
    assert_eq!(shown["attempts"], if state == "open" { 1 } else { 2 }, "{shown}");
    (rows("events").await, rows("events_raw").await, state)
}

/// The id that the registry gives next, and a record written with it: its publisher registered its schema elsewhere, and
/// the registry learns it only later.
async fn written_too_early(platform: &Platform, good: &[u8]) -> (i64, Vec<u8>) {
    let next = newest_id(platform).await + 1;
    (next, [&[0][..], &u32::try_from(next).unwrap().to_be_bytes(), &good[5..], &[0]].concat())
}

async fn newest_id(platform: &Platform) -> i64 {
    let subjects: Vec<String> =
        reqwest::get(format!("{}/subjects", platform.addresses().registry)).await.unwrap().json().await.unwrap();
    let mut newest = 0;
    for subject in subjects {
        let url = format!("{}/subjects/{subject}/versions/latest", platform.addresses().registry);
        let answer: Value = reqwest::get(url).await.unwrap().json().await.unwrap();
        newest = newest.max(answer["id"].as_i64().unwrap());
    }
    newest
}

/// A version with one more optional field, whose datum ends in one more byte.
async fn register_with_a_new_field(platform: &Platform, expected_id: i64) {
    let text = include_str!("../../schemas/avro/payment.failed/1.avsc");
    let mut schema: Value = serde_json::from_str(text).unwrap();
    let note = serde_json::json!({ "name": "note", "type": ["null", "string"], "default": null, "doc": "New." });
    schema["fields"].as_array_mut().unwrap().push(note);
    let url = format!("{}/subjects/{TOPIC}-shop.order.PaymentFailed/versions", platform.addresses().registry);
    let body = serde_json::json!({ "schema": schema.to_string() });
    let answer: Value = reqwest::Client::new().post(url).json(&body).send().await.unwrap().json().await.unwrap();
    assert_eq!(answer["id"], expected_id);
}
