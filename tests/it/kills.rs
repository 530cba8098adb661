//! Whatever dies in the middle of the flow, ClickHouse, Postgres and the receiver end up equal to the oracle.

use crate::commands::Frozen;
use crate::exactly_once::owning_everything;
use crate::onlooker::Onlooker;
use crate::platform::{Platform, Role, ask_clickhouse, eventually};
use crate::shop::Shop;
use millrace_local::Server;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;
use sqlx::PgPool;
use std::collections::BTreeSet;
use std::time::Instant;

/// Twenty seconds of them: a busy machine that looks late still finds some to come.
const EVENTS: i64 = 40_000;
/// The kill comes when so many have taken effect: everything is moving, and much is still to come.
const MIDWAY: i64 = EVENTS / 10;

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
        owning_everything(&process, &sink).await; // or all is published before anybody reads, and takes effect at once
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
        assert_copies_are_of_one_record(&platform, EVENTS).await;
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

/// The members' places in their groups have ended by then: whatever they had read ahead is somebody's again.
#[tokio::test(flavor = "multi_thread")]
async fn a_kafka_that_is_away_for_longer_than_a_session_loses_nothing_that_was_acknowledged() {
    let mut flow = Flow::midway(rand_seed()).await;
    flow.assert_still_flowing().await;
    let groups = groups(&flow.process);
    let kept_down = Frozen::down(&flow.platform, Server::Kafka).await;
    let ended = || flow.process.log().matches("session timed out").count();
    eventually("every group's session has ended", async || ended() >= groups).await;
    drop(kept_down);
    flow.platform.stack.wait_ready(Server::Kafka).await.unwrap();
    flow.assert_equals_the_oracle().await;
}

