//! Once, whoever else is at work: stale owners, moving partitions, repeated events, a server that forgets.

use crate::backpressure::metric;
use crate::clients::{judge, kcat};
use crate::gate::Gate;
use crate::kills::assert_copies_are_of_one_record;
use crate::platform::{Role, eventually};
use crate::shop::Shop;
use millrace_local::Server;
use millrace_schemas::{Contracts, Envelope, WriterSchema, value_from_json, wire};
use millrace_stream::{KafkaConfig, Outgoing, Publisher};
use rustix::process::Signal;
use serde_json::Value;
use sqlx::{AssertSqlSafe, PgPool, Postgres, Transaction};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

const PROCESSORS: [&str; 3] = ["clickhouse", "order_status", "customer_summary"];

/// One number from Postgres.
async fn number(postgres: &PgPool, sql: &'static str) -> i64 {
    sqlx::query_scalar(sql).fetch_one(postgres).await.unwrap()
}

/// Records that took effect in ClickHouse.
pub async fn applied(postgres: &PgPool) -> i64 {
    let sql = "select coalesce(sum(next), 0)::bigint from millrace.checkpoint where pipeline = 'clickhouse'";
    number(postgres, sql).await
}

async fn count(shop: &Shop, from: &str) -> i64 {
    shop.platform.number(&format!("select count() from {from}")).await
}

// ---- ClickHouse ----

#[tokio::test(flavor = "multi_thread")]
async fn half_a_block_that_a_server_lost_is_found_missing_and_inserted_again() {
    let mut shop = Shop::open().await;
    let _others = [
        shop.member("projections", &["process", "order_status", "customer_summary"], &[]),
        shop.member("webhook", &["sink"], &[]),
    ];
    let crashing = [("MILLRACE_CRASH_AT", "clickhouse_inserted")];
    shop.publish(2_000, &[]); // before anybody reads: a block of one row has no half
    let mut crashed = shop.member("clickhouse", &["process", "clickhouse"], &crashing);
    assert_eq!(crashed.ended().await.signal(), Some(Signal::ABORT.as_raw()), "{}", crashed.log());
    let (lost, planned) = lose_half_a_block(&shop).await;
    let process = shop.member("clickhouse", &["process", "clickhouse"], &[]);
    shop.assert_equals_the_oracle();
    let said = format!("{lost} of {planned} rows of an unfinished insert were not there: inserting these");
    assert!(process.log().contains(&said), "{said}, but:\n{}", process.log());
    assert_eq!(process.stop(), 0);
    shop.platform.stop().await;
}

/// What a server does that is killed between the parts of two months: some rows of a planned block are gone. How many,
/// and of how many.
async fn lose_half_a_block(shop: &Shop) -> (i64, i64) {
    shop.inserts_have_ended().await;
    let plans =
        "select topic, partition, next, (plan ->> 'to')::bigint from millrace.checkpoint where plan is not null";
    let plans: Vec<(String, i32, i64, i64)> =
        sqlx::query_as(plans).fetch_all(&shop.platform.postgres().await).await.unwrap();
    let range = |(topic, partition, from, to): &(String, i32, i64, i64)| {
        format!("_topic = '{topic}' and _partition = {partition} and _offset >= {from} and _offset < {to}")
    };
    let mut largest = (0, String::new());
    for range in plans.iter().map(range) {
        let blocks =
            "select _table as name, count() as n, toInt64(median(_offset)) as middle from merge('events_raw', '.*')";
        for block in shop.platform.clickhouse(&format!("{blocks} where {range} group by 1")).await {
            let table = format!("events_raw.{}", block["name"].as_str().unwrap());
            let half = format!("{table} delete where {range} and _offset <= {}", block["middle"]);
            largest = largest.max((block["n"].as_i64().unwrap(), half));
        }
    }
    let (planned, half) = largest;
    let table = half.split(' ').next().unwrap();
    let before = count(shop, table).await;
    shop.platform.clickhouse(&format!("alter table {half} settings mutations_sync = 2")).await;
    let lost = before - count(shop, table).await;
    assert!(0 < lost && lost < planned, "{lost} of {planned} rows were deleted by `{half}`");
    (lost, planned)
}

