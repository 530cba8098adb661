//! The load: connections that stay open, and requests that are made beforehand and get new ids. Knows of HTTP only what
//! two servers on hyper answer, so that as little as possible of the machine is its own.

use crate::freshness::quantiles;
use crate::report::Figures;
use anyhow::{Context, ensure};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use uuid::Uuid;

/// Stands where each event's id goes, and its order's: the same, for there is one event an order.
const MARK: &str = "019ab523-41c9-7e6f-b2d4-8a7c05e19f3b";
/// An answer that has not come by then never will: the gateway gives up long before.
pub const ANSWER_DEADLINE: Duration = Duration::from_secs(60);

/// Who is asked, and by whom.
#[derive(Clone)]
pub struct Target {
    pub address: String,
    pub token: String,
}

/// When the next request of a connection is sent.
#[derive(Clone, Copy)]
pub enum Pace {
    /// As soon as the answer to the one before was read.
    Closed,
    /// So many a second of all connections together, whatever the answers do: time counts from when it was due.
    Open(f64),
}

/// One request, as it is sent; and where the ids stand in it.
#[derive(Clone)]
pub struct Request {
    pub events: usize,
    pub body_bytes: usize,
    pub bytes: Vec<u8>,
    marks: Vec<usize>,
}

pub struct Load {
    connections: Vec<Connection>,
    events: usize,
}

/// What came of a while of load.
#[derive(Default)]
pub struct Outcome {
    pub accepted: u64,
    pub refused: u64,
    /// To the last answer.
    pub seconds: f64,
    events_a_request: u64,
    millis: Vec<f64>,
}

struct Connection {
    target: Target,
    stream: TcpStream,
    request: Request,
    answer: Vec<u8>,
}

/// The order of 500 bytes that `schemas/benches` encodes.
fn event() -> Value {
    let line = |last: u8| json!({ "product_id": format!("0198c0d4-1f6a-7b3e-8d27-5ac94e10b7f{last}"), "quantity": 2, "unit_price": 4491 });
    let order = json!({
        "order_id": MARK, "user_id": "019a8f3c-5d21-7c44-9b0e-3f6a1d2c7e58",
        "session_id": "019ab51d-7e42-7d1b-a6c8-90f2b7e3c415", "lines": [line(1), line(2), line(3)],
        "total": 26946, "currency": "EUR", "coupon": "WELCOME10-FOR-THE-FIRST-ORDER-OF-2026",
    });
    json!({ "specversion": "1.0", "id": MARK, "source": "/bench", "type": "order.placed", "data": order })
}

/// The data alone, and what stands in it for the order's id.
pub fn order() -> (String, &'static str) {
    (event()["data"].to_string(), MARK)
}

impl Request {
    /// One event in structured mode, more as a batch.
    pub fn of(events: usize, target: &Target) -> Self {
        let (kind, body) = match events {
            1 => ("cloudevents", event().to_string()),
            _ => ("cloudevents-batch", Value::Array(vec![event(); events]).to_string()),
        };
        let bytes = format!("{}{body}", head(target, &format!("application/{kind}+json"), body.len()));
        let marks = bytes.match_indices(MARK).map(|(at, _)| at).collect();
        Self { events, body_bytes: body.len(), bytes: bytes.into_bytes(), marks }
    }

    fn renew(&mut self) {
        for marks in self.marks.chunks_exact(2) {
            let id = Uuid::now_v7();
            for at in marks {
                id.hyphenated().encode_lower(&mut self.bytes[*at..*at + MARK.len()]);
            }
        }
    }
}

/// Of a request with a body of so many bytes.
pub fn head(target: &Target, content_type: &str, body_bytes: usize) -> String {
    let Target { address, token } = target;
    format!(
        "POST /v1/events HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {token}\r\n\
         content-type: {content_type}\r\ncontent-length: {body_bytes}\r\n\r\n"
    )
}

