//! What `deploy/clickhouse/analysts.sql` lets an analyst do, and what stops a query that is too large.
//!
//! The engine keeps no users that SQL made, so its own user becomes the analyst: profile, quota and grants of the file,
//! written as the engine's configuration. `docs/analysts.md` says what that leaves out.

use crate::analytics::Analyst;
use crate::engine::life::Own;
use crate::engine::{Reply, post};
use crate::platform::directory;
use millrace_processors::clickhouse::Analytics;
use millrace_producers::simulate::Shop;
use millrace_producers::simulate::events::SimulatedEvent;
use std::path::Path;

const ANALYSTS: &str = include_str!("../../deploy/clickhouse/analysts.sql");

/// The file's statements, without their comments.
fn statements() -> Vec<String> {
    let lines = ANALYSTS.lines().filter(|line| !line.trim_start().starts_with("--"));
    let text: String = lines.flat_map(|line| [line.trim(), " "]).collect();
    text.split(';').map(|statement| statement.trim().to_owned()).filter(|statement| !statement.is_empty()).collect()
}

fn statement(beginning: &str) -> String {
    statements().into_iter().find(|statement| statement.starts_with(beginning)).unwrap()
}

/// `name = value` of a list, without the bounds that may follow.
fn pairs(list: &str) -> Vec<(String, String)> {
    let pair = |pair: &str| {
        let (name, value) = pair.split_once(" = ").unwrap();
        (name.trim().to_owned(), value.split_whitespace().next().unwrap().trim_matches('\'').to_owned())
    };
    list.split(',').map(pair).collect()
}

fn limits() -> Vec<(String, String)> {
    let profile = statement("create settings profile");
    pairs(profile.split_once(" settings ").unwrap().1.split_once(" settings ").unwrap().1)
}

fn hour() -> Vec<(String, String)> {
    pairs(statement("create quota").split_once(" max ").unwrap().1)
}

fn elements(pairs: &[(String, String)]) -> String {
    pairs.iter().map(|(name, value)| format!("<{name}>{value}</{name}>")).collect()
}

/// Nobody wants to wait a minute here, or read ten billion rows.
fn smaller(mut limits: Vec<(String, String)>, smaller: &[(&str, u64)]) -> Vec<(String, String)> {
    for (name, value) in smaller {
        limits.iter_mut().find(|(limit, _)| limit == name).unwrap().1 = value.to_string();
    }
    limits
}

/// The engine's configuration: its user is the administrator, or the analyst. The tables are always millrace's.
fn configure(directory: &Path, user: &str) {
    let grants = statements().into_iter().filter_map(|sql| Some(sql.strip_suffix(" to analyst")?.to_owned()));
    let grants: String =
        grants.filter(|sql| sql.starts_with("grant ")).map(|sql| format!("<query>{sql}</query>")).collect();
    let account = |name: &str, profile: &str, grants: &str| {
        format!(
            "<{name}><password/><networks><ip>::/0</ip></networks><profile>{profile}</profile>\
             <quota>{profile}</quota>{grants}</{name}>"
        )
    };
    let admin = "<access_management>1</access_management>".to_owned();
    let grants = if user == "analyst" { format!("<grants>{grants}</grants>") } else { admin };
    let query = [("max_execution_time", 15), ("max_bytes_to_read", 100_000_000), ("max_memory_usage", 300_000_000)];
    // Not an hour, which ends for everybody at once: it might do so in mid-test.
    let users = format!(
        "<clickhouse><profiles><default/><admin/><analyst>{}</analyst></profiles>\
         <quotas><admin/><analyst><interval><duration>360000</duration>{}</interval></analyst></quotas>\
         <roles><analyst/></roles><users>{}{}</users></clickhouse>",
        elements(&smaller(limits(), &query)),
        elements(&smaller(hour(), &[("read_rows", 50_000_000), ("errors", 30)])),
        account("default", user, &grants),
        account("millrace", "admin", ""),
    );
    let path = directory.join("users.xml");
    std::fs::write(&path, users).unwrap();
    let config = format!("<clickhouse><users_config>{}</users_config></clickhouse>", path.display());
    std::fs::write(directory.join("config.xml"), config).unwrap();
}

/// An engine that holds these events, and whose user is an analyst.
pub async fn analysts_engine(events: &[SimulatedEvent]) -> Own {
    let directory = directory();
    configure(&directory, "admin");
    let told = Analyst::told_in(directory, events).await;
    let views = "select database || '.' || name as view from system.tables where database in ('events', 'metrics')";
    for view in told.ask(views).await {
        let view = view["view"].as_str().unwrap();
        told.ask(&format!("alter table {view} modify definer = millrace sql security definer")).await;
    }
    let directory = told.stop().await;
    configure(&directory, "analyst");
    Own::start(directory).await
}

/// A little of the shop's traffic.
fn shop() -> Vec<SimulatedEvent> {
    Shop::open(17).take(20_000).collect()
}

