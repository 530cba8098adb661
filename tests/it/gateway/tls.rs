//! TLS, judged by curl and OpenSSL: who may connect, and that a renewed certificate is shown without a restart.

use super::{Door, ONE, new_event};
use crate::client::erased;
use crate::clients::judge;
use crate::commands::temporary;
use crate::platform::{Finished, eventually, shared};
use millrace_client::{Client, Credential, Options, Pem};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use uuid::Uuid;

/// A gateway that speaks TLS, and the files of its authority.
struct Secure {
    door: Door,
    files: TempDir,
}

impl Secure {
    /// With these settings more, of the same section, each a file's name.
    async fn open(settings: &[(&str, &str)]) -> Self {
        Self::open_with(settings, &[]).await
    }

    /// And these of the gateway's.
    async fn open_with(settings: &[(&str, &str)], gateway: &[(&str, &str)]) -> Self {
        let files = temporary();
        judge("make_certificates.py", &[files.path().to_str().unwrap()]);
        show(files.path(), "server");
        let_in(files.path(), "ca");
        let shown = [("CERTIFICATE_FILE", "shown.pem"), ("KEY_FILE", "shown.key")];
        let of_tls = [&shown, settings].concat().into_iter().map(|(key, name)| {
            (format!("MILLRACE_GATEWAY__TLS__{key}"), files.path().join(name).display().to_string())
        });
        let of_gateway = gateway.iter().map(|(key, value)| (format!("MILLRACE_GATEWAY__{key}"), (*value).to_owned()));
        let environment: Vec<_> = of_tls.chain(of_gateway).collect();
        let environment: Vec<_> = environment.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        let door = Door::open_at("https", &shared().platform, &environment).await;
        Self { door, files }
    }

    /// What curl is answered when it sends an event so; 0 where it is not let in.
    fn status(&self, token: &str, arguments: &[&str]) -> u16 {
        let url = format!("{}/v1/events", self.door.url);
        let (bearer, kind) = (format!("authorization: Bearer {token}"), format!("content-type: {ONE}"));
        let event = new_event().to_string();
        let usual = ["-sS", "-o", "/dev/null", "-w", "%{http_code}", "-H", &bearer, "-H", &kind, "-d", &event, &url];
        let curl = Finished::of(Command::new("curl").args(usual).args(arguments).current_dir(self.files.path()));
        curl.out.trim().parse().unwrap()
    }

    /// A client that shows this certificate.
    fn client(&self, name: &str, deadline: Duration) -> Client {
        let read = |file: String| std::fs::read_to_string(self.files.path().join(file)).unwrap();
        let identity = Some(Pem::new(read(format!("{name}.pem")) + &read(format!("{name}.key"))));
        let authorities = Some(Pem::new(read("ca.pem".into())));
        let options = Options::new(&self.door.url, "/it", Credential::key(&self.door.token));
        Client::new(Options { authorities, identity, deadline, ..options }).unwrap()
    }

    /// Whose certificate is shown.
    fn subject(&self) -> String {
        let arguments = ["s_client", "-connect", self.door.host()];
        let asked = Finished::of(Command::new("openssl").args(arguments).stdin(Stdio::null()));
        asked.out.lines().find_map(|line| line.trim().strip_prefix("subject=")).unwrap_or_default().to_owned()
    }
}

/// As a renewal does: one file after the other.
fn show(directory: &Path, name: &str) {
    for ending in ["pem", "key"] {
        let copied =
            std::fs::copy(directory.join(name).with_extension(ending), directory.join("shown").with_extension(ending));
        copied.unwrap();
    }
}

/// Whose senders are let in.
fn let_in(directory: &Path, authority: &str) {
    std::fs::copy(directory.join(authority).with_extension("pem"), directory.join("senders.pem")).unwrap();
}

const BY_AUTHORITY: [&str; 2] = ["--cacert", "ca.pem"];

