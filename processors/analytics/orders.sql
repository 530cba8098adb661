-- Gross orders of a UTC day in one currency: how many were placed, the sum of their totals in the currency's minor
-- units (gross), and the mean total of an order (average).
--
-- Gross is what was ordered: whether it was paid, and what was refunded later, is revenue's matter. Each order.placed
-- counts, so orders are counted by event and not by order_id.
--
-- Example: what an average order in euros comes to in each month.
-- select toStartOfMonth(day) as month, sum(gross) / sum(orders) as average from metrics.orders where currency = 'EUR' group by month order by month
select
    toDate(occurred_at) as day,
    currency,
    count() as orders,
    sum(total) as gross,
    gross / orders as average
from events.order_placed
group by day, currency
