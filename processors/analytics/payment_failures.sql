-- Payment failure rate of a UTC day by method: attempts that failed divided by all that ended (failed + captured).
--
-- Attempts are counted, not orders or payments: a payment that failed twice and was captured at last is two failures
-- and one capture, each on the day it occurred.
--
-- Example: the methods that fail most, over all days.
-- select method, sum(failed) / sum(failed + captured) as failure_rate from metrics.payment_failures group by method order by failure_rate desc
select
    day,
    method,
    countIf(outcome = 'captured') as captured,
    countIf(outcome = 'failed') as failed,
    failed / (failed + captured) as rate
from (
    select toDate(occurred_at) as day, method, 'captured' as outcome from events.payment_captured
    union all
    select toDate(occurred_at) as day, method, 'failed' as outcome from events.payment_failed
)
group by day, method
