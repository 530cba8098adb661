//! `millrace up`: the whole platform on one machine, in one process beside the servers, with traffic.
//!
//! ```text
//! servers ─→ issuer, receiver ─→ migrate ─→ registry ─→ pipelines, sinks ─→ gateway, traffic ─→ (--for) settle, compare ─→ drain
//! ```
#![allow(clippy::print_stdout, reason = "this command's output")]

use crate::commands::local::StackArguments;
use crate::commands::roles::{self, Base, Running};
use crate::commands::simulate::{described, until_settled};
use crate::commands::traffic::{Traffic, TrafficOptions};
use crate::commands::{Global, local, migrate, simulate, status};
use crate::config::Config;
use crate::exit::{Exit, asked_to_stop};
use crate::verify::{self, Difference, Servers};
use clap::Args;
use millrace_local::{Issuer, Receiver, Stack};
use millrace_producers::simulate::Report;
use millrace_producers::{Client, oracle};
use millrace_schemas::Contracts;
use serde::Serialize;
use sqlx::PgPool;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Often enough to see numbers flow, seldom enough to read them.
const LINE_EVERY: Duration = Duration::from_secs(2);
/// How exactly the first visible event is timed.
const LOOK_EVERY: Duration = Duration::from_millis(200);

#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    pub stack: StackArguments,
    /// Servers and roles, but no simulated traffic
    #[arg(long)]
    no_traffic: bool,
    /// Events a second
    #[arg(long, default_value_t = 200)]
    rate: u32,
    /// Equal seeds give equal events
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Stop by itself after this long (30s, 5m), once everything took effect and was compared with the oracle
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    r#for: Option<Duration>,
}

impl Arguments {
    fn traffic(&self) -> Option<TrafficOptions> {
        let file = self.stack.data_dir.join("up/traffic.json");
        (!self.no_traffic).then_some(TrafficOptions { seed: self.seed, rate: self.rate, file })
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let number: u64 = number.parse().map_err(|_| format!("`{text}` does not begin with a number: write 30s or 5m"))?;
    match unit {
        "s" | "" => Ok(Duration::from_secs(number)),
        "m" => Ok(Duration::from_secs(number * 60)),
        "h" => Ok(Duration::from_secs(number * 3600)),
        other => Err(format!("`{other}` is no unit of time: write s, m or h")),
    }
}

pub async fn run(arguments: Arguments, global: &Global) -> Result<(), Exit> {
    // A wrong configuration, a wrong project, another seed: said before anything is started.
    Config::load(global)?;
    let contracts = global.contracts()?;
    global.rules(&contracts)?;
    global.analytics()?;
    if let Some(traffic) = arguments.traffic().filter(|_| !arguments.stack.fresh) {
        traffic.refuse_another_seed()?;
    }
    let begun = Instant::now();
    let stack = local::start(&arguments.stack).await?;
    let ended = tokio::select! {
        ended = demonstrate(&arguments, global, &stack, begun) => ended,
        failure = stack.failed() => Err(Exit::failed(failure)),
    };
    stack.stop().await;
    ended
}

async fn demonstrate(arguments: &Arguments, global: &Global, stack: &Stack, begun: Instant) -> Result<(), Exit> {
    let mut platform = Platform::start(arguments, global, stack, begun).await?;
    stack.write_stack_json().map_err(Exit::failed)?;
    if !global.json {
        println!("{}\n", platform.welcome(arguments, stack));
    }
    let mut traffic = platform.traffic(arguments)?;
    let ended = platform.until_told(arguments, global, &mut traffic).await;
    let sent = traffic.finish().await;
    let verdict = match (&ended, &sent) {
        (Ok(()), Ok(sent)) if arguments.r#for.is_some() => Some(platform.verdict(arguments, sent).await),
        _ => None,
    };
    let drained = platform.drain().await;
    ended?;
    sent?;
    let verdict = verdict.transpose()?;
    drained?;
    verdict.map_or(Ok(()), |verdict| verdict.tell(global))
}

/// Every role, in this process.
struct Platform {
    config: Config,
    contracts: Arc<Contracts>,
    pool: PgPool,
    client: Client,
    running: Vec<Running>,
    receiver: Receiver,
    receiver_url: String,
    issuer: Issuer,
    gateway: JoinHandle<bool>,
    /// Ends the gateway, before all others.
    receiving: CancellationToken,
    serving: CancellationToken,
    background: Vec<JoinHandle<bool>>,
    begun: Instant,
    first_visible: OnceLock<Duration>,
}

impl Platform {
    async fn start(arguments: &Arguments, global: &Global, stack: &Stack, begun: Instant) -> Result<Self, Exit> {
        let data_dir = &arguments.stack.data_dir;
        let receiver = local::receive(stack, data_dir).await?;
        let issuer = millrace_local::issue(data_dir, stack.addresses()).await?;
        let config = Config::load_at(global, stack.addresses(), data_dir)?;
        let contracts = global.contracts()?;
        migrate::postgres_schema(&config).await?;
        migrate::local_outbox(&config).await?;
        config.gateway.check().map_err(Exit::usage)?;
        let (serving, receiving) = (CancellationToken::new(), CancellationToken::new());
        let (ops_port, registry_port) =
            (roles::listen_ops(&config).await?, roles::listen(&config.registry.listen, "registry.listen").await?);
        let gateway_port = roles::listen(&config.gateway.listen, "gateway.listen").await?;
        let registry = roles::serve_registry(registry_port, config.postgres.connect().await?, &serving);
        migrate::everything_else(&config, global, &contracts).await?;
        let base = Base::connect(&config, global).await?;
        let mut running = base.start_all(&roles::pipelines()).await?;
        running.push(base.start_relay().await?);
        let gateway = base.serve_gateway(gateway_port, &receiving).await?;
        let pool = base.pool.clone();
        let client = simulate::client(&config, &contracts).await?.with_metrics(base.client_metrics());
        let ops = roles::serve_ops(ops_port, base.into_ops(true), &serving);
        let receiver_url = stack.addresses().receiver.clone();
        let background = vec![registry, ops];
        let first_visible = OnceLock::new();
        Ok(Self {
            config,
            contracts,
            pool,
            client,
            running,
            receiver,
            receiver_url,
            issuer,
            gateway,
            receiving,
            serving,
            background,
            begun,
            first_visible,
        })
    }

