//! What the process was told: defaults, then `millrace.toml`, then `--stack`, then the environment.
//!
//! A key nobody knows is refused, never ignored. Secrets come by the environment or from a file, never
//! from `millrace.toml`, and are never shown.

use crate::commands::Global;
use crate::exit::Exit;
use anyhow::Context;
use millrace_local::Addresses;
use millrace_processors::clickhouse::ClickHouseConfig;
use millrace_processors::clickhouse::erasure::ErasureConfig;
use millrace_producers::gateway::hash_of_key;
use millrace_producers::{GatewayConfig, Outbox, OutboxConfig, RedisConfig};
use millrace_schemas::registry::Registry;
use millrace_schemas::without_password;
use millrace_sinks::WebhookConfig;
use millrace_stream::{KafkaConfig, PipelineConfig};
use serde::{Deserialize, Serialize};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{ConnectOptions, PgPool};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;
use toml::{Table, Value};

/// Nobody waits longer for a connection: the pool is exhausted or Postgres is away.
const POSTGRES_DEADLINE: Duration = Duration::from_secs(5);
/// Keys whose value is a secret.
const SECRETS: &[&str] = &["passphrase", "password", "secret", "secrets", "token"];

/// The effective configuration.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    pub kafka: KafkaConfig,
    pub registry: RegistryConfig,
    pub clickhouse: ClickHouseConfig,
    pub postgres: PostgresConfig,
    pub redis: RedisConfig,
    pub gateway: GatewayConfig,
    /// By the name of the service's database.
    pub outbox: BTreeMap<String, OutboxConfig>,
    pub process: ProcessConfig,
    pub sink: SinkConfig,
    pub telemetry: TelemetryConfig,
    #[serde(skip)]
    origins: Origins,
}

#[derive(Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RegistryConfig {
    /// Where the schema registry answers: ours, or any that speaks Confluent's API.
    pub url: String,
    /// For basic auth; empty where the registry asks for none, as ours.
    pub user: String,
    /// Only by the environment.
    #[serde(skip_serializing)]
    pub password: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
    /// Where `millrace registry` listens.
    pub listen: String,
    /// The directory where roles keep what it said, for the time when it is away; empty keeps nothing.
    pub cache: String,
}

#[derive(Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct PostgresConfig {
    pub url: String,
    /// Only by the environment.
    #[serde(skip_serializing)]
    pub password: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
    /// Where projections' tables are.
    pub projections_schema: String,
    /// Connections of one process, at most.
    pub connections: u32,
}

/// How each processor batches.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct ProcessConfig {
    pub clickhouse: PipelineConfig,
    pub order_status: PipelineConfig,
    pub customer_summary: PipelineConfig,
    pub erasure: ErasureConfig,
}

#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct SinkConfig {
    pub webhook: WebhookConfig,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct TelemetryConfig {
    /// Where the role's ops port listens (`/livez`, `/readyz`, `/metrics`); port 0 picks a free one.
    pub ops: String,
}

impl Default for ProcessConfig {
    fn default() -> Self {
        // An insert makes a part, which costs a server tens of milliseconds and its merges more, whether it holds one
        // row or a hundred thousand.
        let clickhouse = PipelineConfig {
            batch_rows: 100_000,
            batch_bytes: 32 << 20,
            memory_bytes: 256 << 20,
            // They wait for each other's inserts, to go together: what is under way at once is bounded there.
            concurrent_batches: 64,
            ..PipelineConfig::default()
        };
        let (order_status, customer_summary) = Default::default();
        Self { clickhouse, order_status, customer_summary, erasure: ErasureConfig::default() }
    }
}

impl Default for RegistryConfig {
    fn default() -> Self {
        Self {
            url: "http://127.0.0.1:7071".into(),
            user: String::new(),
            password: None,
            password_file: None,
            listen: "127.0.0.1:7071".into(),
            cache: ".millrace/schemas".into(),
        }
    }
}

impl Default for PostgresConfig {
    fn default() -> Self {
        Self {
            url: "postgres://millrace@127.0.0.1:15432/millrace".into(),
            password: None,
            password_file: None,
            projections_schema: "public".into(),
            connections: 16,
        }
    }
}

