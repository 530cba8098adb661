//! Which columns are whose personal data, and the statements that empty them and look whether they are.
//!
//! Names come from contracts, by way of `erasure.personal`, where whoever makes a column notes it: also a column that
//! a publisher brought whose contract this process has never seen.

use super::super::column::{quote, text_literal};
use super::super::config::ClickHouseConfig;
use super::super::exception;
use super::super::server::Server;
use super::super::table::{Found, RAW, SHADOW, Table};
use super::super::topology::{LOCAL, Topology};
use super::PROMISED_WITHIN;
use super::ledger::Recorded;
use chrono::{DateTime, Utc};
use millrace_stream::Failure;
use serde::Serialize;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};

/// Not among the events' tables, so that whoever reads all of those meets nothing else.
pub(in super::super) const DATABASE: &str = "erasure";

/// What `migrate` makes there.
const TABLES: [&str; 2] = ["erasure.subject", "erasure.personal"];

fn statements(topology: &Topology) -> [String; 3] {
    let (on_cluster, [subject, personal]) = (topology.on_cluster(), TABLES);
    [
        format!("create database if not exists {DATABASE}{on_cluster}"),
        format!(
            "create table if not exists {subject}{on_cluster} (
    subject String comment 'Id of the person.',
    event_id UUID comment 'The event that asked for it.',
    recorded_at DateTime64(6, 'UTC') comment 'When it was read.'
)
engine = {}
order by subject
comment 'Everybody whose personal data was erased or is about to be, so that what comes back is found. The truth is millrace.erasure in Postgres.'",
            topology.everywhere(subject, "recorded_at")
        ),
        format!(
            "create table if not exists {personal}{on_cluster} (
    table String comment 'Table in events_raw.',
    column String comment 'Its column with personal data.',
    subject String comment 'Its column with the id of whose data it is.',
    marked_at DateTime64(6, 'UTC') default now64(6) comment 'When whoever made the column said so.'
)
engine = {}
order by (table, column)
comment 'Columns that contracts mark as personal data, noted by whoever makes them.'",
            topology.everywhere(personal, "marked_at")
        ),
    ]
}

const SUBJECTS: &str = "select subject from erasure.subject";

/// Makes room for what erasure has to remember in ClickHouse.
pub(in super::super) async fn prepare(server: &Server) -> Result<(), Failure> {
    for statement in statements(server.topology()) {
        server.execute(&statement).await?;
    }
    Ok(())
}

/// What keeps this server, or the others of its cluster, from knowing whom to look for.
pub(in super::super) fn mismatch(found: &Found, topology: &Topology) -> Option<String> {
    TABLES.iter().find_map(|name| match (found.get(*name), topology) {
        (None, _) => Some(format!("{name} does not exist: run `millrace migrate`")),
        (Some(table), Topology::Cluster(_)) if !table.engine.starts_with("Replicated") => Some(format!(
            "{name} is a {}, which one server has and the others of its cluster don't: drop it and run \
             `millrace migrate`; what was in it is filled in again from Postgres and from contracts",
            table.engine
        )),
        _ => None,
    })
}

/// Notes the personal columns of tables that were just made or changed. A mark stays when its contract drops it: what
/// is there was given as personal data.
pub(in super::super) async fn mark(server: &Server, tables: &[&Table]) -> Result<(), Failure> {
    match values(tables).as_slice() {
        [] => Ok(()),
        values => {
            let statement = "insert into erasure.personal (table, column, subject) format Values";
            server.send(statement, values.join(", ").into()).await
        }
    }
}

fn values(tables: &[&Table]) -> Vec<String> {
    let of = |table: &Table| {
        let fields = table.fields().iter().filter_map(|field| Some((&field.name, field.pii.as_ref()?)));
        let literals = |(column, subject): (&String, &String)| {
            format!("({}, {}, {})", text_literal(table.name()), text_literal(column), text_literal(subject))
        };
        fields.map(literals).collect::<Vec<_>>()
    };
    tables.iter().flat_map(|table| of(table)).collect()
}

/// The columns of one table that are personal data of those whose ids one other column holds. Never empty.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Personal {
    /// The tables in use, or what a rebuild fills.
    database: String,
    table: String,
    /// The event's table, whatever a rebuild calls its own.
    of: String,
    /// The column with the ids.
    subject: String,
    /// Name and type.
    columns: Vec<(String, String)>,
}

