-- Active users of a UTC day (daily), of the 7 days that end with it (weekly) and of the 30 (monthly): distinct
-- accounts that started a session signed in, placed an order or had a payment captured.
--
-- Sessions of visitors who were not signed in are nobody's. A day is listed when anybody was active on it or in the
-- 29 days before, up to the newest day with activity. A late event counts on the day it occurred. An erased account
-- still counts for what it did: erasure removes who somebody was, not that somebody came.
--
-- Example: the share of a month's users who come on a day.
-- select day, daily / monthly as stickiness from metrics.active_users order by day
with
    active as (
        select distinct toDate(occurred_at) as active_on, account
        from (
            select occurred_at, assumeNotNull(user_id) as account
            from events.session_started
            where user_id is not null
            union all
            select occurred_at, user_id from events.order_placed
            union all
            select occurred_at, user_id from events.payment_captured
        )
    )
select
    active_on + days_ago as day,
    uniqExactIf(account, days_ago = 0) as daily,
    uniqExactIf(account, days_ago < 7) as weekly,
    uniqExact(account) as monthly
from active
array join range(30) as days_ago
where day <= (select max(active_on) from active)
group by day
