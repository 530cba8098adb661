//! Against a gateway that answers as it is told to. The real one is in tests/it/client.rs.

use super::*;
use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::post;
use opentelemetry::trace::TracerProvider;
use opentelemetry_sdk::trace::SdkTracerProvider;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use tracing_subscriber::prelude::*;

#[derive(Serialize)]
struct Counted {
    number: u32,
}

impl Event for Counted {
    const TYPE: &'static str = "thing.counted";
}

/// What one request is answered: a status for each of its events, the last one for all that follow; or one for all.
#[derive(Clone, Copy)]
enum Say {
    Statuses(&'static [&'static str]),
    Problem(u16, &'static str),
    /// 429, and when to come again.
    Later(&'static str),
    /// 413 for more events than this, and the same for what comes next.
    AtMost(usize),
    Nothing,
}

#[derive(Default)]
struct Fake {
    says: Mutex<VecDeque<Say>>,
    /// The bearer and the events of each request.
    asked: Mutex<Vec<(String, Vec<Value>)>>,
}

impl Fake {
    async fn saying(says: impl IntoIterator<Item = Say>) -> (Arc<Self>, Options) {
        let fake = Arc::new(Self { says: Mutex::new(says.into_iter().collect()), ..Self::default() });
        let router = Router::new().route("/v1/events", post(answer)).with_state(fake.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await });
        (fake, Options::new(&url, "/it", Credential::key("sesame")))
    }

    /// The numbers of each request's events.
    fn numbers(&self) -> Vec<Vec<u64>> {
        let asked = self.asked.lock().unwrap();
        let numbers =
            |events: &Vec<Value>| events.iter().map(|event| event["data"]["number"].as_u64().unwrap()).collect();
        asked.iter().map(|(_, events)| numbers(events)).collect()
    }
}

async fn answer(State(fake): State<Arc<Fake>>, headers: HeaderMap, body: String) -> impl IntoResponse {
    let bearer = headers[header::AUTHORIZATION].to_str().unwrap().to_owned();
    let events: Vec<Value> = serde_json::from_str(&body).unwrap();
    let count = events.len();
    fake.asked.lock().unwrap().push((bearer, events));
    let say = fake.says.lock().unwrap().pop_front().unwrap_or(Say::Statuses(&["accepted"]));
    let mut retry_after = "0";
    let (status, body) = match say {
        Say::AtMost(most) if count > most => {
            fake.says.lock().unwrap().push_front(Say::AtMost(most));
            (413, json!({ "detail": "too large" }))
        }
        Say::AtMost(most) => {
            fake.says.lock().unwrap().push_front(Say::AtMost(most));
            (202, json!({ "results": vec![json!({ "status": "accepted" }); count] }))
        }
        Say::Nothing => std::future::pending().await,
        Say::Later(seconds) => {
            retry_after = seconds;
            (429, json!({ "detail": "too much" }))
        }
        Say::Problem(status, detail) => (status, json!({ "detail": detail })),
        Say::Statuses(statuses) => {
            let status = |n: usize| statuses[n.min(statuses.len() - 1)];
            let errors = json!([{ "pointer": "/data/number", "expected": "less", "found": "more" }]);
            let verdict = |n| match status(n) {
                "invalid" => json!({ "status": "invalid", "errors": errors }),
                "not kept" => {
                    json!({ "status": "invalid", "errors": errors, "quarantine": { "not_kept": "full", "until": 7 } })
                }
                other => json!({ "status": other }),
            };
            (207, json!({ "results": (0..count).map(verdict).collect::<Vec<_>>() }))
        }
    };
    (StatusCode::from_u16(status).unwrap(), [(header::RETRY_AFTER, retry_after)], body.to_string())
}

async fn sent(client: &Client, numbers: std::ops::Range<u32>) -> Vec<Sending> {
    let mut sent = Vec::new();
    for number in numbers {
        sent.push(client.send(&Counted { number }, Occurrence::now()).await.unwrap());
    }
    sent
}

