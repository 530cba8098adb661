create table millrace.delivery (
    id          uuid        primary key,
    event_id    uuid        not null,
    rule        text        not null,
    channel     text        not null,
    endpoint    text        not null,
    body        text        not null,
    traceparent text,
    state       text        not null default 'pending' check (state in ('pending', 'leased', 'delivered', 'failed')),
    due_at      timestamptz not null default now(),
    leased_by   text,
    attempt     int         not null default 0,
    tries       int         not null default 0,
    last_code   int,
    last_error  text,
    created_at  timestamptz not null default now(),
    settled_at  timestamptz
) with (
    -- Rows change state a few times in a second and never again: dead versions must go before they slow a claim down.
    autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 20000,
    autovacuum_analyze_scale_factor = 0.0, autovacuum_analyze_threshold = 20000
);
create index delivery_open on millrace.delivery (channel, endpoint, due_at) where state in ('pending', 'leased');
create index delivery_failed on millrace.delivery (channel, endpoint, settled_at) where state = 'failed';
create index delivery_delivered on millrace.delivery (settled_at) where state = 'delivered';
comment on table millrace.delivery is 'What must reach the outside world: written with the checkpoint, claimed by lease, kept until long after it arrived.';
comment on column millrace.delivery.id is 'UUIDv5 of event, rule, recipient and channel: the same in every attempt, and what the receiver deduplicates by.';
comment on column millrace.delivery.body is 'Exactly what is sent, byte for byte, in every attempt.';
comment on column millrace.delivery.state is 'pending: waits for due_at; leased: being sent, or its sender died; delivered; failed: given up, somebody must look.';
comment on column millrace.delivery.due_at is 'When a worker may take it. Of a leased row: when the lease ends, and the attempt''s outcome is unknown.';
comment on column millrace.delivery.leased_by is 'The process that is sending it.';
comment on column millrace.delivery.attempt is 'Raised by every claim, never lowered: only the newest claim may record an outcome.';
comment on column millrace.delivery.tries is 'Attempts since it was last due for the first time; starts over when a failed delivery is sent again.';
comment on column millrace.delivery.last_code is 'What the receiver answered last, for HTTP its status.';

create table millrace.delivery_attempt (
    delivery    uuid        not null references millrace.delivery on delete cascade,
    attempt     int         not null,
    outcome     text        not null check (outcome in ('delivered', 'retry', 'refused', 'unknown')),
    code        int,
    error       text,
    took_ms     int,
    recorded_at timestamptz not null default now(),
    primary key (delivery, attempt)
);
comment on table millrace.delivery_attempt is 'What came of each attempt at a delivery; as many rows as there were tries, and they go with the delivery.';
comment on column millrace.delivery_attempt.outcome is 'unknown: the lease ended without a word, so the receiver may have got it.';
