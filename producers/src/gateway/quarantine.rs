//! Invalid events that are kept for a while, so that somebody can look at them and publish them once the contract was
//! repaired. An event that is kept stays `invalid`: it is not in the log, and the answer says so.
//!
//! ```text
//! verdicts, some invalid ─→ asked for? entitled? ─→ form (without personal data, or sealed) ─→ store, within its bounds
//!                                                                                                │
//!            answer: `quarantine.kept` with an id, or `quarantine.not_kept` and why ←────────────┘
//! ```
//!
//! Comes after the log has answered, and only where something was invalid: accepted events pay nothing for it. Nothing
//! here may fail a request, nor hold it beyond its deadline.

mod form;
mod metrics;
mod replay;
mod seal;
mod store;

pub use form::Reason;
pub use replay::{Outcome, Replay};
pub use store::{KeptEvent, Progress, Store, Which};

use super::access::Principal;
use super::answer::{Status, Verdict};
use super::cloudevent::Mode;
use super::prepare::Routes;
use crate::in_bounds;
use anyhow::Context;
use axum::http::HeaderMap;
use form::{Form, Row};
pub(super) use metrics::Metrics;
use seal::Key;
use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

/// By which a sender asks that its invalid events be kept; [`ASKED`] is its one value.
pub(super) const HEADER: &str = "millrace-quarantine";
const ASKED: &str = "invalid";
/// For the store, within what the answer may take. A local Postgres needs some milliseconds.
const KEEP_DEADLINE: Duration = Duration::from_secs(2);
/// A store that did not answer is left alone for so long: senders hear at once that nothing was kept.
const AWAY: Duration = Duration::from_secs(5);
/// How often what has expired is removed, and counted what is left.
const TIDY_EVERY: Duration = Duration::from_secs(60);

/// `[gateway.quarantine]`
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct QuarantineConfig {
    /// Which invalid events are kept.
    pub keep: Keep,
    /// What becomes of personal data in them.
    pub personal: Personal,
    /// 32 bytes as 64 hexadecimal digits, to encrypt by.
    pub key_file: PathBuf,
    /// How long. Nobody who is erased is found here for longer.
    pub days: u32,
    /// How many, of all senders: more than somebody looks at one by one, few enough to be counted each time.
    pub events: u32,
    /// Of all of them together: what a database does not notice beside the rest.
    pub bytes: u64,
    /// Of one: most have some hundred.
    pub event_bytes: u32,
}

/// Which invalid events are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Keep {
    Never,
    /// Those of requests that ask for it.
    Asked,
    Always,
}

/// What becomes of personal data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Personal {
    /// It is taken out, with everything that may be personal.
    Drop,
    /// The whole event is kept encrypted.
    Encrypt,
}

impl Default for QuarantineConfig {
    fn default() -> Self {
        Self {
            keep: Keep::Asked,
            personal: Personal::Drop,
            key_file: PathBuf::new(),
            days: 7, // a mistake of Friday evening can be repaired next week
            events: 10_000,
            bytes: 64 << 20,
            event_bytes: 64 << 10,
        }
    }
}

impl QuarantineConfig {
    pub(super) fn check(&self) -> Result<(), String> {
        let bounds = [
            ("days", u64::from(self.days), 1..=90),
            ("events", u64::from(self.events), 1..=1_000_000),
            ("event_bytes", u64::from(self.event_bytes), 1 << 10..=4 << 20),
            ("bytes", self.bytes, u64::from(self.event_bytes)..=64 << 30),
        ];
        in_bounds("`gateway.quarantine.", bounds)?;
        match (self.personal, self.key_file.as_os_str().is_empty()) {
            (Personal::Encrypt, true) => Err(NO_KEY.into()),
            _ => Ok(()),
        }
    }

    /// # Errors
    /// When there is one and it can't be read, or is none.
    fn key(&self) -> anyhow::Result<Option<Key>> {
        let file: &Path = &self.key_file;
        if file.as_os_str().is_empty() {
            return Ok(None);
        }
        Key::read(file).map(Some).with_context(|| format!("`gateway.quarantine.key_file`: {}", file.display()))
    }
}

const NO_KEY: &str =
    "`gateway.quarantine.key_file` is empty: `personal = \"encrypt\"` needs a key (docs/publishing.md)";

/// What an invalid event's sender hears of it besides.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Quarantined {
    /// Under this id.
    Kept(Uuid),
    NotKept(NotKept),
}

/// Why not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NotKept {
    Off,
    UnknownWord,
    Stranger,
    TooLarge,
    Full,
    Share,
    Busy,
    Away,
}