#[tokio::test]
async fn events_go_together_and_what_must_go_again_goes_first_and_in_order() {
    let says = [Say::Statuses(&["accepted", "retry", "duplicate", "throttled"]), Say::Problem(503, "the log is away")];
    let (fake, options) = Fake::saying(says).await;
    let client = Client::new(Options { batch_events: 5, linger: Duration::from_secs(9), ..options }).unwrap();
    let answers = futures_util::future::join_all(sent(&client, 0..10).await.into_iter().map(Sending::published)).await;
    assert_eq!(answers[2], Ok(Published::Duplicate));
    assert_eq!(answers.iter().filter(|answer| **answer == Ok(Published::Accepted)).count(), 9);
    assert_eq!(fake.numbers(), [vec![0, 1, 2, 3, 4], vec![1, 3, 4], vec![1, 3, 4], vec![5, 6, 7, 8, 9]]);
    let asked = fake.asked.lock().unwrap();
    assert_eq!(asked[0].1[1], asked[2].1[0], "the same id and the same time");
    assert_eq!(asked[0].1[0]["specversion"], "1.0");
    assert_eq!((&asked[0].1[0]["type"], &asked[0].1[0]["source"]), (&json!("thing.counted"), &json!("/it")));
}

#[tokio::test]
async fn each_event_hears_what_is_wrong_with_it() {
    let (_, options) = Fake::saying([Say::Statuses(&["invalid", "unauthorized", "spooled", "not kept"])]).await;
    let client = Client::new(Options { batch_events: 4, linger: Duration::from_secs(9), ..options }).unwrap();
    let [invalid, unauthorized, good, lost] = <[Sending; 4]>::try_from(sent(&client, 0..4).await).unwrap();
    let told = invalid.published().await.unwrap_err().to_string();
    assert!(told.ends_with("does not fit its contract: /data/number: expected less, found more"), "{told}");
    assert!(matches!(unauthorized.published().await, Err(PublishError::Unauthorized { .. })));
    assert_eq!(good.published().await, Ok(Published::Spooled));
    let told = lost.published().await.unwrap_err().to_string();
    assert!(told.ends_with("found more; not kept in quarantine: full"), "{told}");
}

#[tokio::test]
async fn a_token_that_is_refused_is_renewed_once_and_a_key_is_not_tried_again() {
    let no = || Say::Problem(401, "the token has expired");
    let (fake, options) = Fake::saying([no(), Say::Statuses(&["accepted"]), no(), no()]).await;
    let asked = Arc::new(AtomicU32::new(0));
    let ask = move || {
        let number = asked.fetch_add(1, Ordering::Relaxed);
        async move { Ok(Token { token: format!("token {number}"), good_for: Duration::from_secs(3600) }) }
    };
    let client = Client::new(Options { credential: Credential::asked(ask), ..options.clone() }).unwrap();
    assert_eq!(client.publish(&Counted { number: 0 }).await, Ok(Published::Accepted));
    let told = client.publish(&Counted { number: 1 }).await.unwrap_err().to_string();
    assert!(told.contains("answered 401: the token has expired"), "{told}");
    let bearers: Vec<String> = fake.asked.lock().unwrap().iter().map(|(bearer, _)| bearer.clone()).collect();
    assert_eq!(bearers, ["Bearer token 0", "Bearer token 1", "Bearer token 1", "Bearer token 2"]);

    fake.says.lock().unwrap().push_back(no());
    let by_key = Client::new(options).unwrap();
    assert!(matches!(by_key.publish(&Counted { number: 2 }).await, Err(PublishError::Refused { status: 401, .. })));
}

#[tokio::test]
async fn who_publishes_faster_than_the_gateway_takes_waits_and_what_is_too_large_is_refused() {
    let (fake, options) = Fake::saying([]).await;
    let mut options = Options { queue_bytes: 1024, batch_bytes: 1024, linger: Duration::from_secs(30), ..options };
    options.batch_events = 1000;
    let client = Client::new(options.clone()).unwrap();
    let first = sent(&client, 0..4).await; // about 200 bytes each
    let more = tokio::time::timeout(Duration::from_millis(300), sent(&client, 4..8)).await;
    assert!(more.is_err() && fake.numbers().is_empty(), "the memory is full, and the batch lingers");
    drop(first);

    let client = Client::new(Options { linger: Duration::ZERO, ..options }).unwrap();
    for sending in sent(&client, 0..50).await {
        assert_eq!(sending.published().await, Ok(Published::Accepted));
    }
    struct Large;
    impl Serialize for Large {
        fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.serialize_str(&"x".repeat(1024))
        }
    }
    impl Event for Large {
        const TYPE: &'static str = "thing.large";
    }
    assert!(matches!(client.publish(&Large).await, Err(PublishError::TooLarge { bytes: 1025.., .. })));
    let wrong = Options { queue_bytes: 10, ..Options::new("http://localhost:1", "/it", Credential::nothing()) };
    assert!(Client::new(wrong).err().unwrap().to_string().contains("`queue_bytes` is 10"));
    let wrong = Options::new("localhost", "/it", Credential::nothing());
    assert!(Client::new(wrong).err().unwrap().to_string().contains("`gateway` is no URL"));
}