impl Default for TelemetryConfig {
    fn default() -> Self {
        Self { ops: "127.0.0.1:7090".into() }
    }
}

impl std::fmt::Debug for RegistryConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "registry {}", without_password(&self.url))
    }
}

impl std::fmt::Debug for PostgresConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "postgres {}", without_password(&self.url))
    }
}

impl ProcessConfig {
    /// Of one processor.
    pub fn of(&self, name: &str) -> PipelineConfig {
        match name {
            "order_status" => self.order_status.clone(),
            "customer_summary" => self.customer_summary.clone(),
            _ => self.clickhouse.clone(),
        }
    }
}

impl RegistryConfig {
    /// Its client, with the login; asks nothing yet.
    pub fn client(&self) -> Result<Registry, Exit> {
        let wrong = |error: anyhow::Error| Exit::usage(format!("`registry.url`: {error:#}"));
        let mut client = Registry::new(&self.url).map_err(wrong)?;
        if !self.cache.is_empty() {
            client = client.kept_in(Path::new(&self.cache));
        }
        match self.login()? {
            Some((user, password)) => client.with_login(user, password.as_deref()).map_err(wrong),
            None => Ok(client),
        }
    }

    fn login(&self) -> Result<Option<(&str, Option<String>)>, Exit> {
        let password = secret(self.password.as_ref(), self.password_file.as_deref());
        let password = password.map_err(|error| Exit::usage(format!("`registry.password_file`: {error:#}")))?;
        match (self.user.as_str(), password) {
            ("", None) => Ok(None),
            ("", Some(_)) => {
                Err(Exit::usage("`registry.user` is missing: there is a password, and nobody whose it is"))
            }
            (user, password) => Ok(Some((user, password))),
        }
    }
}

impl PostgresConfig {
    /// The URL with the password in it, and unqualified names leading to the projections first.
    pub fn options(&self) -> Result<PgConnectOptions, Exit> {
        let options = database("postgres", &self.url, self.password.as_ref(), self.password_file.as_deref())?;
        let path = format!("{},millrace", self.projections_schema);
        Ok(options.application_name("millrace").options([("search_path", path)]))
    }

    /// A pool that will reach the server when it is asked something: for who can wait until it is back.
    ///
    /// # Errors
    /// When the URL is none, or the password can't be read.
    pub fn connect_lazily(&self) -> Result<PgPool, Exit> {
        let pool = PgPoolOptions::new().max_connections(self.connections).acquire_timeout(POSTGRES_DEADLINE);
        Ok(pool.connect_lazy_with(self.options()?))
    }

    /// A pool that has reached the server once.
    pub async fn connect(&self) -> Result<PgPool, Exit> {
        let options = self.options()?;
        let pool = PgPoolOptions::new().max_connections(self.connections).acquire_timeout(POSTGRES_DEADLINE);
        let pool = match pool.connect_with(options.clone()).await {
            // The pool has tried again and again, and does not tell what it met.
            Err(sqlx::Error::PoolTimedOut) => Err(reason(&options).await),
            connected => connected.map_err(|error| error.to_string()),
        };
        pool.map_err(|reason| Exit::unreachable(&format!("Postgres at {}", without_password(&self.url)), reason))
    }
}

/// Where a section's database is, with the login.
fn database(
    section: &str,
    url: &str,
    password: Option<&String>,
    file: Option<&Path>,
) -> Result<PgConnectOptions, Exit> {
    let no_url = |_| Exit::usage(format!("`{section}.url` is no URL such as postgres://user@host:5432/database"));
    let options = PgConnectOptions::from_str(url).map_err(no_url)?;
    let password = secret(password, file);
    let password = password.map_err(|error| Exit::usage(format!("`{section}.password_file`: {error:#}")))?;
    Ok(password.into_iter().fold(options, |options, password| options.password(&password)))
}

/// Why there is no connection.
async fn reason(options: &PgConnectOptions) -> String {
    match tokio::time::timeout(POSTGRES_DEADLINE, options.connect()).await {
        Ok(Ok(_)) => "it answered too late".to_owned(),
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no answer within {POSTGRES_DEADLINE:?}"),
    }
}

