"""Deletes the records of a partition that lie before an offset, as retention does.

usage: delete_records.py BROKERS TOPIC PARTITION OFFSET
"""
import sys
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

brokers, topic, partition, offset = sys.argv[1:]
before = TopicPartition(topic, int(partition), int(offset))
admin = AdminClient({"bootstrap.servers": brokers})
for deleted in admin.delete_records([before]).values():
    deleted.result(timeout=30)
print("true")
