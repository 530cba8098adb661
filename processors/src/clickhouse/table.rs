//! Contract → table and view: names, columns, sort key, settings, as SQL. Never talks to a server.

use super::column::{self, Field, quote, text_literal};
use super::topology::{Kept, Layer, Topology};
use apache_avro::Schema;
use millrace_schemas::compatibility::{self, Mode};
use millrace_schemas::{Contract, Contracts};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// The tables beneath: raw, with every row that was ever inserted until a merge drops its duplicates.
pub(super) const RAW: &str = "events_raw";
/// Where a table is rebuilt, until it takes the other one's place.
pub(super) const SHADOW: &str = "events_shadow";
/// What people query: one view per event type, each event once.
pub(super) const VIEWS: &str = "events";
/// Business definitions over the views.
pub(super) const METRICS: &str = "metrics";

/// Who an event is; the same for every type. `(name, type, comment)`, in the order rows hold them.
pub(super) const ENVELOPE: [(&str, &str, &str); 5] = [
    ("event_id", "UUID", "The event's identity, chosen by its producer and kept on every retry."),
    ("occurred_at", "DateTime64(6, 'UTC')", "When it happened, in UTC."),
    ("subject", "String", "Id of what it happened to: the key of its topic."),
    ("source", "LowCardinality(String)", "Who published it."),
    ("trace_id", "String", "W3C trace it belongs to; empty when it came without one."),
];

/// Where a row comes from, in the order rows hold it.
pub(super) const LINEAGE: [(&str, &str, &str); 5] = [
    ("_topic", "LowCardinality(String)", "Topic the event was read from."),
    ("_partition", "Int32", "Partition of that topic."),
    ("_offset", "Int64", "Offset in that partition."),
    (
        "_recorded_at",
        "Nullable(DateTime64(6, 'UTC'))",
        "When the publisher handed it to the log; null when it didn't say.",
    ),
    ("_schema_id", "UInt32", "Registry id of the schema it was written with."),
];

const INSERTED_AT: &str = "_inserted_at";

/// Rows of one hour and one subject lie together: analysts filter by time first, then by whom. The sort key is
/// deterministic from the event, so that a repeated event meets its first copy and replaces it.
const KEYS: [&str; 3] = [
    "partition by toYYYYMM(occurred_at)",
    "primary key (toStartOfHour(occurred_at), subject)",
    "order by (toStartOfHour(occurred_at), subject, event_id)",
];

/// One event type's table.
#[derive(Debug, Clone)]
pub struct Table {
    name: String,
    doc: String,
    fields: Vec<Field>,
    columns: Vec<Column>,
    topology: Topology,
    /// Its name in [`SHADOW`] while it is rebuilt there; in use, it is in [`RAW`] under its own.
    shadow: Option<String>,
}

/// A column as the server has it or shall have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Column {
    pub name: String,
    pub type_name: String,
    pub comment: String,
    pub default_sql: Option<String>,
    /// Of one that the server computes, and takes no values for: `materialized …` or `alias …`. Somebody added it by hand.
    pub computed: Option<String>,
}

/// A contract that no table can hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{event_type}: {message}")]
pub struct TableError {
    pub event_type: String,
    pub message: String,
}

/// Every contract's table.
#[derive(Debug, Clone)]
pub struct Tables {
    /// Also those that were followed by another one.
    tables: Vec<Arc<Table>>,
    by_type: HashMap<String, usize>,
}

impl Tables {
    /// # Errors
    /// Every contract that has no table, with the field that is at fault.
    pub fn of(contracts: &Contracts) -> Result<Self, Vec<TableError>> {
        let (mut tables, mut by_type, mut errors) = (Vec::new(), HashMap::new(), Vec::new());
        let mut owners: BTreeMap<String, &str> = BTreeMap::new();
        for contract in contracts.iter() {
            let owner = owners.insert(contract.table(), &contract.event_type);
            match (Table::of(contract), owner) {
                (Ok(_), Some(other)) => errors.push(TableError {
                    event_type: contract.event_type.clone(),
                    message: format!("shares the table `{}` with {other}: rename one", contract.table()),
                }),
                (Ok(table), None) => {
                    by_type.insert(contract.event_type.clone(), tables.len());
                    tables.push(Arc::new(table));
                }
                (Err(error), _) => errors.push(error),
            }
        }
        if errors.is_empty() { Ok(Self { tables, by_type }) } else { Err(errors) }
    }

