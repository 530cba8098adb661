//! The roles: each is its own process, consumer group and scaling unit; `up` runs them all in one.

use crate::commands::{Global, Names, docs, listed};
use crate::config::Config;
use crate::exit::{Exit, asked_to_stop};
use crate::ops::{self, Check, Ops};
use futures_util::future::{BoxFuture, FutureExt, join_all, select_all};
use millrace_processors::clickhouse::erasure::{self, Erasure, ErasureHandle, ErasureMetrics};
use millrace_processors::clickhouse::{self, ClickHouse, ClickHouseConfig};
use millrace_processors::postgres;
use millrace_producers::serve::bind;
use millrace_producers::{Catalogue, Gateway, GatewayMetrics, Outbox, OutboxMetrics, Relay, RelayHandle, outbox};
use millrace_schemas::registry::Registry;
use millrace_schemas::{Contracts, without_password};
use millrace_sinks::{Rules, Sink, SinkHandle};
use millrace_stream::{
    Admin, Checkpoints, DeadLetter, DeadLetters, Decoder, Failure, Pipeline, PipelineHandle, ReplayOutcome, Spine,
};
use sqlx::PgPool;
use std::sync::Arc;
use std::time::Duration;
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

/// A server that is busy takes a while to answer, and whoever begins something waits for that rather than beginning anew.
const REACHED_WITHIN: Duration = Duration::from_secs(15);

/// Every processor: the analytics, who is erased from them, then the projections.
fn processors() -> Vec<&'static str> {
    [&[clickhouse::NAME, erasure::NAME], postgres::NAMES].concat()
}

/// Everything that reads the log.
pub fn pipelines() -> Vec<&'static str> {
    [&processors(), millrace_sinks::NAMES].concat()
}

pub async fn registry(config: &Config) -> Result<(), Exit> {
    let ops_port = listen_ops(config).await?;
    let port = listen(&config.registry.listen, "registry.listen").await?;
    let pool = config.postgres.connect().await?;
    let stop = CancellationToken::new();
    let ops = Ops { metrics: Meters::register().registry, checks: vec![postgres_check(&pool)] };
    let ops = serve_ops(ops_port, ops, &stop);
    let registry = serve_registry(port, pool, &stop);
    asked_to_stop().await;
    stop.cancel();
    let drained = in_time(registry).await;
    drop(ops.await);
    drained
}

/// Serves the schema registry in the background, until cancelled and drained.
pub fn serve_registry(listener: TcpListener, pool: PgPool, stop: &CancellationToken) -> JoinHandle<bool> {
    tracing::info!("schema registry on http://{}", address(&listener));
    tokio::spawn(millrace_producers::registry::serve(listener, pool, stop.clone()))
}

/// Stands on Kafka and the registry alone: no other server's bad day keeps events out.
pub async fn gateway(config: &Config, global: &Global) -> Result<(), Exit> {
    config.gateway.check().map_err(Exit::usage)?;
    let contracts = global.contracts()?;
    let ops_port = listen_ops(config).await?;
    let port = listen(&config.gateway.listen, "gateway.listen").await?;
    let registry = config.registry.client()?;
    registry.usable().await.map_err(|error| Exit::unreachable("the schema registry", error))?;
    let meters = Meters::register();
    let checks = vec![kafka_check(config), registry_check(&registry)];
    let (stop, stop_ops) = (CancellationToken::new(), CancellationToken::new());
    let serving =
        serve_gateway(port, config, &registry, &docs::catalogue(global, contracts), meters.gateway, &stop).await?;
    let ops = serve_ops(ops_port, Ops { metrics: meters.registry, checks }, &stop_ops);
    asked_to_stop().await;
    stop.cancel();
    let drained = in_time(serving).await;
    stop_ops.cancel();
    drop(ops.await);
    drained
}

/// Serves the gateway in the background, until cancelled and drained.
///
/// # Errors
/// When the registry lacks a contract.
pub async fn serve_gateway(
    listener: TcpListener,
    config: &Config,
    registry: &Registry,
    catalogue: &Catalogue,
    metrics: GatewayMetrics,
    stop: &CancellationToken,
) -> Result<JoinHandle<bool>, Exit> {
    let postgres = config.postgres.connect_lazily()?; // may be away: only invalid events are kept there
    let Config { gateway, kafka, redis, .. } = config;
    let gateway = Gateway::connect(gateway, kafka, redis, registry, catalogue, postgres, metrics).await?;
    let (scheme, address) = (config.gateway.scheme(), address(&listener));
    tracing::info!("gateway on {scheme}://{address}: POST /v1/events, GET /contracts");
    Ok(tokio::spawn(gateway.serve(listener, stop.clone())))
}

