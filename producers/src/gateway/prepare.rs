//! From an event as it was sent to the record that the log will hold, or all that is wrong with it.

use super::access::Principal;
use super::answer::{Status, Verdict};
use super::cloudevent::{Data, Submitted, Trace};
use crate::client::VALUE_BYTES_MAX;
use apache_avro::types::Value;
use chrono::{DateTime, TimeDelta, Utc};
use millrace_schemas::bounds::OCCURRED;
use millrace_schemas::registry::Registry;
use millrace_schemas::{Contract, Contracts, Envelope, JsonPlan, VIOLATIONS_MAX, Violation, WriterSchema, wire};
use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;
use uuid::Uuid;

/// A W3C `traceparent` of version 00, in bytes.
const TRACEPARENT_BYTES: usize = 55;

/// No sender's clock is so far ahead. What is dated later is a mistake, and would be the newest event of every view for
/// years.
const AHEAD_MAX: TimeDelta = TimeDelta::days(1);

/// Between a registry's address and a schema's id.
pub(super) const SCHEMAS: &str = "/schemas/ids/";
/// Of most records: no second allocation.
const VALUE_BYTES_USUAL: usize = 512;

/// How events of each type are written, and where they go.
pub(crate) struct Routes {
    pub contracts: Arc<Contracts>,
    routes: HashMap<String, Route>,
}

struct Route {
    contract: Arc<Contract>,
    /// Oldest first, as the contract has them; never empty.
    versions: Vec<Writer>,
}

/// Of one version.
struct Writer {
    schema: Arc<WriterSchema>,
    plan: JsonPlan,
    /// What the records say of their schema, and what an event may say.
    dataschema: String,
}

/// When events came, and in which trace.
#[derive(Clone, Copy)]
pub(crate) struct Arrival<'a> {
    at: DateTime<Utc>,
    trace: Trace<'a>,
}

impl<'a> Arrival<'a> {
    pub fn now(trace: Trace<'a>) -> Self {
        Self { at: Utc::now(), trace }
    }
}

/// A record, ready for the log.
pub(crate) struct Prepared<'a> {
    /// As it was sent: by it the sender finds the answer.
    pub id: Cow<'a, str>,
    pub topic: &'a str,
    /// The contract's, for the count.
    pub event_type: &'a str,
    /// Its subject is the record's key.
    pub envelope: Envelope<'a>,
    pub value: Vec<u8>,
}

/// One that is ready, or what is wrong with it.
pub(super) type Ready<'a> = Result<Prepared<'a>, Box<Verdict<'a>>>;

impl Routes {
    /// Asks for the id of every version; afterwards the registry may be away.
    pub async fn look_up(registry: &Registry, contracts: Arc<Contracts>) -> anyhow::Result<Self> {
        let mut routes = HashMap::new();
        for contract in contracts.iter() {
            let mut versions = Vec::new();
            for version in contract.versions() {
                let schema = registry.version_writer(contract, version).await?;
                let plan = JsonPlan::compile(version, &contract.key, VALUE_BYTES_MAX - wire::HEADER_BYTES)?;
                let dataschema = format!("{}{SCHEMAS}{}", registry.url(), schema.id);
                versions.push(Writer { schema, plan, dataschema });
            }
            routes.insert(contract.event_type.clone(), Route::new(contract, versions));
        }
        Ok(Self { contracts, routes })
    }

