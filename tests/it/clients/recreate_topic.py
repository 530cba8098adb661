"""Deletes a topic and creates it again under its name, as somebody's script might.

usage: recreate_topic.py BROKERS TOPIC PARTITIONS   prints true once the new topic has its leaders
"""
import sys, time
from confluent_kafka.admin import AdminClient, NewTopic

brokers, topic, partitions = sys.argv[1:]
admin = AdminClient({"bootstrap.servers": brokers})
admin.delete_topics([topic])[topic].result(30)


def leaders():
    found = admin.list_topics(timeout=10).topics.get(topic)
    return [] if found is None else [p.id for p in found.partitions.values() if p.leader >= 0]


def until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def created():
    """The broker may still be busy with the deletion: asked again until it has the new topic."""
    future = admin.create_topics([NewTopic(topic, int(partitions), 1)])[topic]
    return future.exception(30) is None


until(created)
until(lambda: len(leaders()) == int(partitions))
print("true")
