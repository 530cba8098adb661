//! Who an event is: CloudEvents attributes in Kafka headers (binary mode, Kafka protocol binding 1.0.2).

use crate::uuid_text;
use chrono::{DateTime, Datelike, NaiveDate, SecondsFormat, Timelike, Utc};
use std::borrow::Cow;
use uuid::Uuid;
use uuid::fmt::Hyphenated;

/// An event's attributes, the same for every type. Borrowed from a record's headers, or owned (`'static`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope<'a> {
    /// The event's identity everywhere; chosen by the producer, kept on every retry.
    pub id: Uuid,
    /// Who published it, a URI reference such as `/shop`.
    pub source: Cow<'a, str>,
    /// `order.placed`.
    pub event_type: Cow<'a, str>,
    /// The aggregate's id.
    pub subject: Cow<'a, str>,
    /// When it happened.
    pub occurred_at: DateTime<Utc>,
    /// When the publisher handed it to the log.
    pub recorded_at: Option<DateTime<Utc>>,
    pub dataschema: Option<Cow<'a, str>>,
    pub correlation_id: Option<Cow<'a, str>>,
    pub causation_id: Option<Cow<'a, str>>,
    /// W3C trace context; changes at every hop.
    pub traceparent: Option<Cow<'a, str>>,
    pub tracestate: Option<Cow<'a, str>>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    #[error("header `{0}` is missing")]
    Missing(&'static str),
    #[error("header `{name}` is `{found}`, which is not {wanted}")]
    Malformed { name: &'static str, found: String, wanted: &'static str },
    #[error("header `{0}` is not UTF-8 text")]
    NotText(&'static str),
    #[error("header `ce_time` is missing, and the id {0} is not a UUIDv7 that could tell the time")]
    NoTime(Uuid),
}

const TRACE_ID_CHARS: usize = 32;
/// How much of a wrong header an error quotes.
const QUOTE_CHARS_MAX: usize = 64;

impl Envelope<'static> {
    /// An event that happens now, with a new id.
    pub fn new(source: &str, event_type: &str, subject: &str) -> Self {
        let owned = |text: &str| Cow::Owned(text.to_owned());
        Self {
            id: Uuid::now_v7(),
            source: owned(source),
            event_type: owned(event_type),
            subject: owned(subject),
            occurred_at: Utc::now(),
            recorded_at: None,
            dataschema: None,
            correlation_id: None,
            causation_id: None,
            traceparent: None,
            tracestate: None,
        }
    }
}

impl Envelope<'_> {
    /// What a UUIDv7 says of when its event happened; other ids say nothing.
    pub fn time_of(id: Uuid) -> Option<DateTime<Utc>> {
        let stamp = id.get_timestamp().filter(|_| id.get_version_num() == 7)?;
        let (seconds, nanos) = stamp.to_unix();
        i64::try_from(seconds).ok().and_then(|seconds| DateTime::from_timestamp(seconds, nanos))
    }
}

