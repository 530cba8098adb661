use super::*;
use crate::bounds::{ARRAY_ITEMS_MAX, MAP_ENTRIES_MAX};
use crate::{Contracts, WriterSchema, value_from_json, value_to_json};
use apache_avro::Schema;
use described::MadeUp;
use generated::Generator;
use serde_json::{Value as Json, json};

mod described;
mod generated;

const BYTES_MAX: usize = 1 << 20;
/// Generated contracts a run; each with several values.
const CONTRACTS: usize = 400;
const VALUES: usize = 25;

fn version(schema: &Json) -> Version {
    let text = schema.to_string();
    Version { number: 1, schema: Schema::parse_str(&text).unwrap(), text }
}

/// A record with a text `id` as its key, and these fields.
fn plan(fields: &[Json]) -> (JsonPlan, WriterSchema) {
    let id = json!({ "name": "id", "type": "string" });
    let fields = [&[id], fields].concat();
    let version = version(&json!({ "type": "record", "name": "R", "fields": fields }));
    (JsonPlan::compile(&version, "id", BYTES_MAX).unwrap(), WriterSchema::parse(1, &version.text).unwrap())
}

fn encoded(plan: &JsonPlan, json: &str) -> Result<Vec<u8>, Vec<Violation>> {
    let mut datum = Vec::new();
    plan.encode(json, &mut datum).map(|_| datum)
}

/// `pointer: expected …, found …` of everything that is wrong.
fn wrong(plan: &JsonPlan, json: &str) -> Vec<String> {
    encoded(plan, json).unwrap_err().iter().map(ToString::to_string).collect()
}

#[test]
fn the_examples_of_all_contracts_become_the_bytes_that_the_avro_library_writes() {
    for contract in Contracts::embedded().unwrap().iter() {
        let plan = JsonPlan::compile(contract.newest(), &contract.key, BYTES_MAX).unwrap();
        let writer = WriterSchema::parse(1, &contract.newest().text).unwrap();
        let mut expected = b"framing".to_vec();
        writer.encode_value(&value_from_json(writer.schema, &contract.example).unwrap(), &mut expected).unwrap();
        let mut datum = b"framing".to_vec();
        let key = plan.encode(&contract.example.to_string(), &mut datum).unwrap();
        assert_eq!(datum, expected, "{}", contract.event_type);
        assert_eq!(contract.example[&contract.key], std::str::from_utf8(&datum[key]).unwrap());
    }
}

/// What JSON means where a union's branch stands without its tag: the first that fits, as in a default.
fn with_tags(schema: &Schema, json: &Json) -> Json {
    match (schema, json) {
        (Schema::Union(union), json) => {
            let tag = |branch: &Schema| {
                branch.name().map_or_else(|| crate::compatibility::base(branch).into(), |name| name.fullname(None))
            };
            let first = json.as_object().and_then(|members| members.keys().next());
            if let Some(branch) =
                union.variants().iter().find(|branch| Some(&tag(branch)) == first && !matches!(branch, Schema::Null))
            {
                let members = json.as_object().unwrap().iter();
                return members.map(|(name, value)| (name.clone(), with_tags(branch, value))).collect();
            }
            let tagged = |branch: &Schema| {
                let value = with_tags(branch, json);
                value_from_json(branch, &value).ok()?;
                Some(if matches!(branch, Schema::Null) { value } else { json!({ tag(branch): value }) })
            };
            union.variants().iter().find_map(tagged).unwrap_or_else(|| json.clone())
        }
        (Schema::Array(array), Json::Array(items)) => items.iter().map(|item| with_tags(&array.items, item)).collect(),
        (Schema::Map(map), Json::Object(members)) => {
            members.iter().map(|(name, value)| (name.clone(), with_tags(&map.types, value))).collect()
        }
        (Schema::Record(record), Json::Object(members)) => {
            let field = |name: &String| record.fields.iter().find(|field| field.name == *name);
            let member = |(name, value): (&String, &Json)| {
                (name.clone(), field(name).map_or_else(|| value.clone(), |field| with_tags(&field.schema, value)))
            };
            members.iter().map(member).collect()
        }
        _ => json.clone(),
    }
}

