create table if not exists events_raw.`order_placed` (
    `order_id` UUID comment 'The new order.',
    `user_id` UUID comment 'The customer\'s account.',
    `session_id` Nullable(UUID) comment 'The session the order was placed in; null when it was placed elsewhere, such as by phone.',
    `lines.product_id` Array(UUID) comment 'The product ordered.',
    `lines.quantity` Array(Int32) comment 'Units ordered, at least 1.',
    `lines.unit_price` Array(Int64) comment 'Price of one unit after discounts, in minor units of the order\'s currency.',
    `total` Int64 comment 'Sum of quantity times unit_price over the lines, in minor units of currency.',
    `currency` LowCardinality(String) comment 'Currency of total and of the lines\' prices, ISO 4217, such as EUR.',
    `coupon` Nullable(String) comment 'Coupon code used, its discount already in the lines\' prices; null when none was.',
    `event_id` UUID comment 'The event\'s identity, chosen by its producer and kept on every retry.',
    `occurred_at` DateTime64(6, 'UTC') comment 'When it happened, in UTC.',
    `subject` String comment 'Id of what it happened to: the key of its topic.',
    `source` LowCardinality(String) comment 'Who published it.',
    `trace_id` String comment 'W3C trace it belongs to; empty when it came without one.',
    `_topic` LowCardinality(String) comment 'Topic the event was read from.',
    `_partition` Int32 comment 'Partition of that topic.',
    `_offset` Int64 comment 'Offset in that partition.',
    `_recorded_at` Nullable(DateTime64(6, 'UTC')) comment 'When the publisher handed it to the log; null when it didn\'t say.',
    `_schema_id` UInt32 comment 'Registry id of the schema it was written with.',
    `_inserted_at` DateTime64(3, 'UTC') default now64(3) comment 'When this row was inserted here, in UTC.'
)
engine = ReplacingMergeTree
partition by toYYYYMM(occurred_at)
primary key (toStartOfHour(occurred_at), subject)
order by (toStartOfHour(occurred_at), subject, event_id)
settings non_replicated_deduplication_window = 10000, min_age_to_force_merge_seconds = 86400, min_age_to_force_merge_on_partition_only = 1
comment 'A customer confirmed a basket; nothing has been paid yet.';

create or replace view events.`order_placed` (
    `order_id` UUID comment 'The new order.',
    `user_id` UUID comment 'The customer\'s account.',
    `session_id` Nullable(UUID) comment 'The session the order was placed in; null when it was placed elsewhere, such as by phone.',
    `lines.product_id` Array(UUID) comment 'The product ordered.',
    `lines.quantity` Array(Int32) comment 'Units ordered, at least 1.',
    `lines.unit_price` Array(Int64) comment 'Price of one unit after discounts, in minor units of the order\'s currency.',
    `total` Int64 comment 'Sum of quantity times unit_price over the lines, in minor units of currency.',
    `currency` LowCardinality(String) comment 'Currency of total and of the lines\' prices, ISO 4217, such as EUR.',
    `coupon` Nullable(String) comment 'Coupon code used, its discount already in the lines\' prices; null when none was.',
    `event_id` UUID comment 'The event\'s identity, chosen by its producer and kept on every retry.',
    `occurred_at` DateTime64(6, 'UTC') comment 'When it happened, in UTC.',
    `subject` String comment 'Id of what it happened to: the key of its topic.',
    `source` LowCardinality(String) comment 'Who published it.',
    `trace_id` String comment 'W3C trace it belongs to; empty when it came without one.',
    `_topic` LowCardinality(String) comment 'Topic the event was read from.',
    `_partition` Int32 comment 'Partition of that topic.',
    `_offset` Int64 comment 'Offset in that partition.',
    `_recorded_at` Nullable(DateTime64(6, 'UTC')) comment 'When the publisher handed it to the log; null when it didn\'t say.',
    `_schema_id` UInt32 comment 'Registry id of the schema it was written with.',
    `_inserted_at` DateTime64(3, 'UTC') comment 'When this row was inserted here, in UTC.'
)
definer = current_user sql security definer
comment 'A customer confirmed a basket; nothing has been paid yet.'
as select `order_id`, `user_id`, `session_id`, `lines.product_id`, `lines.quantity`, `lines.unit_price`, `total`, `currency`, `coupon`, `event_id`, `occurred_at`, `subject`, `source`, `trace_id`, `_topic`, `_partition`, `_offset`, `_recorded_at`, `_schema_id`, `_inserted_at`
from events_raw.`order_placed` final
settings do_not_merge_across_partitions_select_final = 1;
