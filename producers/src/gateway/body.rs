//! A request's body: read in time, inflated within a bound, and counted against what all requests may hold.

use super::answer::Problem;
use super::metrics::GatewayMetrics;
use axum::body::Body;
use axum::http::{HeaderMap, StatusCode, header};
use http_body_util::BodyExt;
use prometheus_client::metrics::gauge::Gauge;
use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// From the end of the headers to the end of the body: 8 MiB over a slow line, and no room for who sends a byte a second.
pub const BODY_DEADLINE: Duration = Duration::from_secs(10);
/// What is read of a body that was refused: twice what any may have, as long as it comes quickly.
const DISCARDED_BYTES_MAX: usize = 16 << 20;
const DISCARD_DEADLINE: Duration = Duration::from_secs(2);
/// What a request weighs before its body: buffers of the connection, headers, the answer.
const REQUEST_BYTES: usize = 16 << 10;
/// How much is inflated between two looks at the bounds.
const CHUNK_BYTES: usize = 64 << 10;
/// The window that a zstd frame may ask for: what RFC 8878 wants every decoder to have, 8 MiB.
const ZSTD_WINDOW_LOG_MAX: u32 = 23;
/// Bytes that one permit stands for, because a semaphore counts by 32 bits.
const PERMIT_BYTES: usize = 1 << 10;

pub(super) struct Limits {
    /// Inflated.
    pub body_bytes: usize,
}

/// The memory that bodies may have, of all requests together.
#[derive(Clone)]
pub(super) struct Inflight {
    permits: Arc<Semaphore>,
    gauge: Gauge,
}

impl Inflight {
    pub fn new(bytes: usize, metrics: &GatewayMetrics) -> Self {
        Self { permits: Arc::new(Semaphore::new(bytes / PERMIT_BYTES)), gauge: metrics.inflight_bytes.clone() }
    }

    /// A request's part, which grows as it is read. Nobody waits for memory: who waits holds some already.
    pub fn begin(&self) -> Result<Held, Problem> {
        let permit = self.permits.clone().try_acquire_many_owned(0).map_err(|_| Problem::busy())?;
        let mut held = Held { permit, permits: self.permits.clone(), gauge: self.gauge.clone(), bytes: 0 };
        held.grow(REQUEST_BYTES)?;
        Ok(held)
    }
}

/// Given back when dropped.
pub(super) struct Held {
    permit: OwnedSemaphorePermit,
    permits: Arc<Semaphore>,
    gauge: Gauge,
    bytes: usize,
}

impl Held {
    pub fn grow(&mut self, bytes: usize) -> Result<(), Problem> {
        let wanted = (self.bytes + bytes).div_ceil(PERMIT_BYTES) - self.permit.num_permits();
        let more = u32::try_from(wanted).ok().and_then(|n| self.permits.clone().try_acquire_many_owned(n).ok());
        self.permit.merge(more.ok_or_else(Problem::busy)?);
        self.bytes += bytes;
        self.gauge.inc_by(bytes as i64);
        Ok(())
    }

