//! What the gateway's memory is when senders are many, slow or hostile, and when Kafka is away: one process, sampled in
//! one phase after the other. Knows nothing of how the gateway bounds it.

use super::load::{ANSWER_DEADLINE, Load, Outcome, Pace, Request, Target, answer, head};
use super::{BATCH, Gateway};
use crate::SETTLED_WITHIN;
use crate::platform::Platform;
use crate::processes::rss_mb;
use crate::report::{Figures, Report};
use anyhow::{Context, ensure};
use flate2::Compression;
use flate2::write::GzEncoder;
use millrace_local::Server;
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

const GROUP: &str = "memory";
const SAMPLE_EVERY: Duration = Duration::from_millis(100);
const IDLE_FOR: Duration = Duration::from_secs(2);
const CONNECTIONS: usize = 10_000;
/// One for each connection; and Kafka's, Postgres', the load's.
const FILES: u64 = 12_000;
/// Longer than the gateway bears with any of them.
const SLOW_FOR: Duration = Duration::from_secs(20);
/// At once, so that the last connections come before the first have been borne with for too long.
const OPENERS: usize = 64;
const COUNTED_EVERY: Duration = Duration::from_millis(500);
/// Who sends what no gateway should read to its end, all at once.
const HOSTILE: usize = 64;
const HOSTILE_FOR: Duration = Duration::from_secs(5);
/// More than the gateway has memory for while none of them is answered.
const LOADING: usize = 1_000;
const LOADED_FOR: Duration = Duration::from_secs(10);
/// What was sent before waits up to ten seconds for the log, and the Kafka client waits longer from try to try.
const BACK_FOR: Duration = Duration::from_secs(30);
const INFLATED_BYTES: usize = 256 << 20;
const LARGE_BYTES: usize = 16 << 20;
/// About as many as a body may have.
const NESTED_BYTES: usize = 7 << 20;

pub async fn measure(away: Duration, report: &mut Report) -> anyhow::Result<()> {
    let platform = Platform::start().await;
    allow_files()?; // after the servers, which have limits of their own
    let connections = (2 * CONNECTIONS).to_string();
    let gateway = Gateway::start(&platform, &[("MILLRACE_GATEWAY__CONNECTIONS", &connections)]).await?;
    let (pid, target) = (gateway.role.pid(), &gateway.target);
    report.add(GROUP, "nothing to do", sampled(pid, idle()).await?.1);
    let (opened, mut figures) = sampled(pid, slow(&gateway)).await?;
    figures.insert("connections", opened);
    report.add(GROUP, "10,000 slow connections", figures);
    for (name, request) in hostile(target)? {
        let (refused, mut figures) = sampled(pid, repeated(target, request)).await?;
        figures.insert("refused_per_s", refused as f64 / HOSTILE_FOR.as_secs_f64());
        report.add(GROUP, name, figures);
    }
    let mut load = Load::connect(target, LOADING, &Request::of(BATCH, target)).await?;
    loaded(pid, "full load", &mut load, LOADED_FOR, report).await?;
    let kafka = platform.stack.pid(Server::Kafka).context("Kafka is not running")?;
    let kafka = Pid::from_raw(i32::try_from(kafka)?).context("Kafka has no process")?;
    kill_process(kafka, Signal::STOP)?;
    loaded(pid, "full load, Kafka away", &mut load, away, report).await?;
    kill_process(kafka, Signal::CONT)?;
    let back = loaded(pid, "full load, Kafka back", &mut load, BACK_FOR, report).await?;
    ensure!(back.accepted > 0, "nothing was accepted once Kafka was back:\n{}", gateway.role.log());
    drop(load);
    report.add(GROUP, "nothing to do again", sampled(pid, idle()).await?.1);
    ensure!(gateway.role.stop() == 0, "the gateway did not drain");
    platform.stop().await;
    Ok(())
}

/// An ordinary user begins with 1,024 of them.
fn allow_files() -> anyhow::Result<()> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current.is_none_or(|current| current >= FILES) {
        return Ok(());
    }
    let allowed = setrlimit(Resource::Nofile, Rlimit { current: Some(FILES), maximum });
    allowed.with_context(|| format!("{CONNECTIONS} connections need {FILES} open files: raise `ulimit -Hn`"))
}

