//! The webhook channel: one signed POST (Standard Webhooks 1.0), and what its answer means.
//! Follows no redirect, uses no proxy, reads a bounded answer.

use crate::address::Guard;
use crate::channel::{Channel, Delivery, Outcome};
use crate::config::Target;
use chrono::{DateTime, Utc};
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::{Client, Response, StatusCode, redirect};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// The channel, the pipeline, the group's suffix, the label and the word on the command line.
pub(crate) const NAME: &str = "webhook";

/// A receiver that can't be connected to within this is down; an attempt's whole time is its endpoint's.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// Read of an answer, so that its connection can be used again; a longer one costs the connection.
const ANSWER_BYTES_MAX: usize = 16 << 10;
/// Letters of an unhappy answer that are quoted to whoever has to find out why.
const QUOTE_CHARS_MAX: usize = 200;
/// Idle connections kept to one receiver, and for how long.
const IDLE_MAX: usize = 32;
const IDLE: Duration = Duration::from_secs(30);

/// Knows its endpoints; holds connections to them.
pub(crate) struct Webhook {
    endpoints: BTreeMap<String, (Target, Client)>,
}

impl Webhook {
    /// # Errors
    /// When no TLS provider is installed: the binary does that before anything else.
    pub fn new(targets: BTreeMap<String, Target>) -> anyhow::Result<Self> {
        let (public, private) = (client(false)?, client(true)?);
        let with_client = |(name, target): (String, Target)| {
            let client = if target.guard.allow_private { &private } else { &public };
            (name, (target, client.clone()))
        };
        Ok(Self { endpoints: targets.into_iter().map(with_client).collect() })
    }
}

/// Connections are pooled by host, so what one guard allowed must not serve another.
fn client(allow_private: bool) -> anyhow::Result<Client> {
    let client = Client::builder()
        .dns_resolver(Arc::new(Guard { allow_private }))
        .redirect(redirect::Policy::none())
        .no_proxy() // a proxy would resolve the name itself, out of the guard's sight
        .connect_timeout(CONNECT_DEADLINE)
        .pool_max_idle_per_host(IDLE_MAX)
        .pool_idle_timeout(IDLE)
        .user_agent(concat!("millrace/", env!("CARGO_PKG_VERSION")));
    Ok(client.build()?)
}

impl Channel for Webhook {
    const NAME: &'static str = NAME;

    async fn deliver(&self, delivery: &Delivery) -> Outcome {
        let Some((target, client)) = self.endpoints.get(&delivery.endpoint) else {
            return Outcome::retry(format!("no endpoint `{}` is configured", delivery.endpoint));
        };
        if let Err(denied) = target.guard.check_literal(&target.url) {
            return Outcome::retry(denied);
        }
        let request = client
            .post(target.url.clone())
            .timeout(target.timeout)
            .headers(headers(target, delivery, delivery.clock.now()))
            .body(delivery.body.clone());
        match request.send().await {
            Ok(response) => judge(response, delivery.clock.now()).await,
            // No answer is no refusal: the receiver may have it, or may be down.
            // The whole chain: reqwest says the useful part last.
            Err(error) => Outcome::retry(format!("{:#}", anyhow::Error::from(error.without_url()))),
        }
    }
}

/// The timestamp is the attempt's, so that a receiver's tolerance holds for a retry too.
fn headers(target: &Target, delivery: &Delivery, now: DateTime<Utc>) -> HeaderMap {
    let timestamp = now.timestamp();
    let signature = target.signer.sign(delivery.id, timestamp, &delivery.body);
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert("webhook-timestamp", HeaderValue::from(timestamp));
    let texts = [
        ("webhook-id", Some(delivery.id.to_string())),
        ("webhook-signature", Some(signature)),
        ("traceparent", delivery.traceparent.clone()),
    ];
    for (name, text) in texts {
        if let Some(value) = text.and_then(|text| HeaderValue::try_from(text).ok()) {
            headers.insert(name, value);
        }
    }
    headers
}

async fn judge(response: Response, now: DateTime<Utc>) -> Outcome {
    let (status, headers) = (response.status(), response.headers());
    let after = headers.get(RETRY_AFTER).and_then(|value| retry_after(value.to_str().ok()?, now));
    let code = Some(status.as_u16());
    let said = read(response).await;
    let error = || format!("the receiver answered {status}{}", quote(&said));
    match status {
        status if status.is_success() => Outcome::Delivered { code },
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => Outcome::Retry { code, error: error(), after },
        status if status.is_server_error() => Outcome::Retry { code, error: error(), after },
        StatusCode::GONE => {
            let error = "the receiver answered 410 Gone: it wants no more deliveries; remove its endpoint or its rules";
            Outcome::Refused { code, error: error.into() }
        }
        status if status.is_redirection() => {
            let error =
                format!("the receiver answered {status}: redirects are not followed, configure the address it has now");
            Outcome::Refused { code, error }
        }
        _ => Outcome::Refused { code, error: error() },
    }
}

