create table millrace.quarantine (
    id         uuid        primary key,
    kept_at    timestamptz not null default now(),
    expires_at timestamptz not null,
    principal  text        not null,
    way        text        not null,
    type       text,
    event_id   uuid,
    errors     jsonb       not null,
    personal   text[]      not null,
    lost       text[]      not null,
    data_bytes int         not null,
    event      text,
    sealed     bytea,
    sealed_by  text,
    bytes      int         not null,
    attempts   int         not null default 0,
    check ((event is null) <> (sealed is null) and (sealed is null) = (sealed_by is null))
);
comment on table millrace.quarantine is 'Events that the gateway refused as invalid and kept, because their senders asked for it or the configuration says so: why, and what may be replayed.';
comment on column millrace.quarantine.id is 'UUIDv5 of principal and event id, so that an event that is sent again takes the place of the first; UUIDv7 where there was no such id.';
comment on column millrace.quarantine.way is 'How the principal proved who it is: key or token.';
comment on column millrace.quarantine.errors is 'What did not fit: JSON pointer, and what was expected. What was found there is in the event, if it was kept.';
comment on column millrace.quarantine.personal is 'Pointers to what was taken out because it is personal, or may be.';
comment on column millrace.quarantine.lost is 'Pointers to what was wrong and is not kept as it was: nobody could tell whether it is right now.';
comment on column millrace.quarantine.data_bytes is 'Of the data, as they were sent.';
comment on column millrace.quarantine.event is 'A CloudEvent in JSON, without what was taken out.';
comment on column millrace.quarantine.sealed is 'The whole event: nonce (12 bytes), then AES-256-GCM over the JSON, with the id as associated data.';
comment on column millrace.quarantine.sealed_by is 'Which key: the begin of the SHA-256 of it.';
comment on column millrace.quarantine.bytes is 'What the row weighs against the bounds of [gateway.quarantine].';
