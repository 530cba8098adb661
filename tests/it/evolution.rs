//! Contracts that change while everything runs: a publisher is a version ahead of the processors.

use crate::commands::{millrace, temporary};
use crate::docs::blocks;
use crate::platform::{Finished, Platform, Role, ask_clickhouse, eventually, local_engine};
use millrace_schemas::{Envelope, WriterSchema, value_from_json, wire};
use millrace_stream::{KafkaConfig, Outgoing, Publisher};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::cell::Cell;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use uuid::Uuid;

const TOPIC: &str = "shop.order.v1";
const EVENTS: i64 = 200;

/// The contract's first version with more fields.
fn payment_failed(more: &[Value]) -> Value {
    let mut schema: Value = serde_json::from_str(include_str!("../../schemas/avro/payment.failed/1.avsc")).unwrap();
    schema["fields"].as_array_mut().unwrap().extend_from_slice(more);
    schema
}

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
        let schema = payment_failed(more);
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
        let failed: Value =
            serde_json::from_str(include_str!("../../schemas/avro/payment.failed/example.json")).unwrap();
        self.ask_to_forget(failed["user_id"].as_str().unwrap()).await;
    }

    pub async fn ask_to_forget(&self, user: &str) {
        let path = "subjects/shop.account.v1-shop.account.UserErased/versions";
        let schema = include_str!("../../schemas/avro/user.erased/1.avsc");
        let answer = self.ask(reqwest::Method::POST, path, &json!({ "schema": schema })).await;
        let writer = WriterSchema::parse(u32::try_from(answer["id"].as_u64().unwrap()).unwrap(), schema).unwrap();
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

const EXAMPLE: &str = include_str!("../../schemas/avro/payment.failed/example.json");
const PAGE: &str = include_str!("../../docs/changing-contracts.md");

fn remark() -> Value {
    json!({ "name": "remark", "type": ["null", "string"], "default": null, "doc": "What the provider said." })
}

/// The statement of the page that has this in it, about [`note`], which becomes [`remark`].
fn statement(with: &str) -> String {
    let statement = blocks(PAGE, "sql").into_iter().find(|sql| sql.contains(with)).expect(with);
    let names = [("<table>", "payment_failed"), ("<name>", "note"), ("<old_name>", "note"), ("<new_name>", "remark")];
    names.iter().fold(statement.to_owned(), |sql, (placeholder, name)| sql.replace(placeholder, name))
}

/// Puts these versions of `payment.failed` into a project's contracts, each with these fields beside the first one's.
fn write_versions(project: &Path, versions: &[&[Value]]) {
    let contract = project.join("schemas/avro/payment.failed");
    for (number, more) in (2..).zip(versions) {
        std::fs::write(contract.join(format!("{number}.avsc")), payment_failed(more).to_string()).unwrap();
    }
    let mut example: Value = serde_json::from_str(EXAMPLE).unwrap();
    for field in *versions.last().unwrap() {
        example[field["name"].as_str().unwrap()] = field["default"].clone();
    }
    std::fs::write(contract.join("example.json"), example.to_string()).unwrap();
    let checked = Finished::of(millrace(&["check", "--project"]).arg(project));
    assert_eq!(checked.code(), 0, "{}{}", checked.out, checked.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_field_is_renamed_and_dropped_as_the_page_says_while_events_flow_and_none_is_lost() {
    let place = temporary();
    let project = place.path().join("shop");
    assert_eq!(Finished::of(millrace(&["init"]).arg(&project)).code(), 0);
    write_versions(&project, &[&[note()]]);
    let platform = Platform::start_with(local_engine(), Some(&project)).await;
    let service = Service::of(&platform);
    let process = platform.member("one", &["process", "clickhouse"], &[]);
    let old = service.register(&[note()]).await;
    service.publish(&old, &json!({ "note": { "string": "no" } })).await;
    // Publishers fill both, and readers move over.
    let both = service.register(&[note(), remark()]).await;
    let filled = json!({ "note": { "string": "no" }, "remark": { "string": "no" } });
    service.publish(&both, &filled).await;
    arrive(&platform, "attempt > 0", 2 * EVENTS).await;
    let as_one = statement("coalesce").replace(" from", " as it from");
    let said = async || platform.number(&format!("select countIf(it = 'no') from ({as_one})")).await;
    assert_eq!(said().await, 2 * EVENTS);
    // A version without the old one is published, and every role is given it.
    let new = service.register(&[remark()]).await;
    let with_new = json!({ "remark": { "string": "no" } });
    service.publish(&new, &with_new).await;
    eventually("the new one alone is read, too", async || said().await == 3 * EVENTS).await;
    write_versions(&project, &[&[note()], &[note(), remark()], &[remark()]]);
    assert_eq!(process.stop(), 0);
    let mut process = platform.member("one", &["process", "clickhouse"], &[]);
    service.publish(&both, &filled).await;
    arrive(&platform, "remark = 'no'", 3 * EVENTS).await;
    // The column goes, while somebody still publishes it.
    let (dropped, meanwhile) = (Cell::new(false), Cell::new(0));
    let dropping = async {
        platform.clickhouse(&statement("drop column")).await;
        let unreadable = ask_clickhouse(&platform.addresses().clickhouse, "select attempt from events.payment_failed");
        assert!(unreadable.await.unwrap_err().contains("UNKNOWN_IDENTIFIER"));
        let mut migrate = platform.role(&["migrate"]);
        assert_eq!(migrate.ended().await.code(), Some(0), "{}", migrate.log());
        dropped.set(true);
    };
    let publishing = async {
        while !dropped.get() {
            service.publish(&both, &filled).await;
            meanwhile.set(meanwhile.get() + EVENTS);
        }
    };
    tokio::join!(publishing, dropping);
    service.publish(&new, &with_new).await;
    arrive(&platform, "remark = 'no'", 4 * EVENTS + meanwhile.get()).await;
    arrive(&platform, "remark is null", EVENTS).await; // of the old version: its column is gone, and no row is
    for database in ["events", "events_raw"] {
        let named = format!(
            "select groupArray(name) as names from system.columns where database = '{database}' and table = \
             'payment_failed' and name in ('note', 'remark')"
        );
        assert_eq!(platform.clickhouse(&named).await[0]["names"], json!(["remark"]), "{database}");
    }
    let verified = platform.run(&["verify", "clickhouse"]);
    assert_eq!(verified.code(), 0, "{}{}", verified.out, verified.err);
    assert!(process.is_running(), "{}", process.log());
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
