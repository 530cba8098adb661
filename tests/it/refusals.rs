//! A ClickHouse that takes nothing for a while, or whose tables somebody changed: `status` says what stands against it,
//! nothing is lost, and once the cause is gone everything goes on by itself.

use crate::between::{Asked, stand_before};
use crate::platform::{Role, eventually};
use crate::shop::Shop;
use serde_json::Value;
use std::sync::{Arc, Mutex};

/// So many that some order is among them, whatever the seed: of 300 events there is none once in a thousand times.
const EVENTS: u64 = 900;

/// A shop that reaches ClickHouse through somebody who adds settings to whatever is asked, as a user's profile does.
struct Refused {
    shop: Shop,
    process: Role,
    sink: Role,
    profile: Arc<Mutex<&'static str>>,
}

impl Refused {
    async fn start() -> Self {
        let shop = Shop::open().await;
        let profile = Arc::<Mutex<&str>>::default();
        let added = profile.clone();
        let with_profile = move |asked: Asked| Asked { path: asked.path + *added.lock().unwrap(), ..asked };
        let url = stand_before(&shop.platform.addresses().clickhouse, with_profile).await;
        let process = shop.member("process", &["process"], &[("MILLRACE_CLICKHOUSE__URL", &url)]);
        let sink = shop.member("sink", &["sink"], &[]);
        Self { shop, process, sink, profile }
    }

    /// Events arrive meanwhile, and `status` says why they wait.
    async fn is_held_up(&mut self, said: &[&str]) {
        self.shop.publish(EVENTS, &[]);
        eventually("status says what it waits for", async || {
            let pipeline = self.status();
            let by = pipeline["held_up"]["by"].as_str().unwrap_or_default();
            pipeline["state"] == "held_up" && said.iter().all(|said| by.contains(said))
        })
        .await;
        let words = self.shop.platform.run(&["status"]).out;
        assert!(words.contains("\nclickhouse is held up since "), "{words}");
        assert!(self.held_up().await > 0, "no metric says so");
        assert!(self.process.is_running(), "{}", self.process.log());
    }

    /// The cause is gone, and nobody did anything else.
    async fn goes_on(&mut self) {
        self.shop.assert_equals_the_oracle();
        let well = async || self.held_up().await == 0 && self.status()["state"] == "caught_up";
        eventually("nothing waits any more", well).await;
    }

    fn status(&self) -> Value {
        let status = self.shop.platform.run(&["status", "--json"]);
        if status.code() != 0 {
            return Value::Null; // a server was slow
        }
        let pipelines = status.json()["pipelines"].take();
        let clickhouse = pipelines.as_array().unwrap().iter().find(|pipeline| pipeline["name"] == "clickhouse");
        clickhouse.unwrap().clone()
    }

    async fn held_up(&self) -> i64 {
        let metrics =
            reqwest::get(format!("{}/metrics", self.process.ops().await)).await.unwrap().text().await.unwrap();
        let line = metrics.lines().find_map(|line| line.strip_prefix("millrace_held_up{pipeline=\"clickhouse\"} "));
        line.unwrap().parse().unwrap()
    }

    async fn run(&self, statements: &[&str]) {
        for sql in statements {
            self.shop.platform.clickhouse(sql).await;
        }
    }

