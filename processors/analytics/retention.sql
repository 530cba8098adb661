-- Of the users who registered in a week (the cohort), how many were active in the n-th week after, and their share.
-- Active is who started a session signed in, placed an order or had a payment captured, as in active users.
--
-- Weeks are ISO weeks in UTC and cohort_week is their Monday; week 0 is the week of registration itself, in which
-- registering alone is no activity. The earliest user.registered of an account counts; accounts that never
-- registered, as far as is known, are in no cohort. A cohort has a row for each week up to the newest one in which
-- anybody registered or was active, also where none of its users was. Erased accounts stay in their cohort.
--
-- Example: how many of all who registered were back in each of the first four weeks.
-- select week, sum(active) / sum(users) as share from metrics.retention where week between 1 and 4 group by week order by week
with
    registered as (
        select user_id as account, toMonday(min(occurred_at)) as cohort_week
        from events.user_registered
        group by account
    ),
    active_weeks as (
        select distinct toMonday(occurred_at) as active_week, account
        from (
            select occurred_at, assumeNotNull(user_id) as account
            from events.session_started
            where user_id is not null
            union all
            select occurred_at, user_id from events.order_placed
            union all
            select occurred_at, user_id from events.payment_captured
        )
    ),
    newest as (
        select max(week_start) as newest_week
        from (select active_week as week_start from active_weeks union all select cohort_week from registered)
    ),
    cohorts as (select cohort_week, count() as users from registered group by cohort_week),
    returned as (
        select cohort_week, toUInt32(intDiv(active_week - cohort_week, 7)) as week, count() as active
        from active_weeks
        inner join registered using (account)
        where active_week >= cohort_week
        group by cohort_week, week
    ),
    cells as (
        select cohort_week, week, users, 0 as active
        from cohorts
        array join range(toUInt32(intDiv((select newest_week from newest) - cohort_week, 7) + 1)) as week
        union all
        select cohort_week, week, 0, active from returned
    )
select cohort_week, week, users, active, active / users as share
from (
    select cohort_week, week, sum(cells.users) as users, sum(cells.active) as active
    from cells
    group by cohort_week, week
)
