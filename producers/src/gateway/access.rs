//! Who may publish what: API keys, kept as hashes, and tokens of an issuer, both with scopes. Never logs either.
//!
//! [`Access::principal`] is the only place that knows how a caller proves who it is; everything behind it knows
//! principals.

use super::GatewayConfig;
use super::jwt::Tokens;
use axum::http::{HeaderMap, header};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::sync::Arc;

/// What is longer is neither a key nor a token, and not worth hashing.
const CREDENTIAL_BYTES_MAX: usize = 8 << 10;
/// The header for those who can't send `Authorization`.
const API_KEY: &str = "x-api-key";

/// `[gateway.keys.<name>]`: what one principal may do, and what proves that it is the one.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct KeyConfig {
    /// SHA-256 of each key, as hexadecimal digits. Two while one replaces the other.
    ///
    /// No slow hash: a key is 32 random bytes, which nobody guesses however fast, and every request brings one.
    pub sha256: Vec<String>,
    /// `publish:<topic>`, in which a `*` at the end stands for anything.
    pub scopes: Vec<String>,
}

/// The hash that configuration holds of a key.
pub fn hash_of_key(key: &str) -> String {
    Sha256::digest(key.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Of a key or a token.
pub(super) type Hash = [u8; 32];

pub(super) struct Access {
    /// Found by hash: how long that takes tells nothing of a key.
    keys: HashMap<Hash, Arc<Principal>>,
    tokens: Option<Tokens>,
    /// Who comes without a key, where that is allowed.
    anybody: Option<Arc<Principal>>,
}

/// A caller who is known.
#[derive(Debug)]
pub(super) struct Principal {
    pub name: String,
    /// A token's principal may have a key's name, and is another one.
    pub way: Way,
    topics: Vec<Topics>,
}

/// How a caller proved who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Way {
    Key,
    Token,
    /// Nobody asked.
    Open,
}

impl Way {
    /// As it is logged.
    pub fn word(self) -> &'static str {
        match self {
            Self::Key => "key",
            Self::Token => "token",
            Self::Open => "open",
        }
    }
}

/// Why a caller is not let in. Senders hear little of it, operators all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Denied {
    NoCredential,
    UnknownKey,
    /// Where tokens are taken: neither a key that is known nor in the form of a token.
    UnknownBearer,
    TokenMalformed,
    /// One that is not taken, or not of the key that it names.
    TokenAlgorithm,
    /// No such key is published.
    TokenSigner,
    /// No such key was published when the issuer was asked, which was too lately to ask again: it may be a new one.
    TokenSignerUnsure,
    TokenSignature,
    TokenExpired,
    TokenNotYetValid,
    TokenIssuer,
    TokenAudience,
    /// One is missing, or no such thing.
    TokenClaims,
    /// Nobody can tell: the keys of the issuer are not to be had.
    IssuerAway,
}

impl Denied {
    /// As it is counted and logged.
    pub fn word(self) -> &'static str {
        match self {
            Self::NoCredential => "no_credential",
            Self::UnknownKey | Self::UnknownBearer => "unknown_key",
            Self::TokenMalformed => "token_malformed",
            Self::TokenAlgorithm => "token_algorithm",
            Self::TokenSigner => "token_signer",
            Self::TokenSignerUnsure => "token_signer_unsure",
            Self::TokenSignature => "token_signature",
            Self::TokenExpired => "token_expired",
            Self::TokenNotYetValid => "token_not_yet_valid",
            Self::TokenIssuer => "token_issuer",
            Self::TokenAudience => "token_audience",
            Self::TokenClaims => "token_claims",
            Self::IssuerAway => "issuer_away",
        }
    }
}

#[derive(Debug, PartialEq)]
enum Topics {
    One(String),
    /// Those that begin so.
    All(String),
}