/// What the look after a repeated insert found missing, and of how many rows.
fn found_missing(log: &str) -> Vec<(i64, i64)> {
    let found = |line: &str| {
        let (counts, _) = line.split_once(" rows were not there after a repeated insert")?;
        let (missing, all) = counts.rsplit_once('"').unwrap().1.split_once(" of ")?;
        Some((missing.parse().unwrap(), all.parse().unwrap()))
    };
    log.lines().filter_map(found).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_killed_between_a_parts_token_and_its_rename_loses_nothing() {
    let mut shop = Shop::open().await;
    let _others = [
        shop.member("projections", &["process", "order_status", "customer_summary"], &[]),
        shop.member("webhook", &["sink"], &[]),
    ];
    // A block is a part a month, so the second rename can also leave half of one. Which insert's it is, is chance: of
    // the last part but one, of a system table's. So a loss is asked for once, and all is there again each time.
    let mut lost = 0;
    for tries in 1.. {
        for rename in [1, 2] {
            lost += missing_when_killed_at(&mut shop, rename).await.len();
        }
        if lost > 0 {
            break;
        }
        assert!(tries < 15, "nothing was ever lost, so nothing was shown");
    }
    shop.platform.stop().await;
}

/// Kills the engine at a rename while a batch is repeated; what the processor then found missing.
async fn missing_when_killed_at(shop: &mut Shop, rename: u32) -> Vec<(i64, i64)> {
    let crashing = [("MILLRACE_CRASH_AT", "clickhouse_planned")];
    let mut crashed = shop.member("clickhouse", &["process", "clickhouse"], &crashing);
    shop.publish(2_000, &[]);
    assert_eq!(crashed.ended().await.signal(), Some(Signal::ABORT.as_raw()), "{}", crashed.log());
    let (_strace, calls) = killed_at_rename(shop, rename).await;
    let process = shop.member("clickhouse", &["process", "clickhouse"], &[]);
    shop.assert_equals_the_oracle();
    let calls = std::fs::read_to_string(calls).unwrap();
    assert!(calls.contains("/tmp_insert_"), "it was not killed at the rename of what an insert wrote:\n{calls}");
    let missing = found_missing(&process.log());
    println!("killed at rename {rename}, rows missing though their token was known, and of how many: {missing:?}");
    assert_eq!(process.stop(), 0);
    missing
}

/// Lets the engine die when any of its threads is about to give a part its name for the n-th time: what it wrote down
/// before, its token among it, is on the disk. Who watches for that, and the file of what they saw.
async fn killed_at_rename(shop: &Shop, n: u32) -> (Role, PathBuf) {
    for others in ["merges", "cleanup"] {
        shop.platform.clickhouse(&format!("system stop {others}")).await; // they rename too
    }
    let engine = shop.platform.stack.pid(Server::ClickHouse).unwrap().to_string();
    let calls = shop.platform.data.join(format!("renames-{n}"));
    let mut command = Command::new("strace");
    if !rustix::process::geteuid().is_root() {
        command = Command::new("sudo"); // they may trace only what they have started themselves
        command.args(["-n", "strace"]);
    }
    command.args(["-f", "-p", &engine, "-e", "trace=/^rename", "-e"]);
    command.arg(format!("inject=/^rename:signal=KILL:when={n}")).arg("-o").arg(&calls);
    let mut strace = Role::start(&mut command, &shop.platform.data, "strace");
    eventually("the engine is watched", async || {
        assert!(strace.is_running(), "`make test` installs strace, and who is not root needs sudo: {}", strace.log());
        strace.log().contains("attached")
    })
    .await;
    (strace, calls)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_hangs_is_named_with_the_deadline_and_what_it_had_in_hand_counts_once() {
    let mut shop = Shop::open().await;
    let postgres = shop.platform.postgres().await;
    let gate = Gate::before(&shop.platform.addresses().clickhouse).await;
    let through = [("MILLRACE_CLICKHOUSE__URL", &*gate.url), ("MILLRACE_CLICKHOUSE__REQUEST_TIMEOUT_MS", "10000")];
    let _others = [
        shop.member("projections", &["process", "order_status", "customer_summary"], &[]),
        shop.member("webhook", &["sink"], &[]),
    ];
    let process = shop.member("clickhouse", &["process", "clickhouse"], &through);
    let traffic = shop.publishing(1_000);
    eventually("the flow is midway", async || applied(&postgres).await > 1_000).await;
    gate.open.send_replace(false);
    let said = format!("clickhouse at {} gave no answer within 10s", gate.url);
    let noticed = |line: &str| line.contains(&said) && line.contains("trying again");
    eventually("the pipeline notices", async || process.log().lines().any(noticed)).await;
    gate.open.send_replace(true); // and inserts arrive that nobody waits for any more
    shop.stop_publishing(traffic);
    shop.assert_equals_the_oracle();
    assert_eq!(process.stop(), 0);
    shop.platform.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_partitions_insert_while_the_server_is_busy_goes_in_as_one() {
    let mut shop = Shop::open().await;
    let postgres = shop.platform.postgres().await;
    shop.platform.clickhouse("system stop merges").await; // they too make one part of many
    let gate = Gate::before(&shop.platform.addresses().clickhouse).await;
    let through = [("MILLRACE_CLICKHOUSE__URL", &*gate.url), ("MILLRACE_CLICKHOUSE__REQUEST_TIMEOUT_MS", "60000")];
    let process = shop.member("clickhouse", &["process", "clickhouse"], &through);
    shop.publish(500, &[]);
    eventually("all is settled", async || {
        count(&shop, "merge('events', '.*')").await == 500 && planned(&postgres).await == 0
    })
    .await;
    gate.open.send_replace(false);
    shop.publish(3_000, &[]);
    eventually("every partition inserts", async || planned(&postgres).await == 6).await;
    gate.open.send_replace(true);
    eventually("all is there", async || count(&shop, "merge('events', '.*')").await == 3_500).await;
    assert_eq!(count(&shop, "merge('events_raw', '.*')").await, 3_500, "nothing is there twice");
    let shared = "select count() from (select _table, _part from merge('events_raw', '.*') group by all
                  having uniqExact(_partition) > 1)";
    assert!(shop.platform.number(shared).await > 0, "no part holds rows of several partitions");
    let verified = shop.platform.run(&["verify", "clickhouse"]);
    assert_eq!(verified.code(), 0, "{}{}", verified.out, verified.err);
    assert_eq!(process.stop(), 0);
    shop.platform.stop().await;
}

/// Partitions of the topic of most events whose rows are on their way.
pub async fn planned(postgres: &PgPool) -> i64 {
    let sql = "select count(*) from millrace.checkpoint where topic = 'shop.visit.v1' and plan is not null";
    number(postgres, sql).await
}

// ---- owners ----

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_owner_changes_nothing() {
    let mut shop = Shop::open().await;
    let postgres = shop.platform.postgres().await;
    let roles = || (shop.member("process", &["process"], &[]), shop.member("sink", &["sink"], &[]));
    let (mut process, mut sink) = roles();
    owning_everything(&process, &sink).await;
    let traffic = shop.publishing(1_000);
    eventually("the flow is midway", async || applied(&postgres).await > 1_000).await;
    // As another owner would, who has not begun yet.
    let raised = checkpoints(&postgres, "update millrace.checkpoint set epoch = epoch + 1").await;
    for role in [&mut process, &mut sink] {
        let (status, log) = (role.ended().await, role.log());
        assert_eq!(status.code(), Some(1), "{log}");
        assert!(log.lines().last().unwrap().ends_with("is stale); nothing was written"), "{log}");
    }
    let unchanged = "update millrace.checkpoint set epoch = epoch";
    assert_eq!(checkpoints(&postgres, unchanged).await, raised);
    let (process, sink) = roles();
    shop.stop_publishing(traffic);
    shop.assert_equals_the_oracle();
    assert_eq!((process.stop(), sink.stop()), (0, 0));
    shop.platform.stop().await;
}

/// Until then an epoch that a test raises is nobody's, and events wait for whoever reads them.
pub async fn owning_everything(process: &Role, sink: &Role) {
    let owns = |role: &Role, pipelines: &[&str]| pipelines.iter().all(|name| !assignments(role, name).is_empty());
    let everything = async || owns(process, &PROCESSORS) && owns(process, &["erasure"]) && owns(sink, &["webhook"]);
    eventually("they own everything", everything).await;
}

type Checkpoint = (String, String, i32, i64, i64);

/// All of them, after this update.
async fn checkpoints(postgres: &PgPool, update: &'static str) -> Vec<Checkpoint> {
    let returning = format!("{update} returning pipeline, topic, partition, epoch, next");
    let mut rows: Vec<Checkpoint> = sqlx::query_as(AssertSqlSafe(returning)).fetch_all(postgres).await.unwrap();
    rows.sort_unstable();
    rows
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_that_slept_through_its_sessions_end_does_no_harm() {
    let mut shop = Shop::open().await;
    let postgres = shop.platform.postgres().await;
    let roles = |name| (shop.member(name, &["process"], &[]), shop.member(name, &["sink"], &[]));
    let (mut process, mut sink) = roles("first");
    owning_everything(&process, &sink).await;
    let traffic = shop.publishing(1_000);
    eventually("the flow is midway", async || applied(&postgres).await > 1_000).await;
    // They fall asleep within transactions that will hold what their successors need.
    let gate =
        close(&postgres, "select next from millrace.checkpoint where pipeline in ('clickhouse', 'webhook')").await;
    eventually("batches are held up", async || waiting_for_a_lock(&postgres, "set next").await > 0).await;
    for role in [&process, &sink] {
        role.signal(Signal::STOP);
    }
    gate.rollback().await.unwrap();
    let (second_process, second_sink) = roles("second");
    let not_taken = "select count(*) from millrace.checkpoint where epoch = 1";
    eventually("the second owns everything", async || number(&postgres, not_taken).await == 0).await;
    for role in [&process, &sink] {
        role.signal(Signal::CONT);
    }
    for (role, pipelines) in [(&mut process, &PROCESSORS[..]), (&mut sink, &["webhook"])] {
        eventually("the first notices", async || has_ended_as_stale(role) || has_joined_again(role, pipelines)).await;
    }
    shop.stop_publishing(traffic);
    shop.assert_equals_the_oracle();
    for mut role in [process, sink] {
        // A connection must never go back to its pool within a transaction that nobody will end.
        assert!(!role.log().contains("already a transaction in progress"), "{}", role.log());
        assert!(has_ended_as_stale(&mut role) || role.stop() == 0);
    }
    assert_eq!((second_process.stop(), second_sink.stop()), (0, 0));
    shop.platform.stop().await;
}

fn has_ended_as_stale(role: &mut Role) -> bool {
    !role.is_running() && role.log().contains("is stale); nothing was written")
}

fn has_joined_again(role: &Role, pipelines: &[&str]) -> bool {
    pipelines.iter().all(|pipeline| assignments(role, pipeline).len() > 1)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_whose_place_another_took_for_a_moment_takes_it_back_and_goes_on() {
    let mut shop = Shop::open().await;
    let _others = [
        shop.member("projections", &["process", "clickhouse", "customer_summary"], &[]),
        shop.member("webhook", &["sink"], &[]),
    ];
    let mut first = shop.member("same", &["process", "order_status"], &[]);
    eventually("it has everything", async || first.log().contains("took 6 partitions over")).await;
    let mut rival = shop.member("same", &["process", "order_status"], &[]);
    let fenced = "took our place in the group for somebody else's: joining again";
    eventually("it has noticed", async || first.log().contains(fenced)).await;
    if rival.is_running() {
        rival.kill();
    }
    shop.publish(1_000, &[]);
    shop.assert_equals_the_oracle();
    assert!(first.is_running(), "{}", first.log());
    assert_eq!(first.stop(), 0);
    shop.platform.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_that_move_while_events_flow_lose_and_double_nothing() {
    let mut shop = Shop::open().await;
    let postgres = shop.platform.postgres().await;
    let sink = shop.member("sink", &["sink"], &[]);
    let (first, second) = (shop.member("first", &["process"], &[]), shop.member("second", &["process"], &[]));
    let mut traffic = shop.publishing(500);
    for role in [&first, &second] {
        eventually("two share the partitions", async || owns_some_of_each(role)).await;
    }
    let third = shop.member("third", &["process"], &[]);
    eventually("a third joins", async || owns_some_of_each(&third)).await;
    assert_eq!(third.stop(), 0, "it did not drain");
    assert_eq!(first.stop(), 0, "it did not drain");
    let before = applied(&postgres).await;
    eventually("the second goes on alone", async || applied(&postgres).await > before + 500).await;
    assert!(traffic.is_running());
    shop.stop_publishing(traffic);
    shop.assert_equals_the_oracle();
    assert_eq!((second.stop(), sink.stop()), (0, 0));
    shop.platform.stop().await;
}

/// Has every one of its pipelines taken partitions over?
fn owns_some_of_each(role: &Role) -> bool {
    let some = |message: &String| message != "took 0 partitions over";
    PROCESSORS.iter().all(|pipeline| assignments(role, pipeline).iter().any(some))
}

/// What a role said of each assignment.
fn assignments(role: &Role, pipeline: &str) -> Vec<String> {
    let lines = role.log();
    let lines = lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let of_pipeline = lines.filter(|line| line["pipeline"] == pipeline);
    let messages = of_pipeline.filter_map(|line| line["message"].as_str().map(str::to_owned));
    messages.filter(|message| message.starts_with("took ")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_role_exits_with_0_and_leaves_nothing_half_done() {
    let mut shop = Shop::open().await;
    let postgres = shop.platform.postgres().await;
    let roles = || (shop.member("process", &["process"], &[]), shop.member("sink", &["sink"], &[]));
    let (process, sink) = roles();
    let mut traffic = shop.publishing(2_000);
    eventually("the flow is midway", async || applied(&postgres).await > 2_000).await;
    assert_eq!((process.stop(), sink.stop()), (0, 0));
    assert!(traffic.is_running());
    assert_eq!(number(&postgres, "select count(*) from millrace.checkpoint where plan is not null").await, 0);
    assert_eq!(number(&postgres, "select count(*) from millrace.delivery where state = 'leased'").await, 0);
    assert_eq!(count(&shop, "merge('events_raw', '.*')").await, applied(&postgres).await, "rows and checkpoints agree");
    let (process, sink) = roles();
    shop.stop_publishing(traffic);
    shop.assert_equals_the_oracle();
    assert_eq!((process.stop(), sink.stop()), (0, 0));
    shop.platform.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_cannot_drain_in_time_says_so_and_loses_nothing() {
    let mut shop = Shop::open().await;
    let postgres = shop.platform.postgres().await;
    let _others = [
        shop.member("projections", &["process", "order_status", "customer_summary"], &[]),
        shop.member("webhook", &["sink"], &[]),
    ];
    let mut process = shop.member("clickhouse", &["process", "clickhouse"], &[]);
    let traffic = shop.publishing(1_000);
    eventually("the flow is midway", async || applied(&postgres).await > 1_000).await;
    let gate = close(&postgres, "select next from millrace.checkpoint where pipeline = 'clickhouse'").await;
    eventually("batches are held up", async || waiting_for_a_lock(&postgres, "millrace.checkpoint").await > 0).await;
    process.signal(Signal::TERM);
    assert_eq!(process.ended().await.code(), Some(75), "{}", process.log());
    gate.rollback().await.unwrap();
    let process = shop.member("clickhouse", &["process", "clickhouse"], &[]);
    shop.stop_publishing(traffic);
    shop.assert_equals_the_oracle();
    assert_eq!(process.stop(), 0);
    shop.platform.stop().await;
}

/// Keeps these rows from everybody else, until rolled back.
async fn close(postgres: &PgPool, rows: &str) -> Transaction<'static, Postgres> {
    let mut gate = postgres.begin().await.unwrap();
    sqlx::query(AssertSqlSafe(format!("{rows} for update"))).fetch_all(&mut *gate).await.unwrap();
    gate
}

/// How many statements about this wait for somebody to commit.
async fn waiting_for_a_lock(postgres: &PgPool, about: &str) -> i64 {
    let sql = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and query like '%' || $1 || '%'";
    sqlx::query_scalar(sql).bind(about).fetch_one(postgres).await.unwrap()
}

// ---- the log ----

#[tokio::test(flavor = "multi_thread")]
async fn what_the_log_or_a_table_holds_twice_counts_once() {
    let mut shop = Shop::open().await;
    let (process, sink) = (shop.member("process", &["process"], &[]), shop.member("sink", &["sink"], &[]));
    let report = shop.publish(3_000, &["--duplicates", "50"]);
    let repeated = report["repeated"].as_i64().unwrap();
    assert!(repeated > 50, "{report}");
    shop.assert_equals_the_oracle();
    assert_counts_duplicates(&process, repeated).await;
    double_every_row(&shop).await;
    assert_eq!(count(&shop, "merge('events_raw', '.*')").await, 6_000);
    assert_eq!(count(&shop, "merge('events', '.*')").await, 3_000);
    let copies = assert_copies_are_of_one_record(&shop.platform, 3_000).await;
    assert_eq!(copies.iter().map(|table| table["copies"].as_i64().unwrap()).sum::<i64>(), 3_000, "{copies:?}");
    shop.assert_equals_the_oracle();
    assert_eq!((process.stop(), sink.stop()), (0, 0));
    shop.platform.stop().await;
}

/// A session that a busy machine loses makes more: what was read is read again.
async fn assert_counts_duplicates(process: &Role, repeated: i64) {
    let counted = metric(process, "millrace_duplicates_total{pipeline=\"clickhouse\"}").await;
    assert!(counted >= repeated, "{counted} of {repeated}");
}

/// As inserts do whose token the server has forgotten; and no merge makes up for it.
async fn double_every_row(shop: &Shop) {
    for table in shop.platform.clickhouse("show tables from events_raw").await {
        let table = format!("events_raw.{}", table["name"].as_str().unwrap());
        shop.platform.clickhouse(&format!("system stop merges {table}")).await;
        shop.platform.clickhouse(&format!("insert into {table} select * from {table}")).await;
    }
}

const TOPIC: &str = "shop.order.v1";

/// Those that read it, each by itself.
const READERS: [(&str, &[&str]); 4] = [
    ("clickhouse", &["process", "clickhouse"]),
    ("customer_summary", &["process", "customer_summary"]),
    ("order_status", &["process", "order_status"]),
    ("webhook", &["sink", "webhook"]),
];

fn readers(shop: &Shop) -> [Role; 4] {
    READERS.map(|(name, arguments)| shop.member(name, arguments, &[]))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_created_anew_stops_all_who_read_it_who_name_it_and_go_on_as_they_say() {
    let mut shop = Shop::open().await;
    let postgres = shop.platform.postgres().await;
    let running = readers(&shop);
    publish_garbage_first(&shop);
    shop.publish(1_000, &[]);
    shop.assert_equals_the_oracle();
    let reset = || shop.platform.run(&["reset", TOPIC]);
    assert_eq!(reset().code(), 64, "{}", reset().out);
    let [mut frozen, others @ ..] = running;
    assert_eq!(others.map(Role::stop), [0; 3]);
    frozen.signal(Signal::STOP); // until the new log is longer than the old one: no offset will be out of range
    recreate(&shop);
    publish_garbage_first(&shop);
    shop.publish(3_000, &[]);
    frozen.signal(Signal::CONT);
    assert_says_that_it_was_recreated(&mut frozen).await;
    for role in &mut readers(&shop) {
        assert_says_that_it_was_recreated(role).await;
    }
    let status = shop.platform.run(&["status"]).out;
    for (name, _) in READERS {
        assert!(status.contains(&format!("\n{name} has read another {TOPIC} than there is now")), "{status}");
    }
    assert!(status.contains(&format!("`millrace reset {TOPIC}`")), "{status}");
    for command in [["verify", "clickhouse"].as_slice(), &["rebuild", "clickhouse", "order_placed", "--fewer"]] {
        let refused = shop.platform.run(command);
        assert_eq!(refused.code(), 64, "{}", refused.err);
        assert!(refused.err.contains(&format!("topic {TOPIC} was recreated")), "{}", refused.err);
    }
    // Nothing of the old log is lost, and everything of the new one comes, though offsets begin anew.
    assert_resets(&shop, READERS.len() * 6);
    let running = readers(&shop);
    shop.assert_equals_the_oracle();
    let letters = "select count(distinct (pipeline, topic_id)) from millrace.dead_letter
                   where partition = 0 and \"offset\" = 0";
    eventually("and the dead letters of both", async || number(&postgres, letters).await == 2 * 4).await;
    assert_eq!(running.map(Role::stop), [0; 4]);
    a_log_filled_from_a_copy_counts_again_in_postgres_alone(&shop, &postgres).await;
    shop.platform.stop().await;
}

/// As docs/rebuilding.md says.
async fn a_log_filled_from_a_copy_counts_again_in_postgres_alone(shop: &Shop, postgres: &PgPool) {
    let captured = "select sum(captured)::bigint from customer_spend";
    let (once, delivered) = (number(postgres, captured).await, shop.platform.receiver.received().distinct);
    recreate(shop);
    assert_resets(shop, READERS.len() * 6);
    let running = readers(shop);
    shop.publish_all_again();
    assert_eq!(number(postgres, captured).await, 2 * once);
    assert_eq!(count(shop, "merge('events', '.*')").await, 4_000);
    assert_eq!(shop.platform.receiver.received().distinct, delivered);
    assert_eq!(running.map(Role::stop), [0; 4]);
}

fn recreate(shop: &Shop) {
    assert_eq!(judge("recreate_topic.py", &[&shop.platform.addresses().kafka, TOPIC, "6"]), true);
}

/// `reset` prints a line for each of so many partitions of pipelines, and what to do next.
fn assert_resets(shop: &Shop, partitions: usize) {
    let reset = shop.platform.run(&["reset", TOPIC]);
    assert_eq!((reset.code(), reset.out.lines().count()), (0, partitions + 1), "{}{}", reset.out, reset.err);
    assert!(reset.out.starts_with(&format!("clickhouse was at {TOPIC}[0]@")), "{}", reset.out);
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_were_deleted_too_early_stop_all_who_read_them_until_they_are_told_to_go_on() {
    let mut shop = Shop::open().await;
    publish_garbage_first(&shop);
    shop.publish(500, &[]);
    let running = readers(&shop);
    shop.assert_equals_the_oracle();
    assert_eq!(running.map(Role::stop), [0; 4]);
    for _ in 0..3 {
        publish_garbage_first(&shop);
    }
    let postgres = shop.platform.postgres().await;
    let next = async || -> Vec<i64> {
        let sql = "select next from millrace.checkpoint where topic = $1 and partition = 0";
        sqlx::query_scalar(sql).bind(TOPIC).fetch_all(&postgres).await.unwrap()
    };
    let before = next().await[0];
    assert_eq!(next().await, [before; 4]);
    let kafka = &shop.platform.addresses().kafka;
    assert_eq!(judge("delete_records.py", &[kafka, TOPIC, "0", &(before + 2).to_string()]), true);
    for role in &mut readers(&shop) {
        assert_eq!(role.ended().await.code(), Some(1));
        assert!(role.log().contains(&format!("data at risk in {TOPIC}[0]")), "{}", role.log());
    }
    assert_resets(&shop, READERS.len());
    let running = readers(&shop);
    eventually("they go on with what there is", async || next().await == [before + 3; 4]).await;
    shop.assert_equals_the_oracle();
    assert_eq!(running.map(Role::stop), [0; 4]);
    shop.platform.stop().await;
}

/// At an offset that the next log of this name has too.
fn publish_garbage_first(shop: &Shop) {
    let file = shop.platform.data.join("garbage");
    std::fs::write(&file, "garbage").unwrap();
    let mut kcat = kcat(&shop.platform.addresses().kafka);
    kcat.args(["-P", "-t", TOPIC, "-p", "0", "-k", "k"]).arg(&file);
    assert!(kcat.stdin(Stdio::null()).status().unwrap().success());
}

async fn assert_says_that_it_was_recreated(role: &mut Role) {
    let (status, log) = (role.ended().await, role.log());
    assert_eq!(status.code(), Some(1), "{log}");
    let line = log.lines().last().unwrap();
    assert!(line.starts_with("millrace: ") && line.contains(&format!("topic {TOPIC} was recreated")), "{log}");
}

// ---- dead letters ----

/// A schema id that nobody has, until the registry learns it.
const UNKNOWN_ID: u32 = 900_001;
/// What the contract's example says was paid.
const AMOUNT: i64 = 10_242;

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_replayed_twice_at_once_applies_once() {
    let shop = Shop::open().await;
    let postgres = shop.platform.postgres().await;
    let process = shop.member("process", &["process"], &[]);
    let envelope = Envelope::new("/judge", "payment.captured", "order");
    publish_a_payment_under_an_unknown_schema(&shop, &envelope).await;
    let open = "select count(*) from millrace.dead_letter where state = 'open'";
    eventually("each pipeline sets it aside", async || number(&postgres, open).await == 3).await;
    let learn = "insert into millrace.avro_schema (id, schema, digest) select $1, schema, '\\x00' \
                 from millrace.avro_schema where schema like '%\"PaymentCaptured\"%'";
    sqlx::query(learn).bind(i32::try_from(UNKNOWN_ID).unwrap()).execute(&postgres).await.unwrap();
    for pipeline in PROCESSORS {
        assert_one_of_two_applies(&shop, &postgres, pipeline).await;
    }
    // Its publisher, who has seen to the schema too, sends it once more.
    publish_a_payment_under_an_unknown_schema(&shop, &envelope).await;
    let passed = "select count(*) from millrace.checkpoint where topic = 'shop.order.v1' and next = 2";
    eventually("each pipeline has seen it", async || number(&postgres, passed).await == 3).await;
    assert_eq!(count(&shop, "events_raw.payment_captured").await, 1);
    assert_eq!(number(&postgres, "select sum(captured)::bigint from order_status").await, AMOUNT);
    assert_eq!(number(&postgres, "select sum(captured)::bigint from customer_spend").await, AMOUNT);
    assert_eq!(process.stop(), 0);
    shop.platform.stop().await;
}

async fn publish_a_payment_under_an_unknown_schema(shop: &Shop, envelope: &Envelope<'_>) {
    let contracts = Contracts::embedded().unwrap();
    let contract = contracts.get("payment.captured").unwrap();
    let mut value = wire::header(UNKNOWN_ID).to_vec();
    let writer = WriterSchema::parse(UNKNOWN_ID, &contract.newest().text).unwrap();
    writer.encode_value(&value_from_json(writer.schema, &contract.example).unwrap(), &mut value).unwrap();
    let key = contract.example["order_id"].as_str().unwrap();
    let kafka = KafkaConfig { brokers: shop.platform.addresses().kafka.clone(), ..KafkaConfig::default() };
    let outgoing = Outgoing { topic: TOPIC, key, envelope, value: Some(&value) };
    Publisher::new(&kafka).unwrap().enqueue(&outgoing).await.unwrap().await.unwrap();
}

/// Both are held up at the letter's row, with their effect prepared; then both may go on.
async fn assert_one_of_two_applies(shop: &Shop, postgres: &PgPool, pipeline: &str) {
    let gate = close(postgres, &format!("select id from millrace.dead_letter where pipeline = '{pipeline}'")).await;
    let replays = [(); 2].map(|()| shop.platform.role(&["dead-letters", "replay", "--pipeline", pipeline]));
    let waiting =
        "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and query like '%''replayed''%'";
    eventually("two replays are under way", async || number(postgres, waiting).await == 2).await;
    gate.rollback().await.unwrap();
    let finished = replays.map(|replay| {
        let log = replay.log.clone();
        let (code, out) = replay.finish();
        (code, out + &std::fs::read_to_string(log).unwrap())
    });
    let mut codes = finished.each_ref().map(|(code, _)| *code);
    codes.sort_unstable();
    assert_eq!(codes, [0, 2], "{finished:#?}");
    for (code, said) in &finished {
        let expected = if *code == 0 { ": applied" } else { "is no longer open: somebody was faster" };
        assert!(said.contains(expected), "{pipeline}: {said}");
    }
}