/// A pipeline that took partitions over more than once has one session all the same.
fn groups(process: &Role) -> usize {
    let log = process.log();
    let lines = log.lines().filter(|line| line.contains(r#""took "#));
    let lines = lines.filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.map(|line| line["pipeline"].to_string()).collect::<BTreeSet<_>>().len()
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

// ---- at random ----

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Processor,
    Sink,
    Of(Server),
}

/// Each as often as it is here, in random order.
const VICTIMS: [Victim; 10] = [
    Victim::Processor,
    Victim::Processor,
    Victim::Processor,
    Victim::Sink,
    Victim::Of(Server::ClickHouse),
    Victim::Of(Server::ClickHouse),
    Victim::Of(Server::Kafka),
    Victim::Of(Server::Kafka),
    Victim::Of(Server::Postgres),
    Victim::Of(Server::Postgres),
];
/// Between two kills so many records take effect, or the second falls into what the first has left.
const BETWEEN: std::ops::Range<i64> = 50..1_500;
/// Of ten kills so many come at once after the one before.
const AT_ONCE_OF_TEN: u32 = 3;
/// Looks at the views that must be answered while something is dying, or they have shown nothing.
const LOOKS_MIN: usize = 20;

/// A shop whose roles and servers are killed under its traffic.
struct UnderFire {
    shop: Shop,
    postgres: PgPool,
    process: Role,
    sink: Role,
}

impl UnderFire {
    async fn start(seed: u64) -> Self {
        let shop = Shop::of(Platform::start().await, seed);
        let postgres = shop.platform.postgres().await;
        let (process, sink) = (shop.member("process", &["process"], &[]), shop.member("sink", &["sink"], &[]));
        Self { shop, postgres, process, sink }
    }

    /// Log positions that took effect, over all pipelines; none while Postgres is away.
    async fn applied(&self) -> Option<i64> {
        let sql = "select coalesce(sum(next), 0)::bigint from millrace.checkpoint";
        sqlx::query_scalar(sql).fetch_one(&self.postgres).await.ok()
    }

    async fn until_applied(&mut self, more: i64) {
        let mut from = None;
        eventually("records take effect again", async || {
            self.start_again_what_could_not_start();
            let now = self.applied().await;
            from = from.or(now);
            now.zip(from).is_some_and(|(now, from)| now >= from + more)
        })
        .await;
    }

    /// And with it what waited for Kafka to come back.
    async fn until_what_is_published_now_is_there(&mut self) {
        let now = chrono::Utc::now().timestamp_micros();
        let newer = format!(
            "select count() as n from events_raw.page_viewed where _recorded_at > fromUnixTimestamp64Micro({now}, 'UTC')"
        );
        eventually("what is published now is there", async || {
            self.start_again_what_could_not_start();
            let newer = ask_clickhouse(&self.shop.platform.addresses().clickhouse, &newer).await;
            newer.is_ok_and(|rows| rows[0]["n"].as_i64() > Some(0))
        })
        .await;
    }

    async fn until_all_have_started(&mut self) {
        eventually("both roles have started", async || {
            self.start_again_what_could_not_start();
            [&self.process, &self.sink].iter().all(|role| has_started(role))
        })
        .await;
    }

    /// A role that finds a server down when it starts says so and ends: somebody starts it again. So does one that can
    /// take nothing over for a minute. One that had started never ends otherwise.
    fn start_again_what_could_not_start(&mut self) {
        for (role, name) in [(&mut self.process, "process"), (&mut self.sink, "sink")] {
            if !role.is_running() {
                let log = role.log();
                let why = log.lines().find(|line| line.contains(r#""stopped: "#)).unwrap_or_default();
                let is_told = why.contains("could not take partitions over within");
                assert!(!has_started(role) || is_told, "{name} ended by itself:\n{log}");
                *role = self.shop.member(name, &[name], &[]);
            }
        }
    }

    async fn kill(&mut self, victim: Victim) {
        match victim {
            Victim::Processor => kill_role(&self.shop, &mut self.process, "process"),
            Victim::Sink => kill_role(&self.shop, &mut self.sink, "sink"),
            // One that is down already comes up first: each kill is one.
            Victim::Of(server) => {
                eventually("there is one to kill", async || self.shop.platform.stack.kill(server)).await;
            }
        }
    }
}

/// An insert that is repeated after its answer was lost may leave an event's row twice until a merge takes one away, and
/// views show one of them: which must not matter. So all rows of an event are of one record of the log, however often
/// the log holds the event, and the view hides nothing else. (How many there are is chance: merges go on.) The rows
/// beyond one an event, by table.
pub async fn assert_copies_are_of_one_record(platform: &Platform, published: i64) -> Vec<Value> {
    let records = "uniqExact(event_id, _topic, _partition, _offset)";
    let beneath = format!(
        "select _table as name, count() - {records} as copies, {records} as records, uniqExact(event_id) as events
         from merge('events_raw', '.*') group by name order by name"
    );
    let beneath = platform.clickhouse(&beneath).await;
    let shown = "select _table as name, count() as events from merge('events', '.*') group by name order by name";
    let shown = platform.clickhouse(shown).await;
    let of = |rows: &[Value], key: &str| -> Vec<_> {
        rows.iter().map(|row| (row["name"].as_str().unwrap().to_owned(), row[key].as_i64().unwrap())).collect()
    };
    assert_eq!(of(&beneath, "records"), of(&shown, "events"), "{beneath:?}");
    assert_eq!(of(&beneath, "events"), of(&shown, "events"), "{beneath:?}");
    assert_eq!(of(&shown, "events").iter().map(|(_, events)| events).sum::<i64>(), published, "{shown:?}");
    beneath.into_iter().filter(|table| table["copies"] != 0).collect()
}

fn has_started(role: &Role) -> bool {
    role.log().contains("ops on http://")
}

fn kill_role(shop: &Shop, role: &mut Role, name: &str) {
    if role.is_running() {
        role.kill();
    }
    *role = shop.member(name, &[name], &[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_dies_at_random_under_load_nothing_is_lost_and_nothing_counts_twice() {
    let seed = std::env::var("MILLRACE_KILLS_SEED").map_or_else(|_| rand_seed(), |seed| seed.parse().unwrap());
    println!("MILLRACE_KILLS_SEED={seed} kills the same in the same order");
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut victims = VICTIMS;
    victims.shuffle(&mut random);
    let mut fire = UnderFire::start(seed).await;
    let traffic = fire.shop.publishing(400);
    let onlooker = Onlooker::of(&fire.shop.platform);
    fire.until_applied(1_000).await;
    let begun = Instant::now();
    let mut first_kill = None;
    for victim in victims {
        let (more, at_once) = (random.random_range(BETWEEN), random.random_ratio(AT_ONCE_OF_TEN, 10));
        if !at_once {
            fire.until_applied(more).await;
        }
        println!("{:.1?}: {victim:?} dies", begun.elapsed());
        first_kill.get_or_insert_with(Instant::now);
        fire.kill(victim).await;
    }
    fire.until_all_have_started().await;
    fire.until_what_is_published_now_is_there().await;
    let recovered = Instant::now();
    fire.shop.stop_publishing(traffic);
    fire.shop.assert_equals_the_oracle();
    assert_was_looked_at(onlooker, first_kill.unwrap(), recovered).await;
    let published = fire.shop.published();
    let copies = assert_copies_are_of_one_record(&fire.shop.platform, published.try_into().unwrap()).await;
    println!(
        "{:.1?}: {published} events, equal in count, ids and sums; copies beneath the views: {}",
        begun.elapsed(),
        Value::from(copies)
    );
    let UnderFire { shop, process, sink, .. } = fire;
    assert_eq!((process.stop(), sink.stop()), (0, 0));
    shop.platform.stop().await;
}

/// Between the first kill and the last recovery views were right at every look, of which there were enough.
async fn assert_was_looked_at(onlooker: Onlooker, first_kill: Instant, recovered: Instant) {
    let looks = onlooker.leaves().await;
    let meanwhile = looks.answered.iter().filter(|at| (first_kill..recovered).contains(*at)).count();
    let (all, unanswered) = (looks.answered.len(), looks.unanswered.len());
    println!("{all} looks at the views, {meanwhile} of them amid kills; {unanswered} were not answered");
    assert!(meanwhile >= LOOKS_MIN, "{meanwhile} looks amid kills show nothing: {:?}", looks.unanswered.last());
}