    /// One type's table alone.
    pub(super) fn one(event_type: &str, table: Table) -> Self {
        Self { tables: vec![Arc::new(table)], by_type: HashMap::from([(event_type.to_owned(), 0)]) }
    }

    /// The same tables elsewhere.
    pub(super) fn on(mut self, topology: &Topology) -> Self {
        self.tables.iter_mut().for_each(|table| Arc::make_mut(table).topology = topology.clone());
        self
    }

    /// In the order of their contracts.
    pub fn iter(&self) -> impl Iterator<Item = &Table> {
        self.tables.iter().map(Arc::as_ref)
    }

    /// Puts a table into the place of the type's former one, which stays where it was found.
    pub(super) fn follow(&mut self, event_type: &str, table: Table) {
        self.by_type.insert(event_type.to_owned(), self.tables.len());
        self.tables.push(Arc::new(table));
    }

    pub(super) fn index(&self, event_type: &str) -> Option<usize> {
        self.by_type.get(event_type).copied()
    }

    pub(super) fn named(&self, table: &str) -> Option<&Table> {
        self.iter().find(|found| found.name == table)
    }

    pub(super) fn get(&self, index: usize) -> &Arc<Table> {
        &self.tables[index]
    }
}

impl Table {
    /// # Errors
    /// The field that has no column, or a name that is taken.
    pub fn of(contract: &Contract) -> Result<Self, TableError> {
        let table = Self::from_schema(&contract.table(), contract.doc(), &contract.newest().schema);
        table.map_err(|message| TableError { event_type: contract.event_type.clone(), message })
    }

