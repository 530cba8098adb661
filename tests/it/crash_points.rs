//! A role that dies at any of its named crash points loses nothing and does nothing twice.

use crate::erasure;
use crate::evolution;
use crate::gateway;
use crate::outbox;
use crate::platform::Role;
use crate::rebuild;
use crate::shop::Shop;
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

/// Enough that every role has something to do in each round, whatever the seed: of 2,000 events no payment fails once in
/// a few hundred times, and then the sink has nothing to send.
const EVENTS: u64 = 5_000;

/// What runs, each in a process of its own.
const ROLES: [(&str, &[&str]); 4] = [
    ("clickhouse", &["process", "clickhouse"]),
    ("order_status", &["process", "order_status"]),
    ("customer_summary", &["process", "customer_summary"]),
    ("webhook", &["sink", "webhook"]),
];

/// In each round these die under the same events, a role once at most. What the oracle asks does not tell of erasures:
/// [`erasure::ROUNDS`] do.
const ROUNDS: [&[&str]; 5] = [
    &["clickhouse_planned", "order_status_before_commit", "customer_summary_before_commit", "webhook_before_commit"],
    &["clickhouse_inserted", "order_status_after_commit", "customer_summary_after_commit", "webhook_after_commit"],
    &["clickhouse_settled", "webhook_after_claim"],
    &["clickhouse_together", "webhook_after_send"],
    &["webhook_after_record"],
];

/// A lease that outlives its sender ends five seconds after this, so a test need not wait long for it; longer than a
/// busy machine takes for a delivery.
const TIMEOUT: (&str, &str) = ("MILLRACE_SINK__WEBHOOK__ENDPOINTS__SHOP_BACKOFFICE__TIMEOUT_MS", "5000");

fn role_of(point: &str) -> (&'static str, &'static [&'static str]) {
    *ROLES.iter().find(|(name, _)| point.starts_with(name)).unwrap()
}

fn start(shop: &Shop, name: &str, arguments: &[&str]) -> Role {
    shop.member(name, arguments, &[TIMEOUT])
}

fn start_to_crash(shop: &Shop, point: &str) -> Role {
    let (name, arguments) = role_of(point);
    shop.member(name, arguments, &[TIMEOUT, ("MILLRACE_CRASH_AT", point)])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_dies_at_any_crash_point_loses_nothing_and_doubles_nothing() {
    let mut shop = Shop::open().await;
    let mut running = BTreeMap::<&str, Role>::new();
    for points in ROUNDS {
        let mut crashing = Vec::new();
        for point in points {
            if let Some(role) = running.remove(role_of(point).0) {
                assert_eq!(role.stop(), 0, "the role did not drain before it was to crash at {point}");
            }
            crashing.push((*point, start_to_crash(&shop, point)));
        }
        let repeated = shop.platform.receiver.received();
        shop.publish(EVENTS, &[]);
        for (point, mut role) in crashing {
            assert_crashed_at(point, &mut role).await;
            let (name, arguments) = role_of(point);
            running.insert(name, start(&shop, name, arguments));
        }
        shop.assert_equals_the_oracle();
        println!("nothing lost, nothing doubled after {points:?}");
        let received = shop.platform.receiver.received();
        if points.contains(&"webhook_after_send") {
            let (sent, new) = (received.total - repeated.total, received.distinct - repeated.distinct);
            assert!(sent > new as u64, "what was sent before the crash was not sent again: {sent} for {new}");
        }
        assert_eq!(received.invalid, 0);
    }
    for (name, role) in running {
        assert_eq!(role.stop(), 0, "{name} did not drain");
    }
    shop.platform.stop().await;
}

pub async fn assert_crashed_at(point: &str, role: &mut Role) {
    let status = role.ended().await;
    assert_died_at(point, status, &role.log());
}

/// That it died, that it died there, and because it was asked to.
pub fn assert_died_at(point: &str, status: ExitStatus, log: &str) {
    assert_eq!(status.signal(), Some(rustix::process::Signal::ABORT.as_raw()), "{point}: {status}\n{log}");
    assert!(log.contains(&format!("crashing at {point}, as MILLRACE_CRASH_AT asks")), "{log}");
}

/// A new crash point fails here until a test dies at it.
#[test]
fn every_crash_point_in_the_code_has_its_test() {
    let mut found = BTreeSet::new();
    for directory in workspace() {
        crash_points(&directory.join("src"), &mut found);
    }
    let rounds = ROUNDS.iter().chain(&erasure::ROUNDS).flat_map(|points| points.iter());
    let elsewhere: [&[&str]; 4] =
        [&rebuild::CRASH_POINTS, &evolution::CRASH_POINTS, &outbox::CRASH_POINTS, &gateway::CRASH_POINTS];
    let tested = rounds.chain(elsewhere.into_iter().flatten());
    assert_eq!(found, tested.map(|&point| point.into()).collect::<BTreeSet<String>>());
}

/// Where the crates are, that of the binary first.
fn workspace() -> Vec<PathBuf> {
    let manifest = include_str!("../../Cargo.toml");
    let members = manifest.lines().find_map(|line| line.strip_prefix("members = [")).unwrap();
    let members = members.split('"').skip(1).step_by(2);
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    [""].into_iter().chain(members).map(|member| root.join(member)).collect()
}

/// The names in `crash_at("…")`; `{}` in one stands for each projection.
fn crash_points(directory: &Path, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            crash_points(&path, found);
            continue;
        }
        if path.extension().is_none_or(|extension| extension != "rs") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap().replace("fn crash_at(", "");
        for call in text.split("crash_at(").skip(1) {
            let name = call.split('"').nth(1).unwrap();
            found.extend(millrace_processors::postgres::NAMES.iter().map(|of| name.replace("{}", of)));
        }
    }
}
