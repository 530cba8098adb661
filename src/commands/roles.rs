//! The roles: each is its own process, consumer group and scaling unit; `up` runs them all in one.

use crate::commands::{Global, Names, listed};
use crate::config::Config;
use crate::exit::{Exit, asked_to_stop};
use crate::ops::{self, Check, Ops};
use futures_util::future::{BoxFuture, FutureExt, join_all, select_all};
use millrace_processors::clickhouse::{self, ClickHouse};
use millrace_processors::postgres;
use millrace_schemas::Contracts;
use millrace_schemas::registry::Registry;
use millrace_sinks::{Sink, SinkHandle};
use millrace_stream::{
    Admin, Checkpoints, DeadLetter, DeadLetters, Decoder, Failure, Pipeline, PipelineHandle, ReplayOutcome, Spine,
};
use sqlx::PgPool;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// What every role stands on, reached once before it starts.
pub struct Base {
    pub config: Config,
    pub contracts: Arc<Contracts>,
    pub pool: PgPool,
    pub spine: Spine,
    registry: Registry,
    global: Global,
    meters: Meters,
}

/// Every processor: the analytics, then the projections.
pub fn processors() -> Vec<&'static str> {
    [&[clickhouse::NAME], postgres::NAMES].concat()
}

pub async fn registry(config: &Config) -> Result<(), Exit> {
    let pool = config.postgres.connect().await?;
    let stop = CancellationToken::new();
    let ops = Ops { metrics: Meters::register().registry, checks: vec![postgres_check(&pool)] };
    let ops = serve_ops(&config.telemetry.ops, ops, &stop).await?;
    let registry = serve_registry(config, pool, &stop).await?;
    asked_to_stop().await;
    stop.cancel();
    for task in [registry, ops] {
        drop(task.await);
    }
    Ok(())
}

/// Serves the schema registry in the background, until cancelled.
pub async fn serve_registry(config: &Config, pool: PgPool, stop: &CancellationToken) -> Result<JoinHandle<()>, Exit> {
    let listener = listen(&config.registry.listen, "registry.listen").await?;
    tracing::info!("schema registry on http://{}", config.registry.listen);
    let router = millrace_producers::registry::router(pool);
    let serving = axum::serve(listener, router).with_graceful_shutdown(stop.clone().cancelled_owned());
    Ok(background("the schema registry", async { Ok(serving.await?) }))
}

pub async fn process(config: &Config, global: &Global, names: &Names) -> Result<(), Exit> {
    let names = names.known(&processors())?;
    let base = Base::connect(config, global).await?;
    let mut running = Vec::new();
    for name in names {
        running.push(base.start_processor(name).await?);
    }
    base.serve(running).await
}

pub async fn sink(config: &Config, global: &Global, names: &Names) -> Result<(), Exit> {
    let names = names.known(millrace_sinks::NAMES)?;
    let base = Base::connect(config, global).await?;
    let mut running = Vec::new();
    for name in names {
        running.push(base.start_sink(name)?);
    }
    base.serve(running).await
}

impl Base {
    /// # Errors
    /// [`Exit::unreachable`], naming the first server that does not answer.
    pub async fn connect(config: &Config, global: &Global) -> Result<Self, Exit> {
        let contracts = global.contracts()?;
        let pool = config.postgres.connect().await?;
        let kafka = Admin::new(config.kafka.clone());
        kafka.reachable().await.map_err(|error| Exit::unreachable("Kafka", format!("{error:#}")))?;
        let registry = Registry::new(&config.registry.url)?;
        registry.reachable().await.map_err(|error| Exit::unreachable("the schema registry", error))?;
        let meters = Meters::register();
        let spine = Spine {
            kafka: config.kafka.clone(),
            decoder: Decoder::new(registry.clone(), contracts.clone()),
            checkpoints: Checkpoints::new(pool.clone()),
            metrics: meters.stream.clone(),
        };
        Ok(Self { config: config.clone(), contracts, pool, spine, registry, global: global.clone(), meters })
    }