impl Load {
    pub async fn connect(target: &Target, connections: usize, request: &Request) -> anyhow::Result<Self> {
        let mut opened = Vec::with_capacity(connections);
        for _ in 0..connections {
            opened.push(Connection::open(target.clone(), request.clone()).await?);
        }
        Ok(Self { connections: opened, events: request.events })
    }

    /// Sends for so long, and reads what is still to be answered then.
    pub async fn run(&mut self, pace: Pace, time: Duration) -> anyhow::Result<Outcome> {
        let (began, mut running) = (Instant::now(), JoinSet::new());
        let count = self.connections.len() as f64;
        for (at, mut connection) in self.connections.drain(..).enumerate() {
            let due = match pace {
                Pace::Closed => None,
                Pace::Open(rate) => Some((began + Duration::from_secs_f64(at as f64 / rate), count / rate)),
            };
            running.spawn(async move {
                let answers = connection.drive(due, began + time).await;
                (connection, answers)
            });
        }
        let mut outcome = Outcome { events_a_request: self.events as u64, ..Outcome::default() };
        while let Some(ended) = running.join_next().await {
            let (connection, answers) = ended?;
            outcome.count(&answers?);
            self.connections.push(connection);
        }
        outcome.seconds = began.elapsed().as_secs_f64();
        Ok(outcome)
    }
}

impl Outcome {
    fn count(&mut self, answers: &[(u16, Duration)]) {
        let accepted = answers.iter().filter(|(status, _)| *status == 202).count() as u64;
        self.accepted += accepted;
        self.refused += answers.len() as u64 - accepted;
        self.millis.extend(answers.iter().map(|(_, took)| took.as_secs_f64() * 1e3));
    }

    pub fn events(&self) -> u64 {
        self.accepted * self.events_a_request
    }

    /// # Errors
    /// Where a request was refused, which is no load.
    pub fn figures(&self) -> anyhow::Result<Figures> {
        ensure!(self.refused == 0, "{} requests were refused", self.refused);
        let mut figures = quantiles(&self.millis)?;
        figures.insert("requests_per_s", self.accepted as f64 / self.seconds);
        Ok(figures)
    }
}

impl Connection {
    async fn open(target: Target, request: Request) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(&target.address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { target, stream, request, answer: Vec::with_capacity(16 << 10) })
    }

    /// `due`: when the first request is, and the seconds between two.
    async fn drive(&mut self, due: Option<(Instant, f64)>, until: Instant) -> anyhow::Result<Vec<(u16, Duration)>> {
        let mut answers = Vec::new();
        let mut next = due.map(|(first, _)| first);
        loop {
            let since = next.unwrap_or_else(Instant::now);
            if since >= until {
                return Ok(answers);
            }
            sleep_until(since).await;
            self.request.renew();
            let status = tokio::time::timeout(ANSWER_DEADLINE, self.exchange()).await.context("no answer")?;
            if status.is_err() {
                self.stream = TcpStream::connect(&self.target.address).await?; // it was closed: a refusal
            }
            answers.push((status.unwrap_or_default(), since.elapsed()));
            next = due.map(|(_, every)| since + Duration::from_secs_f64(every));
        }
    }

    async fn exchange(&mut self) -> anyhow::Result<u16> {
        self.stream.write_all(&self.request.bytes).await?;
        answer(&mut self.stream, &mut self.answer).await
    }
}

/// Reads one answer, and returns its status.
pub async fn answer(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> anyhow::Result<u16> {
    buffer.clear();
    loop {
        ensure!(stream.read_buf(buffer).await? > 0, "the connection was closed");
        let Some(head) = buffer.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
        let text = std::str::from_utf8(&buffer[..head])?;
        let length = text.lines().find_map(|line| line.strip_prefix("content-length: "));
        let (status, length): (u16, usize) =
            (text.get(9..12).context("no status")?.parse()?, length.unwrap_or("0").parse()?);
        let missing = (head + 4 + length).saturating_sub(buffer.len());
        let read = buffer.len();
        buffer.resize(read + missing, 0);
        stream.read_exact(&mut buffer[read..]).await?;
        return Ok(status);
    }
}
