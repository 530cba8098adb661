-- Churn of a UTC month, named by its first day: subscriptions that became CANCELLED in it (cancelled), subscriptions
-- that were ACTIVE at its start (active), and the first divided by the second (rate; null when none was active).
--
-- Changes are in the order they occurred in, whenever they arrived; of two at the same microsecond the one with the
-- greater event_id is later. A subscription is ACTIVE at the start when the last of its changes before midnight of
-- the first says so: one in TRIAL or PAST_DUE is not. A change at midnight itself belongs to the month that begins.
-- Became CANCELLED means that the change before said something else or that there was none; a subscription that did
-- so twice in a month counts once in it. It counts whether or not it was ACTIVE at the start, so a month in which
-- many start and stop can exceed 1. A month is listed when a subscription changed in it or was ACTIVE at its start,
-- up to the month of the newest change.
--
-- Example: subscriptions lost and kept, month by month.
-- select month, active, cancelled, round(100 * rate, 1) as percent from metrics.churn order by month
with
    changes as (
        select
            subscription_id,
            status,
            toStartOfMonth(occurred_at) as changed_in,
            lagInFrame(toString(status)) over history as status_before,
            leadInFrame(toNullable(changed_in)) over history as changed_again_in
        from events.subscription_changed
        window history as (
            partition by subscription_id
            order by occurred_at, toString(event_id)
            rows between unbounded preceding and unbounded following
        )
    ),
    months as (
        select
            changed_in as month,
            subscription_id,
            0 as was_active,
            status = 'CANCELLED' and status_before != 'CANCELLED' as was_cancelled
        from changes
        union all
        -- ACTIVE from one change to the next: at the start of every month that begins in between.
        select addMonths(changed_in, month_number), subscription_id, 1, 0
        from changes
        array join range(1, toUInt32(
            1 + dateDiff('month', changed_in, ifNull(changed_again_in, (select max(changed_in) from changes)))
        )) as month_number
        where status = 'ACTIVE'
    )
select
    month,
    countIf(was_active) as active,
    uniqExactIf(subscription_id, was_cancelled) as cancelled,
    if(active = 0, null, cancelled / active) as rate
from months
group by month