/// A secret from the environment, or else from its file.
pub fn secret(given: Option<&String>, file: Option<&Path>) -> anyhow::Result<Option<String>> {
    match (given, file) {
        (Some(secret), _) => Ok(Some(secret.clone())),
        (None, Some(file)) => {
            let text = std::fs::read_to_string(file);
            let text = text.with_context(|| format!("could not read the secret in {}", file.display()))?;
            Ok(Some(text.trim_end().to_owned()))
        }
        (None, None) => Ok(None),
    }
}

/// Where each value that isn't a default came from, by its dotted key.
type Origins = BTreeMap<String, String>;

impl Config {
    /// # Errors
    /// A key that nobody knows, a value of another type, a secret where none belongs: named, exit code 64.
    pub fn load(global: &Global) -> Result<Self, Exit> {
        let Some(file) = &global.stack else { return Self::layered(global, None) };
        let directory = file.parent().unwrap_or(Path::new("."));
        let table = stack_table(&stack_addresses(file)?, directory);
        Self::layered(global, Some((table, file.display().to_string())))
    }

    fn layered(global: &Global, stack: Option<(Table, String)>) -> Result<Self, Exit> {
        let defaults = Table::try_from(Self::default()).map_err(Exit::failed)?;
        let mut layers = Layers { tree: defaults.clone(), origins: Origins::new() };
        if let Some((file, table)) = read_file(&global.project)? {
            refuse_secrets(&table, &file)?;
            layers.add(&table, &file);
        }
        if let Some((table, origin)) = stack {
            layers.add(&table, &origin);
        }
        for (name, value) in overrides(std::env::vars()) {
            layers.set(&name, &value, &defaults)?;
        }
        layers.into_config()
    }

    /// What no server could be found by is said at once, by its key; so is a secret's file that can't be read.
    fn with_servers_checked(mut self) -> Result<Self, Exit> {
        for (key, url) in [("registry.url", &self.registry.url), ("clickhouse.url", &self.clickhouse.url)] {
            let parsed = reqwest::Url::parse(url).ok();
            if !parsed.is_some_and(|url| ["http", "https"].contains(&url.scheme()) && url.has_host()) {
                let origin = self.origins.get(key).map_or("configuration", String::as_str);
                return Err(Exit::usage(format!("{origin}: `{key}` is no URL such as http://host:8123")));
            }
        }
        if self.clickhouse.password.is_empty() {
            let password = secret(None, self.clickhouse.password_file.as_deref());
            let password = password.map_err(|error| Exit::usage(format!("`clickhouse.password_file`: {error:#}")))?;
            self.clickhouse.password = password.unwrap_or_default().into();
        }
        let password = secret(self.redis.password.as_ref(), self.redis.password_file.as_deref());
        self.redis.password = password.map_err(|error| Exit::usage(format!("`redis.password_file`: {error:#}")))?;
        self.redis.check().map_err(Exit::usage)?;
        self.clickhouse.check().map_err(Exit::usage)?;
        for (section, pipeline) in self.pipelines() {
            pipeline.check(section).map_err(Exit::usage)?;
        }
        self.process.erasure.check().map_err(Exit::usage)?;
        self.registry.login()?;
        self.postgres.options().map(|_| self)
    }

