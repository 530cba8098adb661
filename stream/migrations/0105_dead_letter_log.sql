alter table millrace.dead_letter
    add column topic_id text not null default '',
    drop constraint dead_letter_pipeline_topic_partition_offset_key,
    add constraint dead_letter_place_key unique (pipeline, topic, topic_id, partition, "offset");
comment on column millrace.dead_letter.topic_id is 'Kafka''s id of the topic, as in millrace.checkpoint: a topic recreated under the same name is another log. Empty for letters from before this column.';
