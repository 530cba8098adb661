//! What may be published, for people and programs that hold a key or a token: the catalogue, served.

use super::Shared;
use super::answer::Problem;
use crate::catalogue::{Catalogue, SCRIPT, STYLE};
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use std::collections::HashMap;
use std::sync::Arc;

const JSON: &str = "application/json";
const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JAVASCRIPT: &str = "text/javascript; charset=utf-8";

/// Nothing from elsewhere, and no script within the page: even a text that escaped the escaping would do nothing.
const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; base-uri 'none'; form-action 'none'; \
    frame-ancestors 'none'";

/// Everything that is told of the contracts, by path: written once, since they don't change while the gateway runs.
pub(super) struct Site(HashMap<String, Page>);

struct Page {
    kind: &'static str,
    text: Bytes,
}

impl Site {
    pub fn of(catalogue: &Catalogue) -> Self {
        let mut pages = HashMap::new();
        let mut put = |path: &str, kind, text: String| {
            pages.insert(path.to_owned(), Page { kind, text: text.into() });
        };
        put("/contracts", HTML, catalogue.list_page());
        put("/contracts.css", CSS, STYLE.to_owned());
        put("/contracts.js", JAVASCRIPT, SCRIPT.to_owned());
        put("/v1/contracts", JSON, catalogue.list().to_string());
        put("/v1/openapi.json", JSON, catalogue.openapi().to_string());
        put("/v1/asyncapi.json", JSON, catalogue.asyncapi().to_string());
        for contract in catalogue.contracts().iter() {
            let event_type = &contract.event_type;
            put(&format!("/contracts/{event_type}"), HTML, catalogue.page(contract));
            put(&format!("/v1/contracts/{event_type}"), JSON, catalogue.one(contract).to_string());
            for version in contract.versions() {
                let path = format!("/v1/contracts/{event_type}/versions/{}", version.number);
                put(&path, JSON, version.text.clone());
            }
        }
        Self(pages)
    }

    fn find(&self, path: &str) -> Result<Response, Problem> {
        const MISSING: &str = "no contract has such a type or version: GET /v1/contracts lists those there are";
        let page = self.0.get(path).ok_or_else(|| Problem::new(StatusCode::NOT_FOUND, MISSING))?;
        let mut response = Body::from(page.text.clone()).into_response();
        let mut header = |name, value| response.headers_mut().insert(name, HeaderValue::from_static(value));
        header(header::CONTENT_TYPE, page.kind);
        header(header::X_CONTENT_TYPE_OPTIONS, "nosniff");
        header(header::CONTENT_SECURITY_POLICY, POLICY);
        Ok(response)
    }
}

/// For programs.
pub(super) async fn told(State(shared): State<Arc<Shared>>, headers: HeaderMap, uri: Uri) -> Result<Response, Problem> {
    shared.reader(&headers).await?;
    shared.site.find(uri.path())
}

/// For people, whose browser asks them for a password when it is told to.
pub(super) async fn browsed(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    uri: Uri,
) -> Result<Response, Problem> {
    shared.reader(&headers).await.map_err(Problem::ask_for_password)?;
    shared.site.find(uri.path())
}

/// How pages look and are searched; nothing of a contract is in it, so nobody is asked.
pub(super) async fn asset(State(shared): State<Arc<Shared>>, uri: Uri) -> Result<Response, Problem> {
    shared.site.find(uri.path())
}
