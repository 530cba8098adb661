//! Values that no column holds, numbers that are none, which the gateway refuses and a log may hold all the same, and
//! symbols that the contract does not know yet.

use crate::commands::temporary;
use crate::gateway::Door;
use crate::platform::{Platform, eventually, local_engine};
use millrace_schemas::{Envelope, WriterSchema, value_from_json, wire};
use millrace_stream::{KafkaConfig, Outgoing, Publisher};
use serde_json::{Value, json};
use tempfile::TempDir;
use uuid::Uuid;

const TOPIC: &str = "shop.reading.v1";
const SUBJECT: &str = "shop.reading.v1-shop.reading.ReadingTaken";

fn contract(states: &[&str]) -> Value {
    let logical = |base: &str, logical: &str| json!({ "type": base, "logicalType": logical });
    json!({
        "type": "record", "name": "ReadingTaken", "namespace": "shop.reading", "doc": "A sensor was read.",
        "millrace": { "type": "reading.taken", "topic": TOPIC, "key": "reading_id" },
        "fields": [
            { "name": "reading_id", "type": logical("string", "uuid"), "doc": "The reading." },
            { "name": "celsius", "type": "double", "doc": "What it showed." },
            { "name": "price", "type": { "type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2 }, "doc": "What it cost." },
            { "name": "on_day", "type": logical("int", "date"), "doc": "Its day." },
            { "name": "read_at", "type": logical("long", "timestamp-micros"), "doc": "Its time." },
            {
                "name": "state", "doc": "Its state.", "default": "UNKNOWN",
                "type": { "type": "enum", "name": "State", "symbols": states, "default": "UNKNOWN" }
            },
        ],
    })
}

fn good() -> Value {
    json!({
        "reading_id": "019ab523-41c9-7e6f-b2d4-8a7c05e19f3b", "celsius": 21.5, "price": "\u{1}\u{2}", "on_day": 20_000,
        "read_at": 1_772_366_400_000_000_i64, "state": "FINE",
    })
}

const STATES: [&str; 2] = ["UNKNOWN", "FINE"];

/// A project with this one contract, and a rule that sends every reading to the receiver.
struct Sensors {
    platform: Platform,
    project: TempDir,
    publisher: Publisher,
}

impl Sensors {
    async fn start() -> Self {
        let project = temporary();
        write(&project, "schemas/avro/reading.taken/1.avsc", &contract(&STATES).to_string());
        write(&project, "schemas/avro/reading.taken/example.json", &good().to_string());
        let rule = "name: readings\ndoc: Tells of every reading.\non: reading.taken\nchannel: webhook\nendpoint: shop_backoffice\n";
        write(&project, "sinks/rules/readings.yaml", rule);
        std::fs::create_dir_all(project.path().join("processors/analytics")).unwrap(); // none of the shop's metrics
        let platform = Platform::start_with(local_engine(), Some(project.path())).await;
        let kafka = KafkaConfig { brokers: platform.addresses().kafka.clone(), ..KafkaConfig::default() };
        Self { platform, project, publisher: Publisher::new(&kafka).unwrap() }
    }

    async fn register(&self, schema: &Value) -> WriterSchema {
        let registry = &self.platform.addresses().registry;
        let body = json!({ "schema": schema.to_string() });
        let asked = reqwest::Client::new().post(format!("{registry}/subjects/{SUBJECT}/versions")).json(&body);
        let answer: Value = asked.send().await.unwrap().json().await.unwrap();
        let id = answer["id"].as_u64().unwrap_or_else(|| panic!("{answer}"));
        WriterSchema::parse(u32::try_from(id).unwrap(), &schema.to_string()).unwrap()
    }

    /// A reading with these fields, of that time.
    async fn publish(&self, writer: &WriterSchema, fields: &Value, at: &str) {
        let mut reading = good();
        reading.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        let mut value = wire::header(writer.id).to_vec();
        writer.encode_value(&value_from_json(writer.schema, &reading).unwrap(), &mut value).unwrap();
        let key = reading["reading_id"].as_str().unwrap();
        let mut envelope = Envelope::new("/judge", "reading.taken", key);
        envelope.occurred_at = at.parse().unwrap();
        let outgoing = Outgoing { topic: TOPIC, key, envelope: &envelope, value: Some(&value) };
        self.publisher.enqueue(&outgoing).await.unwrap().await.unwrap();
    }

    /// What a gateway says of a reading with this temperature, sent as JSON and as Avro: status and errors.
    async fn offered(&self, door: &Door, writer: &WriterSchema, celsius: &str) -> Vec<(u16, Value)> {
        let mut reading = good();
        reading["celsius"] = json!(celsius);
        let mut datum = Vec::new();
        writer.encode_value(&value_from_json(writer.schema, &reading).unwrap(), &mut datum).unwrap();
        let mut said = Vec::new();
        for (kind, data) in [("application/json", reading.to_string().into_bytes()), ("application/avro", datum)] {
            let id = Uuid::now_v7().to_string();
            let sent = reqwest::Client::new().post(format!("{}/v1/events", door.url)).bearer_auth(&door.token);
            let sent = sent.header("ce-specversion", "1.0").header("ce-id", id).header("ce-source", "/judge");
            let sent = sent.header("ce-type", "reading.taken").header("content-type", kind).body(data);
            let answer = sent.send().await.unwrap();
            said.push((answer.status().as_u16(), answer.json::<Value>().await.unwrap()["errors"].take()));
        }
        said
    }

    async fn number(&self, sql: &str) -> i64 {
        self.platform.clickhouse(&format!("select toInt64({sql}) as n from events.reading_taken")).await[0]["n"]
            .as_i64()
            .unwrap()
    }

    /// What the pipelines set aside: pipeline, reason and why.
    async fn letters(&self) -> Vec<(String, String, String)> {
        let sql = "select pipeline, reason, error from millrace.dead_letter order by pipeline, id";
        sqlx::query_as(sql).fetch_all(&self.platform.postgres().await).await.unwrap()
    }
}

fn write(project: &TempDir, path: &str, text: &str) {
    let path = project.path().join(path);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

const NOW: &str = "2026-03-01T12:00:00Z";

#[tokio::test(flavor = "multi_thread")]
async fn what_fits_no_column_is_set_aside_by_field_and_what_is_odd_arrives_as_it_is() {
    let sensors = Sensors::start().await;
    let (mut process, mut sink) = (sensors.platform.role(&["process", "clickhouse"]), sensors.platform.role(&["sink"]));
    let writer = sensors.register(&contract(&STATES)).await;
    let newer = sensors.register(&contract(&["UNKNOWN", "FINE", "MELTED"])).await;
    let micros_of_year_9999 = 253_370_764_800_000_000_i64;
    let misfits = [
        (json!({ "price": "\u{7f}\u{ff}\u{ff}\u{ff}\u{ff}" }), NOW, "`price`"),
        (json!({ "on_day": -40_000 }), NOW, "`on_day`"),
        (json!({ "read_at": micros_of_year_9999 }), NOW, "`read_at`"),
        (json!({}), "1931-03-01T12:00:00Z", "`occurred_at`"),
    ];
    for (fields, at, _) in &misfits {
        sensors.publish(&writer, fields, at).await;
        sensors.publish(&writer, &json!({}), NOW).await; // the flow goes on behind each
    }
    let door = Door::open(&sensors.platform, &[]).await;
    for celsius in ["NaN", "Infinity", "-Infinity"] {
        let error =
            json!({ "pointer": "/data/celsius", "expected": "a finite number", "found": format!("{celsius:?}") });
        let refused = (400, json!([error]));
        assert_eq!(sensors.offered(&door, &writer, celsius).await, [refused.clone(), refused], "{celsius}");
        sensors.publish(&writer, &json!({ "celsius": celsius }), NOW).await;
    }
    sensors.publish(&newer, &json!({ "state": "MELTED" }), NOW).await;
    eventually("what fits is there", async || sensors.number("count()").await == 8).await;
    assert_eq!(sensors.number("countIf(isNaN(celsius)) * 10 + countIf(isInfinite(celsius))").await, 12);
    assert_eq!(sensors.number("countIf(state = 'UNKNOWN')").await, 1, "the default that the contract has for it");
    let metrics = format!("{}/metrics", process.ops().await);
    let counted = "millrace_unlisted_symbols_total{table=\"reading_taken\"} 1\n";
    eventually("and it is counted", async || {
        reqwest::get(&metrics).await.unwrap().text().await.unwrap().contains(counted)
    })
    .await;
    assert!(process.log().contains("does not list MELTED"), "{}", process.log());
    let of = |letters: &[(String, String, String)], pipeline: &str| -> Vec<String> {
        assert!(letters.iter().all(|(_, reason, _)| reason == "does_not_fit"), "{letters:#?}");
        letters.iter().filter(|letter| letter.0 == pipeline).map(|letter| letter.2.clone()).collect()
    };
    eventually("no JSON has a number that is none", async || of(&sensors.letters().await, "webhook").len() >= 3).await;
    // A batch's letters are there with its checkpoint, which is a moment after its rows.
    let set_aside = async || of(&sensors.letters().await, "clickhouse").len() >= misfits.len();
    eventually("what fits no column is set aside", set_aside).await;
    let letters = sensors.letters().await;
    let clickhouse = of(&letters, "clickhouse");
    assert_eq!(clickhouse.len(), misfits.len(), "{letters:#?}");
    for (_, _, said) in &misfits {
        assert!(clickhouse.iter().any(|error| error.contains(said)), "{said} in {letters:#?}");
    }
    println!("{letters:#?}");
    // The contract learns the symbol, and the table is made right from the log.
    write(&sensors.project, "schemas/avro/reading.taken/2.avsc", &contract(&["UNKNOWN", "FINE", "MELTED"]).to_string());
    assert!(process.is_running() && sink.is_running(), "{}{}", process.log(), sink.log());
    assert_eq!((process.stop(), sink.stop(), door.role.stop()), (0, 0, 0));
    let migrated = sensors.platform.run(&["migrate"]);
    assert_eq!(migrated.code(), 0, "{}", migrated.err);
    assert_eq!(
        sensors.platform.run(&["verify", "clickhouse"]).code(),
        2,
        "the log has another symbol than the table by now"
    );
    let rebuilt = sensors.platform.run(&["rebuild", "clickhouse", "reading_taken"]);
    assert_eq!(rebuilt.code(), 0, "{}{}", rebuilt.out, rebuilt.err);
    let verified = sensors.platform.run(&["verify", "clickhouse"]);
    assert_eq!(verified.code(), 0, "{}{}", verified.out, verified.err);
    assert_eq!(sensors.number("countIf(state = 'MELTED')").await, 1);
    sensors.platform.stop().await;
}
