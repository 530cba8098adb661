//! The servers together: started at once, addressed in one place, stopped in good order.

use crate::clickhouse::ClickHouse;
use crate::directory::{Directory, Marker, write_json};
use crate::identity::Identity;
use crate::kafka::{self, Kafka};
use crate::parts::{self, CLICKHOUSE_VERSION, KAFKA_VERSION, POSTGRES_VERSION, Parts};
use crate::ports::{self, FreePorts, Ports};
use crate::postgres::{self, Postgres};
use crate::redis::Redis;
use crate::supervise::{Place, Supervised};
use crate::{Server, StackError, fetch, token};
use futures_util::future::{join_all, select_all, try_join_all};
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// What to start, and where.
#[derive(Debug, Clone)]
pub struct StackOptions {
    pub data_dir: PathBuf,
    pub ports: Ports,
    /// Start over: delete what an earlier stack kept in `data_dir`, and nothing else.
    pub fresh: bool,
    /// Where fetched programs are kept; `MILLRACE_CACHE` or the platform's cache directory if none.
    pub cache: Option<PathBuf>,
    /// The program that serves the ClickHouse engine, with its first arguments; it is given `--library L --path P
    /// --listen ADDRESS` besides. Usually this same program: `[current_exe, "local", "clickhouse"]`.
    pub engine_command: Vec<OsString>,
}

/// Where everything is reached. This is `stack.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addresses {
    pub kafka: String,
    pub clickhouse: String,
    pub postgres: String,
    /// None where the machine has no Redis.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redis: Option<String>,
    // What `millrace up` itself serves; the stack only chooses the ports.
    pub gateway: String,
    pub registry: String,
    pub console: String,
    pub ops: String,
    pub receiver: String,
    /// Of tokens, for development.
    pub issuer: String,
}

/// The running servers. Dropping it kills them; [`Stack::stop`] lets them end well.
pub struct Stack {
    servers: Vec<Supervised>, // first, so that they have ended before the directory is let go
    addresses: Addresses,
    directory: Directory,
    _reserved: FreePorts,
}

/// Starts all servers and returns when each has answered.
///
/// # Errors
/// One line that says what is wrong and what to do, and for a server that did not start the end of its log.
pub async fn start(options: StackOptions) -> Result<Stack, StackError> {
    let StackOptions { data_dir, ports, fresh, cache, engine_command } = options;
    let cache = cache.map_or_else(parts::default_cache, Ok)?;
    let (directory, parts, ports) = blocking(move || {
        let directory = Directory::take(&data_dir, fresh, marker())?;
        let chosen = Chosen::new(ports)?;
        token::prepare(&data_dir)?;
        Ok((directory, parts::get(&cache)?, chosen))
    })
    .await?;
    let servers = ports.servers(&directory, &parts, engine_command)?;
    let stack = Stack { servers, addresses: ports.addresses(), directory, _reserved: ports.reserved };
    stack.ready().await?;
    Ok(stack)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StackError> + Send + 'static,
) -> Result<T, StackError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
}

impl Stack {
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// Tells scripts where everything is. For when everything is ready: they wait for the file.
    ///
    /// # Errors
    /// When the data directory can't be written.
    pub fn write_stack_json(&self) -> Result<PathBuf, StackError> {
        let path = self.directory.path("stack.json");
        write_json(&path, &self.addresses).map_err(|error| StackError::directory(&path, error))?;
        Ok(path)
    }

    /// None while it is down, or where there is no such server.
    pub fn pid(&self, server: Server) -> Option<u32> {
        self.find(server)?.pid()
    }

    /// Kills it as a crash would; it will be started again. Says whether there was one to kill.
    pub fn kill(&self, server: Server) -> bool {
        self.find(server).is_some_and(Supervised::kill)
    }

    pub fn restarts(&self, server: Server) -> u32 {
        self.find(server).map_or(0, Supervised::restarts)
    }

    /// Until it answers again.
    ///
    /// # Errors
    /// When it will never.
    pub async fn wait_ready(&self, server: Server) -> Result<(), StackError> {
        match self.find(server) {
            Some(found) => found.ready().await.map_err(|why| StackError::Server { server, why }),
            None => Err(StackError::Server { server, why: "is not part of this stack".to_owned() }),
        }
    }

    /// Resolves when a server has died too often to be started again.
    pub async fn failed(&self) -> StackError {
        let failures = self
            .servers
            .iter()
            .map(|found| Box::pin(async { StackError::Server { server: found.server(), why: found.failed().await } }));
        select_all(failures).await.0
    }

    /// Asks all servers to end, kills those that don't, and returns when none is left.
    pub async fn stop(self) {
        let _ = std::fs::remove_file(self.directory.path("stack.json")); // nothing is there any more
        join_all(self.servers.iter().map(Supervised::stop)).await;
    }

    async fn ready(&self) -> Result<(), StackError> {
        try_join_all(self.servers.iter().map(|found| self.wait_ready(found.server()))).await.map(drop)
    }

    fn find(&self, server: Server) -> Option<&Supervised> {
        self.servers.iter().find(|found| found.server() == server)
    }
}

