-- Revenue of a day in one currency, in its minor units: captured payments minus refunds,
-- each on the UTC day it occurred. Nothing is summed across currencies.
select day, currency, sum(amount) as revenue
from (
    select toDate(occurred_at) as day, currency, amount from events.payment_captured
    union all
    select toDate(occurred_at) as day, currency, -amount as amount from events.payment_refunded
)
group by day, currency