    async fn stop(self) {
        assert_eq!((self.process.stop(), self.sink.stop()), (0, 0));
        self.shop.platform.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_refuses_for_a_while_is_named_and_waited_for_and_loses_nothing() {
    let mut refused = Refused::start().await;
    refused.shop.publish(EVENTS, &[]);
    refused.goes_on().await;
    let profiles = [
        ("&readonly=1", ["(READONLY)", "is read-only: let it write"]),
        ("&max_memory_usage=10000&max_untracked_memory=1", ["(MEMORY_LIMIT_EXCEEDED)", "more memory"]),
    ];
    for (profile, said) in profiles {
        *refused.profile.lock().unwrap() = profile;
        refused.is_held_up(&said).await;
        *refused.profile.lock().unwrap() = "";
        refused.goes_on().await;
    }
    let settings = "parts_to_throw_insert = 1, parts_to_delay_insert = 0";
    let full = format!("alter table events_raw.order_placed modify setting {settings}");
    refused.run(&["system stop merges events_raw.order_placed", &full]).await;
    refused.is_held_up(&["(TOO_MANY_PARTS)", "events_raw.order_placed", "merges are behind"]).await;
    let roomy = "alter table events_raw.order_placed reset setting parts_to_throw_insert, parts_to_delay_insert";
    refused.run(&[roomy, "system start merges events_raw.order_placed"]).await;
    refused.goes_on().await;
    refused.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_column_of_another_type_is_made_right_from_the_log_though_a_batch_waits_for_it() {
    let mut refused = Refused::start().await;
    refused.shop.publish(EVENTS, &[]);
    refused.goes_on().await;
    refused.run(&["alter table events_raw.order_placed modify column currency Nullable(String)"]).await;
    refused.is_held_up(&["(TYPE_MISMATCH)", "events_raw.order_placed", "`millrace rebuild clickhouse TABLE`"]).await;
    let rebuilt = refused.shop.platform.run(&["rebuild", "clickhouse", "order_placed"]);
    assert_eq!(rebuilt.code(), 0, "{}{}", rebuilt.out, rebuilt.err);
    refused.goes_on().await;
    let verified = refused.shop.platform.run(&["verify", "clickhouse"]);
    assert_eq!(verified.code(), 0, "{}{}", verified.out, verified.err);
    refused.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_somebody_changed_is_named_and_waited_for_and_loses_nothing() {
    let mut refused = Refused::start().await;
    refused.shop.publish(EVENTS, &[]);
    refused.goes_on().await;
    let cases: [(&[&str], &str, &[&str]); 5] = [
        (
            &["alter table events_raw.order_placed drop column trace_id"],
            "(NO_SUCH_COLUMN_IN_TABLE)",
            &["alter table events_raw.order_placed add column trace_id String after source"],
        ),
        (
            &["alter table events_raw.order_placed modify column total Int32"],
            "(TYPE_MISMATCH)",
            &["alter table events_raw.order_placed modify column total Int64"],
        ),
        (
            &["rename table events_raw.order_placed to events_raw.away"],
            "(UNKNOWN_TABLE)",
            &["rename table events_raw.away to events_raw.order_placed"],
        ),
        (
            &["alter table events_raw.order_placed add constraint none check 0"],
            "(VIOLATED_CONSTRAINT)",
            &["alter table events_raw.order_placed drop constraint none"],
        ),
        (
            &["alter table events_raw.order_placed modify column trace_id String materialized 'none'"],
            "(ILLEGAL_COLUMN)",
            &["alter table events_raw.order_placed modify column trace_id remove materialized"],
        ),
    ];
    for (change, said, back) in cases {
        refused.run(change).await;
        refused.is_held_up(&[said, "events_raw.order_placed"]).await;
        refused.run(back).await;
        refused.goes_on().await;
    }
    // Somebody's view that fails. The rows may be in the table by then: if so they are found there.
    let view = "create materialized view default.nosy engine = Memory as
                select throwIf(total >= 0) as failed from events_raw.order_placed";
    refused.run(&[view]).await;
    refused.shop.publish(EVENTS, &[]);
    eventually("it fails", async || refused.process.log().contains("(FUNCTION_THROW_IF_VALUE_IS_NON_ZERO)")).await;
    assert!(refused.process.is_running(), "{}", refused.process.log());
    refused.run(&["drop view default.nosy"]).await;
    refused.goes_on().await;
    // What refuses nothing is none of our business.
    refused.run(&["alter table events_raw.order_placed add column checked_by String default 'nobody'"]).await;
    refused.shop.publish(EVENTS, &[]);
    refused.goes_on().await;
    refused.stop().await;
}
