-- Share of a day's sessions that led to an order: distinct sessions started on the UTC day, those of them
-- that an order carries the id of (placed on any day), and the second divided by the first.
select
    toDate(occurred_at) as day,
    uniqExact(session_id) as sessions,
    uniqExactIf(session_id, session_id in (
        select assumeNotNull(session_id) from events.order_placed where session_id is not null
    )) as converted,
    converted / sessions as conversion
from events.session_started
group by day
