//! The HTTP gateway: CloudEvents in, one answer for each event, success only for what all in-sync replicas have.
//!
//! ```text
//! connection ─→ key or token ─→ body, inflated ─→ events ─→ attributes, contract ─→ datum ─→ limits ─┐
//!                                                                                                    │
//! answer ←─ accepted │ duplicate │ invalid │ unauthorized │ throttled │ retry ←─ log (acks=all) ←────┘
//! ```
//!
//! Keeps nothing that it could lose: what it remembers of earlier ids is a convenience, the log's own deduplication
//! decides; what the spool has is synced. Never answers for the log what the log has not said.

mod access;
mod answer;
mod body;
pub(crate) mod cloudevent;
mod contracts;
mod jwt;
mod memory;
mod metrics;
pub(crate) mod prepare;
mod publish;
pub mod quarantine;
mod redis;
mod refusals;
mod spool;
mod throttle;
mod tls;
mod topics;
mod window;

pub use crate::serve::HEADER_DEADLINE;
pub use access::{KeyConfig, hash_of_key};
pub use body::BODY_DEADLINE;
pub use jwt::JwtConfig;
pub use metrics::GatewayMetrics;
pub use redis::RedisConfig;
pub use spool::SpoolConfig;
pub use throttle::{LimitsConfig, RateConfig};
pub(crate) use tls::Tls;
pub use tls::TlsConfig;

use crate::catalogue::Catalogue;
use crate::{in_bounds, serve};
use access::{Access, Denied, Principal};
use answer::{Answer, Problem, Status, Verdict, for_batch, for_one};
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use body::{Held, Inflight, Limits};
use cloudevent::Mode;
use contracts::Site;
use millrace_schemas::registry::Registry;
use millrace_stream::{Admin, KafkaConfig};
use prepare::{Arrival, Ready, Routes};
use publish::Desk;
use quarantine::{Quarantine, QuarantineConfig, Sent};
use redis::Redis;
use refusals::{Refusal, Refusals};
use serde::{Deserialize, Serialize};
use spool::Spool;
use sqlx::PgPool;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use throttle::Throttle;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use topics::Topics;

/// `[gateway]` in `millrace.toml`.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct GatewayConfig {
    /// Where it listens.
    pub listen: String,
    /// Its certificate, and whose senders must show.
    pub tls: TlsConfig,
    /// Anybody may publish anything: only behind something else that asks who is there.
    pub open: bool,
    /// API keys by whose they are.
    pub keys: BTreeMap<String, KeyConfig>,
    /// Tokens of an issuer, besides keys or in place of them.
    pub jwt: JwtConfig,
    /// How much each of them may publish.
    pub limits: LimitsConfig,
    /// Which invalid events are kept, and how.
    pub quarantine: QuarantineConfig,
    /// Where events wait while the log is away.
    pub spool: SpoolConfig,
    /// How long an event waits for the log; then it is `retry`. Clients wait a little longer than this.
    pub deadline_ms: u64,
    /// Of one request, inflated. Many small events; a record itself is at most 1 MiB.
    pub body_bytes: usize,
    /// Of all requests in hand, and of answers nobody has read yet; more are sent away. The process takes up to eleven
    /// times as much, with what encoding, the Kafka client and the connections hold: docs/benchmarks.md.
    pub inflight_bytes: usize,
    /// At once; more are turned away. Fewer where the process may not have as many files.
    pub connections: usize,
    /// Ids that `duplicate` is told by, at most, and at least the newest half of them; each takes about 40 bytes. The
    /// log itself remembers as many positions of each partition. 0: no event is `duplicate`, also with Redis.
    pub remembered_ids: usize,
}

impl Default for GatewayConfig {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:7070".into(),
            tls: TlsConfig::default(),
            open: false,
            keys: BTreeMap::new(),
            jwt: JwtConfig::default(),
            limits: LimitsConfig::default(),
            quarantine: QuarantineConfig::default(),
            spool: SpoolConfig::default(),
            deadline_ms: 10_000, // outlives a leader's election, not a client's patience
            body_bytes: 8 << 20,
            inflight_bytes: 64 << 20,
            connections: 4096,
            remembered_ids: 262_144,
        }
    }
}

