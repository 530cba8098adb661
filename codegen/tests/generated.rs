//! Types made of a contract that has a field of each kind: they compile, and what they write is what the gateway takes.
//! (A test in src/lib.rs sees to it that `generated/events.rs` is what is made of it.)

#![allow(clippy::unwrap_used, reason = "a test that can't go on panics")]

use chrono::{DateTime, NaiveDate, Utc};
use millrace_client::Event;
use millrace_client::avro::{Bytes, Decimal, Fixed};
use millrace_schemas::{Contracts, JsonPlan, WriterSchema, value_to_json};
use serde_json::json;
use std::collections::BTreeMap;
use std::path::Path;
use uuid::Uuid;

mod events {
    include!("generated/events.rs");
}

use events::thing_made::{Colour, Part, Piece, Spare, ThingMade};
use events::thing_named;

const CONTRACTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/generated/contracts");

fn made() -> ThingMade {
    let at: DateTime<Utc> = "2026-03-04T05:06:07.123456Z".parse().unwrap();
    ThingMade {
        thing_id: Uuid::from_u128(1),
        made_at: at.into(),
        made_on: NaiveDate::from_ymd_opt(1999, 12, 31).unwrap().into(),
        price: Decimal(-123_456),
        tax: Decimal(19),
        digest: Fixed([0, 127, 128, 255]),
        photo: Bytes(vec![0, 255, b'"']),
        best: Part { r#type: "bolt".into(), weight: 1.5, colour: Colour::self_ },
        pieces: vec![Piece { size: 3 }, Piece { size: i32::MIN }],
        shelves: BTreeMap::from([("a \"ÿ\"".to_owned(), vec![Some(i64::MIN), None])]),
        of: Some(Uuid::from_u128(2)),
        seen_at: None,
        spare: Some(Spare { count: 2 }),
        is_good: true,
        ratio: 0.25,
        self_: "itself".into(),
    }
}

/// As the gateway takes it, and a consumer finds it.
fn published<E: Event>(event: &E) -> serde_json::Value {
    let contracts = Contracts::load(Path::new(CONTRACTS)).unwrap();
    let contract = contracts.get(E::TYPE).unwrap();
    let plan = JsonPlan::compile(contract.newest(), &contract.key, 1 << 20).unwrap();
    let mut datum = Vec::new();
    plan.encode(&serde_json::to_string(event).unwrap(), &mut datum).unwrap();
    let schema = WriterSchema::parse(1, &contract.newest().text).unwrap();
    value_to_json(schema.schema, &schema.decode(&datum).unwrap())
}

/// The numbers by Python: `(-123456).to_bytes(3, "big", signed=True)` and so on.
#[test]
fn what_they_write_is_what_the_contract_says() {
    let expected = json!({
        "thing_id": "00000000-0000-0000-0000-000000000001",
        "made_at": 1_772_600_767_123_456_i64,
        "made_on": 10_956,
        "price": "\u{fe}\u{1d}\u{c0}",
        "tax": "\0\0\0\0\0\0\0\u{13}",
        "digest": "\0\u{7f}\u{80}\u{ff}",
        "photo": "\0\u{ff}\"",
        "best": { "type": "bolt", "weight": 1.5, "colour": "self" },
        "pieces": [{ "size": 3 }, { "size": i32::MIN }],
        "shelves": { "a \"ÿ\"": [{ "long": i64::MIN }, null] },
        "of": { "string": "00000000-0000-0000-0000-000000000002" },
        "seen_at": null,
        "spare": { "shop.thing.Spare": { "count": 2 } },
        "is_good": true,
        "ratio": 0.25,
        "self": "itself",
    });
    assert_eq!(published(&made()), expected);
}

#[test]
fn types_whose_names_rust_has_for_its_own_hide_none_of_them() {
    let named = thing_named::Self_ {
        thing_id: Uuid::from_u128(1),
        option: Some(thing_named::Option { label: "a".into() }),
        vec: vec![thing_named::Vec { x: Some(1) }],
        string: thing_named::String::THREAD,
        labels: BTreeMap::from([("b".to_owned(), "c".to_owned())]),
        kind: thing_named::r#type::GOOD,
    };
    let expected = json!({
        "thing_id": "00000000-0000-0000-0000-000000000001",
        "option": { "shop.thing.Option": { "label": "a" } },
        "vec": [{ "x": { "int": 1 } }],
        "string": "THREAD",
        "labels": { "b": "c" },
        "kind": "GOOD",
    });
    assert_eq!(published(&named), expected);
}
