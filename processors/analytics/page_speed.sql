-- How long pages took to load on a UTC day, by path, in milliseconds: the time that half of the views (p50_ms), 95 %
-- (p95_ms) and 99 % of them (p99_ms) did not exceed, and how many views there were.
--
-- Quantiles are exact and never interpolated: of n views sorted by load_ms, the one at place floor(q × n), counting
-- from 0. They cannot be averaged over days or paths: ask the events for another grouping.
--
-- Example: the slowest paths among those seen often.
-- select path, max(p95_ms) as worst_p95_ms, sum(views) as seen from metrics.page_speed group by path having seen >= 10 order by worst_p95_ms desc limit 10
select
    day,
    path,
    quantiles[1] as p50_ms,
    quantiles[2] as p95_ms,
    quantiles[3] as p99_ms,
    views
from (
    select
        toDate(occurred_at) as day,
        path,
        quantilesExact(0.5, 0.95, 0.99)(load_ms) as quantiles,
        count() as views
    from events.page_viewed
    group by day, path
)
