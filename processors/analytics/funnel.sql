-- How far the sessions started on a UTC day came, each step after the one before and all within 24 hours of the
-- start: started, viewed a product, added to the cart, ordered, paid. A row is one step of one day.
--
-- Started is the session's earliest session.started, and its day is the funnel's. Viewed is a page.viewed with a
-- product_id, added any cart.item_added, ordered an order.placed with the session's id. Paid is the first
-- payment.captured of an order that counts as ordered, not before that order. Two steps at the same microsecond are
-- in order; exactly 24 hours after the start is still within. Of several ways through a session the one that leads
-- furthest counts, and a session that never started, as far as is known, is none. Every day with a session has all
-- five steps, also those that nobody reached; position numbers them.
--
-- Example: the share of all sessions that reached each step.
-- select step, sum(sessions) / max(sum(sessions)) over () as share from metrics.funnel group by step, position order by position
with
    steps as (
        select session_id, 'started' as step, occurred_at as at, occurred_at as paid_at from events.session_started
        union all
        select session_id, 'viewed', occurred_at, occurred_at from events.page_viewed where product_id is not null
        union all
        select session_id, 'added', occurred_at, occurred_at from events.cart_item_added
        union all
        select assumeNotNull(session_id), 'ordered', occurred_at, occurred_at
        from events.order_placed
        where session_id is not null
        union all
        select assumeNotNull(session_id), 'paid', occurred_at, captured_at
        from events.order_placed
        inner join (
            select order_id, min(occurred_at) as captured_at from events.payment_captured group by order_id
        ) as captures using (order_id)
        where session_id is not null
    ),
    sessions_started as (
        select
            session_id,
            minIf(at, step = 'started') as started_at,
            started_at + toIntervalHour(24) as until,
            groupArrayIf(at, step = 'viewed') as views,
            groupArrayIf(at, step = 'added') as additions,
            groupArrayIf(at, step = 'ordered') as orders,
            groupArrayIf((at, paid_at), step = 'paid') as payments
        from steps
        group by session_id
        having countIf(step = 'started') > 0
    ),
    -- The earliest time of a step leaves the most to the next. Where there is none it is 1970, and nothing rests on it.
    walks as (
        select
            toDate(started_at) as day,
            arrayFilter(view -> view between started_at and until, views) as viewed,
            arrayFilter(addition -> addition between arrayMin(viewed) and until, additions) as added,
            arrayFilter(placed -> placed between arrayMin(added) and until, orders) as ordered,
            arrayFilter(
                payment -> payment.1 >= arrayMin(added) and payment.2 between payment.1 and until, payments
            ) as paid
        from sessions_started
    ),
    reached as (
        select
            day,
            multiIf(empty(viewed), 1, empty(added), 2, empty(ordered), 3, empty(paid), 4, 5) as furthest
        from walks
    )
select
    day,
    ['started', 'viewed', 'added', 'ordered', 'paid'][position] as step,
    position,
    countIf(furthest >= position) as sessions
from reached
array join [1, 2, 3, 4, 5] as position
group by day, position