impl Access {
    /// # Errors
    /// Names the key of the configuration that is wrong.
    pub fn of(config: &GatewayConfig) -> Result<Self, String> {
        let mut keys = HashMap::new();
        for (name, key) in &config.keys {
            let wrong = |what: String| format!("`gateway.keys.{name}`: {what}");
            let topics = key.scopes.iter().map(|scope| topics(scope)).collect::<Result<_, _>>().map_err(wrong)?;
            let principal = Arc::new(Principal { name: name.clone(), way: Way::Key, topics });
            for hash in &key.sha256 {
                let hash = parse_hash(hash).ok_or_else(|| wrong(NO_HASH.to_owned()))?;
                if hash == *Sha256::digest(b"") {
                    return Err(wrong("`sha256` has the hash of nothing: there was no key when it was made".into()));
                }
                if keys.insert(hash, principal.clone()).is_some() {
                    return Err(wrong("`sha256` has a key that is there already: each belongs to one name".into()));
                }
            }
        }
        let tokens = if config.jwt.is_off() { None } else { Some(Tokens::of(&config.jwt)) };
        let tokens = tokens.transpose().map_err(|error| format!("`gateway.jwt`: {error}"))?;
        let everything = || {
            let topics = vec![Topics::All(String::new())];
            Arc::new(Principal { name: "anybody".into(), way: Way::Open, topics })
        };
        Ok(Self { keys, tokens, anybody: config.open.then(everything) })
    }

    /// Who sent this. A bearer that is no key and has the form of a token is one.
    pub async fn principal(&self, headers: &HeaderMap) -> Result<Arc<Principal>, Denied> {
        match presented(headers) {
            Some((credential, is_bearer)) => self.known(credential, is_bearer).await,
            None => self.anybody.clone().ok_or(Denied::NoCredential),
        }
    }

    /// The same for who only reads. A browser brings no bearer; but it asks for a password, which may be one. Nothing
    /// is published so: a browser adds what it once was told to requests that other sites make.
    pub async fn reader(&self, headers: &HeaderMap) -> Result<Arc<Principal>, Denied> {
        match password(headers) {
            Some(password) => self.known(shortened(&password), true).await,
            None => self.principal(headers).await,
        }
    }

    async fn known(&self, credential: &[u8], is_bearer: bool) -> Result<Arc<Principal>, Denied> {
        let hash: Hash = Sha256::digest(credential).into();
        if let Some(principal) = self.keys.get(&hash) {
            return Ok(principal.clone());
        }
        match &self.tokens {
            Some(tokens) if is_bearer && is_token(credential) => tokens.principal(credential, hash).await,
            Some(_) if is_bearer => Err(Denied::UnknownBearer),
            _ => Err(Denied::UnknownKey),
        }
    }

    /// Keeps what it must know of others up to date, for ever.
    pub async fn keep_fresh(&self) {
        match &self.tokens {
            Some(tokens) => tokens.keep_fresh().await,
            None => std::future::pending().await,
        }
    }
}

const NO_HASH: &str = "`sha256` is a list of hashes of 64 hexadecimal digits: printf %s \"$KEY\" | sha256sum";

/// And whether it came as a bearer.
fn presented(headers: &HeaderMap) -> Option<(&[u8], bool)> {
    let bearer = |value: &'_ [u8]| {
        let (scheme, _) = value.split_at_checked(b"Bearer ".len())?;
        scheme.eq_ignore_ascii_case(b"Bearer ").then_some(())
    };
    if let Some(value) = headers.get(API_KEY) {
        return Some((shortened(value.as_bytes()), false));
    }
    let value = headers.get(header::AUTHORIZATION)?.as_bytes();
    Some(match bearer(value) {
        Some(()) => (shortened(value[b"Bearer ".len()..].trim_ascii()), true),
        None => (b"", false), // some other scheme: a credential, and none that is known here
    })
}

/// Of the `Basic` scheme (RFC 7617), whatever the name before it.
fn password(headers: &HeaderMap) -> Option<Vec<u8>> {
    let value = headers.get(header::AUTHORIZATION)?.as_bytes();
    let (scheme, rest) = value.split_at_checked(b"Basic ".len())?;
    let pair = BASE64_STANDARD.decode(rest.trim_ascii()).ok().filter(|_| scheme.eq_ignore_ascii_case(b"Basic "))?;
    let colon = pair.iter().position(|byte| *byte == b':')?;
    Some(pair[colon + 1..].to_vec())
}

