//! `[sink.webhook]`: endpoints, their secrets, and the bounds of it all. Checked whole before anything starts.

use crate::address::Guard;
use crate::retry::RetryConfig;
use crate::rules::{Rules, is_name};
use crate::signature::Signer;
use crate::webhook;
use millrace_stream::PipelineConfig;
use reqwest::Url;
use serde::{Deserialize, Serialize, Serializer};
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// Shorter is no time for a handshake; a receiver that needs longer works before it answers, and should not.
const TIMEOUT_MS: std::ops::RangeInclusive<u64> = 100..=30_000;
/// One process's sockets to one receiver.
const CONCURRENCY: std::ops::RangeInclusive<usize> = 1..=1_000;
/// The first wait must not hammer; the longest must end.
const WAIT_MS: std::ops::RangeInclusive<u64> = 100..=7 * 24 * 60 * 60 * 1_000;
const ATTEMPTS: std::ops::RangeInclusive<i32> = 1..=100;

/// How deliveries leave over HTTP.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct WebhookConfig {
    /// How events become deliveries.
    pub pipeline: PipelineConfig,
    /// Receivers, by the name that rules use.
    pub endpoints: BTreeMap<String, Endpoint>,
    pub retry: RetryConfig,
    /// Deliveries waiting in the ledger before no more events are read: bounds the table when receivers are down.
    pub backlog_max: i64,
    /// Days that a delivered row is kept; as long as a topic keeps its records, which could bring it back.
    pub keep_days: u32,
}

/// One receiver.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Endpoint {
    pub url: String,
    /// `whsec_…`, several separated by white space while they rotate. Only from the environment:
    /// `MILLRACE_SINK__WEBHOOK__ENDPOINTS__<NAME>__SECRET`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<Secret>,
    /// The same in a file, one a line; read at the start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_file: Option<PathBuf>,
    /// May it be an address of this machine or network, and may it be plain `http`?
    #[serde(default)]
    pub allow_private: bool,
    /// One request, from connecting to the answer's end.
    #[serde(default = "timeout_ms")]
    pub timeout_ms: u64,
    /// Requests in flight at once, in each process.
    #[serde(default = "concurrency")]
    pub concurrency: usize,
}

/// What Standard Webhooks recommends at least; receivers should answer first and work afterwards.
fn timeout_ms() -> u64 {
    15_000
}

/// Enough for hundreds a second to a receiver that takes 100 ms; few enough for a small one.
fn concurrency() -> usize {
    32
}

impl Default for WebhookConfig {
    fn default() -> Self {
        Self {
            pipeline: PipelineConfig::default(),
            endpoints: BTreeMap::new(),
            retry: RetryConfig::default(),
            backlog_max: 200_000,
            keep_days: 30,
        }
    }
}

/// Shown to nobody.
#[derive(Clone, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    pub fn new(secret: impl Into<String>) -> Self {
        Self(secret.into())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("***")
    }
}

/// A key that can't be used, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{key}`: {message}")]
pub struct ConfigError {
    /// `sink.webhook.endpoints.shop.url`.
    pub key: String,
    pub message: String,
}

/// An endpoint that was checked.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub url: Url,
    pub signer: Signer,
    pub guard: Guard,
    pub timeout: Duration,
    pub concurrency: usize,
}

impl WebhookConfig {
    /// Everything that can be known without a server: bounds, URLs, secrets, and the endpoints these rules need.
    ///
    /// # Errors
    /// Every wrong key, not only the first.
    pub fn check(&self, rules: &Rules) -> Result<(), Vec<ConfigError>> {
        self.targets(rules).map(drop)
    }

