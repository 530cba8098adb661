//! The form in which an invalid event is kept: a CloudEvent in JSON, whole and encrypted, or without what is personal.
//!
//! What can't be kept as it was sent is noted, so that a replay never publishes an event of which something is missing
//! without a word: `personal` is what was taken out, `lost` what was wrong there and can't be judged again.

use super::NotKept;
use super::seal::Key;
use crate::gateway::access::{Principal, Way};
use crate::gateway::answer::Verdict;
use crate::gateway::cloudevent::{Data, Mode, NAMES, Submitted};
use crate::gateway::prepare::{Arrival, Routes, SCHEMAS, is_traceparent, schema_id};
use axum::http::HeaderMap;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use chrono::DateTime;
use millrace_schemas::{Contract, VIOLATIONS_MAX, Violation, is_name};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use serde_json::value::{RawValue, to_raw_value};
use std::collections::BTreeMap;
use uuid::Uuid;

/// Of our ids, as UUIDs of version 5 have one: any will do that stays.
const NAMESPACE: Uuid = Uuid::from_u128(0x6d69_6c6c_7261_6365_9175_6172_616e_7469);
/// An index of an array has no more digits; a telephone number does.
const INDEX_DIGITS_MAX: usize = 5;

/// A `source` that names services is no longer; text may be.
const SOURCE_BYTES_MAX: usize = 128;

/// What did not fit, and where. What was found there is not repeated: it may be personal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    pub pointer: String,
    pub expected: String,
}

/// What the store takes.
pub(super) struct Row {
    pub id: Uuid,
    pub event_type: Option<String>,
    pub event_id: Option<Uuid>,
    pub errors: Vec<Reason>,
    pub personal: Vec<String>,
    pub lost: Vec<String>,
    pub data_bytes: usize,
    pub content: Content,
}

pub(super) enum Content {
    Plain(String),
    Sealed { sealed: Vec<u8>, by: String },
}

impl Row {
    pub fn bytes(&self) -> usize {
        let content = match &self.content {
            Content::Plain(text) => text.len(),
            Content::Sealed { sealed, .. } => sealed.len(),
        };
        let errors: usize = self.errors.iter().map(|error| error.pointer.len() + error.expected.len()).sum();
        let pointers: usize = self.personal.iter().chain(&self.lost).map(String::len).sum();
        content + errors + pointers
    }
}

/// How the events of one request are kept.
pub(super) struct Form<'a> {
    pub routes: &'a Routes,
    pub principal: &'a Principal,
    /// None: what is personal is taken out.
    pub key: Option<&'a Key>,
}

/// An event on its way into its form.
#[derive(Default)]
struct Draft {
    members: BTreeMap<&'static str, Box<RawValue>>,
    personal: Vec<String>,
    lost: Vec<String>,
}