impl<'a> Envelope<'a> {
    /// The same, borrowing nothing.
    pub fn into_owned(self) -> Envelope<'static> {
        let owned = |text: Cow<'a, str>| Cow::Owned(text.into_owned());
        Envelope {
            id: self.id,
            source: owned(self.source),
            event_type: owned(self.event_type),
            subject: owned(self.subject),
            occurred_at: self.occurred_at,
            recorded_at: self.recorded_at,
            dataschema: self.dataschema.map(owned),
            correlation_id: self.correlation_id.map(owned),
            causation_id: self.causation_id.map(owned),
            traceparent: self.traceparent.map(owned),
            tracestate: self.tracestate.map(owned),
        }
    }

    /// The trace's id, out of `traceparent`: what is between the first dash and the second, where it has the length.
    pub fn trace_id(&self) -> Option<&str> {
        let text = self.traceparent.as_deref()?;
        let begin = text.bytes().position(|byte| byte == b'-')? + 1;
        let end = begin + TRACE_ID_CHARS;
        let id = text.get(begin..end)?;
        // All of them, as that is faster than stopping at one.
        let dashes = id.bytes().filter(|byte| *byte == b'-').count();
        (dashes == 0 && text.as_bytes().get(end).is_none_or(|byte| *byte == b'-')).then_some(id)
    }

    /// Reads the attributes; a header that repeats counts once, the first time.
    ///
    /// # Errors
    /// Which header is missing or wrong.
    pub fn from_headers(headers: impl Iterator<Item = (Header, &'a [u8])>) -> Result<Self, EnvelopeError> {
        Self::from_headers_with(headers, |_| ())
    }

    /// The same; `on_id` is told the id before the rest is read.
    ///
    /// # Errors
    /// Those of [`Envelope::from_headers`].
    pub fn from_headers_with(
        headers: impl Iterator<Item = (Header, &'a [u8])>,
        on_id: impl FnOnce(Uuid),
    ) -> Result<Self, EnvelopeError> {
        let found = Headers::collect(headers);
        if found.bytes(SPECVERSION)? != b"1.0" {
            return Err(malformed(SPECVERSION, found.required(SPECVERSION)?, "1.0"));
        }
        let id = match uuid_text::parse(found.bytes(ID)?) {
            Some(id) => id,
            None => return Err(malformed(ID, found.required(ID)?, "a UUID")),
        };
        on_id(id);
        let text = |header| Ok::<_, EnvelopeError>(found.optional(header)?.map(Cow::Borrowed));
        Ok(Self {
            id,
            source: found.required(SOURCE)?.into(),
            event_type: found.required(TYPE)?.into(),
            subject: found.optional(SUBJECT)?.unwrap_or_default().into(),
            occurred_at: occurred_at(&found, id)?,
            recorded_at: found.optional(RECORDED)?.map(|text| parse_time(RECORDED, text)).transpose()?,
            dataschema: text(DATASCHEMA)?,
            correlation_id: text(CORRELATION)?,
            causation_id: text(CAUSATION)?,
            traceparent: text(TRACEPARENT)?,
            tracestate: text(TRACESTATE)?,
        })
    }

    /// Puts the headers of a record, name and value, into `all` in a fixed order.
    pub fn put_headers<T>(&self, all: T, mut put: impl FnMut(T, &'static str, &[u8]) -> T) -> T {
        let (mut id, mut time, mut recorded) = ([0; Hyphenated::LENGTH], Rfc3339::default(), Rfc3339::default());
        let headers = [
            (SPECVERSION, Some("1.0")),
            (ID, Some(&*self.id.as_hyphenated().encode_lower(&mut id))),
            (SOURCE, Some(&self.source)),
            (TYPE, Some(&self.event_type)),
            (SUBJECT, Some(&self.subject)),
            (TIME, Some(time.write(self.occurred_at))),
            (DATASCHEMA, self.dataschema.as_deref()),
            (RECORDED, self.recorded_at.map(|at| recorded.write(at))),
            (PARTITION_KEY, Some(&self.subject)),
            (CORRELATION, self.correlation_id.as_deref()),
            (CAUSATION, self.causation_id.as_deref()),
            (CONTENT_TYPE, Some("application/avro")),
            (TRACEPARENT, self.traceparent.as_deref()),
            (TRACESTATE, self.tracestate.as_deref()),
        ];
        headers.into_iter().fold(all, |all, (header, value)| match value {
            Some(value) => put(all, header.name(), value.as_bytes()),
            None => all,
        })
    }
}

/// A header that events have, known by its number: names are compared once, where a record comes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header(u8);

/// In the order in which publishers of ours write them.
const NAMES: [&str; 14] = [
    "ce_specversion",
    "ce_id",
    "ce_source",
    "ce_type",
    "ce_subject",
    "ce_time",
    "ce_dataschema",
    "ce_recordedtime",
    "ce_partitionkey",
    "ce_correlationid",
    "ce_causationid",
    "content-type",
    "traceparent",
    "tracestate",
];

const SPECVERSION: Header = Header(0);
const ID: Header = Header(1);
const SOURCE: Header = Header(2);
const TYPE: Header = Header(3);
const SUBJECT: Header = Header(4);
const TIME: Header = Header(5);
const DATASCHEMA: Header = Header(6);
const RECORDED: Header = Header(7);
const PARTITION_KEY: Header = Header(8);
const CORRELATION: Header = Header(9);
const CAUSATION: Header = Header(10);
const CONTENT_TYPE: Header = Header(11);
const TRACEPARENT: Header = Header(12);
const TRACESTATE: Header = Header(13);

impl Header {
    /// None where events have no such header. Found at once if it follows on `before` in what publishers of ours write.
    #[inline]
    pub fn named(name: &[u8], before: Option<Self>) -> Option<Self> {
        let first = before.map_or(0, |before| usize::from(before.0) + 1);
        let at = (first..NAMES.len()).chain(0..first).find(|at| NAMES[*at].as_bytes() == name)?;
        u8::try_from(at).ok().and_then(Self::numbered)
    }

    /// What [`Header::number`] gave.
    pub fn numbered(number: u8) -> Option<Self> {
        (usize::from(number) < NAMES.len()).then_some(Self(number))
    }

    pub fn number(self) -> u8 {
        self.0
    }

    pub fn name(self) -> &'static str {
        NAMES[usize::from(self.0)]
    }
}

/// The headers of one record, each in its place.
struct Headers<'a>([Option<&'a [u8]>; NAMES.len()]);

