//! Who asks to be forgotten is: in what is there, in what comes later, and in what comes back.

use crate::evolution::Service;
use crate::platform::{Platform, Role, eventually};
use crate::shop::Shop;
use rustix::process::Signal;
use serde_json::{Value, json};
use std::os::unix::process::ExitStatusExt;

/// As often as a test has patience for.
pub const OFTEN: [(&str, &str); 2] =
    [("MILLRACE_PROCESS__ERASURE__EVERY_MS", "200"), ("MILLRACE_PROCESS__ERASURE__SWEEP_EVERY_MS", "1000")];

/// Accounts by whether they asked and whether their row holds what it was given.
async fn accounts(platform: &Platform) -> Value {
    let sql = "select countIf(mine) as asked, countIf(mine and (email != '' or name != '')) as held,
                   countIf(not mine) as others, countIf(not mine and (email = '' or name = '')) as lost
               from (select email, name, user_id in (select user_id from events.user_erased) as mine
                     from events_raw.user_registered)";
    platform.clickhouse(sql).await.remove(0)
}

/// Waits until nobody who asked has anything left, and sees that everybody else has.
pub async fn assert_forgotten(platform: &Platform) {
    eventually("nothing is held of who asked", async || accounts(platform).await["held"] == 0).await;
    let found = accounts(platform).await;
    assert!(found["asked"].as_i64() > Some(0) && found["others"].as_i64() > Some(0), "nothing was shown: {found}");
    assert_eq!(found["lost"], 0, "{found}");
}

/// `millrace erasure`: its exit code, and what it says.
fn proof(platform: &Platform) -> (i32, Value) {
    let proof = platform.run(&["erasure", "--json"]);
    (proof.code(), proof.json())
}

/// Once everything published took effect: waits until everybody who asked is told to be erased; how many they are.
async fn eventually_proven(platform: &Platform) -> Value {
    let asked = platform.clickhouse("select uniqExact(user_id) as n from events.user_erased").await[0]["n"].clone();
    let all = json!({ "pending": 0, "oldest": null, "erased": asked });
    eventually("everybody is erased", async || proof(platform).1["people"] == all).await;
    let (code, proof) = proof(platform);
    let nothing = json!({ "table": "user_registered", "columns": ["email", "name"], "rows": 0, "overdue": 0 });
    assert_eq!((code, &proof["kept"], &proof["tables"][0]), (0, &json!(true), &nothing), "{proof:#}");
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_is_forgotten_and_nothing_else_changes() {
    let mut shop = Shop::open().await;
    let roles = [
        shop.member("process", &["process"], &OFTEN),
        shop.member("another", &["process", "erasure"], &OFTEN),
        shop.member("sink", &["sink"], &[]),
    ];
    shop.publish(8_000, &[]);
    shop.assert_equals_the_oracle();
    assert_forgotten(&shop.platform).await;
    let people = eventually_proven(&shop.platform).await;
    assert_eq!(shop.platform.run(&["status", "--json"]).json()["erasures"], people);
    shop.assert_equals_the_oracle();
    assert_eq!(roles.map(Role::stop), [0, 0, 0]);
    shop.platform.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_inserted_after_its_erasure_is_erased_and_read_back_as_ever() {
    let mut shop = Shop::open().await;
    let others = [
        shop.member("projections", &["process", "order_status", "customer_summary"], &[]),
        shop.member("sink", &["sink"], &[]),
        shop.member("erasure", &["process", "erasure"], &OFTEN),
    ];
    let crashing = [("MILLRACE_CRASH_AT", "clickhouse_inserted")];
    let mut crashed = shop.member("clickhouse", &["process", "clickhouse"], &crashing);
    shop.publish(8_000, &[]);
    assert_eq!(crashed.ended().await.signal(), Some(Signal::ABORT.as_raw()), "{}", crashed.log());
    // Everybody is erased from the little that was inserted; the most of it comes now.
    eventually("everybody is erased", async || {
        let people = &proof(&shop.platform).1["people"];
        people["pending"] == 0 && people["erased"].as_i64() > Some(0)
    })
    .await;
    let process = shop.member("clickhouse", &["process", "clickhouse"], &[]);
    shop.assert_equals_the_oracle();
    assert_forgotten(&shop.platform).await;
    assert!(!process.log().contains("rows were not there"), "{}", process.log());
    assert_eq!(process.stop(), 0);
    assert_eq!(others.map(Role::stop), [0, 0, 0]);
    shop.platform.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_back_is_told_and_erased_again() {
    let mut shop = Shop::open().await;
    let sink = shop.member("sink", &["sink"], &[]);
    let process = shop.member("process", &["process"], &OFTEN);
    shop.publish(8_000, &[]);
    shop.assert_equals_the_oracle();
    assert_forgotten(&shop.platform).await;
    eventually_proven(&shop.platform).await;
    assert_eq!(process.stop(), 0);
    bring_back(&shop.platform).await;
    let (code, told) = proof(&shop.platform);
    let rows = &told["tables"][0];
    assert!(rows["rows"].as_i64() > Some(0) && rows["rows"] == rows["overdue"], "{told:#}");
    assert_eq!((code, &told["kept"]), (2, &json!(false)));
    // As one that came back from an old backup, ClickHouse does not know any more whom to look for.
    shop.platform.clickhouse("truncate table erasure.subject").await;
    let process = shop.member("process", &["process"], &OFTEN);
    assert_forgotten(&shop.platform).await;
    eventually_proven(&shop.platform).await;
    shop.assert_equals_the_oracle();
    assert_eq!([process, sink].map(Role::stop), [0, 0]);
    shop.platform.stop().await;
}

/// As a copy from elsewhere would: rows as they were given, long ago, of people who had asked before.
async fn bring_back(platform: &Platform) {
    let statements = [
        "insert into erasure.subject select subject, event_id, recorded_at - toIntervalDay(1) from erasure.subject",
        "insert into events_raw.user_registered
         select * replace ('back@example.com' as email, 'Back' as name, _inserted_at - toIntervalDay(1) as _inserted_at)
         from events_raw.user_registered where user_id in (select user_id from events.user_erased)",
    ];
    for statement in statements {
        platform.clickhouse(statement).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_personal_field_that_a_publisher_adds_is_erased_though_no_contract_here_knows_it() {
    let platform = Platform::start().await;
    let service = Service::of(&platform);
    let process = Role::start(platform.command().args(["process"]).envs(OFTEN), &platform.data, "process");
    let payer = json!({ "name": "payer", "type": ["null", "string"], "default": null, "pii": "user_id",
                        "doc": "Name on the card." });
    let writer = service.register(&[payer]).await;
    service.publish(&writer, &json!({ "payer": { "string": "Marta Keller" } })).await;
    let held = async |wanted: &str| {
        let sql = format!("select count() as n from events_raw.payment_failed where {wanted}");
        platform.clickhouse(&sql).await[0]["n"].as_i64().unwrap()
    };
    eventually("the column is there", async || {
        let sql = "select count() as n from system.columns where table = 'payment_failed' and name = 'payer'";
        platform.clickhouse(sql).await[0]["n"].as_i64() > Some(0) && held("payer is not null").await > 0
    })
    .await;
    service.ask_to_be_forgotten().await;
    eventually("the name is gone", async || held("payer is not null").await == 0).await;
    assert!(held("user_id is not null").await > 0);
    assert_eq!(process.stop(), 0);
    platform.stop().await;
}
