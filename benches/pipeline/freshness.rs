//! How fresh a view is: the time from the moment an event was handed to the log until a view shows it.
//!
//! ```text
//! millrace simulate ─→ log ─→ millrace process clickhouse ─→ events.page_viewed ←── looked at, twenty times a second
//! ```
//!
//! A look notes how far the view is in each partition of the log. A partition's events are shown in their order, so
//! the first look that is past an event's offset is the first that could see it. All on one machine: one clock.

use crate::memory::traffic;
use crate::platform::Platform;
use crate::report::{Figures, Report};
use crate::{SETTLED_WITHIN, published, settled};
use anyhow::{Context, ensure};
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The view that shows most of the traffic.
const VIEW: &str = "events.page_viewed";
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// What is published before is not counted: pools, caches and the first months' partitions are made meanwhile.
const SETTLING: Duration = Duration::from_secs(5);

/// How far the view was in each partition: offsets.
struct Look {
    at_micros: i64,
    shown: BTreeMap<i64, i64>,
}

/// Publishes at the rate for so long, and a little before.
pub async fn measure(seconds: u64, rate: u64, seed: u64, report: &mut Report) -> anyhow::Result<()> {
    let platform = Platform::start().await;
    let pool = platform.postgres().await;
    let mut process = platform.role(&["process", "clickhouse"]);
    crate::owns_partitions(&mut process).await?;
    let events = rate * (seconds + SETTLING.as_secs());
    let mut traffic = traffic(&platform, seed, rate, events);
    let began = Instant::now();
    let (mut looks, mut since) = (Vec::new(), 0);
    while traffic.is_running() {
        look(&platform, &mut looks, &mut since).await?;
    }
    ensure!(traffic.finish().0 == 0, "the simulator failed");
    while settled(&pool, "clickhouse").await? != Some(events.cast_signed()) {
        ensure!(process.is_running(), "the pipeline ended:\n{}", process.log());
        ensure!(began.elapsed() < SETTLED_WITHIN, "the pipeline was not done within {SETTLED_WITHIN:?}");
        look(&platform, &mut looks, &mut since).await?;
    }
    look(&platform, &mut looks, &mut since).await?;
    let (real_rate, first_micros) = published(&platform).await?;
    let from = first_micros + SETTLING.as_micros() as i64;
    let mut figures = quantiles(&ages(&platform, &looks, from).await?)?;
    figures.insert("events_per_s", real_rate);
    figures.insert("looks_per_s", looks.len() as f64 / began.elapsed().as_secs_f64());
    report.add("freshness", VIEW, figures);
    ensure!(process.stop() == 0, "the pipeline did not drain");
    pool.close().await;
    platform.stop().await;
    Ok(())
}

/// Asks as an analyst would, but only for what can be new: otherwise looking would be most of the server's work.
async fn look(platform: &Platform, looks: &mut Vec<Look>, since: &mut i64) -> anyhow::Result<()> {
    let began = Instant::now();
    let sql = format!(
        "select _partition as partition, max(_offset) as shown, toUnixTimestamp64Micro(max(occurred_at)) as newest
         from {VIEW} where occurred_at >= fromUnixTimestamp64Micro({since}, 'UTC') group by partition"
    );
    let rows = platform.clickhouse(&sql).await;
    let at_micros = now_micros();
    let number = |row: &Value, name: &str| row[name].as_i64().with_context(|| format!("no {name}"));
    let mut shown = BTreeMap::new();
    let mut newest = Vec::new();
    for row in &rows {
        shown.insert(number(row, "partition")?, number(row, "shown")?);
        newest.push(number(row, "newest")?);
    }
    // The partition that is behind the others must not fall out of sight.
    let known = looks.last().map_or(0, |look: &Look| look.shown.len());
    if newest.len() >= known {
        *since = newest.into_iter().min().unwrap_or_default();
    }
    looks.push(Look { at_micros, shown });
    tokio::time::sleep(LOOK_EVERY.saturating_sub(began.elapsed())).await;
    Ok(())
}

/// Of every event recorded since, in milliseconds, how old it was when a look could first see it.
async fn ages(platform: &Platform, looks: &[Look], from_micros: i64) -> anyhow::Result<Vec<f64>> {
    let sql = format!(
        "select _partition as partition, groupArray((_offset, toUnixTimestamp64Micro(_recorded_at))) as events
         from {VIEW} where toUnixTimestamp64Micro(_recorded_at) >= {from_micros} group by partition"
    );
    let mut ages = Vec::new();
    for row in platform.clickhouse(&sql).await {
        let partition = row["partition"].as_i64().context("no partition")?;
        let events: Vec<(i64, i64)> = serde_json::from_value(row["events"].clone())?;
        let mut shown = -1;
        let seen: Vec<(i64, i64)> = looks
            .iter()
            .map(|look| {
                shown = shown.max(look.shown.get(&partition).copied().unwrap_or(-1));
                (look.at_micros, shown)
            })
            .collect();
        for (offset, recorded_micros) in events {
            let first = seen.partition_point(|(_, shown)| *shown < offset);
            let (at_micros, _) = seen.get(first).context("no look saw the last event")?;
            ages.push((at_micros - recorded_micros) as f64 / 1000.0);
        }
    }
    Ok(ages)
}

/// Of milliseconds.
pub fn quantiles(ages: &[f64]) -> anyhow::Result<Figures> {
    let mut sorted = ages.to_vec();
    sorted.sort_by(f64::total_cmp);
    let greatest = *sorted.last().context("no event was counted")?;
    let at = |share: f64| sorted[(share * (sorted.len() - 1) as f64).round() as usize];
    Ok(Figures::from([
        ("p50_ms", at(0.5)),
        ("p90_ms", at(0.9)),
        ("p99_ms", at(0.99)),
        ("max_ms", greatest),
        ("events_counted", sorted.len() as f64),
    ]))
}

fn now_micros() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as i64)
}
