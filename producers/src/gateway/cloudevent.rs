//! CloudEvents 1.0 over HTTP: structured, batched and binary mode, read into attributes and data. Looks into no data.

use super::answer::Problem;
use axum::http::{HeaderMap, StatusCode, header};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use millrace_schemas::{VIOLATIONS_MAX, Violation, pointer_step};
use serde::Deserializer;
use serde::de::{DeserializeSeed, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;

/// Of one request: an answer lists each, and the Kafka client's queue holds a hundred times as many.
pub(crate) const BATCH_EVENTS_MAX: usize = 1000;
/// Of one attribute: they travel as headers of the record, with every event.
pub(crate) const ATTRIBUTE_BYTES_MAX: usize = 1024;

/// How a request holds its events (CloudEvents HTTP protocol binding 1.0.2, section 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Binary,
    Structured,
    Batch,
}

/// One event as it was sent.
#[derive(Default, Debug)]
pub(crate) struct Submitted<'a> {
    values: [Option<Cow<'a, str>>; NAMES.len()],
    pub data: Option<Data<'a>>,
    /// What was wrong before any contract was asked.
    pub violations: Vec<Violation>,
}

#[derive(Debug)]
pub(crate) enum Data<'a> {
    Json(&'a str),
    Avro(Cow<'a, [u8]>),
}

impl Data<'_> {
    pub fn bytes(&self) -> usize {
        match self {
            Self::Json(text) => text.len(),
            Self::Avro(datum) => datum.len(),
        }
    }
}

/// The attributes that travel: those of the specification, and the extensions that the log's records have.
pub(crate) const NAMES: [&str; 13] = [
    "specversion",
    "id",
    "source",
    "type",
    "subject",
    "time",
    "datacontenttype",
    "dataschema",
    "partitionkey",
    "correlationid",
    "causationid",
    "traceparent",
    "tracestate",
];

impl Mode {
    pub fn of(headers: &HeaderMap) -> Result<Self, Problem> {
        match media_type(headers).as_str() {
            "application/cloudevents+json" => Ok(Self::Structured),
            "application/cloudevents-batch+json" => Ok(Self::Batch),
            other if !other.starts_with("application/cloudevents") && headers.contains_key("ce-specversion") => {
                Ok(Self::Binary)
            }
            _ => Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, NO_CLOUDEVENT)),
        }
    }

    pub fn read<'a>(self, headers: &'a HeaderMap, body: &'a [u8]) -> Result<Vec<Submitted<'a>>, Problem> {
        if self == Self::Binary {
            return Ok(vec![binary(headers, body)]);
        }
        let bad = |detail: String| Problem::new(StatusCode::BAD_REQUEST, detail);
        let text = std::str::from_utf8(body).map_err(|error| bad(format!("the body is not UTF-8 text: {error}")))?;
        let mut json = serde_json::Deserializer::from_str(text);
        let mut events = Vec::new();
        let read = match self {
            Self::Batch => json.deserialize_seq(Events(&mut events)),
            _ => OneEvent.deserialize(&mut json).map(|event| events.push(event)),
        };
        if events.len() > BATCH_EVENTS_MAX {
            let detail = format!("a batch has at most {BATCH_EVENTS_MAX} events; nothing was published");
            return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail));
        }
        let read = read.and_then(|()| json.end());
        read.map_err(|error| bad(format!("the body is not the JSON that its content-type says: {error}")))?;
        Ok(events)
    }
}

const NO_CLOUDEVENT: &str = "no CloudEvent: send content-type application/cloudevents+json or \
    application/cloudevents-batch+json, or the attributes as ce- headers beside the data";

fn media_type(headers: &HeaderMap) -> String {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// The trace of the request, which an event without one of its own continues (W3C Trace Context). What is too long
/// for an attribute is left out: it would travel with each event of a batch.
pub(super) fn trace(headers: &HeaderMap) -> Trace<'_> {
    let text = |name| headers.get(name)?.to_str().ok().filter(|text| text.len() <= ATTRIBUTE_BYTES_MAX);
    (text("traceparent"), text("tracestate"))
}