    /// Starts one of [`processors`].
    pub async fn start_processor(&self, name: &'static str) -> Result<Running, Exit> {
        let config = self.config.process.of(name);
        if name == clickhouse::NAME {
            let topics = self.contracts.topics().into_keys().collect();
            let handler = self.clickhouse().await?;
            return Ok(Running::Pipeline(Pipeline { name, topics, handler, config }.start(&self.spine)?));
        }
        let started = postgres::start(name, &self.spine, &self.contracts, self.pool.clone(), config)?;
        started.map(Running::Pipeline).ok_or_else(|| Exit::usage(format!("no such processor: `{name}`")))
    }

    /// Starts one of the sinks; there is one kind so far.
    pub fn start_sink(&self, _name: &'static str) -> Result<Running, Exit> {
        let rules = self.global.rules(&self.contracts)?;
        let config = self.config.sink.webhook.clone();
        config.check(&rules).map_err(|errors| Exit::usage(listed("configuration", &errors)))?;
        let metrics = self.meters.sinks.clone();
        Ok(Running::Sink(Sink { pool: self.pool.clone(), config, rules, metrics }.start(&self.spine)?))
    }

    async fn clickhouse(&self) -> Result<ClickHouse, Exit> {
        let config = &self.config.clickhouse;
        config.check().map_err(Exit::usage)?;
        let address = format!("ClickHouse at {}", config.url);
        clickhouse::reachable(config).await.map_err(|error| Exit::unreachable(&address, format!("{error:#}")))?;
        clickhouse::check_server(config, &self.contracts).await?;
        Ok(ClickHouse::new(config, &self.contracts, self.pool.clone(), self.meters.clickhouse.clone())?)
    }

    /// Runs a dead letter through its own pipeline again.
    ///
    /// # Errors
    /// When a server it needs is away, somebody else replayed it, or its pipeline is no more.
    pub async fn replay(&self, letters: &DeadLetters, letter: &DeadLetter) -> Result<ReplayOutcome, Exit> {
        let (name, decoder) = (letter.pipeline.as_str(), &self.spine.decoder);
        let replayed = if name == clickhouse::NAME {
            millrace_stream::replay(letters, decoder, &self.clickhouse().await?, letter).await
        } else if millrace_sinks::NAMES.contains(&name) {
            millrace_sinks::replay(letters, decoder, &self.global.rules(&self.contracts)?, letter).await
        } else {
            let replayed = postgres::replay(name, letters, decoder, letter, self.pool.clone()).await;
            replayed.ok_or_else(|| Exit::failed(anyhow::anyhow!("there is no pipeline `{name}` any more")))?
        };
        replayed.map_err(|failure| Exit::failed(anyhow::anyhow!("dead letter {} of {name}: {failure}", letter.id)))
    }

    /// Serves the ops port until asked to stop or until something had to stop, then drains.
    async fn serve(self, mut running: Vec<Running>) -> Result<(), Exit> {
        let stop = CancellationToken::new();
        let address = self.config.telemetry.ops.clone();
        let ops = serve_ops(&address, self.into_ops(), &stop).await?;
        let ended = tokio::select! {
            failed = failed(&mut running) => Err(failed),
            () = asked_to_stop() => Ok(()),
        };
        let drained = drain_all(running).await;
        stop.cancel();
        drop(ops.await);
        ended.and(drained)
    }

    /// What the role shows of itself, once everything is started.
    pub fn into_ops(self) -> Ops {
        let kafka = Admin::new(self.config.kafka.clone());
        let (config, registry) = (self.config.clickhouse.clone(), self.registry.clone());
        let checks: Vec<(&'static str, Check)> = vec![
            postgres_check(&self.pool),
            check("kafka", move || {
                let kafka = kafka.clone();
                async move { kafka.reachable().await }
            }),
            check("clickhouse", move || {
                let config = config.clone();
                async move { clickhouse::reachable(&config).await }
            }),
            check("registry", move || {
                let registry = registry.clone();
                async move { Ok(registry.reachable().await?) }
            }),
        ];
        Ops { metrics: self.meters.registry, checks }
    }
}

