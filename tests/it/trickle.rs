//! Events that come a few at a time, without an insert for each.

use crate::platform::{Role, eventually};
use crate::shop::Shop;
use std::collections::BTreeMap;
use std::time::Instant;

/// Over six topics of six partitions each.
const EVENTS: i64 = 900;
const PER_SECOND: u32 = 100;
/// Inserts a second. A round every half second makes two; as many again for partitions whose plan Postgres commits so
/// slowly that they miss their round and insert alone. Without rounds it would be about thirty.
const PER_TABLE_MAX: f64 = 4.0;

#[tokio::test(flavor = "multi_thread")]
async fn events_that_trickle_make_few_inserts_a_second_for_each_table() {
    let mut shop = Shop::open().await;
    let process = shop.member("process", &["process", "clickhouse"], &[]);
    let started = Instant::now();
    let traffic = shop.publishing(PER_SECOND);
    let rows = async || shop.platform.number("select count() from merge('events', '.*')").await;
    eventually("many have come", async || rows().await >= EVENTS).await;
    let tables = inserted(&process).await;
    let most = started.elapsed().as_secs_f64() * PER_TABLE_MAX + 2.0;
    for (table, (inserts, rows)) in &tables {
        println!("{table}: {rows} rows in {inserts} inserts");
        assert!(*inserts <= most, "{table}: {inserts} inserts, more than {most}");
    }
    let sum = |of: fn(&(f64, f64)) -> f64| tables.values().map(of).sum::<f64>();
    assert!(sum(|(_, rows)| *rows) > 3.0 * sum(|(inserts, _)| *inserts), "nothing went together");
    shop.stop_publishing(traffic);
    assert_eq!(process.stop(), 0);
    shop.platform.stop().await;
}

/// By table, how many inserts there were, and their rows.
async fn inserted(process: &Role) -> BTreeMap<String, (f64, f64)> {
    let metrics = reqwest::get(format!("{}/metrics", process.ops().await)).await.unwrap().text().await.unwrap();
    let of = |what: &str| -> BTreeMap<String, f64> {
        let begin = format!("millrace_sink_batch_records_{what}{{table=\"");
        let lines = metrics.lines().filter_map(|line| line.strip_prefix(&begin)?.split_once("\"} "));
        lines.map(|(table, value)| (table.to_owned(), value.parse().unwrap())).collect()
    };
    let (inserts, rows) = (of("count"), of("sum"));
    inserts.into_iter().map(|(table, inserts)| (table.clone(), (inserts, rows[&table]))).collect()
}
