//! The documents say what the gateway does: other people's validators read them, every documented request is sent and
//! every documented answer seen, and requests that a fuzzer makes of them find no other.

use super::tokens::Issuer;
use super::{ALONE, BATCH, Door, ONE, answered, millrace_hash, new_event};
use crate::clients::{node, python, run};
use crate::commands::{millrace, temporary};
use crate::platform::{Finished, Platform};
use reqwest::{Client, RequestBuilder, Response};
use serde_json::{Value, json};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use tokio::io::AsyncReadExt;
use uuid::Uuid;

const CLIENTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/clients");

/// What requests were answered, as `judge_answers.py` takes it.
#[derive(Default)]
struct Seen(Vec<Value>);

impl Seen {
    async fn see(&mut self, path: &str, method: &str, request: RequestBuilder) -> u16 {
        let answer = request.send().await.unwrap();
        let status = answer.status().as_u16();
        let headers = headers(&answer);
        self.note(path, method, status, &headers, &answer.text().await.unwrap());
        status
    }

    fn note(&mut self, path: &str, method: &str, status: u16, headers: &Value, body: &str) {
        self.0.push(json!({ "path": path, "method": method, "status": status, "headers": headers, "body": body }));
    }
}

fn headers(answer: &Response) -> Value {
    answer.headers().iter().map(|(name, value)| (name.as_str().to_owned(), json!(value.to_str().unwrap()))).collect()
}

