//! Contracts that change while everything runs: a publisher is a version ahead of the processors.

use crate::platform::{Platform, Role, eventually};
use millrace_schemas::{Envelope, WriterSchema, value_from_json, wire};
use millrace_stream::{KafkaConfig, Outgoing, Publisher};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::os::unix::process::ExitStatusExt;
use uuid::Uuid;

const TOPIC: &str = "shop.order.v1";
const EVENTS: i64 = 200;

/// Somebody who publishes `payment.failed` in versions of their own.
pub struct Service<'p> {
    platform: &'p Platform,
    publisher: Publisher,
}

impl<'p> Service<'p> {
    pub fn of(platform: &'p Platform) -> Self {
        let kafka = KafkaConfig { brokers: platform.addresses().kafka.clone(), ..KafkaConfig::default() };
        Self { platform, publisher: Publisher::new(&kafka).unwrap() }
    }

    /// The contract's first version with more fields.
    pub async fn register(&self, more: &[Value]) -> WriterSchema {
        let mut schema: Value = serde_json::from_str(include_str!("../../schemas/avro/payment.failed/1.avsc")).unwrap();
        schema["fields"].as_array_mut().unwrap().extend_from_slice(more);
        let path = format!("subjects/{TOPIC}-shop.order.PaymentFailed/versions");
        let answer = self.ask(reqwest::Method::POST, &path, &json!({ "schema": schema.to_string() })).await;
        let id = answer["id"].as_u64().unwrap_or_else(|| panic!("{answer}"));
        WriterSchema::parse(u32::try_from(id).unwrap(), &schema.to_string()).unwrap()
    }

    async fn ask(&self, method: reqwest::Method, path: &str, body: &Value) -> Value {
        let url = format!("{}/{path}", self.platform.addresses().registry);
        reqwest::Client::new().request(method, url).json(body).send().await.unwrap().json().await.unwrap()
    }

    /// [`EVENTS`] of them, each of another order: over all partitions.
    pub async fn publish(&self, writer: &WriterSchema, more: &Value) {
        let mut example: Value =
            serde_json::from_str(include_str!("../../schemas/avro/payment.failed/example.json")).unwrap();
        example.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let mut sent = Vec::new();
        for _ in 0..EVENTS {
            let order = Uuid::new_v4().to_string();
            example["order_id"] = order.clone().into();
            let mut value = wire::header(writer.id).to_vec();
            writer.encode_value(&value_from_json(writer.schema, &example).unwrap(), &mut value).unwrap();
            let envelope = Envelope::new("/judge", "payment.failed", &order);
            let outgoing = Outgoing { topic: TOPIC, key: &order, envelope: &envelope, value: Some(&value) };
            sent.push(self.publisher.enqueue(&outgoing).await.unwrap());
        }
        for acknowledgement in sent {
            acknowledgement.await.unwrap();
        }
    }
}

impl Service<'_> {
    /// On behalf of the account in `payment.failed`'s example.
    pub async fn ask_to_be_forgotten(&self) {
        let path = "subjects/shop.account.v1-shop.account.UserErased/versions";
        let schema = include_str!("../../schemas/avro/user.erased/1.avsc");
        let answer = self.ask(reqwest::Method::POST, path, &json!({ "schema": schema })).await;
        let writer = WriterSchema::parse(u32::try_from(answer["id"].as_u64().unwrap()).unwrap(), schema).unwrap();
        let failed: Value =
            serde_json::from_str(include_str!("../../schemas/avro/payment.failed/example.json")).unwrap();
        let user = failed["user_id"].as_str().unwrap();
        let asked = json!({ "user_id": user, "requested_by": "user" });
        let mut value = wire::header(writer.id).to_vec();
        writer.encode_value(&value_from_json(writer.schema, &asked).unwrap(), &mut value).unwrap();
        let envelope = Envelope::new("/judge", "user.erased", user);
        let outgoing = Outgoing { topic: "shop.account.v1", key: user, envelope: &envelope, value: Some(&value) };
        self.publisher.enqueue(&outgoing).await.unwrap().await.unwrap();
    }
}

fn note() -> Value {
    json!({ "name": "note", "type": ["null", "string"], "default": null, "doc": "What the provider said." })
}

fn channel() -> Value {
    json!({ "name": "channel", "type": "string", "default": "web", "doc": "Where the customer tried it." })
}

async fn rows(platform: &Platform, condition: &str) -> i64 {
    let sql = format!("select count() as n from events.payment_failed where {condition}");
    platform.clickhouse(&sql).await[0]["n"].as_i64().unwrap()
}

async fn arrive(platform: &Platform, condition: &str, wanted: i64) {
    eventually(condition, async || rows(platform, condition).await == wanted).await;
}

/// Name, type and comment of what the view has beyond the first version.
async fn columns_added(platform: &Platform) -> Vec<Value> {
    let sql = "select name, type, comment from system.columns
               where database = 'events' and table = 'payment_failed' and name in ('note', 'channel') order by name";
    platform.clickhouse(sql).await
}

