//! What the gateway costs next to a server that does nothing, and to one that does nothing but publish; how long one
//! event's answer takes at half of what it can take.
//!
//! ```text
//! load, connections that stay ─→ echo                        no parsing, no log
//!                             ─→ echo ─→ librdkafka ─→ Kafka the very records, ready-made
//!                             ─→ millrace gateway ─→ Kafka
//! ```

pub mod bare;
pub mod crowd;
mod load;

use crate::Arguments;
use crate::platform::{Platform, Role, eventually};
use crate::processes::{Meter, own_cpu_seconds};
use crate::report::Report;
use anyhow::ensure;
use bare::{Bare, Produce, Spec};
pub use load::order;
use load::{Load, Outcome, Pace, Request, Target};
use millrace_local::{FreePorts, token_file};
use millrace_stream::{Admin, KafkaConfig};
use serde_json::{Value, json};
use std::time::Duration;

const BATCH: usize = 100;
/// Enough that waiting for the log, five milliseconds and more a request, is not what limits.
const CONNECTIONS: [(usize, usize); 2] = [(BATCH, 32), (1, 256)];
pub const TOPIC: &str = "shop.order.v1";
/// Before what is measured: connections, pools, the log's first segments.
const SETTLING: Duration = Duration::from_secs(1);
const MILLRACE: &str = "millrace";
const PRODUCE: &str = "echo and produce";

/// A gateway of the real binary.
struct Gateway {
    role: Role,
    target: Target,
    _ports: FreePorts,
}

impl Gateway {
    async fn start(platform: &Platform, environment: &[(&str, &str)]) -> anyhow::Result<Self> {
        let mut ports = FreePorts::default();
        let address = format!("127.0.0.1:{}", ports.take()?);
        let token = std::fs::read_to_string(token_file(&platform.data))?;
        let mut command = platform.command();
        command.arg("gateway").env("MILLRACE_GATEWAY__LISTEN", &address);
        // It would be measured against servers that share nothing.
        command.env("MILLRACE_REDIS__URL", "").envs(environment.iter().copied());
        let role = Role::start(&mut command, &platform.data, "gateway");
        let contracts = format!("http://{address}/v1/contracts");
        eventually("the gateway answers", async || reqwest::get(&contracts).await.is_ok()).await;
        Ok(Self { role, target: Target { address, token }, _ports: ports })
    }
}

/// Someone to ask, and the process that is measured.
struct Subject<'a> {
    name: &'static str,
    target: &'a Target,
    pid: u32,
}

pub async fn measure(arguments: &Arguments, report: &mut Report) -> anyhow::Result<Value> {
    let platform = Platform::start().await;
    let gateway = Gateway::start(&platform, &[]).await?;
    let request = Request::of(BATCH, &gateway.target);
    let mut load = Load::connect(&gateway.target, CONNECTIONS[0].1, &request).await?;
    let warm = load.run(Pace::Closed, SETTLING * 3).await?; // and the records that are produced ready-made
    ensure!(warm.refused == 0 && warm.accepted > 0, "{} of the first requests were refused", warm.refused);
    let bare = [start_bare(&platform, false).await?, start_bare(&platform, true).await?];
    let targets = bare.each_ref().map(|bare| Target { address: bare.address.clone(), ..gateway.target.clone() });
    let subjects = [
        Subject { name: "echo", target: &targets[0], pid: bare[0].pid() },
        Subject { name: PRODUCE, target: &targets[1], pid: bare[1].pid() },
        Subject { name: MILLRACE, target: &gateway.target, pid: gateway.role.pid() },
    ];
    let time = Duration::from_secs(arguments.load_seconds);
    for _ in 0..arguments.runs {
        for (events, connections) in CONNECTIONS {
            for subject in &subjects {
                run(&platform, subject, (events, connections), Pace::Closed, time, report).await?;
            }
        }
    }
    let full = report.medians(&group(1, Pace::Closed), "requests_per_s")[MILLRACE];
    for _ in 0..arguments.runs {
        for subject in &subjects {
            run(&platform, subject, CONNECTIONS[1], Pace::Open(full / 2.0), time, report).await?;
        }
    }
    ensure!(gateway.role.stop() == 0, "the gateway did not drain");
    platform.stop().await;
    let to_limit = |events| report.ratio(&group(events, Pace::Closed), (MILLRACE, PRODUCE), "events_per_s");
    Ok(json!({ "to_limit": { "batches": to_limit(BATCH), "single": to_limit(1) } }))
}

async fn start_bare(platform: &Platform, produces: bool) -> anyhow::Result<Bare> {
    let target = Target { address: String::new(), token: String::new() };
    let event_bytes = Request::of(1, &target).body_bytes;
    let mut produce = None;
    if produces {
        let brokers = platform.addresses().kafka.clone();
        let kafka = KafkaConfig { brokers: brokers.clone(), ..KafkaConfig::default() };
        let partitions = Admin::new(kafka).partitions(vec![TOPIC.to_owned()]).await?.len();
        produce = Some(Produce { brokers, topic: TOPIC.to_owned(), partitions: i32::try_from(partitions)? });
    }
    Bare::start(&platform.data.join("bare.json"), &Spec { event_bytes, produce })
}

fn group(events: usize, pace: Pace) -> String {
    let shape = if events == 1 { "single".to_owned() } else { format!("batches of {events}") };
    match pace {
        Pace::Closed => shape,
        Pace::Open(_) => format!("{shape}, half load"),
    }
}

async fn run(
    platform: &Platform,
    subject: &Subject<'_>,
    (events, connections): (usize, usize),
    pace: Pace,
    time: Duration,
    report: &mut Report,
) -> anyhow::Result<()> {
    let mut load = Load::connect(subject.target, connections, &Request::of(events, subject.target)).await?;
    load.run(pace, SETTLING).await?;
    let (meter, own) = (Meter::start(platform, subject.pid), own_cpu_seconds());
    let outcome: Outcome = load.run(pace, time).await?;
    let own = own_cpu_seconds() - own;
    let mut figures = meter.stop(outcome.events());
    figures.extend(outcome.figures()?);
    figures.insert("load_cpu_s_per_million", own * 1e6 / outcome.events() as f64);
    report.add(&group(events, pace), subject.name, figures);
    Ok(())
}