#[tokio::test]
async fn what_has_no_answer_in_time_is_unsure_and_its_id_is_told() {
    let (_, options) = Fake::saying((0..100).map(|_| Say::Statuses(&["retry"]))).await;
    let client = Client::new(Options { deadline: Duration::from_secs(2), ..options }).unwrap();
    let sending = client.send(&Counted { number: 0 }, Occurrence::now()).await.unwrap();
    let sent = sending.id();
    let Err(PublishError::Unsure { id, attempts, reason }) = sending.published().await else { panic!("nobody knows") };
    assert!(id == sent && attempts > 1 && reason.contains("did not answer in time"), "{attempts} {reason}");
    client.settled().await;
}

#[tokio::test]
async fn what_may_be_in_the_log_stays_unsure_whatever_a_later_attempt_is_told() {
    let lost = [Say::Problem(200, "no verdicts"), Say::Problem(502, "a proxy's"), Say::Statuses(&["retry"])];
    let refused = [
        (Say::Problem(401, "no such key"), "the last attempt was answered 401: no such key"),
        (Say::Problem(403, "not you"), "the last attempt was answered 403: not you"),
        (Say::Problem(413, "too large"), "the last attempt was answered 413: too large"),
        (Say::Statuses(&["invalid"]), "the last attempt was `invalid`: /data/number: expected less, found more"),
        (Say::Statuses(&["unauthorized"]), "the last attempt was `unauthorized`: ask for publish:<its topic>"),
    ];
    for lost in lost {
        let says = refused.map(|(refused, _)| [lost, refused]).into_iter().flatten();
        let (_, options) = Fake::saying(says).await;
        let client = Client::new(options).unwrap();
        for (number, (_, expected)) in (0..).zip(refused) {
            let told = client.publish(&Counted { number }).await;
            let Err(PublishError::Unsure { attempts: 2, reason, .. }) = told else { panic!("{expected}: {told:?}") };
            assert_eq!(reason, expected);
        }
    }
}

#[tokio::test]
async fn what_no_request_brought_to_the_gateway_is_not_published_and_not_unsure() {
    let ask = || async { Err("the issuer is away".to_owned()) };
    let (fake, options) = Fake::saying([]).await;
    let nowhere = Options { gateway: "http://127.0.0.1:1".into(), ..options.clone() };
    let without_token = Options { credential: Credential::asked(ask), ..options };
    for (options, expected) in [(nowhere, "refused"), (without_token, "could not get a token: the issuer is away")] {
        let client = Client::new(Options { deadline: Duration::from_secs(2), ..options }).unwrap();
        let told = client.publish(&Counted { number: 0 }).await;
        let Err(PublishError::NotPublished { attempts, reason, .. }) = told else { panic!("{expected}: {told:?}") };
        assert!(attempts > 1 && reason.contains(expected), "{attempts} {reason}");
    }
    assert!(fake.numbers().is_empty());
}

#[tokio::test]
async fn absurd_times_and_a_panic_in_the_callers_function_end_no_worker() {
    let (fake, options) = Fake::saying([Say::Later("18446744073709551615")]).await;
    let asked = Arc::new(AtomicU32::new(0));
    let ask = move || {
        let number = asked.fetch_add(1, Ordering::Relaxed);
        assert!(number > 0, "at once");
        async move {
            assert!(number > 1, "later");
            Ok(Token { token: "token".into(), good_for: Duration::MAX })
        }
    };
    let client = Client::new(Options { credential: Credential::asked(ask), ..options }).unwrap();
    let told = client.publish(&Counted { number: 0 }).await;
    let Err(PublishError::NotPublished { attempts: 3, reason, .. }) = told else { panic!("{told:?}") };
    assert_eq!(reason, "the gateway answered 429: too much");
    assert_eq!(client.publish(&Counted { number: 1 }).await, Ok(Published::Accepted));
    assert_eq!(fake.numbers(), [[0], [1]]);
}

