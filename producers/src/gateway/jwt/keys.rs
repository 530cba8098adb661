//! The issuer's keys as they were last published. Asked for again every few minutes, and when a token names one that is
//! not among them, but never more often than [`ASK_AGAIN`]: who makes names up makes nobody ask.
//!
//! While the issuer does not answer the keys it published last are used, for as long as the configuration says.

use crate::gateway::access::Denied;
use futures_util::future::BoxFuture;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, PublicKeyUse};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey};
use serde::Deserialize;
use serde_json::Value;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// How soon a key that was withdrawn is no longer taken.
pub(super) const FRESH: Duration = Duration::from_secs(300);
/// Between two questions, whoever has them; and how soon a new key is taken, at the latest.
pub(in crate::gateway) const ASK_AGAIN: Duration = Duration::from_secs(10);
/// Of one issuer, of which one or two are in use.
const KEYS_MAX: usize = 100;

/// Asks for the set of keys as it is published.
type Ask = Box<dyn Fn() -> BoxFuture<'static, Result<Vec<u8>, String>> + Send + Sync>;

pub(super) struct Keys {
    ask: Ask,
    kept: Duration,
    known: RwLock<Arc<Known>>,
    /// When the issuer was asked last. Held while it is asked: there is one question at a time.
    asked: Arc<Mutex<Option<Instant>>>,
    /// The last question has no answer.
    failing: AtomicBool,
}

/// What was published last.
#[derive(Default)]
pub(super) struct Known {
    published: Vec<u8>,
    keys: Vec<Key>,
    confirmed: Option<Instant>,
    /// Counts the different sets: what was verified by one says nothing under another. 0 is none.
    pub generation: u64,
}

pub(super) struct Key {
    id: Option<String>,
    algorithms: Vec<Algorithm>,
    pub key: DecodingKey,
}

impl Keys {
    pub fn new(ask: Ask, kept: Duration) -> Arc<Self> {
        let (known, asked, failing) = Default::default();
        Arc::new(Self { ask, kept, known, asked, failing })
    }

    /// Asks every few minutes, for ever.
    pub async fn keep_fresh(self: &Arc<Self>) {
        loop {
            self.refresh().await;
            tokio::time::sleep(if self.failing.load(Ordering::Relaxed) { ASK_AGAIN } else { FRESH }).await;
        }
    }

    /// Those that may be used now: none when the issuer has been silent for too long.
    pub fn known(&self) -> Arc<Known> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner).clone();
        if known.confirmed.is_some_and(|at| at.elapsed() < self.kept) { known } else { Arc::default() }
    }

    /// The set that has the key a token names, after asking for it if need be.
    pub async fn having(self: &Arc<Self>, id: Option<&str>, algorithm: Algorithm) -> Result<Arc<Known>, Denied> {
        let known = self.known();
        if known.find(id, algorithm)?.is_some() {
            return Ok(known);
        }
        let was_asked = self.refresh().await;
        let known = self.known();
        match known.find(id, algorithm)? {
            Some(_) => Ok(known),
            // It may well be a new one: nobody can tell before the issuer does.
            None if self.failing.load(Ordering::Relaxed) => Err(Denied::IssuerAway),
            None if !was_asked => Err(Denied::TokenSignerUnsure),
            None => Err(Denied::TokenSigner),
        }
    }

    /// False where the issuer was asked too lately.
    async fn refresh(self: &Arc<Self>) -> bool {
        let mut asked = self.asked.clone().lock_owned().await;
        if asked.is_some_and(|at| at.elapsed() < ASK_AGAIN) {
            return false;
        }
        *asked = Some(Instant::now());
        let keys = self.clone();
        // By itself: whoever made us ask may go away, and the answer is for others too.
        let asking = tokio::spawn(async move {
            keys.fetch().await;
            drop(asked);
        });
        let _ = asking.await; // it does not panic, and if it did the keys would be those from before
        true
    }

    async fn fetch(&self) {
        let learnt = (self.ask)().await.and_then(|published| self.learn(published));
        self.failing.store(learnt.is_err(), Ordering::Relaxed);
        if let Err(error) = learnt {
            tracing::warn!("could not fetch the keys of gateway.jwt.issuer: {error}");
        }
    }

    fn learn(&self, published: Vec<u8>) -> Result<(), String> {
        let keys = parse(&published)?;
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let generation = known.generation + u64::from(known.generation == 0 || known.published != published);
        *known = Arc::new(Known { published, keys, confirmed: Some(Instant::now()), generation });
        Ok(())
    }
}

impl Known {
    /// By its name. A token that names none is taken where only one key could be meant.
    pub fn find(&self, id: Option<&str>, algorithm: Algorithm) -> Result<Option<&Key>, Denied> {
        let named = |key: &&Key| id.is_none() || key.id.as_deref() == id;
        let mut fitting = self.keys.iter().filter(named).filter(|key| key.algorithms.contains(&algorithm));
        match (fitting.next(), fitting.next()) {
            (Some(_), Some(_)) => Err(Denied::TokenSigner),
            (None, _) if self.keys.iter().any(|key| named(&key)) => Err(Denied::TokenAlgorithm),
            (found, _) => Ok(found),
        }
    }
}

/// What is no public key for signatures is passed over: issuers publish others beside them.
fn parse(published: &[u8]) -> Result<Vec<Key>, String> {
    #[derive(Deserialize)]
    struct Set {
        keys: Vec<Value>,
    }
    let set: Set = serde_json::from_slice(published).map_err(|error| format!("this is no set of keys: {error}"))?;
    if set.keys.len() > KEYS_MAX {
        return Err(format!("{} keys are more than {KEYS_MAX}", set.keys.len()));
    }
    let keys: Vec<Key> = set.keys.into_iter().filter_map(|key| Key::of(&serde_json::from_value(key).ok()?)).collect();
    if keys.is_empty() {
        tracing::warn!("gateway.jwt.issuer publishes no key that could be used: every token is refused");
    }
    Ok(keys)
}

impl Key {
    fn of(jwk: &Jwk) -> Option<Self> {
        if jwk.common.public_key_use.as_ref().is_some_and(|wanted| *wanted != PublicKeyUse::Signature) {
            return None;
        }
        let possible: &[Algorithm] = match &jwk.algorithm {
            AlgorithmParameters::RSA(_) => AlgorithmFamily::Rsa.algorithms(),
            AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => &[Algorithm::ES256],
            AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P384 => &[Algorithm::ES384],
            AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => &[Algorithm::EdDSA],
            _ => &[], // a shared secret among them
        };
        let named = jwk.common.key_algorithm;
        let meant = |algorithm: &&Algorithm| named.is_none_or(|named| named == KeyAlgorithm::from(**algorithm));
        let algorithms: Vec<Algorithm> = possible.iter().filter(meant).copied().collect();
        let key = DecodingKey::from_jwk(jwk).ok().filter(|_| !algorithms.is_empty())?;
        Some(Self { id: jwk.common.key_id.clone(), algorithms, key })
    }
}