impl<'a> Headers<'a> {
    fn collect(headers: impl Iterator<Item = (Header, &'a [u8])>) -> Self {
        let mut found = [None; NAMES.len()];
        for (header, value) in headers {
            found[usize::from(header.0)].get_or_insert(value);
        }
        Self(found)
    }

    fn optional(&self, header: Header) -> Result<Option<&'a str>, EnvelopeError> {
        let Some(value) = self.0[usize::from(header.0)] else { return Ok(None) };
        std::str::from_utf8(value).map(Some).map_err(|_| EnvelopeError::NotText(header.name()))
    }

    fn required(&self, header: Header) -> Result<&'a str, EnvelopeError> {
        self.optional(header)?.filter(|value| !value.is_empty()).ok_or(EnvelopeError::Missing(header.name()))
    }

    /// As [`Headers::required`], whatever they are.
    fn bytes(&self, header: Header) -> Result<&'a [u8], EnvelopeError> {
        let value = self.0[usize::from(header.0)];
        value.filter(|value| !value.is_empty()).ok_or(EnvelopeError::Missing(header.name()))
    }
}

/// As `ce_time` says; where a producer sent none, as its UUIDv7 says (RFC 9562, 5.7: milliseconds first).
fn occurred_at(found: &Headers<'_>, id: Uuid) -> Result<DateTime<Utc>, EnvelopeError> {
    if let Some(text) = found.optional(TIME)? {
        return parse_time(TIME, text);
    }
    Envelope::time_of(id).ok_or(EnvelopeError::NoTime(id))
}

fn parse_time(header: Header, text: &str) -> Result<DateTime<Utc>, EnvelopeError> {
    if let Some(time) = as_we_write_it(text) {
        return Ok(time);
    }
    let time = DateTime::parse_from_rfc3339(text);
    time.map(|time| time.to_utc()).map_err(|_| malformed(header, text, "an RFC 3339 time"))
}

/// The one form that [`Rfc3339`] gives, in a fraction of the time that all of them take.
fn as_we_write_it(text: &str) -> Option<DateTime<Utc>> {
    let bytes: &[u8; 27] = text.as_bytes().try_into().ok()?;
    if [4, 7, 10, 13, 16, 19, 26].map(|at| bytes[at]) != *b"--T::.Z" {
        return None;
    }
    let number = |from: usize, to: usize| {
        bytes[from..to].iter().try_fold(0, |number, byte| {
            let digit = byte.wrapping_sub(b'0');
            (digit < 10).then_some(number * 10 + u32::from(digit))
        })
    };
    let date = NaiveDate::from_ymd_opt(number(0, 4)?.cast_signed(), number(5, 7)?, number(8, 10)?)?;
    Some(date.and_hms_micro_opt(number(11, 13)?, number(14, 16)?, number(17, 19)?, number(20, 26)?)?.and_utc())
}

/// Room for a time as chrono writes it, in a fraction of the time.
#[derive(Default)]
struct Rfc3339 {
    text: [u8; 27],
    /// A year that has not four digits, or a leap second.
    odd: String,
}

