create table millrace.checkpoint (
    pipeline   text        not null,
    topic      text        not null,
    partition  int         not null,
    topic_id   text        not null,
    epoch      bigint      not null,
    next       bigint      not null,
    plan       jsonb,
    reached_at timestamptz,
    updated_at timestamptz not null default now(),
    primary key (pipeline, topic, partition)
);
comment on table millrace.checkpoint is 'How far each pipeline is in each partition, and who owns it. Kafka''s own committed offsets only display this.';
comment on column millrace.checkpoint.topic_id is 'Kafka''s id of the topic (KIP-516): a topic recreated under the same name is another log.';
comment on column millrace.checkpoint.epoch is 'Raised by every new owner; a writer with an older one changes nothing.';
comment on column millrace.checkpoint.next is 'The first offset that has not taken effect.';
comment on column millrace.checkpoint.plan is 'The range being written to a store that shares no transaction with this table.';
comment on column millrace.checkpoint.reached_at is 'Log timestamp of the newest record that took effect.';
