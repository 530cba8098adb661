//! Somebody between a command and the ClickHouse engine, who passes everything on but one kind of statement: that waits
//! until it is let go, as it would in a server that hangs, also when whoever sent it is dead.

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::Uri;
use axum::response::Response;
use std::sync::Arc;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;

pub struct HeldBack {
    /// For `MILLRACE_CLICKHOUSE__URL`.
    pub url: String,
    between: Arc<Between>,
}

struct Between {
    engine: String,
    /// How such a statement begins.
    held: &'static str,
    gate: Semaphore,
    arrived: watch::Sender<bool>,
    /// What became of it.
    answered: watch::Sender<Option<String>>,
    client: reqwest::Client,
}

impl HeldBack {
    pub async fn before(engine: &str, held: &'static str) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (engine, client, gate) =
            (engine.trim_end_matches('/').to_owned(), reqwest::Client::new(), Semaphore::new(0));
        let (arrived, answered) = (watch::channel(false).0, watch::channel(None).0);
        let between = Arc::new(Between { engine, held, gate, arrived, answered, client });
        let router = Router::new().fallback(pass_on).with_state(between.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { url, between }
    }

    /// Waits until such a statement was sent.
    pub async fn arrived(&self) {
        self.between.arrived.subscribe().wait_for(|arrived| *arrived).await.unwrap();
    }

    /// Lets it go on; what the engine said to it, nothing where all was well.
    pub async fn let_go(&self) -> String {
        self.between.gate.add_permits(1);
        let mut answered = self.between.answered.subscribe();
        answered.wait_for(Option::is_some).await.unwrap().clone().unwrap()
    }
}

/// In a task of its own: it goes on when whoever asked has hung up.
async fn pass_on(State(between): State<Arc<Between>>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let body = to_bytes(body, usize::MAX).await.unwrap();
    let passed: JoinHandle<_> = tokio::spawn(async move { between.pass_on(head, body).await });
    passed.await.unwrap()
}

impl Between {
    async fn pass_on(&self, head: axum::http::request::Parts, body: Bytes) -> Response {
        let is_held = body.starts_with(self.held.as_bytes());
        if is_held {
            self.arrived.send_replace(true);
            self.gate.acquire().await.unwrap().forget();
        }
        let path = head.uri.path_and_query().map_or_else(|| Uri::default().to_string(), ToString::to_string);
        let mut headers = head.headers;
        for ours in ["host", "content-length", "transfer-encoding"] {
            headers.remove(ours);
        }
        let asked = self.client.request(head.method, format!("{}{path}", self.engine)).headers(headers).body(body);
        let answer = asked.send().await.unwrap();
        let mut response = Response::builder().status(answer.status());
        for (name, value) in answer.headers().iter().filter(|(name, _)| *name != "transfer-encoding") {
            response = response.header(name, value);
        }
        let body = answer.bytes().await.unwrap();
        if is_held {
            self.answered.send_replace(Some(String::from_utf8_lossy(&body).into_owned()));
        }
        response.body(Body::from(body)).unwrap()
    }
}
