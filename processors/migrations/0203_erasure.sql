create table millrace.erasure (
    subject      text        primary key,
    event_id     uuid        not null,
    requested_at timestamptz not null,
    recorded_at  timestamptz not null default now(),
    erased_at    timestamptz
);
create index erasure_pending on millrace.erasure (recorded_at) where erased_at is null;

comment on table millrace.erasure is 'Whose personal data is to be erased, and when it was: one row per person who asked. Holds ids, which are no personal data here.';
comment on column millrace.erasure.subject is 'Id of the person, as events carry it.';
comment on column millrace.erasure.event_id is 'The latest event that asked for it.';
comment on column millrace.erasure.requested_at is 'When that event happened.';
comment on column millrace.erasure.recorded_at is 'When it was read here: the time promised for the erasure begins.';
comment on column millrace.erasure.erased_at is 'When no table held personal data of this person any more; null until then.';
