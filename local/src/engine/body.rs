//! A request's body on its way from the network to the thread that runs the statement: a bounded channel, read there
//! as [`std::io::Read`]. A body that breaks off never looks like one that ended.

use super::exception::{Exception, raise};
use axum::body::Body;
use bytes::{Buf as _, Bytes};
use futures_util::StreamExt as _;
use std::io::{self, Read};
use std::time::Duration;
use tokio::sync::mpsc;

/// Pieces under way; hyper's are at most some hundred KiB.
const PIECES_MAX: usize = 8;
/// As a server's `http_receive_timeout`: a silent client must not keep a place.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// Some clients only look for an answer after they have sent everything: so much is read from them for nothing.
const DISCARDED_BYTES_MAX: u64 = 64 << 20;

enum Piece {
    Data(Bytes),
    End,
    Broken(Exception),
}

/// Sends a body on; ends by itself with the body, an error, or the reader's end.
pub struct Pump {
    pieces: mpsc::Sender<Piece>,
    bytes_max: u64,
}

/// The body, for a thread that may wait.
pub struct BodyReader {
    pieces: mpsc::Receiver<Piece>,
    current: Bytes,
    ended: bool,
}

pub fn channel(bytes_max: u64) -> (Pump, BodyReader) {
    let (sender, receiver) = mpsc::channel(PIECES_MAX);
    (Pump { pieces: sender, bytes_max }, BodyReader { pieces: receiver, current: Bytes::new(), ended: false })
}

impl Pump {
    pub async fn run(self, body: Body) {
        let last = match self.pump(body).await {
            Ok(()) => Piece::End,
            Err(exception) => Piece::Broken(exception),
        };
        let _ = self.pieces.send(last).await; // nobody may be reading any more: nobody needs to know
    }

    async fn pump(&self, body: Body) -> Result<(), Exception> {
        let mut body = body.into_data_stream();
        let (mut bytes, mut discarded) = (0, 0);
        while discarded <= DISCARDED_BYTES_MAX {
            let next = tokio::time::timeout(SILENCE_MAX, body.next()).await;
            let next = next.map_err(|_| raise::SOCKET_TIMEOUT(format!("no bytes of the body for {SILENCE_MAX:?}")))?;
            let Some(data) = next else { return Ok(()) };
            let data = data.map_err(|error| raise::NETWORK_ERROR(format!("the request's body broke off: {error}")))?;
            let length = data.len() as u64;
            bytes += length;
            if bytes > self.bytes_max {
                return Err(too_large(self.bytes_max));
            }
            if self.pieces.send(Piece::Data(data)).await.is_err() {
                discarded += length;
            }
        }
        Ok(())
    }
}

pub fn too_large(bytes_max: u64) -> Exception {
    raise::QUERY_IS_TOO_LARGE(format!("a request's body may have {bytes_max} bytes: send the rows in several inserts"))
}

impl Read for BodyReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() && !self.ended {
            match self.pieces.blocking_recv() {
                Some(Piece::Data(data)) => self.current = data,
                Some(Piece::End) => self.ended = true,
                Some(Piece::Broken(exception)) => return Err(io::Error::other(exception)),
                None => return Err(io::Error::other(raise::NETWORK_ERROR("the client went away"))),
            }
        }
        let taken = buffer.len().min(self.current.len());
        buffer[..taken].copy_from_slice(&self.current[..taken]);
        self.current.advance(taken);
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::stream;

    fn read(body: Body, bytes_max: u64) -> io::Result<Vec<u8>> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (pump, mut reader) = channel(bytes_max);
        let reading = std::thread::spawn(move || {
            let mut data = Vec::new();
            reader.read_to_end(&mut data).map(|_| data)
        });
        runtime.block_on(pump.run(body));
        reading.join().unwrap()
    }

    #[test]
    fn a_body_arrives_whole_and_in_order() {
        let pieces = (0..100_u8).map(|piece| Ok::<_, io::Error>(Bytes::from(vec![piece; 1000])));
        let data = read(Body::from_stream(stream::iter(pieces)), 1 << 20).unwrap();
        assert!(data.len() == 100_000 && data.iter().enumerate().all(|(at, byte)| at / 1000 == usize::from(*byte)));
    }

    #[test]
    fn a_body_that_breaks_off_or_is_too_large_is_an_error() {
        let pieces = [Ok(Bytes::from_static(b"INSERT")), Err(io::Error::other("gone"))];
        let broken = read(Body::from_stream(stream::iter(pieces)), 1 << 20).unwrap_err();
        assert_eq!(Exception::from(broken).code, 210);
        let large = read(Body::from(vec![0; 101]), 100).unwrap_err();
        assert_eq!(Exception::from(large).code, 229);
    }
}
