//! A cluster, as far as one engine can be one: it knows a cluster of that name and both replicas of its shard are
//! itself. Through a distributed table it writes and reads as any server does. What needs Keeper it can't: so before
//! it stands somebody who takes `on cluster` out of its statements, and passes plain tables off as replicated ones.

use crate::between::{Asked, stand_before};
use crate::erasure;
use crate::platform::{BINARY, Finished, Platform, directory, shared};
use crate::shop::Shop;
use axum::body::Bytes;
use rustix::process::Signal;
use std::os::unix::process::ExitStatusExt;

const CONFIGURATION: &str = "<clickhouse>
    <tcp_port>9000</tcp_port> <!-- nobody listens there: it is what tells the engine that a replica is itself -->
    <remote_servers><main><shard>
        <internal_replication>true</internal_replication>
        <replica><host>127.0.0.1</host><port>9000</port></replica>
        <replica><host>127.0.0.2</host><port>9000</port></replica>
    </shard></main></remote_servers>
    <macros><shard>first</shard><replica>first-1</replica></macros>
</clickhouse>";

/// The engine reads `config.xml` where it is started.
async fn platform() -> Platform {
    let place = directory();
    std::fs::write(place.join("config.xml"), CONFIGURATION).unwrap();
    let command = ["sh", "-c", "cd \"$0\" && exec \"$@\"", place.to_str().unwrap(), BINARY, "local", "clickhouse"];
    Platform::start_on(command.map(Into::into).into()).await
}

const MIGRATED_DATABASES: [&str; 4] = ["erasure", "metrics", "events", "events_raw"];

#[tokio::test(flavor = "multi_thread")]
async fn in_a_cluster_every_number_is_the_oracles_whatever_dies_or_comes_twice() {
    let mut shop = Shop::on(platform().await);
    let engine = &shop.platform.addresses().clickhouse;
    let url = stand_before(engine, |asked| Asked { body: as_the_engine_can(asked.body), ..asked }).await;
    let in_cluster = [("MILLRACE_CLICKHOUSE__URL", &*url), ("MILLRACE_CLICKHOUSE__CLUSTER", "main")];
    let migrate = |shop: &Shop| Finished::of(shop.platform.command().arg("migrate").envs(in_cluster));
    let refused = migrate(&shop);
    assert_eq!(refused.code(), 1, "{}", refused.err);
    assert!(refused.err.contains("move its rows to events_local."), "{}", refused.err);
    for database in MIGRATED_DATABASES {
        shop.platform.clickhouse(&format!("drop database {database}")).await;
    }
    for _again in 0..2 {
        let migrated = migrate(&shop);
        assert_eq!(migrated.code(), 0, "{}", migrated.err);
    }
    let _others = [
        shop.member("projections", &["process", "order_status", "customer_summary"], &[]),
        shop.member("webhook", &["sink"], &[]),
    ];
    let crash = [&in_cluster[..], &[("MILLRACE_CRASH_AT", "clickhouse_inserted")]].concat();
    let mut crashed = shop.member("clickhouse", &["process", "clickhouse"], &crash);
    shop.publish(3_000, &[]);
    assert_eq!(crashed.ended().await.signal(), Some(Signal::ABORT.as_raw()), "{}", crashed.log());
    shop.inserts_have_ended().await; // or they come behind the look for them, and are there twice
    let process = shop.member("clickhouse", &["process", "clickhouse"], &in_cluster);
    shop.assert_equals_the_oracle();
    assert_eq!(
        rows(&shop, "events_raw").await,
        3_000,
        "what was repeated was known by its token, through the table above"
    );
    let stored = shop.platform.clickhouse("select engine from system.tables where database = 'events_raw'").await;
    assert!(!stored.is_empty() && stored.iter().all(|table| table["engine"] == "Distributed"), "{stored:?}");
    let often = [&in_cluster[..], &erasure::OFTEN].concat();
    let erasing = shop.member("erasure", &["process", "erasure"], &often);
    erasure::assert_forgotten(&shop.platform).await;
    let of_rows = "select count() as n from system.mutations where database = 'events_local'";
    assert!(shop.platform.clickhouse(of_rows).await[0]["n"].as_i64() > Some(0), "it is the rows that are emptied");
    insert_everything_again(&shop).await;
    assert_eq!((rows(&shop, "events_raw").await, rows(&shop, "events").await), (6_000, 3_000));
    shop.assert_equals_the_oracle();
    assert_eq!((process.stop(), erasing.stop()), (0, 0));
    shop.platform.stop().await;
}

async fn rows(shop: &Shop, database: &str) -> i64 {
    let sql = format!("select count() as n from merge('{database}', '.*')");
    shop.platform.clickhouse(&sql).await[0]["n"].as_i64().unwrap()
}

/// As inserts do whose tokens are forgotten; and no merge makes up for it.
async fn insert_everything_again(shop: &Shop) {
    for table in shop.platform.clickhouse("show tables from events_local").await {
        let name = table["name"].as_str().unwrap();
        shop.platform.clickhouse(&format!("system stop merges events_local.{name}")).await;
        let again = format!("insert into events_raw.{name} select * from events_raw.{name}");
        shop.platform.clickhouse(&format!("{again} settings distributed_foreground_insert = 1")).await;
    }
}

/// The statements as they are sent to a cluster are statements, also those that no engine without Keeper runs.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_cluster_is_told_can_be_read_by_a_server() {
    let sql = include_str!("../../processors/src/clickhouse/snapshots/order_placed_in_a_cluster.sql");
    let statements: Vec<_> = sql.split(";\n").filter(|statement| !statement.trim().is_empty()).collect();
    assert_eq!(statements.len(), 3);
    for statement in statements {
        let literal = statement.replace('\\', "\\\\").replace('\'', "\\'");
        let read = shared().platform.clickhouse(&format!("select formatQuerySingleLine('{literal}') as it")).await;
        assert!(read[0]["it"].as_str().unwrap().contains(".order_placed ON CLUSTER main"), "{read:?}");
    }
}

const REPLICATED_SETTINGS: &str =
    "replicated_deduplication_window = 10000, replicated_deduplication_window_seconds = 604800,";
const PLAIN_SETTINGS: &str = "non_replicated_deduplication_window = 10000,";

/// Blocks pass as they are.
fn as_the_engine_can(body: Bytes) -> Bytes {
    let Ok(sql) = std::str::from_utf8(&body) else { return body };
    let mut sql = sql.replace(" on cluster `main`", "").replace(REPLICATED_SETTINGS, PLAIN_SETTINGS);
    if let Some((before, rest)) = sql.split_once("= ReplicatedReplacingMergeTree(") {
        let (_arguments, after) = rest.split_once(")\n").unwrap();
        sql = format!("{before}= ReplacingMergeTree\n{after}");
    }
    let passed_off = format!(
        "if(database in ('events_local', 'erasure'), 'ReplicatedReplacingMergeTree', engine), \
         replaceOne(replaceOne(engine_full, '{PLAIN_SETTINGS}', '{REPLICATED_SETTINGS}'), 'MergeTree PARTITION', \
         'MergeTree(\\'/path\\', \\'replica\\') PARTITION'), comment from system.tables"
    );
    sql.replace("engine, engine_full, comment from system.tables", &passed_off).into()
}
