//! How many order.placed one core turns into a Native block in a second, and what a value tree alone would cost.
//!
//! `cargo bench -p millrace-processors --bench encoder`. The goal is a million.

#![allow(clippy::unwrap_used, reason = "a bench that cannot begin should say so and end")]

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use millrace_processors::clickhouse::Table;
use millrace_processors::clickhouse::native::{Columns, Origin, Plan, hash};
use millrace_schemas::{Contracts, Envelope, WriterSchema, value_from_json};
use millrace_stream::Position;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::json;
use std::hint::black_box;
use uuid::Uuid;

/// Rows of a block, as a busy partition fills one.
const ROWS: usize = 10_000;

struct Order {
    datum: Vec<u8>,
    envelope: Envelope<'static>,
    position: Position,
}

/// Orders of three lines, as the simulator's customers place them: no two alike.
fn orders(writer: &WriterSchema) -> Vec<Order> {
    let mut rng = StdRng::seed_from_u64(1);
    (0..ROWS).map(|offset| order(writer, &mut rng, offset as i64)).collect()
}

fn order(writer: &WriterSchema, rng: &mut StdRng, offset: i64) -> Order {
    let mut id = || Uuid::from_u128(rng.random()).to_string();
    let (order_id, event_id) = (id(), id());
    let lines: Vec<_> = (1..=3)
        .map(|quantity| json!({ "product_id": id(), "quantity": quantity, "unit_price": 1_999 + offset % 7_000 }))
        .collect();
    let (user_id, session_id) = (id(), id());
    let currency = ["EUR", "USD", "GBP"][rng.random_range(0..3)];
    let body = json!({
        "order_id": order_id, "user_id": user_id, "session_id": { "string": session_id }, "lines": lines,
        "total": 10_242 + offset, "currency": currency,
        "coupon": if offset % 4 == 0 { json!({ "string": "WELCOME10" }) } else { json!(null) },
    });
    let mut datum = Vec::new();
    writer.encode_value(&value_from_json(writer.schema, &body).unwrap(), &mut datum).unwrap();
    let mut envelope = Envelope::new("/shop", "order.placed", &order_id);
    envelope.id = event_id.parse().unwrap();
    envelope.recorded_at = Some(envelope.occurred_at);
    envelope.traceparent = Some(format!("00-{}-00f067aa0ba902b7-01", event_id.replace('-', "")).into());
    Order { datum, envelope, position: Position { topic: "shop.order.v1".into(), partition: 3, offset } }
}

fn encoder(criterion: &mut Criterion) {
    let contracts = Contracts::embedded().unwrap();
    let contract = contracts.get("order.placed").unwrap();
    let writer = WriterSchema::parse(7, &contract.newest().text).unwrap();
    let table = Table::of(contract).unwrap();
    let plan = Plan::compile(&writer, &table).unwrap();
    let orders = orders(&writer);
    let (mut columns, mut block) = (Columns::new(&table), Vec::new());
    let fill = |columns: &mut Columns| {
        columns.clear();
        for order in &orders {
            plan.append(&order.datum, &Origin::of(&order.envelope, &order.position), columns).unwrap();
        }
    };
    let mut group = criterion.benchmark_group("order.placed");
    group.throughput(Throughput::Elements(ROWS as u64));
    group.bench_function("columns", |bencher| bencher.iter(|| fill(&mut columns)));
    group.bench_function("columns, block and hash", |bencher| {
        bencher.iter(|| {
            fill(&mut columns);
            block.clear();
            columns.finish(&mut block);
            hash(&block)
        });
    });
    group.bench_function("a value tree, dropped at once", |bencher| {
        bencher.iter(|| orders.iter().for_each(|order| drop(black_box(writer.decode(&order.datum).unwrap()))));
    });
    group.finish();
}

criterion_group!(benches, encoder);
criterion_main!(benches);