    /// Of a record's fields, whatever contract it is or will be.
    ///
    /// # Errors
    /// As [`Table::of`].
    pub fn from_schema(name: &str, doc: &str, schema: &Schema) -> Result<Self, String> {
        if !is_identifier(name) {
            return Err(format!("`{name}` is no table name: use letters, digits and _"));
        }
        let fields = column::fields(schema)?;
        let columns = columns(&fields);
        let (name, doc, topology) = (name.to_owned(), doc.to_owned(), Topology::Single);
        clash(&columns).map_or(Ok(Self { name, doc, fields, columns, topology, shadow: None }), Err)
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// With the columns of the fields that a writer's schema has and this table not; `None` when there are none.
    /// No column is changed or lost: a version that leaves a field out leaves its column with the default. A version
    /// that the contract knows adds nothing: a field that only it has was dropped since.
    ///
    /// # Errors
    /// Why such a version may not follow the contract's.
    pub(super) fn evolved(&self, contract: &Contract, writer: &Schema) -> Result<Option<Self>, String> {
        if contract.versions().iter().any(|version| version.schema == *writer) {
            return Ok(None);
        }
        let newer = column::fields(writer)?;
        let known = |name: &str| self.fields.iter().find(|field| field.name == name);
        if newer.iter().all(|field| known(&field.name).is_some()) {
            return Ok(None);
        }
        let earlier: Vec<_> = contract.versions().iter().map(|version| &version.schema).collect();
        if let Some(broken) = compatibility::check(Mode::FullTransitive, writer, &earlier).first() {
            return Err(format!("{} [{}]: {}", broken.path, broken.rule, broken.message));
        }
        let left_out = self.fields.iter().filter(|field| newer.iter().all(|newer| newer.name != field.name));
        let kept = newer.iter().map(|field| known(&field.name).unwrap_or(field));
        let fields: Vec<Field> = kept.chain(left_out).cloned().collect();
        let columns = columns(&fields);
        let table = Self { fields, columns, ..self.clone() };
        clash(&table.columns).map_or(Ok(Some(table)), Err)
    }

    /// As the view has them.
    pub(super) fn column_names(&self) -> impl Iterator<Item = &str> {
        self.columns.iter().map(|column| column.name.as_str())
    }

    pub(super) fn fields(&self) -> &[Field] {
        &self.fields
    }

    /// The same table, empty and beside the one that is in use. No two rebuilds have one of the same name: what one asked
    /// for and is carried out late finds nothing. No table's own name has a `-`.
    pub(super) fn shadow(&self, rebuild: &str) -> Self {
        Self { shadow: Some(format!("{}-{rebuild}", self.name)), ..self.clone() }
    }

    /// Database and name.
    fn place(&self) -> (&'static str, &str) {
        self.shadow.as_ref().map_or((RAW, &self.name), |shadow| (SHADOW, shadow))
    }

    /// As it is called where it is.
    pub(super) fn stored_as(&self) -> &str {
        self.place().1
    }

    /// `` events_raw.`order_placed` ``.
    pub(super) fn raw(&self) -> String {
        let (database, name) = self.place();
        format!("{database}.{}", quote(name))
    }

    /// As [`Found`] names it.
    pub(super) fn found_as(&self) -> String {
        let (database, name) = self.place();
        format!("{database}.{name}")
    }

    /// The columns an insert names: all but what the server fills in.
    pub(super) fn insert_columns(&self) -> impl Iterator<Item = &Column> {
        self.columns.iter().filter(|column| column.name != INSERTED_AT)
    }

    /// Names and types travel with every block, so that a table somebody altered refuses it instead of
    /// reading other values out of the same bytes.
    pub(super) fn insert_statement(&self) -> String {
        let columns: Vec<_> = self.insert_columns().map(|column| quote(&column.name)).collect();
        format!("insert into {} ({}) format Native", self.raw(), columns.join(", "))
    }

    /// What makes the tables that the server has into these, from the rows upwards.
    ///
    /// # Errors
    /// A table of another kind, or a column of another type: no statement turns these without touching data.
    pub(super) fn statements(&self, found: &Found) -> Result<Vec<String>, String> {
        let mut statements = Vec::new();
        for layer in self.layers() {
            match found.get(&self.full_name(&layer)) {
                None => statements.push(self.create(&layer)),
                Some(described) => statements.extend(self.alterations(&layer, described)?),
            }
        }
        Ok(statements)
    }

    fn layers(&self) -> Vec<Layer> {
        let mut layers = self.topology.layers(&self.name);
        if self.shadow.is_some() {
            layers.iter_mut().for_each(|layer| layer.database = SHADOW);
        }
        layers
    }

    fn create(&self, layer: &Layer) -> String {
        let columns: Vec<_> = self.columns.iter().map(|column| format!("    {}", column.definition())).collect();
        let settings: Vec<_> = layer.settings.iter().map(|kept| format!("{} = {}", kept.name, kept.value)).collect();
        let rows = match settings.is_empty() {
            true => String::new(),
            false => format!("{}\nsettings {}\n", KEYS.join("\n"), settings.join(", ")),
        };
        format!(
            "create table if not exists {}.{}{} (\n{}\n)\nengine = {}\n{rows}comment {}",
            layer.database,
            quote(self.stored_as()),
            self.topology.on_cluster(),
            columns.join(",\n"),
            layer.engine,
            text_literal(&self.doc)
        )
    }

    /// Whoever may read the view need not be able to read the table, which can hold an event twice: it is read with the
    /// rights of who made the view. `added` are columns that the server has beyond ours: shown behind the fields.
    pub(super) fn create_view(&self, added: &[&Column]) -> String {
        let (fields, rest) = self.columns.split_at(self.fields.len());
        let shown: Vec<&Column> = fields.iter().chain(added.iter().copied()).chain(rest).collect();
        let columns = shown.iter().map(|column| {
            format!("    {} {} comment {}", quote(&column.name), column.type_name, text_literal(&column.comment))
        });
        let names = shown.iter().map(|column| quote(&column.name));
        format!(
            "create or replace view {VIEWS}.{}{} (\n{}\n)\n\
             definer = current_user sql security definer\ncomment {}\nas select {}\nfrom {} final\nsettings {}",
            quote(&self.name),
            self.topology.on_cluster(),
            columns.collect::<Vec<_>>().join(",\n"),
            text_literal(&self.doc),
            names.collect::<Vec<_>>().join(", "),
            self.raw(),
            self.topology.view_settings()
        )
    }

    /// What makes a table that the server describes so into this one.
    fn alterations(&self, layer: &Layer, found: &Described) -> Result<Vec<String>, String> {
        self.other_kind(layer, found).map_or(Ok(()), Err)?;
        let (mut changes, comment) = (Vec::new(), text_literal);
        for (at, column) in self.columns.iter().enumerate() {
            match found.columns.iter().find(|found| found.name == column.name) {
                None => changes.push(self.add_column(at)),
                // It is empty: there is no value that would have to become one of ours, as a null could not.
                Some(found) if found.type_name != column.type_name && self.shadow.is_some() => {
                    changes.push(format!("drop column {}", quote(&column.name)));
                    changes.push(self.add_column(at));
                }
                Some(found) if found.type_name != column.type_name => {
                    return Err(self.other_type(layer, column, found));
                }
                Some(found) if found.comment != column.comment => {
                    changes.push(format!("comment column {} {}", quote(&column.name), comment(&column.comment)));
                }
                Some(_) => {}
            }
        }
        if found.comment != self.doc {
            changes.push(format!("modify comment {}", comment(&self.doc)));
        }
        let behind = layer.settings.iter().filter(|kept| found.setting(kept.name) < kept.least);
        changes.extend(behind.map(|kept| format!("modify setting {} = {}", kept.name, kept.value)));
        let alter = format!("alter table {}.{}{}", layer.database, quote(self.stored_as()), self.topology.on_cluster());
        Ok(changes.iter().map(|change| format!("{alter} {change}")).collect())
    }

    /// The columns that the server has beyond ours: a later version's, whose contract we have not seen.
    pub(super) fn added<'f>(&self, found: &'f Found) -> Vec<&'f Column> {
        let ours = |name: &str| self.columns.iter().any(|column| column.name == name);
        let found = found.get(&format!("{RAW}.{}", self.name));
        found.into_iter().flat_map(|found| &found.columns).filter(|column| !ours(&column.name)).collect()
    }

    fn add_column(&self, at: usize) -> String {
        let place = match at.checked_sub(1) {
            Some(before) => format!("after {}", quote(&self.columns[before].name)),
            None => "first".into(),
        };
        format!("add column if not exists {} {place}", self.columns[at].definition())
    }

    fn other_type(&self, layer: &Layer, column: &Column, found: &Column) -> String {
        format!(
            "{} has column `{}` of type {}, the contract says {}: a published field never changes its type; \
             make it a new field or a new event type, or `millrace rebuild clickhouse {}` from the log",
            self.full_name(layer),
            column.name,
            found.type_name,
            column.type_name,
            self.name
        )
    }

    /// A table that would count duplicates, lead elsewhere, or holds rows where none would be looked for.
    fn other_kind(&self, layer: &Layer, found: &Described) -> Option<String> {
        let (name, Described { engine, engine_full, .. }) = (self.full_name(layer), found);
        if layer.kind == "Distributed" {
            return (!engine_full.starts_with(&layer.engine)).then(|| {
                format!(
                    "{name} is {engine_full}, in this cluster it must be {}: move its rows to {}.{} if it holds any, \
                     drop it and run `millrace migrate`",
                    layer.engine,
                    super::topology::LOCAL,
                    self.name
                )
            });
        }
        if !engine.ends_with(layer.kind) {
            return Some(format!(
                "{name} is a {engine}, not a {}: duplicates would be counted; drop it and run `millrace migrate`",
                layer.kind
            ));
        }
        (!found.tells_events_apart(layer)).then(|| {
            format!(
                "{name} is {engine_full}: other events would be taken for duplicates, or duplicates for other events, \
                 since its keys must be `{}` and its engine have no version; rename it, run `millrace migrate`, and \
                 insert its rows into the table that this makes",
                KEYS.join(" ")
            )
        })
    }

    /// `events_raw.order_placed`, as it is in [`Found`] and in messages.
    fn full_name(&self, layer: &Layer) -> String {
        format!("{}.{}", layer.database, self.stored_as())
    }

    /// Are the server's tables ready for our rows?
    pub(super) fn mismatch(&self, found: &Found) -> Option<String> {
        self.layers().iter().find_map(|layer| self.mismatch_of(layer, found))
    }

    fn mismatch_of(&self, layer: &Layer, found: &Found) -> Option<String> {
        let name = self.full_name(layer);
        let Some(found) = found.get(&name) else {
            return Some(format!("{name} does not exist: run `millrace migrate`"));
        };
        let behind = layer.settings.iter().find(|kept| found.setting(kept.name) < kept.least);
        let behind = behind.map(|Kept { name: setting, least, .. }| {
            let is = found.setting(setting);
            format!("{name} has {setting} = {is}, at least {least} is needed: run `millrace migrate`")
        });
        let column = |column: &Column| match found.columns.iter().find(|found| found.name == column.name) {
            None => Some(format!("{name} has no column `{}`: run `millrace migrate`", column.name)),
            Some(found) if found.type_name != column.type_name => Some(self.other_type(layer, column, found)),
            Some(Column { computed: Some(sql), .. }) => {
                let (column, kind) = (&column.name, sql.split(' ').next().unwrap_or_default());
                let back = format!("alter table {name} modify column {column} remove {kind}");
                Some(format!("{name} computes its column `{column}` ({sql}), which inserts fill: `{back}`"))
            }
            Some(_) => None,
        };
        self.other_kind(layer, found).or(behind).or_else(|| self.columns.iter().find_map(column))
    }
}