impl Form<'_> {
    pub fn row(&self, mut event: Submitted<'_>, verdict: &Verdict<'_>) -> Result<Row, NotKept> {
        let contract = self.routes.contract(&event).cloned();
        // Whoever may not publish a type is `unauthorized`; of one that nobody described nobody can tell.
        let entitled =
            self.principal.way != Way::Open && (contract.is_some() || self.principal.may_publish_everything());
        if !entitled {
            return Err(NotKept::Stranger);
        }
        let event_id = event.get("id").and_then(|id| Uuid::try_parse(id).ok());
        let event_type = event.get("type").filter(|name| is_type(name)).map(ToString::to_string);
        let data_bytes = event.data.as_ref().map_or(0, Data::bytes);
        // What reading it found is about what is not in it any more.
        let mut draft = Draft { lost: pointers(&event.violations), ..Draft::default() };
        match (self.key, contract) {
            (Some(_), _) => draft.whole(&mut event),
            (None, Some(contract)) => draft.stripped(&mut event, &contract, self.routes),
            (None, None) => draft.data_lost(&event),
        }
        draft.attributes(&mut event, self.key.is_some());
        let text = serde_json::to_string(&draft.members).unwrap_or_default(); // texts and JSON always serialize
        draft.faults_that_vanished(&verdict.errors, &text, self.routes);
        let Draft { personal, lost, .. } = draft;
        let id = event_id.map_or_else(Uuid::now_v7, |event_id| self.id(event_id));
        let content = match self.key {
            None => Content::Plain(text),
            Some(key) => {
                let sealed = key.seal(id, text).ok_or(NotKept::Away)?; // the machine has no random numbers
                Content::Sealed { sealed, by: key.id.clone() }
            }
        };
        let errors = verdict.errors.iter().map(reason).collect();
        let (personal, lost) = (plain_pointers(&personal), plain_pointers(&lost));
        Ok(Row { id, event_type, event_id, errors, personal, lost, data_bytes, content })
    }

    /// The same for the same event, so that one that is sent again takes the place of the first.
    fn id(&self, event_id: Uuid) -> Uuid {
        let name = format!("{}\0{}\0{event_id}", self.principal.way.word(), self.principal.name);
        Uuid::new_v5(&NAMESPACE, name.as_bytes())
    }
}

impl Draft {
    fn put(&mut self, name: &'static str, value: &impl Serialize) {
        if let Ok(value) = to_raw_value(value) {
            self.members.insert(name, value);
        }
    }

    /// Byte by byte, as it was sent.
    fn whole(&mut self, event: &mut Submitted<'_>) {
        match event.data.take() {
            None => {}
            Some(Data::Json(text)) => match RawValue::from_string(text.trim().to_owned()) {
                Ok(data) => drop(self.members.insert("data", data)),
                Err(_) => self.lost.push("/data".into()), // no contract makes JSON of it
            },
            Some(Data::Avro(datum)) => self.avro(event, &datum),
        }
    }

    fn avro(&mut self, event: &mut Submitted<'_>, datum: &[u8]) {
        event.take("datacontenttype");
        self.put("datacontenttype", &"application/avro");
        self.put("data_base64", &BASE64_STANDARD.encode(datum));
    }

    fn stripped(&mut self, event: &mut Submitted<'_>, contract: &Contract, routes: &Routes) {
        let data: Option<Json> = match event.data.take() {
            None => return,
            Some(Data::Json(text)) => serde_json::from_str(text).ok(),
            Some(Data::Avro(datum)) => routes.as_json(event, &datum),
        };
        event.take("datacontenttype"); // it is JSON from here on
        let Some(mut data) = data else { return self.lost.push("/data".into()) };
        self.personal.extend(contract.strip_personal(&mut data).iter().map(|pointer| format!("/data{pointer}")));
        let key = data.get(&contract.key).and_then(Json::as_str).map(str::to_owned);
        for name in ["subject", "partitionkey"] {
            if let Some(other) = event.take(name) {
                if key.as_deref() == Some(&*other) {
                    self.put(name, &other);
                } else {
                    self.personal.push(format!("/{name}")); // an address, perhaps
                }
            }
        }
        self.put("data", &data);
    }

    fn data_lost(&mut self, event: &Submitted<'_>) {
        if event.data.is_some() {
            self.lost.push("/data".into());
        }
    }

    fn attributes(&mut self, event: &mut Submitted<'_>, sealed: bool) {
        if let Some(id) = event.get("dataschema").filter(|_| !sealed).and_then(|named| schema_id(named)) {
            event.take("dataschema");
            self.put("dataschema", &format!("{SCHEMAS}{id}")); // before it anything may have stood
        }
        for name in NAMES {
            match event.get(name) {
                Some(value) if sealed || is_plain(name, value) => self.put(name, value),
                Some(_) => self.personal.push(format!("/{name}")),
                None => {}
            }
        }
    }

