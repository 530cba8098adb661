//! Both encoders side by side: what one accepts, refuses and writes, so does the other.

mod generated;
mod reading;

use super::{Columns, Origin, Plan, Unlisted, hash};
use crate::clickhouse::row::whole;
use crate::clickhouse::table::Table;
use apache_avro::Schema;
use apache_avro::types::Value;
use chrono::DateTime;
use generated::Generator;
use millrace_schemas::bounds::{ARRAY_ITEMS_MAX, MAP_ENTRIES_MAX};
use millrace_schemas::{Contracts, Envelope, WriterSchema, value_from_json};
use millrace_stream::{Position, Reason, Reject};
use rand::RngExt;
use reading::{Cell, Type};
use std::collections::BTreeSet;
use uuid::Uuid;

fn table(contract: &str) -> Result<Table, String> {
    Table::from_schema("r", "", &Schema::parse_str(contract).unwrap())
}

fn record(fields: &str) -> String {
    format!(r#"{{"type": "record", "name": "R", "fields": [{fields}]}}"#)
}

/// An envelope and a position that differ from offset to offset.
fn origin(offset: i64) -> (Envelope<'static>, Position) {
    let mut envelope = Envelope::new(["/shop", "", "/é"][offset as usize % 3], "a.b", &format!("o-{offset}"));
    envelope.id = Uuid::from_u128(offset as u128);
    envelope.occurred_at = DateTime::from_timestamp_micros(offset * 1_000_003).unwrap();
    envelope.recorded_at = (offset % 2 == 0).then_some(envelope.occurred_at);
    envelope.traceparent = (offset % 5 == 0).then(|| format!("00-{offset:032x}-00f067aa0ba902b7-01").into());
    (envelope, Position { topic: "shop.thing.v1".into(), partition: 3, offset })
}

/// As the handler does it by way of values and rows.
fn by_row(plan: &whole::Plan, writer: &WriterSchema, datum: &[u8], offset: i64) -> Result<Vec<u8>, Reject> {
    let (envelope, position) = origin(offset);
    let value = writer.decode(datum).map_err(|error| Reject::new(Reason::Undecodable, error))?;
    plan.row(&BTreeSet::new(), &value, &envelope, &position).map_err(|error| Reject::new(Reason::DoesNotFit, error))
}

fn append(plan: &Plan, datum: &[u8], offset: i64, columns: &mut Columns) -> Result<(), Reject> {
    let (envelope, position) = origin(offset);
    plan.append(datum, &Origin::of(&envelope, &position), columns)
}

fn finished(columns: &Columns) -> Vec<u8> {
    let mut block = Vec::new();
    columns.finish(&mut block);
    block
}

/// One table, a writer for it, and everything appended so far, both ways.
struct Both {
    table: Table,
    writer: WriterSchema,
    row_plan: whole::Plan,
    plan: Plan,
    columns: Columns,
    rows: Vec<Vec<u8>>,
    /// What was accepted.
    datums: Vec<(i64, Vec<u8>)>,
    offset: i64,
}

impl Both {
    /// # Errors
    /// The table's, the writer's, or both plans' common one.
    fn new(contract: &str, writer: &str) -> Result<Self, String> {
        let table = table(contract)?;
        let writer = WriterSchema::parse(7, writer).map_err(|error| error.to_string())?;
        let (row_plan, plan) = (whole::Plan::compile(&writer, &table), Plan::compile(&writer, &table));
        assert_eq!(row_plan.as_ref().err(), plan.as_ref().err());
        let (row_plan, plan, columns) = (row_plan?, plan?, Columns::new(&table));
        Ok(Self { table, writer, row_plan, plan, columns, rows: Vec::new(), datums: Vec::new(), offset: 0 })
    }

    /// True when accepted, by both.
    fn append(&mut self, datum: &[u8]) -> bool {
        self.offset += 1;
        let by_row = by_row(&self.row_plan, &self.writer, datum, self.offset);
        let by_column = append(&self.plan, datum, self.offset, &mut self.columns);
        match (by_row, by_column) {
            (Ok(row), Ok(())) => {
                self.rows.push(row);
                self.datums.push((self.offset, datum.to_vec()));
                true
            }
            (Err(by_row), Err(by_column)) => {
                assert_eq!(comparable(&by_row), comparable(&by_column), "{datum:?}");
                false
            }
            (by_row, by_column) => panic!("by row {by_row:?}, by column {by_column:?}: {datum:?}"),
        }
    }

    fn append_value(&mut self, value: &Value) -> bool {
        let datum = self.encode(value);
        self.append(&datum)
    }

    fn encode(&self, value: &Value) -> Vec<u8> {
        let mut datum = Vec::new();
        self.writer.encode_value(value, &mut datum).unwrap();
        datum
    }

    /// The block says what the rows say, value by value, and its columns are the table's.
    fn assert_equal(&self) {
        let block = finished(&self.columns);
        let (columns, rows) = reading::native(&block);
        let expected: Vec<_> =
            self.table.insert_columns().map(|column| (column.name.clone(), column.type_name.clone())).collect();
        assert_eq!(columns, expected);
        let types: Vec<_> = columns.iter().map(|(_, text)| Type::parse(text)).collect();
        let expected = reading::row_binary(&types, &self.rows.concat());
        assert_eq!((rows.len(), expected.len()), (self.rows.len(), self.rows.len()));
        for (row, expected) in rows.iter().zip(&expected) {
            let of_column =
                |at: usize| format!("{}: {:?} by row, {:?} by column", columns[at].0, expected[at], row[at]);
            let differs = (0..columns.len()).find(|at| row[*at] != expected[*at]).map(of_column);
            assert_eq!(differs, None);
        }
    }

    /// What was refused left nothing, and what is selected is as if it were alone.
    fn assert_clean(&mut self, keep: impl Fn(usize) -> bool) {
        let block = finished(&self.columns);
        assert_eq!(finished(&self.columns.select(|_| true)), block);
        let selected = finished(&self.columns.select(&keep));
        let (mut again, mut fresh) = (std::mem::replace(&mut self.columns, Columns::new(&self.table)), 0);
        again.clear();
        for (at, (offset, datum)) in self.datums.iter().enumerate() {
            append(&self.plan, datum, *offset, &mut again).unwrap();
            if keep(at) {
                append(&self.plan, datum, *offset, &mut self.columns).unwrap();
                fresh += 1;
            }
        }
        assert_eq!(finished(&again), block, "in the same buffers");
        assert_eq!((finished(&self.columns), self.columns.rows()), (selected, fresh));
    }
}

/// What both must say alike: all of it, but for the codec's own words on broken values.
fn comparable(reject: &Reject) -> (Reason, &str) {
    match reject.error.split_once(": ") {
        Some((start, _)) if start.starts_with("the value does not follow") => (reject.reason, start),
        _ => (reject.reason, &reject.error),
    }
}

#[test]
fn both_encoders_agree_on_generated_schemas_values_and_broken_bytes() {
    let seed: u64 = std::env::var("MILLRACE_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random);
    println!("seed {seed}");
    let (mut accepted, mut refused, mut impossible) = (0, 0, 0);
    for round in 0..300 {
        let mut generator = Generator::new(seed.wrapping_add(round));
        let (contract, writer) = generator.schemas();
        println!("round {round}: {contract} written as {writer}");
        let Ok(mut both) = Both::new(&contract, &writer) else {
            impossible += 1;
            continue;
        };
        for _ in 0..20 {
            let datum = both.encode(&generator.value(both.writer.schema));
            let mut count = |accepts: bool| if accepts { accepted += 1 } else { refused += 1 };
            count(both.append(&datum));
            (0..4).for_each(|_| count(both.append(&generator.mutated(&datum))));
        }
        both.assert_equal();
        let every = generator.rng.random_range(1..5);
        both.assert_clean(|at| at % every == 0);
    }
    println!("{accepted} accepted, {refused} refused, {impossible} contracts or writers that cannot be");
    assert!(accepted > 2_000 && refused > 2_000 && impossible < 150, "the generator makes too much of one kind");
}

#[test]
fn symbols_that_the_contract_does_not_list_are_named_and_counted() {
    let states = |symbols: &str| {
        let state = format!(r#"{{"type": "enum", "name": "E", "symbols": [{symbols}], "default": "U"}}"#);
        record(&format!(
            r#"{{"name": "seen", "type": {{"type": "array", "items": {state}}}}}, {{"name": "n", "type": "E"}}"#
        ))
    };
    let mut both = Both::new(&states(r#""U", "A""#), &states(r#""U", "NEW", "A", "TOO""#)).unwrap();
    let named = |column: &str| Unlisted {
        column: column.into(),
        symbols: vec!["NEW".into(), "TOO".into()],
        default: "U".into(),
    };
    assert_eq!(both.plan.unlisted(), [named("seen"), named("n")]);
    let symbol = |at: usize| Value::Enum(at as u32, ["U", "NEW", "A", "TOO"][at].into());
    for (seen, n) in [(vec![0, 2], 2), (vec![1, 3, 1], 0), (vec![], 3)] {
        let seen = seen.into_iter().map(symbol).collect();
        let value = Value::Record(vec![("seen".into(), Value::Array(seen)), ("n".into(), symbol(n))]);
        assert!(both.append_value(&value));
    }
    both.assert_equal();
    assert_eq!(both.columns.unlisted(), 4);
    let cut =
        both.encode(&Value::Record(vec![("seen".into(), Value::Array(vec![symbol(1)])), ("n".into(), symbol(1))]));
    assert!(!both.append(&cut[..cut.len() - 1]));
    assert_eq!(both.columns.unlisted(), 4, "what is refused does not count");
}

#[test]
fn every_contract_of_the_reference_domain_is_encoded_alike() {
    for contract in Contracts::embedded().unwrap().iter() {
        let text = &contract.newest().text;
        let mut both = Both::new(text, text).unwrap();
        let example = value_from_json(both.writer.schema, &contract.example).unwrap();
        let mut generator = Generator::new(1);
        assert!(both.append_value(&example), "{}", contract.event_type);
        for _ in 0..50 {
            both.append_value(&generator.value(both.writer.schema));
        }
        let datum = both.encode(&example);
        for _ in 0..200 {
            both.append(&generator.mutated(&datum));
        }
        (0..datum.len()).for_each(|end| assert!(!both.append(&datum[..end]), "cut at {end}"));
        both.assert_equal();
        both.assert_clean(|at| at % 3 != 1);
    }
}

#[test]
fn a_block_is_what_the_server_reads() {
    let schema = record(
        r#"{"name": "few", "type": ["null", "string"], "low_cardinality": true}, {"name": "n", "type": ["null", "int"]},
           {"name": "lines", "type": {"type": "array", "items": {"type": "record", "name": "L", "fields": [
               {"name": "text", "type": "string"}, {"name": "by", "type": {"type": "map", "values": "boolean"}}]}}}"#,
    );
    let mut both = Both::new(&schema, &schema).unwrap();
    // "a", 5, one line of "x" with k: true; then null, null and no lines.
    assert!(both.append(b"\x02\x02a\x02\x0a\x02\x02x\x02\x02k\x01\x00\x00") && both.append(b"\x00\x00\x00"));
    let block = finished(&both.columns);
    let long = |number: u64| number.to_le_bytes().to_vec();
    let expected: [&[u8]; 7] = [
        b"\x0e\x02\x03few\x20LowCardinality(Nullable(String))",
        &[long(1), long(0x600), long(2), b"\0\x01a".to_vec(), long(2), vec![1, 0]].concat(),
        b"\x01n\x0fNullable(Int32)\x00\x01\x05\0\0\0\0\0\0\0\x0alines.text\x0dArray(String)",
        &[long(1), long(1), b"\x01x\x08lines.by\x18Array(Map(String, Bool))".to_vec()].concat(),
        &[long(1), long(1)].concat(),
        &[long(1), b"\x01k\x01".to_vec()].concat(),
        b"\x08event_id\x04UUID",
    ];
    assert_eq!(block[..expected.concat().len()], expected.concat());
}

#[test]
fn two_hundred_fields_of_all_kinds_pass_through() {
    let kinds = [
        r#""long""#,
        r#"["null", "string"]"#,
        r#"{"type": "array", "items": ["null", "double"]}"#,
        r#"{"type": "map", "values": "bytes"}"#,
        r#"{"type": "bytes", "logicalType": "decimal", "precision": 38, "scale": 9}"#,
    ];
    let fields: Vec<_> =
        (0..200).map(|at| format!(r#"{{"name": "f{at}", "type": {}}}"#, kinds[at % kinds.len()])).collect();
    let schema = record(&fields.join(", "));
    let (mut both, mut generator) = (Both::new(&schema, &schema).unwrap(), Generator::new(2));
    for _ in 0..50 {
        both.append_value(&generator.sound_value(both.writer.schema));
    }
    both.assert_equal();
    assert!(both.columns.rows() > 25, "{} rows", both.columns.rows());
    both.assert_clean(|at| at % 2 == 0);
}

#[test]
fn records_within_records_and_arrays_within_arrays_pass_through() {
    let (mut contract, mut depth) = (r#"{"name": "leaf", "type": ["null", "string"]}"#.to_owned(), 0);
    while depth < 12 {
        let inner = format!(r#"{{"type": "record", "name": "N{depth}", "fields": [{contract}]}}"#);
        let outer = match depth % 3 {
            0 => inner,
            1 => format!(r#"["null", {inner}]"#),
            _ => format!(r#"{{"type": "array", "items": {inner}}}"#),
        };
        contract = format!(r#"{{"name": "n{depth}", "type": {outer}}}"#);
        depth += 1;
    }
    let schema = record(&contract);
    let (mut both, mut generator) = (Both::new(&schema, &schema).unwrap(), Generator::new(3));
    (0..30).for_each(|_| assert!(both.append_value(&generator.sound_value(both.writer.schema))));
    both.assert_equal();
}

#[test]
fn a_map_is_sorted_and_its_last_value_of_a_key_counts() {
    let schema = record(r#"{"name": "m", "type": {"type": "map", "values": {"type": "map", "values": "int"}}}"#);
    let mut both = Both::new(&schema, &schema).unwrap();
    // {b: {x: 1}}, then {a: {}, b: {y: 2, x: 3, x: 4}} in a second block
    assert!(both.append(b"\x02\x02b\x02\x02x\x02\x00\x04\x02a\x00\x02b\x06\x02y\x04\x02x\x06\x02x\x08\x00\x00"));
    both.assert_equal();
    let inner = |entries: &[(&str, i32)]| {
        let entry = |(key, value): &(&str, i32)| (Cell::text(key), Cell::Value(value.to_le_bytes().to_vec()));
        Cell::Map(entries.iter().map(entry).collect())
    };
    let expected = Cell::Map(vec![(Cell::text("a"), inner(&[])), (Cell::text("b"), inner(&[("x", 4), ("y", 2)]))]);
    assert_eq!(reading::native(&finished(&both.columns)).1[0][0], expected);
}

#[test]
fn a_value_that_is_broken_later_is_called_broken_and_of_two_misfits_the_first_columns_is_told() {
    let contract =
        record(r#"{"name": "a", "type": {"type": "int", "logicalType": "date"}}, {"name": "b", "type": "int"}"#);
    let writer = record(
        r#"{"name": "b", "type": "string"}, {"name": "a", "type": {"type": "int", "logicalType": "date"}},
           {"name": "z", "type": "boolean"}"#,
    );
    let mut both = Both::new(&contract, &writer).unwrap();
    let date_max = [0xfe, 0xff, 0xff, 0xff, 0x0f];
    let misfits = [&[0][..], &date_max, &[1]].concat();
    assert!(!both.append(&misfits) && !both.append(&misfits[..6]) && !both.append(&[&misfits[..6], &[2]].concat()));
    let error = append(&both.plan, &misfits, 1, &mut both.columns).unwrap_err();
    assert_eq!(error.error, "field `a` does not fit its column: the date is not within 1900-01-01 to 2299-12-31");
    assert_eq!((both.columns.rows(), both.columns.weight()), (0, 0));
}

#[test]
fn a_decimal_of_no_bytes_is_refused_alike() {
    let schema =
        record(r#"{"name": "d", "type": {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}}"#);
    let mut both = Both::new(&schema, &schema).unwrap();
    assert!(!both.append(&[0]) && both.append(&[2, 5]) && !both.append(&[4, 5]));
    both.assert_equal();
}

#[test]
fn items_that_take_no_bytes_are_not_read_and_a_count_that_lies_is_refused() {
    let of = |items: &str| {
        record(&format!(
            r#"{{"name": "a", "type": {{"type": "array", "items": {{"type": "array", "items": {items}}}}}}}"#
        ))
    };
    let contract = of(r#"["null", "int"]"#);
    let refused = Both::new(&contract, &of(r#""null""#)).err();
    assert!(refused.is_some_and(|error| error.contains("take no bytes")));
    let mut both = Both::new(&contract, &of(r#""int""#)).unwrap();
    let thousand = [&b"\x02\xd0\x0f"[..], &[0; 1_000], b"\x00\x00"].concat();
    assert!(both.append(&thousand), "a thousand");
    assert!(!both.append(b"\x02\x80\x89\x7a\x00\x00"), "a million");
    let error = append(&both.plan, b"\x02\x80\x89\x7a\x00\x00", 3, &mut both.columns);
    assert!(error.unwrap_err().error.ends_with("too many items"));
    assert_eq!(both.columns.rows(), 1);
}

#[test]
fn arrays_and_maps_are_read_up_to_the_bound_that_the_door_keeps_and_no_further() {
    let list = r#"{"name": "a", "type": {"type": "array", "items": "boolean"}}"#;
    let map = r#"{"name": "m", "type": {"type": "map", "values": "boolean"}}"#;
    let contract = record(&format!("{list}, {map}"));
    let mut both = Both::new(&contract, &contract).unwrap();
    let value = |items: usize, entries: usize| {
        let map = (0..entries).map(|n| (n.to_string(), Value::Boolean(true))).collect();
        let list = Value::Array(vec![Value::Boolean(true); items]);
        Value::Record(vec![("a".to_owned(), list), ("m".to_owned(), Value::Map(map))])
    };
    assert!(both.append_value(&value(ARRAY_ITEMS_MAX, MAP_ENTRIES_MAX)));
    assert!(!both.append_value(&value(ARRAY_ITEMS_MAX + 1, 0)));
    assert!(!both.append_value(&value(0, MAP_ENTRIES_MAX + 1)));
}

#[test]
fn a_time_that_no_day_holds_is_refused_with_the_rest_of_its_row() {
    let schema = record(r#"{"name": "x", "type": "string"}"#);
    let mut both = Both::new(&schema, &schema).unwrap();
    assert!(both.append(b"\x02a"));
    let before = finished(&both.columns);
    let (mut envelope, position) = origin(1);
    envelope.occurred_at = DateTime::from_timestamp(-1, 0).unwrap();
    let refused = both.plan.append(b"\x02b", &Origin::of(&envelope, &position), &mut both.columns).unwrap_err();
    assert!(refused.error.starts_with("`occurred_at` does not fit its column"), "{}", refused.error);
    assert_eq!(finished(&both.columns), before);
}

#[test]
fn rows_tell_where_and_when_they_are_from_and_hash_by_what_they_say() {
    let schema = record(r#"{"name": "x", "type": "string"}"#);
    let (writer, table) = (WriterSchema::parse(7, &schema).unwrap(), table(&schema).unwrap());
    let plan = Plan::compile(&writer, &table).unwrap();
    let hash_of = |datums: &[&[u8]]| {
        let mut columns = Columns::new(&table);
        datums.iter().zip(4..).for_each(|(datum, offset)| append(&plan, datum, offset, &mut columns).unwrap());
        assert!(columns.offsets().eq(4..4 + datums.len() as i64));
        assert!(columns.event_ids().eq((4..4 + datums.len() as u128).map(Uuid::from_u128)));
        assert!(columns.occurred_at().eq((4..4 + datums.len() as i64).map(|offset| offset * 1_000_003)));
        hash(&finished(&columns))
    };
    assert_ne!(hash_of(&[b"\x02a", b"\x02b"]), hash_of(&[b"\x02b", b"\x02a"]));
    assert_eq!(hash(b"as it is on every machine"), "b8e227094adfa4623b8ebc6efce5d875");
    assert_eq!(hash(b"").len(), 32);
}