impl GatewayConfig {
    /// # Errors
    /// Names the key that is wrong, and what to do.
    pub fn check(&self) -> Result<(), String> {
        if self.keys.is_empty() && self.jwt.is_off() && !self.open {
            return Err(NOBODY.into());
        }
        let bounds = [
            ("deadline_ms", self.deadline_ms, 100..=300_000),
            ("body_bytes", self.body_bytes as u64, 1024..=64 << 20),
            ("inflight_bytes", self.inflight_bytes as u64, self.body_bytes as u64..=16 << 30),
            ("connections", self.connections as u64, 1..=1_000_000),
            ("remembered_ids", self.remembered_ids as u64, 0..=100_000_000),
        ];
        in_bounds("`gateway.", bounds)?;
        self.spool.check()?;
        self.tls.check()?;
        self.quarantine.check()?;
        Access::of(self).map(drop)
    }

    /// What its URL begins with.
    pub fn scheme(&self) -> &'static str {
        if self.tls.is_off() { "http" } else { "https" }
    }

    fn deadline(&self) -> Duration {
        Duration::from_millis(self.deadline_ms)
    }
}

const NOBODY: &str = "`gateway.keys` is empty, so nobody could publish: add [gateway.keys.<name>] with `sha256` and \
    `scopes`, or [gateway.jwt] (docs/publishing.md), or set `gateway.open = true` behind something that asks";

/// Ready to serve.
pub struct Gateway {
    state: Arc<Shared>,
    tls: Option<Arc<Tls>>,
    topics: Arc<Topics>,
    redis: Option<Arc<Redis>>,
    spool: Option<Arc<Spool>>,
    kafka: Admin,
    config: GatewayConfig,
}

/// What every request meets.
struct Shared {
    access: Access,
    limits: Limits,
    inflight: Inflight,
    routes: Routes,
    throttle: Throttle,
    desk: Desk,
    site: Site,
    refusals: Refusals,
    quarantine: Quarantine,
    deadline: Duration,
    metrics: GatewayMetrics,
}

impl Shared {
    async fn principal(&self, headers: &HeaderMap) -> Result<Arc<Principal>, Problem> {
        self.access.principal(headers).await.map_err(|denied| self.refused(denied))
    }

    async fn reader(&self, headers: &HeaderMap) -> Result<(), Problem> {
        self.access.reader(headers).await.map(drop).map_err(|denied| self.refused(denied))
    }

    fn refused(&self, denied: Denied) -> Problem {
        let refusal = Refusal { reason: denied.word(), principal: "", way: "", topic: "", events: 0 };
        self.refusals.note(&refusal, &self.metrics);
        Problem::denied(denied)
    }
}

impl Gateway {
    /// Looks every version of every contract up in the registry. Kafka and Redis may be away, and so may `postgres`,
    /// where invalid events are kept.
    ///
    /// # Errors
    /// When the registry does not answer or lacks a contract, or the configuration or a file it names is wrong.
    pub async fn connect(
        config: &GatewayConfig,
        kafka: &KafkaConfig,
        redis: &RedisConfig,
        registry: &Registry,
        catalogue: &Catalogue,
        postgres: PgPool,
        metrics: GatewayMetrics,
    ) -> anyhow::Result<Self> {
        let access = Access::of(config).map_err(anyhow::Error::msg)?;
        let tls = Tls::of(&config.tls, &metrics)?;
        let routes = Routes::look_up(registry, catalogue.contracts().clone()).await?;
        let topics = Arc::<Topics>::default();
        let (redis, spool) =
            (Redis::of(redis, topics.clone(), &metrics)?, Spool::open(&config.spool, kafka, &metrics)?);
        let desk = Desk::new(kafka, config.deadline(), config.remembered_ids, redis.clone(), spool.clone())?;
        let inflight = Inflight::new(config.inflight_bytes, &metrics);
        let limits = Limits { body_bytes: config.body_bytes };
        let (throttle, refusals) = (Throttle::new(config.limits.clone()), Refusals::default());
        let (site, deadline) = (Site::of(catalogue), config.deadline());
        let quarantine = Quarantine::of(&config.quarantine, postgres, metrics.quarantine.clone())?;
        let shared =
            Shared { access, limits, inflight, routes, throttle, desk, site, refusals, quarantine, deadline, metrics };
        let state = Arc::new(shared);
        Ok(Self { state, tls, topics, redis, spool, kafka: Admin::new(kafka.clone()), config: config.clone() })
    }

