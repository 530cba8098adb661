//! Every rule, broken once.

use super::*;

/// With ' for ", as all JSON in these tests.
const PLACED: &str = "{
  'type': 'record', 'name': 'OrderPlaced', 'namespace': 'shop.order', 'doc': 'Placed.',
  'millrace': {'type': 'order.placed', 'topic': 'shop.order.v1', 'key': 'order_id'},
  'fields': [
    {'name': 'order_id', 'type': {'type': 'string', 'logicalType': 'uuid'}, 'doc': 'Id.'},
    {'name': 'total', 'type': 'long', 'unit': 'minor', 'doc': 'Total.'},
    {'name': 'currency', 'type': 'string', 'doc': 'ISO 4217.'},
    {'name': 'state', 'type': {'type': 'enum', 'name': 'State', 'symbols': ['NEW', 'UNKNOWN'], 'default': 'UNKNOWN'}, 'doc': 'State.'},
    {'name': 'note', 'type': ['null', 'string'], 'default': null, 'doc': 'Note.'},
    {'name': 'lines', 'type': {'type': 'array', 'items': {'type': 'record', 'name': 'Line', 'doc': 'Line.', 'fields': [
      {'name': 'quantity', 'type': 'int', 'doc': 'Units.'}]}}, 'doc': 'Lines.'}
  ]}";
const EXAMPLE_PLACED: &str = "{'order_id': '019ab523-41c9-7e6f-b2d4-8a7c05e19f3b', 'total': 1, 'currency': 'EUR',
  'state': 'NEW', 'lines': [{'quantity': 1}]}";

