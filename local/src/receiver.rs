//! A small webhook receiver: verifies what arrives as the Standard Webhooks specification says, and shows it.
//! It remembers ids across restarts, so that what was sent and what arrived can be compared after any crash.
//!
//! ```text
//! POST /hooks/{name} ─→ signature ─→ record (appended to a file, then answered)      GET /  GET /received
//! ```

use crate::Addresses;
use crate::directory::found;
use crate::secret::write_new;
use anyhow::{Context, bail};
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path as UrlPath, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Html;
use axum::routing::{get, post};
use axum::{Json, Router};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};
use standardwebhooks::{HEADER_WEBHOOK_ID, Webhook};
use std::collections::{HashSet, VecDeque};
use std::fs::{self, File};
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Ids remembered: some 50 MB of them. A delivery beyond them is refused rather than forgotten.
const IDS_MAX: usize = 500_000;
/// An id is a UUID or the like; the specification gives no bound.
const ID_BYTES_MAX: usize = 256;
/// Ids listed unless `?limit=` says otherwise.
const IDS_LISTED: usize = 1_000;
/// Deliveries shown on the page.
const SHOWN_MAX: usize = 50;
/// How much of a body the page shows.
const SHOWN_CHARACTERS: usize = 400;
/// Webhooks carry a small JSON document; the specification advises 20 kB.
const BODY_BYTES_MAX: usize = 1024 * 1024;
/// A request that is being answered needs no more than this to end.
const STOP_DEADLINE: Duration = Duration::from_secs(5);

#[derive(Debug, Clone)]
pub struct ReceiverOptions {
    pub listen: SocketAddr,
    /// `whsec_…`, the same as the sender's.
    pub secret: String,
    /// The file that keeps the ids.
    pub record: PathBuf,
    /// So many good deliveries are answered 500 first, to see the sender try again.
    pub fail_first: u32,
}

impl ReceiverOptions {
    /// The receiver of a stack: its secret is made at the first start and kept beside the data.
    ///
    /// # Errors
    /// When the directory can't be read or written.
    pub fn in_directory(data_dir: &Path, addresses: &Addresses) -> anyhow::Result<Self> {
        let listen = addresses.receiver.trim_start_matches("http://").parse().context("the receiver's address")?;
        let file = secret_file(data_dir);
        let secret = match found(fs::read_to_string(&file))? {
            Some(secret) => secret,
            None => new_secret(&file).with_context(|| format!("could not write {}", file.display()))?,
        };
        Ok(Self { listen, secret: secret.trim().to_owned(), record: data_dir.join("receiver/ids"), fail_first: 0 })
    }
}

/// Where a stack keeps the secret that its receiver and the webhook sink share.
pub fn secret_file(data_dir: &Path) -> PathBuf {
    data_dir.join("receiver/secret")
}

/// 32 random bytes; readable by its owner alone.
fn new_secret(file: &Path) -> std::io::Result<String> {
    let bytes = [Uuid::new_v4().into_bytes(), Uuid::new_v4().into_bytes()].concat();
    let secret = format!("whsec_{}", BASE64_STANDARD.encode(bytes));
    write_new(file, &secret)?;
    Ok(secret)
}

/// The newest verified delivery, as it was sent: for another verifier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// What arrived, verified: `GET /received`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Received {
    pub distinct: usize,
    /// Every delivery that was answered 200, repeated ones too.
    pub total: u64,
    /// Refused since the receiver started.
    pub invalid: u64,
    /// The first ids that arrived, in order, as many as were asked for.
    pub ids: Vec<String>,
}

/// A receiver at work, until it is stopped or dropped.
pub struct Receiver {
    address: SocketAddr,
    arrivals: Shared,
    stopping: CancellationToken,
    serving: JoinHandle<std::io::Result<()>>,
}

