"""Verifies one delivery with the Standard Webhooks library.

usage: verify_webhook.py SECRET   reads {"headers": {...}, "body": "..."} on stdin; prints the event's id
"""
import json, sys
from standardwebhooks.webhooks import Webhook

delivery = json.load(sys.stdin)
event = Webhook(sys.argv[1]).verify(delivery["body"], delivery["headers"])
try:
    Webhook(sys.argv[1]).verify(delivery["body"] + " ", delivery["headers"])
    sys.exit("a changed body was accepted")
except Exception:
    pass
print(event["id"])
