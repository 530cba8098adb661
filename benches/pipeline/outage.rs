//! What becomes of the pipeline while ClickHouse is gone: its memory before, meanwhile and after, under steady load;
//! and whether everything arrives once ClickHouse is back.

use crate::memory::{figures, role, traffic};
use crate::platform::{BINARY, Platform};
use crate::processes::rss_mb;
use crate::report::{Figures, Report};
use crate::{SETTLED_WITHIN, owns_partitions, published, settled};
use anyhow::{Context, ensure};
use millrace_local::Server;
use std::ffi::OsString;
use std::time::{Duration, Instant};

const GROUP: &str = "outage";
/// Long enough for the windows to be full and the batches steady.
const BEFORE: Duration = Duration::from_secs(60);
/// Of the load that goes on once ClickHouse is back.
const AFTER: Duration = Duration::from_secs(60);
const SAMPLE_EVERY: Duration = Duration::from_secs(1);
/// The supervisor starts a server again at once. This one's program waits as long as the file is there.
const WAITING: &str = r#"while [ -e "$0" ]; do sleep 0.1; done; exec "$@""#;

/// Seconds since the phase began, and megabytes.
type Samples = Vec<(f64, f64)>;

pub async fn measure(outage: Duration, rate: u64, seed: u64, report: &mut Report) -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let down = directory.path().join("down");
    let engine: [OsString; 6] =
        ["sh".into(), "-c".into(), WAITING.into(), down.clone().into(), BINARY.into(), "local".into()];
    let platform = Platform::start_on(engine.into_iter().chain(["clickhouse".into()]).collect()).await;
    let pool = platform.postgres().await;
    let mut process = role(&platform, &["process", "clickhouse"]);
    owns_partitions(&mut process).await?;
    let events = rate * (BEFORE + outage + AFTER).as_secs();
    let traffic = traffic(&platform, seed, rate, events);
    let sample = async || {
        tokio::time::sleep(SAMPLE_EVERY).await;
        rss_mb(process.pid()).with_context(|| format!("the pipeline ended:\n{}", process.log()))
    };

    let before = sampled(&sample, async |elapsed| Ok(elapsed < BEFORE)).await?;
    std::fs::write(&down, "")?;
    ensure!(platform.stack.kill(Server::ClickHouse), "ClickHouse was not running");
    let settled_before = settled(&pool, "clickhouse").await?;
    let during = sampled(&sample, async |elapsed| Ok(elapsed < outage)).await?;
    std::fs::remove_file(&down)?;
    platform.stack.wait_ready(Server::ClickHouse).await?;
    let back = Instant::now();
    let after = sampled(&sample, async |elapsed| {
        ensure!(elapsed < SETTLED_WITHIN, "not everything had arrived within {SETTLED_WITHIN:?}");
        Ok(settled(&pool, "clickhouse").await? != Some(events.cast_signed()))
    })
    .await?;
    let arrived_s = back.elapsed().as_secs_f64();
    ensure!(traffic.finish().0 == 0, "the simulator failed");
    check_rows(&platform, events).await?;
    let (real_rate, _) = published(&platform).await?;
    ensure!(settled_before < Some(events.cast_signed()), "everything had arrived before ClickHouse was stopped");

    report.add(GROUP, "before", of_phase(&before, real_rate));
    report.add(GROUP, "ClickHouse stopped", of_phase(&during, real_rate));
    let mut last = of_phase(&after, real_rate);
    last.insert("arrived_s", arrived_s);
    report.add(GROUP, "ClickHouse back", last);
    ensure!(process.stop() == 0, "the pipeline did not drain");
    pool.close().await;
    platform.stop().await;
    Ok(())
}

/// Samples for as long as the phase goes on.
async fn sampled(
    sample: impl AsyncFn() -> anyhow::Result<f64>,
    mut goes_on: impl AsyncFnMut(Duration) -> anyhow::Result<bool>,
) -> anyhow::Result<Samples> {
    let began = Instant::now();
    let mut samples = Vec::new();
    while goes_on(began.elapsed()).await? {
        let rss = sample().await?;
        samples.push((began.elapsed().as_secs_f64(), rss));
    }
    Ok(samples)
}

/// The peak of the whole phase: what comes at its beginning is not left out, as it is of the rest.
fn of_phase(samples: &Samples, rate: f64) -> Figures {
    let mut figures = figures(samples, rate);
    let peak = samples.iter().map(|(_, rss)| *rss).reduce(f64::max);
    figures.extend(peak.map(|peak| ("client_peak_rss_mb", peak)));
    figures
}

/// # Errors
/// When the views show more events or fewer than were published.
async fn check_rows(platform: &Platform, events: u64) -> anyhow::Result<()> {
    let rows = platform.clickhouse("select count() as rows from merge('events', '.*')").await;
    ensure!(rows[0]["rows"] == events, "the views show {} events of {events}", rows[0]["rows"]);
    Ok(())
}
