//! The engine behind HTTP does what a ClickHouse server does, for the crate that Millrace uses and for everyone else.

pub mod life;

use crate::platform::{eventually, shared};
use clickhouse::{Client, Compression, Row};
use reqwest::RequestBuilder;
use reqwest::header::HeaderMap;
use serde::{Deserialize, Serialize};
use std::io::{Read, Write};

fn url() -> &'static str {
    &shared().platform.addresses().clickhouse
}

/// A request of any client: parameters in the URL, the rest added by the test.
pub fn post(url: &str, parameters: &[(&str, &str)]) -> RequestBuilder {
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::new().post(url).query(parameters)
}

pub struct Reply {
    status: u16,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Reply {
    pub async fn to(request: RequestBuilder) -> Self {
        let answer = request.send().await.unwrap();
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        Self { status, headers, body: answer.bytes().await.unwrap().to_vec() }
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Status and code of a refusal.
    pub fn refusal(&self) -> (u16, &str) {
        (self.status, self.header("x-clickhouse-exception-code"))
    }
}

/// Runs a statement that must succeed; its answer without the last line end.
async fn ask(url: &str, sql: &str) -> String {
    let reply = Reply::to(post(url, &[]).body(sql.to_owned())).await;
    assert_eq!(reply.status, 200, "{sql}: {}", reply.text());
    reply.text().trim_end().to_owned()
}

/// A new table in the shared engine, which remembers its inserts' tokens as replicated ones do.
async fn table(columns: &str) -> String {
    let name = format!("engine_{}", uuid::Uuid::new_v4().simple());
    let engine = "MergeTree order by id settings non_replicated_deduplication_window = 100";
    ask(url(), &format!("create table {name} ({columns}) engine = {engine}")).await;
    name
}

/// Whether a statement with that word in it runs.
async fn runs(url: &str, word: &str) -> bool {
    let others = "query not like '%system.processes%'";
    ask(url, &format!("select count() from system.processes where query like '%{word}%' and {others}")).await != "0"
}

#[derive(Debug, PartialEq, Clone, Row, Serialize, Deserialize)]
struct Line {
    id: u64,
    text: String,
    bytes: [u8; 16],
}

/// Line ends, zeros, quotes and every byte there is.
fn lines(count: u64) -> impl Iterator<Item = Line> {
    (0..count).map(|id| Line {
        id,
        text: format!("line {id}\n\r\n\0\t'\"\\ één\n"),
        bytes: std::array::from_fn(|at| (id.wrapping_mul(31) as u8).wrapping_add(at as u8)),
    })
}

const LINE_COLUMNS: &str = "id UInt64, text String, bytes FixedString(16)";

/// Of the tables that events are in: within one part no event is there twice, and views read it as any other table.
#[tokio::test(flavor = "multi_thread")]
async fn a_month_that_nobody_writes_to_becomes_one_part_by_itself() {
    let name = format!("months_{}", uuid::Uuid::new_v4().simple());
    ask(url(), &format!("create table {name} as events_raw.order_placed")).await;
    let engine = ask(url(), &format!("select engine_full from system.tables where name = '{name}'")).await;
    let by_itself = "min_age_to_force_merge_seconds = 86400, min_age_to_force_merge_on_partition_only = 1";
    assert!(engine.contains(by_itself), "{engine}");
    ask(url(), &format!("alter table {name} modify setting min_age_to_force_merge_seconds = 1")).await; // for a day
    for _ in 0..3 {
        let rows = "generateUUIDv4(), toString(number), toDateTime64('2026-01-01', 6, 'UTC') from numbers(10)";
        ask(url(), &format!("insert into {name} (event_id, subject, occurred_at) select {rows}")).await;
    }
    let parts = format!("select count(), sum(rows) from system.parts where active and table = '{name}'");
    eventually("one part", async || ask(url(), &parts).await == "1\t30").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rust_client_reads_back_every_byte_that_it_wrote() {
    for compression in [Compression::None, Compression::Lz4] {
        let table = table(LINE_COLUMNS).await;
        let client = Client::default().with_url(url()).with_compression(compression);
        let mut insert = client.insert::<Line>(&table).await.unwrap();
        for line in lines(200_000) {
            insert.write(&line).await.unwrap();
        }
        insert.end().await.unwrap();
        let read: Vec<Line> =
            client.query(&format!("select ?fields from {table} order by id")).fetch_all().await.unwrap();
        assert_eq!(read.len(), 200_000);
        assert!(read.into_iter().eq(lines(200_000)), "a row came back otherwise");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_insert_repeated_under_its_token_inserts_once() {
    let table = table(LINE_COLUMNS).await;
    let client = Client::default().with_url(url());
    for token in ["one", "one", "other", "one"] {
        let mut insert = client.insert::<Line>(&table).await.unwrap().with_setting("insert_deduplication_token", token);
        for line in lines(100) {
            insert.write(&line).await.unwrap();
        }
        insert.end().await.unwrap();
    }
    assert_eq!(ask(url(), &format!("select count() from {table}")).await, "200");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_insert_dropped_halfway_leaves_nothing() {
    let table = table(LINE_COLUMNS).await;
    let mut insert = Client::default().with_url(url()).insert::<Line>(&table).await.unwrap();
    for line in lines(50_000) {
        insert.write(&line).await.unwrap();
    }
    eventually("the insert runs", async || runs(url(), &table).await).await;
    drop(insert);
    eventually("the insert has ended", async || !runs(url(), &table).await).await;
    assert_eq!(ask(url(), &format!("select count() from {table}")).await, "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_has_the_status_the_code_and_the_words_of_a_server() {
    let cases = [
        ("select * from nothing", (404, "60"), "(UNKNOWN_TABLE)"),
        ("selec 1", (400, "62"), "(SYNTAX_ERROR)"),
        ("select * from nowhere.nothing", (404, "81"), "(UNKNOWN_DATABASE)"),
        ("select 1 settings no_such_setting = 1", (404, "115"), "(UNKNOWN_SETTING)"),
        ("select 1 format Nope", (404, "73"), "(UNKNOWN_FORMAT)"),
    ];
    for (sql, refusal, name) in cases {
        let reply = Reply::to(post(url(), &[]).body(sql)).await;
        let text = reply.text();
        assert_eq!(reply.refusal(), refusal, "{sql}: {text}");
        assert!(text.starts_with(&format!("Code: {}. DB::Exception: ", refusal.1)), "{text}");
        assert!(text.contains(&format!("{name} (version ")), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_in_mid_answer_is_marked_and_waiting_for_the_end_makes_it_a_status() {
    let sql = "select throwIf(number = 3000000), number from numbers(10000000)";
    let late = Reply::to(post(url(), &[]).body(sql)).await;
    let (tag, text) = (late.header("x-clickhouse-exception-tag"), late.text());
    assert_eq!(late.status, 200);
    let (data, marked) = text.split_once(&format!("\r\n__exception__\r\n{tag}\r\n")).expect("no mark in the answer");
    assert!(data.lines().all(|line| line.starts_with("0\t")), "what is before the mark is data");
    assert!(marked.starts_with("Code: 395. DB::Exception: "), "{marked}");
    assert!(marked.ends_with(&format!(" {tag}\r\n__exception__\r\n")), "{marked}");
    let whole = Reply::to(post(url(), &[("wait_end_of_query", "1")]).body(sql)).await;
    assert_eq!(whole.refusal(), (500, "395"));
    assert!(whole.text().starts_with("Code: 395. DB::Exception: "), "{}", whole.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_ends_its_query() {
    let silent = "sleepEachRow(0.5) from numbers(1000000) settings max_block_size = 1";
    for endless in ["number from system.numbers", silent] {
        let word = uuid::Uuid::new_v4().simple().to_string();
        let request = post(url(), &[]).body(format!("select '{word}', {endless}"));
        let reading = tokio::spawn(async move {
            let mut answer = request.send().await.unwrap();
            while answer.chunk().await.unwrap().is_some() {}
        });
        eventually("the query runs", async || runs(url(), &word).await).await;
        assert!(!reading.is_finished());
        reading.abort();
        eventually("the query has ended", async || !runs(url(), &word).await).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_reader_changes_nothing_and_get_changes_nothing() {
    let table = table("id UInt64").await;
    let changes = [
        format!("insert into {table} values (1)"),
        format!("insert into {table} format TSV\n1\n"),
        format!("drop table {table}"),
        "create table default.by_reader (id UInt64) engine = Memory".to_owned(),
        "set max_threads = 1".to_owned(),
        "select 1 settings max_threads = 1".to_owned(),
    ];
    for sql in changes {
        let reply = Reply::to(post(url(), &[("user", "reader")]).body(sql.clone())).await;
        assert_eq!(reply.refusal().1, "164", "{sql}: {}", reply.text());
    }
    let create = [("query", "create table default.by_get (id UInt64) engine = Memory")];
    let by_get = Reply::to(reqwest::Client::new().get(url()).query(&create)).await;
    assert_eq!(by_get.refusal().1, "164", "{}", by_get.text());
    let count = Reply::to(post(url(), &[("user", "reader")]).body(format!("select count() from {table}"))).await;
    assert_eq!((count.status, count.text().as_str()), (200, "0\n"));
    assert_eq!(ask(url(), "select count() from system.tables where name like 'by\\_%'").await, "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_says_its_query_parameters_settings_and_id_and_the_answer_what_was_done() {
    let query = "select {text:String} as text, arraySum({list:Array(UInt8)}) as sum, getSetting('max_threads') as ";
    let parameters = [
        ("query", query),
        ("param_text", "it's"),
        ("param_list", "[40,2]"),
        ("max_threads", "3"),
        ("query_id", "it-engine"),
        ("default_format", "JSONEachRow"),
    ];
    let reply = Reply::to(post(url(), &parameters).body("threads, count() as rows from numbers(1000)")).await;
    let row: serde_json::Value = serde_json::from_slice(&reply.body).unwrap_or_else(|_| panic!("{}", reply.text()));
    assert_eq!(row, serde_json::json!({ "text": "it's", "sum": 42, "threads": 3, "rows": 1000 }));
    assert_eq!(reply.header("x-clickhouse-query-id"), "it-engine");
    assert_eq!(reply.header("x-clickhouse-format"), "JSONEachRow");
    let summary: serde_json::Value = serde_json::from_str(reply.header("x-clickhouse-summary")).unwrap();
    assert_eq!((&summary["read_rows"], &summary["result_rows"]), (&"1000".into(), &"1".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_go_out_and_come_in_packed_and_in_every_format() {
    let columns = "id UInt64, text String, amount Nullable(Int32), list Array(String), at DateTime64(6, 'UTC')";
    let select = "select number as id, concat('x,\\n\\t\\0\\'\"', toString(number)) as text, \
                  if(number % 3 = 0, null, toInt32(number)) as amount, [text, ''] as list, \
                  toDateTime64('2026-03-01 12:00:00', 6, 'UTC') + id as at from numbers(1000)";
    let sum = "count(), sum(cityHash64(id, text, ifNull(amount, -1), list, at))";
    let expected = ask(url(), &format!("select {sum} from ({select})")).await;
    for (format, packing) in
        [("JSONEachRow", "gzip"), ("CSV", "zstd"), ("Native", "gzip"), ("Parquet", "zstd"), ("RowBinary", "gzip")]
    {
        let out = post(url(), &[]).header("accept-encoding", packing).body(format!("{select} format {format}"));
        let out = Reply::to(out).await;
        assert_eq!((out.status, out.header("content-encoding")), (200, packing));
        let table = table(columns).await;
        let insert = post(url(), &[("query", &format!("insert into {table} format {format}"))]);
        let repacked = pack(packing, &unpack(packing, &out.body)); // by this side's own library
        let reply = Reply::to(insert.header("content-encoding", packing).body(repacked)).await;
        assert_eq!(reply.status, 200, "{format}: {}", reply.text());
        assert_eq!(ask(url(), &format!("select {sum} from {table}")).await, expected, "{format}");
    }
}

fn unpack(packing: &str, bytes: &[u8]) -> Vec<u8> {
    let mut unpacked = Vec::new();
    match packing {
        "gzip" => flate2::read::MultiGzDecoder::new(bytes).read_to_end(&mut unpacked).unwrap(),
        _ => zstd::Decoder::new(bytes).unwrap().read_to_end(&mut unpacked).unwrap(),
    };
    unpacked
}

fn pack(packing: &str, bytes: &[u8]) -> Vec<u8> {
    match packing {
        "gzip" => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        }
        _ => zstd::encode_all(bytes, 1).unwrap(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_reads_while_many_write_sees_whole_inserts_only() {
    const INSERTERS: u64 = 16;
    const INSERTS: u64 = 10;
    const ROWS: u64 = 500;
    let table = table("id UInt64").await;
    let mut writing = tokio::task::JoinSet::new();
    for inserter in 0..INSERTERS {
        let table = table.clone();
        writing.spawn(async move {
            for insert in 0..INSERTS {
                let first = (inserter * INSERTS + insert) * ROWS;
                let rows: String = (first..first + ROWS).map(|id| format!("{id}\n")).collect();
                ask(url(), &format!("insert into {table} format TSV\n{rows}")).await;
            }
        });
    }
    let count = format!("select count() % {ROWS}, count() - uniqExact(id), count() from {table}");
    let mut looks = 0;
    while !writing.is_empty() {
        assert!(ask(url(), &count).await.starts_with("0\t0\t"), "half an insert was seen");
        looks += 1;
        while let Some(written) = writing.try_join_next() {
            written.unwrap();
        }
    }
    assert!(looks > 1, "nobody looked while they wrote");
    assert_eq!(ask(url(), &count).await, format!("0\t0\t{}", INSERTERS * INSERTS * ROWS));
}
