//! What one event costs the gateway between its JSON and a validated datum, and what the value tree would.
//!
//! `cargo bench -p millrace-schemas --bench transcode`. The goal is under 2 µs for an order of 500 bytes.

#![allow(clippy::unwrap_used, reason = "a bench that cannot begin should say so and end")]

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use millrace_schemas::{Contracts, JsonPlan, WriterSchema, value_from_json, value_to_json};
use serde_json::json;
use std::hint::black_box;

/// An order of three lines, 500 bytes, as a service writes it: unions without tags.
fn order() -> String {
    let line = |last: u8| json!({ "product_id": format!("0198c0d4-1f6a-7b3e-8d27-5ac94e10b7f{last}"), "quantity": 2, "unit_price": 4491 });
    let order = json!({
        "order_id": "019ab523-41c9-7e6f-b2d4-8a7c05e19f3b", "user_id": "019a8f3c-5d21-7c44-9b0e-3f6a1d2c7e58",
        "session_id": "019ab51d-7e42-7d1b-a6c8-90f2b7e3c415", "lines": [line(1), line(2), line(3)],
        "total": 26946, "currency": "EUR", "coupon": "WELCOME10-FOR-THE-FIRST-ORDER-OF-2026",
    });
    order.to_string()
}

fn transcode(criterion: &mut Criterion) {
    let contract = Contracts::embedded().unwrap().get("order.placed").unwrap().clone();
    let plan = JsonPlan::compile(contract.newest(), &contract.key, 1 << 20).unwrap();
    let writer = WriterSchema::parse(7, &contract.newest().text).unwrap();
    let (order, tagged) = (order(), tagged());
    let mut group = criterion.benchmark_group(format!("order.placed, {} bytes", order.len()));
    group.throughput(Throughput::Elements(1));
    let mut datum = Vec::new();
    group.bench_function("one pass", |bencher| {
        bencher.iter(|| {
            datum.clear();
            plan.encode(black_box(&order), &mut datum).unwrap()
        });
    });
    let reversed = reversed(&order);
    group.bench_function("one pass, fields in the reverse order", |bencher| {
        bencher.iter(|| {
            datum.clear();
            plan.encode(black_box(&reversed), &mut datum).unwrap()
        });
    });
    group.bench_function("a value tree, validated and written", |bencher| {
        bencher.iter(|| {
            datum.clear();
            let json = serde_json::from_str(black_box(&tagged)).unwrap();
            writer.encode_value(&value_from_json(writer.schema, &json).unwrap(), &mut datum).unwrap();
        });
    });
    let sent = datum_of(&plan, &order);
    // As the gateway's `key_of` does: the plan's violations need JSON, and the datum itself is what is kept.
    group.bench_function("a datum of Avro: read, written as JSON, one pass over that", |bencher| {
        bencher.iter(|| {
            datum.clear();
            let value = writer.decode(black_box(&sent)).unwrap();
            plan.encode(&value_to_json(writer.schema, &value).to_string(), &mut Vec::new()).unwrap();
            datum.extend_from_slice(&sent);
        });
    });
    group.bench_function("serde_json to a value tree, dropped at once", |bencher| {
        bencher.iter(|| drop(serde_json::from_str::<serde_json::Value>(black_box(&order)).unwrap()));
    });
    group.finish();
}

fn datum_of(plan: &JsonPlan, order: &str) -> Vec<u8> {
    let mut datum = Vec::new();
    plan.encode(order, &mut datum).unwrap();
    datum
}

/// The same order for who knows unions only with tags.
fn tagged() -> String {
    let mut order: serde_json::Value = serde_json::from_str(&order()).unwrap();
    for field in ["session_id", "coupon"] {
        order[field] = json!({ "string": order[field].take() });
    }
    order.to_string()
}

fn reversed(order: &str) -> String {
    let order: serde_json::Map<String, serde_json::Value> = serde_json::from_str(order).unwrap();
    serde_json::Value::Object(order.into_iter().rev().collect()).to_string()
}

criterion_group!(benches, transcode);
criterion_main!(benches);
