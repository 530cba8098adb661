//! examples/accounts: what its README tells to type works, and an account's events are in the log as its changes were.

/// What the example does, in this process.
#[path = "../../examples/accounts/examples/publish.rs"]
#[allow(dead_code)] // its `main`
mod publishing;

use crate::clients::{kcat, run};
use crate::commands::temporary;
use crate::docs::blocks;
use crate::erasure::OFTEN;
use crate::gateway::Door;
use crate::platform::{DEADLINE, Finished, Platform, eventually, local_engine};
use millrace_accounts::{Access, Service, migrate, router};
use millrace_local::issuer_secret_file;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use tempfile::TempDir;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const TOPIC: &str = "accounts.account.v1";

/// The service, in this process, on its project's platform.
struct Accounts {
    platform: Platform,
    url: String,
    secret: String,
    _clone: TempDir,
}

impl Accounts {
    /// On the project that the README has made.
    async fn start(making_the_project: &str) -> Self {
        let clone = temporary();
        for name in ["schemas", "examples"] {
            symlink(Path::new(ROOT).join(name), clone.path().join(name)).unwrap();
        }
        run(Command::new("bash").args(["-euc", making_the_project]).current_dir(clone.path()));
        let platform = Platform::start_with(local_engine(), Some(&clone.path().join("my-project"))).await;
        let secret = std::fs::read_to_string(issuer_secret_file(&platform.data)).unwrap();
        let pool = platform.postgres().await;
        migrate(&pool).await.unwrap();
        let access = Access::discover(&platform.addresses().issuer, &secret).await.unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router(Service { pool, access })).await });
        Self { platform, url, secret, _clone: clone }
    }

    async fn token(&self, person: &str, audience: &str) -> String {
        let request = reqwest::Client::new().post(format!("{}/token", self.platform.addresses().issuer));
        let form = [("grant_type", "client_credentials"), ("audience", audience)];
        let answer = request.basic_auth(person, Some(&self.secret)).form(&form).send().await.unwrap();
        answer.json::<Value>().await.unwrap()["access_token"].as_str().unwrap().to_owned()
    }

    async fn ask(&self, method: Method, token: &str, profile: Option<&Value>) -> (StatusCode, Value) {
        let request = reqwest::Client::new().request(method, format!("{}/account", self.url)).bearer_auth(token);
        let request = profile.into_iter().fold(request, |request, profile| request.json(profile));
        let answer = request.send().await.unwrap();
        (answer.status(), answer.json().await.unwrap_or_default())
    }

    /// Types of the account's events, in the log's order.
    fn events(&self, account: &Value) -> Vec<String> {
        let brokers = &self.platform.addresses().kafka;
        let arguments = ["-C", "-t", TOPIC, "-o", "beginning", "-e", "-q", "-f", "%k|%h\n"];
        let out = run(kcat(brokers).args(arguments));
        let of_account = out.lines().filter_map(|line| line.strip_prefix(&format!("{}|", account.as_str().unwrap())));
        let event_type =
            |headers: &str| headers.split(',').find_map(|header| header.strip_prefix("ce_type=")).unwrap().to_owned();
        of_account.map(event_type).collect()
    }

    /// A block of the README, at these addresses.
    async fn follow(&self, block: &str) {
        let ours = self.platform.addresses();
        let secret = issuer_secret_file(&self.platform.data).display().to_string();
        let script = [
            (".millrace/issuer/secret", secret.as_str()),
            ("http://127.0.0.1:7073", &ours.issuer),
            ("http://127.0.0.1:7100", &self.url),
            ("127.0.0.1:19092", &ours.kafka),
            ("http://127.0.0.1:18123", &ours.clickhouse),
        ];
        let script = script.iter().fold(block.to_owned(), |text, (documented, ours)| text.replace(documented, ours));
        let deadline = Instant::now() + DEADLINE;
        loop {
            let done = Finished::of(Command::new("bash").args(["-euo", "pipefail", "-c", &script]));
            if done.code() == 0 {
                return;
            }
            assert!(Instant::now() < deadline, "{block}\nends with {}: {}{}", done.code(), done.out, done.err);
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_reference_service_publishes_what_it_committed_in_order_and_nothing_else() {
    let readme = std::fs::read_to_string(format!("{ROOT}/examples/accounts/README.md")).unwrap();
    let (for_up, project) =
        blocks(&readme, "sh").into_iter().partition::<Vec<_>, _>(|block| block.starts_with("# needs make up"));
    let project = project.into_iter().find(|block| block.starts_with("mkdir")).unwrap();
    let accounts = Accounts::start(project).await;
    let checked = accounts.platform.run(&["check"]);
    assert_eq!(checked.code(), 0, "{}{}", checked.out, checked.err);
    // The change may arrive after the person was erased: another topic's batch, or another table's insert.
    let process = accounts.platform.member("process", &["process"], &OFTEN);
    let relay = accounts.platform.role(&["relay"]);

    let profile = |name: &str| json!({ "email": "ada@example.com", "name": name, "country": "GB" });
    let ada = accounts.token("ada", "accounts").await;
    for wrong in ["", "a.b.c", &accounts.token("ada", "millrace").await] {
        assert_eq!(accounts.ask(Method::GET, wrong, None).await.0, StatusCode::UNAUTHORIZED);
    }
    assert_eq!(accounts.ask(Method::PUT, &ada, Some(&profile("nobody"))).await.0, StatusCode::NOT_FOUND);
    let (status, account) = accounts.ask(Method::POST, &ada, Some(&profile("Ada"))).await;
    assert_eq!(status, StatusCode::CREATED, "{account}");
    assert_eq!(accounts.ask(Method::POST, &ada, Some(&profile("Ada again"))).await.0, StatusCode::CONFLICT);
    assert_eq!(accounts.ask(Method::PUT, &ada, Some(&profile("Ada Lovelace"))).await.0, StatusCode::OK);
    let other = accounts.token("grace", "accounts").await;
    assert_eq!(accounts.ask(Method::GET, &other, None).await.0, StatusCode::NOT_FOUND, "everybody has their own");
    assert_eq!(accounts.ask(Method::DELETE, &ada, None).await.0, StatusCode::NO_CONTENT);
    let expected = ["account.registered", "account.changed", "account.erased"];
    let published = async || accounts.events(&account["account_id"]) == expected;
    eventually("what was committed is in the log, in its order", published).await;
    let forgotten = "select countIf(name = '') from events.account_changed";
    eventually("the name is gone from the analytics too", async || accounts.platform.number(forgotten).await == 1)
        .await;

    assert_eq!(for_up.len(), 2);
    for block in for_up {
        accounts.follow(block).await;
    }

    let door = Door::open(&accounts.platform, &[]).await;
    let account = publishing::publish(&door.url, &door.token).await.unwrap();
    assert_eq!(accounts.events(&json!(account)), ["account.registered"], "the client published it");
    assert_eq!((door.role.stop(), relay.stop(), process.stop()), (0, 0, 0));
    accounts.platform.stop().await;
}
