//! An issuer of tokens for development, so that secure is the default on one machine too. Never for anything else: who
//! has its one secret is whoever it says it is, with whatever scopes it asks for. Listens on loopback alone.
//!
//! ```text
//! GET /.well-known/openid-configuration      GET /keys
//! POST /token (client credentials: RFC 6749, section 4.4)          POST /introspect (RFC 7662)
//! ```
//!
//! The name of the client becomes the token's subject, `audience` (`millrace` if left out) its audience. The key that
//! signs is made with the data directory.

use crate::Addresses;
use crate::directory::found;
use crate::secret::write_new;
use anyhow::{Context, anyhow, ensure};
use axum::extract::{Form, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, UnparsedPublicKey,
};
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// For whom a token is made unless another audience is asked for: the gateway of the stack.
pub const AUDIENCE: &str = "millrace";
/// What a token may do unless less is asked for.
const SCOPE: &str = "publish:*";
/// Long enough to try something by hand.
const TOKEN_SECONDS: i64 = 3600;
/// A request that is being answered needs no more than this to end.
const STOP_DEADLINE: Duration = Duration::from_secs(5);

/// Where a stack keeps the secret of its issuer's clients.
pub fn issuer_secret_file(data_dir: &Path) -> PathBuf {
    data_dir.join("issuer/secret")
}

/// An issuer at work, until it is stopped.
pub struct Issuer {
    stopping: CancellationToken,
    serving: JoinHandle<std::io::Result<()>>,
}

/// Starts to listen. Its key and its secret are made at the first start, and kept beside the data.
///
/// # Errors
/// When the address is taken or not on loopback, or the directory can't be read or written.
pub async fn issue(data_dir: &Path, addresses: &Addresses) -> anyhow::Result<Issuer> {
    let name = addresses.issuer.clone();
    let listen: SocketAddr = name.trim_start_matches("http://").parse().context("the issuer's address")?;
    ensure!(listen.ip().is_loopback(), "the issuer is for development and listens on loopback alone, not on {listen}");
    let signer = Arc::new(Signer::in_directory(data_dir, name)?);
    let listener = TcpListener::bind(listen).await;
    let listener = listener.with_context(|| format!("the development issuer could not listen on {listen}"))?;
    let stopping = CancellationToken::new();
    let serve = axum::serve(listener, routes(signer)).with_graceful_shutdown(stopping.clone().cancelled_owned());
    Ok(Issuer { stopping, serving: tokio::spawn(serve.into_future()) })
}

impl Issuer {
    pub async fn stop(self) {
        self.stopping.cancel();
        let _ = tokio::time::timeout(STOP_DEADLINE, self.serving).await;
    }
}

fn routes(signer: Arc<Signer>) -> Router {
    Router::new()
        .route("/.well-known/openid-configuration", get(configuration))
        .route("/keys", get(keys))
        .route("/token", post(token))
        .route("/introspect", post(introspect))
        .with_state(signer)
}

/// OpenID Connect Discovery 1.0, as far as there is something to discover.
async fn configuration(State(signer): State<Arc<Signer>>) -> Json<Value> {
    Json(json!({
        "issuer": signer.name,
        "jwks_uri": format!("{}/keys", signer.name),
        "token_endpoint": format!("{}/token", signer.name),
        "introspection_endpoint": format!("{}/introspect", signer.name),
        "grant_types_supported": ["client_credentials"],
        "response_types_supported": [],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["ES256"],
        "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"],
    }))
}

async fn keys(State(signer): State<Arc<Signer>>) -> Json<Value> {
    Json(json!({ "keys": [signer.published()] }))
}

#[derive(Deserialize)]
struct Asked {
    grant_type: String,
    client_id: Option<String>,
    client_secret: Option<String>,
    scope: Option<String>,
    audience: Option<String>,
}

