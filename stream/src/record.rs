//! One record of the log as it was found: key, value and headers in a single allocation.

use chrono::{DateTime, Utc};
use std::fmt;
use std::sync::Arc;

/// Where in the log: the identity of a record.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Position {
    pub topic: Arc<str>,
    pub partition: i32,
    pub offset: i64,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}]@{}", self.topic, self.partition, self.offset)
    }
}

/// Where something lies in a record's buffer. Kafka's own sizes have 31 bits.
#[derive(Debug, Clone, Copy)]
struct Span {
    start: u32,
    end: u32,
}

/// A record, still encoded; everything is borrowed from one buffer.
#[derive(Debug, Clone)]
pub struct Record {
    pub position: Position,
    /// When the broker or the producer stamped it, whichever the topic is set to.
    pub timestamp: Option<DateTime<Utc>>,
    bytes: Vec<u8>,
    key: Option<Span>,
    value: Option<Span>,
    headers: Vec<(Span, Option<Span>)>,
}

impl Record {
    pub fn key(&self) -> Option<&[u8]> {
        self.key.map(|span| self.at(span))
    }

    /// `None` is a tombstone.
    pub fn value(&self) -> Option<&[u8]> {
        self.value.map(|span| self.at(span))
    }

    /// Headers in the order they were written; a name may repeat, a value may be null.
    pub fn headers(&self) -> impl Iterator<Item = (&str, Option<&[u8]>)> {
        self.headers.iter().map(|(name, value)| {
            let name = std::str::from_utf8(self.at(*name)).unwrap_or_default();
            (name, value.map(|span| self.at(span)))
        })
    }

    pub fn header(&self, wanted: &str) -> Option<&[u8]> {
        self.headers().find(|(name, _)| *name == wanted).and_then(|(_, value)| value)
    }

    /// What it weighs in a queue, in bytes.
    pub fn weight(&self) -> usize {
        let headers = self.headers.capacity() * std::mem::size_of::<(Span, Option<Span>)>();
        std::mem::size_of::<Self>() + self.bytes.capacity() + headers
    }

    fn at(&self, span: Span) -> &[u8] {
        &self.bytes[span.start as usize..span.end as usize]
    }
}

/// An event's headers and their names, as our producers write them; more of them make the buffers grow.
const HEADERS: usize = 16;
const HEADERS_BYTES: usize = 512;

/// Copies the parts of a record into its one buffer.
pub struct RecordBuilder {
    buffer: Vec<u8>,
    key: Option<Span>,
    value: Option<Span>,
    headers: Vec<(Span, Option<Span>)>,
}

impl RecordBuilder {
    pub fn new(key: Option<&[u8]>, value: Option<&[u8]>) -> Self {
        let size = key.map_or(0, <[u8]>::len) + value.map_or(0, <[u8]>::len);
        let (buffer, headers) = (Vec::with_capacity(size + HEADERS_BYTES), Vec::with_capacity(HEADERS));
        let mut builder = Self { buffer, key: None, value: None, headers };
        builder.key = key.map(|bytes| builder.push(bytes));
        builder.value = value.map(|bytes| builder.push(bytes));
        builder
    }

    #[must_use]
    pub fn header(mut self, name: &str, value: Option<&[u8]>) -> Self {
        let name = self.push(name.as_bytes());
        let value = value.map(|bytes| self.push(bytes));
        self.headers.push((name, value));
        self
    }

    pub fn build(self, position: Position, timestamp: Option<DateTime<Utc>>) -> Record {
        let Self { buffer, key, value, headers } = self;
        Record { position, timestamp, bytes: buffer, key, value, headers }
    }

    fn push(&mut self, bytes: &[u8]) -> Span {
        let start = self.buffer.len() as u32;
        self.buffer.extend_from_slice(bytes);
        Span { start, end: self.buffer.len() as u32 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_is_read_back_as_it_was() {
        let position = Position { topic: "t".into(), partition: 1, offset: 7 };
        let record = RecordBuilder::new(Some(b"k"), Some(b""))
            .header("a", Some(b"1"))
            .header("b", None)
            .header("a", Some(b"2"))
            .build(position, None);
        assert_eq!((record.key(), record.value()), (Some(&b"k"[..]), Some(&b""[..])));
        let headers: Vec<_> = record.headers().collect();
        assert_eq!(headers, [("a", Some(&b"1"[..])), ("b", None), ("a", Some(&b"2"[..]))]);
        assert_eq!(record.header("a"), Some(&b"1"[..]));
        assert_eq!(record.position.to_string(), "t[1]@7");
    }
}