fn replicas(platform: &Platform) -> [Role; 2] {
    ["one", "two"].map(|name| platform.member(name, &["process", "clickhouse"], &[]))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_field_that_a_publisher_adds_is_a_column_while_everything_runs() {
    let platform = Platform::start().await;
    let service = Service::of(&platform);
    let mut processors = replicas(&platform);
    let first = service.register(&[]).await;
    service.publish(&first, &json!({})).await;
    arrive(&platform, "attempt > 0", EVENTS).await;
    // Two versions at once, neither of which the processors' contracts know; the later one comes first.
    let (second, third) = (service.register(&[note()]).await, service.register(&[channel(), note()]).await);
    let (with_both, with_note) = (json!({ "note": { "string": "no" }, "channel": "app" }), json!({ "note": null }));
    let with_neither = json!({});
    tokio::join!(
        service.publish(&third, &with_both),
        service.publish(&first, &with_neither),
        service.publish(&second, &with_note)
    );
    arrive(&platform, "attempt > 0", 4 * EVENTS).await;
    assert_eq!(rows(&platform, "note = 'no' and channel = 'app'").await, EVENTS);
    assert_eq!(rows(&platform, "note is null and channel = 'web'").await, 3 * EVENTS, "the contract's defaults");
    let added = [
        json!({ "name": "channel", "type": "String", "comment": "Where the customer tried it." }),
        json!({ "name": "note", "type": "Nullable(String)", "comment": "What the provider said." }),
    ];
    assert_eq!(columns_added(&platform).await, added);
    assert!(processors.iter_mut().all(Role::is_running), "nobody started again");
    // Whoever deploys with the old contracts takes nothing away.
    assert_eq!(platform.run(&["migrate"]).code(), 0);
    assert_eq!(columns_added(&platform).await, added);
    let letters: i64 = sqlx::query_scalar("select count(*) from millrace.dead_letter")
        .fetch_one(&platform.postgres().await)
        .await
        .unwrap();
    assert_eq!(letters, 0);
    assert_eq!(processors.map(Role::stop), [0, 0]);
    platform.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_breaks_the_contract_is_set_aside_alone_and_says_why() {
    let platform = Platform::start().await;
    let service = Service::of(&platform);
    let mut process = platform.role(&["process", "clickhouse"]);
    let first = service.register(&[]).await;
    let config = format!("config/{TOPIC}-shop.order.PaymentFailed");
    service.ask(reqwest::Method::PUT, &config, &json!({ "compatibility": "NONE" })).await;
    let breaking = service.register(&[json!({ "name": "risk", "type": "long", "doc": "No default." })]).await;
    service.publish(&breaking, &json!({ "risk": 1 })).await;
    service.publish(&first, &json!({})).await;
    arrive(&platform, "attempt > 0", EVENTS).await;
    let postgres = platform.postgres().await;
    let letters = async || -> Vec<(String, String)> {
        let sql = "select distinct reason, error from millrace.dead_letter where pipeline = 'clickhouse'";
        sqlx::query_as(sql).fetch_all(&postgres).await.unwrap()
    };
    eventually("they are set aside", async || letters().await.len() == 1).await;
    let (reason, error) = &letters().await[0];
    assert_eq!(reason, "does_not_fit");
    let why = format!("schema {} breaks the contract of payment.failed: $.fields[8] [", breaking.id);
    assert!(error.starts_with(&why) && error.contains("`risk`") && error.contains("default"), "{error}");
    assert!(process.is_running() && process.log().contains(&why), "{}", process.log());
    assert_eq!(process.stop(), 0);
    platform.stop().await;
}

/// Where it dies in [`who_dies_while_a_table_gains_a_column_leaves_the_rest_to_the_next`].
pub const CRASH_POINTS: [&str; 3] = ["evolve_altered", "evolve_shown", "evolve_marked"];

#[tokio::test(flavor = "multi_thread")]
async fn who_dies_while_a_table_gains_a_column_leaves_the_rest_to_the_next() {
    let platform = Platform::start().await;
    let service = Service::of(&platform);
    let mut fields = Vec::new();
    for (before, point) in (0..).zip(CRASH_POINTS) {
        fields.push(json!({ "name": point, "type": "string", "default": "", "pii": "user_id", "doc": "Who paid." }));
        let writer = service.register(&fields).await;
        service.publish(&writer, &json!({ point: "Ada" })).await;
        let start = |more: &[(&str, &str)]| platform.member("one", &["process", "clickhouse"], more);
        let mut dying = start(&[("MILLRACE_CRASH_AT", point)]);
        let status = dying.ended().await;
        assert_eq!(status.signal(), Some(Signal::ABORT.as_raw()), "{point}: {}", dying.log());
        assert_eq!(rows_there(&platform).await, before * EVENTS, "it died before it inserted any");
        let process = start(&[]);
        let shown = format!(
            "select count() from system.columns where database = 'events' and table = 'payment_failed' and name = '{point}'"
        );
        eventually("the view shows it", async || platform.number(&shown).await == 1).await;
        arrive(&platform, &format!("{point} = 'Ada'"), EVENTS).await;
        assert_eq!(rows_there(&platform).await, (before + 1) * EVENTS);
        let marked =
            format!("select count() from erasure.personal where table = 'payment_failed' and column = '{point}'");
        assert!(platform.number(&marked).await > 0, "{point}: nobody would empty it");
        assert_eq!(process.stop(), 0);
    }
    platform.stop().await;
}

/// Duplicates included.
async fn rows_there(platform: &Platform) -> i64 {
    platform.number("select count() from events_raw.payment_failed").await
}