impl Rfc3339 {
    fn write(&mut self, time: DateTime<Utc>) -> &str {
        let year = u32::try_from(time.year()).ok().filter(|year| *year <= 9999);
        let micros = Some(time.timestamp_subsec_micros()).filter(|micros| *micros < 1_000_000);
        let (Some(year), Some(micros)) = (year, micros) else { return self.write_odd(time) };
        self.text = *b"0000-00-00T00:00:00.000000Z";
        let (date, seconds) = (time.date_naive(), time.num_seconds_from_midnight());
        let pairs = [
            (0, year / 100),
            (2, year % 100),
            (5, date.month()),
            (8, date.day()),
            (11, seconds / 3600),
            (14, seconds / 60 % 60),
            (17, seconds % 60),
            (20, micros / 10_000),
            (22, micros / 100 % 100),
            (24, micros % 100),
        ];
        for (at, pair) in pairs {
            self.text[at] += (pair / 10) as u8;
            self.text[at + 1] += (pair % 10) as u8;
        }
        std::str::from_utf8(&self.text).unwrap_or_default() // digits are
    }

    fn write_odd(&mut self, time: DateTime<Utc>) -> &str {
        self.odd = time.to_rfc3339_opts(SecondsFormat::Micros, true);
        &self.odd
    }
}

