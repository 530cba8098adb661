"""Reads OpenMetrics from a URL with Prometheus' own strict parser; prints each family's kind and labels."""

import json
import sys
import urllib.request

from prometheus_client.openmetrics.parser import text_string_to_metric_families

IMPLIED = {"le"}

with urllib.request.urlopen(sys.argv[1]) as answer:
    kind = answer.headers["Content-Type"]
    text = answer.read().decode()

families = {}
for family in text_string_to_metric_families(text):
    labels = sorted({label for sample in family.samples for label in sample.labels} - IMPLIED)
    name = family.name + ("_total" if family.type == "counter" else "")
    families[name] = {"type": family.type, "labels": labels, "samples": len(family.samples), "help": family.documentation}
print(json.dumps({"content_type": kind, "families": families}))
