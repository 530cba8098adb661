//! The issuer's published keys, by HTTP: in time, not too much, and from nowhere but where the configuration points.

use super::JwtConfig;
use millrace_schemas::{has_login, without_password};
use reqwest::{Client, Url, redirect};
use serde::Deserialize;
use std::net::IpAddr;
use std::time::Duration;

/// For both requests. Whoever came with an unknown key waits for it.
const ASK_DEADLINE: Duration = Duration::from_secs(5);
/// Of one answer: a key takes less than a kilobyte, or some with its certificates.
const ANSWER_BYTES_MAX: usize = 256 << 10;
const NO_HTTPS: &str = "is no https URL: on the way anybody could put keys of their own there";
const LOGIN: &str = "holds a login or a token, which logs would tell: use a URL without, since the keys are public";

pub(super) struct Issuer {
    http: Client,
    name: String,
    /// Empty: the issuer says where.
    jwks_url: String,
}

/// OpenID Connect Discovery 1.0, section 3, as far as it matters here.
#[derive(Deserialize)]
struct Discovered {
    issuer: String,
    jwks_uri: String,
}

impl Issuer {
    pub fn new(config: &JwtConfig) -> anyhow::Result<Self> {
        // A redirect would make somebody else's answer the issuer's.
        let http = Client::builder().redirect(redirect::Policy::none()).build()?;
        Ok(Self { http, name: config.issuer.clone(), jwks_url: config.jwks_url.clone() })
    }

    /// The set of keys as it is published now (JWKS, RFC 7517).
    pub async fn keys(&self) -> Result<Vec<u8>, String> {
        let asking = async {
            if self.jwks_url.is_empty() {
                self.get(&self.discover().await?).await
            } else {
                self.get(&self.jwks_url).await
            }
        };
        let answer = tokio::time::timeout(ASK_DEADLINE, asking).await;
        answer.map_err(|_| format!("no answer within {ASK_DEADLINE:?}"))?
    }

    async fn discover(&self) -> Result<String, String> {
        let url = format!("{}/.well-known/openid-configuration", self.name.trim_end_matches('/'));
        let found = self.get(&url).await?;
        let found: Discovered = serde_json::from_slice(&found).map_err(|error| format!("{url}: {error}"))?;
        if found.issuer != self.name {
            return Err(format!("{url}: its `issuer` is `{}`, not the one of gateway.jwt.issuer", found.issuer));
        }
        check_named(&found.jwks_uri, &self.name).map_err(|reason| format!("{url}: its `jwks_uri` {reason}"))?;
        Ok(found.jwks_uri)
    }

    async fn get(&self, url: &str) -> Result<Vec<u8>, String> {
        let shown = shown(url);
        let broken = |error: reqwest::Error| format!("{shown}: {:#}", anyhow::Error::from(error.without_url()));
        let mut answer = self.http.get(url).send().await.map_err(broken)?;
        if !answer.status().is_success() {
            return Err(format!("{shown}: {}", answer.status()));
        }
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(broken)? {
            if body.len() + chunk.len() > ANSWER_BYTES_MAX {
                return Err(format!("{shown}: more than {ANSWER_BYTES_MAX} bytes"));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }
}

/// Who can change what comes from there could make tokens of its own: https, or this very machine.
pub(super) fn check(url: &str) -> Result<(), &'static str> {
    let parsed = Url::parse(url).map_err(|_| NO_HTTPS)?;
    if has_login(parsed.as_str()) {
        return Err(LOGIN);
    }
    let is_safe = parsed.scheme() == "https" || (parsed.scheme() == "http" && is_here(url));
    is_safe.then_some(()).ok_or(NO_HTTPS)
}

/// Of a place that the issuer names: what is at this machine's own ports is not for others to say.
fn check_named(url: &str, issuer: &str) -> Result<(), &'static str> {
    check(url)?;
    let is_foreign = is_here(url) && !is_here(issuer);
    if is_foreign { Err("is on this machine, and the issuer is not") } else { Ok(()) }
}

