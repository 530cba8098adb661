//! An engine's end: killed, it loses nothing that it has acknowledged; stopped, it leaves everything in order.

use super::{Reply, ask, post, runs};
use crate::platform::{BINARY, Role, directory, eventually};
use std::io::Write;
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Command;
use std::thread::JoinHandle;

const BLOCK_ROWS: u64 = 10_000;

/// An engine of one test alone.
pub struct Own {
    role: Role,
    pub url: String,
    data: PathBuf,
}

impl Own {
    /// A `config.xml` in the directory is the engine's configuration.
    pub async fn start(data: PathBuf) -> Self {
        let library = millrace_local::clickhouse_library().unwrap();
        let mut command = Command::new(BINARY);
        command.args(["local", "clickhouse", "--listen", "127.0.0.1:0"]).arg("--library").arg(library);
        command.arg("--path").arg(data.join("engine")).current_dir(&data);
        let role = Role::start(&mut command, &data, "engine");
        eventually("the engine tells its port", async || address(&role).is_some()).await;
        let url = address(&role).unwrap();
        Self { role, url, data }
    }

    async fn restart_after_a_kill(mut self) -> Self {
        self.role.kill();
        Self::start(self.data).await
    }

    /// As an operator would stop it.
    pub async fn stop(self) -> PathBuf {
        let code = tokio::task::spawn_blocking(|| self.role.stop()).await.unwrap();
        assert_eq!(code, 0);
        self.data
    }
}

/// Its own first word, when it is ready.
fn address(role: &Role) -> Option<String> {
    let log = role.log();
    let (_, rest) = log.split_once("ClickHouse engine on ")?;
    Some(rest.split_once('"')?.0.to_owned())
}

/// Sends rows for as long as somebody takes them; how many that were.
fn insert_for_ever(url: &str) -> JoinHandle<u64> {
    let address = url.trim_start_matches("http://").to_owned();
    std::thread::spawn(move || {
        let mut engine = TcpStream::connect(&address).unwrap();
        let path = format!(
            "/?query=insert%20into%20t%20format%20RowBinary&max_insert_block_size={BLOCK_ROWS}\
             &min_insert_block_size_rows={BLOCK_ROWS}&min_insert_block_size_bytes=0"
        );
        let head = format!("POST {path} HTTP/1.1\r\nHost: {address}\r\nTransfer-Encoding: chunked\r\n\r\n");
        engine.write_all(head.as_bytes()).unwrap();
        for sent in (0..).step_by(1000) {
            let rows: Vec<u8> = (sent..sent + 1000).flat_map(u64::to_le_bytes).collect();
            let chunk = [format!("{:x}\r\n", rows.len()).as_bytes(), &rows, b"\r\n"].concat();
            if engine.write_all(&chunk).is_err() {
                return sent;
            }
        }
        unreachable!("it never ends by itself")
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_in_mid_insert_leaves_whole_blocks_and_all_that_was_acknowledged() {
    let own = Own::start(directory()).await;
    for table in ["t", "acknowledged"] {
        ask(&own.url, &format!("create table {table} (id UInt64) engine = MergeTree order by id")).await;
    }
    ask(&own.url, "insert into acknowledged select number from numbers(1000)").await;
    let inserting = insert_for_ever(&own.url);
    let blocks = format!("select count() > {} from t", 3 * BLOCK_ROWS);
    eventually("some blocks are in", async || ask(&own.url, &blocks).await == "1").await;
    assert!(!inserting.is_finished());
    let own = own.restart_after_a_kill().await;
    let sent = inserting.join().unwrap();
    let counts = "select count() % {n}, count() - uniqExact(id), count() > 0 and count() < {s} from t";
    let counts = counts.replace("{n}", &BLOCK_ROWS.to_string()).replace("{s}", &sent.to_string());
    assert_eq!(ask(&own.url, &counts).await, "0\t0\t1");
    assert_eq!(ask(&own.url, "select count() from acknowledged").await, "1000");
    ask(&own.url, "insert into t select number from numbers(10)").await;
    std::fs::remove_dir_all(own.stop().await).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_ends_what_runs_keeps_what_is_there_and_exits_0() {
    let own = Own::start(directory()).await;
    ask(&own.url, "create table t (id UInt64) engine = MergeTree order by id").await;
    ask(&own.url, "insert into t select number from numbers(1000)").await;
    let endless =
        post(&own.url, &[]).body("select sleepEachRow(0.5) from numbers(1000000) settings max_block_size = 1");
    let endless = tokio::spawn(Reply::to(endless));
    eventually("the query runs", async || runs(&own.url, "sleepEachRow").await).await;
    let data = own.stop().await;
    assert_eq!(endless.await.unwrap().refusal().1, "394");
    let own = Own::start(data).await;
    assert_eq!(ask(&own.url, "select count() from t").await, "1000");
    std::fs::remove_dir_all(own.stop().await).unwrap();
}
