"""Lets a topic refuse what it took before, as somebody's mistake might.

usage: spoil_topic.py BROKERS TOPIC [BYTES]   no record may be larger; without BYTES the topic is deleted. prints true
"""
import sys, time
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

brokers, topic, *size = sys.argv[1:]
admin = AdminClient({"bootstrap.servers": brokers})
if size:
    limit = ConfigEntry("max.message.bytes", size[0], incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[limit])
    changes = admin.incremental_alter_configs([resource])
else:
    changes = admin.delete_topics([topic])
for change in changes.values():
    change.result(30)
deadline = time.monotonic() + 60
while not size and topic in admin.list_topics(timeout=30).topics:  # the controller knows before the brokers do
    assert time.monotonic() < deadline, f"{topic} is still there"
    time.sleep(0.1)
print("true")