    fn welcome(&self, arguments: &Arguments, stack: &Stack) -> String {
        let addresses = stack.addresses();
        let token = millrace_local::token_file(&arguments.stack.data_dir);
        let ours = [
            ("Gateway", &addresses.gateway),
            ("Registry", &addresses.registry),
            ("Receiver", &addresses.receiver),
            ("Issuer", &addresses.issuer),
            ("Ops", &addresses.ops),
        ];
        let ours: String = ours.iter().map(|(name, address)| format!("\n{name:<12} {address}")).collect();
        let stack_json = arguments.stack.data_dir.join("stack.json");
        format!(
            "Millrace is up after {:.1?}.\n\n{}{ours}\n\nTry\n  \
             curl {} -d 'select * from metrics.revenue order by day, currency format PrettyCompact'\n  \
             psql {} -c 'select status, count(*) from order_status group by 1'\n  \
             kcat -C -b {} -t shop.order.v1 -c 3 -f '%k %h\\n'\n  \
             millrace --stack {} status\n  \
             {}/contracts in a browser, with any name and, as the password, what {} holds\n\nCtrl-C drains and stops.",
            self.begun.elapsed(),
            local::describe(stack),
            addresses.clickhouse,
            addresses.postgres,
            addresses.kafka,
            stack_json.display(),
            addresses.gateway,
            token.display(),
        )
    }

    fn traffic(&self, arguments: &Arguments) -> Result<Traffic, Exit> {
        match arguments.traffic() {
            Some(options) => Traffic::start(options, self.client.clone()),
            None => Ok(Traffic::none()),
        }
    }

    /// Until Ctrl-C, until the time is over, or until something had to stop.
    async fn until_told(&mut self, arguments: &Arguments, global: &Global, traffic: &mut Traffic) -> Result<(), Exit> {
        let mut running = std::mem::take(&mut self.running);
        let latest = traffic.latest();
        let ended = tokio::select! {
            failed = roles::failed(&mut running) => Err(failed),
            ended = traffic.ended() => ended,
            () = asked_to_stop() => Ok(()),
            () = time_is_over(arguments.r#for) => Ok(()),
            never = self.show(global, latest) => match never {},
        };
        self.running = running;
        ended
    }

    /// A line every few seconds: what was published, and what is where.
    async fn show(&self, global: &Global, latest: impl Fn() -> Report) -> Infallible {
        let before = self.rows().await.unwrap_or_default();
        let mut line = Instant::now();
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            if self.first_visible.get().is_none() && self.rows().await.is_ok_and(|rows| rows > before) {
                let _ = self.first_visible.set(self.begun.elapsed());
            }
            if !global.json && line.elapsed() >= LINE_EVERY {
                line = Instant::now();
                match self.line(&latest()).await {
                    Ok(text) => println!("{text}"),
                    Err(error) => println!("{error:#}"),
                }
            }
        }
    }

