//! Tokens of an issuer: JWTs (RFC 7519) as bearer tokens (RFC 6750), checked against the keys that it publishes.
//!
//! ```text
//! token ─→ verified lately? ─→ its key's name and algorithm ─→ key (keys.rs) ─→ signature, claims ─→ principal
//! ```
//!
//! Never logs a token or what an unverified one says.

mod crypto;
mod issuer;
mod keys;

use super::access::{Denied, Hash, Principal, Way};
use super::window::Window;
use crate::in_bounds;
use issuer::Issuer;
use jsonwebtoken::errors::{Error, ErrorKind};
use jsonwebtoken::{Algorithm, AlgorithmFamily, Validation};
use keys::{Keys, Known};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::sync::Arc;
use std::time::Duration;

pub(super) use keys::ASK_AGAIN;

/// Verified tokens that are remembered, so that their next request costs a lookup.
const VERIFIED_MAX: usize = 20_000;
/// Of a principal's name: it is logged and counted by.
const NAME_BYTES_MAX: usize = 256;

/// `[gateway.jwt]`: whose tokens are taken, besides keys.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct JwtConfig {
    /// Who makes them, exactly as their `iss` says it. Empty: no tokens are taken.
    pub issuer: String,
    /// Whom they are made for, as their `aud` says it.
    pub audience: String,
    /// Where the issuer publishes its keys. Empty: its `/.well-known/openid-configuration` says where.
    pub jwks_url: String,
    /// Signatures that are taken.
    pub algorithms: Vec<String>,
    /// How far the issuer's clock may be off.
    pub leeway_s: u64,
    /// Which claim lists the scopes: text with spaces between them, or an array.
    pub scope_claim: String,
    /// Which claim names the principal.
    pub principal_claim: String,
    /// How long its last keys are used while the issuer does not answer. A night: long enough to be woken.
    pub keys_kept_s: u64,
}

impl Default for JwtConfig {
    fn default() -> Self {
        Self {
            issuer: String::new(),
            audience: String::new(),
            jwks_url: String::new(),
            algorithms: ["RS256", "PS256", "ES256", "ES384", "EdDSA"].map(str::to_owned).to_vec(),
            leeway_s: 30,
            scope_claim: "scope".into(),
            principal_claim: "sub".into(),
            keys_kept_s: 12 * 3600,
        }
    }
}

impl JwtConfig {
    pub(super) fn is_off(&self) -> bool {
        self.issuer.is_empty()
    }

    fn algorithms(&self) -> Result<Vec<Algorithm>, String> {
        let known = |name: &String| {
            let algorithm = name.parse().ok().filter(|found: &Algorithm| found.family() != AlgorithmFamily::Hmac);
            algorithm.ok_or_else(|| format!("`algorithms` has `{name}`: {ALGORITHMS} can be checked by a public key"))
        };
        self.algorithms.iter().map(known).collect()
    }

    /// Names what is wrong.
    fn check(&self) -> Result<(), String> {
        if self.audience.is_empty() {
            return Err("`audience` is empty: a token that was made for another service would be good here".into());
        }
        for (key, url) in [("issuer", &self.issuer), ("jwks_url", &self.jwks_url)] {
            let needed = key == "jwks_url" || self.jwks_url.is_empty();
            if needed && !url.is_empty() {
                issuer::check(url).map_err(|reason| format!("`{key}` {reason}"))?;
            }
        }
        if self.algorithms.is_empty() || self.scope_claim.is_empty() || self.principal_claim.is_empty() {
            return Err("`algorithms`, `scope_claim` and `principal_claim` can't be empty".into());
        }
        let bounds = [("leeway_s", self.leeway_s, 0..=600), ("keys_kept_s", self.keys_kept_s, 600..=2_592_000)];
        in_bounds("`", bounds)?;
        self.algorithms().map(drop)
    }
}

const ALGORITHMS: &str = "RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384 and EdDSA";

