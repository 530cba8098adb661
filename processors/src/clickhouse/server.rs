//! One ClickHouse server over HTTP: every statement has a deadline, every error a meaning.

use super::block::{Block, Span};
use super::column::quote;
use super::config::ClickHouseConfig;
use super::exception;
use super::table::{Column, Found, RAW, Table};
use clickhouse::Client;
use millrace_schemas::without_password;
use millrace_stream::Failure;
use std::collections::{BTreeMap, HashSet};
use std::time::Duration;
use tokio::time::timeout;
use uuid::Uuid;

/// The oldest version whose deduplication was looked at: defaults and names of its settings changed in 26.1 and 26.2.
const OLDEST: (u32, u32) = (26, 2);

/// Compressed and sent at once; bounds what one block costs beside itself.
const CHUNK_BYTES: usize = 1 << 20;

/// `reachable` answers within this.
const REACHABLE_WITHIN: Duration = Duration::from_secs(3);

/// What every insert asks for. The defaults of servers differ, and some changed between versions.
const INSERT_SETTINGS: [(&str, &str); 5] = [
    // The answer means: stored. Not: queued.
    ("async_insert", "0"),
    ("insert_deduplicate", "1"),
    // Since 26.2 this one decides, and the one above only where this one says so.
    ("deduplicate_insert", "enable"),
    // Late events of a hundred months are unusual and still one insert.
    ("max_partitions_per_insert_block", "0"),
    // A table that somebody altered refuses our block, instead of casting its values to what fits.
    ("input_format_native_allow_types_conversion", "0"),
];

/// A row that is there.
#[derive(clickhouse::Row, serde::Deserialize)]
struct Place {
    #[serde(rename = "_offset")]
    offset: i64,
    #[serde(with = "clickhouse::serde::uuid")]
    event_id: Uuid,
}

/// What a row holds.
#[derive(clickhouse::Row, serde::Deserialize)]
pub(super) struct Content {
    #[serde(rename = "_offset")]
    pub offset: i64,
    #[serde(with = "clickhouse::serde::uuid")]
    pub event_id: Uuid,
    /// Of its columns but `_inserted_at`, as RowBinary.
    pub hash: [u8; 32],
}

#[derive(clickhouse::Row, serde::Deserialize)]
struct Id {
    #[serde(with = "clickhouse::serde::uuid")]
    id: Uuid,
}

/// Offsets of one partition, `to` excluded.
pub(super) struct Stretch<'a> {
    pub topic: &'a str,
    pub partition: i32,
    pub from: i64,
    pub to: i64,
}

/// The server.
#[derive(Clone)]
pub(super) struct Server {
    client: Client,
    timeout: Duration,
}

impl Server {
    pub fn new(config: &ClickHouseConfig) -> anyhow::Result<Self> {
        Self::with_timeout(config, config.request_timeout())
    }

    pub fn with_timeout(config: &ClickHouseConfig, timeout: Duration) -> anyhow::Result<Self> {
        config.check()?;
        let client = Client::default()
            .with_url(&config.url)
            .with_user(&config.user)
            .with_password(config.password.reveal())
            .with_product_info("millrace", env!("CARGO_PKG_VERSION"))
            // The server gives up when we do, so that no statement outlives the one that repeats it.
            .with_setting("max_execution_time", timeout.as_secs().max(1).to_string());
        Ok(Self { client, timeout })
    }

    /// Runs a statement that answers nothing.
    pub async fn execute(&self, sql: &str) -> Result<(), Failure> {
        self.within(self.client.query_raw(sql).execute()).await
    }

    /// Inserts a block. An error may be one after the fact: ask with [`Server::rows`].
    pub async fn insert(&self, block: &Block<'_>, token: &str) -> Result<(), Failure> {
        let bytes = block.bytes();
        let mut insert = self.client.insert_formatted_with(block.table.insert_statement());
        for (name, value) in INSERT_SETTINGS {
            insert = insert.with_setting(name, value);
        }
        let mut insert = insert
            .with_setting("insert_deduplication_token", token)
            // One insert is one block, whatever its size: a token stands for all of it or none.
            .with_setting("max_insert_block_size", block.len().to_string())
            .with_setting("min_insert_block_size_rows", block.len().to_string())
            .with_setting("min_insert_block_size_bytes", "0")
            .with_timeouts(Some(self.timeout), Some(self.timeout));
        self.within(async {
            for start in (0..bytes.len()).step_by(CHUNK_BYTES) {
                insert.send(bytes.slice(start..bytes.len().min(start + CHUNK_BYTES))).await?;
            }
            Ok(())
        })
        .await?;
        insert.end().await.map_err(exception::failure) // its own deadline: the one given above
    }

    /// Which rows at the block's offsets the table holds, duplicates merged or not: by offset and event. An offset
    /// alone is no row's name, since a topic that was made anew counts from 0 again.
    pub async fn rows(&self, block: &Block<'_>, span: &Span) -> Result<HashSet<(i64, Uuid)>, Failure> {
        let ((since, until), (lo, hi)) = (block.occurred_at(), block.offsets());
        let sql = format!(
            "select distinct _offset, event_id from {}
             where occurred_at >= fromUnixTimestamp64Micro({{since:Int64}}, 'UTC')
               and occurred_at <= fromUnixTimestamp64Micro({{until:Int64}}, 'UTC')
               and _topic = {{topic:String}} and _partition = {{partition:Int32}}
               and _offset >= {{lo:Int64}} and _offset <= {{hi:Int64}}",
            block.table.raw()
        );
        let query = self.client.query_raw(&sql);
        let query = query.param("topic", &*span.topic).param("partition", span.partition);
        let query = query.param("since", since).param("until", until).param("lo", lo).param("hi", hi);
        let found = self.within(query.fetch_all::<Place>()).await?;
        Ok(found.into_iter().map(|place| (place.offset, place.event_id)).collect())
    }

