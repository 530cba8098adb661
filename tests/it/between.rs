//! Somebody between Millrace and the ClickHouse engine, who changes what is asked.

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::response::Response;
use std::sync::Arc;

/// A request as it goes on.
pub struct Asked {
    /// With its parameters.
    pub path: String,
    pub body: Bytes,
}

type Change = Arc<dyn Fn(Asked) -> Asked + Send + Sync>;

/// Where they stand.
pub async fn stand_before(engine: &str, change: impl Fn(Asked) -> Asked + Send + Sync + 'static) -> String {
    let (engine, change): (_, Change) = (Engine::at(engine), Arc::new(change));
    serve(Router::new().fallback(changed).with_state((engine, change))).await
}

async fn changed(State((engine, change)): State<(Engine, Change)>, request: Request) -> Response {
    let (head, asked) = taken_apart(request).await;
    let (mut response, body) = engine.ask(head, change(asked)).await;
    *response.body_mut() = Body::from(body);
    response
}

/// Serves on a free port; its address.
pub async fn serve(router: Router) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    url
}

pub async fn taken_apart(request: Request) -> (Parts, Asked) {
    let (head, body) = request.into_parts();
    let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
    let path = head.uri.path_and_query().unwrap().to_string();
    (head, Asked { path, body })
}

/// The one behind.
#[derive(Clone)]
pub struct Engine {
    url: String,
    client: reqwest::Client,
}

impl Engine {
    pub fn at(url: &str) -> Self {
        // The engine may close one that waits just when it is used again.
        let client = reqwest::Client::builder().pool_max_idle_per_host(0).build().unwrap();
        Self { url: url.trim_end_matches('/').to_owned(), client }
    }

    /// Its answer, and the body that belongs into it.
    pub async fn ask(&self, head: Parts, asked: Asked) -> (Response, Bytes) {
        let mut headers = head.headers;
        for ours in ["host", "content-length", "transfer-encoding"] {
            headers.remove(ours);
        }
        let request = self.client.request(head.method, format!("{}{}", self.url, asked.path));
        let answer = request.headers(headers).body(asked.body).send().await.unwrap();
        let mut response = Response::builder().status(answer.status());
        for (name, value) in answer.headers().iter().filter(|(name, _)| *name != "transfer-encoding") {
            response = response.header(name, value);
        }
        (response.body(Body::empty()).unwrap(), answer.bytes().await.unwrap())
    }
}
