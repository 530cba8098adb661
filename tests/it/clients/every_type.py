"""Writes events of every type, extremes included, with fastavro, and reads the rows back with clickhouse-connect.

usage: every_type.py contract DIRECTORY                      writes the contract and its example
       every_type.py judge BROKERS REGISTRY CLICKHOUSE SEED  publishes, waits, and prints what differs as JSON
"""
import io, json, math, random, struct, sys, time, urllib.request, uuid
from datetime import date, datetime, timedelta, timezone
from decimal import Context, Decimal
from pathlib import Path
from urllib.parse import urlsplit

TYPE, TOPIC, NAME = "thing.measured", "shop.thing.v1", "shop.thing.ThingMeasured"
FIELDS, EVENTS = 200, 150
WAIT_SECONDS = 120
UTC = timezone.utc
SYMBOLS = ["UNKNOWN", "A", "B_2"]
TEXTS = ["", "\0", "één", "日本語", "👩‍👩‍👧‍👦", "e\u0301", "\u202eright to left", "\n\t'\"\\`", "\U0010ffff", "x" * 5_000]
FLOATS = [0.0, -0.0, math.inf, -math.inf, math.nan]


def logical(base, name, **more):
    return lambda _: {"type": base, "logicalType": name, **more}


def decimal_of(precision, scale):
    return [Decimal(sign + "9" * precision).scaleb(-scale, Context(prec=precision)) for sign in ("", "-")] + [Decimal(0)]


def times(step):
    ends = [datetime(1900, 1, 1, tzinfo=UTC), datetime(2299, 12, 31, 23, 59, 59, tzinfo=UTC), datetime(1970, 1, 1, tzinfo=UTC)]
    return ends + [ends[1] + timedelta(seconds=1) - step, ends[2] - step, ends[2] + step]


