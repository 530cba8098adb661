//! What the encoder promises of its steady state, counted.
#![allow(clippy::unwrap_used, reason = "a test that can't go on panics")]

#[path = "../../schemas/tests/fuzz/counting.rs"]
mod counting;

use counting::allocations;
use millrace_processors::clickhouse::Table;
use millrace_processors::clickhouse::native::{Columns, Origin, Plan};
use millrace_schemas::{Contracts, Envelope, WriterSchema, value_from_json};
use millrace_stream::Position;
use std::sync::Arc;

const ROWS: i64 = 1_000;

/// Those of a block whose columns have held as many before.
#[test]
fn an_event_of_any_type_is_encoded_without_an_allocation() {
    let topic: Arc<str> = "shop.thing.v1".into();
    for contract in Contracts::embedded().unwrap().iter() {
        let writer = WriterSchema::parse(7, &contract.newest().text).unwrap();
        let table = Table::of(contract).unwrap();
        let plan = Plan::compile(&writer, &table).unwrap();
        let mut datum = Vec::new();
        writer.encode_value(&value_from_json(writer.schema, &contract.example).unwrap(), &mut datum).unwrap();
        let mut envelope = Envelope::new("/shop", &contract.event_type, "o-1");
        envelope.recorded_at = Some(envelope.occurred_at);
        envelope.traceparent = Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".into());
        let mut columns = Columns::new(&table);
        let mut fill = || {
            columns.clear();
            for offset in 0..ROWS {
                let position = Position { topic: topic.clone(), partition: 3, offset };
                plan.append(&datum, &Origin::of(&envelope, &position), &mut columns).unwrap();
            }
        };
        let [first, second] = [(); 2].map(|()| allocations(&mut fill));
        assert!(first > 0, "nothing is counted");
        assert_eq!(second, 0, "{}", contract.event_type);
    }
}