/// Three parts with a dot between them, says RFC 7515; a key as the documentation has it made has no dot.
fn is_token(bearer: &[u8]) -> bool {
    bearer.iter().filter(|byte| **byte == b'.').count() == 2
}

fn shortened(credential: &[u8]) -> &[u8] {
    if credential.len() > CREDENTIAL_BYTES_MAX { b"" } else { credential }
}

fn parse_hash(text: &str) -> Option<Hash> {
    let mut hash = [0; 32];
    let digits = text.as_bytes();
    if digits.len() != 64 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    for (byte, pair) in hash.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(hash)
}

fn topics(scope: &str) -> Result<Topics, String> {
    let pattern = scope.strip_prefix("publish:").filter(|pattern| !pattern.is_empty());
    let pattern = pattern.ok_or_else(|| format!("`scopes` has `{scope}`: a scope is `publish:<topic>`"))?;
    match pattern.strip_suffix('*') {
        Some(begin) if !begin.contains('*') => Ok(Topics::All(begin.to_owned())),
        None if !pattern.contains('*') => Ok(Topics::One(pattern.to_owned())),
        _ => Err(format!("`scopes` has `{scope}`: a `*` stands at the end and nowhere else")),
    }
}

impl Principal {
    /// With those of the scopes that are ours: a token has others for others.
    pub fn granted(name: &str, way: Way, scopes: &[&str]) -> Self {
        Self { name: name.to_owned(), way, topics: scopes.iter().filter_map(|scope| topics(scope).ok()).collect() }
    }

    pub fn may_publish_everything(&self) -> bool {
        self.topics.contains(&Topics::All(String::new()))
    }

