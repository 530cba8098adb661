alter table millrace.dead_letter
    add column event_id uuid,
    drop constraint dead_letter_state_check,
    add constraint dead_letter_state_check check (state in ('open', 'replayed', 'discarded', 'superseded'));
comment on column millrace.dead_letter.event_id is 'Which event the record says it is; null where it does not say.';
comment on column millrace.dead_letter.state is 'superseded: its event took effect by another record.';
create index dead_letter_event on millrace.dead_letter (pipeline, event_id);

-- Letters from before: the header as it was kept, where it is an id as publishers write it.
update millrace.dead_letter l set event_id = case when said.id ~* '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' then said.id::uuid end
from (
    select distinct on (dead_letter.id) dead_letter.id as letter, encode(decode(header ->> 1, 'base64'), 'escape') as id
    from millrace.dead_letter, jsonb_array_elements(headers) with ordinality as it (header, place)
    where header ->> 0 = 'ce_id' and header ->> 1 is not null
    order by dead_letter.id, place
) said
where l.id = said.letter;
