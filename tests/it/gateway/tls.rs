//! TLS, judged by curl and OpenSSL: who may connect, and that a renewed certificate is shown without a restart.

use super::{Door, ONE, new_event};
use crate::clients::judge;
use crate::commands::temporary;
use crate::platform::{Finished, eventually, shared};
use std::path::Path;
use std::process::{Command, Stdio};
use tempfile::TempDir;

/// A gateway that speaks TLS, and the files of its authority.
struct Secure {
    door: Door,
    files: TempDir,
}

impl Secure {
    /// With these settings more, of the same section, each a file's name.
    async fn open(settings: &[(&str, &str)]) -> Self {
        let files = temporary();
        judge("make_certificates.py", &[files.path().to_str().unwrap()]);
        show(files.path(), "server");
        let shown = [("CERTIFICATE_FILE", "shown.pem"), ("KEY_FILE", "shown.key")];
        let environment: Vec<(String, String)> = [&shown, settings]
            .concat()
            .iter()
            .map(|(key, name)| (format!("MILLRACE_GATEWAY__TLS__{key}"), files.path().join(name).display().to_string()))
            .collect();
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
    let secure = Secure::open(&[("CLIENT_CA_FILE", "ca.pem")]).await;
    let token = &secure.door.token;
    let showing = |name: &str, token: &str| {
        let [pem, key] = ["pem", "key"].map(|ending| format!("{name}.{ending}"));
        secure.status(token, &["--cacert", "ca.pem", "--cert", &pem, "--key", &key])
    };
    assert_eq!(secure.status(token, &BY_AUTHORITY), 0, "none");
    assert_eq!(showing("stranger", token), 0);
    assert_eq!(showing("sender", token), 202);
    assert_eq!(showing("sender", "wrong"), 401);
    assert_eq!(secure.door.role.stop(), 0);
}