/// Everything that counts, and where it is shown.
struct Meters {
    registry: prometheus_client::registry::Registry,
    stream: millrace_stream::Metrics,
    clickhouse: clickhouse::SinkMetrics,
    sinks: millrace_sinks::Metrics,
}

impl Meters {
    fn register() -> Self {
        let mut registry = prometheus_client::registry::Registry::default();
        let stream = millrace_stream::Metrics::register(&mut registry);
        let clickhouse = clickhouse::SinkMetrics::register(&mut registry);
        let sinks = millrace_sinks::Metrics::register(&mut registry);
        Self { registry, stream, clickhouse, sinks }
    }
}

/// Something that runs until it is drained.
pub enum Running {
    Pipeline(PipelineHandle),
    Sink(SinkHandle),
}

impl Running {
    fn failed(&mut self) -> BoxFuture<'_, Arc<Failure>> {
        match self {
            Self::Pipeline(handle) => handle.failed().boxed(),
            Self::Sink(handle) => handle.failed().boxed(),
        }
    }

    async fn drain(self) -> bool {
        match self {
            Self::Pipeline(handle) => handle.drain().await,
            Self::Sink(handle) => handle.drain().await,
        }
    }
}

/// Waits until one of them had to stop.
pub async fn failed(running: &mut [Running]) -> Exit {
    if running.is_empty() {
        return std::future::pending().await;
    }
    let (failure, _, _) = select_all(running.iter_mut().map(Running::failed)).await;
    Exit::failed(anyhow::anyhow!("{failure}"))
}

/// # Errors
/// [`Exit::late`] when a drain deadline passed.
pub async fn drain_all(running: Vec<Running>) -> Result<(), Exit> {
    let drained = join_all(running.into_iter().map(Running::drain)).await;
    if drained.into_iter().all(|in_time| in_time) {
        return Ok(());
    }
    Err(Exit::late("the drain deadline passed; what was in hand will be read again by the next owner"))
}

/// # Errors
/// Names the configuration key whose port is taken.
async fn listen(address: &str, key: &str) -> Result<TcpListener, Exit> {
    TcpListener::bind(address).await.map_err(|error| Exit::usage(format!("{key} = {address}: {error}")))
}

/// Serves the ops port in the background, until cancelled.
pub async fn serve_ops(address: &str, ops: Ops, stop: &CancellationToken) -> Result<JoinHandle<()>, Exit> {
    let listener = listen(address, "telemetry.ops").await?;
    let address = listener.local_addr().map_err(Exit::failed)?;
    tracing::info!("ops on http://{address}: /livez /readyz /metrics");
    Ok(background("the ops port", ops::serve(listener, ops, stop.clone())))
}

fn background(
    what: &'static str,
    serving: impl Future<Output = anyhow::Result<()>> + Send + 'static,
) -> JoinHandle<()> {
    tokio::spawn(async move {
        if let Err(error) = serving.await {
            tracing::error!("{what} ended: {error:#}");
        }
    })
}

fn postgres_check(pool: &PgPool) -> (&'static str, Check) {
    let pool = pool.clone();
    check("postgres", move || {
        let pool = pool.clone();
        async move { Ok(sqlx::query("select 1").execute(&pool).await.map(drop)?) }
    })
}

fn check<F: Future<Output = anyhow::Result<()>> + Send + 'static>(
    name: &'static str,
    ask: impl Fn() -> F + Send + Sync + 'static,
) -> (&'static str, Check) {
    (name, Box::new(move || ask().boxed()))
}