/// # Errors
/// [`Exit::late`] when requests were left without an answer.
pub async fn in_time(serving: JoinHandle<bool>) -> Result<(), Exit> {
    match serving.await {
        Ok(true) => Ok(()),
        Ok(false) => Err(Exit::late("the drain deadline passed; requests in hand were left without an answer")),
        Err(error) => Err(Exit::failed(error)),
    }
}

/// Stands on Kafka, the registry and the services' databases; of those one that is away keeps no other waiting.
pub async fn relay(config: &Config, global: &Global, names: &Names) -> Result<(), Exit> {
    let outboxes = chosen(config.outboxes()?, names)?;
    let contracts = global.contracts()?;
    let ops_port = listen_ops(config).await?;
    let registry = config.registry.client()?;
    registry.usable().await.map_err(|error| Exit::unreachable("the schema registry", error))?;
    let meters = Meters::register();
    let relay = Relay::connect(outboxes, &config.kafka, &registry, contracts, &meters.outbox).await?;
    let checks = vec![kafka_check(config), registry_check(&registry), outboxes_check(&relay)];
    serve(vec![Running::Relay(relay.start())], Ops { metrics: meters.registry, checks }, ops_port).await
}

fn chosen(outboxes: Vec<Outbox>, names: &Names) -> Result<Vec<Outbox>, Exit> {
    let known: Vec<String> = outboxes.iter().map(|outbox| outbox.name.clone()).collect();
    if known.is_empty() {
        return Err(Exit::usage("no outbox is configured: add [outbox.<name>] with `url` (docs/outbox.md)"));
    }
    if let Some(unknown) = names.names.iter().find(|name| !known.contains(name)) {
        return Err(Exit::usage(format!("no such outbox: `{unknown}` (there are {})", known.join(", "))));
    }
    let wanted = |outbox: &Outbox| names.names.is_empty() || names.names.contains(&outbox.name);
    Ok(outboxes.into_iter().filter(wanted).collect())
}

pub async fn process(config: &Config, global: &Global, names: &Names) -> Result<(), Exit> {
    let names = names.known(&processors())?;
    let ops_port = listen_ops(config).await?;
    let base = Base::connect(config, global).await?;
    let running = base.start_all(&names).await?;
    let ops = base.into_ops(names.contains(&clickhouse::NAME) || names.contains(&erasure::NAME));
    serve(running, ops, ops_port).await
}

pub async fn sink(config: &Config, global: &Global, names: &Names) -> Result<(), Exit> {
    let names = names.known(millrace_sinks::NAMES)?;
    let contracts = global.contracts()?;
    checked_rules(config, global, &contracts)?;
    let ops_port = listen_ops(config).await?;
    let base = Base::connect(config, global).await?;
    let running = base.start_all(&names).await?;
    serve(running, base.into_ops(false), ops_port).await
}

impl Base {
    /// # Errors
    /// [`Exit::unreachable`], naming the first server that does not answer.
    pub async fn connect(config: &Config, global: &Global) -> Result<Self, Exit> {
        let contracts = global.contracts()?;
        let pool = config.postgres.connect().await?;
        let kafka = Admin::new(config.kafka.clone());
        kafka.reachable().await.map_err(|error| Exit::unreachable("Kafka", format!("{error:#}")))?;
        let registry = config.registry.client()?;
        registry.usable().await.map_err(|error| Exit::unreachable("the schema registry", error))?;
        let meters = Meters::register();
        let spine = Spine {
            kafka: config.kafka.clone(),
            decoder: Decoder::new(registry.clone(), contracts.clone()),
            checkpoints: Checkpoints::new(pool.clone()),
            metrics: meters.stream.clone(),
        };
        Ok(Self { config: config.clone(), contracts, pool, spine, registry, global: global.clone(), meters })
    }

