"""Reads order.placed with Confluent's consumer and deserializer, and the same bytes with fastavro.

usage: read_avro.py BROKERS REGISTRY TOPIC TYPE   prints one event as JSON
"""
import io, json, struct, sys, urllib.request
import fastavro
from confluent_kafka import Consumer
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer
from confluent_kafka.serialization import MessageField, SerializationContext

brokers, registry, topic, event_type = sys.argv[1:]
consumer = Consumer({"bootstrap.servers": brokers, "group.id": "judge", "auto.offset.reset": "earliest"})
consumer.subscribe([topic])
message = None
for _ in range(60):
    polled = consumer.poll(1.0)
    if polled is not None and polled.error() is None and dict(polled.headers() or []).get("ce_type") == event_type.encode():
        message = polled
        break
assert message is not None, f"no {event_type} in {topic}"
consumer.close()

deserialize = AvroDeserializer(SchemaRegistryClient({"url": registry}))
confluent = deserialize(message.value(), SerializationContext(topic, MessageField.VALUE))

magic, schema_id = struct.unpack(">bI", message.value()[:5])
assert magic == 0
with urllib.request.urlopen(f"{registry}/schemas/ids/{schema_id}") as answer:
    schema = fastavro.parse_schema(json.loads(json.load(answer)["schema"]))
fast = fastavro.schemaless_reader(io.BytesIO(message.value()[5:]), schema, None)
assert fast == confluent, (fast, confluent)

headers = {name: value.decode() for name, value in message.headers()}
print(json.dumps({"key": message.key().decode(), "headers": headers, "event": fast}, default=str))
