//! Blocks of generated contracts and values, judged by the engine: it reads what the encoder's own tests read, and what
//! the `clickhouse` crate writes of the same events.

#[allow(dead_code, reason = "the encoder's own tests use more of it")]
#[path = "../../processors/src/clickhouse/native/tests/generated.rs"]
mod generated;
#[allow(dead_code, reason = "the encoder's own tests use more of it")]
#[path = "../../processors/src/clickhouse/native/tests/reading.rs"]
mod reading;
mod typed;

use crate::platform::Platform;
use apache_avro::Schema;
use chrono::DateTime;
use generated::Generator;
use millrace_processors::clickhouse::Table;
use millrace_processors::clickhouse::native::{Columns, Origin, Plan};
use millrace_schemas::{Contracts, Envelope, WriterSchema};
use millrace_stream::Position;
use rand::RngExt;
use reading::Type;
use std::collections::BTreeSet;
use typed::Row;
use uuid::Uuid;

const ROUNDS: u64 = 60;
const ROWS: i64 = 40;
/// By then every kind was there: the rarest is in every seventh contract.
const ROUNDS_MAX: u64 = 300;
/// Behind a contract's own columns each table has these: envelope and lineage.
const OF_EVERY_TABLE: usize = 10;
/// What contracts' columns' types are made of.
const KINDS: &str = "Bool Int32 Int64 Float32 Float64 String UUID Date32 DateTime64(3 DateTime64(6 Decimal LowCardinality \
                     Nullable Array Map";

