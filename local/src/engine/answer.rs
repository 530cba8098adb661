//! An answer on its way from a statement to the client: headers, packing, exceptions.
//!
//! The first bytes are held back until there are too many or the statement is done, so that an early failure still
//! gets its own status. After that an exception comes in the body, marked by the tag of the header
//! `X-ClickHouse-Exception-Tag`, and an answer that just stops breaks its connection: it never looks whole.

use super::compression::{Coding, Packer};
use super::connections::Engine;
use super::exception::{Exception, raise};
use super::library::Counts;
use super::request::Asked;
use super::running::{Client, Statement};
use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream;
use std::io::Read;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::mpsc;

/// A server sends its headers when as much of the answer is there.
const HELD_BYTES: usize = 1 << 20;
/// `wait_end_of_query` holds back everything, but not more than memory can take.
const HELD_WHOLE_BYTES_MAX: usize = 256 << 20;
/// Blocks on their way to the client, each at most a pipe's content.
const REPLIES_MAX: usize = 8;
/// A client that takes nothing for so long does not come back for the rest.
const STALL_MAX: Duration = Duration::from_secs(300);
/// What a pipe holds.
const BLOCK_BYTES: usize = 64 << 10;

enum Reply {
    Whole(Box<Response>),
    Begin(Box<Response<()>>),
    Data(Bytes),
    End,
}

/// The statement's side.
pub struct Answer {
    replies: mpsc::Sender<Reply>,
    runtime: Handle,
    engine: Arc<Engine>,
    statement: Arc<Statement>,
    headers: HeaderMap,
    coding: Coding,
    packer: Option<Packer>,
    held: Vec<u8>,
    whole: bool,
    begun: bool,
    tag: String,
    started: Instant,
}

/// The client's side.
pub struct Replies(mpsc::Receiver<Reply>);

/// Why an answer takes no more.
#[derive(Debug)]
pub enum Stopped {
    /// The client is gone, or takes nothing.
    Gone,
    Refused(Exception),
}

pub fn channel(engine: &Arc<Engine>, statement: Arc<Statement>, asked: &Asked) -> (Answer, Replies) {
    let (sender, receiver) = mpsc::channel(REPLIES_MAX);
    let tag: String = uuid::Uuid::new_v4().as_bytes().iter().map(|byte| char::from(b'a' + byte % 26)).collect();
    let mut headers = common_headers(engine, &asked.query_id);
    insert(&mut headers, "x-clickhouse-exception-tag", &tag);
    if let Some(zone) = asked.settings.iter().find(|(name, _)| name == "session_timezone") {
        insert(&mut headers, "x-clickhouse-timezone", &zone.1);
    }
    let answer = Answer {
        replies: sender,
        runtime: Handle::current(),
        engine: Arc::clone(engine),
        statement,
        headers,
        coding: asked.answer,
        packer: None,
        held: Vec::new(),
        whole: asked.wait_end_of_query,
        begun: false,
        tag,
        started: Instant::now(),
    };
    (answer, Replies(receiver))
}

impl Answer {
    /// Names the format of what follows.
    pub fn format(&mut self, format: &str) {
        insert(&mut self.headers, "x-clickhouse-format", self.engine.facts.format_name(format));
        insert(&mut self.headers, header::CONTENT_TYPE.as_str(), self.engine.facts.content_type(format));
    }

    /// Everything that comes out of `source`, to its end. When the client is gone `source` is closed, and the engine
    /// ends what it can't write.
    pub fn copy(&mut self, mut source: impl Read) -> Result<(), Stopped> {
        let mut block = vec![0; BLOCK_BYTES];
        loop {
            match source.read(&mut block) {
                Ok(0) => return Ok(()),
                Ok(length) => self.data(&block[..length])?,
                Err(error) => {
                    return Err(Stopped::Refused(raise::UNKNOWN_EXCEPTION(format!(
                        "could not read the answer: {error}"
                    ))));
                }
            }
        }
    }

    pub fn data(&mut self, block: &[u8]) -> Result<(), Stopped> {
        let packed = self.pack(block)?;
        if self.begun {
            return self.send(Reply::Data(packed.into()));
        }
        self.held.extend_from_slice(&packed);
        match self.held.len() {
            held if self.whole && held > HELD_WHOLE_BYTES_MAX => {
                Err(Stopped::Refused(raise::MEMORY_LIMIT_EXCEEDED(format!(
                    "wait_end_of_query holds back at most {HELD_WHOLE_BYTES_MAX} bytes of an answer: ask without it"
                ))))
            }
            held if !self.whole && held > HELD_BYTES => self.begin(),
            _ => Ok(()),
        }
    }

    /// Ends a good answer.
    pub fn finish(mut self, counts: Counts) {
        let Ok(last) = self.packer.take().map_or(Ok(Vec::new()), Packer::finish) else { return };
        if self.begun {
            let _ = self.send(Reply::Data(last.into())).and_then(|()| self.send(Reply::End));
            return; // nobody to tell if the client is gone
        }
        self.held.extend(last);
        self.summary(counts);
        let held = std::mem::take(&mut self.held);
        let _ = self.send_whole(StatusCode::OK, held);
    }

    /// Ends an answer that failed.
    pub fn fail(mut self, exception: &Exception) {
        let _ = if self.begun { self.fail_late(exception) } else { self.fail_early(exception) };
    }

