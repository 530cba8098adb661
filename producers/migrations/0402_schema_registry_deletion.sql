alter table millrace.avro_schema
    add column refs     jsonb not null default '[]',
    add column resolved text;
comment on column millrace.avro_schema.refs is 'Which versions define the names that it uses and does not define.';
comment on column millrace.avro_schema.resolved is 'With these definitions in it; null where it needs none.';

alter table millrace.subject_version
    add column deleted_at timestamptz,
    drop constraint subject_version_subject_schema_id_key;
create unique index on millrace.subject_version (subject, schema_id) where deleted_at is null;
comment on column millrace.subject_version.deleted_at is 'Since when it is not listed any more; its number is not given again.';

create table millrace.subject_mode (
    subject text primary key,
    mode    text not null
);
comment on table millrace.subject_mode is 'Whether a subject takes versions; the empty subject speaks for all that say nothing.';
