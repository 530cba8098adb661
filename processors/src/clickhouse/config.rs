//! Where ClickHouse is and how long it may take.

use super::topology::Topology;
use millrace_schemas::{has_login, without_password};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// The section `[clickhouse]`.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClickHouseConfig {
    /// The HTTP interface, `http://host:8123` or `https://…`.
    pub url: String,
    pub user: String,
    #[serde(skip_serializing_if = "Password::is_empty")]
    pub password: Password,
    /// Read by whoever loads the configuration, where there is no password.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
    /// Replicated tables over the cluster that the servers' own configuration calls so; without it, one server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// Inserts that a process begins each second, all tables together, about, after a burst of a second's: the more
    /// tables are busy, the longer the batches of each topic wait for their turn and grow (5 s at most). Down to a third
    /// as many for a topic that is more than five seconds behind. What is tried again, and rebuilds, have no turns.
    pub inserts_per_second: u32,
    /// How long one insert or one question may take.
    pub request_timeout_ms: u64,
    /// How long one change of a table may take.
    pub migrate_timeout_ms: u64,
}

impl Default for ClickHouseConfig {
    fn default() -> Self {
        Self {
            url: "http://127.0.0.1:18123".into(),
            user: "default".into(),
            password: Password::default(),
            password_file: None,
            cluster: None,
            // Each makes a part, which costs a server ten milliseconds and more, whatever is in it. Thirteen busy tables
            // have a turn every 0.4 s.
            inserts_per_second: 30,
            // A slow insert on a busy server takes seconds; what takes longer is better asked again, and
            // a drain (20 s) can still wait for one that is under way, if not for those that wait behind it.
            request_timeout_ms: 15_000,
            // Adding columns and views touches no data.
            migrate_timeout_ms: 60_000,
        }
    }
}

/// Less would cut ordinary inserts off; more would hide a server that hangs.
const TIMEOUT_MS: std::ops::RangeInclusive<u64> = 100..=600_000;

impl ClickHouseConfig {
    /// # Errors
    /// The key that cannot be, and what to put there.
    pub fn check(&self) -> anyhow::Result<()> {
        let named = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
        if let Some(cluster) = self.cluster.as_ref().filter(|name| name.is_empty() || !name.chars().all(named)) {
            anyhow::bail!(
                "clickhouse.cluster `{cluster}`: use the name in system.clusters: letters, digits, _, - and ."
            );
        }
        let scheme = ["http://", "https://"].iter().any(|scheme| self.url.starts_with(scheme));
        let url = without_password(&self.url);
        anyhow::ensure!(scheme, "clickhouse.url `{url}`: use http://host:port or https://host:port");
        anyhow::ensure!(
            !has_login(&self.url),
            "clickhouse.url {url} holds a login: use clickhouse.user, and MILLRACE_CLICKHOUSE__PASSWORD or \
             clickhouse.password_file"
        );
        anyhow::ensure!(self.inserts_per_second > 0, "clickhouse.inserts_per_second 0: nothing would be inserted");
        for (key, value) in [("request", self.request_timeout_ms), ("migrate", self.migrate_timeout_ms)] {
            let (least, most) = (TIMEOUT_MS.start(), TIMEOUT_MS.end());
            anyhow::ensure!(TIMEOUT_MS.contains(&value), "clickhouse.{key}_timeout_ms {value}: use {least} to {most}");
        }
        Ok(())
    }

    pub(super) fn topology(&self) -> Topology {
        self.cluster.clone().map_or(Topology::Single, Topology::Cluster)
    }

    pub(super) fn request_timeout(&self) -> Duration {
        Duration::from_millis(self.request_timeout_ms)
    }

    pub(super) fn migrate_timeout(&self) -> Duration {
        Duration::from_millis(self.migrate_timeout_ms)
    }
}

/// A secret: never printed, never serialized.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Password(String);

impl Password {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// For a request's header, and nothing else.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl From<String> for Password {
    fn from(password: String) -> Self {
        Self(password)
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_empty() { "none" } else { "***" })
    }
}

impl Serialize for Password {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_password_is_never_shown() {
        let config = ClickHouseConfig { password: "hunter2".to_owned().into(), ..Default::default() };
        let shown = format!("{config:?} {}", serde_json::to_string(&config).unwrap());
        assert!(!shown.contains("hunter2") && shown.contains("***"), "{shown}");
        assert!(!serde_json::to_string(&ClickHouseConfig::default()).unwrap().contains("password"));
    }

    #[test]
    fn without_a_cluster_there_is_one_server() {
        let clustered = ClickHouseConfig { cluster: Some("main".into()), ..Default::default() };
        assert!(clustered.check().is_ok());
        assert_eq!(clustered.topology(), Topology::Cluster("main".into()));
        assert_eq!(ClickHouseConfig::default().topology(), Topology::Single);
    }

    #[test]
    fn what_cannot_be_is_refused_by_key() {
        assert!(ClickHouseConfig::default().check().is_ok());
        let with =
            |json: &str| serde_json::from_str::<ClickHouseConfig>(json).unwrap().check().unwrap_err().to_string();
        assert!(with(r#"{"cluster": "main` sync"}"#).starts_with("clickhouse.cluster `main` sync`: use the name in"));
        assert!(with(r#"{"url": "localhost:8123"}"#).starts_with("clickhouse.url `localhost:8123`: use http://"));
        for url in ["http://a:hunter2@c:8123", "http://c:8123?user=a&password=hunter2"] {
            let error = with(&format!(r#"{{"url": "{url}"}}"#));
            assert!(error.contains("holds a login: use clickhouse.user") && !error.contains("hunter2"), "{error}");
        }
        assert_eq!(with(r#"{"request_timeout_ms": 0}"#), "clickhouse.request_timeout_ms 0: use 100 to 600000");
        assert!(with(r#"{"inserts_per_second": 0}"#).starts_with("clickhouse.inserts_per_second 0: nothing"));
        assert!(serde_json::from_str::<ClickHouseConfig>(r#"{"urk": ""}"#).is_err());
    }
}
