-- Room on each page lets the updates of an order (placed, paid, refunded) stay on it, without touching the index.
create table order_status (
    order_id   uuid        primary key,
    user_id    uuid        not null,
    status     text        not null check (status in (
        'placed', 'payment_failed', 'partially_paid', 'paid', 'partially_refunded', 'refunded', 'mixed_currencies')),
    currency   text,
    total      bigint,
    captured   bigint,
    refunded   bigint,
    placed_at  timestamptz,
    updated_at timestamptz not null
) with (fillfactor = 70);

comment on table order_status is 'One row per order, folded from shop.order.v1. Holds no personal data. millrace.checkpoint (pipeline order_status) tells which position of the log it reflects.';
comment on column order_status.order_id is 'The order; the key of its records in the log.';
comment on column order_status.user_id is 'The customer''s account, as the order was placed.';
comment on column order_status.status is 'placed: nothing paid yet. payment_failed: nothing paid yet, and an attempt failed. partially_paid: less than total was captured. paid: total was captured. partially_refunded: part of what was captured was given back. refunded: all of it was. mixed_currencies: money came in more than one currency, so nothing here can be summed; somebody should look.';
comment on column order_status.currency is 'Currency of all amounts, ISO 4217, as the order was placed. Null only while the order is unknown and its payments disagree.';
comment on column order_status.total is 'What was ordered, in minor units of currency. Null until the order itself arrived (its record may be a dead letter while its payments flow).';
comment on column order_status.captured is 'Sum of all payments, in minor units of currency. Null when they came in several currencies.';
comment on column order_status.refunded is 'Sum of all refunds, in minor units of currency. Null when money came in several currencies.';
comment on column order_status.placed_at is 'When the order was placed. Null until the order itself arrived.';
comment on column order_status.updated_at is 'When the latest event of this order happened.';
