//! Who may publish, and how much: tokens of an issuer that rotates its keys and is away, made by PyJWT, and limits.

use super::{ALONE, BATCH, Door, ONE, TOPIC, answered, erased, log, millrace_hash, new_event};
use crate::backpressure::metric;
use crate::clients::judge;
use crate::platform::{eventually, shared};
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use reqwest::Response;
use serde_json::{Value, json};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use uuid::Uuid;

/// As in the gateway: how soon an issuer is asked again for a key that it did not have.
const ASK_AGAIN: Duration = Duration::from_secs(10);

/// Publishes keys, as it says at its well-known place; or has a bad day.
pub(super) struct Issuer {
    url: String,
    keys: Mutex<Option<Vec<Value>>>,
    asked: AtomicUsize,
    made: Value,
}

impl Issuer {
    pub async fn start() -> Arc<Self> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let made = judge("issue_tokens.py", &[&url, "millrace"]);
        let issuer = Arc::new(Self { url, keys: Mutex::default(), asked: AtomicUsize::new(0), made });
        let router = Router::new()
            .route("/.well-known/openid-configuration", get(discovery))
            .route("/keys", get(keys))
            .with_state(issuer.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        issuer
    }

    fn publishes(&self, names: &[&str]) {
        let keys = names.iter().map(|name| self.made["keys"][name].clone()).collect();
        *self.keys.lock().unwrap() = Some(keys);
    }

    fn is_away(&self) {
        *self.keys.lock().unwrap() = None;
    }

    pub fn token(&self, name: &str) -> &str {
        self.made["tokens"][name].as_str().unwrap()
    }