def between(earliest, latest, step):
    return lambda dice: earliest + step * dice.randrange((latest - earliest) // step)


def single(number):
    return struct.unpack("f", struct.pack("f", number))[0]


# The schema by the field's number, extremes, and anything else by dice.
BEGIN, END = times(timedelta(seconds=1))[:2]
LEAVES = {
    "bool": (lambda _: "boolean", [True, False], lambda dice: dice.random() < 0.5),
    "int": (lambda _: "int", [0, -1, 2**31 - 1, -2**31], lambda dice: dice.randrange(-2**31, 2**31)),
    "long": (lambda _: "long", [0, -1, 2**63 - 1, -2**63], lambda dice: dice.randrange(-2**63, 2**63)),
    "float": (lambda _: "float", [*FLOATS, single(3.4028234663852886e38), single(1e-45)], lambda dice: single(dice.gauss(0, 1e6))),
    "double": (lambda _: "double", [*FLOATS, sys.float_info.max, 5e-324], lambda dice: dice.gauss(0, 1e100)),
    "string": (lambda _: "string", TEXTS, lambda dice: "".join(map(chr, dice.choices(range(0x4e00, 0x9fff), k=dice.randrange(20))))),
    "bytes": (lambda _: "bytes", [b"", bytes(range(256)), b"\xff\xfe\0"], lambda dice: dice.randbytes(dice.randrange(40))),
    "fixed": (lambda at: {"type": "fixed", "name": f"Fixed{at}", "size": 16}, [b"\0" * 16, b"\xff" * 16], lambda dice: dice.randbytes(16)),
    "enum": (lambda at: {"type": "enum", "name": f"Enum{at}", "symbols": SYMBOLS, "default": "UNKNOWN"}, SYMBOLS, lambda dice: dice.choice(SYMBOLS)),
    "uuid": (logical("string", "uuid"), [uuid.UUID(int=0), uuid.UUID(int=2**128 - 1)], lambda dice: uuid.UUID(int=dice.getrandbits(128))),
    "date": (logical("int", "date"), [date(1900, 1, 1), date(2299, 12, 31), date(1970, 1, 1), date(1969, 12, 31)],
             between(date(1900, 1, 1), date(2299, 12, 31), timedelta(days=1))),
    "micros": (logical("long", "timestamp-micros"), times(timedelta(microseconds=1)), between(BEGIN, END, timedelta(microseconds=1))),
    "price": (logical("bytes", "decimal", precision=9, scale=2), decimal_of(9, 2), lambda dice: Decimal(dice.randrange(-10**9 + 1, 10**9)).scaleb(-2)),
    "huge": (logical("bytes", "decimal", precision=38, scale=10), decimal_of(38, 10),
             lambda dice: Decimal(dice.randrange(-10**38 + 1, 10**38)).scaleb(-10, Context(prec=38))),
    "digits": (lambda at: {"type": "fixed", "name": f"Digits{at}", "size": 8, "logicalType": "decimal", "precision": 18, "scale": 0},
               decimal_of(18, 0), lambda dice: Decimal(dice.randrange(-10**18 + 1, 10**18))),
}


# ---- the contract ----

def field(name, schema):
    return {"name": name, "type": schema, "doc": f"Field {name}."}


class Schemas:
    """Every leaf in every place: each named type has a name of its own."""

    def __init__(self):
        self.used = 0

    def leaf(self, kind):
        self.used += 1
        return LEAVES[kind][0](self.used)

    def record(self, fields):
        self.used += 1
        return {"type": "record", "name": f"Record{self.used}", "doc": "A record.", "fields": fields}

    def leaves(self, around=lambda schema: schema):
        return [field(kind, around(self.leaf(kind))) for kind in LEAVES]

    def deep(self, levels):
        inner = field("down", self.deep(levels - 1)) if levels else field("bottom", array(self.record(self.leaves())))
        return self.record([inner, field("text", "string")])


def array(items):
    return {"type": "array", "items": items}


def maybe(schema):
    return ["null", schema]


AROUND = [lambda s: s, maybe, lambda s: [s, "null"], array, lambda s: array(maybe(s)), lambda s: {"type": "map", "values": s},
          lambda s: {"type": "map", "values": maybe(s)}, lambda s: maybe(array(s))]


def contract():
    make = Schemas()
    fields = [field("thing_id", {"type": "string", "logicalType": "uuid"})]
    fields += [field(f"{kind}{at}", around(make.leaf(kind))) for at, around in enumerate(AROUND) for kind in LEAVES]
    lines = make.record([*make.leaves(maybe), field("parts", array(make.record(make.leaves())))])
    fields += [field("nested", make.record(make.leaves())), field("perhaps", maybe(make.record(make.leaves()))),
               field("lines", array(lines)), field("gaps", array(maybe(make.record(make.leaves())))), field("deep", make.deep(6))]
    kinds = list(LEAVES)
    while len(fields) < FIELDS:
        fields.append(field(f"more{len(fields)}", make.leaf(kinds[len(fields) % len(kinds)])))
    space, _, name = NAME.rpartition(".")
    return {"type": "record", "namespace": space, "name": name, "doc": "Somebody measured a thing in every way.",
            "millrace": {"type": TYPE, "topic": TOPIC, "key": "thing_id"}, "fields": fields}


# ---- values ----

def kind_of(schema):
    for kind, (make, _, _) in LEAVES.items():
        sample = make(0)
        plain = {key: value for key, value in schema.items() if key != "name"} if isinstance(schema, dict) else schema
        if plain == ({key: value for key, value in sample.items() if key != "name"} if isinstance(sample, dict) else sample):
            return kind
    return None


def value(schema, dice, tame=False):
    if kind := kind_of(schema):
        _, extremes, anything = LEAVES[kind]
        return extremes[0] if tame else dice.choice(extremes) if dice.random() < 0.6 else anything(dice)
    if isinstance(schema, list):
        other, = (branch for branch in schema if branch != "null")
        return None if dice.random() < 0.3 else value(other, dice, tame)
    several = range(dice.randrange(4))
    if schema["type"] == "array":
        return [value(schema["items"], dice, tame) for _ in several]
    if schema["type"] == "map":
        return {TEXTS[at + 2]: value(schema["values"], dice, tame) for at in several}
    return {field["name"]: value(field["type"], dice, tame) for field in schema["fields"]}


# ---- columns, as docs/analysts.md and the contract say ----

def strip_null(schema):
    return next(branch for branch in schema if branch != "null") if isinstance(schema, list) else schema


def columns(record, prefix="", path=()):
    """Name, way and schema of each: records within are `a_b`, arrays of records `a.b`."""
    for field in record["fields"]:
        name, schema, way = prefix + field["name"], strip_null(field["type"]), (*path, field["name"])
        is_array = isinstance(schema, dict) and schema["type"] == "array"
        items = strip_null(schema["items"]) if is_array else None
        if isinstance(schema, dict) and schema["type"] == "record":
            yield from columns(schema, name + "_", way)
        elif isinstance(items, dict) and items["type"] == "record":
            yield from columns(items, name + ".", (*way, None))
        else:
            yield name, way, schema


def cell(found, way, schema):
    if not way:
        empty = {"array": [], "map": {}}.get(schema["type"]) if isinstance(schema, dict) and kind_of(schema) is None else None
        return empty if found is None else found
    if found is None:
        return [] if None in way else cell(None, (), schema)
    step, *rest = way
    return [cell(item, rest, schema) for item in found] if step is None else cell(found[step], rest, schema)


def plain(found):
    """The same for both readers: exact, and comparable."""
    if isinstance(found, float):
        return "nan" if math.isnan(found) else struct.pack("d", found).hex()
    if isinstance(found, str):
        return found.encode().hex()
    if isinstance(found, (bytes, bytearray)):
        return bytes(found).hex()
    if isinstance(found, datetime):
        return ((found if found.tzinfo else found.replace(tzinfo=UTC)) - BEGIN) // timedelta(microseconds=1)
    if isinstance(found, dict):
        return {plain(key): plain(inner) for key, inner in found.items()}
    if isinstance(found, (list, tuple)):
        return [plain(inner) for inner in found]
    return found


def write_contract(directory):
    from fastavro import json_writer, parse_schema
    place = Path(directory) / "schemas/avro" / TYPE
    place.mkdir(parents=True)
    (place / "1.avsc").write_text(json.dumps(contract()))
    example = io.StringIO()
    json_writer(example, parse_schema(contract()), [value(contract(), random.Random(1), tame=True)])
    (place / "example.json").write_text(example.getvalue())


def publish(brokers, registry, seed):
    """The published datums by event id."""
    from confluent_kafka import Producer
    from fastavro import parse_schema, schemaless_writer
    body = json.dumps({"schema": json.dumps(contract())}).encode()
    headers = {"content-type": "application/vnd.schemaregistry.v1+json"}
    with urllib.request.urlopen(urllib.request.Request(f"{registry}/subjects/{TOPIC}-{NAME}/versions", body, headers)) as answer:
        schema_id = json.load(answer)["id"]
    dice, schema, producer, sent = random.Random(seed), parse_schema(contract()), Producer({"bootstrap.servers": brokers}), {}
    for _ in range(EVENTS):
        datum, event, thing = io.BytesIO(), uuid.UUID(int=dice.getrandbits(128), version=4), value(contract(), dice)
        schemaless_writer(datum, schema, thing)
        sent[event] = datum.getvalue()
        attributes = {"specversion": "1.0", "id": event, "source": "/judge", "type": TYPE, "subject": thing["thing_id"],
                      "time": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")}
        headers = [("content-type", b"application/avro")] + [(f"ce_{name}", str(text).encode()) for name, text in attributes.items()]
        producer.produce(TOPIC, b"\0" + struct.pack(">I", schema_id) + sent[event], str(thing["thing_id"]), headers=headers)
    assert producer.flush(120) == 0
    return sent


def judge(brokers, registry, clickhouse, seed):
    import clickhouse_connect
    from fastavro import parse_schema, schemaless_reader
    sent, url = publish(brokers, registry, int(seed)), urlsplit(clickhouse)
    client = clickhouse_connect.get_client(host=url.hostname, port=url.port)
    client.apply_server_timezone = False
    table = "events." + TYPE.replace(".", "_")
    deadline = time.monotonic() + WAIT_SECONDS
    while client.command(f"select count() from {table}") < EVENTS and time.monotonic() < deadline:
        time.sleep(0.1)
    wanted = list(columns(contract()))
    names = ", ".join(f"`{name}`" for name, _, _ in wanted)
    read = client.query(f"select event_id, {names} from {table}", query_formats={"String": "bytes"})
    schema, cells, differences = parse_schema(contract()), 0, []
    for event_id, *row in read.result_rows:
        event = schemaless_reader(io.BytesIO(sent.pop(event_id)), schema, None)
        for (name, way, leaf), found in zip(wanted, row, strict=True):
            expected, cells = plain(cell(event, way, leaf)), cells + 1
            if plain(found) != expected:
                differences.append([name, str(plain(found))[:200], str(expected)[:200]])
    print(json.dumps({"fields": len(contract()["fields"]), "columns": len(wanted), "rows": len(read.result_rows), "cells": cells,
                      "missing": len(sent), "different": len(differences), "differences": differences[:20]}))


{"contract": write_contract, "judge": judge}[sys.argv[1]](*sys.argv[2:])