    /// What is not wrong in this form and was in the event is not in it as it was: a field that came twice, say.
    fn faults_that_vanished(&mut self, errors: &[Violation], text: &str, routes: &Routes) {
        let left = match submitted(text).map(|event| routes.prepare_trusted(event, Arrival::now((None, None)))) {
            Some(Err(violations)) => pointers(&violations),
            _ => Vec::new(),
        };
        self.lost.extend(pointers(errors).into_iter().filter(|pointer| !left.contains(pointer)));
        if errors.len() >= VIOLATIONS_MAX {
            self.lost.push(String::new()); // nobody knows what else was wrong
        }
    }
}

/// The event that was kept in this form.
pub(super) fn submitted(text: &str) -> Option<Submitted<'_>> {
    static NONE: std::sync::LazyLock<HeaderMap> = std::sync::LazyLock::new(HeaderMap::new);
    Mode::Structured.read(&NONE, text.as_bytes()).ok()?.pop()
}

/// Whether an attribute is in the form that it should have, in which it tells nothing of a person.
fn is_plain(name: &str, value: &str) -> bool {
    match name {
        "specversion" => value == "1.0",
        "id" => Uuid::try_parse(value).is_ok(),
        "type" => is_type(value),
        "time" => DateTime::parse_from_rfc3339(value).is_ok(),
        "source" => is_source(value),
        "correlationid" | "causationid" => Uuid::try_parse(value).is_ok(),
        "traceparent" => is_traceparent(value),
        // Where those of the data are right, others have put them; and a `tracestate` is anything.
        _ => false,
    }
}

/// `/shop/order-intake`, `https://orders.example.com/intake`, `urn:shop:orders`: names, and what stands between them.
/// No address, no number, no UUID.
fn is_source(text: &str) -> bool {
    text.len() <= SOURCE_BYTES_MAX && text.split(['/', ':', '.', '-']).all(|part| part.is_empty() || is_name(part))
}

/// `order.placed`, or the like of it.
fn is_type(text: &str) -> bool {
    text.split('.').all(is_name)
}

fn pointers(violations: &[Violation]) -> Vec<String> {
    violations.iter().map(|violation| violation.pointer.clone()).collect()
}

pub(super) fn reason(violation: &Violation) -> Reason {
    let expected = match violation.pointer.as_str() {
        // What else is said there is the key, which the event has.
        "/subject" | "/partitionkey" => "the key of the data, or nothing".to_owned(),
        _ => violation.expected.clone(),
    };
    Reason { pointer: plain_pointer(&violation.pointer), expected }
}

/// Sorted, each once.
fn plain_pointers(pointers: &[String]) -> Vec<String> {
    let mut plain: Vec<String> = pointers.iter().map(|pointer| plain_pointer(pointer)).collect();
    plain.sort_unstable();
    plain.dedup();
    plain
}

