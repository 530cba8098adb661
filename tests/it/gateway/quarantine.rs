//! Invalid events that are kept: seen, published after the contract was repaired, never in anybody's way.

use super::{BATCH, Door, NO_TOKENS, ONE, SLACK, answered, headers, millrace_hash, new_event};
use crate::backpressure::metric;
use crate::clients::{kcat, run};
use crate::commands::{Frozen, temporary};
use crate::platform::{Platform, eventually};
use futures_util::future::join_all;
use millrace_local::Server;
use reqwest::RequestBuilder;
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use uuid::Uuid;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const EMAIL: &str = "anna@example.com";

fn asking(request: RequestBuilder) -> RequestBuilder {
    request.header("millrace-quarantine", "invalid")
}

fn event(event_type: &str, data: &Value) -> Value {
    let (id, time) = (Uuid::now_v7(), "2026-03-01T12:00:00Z");
    json!({ "specversion": "1.0", "id": id, "source": "/it", "type": event_type, "time": time, "data": data })
}

/// With a field that the contract does not have yet.
fn registered() -> Value {
    let data = json!({ "user_id": Uuid::now_v7(), "email": EMAIL, "name": "Anna Smith", "locale": "de-DE",
        "country": "DE", "channel": "PAID", "newsletter": true });
    event("user.registered", &data)
}

/// With a device that the contract does not have yet.
fn started() -> Value {
    let data =
        json!({ "session_id": Uuid::now_v7(), "anonymous_id": Uuid::now_v7(), "device": "WATCH", "country": "DE" });
    event("session.started", &data)
}

/// The shop's contracts, in which both fit.
fn repaired() -> TempDir {
    let project = temporary();
    let schemas = project.path().join("schemas/avro");
    std::fs::create_dir_all(schemas.parent().unwrap()).unwrap();
    run(Command::new("cp").args(["-r", &format!("{ROOT}/schemas/avro")]).arg(&schemas));
    next_version(&schemas.join("user.registered"), |fields| {
        fields.push(json!({ "name": "newsletter", "type": "boolean", "default": false, "doc": "Whether asked for." }));
    });
    next_version(&schemas.join("session.started"), |fields| {
        let device = fields.iter_mut().find(|field| field["name"] == "device").unwrap();
        device["type"]["symbols"].as_array_mut().unwrap().push(json!("WATCH"));
    });
    project
}

fn next_version(contract: &Path, change: impl FnOnce(&mut Vec<Value>)) {
    let first = std::fs::read_to_string(contract.join("1.avsc")).unwrap();
    let mut schema: Value = serde_json::from_str(&first).unwrap();
    change(schema["fields"].as_array_mut().unwrap());
    std::fs::write(contract.join("2.avsc"), schema.to_string()).unwrap();
}

/// Every row as Postgres prints it, bytes as hexadecimal digits.
async fn table(platform: &Platform) -> Vec<String> {
    let rows = sqlx::query_scalar("select kept::text from millrace.quarantine kept order by kept_at");
    rows.fetch_all(&platform.postgres().await).await.unwrap()
}

fn has(rows: &[String], text: &str) -> bool {
    let hex: String = text.bytes().map(|byte| format!("{byte:02x}")).collect();
    rows.iter().any(|row| row.contains(text) || row.contains(&hex))
}

fn in_visits(platform: &Platform, id: &Value) -> bool {
    let brokers = &platform.addresses().kafka;
    let topic = ["-t", "shop.visit.v1", "-o", "beginning", "-e", "-q", "-f", "%h\n"];
    run(kcat(brokers).arg("-C").args(topic)).contains(id.as_str().unwrap())
}

/// The answer, of a store that was in time: on a busy machine an event may have to be sent again to be kept.
async fn kept_in_time(request: impl Fn() -> RequestBuilder) -> (u16, Value) {
    let mut found = None;
    eventually("the store is in time", async || {
        let (status, answer) = answered(request()).await;
        let text = answer.to_string();
        let is_late = text.contains("the store does not answer") || text.contains("there was no time left");
        found = Some((status, answer));
        !is_late
    })
    .await;
    found.unwrap()
}

fn id(verdict: &Value) -> String {
    verdict["quarantine"]["kept"].as_str().unwrap_or_else(|| panic!("{verdict}")).to_owned()
}

