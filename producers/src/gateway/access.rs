//! Who may publish what: API keys, kept as hashes, with scopes. Never logs a key.
//!
//! [`Access::principal`] is the only place that knows how a caller proves who it is; everything behind it knows
//! principals. Tokens of an issuer (JWT) are to become its second way.

use super::GatewayConfig;
use super::answer::Problem;
use axum::http::{HeaderMap, StatusCode, header};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::sync::Arc;

/// A key that is longer is none, and not worth hashing.
const KEY_BYTES_MAX: usize = 512;
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

type Hash = [u8; 32];

pub(super) struct Access {
    /// Found by hash: how long that takes tells nothing of a key.
    keys: HashMap<Hash, Arc<Principal>>,
    /// Who comes without a key, where that is allowed.
    anybody: Option<Arc<Principal>>,
}

/// A caller who is known.
#[derive(Debug)]
pub(super) struct Principal {
    pub name: String,
    topics: Vec<Topics>,
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
            let principal = Arc::new(Principal { name: name.clone(), topics });
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
        let everything = || Arc::new(Principal { name: "anybody".into(), topics: vec![Topics::All(String::new())] });
        Ok(Self { keys, anybody: config.open.then(everything) })
    }

    /// Who sent this.
    pub fn principal(&self, headers: &HeaderMap) -> Result<Arc<Principal>, Problem> {
        let refused = |detail| Err(Problem::new(StatusCode::UNAUTHORIZED, detail).asking_for_a_key());
        match (presented(headers), &self.anybody) {
            (None, Some(anybody)) => Ok(anybody.clone()),
            (None, None) => refused("no key: send it as `Authorization: Bearer <key>`, or as `X-Api-Key`"),
            (Some(key), _) => {
                let hash: Hash = Sha256::digest(key).into();
                self.keys.get(&hash).cloned().map_or_else(|| refused("the key is not known here"), Ok)
            }
        }
    }
}

const NO_HASH: &str = "`sha256` is a list of hashes of 64 hexadecimal digits: printf %s \"$KEY\" | sha256sum";

fn presented(headers: &HeaderMap) -> Option<&[u8]> {
    let bearer = |value: &'_ [u8]| {
        let (scheme, _) = value.split_at_checked(b"Bearer ".len())?;
        scheme.eq_ignore_ascii_case(b"Bearer ").then_some(())
    };
    if let Some(value) = headers.get(API_KEY) {
        return Some(shortened(value.as_bytes()));
    }
    let value = headers.get(header::AUTHORIZATION)?.as_bytes();
    Some(match bearer(value) {
        Some(()) => shortened(value[b"Bearer ".len()..].trim_ascii()),
        None => b"", // some other scheme: a credential, and none that is known here
    })
}

fn shortened(key: &[u8]) -> &[u8] {
    if key.len() > KEY_BYTES_MAX { b"" } else { key }
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

    fn config(keys: &[(&str, &str, &str)]) -> GatewayConfig {
        let key = |(name, key, scope): &(&str, &str, &str)| {
            ((*name).to_owned(), KeyConfig { sha256: vec![hash_of_key(key)], scopes: vec![(*scope).to_owned()] })
        };
        GatewayConfig { keys: keys.iter().map(key).collect(), ..GatewayConfig::default() }
    }

    fn who(access: &Access, name: &'static str, value: &str) -> Result<String, StatusCode> {
        let headers = HeaderMap::from_iter([(axum::http::HeaderName::from_static(name), value.parse().unwrap())]);
        access.principal(&headers).map(|principal| principal.name.clone()).map_err(|problem| problem.status())
    }

    #[test]
    fn a_caller_is_who_its_key_says_and_nobody_without_one() {
        let access = Access::of(&config(&[("shop", "sesame", "publish:shop.*"), ("ops", "other", "publish:x.y.v1")]));
        let access = access.unwrap();
        for (name, value) in
            [("authorization", "Bearer sesame"), ("authorization", "bearer  sesame "), ("x-api-key", "sesame")]
        {
            assert_eq!(who(&access, name, value), Ok("shop".to_owned()), "{name}: {value}");
        }
        let long = "k".repeat(10_000);
        for wrong in ["", "Bearer", "Bearer ", "Bearer sesam", "Basic sesame", "sesame", &format!("Bearer {long}")] {
            assert_eq!(who(&access, "authorization", wrong), Err(StatusCode::UNAUTHORIZED), "{wrong}");
        }
        assert!(access.principal(&HeaderMap::new()).is_err());
    }

    #[test]
    fn an_open_gateway_lets_anybody_in_and_still_knows_a_wrong_key() {
        let access =
            Access::of(&GatewayConfig { open: true, ..config(&[("shop", "sesame", "publish:shop.*")]) }).unwrap();
        let anybody = access.principal(&HeaderMap::new()).unwrap();
        assert!(anybody.may_publish("any.topic.v1"));
        assert_eq!(who(&access, "x-api-key", "wrong"), Err(StatusCode::UNAUTHORIZED));
    }

    #[test]
    fn a_scope_is_a_topic_or_all_that_begin_so() {
        let may = |scope: &str, topic: &str| {
            Principal { name: String::new(), topics: vec![topics(scope).unwrap()] }.may_publish(topic)
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