/// Status, code and text of what became of a query.
pub async fn asked(engine: &Own, sql: &str) -> (u16, String, String) {
    let whole = [("wait_end_of_query", "1")];
    let reply = Reply::to(post(&engine.url, &whole).body(sql.to_owned())).await;
    let (status, code) = reply.refusal();
    (status, code.to_owned(), reply.text())
}

async fn assert_refused(engine: &Own, sql: &str, code: &str) {
    let (_, found, text) = asked(engine, sql).await;
    assert_eq!(found, code, "{sql}: {text:.500}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_analyst_reads_all_views_and_nothing_else_and_too_much_has_the_documented_code() {
    let engine = analysts_engine(&shop()).await;
    for (sql, code) in [
        ("select count() from events_raw.order_placed", "497"),
        ("select count() from merge('events_raw', '.*')", "636"), // there are none, as far as it can see
        ("select * from file('/etc/passwd', 'LineAsString')", "497"),
        ("select * from url('http://127.0.0.1:9/', 'LineAsString')", "497"),
        ("insert into events.order_placed (currency) values ('EUR')", "497"),
        ("alter table events.order_placed comment column total 'mine'", "497"),
        ("create table metrics.mine (id UInt64) engine = Memory", "497"),
        ("drop view metrics.revenue", "497"),
        ("set max_rows_to_read = 0", "164"),
        ("select 1 settings max_rows_to_read = 0", "164"),
        // Too much.
        ("select sleep(3), sleep(2.9), sleep(2.8), sleep(2.7), sleep(2.6), sleep(2.5)", "159"),
        ("select max(number) from numbers(1000000001)", "158"),
        ("select count() from numbers(20000000) where number % 2 = 0", "307"),
        ("select length(groupArray(repeat('x', 100))) from numbers(10000000)", "241"),
        ("select number from numbers(1000001)", "396"),
    ] {
        assert_refused(&engine, sql, code).await;
    }
    let (status, _, views) = asked(&engine, "select concat(database, '.', name) from system.tables order by all").await;
    assert_eq!(status, 200, "{views}");
    assert!(!views.contains("events_raw."), "{views}");
    for metric in Analytics::embedded().unwrap().iter() {
        assert!(views.contains(&format!("metrics.{}\n", metric.name)), "{views}");
    }
    for view in views.lines().filter(|view| view.starts_with("metrics.") || view.starts_with("events.")) {
        let (status, _, rows) = asked(&engine, &format!("select * from {view} limit 10")).await;
        assert_eq!(status, 200, "{view}: {rows}");
        assert!(!rows.is_empty(), "nothing in {view}");
    }
    std::fs::remove_dir_all(engine.stop().await).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_fails_without_end_is_stopped_for_the_hour() {
    let engine = analysts_engine(&shop()).await;
    let fail = async |times: usize| {
        for _ in 0..times {
            assert_refused(&engine, "select * from nothing", "60").await;
        }
        asked(&engine, "select count() from events.order_placed").await
    };
    let (status, _, text) = fail(20).await;
    assert_eq!(status, 200, "{text}");
    let (_, code, text) = fail(11).await;
    assert!(code == "201" && text.contains("errors = "), "{text}");
    std::fs::remove_dir_all(engine.stop().await).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_reads_without_end_is_stopped_for_the_hour() {
    let engine = analysts_engine(&shop()).await;
    let large = "select max(number) from numbers(12000000)";
    for _ in 0..4 {
        assert_eq!(asked(&engine, large).await.0, 200);
    }
    let (_, code, text) = asked(&engine, large).await;
    assert!(code == "201" && text.contains("read_rows = "), "{text}");
    std::fs::remove_dir_all(engine.stop().await).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_statement_for_analysts_is_one_to_the_engine() {
    let page = include_str!("../../docs/analysts.md");
    let add = page.split("```sql\n").nth(1).unwrap().split_once("\n```").unwrap().0.to_owned();
    let directory = directory();
    configure(&directory, "admin");
    let engine = Own::start(directory).await;
    for statement in statements().into_iter().chain([add]) {
        let (_, code, text) = asked(&engine, &format!("select formatQuery($sql${statement}$sql$)")).await;
        assert_eq!(code, "", "{statement}: {text}");
        // The engine understands it to its last word and has no place to keep it. One word is for servers only.
        let (_, code, text) = asked(&engine, &statement.replace(" changeable_in_readonly", "")).await;
        let (read_only, no_storage) = ("495", "514");
        assert!(["", read_only, no_storage].contains(&code.as_str()), "{statement}: {text}");
    }
    std::fs::remove_dir_all(engine.stop().await).unwrap();
}

/// So that what a person reads is what holds.
#[test]
fn the_page_for_analysts_names_every_limit() {
    let page = include_str!("../../docs/analysts.md").replace(',', "");
    for (name, value) in limits().into_iter().chain(hour()) {
        let number: Option<u64> = value.parse().ok();
        let Some(number) = number.filter(|number| *number > 1) else { continue };
        let gigabytes = format!(" {} GB", number / 1_000_000_000);
        let said = if name.contains("bytes") || name.contains("memory") { gigabytes } else { format!(" {number} ") };
        assert!(page.contains(&said), "docs/analysts.md does not say `{said}` for {name}");
    }
}
