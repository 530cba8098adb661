alter table millrace.checkpoint add column held_up_by text, add column held_up_since timestamptz;
comment on column millrace.checkpoint.held_up_by is 'Why what comes next has not taken effect, in the words of the last try; null while all is well.';
comment on column millrace.checkpoint.held_up_since is 'When the first of these tries failed.';
