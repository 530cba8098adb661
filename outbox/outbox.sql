-- The outbox of one database: apply it as the owner of the schema, in the service's own migrations or with psql.
-- Safe to repeat. PostgreSQL 14 or newer. What each part is for: docs/adr/0014-outbox-by-fences.md.
--
--   service ── insert, in its own transaction ──→ outbox ──→ millrace relay ──→ Kafka
--                                                    └─ what fits no contract ──→ outbox_set_aside

create schema if not exists millrace;

-- One after the other, never in bulk: an order that two transactions share would be lost with `cache`.
create sequence if not exists millrace.outbox_seq as bigint cache 1;

create table if not exists millrace.outbox (
    -- The minute's partition, of four that are used in turn: the relay empties one as a whole, so nothing is ever
    -- deleted or updated here and vacuum has nothing to do.
    slot           smallint    not null default (extract(epoch from clock_timestamp())::bigint / 60 % 4),
    -- `nextval` needs its argument first, and that asks for the transaction's number: whoever drew a seq has one.
    seq            bigint      not null default nextval(case when pg_current_xact_id() is not null then 'millrace.outbox_seq'::regclass end),
    id             uuid        not null default gen_random_uuid(),
    type           text        not null,
    key            text,
    data           json,
    avro           bytea,
    dataschema     text,
    occurred_at    timestamptz not null default now(),
    correlation_id text,
    causation_id   text,
    traceparent    text,
    tracestate     text,
    written_at     timestamptz not null default clock_timestamp(),
    primary key (seq, slot),
    check (num_nonnulls(data, avro) = 1)
) partition by list (slot);
create table if not exists millrace.outbox_0 partition of millrace.outbox for values in (0);
create table if not exists millrace.outbox_1 partition of millrace.outbox for values in (1);
create table if not exists millrace.outbox_2 partition of millrace.outbox for values in (2);
create table if not exists millrace.outbox_3 partition of millrace.outbox for values in (3);
comment on table millrace.outbox is 'Events of this database''s transactions, on their way to the log. Services insert; `millrace relay` publishes, and empties a partition once all of it is published.';
comment on column millrace.outbox.slot is 'Leave it to the default.';
comment on column millrace.outbox.seq is 'The order of publishing. Leave it to the default.';
comment on column millrace.outbox.id is 'The event''s identity everywhere, the same however often it is sent.';
comment on column millrace.outbox.type is 'Names the contract; topic and key follow from it.';
comment on column millrace.outbox.key is 'Not needed. Where it is given it must be the key that the data has.';
comment on column millrace.outbox.data is 'The event as its contract describes it, in JSON.';
comment on column millrace.outbox.avro is 'Or as an Avro datum, of the newest version or of the one that dataschema names.';
comment on column millrace.outbox.dataschema is 'A version of the contract, as <registry>/schemas/ids/<id>; the newest if none.';
comment on column millrace.outbox.occurred_at is 'When it happened.';

-- Up to where everything is published. A sequence, because it is moved with every batch: a row would leave a dead
-- version each time, which no vacuum removes while somebody's long query runs.
create sequence if not exists millrace.outbox_published as bigint minvalue 0 start 0;
comment on sequence millrace.outbox_published is 'Every event of the outbox up to this seq is in the log, or set aside.';

create table if not exists millrace.outbox_relay (
    one     boolean     primary key default true check (one),
    epoch   bigint      not null default 0,
    owner   text        not null default '',
    backend int         not null default 0,
    until   timestamptz not null default '-infinity'
) with (fillfactor = 50);
insert into millrace.outbox_relay default values on conflict do nothing;
comment on table millrace.outbox_relay is 'Who publishes: one relay at a time, until its lease ends. One row.';
comment on column millrace.outbox_relay.epoch is 'Raised by every owner; only the newest one may say what is published.';
comment on column millrace.outbox_relay.backend is 'The owner''s connection: where that is gone nobody waits for the lease to end.';

create table if not exists millrace.outbox_set_aside (
    seq            bigint      primary key,
    id             uuid        not null,
    type           text        not null,
    key            text,
    data           json,
    avro           bytea,
    dataschema     text,
    occurred_at    timestamptz not null,
    correlation_id text,
    causation_id   text,
    traceparent    text,
    tracestate     text,
    written_at     timestamptz not null,
    set_aside_at   timestamptz not null default clock_timestamp(),
    reason         text        not null
);
comment on table millrace.outbox_set_aside is 'Events that fit no contract: not published, not lost. Repair and `select millrace.outbox_replay(seq)`, or delete.';
comment on column millrace.outbox_set_aside.reason is 'What does not fit and where, of at most 32 places.';

-- Back into the outbox, under its id and behind what is there; true where there was such an event.
create or replace function millrace.outbox_replay(set_aside bigint) returns boolean language sql
begin atomic
    with gone as (delete from millrace.outbox_set_aside where seq = set_aside returning *),
         back as (insert into millrace.outbox (id, type, key, data, avro, dataschema, occurred_at, correlation_id, causation_id, traceparent, tracestate)
                  select id, type, key, data, avro, dataschema, occurred_at, correlation_id, causation_id, traceparent, tracestate
                  from gone returning 1)
    select exists (select from back);
end;

-- Wakes the relay if it sleeps, which it does holding this lock. Only then: commits that notify wait for each other.
create or replace function millrace.outbox_written() returns trigger language plpgsql as $$
begin
    if not pg_try_advisory_xact_lock_shared(7885914471301) then
        perform pg_notify('millrace_outbox', '');
    end if;
    return null;
end $$;
create or replace trigger outbox_written after insert on millrace.outbox
    for each statement execute function millrace.outbox_written();