/// Without names that nobody gives a field: who sends a map where none belongs may have people's addresses in it.
fn plain_pointer(pointer: &str) -> String {
    let is_index = |step: &str| step.len() <= INDEX_DIGITS_MAX && step.bytes().all(|byte| byte.is_ascii_digit());
    let plain =
        |step: &str| if step.is_empty() || is_name(step) || is_index(step) { step.to_owned() } else { "?".into() };
    pointer.split('/').map(plain).collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::answer::Status;
    use crate::gateway::prepare::tests::routes;
    use serde_json::json;

    const ID: &str = "019b76da-a800-7000-8000-000000000001";

    fn it(scope: &str) -> Principal {
        Principal::granted("it", Way::Key, &[scope])
    }

    /// What is kept of an event without personal data, or why nothing is.
    fn kept(principal: &Principal, text: &str) -> Result<(Row, Json), NotKept> {
        let (routes, event) = (routes(), || submitted(text).unwrap());
        let verdict = routes.prepare(event(), principal, Arrival::now((None, None))).err().expect("the event fits");
        assert_eq!(verdict.status, Status::Invalid, "{verdict:?}");
        let row = Form { routes: &routes, principal, key: None }.row(event(), &verdict)?;
        let Content::Plain(text) = &row.content else { unreachable!() };
        let event = serde_json::from_str(text).unwrap();
        Ok((row, event))
    }

    fn erased(more: &str, data: &str) -> String {
        let begin = format!(r#"{{ "specversion": "1.0", "id": "{ID}", "source": "/it", "type": "user.erased""#);
        format!(r#"{begin} {more}, "data": {{ "user_id": "{ID}" {data} }} }}"#)
    }

    #[test]
    fn an_event_keeps_what_its_contract_describes_and_says_what_it_lacks() {
        let (row, event) =
            kept(&it("publish:*"), &erased(r#", "subject": "anna@example.com""#, r#", "by": 7"#)).unwrap();
        let kept = json!({ "specversion": "1.0", "id": ID, "source": "/it", "type": "user.erased", "data": { "user_id": ID } });
        assert_eq!(event, kept);
        assert_eq!(row.personal, ["/data/by", "/subject"]);
        let pointers: Vec<_> = row.errors.iter().map(|error| error.pointer.as_str()).collect();
        assert_eq!(pointers, ["/data/by", "/data/requested_by"]);
        assert_eq!((row.event_id, row.event_type.as_deref()), (Uuid::try_parse(ID).ok(), Some("user.erased")));
        assert_eq!(row.data_bytes, 63);
    }

    #[test]
    fn no_attribute_keeps_an_address_nor_other_text() {
        let texts = [
            "anna@example.com",
            "/users/anna@example.com",
            "mailto:anna@example.com",
            "Anna Smith",
            "anna@example.com/schemas/ids/7",
            "00-anna@example.com-01",
        ];
        for (name, text) in NAMES.into_iter().flat_map(|name| texts.map(|text| (name, text))) {
            let mut event: Json = serde_json::from_str(&erased("", r#", "requested_by": 7"#)).unwrap();
            event[name] = json!(text);
            let Ok((row, event)) = kept(&it("publish:*"), &event.to_string()) else {
                panic!("{name}: it was not kept");
            };
            let pointers = [row.personal.clone(), row.lost.clone()].concat();
            let errors = row.errors.iter().flat_map(|error| [&error.pointer, &error.expected]);
            let texts = errors.chain(&pointers).cloned().collect::<String>();
            let stored = format!("{event} {texts} {:?} {:?}", row.event_type, row.event_id).to_lowercase();
            assert!(!stored.contains("anna"), "{name} {text}: {stored}");
            let is_told = pointers.contains(&format!("/{name}")) || event.get(name).is_some();
            assert!(is_told || name == "datacontenttype", "{name} {text}: gone without a word");
        }
    }

    #[test]
    fn a_source_is_kept_where_it_is_made_of_names_and_a_schema_by_its_number() {
        for source in ["/it", "/shop/order-intake", "https://orders.example.com/intake", "urn:shop:orders", "shop"] {
            assert!(is_source(source), "{source}");
        }
        let long = "/anna".repeat(30);
        let phone = "/+4917012345";
        for text in ["/users/019b76da-a800-7000-8000-000000000001", "/users/17", "//10.1.2.3", "/a b", phone, &long] {
            assert!(!is_source(text), "{text}");
        }
        let (row, event) =
            kept(&it("publish:*"), &erased(r#", "dataschema": "http://elsewhere/schemas/ids/7""#, "")).unwrap();
        assert_eq!((event["dataschema"].as_str(), row.personal), (Some("/schemas/ids/7"), vec![]));
    }

    #[test]
    fn an_avro_datum_is_kept_as_what_it_says_and_one_that_says_nothing_is_not() {
        let avro = |datum: &[u8]| {
            let begin = format!(r#"{{ "specversion": "1.0", "id": "{ID}", "source": "/it", "type": "user.erased""#);
            let data = BASE64_STANDARD.encode(datum);
            let more = r#""subject": "anna@example.com", "datacontenttype": "application/avro""#;
            kept(&it("publish:*"), &format!(r#"{begin}, {more}, "data_base64": "{data}" }}"#)).unwrap()
        };
        let (row, event) = avro(&[&[72][..], ID.as_bytes(), &[4], b"it"].concat()); // lengths are zigzag
        assert_eq!(event["data"], json!({ "user_id": ID, "requested_by": "it" }));
        assert_eq!((event.get("datacontenttype"), row.personal), (None, vec!["/subject".to_owned()]));
        let (row, event) = avro(b"anna@example.com");
        assert_eq!((event.get("data"), event.get("data_base64")), (None, None));
        assert!(row.lost.contains(&"/data".to_owned()), "{:?}", row.lost);
    }

    #[test]
    fn a_fault_that_is_not_kept_is_lost_and_never_passes_for_repaired() {
        let lost = |more: &str, data: &str| kept(&it("publish:*"), &erased(more, data)).unwrap().0.lost;
        assert_eq!(lost("", r#", "requested_by": "a", "requested_by": "b""#), ["/data/requested_by"]);
        assert_eq!(lost(r#", "colour": "red""#, r#", "requested_by": "a""#), ["/colour"]);
        assert_eq!(lost(r#", "anna@example.com": "red""#, r#", "requested_by": "a""#), ["/?"]);
        let many: String = (0..40).map(|n| format!(r#", "f{n}": 1"#)).collect();
        assert!(lost("", &many).contains(&String::new()));
    }

    #[test]
    fn of_a_type_that_nobody_described_only_who_may_publish_all_has_something_kept_and_nothing_of_its_data() {
        let text = erased("", "").replace("user.erased", "user.gone");
        let (row, event) = kept(&it("publish:*"), &text).unwrap();
        assert_eq!((row.event_type.as_deref(), event.get("data")), (Some("user.gone"), None));
        assert_eq!(row.lost, ["/data"]);
        assert_eq!(kept(&it("publish:shop.*"), &text).err(), Some(NotKept::Stranger));
        let anybody = Principal::granted("anybody", Way::Open, &["publish:*"]);
        assert_eq!(kept(&anybody, &text).err(), Some(NotKept::Stranger), "nobody asked who it is");
    }

    #[test]
    fn an_event_that_is_sent_again_has_the_same_place_and_another_senders_has_its_own() {
        let id = |principal: &Principal| kept(principal, &erased("", "")).unwrap().0.id;
        assert_eq!(id(&it("publish:*")), id(&it("publish:shop.*")));
        assert_ne!(id(&it("publish:*")), id(&Principal::granted("it", Way::Token, &["publish:*"])));
        assert_ne!(id(&it("publish:*")), id(&Principal::granted("other", Way::Key, &["publish:*"])));
    }

    #[test]
    fn who_has_the_key_keeps_an_event_as_it_was_sent_but_for_what_no_event_has() {
        let key = Key::parse(&"0b".repeat(32)).unwrap();
        let (routes, principal) = (routes(), it("publish:*"));
        let text = erased(r#", "subject": "anna@example.com""#, r#", "by" : [7.0e1, 1, {"by": 1, "by": 2}]"#);
        let verdict = routes.prepare(submitted(&text).unwrap(), &principal, Arrival::now((None, None))).err().unwrap();
        let form = Form { routes: &routes, principal: &principal, key: Some(&key) };
        let row = form.row(submitted(&text).unwrap(), &verdict).unwrap();
        let Content::Sealed { sealed, by } = &row.content else { panic!("it lies open") };
        assert_eq!(*by, key.id);
        let opened = key.open(row.id, sealed).unwrap();
        assert!(opened.contains(r#""by" : [7.0e1, 1, {"by": 1, "by": 2}]"#), "byte by byte: {opened}");
        assert!(opened.contains("anna@example.com") && row.personal.is_empty() && row.lost.is_empty());
    }
}