impl NotKept {
    /// As it is counted.
    fn word(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::UnknownWord => "unknown_word",
            Self::Stranger => "stranger",
            Self::TooLarge => "too_large",
            Self::Full => "full",
            Self::Share => "share",
            Self::Busy => "busy",
            Self::Away => "away",
        }
    }

    fn told(self) -> &'static str {
        match self {
            Self::Off => "this gateway keeps none (gateway.quarantine.keep)",
            Self::UnknownWord => "`Millrace-Quarantine: invalid` asks for it, and no other value does",
            Self::Stranger => "only events that the sender's key or token may publish are kept",
            Self::TooLarge => "it is larger than what may be kept (gateway.quarantine.event_bytes)",
            Self::Full => "as much is kept as may be (gateway.quarantine.events, bytes)",
            Self::Share => "half of what may be kept is this sender's already",
            Self::Busy => "there was no time left for it: the log took long, or others were kept",
            Self::Away => "the store does not answer",
        }
    }
}

impl Serialize for NotKept {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.told())
    }
}

/// A request that had invalid events, read once more for them.
pub(super) struct Sent<'a> {
    pub mode: Mode,
    pub headers: &'a HeaderMap,
    pub body: &'a [u8],
    pub principal: &'a Principal,
}

pub(super) struct Quarantine {
    config: QuarantineConfig,
    /// None where personal data is taken out.
    key: Option<Key>,
    store: Store,
    /// One request's events are formed and stored at a time: so much memory they take, and one connection.
    turn: Semaphore,
    away_until: Mutex<Option<Instant>>,
    metrics: Metrics,
}

impl Quarantine {
    /// Does not reach the store before it is needed.
    ///
    /// # Errors
    /// When the key can't be read.
    pub fn of(config: &QuarantineConfig, pool: PgPool, metrics: Metrics) -> anyhow::Result<Self> {
        let key = config.key()?.filter(|_| config.personal == Personal::Encrypt);
        let (store, turn) = (Store::new(pool), Semaphore::new(1));
        Ok(Self { config: config.clone(), key, store, turn, away_until: Mutex::default(), metrics })
    }

    /// Keeps the invalid events of a request that are to be kept, and says in their verdicts what came of it, at the
    /// latest at `until`.
    pub async fn keep(&self, sent: &Sent<'_>, routes: &Routes, verdicts: &mut [Verdict<'_>], until: Instant) {
        let invalid = verdicts.iter().filter(|verdict| is_candidate(verdict)).count();
        if invalid == 0 {
            return;
        }
        let kept = match self.wanted(sent.headers) {
            None => return,
            Some(Ok(())) => {
                let until = until.min(Instant::now() + KEEP_DEADLINE);
                // Boxed: a connection that has nothing to keep does not take the room for it.
                Box::pin(self.keep_all(sent, routes, verdicts, until)).await
            }
            Some(Err(refused)) => Err(refused),
        };
        let fates = kept.unwrap_or_else(|refused| vec![Quarantined::NotKept(refused); invalid]);
        for (verdict, fate) in verdicts.iter_mut().filter(|verdict| is_candidate(verdict)).zip(fates) {
            self.metrics.count(&fate);
            verdict.quarantine = Some(Box::new(fate));
        }
    }

    /// None where nobody wants it; else whether it may be.
    fn wanted(&self, headers: &HeaderMap) -> Option<Result<(), NotKept>> {
        let asked = headers.get(HEADER).map(|word| word.as_bytes().eq_ignore_ascii_case(ASKED.as_bytes()));
        match (self.config.keep, asked) {
            (Keep::Always, _) | (Keep::Asked, Some(true)) => Some(Ok(())),
            (_, None) => None,
            (Keep::Never, Some(_)) => Some(Err(NotKept::Off)),
            (Keep::Asked, Some(false)) => Some(Err(NotKept::UnknownWord)),
        }
    }

    /// What became of each invalid event.
    async fn keep_all(
        &self,
        sent: &Sent<'_>,
        routes: &Routes,
        verdicts: &[Verdict<'_>],
        until: Instant,
    ) -> Result<Vec<Quarantined>, NotKept> {
        if self.is_away() {
            return Err(NotKept::Away);
        }
        let _turn = timeout_at(until, self.turn.acquire()).await.map_err(|_| NotKept::Busy)?;
        let formed = self.formed(sent, routes, verdicts);
        let rows: Vec<&Row> = formed.iter().flatten().collect();
        let stored = if rows.is_empty() { Vec::new() } else { self.store(&rows, sent.principal, until).await? };
        let mut stored = stored.into_iter();
        let fate = |formed: Result<Row, NotKept>| match formed.map(|row| (row.id, stored.next().flatten())) {
            Ok((id, None)) => Quarantined::Kept(id),
            Ok((_, Some(refused))) | Err(refused) => Quarantined::NotKept(refused),
        };
        Ok(formed.into_iter().map(fate).collect())
    }

    /// Of each why it is not kept, if it isn't.
    async fn store(
        &self,
        rows: &[&Row],
        principal: &Principal,
        until: Instant,
    ) -> Result<Vec<Option<NotKept>>, NotKept> {
        // Where the log left it little time the store is not to blame.
        let is_patient = until.saturating_duration_since(Instant::now()) >= KEEP_DEADLINE / 2;
        let stored = self.store.keep(rows, principal, &self.config, until).await;
        let (refused, held) =
            stored.map_err(|error| if is_patient { self.went_away(&error) } else { NotKept::Busy })?;
        self.is_back();
        self.metrics.show(&held);
        Ok(refused)
    }

    fn formed(&self, sent: &Sent<'_>, routes: &Routes, verdicts: &[Verdict<'_>]) -> Vec<Result<Row, NotKept>> {
        let submitted = sent.mode.read(sent.headers, sent.body).unwrap_or_default(); // it was read before
        let invalid = submitted.into_iter().zip(verdicts).filter(|(_, verdict)| is_candidate(verdict));
        let form = Form { routes, principal: sent.principal, key: self.key.as_ref() };
        let formed = invalid.map(|(event, verdict)| {
            let row = form.row(event, verdict)?;
            if row.bytes() > self.config.event_bytes as usize { Err(NotKept::TooLarge) } else { Ok(row) }
        });
        formed.collect()
    }

    fn is_away(&self) -> bool {
        let away_until = *self.away_until.lock().unwrap_or_else(PoisonError::into_inner);
        away_until.is_some_and(|until| Instant::now() < until)
    }

    /// Told once, until it is back.
    fn went_away(&self, error: &anyhow::Error) -> NotKept {
        let mut away_until = self.away_until.lock().unwrap_or_else(PoisonError::into_inner);
        if away_until.replace(Instant::now() + AWAY).is_none() {
            tracing::warn!("invalid events can't be kept now: {error:#}");
        }
        NotKept::Away
    }

    fn is_back(&self) {
        let mut away_until = self.away_until.lock().unwrap_or_else(PoisonError::into_inner);
        if away_until.take().is_some() {
            tracing::info!("invalid events can be kept again");
        }
    }

    /// Removes what has expired and shows what is left, for ever.
    pub async fn keep_tidy(&self) {
        if self.config.keep == Keep::Never {
            return std::future::pending().await;
        }
        loop {
            match self.store.tidy(Instant::now() + KEEP_DEADLINE).await {
                Ok(held) => {
                    self.is_back();
                    self.metrics.show(&held);
                }
                Err(error) => drop(self.went_away(&error)),
            }
            tokio::time::sleep(TIDY_EVERY).await;
        }
    }
}

