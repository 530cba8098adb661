-- Monthly recurring revenue at the end of a UTC day in one currency, in its minor units: the running sum of
-- subscription.changed.mrr_delta over all changes that occurred until then.
--
-- A currency has a row for each day from its first change to the newest change in any currency, also for days on
-- which nothing changed. A change that arrives late counts from the day it occurred on, so it moves the days after
-- it. What an overdue subscription is worth is its events' choice: their deltas are summed as they are.
--
-- Example: MRR at the end of each month.
-- select toStartOfMonth(day) as month, currency, argMax(mrr, day) as mrr_at_end from metrics.mrr group by month, currency order by month, currency
with
    changes as (
        select toDate(occurred_at) as changed_on, currency, mrr_delta as delta from events.subscription_changed
    ),
    days as (
        select changed_on as day, currency, delta from changes
        union all
        select first_day + days_later, currency, 0
        from (select currency, min(changed_on) as first_day from changes group by currency)
        array join range(toUInt32((select max(changed_on) from changes) - first_day + 1)) as days_later
    )
select day, currency, sum(sum(delta)) over (partition by currency order by day) as mrr
from days
group by day, currency