    fn fail_early(&mut self, exception: &Exception) -> Result<(), Stopped> {
        self.packer = None;
        let line = exception.line(&self.engine.facts.version);
        let mut body = self.pack(line.as_bytes())?;
        body.extend(self.packer.take().map_or(Ok(Vec::new()), Packer::finish).map_err(|_| Stopped::Gone)?);
        insert(&mut self.headers, "x-clickhouse-exception-code", &exception.code.to_string());
        insert(&mut self.headers, header::CONTENT_TYPE.as_str(), "text/plain; charset=UTF-8");
        self.summary(Counts::default());
        self.send_whole(exception.status(), body)
    }

    /// The form that servers use since 25.11: what is before the tag is data, what is between the tags is not.
    fn fail_late(&mut self, exception: &Exception) -> Result<(), Stopped> {
        let (line, tag) = (exception.line(&self.engine.facts.version), self.tag.clone());
        let length = line.len();
        let marked = format!("\r\n__exception__\r\n{tag}\r\n{line}{length} {tag}\r\n__exception__\r\n");
        let packed = self.pack(marked.as_bytes())?;
        self.send(Reply::Data(packed.into()))?;
        let last = self.packer.take().map_or(Ok(Vec::new()), Packer::finish).map_err(|_| Stopped::Gone)?;
        self.send(Reply::Data(last.into()))?;
        self.send(Reply::End)
    }

    fn pack(&mut self, block: &[u8]) -> Result<Vec<u8>, Stopped> {
        let refused = |error: std::io::Error| {
            Stopped::Refused(raise::UNKNOWN_EXCEPTION(format!("could not pack the answer: {error}")))
        };
        let packer = match self.packer.take() {
            Some(packer) => packer,
            None => Packer::new(self.coding).map_err(refused)?,
        };
        self.packer.insert(packer).pack(block).map_err(refused)
    }

    fn begin(&mut self) -> Result<(), Stopped> {
        if let Some(counts) = self.engine.progress(&self.statement) {
            self.summary(counts);
        }
        let mut response = Response::new(());
        *response.headers_mut() = self.headers_to_send();
        self.begun = true;
        self.send(Reply::Begin(Box::new(response)))?;
        let held = std::mem::take(&mut self.held);
        self.send(Reply::Data(held.into()))
    }

    fn send_whole(&mut self, status: StatusCode, body: Vec<u8>) -> Result<(), Stopped> {
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = status;
        *response.headers_mut() = self.headers_to_send();
        self.send(Reply::Whole(Box::new(response)))
    }

    fn headers_to_send(&mut self) -> HeaderMap {
        if let Some(name) = self.coding.name() {
            insert(&mut self.headers, header::CONTENT_ENCODING.as_str(), name);
        }
        std::mem::take(&mut self.headers)
    }

    /// What the engine has counted up to now.
    fn summary(&mut self, counts: Counts) {
        let elapsed = self.started.elapsed().as_nanos();
        let summary = serde_json::json!({
            "read_rows": counts.read_rows.to_string(),
            "read_bytes": counts.read_bytes.to_string(),
            "written_rows": counts.written_rows.to_string(),
            "written_bytes": counts.written_bytes.to_string(),
            "total_rows_to_read": "0", // the engine does not say
            "result_rows": counts.result_rows.to_string(),
            "result_bytes": counts.result_bytes.to_string(),
            "elapsed_ns": elapsed.to_string(),
        });
        insert(&mut self.headers, "x-clickhouse-summary", &summary.to_string());
    }

    fn send(&self, reply: Reply) -> Result<(), Stopped> {
        let sent = self.runtime.block_on(async { tokio::time::timeout(STALL_MAX, self.replies.send(reply)).await });
        match sent {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Stopped::Gone),
        }
    }
}

impl Replies {
    /// The HTTP response; `client` is dropped when it has everything, or is gone.
    pub async fn response(mut self, client: Client) -> Option<Response> {
        match self.0.recv().await? {
            Reply::Whole(response) => Some(*response),
            Reply::Begin(response) => {
                let body = stream::unfold((self.0, Some(client)), next_piece);
                Some(response.map(|()| Body::from_stream(body)))
            }
            Reply::Data(_) | Reply::End => None,
        }
    }
}

type Rest = (mpsc::Receiver<Reply>, Option<Client>);

async fn next_piece((mut replies, client): Rest) -> Option<(Result<Bytes, std::io::Error>, Rest)> {
    client.as_ref()?;
    match replies.recv().await {
        Some(Reply::Data(data)) => Some((Ok(data), (replies, client))),
        Some(Reply::End) => None,
        _ => Some((Err(std::io::Error::other("the answer broke off")), (replies, None))),
    }
}

/// An answer to a request that never became a statement.
pub fn refusal(engine: &Engine, query_id: &str, exception: &Exception) -> Response {
    let mut response = Response::new(Body::from(exception.line(&engine.facts.version)));
    *response.status_mut() = exception.status();
    let mut headers = common_headers(engine, query_id);
    insert(&mut headers, "x-clickhouse-exception-code", &exception.code.to_string());
    insert(&mut headers, header::CONTENT_TYPE.as_str(), "text/plain; charset=UTF-8");
    *response.headers_mut() = headers;
    response
}

fn common_headers(engine: &Engine, query_id: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    insert(&mut headers, "x-clickhouse-query-id", query_id);
    insert(&mut headers, "x-clickhouse-timezone", &engine.facts.timezone);
    insert(&mut headers, "x-clickhouse-server-display-name", &engine.facts.display_name);
    headers
}

/// A value that a header can't carry is left out: better than no answer.
fn insert(headers: &mut HeaderMap, name: &str, value: &str) {
    if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::from_str(value)) {
        headers.insert(name, value);
    }
}
