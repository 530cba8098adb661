"""Publishes one event with nothing of Millrace's: a Kafka client, an Avro library, and the registry's HTTP API.

usage: publish.py TYPE TOPIC SUBJECT_RECORD KEY_FIELD BODY_JSON
       publish.py review.written shop.review.v1 shop.review.ReviewWritten review_id '{"review_id": "…", …}'
"""

import io
import json
import struct
import sys
import time
import urllib.request
import uuid
from datetime import datetime, timezone

import fastavro
from confluent_kafka import Producer

BROKERS = "127.0.0.1:19092"
REGISTRY = "http://127.0.0.1:7071"


def main():
    event_type, topic, record, key_field, text = sys.argv[1:]
    body = json.loads(text)
    registered = ask(f"/subjects/{topic}-{record}/versions/latest")
    datum = io.BytesIO()
    fastavro.schemaless_writer(datum, fastavro.parse_schema(json.loads(registered["schema"])), body)
    value = struct.pack(">bI", 0, registered["id"]) + datum.getvalue()
    headers = {
        "ce_specversion": "1.0",
        # The event's identity everywhere: whoever sends it again keeps it.
        "ce_id": str(uuid7()),
        "ce_source": "/docs",
        "ce_type": event_type,
        "ce_subject": body[key_field],
        "ce_time": datetime.now(timezone.utc).isoformat(timespec="microseconds").replace("+00:00", "Z"),
        "content-type": "application/avro",
    }
    publish(topic, body[key_field], value, headers)
    print(f"published {event_type} {headers['ce_id']}")


def ask(path):
    with urllib.request.urlopen(REGISTRY + path, timeout=10) as answer:
        return json.load(answer)


def publish(topic, key, value, headers):
    # The Java client's partitioner: one key, one partition, whoever publishes.
    producer = Producer({"bootstrap.servers": BROKERS, "enable.idempotence": True, "partitioner": "murmur2_random"})
    failed = []
    producer.produce(topic, value, key, headers=headers, on_delivery=lambda error, _: error and failed.append(error))
    waiting = producer.flush(30)
    if failed or waiting:
        sys.exit(f"not published: {failed or 'no answer within 30 s'}")


def uuid7():
    """Python has it from 3.14 on."""
    milliseconds = time.time_ns() // 1_000_000
    random = uuid.uuid4().int & ((1 << 74) - 1)
    return uuid.UUID(int=milliseconds << 80 | 7 << 76 | (random >> 62) << 64 | 2 << 62 | random & ((1 << 62) - 1))


if __name__ == "__main__":
    main()