/// All that there are in these databases, by table; those of columns that were dropped since excluded.
pub(super) async fn personal(server: &Server, databases: &[&str]) -> Result<Vec<Personal>, Failure> {
    let sql = "select c.database, c.table, p.table, p.subject, p.column, c.type from erasure.personal as p final
               join system.columns as c on splitByChar('-', c.table)[1] = p.table and c.name = p.column
               where c.database in {databases:Array(String)} order by c.database, c.table, p.subject, c.position";
    let rows = server.query(sql).param("databases", databases);
    let rows = rows.fetch_all::<(String, String, String, String, String, String)>();
    let mut found: Vec<Personal> = Vec::new();
    for (database, table, of, subject, column, type_name) in server.within(rows).await? {
        let of_this = |it: &Personal| (&it.database, &it.table, &it.subject) == (&database, &table, &subject);
        match found.last_mut().filter(|last| of_this(last)) {
            Some(last) => last.columns.push((column, type_name)),
            None => found.push(Personal { database, table, of, subject, columns: vec![(column, type_name)] }),
        }
    }
    Ok(found)
}

/// What of a table's rows is personal data, for who reads them.
#[derive(Debug)]
pub(in super::super) struct Marks {
    pub columns: BTreeSet<String>,
    /// The columns with the ids.
    subjects: BTreeSet<String>,
}

impl Marks {
    pub const fn none() -> Self {
        Self { columns: BTreeSet::new(), subjects: BTreeSet::new() }
    }

    /// The condition under which a row is about somebody who was or is to be erased.
    pub fn is_erased(&self) -> String {
        let named = |subject: &String| format!("toString({}) in ({SUBJECTS})", quote(subject));
        match self.subjects.is_empty() {
            true => "false".into(),
            false => self.subjects.iter().map(named).collect::<Vec<_>>().join(" or "),
        }
    }
}

/// By table.
pub(in super::super) async fn marks(server: &Server) -> Result<BTreeMap<String, Marks>, Failure> {
    let mut found = BTreeMap::<String, Marks>::new();
    for Personal { of, subject, columns, .. } in personal(server, &[RAW, SHADOW]).await? {
        let marks = found.entry(of).or_insert_with(Marks::none);
        marks.columns.extend(columns.into_iter().map(|(name, _)| name));
        marks.subjects.insert(subject);
    }
    Ok(found)
}

impl Personal {
    /// As an event's table, where the name of one in a rebuild says so.
    pub fn table(&self) -> String {
        if self.database == RAW { self.table.clone() } else { format!("{}.{}", self.database, self.table) }
    }

    fn raw(&self) -> String {
        format!("{}.{}", self.database, quote(&self.table))
    }

    /// Where its rows are: the database, and what a mutation names.
    fn rows(&self, topology: &Topology) -> (String, String) {
        match topology {
            Topology::Cluster(_) if self.database == RAW => {
                (LOCAL.into(), format!("{LOCAL}.{}{}", quote(&self.table), topology.on_cluster()))
            }
            _ => (self.database.clone(), self.raw()),
        }
    }

    /// Rows of these people that still hold something.
    fn held_by(&self, subjects: &str) -> String {
        let held = self.columns.iter().map(|(name, type_name)| holds(&quote(name), type_name)).collect::<Vec<_>>();
        format!("toString({}) in ({subjects}) and ({})", quote(&self.subject), held.join(" or "))
    }

    fn count(&self, subjects: &str) -> String {
        format!("select count() from {} where {}", self.raw(), self.held_by(subjects))
    }

    /// Touches nothing but rows that hold something: the rest of a part, and most parts, are linked and not written.
    fn update(&self, topology: &Topology) -> String {
        let empty = |(name, type_name): &(String, String)| format!("{} = {}", quote(name), nothing(type_name));
        let emptied: Vec<_> = self.columns.iter().map(empty).collect();
        format!(
            "alter table {} update {} where {} settings mutations_sync = 2",
            self.rows(topology).1,
            emptied.join(", "),
            self.held_by(SUBJECTS)
        )
    }

    fn remains(&self) -> String {
        let before = format!("now() - toIntervalSecond({})", PROMISED_WITHIN.as_secs());
        format!(
            "select count(), countIf(_inserted_at < {before} and toString({}) in ({SUBJECTS} where recorded_at < {before}))
             from {} where {}",
            quote(&self.subject),
            self.raw(),
            self.held_by(SUBJECTS)
        )
    }

    /// Empties what anybody who was ever to be erased has in these columns, and how many rows it was in.
    pub async fn erase(&self, server: &Server) -> Result<u64, Failure> {
        self.unless_gone(self.erase_alone(server).await)
    }