    /// Every row of the table from this range of the log, duplicates included, with a hash of its columns.
    pub async fn contents(&self, table: &Table, span: &Stretch<'_>) -> Result<Vec<Content>, Failure> {
        let columns: Vec<_> = table.insert_columns().map(|column| quote(&column.name)).collect();
        let sql = format!(
            "select _offset, event_id, SHA256(formatRow('RowBinary', {})) as hash from {}
             where _topic = {{topic:String}} and _partition = {{partition:Int32}}
               and _offset >= {{from:Int64}} and _offset < {{to:Int64}}",
            columns.join(", "),
            table.raw()
        );
        let query = self.client.query_raw(&sql).param("topic", span.topic).param("partition", span.partition);
        self.within(query.param("from", span.from).param("to", span.to).fetch_all()).await
    }

    /// Which of these events the table holds, wherever they are from.
    pub async fn holds(&self, table: &Table, events: &[Uuid]) -> Result<HashSet<Uuid>, Failure> {
        let sql =
            format!("select distinct event_id as id from {} where event_id in {{events:Array(UUID)}}", table.raw());
        let events: Vec<String> = events.iter().map(Uuid::to_string).collect();
        let query = self.client.query_raw(&sql).param("events", events);
        Ok(self.within(query.fetch_all::<Id>()).await?.into_iter().map(|Id { id }| id).collect())
    }

    /// The tables of our database, by name.
    pub async fn found(&self) -> Result<BTreeMap<String, Found>, Failure> {
        let mut tables = self.found_tables().await?;
        let sql = format!(
            "select table, name, type, comment from system.columns where database = '{RAW}' order by table, position"
        );
        let columns = self.client.query_raw(&sql).fetch_all::<(String, String, String, String)>();
        for (table, name, type_name, comment) in self.within(columns).await? {
            let column = Column { name, type_name, comment, default_sql: None };
            tables.entry(table).or_default().columns.push(column);
        }
        Ok(tables)
    }

    async fn found_tables(&self) -> Result<BTreeMap<String, Found>, Failure> {
        let sql = format!("select name, engine, engine_full, comment from system.tables where database = '{RAW}'");
        let tables = self.client.query_raw(&sql).fetch_all::<(String, String, String, String)>();
        let found =
            |(name, engine, engine_full, comment)| (name, Found { engine, engine_full, comment, columns: Vec::new() });
        Ok(self.within(tables).await?.into_iter().map(found).collect())
    }

    /// # Errors
    /// A version older than what we know.
    pub async fn check_version(&self) -> anyhow::Result<()> {
        let version: String =
            self.within(self.client.query_raw("select version()").fetch_one()).await.map_err(to_anyhow)?;
        let mut parts = version.split('.').map(str::parse::<u32>);
        let (Some(Ok(major)), Some(Ok(minor))) = (parts.next(), parts.next()) else {
            anyhow::bail!("clickhouse calls its version `{version}`, which is not major.minor");
        };
        let (oldest_major, oldest_minor) = OLDEST;
        anyhow::ensure!(
            (major, minor) >= OLDEST,
            "clickhouse is {version}, at least {oldest_major}.{oldest_minor} is needed: older ones deduplicate inserts otherwise"
        );
        Ok(())
    }

    /// # Errors
    /// A setting that this user or a proxy keeps from us.
    pub async fn check_settings(&self) -> anyhow::Result<()> {
        for (name, wanted) in INSERT_SETTINGS {
            // The name is one of the constants above.
            let sql = format!("select toString(getSetting('{name}'))");
            let query = self.client.query_raw(&sql).with_setting(name, wanted);
            let found: String = self.within(query.fetch_one()).await.map_err(to_anyhow)?;
            let found = match found.as_str() {
                "true" => "1",
                "false" => "0",
                other => other,
            };
            anyhow::ensure!(
                found == wanted,
                "clickhouse runs our statements with {name} = {found} though we ask for {wanted}: \
                 let this user change the setting, and let no proxy drop it"
            );
        }
        Ok(())
    }

    /// Bounds a request from its first byte to its last.
    async fn within<T>(&self, request: impl Future<Output = clickhouse::error::Result<T>>) -> Result<T, Failure> {
        match timeout(self.timeout, request).await {
            Ok(answer) => answer.map_err(exception::failure),
            Err(_) => Err(exception::failure(clickhouse::error::Error::TimedOut)),
        }
    }
}

/// For commands, which try once.
pub(super) fn to_anyhow(failure: Failure) -> anyhow::Error {
    match failure {
        Failure::Retry(error) | Failure::Stop(error) => error,
    }
}

/// Does the server answer, and to us?
///
/// # Errors
/// Where it was looked for, and what went wrong.
pub async fn reachable(config: &ClickHouseConfig) -> anyhow::Result<()> {
    let server = Server::with_timeout(config, REACHABLE_WITHIN)?;
    let one = server.within(server.client.query_raw("select 1").fetch_one::<u8>()).await;
    let url = without_password(&config.url);
    one.map(drop).map_err(|failure| to_anyhow(failure).context(format!("clickhouse at {url} does not answer")))
}