pub(super) struct Tokens {
    keys: Arc<Keys>,
    algorithms: Vec<Algorithm>,
    /// What is asked of every token; whose algorithm is added.
    validation: Validation,
    scope_claim: String,
    principal_claim: String,
    /// By the token's hash.
    verified: Window<Hash, Verified>,
}

#[derive(Clone)]
struct Verified {
    principal: Arc<Principal>,
    /// When the token ends, Unix time.
    ends: u64,
    /// The set of keys that it was verified by.
    generation: u64,
}

impl Tokens {
    /// # Errors
    /// Names the key of the configuration that is wrong.
    pub fn of(config: &JwtConfig) -> Result<Self, String> {
        config.check()?;
        let issuer = Arc::new(Issuer::new(config).map_err(|error| format!("no HTTP client: {error:#}"))?);
        let ask = move || {
            let issuer = issuer.clone();
            Box::pin(async move { issuer.keys().await }) as _
        };
        Self::with(config, Keys::new(Box::new(ask), Duration::from_secs(config.keys_kept_s)))
    }

    fn with(config: &JwtConfig, keys: Arc<Keys>) -> Result<Self, String> {
        crypto::install();
        let mut validation = Validation::new(Algorithm::default()); // which is replaced by each token's
        validation.leeway = config.leeway_s;
        validation.validate_nbf = true;
        validation.set_issuer(&[&config.issuer]);
        validation.set_audience(&[&config.audience]);
        validation.set_required_spec_claims(&["exp", "iss", "aud"]);
        Ok(Self {
            keys,
            algorithms: config.algorithms()?,
            validation,
            scope_claim: config.scope_claim.clone(),
            principal_claim: config.principal_claim.clone(),
            verified: Window::new(VERIFIED_MAX),
        })
    }

    pub async fn keep_fresh(&self) {
        self.keys.keep_fresh().await;
    }

    /// Whom the token names. The hash is the token's.
    pub async fn principal(&self, token: &[u8], hash: Hash) -> Result<Arc<Principal>, Denied> {
        if let Some(principal) = self.verified_lately(&hash, jsonwebtoken::get_current_timestamp()) {
            return Ok(principal);
        }
        let header = jsonwebtoken::decode_header(token).map_err(|error| denied(&error))?;
        if !self.algorithms.contains(&header.alg) {
            return Err(Denied::TokenAlgorithm);
        }
        let known = self.keys.having(header.kid.as_deref(), header.alg).await?;
        let verified = self.verify(token, header.kid.as_deref(), header.alg, &known)?;
        let principal = verified.principal.clone();
        self.verified.open().remember(hash, verified);
        Ok(principal)
    }

    /// A token that has ended is looked at anew, and so is each when the keys have changed or are too old.
    fn verified_lately(&self, hash: &Hash, now: u64) -> Option<Arc<Principal>> {
        let found = self.verified.open().find(hash)?;
        (now < found.ends && found.generation == self.keys.known().generation).then_some(found.principal)
    }

    fn verify(
        &self,
        token: &[u8],
        key_id: Option<&str>,
        algorithm: Algorithm,
        known: &Known,
    ) -> Result<Verified, Denied> {
        let key = known.find(key_id, algorithm)?.ok_or(Denied::TokenSigner)?;
        let validation = Validation { algorithms: vec![algorithm], ..self.validation.clone() };
        let verified = jsonwebtoken::decode(token, &key.key, &validation);
        let claims: Map<String, Value> = verified.map_err(|error| denied(&error))?.claims;
        let name = claims.get(&self.principal_claim).and_then(Value::as_str);
        let name = name.filter(|name| !name.is_empty() && name.len() <= NAME_BYTES_MAX).ok_or(Denied::TokenClaims)?;
        let scopes = claims.get(&self.scope_claim).map(scopes).unwrap_or_default();
        let ends = claims.get("exp").and_then(Value::as_f64).unwrap_or_default() as u64;
        let principal = Arc::new(Principal::granted(name, Way::Token, &scopes));
        Ok(Verified { principal, ends, generation: known.generation })
    }
}