    async fn erase_alone(&self, server: &Server) -> Result<u64, Failure> {
        let rows = number(server, &self.count(SUBJECTS)).await?;
        if rows > 0 {
            self.nobody_is_at_it(server).await?;
            server.execute(&self.update(server.topology())).await?;
        }
        Ok(rows)
    }

    /// A rebuild that has ended meanwhile has dropped its own table; there is nothing in it.
    fn unless_gone<T: Default>(&self, done: Result<T, Failure>) -> Result<T, Failure> {
        match done {
            Err(failure) if self.database == SHADOW && exception::table_is_gone(&failure) => Ok(T::default()),
            done => done,
        }
    }

    /// One that was given up waiting for goes on in the server: another beside it would do the work twice.
    async fn nobody_is_at_it(&self, server: &Server) -> Result<(), Failure> {
        let (database, _) = self.rows(server.topology());
        let sql = format!(
            "select mutation_id from {} where database = '{database}' and table = {{table:String}}
             and not is_done and not is_killed and command like '%erasure.subject%' limit 1",
            server.topology().system("mutations")
        );
        let query = server.query(&sql).param("table", &self.table);
        let at_it = server.within(query.fetch_optional::<String>()).await?;
        let Some(id) = at_it else { return Ok(()) };
        Err(Failure::retry(anyhow::anyhow!(
            "mutation {id} of {database}.{} is still under way; where it fails, system.mutations says why",
            self.table
        )))
    }

    /// Rows that still hold something of somebody recorded between these two.
    pub async fn left(&self, server: &Server, since: DateTime<Utc>, until: DateTime<Utc>) -> Result<u64, Failure> {
        let time = |name| format!("fromUnixTimestamp64Micro({{{name}:Int64}}, 'UTC')");
        let (from, to) = (time("since"), time("until"));
        let sql = self.count(&format!("{SUBJECTS} where recorded_at >= {from} and recorded_at <= {to}"));
        let query = server.query(&sql).param("since", since.timestamp_micros());
        self.unless_gone(server.within(query.param("until", until.timestamp_micros()).fetch_one::<u64>()).await)
    }
}

async fn number(server: &Server, sql: &str) -> Result<u64, Failure> {
    server.within(server.query(sql).fetch_one::<u64>()).await
}

fn is_nullable(type_name: &str) -> bool {
    type_name.starts_with("Nullable(") || type_name.starts_with("LowCardinality(Nullable(")
}

fn nothing(type_name: &str) -> String {
    if is_nullable(type_name) { "null".into() } else { format!("defaultValueOfTypeName({})", text_literal(type_name)) }
}

fn holds(column: &str, type_name: &str) -> String {
    const WITH_EMPTY: [&str; 4] = ["String", "LowCardinality(String)", "Array(", "Map("];
    if is_nullable(type_name) {
        format!("isNotNull({column})")
    } else if WITH_EMPTY.iter().any(|empty| type_name.starts_with(empty)) {
        format!("notEmpty({column})")
    } else {
        format!("{column} != {}", nothing(type_name))
    }
}

/// Tells ClickHouse whose data is to be found, now and whenever it comes back.
pub(super) async fn remember(server: &Server, people: &[Recorded]) -> Result<(), Failure> {
    let row = |person: &Recorded| {
        let at = person.recorded_at.format("%F %T%.6f").to_string();
        json!({ "subject": person.subject, "event_id": person.event_id, "recorded_at": at }).to_string()
    };
    let rows: Vec<String> = people.iter().map(row).collect();
    let statement = "insert into erasure.subject (subject, event_id, recorded_at) format JSONEachRow";
    server.send(statement, rows.join("\n").into()).await
}

/// How many people ClickHouse was told of.
pub(super) async fn remembered(server: &Server) -> Result<u64, Failure> {
    number(server, "select uniqExact(subject) from erasure.subject").await
}

/// Empties what a rebuild filled in of anybody who was or is to be erased, before it is seen.
pub(in super::super) async fn erase_shadow(server: &Server, shadow: &str) -> Result<(), Failure> {
    for personal in personal(server, &[SHADOW]).await?.iter().filter(|personal| personal.table == shadow) {
        // The worker may be at it as well; to do it twice is harmless, and a rebuild does not begin again for that.
        if number(server, &personal.count(SUBJECTS)).await? > 0 {
            server.execute(&personal.update(server.topology())).await?;
        }
    }
    Ok(())
}

