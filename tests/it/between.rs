//! Somebody between Millrace and the ClickHouse engine, who changes what is asked.

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
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
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let change: Change = Arc::new(change);
    let router = Router::new().fallback(pass_on).with_state((reqwest::Client::new(), engine.to_owned(), change));
    tokio::spawn(async move { axum::serve(listener, router).await });
    url
}

async fn pass_on(
    State((client, engine, change)): State<(reqwest::Client, String, Change)>,
    request: Request,
) -> Response {
    let (head, body) = request.into_parts();
    let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
    let asked = change(Asked { path: head.uri.path_and_query().unwrap().to_string(), body });
    let mut headers = head.headers;
    for ours in ["host", "content-length", "transfer-encoding"] {
        headers.remove(ours);
    }
    let request = client.request(head.method, format!("{engine}{}", asked.path)).headers(headers).body(asked.body);
    let answer = request.send().await.unwrap();
    let mut response = Response::builder().status(answer.status());
    for (name, value) in answer.headers().iter().filter(|(name, _)| *name != "transfer-encoding") {
        response = response.header(name, value);
    }
    response.body(Body::from(answer.bytes().await.unwrap())).unwrap()
}
