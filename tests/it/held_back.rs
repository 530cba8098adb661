//! Somebody between a command and the ClickHouse engine, who passes everything on but one kind of statement: that waits
//! until it is let go, as it would in a server that hangs, also when whoever sent it is dead.

use crate::between::{Asked, Engine, serve, taken_apart};
use crate::platform::DEADLINE;
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::response::Response;
use std::sync::Arc;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

pub struct HeldBack {
    /// For `MILLRACE_CLICKHOUSE__URL`.
    pub url: String,
    between: Arc<Between>,
}

struct Between {
    engine: Engine,
    /// How such a statement begins.
    held: &'static str,
    gate: Semaphore,
    arrived: watch::Sender<bool>,
    /// What became of it.
    answered: watch::Sender<Option<String>>,
}

impl HeldBack {
    pub async fn before(engine: &str, held: &'static str) -> Self {
        let (engine, gate) = (Engine::at(engine), Semaphore::new(0));
        let (arrived, answered) = (watch::channel(false).0, watch::channel(None).0);
        let between = Arc::new(Between { engine, held, gate, arrived, answered });
        let url = serve(Router::new().fallback(pass_on).with_state(between.clone())).await;
        Self { url, between }
    }

    /// Waits until such a statement was sent.
    pub async fn arrived(&self) {
        let mut arrived = self.between.arrived.subscribe();
        timeout(DEADLINE, arrived.wait_for(|arrived| *arrived)).await.expect("nobody asked").unwrap();
    }

    /// Lets it go on, and those that come; what the engine said to it, nothing where all was well.
    pub async fn let_go(&self) -> String {
        self.between.gate.close();
        let mut answered = self.between.answered.subscribe();
        let answered = timeout(DEADLINE, answered.wait_for(Option::is_some)).await.expect("it was not answered");
        answered.unwrap().clone().unwrap()
    }
}

/// In a task of its own: it goes on when whoever asked has hung up.
async fn pass_on(State(between): State<Arc<Between>>, request: Request) -> Response {
    let (head, asked) = taken_apart(request).await;
    let passed: JoinHandle<_> = tokio::spawn(async move { between.pass_on(head, asked).await });
    passed.await.unwrap()
}

impl Between {
    async fn pass_on(&self, head: Parts, asked: Asked) -> Response {
        let is_held = asked.body.starts_with(self.held.as_bytes());
        if is_held {
            self.arrived.send_replace(true);
            let _ = self.gate.acquire().await; // there is none to be had: it ends when the gate does
        }
        let (mut response, body) = self.engine.ask(head, asked).await;
        if is_held {
            self.answered.send_replace(Some(String::from_utf8_lossy(&body).into_owned()));
        }
        *response.body_mut() = Body::from(body);
        response
    }
}