    /// Gives back all but this much, which the answer needs until it is read.
    pub fn keep(&mut self, bytes: usize) {
        let bytes = bytes.min(self.bytes);
        let spare = self.permit.num_permits() - bytes.div_ceil(PERMIT_BYTES);
        // First what is shown: whoever gets them next shows them as well.
        self.gauge.dec_by((self.bytes - bytes) as i64);
        self.bytes = bytes;
        drop(self.permit.split(spare));
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.gauge.dec_by(self.bytes as i64);
    }
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Encoding {
    Plain,
    Gzip,
    Zstd,
}

pub(super) async fn read(
    headers: &HeaderMap,
    body: &mut Body,
    limits: &Limits,
    inflight: &Inflight,
) -> Result<(Vec<u8>, Held), Problem> {
    let encoding = encoding(headers)?;
    let mut held = inflight.begin()?;
    let body = match tokio::time::timeout(BODY_DEADLINE, collect(body, limits.body_bytes, &mut held)).await {
        Ok(body) => body?,
        Err(_) => {
            let detail = format!("the body did not arrive within {BODY_DEADLINE:?}; nothing was published");
            return Err(Problem::new(StatusCode::REQUEST_TIMEOUT, detail));
        }
    };
    if encoding == Encoding::Plain {
        return Ok((body, held));
    }
    let bytes_max = limits.body_bytes;
    // Megabytes take milliseconds, which other requests of this thread would wait for.
    let inflated = tokio::task::spawn_blocking(move || inflate(encoding, &body, bytes_max, held)).await;
    inflated.map_err(|error| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?
}

fn encoding(headers: &HeaderMap) -> Result<Encoding, Problem> {
    let Some(found) = headers.get(header::CONTENT_ENCODING) else { return Ok(Encoding::Plain) };
    match found.as_bytes().to_ascii_lowercase().trim_ascii() {
        b"" | b"identity" => Ok(Encoding::Plain),
        b"gzip" | b"x-gzip" => Ok(Encoding::Gzip),
        b"zstd" => Ok(Encoding::Zstd),
        _ => Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "content-encoding: gzip, zstd or none is read here")),
    }
}

async fn collect(body: &mut Body, bytes_max: usize, held: &mut Held) -> Result<Vec<u8>, Problem> {
    let announced = axum::body::HttpBody::size_hint(body).lower();
    if announced > bytes_max as u64 {
        return Err(too_large(bytes_max)); // said before a byte of it is read
    }
    let mut collected = Vec::new();
    while let Some(frame) = body.frame().await {
        let broken = |error: axum::Error| Problem::new(StatusCode::BAD_REQUEST, format!("the body broke off: {error}"));
        let Ok(data) = frame.map_err(broken)?.into_data() else { continue }; // trailers mean nothing here
        if collected.len() + data.len() > bytes_max {
            return Err(too_large(bytes_max));
        }
        held.grow(data.len())?;
        collected.extend_from_slice(&data);
    }
    Ok(collected)
}

/// Reads on for a while what nobody wants: a sender that is still writing would see a broken connection, not the answer.
pub(super) async fn discard(headers: &HeaderMap, body: &mut Body, status: StatusCode) {
    // The one had its time; the other waits until the body is asked for, which it won't be.
    if status == StatusCode::REQUEST_TIMEOUT || headers.contains_key(header::EXPECT) {
        return;
    }
    let reading = async {
        let mut left = DISCARDED_BYTES_MAX;
        while let Some(Ok(frame)) = body.frame().await {
            left = left.saturating_sub(frame.data_ref().map_or(0, axum::body::Bytes::len));
            if left == 0 {
                break;
            }
        }
    };
    let _ = tokio::time::timeout(DISCARD_DEADLINE, reading).await;
}

fn too_large(bytes_max: usize) -> Problem {
    let detail = format!("the body has more than {bytes_max} bytes, inflated (gateway.body_bytes): send fewer events");
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail)
}

fn inflate(encoding: Encoding, body: &[u8], bytes_max: usize, mut held: Held) -> Result<(Vec<u8>, Held), Problem> {
    let broken = |error: io::Error| {
        Problem::new(
            StatusCode::BAD_REQUEST,
            format!("the body can't be inflated as its content-encoding says: {error}"),
        )
    };
    let mut reader = reader(encoding, body).map_err(broken)?;
    let (mut inflated, mut chunk) = (Vec::new(), vec![0; CHUNK_BYTES]);
    loop {
        let read = reader.read(&mut chunk).map_err(broken)?;
        if read == 0 {
            drop(reader);
            return Ok((inflated, held));
        }
        if inflated.len() + read > bytes_max {
            return Err(too_large(bytes_max));
        }
        held.grow(read)?;
        inflated.extend_from_slice(&chunk[..read]);
    }
}

