//! `millrace verify clickhouse`: it finds what is wrong by name, and nothing where nothing is.

use crate::erasure;
use crate::platform::{Finished, eventually};
use crate::rebuild::mutate;
use crate::shop::Shop;
use serde_json::Value;

/// What it prints, a line a partition behind a line for each of its differences, and its exit code.
fn verify(shop: &Shop) -> (i32, Vec<Value>) {
    verify_only(shop, &[])
}

fn verify_only(shop: &Shop, range: &[&str]) -> (i32, Vec<Value>) {
    let done = shop.platform.run(&[&["verify", "clickhouse", "--json"], range].concat());
    assert!([0, 2].contains(&done.code()), "{}{}", done.out, done.err);
    (done.code(), lines(&done))
}

fn lines(done: &Finished) -> Vec<Value> {
    done.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Over all partitions.
fn sum(lines: &[Value], key: &str) -> u64 {
    lines.iter().filter(|line| line["kind"].is_null()).map(|partition| partition[key].as_u64().unwrap()).sum()
}

/// `kind table event_id` of everything that it names in that range.
pub fn named_in(shop: &Shop, range: &[&str]) -> Vec<String> {
    named(&verify_only(shop, range).1)
}

/// `kind table event_id` of everything named.
fn named(lines: &[Value]) -> Vec<String> {
    let text = |found: &Value, key: &str| found[key].as_str().unwrap().to_owned();
    let differences = lines.iter().filter(|line| line["kind"].is_string());
    let name = |found: &Value| ["kind", "table", "event_id"].map(|key| text(found, key)).join(" ");
    let mut named: Vec<String> = differences.map(name).collect();
    named.sort();
    named
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_erased_is_no_difference_but_what_else_changed_in_their_rows_is() {
    let mut shop = Shop::open().await;
    let process = shop.member("process", &["process"], &erasure::OFTEN);
    shop.publish(8_000, &[]);
    eventually("everything is there", async || {
        let found = shop.platform.clickhouse("select count() as n from merge('events', '.*')").await;
        found[0]["n"] == 8_000
    })
    .await;
    eventually("everything is settled and compared", async || {
        let done = shop.platform.run(&["verify", "clickhouse", "--json"]);
        done.code() == 0 && sum(&lines(&done), "events") == 8_000 // any other code: it differs, or a server was slow
    })
    .await;
    erasure::assert_forgotten(&shop.platform).await;
    let erased = "select toString(event_id) as id from events_raw.user_registered where email = '' limit 1";
    let altered = shop.platform.clickhouse(erased).await.remove(0)["id"].as_str().unwrap().to_owned();
    let alter = "alter table events_raw.user_registered update trace_id = 'another' where event_id";
    mutate(&shop.platform, &format!("{alter} = '{altered}'")).await;
    let (code, partitions) = verify(&shop);
    assert_eq!((code, named(&partitions)), (2, vec![format!("differs user_registered {altered}")]));
    assert_eq!(process.stop(), 0);
    shop.platform.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_missing_changed_and_invented_row_is_named_and_no_other() {
    let mut shop = Shop::open().await;
    let (process, sink) = (shop.member("process", &["process"], &[]), shop.member("sink", &["sink"], &[]));
    // A shop's first events fill its shelves: what is in the table of visits is in no log.
    shop.publish(200, &[]);
    shop.assert_equals_the_oracle();
    let nowhere = "00000000-0000-7000-8000-000000000002";
    let insert = "insert into events_raw.page_viewed (event_id, _topic) values";
    shop.platform.clickhouse(&format!("{insert} ('{nowhere}', 'shop.visit.v1')")).await;
    let (code, partitions) = verify(&shop);
    assert_eq!((code, named(&partitions)), (2, vec![format!("extra page_viewed {nowhere}")]));
    mutate(&shop.platform, &format!("alter table events_raw.page_viewed delete where event_id = '{nowhere}'")).await;
    shop.publish(2_800, &[]);
    shop.assert_equals_the_oracle();
    let (code, partitions) = verify(&shop);
    assert_eq!((code, sum(&partitions, "events"), sum(&partitions, "differences")), (0, 3_000, 0), "{partitions:?}");
    // Inserted twice is no difference; lost, altered and invented are.
    let clickhouse = &shop.platform;
    clickhouse.clickhouse("insert into events_raw.session_started select * from events_raw.session_started").await;
    let ends = "select toString(argMin(event_id, _offset)) as first, toString(argMax(event_id, _offset)) as last,
                max(_offset) as at from events_raw.page_viewed";
    let ends = clickhouse.clickhouse(ends).await.remove(0);
    let (lost, altered) = (ends["first"].as_str().unwrap(), ends["last"].as_str().unwrap());
    mutate(&shop.platform, &format!("alter table events_raw.page_viewed delete where event_id = '{lost}'")).await;
    mutate(
        &shop.platform,
        &format!("alter table events_raw.page_viewed update load_ms = load_ms + 1 where event_id = '{altered}'"),
    )
    .await;
    let invented = "00000000-0000-7000-8000-000000000001";
    let insert = "insert into events_raw.order_placed select * replace (toUUID('{}') as event_id)
                  from events_raw.order_placed limit 1";
    clickhouse.clickhouse(&insert.replace("{}", invented)).await;
    let (code, partitions) = verify(&shop);
    let mut wrong = vec![
        format!("missing page_viewed {lost}"),
        format!("differs page_viewed {altered}"),
        format!("extra order_placed {invented}"),
    ];
    wrong.sort();
    assert_eq!((code, named(&partitions)), (2, wrong));
    // Of them, a range names those that lie in it.
    let at = ends["at"].as_i64().unwrap();
    let within = |range: std::ops::Range<i64>| -> Vec<String> {
        let differences = partitions.iter().filter(|line| line["kind"].is_string());
        let within = differences.filter(|found| range.contains(&found["offset"].as_i64().unwrap()));
        named(&within.cloned().collect::<Vec<_>>())
    };
    let (before, last) = (within(0..at), within(at..at + 1));
    assert!(before.contains(&format!("missing page_viewed {lost}")), "{before:?}");
    assert!(last.contains(&format!("differs page_viewed {altered}")), "{last:?}");
    assert_eq!(named_in(&shop, &[&format!("--to={at}")]), before);
    assert_eq!(named_in(&shop, &[&format!("--from={at}"), &format!("--to={}", at + 1)]), last);
    assert_eq!(named_in(&shop, &[&format!("--from={}", at + 1)]), within(at + 1..i64::MAX));
    let said = shop.platform.run(&["verify", "clickhouse", "--topic", "shop.visit.v1"]);
    assert!(said.out.contains(&format!("event {lost} is missing from events_raw.page_viewed")), "{}", said.out);
    assert!(said.err.contains("2 events are not in ClickHouse as the log has them"), "{}", said.err);
    // So is what lies where the log has nothing: beyond its end, in another partition, in another topic.
    for (at, place) in ["900000000 as _offset", "77 as _partition", "'shop.other.v1' as _topic"].iter().enumerate() {
        let id = format!("00000000-0000-7000-8000-00000000001{at}");
        let insert = format!(
            "insert into events_raw.order_placed select * replace (toUUID('{id}') as event_id, {place})
             from events_raw.order_placed limit 1"
        );
        clickhouse.clickhouse(&insert).await;
        let (code, lines) = verify(&shop);
        let name = format!("extra order_placed {id}");
        assert!(code == 2 && named(&lines).iter().filter(|named| **named == name).count() == 1, "{lines:?}");
        let part = shop.platform.run(&["verify", "clickhouse", "--from", "0", "--json"]);
        assert!(!part.out.contains(&id), "{}", part.out);
        mutate(&shop.platform, &format!("alter table events_raw.order_placed delete where event_id = '{id}'")).await;
    }
    // Of many in one place ten thousand are named, and all are counted.
    let insert = "insert into events_raw.order_placed select * except (number)
                  replace (generateUUIDv4() as event_id, 900000000 + number as _offset, {partition} as _partition)
                  from (select * from events_raw.order_placed limit 1) as one cross join numbers({rows}) as many";
    for (partition, rows) in [("0", "10500"), ("77", "3")] {
        clickhouse.clickhouse(&insert.replace("{partition}", partition).replace("{rows}", rows)).await;
    }
    let many = shop.platform.run(&["verify", "clickhouse", "--json"]);
    assert_eq!((many.code(), many.out.matches(r#""offset":9000"#).count()), (2, 10_000 + 3), "{}", many.err);
    let told = format!("{} events are not in ClickHouse as the log has them; 500 of them", 10_500 + 3 + 3);
    assert!(many.err.contains(&told), "{}", many.err);
    mutate(&shop.platform, "alter table events_raw.order_placed delete where _offset >= 900000000").await;
    // All of them, also where there are many.
    let views = clickhouse.number("select count() from events.page_viewed").await + 1; // the lost one
    mutate(&shop.platform, "alter table events_raw.page_viewed delete where 1").await;
    let (code, lines) = verify(&shop);
    let missing = named(&lines).iter().filter(|line| line.starts_with("missing page_viewed")).count();
    assert_eq!((code, missing as i64, sum(&lines, "differences") as i64), (2, views, views + 1));
    assert_eq!((process.stop(), sink.stop()), (0, 0));
    shop.platform.stop().await;
}
