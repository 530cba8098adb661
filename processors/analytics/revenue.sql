-- Revenue of a UTC day in one currency, in its minor units: captured payments minus refunds, each on the day it
-- occurred. A refund lowers the day it was given on, however long ago the payment was; nothing is summed across
-- currencies, and a day can be negative.
--
-- Example: revenue in euros, day by day.
-- select day, revenue / 100 as euros from metrics.revenue where currency = 'EUR' order by day
select day, currency, sum(amount) as revenue
from (
    select toDate(occurred_at) as day, currency, amount from events.payment_captured
    union all
    select toDate(occurred_at) as day, currency, -amount as amount from events.payment_refunded
)
group by day, currency