/// Starts to listen.
///
/// # Errors
/// When the address is taken, the secret isn't one, or the record can't be read.
pub async fn receive(options: ReceiverOptions) -> anyhow::Result<Receiver> {
    let webhook = Webhook::new(&options.secret).context("the receiver's secret is not `whsec_` and base64")?;
    let arrivals = Arrivals::open(&options.record, options.fail_first)
        .with_context(|| format!("could not open the receiver's record {}", options.record.display()))?;
    let listener = TcpListener::bind(options.listen)
        .await
        .with_context(|| format!("the receiver could not listen on {}", options.listen))?;
    let address = listener.local_addr()?;
    let arrivals = Shared(Arc::new((webhook, Mutex::new(arrivals))));
    let stopping = CancellationToken::new();
    let serve = axum::serve(listener, routes(arrivals.clone()));
    let serving = tokio::spawn(serve.with_graceful_shutdown(stopping.clone().cancelled_owned()).into_future());
    Ok(Receiver { address, arrivals, stopping, serving })
}

impl Receiver {
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What `GET /received` says, with all ids.
    pub fn received(&self) -> Received {
        self.arrivals.lock().received(IDS_MAX)
    }

    /// The newest verified delivery since the start.
    pub fn newest(&self) -> Option<Verified> {
        self.arrivals.lock().newest.clone()
    }

    /// Answers what has begun, and ends.
    pub async fn stop(mut self) {
        self.stopping.cancel();
        if tokio::time::timeout(STOP_DEADLINE, &mut self.serving).await.is_err() {
            tracing::warn!("the receiver still had requests after {STOP_DEADLINE:?}");
        }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

fn routes(arrivals: Shared) -> Router {
    Router::new()
        .route("/", get(page))
        .route("/received", get(received))
        .route("/hooks/{name}", post(hook))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(arrivals)
}

#[derive(Clone)]
struct Shared(Arc<(Webhook, Mutex<Arrivals>)>);

impl Shared {
    fn webhook(&self) -> &Webhook {
        &self.0.0
    }

    fn lock(&self) -> MutexGuard<'_, Arrivals> {
        self.0.1.lock().unwrap_or_else(PoisonError::into_inner) // every change to it is whole
    }
}

async fn hook(
    State(arrivals): State<Shared>,
    UrlPath(name): UrlPath<String>,
    headers: HeaderMap,
    body: Bytes,
) -> (StatusCode, String) {
    let verified = verify(arrivals.webhook(), &headers, &body);
    let mut arrived = arrivals.lock();
    let (status, said) = arrived.take(verified.as_deref());
    if status == StatusCode::OK {
        arrived.newest = Some(Verified { headers, body: body.clone() });
    }
    let id = verified.unwrap_or_else(|_| String::from("?"));
    let shown = Shown { at: chrono::Utc::now(), name, id, status, said: said.clone(), body: shortened(&body) };
    arrived.show(shown);
    (status, said)
}

/// Returns the delivery's id, or what is wrong with it.
fn verify(webhook: &Webhook, headers: &HeaderMap, body: &[u8]) -> Result<String, String> {
    webhook.verify(body, headers).map_err(|error| error.to_string())?;
    let id = headers.get(HEADER_WEBHOOK_ID).and_then(|id| id.to_str().ok()).unwrap_or_default();
    if id.is_empty() || id.len() > ID_BYTES_MAX {
        return Err(format!("the id has {} bytes instead of 1 to {ID_BYTES_MAX}", id.len()));
    }
    Ok(id.to_owned())
}

async fn received(State(arrivals): State<Shared>, Query(asked): Query<Asked>) -> Json<Received> {
    Json(arrivals.lock().received(asked.limit.unwrap_or(IDS_LISTED)))
}

#[derive(Deserialize)]
struct Asked {
    limit: Option<usize>,
}

/// What has arrived so far, in memory and in the file.
struct Arrivals {
    record: File,
    ids: Vec<Arc<str>>,
    known: HashSet<Arc<str>>,
    total: u64,
    invalid: u64,
    fail_next: u32,
    newest: Option<Verified>,
    shown: VecDeque<Shown>,
}

impl Arrivals {
    fn open(path: &Path, fail_next: u32) -> anyhow::Result<Self> {
        if let Some(above) = path.parent() {
            fs::create_dir_all(above)?;
        }
        let text = found(fs::read_to_string(path))?.unwrap_or_default();
        let whole = &text[..text.rfind('\n').map_or(0, |end| end + 1)]; // a line that was cut short was never answered
        let record = File::options().append(true).create(true).open(path)?;
        record.set_len(whole.len() as u64)?;
        let (ids, known, shown) = Default::default();
        let mut arrivals = Self { record, ids, known, total: 0, invalid: 0, fail_next, newest: None, shown };
        for id in whole.lines() {
            arrivals.count(id);
        }
        if arrivals.ids.len() > IDS_MAX {
            bail!("it holds more than {IDS_MAX} ids: delete it");
        }
        Ok(arrivals)
    }