/// What one table still holds of people who were or are to be erased.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Remains {
    pub table: String,
    pub columns: Vec<String>,
    /// Rows with any of it.
    pub rows: u64,
    /// Of these, rows that should have been emptied by now.
    pub overdue: u64,
}

/// Looks into every table with personal columns.
///
/// # Errors
/// When ClickHouse does not answer, or was not migrated.
pub async fn remains(config: &ClickHouseConfig) -> anyhow::Result<Vec<Remains>> {
    let server = Server::with_timeout(config, config.migrate_timeout())?;
    look(&server).await.map_err(super::super::server::to_anyhow)
}

async fn look(server: &Server) -> Result<Vec<Remains>, Failure> {
    let mut found = Vec::new();
    for personal in personal(server, &[RAW, SHADOW]).await? {
        let remains = server.within(server.query(&personal.remains()).fetch_one::<(u64, u64)>()).await;
        let (rows, overdue) = personal.unless_gone(remains)?;
        let table = personal.table();
        let columns = personal.columns.into_iter().map(|(name, _)| name).collect();
        found.push(Remains { table, columns, rows, overdue });
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::super::super::table::Described;
    use super::*;
    use millrace_schemas::Contracts;

    #[test]
    fn a_cluster_in_which_one_server_alone_knows_whom_to_look_for_is_refused() {
        let cluster = Topology::Cluster("main".into());
        let of = |engine: &str| {
            let table = |name: &&str| ((*name).into(), Described { engine: engine.into(), ..Described::default() });
            TABLES.iter().map(table).collect::<Found>()
        };
        assert!(mismatch(&Found::new(), &Topology::Single).is_some_and(|said| said.contains("does not exist")));
        assert_eq!(mismatch(&of("ReplacingMergeTree"), &Topology::Single), None);
        assert_eq!(mismatch(&of("ReplicatedReplacingMergeTree"), &cluster), None);
        assert!(
            mismatch(&of("ReplacingMergeTree"), &cluster).is_some_and(|said| said.contains("which one server has"))
        );
    }

    #[test]
    fn the_shops_personal_columns_are_those_its_contracts_mark() {
        let contracts = Contracts::embedded().unwrap();
        let tables: Vec<_> = contracts.iter().map(|contract| Table::of(contract).unwrap()).collect();
        let values = values(&tables.iter().collect::<Vec<_>>());
        assert_eq!(values, ["('user_registered', 'email', 'user_id')", "('user_registered', 'name', 'user_id')"]);
    }

    #[test]
    fn a_record_marked_as_a_whole_is_personal_in_all_its_columns() {
        let schema = r#"{"type": "record", "name": "R", "fields": [
            {"name": "id", "type": "string"},
            {"name": "address", "pii": "id", "type": {"type": "record", "name": "A", "fields": [
                {"name": "city", "type": "string"}, {"name": "zip", "type": ["null", "string"]}]}},
            {"name": "kids", "pii": "id", "type": {"type": "array", "items": {"type": "record", "name": "K", "fields": [
                {"name": "name", "type": "string"}]}}}]}"#;
        let table = Table::from_schema("t", "", &apache_avro::Schema::parse_str(schema).unwrap()).unwrap();
        let expected = ["('t', 'address_city', 'id')", "('t', 'address_zip', 'id')", "('t', 'kids.name', 'id')"];
        assert_eq!(values(&[&table]), expected);
    }

    #[test]
    fn each_type_is_emptied_to_what_it_calls_nothing_and_only_where_it_holds_something() {
        let types = ["String", "Nullable(String)", "LowCardinality(Nullable(String))", "Array(String)", "Int64"];
        let columns = ["a", "b", "c", "d", "e"].iter().zip(types).map(|(name, kind)| ((*name).into(), kind.into()));
        let (database, table, of, subject) = (RAW.into(), "t".into(), "t".into(), "id".into());
        let personal = Personal { database, table, of, subject, columns: columns.collect() };
        assert_eq!(
            personal.update(&Topology::Single),
            "alter table events_raw.`t` update `a` = defaultValueOfTypeName('String'), `b` = null, `c` = null, \
             `d` = defaultValueOfTypeName('Array(String)'), `e` = defaultValueOfTypeName('Int64') \
             where toString(`id`) in (select subject from erasure.subject) and (notEmpty(`a`) or isNotNull(`b`) or \
             isNotNull(`c`) or notEmpty(`d`) or `e` != defaultValueOfTypeName('Int64')) settings mutations_sync = 2"
        );
    }
}
