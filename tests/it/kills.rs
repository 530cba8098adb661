//! Whatever dies in the middle of the flow, ClickHouse, Postgres and the receiver end up equal to the oracle.

use crate::platform::{Platform, Role, eventually};
use millrace_local::Server;
use serde_json::Value;

const EVENTS: i64 = 20_000;
/// The kill comes when about a fifth has taken effect: everything is moving, and much is still to come.
const MIDWAY: i64 = EVENTS / 5;

/// A flow with every role as its own process.
struct Flow {
    platform: Platform,
    process: Role,
    sink: Role,
    simulate: Role,
}

impl Flow {
    async fn midway(seed: u64) -> Self {
        println!("seed {seed}");
        let platform = Platform::start().await;
        let process = platform.role(&["process"]);
        let sink = platform.role(&["sink"]);
        let (seed, events) = (seed.to_string(), EVENTS.to_string());
        let arguments = [
            "simulate",
            "--json",
            "--seed",
            &seed,
            "--events",
            &events,
            "--rate",
            "2000",
            "--duplicates",
            "5",
            "--verify",
        ];
        let simulate = platform.role(&arguments);
        let flow = Self { platform, process, sink, simulate };
        eventually("the flow is midway", async || flow.applied().await > MIDWAY).await;
        flow
    }

    /// Rows in ClickHouse, duplicates included.
    async fn applied(&self) -> i64 {
        let rows = self.platform.clickhouse("select count() as n from merge('events_raw', '.*')").await;
        rows[0]["n"].as_i64().unwrap()
    }

    /// The fault happened while events flowed, or the test has shown nothing.
    async fn assert_still_flowing(&mut self) {
        let applied = self.applied().await;
        assert!(
            applied < EVENTS * 9 / 10,
            "the kill came too late to prove anything: {applied} of {EVENTS} were applied"
        );
        assert!(self.simulate.is_running(), "the simulator had already ended:\n{}", self.simulate.log());
    }

    /// Everything published took effect, once, field by field.
    async fn assert_equals_the_oracle(self) {
        let Self { platform, mut process, mut sink, simulate } = self;
        let log = simulate.log.clone();
        let (code, out) = tokio::task::spawn_blocking(move || simulate.finish()).await.unwrap();
        let verdict: Value = serde_json::from_str(out.lines().last().unwrap_or_default()).unwrap_or_default();
        assert_eq!(code, 0, "{verdict:#}\n{}", std::fs::read_to_string(log).unwrap());
        assert_eq!(verdict["published"], EVENTS);
        assert_eq!(verdict["differences"], Value::Array(vec![]));
        assert!(process.is_running(), "process stopped:\n{}", process.log());
        assert!(sink.is_running(), "sink stopped:\n{}", sink.log());
        assert_eq!((process.stop(), sink.stop()), (0, 0), "a role did not drain in time");
        platform.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_processor_loses_nothing_and_counts_nothing_twice() {
    let mut flow = Flow::midway(rand_seed()).await;
    flow.assert_still_flowing().await;
    flow.process.kill();
    flow.process = flow.platform.role(&["process"]);
    flow.assert_equals_the_oracle().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_sink_delivers_everything_under_the_same_ids() {
    let mut flow = Flow::midway(rand_seed()).await;
    flow.assert_still_flowing().await;
    flow.sink.kill();
    flow.sink = flow.platform.role(&["sink"]);
    flow.assert_equals_the_oracle().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_kafka_loses_nothing_that_was_acknowledged() {
    let mut flow = Flow::midway(rand_seed()).await;
    flow.assert_still_flowing().await;
    flow.platform.kill_server(Server::Kafka).await;
    flow.assert_equals_the_oracle().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_clickhouse_loses_no_block_and_doubles_none() {
    let mut flow = Flow::midway(rand_seed()).await;
    flow.assert_still_flowing().await;
    flow.platform.kill_server(Server::ClickHouse).await;
    flow.assert_equals_the_oracle().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_postgres_loses_no_row_and_no_checkpoint() {
    let mut flow = Flow::midway(rand_seed()).await;
    flow.assert_still_flowing().await;
    flow.platform.kill_server(Server::Postgres).await;
    flow.assert_equals_the_oracle().await;
}

/// Another flow each time, and printed: `Flow::midway(seed)` repeats it.
fn rand_seed() -> u64 {
    u64::from(uuid::Uuid::new_v4().as_fields().0)
}
