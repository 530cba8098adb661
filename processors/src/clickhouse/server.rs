//! One ClickHouse server over HTTP: every statement has a deadline, every error a meaning.

use super::block::{Block, Span};
use super::cluster::{self, Macro, Replica};
use super::column::quote;
use super::config::ClickHouseConfig;
use super::erasure::{self, Marks};
use super::exception;
use super::table::{Column, Described, Found, RAW, SHADOW, Table};
use super::together::Insert;
use super::topology::{LOCAL, Setting, Topology};
use super::turns::Turns;
use anyhow::Context;
use bytes::Bytes;
use clickhouse::Client;
use clickhouse::insert_formatted::InsertFormatted;
use clickhouse::query::Query;
use millrace_schemas::{Envelope, without_password};
use millrace_stream::{Backoff, Failure, Range};
use std::collections::{BTreeSet, HashSet};
use std::time::Duration;
use tokio::time::timeout;
use uuid::Uuid;

/// The oldest version whose deduplication was looked at: defaults and names of its settings changed in 26.1 and 26.2.
const OLDEST: (u32, u32) = (26, 2);

/// The newest version that was run, in the local stack and in `docker-compose.yml`.
const NEWEST: (u32, u32) = (26, 7);

/// Compressed and sent at once; bounds what one block costs beside itself.
const CHUNK_BYTES: usize = 1 << 20;

/// Of events in one question, nearly a year of them: servers take 128 KiB in one parameter (`http_max_field_value_size`).
const HOURS_MAX: usize = 8_000;

/// Of a key, so much finds its place in a table; a whole one may be more than fits into a parameter.
const KEY_CHARS_MAX: usize = 256;

/// What every insert asks for. The defaults of servers differ, and some changed between versions.
const INSERT_SETTINGS: [Setting; 6] = [
    // The answer means: stored. Not: queued.
    ("async_insert", "0"),
    ("insert_deduplicate", "1"),
    // Since 26.2 this one decides, and the one above only where this one says so.
    ("deduplicate_insert", "enable"),
    // Late events of a hundred months are unusual and still one insert.
    ("max_partitions_per_insert_block", "0"),
    // A table that somebody altered refuses our block, instead of casting its values to what fits.
    ("input_format_native_allow_types_conversion", "0"),
    // What takes too long is an error, and not a success with the half of it.
    ("timeout_overflow_mode", "throw"),
];

/// Of our deadline, what a server may use to wait for others: then it can still say whom it waited for.
const WAITING_PERCENT: u128 = 80;

/// Another process's insert, for whose quorum we wait, takes tens of milliseconds where all is well.
const NEXT_TURN: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// Where the rows of one partition of a log lie.
#[derive(clickhouse::Row, serde::Deserialize)]
pub(super) struct Extent {
    pub topic: String,
    pub partition: i32,
    pub least: i64,
    pub greatest: i64,
}

/// A row that is there.
#[derive(clickhouse::Row, serde::Deserialize)]
pub(super) struct Place {
    #[serde(rename = "_offset")]
    pub offset: i64,
    #[serde(with = "clickhouse::serde::uuid")]
    pub event_id: Uuid,
}

/// What a row holds.
#[derive(clickhouse::Row, serde::Deserialize)]
pub(super) struct Content {
    #[serde(rename = "_offset")]
    pub offset: i64,
    #[serde(with = "clickhouse::serde::uuid")]
    pub event_id: Uuid,
    /// Is it about somebody whose personal columns are or are to be emptied?
    pub erased: bool,
    /// Of its columns but `_inserted_at`, as RowBinary; where it is about such a person, but for personal ones.
    pub hash: [u8; 32],
}

#[derive(clickhouse::Row, serde::Deserialize)]
struct Id {
    #[serde(with = "clickhouse::serde::uuid")]
    id: Uuid,
}

