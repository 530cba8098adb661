create table millrace.dead_letter (
    id          bigint      generated always as identity primary key,
    pipeline    text        not null,
    topic       text        not null,
    partition   int         not null,
    "offset"    bigint      not null,
    logged_at   timestamptz,
    key         bytea,
    value       bytea,
    headers     jsonb       not null,
    reason      text        not null,
    error       text        not null,
    attempts    int         not null default 1,
    state       text        not null default 'open' check (state in ('open', 'replayed', 'discarded')),
    created_at  timestamptz not null default now(),
    settled_at  timestamptz,
    unique (pipeline, topic, partition, "offset")
);
comment on table millrace.dead_letter is 'Records that could not be applied: where they were, every byte of them, and why.';
comment on column millrace.dead_letter.headers is 'Pairs of name and base64 value (or null), in the order they had.';
