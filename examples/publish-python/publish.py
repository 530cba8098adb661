"""Publishes one event with the CloudEvents SDK, and sends it again until the gateway has an answer that is final.

usage: publish.py GATEWAY TOKEN_FILE TYPE DATA
       publish.py http://127.0.0.1:7070 .millrace/gateway/token user.erased '{"user_id": "…", "requested_by": "…"}'
"""

import http.client
import json
import sys
import time
import urllib.error
import urllib.request
import uuid
from datetime import datetime, timezone
from pathlib import Path

from cloudevents.http import CloudEvent, to_structured

# Longer than the gateway's own deadline of 10 s, so that its answer is heard.
ATTEMPT_SECONDS = 15
# Then the caller keeps the event, or gives up.
DEADLINE_SECONDS = 60


def main():
    gateway, token_file, event_type, data = sys.argv[1:]
    # The id is the event's identity everywhere: whoever sends the event again keeps it. One that is no UUIDv7 (which
    # Python has from 3.14 on) comes with a time.
    attributes = {
        "id": str(uuid.uuid4()),
        "time": datetime.now(timezone.utc).isoformat(),
        "type": event_type,
        "source": "/examples/python",
        "datacontenttype": "application/json",
    }
    headers, body = to_structured(CloudEvent(attributes, json.loads(data)))
    headers["authorization"] = f"Bearer {Path(token_file).read_text().strip()}"
    status, answer = publish(urllib.request.Request(f"{gateway}/v1/events", body, headers))
    print(answer)
    if is_passing(status):
        print(f"{attributes['id']} may be in the log or not: whoever sends it again keeps this id and the time", file=sys.stderr)
    sys.exit(0 if status == 202 else 1)


def publish(request):
    """The same bytes, and so the same id, each time."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while True:
        status, answer, wait = attempt(request)
        if not is_passing(status) or time.monotonic() + wait > deadline:
            return status, answer
        time.sleep(wait)


def is_passing(status):
    """What is worth sending again. No status is no answer; of a 5xx, too, nobody knows what came of it."""
    return status is None or status in (408, 429) or status >= 500


def attempt(request):
    """Status, answer, and how many seconds to wait before the next attempt. No status: nobody knows what came of it."""
    try:
        with urllib.request.urlopen(request, timeout=ATTEMPT_SECONDS) as answer:
            return answer.status, answer.read().decode(), 0
    except urllib.error.HTTPError as refused:
        after = refused.headers.get("retry-after", "")  # a proxy may send a date
        return refused.code, refused.read().decode(errors="replace"), max(int(after), 1) if after.isdigit() else 1
    except (OSError, http.client.HTTPException) as broken:
        return None, f"no answer: {broken}", 1


if __name__ == "__main__":
    main()
