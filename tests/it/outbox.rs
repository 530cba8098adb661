//! What a service's transactions committed is in the log: each event once after deduplication, in its key's order, and
//! nothing else, whatever dies or freezes meanwhile.

mod service;

use crate::commands::Frozen;
use crate::crash_points::assert_crashed_at;
use crate::platform::{Platform, Role, eventually, shared};
use millrace_local::Server;
use millrace_outbox::Event;
use serde_json::{Value, json};
use service::{Load, Service};
use sqlx::postgres::PgPoolOptions;
use sqlx::{Connection, PgConnection};
use std::collections::HashSet;
use uuid::Uuid;

/// A lease that a test can wait for.
const SHORT_LEASE: (&str, &str) = ("LEASE_MS", "1500");

/// Where it dies in [`a_relay_that_dies_between_publishing_and_settling_sends_the_same_events_again`].
pub const CRASH_POINTS: [&str; 2] = ["outbox_after_publish", "outbox_after_settle"];

async fn metric(role: &Role, name: &str) -> f64 {
    let text = reqwest::get(format!("{}/metrics", role.ops().await)).await.unwrap().text().await.unwrap();
    let line = text.lines().find(|line| line.starts_with(&format!("{name}{{"))).unwrap_or_default();
    line.rsplit(' ').next().and_then(|value| value.parse().ok()).unwrap_or_default()
}

async fn is_leading(role: &Role) -> bool {
    metric(role, "millrace_outbox_leading").await == 1.0
}

fn erased(account: Uuid) -> Value {
    json!({ "user_id": account, "requested_by": "it" })
}

async fn write(service: &Service<'_>, event_type: &str, data: &Value) -> Uuid {
    let event = Event::new(event_type, data);
    millrace_outbox::write(&service.owner, &event).await.unwrap();
    event.id
}

/// The ids of one account's events.
fn ids(service: &Service<'_>, account: Uuid) -> Vec<Uuid> {
    service.log(&HashSet::from([account])).0.into_iter().map(|(_, id)| id).collect()
}

/// A relay that starts now publishes what is written now.
pub async fn a_relay_publishes(platform: &Platform, name: &str) {
    let (service, account) = (Service::open(platform, name).await, Uuid::new_v4());
    let relay = service.relay(&[]);
    let id = write(&service, "user.erased", &erased(account)).await;
    service.everything_is_published().await;
    assert_eq!(ids(&service, account), [id]);
    assert_eq!(relay.stop(), 0);
}