    pub fn may_publish(&self, topic: &str) -> bool {
        self.topics.iter().any(|topics| match topics {
            Topics::One(name) => name == topic,
            Topics::All(begin) => topic.starts_with(begin.as_str()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::JwtConfig;

    fn config(keys: &[(&str, &str, &str)]) -> GatewayConfig {
        let key = |(name, key, scope): &(&str, &str, &str)| {
            ((*name).to_owned(), KeyConfig { sha256: vec![hash_of_key(key)], scopes: vec![(*scope).to_owned()] })
        };
        GatewayConfig { keys: keys.iter().map(key).collect(), ..GatewayConfig::default() }
    }

    async fn who(access: &Access, name: &'static str, value: &str) -> Result<String, Denied> {
        let headers = HeaderMap::from_iter([(axum::http::HeaderName::from_static(name), value.parse().unwrap())]);
        access.principal(&headers).await.map(|principal| principal.name.clone())
    }

    #[tokio::test]
    async fn a_caller_is_who_its_key_says_and_nobody_without_one() {
        let access = Access::of(&config(&[("shop", "sesame", "publish:shop.*"), ("ops", "other", "publish:x.y.v1")]));
        let access = access.unwrap();
        for (name, value) in
            [("authorization", "Bearer sesame"), ("authorization", "bearer  sesame "), ("x-api-key", "sesame")]
        {
            assert_eq!(who(&access, name, value).await, Ok("shop".to_owned()), "{name}: {value}");
        }
        let long = "k".repeat(10_000);
        for wrong in ["", "Bearer", "Bearer ", "Bearer sesam", "Basic sesame", "sesame", &format!("Bearer {long}")] {
            assert_eq!(who(&access, "authorization", wrong).await, Err(Denied::UnknownKey), "{wrong}");
        }
        assert_eq!(access.principal(&HeaderMap::new()).await.unwrap_err(), Denied::NoCredential);
    }

    #[tokio::test]
    async fn a_browsers_password_reads_and_publishes_nothing() {
        let access = Access::of(&config(&[("shop", "sesame", "publish:shop.*")])).unwrap();
        let basic = |pair: &str| {
            let value = format!("Basic {}", BASE64_STANDARD.encode(pair)).parse().unwrap();
            HeaderMap::from_iter([(header::AUTHORIZATION, value)])
        };
        for pair in ["me:sesame", ":sesame"] {
            assert_eq!(access.reader(&basic(pair)).await.unwrap().name, "shop");
            assert_eq!(access.principal(&basic(pair)).await.unwrap_err(), Denied::UnknownKey);
        }
        for wrong in ["sesame:", "sesame", "me:sesame:", ""] {
            assert_eq!(access.reader(&basic(wrong)).await.unwrap_err(), Denied::UnknownKey, "{wrong}");
        }
        assert_eq!(access.reader(&HeaderMap::new()).await.unwrap_err(), Denied::NoCredential);
    }

    #[tokio::test]
    async fn where_tokens_are_taken_a_bearer_of_no_kind_is_a_wrong_token() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let jwt =
            JwtConfig { issuer: "https://id.example".into(), audience: "millrace".into(), ..JwtConfig::default() };
        let access = Access::of(&GatewayConfig { jwt, ..config(&[("shop", "sesame", "publish:shop.*")]) }).unwrap();
        assert_eq!(who(&access, "authorization", "Bearer sesame").await, Ok("shop".to_owned()));
        let long = format!("Bearer {}.b.c", "a".repeat(CREDENTIAL_BYTES_MAX));
        for bearer in ["Bearer sesam", "Bearer ", &long] {
            assert_eq!(who(&access, "authorization", bearer).await, Err(Denied::UnknownBearer), "{bearer}");
        }
        for (name, value) in [("x-api-key", "sesam"), ("x-api-key", "a.b.c"), ("authorization", "Basic sesame")] {
            assert_eq!(who(&access, name, value).await, Err(Denied::UnknownKey), "{value}");
        }
    }

    #[tokio::test]
    async fn an_open_gateway_lets_anybody_in_and_still_knows_a_wrong_key() {
        let access =
            Access::of(&GatewayConfig { open: true, ..config(&[("shop", "sesame", "publish:shop.*")]) }).unwrap();
        let anybody = access.principal(&HeaderMap::new()).await.unwrap();
        assert!(anybody.may_publish("any.topic.v1"));
        assert_eq!(who(&access, "x-api-key", "wrong").await, Err(Denied::UnknownKey));
    }

    #[test]
    fn a_scope_is_a_topic_or_all_that_begin_so() {
        let may = |scope: &str, topic: &str| {
            Principal { name: String::new(), way: Way::Key, topics: vec![topics(scope).unwrap()] }.may_publish(topic)
        };
        assert!(
            may("publish:*", "a.b.v1") && may("publish:shop.*", "shop.order.v1") && may("publish:a.b.v1", "a.b.v1")
        );
        assert!(!may("publish:shop.*", "shopping.cart.v1") && !may("publish:a.b.v1", "a.b.v10"));
        for wrong in ["read:a", "publish:", "publish:*.v1", "publish:a*b", "*", "publish:**"] {
            assert!(topics(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_configuration_that_would_let_nobody_in_or_the_wrong_one_is_refused() {
        let said = |config: &GatewayConfig| config.check().unwrap_err();
        assert!(said(&GatewayConfig::default()).starts_with("`gateway.keys` is empty"));
        let mut wrong = config(&[("shop", "sesame", "publish:shop.*")]);
        assert_eq!(wrong.check(), Ok(()));
        wrong.keys.get_mut("shop").unwrap().sha256.push("sesame".into());
        assert!(said(&wrong).contains("`gateway.keys.shop`: `sha256` is a list of hashes"));
        assert!(said(&config(&[("a", "", "publish:a")])).contains("has the hash of nothing"), "or any scheme would do");
        assert!(
            said(&config(&[("a", "same", "publish:a"), ("b", "same", "publish:b")]))
                .contains("each belongs to one name")
        );
        assert!(
            said(&GatewayConfig { deadline_ms: 0, open: true, ..GatewayConfig::default() })
                .contains("`gateway.deadline_ms` is 0")
        );
    }
}