/// The tables that the server has, by `database.table`.
pub(super) type Found = BTreeMap<String, Described>;

/// A table as the server describes it.
#[derive(Debug, Clone, Default)]
pub(super) struct Described {
    pub engine: String,
    /// The engine with its keys and settings, as `system.tables` prints it.
    pub engine_full: String,
    pub comment: String,
    pub columns: Vec<Column>,
}

impl Described {
    /// By our keys alone: no version, which would be a third argument of a replicated engine and the only one of another.
    fn tells_events_apart(&self, layer: &Layer) -> bool {
        let one_line = self.engine_full.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase();
        let keys = format!(" {}", KEYS.join(" ").to_lowercase());
        let engine = one_line.split_once(&keys).map(|(engine, _)| engine);
        engine.is_some_and(|engine| {
            let engine = engine.strip_suffix("()").unwrap_or(engine);
            engine.ends_with(&layer.kind.to_lowercase()) || engine.ends_with("')")
        })
    }

    /// Of a table that says nothing of it, 0: ours say it, whatever the server's default is.
    fn setting(&self, name: &str) -> u64 {
        let (_, rest) = self.engine_full.split_once(&format!(" {name} = ")).unwrap_or_default();
        rest.split(|c: char| !c.is_ascii_digit()).next().and_then(|digits| digits.parse().ok()).unwrap_or(0)
    }
}