/// The server.
#[derive(Clone)]
pub(super) struct Server {
    client: Client,
    /// For messages.
    url: String,
    timeout: Duration,
    topology: Topology,
    turns: Turns,
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
        let (url, topology) = (without_password(&config.url), config.topology());
        Ok(Self { client, url, timeout, topology, turns: Turns::default() })
    }

    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// A question about what is in tables: run it [`Server::within`] the deadline.
    pub fn query(&self, sql: &str) -> Query {
        asking(self.client.query_raw(sql), self.topology.read_settings())
    }

    /// Inserts rows of a format that the statement names. An error may be one after the fact.
    pub async fn send(&self, statement: &str, rows: Bytes) -> Result<(), Failure> {
        let insert = self.inserting_whatever_was_before(statement);
        let mut insert = insert.with_timeouts(Some(self.timeout), Some(self.timeout));
        insert.send(rows).await.map_err(|error| self.failure(error))?;
        insert.end().await.map_err(|error| self.failure(error))
    }

    /// Whoever sends the same rows again has a reason: they may be gone meanwhile.
    fn inserting_whatever_was_before(&self, statement: impl Into<String>) -> InsertFormatted {
        let insert = self.inserting(statement).with_setting("deduplicate_insert", "disable");
        insert.with_setting("insert_deduplicate", "0")
    }

    fn inserting(&self, statement: impl Into<String>) -> InsertFormatted {
        let mut insert = self.client.insert_formatted_with(statement);
        for (name, value) in INSERT_SETTINGS.iter().chain(self.topology.insert_settings()) {
            insert = insert.with_setting(*name, *value);
        }
        match self.topology {
            Topology::Single => insert,
            Topology::Cluster(_) => insert.with_setting("insert_quorum_timeout", self.waiting_ms().to_string()),
        }
    }

    /// Makes or changes a table or a view, on every server of a cluster.
    pub async fn execute(&self, sql: &str) -> Result<(), Failure> {
        let mut query = asking(self.client.query_raw(sql), self.topology.change_settings());
        if self.topology != Topology::Single {
            query = query.with_setting("distributed_ddl_task_timeout", (self.waiting_ms() / 1000).max(1).to_string());
        }
        self.within(query.execute()).await
    }

    /// Inserts blocks, all or none of what is of one month. An error may be one after the fact: ask with [`Server::rows`].
    pub async fn insert(&self, insert: &Insert) -> Result<(), Failure> {
        match self.topology {
            Topology::Single => self.insert_now(insert).await,
            Topology::Cluster(_) => self.insert_in_turn(insert).await,
        }
    }

    /// While an insert waits for its quorum, its table takes no other: within this process they queue up, and
    /// another process's is waited for, no longer than for an answer.
    async fn insert_in_turn(&self, insert: &Insert) -> Result<(), Failure> {
        let _turn = self.turns.of(&insert.table).await;
        let done = async {
            let mut backoff = Backoff::between(NEXT_TURN.0, NEXT_TURN.1);
            loop {
                match self.insert_now(insert).await {
                    Err(failure) if exception::another_has_its_turn(&failure) => {
                        tokio::time::sleep(backoff.next_wait()).await;
                    }
                    done => return done,
                }
            }
        };
        timeout(self.timeout, done).await.unwrap_or_else(|_| Err(self.too_late()))
    }

    async fn insert_now(&self, Insert { statement, rows, blocks, token, .. }: &Insert) -> Result<(), Failure> {
        let insert = match token {
            Some(token) => self.inserting(statement).with_setting("insert_deduplication_token", token),
            None => self.inserting_whatever_was_before(statement),
        };
        // One insert is one block, whatever its size: it is there as a whole in each month, or not at all.
        let mut insert = insert
            .with_setting("max_insert_block_size", rows.to_string())
            .with_setting("min_insert_block_size_rows", rows.to_string())
            .with_setting("min_insert_block_size_bytes", "0")
            .with_timeouts(Some(self.timeout), Some(self.timeout));
        self.within(async {
            for block in blocks {
                for start in (0..block.len()).step_by(CHUNK_BYTES) {
                    insert.send(block.slice(start..block.len().min(start + CHUNK_BYTES))).await?;
                }
            }
            Ok(())
        })
        .await?;
        insert.end().await.map_err(|error| self.failure(error)) // its own deadline: the one given above
    }

    /// Which rows at the block's offsets the table holds, duplicates merged or not: by offset and event. An offset
    /// alone is no row's name, since a topic that was made anew counts from 0 again.
    pub async fn rows(&self, block: &Block<'_>, span: &Span) -> Result<HashSet<(i64, Uuid)>, Failure> {
        let (lo, hi) = block.offsets();
        // By their hours, which the tables' key begins with: what lies between an old event and the others is not read.
        let sql = format!(
            "select distinct _offset, event_id from {}
             where toStartOfHour(occurred_at) in {{hours:Array(DateTime('UTC'))}}
               and _topic = {{topic:String}} and _partition = {{partition:Int32}}
               and _offset >= {{lo:Int64}} and _offset <= {{hi:Int64}}",
            block.table.raw()
        );
        let mut rows = HashSet::with_capacity(block.len());
        for hours in block.hours().chunks(HOURS_MAX) {
            let query = self.query(&sql).param("topic", &*span.topic).param("partition", span.partition);
            let query = query.param("hours", hours).param("lo", lo).param("hi", hi);
            let found = self.within(query.fetch_all::<Place>()).await?;
            rows.extend(found.into_iter().map(|place| (place.offset, place.event_id)));
        }
        Ok(rows)
    }

    /// By partition and offset, which records of this topic the event's rows with this envelope's key are from. Nothing but
    /// what has that key is read.
    pub async fn places_of(
        &self,
        table: &Table,
        topic: &str,
        envelope: &Envelope<'_>,
    ) -> Result<HashSet<(i32, i64)>, Failure> {
        let sql = format!(
            "select distinct _partition, _offset from {}
             where toStartOfHour(occurred_at) = toStartOfHour(fromUnixTimestamp64Micro({{at:Int64}}, 'UTC'))
               and startsWith(subject, {{subject:String}}) and event_id = {{event:UUID}} and _topic = {{topic:String}}",
            table.raw()
        );
        let subject: String = envelope.subject.chars().take(KEY_CHARS_MAX).collect();
        let query = self.query(&sql).param("subject", subject).param("topic", topic);
        let query = query.param("event", envelope.id.to_string()).param("at", envelope.occurred_at.timestamp_micros());
        Ok(self.within(query.fetch_all::<(i32, i64)>()).await?.into_iter().collect())
    }

    /// Every row of the table from this range of the log, duplicates included, with a hash of its columns.
    pub async fn contents(&self, table: &Table, personal: &Marks, range: &Range) -> Result<Vec<Content>, Failure> {
        let hash = |left_out: &BTreeSet<String>| {
            let columns = table.insert_columns().filter(|column| !left_out.contains(&column.name));
            format!(
                "SHA256(formatRow('RowBinary', {}))",
                columns.map(|column| quote(&column.name)).collect::<Vec<_>>().join(", ")
            )
        };
        let sql = format!(
            "select _offset, event_id, {} as erased, if(erased, {}, {}) as hash from {}
             where _topic = {{topic:String}} and _partition = {{partition:Int32}}
               and _offset >= {{from:Int64}} and _offset < {{to:Int64}}",
            personal.is_erased(),
            hash(&personal.columns),
            hash(&BTreeSet::new()),
            table.raw()
        );
        let query = self.query(&sql).param("topic", &range.topic).param("partition", range.partition);
        self.within(query.param("from", range.from).param("to", range.to).fetch_all()).await
    }

    /// From where to where rows of the table lie in each partition of a log.
    pub async fn extents(&self, table: &Table) -> Result<Vec<Extent>, Failure> {
        let sql = format!(
            "select toString(_topic) as topic, _partition as partition, min(_offset) as least, max(_offset) as greatest
             from {} group by all order by all",
            table.raw()
        );
        self.within(self.query(&sql).fetch_all()).await
    }

    /// Rows of the table from this range of the log, the first `max` of them, and how many there are.
    pub async fn places(&self, table: &Table, range: &Range, max: u64) -> Result<(Vec<Place>, u64), Failure> {
        let ask = |what: &str, rest: &str| {
            let sql = format!(
                "select {what} from {}
                 where _topic = {{topic:String}} and _partition = {{partition:Int32}}
                   and _offset >= {{from:Int64}} and _offset < {{to:Int64}} {rest}",
                table.raw()
            );
            let query = self.query(&sql).param("topic", &range.topic).param("partition", range.partition);
            query.param("from", range.from).param("to", range.to)
        };
        let places = ask("distinct _offset, event_id", "order by all limit {max:UInt64}").param("max", max);
        let count = ask("uniqExact(_offset, event_id)", "");
        Ok((self.within(places.fetch_all()).await?, self.within(count.fetch_one()).await?))
    }

    /// Which of these events the table holds, wherever they are from.
    pub async fn holds(&self, table: &Table, events: &[Uuid]) -> Result<HashSet<Uuid>, Failure> {
        let sql =
            format!("select distinct event_id as id from {} where event_id in {{events:Array(UUID)}}", table.raw());
        let events: Vec<String> = events.iter().map(Uuid::to_string).collect();
        let query = self.query(&sql).param("events", events);
        Ok(self.within(query.fetch_all::<Id>()).await?.into_iter().map(|Id { id }| id).collect())
    }

    /// The tables beneath the views, what is being rebuilt of them, and erasure's.
    pub async fn found(&self) -> Result<Found, Failure> {
        let mut tables = self.found_tables().await?;
        let sql = format!(
            "select concat(database, '.', table), name, type, comment,
                 if(default_kind = 'DEFAULT', toNullable(default_expression), null),
                 if(default_kind not in ('', 'DEFAULT'), toNullable(concat(default_kind, ' ', default_expression)), null)
             from system.columns where database in ('{LOCAL}', '{RAW}', '{SHADOW}') order by database, table, position"
        );
        type Described = (String, String, String, String, Option<String>, Option<String>);
        let columns = self.client.query_raw(&sql).fetch_all::<Described>();
        for (table, name, type_name, comment, default_sql, computed) in self.within(columns).await? {
            let column = Column { name, type_name, comment, default_sql, computed };
            // One that somebody has made since is not there, rather than there without an engine.
            if let Some(found) = tables.get_mut(&table) {
                found.columns.push(column);
            }
        }
        Ok(tables)
    }

    async fn found_tables(&self) -> Result<Found, Failure> {
        let sql = format!(
            "select concat(database, '.', name), engine, engine_full, comment from system.tables
             where database in ('{LOCAL}', '{RAW}', '{SHADOW}', '{}')",
            erasure::DATABASE
        );
        let tables = self.client.query_raw(&sql).fetch_all::<(String, String, String, String)>();
        let described = |(name, engine, engine_full, comment)| {
            (name, Described { engine, engine_full, comment, columns: Vec::new() })
        };
        Ok(self.within(tables).await?.into_iter().map(described).collect())
    }

    /// # Errors
    /// A version older than what we know.
    pub async fn check_version(&self) -> anyhow::Result<()> {
        let version = self.within(self.client.query_raw("select version()").fetch_one::<String>()).await;
        let version = version.map_err(to_anyhow).context("could not ask clickhouse for its version")?;
        if known(&version)? > NEWEST {
            let (major, minor) = NEWEST;
            tracing::warn!("clickhouse is {version}, newer than any that was tried: {major}.{minor} is the newest");
        }
        Ok(())
    }

    /// # Errors
    /// A setting that this user or a proxy keeps from us.
    pub async fn check_settings(&self) -> anyhow::Result<()> {
        let more = self.topology.insert_settings().iter().chain(self.topology.read_settings());
        for (name, wanted) in INSERT_SETTINGS.iter().chain(more) {
            // The name is one of the constants above.
            let sql = format!("select toString(getSetting('{name}'))");
            let query = self.client.query_raw(&sql).with_setting(*name, *wanted);
            let found: String = self.within(query.fetch_one()).await.map_err(|failure| {
                let refused = exception::code_of(&failure).is_some();
                let advice = if refused { ": let this user change the setting, neither read-only nor constrained" } else { "" };
                to_anyhow(failure).context(format!(
                    "clickhouse did not run a statement with {name} = {wanted}, without which inserts are not safe{advice}"
                ))
            })?;
            let found = match found.as_str() {
                "true" => "1",
                "false" => "0",
                other => other,
            };
            anyhow::ensure!(
                found == *wanted,
                "clickhouse runs our statements with {name} = {found} though we ask for {wanted}: \
                 let this user change the setting, and let no proxy drop it"
            );
        }
        Ok(())
    }

    /// # Errors
    /// A cluster over which our inserts would not be safe; one server is always fine.
    pub async fn check_cluster(&self) -> anyhow::Result<()> {
        let Topology::Cluster(name) = &self.topology else { return Ok(()) };
        let replicas = self.replicas(name).await.map_err(to_anyhow)?;
        cluster::check_replicas(name, &replicas)?;
        let macros = self.macros(name).await.map_err(to_anyhow).context("could not ask each shard for its macros")?;
        cluster::check_macros(name, &replicas, &macros)?;
        cluster::check_writable(&self.read_only().await.map_err(to_anyhow)?)
    }

    async fn replicas(&self, cluster: &str) -> Result<Vec<Replica>, Failure> {
        let sql =
            "select shard_num, toBool(internal_replication) from system.clusters where cluster = {cluster:String}";
        self.within(self.client.query_raw(sql).param("cluster", cluster).fetch_all()).await
    }

    /// Of one server of each shard that answers.
    async fn macros(&self, cluster: &str) -> Result<Vec<Macro>, Failure> {
        let sql = "select _shard_num, macro, substitution from cluster({cluster:String}, system.macros)";
        self.within(self.client.query_raw(sql).param("cluster", cluster).fetch_all()).await
    }

    async fn read_only(&self) -> Result<Vec<String>, Failure> {
        let sql =
            format!("select table from system.replicas where database = '{LOCAL}' and is_readonly order by table");
        self.within(self.client.query_raw(&sql).fetch_all()).await
    }

    /// How long a server may wait for other ones on our behalf.
    fn waiting_ms(&self) -> u128 {
        self.timeout.as_millis() * WAITING_PERCENT / 100
    }

    /// Bounds a request from its first byte to its last.
    pub async fn within<T>(&self, request: impl Future<Output = clickhouse::error::Result<T>>) -> Result<T, Failure> {
        match timeout(self.timeout, request).await {
            Ok(answer) => answer.map_err(|error| self.failure(error)),
            Err(_) => Err(self.too_late()),
        }
    }

    fn failure(&self, error: clickhouse::error::Error) -> Failure {
        match error {
            clickhouse::error::Error::TimedOut => self.too_late(),
            error => exception::failure(error),
        }
    }

    /// It may have been done all the same.
    fn too_late(&self) -> Failure {
        Failure::retry(anyhow::anyhow!("clickhouse at {} gave no answer within {:?}", self.url, self.timeout))
    }
}

