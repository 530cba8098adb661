//! By what the gateway knows the service: a key, or a token that is renewed.

use crate::http::told;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use reqwest::Url;
use serde::Deserialize;
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How long before its end a token is renewed, and how long at least one is used: clocks differ, and requests last.
const RENEW_BEFORE: Duration = Duration::from_secs(30);
const USE_AT_LEAST: Duration = Duration::from_secs(5);
/// Who says that a token is good for longer is asked again all the same: it may be withdrawn, and clocks overflow.
const USE_AT_MOST: Duration = Duration::from_secs(24 * 3600);
/// Of an issuer's answer.
const ISSUER_DEADLINE: Duration = Duration::from_secs(10);

/// A token, and for how long it is good.
pub struct Token {
    pub token: String,
    pub good_for: Duration,
}

type Ask = Arc<dyn Fn() -> BoxFuture<'static, Result<Token, String>> + Send + Sync>;

/// By what the gateway knows the service.
#[derive(Clone)]
pub struct Credential(Kind);

#[derive(Clone)]
enum Kind {
    Nothing,
    Key(String),
    Asked(Ask),
    ClientCredentials { token_url: String, id: String, secret: String, scope: String },
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a credential")
    }
}

impl Credential {
    /// For a gateway that asks nobody.
    pub fn nothing() -> Self {
        Self(Kind::Nothing)
    }

    /// A key of the gateway's configuration, or a token that outlives the process.
    pub fn key(key: &str) -> Self {
        Self(Kind::Key(key.trim().to_owned()))
    }

    /// Whatever this says; asked when there is none yet, shortly before its end, once a day, and after a 401.
    pub fn asked<F: Future<Output = Result<Token, String>> + Send + 'static>(
        ask: impl Fn() -> F + Send + Sync + 'static,
    ) -> Self {
        Self(Kind::Asked(Arc::new(move || Box::pin(ask()))))
    }

    /// Tokens of an OAuth 2 issuer, by the client credentials grant (RFC 6749, section 4.4).
    pub fn client_credentials(token_url: &str, id: &str, secret: &str, scope: &str) -> Self {
        let [token_url, id, secret, scope] = [token_url, id, secret.trim(), scope].map(str::to_owned);
        Self(Kind::ClientCredentials { token_url, id, secret, scope })
    }
}

/// A credential, and the token that is in use.
pub(crate) struct Bearer {
    credential: Credential,
    http: reqwest::Client,
    current: Option<(String, Instant)>,
}

impl Bearer {
    pub fn new(credential: Credential, http: reqwest::Client) -> Self {
        Self { credential, http, current: None }
    }

    /// What to send along, if anything.
    pub async fn token(&mut self) -> Result<Option<String>, String> {
        if let Kind::Nothing = self.credential.0 {
            return Ok(None);
        }
        if let Kind::Key(key) = &self.credential.0 {
            return Ok(Some(key.clone()));
        }
        if let Some((token, _)) = self.current.as_ref().filter(|(_, until)| Instant::now() < *until) {
            return Ok(Some(token.clone()));
        }
        let issued = tokio::time::timeout(ISSUER_DEADLINE, self.ask()).await;
        let issued = issued.map_err(|_| format!("no answer within {ISSUER_DEADLINE:?}"))??;
        let used_for = issued.good_for.saturating_sub(RENEW_BEFORE).clamp(USE_AT_LEAST, USE_AT_MOST);
        self.current = Some((issued.token.clone(), Instant::now() + used_for));
        Ok(Some(issued.token))
    }

    /// The token was refused. False where asking again would bring the same.
    pub fn forget(&mut self) -> bool {
        self.current.take().is_some()
    }

    async fn ask(&self) -> Result<Token, String> {
        match &self.credential.0 {
            Kind::Asked(ask) => unharmed(ask).await,
            Kind::ClientCredentials { token_url, id, secret, scope } => {
                client_credentials(&self.http, token_url, (id, secret), scope).await
            }
            Kind::Nothing | Kind::Key(_) => Err("there is nothing to ask for".into()),
        }
    }
}

/// A panic of the caller's function is one failed attempt, where it would end what sends for the whole process.
async fn unharmed(ask: &Ask) -> Result<Token, String> {
    let asked = AssertUnwindSafe(async { ask().await }).catch_unwind().await;
    asked.unwrap_or_else(|_| Err("the function that is asked for tokens panicked".into()))
}

#[derive(Deserialize)]
struct Issued {
    access_token: String,
    /// Recommended, not required.
    expires_in: Option<u64>,
}

async fn client_credentials(
    http: &reqwest::Client,
    token_url: &str,
    (id, secret): (&str, &str),
    scope: &str,
) -> Result<Token, String> {
    let request = http.post(token_url).basic_auth(encoded(id), Some(encoded(secret)));
    let request = request.form(&[("grant_type", "client_credentials"), ("scope", scope)]);
    let answer = request.send().await.map_err(told)?;
    if !answer.status().is_success() {
        return Err(format!("the issuer answered {}", answer.status()));
    }
    let issued: Issued = answer.json().await.map_err(told)?;
    let good_for = Duration::from_secs(issued.expires_in.unwrap_or(60));
    Ok(Token { token: issued.access_token, good_for })
}

/// As RFC 6749, section 2.3.1, wants id and secret before they are put into basic authentication.
fn encoded(text: &str) -> String {
    let mut url = Url::parse("form:").expect("a URL");
    url.query_pairs_mut().append_key_only(text);
    url.query().unwrap_or_default().to_owned()
}
