//! One server, or a cluster of them: which tables an event type has there, and what each request asks for. Pure.
//!
//! ```text
//! one server                          cluster
//! events.<table>      view, final     events.<table>        view, final
//! events_raw.<table>  the rows        events_raw.<table>    Distributed: by event to its shard
//!                                     events_local.<table>  the rows of a shard, on each of its replicas
//! ```
//!
//! Everybody names `events_raw` and `events`, wherever the rows are ([ADR 0009](../../../docs/adr/0009-clusters.md)).

use super::column::{quote, text_literal};
use super::table::{METRICS, RAW, VIEWS};

/// In a cluster the rows, so that no `events_raw` which holds rows of its own is ever taken for a distributed one.
pub(super) const LOCAL: &str = "events_local";

/// Where the tables are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Topology {
    Single,
    /// The cluster's name in the servers' configuration.
    Cluster(String),
}

/// How many inserts' tokens a table remembers. An insert leaves one per month it touches, and a token is
/// repeated only right after a failure, so this covers far more than one outage.
const WINDOW: u64 = 10_000;

/// A weekend's outage, and then some. The default is an hour, which would end before most outages do.
const WINDOW_SECONDS: u64 = 7 * 24 * 60 * 60;

/// A month that nobody has written to for so long becomes one part: within one part no event is there twice, so views
/// read it as fast as any table. Late events begin the day anew.
const MERGED_AFTER: Kept = Kept::or_another("min_age_to_force_merge_seconds", 24 * 60 * 60);
const WHOLE_MONTHS: Kept = Kept::at_least("min_age_to_force_merge_on_partition_only", 1);

/// A setting of a table that holds rows.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Kept {
    pub name: &'static str,
    /// What a table is made with, and brought to where it has less than will do.
    pub value: u64,
    pub least: u64,
}

impl Kept {
    const fn at_least(name: &'static str, value: u64) -> Self {
        Self { name, value, least: value }
    }

    /// Somebody may choose another value; none is the server's own default.
    const fn or_another(name: &'static str, value: u64) -> Self {
        Self { name, value, least: 1 }
    }
}

/// A request's setting.
pub(super) type Setting = (&'static str, &'static str);

/// One of the tables beneath an event type's view.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Layer {
    pub database: &'static str,
    /// As `system.tables` calls the engine, or the end of it.
    pub kind: &'static str,
    /// As a create statement says it, and `system.tables` after it.
    pub engine: String,
    /// Only a table that holds rows has any.
    pub settings: &'static [Kept],
}

impl Topology {
    /// In the order in which they are made.
    pub fn databases(&self) -> &'static [&'static str] {
        match self {
            Self::Single => &[RAW, VIEWS, METRICS],
            Self::Cluster(_) => &[LOCAL, RAW, VIEWS, METRICS],
        }
    }

    /// What follows a name that a statement creates or alters.
    pub fn on_cluster(&self) -> String {
        match self {
            Self::Single => String::new(),
            Self::Cluster(name) => format!(" on cluster {}", quote(name)),
        }
    }

    /// From the rows upwards: what is above reads, and writes to, what is below.
    pub fn layers(&self, table: &str) -> Vec<Layer> {
        match self {
            Self::Single => vec![Layer {
                database: RAW,
                kind: "ReplacingMergeTree",
                engine: "ReplacingMergeTree".into(),
                settings: const {
                    &[Kept::at_least("non_replicated_deduplication_window", WINDOW), MERGED_AFTER, WHOLE_MONTHS]
                },
            }],
            Self::Cluster(name) => vec![replicated(table), distributed(name, table)],
        }
    }

    /// The engine of a small table that keeps the newest row of a key, and that every server has all of.
    pub fn everywhere(&self, name: &str, newest: &str) -> String {
        match self {
            Self::Single => format!("ReplacingMergeTree({newest})"),
            Self::Cluster(_) => {
                let path = format!("/clickhouse/tables/{}", name.replace('.', "/"));
                format!("ReplicatedReplacingMergeTree('{path}', '{{shard}}-{{replica}}', {newest})")
            }
        }
    }

    /// One of the server's own tables, asked on a server of each shard.
    pub fn system(&self, table: &str) -> String {
        match self {
            Self::Single => format!("system.{table}"),
            Self::Cluster(name) => format!("cluster({}, system.{table})", text_literal(name)),
        }
    }

    /// What an insert asks for beside what it asks of any server.
    pub fn insert_settings(&self) -> &'static [Setting] {
        match self {
            Self::Single => &[],
            Self::Cluster(_) => &[
                // The answer means: the shards have it. Not: the server that was asked will send it some day.
                ("distributed_foreground_insert", "1"),
                // Most replicas of each shard have it, so it outlives any one of them.
                ("insert_quorum", "auto"),
                // One after the other, or no replica could say for certain what is there.
                ("insert_quorum_parallel", "0"),
            ],
        }
    }

    /// What the look at which rows are there asks for.
    pub fn read_settings(&self) -> &'static [Setting] {
        match self {
            Self::Single => &[],
            Self::Cluster(_) => &[
                // A replica that lags refuses to answer, and what no quorum has yet is not shown.
                ("select_sequential_consistency", "1"),
                ("skip_unavailable_shards", "0"),
            ],
        }
    }

    /// What a change of a table asks for.
    pub fn change_settings(&self) -> &'static [Setting] {
        match self {
            Self::Single => &[],
            Self::Cluster(_) => &[
                // Done when every server has done it; one that could not is an error that names it.
                ("distributed_ddl_output_mode", "none"),
                // A replica that has not seen a new column yet would refuse our next block.
                ("alter_sync", "2"),
                // An erasure asks a table that every server has whose rows it means.
                ("allow_nondeterministic_mutations", "1"),
            ],
        }
    }

    /// What a view asks for. Copies of an event lie in one partition, its month being part of what it is, so
    /// partitions need not be merged with each other; and a number without one shard's part is no number.
    pub fn view_settings(&self) -> &'static str {
        match self {
            Self::Single => "do_not_merge_across_partitions_select_final = 1",
            Self::Cluster(_) => "do_not_merge_across_partitions_select_final = 1, skip_unavailable_shards = 0",
        }
    }
}

/// The path names the table and not its UUID: a server that joins later makes its table by the same statement, and
/// must find the others there. Under a UUID of its own it would be a second table, silently.
fn replicated(table: &str) -> Layer {
    Layer {
        database: LOCAL,
        kind: "ReplicatedReplacingMergeTree",
        engine: format!("ReplicatedReplacingMergeTree('/clickhouse/tables/{{shard}}/{LOCAL}/{table}', '{{replica}}')"),
        settings: const {
            &[
                Kept::at_least("replicated_deduplication_window", WINDOW),
                Kept::at_least("replicated_deduplication_window_seconds", WINDOW_SECONDS),
                MERGED_AFTER,
                WHOLE_MONTHS,
            ]
        },
    }
}

/// By the event's own id: all copies of an event meet on one shard, where they are merged, and events spread evenly
/// whatever their key is.
fn distributed(cluster: &str, table: &str) -> Layer {
    let (cluster, local, table) = (text_literal(cluster), text_literal(LOCAL), text_literal(table));
    Layer {
        database: RAW,
        kind: "Distributed",
        engine: format!("Distributed({cluster}, {local}, {table}, cityHash64(event_id))"),
        settings: &[],
    }
}