    /// Serves until cancelled, then answers what is in hand. False when that took too long.
    pub async fn serve(self, listener: TcpListener, stop: CancellationToken) -> bool {
        let Self { state, tls, topics, redis, spool, kafka, config } = self;
        let (kept, tidied, asking) = (state.clone(), state.clone(), state.clone());
        in_background(&stop, async move { kept.access.keep_fresh().await });
        in_background(&stop, async move { tidied.quarantine.keep_tidy().await });
        in_background(&stop, memory::keep_given_back(state.metrics.inflight_bytes.clone()));
        in_background(&stop, async move {
            let names = asking.routes.contracts.topics().into_keys().collect();
            topics.keep_known(kafka, names, || asking.desk.forget_ids()).await;
        });
        if let Some(tls) = tls.clone() {
            in_background(&stop, tls.keep_fresh());
        }
        if let Some(redis) = redis {
            in_background(&stop, async move { redis.keep_reached().await });
        }
        if let Some(spool) = spool {
            in_background(&stop, async move { spool.drain().await });
        }
        let connections = state.metrics.connections.clone();
        let limits = serve::Limits {
            connections: config.connections,
            no_room: "as many connections are open as may be (gateway.connections); nothing was published",
            drain: config.deadline() + serve::ANSWER_DEADLINE,
        };
        serve::serve(listener, router(state), tls, limits, connections, stop).await
    }
}

/// Until it is time to stop.
fn in_background(stop: &CancellationToken, work: impl Future<Output = ()> + Send + 'static) {
    tokio::spawn(stop.clone().run_until_cancelled_owned(work));
}

fn router(state: Arc<Shared>) -> Router {
    let routed = routes().into_iter().fold(Router::new(), |router, (path, methods)| router.route(path, methods));
    routed
        .fallback(async || Problem::new(StatusCode::NOT_FOUND, "no such path here: GET /v1/openapi.json has them"))
        .method_not_allowed_fallback(async || {
            Problem::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "no such method here: GET /v1/openapi.json has those there are",
            )
        })
        .with_state(state)
}

/// Every path; the OpenAPI document has the same.
fn routes() -> [(&'static str, MethodRouter<Arc<Shared>>); 10] {
    [
        ("/v1/events", post(events)),
        ("/v1/contracts", get(contracts::told)),
        ("/v1/contracts/{type}", get(contracts::told)),
        ("/v1/contracts/{type}/versions/{number}", get(contracts::told)),
        ("/v1/openapi.json", get(contracts::told)),
        ("/v1/asyncapi.json", get(contracts::told)),
        ("/contracts", get(contracts::browsed)),
        ("/contracts/{type}", get(contracts::browsed)),
        ("/contracts.css", get(contracts::asset)),
        ("/contracts.js", get(contracts::asset)),
    ]
}

/// The words for what may become of an event.
pub(crate) fn statuses() -> [&'static str; 7] {
    Status::ALL.map(Status::word)
}

async fn events(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let since = Instant::now();
    let (parts, mut body) = request.into_parts();
    let answer = match publish(&shared, &parts.headers, &mut body).await {
        Ok((answer, held)) => answer.holding(held),
        Err(problem) => {
            body::discard(&parts.headers, &mut body, problem.status()).await;
            // Who holds the memory while Kafka is away waits for Kafka: that is not the sender's haste.
            let is_away = problem.status() == StatusCode::TOO_MANY_REQUESTS && shared.desk.log_is_away();
            if is_away { Problem::log_away() } else { problem }.into_response()
        }
    };
    shared.metrics.answered("/v1/events", answer.status(), since.elapsed());
    answer
}

/// The whole flow, in order.
async fn publish(shared: &Shared, headers: &HeaderMap, body: &mut Body) -> Result<(Answer, Held), Problem> {
    let principal = shared.principal(headers).await?;
    let mode = Mode::of(headers)?;
    let (body, mut held) = body::read(headers, body, &shared.limits, &shared.inflight).await?;
    let submitted = mode.read(headers, &body)?;
    let arrival = Arrival::now(cloudevent::trace(headers));
    let prepare = |event| shared.routes.prepare(event, &principal, arrival);
    let events = within(&mut held, body.len(), submitted.into_iter().map(prepare))?;
    let (mut allowance, until) = (shared.throttle.allowance(&principal), Instant::now() + shared.deadline);
    let mut verdicts = shared.desk.settle(events, &mut allowance, &shared.metrics).await;
    let sent = Sent { mode, headers, body: &body, principal: &principal };
    shared.quarantine.keep(&sent, &shared.routes, &mut verdicts, until.into()).await;
    count(shared, &principal, &verdicts);
    let answer = if mode == Mode::Batch { for_batch(&verdicts) } else { for_one(&verdicts) };
    Ok((answer.not_before(allowance.wait), held))
}

/// What events become takes about as much memory as their body, and that is reckoned with. But a few bytes may stand
/// for long defaults, or have much said of them: what is beyond is counted as it comes, before anything is published.
fn within<'a>(
    held: &mut Held,
    mut spare: usize,
    events: impl Iterator<Item = Ready<'a>>,
) -> Result<Vec<Ready<'a>>, Problem> {
    let mut ready = Vec::with_capacity(events.size_hint().0);
    for event in events {
        let bytes = event.as_ref().map_or_else(|verdict| verdict.bytes(), |prepared| prepared.value.len());
        held.grow(bytes.saturating_sub(spare))?;
        spare = spare.saturating_sub(bytes);
        ready.push(event);
    }
    Ok(ready)
}