/// One whose id stands for another event already will be invalid for ever.
fn is_candidate(verdict: &Verdict<'_>) -> bool {
    verdict.status == Status::Invalid && !verdict.conflict
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_that_would_keep_too_much_or_could_not_encrypt_is_refused_by_its_key() {
        let said = |config: QuarantineConfig| config.check().unwrap_err();
        let default = QuarantineConfig::default;
        assert_eq!(default().check(), Ok(()));
        assert!(said(QuarantineConfig { days: 0, ..default() }).contains("`gateway.quarantine.days` is 0: 1 to 90"));
        assert!(said(QuarantineConfig { bytes: 1, ..default() }).contains("`gateway.quarantine.bytes` is 1: 65536 to"));
        let encrypt = QuarantineConfig { personal: Personal::Encrypt, ..default() };
        assert!(said(encrypt.clone()).contains("`gateway.quarantine.key_file` is empty"));
        let nowhere = QuarantineConfig { key_file: "/nowhere/key".into(), ..encrypt };
        let error = format!("{:#}", nowhere.key().err().unwrap());
        assert!(error.starts_with("`gateway.quarantine.key_file`: /nowhere/key: could not read the key"), "{error}");
    }

    #[tokio::test]
    async fn who_asks_is_told_apart_from_who_does_not() {
        let wanted = |keep, word: Option<&str>| {
            let pool = PgPool::connect_lazy("postgres://nobody@127.0.0.1:1/none").unwrap();
            let config = QuarantineConfig { keep, ..QuarantineConfig::default() };
            let quarantine = Quarantine::of(&config, pool, Metrics::default()).unwrap();
            let header = word.map(|word| (axum::http::HeaderName::from_static(HEADER), word.parse().unwrap()));
            quarantine.wanted(&header.into_iter().collect())
        };
        assert_eq!(wanted(Keep::Asked, None), None);
        assert_eq!(wanted(Keep::Asked, Some("Invalid")), Some(Ok(())));
        assert_eq!(wanted(Keep::Asked, Some("yes")), Some(Err(NotKept::UnknownWord)));
        assert_eq!(wanted(Keep::Always, None), Some(Ok(())));
        assert_eq!((wanted(Keep::Never, None), wanted(Keep::Never, Some("invalid"))), (None, Some(Err(NotKept::Off))));
    }
}