    /// Each with its section.
    fn pipelines(&self) -> [(&'static str, &PipelineConfig); 5] {
        let ProcessConfig { clickhouse, order_status, customer_summary, erasure } = &self.process;
        [
            ("process.clickhouse", clickhouse),
            ("process.order_status", order_status),
            ("process.customer_summary", customer_summary),
            ("process.erasure.pipeline", &erasure.pipeline),
            ("sink.webhook.pipeline", &self.sink.webhook.pipeline),
        ]
    }

    /// Each with the way into its database.
    ///
    /// # Errors
    /// A wrong key, named; exit code 64.
    pub fn outboxes(&self) -> Result<Vec<Outbox>, Exit> {
        let outbox = |(name, config): (&String, &OutboxConfig)| {
            let section = format!("outbox.{name}");
            config.check().map_err(|wrong| Exit::usage(format!("`{section}.{wrong}")))?;
            let database = database(&section, &config.url, config.password.as_ref(), config.password_file.as_deref())?;
            Ok(Outbox { name: name.clone(), database, config: config.clone() })
        };
        self.outbox.iter().map(outbox).collect()
    }

    /// The same, pointed at a stack that this process started itself.
    pub fn load_at(global: &Global, stack: &Addresses, data_dir: &Path) -> Result<Self, Exit> {
        Self::layered(global, Some((stack_table(stack, data_dir), "the local stack".to_owned())))
    }

    /// Every value and where it came from; secrets hidden.
    #[allow(clippy::print_stdout, reason = "this command's output")]
    pub fn print(&self, global: &Global) -> Result<(), Exit> {
        let tree = Table::try_from(self).map_err(Exit::failed)?;
        let mut values = BTreeMap::new();
        flatten(&tree, "", &mut |key, value| drop(values.insert(key.to_owned(), shown(key, value))));
        for key in self.origins.keys().filter(|key| is_secret(key)) {
            values.insert(key.clone(), "(hidden)".to_owned());
        }
        let origin = |key: &str| self.origins.get(key).map_or("default", String::as_str);
        if global.json {
            let entry = |(key, value): (&String, &String)| {
                (key.clone(), serde_json::json!({ "value": value, "from": origin(key) }))
            };
            let all: serde_json::Map<_, _> = values.iter().map(entry).collect();
            println!("{}", serde_json::Value::Object(all));
            return Ok(());
        }
        let width = values.keys().map(String::len).max().unwrap_or_default();
        for (key, value) in &values {
            println!("{key:width$} = {value}  # {}", origin(key));
        }
        Ok(())
    }
}

struct Layers {
    tree: Table,
    origins: Origins,
}

impl Layers {
    fn add(&mut self, table: &Table, origin: &str) {
        flatten(table, "", &mut |key, _| drop(self.origins.insert(key.to_owned(), origin.to_owned())));
        merge(&mut self.tree, table);
    }

    /// `MILLRACE_KAFKA__BROKERS`: text where the default is text, otherwise as TOML would read it.
    fn set(&mut self, name: &str, text: &str, defaults: &Table) -> Result<(), Exit> {
        let path = env_path(name);
        // A password of digits is text too, and must not appear in an error about its type; so is every property.
        let is_text = matches!(at(defaults, &path), Some(Value::String(_)))
            || path.last().is_some_and(|key| is_secret(key))
            || path.starts_with(&["kafka".to_owned(), "properties".to_owned()]);
        let parsed = (!is_text).then(|| text.parse::<Value>().ok()).flatten();
        let value = parsed.filter(|value| !value.is_str()).unwrap_or_else(|| Value::String(text.to_owned()));
        let path: Vec<&str> = path.iter().map(String::as_str).collect();
        if !self.put(&path, value) {
            return Err(Exit::usage(format!("{name}: `{}` is not in a section", path.join("."))));
        }
        self.origins.insert(path.join("."), name.to_owned());
        Ok(())
    }

    /// False when something on the way is not a section.
    fn put(&mut self, path: &[&str], value: Value) -> bool {
        let Some((last, parents)) = path.split_last() else { return false };
        let mut table = &mut self.tree;
        for parent in parents {
            let entry = table.entry(*parent).or_insert_with(|| Value::Table(Table::new()));
            let Some(section) = entry.as_table_mut() else { return false };
            table = section;
        }
        table.insert((*last).to_owned(), value);
        true
    }

    fn into_config(self) -> Result<Config, Exit> {
        let parsed: Result<Config, _> = serde_path_to_error::deserialize(Value::Table(self.tree));
        match parsed {
            Ok(config) => Config { origins: self.origins, ..config }.with_servers_checked(),
            Err(error) => {
                let path = error.path().to_string();
                let message = explain(&path, &error.inner().to_string());
                let origin = self.origins.iter().find(|(key, _)| key.starts_with(&path)).map(|(_, origin)| origin);
                Err(Exit::usage(format!("{}: {message}", origin.map_or("configuration", String::as_str))))
            }
        }
    }
}

fn read_file(project: &Option<PathBuf>) -> Result<Option<(String, Table)>, Exit> {
    let file = project.clone().unwrap_or_default().join("millrace.toml");
    let text = match std::fs::read_to_string(&file) {
        Ok(text) => text,
        // A project directory without one uses the defaults; a project directory that isn't there is a mistake.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return match project {
                Some(directory) if !directory.is_dir() => {
                    Err(Exit::usage(format!("--project {}: no such directory", directory.display())))
                }
                _ => Ok(None),
            };
        }
        Err(error) => return Err(Exit::usage(format!("{}: {error}", file.display()))),
    };
    let name = file.display().to_string();
    match text.parse::<Table>() {
        Ok(table) => Ok(Some((name, table))),
        Err(error) => Err(Exit::usage(format!("{name}: {}", error.to_string().trim_end()))),
    }
}

