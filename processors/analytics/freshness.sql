-- How fresh each table is: the newest occurred_at in it, how many seconds ago that was (lag_seconds), and the median
-- and the 99th percentile of the time from an event's occurrence to its row (_inserted_at − occurred_at), in whole
-- milliseconds (p50_ms, p99_ms).
--
-- All rows in the table count, so events that were published long after they occurred, or read again from the log,
-- show as slow; of an event that is there twice until ClickHouse merges it, each row, as it is about rows. A table
-- without an event has no row. An event that is dated ahead is as new as its row and hides no standstill. The quantiles
-- are exact, as in page speed. Every table in `events_raw` is one here, the project's own as well.
--
-- Example: the tables that have heard nothing for longest.
-- select table, newest, lag_seconds from metrics.freshness order by lag_seconds desc
select
    _table as table,
    max(least(occurred_at, _inserted_at)) as newest,
    dateDiff('millisecond', newest, now64(3)) / 1000 as lag_seconds,
    quantileExact(0.5)(dateDiff('millisecond', occurred_at, _inserted_at)) as p50_ms,
    quantileExact(0.99)(dateDiff('millisecond', occurred_at, _inserted_at)) as p99_ms
from merge('events_raw', '.*')
group by _table
