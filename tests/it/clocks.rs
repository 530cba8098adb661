//! Clocks that are an hour off: what counts is the event's own time, and Postgres' where several must agree.

use crate::shop::Shop;
use std::path::PathBuf;
use std::process::Command;

/// What makes a program see another time of day; compiled by the compiler that the build needs.
fn clock_off(shop: &Shop) -> PathBuf {
    let library = shop.platform.data.join("clock_off.so");
    let mut cc = Command::new("cc");
    cc.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library);
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/clock_off.c");
    assert!(cc.arg(source).status().unwrap().success());
    library
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_an_hour_off_loses_nothing_and_moves_no_number() {
    let mut shop = Shop::open().await;
    let library = clock_off(&shop);
    for seconds in ["4000", "-4000"] {
        let clock = [("LD_PRELOAD", library.to_str().unwrap()), ("CLOCK_OFF_S", seconds)];
        let hour = shown(seconds);
        let process = shop.member("process", &["process"], &clock);
        let sink = shop.member("sink", &["sink"], &clock);
        shop.publish(1_000, &[]);
        shop.publish_in(&clock, 1_000, &[]);
        shop.assert_equals_the_oracle();
        let log = process.log();
        assert!(log.contains(&hour) || log.contains(&shown(seconds)), "its clock was right, so nothing was shown");
        assert_eq!((process.stop(), sink.stop()), (0, 0));
    }
    let received = shop.platform.receiver.received();
    assert!(received.total > 0 && received.invalid == 0, "receivers refuse what another clock has signed");
    shop.platform.stop().await;
}

/// The hour that such a clock shows, as the log writes it.
fn shown(seconds: &str) -> String {
    let shown = chrono::Utc::now() + chrono::Duration::seconds(seconds.parse().unwrap());
    format!("\"timestamp\":\"{}", shown.format("%FT%H:"))
}