fn count(shared: &Shared, principal: &Principal, verdicts: &[Verdict<'_>]) {
    let alike = |one: &Verdict<'_>, next: &Verdict<'_>| (one.status, one.event_type) == (next.status, next.event_type);
    verdicts.chunk_by(alike).for_each(|verdicts| shared.metrics.events(&verdicts[0], verdicts.len()));
    for (status, reason) in [(Status::Unauthorized, "scope"), (Status::Throttled, "throttled")] {
        let mut refused = verdicts.iter().filter(|verdict| verdict.status == status);
        let Some(first) = refused.next() else { continue };
        let contract = first.event_type.and_then(|event_type| shared.routes.contracts.get(event_type));
        let topic = contract.map_or("", |contract| &contract.topic);
        let (name, way, events) = (&principal.name, principal.way.word(), 1 + refused.count());
        let refusal = Refusal { reason, principal: name, way, topic, events };
        shared.refusals.note(&refusal, &shared.metrics);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use millrace_schemas::{Contracts, VIOLATIONS_MAX, Violation};

    #[test]
    fn the_openapi_document_has_every_path_there_is_and_no_other() {
        let contracts = Arc::new(Contracts::embedded().unwrap());
        let document = Catalogue::new(contracts, BTreeMap::default()).openapi();
        let mut documented: Vec<&str> = document["paths"].as_object().unwrap().keys().map(String::as_str).collect();
        let mut served: Vec<&str> = routes().iter().map(|(path, _)| *path).collect();
        documented.sort_unstable();
        served.sort_unstable();
        assert_eq!(documented, served);
    }

    #[test]
    fn events_about_which_much_is_to_be_said_are_refused_at_the_bound_of_the_memory_before_any_is_published() {
        let metrics = GatewayMetrics::default();
        let inflight = Inflight::new(1 << 20, &metrics);
        let errors = vec![Violation::new("/data/colour", "x".repeat(200), "an unknown one"); VIOLATIONS_MAX];
        let wrong = Verdict { errors, ..Verdict::new(None, Status::Invalid) };
        let events = |count| std::iter::repeat_n(wrong.clone(), count).map(|verdict| Err(Box::new(verdict)));
        let mut held = inflight.begin().unwrap();
        let before = metrics.inflight_bytes.get();
        assert_eq!(within(&mut held, 1000, events(5)).unwrap().len(), 5);
        assert_eq!(metrics.inflight_bytes.get() - before, 5 * wrong.bytes() as i64 - 1000);
        let refused = within(&mut held, 1000, events(1000)).err().unwrap();
        assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
        drop(held);
        assert_eq!(metrics.inflight_bytes.get(), 0);
    }
}
