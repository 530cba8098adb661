//! What gateways share through Redis, and that no event waits for it.

use super::{BATCH, Door, ONE, SLACK, answered, erased, millrace_hash, new_event};
use crate::backpressure::metric;
use crate::clients::judge;
use crate::commands::{Frozen, temporary};
use crate::platform::{Platform, Role, eventually, shared};
use millrace_local::{FreePorts, Server};
use reqwest::RequestBuilder;
use serde_json::{Value, json};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use uuid::Uuid;

/// Long: a busy machine must not look like a Redis that is away.
const DEADLINE: Duration = Duration::from_secs(1);
/// Events at once; then one a second.
const BURST: usize = 10;
const SENDERS: usize = 8;

async fn open(platform: &Platform) -> Door {
    let (hash, deadline) = (format!("[\"{}\"]", millrace_hash("pair-key")), DEADLINE.as_millis().to_string());
    let settings = [
        ("MILLRACE_REDIS__DEADLINE_MS", deadline.as_str()),
        ("MILLRACE_GATEWAY__KEYS__PAIR__SHA256", hash.as_str()),
        ("MILLRACE_GATEWAY__KEYS__PAIR__SCOPES", r#"["publish:*"]"#),
        ("MILLRACE_GATEWAY__LIMITS__PRINCIPALS__PAIR__EVENTS_PER_SECOND", "1"),
        ("MILLRACE_GATEWAY__LIMITS__PRINCIPALS__PAIR__EVENTS_BURST", &BURST.to_string()),
    ];
    Door::open(platform, &settings).await
}

async fn status(request: RequestBuilder) -> String {
    answered(request).await.1["status"].as_str().unwrap().to_owned()
}

/// Waits until what the one accepts the other knows: they find Redis by themselves.
async fn share(one: &Door, other: &Door) {
    eventually("the other knows what the one accepted", async || {
        let event = new_event().to_string();
        status(one.post(ONE, event.clone())).await == "accepted" && status(other.post(ONE, event)).await == "duplicate"
    })
    .await;
}

async fn is_away(door: &Door) -> bool {
    metric(&door.role, "millrace_gateway_redis_away").await == 1
}

/// One event after the other, until it is over.
async fn send(door: Arc<Door>, over: Arc<AtomicBool>) -> u64 {
    let mut sent = 0;
    while !over.load(Ordering::SeqCst) {
        let since = Instant::now();
        let (status, answer) = answered(door.post(ONE, new_event().to_string())).await;
        assert_eq!((status, &answer["status"]), (202, &json!("accepted")), "{answer}");
        assert!(since.elapsed() < DEADLINE + SLACK, "{:?}", since.elapsed());
        sent += 1;
    }
    sent
}

/// How many of as many new events pass as the bucket would hold.
async fn passed(door: &Door, events: usize) -> usize {
    let events: Vec<Value> = (0..events).map(|_| erased(Uuid::now_v7(), Uuid::now_v7(), "it")).collect();
    let request = door.post(BATCH, json!(events).to_string());
    let answer = answered(request.header("x-api-key", "pair-key")).await.1;
    answer["results"].as_array().unwrap().iter().filter(|result| result["status"] == "accepted").count()
}

#[tokio::test(flavor = "multi_thread")]
async fn gateways_share_ids_and_limits_and_go_on_alone_while_redis_is_away() {
    let platform = &shared().platform;
    assert!(platform.addresses().redis.is_some(), "no Redis on this machine: `make test` installs it");
    let (one, other) = (Arc::new(open(platform).await), open(platform).await);
    share(&one, &other).await;

    let event = new_event();
    assert_eq!(status(one.post(ONE, event.to_string())).await, "accepted");
    let mut another = event.clone();
    another["data"]["requested_by"] = json!("somebody else");
    let (status_of_another, answer) = answered(other.post(ONE, another.to_string())).await;
    assert_eq!((status_of_another, &answer["errors"][0]["pointer"]), (409, &json!("/id")), "{answer}");
    assert_eq!(status(other.post(ONE, event.to_string())).await, "duplicate");
    let batch = json!([event, new_event(), event, another]).to_string();
    let (_, answer) = answered(other.post(BATCH, batch)).await;
    let statuses: Vec<_> = answer["results"].as_array().unwrap().iter().map(|result| &result["status"]).collect();
    assert_eq!(statuses, ["duplicate", "accepted", "duplicate", "invalid"]);

    let since = Instant::now();
    let through = passed(&one, BURST - 3).await + passed(&other, BURST - 3).await;
    let filled = since.elapsed().as_secs() as usize + 1;
    assert!((BURST..=BURST + filled).contains(&through), "{through} passed at both together");

    let late = async || metric(&one.role, "millrace_gateway_redis_late_total").await;
    let lost = async || metric(&one.role, "millrace_gateway_redis_lost_total").await;
    let told = || one.role.log().matches("is away, so this gateway").count() as i64;
    let (late_before, told_before, lost_before) = (late().await, told(), lost().await);
    let over = Arc::<AtomicBool>::default();
    let senders: Vec<_> = (0..SENDERS).map(|_| tokio::spawn(send(one.clone(), over.clone()))).collect();
    let frozen = Frozen::new(platform.stack.pid(Server::Redis).unwrap());
    eventually("it is noticed", async || is_away(&one).await).await;
    // Nobody asked it meanwhile.
    let unshared = new_event();
    assert_eq!(status(one.post(ONE, unshared.to_string())).await, "accepted");
    assert_eq!(status(one.post(ONE, unshared.to_string())).await, "duplicate", "its own it knows");
    eventually("the other notices", async || {
        status(other.post(ONE, new_event().to_string())).await == "accepted" && is_away(&other).await
    })
    .await;
    assert_eq!(status(other.post(ONE, unshared.to_string())).await, "accepted");
    assert!(passed(&other, BURST).await > 0, "its own bucket counts");
    drop(frozen);
    share(&one, &other).await;
    assert!(!is_away(&one).await);
    let late_while_frozen = late().await - late_before;

    platform.kill_server(Server::Redis).await;
    share(&one, &other).await;
    over.store(true, Ordering::SeqCst);
    let mut sent = 0;
    for sender in senders {
        sent += sender.await.unwrap();
    }
    println!("{sent} sent, {late_while_frozen} questions were not answered in time while Redis was frozen");
    assert!(late_while_frozen > 0, "nobody waited");
    assert!(late_while_frozen <= 5 * SENDERS as i64, "each sender waits for some deadlines, not each request");
    let lost = async || lost().await - lost_before;
    eventually("there is a line for each loss, not for each request", async || told() - told_before == lost().await)
        .await;
    assert!((1..10).contains(&lost().await), "{}", lost().await);
    assert_eq!(Arc::into_inner(one).unwrap().role.stop(), 0);
    assert_eq!(other.role.stop(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_deleted_topic_had_is_no_duplicate_in_the_one_that_was_made_anew() {
    let platform = Platform::start().await;
    let (one, other) = (open(&platform).await, open(&platform).await);
    share(&one, &other).await;
    let event = new_event().to_string();
    assert_eq!(status(one.post(ONE, event.clone())).await, "accepted");
    assert_eq!(status(other.post(ONE, event.clone())).await, "duplicate");
    assert_eq!(judge("recreate_topic.py", &[&platform.addresses().kafka, "shop.account.v1", "6"]), true);
    for (name, door) in [("the one", &one), ("the other", &other)] {
        let is_noticed = async || door.role.log().contains("a topic was made anew");
        eventually(&format!("{name} asks Kafka again, within a minute"), is_noticed).await;
    }
    eventually("it is published anew", async || status(one.post(ONE, event.clone())).await == "accepted").await;
    assert_eq!(status(other.post(ONE, event)).await, "duplicate", "they share the new topic's ids");
    assert_eq!((one.role.stop(), other.role.stop()), (0, 0));
    platform.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_may_ask_for_tls_and_a_password_which_is_never_told() {
    let (platform, files, mut ports) = (&shared().platform, temporary(), FreePorts::default());
    judge("make_certificates.py", &[files.path().to_str().unwrap()]);
    let port = ports.take().unwrap().to_string();
    let is_there = |program: &&str| Command::new(program).arg("--version").output().is_ok();
    let program = ["redis-server", "valkey-server"].into_iter().find(is_there).expect("`make test` installs Redis");
    let mut server = Command::new(program);
    server.args(["--bind", "127.0.0.1", "--port", "0", "--tls-port", &port, "--save", "", "--requirepass", "sesame"]);
    server.args(["--tls-cert-file", "server.pem", "--tls-key-file", "server.key", "--tls-ca-cert-file", "ca.pem"]);
    server.args(["--tls-auth-clients", "no"]).current_dir(files.path());
    let _server = Role::start(&mut server, &platform.data, "redis-tls");

    let (url, authority) = (format!("rediss://127.0.0.1:{port}"), files.path().join("ca.pem"));
    let settings = |password| {
        let authority = ("SSL_CERT_FILE", authority.to_str().unwrap());
        let slow = ("MILLRACE_REDIS__DEADLINE_MS", "1000");
        [slow, ("MILLRACE_REDIS__URL", url.as_str()), ("MILLRACE_REDIS__PASSWORD", password), authority]
    };
    let right = Door::open(platform, &settings("sesame")).await;
    let shares = format!("shared through Redis at {url}");
    eventually("it is let in", async || right.role.log().contains(&shares)).await;
    let wrong = Door::open(platform, &settings("open sesame")).await;
    eventually("it is not", async || wrong.role.log().contains(&format!("Redis at {url} is away"))).await;
    for door in [right, wrong] {
        assert_eq!(status(door.post(ONE, new_event().to_string())).await, "accepted");
        assert!(!door.role.log().contains("sesame"), "{}", door.role.log());
        assert_eq!(door.role.stop(), 0);
    }
}