    /// Starts some of [`pipelines`].
    pub async fn start_all(&self, names: &[&'static str]) -> Result<Vec<Running>, Exit> {
        let mut running = Vec::new();
        for name in names {
            running.push(match millrace_sinks::NAMES.contains(name) {
                true => self.start_sink()?,
                false => self.start_processor(name).await?,
            });
        }
        Ok(running)
    }

    async fn start_processor(&self, name: &'static str) -> Result<Running, Exit> {
        if name == erasure::NAME {
            return self.start_erasure().await;
        }
        let config = self.config.process.of(name);
        if name == clickhouse::NAME {
            let topics = self.contracts.topics().into_keys().collect();
            let handler = self.clickhouse().await?;
            let pipeline = Pipeline { name, topics, handler, config, section: format!("process.{name}") };
            return Ok(Running::Pipeline(pipeline.start(&self.spine)?));
        }
        let started = postgres::start(name, &self.spine, &self.contracts, self.pool.clone(), config)?;
        started.map(Running::Pipeline).ok_or_else(|| Exit::usage(format!("no such processor: `{name}`")))
    }

    /// There is one kind so far.
    fn start_sink(&self) -> Result<Running, Exit> {
        let rules = checked_rules(&self.config, &self.global, &self.contracts)?;
        let config = self.config.sink.webhook.clone();
        let metrics = self.meters.sinks.clone();
        Ok(Running::Sink(Sink { pool: self.pool.clone(), config, rules, metrics }.start(&self.spine)?))
    }

    async fn start_erasure(&self) -> Result<Running, Exit> {
        let config = self.config.process.erasure.clone();
        let clickhouse = self.checked_clickhouse().await?.clone();
        let metrics = self.meters.erasure.clone();
        let erasure = Erasure { pool: self.pool.clone(), clickhouse, config, metrics };
        Ok(Running::Erasure(erasure.start(&self.spine, &self.contracts)?))
    }

    async fn clickhouse(&self) -> Result<ClickHouse, Exit> {
        let config = self.checked_clickhouse().await?;
        Ok(ClickHouse::new(config, &self.contracts, self.pool.clone(), self.meters.clickhouse.clone())?)
    }

    /// Its configuration, once it was found to answer and to be as it must.
    async fn checked_clickhouse(&self) -> Result<&ClickHouseConfig, Exit> {
        let config = &self.config.clickhouse;
        config.check().map_err(Exit::usage)?;
        reach_clickhouse(config).await?;
        clickhouse::check_server(config, &self.contracts).await?;
        Ok(config)
    }

    /// The counters of a client that publishes from this process.
    pub fn client_metrics(&self) -> millrace_producers::client::Metrics {
        self.meters.client.clone()
    }

    /// Serves the gateway beside the other roles.
    pub async fn serve_gateway(
        &self,
        listener: TcpListener,
        stop: &CancellationToken,
    ) -> Result<JoinHandle<bool>, Exit> {
        let (config, metrics) = (&self.config, self.meters.gateway.clone());
        let catalogue = docs::catalogue(&self.global, self.contracts.clone());
        serve_gateway(listener, config, &self.registry, &catalogue, metrics, stop).await
    }

    /// Publishes what the outboxes hold, beside the other roles.
    pub async fn start_relay(&self) -> Result<Running, Exit> {
        let (config, contracts) = (&self.config, self.contracts.clone());
        let outboxes = config.outboxes()?;
        let relay = Relay::connect(outboxes, &config.kafka, &self.registry, contracts, &self.meters.outbox).await?;
        Ok(Running::Relay(relay.start()))
    }

    /// Runs a dead letter through its own pipeline again.
    ///
    /// # Errors
    /// When a server it needs is away, somebody else replayed it, or its pipeline is no more.
    pub async fn replay(&self, letters: &DeadLetters, letter: &DeadLetter) -> Result<ReplayOutcome, Exit> {
        let (name, decoder) = (letter.pipeline.as_str(), &self.spine.decoder);
        let replayed = if name == clickhouse::NAME {
            millrace_stream::replay(letters, decoder, &self.clickhouse().await?, letter).await
        } else if name == erasure::NAME {
            erasure::replay(letters, decoder, letter).await
        } else if millrace_sinks::NAMES.contains(&name) {
            millrace_sinks::replay(letters, decoder, &self.global.rules(&self.contracts)?, letter).await
        } else {
            let replayed = postgres::replay(name, letters, decoder, letter, self.pool.clone()).await;
            replayed.ok_or_else(|| Exit::failed(anyhow::anyhow!("there is no pipeline `{name}` any more")))?
        };
        replayed.map_err(|failure| Exit::failed(anyhow::anyhow!("dead letter {} of {name}: {failure}", letter.id)))
    }

    /// What the role shows of itself, once everything is started: its metrics, and each server it needs.
    pub fn into_ops(self, needs_clickhouse: bool) -> Ops {
        let config = self.config.clickhouse.clone();
        let mut checks: Vec<(&'static str, Check)> =
            vec![postgres_check(&self.pool), kafka_check(&self.config), registry_check(&self.registry)];
        if needs_clickhouse {
            checks.push(check("clickhouse", move || {
                let config = config.clone();
                async move { clickhouse::reachable(&config, ops::CHECK_DEADLINE).await }
            }));
        }
        Ops { metrics: self.meters.registry, checks }
    }
}

/// # Errors
/// [`Exit::unreachable`], saying where it was looked for.
pub async fn reach_clickhouse(config: &ClickHouseConfig) -> Result<(), Exit> {
    let address = format!("ClickHouse at {}", without_password(&config.url));
    clickhouse::reachable(config, REACHED_WITHIN)
        .await
        .map_err(|error| Exit::unreachable(&address, format!("{error:#}")))
}

/// Serves the ops port until asked to stop or until something had to stop, then drains.
async fn serve(mut running: Vec<Running>, ops: Ops, ops_port: TcpListener) -> Result<(), Exit> {
    let stop = CancellationToken::new();
    let ops = serve_ops(ops_port, ops, &stop);
    let ended = tokio::select! {
        failed = failed(&mut running) => Err(failed),
        () = asked_to_stop() => Ok(()),
    };
    let drained = drain_all(running).await;
    stop.cancel();
    drop(ops.await);
    ended.and(drained)
}

/// The rules, each with an endpoint that the configuration knows.
fn checked_rules(config: &Config, global: &Global, contracts: &Contracts) -> Result<Rules, Exit> {
    let rules = global.rules(contracts)?;
    config.sink.webhook.check(&rules).map_err(|errors| Exit::usage(listed("configuration", &errors)))?;
    Ok(rules)
}

/// Everything that counts, and where it is shown.
struct Meters {
    registry: prometheus_client::registry::Registry,
    stream: millrace_stream::Metrics,
    clickhouse: clickhouse::SinkMetrics,
    erasure: ErasureMetrics,
    sinks: millrace_sinks::Metrics,
    client: millrace_producers::client::Metrics,
    gateway: GatewayMetrics,
    outbox: OutboxMetrics,
}

impl Meters {
    fn register() -> Self {
        let mut registry = prometheus_client::registry::Registry::default();
        let stream = millrace_stream::Metrics::register(&mut registry);
        let clickhouse = clickhouse::SinkMetrics::register(&mut registry);
        let erasure = ErasureMetrics::register(&mut registry);
        let sinks = millrace_sinks::Metrics::register(&mut registry);
        let client = millrace_producers::client::Metrics::register(&mut registry);
        let gateway = GatewayMetrics::register(&mut registry, client.clone());
        let outbox = OutboxMetrics::register(&mut registry, client.clone());
        Self { registry, stream, clickhouse, erasure, sinks, client, gateway, outbox }
    }
}

/// Something that runs until it is drained.
pub enum Running {
    Pipeline(PipelineHandle),
    Erasure(ErasureHandle),
    Sink(SinkHandle),
    Relay(RelayHandle),
}

impl Running {
    fn failed(&mut self) -> BoxFuture<'_, Arc<Failure>> {
        match self {
            Self::Pipeline(handle) => handle.failed().boxed(),
            Self::Erasure(handle) => handle.failed().boxed(),
            Self::Sink(handle) => handle.failed().boxed(),
            Self::Relay(handle) => handle.failed().boxed(),
        }
    }

    async fn drain(self) -> bool {
        match self {
            Self::Pipeline(handle) => handle.drain().await,
            Self::Erasure(handle) => handle.drain().await,
            Self::Sink(handle) => handle.drain().await,
            Self::Relay(handle) => handle.drain().await,
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
pub async fn listen(address: &str, key: &str) -> Result<TcpListener, Exit> {
    bind(address).await.map_err(|error| Exit::usage(format!("{key} = {address}: {error}")))
}

/// Before anything is started: a role whose port is taken must not join its group first.
///
/// # Errors
/// When the ops port is taken.
pub async fn listen_ops(config: &Config) -> Result<TcpListener, Exit> {
    listen(&config.telemetry.ops, "telemetry.ops").await
}

/// Serves the ops port in the background, until cancelled.
pub fn serve_ops(listener: TcpListener, ops: Ops, stop: &CancellationToken) -> JoinHandle<bool> {
    tracing::info!("ops on http://{}: /livez /readyz /metrics", address(&listener));
    tokio::spawn(ops::serve(listener, ops, stop.clone()))
}

fn address(listener: &TcpListener) -> String {
    listener.local_addr().map_or_else(|error| error.to_string(), |address| address.to_string())
}

fn kafka_check(config: &Config) -> (&'static str, Check) {
    let kafka = Admin::new(config.kafka.clone());
    check("kafka", move || {
        let kafka = kafka.clone();
        async move { kafka.reachable().await }
    })
}

fn registry_check(registry: &Registry) -> (&'static str, Check) {
    let registry = registry.clone();
    check("registry", move || {
        let registry = registry.clone();
        async move { Ok(registry.usable().await?) }
    })
}

fn outboxes_check(relay: &Relay) -> (&'static str, Check) {
    let databases = Arc::new(relay.databases());
    check("outboxes", move || {
        let databases = databases.clone();
        async move { outbox::reachable(&databases).await }
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
