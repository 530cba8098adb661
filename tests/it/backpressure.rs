//! Full queues pause their partitions, and pauses end: whoever owns the partition by then.

use crate::platform::{Role, eventually};
use crate::shop::Shop;
use millrace_stream::Checkpoints;
use sqlx::PgPool;

/// So small that any backlog pauses its partition: a batch that waits for the one before it takes no more in, either.
const SMALL_QUEUE: [(&str, &str); 2] =
    [("MILLRACE_PROCESS__ORDER_STATUS__QUEUE_BYTES", "2000"), ("MILLRACE_PROCESS__ORDER_STATUS__BATCH_ROWS", "5")];

pub async fn metric(role: &Role, name: &str) -> i64 {
    let text = reqwest::get(format!("{}/metrics", role.ops().await)).await.unwrap().text().await.unwrap();
    let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
    line.rsplit(' ').next().and_then(|value| value.parse().ok()).unwrap_or_default()
}

/// Log positions that took effect.
async fn settled(postgres: &PgPool) -> i64 {
    let rows = Checkpoints::new(postgres.clone()).list().await.unwrap();
    rows.iter().filter(|row| row.pipeline == "order_status").map(|row| row.next).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_moved_away_while_it_was_paused_flows_again_when_it_comes_back() {
    let mut shop = Shop::open().await;
    let postgres = shop.platform.postgres().await;
    let first = shop.member("first", &["process", "order_status"], &SMALL_QUEUE);
    eventually("the first owns everything", async || first.log().contains("took 6 partitions over")).await;
    // Nothing settles while this lock is held, so the queues fill.
    let mut lock = postgres.begin().await.unwrap();
    sqlx::query("lock table order_status in exclusive mode").execute(&mut *lock).await.unwrap();
    let published = shop.publish(20_000, &[])["published"].as_i64().unwrap();
    eventually("partitions are paused", async || metric(&first, "millrace_paused{").await > 0).await;
    let second = shop.member("second", &["process", "order_status"], &SMALL_QUEUE);
    eventually("some moved to the second", async || second.log().contains("took 3 partitions over")).await;
    let before = settled(&postgres).await;
    drop(lock); // the second can drain, and leaves
    assert_eq!(second.stop(), 0);
    eventually("they came back", async || first.log().matches("partitions over").count() > 1).await;
    let end = end_of(&shop).await;
    eventually("everything flows again", async || settled(&postgres).await == end).await;
    assert!(before < end && published == 20_000, "the lock held nothing back: {before} of {end}");
    eventually("nothing is paused any more", async || metric(&first, "millrace_paused{").await == 0).await;
    assert_eq!(first.stop(), 0);
    shop.platform.stop().await;
}

/// Records in the orders' topic.
async fn end_of(shop: &Shop) -> i64 {
    let kafka = millrace_stream::KafkaConfig {
        brokers: shop.platform.addresses().kafka.clone(),
        ..millrace_stream::KafkaConfig::default()
    };
    let partitions = millrace_stream::Admin::new(kafka).partitions(vec!["shop.order.v1".into()]).await.unwrap();
    partitions.iter().map(|partition| partition.log_end).sum()
}