    pub(crate) fn targets(&self, rules: &Rules) -> Result<BTreeMap<String, Target>, Vec<ConfigError>> {
        let mut errors = Errors::default();
        errors.within("retry.attempts", &self.retry.attempts, &ATTEMPTS);
        errors.within("retry.first_ms", &self.retry.first_ms, &WAIT_MS);
        errors.within("retry.longest_ms", &self.retry.longest_ms, &WAIT_MS);
        errors.within("backlog_max", &self.backlog_max, &(1..=i64::MAX));
        let mut targets = BTreeMap::new();
        for (name, endpoint) in &self.endpoints {
            if let Some(target) = endpoint.target(name, &mut errors) {
                targets.insert(name.clone(), target);
            }
        }
        for rule in rules.iter().filter(|rule| rule.channel == webhook::NAME) {
            if !self.endpoints.contains_key(&rule.endpoint) {
                let message = format!("rule {} sends to it: give it a url and a secret", rule.name);
                errors.push(&format!("endpoints.{}", rule.endpoint), message);
            }
        }
        if errors.0.is_empty() { Ok(targets) } else { Err(errors.0) }
    }
}

impl Endpoint {
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            secret: None,
            secret_file: None,
            allow_private: false,
            timeout_ms: timeout_ms(),
            concurrency: concurrency(),
        }
    }

    fn target(&self, name: &str, errors: &mut Errors) -> Option<Target> {
        let at = |key: &str| format!("endpoints.{name}.{key}");
        if !is_name(name) {
            let message = "a name begins with a lower-case letter and goes on with those, digits and _";
            errors.push(&format!("endpoints.{name}"), message.into());
        }
        errors.within(&at("timeout_ms"), &self.timeout_ms, &TIMEOUT_MS);
        errors.within(&at("concurrency"), &self.concurrency, &CONCURRENCY);
        let guard = Guard { allow_private: self.allow_private };
        let url = self.url(guard).map_err(|message| errors.push(&at("url"), message));
        let signer = self.signer(name).map_err(|(key, message)| errors.push(&at(key), message));
        let timeout = Duration::from_millis(self.timeout_ms);
        Some(Target { url: url.ok()?, signer: signer.ok()?, guard, timeout, concurrency: self.concurrency })
    }

    fn url(&self, guard: Guard) -> Result<Url, String> {
        let url: Url = self.url.parse().map_err(|error| format!("is not a URL: {error}"))?;
        match url.scheme() {
            "https" => {}
            "http" if self.allow_private => {}
            "http" => return Err("must be https; plain http is for endpoints with allow_private".into()),
            other => return Err(format!("must be https, not {other}")),
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(
                "must hold no user and password: they would end up in logs; the signature says who we are".into()
            );
        }
        guard.check_literal(&url).map_err(|denied| denied.to_string())?;
        Ok(url)
    }

    fn signer(&self, name: &str) -> Result<Signer, (&'static str, String)> {
        match (&self.secret, &self.secret_file) {
            (Some(secret), None) => Signer::parse(&secret.0).map_err(|error| ("secret", error)),
            (None, Some(file)) => {
                let secrets = std::fs::read_to_string(file)
                    .map_err(|error| ("secret_file", format!("{} could not be read: {error}", file.display())))?;
                Signer::parse(&secrets).map_err(|error| ("secret_file", format!("{}: {error}", file.display())))
            }
            (Some(_), Some(_)) => Err(("secret_file", "a secret is in the environment too: keep one of them".into())),
            (None, None) => {
                let variable = format!("MILLRACE_SINK__WEBHOOK__ENDPOINTS__{}__SECRET", name.to_ascii_uppercase());
                Err(("secret", format!("is missing: set {variable}, or secret_file")))
            }
        }
    }
}

#[derive(Default)]
struct Errors(Vec<ConfigError>);

impl Errors {
    fn push(&mut self, key: &str, message: String) {
        self.0.push(ConfigError { key: format!("sink.{}.{key}", webhook::NAME), message });
    }

