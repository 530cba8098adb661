//! What a cluster must be like before anything is written to it. Pure: the server is asked elsewhere.

use std::collections::{BTreeMap, BTreeSet};

/// A majority of one is nobody's: then an insert waits for a second replica in vain.
const REPLICAS_MIN: usize = 2;

/// A replica as `system.clusters` has it: its shard, and whether inserts leave copying to the tables.
pub(super) type Replica = (u32, bool);

/// What a shard's servers call it, or one of themselves: shard, macro, value.
pub(super) type Macro = (u32, String, String);

/// # Errors
/// A cluster that is not there, or over which an insert would not be what we take it for.
pub(super) fn check_replicas(cluster: &str, replicas: &[Replica]) -> anyhow::Result<()> {
    anyhow::ensure!(
        !replicas.is_empty(),
        "clickhouse.cluster `{cluster}`: the server has no cluster of that name, or does not show it to this user; \
         `select distinct cluster from system.clusters` lists those it has"
    );
    let mut shards = BTreeMap::<u32, usize>::new();
    for (shard, tables_copy) in replicas {
        anyhow::ensure!(
            tables_copy,
            "clickhouse cluster `{cluster}`: shard {shard} has internal_replication = false, so that each replica \
             would be sent what it copies from the others as well; set it to true in remote_servers"
        );
        *shards.entry(*shard).or_default() += 1;
    }
    for (shard, replicas) in shards {
        anyhow::ensure!(
            replicas >= REPLICAS_MIN,
            "clickhouse cluster `{cluster}`: shard {shard} has {replicas} replica, at least {REPLICAS_MIN} are needed, \
             and 3 to go on without one: an insert is done when most of them have it"
        );
    }
    Ok(())
}

/// Each shard must have a name of its own, since a table's rows are kept under it; and its servers one each.
///
/// # Errors
/// A macro that is missing, or two shards of one name: these would copy each other's rows, and all would count twice.
pub(super) fn check_macros(cluster: &str, replicas: &[Replica], macros: &[Macro]) -> anyhow::Result<()> {
    let shards: BTreeSet<u32> = replicas.iter().map(|(shard, _)| *shard).collect();
    let mut names = BTreeMap::new();
    for shard in shards {
        let value = |name| macros.iter().find(|(of, found, _)| *of == shard && found == name).map(|(.., value)| value);
        for name in ["shard", "replica"] {
            anyhow::ensure!(
                value(name).is_some_and(|value| !value.is_empty()),
                "clickhouse cluster `{cluster}`: a server of shard {shard} has no macro {{{name}}}; \
                 set it in the server's configuration, under macros"
            );
        }
        if let Some(other) = value("shard").and_then(|name| names.insert(name, shard)) {
            anyhow::bail!(
                "clickhouse cluster `{cluster}`: shards {other} and {shard} have the same macro {{shard}}, and would \
                 hold the same rows; give each a value of its own"
            );
        }
    }
    Ok(())
}

/// # Errors
/// Tables that the asked server can't write to: it has lost Keeper, or its tables never found it.
pub(super) fn check_writable(read_only: &[String]) -> anyhow::Result<()> {
    anyhow::ensure!(
        read_only.is_empty(),
        "clickhouse has {} read-only for the moment: is its Keeper up? `select table, zookeeper_exception from \
         system.replicas where is_readonly` says more",
        read_only.join(", ")
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO_BY_TWO: [Replica; 4] = [(1, true), (1, true), (2, true), (2, true)];

    fn macros(values: &[(u32, &str, &str)]) -> Vec<Macro> {
        values.iter().map(|(shard, name, value)| (*shard, (*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn a_cluster_of_replicated_shards_is_good() {
        let names = [(1, "shard", "a"), (1, "replica", "a1"), (2, "replica", "b2"), (2, "shard", "b"), (2, "x", "")];
        check_replicas("main", &TWO_BY_TWO).unwrap();
        check_macros("main", &TWO_BY_TWO, &macros(&names)).unwrap();
        check_writable(&[]).unwrap();
    }

    #[test]
    fn a_cluster_whose_inserts_would_not_be_what_we_take_them_for_is_refused() {
        let refused = |replicas: &[Replica]| check_replicas("main", replicas).unwrap_err().to_string();
        assert!(refused(&[]).starts_with("clickhouse.cluster `main`: the server has no cluster of that name"));
        assert!(refused(&[(1, true), (1, false)]).contains("shard 1 has internal_replication = false"));
        assert!(refused(&[(1, true), (1, true), (2, true)]).contains("shard 2 has 1 replica, at least 2 are needed"));
    }

    #[test]
    fn shards_that_would_hold_each_others_rows_are_refused() {
        let refused =
            |names: &[(u32, &str, &str)]| check_macros("main", &TWO_BY_TWO, &macros(names)).unwrap_err().to_string();
        let (one, two) = ([(1, "shard", "a"), (1, "replica", "r")], [(2, "shard", "a"), (2, "replica", "r")]);
        assert!(refused(&[one, two].concat()).contains("shards 1 and 2 have the same macro {shard}"));
        assert!(refused(&one).contains("a server of shard 2 has no macro {shard}"));
        assert!(refused(&[&one[..1], &two].concat()).contains("a server of shard 1 has no macro {replica}"));
    }

    #[test]
    fn a_server_that_lost_keeper_is_refused_by_its_tables() {
        let error = check_writable(&["order_placed".into(), "page_viewed".into()]).unwrap_err().to_string();
        assert!(error.starts_with("clickhouse has order_placed, page_viewed read-only"), "{error}");
    }
}