/// A running local stack's addresses.
pub fn stack_addresses(file: &Path) -> Result<Addresses, Exit> {
    let wrong = |error: String| Exit::usage(format!("--stack {}: {error}", file.display()));
    let text = std::fs::read_to_string(file).map_err(|error| wrong(error.to_string()))?;
    serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))
}

/// A local stack as configuration: its servers, and its receiver as the endpoint that the shop's rule names.
fn stack_table(stack: &Addresses, data_dir: &Path) -> Table {
    let table = toml::toml! {
        [sink.webhook.endpoints.shop_backoffice]
        allow_private = true
    };
    let mut layers = Layers { tree: table, origins: Origins::new() };
    // Whatever the project says of tokens and certificates is for another issuer's and another host's.
    let GatewayConfig { jwt, tls, .. } = GatewayConfig::default();
    for (key, default) in [("jwt", Value::try_from(jwt)), ("tls", Value::try_from(tls))] {
        layers.put(&["gateway", key], default.expect("a default can be written"));
    }
    let mut put = |path: &[&str], value: &str| layers.put(path, Value::from(value));
    put(&["kafka", "brokers"], &stack.kafka);
    put(&["clickhouse", "url"], &stack.clickhouse);
    put(&["postgres", "url"], &stack.postgres);
    put(&["outbox", "local", "url"], &stack.postgres);
    put(&["redis", "url"], stack.redis.as_deref().unwrap_or_default());
    put(&["registry", "url"], &stack.registry);
    put(&["registry", "listen"], stack.registry.trim_start_matches("http://"));
    put(&["registry", "cache"], &data_dir.join("schemas").display().to_string());
    put(&["gateway", "listen"], stack.gateway.trim_start_matches("http://"));
    put(&["gateway", "jwt", "issuer"], &stack.issuer);
    put(&["gateway", "jwt", "audience"], millrace_local::AUDIENCE);
    put(&["telemetry", "ops"], stack.ops.trim_start_matches("http://"));
    let endpoint = |key| ["sink", "webhook", "endpoints", "shop_backoffice", key];
    put(&endpoint("url"), &format!("{}/hooks/shop_backoffice", stack.receiver));
    put(&endpoint("secret_file"), &millrace_local::secret_file(data_dir).display().to_string());
    if let Ok(token) = std::fs::read_to_string(millrace_local::token_file(data_dir)) {
        let key = toml::toml! { scopes = ["publish:*"] };
        layers.put(&["gateway", "keys", "development"], Value::Table(key));
        let hashes = Value::Array(vec![Value::String(hash_of_key(token.trim()))]);
        layers.put(&["gateway", "keys", "development", "sha256"], hashes);
    }
    layers.tree
}

/// `MILLRACE_<SECTION>__<KEY>`; names without `__` are not configuration.
fn overrides(vars: impl Iterator<Item = (String, String)>) -> BTreeMap<String, String> {
    vars.filter(|(name, _)| name.strip_prefix("MILLRACE_").is_some_and(|rest| rest.contains("__"))).collect()
}

/// librdkafka's property names have dots, which no environment variable can: `_` stands for them there.
fn env_path(name: &str) -> Vec<String> {
    let rest = name.trim_start_matches("MILLRACE_").to_lowercase();
    let mut path: Vec<String> = rest.split("__").map(str::to_owned).collect();
    if let [section, properties, property] = &mut path[..]
        && section == "kafka"
        && properties == "properties"
    {
        *property = property.replace('_', ".");
    }
    path
}