impl Column {
    pub fn definition(&self) -> String {
        let default = self.default_sql.as_ref().map(|sql| format!(" default {sql}"));
        let default = default.or_else(|| self.computed.as_ref().map(|sql| format!(" {sql}"))).unwrap_or_default();
        format!("{} {}{default} comment {}", quote(&self.name), self.type_name, text_literal(&self.comment))
    }
}

fn columns(fields: &[Field]) -> Vec<Column> {
    let ours = |(name, type_name, comment): &(&str, &str, &str)| Column {
        name: (*name).to_owned(),
        type_name: (*type_name).to_owned(),
        comment: (*comment).to_owned(),
        default_sql: None,
        computed: None,
    };
    let theirs = |field: &Field| Column {
        name: field.name.clone(),
        type_name: field.column_type().to_string(),
        comment: field.doc.clone(),
        default_sql: field.default_sql.clone(),
        computed: None,
    };
    let mut columns: Vec<Column> = fields.iter().map(theirs).collect();
    columns.extend(ENVELOPE.iter().chain(&LINEAGE).map(ours));
    columns.push(Column {
        default_sql: Some("now64(3)".into()),
        ..ours(&(INSERTED_AT, "DateTime64(3, 'UTC')", "When this row was inserted here, in UTC."))
    });
    columns
}

/// Two columns of one name: two fields once flattened, or a field named as an envelope's column.
fn clash(columns: &[Column]) -> Option<String> {
    let clashes = |(at, column): (usize, &Column)| columns[at + 1..].iter().any(|other| other.name == column.name);
    let (_, column) = columns.iter().enumerate().find(|found| clashes(*found))?;
    Some(format!(
        "two columns are named `{}`, as every event's own columns or another field: rename the field",
        column.name
    ))
}

