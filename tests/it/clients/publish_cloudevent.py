"""Publishes one event in structured and one in binary mode with the CloudEvents SDK.

usage: publish_cloudevent.py URL KEY   prints the answers as a JSON array
"""
import json, sys, urllib.request, uuid
from datetime import datetime, timezone
from cloudevents.http import CloudEvent, to_binary, to_structured

url, key = sys.argv[1:]
answers = []
for convert in (to_structured, to_binary):
    user = str(uuid.uuid4())
    attributes = {"type": "user.erased", "source": "/python", "id": str(uuid.uuid4()), "subject": user,
                  "time": datetime.now(timezone.utc).isoformat(), "datacontenttype": "application/json"}
    headers, body = convert(CloudEvent(attributes, {"user_id": user, "requested_by": "python"}))
    headers["authorization"] = f"Bearer {key}"
    with urllib.request.urlopen(urllib.request.Request(url, body, headers)) as answer:
        answers.append(json.load(answer))
print(json.dumps(answers))