/// Resident memory while something goes on, and what came of it.
async fn sampled<T>(pid: u32, phase: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<(T, Figures)> {
    let mut phase = std::pin::pin!(timeout(SETTLED_WITHIN, phase));
    let mut samples = Vec::new();
    let ended = loop {
        tokio::select! {
            ended = &mut phase => break ended,
            () = sleep(SAMPLE_EVERY) => samples.push(rss_mb(pid).context("the gateway ended")?),
        }
    };
    let ended = ended.context("the phase did not end")??;
    samples.sort_by(f64::total_cmp);
    let peak = *samples.last().context("the phase was too short")?;
    let median = samples[samples.len() / 2];
    Ok((ended, Figures::from([("rss_median_mb", median), ("client_peak_rss_mb", peak)])))
}

async fn idle() -> anyhow::Result<()> {
    sleep(IDLE_FOR).await;
    Ok(())
}

/// A quarter says nothing, a quarter half of its headers, a quarter never reads an answer; a quarter, which comes last
/// since it is borne with for the shortest time, half of its body. Returns how many were open at once.
async fn slow(gateway: &Gateway) -> anyhow::Result<f64> {
    let whole = Request::of(1, &gateway.target).bytes;
    let half_a_body = &whole[..whole.len() - 200];
    let pipelined = whole.repeat(8);
    let says: [&[u8]; 4] = [b"", &whole[..40], &pipelined, half_a_body];
    let opened_by = |opener: usize| async move {
        let mut streams = Vec::new();
        for at in (opener..CONNECTIONS).step_by(OPENERS) {
            let mut stream = TcpStream::connect(&gateway.target.address).await?;
            stream.write_all(says[at * says.len() / CONNECTIONS]).await?;
            streams.push(stream);
        }
        anyhow::Ok(streams)
    };
    let counted = async {
        let (until, mut open) = (Instant::now() + SLOW_FOR, 0.0_f64);
        while Instant::now() < until {
            open = open.max(crate::metric(&gateway.role, "millrace_gateway_connections").await?);
            sleep(COUNTED_EVERY).await;
        }
        Ok(open)
    };
    let opened = futures_util::future::try_join_all((0..OPENERS).map(opened_by));
    let (_streams, open) = tokio::try_join!(opened, counted)?; // until all are counted they stay open
    Ok(open)
}

/// Bodies that are far larger, or deeper, than they look.
fn hostile(target: &Target) -> anyhow::Result<[(&'static str, Vec<u8>); 4]> {
    const KIND: &str = "application/cloudevents+json";
    let spaces = vec![b' '; INFLATED_BYTES];
    let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
    gzip.write_all(&spaces)?;
    let (gzip, zstd) = (gzip.finish()?, zstd::encode_all(&spaces[..], 3)?);
    let nested = "[".repeat(NESTED_BYTES);
    let nested = format!(r#"{{"specversion":"1.0","id":"x","source":"/bench","type":"order.placed","data":{nested}}}"#);
    let request = |encoding: &str, body: &[u8]| {
        let kind = format!("{KIND}\r\ncontent-encoding: {encoding}");
        [head(target, &kind, body.len()).as_bytes(), body].concat()
    };
    Ok([
        ("gzip bombs", request("gzip", &gzip)),
        ("zstd bombs", request("zstd", &zstd)),
        ("bodies too large", request("identity", &spaces[..LARGE_BYTES])),
        ("bodies deeply nested", request("identity", nested.as_bytes())),
    ])
}

/// Sends it again and again, from many sides. How often it was refused.
async fn repeated(target: &Target, request: Vec<u8>) -> anyhow::Result<u64> {
    let (until, request) = (Instant::now() + HOSTILE_FOR, Arc::new(request));
    let mut senders = JoinSet::new();
    for _ in 0..HOSTILE {
        senders.spawn(send_until(until, target.address.clone(), request.clone()));
    }
    let mut refused = 0;
    while let Some(sender) = senders.join_next().await {
        refused += sender??;
    }
    ensure!(refused > 0, "nobody was refused");
    Ok(refused)
}

async fn send_until(until: Instant, address: String, request: Arc<Vec<u8>>) -> anyhow::Result<u64> {
    let mut refused = 0;
    while Instant::now() < until {
        let Ok(mut stream) = TcpStream::connect(&address).await else {
            sleep(SAMPLE_EVERY).await; // this machine is out of ports: closed connections keep theirs for a while
            continue;
        };
        let exchange = async {
            let _ = stream.write_all(&request).await; // it may be cut off before its end
            answer(&mut stream, &mut Vec::new()).await
        };
        let answered = timeout(ANSWER_DEADLINE, exchange).await.context("it was neither answered nor cut off")?;
        if let Ok(status) = answered {
            ensure!(is_refusal(status), "the answer was {status}");
        }
        refused += 1;
    }
    Ok(refused)
}

/// For what it is; or because all the others hold what memory there is for bodies.
fn is_refusal(status: u16) -> bool {
    (400..500).contains(&status) || status == 503
}

async fn loaded(pid: u32, name: &str, load: &mut Load, time: Duration, report: &mut Report) -> anyhow::Result<Outcome> {
    let (outcome, mut figures) = sampled(pid, load.run(Pace::Closed, time)).await?;
    figures.insert("accepted_per_s", outcome.accepted as f64 / outcome.seconds);
    figures.insert("refused_per_s", outcome.refused as f64 / outcome.seconds);
    report.add(GROUP, name, figures);
    Ok(outcome)
}
