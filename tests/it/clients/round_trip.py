"""Registers a schema with Confluent's client, writes with its serializer, and reads with another client's deserializer.

usage: round_trip.py REGISTRY SUBJECT   prints what it found as JSON
"""
import json, sys
from confluent_kafka.schema_registry import Schema, SchemaReference, SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer, AvroSerializer
from confluent_kafka.schema_registry.error import SchemaRegistryError
from confluent_kafka.serialization import MessageField, SerializationContext

url, subject = sys.argv[1:]
fields = [{"name": "id", "type": "string"}, {"name": "amount", "type": ["null", "long"], "default": None}]
text = json.dumps({"type": "record", "name": "Judged", "namespace": "it", "fields": fields})
context = SerializationContext("judged", MessageField.VALUE)

client = SchemaRegistryClient({"url": url})
serialize = AvroSerializer(client, text, conf={"subject.name.strategy": lambda *_: subject})
event = {"id": "één\n", "amount": 42}
value = serialize(event, context)
back = AvroDeserializer(SchemaRegistryClient({"url": url}))(value, context)

registered = client.get_latest_version(subject)
narrower = Schema(text.replace('"long"', '"boolean"'), "AVRO")
before = client.test_compatibility(subject, narrower)
try:
    client.register_schema(subject, narrower)
    refused = None
except SchemaRegistryError as error:
    refused = error.http_status_code
client.set_compatibility(subject_name=subject, level="NONE")
client.register_schema(subject, narrower)
versions = client.get_versions(subject)

holder = {"type": "record", "name": "Holder", "namespace": f"it.{subject}", "fields": [{"name": "one", "type": "it.Judged"}]}
reference = SchemaReference("it.Judged", subject, 1)
holding = client.register_schema(f"{subject}-holder", Schema(json.dumps(holder), "AVRO", [reference]))
referring = SchemaRegistryClient({"url": url}).get_schema(holding).references[0].subject == subject
client.delete_subject(f"{subject}-holder")

level = client.get_compatibility(subject)
listed = subject in client.get_subjects()
looked_up = client.lookup_schema(subject, Schema(text, "AVRO")).schema_id
deleted = client.delete_version(subject, 2)
left = client.get_versions(subject)
gone = client.delete_subject(subject)
print(json.dumps({
    "same": back == event,
    "id_in_value": int.from_bytes(value[1:5], "big"),
    "id": registered.schema_id,
    "looked_up": looked_up,
    "listed": listed,
    "compatible": before,
    "refused": refused,
    "level": level,
    "versions": versions,
    "referring": referring,
    "deleted": deleted,
    "left": left,
    "gone": gone,
    "gone_for_good": client.delete_subject(subject, permanent=True),
}))
