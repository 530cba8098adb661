create table millrace.avro_schema (
    id         int         primary key check (id > 0),
    schema     text        not null,
    digest     bytea       not null unique,
    created_at timestamptz not null default now()
);
comment on table millrace.avro_schema is 'What a schema id in a record means. Never changed, never reused.';
comment on column millrace.avro_schema.schema is 'As it was first registered.';
comment on column millrace.avro_schema.digest is 'SHA-256 of its JSON without spaces, keys sorted: the same schema has one id, under whatever subjects.';

create table millrace.subject_version (
    subject    text        not null,
    version    int         not null check (version > 0),
    schema_id  int         not null references millrace.avro_schema (id),
    created_at timestamptz not null default now(),
    primary key (subject, version),
    unique (subject, schema_id)
);
create index on millrace.subject_version (schema_id);
comment on table millrace.subject_version is 'The history of each subject, oldest first.';

create table millrace.subject_compatibility (
    subject text primary key,
    level   text not null
);
comment on table millrace.subject_compatibility is 'What a subject asks of its next version; the empty subject speaks for all that say nothing.';