/// Words by which the one pass refuses what the value tree takes: no consumer could use it.
const STRICTER: [&str; 6] = ["within", "finite", "digits", "NUL", "key", "fits a record"];

#[test]
fn one_pass_writes_what_the_value_tree_writes_and_refuses_what_it_refuses() {
    let seed = u64::from(uuid::Uuid::new_v4().as_fields().0);
    println!("seed {seed}");
    let mut generator = Generator::new(seed);
    let (mut accepted, mut refused, mut stricter) = (0, 0, 0);
    for _ in 0..CONTRACTS {
        let version = version(&generator.contract());
        let plan = JsonPlan::compile(&version, "id", BYTES_MAX).unwrap();
        let writer = WriterSchema::parse(1, &version.text).unwrap();
        for _ in 0..VALUES {
            let json = generator.event(&version.schema);
            let tree = value_from_json(&version.schema, &with_tags(&version.schema, &json));
            let context = || format!("{}\n{json}", version.text);
            match (encoded(&plan, &json.to_string()), tree) {
                (Ok(datum), Ok(tree)) => {
                    accepted += 1;
                    assert_eq!(shown(&writer, &writer.decode(&datum).unwrap()), shown(&writer, &tree), "{}", context());
                    let mut expected = Vec::new();
                    writer.encode_value(&tree, &mut expected).unwrap();
                    assert_eq!(datum.len(), expected.len(), "{}", context()); // maps have no order
                }
                (Err(_), Err(_)) => refused += 1,
                (Err(violations), Ok(_)) => {
                    stricter += 1;
                    let known = |found: &Violation| STRICTER.iter().any(|word| found.expected.contains(word));
                    assert!(violations.iter().any(known), "{violations:?}\n{}", context());
                }
                (Ok(_), Err(error)) => panic!("the value tree refuses it: {error}\n{}", context()),
            }
        }
    }
    println!("{accepted} accepted, {refused} refused, {stricter} refused by the one pass alone");
    assert!(accepted > CONTRACTS && refused > CONTRACTS && stricter < accepted);
}

#[test]
fn whatever_fits_the_json_schema_of_a_contract_is_taken() {
    let seed = u64::from(uuid::Uuid::new_v4().as_fields().0);
    println!("seed {seed}");
    let (mut generator, mut made_up) = (Generator::new(seed), MadeUp::new(seed));
    for _ in 0..CONTRACTS {
        let version = version(&generator.contract());
        let (plan, schema) = (JsonPlan::compile(&version, "id", BYTES_MAX).unwrap(), json_schema::data(&version, "id"));
        for _ in 0..VALUES {
            let data = made_up.value(&schema);
            let taken = encoded(&plan, &data.to_string());
            assert!(taken.is_ok(), "{}\n{data}\n{taken:?}", version.text);
        }
    }
}