fn refuse_secrets(table: &Table, file: &str) -> Result<(), Exit> {
    let mut found = None;
    flatten(table, "", &mut |key, value| {
        let in_url = value.as_str().is_some_and(|text| without_password(text) != text);
        if found.is_none() && (is_secret(key) || in_url) {
            found = Some(key.to_owned());
        }
    });
    let Some(key) = found else { return Ok(()) };
    let variable = format!("MILLRACE_{}", key.replace('.', "__").to_uppercase());
    Err(Exit::usage(format!("{file}: `{key}` holds a secret; set {variable} instead, or a `…_file` key")))
}

fn is_secret(key: &str) -> bool {
    key.rsplit('.').next().is_some_and(|last| SECRETS.contains(&last)) || key.ends_with("key.pem")
}

fn shown(key: &str, value: &Value) -> String {
    match value {
        _ if is_secret(key) => "(hidden)".to_owned(),
        Value::String(text) => format!("{:?}", without_password(text)),
        other => other.to_string(),
    }
}

fn merge(into: &mut Table, from: &Table) {
    for (key, value) in from {
        match (into.get_mut(key), value) {
            (Some(Value::Table(into)), Value::Table(from)) => merge(into, from),
            _ => drop(into.insert(key.clone(), value.clone())),
        }
    }
}

fn flatten<'a>(table: &'a Table, prefix: &str, visit: &mut impl FnMut(&str, &'a Value)) {
    for (key, value) in table {
        let key = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
        match value {
            Value::Table(inner) => flatten(inner, &key, visit),
            value => visit(&key, value),
        }
    }
}

fn at<'a>(table: &'a Table, path: &[String]) -> Option<&'a Value> {
    let (first, rest) = path.split_first()?;
    rest.iter().try_fold(table.get(first)?, |value, key| value.get(key))
}