#[tokio::test]
async fn times_out_of_bounds_are_refused_at_the_start() {
    let (_, options) = Fake::saying([]).await;
    for (options, expected) in [
        (
            Options { linger: Duration::MAX, ..options.clone() },
            "`linger` is 18446744073709551615.999999999s: 0ns to 60s",
        ),
        (Options { attempt: Duration::ZERO, ..options.clone() }, "`attempt` is 0ns: 10ms to 600s is possible"),
        (Options { attempt: Duration::MAX, ..options.clone() }, "`attempt` is 18446744073709551615.999999999s"),
        (Options { deadline: Duration::from_millis(5), ..options.clone() }, "`deadline` is 5ms: 15ms to 86400s"),
        (Options { deadline: Duration::MAX, ..options.clone() }, "`deadline` is 18446744073709551615.999999999s"),
    ] {
        let told = Client::new(options).err().map(|error| error.to_string()).unwrap_or_default();
        assert!(told.contains(expected), "{told}");
    }
}

#[tokio::test]
async fn a_batch_that_is_too_large_for_the_gateway_goes_in_parts_and_in_order() {
    let (fake, options) = Fake::saying([Say::AtMost(2)]).await;
    let client = Client::new(Options { batch_events: 7, linger: Duration::from_secs(9), ..options.clone() }).unwrap();
    for sending in sent(&client, 0..7).await {
        assert_eq!(sending.published().await, Ok(Published::Accepted));
    }
    let (whole, half) = (vec![0, 1, 2, 3, 4, 5, 6], vec![3, 4, 5, 6]);
    assert_eq!(fake.numbers(), [whole, vec![0, 1, 2], vec![0], vec![1, 2], half, vec![3, 4], vec![5, 6]]);

    *fake.says.lock().unwrap() = VecDeque::from([Say::AtMost(0)]);
    let told = Client::new(options).unwrap().publish(&Counted { number: 7 }).await;
    assert!(matches!(told, Err(PublishError::Refused { status: 413, .. })), "{told:?}");
}

#[tokio::test]
async fn what_had_no_turn_before_its_deadline_is_not_sent() {
    let (fake, options) = Fake::saying([Say::Nothing]).await;
    let (attempt, deadline) = (Duration::from_millis(1500), Duration::from_millis(1000));
    let client = Client::new(Options { batch_events: 1, attempt, deadline, ..options }).unwrap();
    let [first, second] = <[Sending; 2]>::try_from(sent(&client, 0..2).await).unwrap();
    assert!(matches!(first.published().await, Err(PublishError::Unsure { attempts: 1, .. })));
    let told = second.published().await;
    assert!(matches!(told, Err(PublishError::NotPublished { attempts: 0, .. })), "{told:?}");
    assert_eq!(fake.numbers(), [[0]]);
}

#[tokio::test]
async fn who_waits_for_room_waits_no_longer_than_the_deadline() {
    for (queue_events, queue_bytes) in [(1, 16 << 20), (10, 1024)] {
        let (_fake, options) = Fake::saying([Say::Nothing]).await;
        let options = Options { queue_events, queue_bytes, batch_events: 1, batch_bytes: 1024, ..options };
        let client = Client::new(Options { deadline: Duration::from_millis(200), ..options }).unwrap();
        let mut on_their_way = Vec::new();
        let full = async {
            loop {
                match client.send(&Counted { number: 0 }, Occurrence::now()).await {
                    Ok(sending) => on_their_way.push(sending),
                    Err(error) => return error,
                }
            }
        };
        let told = tokio::time::timeout(Duration::from_secs(5), full).await.expect("an end");
        let PublishError::NotPublished { attempts: 0, reason, .. } = told else { panic!("{told:?}") };
        assert_eq!(reason, "no room among what waits for its answer");
    }
}

#[tokio::test]
async fn an_event_continues_the_trace_of_the_span_it_was_published_in() {
    let provider = SdkTracerProvider::builder().build();
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("it"));
    let _subscriber = tracing_subscriber::registry().with(layer).set_default();
    assert_eq!(Occurrence::now().traceparent, None);
    let traceparent = tracing::info_span!("erase").in_scope(|| Occurrence::now().traceparent).unwrap();
    let parts: Vec<&str> = traceparent.split('-').collect();
    assert_eq!(parts.iter().map(|part| part.len()).collect::<Vec<_>>(), [2, 32, 16, 2], "{traceparent}");
    assert!(parts[1].bytes().any(|digit| digit != b'0') && parts[3] == "01", "{traceparent}");
}
