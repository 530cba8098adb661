//! What a rebuild asks of the server, as SQL.

use super::super::column::{quote, text_literal};
use super::super::table::{Column, Found, SHADOW, Table};
use millrace_stream::Range;

/// The places of these ranges.
pub(super) fn within(ranges: &[Range]) -> String {
    let one = |range: &Range| {
        let Range { topic, partition, from, to } = range;
        let topic = text_literal(topic);
        format!("(_topic = {topic} and _partition = {partition} and _offset >= {from} and _offset < {to})")
    };
    format!("({})", ranges.iter().map(one).collect::<Vec<_>>().join(" or "))
}

/// Rows of these ranges whose event the shadow has nowhere: one share of them, as many as `shares`.
pub(super) fn not_given(shadow: &Table, ranges: &[Range], share: u64, shares: u64) -> String {
    let of_share = format!("cityHash64(event_id) % {shares} = {share}");
    format!(
        "{} and {of_share} and event_id not in (select event_id from {} where {of_share})",
        within(ranges),
        shadow.raw()
    )
}

/// Of these, those at whose place the shadow has no other event.
pub(super) fn let_go(shadow: &Table, ranges: &[Range], share: u64, shares: u64) -> String {
    format!(
        "{} and (_partition, _offset) not in (select _partition, _offset from {} where {})",
        not_given(shadow, ranges, share, shares),
        shadow.raw(),
        within(ranges)
    )
}

/// Takes rows out again, and returns when they are gone.
pub(super) fn leave_out(shadow: &Table, range: &Range, offsets: &[i64]) -> String {
    let Range { topic, partition, .. } = range;
    let (topic, offsets) = (text_literal(topic), offsets.iter().map(i64::to_string).collect::<Vec<_>>().join(", "));
    format!(
        "delete from {} where _topic = {topic} and _partition = {partition} and _offset in ({offsets})
         settings lightweight_deletes_sync = 2",
        shadow.raw()
    )
}

/// Every shadow of one table.
pub(super) const SHADOWS: &str = "select name from system.tables
    where database = 'events_shadow' and splitByChar('-', name)[1] = {table:String}";

/// An empty table like the one in use, with what somebody added to that by hand.
pub(super) fn create(table: &Table, shadow: &Table) -> [String; 2] {
    [format!("create database if not exists {SHADOW}"), format!("create table {} as {}", shadow.raw(), table.raw())]
}

/// Rows from the table in use to its shadow, which has all its columns.
pub(super) fn copy(table: &Table, shadow: &Table, found: &Found, which: &str) -> String {
    let (live, wanted) = (columns(found, table), columns(found, shadow));
    let stored: Vec<_> = live.iter().filter(|column| column.computed.is_none()).collect();
    let names: Vec<_> = stored.iter().map(|column| quote(&column.name)).collect();
    let values: Vec<_> = stored.iter().map(|column| value(column, wanted)).collect();
    // Two copies of the same rows are two inserts that look alike. A null where there can be none is an error.
    format!(
        "insert into {} ({}) select {} from {} where {which}
         settings insert_deduplicate = 0, deduplicate_insert = 'disable', deduplicate_insert_select = 'disable',
         max_partitions_per_insert_block = 0, insert_null_as_default = 0, timeout_overflow_mode = 'throw'",
        shadow.raw(),
        names.join(", "),
        values.join(", "),
        table.raw()
    )
}

/// An insert alone would make another number of one that does not fit.
fn value(column: &Column, wanted: &[Column]) -> String {
    let name = quote(&column.name);
    match wanted.iter().find(|wanted| wanted.name == column.name) {
        Some(wanted) if wanted.type_name != column.type_name => {
            format!("accurateCast({name}, {})", text_literal(&wanted.type_name))
        }
        _ => name,
    }
}

/// Those that the table in use has and its shadow not.
pub(super) fn add_columns(table: &Table, shadow: &Table, found: &Found) -> Vec<String> {
    let (shadow, there) = (shadow.raw(), columns(found, shadow));
    let lacking = |column: &&Column| there.iter().all(|other| other.name != column.name);
    let add = |column: &Column| format!("alter table {shadow} add column {}", column.definition());
    columns(found, table).iter().filter(lacking).map(add).collect()
}

fn columns<'f>(found: &'f Found, table: &Table) -> &'f [Column] {
    found.get(&table.found_as()).map_or(&[], |described| described.columns.as_slice())
}

/// By partition: rows, and the sum of the first eight bytes of their hashes.
pub(super) fn sums(table: &Table, ranges: &[Range]) -> String {
    let columns: Vec<_> = table.insert_columns().map(|column| quote(&column.name)).collect();
    format!(
        "select _partition, count(), sum(reinterpretAsUInt64(SHA256(formatRow('RowBinary', {}))))
         from {} where {} group by _partition",
        columns.join(", "),
        table.raw(),
        within(ranges)
    )
}

/// Events of these ranges, each once.
pub(super) fn events(table: &Table, ranges: &[Range]) -> String {
    format!(
        "select count() from {} final where {} settings do_not_merge_across_partitions_select_final = 1",
        table.raw(),
        within(ranges)
    )
}

/// Events behind what was settled when the rebuild began, also of partitions that were not known then. By place, since a
/// time can't be trusted where the clock was set.
pub(super) fn came_meanwhile(table: &Table, topic: &str, begun: &[(i32, i64)]) -> String {
    let before = |(partition, next): &(i32, i64)| format!("not (_partition = {partition} and _offset < {next})");
    let behind: Vec<_> = begun.iter().map(before).collect();
    format!(
        "select uniqExact(event_id) from {} where _topic = {} and {}",
        table.raw(),
        text_literal(topic),
        behind.join(" and ")
    )
}

pub(super) fn uuid(table: &Table) -> String {
    let found_as = text_literal(&table.found_as());
    format!("select toString(uuid) from system.tables where concat(database, '.', name) = {found_as}")
}

pub(super) fn exchange(table: &Table, shadow: &Table) -> String {
    format!("exchange tables {} and {}", table.raw(), shadow.raw())
}

/// Servers refuse to drop more than 50 GB unless told so, and a rebuild that can't drop its table would keep its topic
/// from going on.
const ANY_SIZE: &str = "settings max_table_size_to_drop = 0";

/// Its name is gone at once, its rows a little later.
pub(super) fn drop(shadow: &str) -> String {
    format!("drop table if exists {SHADOW}.{} {ANY_SIZE}", quote(shadow))
}

/// The room that it took is free at once, too.
pub(super) fn drop_with_its_rows(shadow: &str) -> String {
    format!("drop table if exists {SHADOW}.{} sync {ANY_SIZE}", quote(shadow))
}

#[cfg(test)]
mod tests {
    use super::*;
    use millrace_schemas::Contracts;

    #[test]
    fn what_came_meanwhile_is_told_by_its_place_alone() {
        let contracts = Contracts::embedded().unwrap();
        let table = Table::of(contracts.get("order.placed").unwrap()).unwrap();
        assert_eq!(
            came_meanwhile(&table.shadow("1"), "shop.order.v1", &[(0, 7), (1, 9)]),
            "select uniqExact(event_id) from events_shadow.`order_placed-1` where _topic = 'shop.order.v1' \
             and not (_partition = 0 and _offset < 7) and not (_partition = 1 and _offset < 9)"
        );
    }
}
