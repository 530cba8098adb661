create table millrace.standstill (
    topic text        not null primary key,
    until text        not null,
    since timestamptz not null default now()
);
comment on table millrace.standstill is 'Topics of which nothing is written, also when whoever asked for it and its locks are gone.';
comment on column millrace.standstill.until is 'The table in events_shadow that must be gone first: then no exchange with it can be carried out late.';

create function millrace.may_begin(kind int, of_topic text) returns boolean language plpgsql as $$
begin
    if not pg_try_advisory_xact_lock_shared(kind, hashtext(of_topic)) then
        return false;
    end if;
    -- A statement of its own, so that it sees what was written before the lock was free.
    return not exists (select from millrace.standstill where topic = of_topic);
end
$$;
comment on function millrace.may_begin is 'Takes an advisory lock, shared and until the end of the transaction, unless somebody has it or the topic stands still.';