async fn token(State(signer): State<Arc<Signer>>, headers: HeaderMap, Form(asked): Form<Asked>) -> Response {
    if asked.grant_type != "client_credentials" {
        return refused(StatusCode::BAD_REQUEST, "unsupported_grant_type");
    }
    let posted = asked.client_id.clone().zip(asked.client_secret.clone());
    let client = basic(&headers).or(posted).filter(|(id, secret)| !id.is_empty() && *secret == signer.secret);
    let Some((subject, _)) = client else { return refused(StatusCode::UNAUTHORIZED, "invalid_client") };
    let scope = asked.scope.filter(|scope| !scope.trim().is_empty()).unwrap_or_else(|| SCOPE.into());
    let audience = asked.audience.unwrap_or_else(|| AUDIENCE.into());
    let Ok(token) = signer.token(&subject, &audience, &scope) else {
        return refused(StatusCode::INTERNAL_SERVER_ERROR, "server_error");
    };
    let answer = json!({ "access_token": token, "token_type": "Bearer", "expires_in": TOKEN_SECONDS, "scope": scope });
    ([(header::CACHE_CONTROL, "no-store")], Json(answer)).into_response()
}

#[derive(Deserialize)]
struct Shown {
    token: String,
}

async fn introspect(State(signer): State<Arc<Signer>>, headers: HeaderMap, Form(shown): Form<Shown>) -> Response {
    if basic(&headers).is_none_or(|(_, secret)| secret != signer.secret) {
        return refused(StatusCode::UNAUTHORIZED, "invalid_client");
    }
    let claims = signer.claims(&shown.token, chrono::Utc::now().timestamp());
    Json(claims.map_or_else(|| json!({ "active": false }), active)).into_response()
}

fn active(mut claims: Value) -> Value {
    claims["active"] = true.into();
    claims
}

/// RFC 6749, section 5.2.
fn refused(status: StatusCode, error: &str) -> Response {
    (status, [(header::WWW_AUTHENTICATE, "Basic realm=\"millrace development\"")], Json(json!({ "error": error })))
        .into_response()
}

fn basic(headers: &HeaderMap) -> Option<(String, String)> {
    let encoded = headers.get(header::AUTHORIZATION)?.to_str().ok()?.strip_prefix("Basic ")?;
    let text = String::from_utf8(BASE64_STANDARD.decode(encoded).ok()?).ok()?;
    text.split_once(':').map(|(id, secret)| (id.to_owned(), secret.to_owned()))
}

struct Signer {
    /// The issuer's URL.
    name: String,
    secret: String,
    pair: EcdsaKeyPair,
    key_id: String,
    random: SystemRandom,
}

impl Signer {
    fn in_directory(data_dir: &Path, name: String) -> anyhow::Result<Self> {
        let random = SystemRandom::new();
        let (key_file, secret_file) = (data_dir.join("issuer/key"), issuer_secret_file(data_dir));
        let new_secret = || Ok(format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple()));
        let new_key = || -> anyhow::Result<String> {
            let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random);
            Ok(BASE64_STANDARD.encode(document.map_err(|_| anyhow!("could not make a key"))?))
        };
        let (secret, key) = (kept(&secret_file, new_secret)?, kept(&key_file, new_key)?);
        let document = BASE64_STANDARD.decode(key).with_context(|| format!("{} is no key", key_file.display()))?;
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &document, &random);
        let pair = pair.map_err(|error| anyhow!("{} is no key: {error}", key_file.display()))?;
        let key_id = base64(&Sha256::digest(pair.public_key().as_ref())[..12]);
        Ok(Self { name, secret, pair, key_id, random })
    }

    /// As RFC 7517 has it. The point is `4`, x, y.
    fn published(&self) -> Value {
        let (x, y) = self.pair.public_key().as_ref()[1..].split_at(32);
        let (x, y) = (base64(x), base64(y));
        json!({ "kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": self.key_id, "x": x, "y": y })
    }

    /// An access token as RFC 9068 profiles them.
    fn token(&self, subject: &str, audience: &str, scope: &str) -> anyhow::Result<String> {
        let now = chrono::Utc::now().timestamp();
        let head = json!({ "typ": "at+jwt", "alg": "ES256", "kid": self.key_id });
        let claims = json!({
            "iss": self.name, "sub": subject, "client_id": subject, "aud": audience, "scope": scope,
            "iat": now, "exp": now + TOKEN_SECONDS, "jti": Uuid::new_v4(),
        });
        let message = format!("{}.{}", base64(head.to_string()), base64(claims.to_string()));
        let signature = self.pair.sign(&self.random, message.as_bytes()).map_err(|_| anyhow!("could not sign"))?;
        Ok(format!("{message}.{}", base64(signature)))
    }

    /// Of a token that this key signed, until it ends.
    fn claims(&self, token: &str, now: i64) -> Option<Value> {
        let (message, signature) = token.rsplit_once('.')?;
        let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.pair.public_key().as_ref());
        key.verify(message.as_bytes(), &BASE64_URL_SAFE_NO_PAD.decode(signature).ok()?).ok()?;
        let claims = BASE64_URL_SAFE_NO_PAD.decode(message.split_once('.')?.1).ok()?;
        let claims: Value = serde_json::from_slice(&claims).ok()?;
        (now < claims["exp"].as_i64()?).then_some(claims)
    }
}