fn malformed(header: Header, found: &str, wanted: &'static str) -> EnvelopeError {
    EnvelopeError::Malformed { name: header.name(), found: found.chars().take(QUOTE_CHARS_MAX).collect(), wanted }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};

    fn envelope() -> Envelope<'static> {
        let mut envelope = Envelope::new("/shop", "order.placed", "o-1");
        envelope.occurred_at = DateTime::from_timestamp_micros(1_767_225_600_123_456).unwrap();
        envelope.recorded_at = Some(envelope.occurred_at);
        envelope.traceparent = Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".into());
        envelope
    }

    fn read<'a>(headers: &[(&'a str, &'a [u8])]) -> Result<Envelope<'a>, EnvelopeError> {
        Envelope::from_headers(
            headers.iter().filter_map(|(name, value)| Some((Header::named(name.as_bytes(), None)?, *value))),
        )
    }

    #[test]
    fn what_was_written_is_read_back() {
        let envelope = envelope();
        let headers = envelope.put_headers(Vec::new(), |mut headers, name, value| {
            headers.push((name, value.to_vec()));
            headers
        });
        let borrowed: Vec<_> = headers.iter().map(|(name, value)| (*name, &**value)).collect();
        assert_eq!(read(&borrowed).unwrap(), envelope);
        let time = headers.iter().find(|(name, _)| *name == "ce_time").unwrap();
        assert_eq!(&*time.1, b"2026-01-01T00:00:00.123456Z");
    }

    #[test]
    fn an_id_is_told_once_it_is_known_whatever_follows() {
        let id = Uuid::now_v7();
        let told = |version: &str, id: &str, time: &str| {
            let headers = [(TIME, time), (SPECVERSION, version), (SOURCE, "/shop"), (TYPE, "a.b"), (ID, id)];
            let mut told = Vec::new();
            let read = Envelope::from_headers_with(
                headers.into_iter().map(|(header, value)| (header, value.as_bytes())),
                |id| told.push(id),
            );
            (read.is_ok(), told)
        };
        let (text, time) = (id.to_string(), "2026-01-01T00:00:00Z");
        assert_eq!(told("1.0", &text, time), (true, vec![id]));
        assert_eq!(told("1.0", &text, "yesterday"), (false, vec![id]));
        assert_eq!(told("1.0", &text[1..], time), (false, vec![]));
        assert_eq!(told("0.3", &text, time), (false, vec![]));
    }

    #[test]
    fn a_trace_is_known_by_32_digits_between_two_dashes() {
        let id = "4bf92f3577b34da6a3ce929d0e0e4736";
        let trace_id = |traceparent: String| {
            Envelope { traceparent: Some(traceparent.into()), ..envelope() }.trace_id().map(str::to_owned)
        };
        for text in [format!("00-{id}-00f067aa0ba902b7-01"), format!("-{id}"), format!("00-{id}-")] {
            assert_eq!(trace_id(text.clone()).as_deref(), Some(id), "{text}");
        }
        let wrong = ["", "-", "00", id, &format!("00-{id}0-01"), &format!("00-{}", &id[1..]), &format!("00--{id}")];
        wrong.into_iter().for_each(|text| assert_eq!(trace_id(text.into()), None, "{text}"));
    }

    #[test]
    fn a_time_is_read_and_written_the_short_way_as_it_is_the_long_way() {
        let leap = NaiveDate::from_ymd_opt(2016, 12, 31).unwrap().and_hms_micro_opt(23, 59, 59, 1_500_000).unwrap();
        assert_eq!(Rfc3339::default().write(leap.and_utc()), "2016-12-31T23:59:60.500000Z");

        let seed: u64 = rand::random();
        let mut rng = StdRng::seed_from_u64(seed);
        for _ in 0..20_000 {
            let micros = rng.random_range(-62_135_596_800_000_000..253_402_300_800_000_000);
            let time = DateTime::from_timestamp_micros(micros).unwrap();
            let mut text = Rfc3339::default().write(time).as_bytes().to_vec();
            assert_eq!(text, time.to_rfc3339_opts(SecondsFormat::Micros, true).as_bytes(), "seed {seed}");
            if rng.random() {
                let at = rng.random_range(0..text.len());
                text[at] = *b"0123456789-:.TZ x".choose(&mut rng).unwrap();
            }
            let text = String::from_utf8(text).unwrap();
            let long = DateTime::parse_from_rfc3339(&text).map(|time| time.to_utc());
            assert_eq!(parse_time(TIME, &text).ok(), long.ok(), "{text}; seed {seed}");
        }
    }

    #[test]
    fn a_missing_time_is_taken_from_the_uuidv7_and_from_nothing_else() {
        let v7: &[u8] = b"019b76da-a800-7000-8000-000000000001";
        let base: [(&str, &[u8]); 3] = [("ce_specversion", b"1.0"), ("ce_source", b"/shop"), ("ce_type", b"a.b")];
        let with = |id| read(&[&base[..], &[("ce_id", id)]].concat());
        assert_eq!(Rfc3339::default().write(with(v7).unwrap().occurred_at), "2026-01-01T00:00:00.000000Z");
        assert!(matches!(with(b"5f0c7d0e-95b5-4c7a-8a4b-1f9c0f0f0f0f"), Err(EnvelopeError::NoTime(_))));
    }

    #[test]
    fn each_header_has_its_number_and_its_name() {
        for (number, name) in (0_u8..).zip(NAMES) {
            let header = Header::named(name.as_bytes(), None).unwrap();
            let after =
                (0..=13).filter_map(Header::numbered).map(|before| Header::named(name.as_bytes(), Some(before)));
            assert!(after.eq([Some(header); 14]), "whatever came before");
            assert_eq!((Header::numbered(number), header.number(), header.name()), (Some(header), number, name));
        }
        assert_eq!((Header::named(b"ce_typo", Some(ID)), Header::numbered(14)), (None, None));
        let named = [(ID, "ce_id"), (TYPE, "ce_type"), (TIME, "ce_time"), (RECORDED, "ce_recordedtime")];
        named.into_iter().for_each(|(header, name)| assert_eq!(header.name(), name));
        let named = [(CORRELATION, "ce_correlationid"), (CAUSATION, "ce_causationid"), (CONTENT_TYPE, "content-type")];
        named.into_iter().for_each(|(header, name)| assert_eq!(header.name(), name));
        let named = [(TRACEPARENT, "traceparent"), (TRACESTATE, "tracestate"), (PARTITION_KEY, "ce_partitionkey")];
        named.into_iter().for_each(|(header, name)| assert_eq!(header.name(), name));
    }

    #[test]
    fn a_wrong_header_is_named() {
        assert_eq!(read(&[]), Err(EnvelopeError::Missing("ce_specversion")));
        let wrong_id = read(&[("ce_specversion", b"1.0"), ("ce_id", b"7")]).unwrap_err();
        assert_eq!(wrong_id.to_string(), "header `ce_id` is `7`, which is not a UUID");
        let not_text = read(&[("ce_specversion", b"1.0"), ("ce_id", b"\xff")]).unwrap_err();
        assert_eq!(not_text.to_string(), "header `ce_id` is not UTF-8 text");
    }
}