async fn published_since(service: &Service<'_>, before: i64, events: i64) {
    eventually("events flow", async || service.published().await > before + events).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fifty_writers_commit_is_in_the_log_once_and_in_its_order_and_nothing_else() {
    let service = Service::open(&shared().platform, "outbox_writers").await;
    let relay = service.relay(&[]);
    let load = Load::start(&service).await;
    published_since(&service, 0, 4_000).await;
    let accounts = load.accounts.clone();
    let committed = load.end().await;
    service.everything_is_published().await;
    assert_eq!(service.assert_log_holds(committed, &accounts), 0, "nothing died, so nothing was sent twice");
    assert_eq!(relay.stop(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_and_a_kafka_that_are_killed_under_load_lose_nothing_and_reorder_nothing() {
    let platform = Platform::start().await;
    let service = Service::open(&platform, "outbox_kills").await;
    let mut relay = service.relay(&[]);
    let load = Load::start(&service).await;
    for (kafka_dies, relay_dies) in [(false, true), (true, false), (true, true), (true, true)] {
        published_since(&service, service.published().await, 300).await;
        if kafka_dies {
            assert!(platform.stack.kill(Server::Kafka), "Kafka was not running");
        }
        if relay_dies {
            relay.kill();
            relay = service.relay(&[]);
        }
        platform.stack.wait_ready(Server::Kafka).await.unwrap();
    }
    published_since(&service, service.published().await, 300).await;
    let accounts = load.accounts.clone();
    let committed = load.end().await;
    service.everything_is_published().await;
    println!("{} came twice", service.assert_log_holds(committed, &accounts));

    platform.kill_server(Server::Postgres).await;
    let account = Uuid::new_v4();
    let id = write(&service, "user.erased", &erased(account)).await;
    service.everything_is_published().await;
    assert_eq!(ids(&service, account), [id]);
    assert_eq!(relay.stop(), 0);
    drop(service);
    platform.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_dies_between_publishing_and_settling_sends_the_same_events_again() {
    let service = Service::open(&shared().platform, "outbox_crash").await;
    let account = Uuid::new_v4();
    let mut expected = Vec::new();
    for point in CRASH_POINTS {
        expected.push(write(&service, "user.erased", &erased(account)).await);
        let mut relay = service.relay(&[("MILLRACE_CRASH_AT", point)]);
        assert_crashed_at(point, &mut relay).await;
        assert!(relay.log().contains(&format!("crashing at {point}")), "{}", relay.log());
    }
    let relay = service.relay(&[]);
    service.everything_is_published().await;
    let (log, repeated) = service.log(&HashSet::from([account]));
    assert_eq!(log.into_iter().map(|(_, id)| id).collect::<Vec<_>>(), expected);
    assert_eq!(repeated, 1, "what was published and not settled");
    assert_eq!(relay.stop(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_relays_one_publishes_and_the_other_takes_over_at_once_when_it_dies() {
    let service = Service::open(&shared().platform, "outbox_two").await;
    // A lease so long that nobody can have waited for it.
    let mut first = service.relay(&[("LEASE_MS", "600000")]);
    eventually("the first leads", async || is_leading(&first).await).await;
    let second = service.relay(&[("LEASE_MS", "600000")]);
    let account = Uuid::new_v4();
    let one = write(&service, "user.erased", &erased(account)).await;
    service.everything_is_published().await;
    eventually("the second serves", async || !second.ops().await.is_empty()).await;
    assert!(!is_leading(&second).await);
    first.kill();
    eventually("the second leads", async || is_leading(&second).await).await;
    let two = write(&service, "user.erased", &erased(account)).await;
    service.everything_is_published().await;
    assert_eq!(ids(&service, account), [one, two]);
    assert_eq!(second.stop(), 0);
    let third = service.relay(&[("LEASE_MS", "600000")]);
    eventually("who is told to stop lets go at once", async || is_leading(&third).await).await;
    assert_eq!(third.stop(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_relay_that_wakes_up_after_another_took_over_changes_no_order_and_settles_nothing() {
    let service = Service::open(&shared().platform, "outbox_frozen").await;
    let first = service.relay(&[SHORT_LEASE]);
    let load = Load::start(&service).await;
    published_since(&service, 0, 500).await;
    let second = service.relay(&[SHORT_LEASE]);
    eventually("the second serves", async || !second.ops().await.is_empty()).await;
    for _ in 0..2 {
        let (ice, frozen, other) = freeze_who_leads(&first, &second).await;
        eventually("the other leads", async || is_leading(other).await).await;
        published_since(&service, service.published().await, 500).await;
        drop(ice);
        eventually("it knows", async || !is_leading(frozen).await).await;
        published_since(&service, service.published().await, 500).await;
    }
    let accounts = load.accounts.clone();
    let committed = load.end().await;
    service.everything_is_published().await;
    println!("{} came twice", service.assert_log_holds(committed, &accounts));
    let deposed = |relay: &Role| relay.log().contains("another relay has taken over");
    assert!(deposed(&first) || deposed(&second), "{}{}", first.log(), second.log());
    assert_eq!((first.stop(), second.stop()), (0, 0));
}

/// And who does not lead. On a busy machine a lease this short may end by itself: then whoever leads now is meant.
async fn freeze_who_leads<'r>(first: &'r Role, second: &'r Role) -> (Frozen, &'r Role, &'r Role) {
    let mut frozen = None;
    eventually("one leads, and is frozen", async || {
        let (leader, other) = if is_leading(first).await { (first, second) } else { (second, first) };
        if is_leading(leader).await {
            let ice = Frozen::new(leader.pid());
            frozen = (!is_leading(other).await).then_some((ice, leader, other));
        }
        frozen.is_some()
    })
    .await;
    frozen.unwrap()
}

/// The case that an order by transaction number gets wrong, and an order by seq within a window of numbers too: the
/// second to get the account has the lowest number, and one in between stays open.
#[tokio::test(flavor = "multi_thread")]
async fn events_of_an_account_come_in_the_order_in_which_transactions_got_it() {
    let service = Service::open(&shared().platform, "outbox_order").await;
    let relay = service.relay(&[("HELD_BACK_ALARM_MS", "200")]);
    let pool = PgPoolOptions::new().max_connections(3).connect_with((*service.owner.connect_options()).clone());
    let pool = pool.await.unwrap();
    let account = Uuid::new_v4();
    sqlx::query("insert into account (user_id) values ($1)").bind(account).execute(&pool).await.unwrap();
    let mut transactions = Vec::new();
    for _ in 0..3 {
        let mut transaction = pool.begin().await.unwrap();
        sqlx::query("select pg_current_xact_id()::text").execute(&mut *transaction).await.unwrap();
        transactions.push(transaction);
    }
    let (newest, open, oldest) =
        (transactions.pop().unwrap(), transactions.pop().unwrap(), transactions.pop().unwrap());
    let mut expected = Vec::new();
    for mut transaction in [newest, oldest] {
        let change = sqlx::query("update account set version = version + 1 where user_id = $1").bind(account);
        change.execute(&mut *transaction).await.unwrap();
        let data = erased(account);
        let event = Event::new("user.erased", &data);
        millrace_outbox::write(&mut *transaction, &event).await.unwrap();
        transaction.commit().await.unwrap();
        expected.push(event.id);
    }
    eventually("they are held back", async || {
        metric(&relay, "millrace_outbox_held_back_seconds").await > 0.5
            && metric(&relay, "millrace_outbox_lag_rows").await == 2.0
    })
    .await;
    assert!(ids(&service, account).is_empty());
    open.rollback().await.unwrap();
    service.everything_is_published().await;
    assert_eq!(ids(&service, account), expected);
    assert_eq!(relay.stop(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_holds_events_back_is_named() {
    let service = Service::open(&shared().platform, "outbox_alarm").await;
    let relay = service.relay(&[("HELD_BACK_ALARM_MS", "200")]);
    let slow = (*service.owner.connect_options()).clone().application_name("month's end");
    let mut slow = PgConnection::connect_with(&slow).await.unwrap();
    let pid: i32 = sqlx::query_scalar("select pg_backend_pid()").fetch_one(&mut slow).await.unwrap();
    let mut open = slow.begin().await.unwrap();
    sqlx::query("select pg_current_xact_id()::text").execute(&mut *open).await.unwrap();
    let account = Uuid::new_v4();
    let id = write(&service, "user.erased", &erased(account)).await;
    let named = || relay.log().lines().any(|line| line.contains("held back") && line.contains(&format!("pid {pid},")));
    eventually("it is named", async || named()).await;
    assert!(relay.log().contains("month''s end"), "{}", relay.log());
    assert!(metric(&relay, "millrace_outbox_held_back_seconds").await > 0.0);
    open.commit().await.unwrap();
    service.everything_is_published().await;
    assert_eq!(ids(&service, account), [id]);
    eventually("it is over", async || metric(&relay, "millrace_outbox_held_back_seconds").await == 0.0).await;
    assert_eq!(relay.stop(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_fits_no_contract_is_set_aside_with_the_reason_and_can_be_replayed() {
    let service = Service::open(&shared().platform, "outbox_aside").await;
    let relay = service.relay(&[]);
    let account = Uuid::new_v4();
    let before = write(&service, "user.erased", &erased(account)).await;
    let bad = write(&service, "user.erased", &json!({ "user_id": account, "requested_by": 7 })).await;
    let unknown = write(&service, "user.vanished", &erased(account)).await;
    let after = write(&service, "user.erased", &erased(account)).await;
    service.everything_is_published().await;
    assert_eq!(ids(&service, account), [before, after]);
    let aside: Vec<(Uuid, String)> = sqlx::query_as("select id, reason from millrace.outbox_set_aside order by seq")
        .fetch_all(&service.owner)
        .await
        .unwrap();
    assert_eq!(aside[0], (bad, "/data/requested_by: expected a string, found 7".to_owned()));
    assert!(aside[1].0 == unknown && aside[1].1.contains("the nearest is `user.erased`"), "{aside:?}");
    eventually("they are counted", async || metric(&relay, "millrace_outbox_set_aside").await == 2.0).await;

    let repair = sqlx::query("update millrace.outbox_set_aside set data = $1::json where id = $2");
    repair.bind(erased(account).to_string()).bind(bad).execute(&service.owner).await.unwrap();
    let replayed = "select count(*) filter (where millrace.outbox_replay(seq)) from millrace.outbox_set_aside where type = 'user.erased'";
    assert_eq!(service.number(replayed).await, 1);
    service.everything_is_published().await;
    assert_eq!(ids(&service, account), [before, after, bad]);
    assert_eq!(service.number("select count(*) from millrace.outbox_set_aside").await, 1);
    assert_eq!(relay.stop(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_no_event_can_be_is_set_aside_and_those_behind_it_go_on() {
    let service = Service::open(&shared().platform, "outbox_unfit").await;
    let account = Uuid::new_v4();
    let before = write(&service, "user.erased", &erased(account)).await;
    let unfit = "insert into millrace.outbox (type, data, occurred_at, written_at) values
        ('user.erased', $1::json, 'infinity', 'infinity'), ('user.erased', $1::json, '294000-01-01', '294000-01-01'),
        ('user.erased', $1::json, '-infinity', '-infinity'), ('user.erased', $1::json, '0044-03-15 BC', now()),
        ('user.erased', to_json(repeat('x', 20000000)), now(), now())";
    sqlx::query(unfit).bind(erased(account).to_string()).execute(&service.owner).await.unwrap();
    let after = write(&service, "user.erased", &erased(account)).await;
    let relay = service.relay(&[]);
    service.everything_is_published().await;
    assert_eq!(ids(&service, account), [before, after]);
    let reasons = "select reason from millrace.outbox_set_aside order by seq";
    let reasons: Vec<String> = sqlx::query_scalar(reasons).fetch_all(&service.owner).await.unwrap();
    let (time, large) = reasons.split_at(4);
    assert!(time.iter().all(|reason| reason == "/time: expected a time in the years 1 to 9999"), "{reasons:?}");
    assert_eq!(large, ["too large: 20000002 bytes where 16777216 are possible"]);
    assert_eq!(relay.stop(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_a_sequence_was_set_back_nothing_is_skipped_or_emptied_and_the_log_says_what_to_do() {
    let service = Service::open(&shared().platform, "outbox_set_back").await;
    let account = Uuid::new_v4();
    let relay = service.relay(&[]);
    let mut expected = vec![write(&service, "user.erased", &erased(account)).await];
    service.everything_is_published().await;
    assert_eq!(relay.stop(), 0);

    // As in a copy without sequences that went on; the row lies where it would be emptied.
    let ahead = "select setval('millrace.outbox_published', 500)";
    assert_eq!(service.number(ahead).await, 500);
    expected.push(write(&service, "user.erased", &erased(account)).await);
    let old = "update millrace.outbox set slot = (extract(epoch from now())::bigint / 60 + 2) % 4";
    sqlx::query(old).execute(&service.owner).await.unwrap();
    let relay = service.relay(&[]);
    let advice = "select setval('millrace.outbox_seq', 500), setval('millrace.outbox_published', 0)";
    eventually("it says so, and again", async || relay.log().matches(advice).count() > 1).await;
    assert_eq!(service.number("select count(*) from millrace.outbox").await, 2);
    sqlx::query(advice).execute(&service.owner).await.unwrap();
    eventually("all is emptied", async || service.number("select count(*) from millrace.outbox").await == 0).await;
    assert_eq!(ids(&service, account), expected);
    assert_eq!(relay.stop(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn avro_and_every_attribute_travel_and_a_key_that_is_another_one_does_not() {
    let service = Service::open(&shared().platform, "outbox_avro").await;
    let (account, id) = (Uuid::new_v4(), Uuid::new_v4());
    let datum = [&[72][..], account.to_string().as_bytes(), &[4], b"it"].concat(); // lengths are zigzag
    let insert = "insert into millrace.outbox (id, type, key, avro, occurred_at, correlation_id, causation_id, traceparent)
        values ($1, 'user.erased', $2, $3, '2026-01-02T03:04:05.000006Z', 'c1', 'c2', '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01')";
    let insert = sqlx::query(insert).bind(id).bind(account.to_string()).bind(&datum);
    insert.execute(&service.owner).await.unwrap();
    let other = sqlx::query("insert into millrace.outbox (type, key, avro) values ('user.erased', 'another', $1)");
    other.bind(&datum).execute(&service.owner).await.unwrap();
    let relay = service.relay(&[("SOURCE", "/accounts")]);
    service.everything_is_published().await;
    assert_eq!(ids(&service, account), [id]);
    let headers = crate::gateway::headers(&service.platform.addresses().kafka, id);
    for header in [
        "ce_time=2026-01-02T03:04:05.000006Z",
        "ce_source=/accounts",
        "ce_correlationid=c1",
        "ce_causationid=c2",
        "traceparent=00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    ] {
        assert!(headers.contains(header), "{header} in {headers}");
    }
    let reason: String =
        sqlx::query_scalar("select reason from millrace.outbox_set_aside").fetch_one(&service.owner).await.unwrap();
    assert!(reason.starts_with("/subject: expected `user_id` of the data"), "{reason}");
    assert_eq!(relay.stop(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_is_emptied_once_all_of_it_is_published_and_nobody_writes_into_it() {
    let service = Service::open(&shared().platform, "outbox_empties").await;
    let account = Uuid::new_v4();
    // As two minutes ago.
    let old = "insert into millrace.outbox (slot, type, data)
        select (extract(epoch from now())::bigint / 60 + 2) % 4, 'user.erased', $1::json from generate_series(1, 3)";
    sqlx::query(old).bind(erased(account).to_string()).execute(&service.owner).await.unwrap();
    let mut open = service.owner.begin().await.unwrap();
    let one =
        "insert into millrace.outbox (slot, type, data) select min(slot), 'user.erased', $1::json from millrace.outbox";
    sqlx::query(one).bind(erased(account).to_string()).execute(&mut *open).await.unwrap();
    let relay = service.relay(&[]);
    eventually("it publishes", async || is_leading(&relay).await).await;
    open.commit().await.unwrap();
    eventually("the partition is empty", async || service.number("select count(*) from millrace.outbox").await == 0)
        .await;
    assert_eq!(ids(&service, account).len(), 4);
    assert_eq!(relay.stop(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_relay_serves_many_databases_and_one_that_is_away_keeps_no_other_waiting() {
    let platform = &shared().platform;
    let (orders, accounts) =
        (Service::open(platform, "outbox_orders").await, Service::open(platform, "outbox_accounts").await);
    let other = [
        ("MILLRACE_OUTBOX__OUTBOX_ACCOUNTS__URL", accounts.relay_url.as_str()),
        ("MILLRACE_OUTBOX__AWAY__URL", "postgres://millrace_relay@127.0.0.1:1/away"),
    ];
    let mut command = platform.command();
    command.args(["relay", "outbox_orders", "outbox_accounts", "away"]).envs(other);
    command.env("MILLRACE_OUTBOX__OUTBOX_ORDERS__URL", &orders.relay_url);
    let relay = Role::start(&mut command, &platform.data, "many");
    let account = Uuid::new_v4();
    let written = [
        write(&orders, "user.erased", &erased(account)).await,
        write(&accounts, "user.erased", &erased(account)).await,
    ];
    orders.everything_is_published().await;
    accounts.everything_is_published().await;
    let found: HashSet<Uuid> = ids(&orders, account).into_iter().collect();
    assert_eq!(found, HashSet::from(written));
    let ready = reqwest::get(format!("{}/readyz", relay.ops().await)).await.unwrap();
    assert_eq!(ready.status(), 503);
    let ready: Value = ready.json().await.unwrap();
    assert!(ready["checks"]["outboxes"].as_str().unwrap().starts_with("outbox away: "), "{ready}");
    assert_eq!(relay.stop(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sleeping_relay_is_woken_by_the_commit() {
    let service = Service::open(&shared().platform, "outbox_wakes").await;
    let relay = service.relay(&[("POLL_MS", "60000"), ("LEASE_MS", "600000")]);
    let asleep = "select count(*) from pg_locks where locktype = 'advisory' and mode = 'ExclusiveLock' and granted
        and database = (select oid from pg_database where datname = current_database())";
    let account = Uuid::new_v4();
    let mut expected = Vec::new();
    for _ in 0..3 {
        eventually("it sleeps", async || service.number(asleep).await == 1).await;
        let since = std::time::Instant::now();
        expected.push(write(&service, "user.erased", &erased(account)).await);
        service.everything_is_published().await;
        assert!(since.elapsed().as_secs() < 30, "nobody woke it");
    }
    assert_eq!(ids(&service, account), expected);
    assert_eq!(relay.stop(), 0);
}