    fn within<T: PartialOrd + fmt::Display>(&mut self, key: &str, value: &T, range: &std::ops::RangeInclusive<T>) {
        if !range.contains(value) {
            self.push(key, format!("{value} is outside {} to {}", range.start(), range.end()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use millrace_schemas::Contracts;

    const SECRET: &str = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

    fn shipped() -> Rules {
        Rules::embedded(&Contracts::embedded().unwrap()).unwrap()
    }

    fn with(endpoint: Endpoint) -> WebhookConfig {
        WebhookConfig { endpoints: [("shop_backoffice".to_owned(), endpoint)].into(), ..Default::default() }
    }

    fn signed(url: &str) -> Endpoint {
        Endpoint { secret: Some(Secret::new(SECRET)), ..Endpoint::new(url) }
    }

    fn errors(config: &WebhookConfig) -> Vec<String> {
        config.check(&shipped()).unwrap_err().iter().map(ConfigError::to_string).collect()
    }

    #[test]
    fn an_endpoint_needs_a_url_and_a_secret_and_no_more() {
        assert_eq!(with(signed("https://example.org/hook")).check(&shipped()), Ok(()));
        let json = r#"{"endpoints": {"shop_backoffice": {"url": "https://example.org/hook"}}}"#;
        let config: WebhookConfig = serde_json::from_str(json).unwrap();
        assert_eq!(
            errors(&config),
            ["`sink.webhook.endpoints.shop_backoffice.secret`: is missing: set \
              MILLRACE_SINK__WEBHOOK__ENDPOINTS__SHOP_BACKOFFICE__SECRET, or secret_file"]
        );
    }

    #[test]
    fn a_rule_without_its_endpoint_is_found_before_anything_starts() {
        assert_eq!(
            errors(&WebhookConfig::default()),
            ["`sink.webhook.endpoints.shop_backoffice`: rule payment_failed sends to it: give it a url and a secret"]
        );
    }

    #[test]
    fn a_url_that_must_not_be_called_is_refused_with_the_reason() {
        let refused = |endpoint: Endpoint| errors(&with(endpoint)).remove(0);
        assert!(refused(signed("example.org")).contains("is not a URL"));
        assert!(refused(signed("http://example.org")).contains("must be https"));
        assert!(refused(signed("ftp://example.org")).contains("must be https, not ftp"));
        assert!(refused(signed("https://u:p@example.org")).contains("no user and password"));
        assert!(refused(signed("https://127.0.0.1:8443")).contains("allow_private"));
        let metadata = Endpoint { allow_private: true, ..signed("http://169.254.169.254/latest") };
        assert!(refused(metadata).contains("no webhook may reach"));
        let local = Endpoint { allow_private: true, ..signed("http://127.0.0.1:9000/hook") };
        assert_eq!(with(local).check(&shipped()), Ok(()));
    }

    #[test]
    fn secrets_come_from_a_file_too_and_show_up_nowhere() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), format!("{SECRET}\n{SECRET}\n")).unwrap();
        let endpoint = Endpoint { secret_file: Some(file.path().into()), ..Endpoint::new("https://example.org") };
        assert_eq!(with(endpoint.clone()).check(&shipped()), Ok(()));
        let both = with(Endpoint { secret: Some(Secret::new(SECRET)), ..endpoint });
        assert!(errors(&both)[0].contains("keep one of them"));
        let shown = format!("{both:?} {}", serde_json::to_string(&both).unwrap());
        assert!(!shown.contains("whsec_") && !shown.contains(&SECRET[6..20]), "{shown}");
    }

    #[test]
    fn bounds_are_named_when_they_are_broken() {
        let mut config = with(Endpoint { timeout_ms: 5, concurrency: 0, ..signed("https://example.org") });
        config.retry.attempts = 0;
        assert_eq!(
            errors(&config),
            [
                "`sink.webhook.retry.attempts`: 0 is outside 1 to 100",
                "`sink.webhook.endpoints.shop_backoffice.timeout_ms`: 5 is outside 100 to 30000",
                "`sink.webhook.endpoints.shop_backoffice.concurrency`: 0 is outside 1 to 1000",
            ]
        );
    }
}