#[tokio::test(flavor = "multi_thread")]
async fn a_renewed_certificate_is_shown_without_a_restart_and_a_broken_one_is_not() {
    let secure = Secure::open(&[]).await;
    let token = &secure.door.token;
    assert_eq!(secure.status(token, &BY_AUTHORITY), 202);
    assert_eq!(secure.status(token, &[]), 0, "nobody takes an authority that is unknown to him for good");
    assert!(secure.subject().contains("server"), "{}", secure.subject());
    let plain = reqwest::get(secure.door.url.replace("https", "http")).await;
    assert!(plain.is_err(), "{plain:?}");

    show(secure.files.path(), "renewed");
    eventually("the renewed certificate is shown", async || secure.subject().contains("renewed")).await;
    assert_eq!(secure.status(token, &BY_AUTHORITY), 202);
    std::fs::copy(secure.files.path().join("stranger.key"), secure.files.path().join("shown.key")).unwrap();
    let said = "the last good files are used";
    eventually("the wrong key is complained about", async || secure.door.role.log().contains(said)).await;
    assert!(secure.subject().contains("renewed"));
    assert_eq!(secure.status(token, &BY_AUTHORITY), 202);
    assert_eq!(secure.door.role.stop(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_senders_must_show_a_certificate_only_the_authoritys_are_let_in_and_still_need_a_key() {
    let secure = Secure::open(&[("CLIENT_CA_FILE", "senders.pem")]).await;
    let token = &secure.door.token;
    let showing = |name: &str, token: &str| {
        let [pem, key] = ["pem", "key"].map(|ending| format!("{name}.{ending}"));
        secure.status(token, &["--cacert", "ca.pem", "--cert", &pem, "--key", &key])
    };
    assert_eq!(secure.status(token, &BY_AUTHORITY), 0, "none");
    assert_eq!(showing("stranger", token), 0);
    assert_eq!(showing("sender", token), 202);
    assert_eq!(showing("sender", "wrong"), 401);
    secure.client("sender", Duration::from_secs(60)).publish(&erased(Uuid::now_v7())).await.unwrap();
    let refused = secure.client("stranger", Duration::from_secs(3)).publish(&erased(Uuid::now_v7())).await;
    assert!(refused.is_err(), "{refused:?}");
    let_in(secure.files.path(), "other_ca");
    eventually("another authority's are let in", async || showing("stranger", token) == 202).await;
    assert_eq!(showing("sender", token), 0);
    assert_eq!(secure.door.role.stop(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_says_nothing_takes_a_connection_and_neither_keeps_it_nor_holds_a_stop_up() {
    let secure = Secure::open_with(&[], &[("CONNECTIONS", "1"), ("DEADLINE_MS", "2000")]).await;
    let (token, ops) = (&secure.door.token, secure.door.role.ops().await);
    let silent = async || TcpStream::connect(secure.door.host()).await.unwrap();
    let counted = async |what: &str, count: &str| {
        let metrics = reqwest::get(format!("{ops}/metrics")).await.unwrap().text().await.unwrap();
        metrics.lines().any(|line| line.strip_prefix(what).is_some_and(|rest| rest.trim() == count))
    };
    let open = async |count| {
        eventually("so many are open", async || counted("millrace_gateway_connections", count).await).await
    };
    let mut first = silent().await;
    open("1").await;
    assert_eq!(secure.status(token, &BY_AUTHORITY), 503);
    assert_eq!(first.read(&mut [0]).await.unwrap(), 0, "it is closed");
    open("0").await;
    eventually("the log answers in time", async || secure.status(token, &BY_AUTHORITY) == 202).await;
    let refused = r#"millrace_gateway_refusals_total{reason="tls_handshake"}"#;
    eventually("it was counted", async || counted(refused, "1").await).await;
    open("0").await;
    let _second = silent().await;
    open("1").await;
    assert_eq!(secure.door.role.stop(), 0, "the drain has 7 s, a handshake 10");
}