fn reader(encoding: Encoding, body: &[u8]) -> io::Result<Box<dyn Read + '_>> {
    if encoding == Encoding::Gzip {
        return Ok(Box::new(flate2::read::MultiGzDecoder::new(body)));
    }
    let mut decoder = zstd::stream::read::Decoder::new(body)?;
    decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
    Ok(Box::new(decoder))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    const BYTES_MAX: usize = 1 << 20;

    fn inflight(bytes: usize) -> Inflight {
        Inflight::new(bytes, &GatewayMetrics::default())
    }

    async fn sent(encoding: &str, body: Vec<u8>, inflight: &Inflight) -> Result<Vec<u8>, u16> {
        let headers = HeaderMap::from_iter([(header::CONTENT_ENCODING, encoding.parse().unwrap())]);
        let read = read(&headers, &mut Body::from(body), &Limits { body_bytes: BYTES_MAX }, inflight).await;
        read.map(|(body, _)| body).map_err(|problem| problem.status().as_u16())
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[tokio::test]
    async fn what_was_compressed_is_read_as_it_was() {
        let (inflight, text) = (inflight(8 << 20), b"events ".repeat(1000));
        for (encoding, body) in
            [("gzip", gzip(&text)), ("ZSTD", zstd::encode_all(&text[..], 3).unwrap()), ("identity", text.clone())]
        {
            assert_eq!(sent(encoding, body, &inflight).await, Ok(text.clone()), "{encoding}");
        }
        assert_eq!(sent("br", text.clone(), &inflight).await, Err(415));
        assert_eq!(sent("gzip", text, &inflight).await, Err(400));
        assert_eq!(inflight.permits.available_permits(), 8 << 10, "everything was given back");
    }

    #[tokio::test]
    async fn a_bomb_is_refused_at_the_bound_and_not_at_the_end_of_the_memory() {
        let (inflight, zeros) = (inflight(8 << 20), vec![0; 64 << 20]);
        for (encoding, bomb) in [("gzip", gzip(&zeros)), ("zstd", zstd::encode_all(&zeros[..], 3).unwrap())] {
            assert!(bomb.len() < 100_000);
            assert_eq!(sent(encoding, bomb, &inflight).await, Err(413), "{encoding}");
        }
        assert_eq!(sent("", vec![0; BYTES_MAX + 1], &inflight).await, Err(413));
    }

    #[tokio::test]
    async fn a_zstd_frame_that_asks_for_a_larger_window_than_the_bound_is_refused() {
        let mut encoder = zstd::stream::Encoder::new(Vec::new(), 3).unwrap();
        encoder.window_log(27).unwrap();
        encoder.long_distance_matching(true).unwrap();
        encoder.write_all(&[7; 1000]).unwrap();
        encoder.flush().unwrap();
        assert_eq!(sent("zstd", encoder.finish().unwrap(), &inflight(8 << 20)).await, Err(400));
    }

    #[tokio::test]
    async fn requests_beyond_the_memory_are_sent_away_and_those_in_hand_go_on() {
        let inflight = inflight(1 << 20);
        let held = inflight.begin().unwrap();
        assert_eq!(sent("", vec![0; BYTES_MAX - (20 << 10)], &inflight).await, Err(429));
        drop(held);
        assert!(sent("", vec![0; BYTES_MAX - (20 << 10)], &inflight).await.is_ok());
        assert_eq!(inflight.permits.available_permits(), 1 << 10);
        assert_eq!(inflight.gauge.get(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_come_is_given_up_in_time() {
        let (inflight, never) = (inflight(8 << 20), futures_util::stream::pending::<Result<Vec<u8>, io::Error>>());
        let read =
            read(&HeaderMap::new(), &mut Body::from_stream(never), &Limits { body_bytes: BYTES_MAX }, &inflight).await;
        assert_eq!(read.err().unwrap().status(), StatusCode::REQUEST_TIMEOUT);
    }
}
