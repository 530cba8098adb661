//! The client crate against real gateways: what it was told is accepted is in the log, whoever dies meanwhile.

use crate::gateway::{Door, headers, log};
use crate::platform::{eventually, shared};
use millrace_client::{Client, Credential, Event, Occurrence, Options, PublishError, Published, Quarantine};
use millrace_local::issuer_secret_file;
use serde::Serialize;
use serde_json::json;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use uuid::Uuid;

#[derive(Serialize)]
pub struct UserErased {
    user_id: String,
    requested_by: &'static str,
}

impl Event for UserErased {
    const TYPE: &'static str = "user.erased";
}

pub fn erased(user: Uuid) -> UserErased {
    UserErased { user_id: user.to_string(), requested_by: "client" }
}

const USERS: usize = 4;
const EVENTS: usize = 16_000;

#[tokio::test(flavor = "multi_thread")]
async fn whatever_kills_the_gateway_each_event_is_in_the_log_and_each_users_are_in_order() {
    let platform = &shared().platform;
    let mut door = Door::open(platform, &[]).await;
    let options = Options::new(&door.url, "/it", Credential::key(&door.token));
    // Small, so that there is something left to kill.
    let client = Client::new(Options { batch_events: 20, queue_events: 200, ..options }).unwrap();
    let users: Vec<Uuid> = (0..USERS).map(|_| Uuid::new_v4()).collect();
    let accepted = Arc::new(AtomicUsize::new(0));
    let publish = async {
        let (mut numbers, mut answers) = (HashMap::new(), Vec::new());
        for number in 0..EVENTS {
            let sending = client.send(&erased(users[number % USERS]), Occurrence::now()).await.unwrap();
            numbers.insert(sending.id().to_string(), number);
            let accepted = accepted.clone();
            answers.push(tokio::spawn(async move {
                let published = sending.published().await;
                accepted.fetch_add(1, Ordering::Relaxed);
                published
            }));
        }
        (numbers, futures_util::future::join_all(answers).await)
    };
    let kill = async {
        // Early, so that also a look that comes late finds most of them still to come.
        for share in [5, 20] {
            let reached = async || accepted.load(Ordering::Relaxed) >= EVENTS * share / 100;
            eventually("more is accepted", reached).await;
            door.kill_and_start_again(platform).await;
            assert!(accepted.load(Ordering::Relaxed) < EVENTS, "the fault came too late to prove anything");
        }
    };
    let ((numbers, answers), ()) = tokio::join!(publish, kill);
    assert!(answers.into_iter().all(|answer| answer.unwrap().is_ok()), "nothing was given up");

    let mine = |key: &String| users.iter().any(|user| user.to_string() == *key);
    let found: Vec<_> = log(&platform.addresses().kafka).into_iter().filter(|(key, _)| mine(key)).collect();
    let (mut first, mut last) = (HashMap::new(), BTreeMap::new());
    for (key, id) in &found {
        let number = numbers[id];
        if first.insert(id, number).is_none() {
            let before = last.insert(key, number);
            assert!(before.is_none_or(|before| before < number), "{key}: {number} behind {before:?}");
        }
    }
    println!("{EVENTS} published, {} records", found.len());
    assert_eq!(first.len(), EVENTS, "each is there, under its one id");
    assert_eq!(door.role.stop(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_token_of_the_development_issuer_a_service_publishes_what_its_scope_says() {
    let platform = &shared().platform;
    let door = Door::open(platform, &[]).await;
    let secret = std::fs::read_to_string(issuer_secret_file(&platform.data)).unwrap();
    let token_url = format!("{}/token", platform.addresses().issuer);
    let client = |secret: &str, scope: &str| {
        let credential = Credential::client_credentials(&token_url, "accounts", secret, scope);
        let options = Options::new(&door.url, "/it", credential);
        Client::new(Options { deadline: Duration::from_secs(30), keep_invalid: true, ..options }).unwrap()
    };
    let accounts = client(&secret, "publish:shop.account.*");
    let traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let occurrence = Occurrence { traceparent: Some(traceparent.into()), ..Occurrence::now() };
    let sending = accounts.send(&erased(Uuid::new_v4()), occurrence).await.unwrap();
    let id = sending.id();
    assert_eq!(sending.published().await, Ok(Published::Accepted));
    let headers = headers(&platform.addresses().kafka, id);
    assert!(headers.contains(&format!("traceparent={traceparent}")), "{headers}");

    let nobody = UserErased { user_id: "nobody".into(), requested_by: "client" };
    let mut found = None;
    // On a busy machine it may have to be sent again to be kept.
    eventually("`nobody` is no uuid, and the store is in time", async || {
        let refused = accounts.publish(&nobody).await;
        if let Err(PublishError::Invalid { violations, quarantine: Some(Quarantine::Kept(kept)), .. }) = refused {
            found = Some((violations, kept));
        }
        found.is_some()
    })
    .await;
    let (violations, kept) = found.unwrap();
    let shown = platform.run(&["quarantine", "show", &kept]);
    assert_eq!(shown.code(), 0, "{}", shown.err);
    let [violation] = &violations[..] else { panic!("{violations:?}") };
    assert_eq!(
        json!([violation.pointer, violation.expected, violation.found]),
        json!(["/data/user_id", "a uuid", "\"nobody\""])
    );

    let orders = client(&secret, "publish:shop.order.*");
    let refused = orders.publish(&erased(Uuid::new_v4())).await;
    assert!(matches!(refused, Err(PublishError::Unauthorized { .. })), "{refused:?}");
    assert_eq!(door.role.stop(), 0);
}
