//! What gateways share through one Redis: which ids were accepted, and how much each principal has published.
//!
//! ```text
//! events ─→ ids (MGET) ─→ limits (one script) ─→ log ─→ ids (SET) ─→ answer
//! ```
//!
//! Advisory, as what a gateway remembers by itself: nobody waits longer than a short deadline for an answer, and
//! publishing never depends on one. While Redis is away each gateway knows its own ids and counts for itself, and no
//! request asks it: one task of its own looks whether it is back.

mod ids;
mod limits;
#[cfg(test)]
mod real;

pub(super) use ids::{Known, Marks};
pub(super) use limits::Grant;

use super::metrics::GatewayMetrics;
use super::topics::Topics;
use crate::in_bounds;
use millrace_schemas::without_password;
use millrace_stream::Backoff;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, IntoConnectionInfo, RedisResult};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// From its loss to the first look whether it is back, and between looks, at most. Where it is slow rather than away,
/// so often do the requests of some deadlines wait for it in vain.
const AWAY_WAITS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// Without an answer in time for so many deadlines it is away; a hiccup is over by then. Meanwhile requests wait for it
/// in vain, each for two deadlines at most: what was not found is not written down.
const LATE_DEADLINES: u32 = 3;
/// A connection that was good for so long was not lost to slowness.
const STEADY: Duration = Duration::from_secs(60);
/// To make a connection: beside the requests, so it may take longer than they would wait.
const CONNECT_DEADLINE: Duration = Duration::from_secs(2);

/// `[redis]` in `millrace.toml`.
#[derive(Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RedisConfig {
    /// `redis://[user@]host:port[/database]`, `rediss://` for TLS. Empty: nothing is shared.
    pub url: String,
    /// Only by the environment.
    #[serde(skip_serializing)]
    pub password: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
    /// How long a request waits for each answer.
    pub deadline_ms: u64,
    /// How long an accepted id is known. Each takes about 200 bytes there.
    pub ids_kept_s: u64,
}

impl Default for RedisConfig {
    fn default() -> Self {
        Self {
            url: String::new(),
            password: None,
            password_file: None,
            deadline_ms: 50, // far beyond a round trip, and little beside the log's answer
            ids_kept_s: 600, // ten times as long as our client tries
        }
    }
}

impl std::fmt::Debug for RedisConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "redis {}", without_password(&self.url))
    }
}

impl RedisConfig {
    /// # Errors
    /// Names the key that is wrong, and what to do.
    pub fn check(&self) -> Result<(), String> {
        let bounds = [("deadline_ms", self.deadline_ms, 1..=1000), ("ids_kept_s", self.ids_kept_s, 1..=86_400)];
        in_bounds("`redis.", bounds)?;
        self.client().map(drop)
    }

    /// None where nothing is shared.
    fn client(&self) -> Result<Option<Client>, String> {
        if self.url.is_empty() {
            return Ok(None);
        }
        let no_url = |_| "`redis.url` is no URL such as redis://host:6379".to_owned(); // its error may quote a password
        let mut server = self.url.as_str().into_connection_info().map_err(no_url)?;
        if let Some(password) = &self.password {
            let login = server.redis_settings().clone().set_password(password);
            server = server.set_redis_settings(login);
        }
        Client::open(server).map(Some).map_err(no_url)
    }
}

pub(super) struct Redis {
    client: Client,
    /// As it may be shown.
    url: String,
    deadline: Duration,
    ids_kept: Duration,
    reached: RwLock<Option<Reached>>,
    /// When the first question was asked since the last answer in time; none where that was the last.
    late_since: Mutex<Option<Instant>>,
    lost: Notify,
    /// Until its topic's id is known no event's is shared.
    topics: Arc<Topics>,
    metrics: GatewayMetrics,
}

#[derive(Clone)]
struct Reached {
    connection: MultiplexedConnection,
    /// Who lost an earlier connection does not take this one away.
    since: Instant,
}

impl Redis {
    /// None where nothing is shared. Asks nothing yet.
    pub fn of(
        config: &RedisConfig,
        topics: Arc<Topics>,
        metrics: &GatewayMetrics,
    ) -> anyhow::Result<Option<Arc<Self>>> {
        config.check().map_err(anyhow::Error::msg)?;
        let Some(client) = config.client().map_err(anyhow::Error::msg)? else { return Ok(None) };
        metrics.redis_away.set(1);
        Ok(Some(Arc::new(Self {
            client,
            url: without_password(&config.url),
            deadline: Duration::from_millis(config.deadline_ms),
            ids_kept: Duration::from_secs(config.ids_kept_s),
            reached: RwLock::default(),
            late_since: Mutex::default(),
            lost: Notify::new(),
            topics,
            metrics: metrics.clone(),
        })))
    }

    /// Reaches it, and again whenever it was lost.
    pub async fn keep_reached(&self) {
        let (mut waits, mut told) = (Backoff::between(AWAY_WAITS.0, AWAY_WAITS.1), false);
        loop {
            match self.connect().await {
                Ok(connection) => {
                    let since = Instant::now();
                    self.was_in_time();
                    *self.reached.write().unwrap_or_else(PoisonError::into_inner) = Some(Reached { connection, since });
                    self.metrics.redis_away.set(0);
                    tracing::info!("ids and limits are shared through Redis at {}", self.url);
                    self.lost.notified().await;
                    told = true; // by whoever lost it
                    if since.elapsed() >= STEADY {
                        waits = Backoff::between(AWAY_WAITS.0, AWAY_WAITS.1);
                    }
                }
                Err(reason) if !told => {
                    self.tell_away(&format!("{reason:#}"));
                    told = true;
                }
                Err(reason) => tracing::debug!("Redis is still away: {reason}"),
            }
            tokio::time::sleep(waits.next_wait()).await;
        }
    }