#[test]
fn numbers_at_the_edges_of_their_types_are_taken_and_refused_as_the_value_tree_does() {
    const TYPES: [&str; 4] = ["int", "long", "float", "double"];
    // Which of the types hold it: a fraction is no integer, even where it is nought, and no number is infinite.
    let cases = [
        ("0", "int long float double"),
        ("-0", "float double"),
        ("1.0", "float double"),
        ("1e2", "float double"),
        ("2147483647", "int long float double"),
        ("2147483648", "long float double"),
        ("-2147483648", "int long float double"),
        ("-2147483649", "long float double"),
        ("9223372036854775807", "long float double"),
        ("9223372036854775808", "float double"),
        ("-9223372036854775808", "long float double"),
        ("-9223372036854775809", "float double"),
        ("18446744073709551616", "float double"),
        ("3.5e38", "double"),
        ("1e-400", "float double"),
        ("1e400", ""),
        ("-1e400", ""),
        ("01", ""),
        ("+1", ""),
        (".5", ""),
        ("1.", ""),
        ("0x1", ""),
        ("NaN", ""),
        ("-Infinity", ""),
        ("\"1\"", ""),
        ("\"NaN\"", ""),
        ("\"Infinity\"", ""),
        ("\"-Infinity\"", ""),
        ("\"nan\"", ""),
    ];
    for (literal, holding) in cases {
        for kind in TYPES {
            let (plan, writer) = plan(&[json!({ "name": "n", "type": kind })]);
            let text = format!(r#"{{"id": "x", "n": {literal}}}"#);
            let datum = encoded(&plan, &text);
            assert_eq!(datum.is_ok(), holding.split(' ').any(|held| held == kind), "{literal} as {kind}: {datum:?}");
            let tree = serde_json::from_str(&text).ok().and_then(|json| value_from_json(writer.schema, &json).ok());
            let Some(tree) = tree else { continue };
            let mut expected = Vec::new();
            writer.encode_value(&tree, &mut expected).unwrap();
            // The tree knows what is not finite, so that what lies in a log can be shown and written again.
            let is_stricter = ["\"NaN\"", "\"Infinity\"", "\"-Infinity\""].contains(&literal);
            assert!(datum.is_err() && is_stricter || datum == Ok(expected), "{literal} as {kind}");
        }
    }
}

/// As text: a NaN equals no other.
fn shown(writer: &WriterSchema, value: &apache_avro::types::Value) -> String {
    value_to_json(writer.schema, value).to_string()
}

#[test]
fn text_that_is_broken_anywhere_is_refused_and_appends_nothing() {
    let seed = u64::from(uuid::Uuid::new_v4().as_fields().0);
    println!("seed {seed}");
    let mut generator = Generator::new(seed);
    let contracts = Contracts::embedded().unwrap();
    for contract in contracts.iter() {
        let plan = JsonPlan::compile(contract.newest(), &contract.key, BYTES_MAX).unwrap();
        let writer = WriterSchema::parse(1, &contract.newest().text).unwrap();
        let text = contract.example.to_string();
        for _ in 0..500 {
            let broken = generator.broken(&text);
            let mut datum = vec![7];
            match plan.encode(&broken, &mut datum) {
                Ok(_) => drop(writer.decode(&datum[1..]).unwrap()),
                Err(violations) => {
                    assert_eq!(datum, [7], "{broken}");
                    assert!((1..=VIOLATIONS_MAX).contains(&violations.len()), "{broken}");
                }
            }
        }
    }
}

#[test]
fn fields_may_come_in_any_order_and_be_left_out_where_they_have_a_default() {
    let fields = [
        json!({ "name": "a", "type": "int", "default": 7 }),
        json!({ "name": "b", "type": ["null", "string"], "default": null }),
        json!({ "name": "c", "type": "string" }),
    ];
    let (plan, writer) = plan(&fields);
    for text in [r#"{"c": "z", "id": "x"}"#, r#"{"id": "x", "c": "z"}"#, r#"{"c": "z", "b": null, "id": "x", "a": 7}"#]
    {
        let mut datum = vec![0; 5];
        let key = plan.encode(text, &mut datum).unwrap();
        assert_eq!(&datum[key], b"x", "{text}");
        let value = value_to_json(writer.schema, &writer.decode(&datum[5..]).unwrap());
        assert_eq!(value, json!({ "id": "x", "a": 7, "b": null, "c": "z" }), "{text}");
    }
}

#[test]
fn everything_that_is_wrong_is_listed_with_its_place_what_was_expected_and_what_was_found() {
    let contract = Contracts::embedded().unwrap().get("order.placed").unwrap().clone();
    let plan = JsonPlan::compile(contract.newest(), &contract.key, BYTES_MAX).unwrap();
    let mut order = contract.example.clone();
    order["user_id"] = json!("nobody");
    order["lines"][1]["quantity"] = json!(1.5);
    order["lines"][0]["unit_price"] = json!([1]);
    order["total"] = json!(u64::MAX);
    order["coupn"] = json!({ "string": "X" });
    order["coupon"] = json!({ "strin": "X" });
    order.as_object_mut().unwrap().remove("currency");
    assert_eq!(
        wrong(&plan, &order.to_string()),
        [
            "/user_id: expected a uuid, found \"nobody\"",
            "/lines/0/unit_price: expected a long (64 bits), found an array",
            "/lines/1/quantity: expected an int (32 bits), found 1.5",
            "/total: expected a long (64 bits), found 18446744073709551615",
            "/coupn: expected a field of OrderPlaced, the nearest is `coupon`, found an unknown one",
            "/coupon: expected null or a string (string), found an object",
            "/currency: expected a string, found no such field",
        ]
    );
    assert_eq!(
        wrong(&plan, "[]"),
        ["/: expected an object: OrderPlaced, found an array".replace("/:", ":")],
        "the whole has the empty pointer"
    );
}

#[test]
fn what_no_consumer_could_use_is_refused() {
    let date = json!({ "name": "d", "type": { "type": "int", "logicalType": "date" }, "default": 0 });
    let time = json!({ "name": "t", "type": { "type": "long", "logicalType": "timestamp-micros" }, "default": 0 });
    let decimal = json!({ "type": "bytes", "logicalType": "decimal", "precision": 2, "scale": 0 });
    let fields = [
        date,
        time,
        json!({ "name": "x", "type": decimal, "default": "\u{1}" }),
        json!({ "name": "f", "type": "float", "default": 0.0 }),
        json!({ "name": "g", "type": ["null", "double"], "default": null }),
        json!({ "name": "m", "type": { "type": "map", "values": "int" }, "default": {} }),
    ];
    let (plan, _) = plan(&fields);
    for good in [
        json!({ "id": "x", "d": -25_567, "t": -1, "x": "\u{ff}", "f": -1.5, "m": { "a": 1 } }),
        json!({ "id": "x", "d": 120_529, "f": 3.4e38, "x": "c" }),
    ] {
        assert!(encoded(&plan, &good.to_string()).is_ok(), "{good}");
    }
    let cases = [
        (r#"{"id": "a\u0000b"}"#, "/id: expected text without NUL, found \"a\\0b\""),
        (r#"{"id": ""}"#, "/id: expected text of 1 to 1024 bytes: it is the key, found \"\""),
        (
            r#"{"id": "x", "d": 120530}"#,
            "/d: expected days since 1970-01-01, within 1900-01-01 to 2299-12-31, found 120530",
        ),
        (
            r#"{"id": "x", "t": 9223372036854775807}"#,
            "/t: expected microseconds since 1970-01-01T00:00:00Z, within the years 1900 to 2299, found 9223372036854775807",
        ),
        (
            r#"{"id": "x", "x": "d"}"#,
            "/x: expected a decimal of at most 2 digits as a string of bytes, two's complement, big-endian, found \"d\"",
        ),
        (r#"{"id": "x", "f": 1e300}"#, "/f: expected a finite number that a float (32 bits) holds, found 1e300"),
        (r#"{"id": "x", "g": "NaN"}"#, "/g: expected null or a finite number (double), found \"NaN\""),
        (r#"{"id": "x", "g": {"double": "-Infinity"}}"#, "/g/double: expected a finite number, found \"-Infinity\""),
        (r#"{"id": "x", "m": {"a": 1, "a": 2}}"#, "/m/a: expected the name once, found it again"),
        (r#"{"id": "x", "f": 1, "f": 2}"#, "/f: expected the field once, found it again"),
        (r#"{"id": "x", "f": NaN}"#, ": expected JSON, found expected value at line 1 column 18"),
        (r#"{"id": "x"} {}"#, ": expected JSON, found trailing characters at line 1 column 13"),
        (r#"{"id": "x\ud800"}"#, ": expected JSON, found unexpected end of hex escape at line 1 column 16"),
    ];
    for (text, expected) in cases {
        assert_eq!(wrong(&plan, text), [expected], "{text}");
    }
    for (bytes, fits) in [(1024, true), (1025, false)] {
        assert_eq!(encoded(&plan, &json!({ "id": "k".repeat(bytes) }).to_string()).is_ok(), fits, "a key of {bytes}");
    }
}

#[test]
fn in_a_union_a_value_may_stand_with_its_tag_or_without() {
    let inner = json!({ "type": "record", "name": "n.I", "fields": [{ "name": "string", "type": "int" }] });
    let fields = [
        json!({ "name": "text", "type": ["null", "string"], "default": null }),
        json!({ "name": "part", "type": ["null", inner], "default": null }),
        json!({ "name": "list", "type": ["null", { "type": "array", "items": "long" }], "default": null }),
        json!({ "name": "number", "type": ["string", "int", "double"], "default": "" }),
    ];
    let (plan, writer) = plan(&fields);
    let bare = json!({ "id": "x", "text": "a", "part": { "string": 1 }, "list": [1], "number": 1.5 });
    let tagged = json!({ "id": "x", "text": { "string": "a" }, "part": { "n.I": { "string": 1 } },
                         "list": { "array": [1] }, "number": { "double": 1.5 } });
    let datum = encoded(&plan, &bare.to_string()).unwrap();
    assert_eq!(datum, encoded(&plan, &tagged.to_string()).unwrap());
    assert_eq!(value_to_json(writer.schema, &writer.decode(&datum).unwrap()), tagged);
    let two = json!({ "id": "x", "text": { "string": "a", "more": [{}] }, "part": {}, "list": { "array": [""] } });
    assert_eq!(
        wrong(&plan, &two.to_string()),
        [
            "/text: expected one member, \"string\", found more of them",
            "/part/string: expected an int (32 bits), found no such field",
            "/list/array/0: expected a long (64 bits), found \"\"",
        ]
    );
}

#[test]
fn neither_depth_nor_size_nor_a_flood_of_errors_takes_more_than_its_bound() {
    let long = "x".repeat(1000);
    let inner =
        json!({ "type": "record", "name": "I", "fields": [{ "name": "s", "type": "string", "default": long }] });
    let fields = [json!({ "name": "list", "type": { "type": "array", "items": inner }, "default": [] })];
    let (plan, _) = plan(&fields);
    let bomb = format!(r#"{{"id": "x", "list": [{}{{}}]}}"#, "{},".repeat(100_000));
    let mut datum = Vec::new();
    let refused = plan.encode(&bomb, &mut datum).unwrap_err();
    assert_eq!(refused[0].expected, "an event that fits a record of the log");
    assert!(datum.is_empty() && datum.capacity() < 3 * BYTES_MAX, "{} bytes", datum.capacity());

    let deep = format!(r#"{{"id": {}{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
    assert_eq!(wrong(&plan, &deep), ["/id: expected text of 1 to 1024 bytes: it is the key, found an array"]);
    let flood = format!(r#"{{"id": "x", "list": [{}1]}}"#, "1,".repeat(100_000));
    assert_eq!(wrong(&plan, &flood).len(), VIOLATIONS_MAX);
    let name = "n~/".repeat(10_000);
    let unknown = encoded(&plan, &json!({ "id": "x", name: 1 }).to_string()).unwrap_err().remove(0);
    assert!(unknown.pointer.starts_with("/n~0~1n~0~1") && unknown.pointer.len() < 200, "{unknown}");
}

/// As JSON, with so many items, or members.
fn list(count: usize) -> String {
    format!(r#"{{"id": "x", "list": [{}]}}"#, vec!["0.5"; count].join(","))
}

fn map(count: usize) -> String {
    let members: Vec<_> = (0..count).map(|n| format!(r#""{n}":true"#)).collect();
    format!(r#"{{"id": "x", "map": {{"map": {{{}}}}}}}"#, members.join(","))
}

#[test]
fn what_is_taken_can_be_read_however_many_items_it_has_and_one_more_is_refused_where_it_stands() {
    let fields = [
        json!({ "name": "list", "type": { "type": "array", "items": "double" }, "default": [] }),
        json!({ "name": "map", "type": ["null", { "type": "map", "values": "boolean" }], "default": null }),
    ];
    let (plan, writer) = plan(&fields);
    for most in [list(ARRAY_ITEMS_MAX), map(MAP_ENTRIES_MAX)] {
        writer.decode(&encoded(&plan, &most).unwrap()).unwrap();
    }
    let cases = [
        (list(ARRAY_ITEMS_MAX + 1), "/list: expected an array of at most 74898 items, found more of them"),
        (list(80_000), "/list: expected an array of at most 74898 items, found more of them"),
        (map(MAP_ENTRIES_MAX + 1), "/map/map: expected an object of at most 52428 members, found more of them"),
    ];
    for (text, expected) in cases {
        assert_eq!(wrong(&plan, &text), [expected]);
        let also = text.replace("\"x\"", "7");
        assert_eq!(wrong(&plan, &also).len(), 2, "reading goes on");
        let (mut datum, json) = (Vec::new(), serde_json::from_str(&text).unwrap());
        writer.encode_value(&value_from_json(writer.schema, &json).unwrap(), &mut datum).unwrap();
        assert!(writer.decode(&datum).is_err(), "nobody could read it");
    }
}