fn not_kept(verdict: &Value) -> &str {
    verdict["quarantine"]["not_kept"].as_str().unwrap_or_else(|| panic!("{verdict}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_event_that_was_kept_is_published_under_its_id_and_time_once_the_contract_was_repaired() {
    let (platform, repaired) = (Platform::start().await, repaired());
    let file = platform.data.join("quarantine.key");
    std::fs::write(&file, format!("{}\n", "0b".repeat(32))).unwrap();
    let (file, project) = (file.to_str().unwrap(), repaired.path().to_str().unwrap());
    let key = ("MILLRACE_GATEWAY__QUARANTINE__KEY_FILE", file);
    let sealing = Door::open(&platform, &[("MILLRACE_GATEWAY__QUARANTINE__PERSONAL", "encrypt"), key]).await;
    let rival = format!("[\"{}\"]", millrace_hash("rival-key"));
    let rival = [
        ("MILLRACE_GATEWAY__KEYS__RIVAL__SHA256", rival.as_str()),
        ("MILLRACE_GATEWAY__KEYS__RIVAL__SCOPES", r#"["publish:*"]"#),
    ];
    let dropping = Door::open(&platform, &rival).await;
    let quarantine = |arguments: &[&str]| {
        let mut command = platform.command();
        crate::platform::Finished::of(command.env(key.0, key.1).arg("quarantine").args(arguments))
    };

    let (registered, started) = (registered(), started());
    let (status, answer) = answered(sealing.post(ONE, registered.to_string())).await;
    assert_eq!((status, &answer["quarantine"]), (400, &Value::Null), "nobody asked for it");
    let (status, answer) = kept_in_time(|| asking(sealing.post(ONE, registered.to_string()))).await;
    assert_eq!((status, &answer["status"]), (400, &json!("invalid")), "it is no accepted one: {answer}");
    let first = id(&answer);
    let (_, answer) = kept_in_time(|| asking(sealing.post(BATCH, json!([new_event(), registered]).to_string()))).await;
    assert_eq!(answer["results"][0].get("quarantine"), None);
    assert_eq!(id(&answer["results"][1]), first, "sent again it takes its own place");
    let (_, answer) = kept_in_time(|| asking(dropping.post(ONE, started.to_string()))).await;
    let second = id(&answer);
    let rows = table(&platform).await;
    assert!(rows.len() == 2 && !has(&rows, EMAIL) && !has(&rows, "Anna"), "{rows:?}");

    let status = platform.run(&["status"]);
    assert!(status.out.contains("quarantine: 2 invalid events are kept"), "{}", status.out);
    let listed = quarantine(&["list"]);
    assert!(
        listed.out.contains("/data/newsletter: expected ") && listed.out.contains("/data/device"),
        "{}",
        listed.out
    );
    let shown = quarantine(&["show", &first, "--json"]).json();
    assert_eq!(shown["event"]["data"], registered["data"], "whole, for who has the key: {shown}");
    let closed = platform.run(&["quarantine", "show", &first]);
    assert!(closed.out.contains("set gateway.quarantine.key_file") && !closed.out.contains(EMAIL), "{}", closed.out);

    let vain = quarantine(&["replay"]);
    assert!(vain.code() == 2 && vain.err.contains("2 of 2 are still kept"), "nothing is repaired yet: {}", vain.err);
    let migrated = platform.run(&["migrate", "--project", project]);
    assert_eq!(migrated.code(), 0, "{}", migrated.err);
    let published = quarantine(&["replay", "--project", project]);
    assert_eq!(published.code(), 0, "{}{}", published.out, published.err);
    assert_eq!(published.out.matches("published").count(), 2, "{}", published.out);
    let user: Uuid = registered["id"].as_str().unwrap().parse().unwrap();
    let record = headers(&platform.addresses().kafka, user);
    assert!(record.contains("ce_time=2026-03-01T12:00:00"), "{record}");
    assert!(in_visits(&platform, &started["id"]));
    assert_eq!(table(&platform).await, Vec::<String>::new());
    let gone = quarantine(&["show", &second]);
    assert!(gone.code() == 2 && gone.err.contains("it was published, discarded, or has expired"), "{}", gone.err);

    // Another sender's event under an id that the first one's was published under.
    let (first, mut other) = (self::started(), self::started());
    other["id"] = first["id"].clone();
    id(&kept_in_time(|| asking(dropping.post(ONE, first.to_string()))).await.1);
    let other = id(&kept_in_time(|| asking(as_key(&dropping, "rival-key", &other))).await.1);
    for (attempt, published) in [1, 0].into_iter().enumerate() {
        let replayed = quarantine(&["replay", "--project", project]);
        assert_eq!((replayed.code(), replayed.out.matches("published").count()), (2, published), "{}", replayed.out);
        assert!(replayed.out.contains("/id: expected an id of its own"), "run {attempt}: {}", replayed.out);
    }
    assert_eq!(quarantine(&["discard", &other]).code(), 0);
    assert_eq!((sealing.role.stop(), dropping.role.stop()), (0, 0));
    platform.stop().await;
}

/// Keys of two senders who may publish everything, one who may not, and bounds that are soon reached.
async fn small(platform: &Platform) -> Door {
    let hash = |key: &str| format!("[\"{}\"]", millrace_hash(key));
    let (orders, other) = (hash("only-orders"), hash("other-key"));
    let settings = [
        NO_TOKENS,
        ("MILLRACE_GATEWAY__KEYS__ORDERS__SHA256", orders.as_str()),
        ("MILLRACE_GATEWAY__KEYS__ORDERS__SCOPES", r#"["publish:shop.order.*"]"#),
        ("MILLRACE_GATEWAY__KEYS__OTHER__SHA256", other.as_str()),
        ("MILLRACE_GATEWAY__KEYS__OTHER__SCOPES", r#"["publish:*"]"#),
        ("MILLRACE_GATEWAY__QUARANTINE__KEEP", "always"),
        ("MILLRACE_GATEWAY__QUARANTINE__EVENTS", "8"),
        ("MILLRACE_GATEWAY__DEADLINE_MS", "5000"),
    ];
    Door::open(platform, &settings).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_kept_is_bounded_has_nothing_personal_is_nobodys_but_senders_and_never_holds_an_answer_up() {
    let platform = Platform::start().await;
    let door = small(&platform).await;
    strangers_fill_nothing(&platform, &door).await;
    what_is_personal_is_taken_out(&platform, &door).await;
    bounds_hold(&platform, &door).await;
    a_store_that_is_away_holds_no_answer_up(&platform, &door).await;
    assert_eq!(door.role.stop(), 0);
    platform.stop().await;
}

fn as_key(door: &Door, key: &str, event: &Value) -> RequestBuilder {
    let request = reqwest::Client::new().post(format!("{}/v1/events", door.url)).header("content-type", ONE);
    request.header("x-api-key", key).body(event.to_string())
}

async fn strangers_fill_nothing(platform: &Platform, door: &Door) {
    let mut unknown = registered();
    unknown["type"] = json!("user.registerd");
    assert_eq!(answered(asking(as_key(door, "wrong", &unknown))).await.0, 401);
    let (status, answer) = answered(asking(as_key(door, "only-orders", &registered()))).await;
    assert_eq!((status, answer.get("quarantine")), (403, None), "{answer}");
    let (status, answer) = answered(asking(as_key(door, "only-orders", &unknown))).await;
    assert_eq!((status, not_kept(&answer)), (400, "only events that the sender's key or token may publish are kept"));
    let accepted = new_event();
    // A broker that has just come up may take longer than the deadline.
    eventually("it is in the log", async || {
        let (_, answer) = answered(door.post(ONE, accepted.to_string())).await;
        matches!(answer["status"].as_str(), Some("accepted" | "duplicate"))
    })
    .await;
    let mut conflict = accepted.clone();
    conflict["data"]["requested_by"] = json!("somebody else");
    let (status, answer) = answered(door.post(ONE, conflict.to_string())).await;
    assert_eq!((status, answer.get("quarantine")), (409, None), "it never becomes right: {answer}");
    assert_eq!(table(platform).await, Vec::<String>::new());
}

async fn what_is_personal_is_taken_out(platform: &Platform, door: &Door) {
    let mut wrong = registered();
    (wrong["data"][EMAIL], wrong["data"]["name"]) = (json!("Anna"), json!(["Anna"]));
    let attributes = ["causationid", "correlationid", "source", "subject", "traceparent", "tracestate"];
    for attribute in attributes {
        wrong[attribute] = json!(format!("/users/{EMAIL}"));
    }
    let kept = id(&kept_in_time(|| door.post(ONE, wrong.to_string())).await.1);
    let event_id = Uuid::now_v7().to_string();
    let broken = || {
        let request = door.post("application/json", format!("{{\"email\": \"{EMAIL}\""));
        let request = request.header("ce-specversion", "1.0").header("ce-id", &event_id).header("ce-source", "/it");
        request.header("ce-type", "user.registered")
    };
    let broken = id(&kept_in_time(broken).await.1);
    let rows = table(platform).await;
    assert!(rows.len() == 2 && !has(&rows, EMAIL) && !has(&rows, "Anna"), "{rows:?}");
    let shown = platform.run(&["quarantine", "show", &kept, "--json"]).json();
    let data = ["/data/?", "/data/email", "/data/name", "/data/newsletter"];
    let mut personal: Vec<_> =
        attributes.iter().map(|name| format!("/{name}")).chain(data.map(str::to_owned)).collect();
    personal.sort_unstable();
    assert_eq!(shown["personal"], json!(personal));
    assert_eq!(shown["event"]["data"]["locale"], "de-DE", "{shown}");
    let shown = platform.run(&["quarantine", "show", &broken, "--json"]).json();
    assert_eq!(
        (&shown["event"]["data"], &shown["lost"], &shown["data_bytes"]),
        (&Value::Null, &json!(["/data"]), &json!(28))
    );
    let refused = platform.run(&["quarantine", "replay", &kept]);
    assert!(refused.code() == 2 && refused.out.contains("only its sender can send it again"), "{}", refused.out);
    assert_eq!(platform.run(&["quarantine", "discard", &kept]).code(), 0);
    assert_eq!(platform.run(&["quarantine", "discard", &kept]).code(), 2);
    let expired = sqlx::query("update millrace.quarantine set expires_at = now()");
    assert_eq!(expired.execute(&platform.postgres().await).await.unwrap().rows_affected(), 1);
    assert_eq!(platform.run(&["quarantine", "list"]).out, "none\n", "what has expired is nobody's to see");
}

async fn bounds_hold(platform: &Platform, door: &Door) {
    let token = door.token.clone();
    for (sender, refused) in [(token.as_str(), "half of what may be kept"), ("other-key", "as much is kept as may be")]
    {
        let events: Vec<Value> = (0..12).map(|_| started()).collect();
        let answers = join_all(events.iter().map(|event| kept_in_time(|| as_key(door, sender, event)))).await;
        let (kept, not): (Vec<_>, Vec<_>) =
            events.iter().zip(&answers).partition(|(_, (_, answer))| answer["quarantine"].get("kept").is_some());
        assert_eq!(kept.len(), 4, "{answers:?}");
        assert!(not.iter().all(|(_, (status, answer))| *status == 400 && not_kept(answer).starts_with(refused)));
        let kept: Vec<Value> = kept.into_iter().map(|(event, _)| event.clone()).collect();
        at_the_bound_only_what_is_there_has_a_place(door, sender, &kept).await;
    }
    assert_eq!(table(platform).await.len(), 8);
    let mut large = started();
    large["data"]["utm_source"] = json!("x".repeat(70_000));
    assert!(not_kept(&kept_in_time(|| door.post(ONE, large.to_string())).await.1).starts_with("it is larger"));
    assert_eq!(metric(&door.role, "millrace_quarantine_events ").await, 8);
    assert_eq!(metric(&door.role, "millrace_quarantined_events_total{result=\"kept\"}").await, 20);
    assert_eq!(metric(&door.role, "millrace_quarantined_events_total{result=\"full\"}").await, 12);
}

/// Those that are kept are sent again behind as many new ones, and one of them twice.
async fn at_the_bound_only_what_is_there_has_a_place(door: &Door, key: &str, kept: &[Value]) {
    let new: Vec<Value> = kept.iter().map(|_| started()).collect();
    let batch = json!([&new[..], kept, &kept[..1]].concat()).to_string();
    let request = || {
        let request = reqwest::Client::new().post(format!("{}/v1/events", door.url)).header("content-type", BATCH);
        request.header("x-api-key", key).body(batch.clone())
    };
    let (_, answer) = kept_in_time(request).await;
    let fates = answer["results"].as_array().unwrap().iter().map(|verdict| verdict["quarantine"].get("kept").is_some());
    let expected = [vec![false; new.len()], vec![true; kept.len() + 1]].concat();
    assert_eq!(fates.collect::<Vec<_>>(), expected, "{answer}");
}

async fn a_store_that_is_away_holds_no_answer_up(platform: &Platform, door: &Door) {
    let frozen = Frozen::new(platform.stack.pid(Server::Postgres).unwrap());
    for _ in 0..2 {
        let (since, good) = (Instant::now(), new_event());
        let (status, answer) = answered(door.post(BATCH, json!([good, started()]).to_string())).await;
        assert!(since.elapsed() < Duration::from_secs(5) + SLACK, "{:?}", since.elapsed());
        let results = &answer["results"];
        assert_eq!(
            (status, &results[0]["status"], &results[1]["status"]),
            (207, &json!("accepted"), &json!("invalid"))
        );
        assert_eq!(not_kept(&results[1]), "the store does not answer");
    }
    drop(frozen);
    let back = async || {
        let (_, answer) = answered(door.post(ONE, started().to_string())).await;
        not_kept(&answer) != "the store does not answer"
    };
    eventually("the store is used again", back).await;
}