    pub(super) fn prepare<'a>(
        &'a self,
        event: Submitted<'a>,
        principal: &Principal,
        arrival: Arrival<'a>,
    ) -> Ready<'a> {
        let id = event.get("id").cloned();
        let route = self.route(&event);
        let refused = |status, errors, message| {
            let event_type = route.map(|route| &*route.contract.event_type);
            Box::new(Verdict { errors, message, event_type, ..Verdict::new(id, status) })
        };
        if let Some(topic) = route.map(|route| &route.contract.topic).filter(|topic| !principal.may_publish(topic)) {
            let message = format!("the scopes don't cover `publish:{topic}`");
            return Err(refused(Status::Unauthorized, vec![], Some(message)));
        }
        self.prepare_trusted(event, arrival).map_err(|violations| refused(Status::Invalid, violations, None))
    }

    /// The same for a source that may publish everything.
    pub fn prepare_trusted<'a>(
        &'a self,
        mut event: Submitted<'a>,
        arrival: Arrival<'a>,
    ) -> Result<Prepared<'a>, Vec<Violation>> {
        if let Some(route) = self.route(&event) {
            return route.prepare(event, arrival);
        }
        identity(&mut event, arrival.at);
        event.wrong("/type", &self.known_types(&event), &quoted(event.get("type")));
        Err(event.violations)
    }

    /// Which describes the event, if one does.
    pub(super) fn contract(&self, event: &Submitted<'_>) -> Option<&Arc<Contract>> {
        self.route(event).map(|route| &route.contract)
    }

    /// A datum of the version that the event names, as JSON.
    pub(super) fn as_json(&self, event: &mut Submitted<'_>, datum: &[u8]) -> Option<serde_json::Value> {
        let writer = self.route(event)?.writer(event)?;
        let value = writer.schema.decode(datum).ok()?;
        Some(millrace_schemas::value_to_json(writer.schema.schema, &value))
    }

    fn route(&self, event: &Submitted<'_>) -> Option<&Route> {
        event.get("type").and_then(|event_type| self.routes.get(event_type.as_ref()))
    }

    fn known_types(&self, event: &Submitted<'_>) -> String {
        let Some(found) = event.get("type") else { return "the event's type, as a contract has it".into() };
        let distance =
            |known: &&String| strsim::damerau_levenshtein(known, &found.chars().take(64).collect::<String>());
        match self.routes.keys().min_by_key(distance) {
            Some(nearest) => format!("a type that a contract describes, the nearest is `{nearest}`"),
            None => "a type that a contract describes; there is none".into(),
        }
    }
}

impl Route {
    fn new(contract: &Arc<Contract>, versions: Vec<Writer>) -> Self {
        Self { contract: contract.clone(), versions }
    }

    fn prepare<'a>(&'a self, mut event: Submitted<'a>, arrival: Arrival<'a>) -> Result<Prepared<'a>, Vec<Violation>> {
        let identity = identity(&mut event, arrival.at);
        let written = self.write(&mut event);
        let key = written.as_ref().map_or("", |(_, _, key)| key.as_str());
        for name in ["subject", "partitionkey"] {
            if let Some(found) = event.get(name).filter(|found| !key.is_empty() && **found != key) {
                let (expected, found) =
                    (format!("`{}` of the data, {key:?}, or nothing", self.contract.key), format!("{found:?}"));
                event.wrong(&format!("/{name}"), &expected, &found);
            }
        }
        let (Some((writer, value, subject)), Some(identity)) = (written, identity) else {
            return Err(event.violations);
        };
        if !event.violations.is_empty() {
            return Err(event.violations);
        }
        let id = event.take("id").unwrap_or_default();
        let envelope = envelope(event, identity, subject, writer, arrival);
        Ok(Prepared { id, topic: &self.contract.topic, event_type: &self.contract.event_type, envelope, value })
    }

    /// The framed datum and its key.
    fn write(&self, event: &mut Submitted<'_>) -> Option<(&Writer, Vec<u8>, String)> {
        let writer = self.writer(event)?;
        let mut value = Vec::with_capacity(VALUE_BYTES_USUAL);
        value.extend_from_slice(&wire::header(writer.schema.id));
        let key = match event.data.take() {
            None => Err(vec![Violation::new("", format!("the data of a {}", self.contract.event_type), "nothing")]),
            Some(Data::Json(json)) => {
                writer.plan.encode(json, &mut value).map(|key| String::from_utf8_lossy(&value[key]).into_owned())
            }
            Some(Data::Avro(datum)) => self.key_of(writer, &datum).inspect(|_| value.extend_from_slice(&datum)),
        };
        match key {
            Ok(key) => Some((writer, value, key)),
            Err(violations) => {
                let below_data =
                    |violation: Violation| Violation { pointer: format!("/data{}", violation.pointer), ..violation };
                let room = VIOLATIONS_MAX.saturating_sub(event.violations.len());
                event.violations.extend(violations.into_iter().map(below_data).take(room));
                None
            }
        }
    }

    /// The newest version, or the one that the event names.
    fn writer(&self, event: &mut Submitted<'_>) -> Option<&Writer> {
        let Some(named) = event.get("dataschema") else { return self.versions.last() };
        let id = schema_id(named);
        let found = self.versions.iter().find(|writer| Some(writer.schema.id) == id);
        if found.is_none() {
            let known: Vec<_> = self.versions.iter().map(|writer| writer.dataschema.as_str()).collect();
            let (expected, found) = (format!("nothing, or one of {}", known.join(", ")), format!("{named:?}"));
            event.wrong("/dataschema", &expected, &found);
        }
        found
    }

    /// Reads the whole datum: one that nobody could read later is no event.
    fn key_of(&self, writer: &Writer, datum: &[u8]) -> Result<String, Vec<Violation>> {
        let wrong = |expected: &str, found: String| vec![Violation::new("", expected, found)];
        if datum.len() > VALUE_BYTES_MAX - wire::HEADER_BYTES {
            return Err(wrong("an event that fits a record of the log", format!("{} bytes", datum.len())));
        }
        let schema = &writer.schema;
        let value = schema.decode(datum).map_err(|error| wrong("a datum of its schema", error.to_string()))?;
        // The way by JSON is the one that knows what consumers can't use.
        let json = millrace_schemas::value_to_json(schema.schema, &value).to_string();
        writer.plan.encode(&json, &mut Vec::new())?;
        let Value::Record(fields) = value else { return Err(wrong("a record", "something else".into())) };
        match fields.into_iter().find(|(name, _)| *name == self.contract.key).map(|(_, value)| value) {
            Some(Value::Uuid(id)) => Ok(id.to_string()),
            Some(Value::String(text)) => Ok(text),
            _ => Err(wrong("a key", "none".into())),
        }
    }
}