pub(crate) type Trace<'a> = (Option<&'a str>, Option<&'a str>);

/// The attributes are headers, and the body is the data.
fn binary<'a>(headers: &'a HeaderMap, body: &'a [u8]) -> Submitted<'a> {
    let mut event = Submitted::default();
    for (name, value) in headers {
        if let Some(attribute) = name.as_str().strip_prefix("ce-") {
            let text = std::str::from_utf8(value.as_bytes()).ok().and_then(percent_decoded);
            event.set(attribute, text);
        }
    }
    let kind = media_type(headers);
    event.data = match kind.as_str() {
        _ if body.is_empty() => None,
        "application/avro" | "avro/binary" => Some(Data::Avro(Cow::Borrowed(body))),
        kind if is_json(kind) => std::str::from_utf8(body)
            .map(Data::Json)
            .map_err(|_| event.wrong("/data", "UTF-8 text", "other bytes"))
            .ok(),
        other => {
            event.wrong("/datacontenttype", DATA_TYPES, &format!("{other:?}"));
            None
        }
    };
    event
}

const DATA_TYPES: &str = "application/json or application/avro";
const ONCE: &str = "the attribute once";

fn is_json(media_type: &str) -> bool {
    media_type == "application/json" || media_type.ends_with("+json")
}

/// As the HTTP protocol binding, 3.1.3.2, encodes what headers can't hold.
fn percent_decoded(text: &str) -> Option<Cow<'_, str>> {
    if !text.contains('%') {
        return Some(Cow::Borrowed(text));
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, behind)) = rest.split_first() {
        let decoded = behind.get(..2).filter(|digits| first == b'%' && digits.iter().all(u8::is_ascii_hexdigit));
        let decoded = decoded.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok());
        bytes.push(decoded.unwrap_or(first));
        rest = if decoded.is_some() { &behind[2..] } else { behind };
    }
    String::from_utf8(bytes).ok().map(Cow::Owned)
}

impl<'a> Submitted<'a> {
    /// Of one of [`NAMES`].
    pub fn get(&self, name: &str) -> Option<&Cow<'a, str>> {
        let at = NAMES.iter().position(|known| *known == name)?;
        self.values[at].as_ref()
    }

    pub fn take(&mut self, name: &str) -> Option<Cow<'a, str>> {
        let at = NAMES.iter().position(|known| *known == name)?;
        self.values[at].take()
    }

    /// Not more than a few: an attribute is six bytes of JSON, and what is said of it hundreds.
    pub fn wrong(&mut self, pointer: &str, expected: &str, found: &str) {
        if self.violations.len() < VIOLATIONS_MAX {
            self.violations.push(Violation::new(pointer, expected, found));
        }
    }

    /// `None` is something else than text.
    pub fn set(&mut self, name: &str, value: Option<Cow<'a, str>>) {
        let Some(at) = NAMES.iter().position(|known| *known == name) else {
            let expected = format!("one of the attributes {}", NAMES.join(", "));
            return self.wrong(&format!("/{}", pointer_step(name)), &expected, "another one");
        };
        if is_trace(name) && !value.as_deref().is_some_and(fits_a_header) {
            return; // nobody loses an event to its telemetry
        }
        match value {
            None => self.wrong(&format!("/{name}"), "text", "something else"),
            Some(text) if !fits_a_header(&text) => {
                let expected = format!("text of at most {ATTRIBUTE_BYTES_MAX} bytes without control characters");
                self.wrong(&format!("/{name}"), &expected, &format!("{} bytes", text.len()));
            }
            Some(text) => {
                if self.values[at].replace(text).is_some() {
                    self.wrong(&format!("/{name}"), ONCE, "it again");
                }
            }
        }
    }

    fn put_once<T>(&mut self, into: &mut Option<T>, pointer: &str, value: T) {
        if into.replace(value).is_some() {
            self.wrong(pointer, ONCE, "it again");
        }
    }

    /// What stands in `data` and `data_base64` is told by `datacontenttype`, which may come behind.
    fn give_data(&mut self, json: Option<&'a RawValue>, base64: Option<Cow<'a, str>>) {
        let kind = self.get("datacontenttype").map(|kind| kind.split(';').next().unwrap_or_default().trim().to_owned());
        let kind = kind.unwrap_or_else(|| "application/json".into()).to_ascii_lowercase();
        match (json, base64) {
            (Some(json), None) if is_json(&kind) => self.data = Some(Data::Json(json.get())),
            (None, Some(text)) if kind == "application/avro" || kind == "avro/binary" => {
                match BASE64_STANDARD.decode(text.as_bytes()) {
                    Ok(bytes) => self.data = Some(Data::Avro(Cow::Owned(bytes))),
                    Err(error) => self.wrong("/data_base64", "base64 (RFC 4648)", &error.to_string()),
                }
            }
            (None, None) => {} // what is missing is said where the contract is known
            (Some(_), Some(_)) => self.wrong("/data_base64", "data or data_base64", "both"),
            _ => {
                let expected = "application/json with data, or application/avro with data_base64";
                self.wrong("/datacontenttype", expected, &format!("{kind:?}"));
            }
        }
    }
}

