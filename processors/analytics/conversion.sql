-- Share of a UTC day's sessions that led to an order: distinct sessions started on the day, those of them that an
-- order carries the id of (placed on any day), and the second divided by the first.
--
-- An order placed after midnight converts the day its session started on. Orders without a session, such as those
-- by phone, convert none.
--
-- Example: the conversion of each week.
-- select toMonday(day) as week, sum(converted) / sum(sessions) as share from metrics.conversion group by week order by week
select
    toDate(occurred_at) as day,
    uniqExact(session_id) as sessions,
    uniqExactIf(session_id, session_id in (
        select assumeNotNull(session_id) from events.order_placed where session_id is not null
    )) as converted,
    converted / sessions as conversion
from events.session_started
group by day