    /// What the gateway must be told of it.
    pub fn known(&self) -> [(&'static str, &str); 2] {
        [("MILLRACE_GATEWAY__JWT__ISSUER", &self.url), ("MILLRACE_GATEWAY__JWT__AUDIENCE", "millrace")]
    }
}

async fn discovery(State(issuer): State<Arc<Issuer>>) -> String {
    json!({ "issuer": issuer.url, "jwks_uri": format!("{}/keys", issuer.url) }).to_string()
}

async fn keys(State(issuer): State<Arc<Issuer>>) -> Result<String, StatusCode> {
    issuer.asked.fetch_add(1, Ordering::Relaxed);
    let keys = issuer.keys.lock().unwrap().clone().ok_or(StatusCode::BAD_GATEWAY)?;
    Ok(json!({ "keys": keys }).to_string())
}

/// A new event, sent with this token.
async fn sent(door: &Door, token: &str) -> Response {
    let request = reqwest::Client::new().post(format!("{}/v1/events", door.url)).bearer_auth(token);
    request.header("content-type", ONE).body(new_event().to_string()).send().await.unwrap()
}

async fn status(door: &Door, token: &str) -> u16 {
    sent(door, token).await.status().as_u16()
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_publish_while_their_issuer_rotates_its_keys_and_while_it_is_away() {
    let issuer = Issuer::start().await;
    let door = Door::open(&shared().platform, &issuer.known()).await;
    let answer = sent(&door, issuer.token("rsa")).await;
    assert_eq!(answer.status(), 503, "it has never answered, so nobody can tell");
    assert!(answer.headers().contains_key("retry-after"));
    assert_eq!(answered(door.post(ONE, new_event().to_string())).await.0, 202, "keys are good meanwhile");

    issuer.publishes(&["rsa", "pss", "p256", "p384"]);
    eventually("its keys are known", async || status(&door, issuer.token("rsa")).await == 202).await;
    for other in ["pss", "p256", "p384", "array"] {
        assert_eq!(status(&door, issuer.token(other)).await, 202, "{other}");
    }
    let since = Instant::now();
    issuer.publishes(&["edwards"]);
    eventually("its new key is known", async || status(&door, issuer.token("edwards")).await == 202).await;
    let of_old = status(&door, issuer.token("rsa")).await;
    let is_asked_again = of_old == 401 && since.elapsed() >= ASK_AGAIN;
    assert!(of_old == 503 || is_asked_again, "it might be published by now: {of_old}");
    eventually("the old one is known to be withdrawn", async || status(&door, issuer.token("rsa")).await == 401).await;

    issuer.is_away();
    let (asked, since) = (issuer.asked.load(Ordering::Relaxed), Instant::now());
    for _ in 0..200 {
        assert!([401, 503].contains(&status(&door, issuer.token("p256")).await));
        assert_eq!(status(&door, issuer.token("edwards")).await, 202);
    }
    let asked = issuer.asked.load(Ordering::Relaxed) - asked;
    let most = since.elapsed().as_secs() / ASK_AGAIN.as_secs() + 2;
    assert!(asked as u64 <= most, "200 tokens of an unknown key made the gateway ask {asked} times");
    let told = door.role.log();
    for name in ["rsa", "edwards", "p256"] {
        let signature = issuer.token(name).rsplit('.').next().unwrap();
        assert!(!told.contains(signature), "no token is in the logs");
    }
    assert_eq!(door.role.stop(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_not_good_here_is_told_so_and_no_more_and_the_operator_why() {
    let issuer = Issuer::start().await;
    issuer.publishes(&["rsa"]);
    let door = Door::open(&shared().platform, &issuer.known()).await;
    eventually("its keys are known", async || status(&door, issuer.token("rsa")).await == 202).await;
    let mut details = Vec::new();
    for (name, reason) in [
        ("early", "token_not_yet_valid"),
        ("stranger", "token_issuer"),
        ("others", "token_audience"),
        ("unsigned", "token_malformed"),
    ] {
        let answer = sent(&door, issuer.token(name)).await;
        assert_eq!(answer.status(), 401, "{name}");
        assert_eq!(answer.headers()["www-authenticate"], "Bearer error=\"invalid_token\"", "{name}");
        details.push(answer.text().await.unwrap());
        eventually("it is logged", async || door.role.log().contains(reason)).await;
        assert_eq!(metric(&door.role, &format!("millrace_gateway_refusals_total{{reason=\"{reason}\"}}")).await, 1);
    }
    details.dedup();
    assert_eq!(details.len(), 1, "{details:?}");
    let expired = sent(&door, issuer.token("expired")).await;
    assert!(expired.headers()["www-authenticate"].to_str().unwrap().contains("the token has expired"));

    let answer = sent(&door, issuer.token("orders")).await;
    assert_eq!(answer.status(), 403);
    assert_eq!(answer.headers()["www-authenticate"], "Bearer error=\"insufficient_scope\"");
    let is_audited = async || {
        let log = door.role.log();
        log.lines().any(|line| ["refused", "scope", "python", "token", TOPIC].iter().all(|word| line.contains(word)))
    };
    eventually("it is logged who wanted what", is_audited).await;
    assert_eq!(door.role.stop(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_publishes_more_than_it_may_hears_so_and_its_events_keep_their_order() {
    let issuer = Issuer::start().await;
    issuer.publishes(&["rsa"]);
    let (bulk, [name, audience]) = (format!("[\"{}\"]", millrace_hash("bulk-key")), issuer.known());
    let settings = [
        ALONE,
        name,
        audience,
        ("MILLRACE_GATEWAY__KEYS__BULK__SHA256", bulk.as_str()),
        ("MILLRACE_GATEWAY__KEYS__BULK__SCOPES", r#"["publish:*"]"#),
        ("MILLRACE_GATEWAY__LIMITS__DEFAULT__EVENTS_PER_SECOND", "1"),
        ("MILLRACE_GATEWAY__LIMITS__DEFAULT__EVENTS_BURST", "5"),
        ("MILLRACE_GATEWAY__LIMITS__PRINCIPALS__BULK__BYTES_PER_SECOND", "1"),
    ];
    let door = Door::open(&shared().platform, &settings).await;
    let user = Uuid::now_v7();
    let events: Vec<Value> = (0..8).map(|_| erased(Uuid::now_v7(), user, "it")).collect();
    let send = async |events: &[Value]| {
        let (status, answer) = answered(door.post(BATCH, json!(events).to_string())).await;
        let results = answer["results"].as_array().unwrap().clone();
        (status, results.iter().map(|result| result["status"].as_str().unwrap().to_owned()).collect::<Vec<_>>())
    };
    let (status, statuses) = send(&events).await;
    let expected = [["accepted"; 5].as_slice(), &["throttled"; 3]].concat();
    assert_eq!((status, statuses), (207, expected.iter().map(|status| (*status).to_owned()).collect()));
    let mut rest = &events[5..];
    let through = async || {
        let passed = send(rest).await.1.iter().take_while(|status| *status == "accepted").count();
        rest = &rest[passed..];
        rest.is_empty()
    };
    eventually("sent again from the first throttled one on, all are through", through).await;
    let found = log(&shared().platform.addresses().kafka);
    let found: Vec<_> = found.iter().filter(|(key, _)| *key == user.to_string()).map(|(_, id)| json!(id)).collect();
    assert_eq!(found, events.iter().map(|event| event["id"].clone()).collect::<Vec<_>>());

    assert_eq!(self::status(&door, "bulk-key").await, 202, "larger than the bucket, and paid for afterwards");
    let answer = sent(&door, "bulk-key").await;
    assert_eq!(answer.status(), 429);
    let seconds: u64 = answer.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((10..1000).contains(&seconds), "{seconds}");
    assert_eq!(answer.json::<Value>().await.unwrap()["status"], "throttled");
    let by_token = async || self::status(&door, issuer.token("limited")).await == 202;
    eventually("another principal is not held back by it", by_token).await;
    assert!(metric(&door.role, "millrace_gateway_refusals_total{reason=\"throttled\"}").await > 1);
    assert_eq!(door.role.stop(), 0);
}
