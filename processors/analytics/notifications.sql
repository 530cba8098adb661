-- Outcomes of the notifications requested on a UTC day, by channel: how many were requested, how many of them were
-- delivered (on any day, at any attempt), delivered divided by requested (share), and the 95th percentile of the
-- time from request to delivery in milliseconds (p95_ms; null when none was delivered).
--
-- Delivered is an outcome of DELIVERED; FAILED, BOUNCED, REJECTED and UNKNOWN are not. Notifications are counted, not
-- attempts: the first delivery's latency_ms counts. Day and channel are the earliest request's; a delivery of which
-- no request is known is left out. The quantile is exact, as in page speed.
--
-- Example: what share of each channel's notifications arrived.
-- select channel, sum(delivered) / sum(requested) as arrived from metrics.notifications group by channel order by channel
with
    requests as (
        select
            notification_id,
            toDate(min(occurred_at)) as day,
            argMin(channel, (occurred_at, toString(event_id))) as requested_by
        from events.notification_requested
        group by notification_id
    ),
    deliveries as (
        select
            notification_id,
            argMin(latency_ms, (occurred_at, toString(event_id))) as first_latency_ms,
            1 as arrived
        from events.notification_delivered
        where outcome = 'DELIVERED'
        group by notification_id
    )
select
    day,
    requested_by as channel,
    count() as requested,
    countIf(arrived = 1) as delivered,
    delivered / requested as share,
    quantileExactOrNullIf(0.95)(first_latency_ms, arrived = 1) as p95_ms
from requests
left join deliveries using (notification_id)
group by day, channel