/// A gateway where a key may publish only orders, another hardly anything, and the issuer of tokens never answers.
async fn open(platform: &Platform, issuer: &Issuer) -> Door {
    let hash = |key: &str| format!("[\"{}\"]", millrace_hash(key));
    let (orders, bulk, [name, audience]) = (hash("only-orders"), hash("bulk-key"), issuer.known());
    let settings = [
        // A broker that has just come up may need long before it leads all partitions.
        ("MILLRACE_GATEWAY__DEADLINE_MS", "50000"),
        ALONE,
        name,
        audience,
        ("MILLRACE_GATEWAY__KEYS__ORDERS__SHA256", orders.as_str()),
        ("MILLRACE_GATEWAY__KEYS__ORDERS__SCOPES", r#"["publish:shop.order.*"]"#),
        ("MILLRACE_GATEWAY__KEYS__BULK__SHA256", bulk.as_str()),
        ("MILLRACE_GATEWAY__KEYS__BULK__SCOPES", r#"["publish:*"]"#),
        ("MILLRACE_GATEWAY__LIMITS__PRINCIPALS__BULK__BYTES_PER_SECOND", "1"),
    ];
    Door::open(platform, &settings).await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_documented_request_is_accepted_every_documented_answer_seen_and_a_fuzzer_finds_no_other() {
    let platform = Platform::start().await; // no pipelines: a fuzzer's events are nobody's
    let issuer = Issuer::start().await;
    let door = open(&platform, &issuer).await;
    let (_, document) = answered(get(&door, "/v1/openapi.json")).await;
    let mut seen = Seen::default();
    send_the_examples(&door, &document, &mut seen).await;
    let (fuzzed, ()) = tokio::join!(fuzz(&door, &document), see_every_answer(&door, &issuer, &mut seen));
    assert_eq!(fuzzed.code(), 0, "{}{}", fuzzed.out, fuzzed.err);
    println!("{}", fuzzed.out);
    let paths = document["paths"].as_object().unwrap().values();
    let operations: usize =
        paths.map(|path| path.as_object().unwrap().keys().filter(|key| *key != "parameters").count()).sum();
    assert_eq!(number(&fuzzed.out, "Tested: "), operations, "each was tried");
    assert!(number(&fuzzed.out, "Test cases:\n  ") > 1000, "and more than a little");
    let judged = judged_answers(&document, &seen.0);
    assert_eq!(judged, json!({ "wrong": [], "unseen": [] }));
    assert_eq!(door.role.stop(), 0);
    platform.stop().await;
}

/// Behind the words.
fn number(text: &str, words: &str) -> usize {
    let behind = text.split_once(words).unwrap_or_else(|| panic!("no {words:?}")).1;
    behind.split(|other: char| !other.is_ascii_digit()).next().unwrap().parse().unwrap()
}

fn get(door: &Door, path: &str) -> RequestBuilder {
    Client::new().get(format!("{}{path}", door.url)).bearer_auth(&door.token)
}

/// In each mode, of each type; under new ids, so that each is an event of its own.
async fn send_the_examples(door: &Door, document: &Value, seen: &mut Seen) {
    let content = document["paths"]["/v1/events"]["post"]["requestBody"]["content"].as_object().unwrap();
    let mut sent = 0;
    for (kind, described) in content {
        for (event_type, example) in described["examples"].as_object().into_iter().flatten() {
            let (mut body, id) = (example["value"].clone(), json!(Uuid::now_v7()));
            match kind.as_str() {
                ONE => body["id"] = id.clone(),
                BATCH => body[0]["id"] = id.clone(),
                _ => {}
            }
            let request = door.post(kind, body.to_string());
            let request = match kind.as_str() {
                "application/json" => request
                    .header("ce-specversion", "1.0")
                    .header("ce-id", id.as_str().unwrap())
                    .header("ce-source", "/it")
                    .header("ce-type", event_type),
                _ => request,
            };
            assert_eq!(seen.see("/v1/events", "post", request).await, 202, "{kind} {event_type}: {:?}", seen.0.last());
            sent += 1;
        }
    }
    assert_eq!(sent, 3 * 13, "one of each type in each mode of JSON");
}

/// Asks for each answer that is documented; which came, the judge counts.
async fn see_every_answer(door: &Door, issuer: &Issuer, seen: &mut Seen) {
    let event = new_event();
    let (as_key, as_token) =
        (|key: &'static str| move |request: RequestBuilder| request.bearer_auth(key), issuer.token("rsa"));
    let post = |kind: &str, body: String| {
        Client::new().post(format!("{}/v1/events", door.url)).header("content-type", kind).body(body)
    };
    let mut conflict = event.clone();
    conflict["data"]["requested_by"] = json!("somebody else");
    let requests = [
        door.post(ONE, event.to_string()),
        door.post(ONE, conflict.to_string()),
        door.post(BATCH, json!([new_event(), {}]).to_string()),
        door.post(ONE, "{}"),
        door.post(ONE, "{"),
        door.post(ONE, " ".repeat((8 << 20) + 1)),
        door.post("text/plain", "{}"),
        post(ONE, event.to_string()),
        as_key("wrong")(post(ONE, event.to_string())),
        as_key("only-orders")(post(ONE, new_event().to_string())),
        as_key("bulk-key")(post(ONE, new_event().to_string())),
        as_key("bulk-key")(post(ONE, new_event().to_string())),
        post(ONE, event.to_string()).bearer_auth(as_token),
    ];
    for request in requests {
        seen.see("/v1/events", "post", request).await;
    }
    see_a_body_that_does_not_come(door, seen).await;

    let one = [("{type}", "order.placed"), ("{number}", "1")];
    let none = [("{type}", "order.eaten"), ("{number}", "9")];
    for path in [
        "/v1/contracts",
        "/v1/contracts/{type}",
        "/v1/contracts/{type}/versions/{number}",
        "/v1/openapi.json",
        "/v1/asyncapi.json",
        "/contracts",
        "/contracts/{type}",
        "/contracts.css",
        "/contracts.js",
    ] {
        for filled in [one, none] {
            let filled = filled.iter().fold(path.to_owned(), |path, (name, value)| path.replace(name, value));
            seen.see(path, "get", get(door, &filled)).await;
        }
        seen.see(path, "get", Client::new().get(format!("{}{path}", door.url))).await;
        seen.see(path, "get", Client::new().get(format!("{}{path}", door.url)).bearer_auth(as_token)).await;
    }
}

async fn see_a_body_that_does_not_come(door: &Door, seen: &mut Seen) {
    let (mut stream, mut said) = (door.begin(1000, b"{").await, String::new());
    stream.read_to_string(&mut said).await.unwrap();
    let (head, body) = said.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let headers = head.lines().skip(1).filter_map(|line| line.split_once(": "));
    let headers: Value = headers.map(|(name, value)| (name.to_lowercase(), json!(value))).collect();
    seen.note("/v1/events", "post", status, &headers, body);
}

/// Requests that a fuzzer makes of the document, right and wrong ones; it says what it found, and ends with 1.
async fn fuzz(door: &Door, document: &Value) -> Finished {
    let place = temporary(); // it leaves what it learned beside the document
    std::fs::write(place.path().join("openapi.json"), document.to_string()).unwrap();
    let mut command = Command::new(python().with_file_name("schemathesis"));
    command.args(["--config-file", &format!("{CLIENTS}/schemathesis.toml"), "--no-color", "run", "openapi.json"]);
    command.args(["--url", &door.url]).env("MILLRACE_KEY", &door.token).current_dir(place.path());
    tokio::task::spawn_blocking(move || Finished::of(&mut command)).await.unwrap()
}

fn judged_answers(document: &Value, answers: &[Value]) -> Value {
    let mut judge = Command::new(python())
        .arg(format!("{CLIENTS}/judge_answers.py"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let given = json!({ "document": document, "answers": answers }).to_string();
    judge.stdin.take().unwrap().write_all(given.as_bytes()).unwrap();
    let judged = judge.wait_with_output().unwrap();
    assert!(judged.status.success());
    serde_json::from_slice(&judged.stdout).unwrap()
}

/// What `millrace docs` prints.
fn printed(document: &str) -> Value {
    let finished = Finished::of(&mut millrace(&["docs", document, "--json"]));
    assert_eq!(finished.code(), 0, "{}", finished.err);
    finished.json()
}

#[test]
fn asyncapis_own_parser_reads_the_document_and_every_message_in_it() {
    let (document, place) = (printed("asyncapi"), temporary());
    let file = place.path().join("asyncapi.json");
    std::fs::write(&file, document.to_string()).unwrap();
    let judged = parsed(&file);
    assert_eq!(judged["found"], json!([]));
    assert_eq!(judged["messages"].as_array().unwrap().len(), 13);
    let mut wrong = document;
    wrong["components"]["messages"]["order.placed"]["payload"]["schema"]["fields"] = json!("none");
    std::fs::write(&file, wrong.to_string()).unwrap();
    assert_ne!(parsed(&file)["found"], json!([]), "it does look at the schemas");
}

fn parsed(file: &Path) -> Value {
    let modules = node();
    let mut command = Command::new("node");
    let out = run(command.arg(format!("{CLIENTS}/parse_asyncapi.js")).arg(file).env("NODE_PATH", modules));
    serde_json::from_str(&out).unwrap()
}