#[tokio::test(flavor = "multi_thread")]
async fn the_engine_reads_of_any_block_what_the_encoders_judge_reads() {
    let seed = seed();
    let platform = Platform::start().await;
    let engine = &Engine::at(&platform.addresses().clickhouse);
    let (mut rows, mut blocks) = (0, 0);
    for round in 0..ROUNDS {
        let Some(Block { bytes, .. }) = generated(&mut Generator::new(seed.wrapping_add(round))) else { continue };
        let (columns, expected) = reading::native(&bytes);
        let types: Vec<_> = columns.iter().map(|(_, text)| Type::parse(text)).collect();
        create(engine, &format!("b{round}"), &columns).await;
        ask(engine, &format!("insert into default.b{round} format Native"), bytes).await;
        let found = ask(engine, &format!("select * from default.b{round} format RowBinary"), Vec::new()).await;
        let found = reading::row_binary(&types, &found);
        assert_eq!(found.len(), expected.len(), "round {round}");
        for (row, (found, expected)) in found.iter().zip(&expected).enumerate() {
            let differs = (0..columns.len()).find(|at| found[*at] != expected[*at]);
            let differs = differs.map(|at| format!("{:?}: {:?}, not {:?}", columns[at], found[at], expected[at]));
            assert_eq!(differs, None, "round {round}, row {row}");
        }
        rows += found.len();
        blocks += 1;
    }
    println!("{blocks} blocks, {rows} rows");
    assert!(blocks > 20 && rows > 400, "the generator makes too little that fits: {blocks} blocks, {rows} rows");
    platform.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_engine_stores_of_any_block_what_the_clickhouse_crate_inserts_of_the_same_events() {
    let seed = seed();
    let platform = Platform::start().await;
    let engine = &Engine::at(&platform.addresses().clickhouse);
    let (mut rows, mut blocks, mut types) = (0, 0, BTreeSet::new());
    let never =
        |types: &BTreeSet<String>| KINDS.split_whitespace().find(|kind| !types.iter().any(|of| of.contains(kind)));
    for round in 0..ROUNDS_MAX {
        if round >= ROUNDS / 2 && never(&types).is_none() {
            break;
        }
        let Some(block) = generated(&mut Generator::new(seed.wrapping_add(round))) else { continue };
        types.extend(assert_same(engine, &format!("of_round_{round}"), &block).await);
        rows += block.rows.len();
        blocks += 1;
    }
    println!("{blocks} blocks, {rows} rows, {} types of columns", types.len());
    assert_eq!(never(&types), None, "was never generated");
    assert!(blocks > 10 && rows > 200, "the generator makes too little that fits: {blocks} blocks, {rows} rows");
    let mut generator = Generator::new(seed);
    for contract in Contracts::embedded().unwrap().iter() {
        let text = &contract.newest().text;
        let block = block(&mut generator, text, text, Generator::sound_value).expect("sound values");
        assert_same(engine, &contract.table(), &block).await;
    }
    platform.stop().await;
}

struct Engine {
    url: String,
    http: reqwest::Client,
    client: clickhouse::Client,
}

impl Engine {
    fn at(url: &str) -> Self {
        let client = clickhouse::Client::default().with_url(url);
        Self { url: url.to_owned(), http: reqwest::Client::new(), client }
    }
}

fn seed() -> u64 {
    let seed: u64 = std::env::var("MILLRACE_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random);
    println!("seed {seed}");
    seed
}

/// Events that fit their table: as our block, and in the crate's types.
struct Block {
    bytes: Vec<u8>,
    rows: Vec<Row>,
}

/// Of a contract, a writer and values; none where they do not go together.
fn generated(generator: &mut Generator) -> Option<Block> {
    let (contract, writer) = generator.schemas();
    block(generator, &contract, &writer, Generator::value)
}

fn block(
    generator: &mut Generator,
    contract: &str,
    writer: &str,
    value: impl Fn(&mut Generator, &Schema) -> apache_avro::types::Value,
) -> Option<Block> {
    let contract = Schema::parse_str(contract).unwrap();
    let table = Table::from_schema("b", "", &contract).ok()?;
    let writer = WriterSchema::parse(7, writer).ok()?;
    let (plan, mut columns, mut rows) = (Plan::compile(&writer, &table).ok()?, Columns::new(&table), Vec::new());
    for offset in 0..ROWS {
        let (value, mut datum) = (value(generator, writer.schema), Vec::new());
        writer.encode_value(&value, &mut datum).unwrap();
        let (envelope, position) = origin(generator, offset);
        if plan.append(&datum, &Origin::of(&envelope, &position), &mut columns).is_ok() {
            rows.push(Row::of(&contract, &value, &envelope, &position, writer.id));
        }
    }
    let mut bytes = Vec::new();
    columns.finish(&mut bytes);
    (columns.rows() > 0).then_some(Block { bytes, rows })
}

/// An envelope and a position that differ from offset to offset.
fn origin(generator: &mut Generator, offset: i64) -> (Envelope<'static>, Position) {
    let mut envelope = Envelope::new(["/shop", "", "/é"][offset as usize % 3], "a.b", &format!("o-{offset}"));
    envelope.id = Uuid::from_u128(generator.rng.random());
    envelope.occurred_at = DateTime::from_timestamp_micros(offset * 1_000_003).unwrap();
    envelope.recorded_at = (offset % 2 == 0).then_some(envelope.occurred_at);
    envelope.traceparent = (offset % 5 == 0).then(|| format!("00-{offset:032x}-00f067aa0ba902b7-01").into());
    (envelope, Position { topic: "shop.thing.v1".into(), partition: 3, offset })
}

/// Inserts both, has the engine compare them, and returns the types of the contract's columns.
async fn assert_same(engine: &Engine, name: &str, block: &Block) -> BTreeSet<String> {
    let (columns, _) = reading::native(&block.bytes);
    create(engine, &format!("ours_{name}"), &columns).await;
    ask(engine, &format!("insert into default.ours_{name} format Native"), block.bytes.clone()).await;
    let types: Vec<_> = columns.iter().map(|(_, of)| of.as_str()).collect();
    let row = [("row".to_owned(), format!("Tuple({})", types.join(", ")))];
    create(engine, &format!("theirs_{name}"), &row).await;
    let inserted = insert(engine, &format!("theirs_{name}"), &block.rows).await;
    inserted.unwrap_or_else(|error| panic!("{name}: {error}"));
    let ours = format!("select * from default.ours_{name}");
    let theirs = format!("select untuple(row) from default.theirs_{name}");
    assert_eq!([only_in(engine, &ours, &theirs).await, only_in(engine, &theirs, &ours).await], ["", ""], "{name}");
    let (ours, theirs) = (summed(engine, &ours).await, summed(engine, &theirs).await);
    assert!(ours == theirs && ours.starts_with(&format!("{}\t", block.rows.len())), "{name}: {ours}, {theirs}");
    types[..types.len() - OF_EVERY_TABLE].iter().map(|of| (*of).to_owned()).collect()
}

/// The rows that one of them finds and the other does not.
async fn only_in(engine: &Engine, one: &str, other: &str) -> String {
    let sql = format!("{one} except {other} format Vertical");
    String::from_utf8_lossy(&ask(engine, &sql, Vec::new()).await).into_owned()
}

/// How many rows it finds, and what all their bytes amount to.
async fn summed(engine: &Engine, select: &str) -> String {
    let sql = format!("select count(), sum(sipHash64(formatRow('RowBinary', *))) from ({select})");
    String::from_utf8(ask(engine, &sql, Vec::new()).await).unwrap()
}

async fn create(engine: &Engine, table: &str, columns: &[(String, String)]) {
    let columns: Vec<_> = columns.iter().map(|(name, of)| format!("`{name}` {of}")).collect();
    ask(engine, &format!("create table default.{table} ({}) engine = Memory", columns.join(", ")), Vec::new()).await;
}

/// As RowBinary, each value held against the type of its column.
async fn insert(engine: &Engine, table: &str, rows: &[Row]) -> clickhouse::error::Result<()> {
    let mut insert = engine.client.insert::<Row>(table).await?;
    for row in rows {
        insert.write(row).await?;
    }
    insert.end().await
}

async fn ask(engine: &Engine, sql: &str, body: Vec<u8>) -> Vec<u8> {
    let answer = engine.http.post(&engine.url).query(&[("query", sql)]).body(body).send().await.unwrap();
    let (status, bytes) = (answer.status(), answer.bytes().await.unwrap());
    assert!(status.is_success(), "{sql}: {}", String::from_utf8_lossy(&bytes));
    bytes.to_vec()
}
