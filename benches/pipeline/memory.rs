//! Does memory stay flat? The roles `process` and `sink` under steady traffic, each a process of its own.

use crate::platform::{Platform, Role};
use crate::processes::rss_mb;
use crate::report::{Figures, Report};
use anyhow::{Context, ensure};
use std::time::{Duration, Instant};

const SAMPLE_EVERY: Duration = Duration::from_secs(5);
/// The first fifth fills what is meant to fill: windows, pools, caches.
const SETTLING_SHARE: f64 = 0.2;
/// Less of the rate than this is no steady load.
const RATE_SHARE: f64 = 0.95;
/// What may still be under way when the traffic ends, in seconds of it.
const BEHIND_SECONDS: u64 = 5;
/// Deduplication keeps ids by the record, not by the minute. This window is full, in the busiest topic, within half a
/// minute; the default one, of 262,144, would still be growing when the watch ends.
const DEDUP_WINDOW: &str = "4096";
/// Every pipeline has its own.
const WINDOWS: [&str; 4] = [
    "MILLRACE_PROCESS__CLICKHOUSE__DEDUP_WINDOW",
    "MILLRACE_PROCESS__ORDER_STATUS__DEDUP_WINDOW",
    "MILLRACE_PROCESS__CUSTOMER_SUMMARY__DEDUP_WINDOW",
    "MILLRACE_SINK__WEBHOOK__PIPELINE__DEDUP_WINDOW",
];

/// Servers of its own, so that the log begins empty.
pub async fn watch(minutes: u64, rate: u64, seed: u64, report: &mut Report) -> anyhow::Result<()> {
    let platform = Platform::start().await;
    let roles = [("process", role(&platform, &["process"])), ("sink", role(&platform, &["sink"]))];
    let mut traffic = traffic(&platform, seed, rate, rate * minutes * 60);
    let mut samples: [Vec<(f64, f64)>; 2] = [Vec::new(), Vec::new()];
    let began = Instant::now();
    while traffic.is_running() {
        tokio::time::sleep(SAMPLE_EVERY).await;
        for ((name, role), samples) in roles.iter().zip(&mut samples) {
            let rss = rss_mb(role.pid()).with_context(|| format!("{name} ended:\n{}", role.log()))?;
            samples.push((began.elapsed().as_secs_f64(), rss));
        }
    }
    let real_rate = rate as f64 * (minutes * 60) as f64 / began.elapsed().as_secs_f64();
    ensure!(traffic.finish().0 == 0, "the simulator failed");
    // Roles that have nothing to do are flat, and prove nothing.
    ensure!(real_rate > rate as f64 * RATE_SHARE, "only {real_rate:.0} events/s of {rate} were published");
    kept_up(&platform, rate * minutes * 60, rate).await?;
    for ((name, role), samples) in roles.into_iter().zip(samples) {
        report.add("memory", name, figures(&samples, real_rate));
        ensure!(role.stop() == 0, "{name} did not drain");
    }
    platform.stop().await;
    Ok(())
}

/// # Errors
/// When ClickHouse's pipeline, which takes every event, had fallen behind.
async fn kept_up(platform: &Platform, events: u64, rate: u64) -> anyhow::Result<()> {
    let settled = crate::settled(&platform.postgres().await, "clickhouse").await?.unwrap_or_default();
    let behind = events.saturating_sub(settled.unsigned_abs());
    ensure!(behind <= BEHIND_SECONDS * rate, "the pipeline was {behind} records behind");
    Ok(())
}

/// The shop's traffic, as a process of its own.
pub fn traffic(platform: &Platform, seed: u64, rate: u64, events: u64) -> Role {
    let [seed, rate, events] = [seed, rate, events].map(|number| number.to_string());
    platform.role(&["--json", "simulate", "--seed", &seed, "--rate", &rate, "--events", &events])
}

/// A role with windows that are full early.
pub fn role(platform: &Platform, arguments: &[&str]) -> Role {
    let mut command = platform.command();
    command.args(arguments).envs(WINDOWS.map(|window| (window, DEDUP_WINDOW)));
    Role::start(&mut command, &platform.data, &arguments.join("-"))
}

/// Of what comes after the settling time: least, median, greatest, and how much it grows.
pub fn figures(samples: &[(f64, f64)], rate: f64) -> Figures {
    let from = samples.last().map_or(0.0, |(at, _)| at * SETTLING_SHARE);
    let settled: Vec<(f64, f64)> = samples.iter().copied().filter(|(at, _)| *at >= from).collect();
    let mut sorted: Vec<f64> = settled.iter().map(|(_, rss)| *rss).collect();
    sorted.sort_by(f64::total_cmp);
    let [least, .., greatest] = sorted[..] else { return Figures::new() };
    Figures::from([
        ("events_per_s", rate),
        ("rss_least_mb", least),
        ("rss_median_mb", sorted[sorted.len() / 2]),
        ("client_peak_rss_mb", greatest),
        ("rss_growth_mb_per_minute", slope(&settled) * 60.0),
        ("seconds", settled.last().map_or(0.0, |(at, _)| at - from)),
    ])
}

/// Least squares.
fn slope(points: &[(f64, f64)]) -> f64 {
    let count = points.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / count;
    let (mean_x, mean_y) = (mean(|(x, _)| *x), mean(|(_, y)| *y));
    let covariance: f64 = points.iter().map(|(x, y)| (x - mean_x) * (y - mean_y)).sum();
    covariance / points.iter().map(|(x, _)| (x - mean_x).powi(2)).sum::<f64>()
}
