//! Who calls: the issuer is asked whether the token is good (RFC 7662). That is a round trip for each request, and in
//! return a withdrawn token is refused at once, and there is no cryptography here.

use crate::Service;
use anyhow::Context;
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use serde::Deserialize;
use std::sync::Arc;
use std::time::Duration;

/// For whom tokens are made that are good here; also who this service is at the issuer.
const AUDIENCE: &str = "accounts";
/// A person waits for it.
const ISSUER_DEADLINE: Duration = Duration::from_secs(5);

/// The issuer, as this service asks it.
pub struct Access {
    http: reqwest::Client,
    introspection: String,
    secret: String,
}

#[derive(Deserialize)]
struct Discovered {
    introspection_endpoint: String,
}

#[derive(Deserialize)]
struct Said {
    active: bool,
    #[serde(default)]
    sub: String,
    #[serde(default)]
    aud: String,
}

impl Access {
    /// Asks the issuer where to ask.
    ///
    /// # Errors
    /// When it does not answer, or does not say.
    pub async fn discover(issuer: &str, secret: &str) -> anyhow::Result<Self> {
        let http = reqwest::Client::builder().timeout(ISSUER_DEADLINE).build()?;
        let url = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
        let found: Discovered = http.get(&url).send().await?.error_for_status()?.json().await.context(url)?;
        Ok(Self { http, introspection: found.introspection_endpoint, secret: secret.to_owned() })
    }

    async fn ask(&self, token: &str) -> reqwest::Result<Said> {
        let request = self.http.post(&self.introspection).basic_auth(AUDIENCE, Some(&self.secret));
        request.form(&[("token", token)]).send().await?.error_for_status()?.json().await
    }
}

/// The subject of the request's token.
pub(crate) struct Person(pub String);

impl FromRequestParts<Arc<Service>> for Person {
    type Rejection = (StatusCode, &'static str);

    async fn from_request_parts(parts: &mut Parts, service: &Arc<Service>) -> Result<Self, Self::Rejection> {
        let header = parts.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let token = header.and_then(|value| value.strip_prefix("Bearer "));
        let token = token.ok_or((StatusCode::UNAUTHORIZED, "no token: send `Authorization: Bearer <token>`"))?;
        let said = service.access.ask(token).await.map_err(|error| {
            tracing::error!("the issuer of tokens: {error}");
            (StatusCode::SERVICE_UNAVAILABLE, "try again later")
        })?;
        if said.active && said.aud == AUDIENCE && !said.sub.is_empty() {
            return Ok(Self(said.sub));
        }
        Err((StatusCode::UNAUTHORIZED, "the token is not good here"))
    }
}