fn envelope<'a>(
    mut event: Submitted<'a>,
    (id, occurred_at): (Uuid, DateTime<Utc>),
    subject: String,
    writer: &'a Writer,
    Arrival { at, trace: (traceparent, tracestate) }: Arrival<'a>,
) -> Envelope<'a> {
    // Where the event has no trace of its own, the request's state belongs to the request's parent.
    let own = event.take("traceparent").filter(|parent| is_traceparent(parent));
    let (traceparent, tracestate) = match own {
        Some(own) => (Some(own), event.take("tracestate")),
        None => (traceparent.filter(|parent| is_traceparent(parent)).map(Cow::Borrowed), tracestate.map(Cow::Borrowed)),
    };
    Envelope {
        id,
        source: event.take("source").unwrap_or_default(),
        event_type: event.take("type").unwrap_or_default(),
        subject: subject.into(),
        occurred_at,
        recorded_at: Some(at),
        dataschema: Some(writer.dataschema.as_str().into()),
        correlation_id: event.take("correlationid"),
        causation_id: event.take("causationid"),
        tracestate: tracestate.filter(|_| traceparent.is_some()),
        traceparent,
    }
}

fn quoted(value: Option<&Cow<'_, str>>) -> String {
    value.map_or_else(|| "nothing".into(), |text| format!("{:?}", text.chars().take(64).collect::<String>()))
}

/// Which event it is and when it happened; with what else every event must say, whatever its contract.
fn identity(event: &mut Submitted<'_>, now: DateTime<Utc>) -> Option<(Uuid, DateTime<Utc>)> {
    let id = event.get("id").and_then(|id| Uuid::try_parse(id).ok());
    if id.is_none() {
        let found = quoted(event.get("id"));
        event.wrong("/id", "a UUID, best a UUIDv7, the same when it is sent again", &found);
    }
    let occurred_at = happened(event, id, now);
    if event.get("specversion").is_none_or(|version| version != "1.0") {
        let found = quoted(event.get("specversion"));
        event.wrong("/specversion", "1.0", &found);
    }
    if event.get("source").is_none_or(|source| source.is_empty()) {
        event.wrong("/source", "who publishes, a URI reference such as /shop", "nothing");
    }
    Some((id?, occurred_at?))
}

/// As `time` says, or as a UUIDv7 does. Where both are missing it is the id that is wrong.
fn happened(event: &mut Submitted<'_>, id: Option<Uuid>, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let time = match event.get("time") {
        Some(text) => DateTime::parse_from_rfc3339(text).ok().map(|time| time.to_utc()),
        None => Envelope::time_of(id?),
    };
    let latest = now + AHEAD_MAX;
    let time = time.filter(|time| OCCURRED.contains(&time.timestamp()) && *time <= latest);
    if time.is_none() {
        let found = quoted(event.get("time"));
        let expected = "an RFC 3339 time from 1970 until a day from now, or an id that is a UUIDv7 and tells it";
        event.wrong("/time", expected, &found);
    }
    time
}

/// Of a `dataschema`, whatever registry it names: how we reach ours is our own affair.
pub(super) fn schema_id(dataschema: &str) -> Option<u32> {
    dataschema.rsplit_once(SCHEMAS).and_then(|(_, id)| id.parse().ok())
}

