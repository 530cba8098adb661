//! Blocks of generated contracts and values, judged by the engine: it reads what the encoder's own tests read.

#[allow(dead_code, reason = "the encoder's own tests use more of it")]
#[path = "../../processors/src/clickhouse/native/tests/generated.rs"]
mod generated;
#[allow(dead_code, reason = "the encoder's own tests use more of it")]
#[path = "../../processors/src/clickhouse/native/tests/reading.rs"]
mod reading;

use crate::platform::Platform;
use apache_avro::Schema;
use generated::Generator;
use millrace_processors::clickhouse::Table;
use millrace_processors::clickhouse::native::{Columns, Origin, Plan};
use millrace_schemas::{Envelope, WriterSchema};
use millrace_stream::Position;
use reading::Type;

const ROUNDS: u64 = 60;
const ROWS: i64 = 40;

#[tokio::test(flavor = "multi_thread")]
async fn the_engine_reads_of_any_block_what_the_encoders_judge_reads() {
    let seed: u64 = std::env::var("MILLRACE_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random);
    println!("seed {seed}");
    let platform = Platform::start().await;
    let url = &platform.addresses().clickhouse;
    let (mut rows, mut blocks) = (0, 0);
    for round in 0..ROUNDS {
        let Some(block) = block(&mut Generator::new(seed.wrapping_add(round))) else { continue };
        let (columns, expected) = reading::native(&block);
        let types: Vec<_> = columns.iter().map(|(_, text)| Type::parse(text)).collect();
        let columns: Vec<_> = columns.iter().map(|(name, of)| format!("`{name}` {of}")).collect();
        ask(url, &format!("create table default.b{round} ({}) engine = Memory", columns.join(", ")), Vec::new()).await;
        ask(url, &format!("insert into default.b{round} format Native"), block).await;
        let found = ask(url, &format!("select * from default.b{round} format RowBinary"), Vec::new()).await;
        let found = reading::row_binary(&types, &found);
        assert_eq!(found.len(), expected.len(), "round {round}");
        for (row, (found, expected)) in found.iter().zip(&expected).enumerate() {
            let differs = (0..columns.len()).find(|at| found[*at] != expected[*at]);
            let differs = differs.map(|at| format!("{}: {:?}, not {:?}", columns[at], found[at], expected[at]));
            assert_eq!(differs, None, "round {round}, row {row}");
        }
        rows += found.len();
        blocks += 1;
    }
    println!("{blocks} blocks, {rows} rows");
    assert!(blocks > 20 && rows > 400, "the generator makes too little that fits: {blocks} blocks, {rows} rows");
    platform.stop().await;
}

/// Of a contract, a writer and values; none where they do not go together.
fn block(generator: &mut Generator) -> Option<Vec<u8>> {
    let (contract, writer) = generator.schemas();
    let table = Table::from_schema("b", "", &Schema::parse_str(&contract).unwrap()).ok()?;
    let writer = WriterSchema::parse(7, &writer).ok()?;
    let (plan, mut columns) = (Plan::compile(&writer, &table).ok()?, Columns::new(&table));
    for offset in 0..ROWS {
        let mut datum = Vec::new();
        writer.encode_value(&generator.value(writer.schema), &mut datum).unwrap();
        let envelope = Envelope::new("/shop", "a.b", &format!("o-{offset}"));
        let position = Position { topic: "shop.thing.v1".into(), partition: 3, offset };
        let _refused = plan.append(&datum, &Origin::of(&envelope, &position), &mut columns);
    }
    let mut block = Vec::new();
    columns.finish(&mut block);
    (columns.rows() > 0).then_some(block)
}

async fn ask(url: &str, sql: &str, body: Vec<u8>) -> Vec<u8> {
    let answer = reqwest::Client::new().post(url).query(&[("query", sql)]).body(body).send().await.unwrap();
    let (status, bytes) = (answer.status(), answer.bytes().await.unwrap());
    assert!(status.is_success(), "{sql}: {}", String::from_utf8_lossy(&bytes));
    bytes.to_vec()
}