    fn take(&mut self, verified: Result<&str, &String>) -> (StatusCode, String) {
        let id = match verified {
            Ok(id) => id,
            Err(why) => {
                self.invalid += 1;
                return (StatusCode::UNAUTHORIZED, why.clone());
            }
        };
        if self.fail_next > 0 {
            self.fail_next -= 1;
            return (StatusCode::INTERNAL_SERVER_ERROR, "told to fail".to_owned());
        }
        if self.ids.len() == IDS_MAX && !self.known.contains(id) {
            return (StatusCode::SERVICE_UNAVAILABLE, format!("the record is full: it holds {IDS_MAX} ids"));
        }
        match self.record.write_all(format!("{id}\n").as_bytes()) {
            Ok(()) => (StatusCode::OK, if self.count(id) { "verified" } else { "verified, and known" }.to_owned()),
            Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("could not record it: {error}")),
        }
    }

    /// Says whether the id is new.
    fn count(&mut self, id: &str) -> bool {
        self.total += 1;
        if self.known.contains(id) {
            return false;
        }
        let id: Arc<str> = id.into();
        self.known.insert(id.clone());
        self.ids.push(id);
        true
    }

    fn received(&self, limit: usize) -> Received {
        Received {
            distinct: self.ids.len(),
            total: self.total,
            invalid: self.invalid,
            ids: self.ids.iter().take(limit).map(|id| id.to_string()).collect(),
        }
    }

    fn show(&mut self, shown: Shown) {
        self.shown.truncate(SHOWN_MAX - 1);
        self.shown.push_front(shown);
    }
}

/// One delivery as the page shows it.
struct Shown {
    at: chrono::DateTime<chrono::Utc>,
    name: String,
    id: String,
    status: StatusCode,
    said: String,
    body: String,
}

fn shortened(body: &[u8]) -> String {
    String::from_utf8_lossy(body).chars().take(SHOWN_CHARACTERS).collect()
}

async fn page(State(arrivals): State<Shared>) -> Html<String> {
    let arrivals = arrivals.lock();
    let rows: String = arrivals.shown.iter().map(row).collect();
    Html(format!(
        "<!doctype html><html lang=en><meta charset=utf-8><meta http-equiv=refresh content=3><title>Webhooks</title>\
         <style>body{{font:14px system-ui;margin:2em}}td,th{{text-align:left;vertical-align:top;padding:.3em .8em .3em 0}}\
         code{{word-break:break-all}}</style>\
         <h1>Webhooks that arrived here</h1>\
         <p>{} deliveries verified, {} of them distinct; {} refused. The newest {} that came since the start:</p>\
         <table><tr><th>when<th>to<th>id<th>answer<th>body</tr>{rows}</table></html>\n",
        arrivals.total,
        arrivals.ids.len(),
        arrivals.invalid,
        SHOWN_MAX,
    ))
}

