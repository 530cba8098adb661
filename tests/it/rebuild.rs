//! A table made anew from the log takes the old one's place, and nobody notices but by what is right again.

use crate::between::{Asked, stand_before};
use crate::clients;
use crate::erasure;
use crate::exactly_once::{applied, planned};
use crate::gate::Gate;
use crate::held_back::HeldBack;
use crate::onlooker::Onlooker;
use crate::platform::{Finished, Platform, Role, eventually};
use crate::shop::Shop;
use crate::verify::named_in;
use millrace_local::Server;
use rustix::process::Signal;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};

/// In all tables.
async fn events(shop: &Shop) -> i64 {
    shop.platform.number("select count() from merge('events', '.*')").await
}

pub async fn mutate(platform: &Platform, sql: &str) {
    platform.clickhouse(&format!("{sql} settings mutations_sync = 2")).await;
}

fn rebuild(shop: &Shop, arguments: &[&str]) -> Finished {
    shop.platform.run(&[&["rebuild", "clickhouse", "--json"], arguments].concat())
}

fn rebuilt(shop: &Shop, arguments: &[&str]) -> Value {
    let done = rebuild(shop, arguments);
    assert_eq!(done.code(), 0, "{}{}", done.out, done.err);
    done.json()
}

fn refused(shop: &Shop, arguments: &[&str], why: &str) {
    let done = rebuild(shop, arguments);
    assert_eq!(done.code(), 1, "{}{}", done.out, done.err);
    assert!(done.err.contains(why), "{}", done.err);
}

async fn nothing_is_left_over(platform: &Platform) {
    assert_eq!(platform.number("select count() from system.tables where database = 'events_shadow'").await, 0);
}

/// Where it dies in [`a_rebuild_that_dies_anywhere_has_changed_nothing_or_everything`].
pub const CRASH_POINTS: [&str; 4] =
    ["rebuild_filled", "rebuild_caught_up", "rebuild_before_exchange", "rebuild_exchanged"];

#[tokio::test(flavor = "multi_thread")]
async fn what_was_lost_or_altered_is_right_again_while_events_flow() {
    let mut shop = Shop::open().await;
    let (process, sink) = (shop.member("process", &["process"], &erasure::OFTEN), shop.member("sink", &["sink"], &[]));
    shop.publish(8_000, &[]);
    shop.assert_equals_the_oracle();
    erasure::assert_forgotten(&shop.platform).await;
    let lost = shop.platform.number("select count() from events.user_registered").await;
    for damage in [
        "alter table events_raw.order_placed delete where _offset % 3 = 0",
        "alter table events_raw.order_placed update total = total + 1 where _offset % 3 = 1",
        "alter table events_raw.user_registered delete where 1",
    ] {
        mutate(&shop.platform, damage).await;
    }
    what_a_dead_rebuild_left_is_erased_too(&shop).await;
    // Who asks from now on is erased a little later.
    let asked = shop.platform.number("select toUnixTimestamp64Micro(now64(6))").await;
    let traffic = shop.publishing(300);
    let onlooker = Onlooker::of(&shop.platform);
    let orders = rebuilt(&shop, &["order_placed"]);
    let people = rebuilt(&shop, &["user_registered"]);
    let looks = onlooker.leaves().await;
    assert_eq!(looks.unanswered, Vec::<String>::new(), "who reads a view notices nothing");
    println!("{} looks at the views while they were made anew", looks.answered.len());
    assert!(looks.answered.len() >= 5, "so few looks show nothing: {}", looks.answered.len());
    assert!(orders["after"].as_u64() > orders["before"].as_u64(), "{orders}");
    assert!(people["after"].as_i64().unwrap() >= people["before"].as_i64().unwrap() + lost, "{people} of {lost}");
    let seen = format!(
        "select countIf(email != '' and user_id in (select toUUID(subject) from erasure.subject
         where recorded_at < fromUnixTimestamp64Micro({asked}))) from events_raw.user_registered"
    );
    assert_eq!(shop.platform.number(&seen).await, 0, "who was erased was seen again");
    shop.stop_publishing(traffic);
    shop.assert_equals_the_oracle();
    let verified = shop.platform.run(&["verify", "clickhouse"]);
    assert_eq!(verified.code(), 0, "{}{}", verified.out, verified.err);
    nothing_is_left_over(&shop.platform).await;
    assert_eq!([process, sink].map(Role::stop), [0, 0]);
    shop.platform.stop().await;
}