fn is_here(url: &str) -> bool {
    let Ok(url) = Url::parse(url) else { return false };
    let host = url.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

/// Without its query: issuers have secrets there by names of their own.
fn shown(url: &str) -> String {
    without_password(url.split(['?', '#']).next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::Router;
    use axum::response::Redirect;
    use axum::routing::get;
    use serde_json::json;

    /// Something that answers so; its address.
    async fn serving(router: Router) -> String {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await });
        address
    }

    async fn keys(name: &str, jwks_url: &str) -> Result<String, String> {
        let config = JwtConfig { issuer: name.into(), jwks_url: jwks_url.into(), ..JwtConfig::default() };
        let keys = Issuer::new(&config).unwrap().keys().await?;
        Ok(String::from_utf8(keys).unwrap())
    }

    #[tokio::test]
    async fn an_answer_that_is_too_large_or_from_somewhere_else_is_none() {
        let router = Router::new()
            .route("/good", get(async || "keys"))
            .route("/large", get(async || "x".repeat(ANSWER_BYTES_MAX + 1)))
            .route("/moved", get(async || Redirect::temporary("/good")));
        let address = serving(router).await;
        assert_eq!(keys("", &format!("{address}/good")).await, Ok("keys".into()));
        assert!(keys("", &format!("{address}/large")).await.unwrap_err().contains("more than"));
        assert!(keys("", &format!("{address}/moved")).await.unwrap_err().contains("307"));
        assert!(keys("", &format!("{address}/missing")).await.unwrap_err().contains("404"));
        assert!(keys("", "http://127.0.0.1:1/").await.is_err());
    }

    #[tokio::test]
    async fn an_issuer_says_where_its_keys_are_only_under_its_own_name_and_only_where_nobody_interferes() {
        let other = serving(Router::new().route("/keys", get(async || "keys"))).await;
        let discovery = |issuer: &'static str, jwks_uri: String| {
            let said = json!({ "issuer": issuer, "jwks_uri": jwks_uri }).to_string();
            Router::new().route("/.well-known/openid-configuration", get(async move || said))
        };
        let stranger = serving(discovery("https://id.example", format!("{other}/keys"))).await;
        assert!(keys(&stranger, "").await.unwrap_err().contains("not the one of gateway.jwt.issuer"));
        let (listener, keys_url) =
            (tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap(), format!("{other}/keys"));
        let name: &'static str = format!("http://{}", listener.local_addr().unwrap()).leak();
        tokio::spawn(async move { axum::serve(listener, discovery(name, keys_url)).await });
        assert_eq!(keys(name, "").await, Ok("keys".into()));
        let named = serving(Router::new()).await;
        assert!(keys(&named, "").await.unwrap_err().contains("404"));
        let other = "http://127.0.0.1:8080/keys";
        assert_eq!(check_named(other, "http://localhost:1"), Ok(()));
        for remote in [other, "http://localhost/keys", "https://[::1]/keys"] {
            assert!(check_named(remote, "https://id.example").unwrap_err().contains("on this machine"), "{remote}");
        }
        for (url, safe) in [
            ("https://id.example/keys", true),
            ("https://id.example/keys?tenant=shop", true),
            ("http://localhost:8080/keys", true),
            ("http://[::1]/keys", true),
            ("http://id.example/keys", false),
            ("http://localhost.id.example/", false),
            ("file:///etc/keys", false),
            ("keys", false),
        ] {
            assert_eq!(check(url).is_ok(), safe, "{url}");
        }
    }

    #[tokio::test]
    async fn no_secret_of_a_url_is_told() {
        for url in
            ["https://me:sesame@id.example/", "https:/sesame@id.example/", "https://id.example/keys?Token=sesame"]
        {
            assert_eq!(check(url), Err(LOGIN), "{url}");
        }
        for url in ["http://127.0.0.1:1/keys?api-key=sesame#sesame", "http://me:sesame@127.0.0.1:1/keys"] {
            let told = keys("", url).await.unwrap_err();
            assert!(told.contains("127.0.0.1:1/keys: ") && !told.contains("sesame"), "{told}");
        }
        let address = serving(Router::new()).await;
        let told = keys("", &format!("{address}/keys?token=sesame")).await.unwrap_err();
        assert_eq!(told, format!("{address}/keys: 404 Not Found"));
    }
}