/// Says where an event comes from in somebody's traces, and nothing of what it is.
fn is_trace(name: &str) -> bool {
    ["traceparent", "tracestate"].contains(&name)
}

fn fits_a_header(text: &str) -> bool {
    text.len() <= ATTRIBUTE_BYTES_MAX && !has_control(text)
}

/// Most text is ASCII, of which whole words are looked at together.
fn has_control(text: &str) -> bool {
    if text.is_ascii() { text.bytes().any(|byte| byte.is_ascii_control()) } else { text.contains(char::is_control) }
}

/// The events of a batch, one after the other; one too many ends it.
struct Events<'e, 'a>(&'e mut Vec<Submitted<'a>>);

impl<'de> Visitor<'de> for Events<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of events")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut json: A) -> Result<(), A::Error> {
        while let Some(event) = json.next_element_seed(OneEvent)? {
            self.0.push(event);
            if self.0.len() > BATCH_EVENTS_MAX {
                return Err(A::Error::custom("too many events"));
            }
        }
        Ok(())
    }
}

/// One event in JSON; what is none becomes one with a violation, so that its neighbours are not lost with it.
struct OneEvent;

impl<'de> DeserializeSeed<'de> for OneEvent {
    type Value = Submitted<'de>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Submitted<'de>, D::Error> {
        json.deserialize_any(self)
    }
}

fn no_event<'a, E>(found: &str) -> Result<Submitted<'a>, E> {
    let mut event = Submitted::default();
    event.wrong("", "an event: an object with specversion, id, source, type, data", found);
    Ok(event)
}

impl<'de> Visitor<'de> for OneEvent {
    type Value = Submitted<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an event")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut json: A) -> Result<Submitted<'de>, A::Error> {
        let mut event = Submitted::default();
        let (mut data, mut base64) = (None, None);
        while let Some(Text(name)) = json.next_key()? {
            match name.as_deref() {
                Some("data") => event.put_once(&mut data, "/data", json.next_value::<&RawValue>()?),
                Some(name) => match (name, json.next_value::<Attribute<'de>>()?) {
                    (_, Attribute::Null) => {} // as if it were not there (JSON event format, 2.2)
                    ("data_base64", Attribute::Other) => event.wrong("/data_base64", "text", "something else"),
                    ("data_base64", Attribute::Text(text)) => event.put_once(&mut base64, "/data_base64", text),
                    (name, Attribute::Other) => event.set(name, None),
                    (name, Attribute::Text(text)) => event.set(name, Some(text)),
                },
                None => drop(json.next_value::<IgnoredAny>()?),
            }
        }
        event.give_data(data.filter(|data| data.get() != "null"), base64);
        Ok(event)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut json: A) -> Result<Submitted<'de>, A::Error> {
        while json.next_element::<IgnoredAny>()?.is_some() {}
        no_event("an array")
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<Submitted<'de>, E> {
        no_event("text")
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<Submitted<'de>, E> {
        no_event("a number")
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<Submitted<'de>, E> {
        no_event("a number")
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Submitted<'de>, E> {
        no_event("a number")
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Submitted<'de>, E> {
        no_event("true or false")
    }

    fn visit_unit<E: Error>(self) -> Result<Submitted<'de>, E> {
        no_event("null")
    }
}

