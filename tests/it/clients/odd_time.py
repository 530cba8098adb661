"""Publishes one record with a timestamp of its producer's choice, which kcat cannot.

usage: odd_time.py BROKERS TOPIC KEY VALUE_AS_HEX MILLISECONDS NAME=VALUE...   prints the record's place as JSON
"""
import json, sys
from confluent_kafka import Producer

brokers, topic, key, value, milliseconds, *headers = sys.argv[1:]
places = []
producer = Producer({"bootstrap.servers": brokers})
producer.produce(topic, bytes.fromhex(value), key, timestamp=int(milliseconds),
                 headers=[(name, text.encode()) for name, _, text in (header.partition("=") for header in headers)],
                 on_delivery=lambda error, message: places.append((str(error), message.partition(), message.offset())))
producer.flush(30)
(error, partition, offset), = places
assert error == "None", error
print(json.dumps({"partition": partition, "offset": offset}))
