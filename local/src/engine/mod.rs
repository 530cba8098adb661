//! The ClickHouse engine behind a ClickHouse-compatible HTTP interface, for the local stack.
//!
//! The engine is a library without a server. [`serve`] is that server: run as a process of its own, so that a crash of
//! the engine is a crash of that process alone. Clients that speak to a ClickHouse server over HTTP speak to this one;
//! nothing above the HTTP line may depend on the difference.
//!
//! ```text
//! HTTP ─→ request ─→ place ─→ thread: body ─→ statement ─→ connection ─→ engine
//!  ↑                                                                       │
//!  └────────────── answer (headers, packing, exceptions) ←── pipe ←────────┘
//! ```
//! What it does not do, and a server does:
//! - `query_id` is echoed, but the engine's process list has ids of its own, and there is no `system.query_log`;
//! - users are two names (`default`, `reader`) without passwords or grants;
//! - no `X-ClickHouse-Progress`; `X-ClickHouse-Summary` says what was counted when the headers went out;
//! - no external tables in forms, no rows for `input()`, no `client_protocol_version` for Native: the first two are
//!   refused, the last is not applied;
//! - URLs are at most 64 KiB and must be encoded (`%3E`, not `>`): longer or other statements belong into the body.

mod answer;
mod body;
mod compression;
mod connections;
mod exception;
mod execute;
mod facts;
mod form;
mod library;
mod request;
mod running;
mod sessions;
mod setup;
mod statement;

pub use connections::Bounds;

use anyhow::Context as _;
use axum::Router;
use axum::body::{Body, HttpBody as _};
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::serve::ListenerExt as _;
use connections::Engine;
use exception::{Exception, raise};
use request::Asked;
use running::Client;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How to serve the engine.
#[derive(Debug, Clone)]
pub struct Options {
    /// `libchdb.so`
    pub library: PathBuf,
    /// The data directory; one process at a time.
    pub path: PathBuf,
    pub listen: SocketAddr,
    pub bounds: Bounds,
}

/// After SIGTERM running statements may end by themselves for so long, then they are cancelled.
const GRACE: Duration = Duration::from_secs(3);
/// Then clients are left alone, whatever they still do.
const DRAIN_DEADLINE: Duration = Duration::from_secs(8);
/// And the engine is left open if a statement does not even obey then: as after a crash.
const CLOSE_WAIT_MAX: Duration = Duration::from_secs(2);

impl Options {
    pub fn new(library: impl Into<PathBuf>, path: impl Into<PathBuf>, listen: SocketAddr) -> Self {
        Self { library: library.into(), path: path.into(), listen, bounds: Bounds::default() }
    }
}

/// Serves the engine until SIGTERM or SIGINT, then closes it so that its data is clean.
pub async fn serve(options: Options) -> anyhow::Result<()> {
    let listener = TcpListener::bind(options.listen).await;
    let listener = listener.with_context(|| format!("could not listen on {}: is the port taken?", options.listen))?;
    let address = listener.local_addr().context("could not learn the address listened on")?;
    open_many_files();
    let engine = start(&options).await?;
    let router = Router::new().fallback(answer).with_state(Arc::clone(&engine));
    let stop = stop_on_signal()?;
    let (version, path) = (&engine.facts.version, options.path.display());
    tracing::info!(version, %path, "ClickHouse engine on http://{address}");

    let listener = listener.tap_io(|stream| {
        let _ = stream.set_nodelay(true); // without it answers only come a little later
    });
    let serving = axum::serve(listener, router).with_graceful_shutdown(stop.clone().cancelled_owned());
    tokio::select! {
        served = serving.into_future() => served.context("could not serve the engine")?,
        () = drain(&stop, &engine) => tracing::warn!("clients were still there {DRAIN_DEADLINE:?} after the stop"),
    }
    close(engine).await
}

/// The engine keeps every part of every table open; what an ordinary user is given at first is soon used up.
fn open_many_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }); // it runs with fewer, too
}