/// What the file has, or something new that it has from now on.
fn kept(file: &Path, make: impl FnOnce() -> anyhow::Result<String>) -> anyhow::Result<String> {
    if let Some(text) = found(fs::read_to_string(file))? {
        // Whoever made it died before it was written: an empty secret would let anybody in.
        ensure!(!text.trim().is_empty(), "{} is empty: remove it", file.display());
        return Ok(text.trim().to_owned());
    }
    let text = make()?;
    write_new(file, &text).with_context(|| format!("could not write {}", file.display()))?;
    Ok(text)
}

fn base64(bytes: impl AsRef<[u8]>) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_kept_with_the_data_and_verifies_what_it_signed() {
        let directory = tempfile::tempdir().unwrap();
        let signer = || Signer::in_directory(directory.path(), "http://127.0.0.1:1".into()).unwrap();
        let token = signer().token("checkout", "millrace", "publish:shop.order.*").unwrap();
        let again = signer();
        let now = chrono::Utc::now().timestamp();
        assert_eq!(again.claims(&token, now).unwrap()["sub"], "checkout");
        assert_eq!(again.claims(&token, now + TOKEN_SECONDS + 1), None, "it has ended");
        assert_eq!(again.claims(&format!("{token}A"), now), None, "another signature");
        let other = tempfile::tempdir().unwrap();
        let other = Signer::in_directory(other.path(), again.name.clone()).unwrap();
        assert!(other.key_id != again.key_id && other.secret != again.secret && again.secret.len() == 64);
    }

    #[tokio::test]
    async fn who_has_not_the_secret_gets_no_token() {
        let directory = tempfile::tempdir().unwrap();
        let signer = Arc::new(Signer::in_directory(directory.path(), "http://127.0.0.1:1".into()).unwrap());
        let ask = async |grant: &str, client: Option<(&str, &str)>| {
            let mut headers = HeaderMap::new();
            if let Some((id, secret)) = client {
                let basic = format!("Basic {}", BASE64_STANDARD.encode(format!("{id}:{secret}")));
                headers.insert(header::AUTHORIZATION, basic.parse().unwrap());
            }
            let (client_id, client_secret, scope, audience) = Default::default();
            let asked = Asked { grant_type: grant.into(), client_id, client_secret, scope, audience };
            token(State(signer.clone()), headers, Form(asked)).await.status().as_u16()
        };
        let good = Some(("checkout", signer.secret.as_str()));
        assert_eq!(ask("client_credentials", good).await, 200);
        assert_eq!(ask("password", good).await, 400);
        for wrong in [None, Some(("checkout", "")), Some(("", signer.secret.as_str())), Some(("checkout", "guess"))] {
            assert_eq!(ask("client_credentials", wrong).await, 401, "{wrong:?}");
        }
    }
}
