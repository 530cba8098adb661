//! One record of the log as it was found: key, value and headers side by side.

use bytes::{Bytes, BytesMut};
use chrono::{DateTime, Utc};
use millrace_schemas::Header;
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

/// A record, still encoded; everything is borrowed from one buffer, which it may share with its neighbours.
#[derive(Debug, Clone)]
pub struct Record {
    pub position: Position,
    /// When the broker or the producer stamped it, whichever the topic is set to.
    pub timestamp: Option<DateTime<Utc>>,
    bytes: Bytes,
    key: Option<Span>,
    value: Option<Span>,
    /// From here to the buffer's end.
    headers: u32,
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
        self.named().map(|(name, value)| match name {
            Name::Known(header) => (header.name(), value),
            Name::Other(name) => (std::str::from_utf8(name).unwrap_or_default(), value),
        })
    }

    /// Those that an event has, where they are not null.
    pub(crate) fn event_headers(&self) -> impl Iterator<Item = (Header, &[u8])> {
        self.named().filter_map(|(name, value)| match name {
            Name::Known(header) => Some((header, value?)),
            Name::Other(_) => None,
        })
    }

    pub fn header(&self, wanted: &str) -> Option<&[u8]> {
        self.headers().find(|(name, _)| *name == wanted).and_then(|(_, value)| value)
    }

    fn named(&self) -> impl Iterator<Item = (Name<'_>, Option<&[u8]>)> {
        let mut left = &self.bytes[self.headers as usize..];
        std::iter::from_fn(move || next_header(&mut left))
    }

    /// What it weighs in a queue, in bytes.
    pub fn weight(&self) -> usize {
        std::mem::size_of::<Self>() + self.bytes.len()
    }

    /// The same, sharing nothing: kept for long, it keeps nobody else's bytes.
    pub(crate) fn alone(&self) -> Self {
        Self { position: self.position.clone(), bytes: Bytes::copy_from_slice(&self.bytes), ..*self }
    }

    fn at(&self, span: Span) -> &[u8] {
        &self.bytes[span.start as usize..span.end as usize]
    }
}

/// A header's name within the buffer: its number, or [`SPELLED`] and what it is. Then its value.
enum Name<'a> {
    Known(Header),
    Other(&'a [u8]),
}

const SPELLED: u8 = u8::MAX;
/// In the place of a length.
const NULL: u32 = u32::MAX;

fn next_header<'a>(left: &mut &'a [u8]) -> Option<(Name<'a>, Option<&'a [u8]>)> {
    let (number, rest) = left.split_first()?;
    *left = rest;
    let name = match *number {
        SPELLED => Name::Other(next_bytes(left)?),
        number => Name::Known(Header::numbered(number)?),
    };
    Some((name, next_bytes(left)))
}

/// What follows its length; none where that is [`NULL`].
fn next_bytes<'a>(left: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (size, rest) = left.split_first_chunk()?;
    *left = rest;
    let size = Some(u32::from_le_bytes(*size)).filter(|size| *size != NULL)?;
    let (bytes, rest) = left.split_at_checked(size as usize)?;
    *left = rest;
    Some(bytes)
}

/// An event's headers, as our producers write them; more of them make the buffer grow.
const HEADERS_BYTES: usize = 512;

/// What [`next_bytes`] reads.
fn push_sized(buffer: &mut BytesMut, bytes: Option<&[u8]>) {
    let size = bytes.map_or(NULL, |bytes| bytes.len() as u32);
    buffer.extend_from_slice(&size.to_le_bytes());
    buffer.extend_from_slice(bytes.unwrap_or_default());
}

/// Copies the parts of a record into one buffer.
pub struct RecordBuilder<'s> {
    buffer: &'s mut BytesMut,
    key: Option<Span>,
    value: Option<Span>,
    headers: u32,
}

impl<'s> RecordBuilder<'s> {
    /// The record takes its bytes from the empty `space` and leaves what it doesn't need: so records that come together
    /// lie together, and few of them need an allocation.
    pub fn new(space: &'s mut BytesMut, key: Option<&[u8]>, value: Option<&[u8]>) -> Self {
        space.reserve(key.map_or(0, <[u8]>::len) + value.map_or(0, <[u8]>::len) + HEADERS_BYTES);
        let mut builder = Self { buffer: space, key: None, value: None, headers: 0 };
        builder.key = key.map(|bytes| builder.push(bytes));
        builder.value = value.map(|bytes| builder.push(bytes));
        builder.headers = builder.buffer.len() as u32;
        builder
    }

    /// Names and values in their order. A name that is not UTF-8 is kept with replacement characters.
    ///
    /// All at once: a builder that is passed on by value for each of them is stored and loaded each time, and the load
    /// waits for everything that was written before it.
    #[must_use]
    pub fn headers<T: AsRef<[u8]>>(self, headers: impl IntoIterator<Item = (T, Option<T>)>) -> Self {
        let mut last_known = None;
        for (name, value) in headers {
            match Header::named(name.as_ref(), last_known) {
                Some(known) => {
                    last_known = Some(known);
                    self.buffer.extend_from_slice(&[known.number()]);
                }
                None => {
                    self.buffer.extend_from_slice(&[SPELLED]);
                    push_sized(self.buffer, Some(String::from_utf8_lossy(name.as_ref()).as_bytes()));
                }
            }
            push_sized(self.buffer, value.as_ref().map(T::as_ref));
        }
        self
    }

    pub fn build(self, position: Position, timestamp: Option<DateTime<Utc>>) -> Record {
        let Self { buffer, key, value, headers } = self;
        Record { position, timestamp, bytes: buffer.split().freeze(), key, value, headers }
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
        let mut space = BytesMut::new();
        let found: [(&[u8], Option<&[u8]>); 7] = [
            (b"a", Some(b"1")),
            (b"ce_id", Some(b"7")),
            (b"b", None),
            (b"a", Some(b"")),
            (b"", Some(b"2")),
            (b"ce_type", None),
            (b"\xff", Some(b"3")),
        ];
        let record = RecordBuilder::new(&mut space, Some(b"k"), Some(b"")).headers(found).build(position, None);
        let next = RecordBuilder::new(&mut space, None, Some(b"next")).headers(Vec::<(&[u8], _)>::new());
        let next = next.build(record.position.clone(), None).alone();
        assert_eq!((next.key(), next.value(), next.headers().count()), (None, Some(&b"next"[..]), 0));
        assert_eq!((record.key(), record.value()), (Some(&b"k"[..]), Some(&b""[..])));
        let headers: Vec<_> = record.headers().map(|(name, value)| (name, value.map(<[u8]>::to_vec))).collect();
        let some = |value: &[u8]| Some(value.to_vec());
        let written = [
            ("a", some(b"1")),
            ("ce_id", some(b"7")),
            ("b", None),
            ("a", some(b"")),
            ("", some(b"2")),
            ("ce_type", None),
            ("\u{fffd}", some(b"3")),
        ];
        assert_eq!(headers, written);
        assert_eq!((record.header("a"), record.header("ce_id")), (Some(&b"1"[..]), Some(&b"7"[..])));
        let of_the_event: Vec<_> = record.event_headers().map(|(header, value)| (header.name(), value)).collect();
        assert_eq!(of_the_event, [("ce_id", &b"7"[..])]);
        assert_eq!(record.position.to_string(), "t[1]@7");
    }
}