enum Attribute<'a> {
    Null,
    Text(Cow<'a, str>),
    Other,
}

/// Text, borrowed where it has no escapes; none for anything else.
struct Text<'a>(Option<Cow<'a, str>>);

impl<'de> serde::Deserialize<'de> for Text<'de> {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        Ok(Self(match json.deserialize_any(AttributeVisitor)? {
            Attribute::Text(text) => Some(text),
            Attribute::Null | Attribute::Other => None,
        }))
    }
}

impl<'de> serde::Deserialize<'de> for Attribute<'de> {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        json.deserialize_any(AttributeVisitor)
    }
}

struct AttributeVisitor;

impl<'de> Visitor<'de> for AttributeVisitor {
    type Value = Attribute<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an attribute")
    }

    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Attribute<'de>, E> {
        Ok(Attribute::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Attribute<'de>, E> {
        Ok(Attribute::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_unit<E: Error>(self) -> Result<Attribute<'de>, E> {
        Ok(Attribute::Null)
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Attribute<'de>, E> {
        Ok(Attribute::Other)
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<Attribute<'de>, E> {
        Ok(Attribute::Other)
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<Attribute<'de>, E> {
        Ok(Attribute::Other)
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Attribute<'de>, E> {
        Ok(Attribute::Other)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut json: A) -> Result<Attribute<'de>, A::Error> {
        while json.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Attribute::Other)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut json: A) -> Result<Attribute<'de>, A::Error> {
        while json.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Attribute::Other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(list: &[(&'static str, &str)]) -> HeaderMap {
        list.iter().map(|(name, value)| (header::HeaderName::from_static(name), value.parse().unwrap())).collect()
    }

    fn batch(body: &str) -> Result<Vec<Vec<String>>, u16> {
        let none = HeaderMap::new();
        let read = Mode::Batch.read(&none, body.as_bytes()).map_err(|problem| problem.status().as_u16())?;
        let wrong = |event: Submitted<'_>| event.violations.iter().map(|violation| violation.pointer.clone()).collect();
        Ok(read.into_iter().map(wrong).collect())
    }

    #[test]
    fn a_mode_is_told_by_the_content_type_or_the_headers() {
        let mode =
            |list: &[(&'static str, &str)]| Mode::of(&headers(list)).map_err(|problem| problem.status().as_u16());
        assert_eq!(mode(&[("content-type", "application/cloudevents+json; charset=UTF-8")]), Ok(Mode::Structured));
        assert_eq!(mode(&[("content-type", "application/CloudEvents-Batch+JSON")]), Ok(Mode::Batch));
        assert_eq!(mode(&[("content-type", "application/json"), ("ce-specversion", "1.0")]), Ok(Mode::Binary));
        assert_eq!(mode(&[("content-type", "application/cloudevents+avro"), ("ce-specversion", "1.0")]), Err(415));
        assert_eq!(mode(&[("content-type", "application/json")]), Err(415));
        assert_eq!(mode(&[]), Err(415));
    }

    #[test]
    fn attributes_and_data_are_found_in_any_order_and_mode() {
        let none = HeaderMap::new();
        let text = r#"{"data": {"a": [1]}, "type": "a.b", "subject": null, "id": "\u0031", "datacontenttype": "application/json"}"#;
        let one = Mode::Structured.read(&none, text.as_bytes()).unwrap().remove(0);
        assert!(matches!(one.data, Some(Data::Json(r#"{"a": [1]}"#))) && one.violations.is_empty(), "{one:?}");
        assert_eq!((one.get("type").unwrap().as_ref(), one.get("id").unwrap().as_ref()), ("a.b", "1"));
        assert!(one.get("subject").is_none());

        let list = [("ce-type", "a.b"), ("ce-source", "/a%20b%C3%A9%+9%"), ("content-type", "application/avro")];
        let headers = headers(&list);
        let one = Mode::Binary.read(&headers, b"\0datum").unwrap().remove(0);
        assert!(matches!(&one.data, Some(Data::Avro(datum)) if **datum == *b"\0datum"));
        assert_eq!(one.get("source").unwrap().as_ref(), "/a bé%+9%");

        let avro = r#"{"data_base64": "AAE=", "datacontenttype": "application/avro"}"#;
        let one = Mode::Structured.read(&none, avro.as_bytes()).unwrap().remove(0);
        assert!(matches!(&one.data, Some(Data::Avro(datum)) if **datum == [0, 1]));
    }

    #[test]
    fn one_broken_event_is_told_apart_from_its_neighbours_and_broken_json_is_not() {
        let found =
            batch(r#"[{"id": "1"}, 7, null, [[]], "x", {"id": 1, "colour": "red"}, {"type": "a", "type": "b"}]"#);
        let expected: [&[&str]; 7] = [&[], &[""], &[""], &[""], &[""], &["/id", "/colour"], &["/type"]];
        assert_eq!(found.unwrap(), expected);
        assert_eq!(batch("[]"), Ok(vec![]));
        assert_eq!(
            batch(&format!(r#"[{{"id": "{}", "source": "a\u0000"}}]"#, "x".repeat(1025))).unwrap(),
            [["/id", "/source"]]
        );
        for broken in ["", "{}", "[", "[{]", r#"[{"data": NaN}]"#, r#"[{"id": "1"}] x"#, "[\"\u{0}\"]"] {
            assert_eq!(batch(broken), Err(400), "{broken}");
        }
        assert_eq!(batch(&format!("[{}]", "[".repeat(100_000))), Err(400));
        assert_eq!(batch(&format!("[{}0]", "0,".repeat(BATCH_EVENTS_MAX))), Err(413));
        assert!(Mode::Batch.read(&HeaderMap::new(), b"[\"\xff\"]").is_err());
    }

    #[test]
    fn data_comes_once_and_null_is_as_if_it_were_not_there() {
        let found = batch(
            r#"[{"data": {}, "data": {}}, {"data_base64": "AA==", "data_base64": "AA==", "datacontenttype": "avro/binary"},
                {"data": {}, "data_base64": null}, {"data_base64": 7}, {"data": {}, "data_base64": "AA=="}]"#,
        );
        let expected: [&[&str]; 5] = [&["/data"], &["/data_base64"], &[], &["/data_base64"], &["/data_base64"]];
        assert_eq!(found.unwrap(), expected);
    }

    #[test]
    fn an_unknown_attribute_is_pointed_at_as_pointers_are_written_and_one_that_was_cut_says_so() {
        let long = "n".repeat(65);
        let found = batch(&format!(r#"[{{"a/b~c": "1", "{long}": "1"}}]"#)).unwrap();
        assert_eq!(found, [["/a~1b~0c".to_owned(), format!("/{}…", &long[..64])]]);
    }

    #[test]
    fn a_flood_of_unknown_attributes_is_answered_by_a_page_and_not_by_the_memory() {
        let flood: String = (0..100_000).map(|n| format!(r#""x{n}":1,"#)).collect();
        assert_eq!(batch(&format!(r#"[{{{flood}"id":"1"}}]"#)).unwrap()[0].len(), VIOLATIONS_MAX);
    }

    #[test]
    fn the_state_of_a_trace_that_no_attribute_would_hold_does_not_travel_with_every_event() {
        let long = "v".repeat(ATTRIBUTE_BYTES_MAX + 1);
        assert_eq!(trace(&headers(&[("traceparent", "p"), ("tracestate", &long)])), (Some("p"), None));
        assert_eq!(trace(&headers(&[("traceparent", "p"), ("tracestate", "v=1")])), (Some("p"), Some("v=1")));
    }
}