/// `00-<trace>-<parent>-<flags>`; what is no such thing is to be ignored, says the specification.
pub(super) fn is_traceparent(text: &str) -> bool {
    let hex =
        |part: &str, digits| part.len() == digits && part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let mut parts = text.split('-');
    let mut next = |digits| parts.next().is_some_and(|part| hex(part, digits));
    text.len() == TRACEPARENT_BYTES && next(2) && next(32) && next(16) && next(2)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::gateway::access::Way;
    use crate::gateway::cloudevent::Mode;
    use apache_avro::Schema;
    use axum::http::HeaderMap;
    use millrace_schemas::Version;
    use serde_json::{Value as Json, json};

    const V7: &str = "019b76da-a800-7000-8000-000000000001";

    pub(in crate::gateway) fn routes() -> Routes {
        let contracts = Arc::new(Contracts::embedded().unwrap());
        let route = |contract: &Arc<Contract>| {
            let version = contract.newest();
            let schema = Arc::new(WriterSchema::parse(7, &version.text).unwrap());
            let plan = JsonPlan::compile(version, &contract.key, VALUE_BYTES_MAX).unwrap();
            let versions = vec![Writer { schema, plan, dataschema: "http://r/schemas/ids/7".into() }];
            (contract.event_type.clone(), Route::new(contract, versions))
        };
        Routes { routes: contracts.iter().map(route).collect(), contracts: contracts.clone() }
    }

    fn principal(scope: &str) -> Principal {
        Principal::granted("it", Way::Key, &[scope])
    }

    fn erased() -> Json {
        let data = json!({ "user_id": V7, "requested_by": "user" });
        json!({ "specversion": "1.0", "id": V7, "source": "/shop", "type": "user.erased", "data": data })
    }

    /// The pointers of what is wrong; what is right, checked by another way.
    fn prepared(event: &Json) -> Result<Envelope<'static>, Vec<String>> {
        let text = event.to_string();
        let none = HeaderMap::new();
        let submitted = Mode::Structured.read(&none, text.as_bytes()).unwrap().remove(0);
        let routes = routes();
        match routes.prepare(submitted, &principal("publish:*"), Arrival::now((None, None))) {
            Ok(prepared) => {
                assert_eq!(wire::unframe(&prepared.value).unwrap().0, 7);
                Ok(prepared.envelope.into_owned())
            }
            Err(verdict) => Err(verdict.errors.iter().map(|violation| violation.pointer.clone()).collect()),
        }
    }

    #[test]
    fn an_event_becomes_a_record_under_its_own_id_time_and_key() {
        let envelope = prepared(&erased()).unwrap();
        assert_eq!((envelope.id.to_string().as_str(), &*envelope.subject), (V7, V7));
        assert_eq!(envelope.occurred_at.to_rfc3339(), "2026-01-01T00:00:00+00:00");
        assert_eq!(envelope.dataschema.as_deref(), Some("http://r/schemas/ids/7"));
        let mut event = erased();
        (event["time"], event["correlationid"]) = (json!("2025-12-31T23:00:00.5-01:00"), json!("c"));
        event["traceparent"] = json!("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
        let envelope = prepared(&event).unwrap();
        assert_eq!(envelope.occurred_at.to_rfc3339(), "2026-01-01T00:00:00.500+00:00");
        assert_eq!((envelope.correlation_id.as_deref(), envelope.trace_id().is_some()), (Some("c"), true));
    }

    #[test]
    fn everything_that_is_wrong_with_an_event_is_listed_at_once() {
        let mut event = erased();
        (event["specversion"], event["id"], event["source"]) = (json!("0.3"), json!("7"), json!(""));
        event["data"] = json!({ "user_id": 7, "colour": "red" });
        event["dataschema"] = json!("http://r/schemas/ids/8");
        assert_eq!(prepared(&event).unwrap_err(), ["/id", "/specversion", "/source", "/dataschema"]);
        event.as_object_mut().unwrap().remove("dataschema");
        let found = prepared(&event).unwrap_err();
        assert_eq!(found, ["/id", "/specversion", "/source", "/data/user_id", "/data/colour", "/data/requested_by"]);
        (event["time"], event["type"]) = (json!("yesterday"), json!("user.erasd"));
        assert_eq!(prepared(&event).unwrap_err(), ["/id", "/time", "/specversion", "/source", "/type"]);
    }

    #[test]
    fn an_events_errors_are_a_page_wherever_they_were_found() {
        let mut event = erased();
        for n in 0..20 {
            (event[format!("x{n}")], event["data"][format!("x{n}")]) = (json!(1), json!(1));
        }
        assert_eq!(prepared(&event).unwrap_err().len(), VIOLATIONS_MAX);
    }

    #[test]
    fn each_attribute_has_its_rule() {
        let cases = [
            ("id", json!("5f0c7d0e-95b5-4c7a-8a4b-1f9c0f0f0f0f"), "/time"),
            ("time", json!("yesterday"), "/time"),
            ("time", json!("1969-12-31T23:59:59Z"), "/time"),
            ("time", json!("2106-01-01T00:00:00Z"), "/time"),
            ("time", json!((Utc::now() + AHEAD_MAX + TimeDelta::hours(1)).to_rfc3339()), "/time"),
            ("subject", json!("another"), "/subject"),
            ("partitionkey", json!("another"), "/partitionkey"),
            ("type", json!("user.erasd"), "/type"),
            ("data", json!(null), "/data"),
            ("data", json!([]), "/data"),
            ("dataschema", json!("http://r/schemas/ids/x"), "/dataschema"),
        ];
        for (name, value, pointer) in cases {
            let mut event = erased();
            event[name] = value.clone();
            assert_eq!(prepared(&event).unwrap_err(), [pointer], "{name}: {value}");
        }
        for (name, value) in [("subject", V7), ("traceparent", "garbage"), ("dataschema", "http://other/schemas/ids/7")]
        {
            let mut event = erased();
            event[name] = json!(value);
            assert!(prepared(&event).is_ok(), "{name}");
        }
    }

    #[test]
    fn avro_that_is_cut_off_too_long_or_asks_for_the_moon_is_refused_within_its_bound() {
        let routes = routes();
        let contract = routes.contracts.get("order.placed").unwrap().clone();
        let (route, mut datum) = (&routes.routes["order.placed"], Vec::new());
        route.versions[0].plan.encode(&contract.example.to_string(), &mut datum).unwrap();
        let prepare = |datum: &[u8]| {
            let mut event = Submitted::default();
            event.data = Some(Data::Avro(Cow::Owned(datum.to_vec())));
            route.write(&mut event).map(|(_, value, key)| (value, key))
        };
        let (value, key) = prepare(&datum).unwrap();
        assert_eq!((&value[wire::HEADER_BYTES..], json!(key)), (&datum[..], contract.example["order_id"].clone()));
        for cut in 0..datum.len() {
            assert!(prepare(&datum[..cut]).is_none(), "cut at {cut}");
        }
        let huge = [&[0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01][..], &datum].concat();
        assert!(prepare(&huge).is_none());
        assert!(prepare(&[&datum[..], b"\0"].concat()).is_none());
        assert!(prepare(&vec![0; VALUE_BYTES_MAX]).is_none());
    }

    #[test]
    fn what_no_consumer_could_use_is_refused_where_it_stands_in_avro_too() {
        let text = r#"{"type": "record", "name": "R", "fields": [
            {"name": "order_id", "type": "string"}, {"name": "celsius", "type": "double"}]}"#;
        let version = Version { number: 1, schema: Schema::parse_str(text).unwrap(), text: text.to_owned() };
        let contract = Contracts::embedded().unwrap().get("order.placed").unwrap().clone(); // for its key
        let schema = Arc::new(WriterSchema::parse(8, text).unwrap());
        let plan = JsonPlan::compile(&version, &contract.key, VALUE_BYTES_MAX).unwrap();
        let route = Route::new(&contract, vec![Writer { schema, plan, dataschema: String::new() }]);
        let pointers = |celsius: f64| {
            let mut event = Submitted::default();
            event.data = Some(Data::Avro(Cow::Owned([&b"\x02x"[..], &celsius.to_le_bytes()].concat())));
            let is_written = route.write(&mut event).is_some();
            assert_ne!(is_written, !event.violations.is_empty());
            event.violations.into_iter().map(|violation| violation.to_string()).collect::<Vec<_>>()
        };
        assert!(pointers(-21.5).is_empty());
        for (celsius, found) in [(f64::NAN, "NaN"), (f64::INFINITY, "Infinity"), (f64::NEG_INFINITY, "-Infinity")] {
            let expected = format!("/data/celsius: expected a finite number, found {found:?}");
            assert_eq!(pointers(celsius), [expected]);
        }
    }

    #[test]
    fn a_key_publishes_to_the_topics_of_its_scopes_alone() {
        let text = erased().to_string();
        let status = |scope: &str| {
            let none = HeaderMap::new();
            let event = Mode::Structured.read(&none, text.as_bytes()).unwrap().remove(0);
            let routes = routes();
            routes
                .prepare(event, &principal(scope), Arrival::now((None, None)))
                .map(|_| ())
                .map_err(|verdict| verdict.status)
        };
        assert_eq!(status("publish:shop.account.v1"), Ok(()));
        assert_eq!(status("publish:shop.order.*"), Err(Status::Unauthorized));
    }
}