/// RFC 6749 and RFC 9068 have one text with spaces, others an array.
fn scopes(claim: &Value) -> Vec<&str> {
    match claim {
        Value::String(text) => text.split_ascii_whitespace().collect(),
        Value::Array(scopes) => scopes.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}

fn denied(error: &Error) -> Denied {
    match error.kind() {
        ErrorKind::ExpiredSignature => Denied::TokenExpired,
        ErrorKind::ImmatureSignature => Denied::TokenNotYetValid,
        ErrorKind::InvalidIssuer => Denied::TokenIssuer,
        ErrorKind::InvalidAudience => Denied::TokenAudience,
        ErrorKind::MissingRequiredClaim(_) | ErrorKind::InvalidClaimFormat(_) => Denied::TokenClaims,
        ErrorKind::InvalidAlgorithm | ErrorKind::UnsupportedAlgorithm => Denied::TokenAlgorithm,
        ErrorKind::InvalidSignature => Denied::TokenSignature,
        _ => Denied::TokenMalformed,
    }
}

#[cfg(test)]
mod tests {
    use super::keys::FRESH;
    use super::*;
    use base64::Engine;
    use base64::prelude::BASE64_URL_SAFE_NO_PAD;
    use ring::rand::SystemRandom;
    use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};
    use serde_json::json;
    use sha2::{Digest, Sha256};
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn base64(bytes: impl AsRef<[u8]>) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(bytes)
    }

    enum Pair {
        Es256(EcdsaKeyPair),
        Ed25519(Ed25519KeyPair),
    }

    /// A key of the issuer's.
    struct Key {
        id: &'static str,
        pair: Pair,
    }

    impl Key {
        fn es256(id: &'static str) -> Self {
            let (random, algorithm) = (SystemRandom::new(), &ECDSA_P256_SHA256_FIXED_SIGNING);
            let document = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
            Self { id, pair: Pair::Es256(EcdsaKeyPair::from_pkcs8(algorithm, document.as_ref(), &random).unwrap()) }
        }

        fn ed25519(id: &'static str) -> Self {
            let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
            Self { id, pair: Pair::Ed25519(Ed25519KeyPair::from_pkcs8(document.as_ref()).unwrap()) }
        }

        fn algorithm(&self) -> &'static str {
            match self.pair {
                Pair::Es256(_) => "ES256",
                Pair::Ed25519(_) => "EdDSA",
            }
        }

        fn public(&self) -> Vec<u8> {
            match &self.pair {
                Pair::Es256(pair) => pair.public_key().as_ref().to_vec(),
                Pair::Ed25519(pair) => pair.public_key().as_ref().to_vec(),
            }
        }

        fn published(&self) -> Value {
            let point = self.public();
            match self.pair {
                Pair::Es256(_) => {
                    let (x, y) = (base64(&point[1..33]), base64(&point[33..]));
                    json!({ "kty": "EC", "crv": "P-256", "use": "sig", "kid": self.id, "x": x, "y": y })
                }
                Pair::Ed25519(_) => json!({ "kty": "OKP", "crv": "Ed25519", "kid": self.id, "x": base64(&point) }),
            }
        }

        fn sign(&self, message: &str) -> Vec<u8> {
            match &self.pair {
                Pair::Es256(pair) => pair.sign(&SystemRandom::new(), message.as_bytes()).unwrap().as_ref().to_vec(),
                Pair::Ed25519(pair) => pair.sign(message.as_bytes()).as_ref().to_vec(),
            }
        }

        fn token(&self, claims: &Value) -> String {
            self.token_with(&json!({ "alg": self.algorithm(), "kid": self.id }), claims)
        }

        fn token_with(&self, header: &Value, claims: &Value) -> String {
            let message = format!("{}.{}", base64(header.to_string()), base64(claims.to_string()));
            format!("{message}.{}", base64(self.sign(&message)))
        }
    }

    /// Where the issuer publishes its keys, or does not answer.
    #[derive(Default)]
    struct Published {
        keys: Mutex<Option<Value>>,
        asked: AtomicUsize,
        /// How long an answer takes.
        takes: Mutex<Duration>,
    }

    impl Published {
        fn set(&self, keys: &[&Key]) {
            let keys: Vec<Value> = keys.iter().map(|key| key.published()).collect();
            *self.keys.lock().unwrap() = Some(json!({ "keys": keys }));
        }

        fn silent(&self) {
            *self.keys.lock().unwrap() = None;
        }

        fn asked(&self) -> usize {
            self.asked.load(Ordering::Relaxed)
        }
    }

    fn config() -> JwtConfig {
        JwtConfig { issuer: "https://id.example".into(), audience: "millrace".into(), ..JwtConfig::default() }
    }

    fn issuer(config: &JwtConfig, keys: &[&Key]) -> (Tokens, Arc<Published>) {
        let published = Arc::new(Published::default());
        published.set(keys);
        let asked = published.clone();
        let ask = move || {
            asked.asked.fetch_add(1, Ordering::Relaxed);
            let keys = asked.keys.lock().unwrap().as_ref().map(|keys| keys.to_string().into_bytes());
            let takes = *asked.takes.lock().unwrap();
            Box::pin(async move {
                tokio::time::sleep(takes).await;
                keys.ok_or_else(|| "no answer".to_owned())
            }) as _
        };
        let kept = Duration::from_secs(config.keys_kept_s);
        (Tokens::with(config, Keys::new(Box::new(ask), kept)).unwrap(), published)
    }

    async fn who(tokens: &Tokens, token: &str) -> Result<Arc<Principal>, Denied> {
        tokens.principal(token.as_bytes(), Sha256::digest(token.as_bytes()).into()).await
    }

    fn in_seconds(seconds: i64) -> i64 {
        i64::try_from(jsonwebtoken::get_current_timestamp()).unwrap() + seconds
    }

    /// What is good, with these claims in place of its own.
    fn claims(others: &Value) -> Value {
        let mut claims = json!({
            "iss": "https://id.example", "aud": "millrace", "sub": "checkout", "exp": in_seconds(600),
            "scope": "openid publish:shop.order.* publish:*bad",
        });
        for (name, value) in others.as_object().unwrap() {
            claims[name] = value.clone();
        }
        claims
    }

    #[tokio::test]
    async fn a_token_lets_its_subject_publish_what_its_scopes_say() {
        let (curve, edwards) = (Key::es256("a"), Key::ed25519("b"));
        let (tokens, _) = issuer(&config(), &[&curve, &edwards]);
        let others = json!({ "aud": ["other", "millrace"], "scope": ["publish:shop.order.*"] });
        for token in [curve.token(&claims(&json!({}))), edwards.token(&claims(&others))] {
            let principal = who(&tokens, &token).await.unwrap();
            assert_eq!((principal.name.as_str(), principal.way), ("checkout", Way::Token));
            assert!(principal.may_publish("shop.order.v1") && !principal.may_publish("shop.account.v1"));
        }
        let bare = who(&tokens, &curve.token(&claims(&json!({ "scope": null })))).await.unwrap();
        assert!(!bare.may_publish("shop.order.v1"), "without a scope it may publish nothing");
        let named = JwtConfig { scope_claim: "scp".into(), principal_claim: "azp".into(), ..config() };
        let (tokens, _) = issuer(&named, &[&curve]);
        let principal = who(&tokens, &curve.token(&claims(&json!({ "scp": "publish:a.*", "azp": "app" })))).await;
        let principal = principal.unwrap();
        assert!(principal.name == "app" && principal.may_publish("a.b.v1") && !principal.may_publish("shop.order.v1"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_with_any_flaw_lets_nobody_in() {
        let (key, edwards, strange) = (Key::es256("a"), Key::ed25519("e"), Key::es256("a"));
        let (tokens, _) = issuer(&config(), &[&key, &edwards]);
        let good = claims(&json!({}));
        let changed = |others: Value| key.token(&claims(&others));
        let headed = |header: Value| key.token_with(&header, &good);
        let without = |name: &str| {
            let mut claims = good.clone();
            claims.as_object_mut().unwrap().remove(name);
            key.token(&claims)
        };
        let hmac = {
            let message = format!("{}.{}", base64(r#"{"alg":"HS256","kid":"a"}"#), base64(good.to_string()));
            let secret = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &key.public());
            format!("{message}.{}", base64(ring::hmac::sign(&secret, message.as_bytes())))
        };
        let unsigned = format!("{}.{}.", base64(r#"{"alg":"none"}"#), base64(good.to_string()));
        let [head, _, signature] =
            <[String; 3]>::try_from(key.token(&good).split('.').map(str::to_owned).collect::<Vec<_>>()).unwrap();
        let forged = format!("{head}.{}.{signature}", base64(claims(&json!({ "sub": "root" })).to_string()));
        let cases = [
            ("expired", changed(json!({ "exp": in_seconds(-60) })), Denied::TokenExpired),
            ("not yet valid", changed(json!({ "nbf": in_seconds(60) })), Denied::TokenNotYetValid),
            ("another issuer's", changed(json!({ "iss": "https://id.example/" })), Denied::TokenIssuer),
            ("another audience's", changed(json!({ "aud": "millrace2" })), Denied::TokenAudience),
            ("others' audience", changed(json!({ "aud": ["a", "b"] })), Denied::TokenAudience),
            ("no end", without("exp"), Denied::TokenClaims),
            ("an end that is none", changed(json!({ "exp": "tomorrow" })), Denied::TokenClaims),
            ("no issuer", without("iss"), Denied::TokenClaims),
            ("no audience", without("aud"), Denied::TokenClaims),
            ("no subject", without("sub"), Denied::TokenClaims),
            ("an endless name", changed(json!({ "sub": "x".repeat(300) })), Denied::TokenClaims),
            ("another key of that name", strange.token(&good), Denied::TokenSignature),
            ("changed afterwards", forged, Denied::TokenSignature),
            ("the public key as a secret", hmac, Denied::TokenAlgorithm),
            ("no signature", unsigned, Denied::TokenMalformed),
            ("another key's algorithm", headed(json!({ "alg": "EdDSA", "kid": "a" })), Denied::TokenAlgorithm),
            ("one that is not allowed", headed(json!({ "alg": "RS512", "kid": "a" })), Denied::TokenAlgorithm),
            ("a key that nobody published", headed(json!({ "alg": "ES256", "kid": "z" })), Denied::TokenSigner),
            (
                "a key that it brought itself",
                strange.token_with(&json!({ "alg": "ES256", "kid": "z", "jwk": strange.published() }), &good),
                Denied::TokenSigner,
            ),
            (
                "what must be understood and is not",
                headed(json!({ "alg": "ES256", "kid": "a", "crit": ["x"], "x": 1 })),
                Denied::TokenMalformed,
            ),
            ("dots", "..".to_owned(), Denied::TokenMalformed),
            ("two parts", head, Denied::TokenMalformed),
        ];
        for (flaw, token, denied) in cases {
            assert_eq!(who(&tokens, &token).await.err(), Some(denied), "{flaw}");
            tokio::time::advance(ASK_AGAIN).await;
        }
        assert!(who(&tokens, &key.token(&good)).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_shared_secret_among_the_keys_signs_nothing() {
        let key = Key::es256("a");
        let (tokens, published) = issuer(&config(), &[]);
        let secret = json!({ "kty": "oct", "kid": "s", "alg": "HS256", "k": base64("secret") });
        let encryption = json!({ "kty": "OKP", "crv": "Ed25519", "kid": "e", "use": "enc", "x": base64([7; 32]) });
        *published.keys.lock().unwrap() =
            Some(json!({ "keys": [secret, encryption, { "kty": "new" }, key.published()] }));
        for kid in ["s", "e"] {
            let token = key.token_with(&json!({ "alg": "ES256", "kid": kid }), &claims(&json!({})));
            assert_eq!(who(&tokens, &token).await.err(), Some(Denied::TokenSigner), "{kid}");
            tokio::time::advance(ASK_AGAIN).await;
        }
        let nameless = key.token_with(&json!({ "alg": "ES256" }), &claims(&json!({})));
        assert!(who(&tokens, &nameless).await.is_ok(), "only one key can be meant");
        for wrong in ["HS256", "none", "ES512"] {
            let config = JwtConfig { algorithms: vec![wrong.into()], ..config() };
            assert!(config.check().unwrap_err().contains(wrong));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn made_up_key_names_make_nobody_ask_the_issuer_more_often() {
        let key = Key::es256("a");
        let (tokens, published) = issuer(&config(), &[&key]);
        for times in 1..4 {
            for n in 0..1000 {
                let header = json!({ "alg": "ES256", "kid": format!("{times}-{n}") });
                let made_up = key.token_with(&header, &claims(&json!({})));
                let denied = if n == 0 { Denied::TokenSigner } else { Denied::TokenSignerUnsure };
                assert_eq!(who(&tokens, &made_up).await.err(), Some(denied));
            }
            assert!(who(&tokens, &key.token(&claims(&json!({})))).await.is_ok(), "others are served meanwhile");
            assert_eq!(published.asked(), times);
            tokio::time::advance(ASK_AGAIN).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_sender_who_does_not_wait_for_the_answer_takes_it_from_nobody() {
        let key = Key::es256("a");
        let (tokens, published) = issuer(&config(), &[&key]);
        *published.takes.lock().unwrap() = Duration::from_secs(1);
        let token = key.token(&claims(&json!({})));
        assert!(tokio::time::timeout(Duration::from_millis(1), who(&tokens, &token)).await.is_err());
        published.silent();
        assert!(who(&tokens, &token).await.is_ok());
        assert_eq!(published.asked(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_by_a_key_that_was_published_since_the_issuer_was_asked_is_not_called_wrong() {
        let (old, new, strange) = (Key::es256("old"), Key::es256("new"), Key::es256("strange"));
        let (tokens, published) = issuer(&config(), &[&old]);
        let (by_new, by_strange) = (new.token(&claims(&json!({}))), strange.token(&claims(&json!({}))));
        assert!(who(&tokens, &old.token(&claims(&json!({})))).await.is_ok());
        published.set(&[&old, &new]);
        tokio::time::advance(ASK_AGAIN - Duration::from_millis(1)).await;
        for token in [&by_new, &by_strange] {
            assert_eq!(who(&tokens, token).await.err(), Some(Denied::TokenSignerUnsure), "nobody can tell yet");
        }
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(who(&tokens, &by_strange).await.err(), Some(Denied::TokenSigner));
        assert!(who(&tokens, &by_new).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_key_is_taken_when_it_is_met_and_a_withdrawn_one_is_not_for_long() {
        let (old, new) = (Key::es256("old"), Key::es256("new"));
        let (tokens, published) = issuer(&config(), &[&old]);
        let (by_old, by_new) = (old.token(&claims(&json!({}))), new.token(&claims(&json!({}))));
        assert!(who(&tokens, &by_old).await.is_ok());
        published.set(&[&old, &new]);
        tokio::time::advance(ASK_AGAIN).await;
        assert!(who(&tokens, &by_new).await.is_ok());
        assert!(who(&tokens, &by_old).await.is_ok());
        published.set(&[&new]);
        let tokens = Arc::new(tokens);
        let kept = tokens.clone();
        tokio::spawn(async move { kept.keep_fresh().await });
        tokio::time::sleep(FRESH + ASK_AGAIN).await;
        assert_eq!(who(&tokens, &by_old).await.err(), Some(Denied::TokenSigner), "although it was verified before");
        assert!(who(&tokens, &by_new).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn while_the_issuer_is_silent_its_last_keys_do_for_as_long_as_is_said_and_no_longer() {
        let (key, new) = (Key::es256("a"), Key::es256("new"));
        let (tokens, published) = issuer(&config(), &[&key]);
        published.silent();
        let token = key.token(&claims(&json!({})));
        assert_eq!(who(&tokens, &token).await.err(), Some(Denied::IssuerAway), "no key is known");
        published.set(&[&key]);
        assert_eq!(who(&tokens, &token).await.err(), Some(Denied::IssuerAway), "it was asked just now");
        tokio::time::advance(ASK_AGAIN).await;
        assert!(who(&tokens, &token).await.is_ok());

        published.silent();
        tokio::time::advance(Duration::from_secs(12 * 3600 - 1)).await;
        assert!(who(&tokens, &key.token(&claims(&json!({ "jti": 1 })))).await.is_ok());
        assert_eq!(who(&tokens, &new.token(&claims(&json!({})))).await.err(), Some(Denied::IssuerAway));
        tokio::time::advance(ASK_AGAIN).await;
        assert_eq!(who(&tokens, &token).await.err(), Some(Denied::IssuerAway), "although it was verified before");
        published.set(&[&key]);
        tokio::time::advance(ASK_AGAIN).await;
        assert!(who(&tokens, &token).await.is_ok());
    }

    #[tokio::test]
    async fn a_verified_token_is_remembered_until_it_ends_and_by_its_whole_self() {
        let key = Key::es256("a");
        let (tokens, _) = issuer(&config(), &[&key]);
        let ends = in_seconds(600);
        let token = key.token(&claims(&json!({ "exp": ends })));
        let (hash, ends): (Hash, u64) = (Sha256::digest(token.as_bytes()).into(), ends.try_into().unwrap());
        assert!(tokens.verified_lately(&hash, ends - 1).is_none());
        who(&tokens, &token).await.unwrap();
        assert!(tokens.verified_lately(&hash, ends - 1).is_some());
        assert!(tokens.verified_lately(&hash, ends).is_none());
        let cut = &token[..token.len() - 2];
        assert!(who(&tokens, cut).await.is_err(), "header and claims were verified, with another signature");
    }

    #[test]
    fn a_configuration_that_would_take_strangers_tokens_is_refused() {
        let wrong = |change: fn(&mut JwtConfig)| {
            let mut config = config();
            change(&mut config);
            config.check().unwrap_err()
        };
        assert_eq!(config().check(), Ok(()));
        assert!(wrong(|config| config.audience.clear()).contains("`audience` is empty"));
        assert!(wrong(|config| config.issuer = "http://id.example".into()).contains("`issuer` is no https URL"));
        assert!(wrong(|config| config.jwks_url = "http://id.example/k".into()).contains("`jwks_url` is no https URL"));
        assert!(
            wrong(|config| config.jwks_url = "https://a:b@id.example/".into()).contains("`jwks_url` holds a login")
        );
        assert!(wrong(|config| config.issuer = "https://a@id.example".into()).contains("`issuer` holds a login"));
        assert!(wrong(|config| config.algorithms.clear()).contains("can't be empty"));
        assert!(wrong(|config| config.leeway_s = 3600).contains("`leeway_s` is 3600"));
        let local = JwtConfig { issuer: "me".into(), jwks_url: "http://127.0.0.1:1/keys".into(), ..config() };
        assert_eq!(local.check(), Ok(()), "an issuer need be no URL where the keys' place is said");
    }
}