/// The versions that decide whether data can be read.
fn marker() -> Marker {
    let major_minor = |version: &str| version.split('.').take(2).collect::<Vec<_>>().join(".");
    Marker {
        made_by: concat!("millrace ", env!("CARGO_PKG_VERSION")).to_owned(),
        kafka: major_minor(KAFKA_VERSION),
        clickhouse: major_minor(CLICKHOUSE_VERSION),
        postgres: POSTGRES_VERSION.split('.').take(1).collect(),
        kafka_cluster: kafka::new_cluster_id(),
    }
}

/// The ports of one stack.
struct Chosen {
    kafka: u16,
    kafka_controller: u16,
    clickhouse: u16,
    postgres: u16,
    redis: Option<u16>,
    gateway: u16,
    registry: u16,
    console: u16,
    ops: u16,
    receiver: u16,
    issuer: u16,
    reserved: FreePorts,
}

impl Chosen {
    fn new(ports: Ports) -> Result<Self, StackError> {
        let mut reserved = FreePorts::default();
        let mut free = || reserved.take().map_err(StackError::NoPort);
        let kafka_controller = free()?; // nobody but Kafka itself uses it
        let mut port = |known: u16| if ports == Ports::Auto { free() } else { Ok(known) };
        let chosen = Self {
            kafka: port(19092)?,
            kafka_controller,
            clickhouse: port(18123)?,
            postgres: port(15432)?,
            redis: Redis::installed().map(|_| port(16379)).transpose()?,
            gateway: port(7070)?,
            registry: port(7071)?,
            receiver: port(7072)?,
            issuer: port(7073)?,
            console: port(7080)?,
            ops: port(7090)?,
            reserved: FreePorts::default(),
        };
        chosen.refuse_taken()?;
        Ok(Self { reserved, ..chosen })
    }

    /// Said here, before anything is started, it is one clear line.
    fn refuse_taken(&self) -> Result<(), StackError> {
        let servers = [
            (Server::Kafka, Some(self.kafka)),
            (Server::ClickHouse, Some(self.clickhouse)),
            (Server::Postgres, Some(self.postgres)),
            (Server::Redis, self.redis),
        ];
        let mut ports = servers.into_iter().filter_map(|(server, port)| Some((server, port?)));
        match ports.find(|(_, port)| !ports::is_free(*port)) {
            Some((server, port)) => Err(StackError::PortTaken { server, port }),
            None => Ok(()),
        }
    }

    fn addresses(&self) -> Addresses {
        let http = |port: u16| format!("http://127.0.0.1:{port}");
        Addresses {
            kafka: format!("127.0.0.1:{}", self.kafka),
            clickhouse: http(self.clickhouse),
            postgres: format!("postgres://{}@127.0.0.1:{}/{}", postgres::USER, self.postgres, postgres::DATABASE),
            redis: self.redis.map(|port| format!("redis://127.0.0.1:{port}")),
            gateway: http(self.gateway),
            registry: http(self.registry),
            console: http(self.console),
            ops: http(self.ops),
            receiver: http(self.receiver),
            issuer: http(self.issuer),
        }
    }

    /// Starts them all, and waits for none.
    fn servers(
        &self,
        directory: &Directory,
        parts: &Parts,
        engine_command: Vec<OsString>,
    ) -> Result<Vec<Supervised>, StackError> {
        let home = |server: Server| directory.path(server.name());
        let place =
            |server: Server| Place { log: directory.log(server.name()), record: directory.record(server.name()) };
        let kafka = Kafka {
            java: fetch::java().unwrap_or_else(|| "java".into()), // it was there a moment ago
            jars: parts.kafka_jars.clone(),
            home: home(Server::Kafka),
            log: directory.log(Server::Kafka.name()),
            cluster: directory.marker.kafka_cluster.clone(),
            port: self.kafka,
            controller_port: self.kafka_controller,
        };
        let clickhouse = ClickHouse {
            engine_command,
            library: parts.clickhouse_library.clone(),
            home: home(Server::ClickHouse),
            port: self.clickhouse,
        };
        let postgres = Postgres {
            identity: identity(&parts.postgres, &home(Server::Postgres))?,
            install: parts.postgres.clone(),
            home: home(Server::Postgres),
            log: directory.log(Server::Postgres.name()),
            port: self.postgres,
        };
        let mut servers = vec![
            Supervised::start(Server::Kafka, kafka, place(Server::Kafka)),
            Supervised::start(Server::ClickHouse, clickhouse, place(Server::ClickHouse)),
            Supervised::start(Server::Postgres, postgres, place(Server::Postgres)),
        ];
        match Redis::installed().zip(self.redis) {
            Some((program, port)) => {
                let redis = Redis { program, home: home(Server::Redis), port };
                servers.push(Supervised::start(Server::Redis, redis, place(Server::Redis)));
            }
            None => tracing::warn!("{}", Redis::MISSING),
        }
        Ok(servers)
    }
}

fn identity(program: &Path, home: &Path) -> Result<Identity, StackError> {
    Identity::for_postgres(program, home)
        .map_err(|error| StackError::Server { server: Server::Postgres, why: format!("can't be started: {error:#}") })
}