fn asking(query: Query, settings: &[Setting]) -> Query {
    settings.iter().fold(query, |query, (name, value)| query.with_setting(*name, *value))
}

/// A version's first two numbers.
fn known(version: &str) -> anyhow::Result<(u32, u32)> {
    let mut parts = version.split('.').map(str::parse::<u32>);
    let (Some(Ok(major)), Some(Ok(minor))) = (parts.next(), parts.next()) else {
        anyhow::bail!("clickhouse calls its version `{version}`, which is not major.minor");
    };
    let (oldest_major, oldest_minor) = OLDEST;
    anyhow::ensure!(
        (major, minor) >= OLDEST,
        "clickhouse is {version}, at least {oldest_major}.{oldest_minor} is needed: older ones deduplicate inserts otherwise"
    );
    Ok((major, minor))
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
pub async fn reachable(config: &ClickHouseConfig, within: Duration) -> anyhow::Result<()> {
    let server = Server::with_timeout(config, within)?;
    let one = server.within(server.client.query_raw("select 1").fetch_one::<u8>()).await;
    let url = without_password(&config.url);
    one.map(drop).map_err(|failure| to_anyhow(failure).context(format!("clickhouse at {url} does not answer")))
}

#[cfg(test)]
mod tests {
    use super::super::block::tests::{rows, tables};
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::task::JoinHandle;

    /// A server that answers every request so; or that takes them and never answers.
    async fn answering(answer: Option<&'static str>) -> (String, JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let serve = async move {
            let mut open = Vec::new();
            loop {
                let (mut connection, _) = listener.accept().await.unwrap();
                if let Some(answer) = answer {
                    let _request = connection.read(&mut [0; 1 << 16]).await.unwrap();
                    connection.write_all(answer.as_bytes()).await.unwrap();
                }
                open.push(connection); // dropped, it would be an answer
            }
        };
        (url, tokio::spawn(serve))
    }

    fn server(url: &str, cluster: Option<&str>) -> Server {
        let (url, cluster) = (url.to_owned(), cluster.map(str::to_owned));
        Server::new(&ClickHouseConfig { url, cluster, request_timeout_ms: 100, ..Default::default() }).unwrap()
    }

    #[tokio::test]
    async fn no_request_waits_for_a_server_that_hangs_longer_than_its_deadline() {
        let (url, serving) = answering(None).await;
        let tables = tables();
        let rows = rows(&tables, &[(1, "order.placed", 1)]);
        let (block, span) = (&rows.blocks()[0], rows.span(Some((1, 2))).unwrap());
        for server in [server(&url, None), server(&url, Some("main"))] {
            let requests = [
                server.execute("create database x").await.map_err(to_anyhow),
                server.insert(&Insert::of(block, &span)).await.map_err(to_anyhow),
                server.rows(block, &span).await.map(drop).map_err(to_anyhow),
                server.found().await.map(drop).map_err(to_anyhow),
                server.replicas("main").await.map(drop).map_err(to_anyhow),
                server.macros("main").await.map(drop).map_err(to_anyhow),
                server.read_only().await.map(drop).map_err(to_anyhow),
                server.check_version().await,
                server.check_settings().await,
            ];
            for request in requests {
                let error = format!("{:#}", request.unwrap_err());
                assert!(error.ends_with(&format!("clickhouse at {url} gave no answer within 100ms")), "{error}");
            }
        }
        serving.abort();
    }

    #[tokio::test]
    async fn an_insert_that_got_no_answer_is_tried_again() {
        let (url, serving) = answering(None).await;
        let tables = tables();
        let rows = rows(&tables, &[(1, "order.placed", 1)]);
        let span = rows.span(Some((1, 2))).unwrap();
        for server in [server(&url, None), server(&url, Some("main"))] {
            let failure = server.insert(&Insert::of(&rows.blocks()[0], &span)).await.unwrap_err();
            assert!(matches!(failure, Failure::Retry(_)), "{failure}");
        }
        serving.abort();
    }

    #[tokio::test]
    async fn a_user_who_may_not_change_a_setting_is_told_which() {
        let answer = "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 80\r\nConnection: close\r\n\r\n\
                      Code: 452. DB::Exception: Setting async_insert should not be changed. (VIOLATED)";
        let (url, serving) = answering(Some(answer)).await;
        let error = format!("{:#}", server(&url, None).check_settings().await.unwrap_err());
        assert!(error.starts_with("clickhouse did not run a statement with async_insert = 0"), "{error}");
        assert!(error.contains("let this user change the setting") && error.contains("Code: 452"), "{error}");
        serving.abort();
    }

    #[test]
    fn a_version_is_known_or_refused_by_name() {
        assert_eq!(known("26.7.3.19").unwrap(), (26, 7));
        assert_eq!(known("27.1.1.1-stable").unwrap(), (27, 1));
        let error = known("26.1.9.1").unwrap_err().to_string();
        assert!(error.starts_with("clickhouse is 26.1.9.1, at least 26.2 is needed"), "{error}");
        assert!(known("latest").unwrap_err().to_string().contains("which is not major.minor"));
    }

    #[test]
    fn whom_a_server_waits_for_is_known_before_our_own_deadline() {
        let server = Server::new(&ClickHouseConfig::default()).unwrap();
        assert_eq!((server.timeout.as_millis(), server.waiting_ms()), (15_000, 12_000));
    }
}