/// The beginning of an answer. The status has decided already, so an answer that breaks off is as good as whole.
async fn read(mut response: Response) -> Vec<u8> {
    let mut said = Vec::new();
    while let Ok(Some(chunk)) = response.chunk().await {
        let room = ANSWER_BYTES_MAX - said.len();
        said.extend_from_slice(&chunk[..chunk.len().min(room)]);
        if said.len() == ANSWER_BYTES_MAX {
            break;
        }
    }
    said
}

fn quote(said: &[u8]) -> String {
    let text: String = String::from_utf8_lossy(said).trim().chars().take(QUOTE_CHARS_MAX).collect();
    if text.is_empty() { text } else { format!(": {text}") }
}

/// RFC 9110, 10.2.3: seconds or a date.
fn retry_after(text: &str, now: DateTime<Utc>) -> Option<Duration> {
    let text = text.trim();
    if let Ok(seconds) = text.parse::<u32>() {
        return Some(Duration::from_secs(u64::from(seconds)));
    }
    let at = DateTime::parse_from_rfc2822(text).ok()?;
    (at.to_utc() - now).to_std().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::Clock;
    use crate::signature::Signer;
    use axum::Router;
    use axum::body::{Body, Bytes};
    use axum::http::Uri;
    use axum::response::{IntoResponse, Response as Answer};
    use std::net::SocketAddr;
    use std::sync::Mutex;
    use uuid::Uuid;

    const SECRET: &str = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

    type Seen = Arc<Mutex<Vec<(HeaderMap, Bytes)>>>;

    /// A receiver that answers what the path says, and remembers what it got.
    struct Receiver {
        address: SocketAddr,
        seen: Seen,
        _serving: tokio_util::task::AbortOnDropHandle<()>,
    }

    impl Receiver {
        async fn start() -> Self {
            let seen = Seen::default();
            let remember = seen.clone();
            let router = Router::new().fallback(async move |uri: Uri, headers: HeaderMap, body: Bytes| {
                remember.lock().unwrap().push((headers, body));
                answer(uri.path()).await
            });
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let serving = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
            Self { address, seen, _serving: tokio_util::task::AbortOnDropHandle::new(serving) }
        }

        async fn post(&self, path: &str) -> Outcome {
            webhook(&format!("http://{}{path}", self.address), true).deliver(&delivery()).await
        }

        fn requests(&self) -> usize {
            self.seen.lock().unwrap().len()
        }
    }

    async fn answer(path: &str) -> Answer {
        match path {
            "/endless" => {
                let chunk = || Ok::<_, std::io::Error>(Bytes::from_static(&[b'x'; 1 << 14]));
                Body::from_stream(futures_util::stream::repeat_with(chunk)).into_response()
            }
            "/never" => std::future::pending().await,
            "/moved" => (StatusCode::TEMPORARY_REDIRECT, [("location", "/200")]).into_response(),
            "/patience" => (StatusCode::TOO_MANY_REQUESTS, [("retry-after", "120")], "slow\0 down").into_response(),
            path => {
                let status: u16 = path.trim_start_matches('/').parse().unwrap();
                (StatusCode::from_u16(status).unwrap(), "because").into_response()
            }
        }
    }

    fn webhook(url: &str, allow_private: bool) -> Webhook {
        // Long, unless nothing answers: the machine may be busy.
        let timeout = Duration::from_millis(if url.ends_with("/never") { 300 } else { 30_000 });
        let _ = rustls::crypto::ring::default_provider().install_default();
        let target = Target {
            url: url.parse().unwrap(),
            signer: Signer::parse(SECRET).unwrap(),
            guard: Guard { allow_private },
            timeout,
            concurrency: 1,
        };
        Webhook::new([("shop".to_owned(), target)].into()).unwrap()
    }

    fn delivery() -> Delivery {
        Delivery {
            id: Uuid::now_v7(),
            rule: "r".into(),
            endpoint: "shop".into(),
            body: r#"{"type":"payment.failed","data":{"reason":"Überzogen"}}"#.into(),
            traceparent: Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".into()),
            attempt: 1,
            tries: 1,
            clock: Clock::showing(Utc::now()),
        }
    }

    fn code(outcome: &Outcome) -> Option<u16> {
        let (Outcome::Delivered { code } | Outcome::Retry { code, .. } | Outcome::Refused { code, .. }) = outcome;
        *code
    }

    #[tokio::test]
    async fn an_independent_verifier_accepts_what_a_receiver_gets() {
        let receiver = Receiver::start().await;
        let (channel, delivery) = (webhook(&format!("http://{}/204", receiver.address), true), delivery());
        for _ in 0..2 {
            assert_eq!(channel.deliver(&delivery).await, Outcome::Delivered { code: Some(204) });
        }
        let seen = receiver.seen.lock().unwrap();
        let verifier = standardwebhooks::Webhook::new(SECRET).unwrap();
        for (headers, body) in seen.iter() {
            verifier.verify(body, headers).unwrap();
            assert_eq!(body, delivery.body.as_bytes());
            assert_eq!(headers["webhook-id"], delivery.id.to_string());
            assert_eq!(headers["content-type"], "application/json");
            assert_eq!(headers["user-agent"], concat!("millrace/", env!("CARGO_PKG_VERSION")));
            assert_eq!(headers["traceparent"], delivery.traceparent.as_deref().unwrap());
        }
        assert_eq!(seen.len(), 2);
    }

    #[tokio::test]
    async fn a_status_decides_between_done_later_and_never() {
        let receiver = Receiver::start().await;
        for (path, wanted) in [
            ("/200", "delivered"),
            ("/202", "delivered"),
            ("/304", "refused"),
            ("/400", "refused"),
            ("/401", "refused"),
            ("/404", "refused"),
            ("/408", "retry"),
            ("/410", "refused"),
            ("/422", "refused"),
            ("/429", "retry"),
            ("/500", "retry"),
            ("/503", "retry"),
        ] {
            let outcome = receiver.post(path).await;
            let found = match &outcome {
                Outcome::Delivered { .. } => "delivered",
                Outcome::Retry { .. } => "retry",
                Outcome::Refused { .. } => "refused",
            };
            assert_eq!((found, code(&outcome)), (wanted, path[1..].parse().ok()), "{path}");
        }
        let Outcome::Refused { error, .. } = receiver.post("/422").await else { panic!() };
        assert_eq!(error, "the receiver answered 422 Unprocessable Entity: because");
    }

    #[tokio::test]
    async fn a_redirect_is_not_followed() {
        let receiver = Receiver::start().await;
        let outcome = receiver.post("/moved").await;
        assert!(matches!(&outcome, Outcome::Refused { error, .. } if error.contains("redirects are not followed")));
        assert_eq!(receiver.requests(), 1);
    }

    #[tokio::test]
    async fn a_receiver_that_asks_for_patience_is_heard() {
        let outcome = Receiver::start().await.post("/patience").await;
        let Outcome::Retry { code, after, .. } = outcome else { panic!("{outcome:?}") };
        assert_eq!((code, after), (Some(429), Some(Duration::from_secs(120))));
        let now = DateTime::parse_from_rfc3339("1994-11-06T08:49:00Z").unwrap().to_utc();
        assert_eq!(retry_after("Sun, 06 Nov 1994 08:49:37 GMT", now), Some(Duration::from_secs(37)));
        assert_eq!(retry_after(" 5 ", now), Some(Duration::from_secs(5)));
        for nonsense in ["", "-1", "soon", "Sun, 06 Nov 1993 08:49:37 GMT", "1e9"] {
            assert_eq!(retry_after(nonsense, now), None, "{nonsense}");
        }
    }

    #[tokio::test]
    async fn an_endless_answer_is_not_read_to_its_end() {
        let receiver = Receiver::start().await;
        assert_eq!(receiver.post("/endless").await, Outcome::Delivered { code: Some(200) });
    }

    #[tokio::test]
    async fn no_answer_may_mean_anything_so_it_is_tried_again() {
        let receiver = Receiver::start().await;
        let silent = receiver.post("/never").await;
        assert!(
            matches!(&silent, Outcome::Retry { code: None, error, .. } if error.contains("timed out")),
            "{silent:?}"
        );
        let nobody = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let down = webhook(&format!("http://{nobody}/"), true).deliver(&delivery()).await;
        assert!(matches!(&down, Outcome::Retry { code: None, error, .. } if !error.contains("http://")), "{down:?}");
    }

    #[tokio::test]
    async fn a_name_that_resolves_to_this_machine_is_not_called_without_permission() {
        let receiver = Receiver::start().await;
        for host in ["localhost", "127.0.0.1", "2130706433", "[::ffff:127.0.0.1]"] {
            let url = format!("http://{host}:{}/200", receiver.address.port());
            let outcome = webhook(&url, false).deliver(&delivery()).await;
            assert!(
                matches!(&outcome, Outcome::Retry { error, .. } if error.contains("private address")),
                "{outcome:?}"
            );
        }
        assert_eq!(receiver.requests(), 0);
        let url = format!("http://localhost:{}/200", receiver.address.port());
        assert_eq!(webhook(&url, true).deliver(&delivery()).await, Outcome::Delivered { code: Some(200) });
    }
}