    async fn connect(&self) -> anyhow::Result<MultiplexedConnection> {
        let times = AsyncConnectionConfig::new().set_connection_timeout(Some(CONNECT_DEADLINE));
        let times = times.set_response_timeout(Some(CONNECT_DEADLINE));
        let mut connection = self.client.get_multiplexed_async_connection_with_config(&times).await?;
        let answer = redis::cmd("PING");
        let answer = tokio::time::timeout(self.deadline, answer.query_async::<()>(&mut connection));
        answer.await.map_err(|_| self.too_slow())??;
        Ok(connection)
    }

    fn too_slow(&self) -> anyhow::Error {
        anyhow::anyhow!("no answer within {:?} (redis.deadline_ms)", self.deadline)
    }

    fn is_reached(&self) -> bool {
        self.reached.read().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// None when it is away; whoever finds out says so, once.
    async fn ask<T>(&self, question: impl AsyncFnOnce(&mut MultiplexedConnection) -> RedisResult<T>) -> Option<T> {
        let mut reached = self.reached.read().unwrap_or_else(PoisonError::into_inner).clone()?;
        let asked = Instant::now();
        match tokio::time::timeout(self.deadline, question(&mut reached.connection)).await {
            Ok(Ok(answer)) => {
                self.was_in_time();
                return Some(answer);
            }
            Ok(Err(error)) => self.lose(reached.since, &error.to_string()),
            Err(_) => {
                self.metrics.redis_late.inc();
                if self.is_late_for_long(asked) {
                    self.lose(reached.since, &self.too_slow().to_string());
                }
            }
        }
        None
    }

    fn was_in_time(&self) {
        *self.late_since.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Of a question that was asked then and has no answer.
    fn is_late_for_long(&self, asked: Instant) -> bool {
        let mut late_since = self.late_since.lock().unwrap_or_else(PoisonError::into_inner);
        late_since.get_or_insert(asked).elapsed() >= self.deadline * LATE_DEADLINES
    }

    fn lose(&self, since: Instant, failure: &str) {
        let mut reached = self.reached.write().unwrap_or_else(PoisonError::into_inner);
        if reached.take_if(|reached| reached.since == since).is_some() {
            drop(reached);
            self.metrics.redis_away.set(1);
            self.metrics.redis_lost.inc();
            self.tell_away(failure);
            self.lost.notify_one();
        }
    }

    fn tell_away(&self, why: &str) {
        let url = &self.url;
        tracing::warn!("Redis at {url} is away, so this gateway knows its own ids and counts for itself: {why}");
    }
}

#[cfg(test)]
mod tests {
    use super::real::{DEADLINE, Real};
    use super::*;

    fn config(url: &str) -> RedisConfig {
        RedisConfig { url: url.into(), ..RedisConfig::default() }
    }

    #[test]
    fn a_url_that_is_none_is_refused_without_a_word_of_its_password() {
        assert_eq!(config("").check(), Ok(()));
        assert_eq!(config("redis://cache:6379/2").check(), Ok(()));
        assert_eq!(config("rediss://cache:6380").check(), Ok(()));
        for url in ["cache:6379", "http://anna:sesame@cache", "redis://:sesame@cache:x"] {
            let error = config(url).check().unwrap_err();
            assert!(error.contains("`redis.url` is no URL") && !error.contains("sesame"), "{error}");
        }
        let slow = RedisConfig { deadline_ms: 5000, ..config("redis://cache") };
        assert!(slow.check().unwrap_err().contains("`redis.deadline_ms` is 5000: 1 to 1000"));
        assert!(!format!("{:?}", config("redis://:sesame@cache")).contains("sesame"));
    }

    #[tokio::test]
    async fn one_late_answer_is_forgiven_and_silence_is_not() {
        let real = Real::start();
        let (redis, metrics) = real.shared().await;
        let mut other = redis.connect().await.unwrap();
        let mut pause = async |time: Duration| {
            let mut command = redis::cmd("CLIENT");
            command.arg("PAUSE").arg(time.as_millis() as u64).query_async::<()>(&mut other).await.unwrap();
        };
        let ask = async || redis.ask(async |to| redis::cmd("PING").query_async::<()>(to).await).await;
        pause(DEADLINE * 2).await; // a machine may be busy: long before and long after there is no answer in time
        assert!(ask().await.is_none());
        while ask().await.is_none() {
            assert!(redis.is_reached(), "one late answer took it away");
        }
        assert_eq!(metrics.redis_lost.get(), 0);

        pause(DEADLINE * 60).await;
        let mut asked = 0;
        while redis.is_reached() {
            assert!(ask().await.is_none());
            asked += 1;
        }
        assert!(asked <= LATE_DEADLINES, "{asked} waited for a deadline");
        assert_eq!((metrics.redis_away.get(), metrics.redis_lost.get()), (1, 1));
    }

    #[tokio::test]
    async fn what_is_away_is_asked_by_nobody() {
        let metrics = GatewayMetrics::default();
        let redis = Redis::of(&config("redis://127.0.0.1:1"), Arc::default(), &metrics).unwrap().unwrap();
        assert!(redis.connect().await.is_err());
        assert!(redis.ask(async |_| -> RedisResult<()> { panic!("it was asked") }).await.is_none());
        assert_eq!((metrics.redis_away.get(), metrics.redis_lost.get()), (1, 0));
    }
}