fn is_identifier(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic()) && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(fields: &str) -> Result<Table, String> {
        let schema = format!(r#"{{"type": "record", "name": "R", "fields": [{fields}]}}"#);
        Table::from_schema("thing_happened", "It happened.", &Schema::parse_str(&schema).unwrap())
    }

    const A: &str = r#"{"name": "a", "type": "long", "doc": "An a."}"#;
    const B: &str = r#"{"name": "b", "type": "string", "default": "it's", "doc": "A b."}"#;

    /// As the server would describe tables made by their own create statements.
    fn found(table: &Table) -> Found {
        let described = |layer: &Layer| {
            let create = table.create(layer);
            let engine_full = create.split_once("engine = ").unwrap().1.to_owned();
            let (engine, comment, columns) = (layer.kind.to_owned(), table.doc.clone(), table.columns.clone());
            (table.full_name(layer), Described { engine, engine_full, comment, columns })
        };
        table.topology.layers(&table.name).iter().map(described).collect()
    }

    /// With one table of the server's changed.
    fn found_but(table: &Table, name: &str, change: impl FnOnce(&mut Described)) -> Found {
        let mut found = found(table);
        change(found.get_mut(name).unwrap());
        found
    }

    const RAW_TABLE: &str = "events_raw.thing_happened";

    fn engine_full(engine: &str, settings: &str) -> String {
        format!("{engine} {} SETTINGS {settings}", KEYS.join(" "))
    }

    fn cluster() -> Topology {
        Topology::Cluster("main".into())
    }

    fn on_cluster(table: Table) -> Table {
        Table { topology: cluster(), ..table }
    }

    /// Everything that makes an event type's tables and view where there are none.
    fn sql(table: &Table) -> String {
        let mut statements = table.statements(&Found::new()).unwrap();
        statements.push(table.create_view(&[]));
        statements.join(";\n\n") + ";\n"
    }

    fn order_placed() -> Table {
        Table::of(Contracts::embedded().unwrap().get("order.placed").unwrap()).unwrap()
    }

    #[test]
    fn order_placed_becomes_this_table_and_this_view() {
        let sql = sql(&order_placed());
        assert_eq!(sql, include_str!("snapshots/order_placed.sql"), "\n{sql}");
    }

    #[test]
    fn in_a_cluster_order_placed_becomes_these_tables_and_the_same_view() {
        let sql = sql(&on_cluster(order_placed()));
        assert_eq!(sql, include_str!("snapshots/order_placed_in_a_cluster.sql"), "\n{sql}");
    }

    #[test]
    fn every_reference_contract_has_a_table() {
        let contracts = Contracts::embedded().unwrap();
        assert_eq!(Tables::of(&contracts).unwrap().iter().count(), contracts.iter().count());
    }

    /// `order.placed` with one more field, as a publisher ahead of us may write it.
    fn ahead(field: &str) -> Result<Option<Table>, String> {
        let contracts = Contracts::embedded().unwrap();
        let contract = contracts.get("order.placed").unwrap();
        let mut schema: serde_json::Value = serde_json::from_str(&contract.newest().text).unwrap();
        if !field.is_empty() {
            schema["fields"].as_array_mut().unwrap().insert(0, serde_json::from_str(field).unwrap());
        }
        Table::of(contract).unwrap().evolved(contract, &Schema::parse(&schema).unwrap())
    }

    #[test]
    fn a_table_evolves_by_what_a_compatible_writer_adds_and_by_nothing_else() {
        let note = r#"{"name": "note", "type": "string", "default": "", "doc": "New."}"#;
        let evolved = ahead(note).unwrap().unwrap();
        let names: Vec<_> = evolved.column_names().take(2).collect();
        assert_eq!(names, ["note", "order_id"]);
        assert!(ahead("").unwrap().is_none(), "nothing is new");
        let without_default = ahead(r#"{"name": "note", "type": "string", "doc": "New."}"#).unwrap_err();
        assert!(without_default.contains("note"), "{without_default}");
        let taken = ahead(r#"{"name": "event_id", "type": "string", "default": "", "doc": "Taken."}"#).unwrap_err();
        assert!(taken.contains("two columns are named `event_id`"), "{taken}");
    }

    #[test]
    fn a_version_that_the_contract_knows_brings_no_dropped_column_back() {
        let contracts = Contracts::embedded().unwrap();
        let contract = contracts.get("order.placed").unwrap();
        let after_the_drop = table(A).unwrap();
        assert!(after_the_drop.evolved(contract, &contract.newest().schema).unwrap().is_none());
    }

    #[test]
    fn a_field_that_a_later_version_leaves_out_keeps_its_column() {
        let contracts = Contracts::embedded().unwrap();
        let contract = contracts.get("order.placed").unwrap();
        let mut schema: serde_json::Value = serde_json::from_str(&contract.newest().text).unwrap();
        let fields = schema["fields"].as_array_mut().unwrap();
        fields.retain(|field| field["name"] != "coupon");
        fields.push(serde_json::json!({ "name": "note", "type": "string", "default": "", "doc": "New." }));
        let evolved = Table::of(contract).unwrap().evolved(contract, &Schema::parse(&schema).unwrap());
        let evolved = evolved.unwrap().unwrap();
        let names: Vec<_> = evolved.column_names().collect();
        assert!(names.contains(&"coupon") && names.contains(&"note"), "{names:?}");
    }

    #[test]
    fn a_view_shows_columns_of_versions_that_it_does_not_know_behind_the_fields() {
        let table = table(A).unwrap();
        let mut found = found(&table);
        let columns = &mut found.values_mut().next().unwrap().columns;
        columns.push(Column { name: "later".into(), type_name: "Int8".into(), ..columns[0].clone() });
        let added = table.added(&found);
        let sql = table.create_view(&added);
        assert!(
            sql.contains("select `a`, `later`, `event_id`") && sql.contains("`later` Int8 comment 'An a.'"),
            "{sql}"
        );
        assert!(table.statements(&found).unwrap().is_empty());
    }

    #[test]
    fn tables_that_are_as_they_should_be_are_left_alone() {
        let table = table(&[A, B].join(",")).unwrap();
        for table in [table.clone(), on_cluster(table)] {
            assert_eq!(table.statements(&found(&table)), Ok(Vec::new()));
            assert_eq!(table.mismatch(&found(&table)), None);
        }
    }

    #[test]
    fn a_new_field_is_added_where_it_stands_and_older_rows_read_its_default() {
        let (old, new) = (table(A).unwrap(), table(&[A, B].join(",")).unwrap());
        let add = r"alter table events_raw.`thing_happened` add column if not exists `b` String default 'it\'s' comment 'A b.' after `a`";
        assert_eq!(new.statements(&found(&old)), Ok(vec![add.to_owned()]));
        assert_eq!(old.statements(&found(&new)), Ok(Vec::new()), "a table ahead of us stays as it is");
        let behind = new.mismatch(&found(&old)).unwrap();
        assert_eq!(behind, "events_raw.thing_happened has no column `b`: run `millrace migrate`");
    }

    #[test]
    fn a_column_that_the_server_computes_takes_no_values_and_is_named() {
        let table = table(A).unwrap();
        let computed = |column: &mut Column| column.computed = Some("MATERIALIZED 'none'".into());
        let found = found_but(&table, RAW_TABLE, |found| computed(&mut found.columns[0]));
        assert_eq!(
            table.mismatch(&found).unwrap(),
            "events_raw.thing_happened computes its column `a` (MATERIALIZED 'none'), which inserts fill: \
             `alter table events_raw.thing_happened modify column a remove MATERIALIZED`"
        );
    }

    #[test]
    fn in_a_cluster_a_new_field_reaches_the_rows_before_anything_that_reads_them() {
        let (old, new) = (on_cluster(table(A).unwrap()), on_cluster(table(&[A, B].join(",")).unwrap()));
        let add = |database| {
            format!(
                r"alter table {database}.`thing_happened` on cluster `main` add column if not exists `b` String default 'it\'s' comment 'A b.' after `a`"
            )
        };
        assert_eq!(new.statements(&found(&old)), Ok(vec![add("events_local"), add("events_raw")]));
        let mut half = found(&old);
        half.extend(found(&new).split_off(RAW_TABLE));
        assert_eq!(new.statements(&half), Ok(vec![add("events_local")]), "a migration that died in between goes on");
        let behind = new.mismatch(&half).unwrap();
        assert_eq!(behind, "events_local.thing_happened has no column `b`: run `millrace migrate`");
    }

    #[test]
    fn docs_and_settings_are_brought_up_to_date() {
        let table = table(A).unwrap();
        let old = found_but(&table, RAW_TABLE, |old| {
            old.comment = "?".into();
            old.columns[0].comment = "?".into();
            old.engine_full = engine_full(
                "ReplacingMergeTree",
                "non_replicated_deduplication_window = 100, min_age_to_force_merge_seconds = 3600, x = 20000",
            );
        });
        let expected = [
            "alter table events_raw.`thing_happened` comment column `a` 'An a.'",
            "alter table events_raw.`thing_happened` modify comment 'It happened.'",
            "alter table events_raw.`thing_happened` modify setting non_replicated_deduplication_window = 10000",
            "alter table events_raw.`thing_happened` modify setting min_age_to_force_merge_on_partition_only = 1",
        ];
        assert_eq!(table.statements(&old).unwrap(), expected);
        assert!(table.mismatch(&old).unwrap().contains("non_replicated_deduplication_window = 100, at least 10000"));
    }

    #[test]
    fn in_a_cluster_both_bounds_of_the_deduplication_window_are_kept() {
        let table = on_cluster(table(A).unwrap());
        let old = found_but(&table, "events_local.thing_happened", |old| {
            old.engine_full = engine_full(
                "ReplicatedReplacingMergeTree('/p', '{replica}')",
                "replicated_deduplication_window = 10000, min_age_to_force_merge_seconds = 86400, \
                 min_age_to_force_merge_on_partition_only = 1, index_granularity = 8192",
            );
        });
        let expected = "alter table events_local.`thing_happened` on cluster `main` \
                        modify setting replicated_deduplication_window_seconds = 604800";
        assert_eq!(table.statements(&old).unwrap(), [expected]);
        assert!(table.mismatch(&old).unwrap().contains("window_seconds = 0, at least 604800 is needed"));
    }

    #[test]
    fn a_column_of_another_type_is_refused() {
        let new = table(r#"{"name": "a", "type": "string", "doc": "An a."}"#).unwrap();
        let error = new.statements(&found(&table(A).unwrap())).unwrap_err();
        assert!(error.starts_with("events_raw.thing_happened has column `a` of type Int64, the contract says String"));
    }

    #[test]
    fn a_table_that_would_count_duplicates_is_refused() {
        let table = table(A).unwrap();
        let plain = found_but(&table, RAW_TABLE, |found| found.engine = "MergeTree".into());
        assert!(table.mismatch(&plain).unwrap().contains("is a MergeTree, not a ReplacingMergeTree"));
        assert_eq!(table.statements(&plain).unwrap_err(), table.mismatch(&plain).unwrap());
        assert!(table.mismatch(&Found::new()).unwrap().contains("does not exist: run `millrace migrate`"));
        let table = on_cluster(table);
        let alone =
            found_but(&table, "events_local.thing_happened", |found| found.engine = "ReplacingMergeTree".into());
        assert!(
            table.mismatch(&alone).unwrap().contains("is a ReplacingMergeTree, not a ReplicatedReplacingMergeTree")
        );
    }

    #[test]
    fn a_table_by_whose_keys_other_events_are_duplicates_is_refused() {
        let (single, cluster) = (table(A).unwrap(), on_cluster(table(A).unwrap()));
        let ours = "ReplacingMergeTree PARTITION BY toYYYYMM(occurred_at) PRIMARY KEY (toStartOfHour(occurred_at), \
                    subject) ORDER BY (toStartOfHour(occurred_at), subject, event_id) SETTINGS x = 1";
        let replicated = ours.replacen(' ', "('/p', '{replica}') ", 1);
        for (table, name, ours, wrong) in [
            (&single, RAW_TABLE, ours, ours.replacen(' ', "(_offset) ", 1)),
            (&single, RAW_TABLE, ours, ours.replace(", event_id)", ")")),
            (&single, RAW_TABLE, ours, ours.replace("toYYYYMM", "toYear")),
            (&cluster, "events_local.thing_happened", &replicated, replicated.replace("')", "', _offset)")),
        ] {
            let as_if = |engine_full: &str| {
                table.mismatch(&found_but(table, name, |found| found.engine_full = engine_full.into())).unwrap()
            };
            assert!(as_if(&wrong).contains("taken for duplicates"), "{wrong}");
            assert!(as_if(ours).contains("deduplication_window = 0"), "all else is as it must be: {ours}");
        }
    }

    #[test]
    fn in_a_cluster_a_table_that_holds_one_servers_rows_or_scatters_copies_is_refused_and_left_alone() {
        let table = on_cluster(table(A).unwrap());
        let single = Table { topology: Topology::Single, ..table.clone() };
        let error = table.statements(&found(&single)).unwrap_err();
        assert!(error.contains("move its rows to events_local.thing_happened"), "{error}");
        let scattered = found_but(&table, RAW_TABLE, |found| {
            found.engine_full = "Distributed('main', 'events_local', 'thing_happened', rand())".into();
        });
        for refused in [table.statements(&scattered).unwrap_err(), table.mismatch(&scattered).unwrap()] {
            assert!(
                refused.contains("must be Distributed('main', 'events_local', 'thing_happened', cityHash64(event_id))")
            );
        }
    }

    #[test]
    fn a_field_named_as_an_envelope_column_is_refused() {
        let error = table(r#"{"name": "subject", "type": "string"}"#).unwrap_err();
        assert!(error.starts_with("two columns are named `subject`"), "{error}");
    }
}