/// It holds what the log still knows of people who were erased.
async fn what_a_dead_rebuild_left_is_erased_too(shop: &Shop) {
    let arguments = ["rebuild", "clickhouse", "user_registered"];
    let mut dying = shop.member("rebuild", &arguments, &[("MILLRACE_CRASH_AT", "rebuild_filled")]);
    assert_eq!(dying.ended().await.signal(), Some(Signal::ABORT.as_raw()), "{}", dying.log());
    let shadow = "merge('events_shadow', '^user_registered-')";
    assert!(shop.platform.number(&format!("select count() from {shadow}")).await > 0);
    let held = format!(
        "select countIf(email != '' and user_id in (select toUUID(subject) from erasure.subject)) from {shadow}"
    );
    eventually("nothing is held of who asked", async || shop.platform.number(&held).await == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_that_dies_anywhere_has_changed_nothing_or_everything() {
    let mut shop = Shop::open().await;
    let (process, sink) = (shop.member("process", &["process"], &[]), shop.member("sink", &["sink"], &[]));
    for point in CRASH_POINTS {
        shop.publish(500, &[]);
        shop.assert_equals_the_oracle();
        let traffic = shop.publishing(300);
        let arguments = ["rebuild", "clickhouse", "order_placed"];
        let mut dying = shop.member("rebuild", &arguments, &[("MILLRACE_CRASH_AT", point)]);
        let status = dying.ended().await;
        assert_eq!(status.signal(), Some(Signal::ABORT.as_raw()), "{point}: {}", dying.log());
        shop.stop_publishing(traffic);
        shop.assert_equals_the_oracle();
    }
    rebuilt(&shop, &["order_placed"]);
    shop.assert_equals_the_oracle();
    nothing_is_left_over(&shop.platform).await;
    assert_eq!([process, sink].map(Role::stop), [0, 0]);
    shop.platform.stop().await;
}

/// A rebuild that has asked for the exchange, while everything else goes on.
struct AtTheExchange {
    shop: Shop,
    roles: [Role; 2],
    held: HeldBack,
    rebuild: Role,
}

impl AtTheExchange {
    async fn come() -> Self {
        let mut shop = Shop::open().await;
        let roles = [shop.member("process", &["process"], &[]), shop.member("sink", &["sink"], &[])];
        shop.publish(500, &[]);
        shop.assert_equals_the_oracle();
        let held = HeldBack::before(&shop.platform.addresses().clickhouse, "exchange tables").await;
        let arguments = ["rebuild", "clickhouse", "order_placed"];
        let rebuild = shop.member("rebuild", &arguments, &[("MILLRACE_CLICKHOUSE__URL", &held.url)]);
        held.arrived().await;
        Self { shop, roles, held, rebuild }
    }
}

/// A server that hangs may carry an exchange out when whoever asked for it is dead, and everything else has gone on.
#[tokio::test(flavor = "multi_thread")]
async fn an_exchange_that_is_carried_out_late_finds_nothing_to_exchange() {
    let AtTheExchange { mut shop, roles, held, mut rebuild } = AtTheExchange::come().await;
    rebuild.kill();
    shop.publish(500, &[]);
    shop.assert_equals_the_oracle();
    let answer = held.let_go().await;
    assert!(answer.contains("UNKNOWN_TABLE"), "{answer}");
    shop.assert_equals_the_oracle();
    nothing_is_left_over(&shop.platform).await;
    rebuilt(&shop, &["order_placed"]);
    shop.assert_equals_the_oracle();
    assert_eq!(roles.map(Role::stop), [0, 0]);
    shop.platform.stop().await;
}

/// The locks that keep inserts away end with their connections; what is inserted then must not be exchanged away.
#[tokio::test(flavor = "multi_thread")]
async fn when_postgres_restarts_while_tables_are_exchanged_no_event_is_lost() {
    let AtTheExchange { mut shop, roles, held, mut rebuild } = AtTheExchange::come().await;
    shop.platform.kill_server(Server::Postgres).await;
    shop.publish(500, &[]);
    shop.assert_equals_the_oracle();
    held.let_go().await;
    assert_eq!(rebuild.ended().await.code(), Some(1), "{}", rebuild.log());
    assert!(rebuild.log().contains("the tables were not exchanged"), "{}", rebuild.log());
    shop.assert_equals_the_oracle();
    nothing_is_left_over(&shop.platform).await;
    assert_eq!(roles.map(Role::stop), [0, 0]);
    shop.platform.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_range_is_read_again_and_no_event_is_lost_unasked() {
    let mut shop = Shop::open().await;
    let process = shop.member("process", &["process", "clickhouse"], &[]);
    shop.publish(3_000, &[]);
    eventually("all is there", async || events(&shop).await == 3_000).await;
    assert_eq!(process.stop(), 0);
    let count = "select count() from events.page_viewed";
    let views = shop.platform.number(count).await;
    mutate(&shop.platform, "alter table events_raw.page_viewed update load_ms = 77 where 1").await;
    let half = shop.platform.number("select quantileExact(0.5)(_offset) from events.page_viewed").await;
    let since = format!("--from={half}");
    rebuilt(&shop, &["page_viewed", &since]);
    let altered = format!("select countIf(load_ms != 77) from events.page_viewed where _offset < {half}");
    assert_eq!(shop.platform.number(&altered).await, 0, "what lies before the range was carried over as it was");
    let right = format!("select countIf(load_ms = 77) * 10 < count() from events.page_viewed where _offset >= {half}");
    assert_eq!(shop.platform.number(&right).await, 1, "what lies in it is as the log has it");
    assert_eq!(shop.platform.number(count).await, views);
    // An event that the log does not have is not lost unasked, also where one is found again for it.
    mutate(
        &shop.platform,
        "alter table events_raw.page_viewed delete where event_id = (select min(event_id) from events_raw.page_viewed)",
    )
    .await;
    let invented = "insert into events_raw.page_viewed select * replace (generateUUIDv4() as event_id)
                    from events_raw.page_viewed limit 1";
    shop.platform.clickhouse(invented).await;
    refused(&shop, &["page_viewed"], "--fewer does without them");
    assert_eq!(shop.platform.number(count).await, views);
    let told = rebuilt(&shop, &["page_viewed", "--fewer", "--since=2020-01-01T00:00:00Z"]);
    assert_eq!((&told["left_out"], &told["kept"], &told["rejected"]), (&json!(1), &json!(0), &json!(0)), "{told}");
    assert_eq!(shop.platform.number(count).await, views);
    refused_ranges(&shop);
    another_type(&shop, half).await;
    letters_are_looked_at_once_none_is_replayed_any_more(&shop).await;
    shop.platform.stop().await;
}

/// By offsets up to one, and by times: `verify` names what is wrong there, and what is outside stays as it was.
#[tokio::test(flavor = "multi_thread")]
async fn a_range_ends_where_it_says_and_how_far_it_is_is_told() {
    let mut shop = Shop::open().await;
    let process = shop.member("process", &["process", "clickhouse"], &[]);
    shop.publish(1_500, &[]);
    eventually("the first half is there", async || events(&shop).await == 1_500).await;
    let early = differing(&shop, "true").await;
    let between = format!("{:?}", chrono::Utc::now());
    shop.publish(1_500, &[]);
    eventually("all is there", async || events(&shop).await == 3_000).await;
    assert_eq!(process.stop(), 0);
    let late: BTreeSet<_> = differing(&shop, "true").await.difference(&early).cloned().collect();
    let named = |range: &str| BTreeSet::from_iter(named_in(&shop, &["--topic=shop.visit.v1", range]));
    let damage =
        async || mutate(&shop.platform, "alter table events_raw.page_viewed update load_ms = -7 where 1").await;
    let wrong = async |which: &str| {
        shop.platform.number(&format!("select countIf(load_ms = -7) from events.page_viewed where {which}")).await
    };

    damage().await;
    let (within, beyond) = (wrong("_offset < 100").await, wrong("_offset >= 100").await);
    assert!(within > 0 && beyond > 0, "{within} and {beyond}");
    assert_eq!(named("--to=100"), differing(&shop, "_offset < 100").await);
    assert_eq!(named("--from=100"), differing(&shop, "_offset >= 100").await);
    let to = rebuild(&shop, &["page_viewed", "--to=100"]);
    assert_eq!(to.code(), 0, "{}", to.err);
    let said = ["carries over what lies outside: ", " months carried over, 0ns left"];
    said.iter().for_each(|said| assert!(to.err.contains(said), "{said}: {}", to.err));
    assert_eq!((wrong("_offset < 100").await, wrong("_offset >= 100").await), (0, beyond));

    damage().await;
    let (since, until) = (format!("--since={between}"), format!("--until={between}"));
    assert_eq!((named(&until), named(&since)), (early, late.clone()));
    let until = rebuild(&shop, &["page_viewed", &until]);
    assert_eq!((until.code(), wrong("true").await), (0, late.len() as i64), "{}", until.err);
    let told = until.err.lines().filter(|line| line.contains(" offsets (100 %), 0ns left")).count();
    assert_eq!(told, 1, "{}", until.err);
    assert_eq!(named(&since), late);
    rebuilt(&shop, &["page_viewed", &since]);
    assert_eq!((wrong("true").await, events(&shop).await), (0, 3_000));
    let verified = shop.platform.run(&["verify", "clickhouse"]);
    assert_eq!(verified.code(), 0, "{}{}", verified.out, verified.err);
    shop.platform.stop().await;
}

/// As `verify` names page views that are not as they were.
async fn differing(shop: &Shop, which: &str) -> BTreeSet<String> {
    let sql =
        format!("select 'differs page_viewed ' || toString(event_id) as it from events.page_viewed where {which}");
    shop.platform.clickhouse(&sql).await.iter().map(|row| row["it"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_insert_that_fails_once_does_not_end_a_rebuild_and_a_table_that_is_gone_does() {
    let mut shop = Shop::open().await;
    let process = shop.member("process", &["process", "clickhouse"], &[]);
    shop.publish(2_000, &[]);
    eventually("all is there", async || events(&shop).await == 2_000).await;
    let failed = AtomicBool::new(false);
    let once = move |path: &str| (!failed.swap(true, Ordering::Relaxed)).then(|| format!("{path}&readonly=1"));
    let gone = |path: &str| Some(path.replace("page_viewed-", "gone-"));
    let done = rebuild_where_inserts_are(&shop, once).await;
    assert_eq!(done.code(), 0, "{}{}", done.out, done.err);
    assert!(done.err.contains("READONLY"), "it never failed:\n{}", done.err);
    let done = rebuild_where_inserts_are(&shop, gone).await;
    assert!(done.code() == 1 && done.err.contains("UNKNOWN_TABLE"), "{}{}", done.out, done.err);
    assert_eq!((events(&shop).await, process.stop()), (2_000, 0));
    shop.platform.stop().await;
}

/// Each of them asked by another path, where there is one.
async fn rebuild_where_inserts_are(
    shop: &Shop,
    other: impl Fn(&str) -> Option<String> + Send + Sync + 'static,
) -> Finished {
    let changed = move |asked: Asked| {
        let is_insert = asked.path.contains("events_shadow") && asked.path.contains("Native");
        let other = is_insert.then(|| other(&asked.path)).flatten();
        Asked { path: other.unwrap_or(asked.path), ..asked }
    };
    let url = stand_before(&shop.platform.addresses().clickhouse, changed).await;
    let mut rebuild = shop.platform.command();
    Finished::of(rebuild.args(["rebuild", "clickhouse", "page_viewed"]).env("MILLRACE_CLICKHOUSE__URL", url))
}

async fn letters_are_looked_at_once_none_is_replayed_any_more(shop: &Shop) {
    let postgres = shop.platform.postgres().await;
    let mut held = postgres.begin().await.unwrap();
    sqlx::query("lock table millrace.dead_letter").execute(&mut *held).await.unwrap();
    let rebuild = shop.platform.role(&["rebuild", "clickhouse", "page_viewed"]);
    let is_there = async |lock: &str| {
        let sql = format!("select exists (select from pg_locks where {lock})");
        sqlx::query_scalar::<_, bool>(sqlx::AssertSqlSafe(sql)).fetch_one(&postgres).await.unwrap()
    };
    let waiting = "relation = 'millrace.dead_letter'::regclass and not granted";
    eventually("it wants to look at dead letters", async || is_there(waiting).await).await;
    assert!(is_there("locktype = 'advisory' and classid = 7170306 and granted").await, "{}", rebuild.log());
    held.rollback().await.unwrap();
    let (code, out) = rebuild.finish();
    assert_eq!(code, 0, "{out}");
}

/// A compacted log lets go of what was followed by a later state; the table keeps it. What cannot be read is counted.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_compacted_log_let_go_of_is_kept() {
    let mut shop = Shop::open().await;
    let process = shop.member("process", &["process", "clickhouse"], &[]);
    shop.publish(3_000, &[]);
    let postgres = shop.platform.postgres().await;
    eventually("all is settled", async || applied(&postgres).await == 3_000).await;
    // A tombstone has no row: the place of a record that is gone.
    let before = settled(&shop).await;
    kcat(&shop, &["-Z", "-K", "|", "-l"], "gone|\n");
    eventually("the tombstone is settled", async || settled(&shop).await != before).await;
    let (partition, next) = settled(&shop).await.into_iter().find(|place| !before.contains(place)).unwrap();
    kcat(&shop, &["-k", "unreadable"], "no Avro");
    let letters = "select count(*) from millrace.dead_letter where pipeline = 'clickhouse'";
    eventually("it is a dead letter", async || {
        sqlx::query_scalar::<_, i64>(letters).fetch_one(&postgres).await.unwrap() == 1
    })
    .await;
    assert_eq!(process.stop(), 0);
    let earlier = format!(
        "insert into events_raw.product_changed
         select * replace (generateUUIDv4() as event_id, {partition} as _partition, {} as _offset)
         from events_raw.product_changed limit 1",
        next - 1
    );
    shop.platform.clickhouse(&earlier).await;
    let products = shop.platform.number("select count() from events.product_changed").await;
    let told = rebuilt(&shop, &["product_changed"]);
    assert_eq!((&told["kept"], &told["left_out"], &told["rejected"]), (&json!(1), &json!(0), &json!(1)), "{told}");
    assert_eq!(shop.platform.number("select count() from events.product_changed").await, products);
    shop.platform.stop().await;
}

/// Of the compacted topic.
async fn settled(shop: &Shop) -> Vec<(i32, i64)> {
    let sql =
        "select partition, next from millrace.checkpoint where pipeline = 'clickhouse' and topic = 'shop.product.v1'";
    sqlx::query_as(sql).fetch_all(&shop.platform.postgres().await).await.unwrap()
}

/// Puts a record into the compacted topic.
fn kcat(shop: &Shop, arguments: &[&str], record: &str) {
    let file = shop.platform.data.join("record");
    std::fs::write(&file, record).unwrap();
    let mut kcat = clients::kcat(&shop.platform.addresses().kafka);
    kcat.args(["-P", "-t", "shop.product.v1"]).args(arguments).arg(&file);
    assert!(kcat.stdin(Stdio::null()).status().unwrap().success());
}

fn refused_ranges(shop: &Shop) {
    for (arguments, why) in [
        (["page_viewed", "--since=2999-01-01T00:00:00Z"], "holds nothing of that range"),
        (["no_such_table", "--from=0"], "no contract has the table `no_such_table`"),
    ] {
        let done = rebuild(shop, &arguments);
        assert_eq!(done.code(), 64, "{}{}", done.out, done.err);
        assert!(done.err.contains(why), "{}", done.err);
    }
}

/// A column that somebody gave another type is what the contract says afterwards.
async fn another_type(shop: &Shop, half: i64) {
    mutate(&shop.platform, "alter table events_raw.page_viewed modify column load_ms Float64").await;
    for by_hand in ["place Int64 materialized _offset + 1", "late Bool alias _offset > 1000"] {
        mutate(&shop.platform, &format!("alter table events_raw.page_viewed add column {by_hand}")).await;
    }
    let no_integer = format!("alter table events_raw.page_viewed update load_ms = 0.5 where _offset < {half}");
    mutate(&shop.platform, &no_integer).await;
    // A row that is carried over keeps its value, or there is no new table.
    refused(shop, &["page_viewed", &format!("--from={half}")], "load_ms");
    rebuilt(shop, &["page_viewed"]);
    mutate(&shop.platform, "alter table events_raw.page_viewed modify column load_ms String").await;
    let migrate = shop.platform.run(&["migrate"]);
    assert!(migrate.err.contains("`millrace rebuild clickhouse page_viewed`"), "{}", migrate.err);
    rebuilt(shop, &["page_viewed"]);
    let migrate = shop.platform.run(&["migrate"]);
    assert_eq!(migrate.code(), 0, "{}", migrate.err);
    let verified = shop.platform.run(&["verify", "clickhouse"]);
    assert_eq!(verified.code(), 0, "{}{}", verified.out, verified.err);
}

/// Rows that are on their way may be in the old table, and a settled batch must not be. Its next owner inserts it anew.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_whose_owner_is_gone_holds_no_rebuild_up_and_is_not_lost() {
    let mut shop = Shop::open().await;
    let crashing = [("MILLRACE_CRASH_AT", "clickhouse_inserted")];
    let process = shop.member("process", &["process", "clickhouse"], &[]);
    // A shop's first events fill its shelves: with fewer, nothing of a visit has taken effect.
    shop.publish(2_000, &[]);
    eventually("all is there", async || events(&shop).await == 2_000).await;
    assert_eq!(process.stop(), 0);
    let mut crashed = shop.member("process", &["process", "clickhouse"], &crashing);
    shop.publish(2_000, &[]);
    assert_eq!(crashed.ended().await.signal(), Some(Signal::ABORT.as_raw()), "{}", crashed.log());
    let topics = "select distinct topic from millrace.checkpoint where pipeline = 'clickhouse' and plan is not null";
    let open: Vec<String> = sqlx::query_scalar(topics).fetch_all(&shop.platform.postgres().await).await.unwrap();
    let tables = [
        ("shop.order.v1", "order_placed"),
        ("shop.visit.v1", "page_viewed"),
        ("shop.account.v1", "user_registered"),
        ("shop.subscription.v1", "subscription_changed"),
        ("shop.product.v1", "product_changed"),
    ];
    let (_, table) = tables.iter().find(|(topic, _)| open.iter().any(|open| open == topic)).expect("a plan was left");
    rebuilt(&shop, &[table]);
    let process = shop.member("process", &["process", "clickhouse"], &[]);
    eventually("all is there", async || events(&shop).await == 4_000).await;
    let verified = shop.platform.run(&["verify", "clickhouse"]);
    assert_eq!(verified.code(), 0, "{}{}", verified.out, verified.err);
    assert_eq!(process.stop(), 0);
    shop.platform.stop().await;
}

/// A server that hangs has its rows in hand for longer than a rebuild waits: they are not settled before their owner has
/// looked for them in the table that is new.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_takes_too_long_holds_no_rebuild_up_and_begins_anew() {
    let mut shop = Shop::open().await;
    let gate = Gate::before(&shop.platform.addresses().clickhouse).await;
    let through = [("MILLRACE_CLICKHOUSE__URL", &*gate.url), ("MILLRACE_CLICKHOUSE__REQUEST_TIMEOUT_MS", "300000")];
    let mut process = shop.member("process", &["process", "clickhouse"], &through);
    let postgres = shop.platform.postgres().await;
    shop.publish(2_000, &[]);
    eventually("all is settled", async || events(&shop).await == 2_000 && planned(&postgres).await == 0).await;
    gate.open.send_replace(false);
    shop.publish(2_000, &[]);
    eventually("it inserts", async || planned(&postgres).await > 0).await;
    rebuilt(&shop, &["page_viewed"]);
    gate.open.send_replace(true);
    eventually("all is settled", async || events(&shop).await == 4_000 && planned(&postgres).await == 0).await;
    assert!(process.is_running() && process.log().contains("is being exchanged"), "{}", process.log());
    let verified = shop.platform.run(&["verify", "clickhouse"]);
    assert_eq!(verified.code(), 0, "{}{}", verified.out, verified.err);
    assert_eq!(process.stop(), 0);
    shop.platform.stop().await;
}