fn printed(files: &[(&str, &str)]) -> String {
    let files = files.iter().map(|(file, text)| ((*file).to_owned(), text.replace('\'', "\"").into_bytes()));
    let found = check(&files.collect()).err().unwrap_or_default();
    found.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// A text with one change.
fn but(text: &str, from: &str, to: &str) -> String {
    assert!(text.contains(from), "{from}");
    text.replacen(from, to, 1)
}

#[test]
fn each_rule_says_where_it_is_broken_and_what_to_do() {
    #[rustfmt::skip] // a table: what to change, into what, and all that is then said
    let cases = [
        ("'Total.'}", "'Total.'",
         "$ [json]: is not JSON: key must be a string at line 7 column 5"),
        ("'type': 'record', 'name': 'OrderPlaced'", "'type': 'enum', 'name': 'OrderPlaced'",
         "$ [record]: a contract is one Avro record: begin with {'type': 'record', 'name': …"),
        (", 'namespace': 'shop.order'", "",
         "$.namespace [namespace]: `namespace` is missing: add one, such as 'shop.order'"),
        (", 'doc': 'Placed.'", "",
         "$.doc [doc]: record `OrderPlaced` has no doc: say in one sentence what it means"),
        ("'Total.'", "' '",
         "$.fields[1].doc [doc]: field `total` has no doc: say in one sentence what it means"),
        (", 'doc': 'Line.'", "",
         "$.fields[5].type.items.doc [doc]: record `Line` has no doc: say in one sentence what it means"),
        (", 'doc': 'Units.'", "",
         "$.fields[5].type.items.fields[0].doc [doc]: field `quantity` has no doc: say in one sentence what it means"),
        ("'millrace'", "'milrace'",
         "$.millrace [millrace]: `millrace` is missing: add {'type': …, 'topic': …, 'key': …} beside `fields`\n\
          $.milrace [attribute]: `milrace` is not known here, the nearest known is `millrace`"),
        ("'key': 'order_id'", "'keys': 'order_id'",
         "$.millrace.keys [millrace]: `keys` is not known here, the nearest known is `key`\n\
          $.millrace.key [millrace]: `key` is missing: add it, a string"),
        ("'type': 'order.placed'", "'type': 'order.place'",
         "$.millrace.type [type]: the type is `order.place`, but its folder is `order.placed`: make them equal"),
        ("shop.order.v1", "shop.order",
         "$.millrace.topic [topic]: `shop.order` is not <domain>.<aggregate>.v<major>, such as shop.order.v1"),
        ("'key': 'order_id'", "'key': 'orderid'",
         "$.millrace.key [key]: the key `orderid` is not a field, the nearest known is `order_id`"),
        ("'key': 'order_id'", "'key': 'note'",
         "$.millrace.key [key]: the key `note` is not a plain string or uuid: the aggregate's id is text and never null"),
        ("'key': 'order_id'", "'key': 'order_id', 'cleanup': 'compacted'",
         "$.millrace.cleanup [cleanup]: 'compacted' is not `delete` (facts) or `compact` (states)"),
        ("'name': 'total'", "'name': 'Total'",
         "$.fields[1].name [field-name]: `Total` can't be a column: begin with a-z, go on with a-z, 0-9 and _, at most 63 characters"),
        ("'name': 'total'", "'name': 'occurred_at'",
         "$.fields[1].name [field-name]: `occurred_at` is a column of every table, filled from the envelope: rename the field"),
        ("'name': 'total'", "'name': 'currency'",
         "$.fields[2].name [avro]: two fields are named `currency`: rename one"),
        ("'name': 'total', ", "",
         "$.fields[1].name [avro]: `name` is missing: every field has one"),
        ("'long'", "'Long'",
         "$.fields[1].type [avro]: `Long` is no Avro type, the nearest known is `long`\n\
          $.fields[1].unit [unit]: `total` is not a long: money is a whole number of minor units"),
        ("'type': 'long', ", "",
         "$.fields[1].type [avro]: `type` is missing in field `total`"),
        ("'type': 'long'", "'type': 'long', 'logicalType': 'timestamp-micros'",
         "$.fields[1].logicalType [attribute]: it annotates a type: write 'type': {'type': 'long', 'logicalType': 'timestamp-micros'}"),
        ("'type': 'long'", "'type': {'type': 'long', 'logicalType': 'timestamp-millis'}",
         "$.fields[1].type.logicalType [logical-type]: 'timestamp-millis' has no column: times are timestamp-micros on long, in UTC"),
        ("'type': 'long'", "'type': {'type': 'long', 'logicalType': 'uuid'}",
         "$.fields[1].type.logicalType [logical-type]: `uuid` annotates string or fixed, not long"),
        ("'type': 'int'", "'type': {'type': {'type': 'int'}, 'logicalType': 'decimal', 'scales': 2}",
         "$.fields[5].type.items.fields[0].type.scales [attribute]: `scales` is not known here, the nearest known is `scale`\n\
          $.fields[5].type.items.fields[0].type.logicalType [logical-type]: `decimal` annotates bytes or fixed, not int"),
        ("'type': 'long'", "'type': 'string'",
         "$.fields[1].unit [unit]: `total` is not a long: money is a whole number of minor units"),
        ("'minor'", "'cents'",
         "$.fields[1].unit [unit]: 'cents' is no unit: the one known is 'minor', money in minor units of currency"),
        ("'name': 'currency'", "'name': 'money'",
         "$.fields[1].unit [unit]: `total` is money, but no field `currency` says of which currency: add it (ISO 4217)"),
        ("'default': null, 'doc'", "'deafult': null, 'doc'",
         "$.fields[4].deafult [attribute]: `deafult` is not known here, the nearest known is `default`"),
        ("'default': null", "'default': 'none'",
         "$.fields[4].default [default]: the default does not fit the union's first type: expected null, found 'none'"),
        ("'default': null", "'default': null, 'pii': 'user_id'",
         "$.fields[4].pii [pii]: 'user_id' names no field at the top: pii says which field holds whose data it is, the nearest known is `order_id`"),
        ("'default': null", "'default': null, 'pii': 'total'",
         "$.fields[4].pii [pii]: 'total' is not a string or uuid: pii says which field holds the id of whose data it is"),
        ("'default': null", "'default': null, 'pii': 'note'",
         "$.fields[4].pii [pii]: a field is not its own: pii says which other field holds the id of whose data it is"),
        ("'doc': 'Units.'", "'doc': 'Units.', 'pii': 'order_id'",
         "$.fields[5].type.items.fields[0].pii [pii]: within an array or a map there is no column to erase: move the field to the top or into a record, or mark the whole array"),
        ("'key': 'order_id'", "'key': 'order_id', 'erases': 'orderid'",
         "$.millrace.erases [erases]: 'orderid' names no field at the top, the nearest known is `order_id`"),
        ("'key': 'order_id'", "'key': 'order_id', 'erases': 'note'",
         "$.millrace.erases [erases]: `note` is not a plain string or uuid: an erasure is always somebody's, never null"),
        ("'default': null", "'default': null, 'low_cardinality': 'yes'",
         "$.fields[4].low_cardinality [attribute]: found 'yes': it is true or false, and only on strings"),
        ("['null', 'string']", "['string', 'null']",
         "$.fields[4].default [default]: the default does not fit the union's first type: expected a string, found null"),
        ("['null', 'string']", "['null', 'string', 'int']",
         "$.fields[4].type [union]: the only unions are ['null', T] and [T, 'null']: split the rest into fields or types"),
        ("'type': 'long'", "'type': 'long', 'default': 1.5",
         "$.fields[1].default [default]: the default does not fit the field's type: expected a long (64 bits), found 1.5"),
        ("'type': 'int'", "'type': 'double', 'default': 'NaN'",
         "$.fields[5].type.items.fields[0].default [default]: the default does not fit the field's type: expected a number, found 'NaN'"),
        ("'type': 'int'", "'type': 'float', 'default': 1e39",
         "$.fields[5].type.items.fields[0].default [default]: the default does not fit the field's type: expected a number that a float (32 bits) holds, found 1e+39"),
        ("['NEW', 'UNKNOWN']", "['NEW', 'NEW']",
         "$.fields[3].type.symbols[1] [enum]: the symbol `NEW` is there twice: remove one\n\
          $.fields[3].type.default [enum]: 'UNKNOWN' is not among the symbols"),
        ("['NEW', 'UNKNOWN']", "['NEW', 'UN-KNOWN', 'UNKNOWN']",
         "$.fields[3].type.symbols[1] [enum]: `UN-KNOWN` is no symbol: use letters, digits and _, not beginning with a digit"),
        (", 'default': 'UNKNOWN'", "",
         "$.fields[3].type.default [enum]: the enum has no default: add one, such as 'UNKNOWN', for readers that don't know a later symbol"),
        ("'name': 'State', ", "",
         "$.fields[3].type.name [avro]: `name` is missing: records, enums and fixed have one"),
        ("'name': 'Line'", "'name': 'State'",
         "$.fields[5].type.items.name [avro]: `State` is defined twice: give each type its own name"),
        ("'items': {", "'values': {",
         "$.fields[5].type.values [attribute]: `values` is not known here, the nearest known is `type`\n\
          $.fields[5].type.items [avro]: `items` is missing: say which type they have"),
        ("'type': 'int'", "'type': 'OrderPlaced'",
         "$.fields[5].type.items.fields[0].type [reference]: refers to the type `OrderPlaced`: contracts have no references and no recursion, write the type out under another name"),
        ("'type': 'int'", "'type': 'enum'",
         "$.fields[5].type.items.fields[0].type [avro]: `enum` needs its parts: write {'type': 'enum', …}"),
        ("'fields': [\n", "'fields': [7,\n",
         "$.fields[0] [avro]: a field is an object, found 7"),
        ("'note', 'type': ['null', 'string'], 'default': null", "'order', 'type': {'type': 'record', 'name': 'Of', 'doc': 'x', 'fields': [{'name': 'id', 'type': 'int', 'doc': 'x'}]}",
         "$.fields[4].type.fields[0].name [field-name]: becomes the column `order_id`, as does $.fields[0].name: rename one of them"),
        ("'OrderPlaced'", "'Order Placed'",
         "$.name [avro]: `Order Placed` is no Avro name: use letters, digits and _"),
        ("'symbols': ['NEW', 'UNKNOWN']", "'symbols': ['NEW', 'UNKNOWN'], 'aliases': ['a b']",
         "$ [avro]: Invalid schema name a b. It must match the regex '^((?P<namespace>([A-Za-z_][A-Za-z0-9_]*(\\.[A-Za-z_][A-Za-z0-9_]*)*)?)\\.)?(?P<name>[A-Za-z_][A-Za-z0-9_]*)$'"),
    ];
    let whole = printed(&[("order.placed/1.avsc", PLACED), ("order.placed/example.json", EXAMPLE_PLACED)]);
    assert_eq!(whole, "", "without a change nothing is wrong");
    for (from, to, expected) in cases {
        let text = but(PLACED, from, to);
        let found = printed(&[("order.placed/1.avsc", &text), ("order.placed/example.json", EXAMPLE_PLACED)]);
        assert_eq!(found.replace("order.placed/1.avsc ", "").replace('"', "'"), expected, "{from} -> {to}");
    }
}

#[test]
fn files_versions_and_neighbours_are_looked_at_together() {
    const ONE: (&str, &str) = ("order.placed/1.avsc", PLACED);
    const ONES_EXAMPLE: (&str, &str) = ("order.placed/example.json", EXAMPLE_PLACED);
    let renamed = but(PLACED, "OrderPlaced", "OrderPlacedAgain");
    let moved = but(&but(PLACED, "shop.order.v1", "shop.order.v2"), "'key': 'order_id'", "'key': 'currency'");
    let untyped = but(PLACED, "{'type': 'string', 'logicalType': 'uuid'}", "'string'");
    let required = but(PLACED, "'fields': [", "'fields': [{'name': 'city', 'type': 'string', 'doc': 'City.'},");
    let widened = but(PLACED, "'int'", "'long'");
    let optional = but(&required, "'doc': 'City.'", "'doc': 'City.', 'default': ''");
    let upper = but(PLACED, "order.placed", "Order");
    let twin = but(&but(PLACED, "order.placed", "order.pla_ced"), "'key'", "'cleanup': 'compact', 'key'");
    let other = but(PLACED, "order.placed", "order.pla.ced");
    let cases: &[(&[(&str, &str)], &str)] = &[
        (&[ONE, ONES_EXAMPLE, ("order.placed/2.avsc", &optional)], ""),
        (
            &[ONE, ONES_EXAMPLE, ("order.placed/02.avsc", PLACED)],
            "order.placed/02.avsc $ [file]: unexpected file: expected are `<type>/<version>.avsc`, such as `order.placed/1.avsc`, `<type>/example.json`, and `owners.json`",
        ),
        (
            &[ONE, ONES_EXAMPLE, ("README.md", "")],
            "README.md $ [file]: unexpected file: expected are `<type>/<version>.avsc`, such as `order.placed/1.avsc`, `<type>/example.json`, and `owners.json`",
        ),
        (
            &[ONE, ONES_EXAMPLE, ("order.placed/3.avsc", PLACED)],
            "order.placed/2.avsc $ [versions]: version 2 is missing: versions are numbered 1, 2, 3 without a gap",
        ),
        (
            &[ONE],
            "order.placed/example.json $ [example]: the example is missing: write one value of the newest version, in Avro's JSON",
        ),
        (
            &[ONE, ("order.placed/example.json", "{")],
            "order.placed/example.json $ [json]: is not JSON: EOF while parsing an object at line 1 column 1",
        ),
        (
            &[ONE, ("order.placed/example.json", "{'order_id': 7}")],
            "order.placed/example.json $.order_id [example]: does not fit version 1: expected a uuid, found 7",
        ),
        (
            &[("Order/1.avsc", &upper), ("Order/example.json", EXAMPLE_PLACED)],
            "Order/1.avsc $.millrace.type [type]: the folder `Order` is no event type: use lower case words joined by dots, such as order.placed",
        ),
        (
            &[ONE, ONES_EXAMPLE, ("order.placed/2.avsc", &renamed)],
            "order.placed/2.avsc $.name [identity]: the full name is `shop.order.OrderPlacedAgain`, but `shop.order.OrderPlaced` in version 1: a breaking change is a new type, never an edit",
        ),
        (
            &[ONE, ONES_EXAMPLE, ("order.placed/2.avsc", &moved)],
            "order.placed/2.avsc $.millrace.topic [identity]: the topic is `shop.order.v2`, but `shop.order.v1` in version 1: a breaking change is a new type, never an edit\n\
             order.placed/2.avsc $.millrace.key [identity]: the key is `currency`, but `order_id` in version 1: a breaking change is a new type, never an edit",
        ),
        (
            &[ONE, ONES_EXAMPLE, ("order.placed/2.avsc", &untyped)],
            "order.placed/2.avsc $.fields[0].type [column-type]: `order_id` was uuid in version 1 and is string here: a column keeps its type, add a field instead",
        ),
        (
            &[ONE, ONES_EXAMPLE, ("order.placed/2.avsc", &required)],
            "order.placed/2.avsc $.fields[0] [missing-default]: can't read what version 1 wrote: the field `city` is not written and has no default to stand in: give it a default, such as \"default\": \"\"",
        ),
        (
            &[("order.placed/1.avsc", &required), ("order.placed/2.avsc", PLACED), ONES_EXAMPLE],
            "order.placed/2.avsc $ [missing-default]: version 1 can't read what this one writes: the field `city` is not written and has no default to stand in: keep it: only a field that always had a default may go",
        ),
        (
            &[ONE, ONES_EXAMPLE, ("order.placed/2.avsc", &widened)],
            "order.placed/2.avsc $.fields[5].type.items.fields[0].type [type]: version 1 can't read what this one writes: long can't become int: leave `lines.quantity` as it is and add a field with a default beside it; a breaking change is a new type, never an edit",
        ),
        (
            &[
                ("order.pla.ced/1.avsc", &other),
                ("order.pla.ced/example.json", EXAMPLE_PLACED),
                ("order.pla_ced/1.avsc", &twin),
                ("order.pla_ced/example.json", EXAMPLE_PLACED),
            ],
            "order.pla_ced/1.avsc $.millrace.type [clash]: `order.pla_ced` and `order.pla.ced` would share the table `order_pla_ced`: rename one of them\n\
             order.pla_ced/1.avsc $.name [clash]: `order.pla.ced` is named shop.order.OrderPlaced too: give each type its own\n\
             order.pla_ced/1.avsc $.millrace.cleanup [cleanup]: `order.pla.ced` says delete for topic shop.order.v1, this one compact: a topic is cleaned in one way",
        ),
    ];
    for (files, expected) in cases {
        assert_eq!(printed(files), *expected);
    }
}

#[test]
fn a_directory_is_read_within_bounds_and_nothing_in_it_is_passed_over() {
    let directory = tempfile::tempdir().unwrap();
    let load = || {
        read_directory(directory.path())
            .map_err(|found| found[0].to_string().replace(directory.path().to_str().unwrap(), "DIR"))
    };
    assert_eq!(load().unwrap_err(), ". $ [file]: no contracts in DIR: begin with `order.placed/1.avsc`");
    let inner = directory.path().join("order.placed");
    std::fs::create_dir_all(&inner).unwrap();
    std::fs::write(inner.join("1.avsc"), PLACED).unwrap();
    std::fs::write(directory.path().join("README.md"), "").unwrap();
    assert_eq!(load().unwrap().into_keys().collect::<Vec<_>>(), ["README.md", "order.placed/1.avsc"]);
    std::fs::create_dir(inner.join("old")).unwrap();
    assert_eq!(
        load().unwrap_err(),
        "order.placed/old $ [file]: is not a file: expected are `<type>/<version>.avsc`, such as `order.placed/1.avsc`, `<type>/example.json`, and `owners.json`"
    );
    std::fs::remove_dir(inner.join("old")).unwrap();
    std::fs::File::create(inner.join("2.avsc")).unwrap().set_len(FILE_BYTES_MAX + 1).unwrap();
    assert_eq!(load().unwrap_err(), "order.placed/2.avsc $ [file]: has 1048577 bytes, at most 1048576 are read");
    let missing = read_directory(&directory.path().join("missing")).unwrap_err();
    assert_eq!(missing[0].rule, "file");
}

#[test]
fn a_topic_is_owned_by_whom_the_narrowest_name_says_and_a_misspelt_one_is_found() {
    let owned = |owners: &str| {
        let files = [("order.placed/1.avsc", PLACED), ("order.placed/example.json", EXAMPLE_PLACED), (OWNERS, owners)];
        let files = files.map(|(file, text)| (file.to_owned(), text.replace('\'', "\"").into_bytes()));
        let said = |found: Vec<ContractError>| found.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
        check(&files.into()).map(|contracts| contracts[0].owners.join(", ")).map_err(said)
    };
    let everybody = "{'shop.order.v1': ['Orders'], 'shop.order.*': ['Shop', 'Web'], '*': ['All']}";
    assert_eq!(owned(everybody), Ok("Orders".into()));
    assert_eq!(owned(&but(everybody, "'shop.order.v1': ['Orders'], ", "")), Ok("Shop, Web".into()));
    assert_eq!(owned("{}"), Ok(String::new()));

    let misspelt = "owners.json $[\"shop.ordr.*\"] [owners]: no contract is of `shop.ordr.*`, the nearest known is \
                    `shop.order.v1`";
    assert_eq!(owned("{'shop.ordr.*': ['Orders']}"), Err(misspelt.into()));
    let list = "say for topics who answers for them, as {\"shop.order.*\": [\"orders@shop.example\"]}";
    for wrong in ["'Orders'", "[]", "[7]", "[' ']"] {
        let said = format!("owners.json $[\"*\"] [owners]: {list}");
        assert_eq!(owned(&format!("{{'*': {wrong}}}")), Err(said));
    }
    assert!(owned("[]").unwrap_err().starts_with(&format!("owners.json $ [owners]: {list}: ")));
}
