//! Who asks to be forgotten is: in what is there, in what comes later, and in what comes back.

use crate::crash_points::assert_crashed_at;
use crate::evolution::Service;
use crate::platform::{Platform, Role, eventually};
use crate::shop::Shop;
use rustix::process::Signal;
use serde_json::{Value, json};
use std::os::unix::process::ExitStatusExt;

/// As often as a test has patience for.
pub const OFTEN: [(&str, &str); 2] =
    [("MILLRACE_PROCESS__ERASURE__EVERY_MS", "200"), ("MILLRACE_PROCESS__ERASURE__SWEEP_EVERY_MS", "1000")];

/// Where it dies, one after the other, in [`who_asked_is_forgotten_wherever_the_role_dies`]. It comes to the last with
/// people in hand only where somebody waits already when it starts.
pub const ROUNDS: [&[&str]; 3] =
    [&["erasure_before_commit"], &["erasure_after_commit"], &["erasure_after_commit", "erasure_emptied"]];

/// Long enough that a batch has all of its partition that was there before the role was.
const LINGER: (&str, &str) = ("MILLRACE_PROCESS__ERASURE__PIPELINE__LINGER_MS", "1000");

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

/// `millrace erasure`: its exit code, and what it says; nothing where a server was too slow.
fn proof(platform: &Platform) -> (i32, Value) {
    let proof = platform.run(&["erasure", "--json"]);
    let is_late = proof.code() != 0 && proof.out.is_empty();
    (proof.code(), if is_late { Value::Null } else { proof.json() })
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

#[tokio::test(flavor = "multi_thread")]
async fn who_asked_is_forgotten_wherever_the_role_dies() {
    let mut shop = Shop::open().await;
    let process = shop.member("clickhouse", &["process", "clickhouse"], &[]);
    shop.publish(8_000, &[]);
    let there = "select count() from merge('events', '.*')";
    eventually("all is there", async || shop.platform.number(there).await == 8_000).await;
    for points in ROUNDS {
        somebody_asks_in_every_partition(&shop.platform).await;
        let before = &proof(&shop.platform).1["people"]["erased"];
        for point in points {
            let dying = [&OFTEN[..], &[LINGER, ("MILLRACE_CRASH_AT", point)]].concat();
            let mut dying = shop.member("erasure", &["process", "erasure"], &dying);
            assert_crashed_at(point, &mut dying).await;
            assert_died_with_somebody_in_hand(&shop.platform, point, before).await;
        }
        let role = shop.member("erasure", &["process", "erasure"], &OFTEN);
        assert_forgotten(&shop.platform).await;
        let people = eventually_proven(&shop.platform).await;
        println!("{people} after {points:?}");
        assert_eq!(role.stop(), 0);
    }
    assert_eq!(process.stop(), 0);
    shop.platform.stop().await;
}

/// So that whichever the role takes first, its batch has somebody: they ask where they registered, while nobody erases.
async fn somebody_asks_in_every_partition(platform: &Platform) {
    let sql = "select toString(min(user_id)) as user from events.user_registered
               where user_id not in (select user_id from events.user_erased) group by _partition";
    let (asking, asked) = (platform.clickhouse(sql).await, "select count() from events.user_erased");
    let (service, before) = (Service::of(platform), platform.number(asked).await);
    for account in &asking {
        service.ask_to_forget(account["user"].as_str().unwrap()).await;
    }
    let all = before + asking.len() as i64;
    eventually("everybody has asked", async || platform.number(asked).await == all).await;
}

/// Whom a mistake would lose: in the ledger, or in what never came to be there. So many were erased before.
async fn assert_died_with_somebody_in_hand(platform: &Platform, point: &str, before: &Value) {
    let people = &proof(platform).1["people"];
    assert_eq!(people["erased"], *before, "somebody was called erased before it died at {point}");
    let pending = people["pending"].as_i64().unwrap();
    if point != "erasure_before_commit" {
        assert!(pending > 0, "nobody waited when it died at {point}");
        return;
    }
    assert_eq!(pending, 0, "{point}: it had not committed");
    let postgres = platform.postgres().await;
    // Postgres counts what a transaction wrote also where it came to nothing, once its connection has ended. Nobody asks
    // twice here, so beyond those who were erased it was somebody new.
    let written = "select n_tup_ins from pg_stat_user_tables where relid = 'millrace.erasure'::regclass";
    eventually("somebody was in the batch that died", async || {
        sqlx::query_scalar::<_, i64>(written).fetch_one(&postgres).await.unwrap() > before.as_i64().unwrap()
    })
    .await;
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