fn row(shown: &Shown) -> String {
    format!(
        "<tr><td>{}<td>{}<td><code>{}</code><td>{} {}<td><code>{}</code></tr>",
        shown.at.format("%H:%M:%S%.3f"),
        escaped(&shown.name),
        escaped(&shown.id),
        shown.status.as_u16(),
        escaped(&shown.said),
        escaped(&shown.body)
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::Conversation;
    use std::net::Ipv4Addr;
    use tempfile::TempDir;

    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    /// A receiver on a free port.
    struct Desk(Receiver);

    impl Desk {
        async fn open(dir: &TempDir, fail_first: u32) -> Self {
            let (listen, record) = (SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), dir.path().join("receiver/ids"));
            Self(receive(ReceiverOptions { listen, secret: SECRET.to_owned(), record, fail_first }).await.unwrap())
        }

        fn deliver(&self, id: &str, body: &str, signed: &str) -> u16 {
            let now = chrono::Utc::now().timestamp();
            let signature = Webhook::new(SECRET).unwrap().sign(id, now, signed.as_bytes()).unwrap();
            let headers = format!(
                "webhook-id: {id}\r\nwebhook-timestamp: {now}\r\nwebhook-signature: {signature}\r\ncontent-length: {}",
                body.len()
            );
            let answer = self.ask("POST /hooks/demo", &headers, body);
            answer.split(' ').nth(1).unwrap().parse().unwrap()
        }

        fn get(&self, path: &str) -> String {
            let answer = self.ask(&format!("GET {path}"), "accept: */*", "");
            answer.split_once("\r\n\r\n").unwrap().1.to_owned()
        }

        fn ask(&self, what: &str, headers: &str, body: &str) -> String {
            let mut conversation = Conversation::open(self.0.address().port()).unwrap();
            let request = format!("{what} HTTP/1.1\r\nhost: here\r\nconnection: close\r\n{headers}\r\n\r\n{body}");
            conversation.send(request.as_bytes()).unwrap();
            conversation.receive_all(100_000).unwrap()
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn what_is_signed_is_counted_once_an_id_and_what_is_not_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let desk = Desk::open(&dir, 0).await;
        assert_eq!(desk.deliver("one", "{}", "{}"), 200);
        assert_eq!(desk.deliver("one", "{}", "{}"), 200);
        assert_eq!(desk.deliver("two", "{\"changed\":1}", "{}"), 401);
        let said: Received = serde_json::from_str(&desk.get("/received")).unwrap();
        assert_eq!(said, Received { distinct: 1, total: 2, invalid: 1, ids: vec!["one".to_owned()] });
        assert_eq!(desk.0.received(), said);
        desk.0.stop().await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn ids_survive_a_restart_and_a_line_cut_short() {
        let dir = tempfile::tempdir().unwrap();
        let desk = Desk::open(&dir, 0).await;
        desk.deliver("one", "{}", "{}");
        desk.0.stop().await;
        File::options().append(true).open(dir.path().join("receiver/ids")).unwrap().write_all(b"tw").unwrap();
        let desk = Desk::open(&dir, 0).await;
        desk.deliver("three", "{}", "{}");
        assert_eq!(desk.0.received().ids, ["one", "three"]);
        desk.0.stop().await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn told_to_fail_it_fails_as_often_as_told() {
        let dir = tempfile::tempdir().unwrap();
        let desk = Desk::open(&dir, 2).await;
        let answers =
            [desk.deliver("one", "{}", "{}"), desk.deliver("one", "{}", "{}"), desk.deliver("one", "{}", "{}")];
        assert_eq!(answers, [500, 500, 200]);
        assert_eq!(desk.0.received().total, 1);
        desk.0.stop().await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn the_page_shows_bodies_as_text() {
        let dir = tempfile::tempdir().unwrap();
        let desk = Desk::open(&dir, 0).await;
        desk.deliver("one", "{\"a\":\"<script>\"}", "{\"a\":\"<script>\"}");
        let page = desk.get("/");
        assert!(page.contains("&lt;script&gt;") && !page.contains("<script>"), "{page}");
        desk.0.stop().await;
    }
}
