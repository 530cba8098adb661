-- Room on each page lets the many updates of a customer stay on it, without touching the index.
create table customer_summary (
    user_id       uuid        primary key,
    registered_at timestamptz,
    orders        bigint      not null default 0,
    last_seen_at  timestamptz,
    erased_at     timestamptz
) with (fillfactor = 70);

-- No foreign key: a spend row is only ever written by who holds its customer's row locked.
create table customer_spend (
    user_id  uuid   not null,
    currency text   not null,
    captured bigint not null,
    refunded bigint not null,
    primary key (user_id, currency)
) with (fillfactor = 70);

comment on table customer_summary is 'One row per account met in shop.account.v1, shop.order.v1 or shop.visit.v1. Holds no personal data, so nothing has to be removed when an account is erased. millrace.checkpoint (pipeline customer_summary) tells which positions of the log it reflects.';
comment on column customer_summary.user_id is 'The account.';
comment on column customer_summary.registered_at is 'When the account was created; null while its registration has not been met.';
comment on column customer_summary.orders is 'Orders placed.';
comment on column customer_summary.last_seen_at is 'When the customer last registered, started a session signed in, placed an order or paid. Null when only refunds or an erasure were met.';
comment on column customer_summary.erased_at is 'When erasure was first asked for; null when it never was. Later facts about the account still count.';

comment on table customer_spend is 'What a customer paid and got back, one row per currency: nothing is summed across currencies. Part of customer_summary. Holds no personal data.';
comment on column customer_spend.user_id is 'The account.';
comment on column customer_spend.currency is 'Currency of the amounts, ISO 4217.';
comment on column customer_spend.captured is 'Sum of all payments, in minor units of currency.';
comment on column customer_spend.refunded is 'Sum of all refunds, in minor units of currency.';