/// serde's words, with the key in full and the nearest known one.
fn explain(path: &str, error: &str) -> String {
    let error = error.lines().next().unwrap_or_default(); // the next line repeats the path
    let mut quoted = error.split('`').skip(1).step_by(2);
    let Some(unknown) = quoted.next().filter(|_| error.starts_with("unknown field")) else {
        return format!("`{path}`: {error}");
    };
    // serde_path_to_error counts the unknown key as the last step of the path.
    let section = path.strip_suffix(unknown).unwrap_or(path).trim_end_matches('.');
    let full = |key: &str| if section.is_empty() { key.to_owned() } else { format!("{section}.{key}") };
    let nearest = quoted.min_by_key(|known| strsim::damerau_levenshtein(known, unknown));
    let hint = nearest.map_or(String::new(), |known| format!("; the nearest known one is `{}`", full(known)));
    format!("unknown key `{}`{hint}", full(unknown))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(file: &str, env: &[(&str, &str)]) -> Result<Config, String> {
        load_on(None, file, env)
    }

    fn load_on(stack: Option<&Table>, file: &str, env: &[(&str, &str)]) -> Result<Config, String> {
        let defaults = Table::try_from(Config::default()).unwrap();
        let mut layers = Layers { tree: defaults.clone(), origins: Origins::new() };
        let table = file.parse().unwrap();
        let message = |exit: Exit| format!("{exit:?}");
        refuse_secrets(&table, "millrace.toml").map_err(message)?;
        layers.add(&table, "millrace.toml");
        stack.into_iter().for_each(|stack| layers.add(stack, "the local stack"));
        for (name, value) in env {
            layers.set(name, value, &defaults).map_err(message)?;
        }
        layers.into_config().map_err(message)
    }

    #[test]
    fn an_unknown_key_is_refused_with_the_nearest_known_one() {
        let error = load("[kafka]\nbrokerz = 'a:1'", &[]).unwrap_err();
        assert!(
            error.contains("millrace.toml: unknown key `kafka.brokerz`; the nearest known one is `kafka.brokers`"),
            "{error}"
        );
        let error = load("[proces.clickhouse]\nlinger_ms = 1", &[]).unwrap_err();
        assert!(error.contains("unknown key `proces`; the nearest known one is `process`"), "{error}");
        let error = load("", &[("MILLRACE_PROCESS__CLICKHOUSE__LINGER", "5")]).unwrap_err();
        assert!(
            error.contains("MILLRACE_PROCESS__CLICKHOUSE__LINGER: unknown key `process.clickhouse.linger`"),
            "{error}"
        );
    }

    #[test]
    fn the_environment_wins_and_keeps_text_as_text() {
        let env = [
            ("MILLRACE_KAFKA__BROKERS", "9092"),
            ("MILLRACE_KAFKA__PARTITIONS", "3"),
            ("MILLRACE_KAFKA__PROPERTIES__SECURITY_PROTOCOL", "SSL"),
        ];
        let config = load("[kafka]\nbrokers = 'file:1'", &env).unwrap();
        assert_eq!((config.kafka.brokers.as_str(), config.kafka.partitions), ("9092", 3));
        assert_eq!(config.kafka.properties["security.protocol"], "SSL");
        assert_eq!(config.origins["kafka.brokers"], "MILLRACE_KAFKA__BROKERS");
    }

    #[test]
    fn on_the_local_stack_only_the_environment_names_another_issuer_or_certificate() {
        let addresses = ["kafka", "clickhouse", "postgres", "gateway", "registry", "console", "ops", "receiver"]
            .map(|name| (name.to_owned(), format!("http://{name}").into()));
        let issuer = ("issuer".to_owned(), "http://development".into());
        let addresses = serde_json::Value::Object(addresses.into_iter().chain([issuer]).collect());
        let stack = stack_table(&serde_json::from_value(addresses).unwrap(), Path::new("nowhere"));
        let file = "[gateway.jwt]\njwks_url = 'https://a/jwks'\nalgorithms = ['RS256']\n\
                    [gateway.tls]\ncertificate_file = 'a.pem'\nkey_file = 'a.key'";
        let names = |config: &Config| {
            let GatewayConfig { jwt, tls, .. } = &config.gateway;
            (jwt.issuer.clone(), jwt.jwks_url.clone(), jwt.algorithms.clone(), tls.certificate_file.clone())
        };
        let GatewayConfig { jwt, .. } = GatewayConfig::default();
        let development = ("http://development".to_owned(), jwt.jwks_url, jwt.algorithms.clone(), PathBuf::new());
        assert_eq!(names(&load_on(Some(&stack), file, &[]).unwrap()), development);
        let env =
            [("MILLRACE_GATEWAY__JWT__ISSUER", "https://b"), ("MILLRACE_GATEWAY__JWT__JWKS_URL", "https://b/jwks")];
        let others = ("https://b".to_owned(), "https://b/jwks".into(), jwt.algorithms, PathBuf::new());
        assert_eq!(names(&load_on(Some(&stack), file, &env).unwrap()), others);
    }

    #[test]
    fn a_value_of_another_type_is_named() {
        let error = load("[kafka]\npartitions = 'six'", &[]).unwrap_err();
        assert!(error.contains("`kafka.partitions`: invalid type: string"), "{error}");
    }

    #[test]
    fn a_setting_beyond_its_bounds_is_refused_by_key_before_anything_starts() {
        for (section, key) in [
            ("process.clickhouse", "batch_rows"),
            ("process.erasure.pipeline", "batch_bytes"),
            ("sink.webhook.pipeline", "queue_bytes"),
            ("process.erasure", "batch"),
        ] {
            let error = load(&format!("[{section}]\n{key} = 0"), &[]).unwrap_err();
            assert!(error.contains(&format!("{section}.{key}")), "{error}");
        }
    }

    /// The page's rows: a key in its section, and its default as TOML writes it.
    #[test]
    fn docs_settings_tells_every_setting_of_a_pipeline_with_its_default() {
        let page = include_str!("../docs/settings.md");
        let defaults = Table::try_from(Config::default()).unwrap();
        for section in ["process.clickhouse", "process.order_status", "process.erasure", "clickhouse"] {
            let path: Vec<String> = section.split('.').map(str::to_owned).collect();
            for (key, value) in at(&defaults, &path).unwrap().as_table().unwrap() {
                let Value::Integer(value) = value else { continue }; // sections of their own, and where the server is
                let row = page.lines().find(|line| line.starts_with(&format!("| `{key}` |")));
                let row = row.unwrap_or_else(|| panic!("docs/settings.md does not tell {section}.{key}"));
                assert!(row.contains(&format!(" {value}")), "{section}.{key} is {value}: {row}");
            }
        }
    }

    #[test]
    fn secrets_do_not_belong_into_the_file_and_are_not_shown() {
        let error = load("[postgres]\npassword = 'x'", &[]).unwrap_err();
        assert!(error.contains("set MILLRACE_POSTGRES__PASSWORD instead"), "{error}");
        for url in ["postgres://a:b@c/d", "postgres://c/d?user=a&password=b"] {
            let error = load(&format!("[postgres]\nurl = '{url}'"), &[]).unwrap_err();
            assert!(error.contains("`postgres.url` holds a secret"), "{error}");
        }
        for password in ["sesame", "12345", "1e5", "true"] {
            let config = load("", &[("MILLRACE_POSTGRES__PASSWORD", password)]).unwrap();
            assert_eq!(config.postgres.password.as_deref(), Some(password));
            assert!(!format!("{config:?}").contains(password));
        }
    }

    #[test]
    fn an_outbox_is_found_by_its_own_section_and_its_password_by_the_environment() {
        let file = "[outbox.orders]\nurl = 'postgres://relay@db/orders'\nbatch_rows = 7";
        let config = load(file, &[("MILLRACE_OUTBOX__ORDERS__PASSWORD", "12345")]).unwrap();
        let outbox = config.outboxes().unwrap().remove(0);
        assert_eq!((outbox.name.as_str(), outbox.config.batch_rows), ("orders", 7));
        assert_eq!(outbox.database.get_host(), "db");
        assert!(!format!("{config:?}").contains("12345"));
        let wrong = |file: &str| format!("{:?}", load(file, &[]).unwrap().outboxes().err().unwrap());
        assert!(wrong("[outbox.orders]").contains("`outbox.orders.url` is no URL"));
        let file = "[outbox.orders]\nurl = 'postgres://relay@db/orders'\nlease_ms = 1";
        assert!(wrong(file).contains("`outbox.orders.lease_ms` is 1: 500 to"), "{}", wrong(file));
        let unknown = load("[outbox.orders]\nbatch_row = 7", &[]).unwrap_err();
        assert!(unknown.contains("the nearest known one is `outbox.orders.batch_rows`"), "{unknown}");
    }

    #[test]
    fn a_registry_with_a_login_needs_both_halves_of_it() {
        let user = ("MILLRACE_REGISTRY__USER", "12");
        let config = load("", &[user, ("MILLRACE_REGISTRY__PASSWORD", "987654")]).unwrap();
        assert_eq!((config.registry.user.as_str(), config.registry.password.as_deref()), ("12", Some("987654")));
        assert!(!format!("{config:?}").contains("987654"));
        assert!(load("[registry]\npassword = 'x'", &[]).is_err(), "the file is no place for it");
        let error = load("", &[("MILLRACE_REGISTRY__PASSWORD", "34")]).unwrap_err();
        assert!(error.contains("`registry.user` is missing"), "{error}");
    }

    #[test]
    fn passwords_are_read_from_files_and_the_environment_wins() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, "sesame\n").unwrap();
        let path = file.path().display();
        let config = load(&format!("[clickhouse]\npassword_file = '{path}'"), &[]).unwrap();
        assert_eq!(config.clickhouse.password, "sesame".to_owned().into());
        let config = load(&format!("[redis]\npassword_file = '{path}'"), &[]).unwrap();
        assert_eq!(config.redis.password.as_deref(), Some("sesame"));
        let environment = [("MILLRACE_CLICKHOUSE__PASSWORD", "12")];
        let config = load(&format!("[clickhouse]\npassword_file = '{path}'"), &environment).unwrap();
        assert_eq!(config.clickhouse.password, "12".to_owned().into());
        for section in ["clickhouse", "registry", "postgres", "redis"] {
            let error = load(&format!("[{section}]\npassword_file = '/nowhere/password'"), &[]).unwrap_err();
            assert!(error.contains(&format!("`{section}.password_file`: could not read the secret")), "{error}");
        }
    }

    #[test]
    fn a_login_in_clickhouses_url_is_sent_to_the_keys_that_are_used() {
        let error = load("", &[("MILLRACE_CLICKHOUSE__URL", "http://anna:sesame@c:8123")]).unwrap_err();
        assert!(error.contains("clickhouse.url http://anna:***@c:8123 holds a login: use clickhouse.user"), "{error}");
    }
}
