"""Asks the engine's endpoint with clickhouse-connect, the client that analysts' notebooks use.

usage: query_clickhouse.py URL   prints what it found as JSON
"""
import json, sys
from urllib.parse import urlsplit
import clickhouse_connect

url = urlsplit(sys.argv[1])
client = clickhouse_connect.get_client(host=url.hostname, port=url.port)
rows = client.query("select order_id, total, currency, occurred_at from events.order_placed order by order_id limit 3")
count = client.command("select count() from events.order_placed")
named = client.query("select {n:Int32} + 1 as n", parameters={"n": 41}).result_rows[0][0]
client.command("create table if not exists default.judge (id UInt32, name String) engine = MergeTree order by id")
client.insert("judge", [[1, "één"], [2, "two\nlines\x00"]], column_names=["id", "name"])
back = client.query("select name from judge order by id").result_rows
client.command("drop table judge")
try:
    client.query("select nonsense")
    error = None
except Exception as failure:
    error = str(failure)
print(json.dumps({"columns": rows.column_names, "rows": len(rows.result_rows), "count": count, "named": named,
                  "back": [row[0] for row in back], "error": error}))
