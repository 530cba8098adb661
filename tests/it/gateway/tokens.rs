//! Who may publish: tokens of an issuer that rotates its keys and is away, made by PyJWT.

use super::{Door, ONE, TOPIC, answered, new_event};
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

/// Publishes keys, as it says at its well-known place; or has a bad day.
struct Issuer {
    url: String,
    keys: Mutex<Option<Vec<Value>>>,
    asked: AtomicUsize,
    made: Value,
}

impl Issuer {
    async fn start() -> Arc<Self> {
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

    fn token(&self, name: &str) -> &str {
        self.made["tokens"][name].as_str().unwrap()
    }

    /// What the gateway must be told of it.
    fn known(&self) -> [(&'static str, &str); 2] {
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
    issuer.publishes(&["edwards"]);
    eventually("its new key is known", async || status(&door, issuer.token("edwards")).await == 202).await;
    assert_eq!(status(&door, issuer.token("rsa")).await, 401, "the old one was withdrawn");

    issuer.is_away();
    let asked = issuer.asked.load(Ordering::Relaxed);
    for _ in 0..200 {
        assert!([401, 503].contains(&status(&door, issuer.token("p256")).await));
        assert_eq!(status(&door, issuer.token("edwards")).await, 202);
    }
    let asked = issuer.asked.load(Ordering::Relaxed) - asked;
    assert!(asked < 20, "200 tokens of an unknown key made the gateway ask {asked} times");
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
        log.lines().any(|line| ["refused", "scope", "python", TOPIC].iter().all(|word| line.contains(word)))
    };
    eventually("it is logged who wanted what", is_audited).await;
    assert_eq!(door.role.stop(), 0);
}