async fn start(options: &Options) -> anyhow::Result<Arc<Engine>> {
    let Options { library, path, bounds, .. } = options.clone();
    let start = move || Engine::start(library::Library::load(&library)?, &path, bounds);
    tokio::task::spawn_blocking(start).await.context("the engine's start panicked")?
}

fn stop_on_signal() -> anyhow::Result<CancellationToken> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).context("could not listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("could not listen for SIGINT")?;
    let stop = CancellationToken::new();
    let stopping = stop.clone();
    tokio::spawn(async move {
        tokio::select! { _ = terminate.recv() => {} _ = interrupt.recv() => {} }
        stopping.cancel();
    });
    Ok(stop)
}

/// Running statements get their grace, then are cancelled; ends at the deadline, whatever still runs.
async fn drain(stop: &CancellationToken, engine: &Arc<Engine>) {
    stop.cancelled().await;
    engine.refuse_more();
    let deadline = Instant::now() + DRAIN_DEADLINE;
    tokio::time::sleep(GRACE).await;
    let _ = tokio::time::timeout_at(deadline, Arc::clone(engine).cancel_all()).await;
    tokio::time::sleep_until(deadline).await;
}

/// An answer is out a moment before its statement is done: wait for that moment.
async fn close(engine: Arc<Engine>) -> anyhow::Result<()> {
    let deadline = Instant::now() + CLOSE_WAIT_MAX;
    while !engine.is_still() {
        if Instant::now() > deadline {
            tracing::warn!("leaving the engine open under a running statement; it will repair its data when it starts");
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    tokio::task::spawn_blocking(move || engine.close()).await.context("closing the engine panicked")?;
    tracing::info!("ClickHouse engine stopped");
    Ok(())
}

async fn answer(State(engine): State<Arc<Engine>>, request: Request) -> Response {
    match request.uri().path() {
        "/ping" | "/replicas_status" => return "Ok.\n".into_response(),
        "/" => {}
        other => return unknown_path(request.method(), other),
    }
    let (parts, body) = request.into_parts();
    let asked = match Asked::read(&parts) {
        Ok(asked) => asked,
        Err(exception) => return answer::refusal(&engine, "", &exception),
    };
    if asked.query.is_empty() && matches!(parts.method, Method::GET | Method::HEAD) {
        return "Ok.\n".into_response(); // what a server says to those who only look whether it is there
    }
    let query_id = asked.query_id.clone();
    run(&engine, asked, body).await.unwrap_or_else(|exception| answer::refusal(&engine, &query_id, &exception))
}

async fn run(engine: &Arc<Engine>, asked: Asked, body: Body) -> Result<Response, Exception> {
    let bytes_max = engine.bounds.body_bytes_max;
    if body.size_hint().lower() > bytes_max {
        return Err(body::too_large(bytes_max));
    }
    let place = engine.enter().await?;
    let watched = engine.watch();
    let client = Client { engine: Arc::clone(engine), statement: Arc::clone(&watched.statement) };
    let (pump, reader) = body::channel(bytes_max);
    let (answer, replies) = answer::channel(engine, Arc::clone(&watched.statement), &asked);
    tokio::spawn(pump.run(body));
    let job = {
        let engine = Arc::clone(engine);
        move || {
            execute::run(&engine, asked, reader, answer, &watched.statement);
            drop((watched, place)); // only now may another one run
        }
    };
    engine.spawn(Box::new(job))?;
    replies.response(client).await.ok_or_else(|| raise::UNKNOWN_EXCEPTION("the statement broke off without an answer"))
}

fn unknown_path(method: &Method, path: &str) -> Response {
    let text = format!(
        "There is no handle {}\n\nUse / or /ping for health checks.\n\
         Send queries with POST /, or with GET / if they only read ({method} came).\n",
        path.escape_debug()
    );
    (StatusCode::NOT_FOUND, text).into_response()
}