    async fn line(&self, report: &Report) -> anyhow::Result<String> {
        let rows = self.rows().await?;
        let status = status::ask(&self.config, &self.pool).await.map_err(|exit| anyhow::anyhow!("{exit}"))?;
        let lag: i64 = status.pipelines.iter().map(|pipeline| pipeline.lag_records).max().unwrap_or_default();
        let behind = status.pipelines.iter().map(|pipeline| pipeline.lag_seconds).fold(0.0, f64::max);
        let letters: i64 = status.pipelines.iter().map(|pipeline| pipeline.dead_letters).sum();
        let (seconds, acknowledged) = (self.begun.elapsed().as_secs(), report.acknowledged);
        let delivered = self.receiver.received().distinct;
        Ok(format!(
            "{seconds:>5} s  published {acknowledged:>9}  in ClickHouse {rows:>9}  webhooks {delivered:>6}  lag {lag:>6} records {behind:>5.1} s  dead letters {letters}"
        ))
    }

    /// Rows in ClickHouse, without looking for copies: quick.
    async fn rows(&self) -> anyhow::Result<i64> {
        let rows = verify::ask(&self.config, "select count() as n from merge('events_raw', '.*')").await?;
        Ok(rows.first().and_then(|row| row["n"].as_i64()).unwrap_or_default())
    }

    /// Waits until everything took effect, and compares.
    async fn verdict(&self, arguments: &Arguments, sent: &Report) -> Result<Verdict, Exit> {
        until_settled(&self.config, &self.pool).await?;
        let servers = Servers {
            config: &self.config,
            contracts: &self.contracts,
            pool: &self.pool,
            receiver: &self.receiver_url,
        };
        let differences = match arguments.no_traffic {
            true => Vec::new(),
            false => verify::differences(&servers, &oracle::expected(arguments.seed, sent.next)).await?,
        };
        let status = status::ask(&self.config, &self.pool).await?;
        let applied = |pipeline: &millrace_console::PipelineStatus| {
            (pipeline.name.clone(), pipeline.partitions.iter().map(|partition| partition.next).sum())
        };
        Ok(Verdict {
            seed: arguments.seed,
            events: sent.next,
            sent: sent.clone(),
            applied: status.pipelines.iter().map(applied).collect(),
            delivered: self.receiver.received().distinct,
            dead_letters: status.pipelines.iter().map(|pipeline| pipeline.dead_letters).sum(),
            first_visible_seconds: self.first_visible.get().map(Duration::as_secs_f64),
            equal: differences.is_empty(),
            differences,
        })
    }

    /// In order: nobody new is let in, pipelines settle what they hold, then what they stand on ends.
    async fn drain(self) -> Result<(), Exit> {
        self.receiving.cancel();
        let answered = roles::in_time(self.gateway).await;
        let drained = roles::drain_all(self.running).await.and(answered);
        self.serving.cancel();
        for task in self.background {
            drop(task.await);
        }
        self.receiver.stop().await;
        self.issuer.stop().await;
        drained
    }
}

async fn time_is_over(limit: Option<Duration>) {
    match limit {
        Some(limit) => tokio::time::sleep(limit).await,
        None => std::future::pending().await,
    }
}

/// What a run that stopped by itself has to say.
#[derive(Serialize)]
struct Verdict {
    seed: u64,
    /// Events of the seed that the log holds, earlier runs on this data included.
    events: u64,
    /// What this run published.
    #[serde(flatten)]
    sent: Report,
    /// Log positions that took effect, by pipeline; repeated events count.
    applied: BTreeMap<String, i64>,
    /// Different webhooks that the receiver verified.
    delivered: usize,
    dead_letters: i64,
    /// From the start of the command to the first new row in ClickHouse.
    first_visible_seconds: Option<f64>,
    /// ClickHouse, Postgres and the receiver hold what the oracle says, field by field.
    equal: bool,
    differences: Vec<Difference>,
}

impl Verdict {
    fn tell(&self, global: &Global) -> Result<(), Exit> {
        if global.json {
            println!("{}", serde_json::json!(self));
        } else {
            println!(
                "\n{} events published, {} delivered, {} dead letters",
                self.sent.published, self.delivered, self.dead_letters
            );
        }
        if !self.equal {
            return Err(Exit::found(described(&self.differences)));
        }
        if !global.json {
            println!("ClickHouse, Postgres and the receiver equal the oracle, field by field");
        }
        Ok(())
    }
}
