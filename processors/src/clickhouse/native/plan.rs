//! A writer's schema and a table, matched once: the program that every datum of that schema then runs through.
//!
//! What matches is decided by [`row::steps`], so both encoders agree; here it is put in the writer's order.

use super::super::column::{ColumnType, follow};
use super::super::row::{self, Step};
use super::super::table::Table;
use super::columns::{Columns, Leaf, Level, Origin, Shape, Store};
use super::datum::Broken;
use super::skip::{Gather, Skips};
use super::walk::{Unread, Walk, Walked};
use apache_avro::Schema;
use apache_avro::schema::{InnerDecimalSchema, NamesRef, RecordSchema, ResolvedSchema, UuidSchema};
use millrace_schemas::{DecodeError, WriterSchema};
use millrace_stream::{Reason, Reject};

/// How to read one table's columns out of datums written with one schema.
#[derive(Debug)]
pub struct Plan {
    schema_id: u32,
    fullname: String,
    program: Vec<Op>,
    skips: Skips,
    unlisted: Vec<Unlisted>,
}

/// Symbols that a writer may send and the contract does not list, in one column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unlisted {
    pub column: String,
    pub symbols: Vec<String>,
    /// The symbol that is stored in their place.
    pub default: String,
}

/// One step. Numbers are the places of buffers, dictionaries and columns in [`Columns`].
#[derive(Debug)]
pub(super) enum Op {
    /// Nobody wants this value.
    Skip(usize),
    NotNull(Leaf),
    Null(Leaf),
    /// An array or map without items, at these offsets.
    Empty(usize),
    /// The writer does not know this field: the contract's value from this level inwards, as RowBinary.
    Default {
        column: usize,
        level: usize,
        value: Vec<u8>,
    },
    /// What was just read or null: no value of this column.
    Misfit {
        column: usize,
        error: String,
    },
    Bool(usize),
    Number {
        from: Number,
        to: Number,
        buffer: usize,
    },
    Date {
        column: usize,
        buffer: usize,
    },
    Time {
        column: usize,
        buffer: usize,
        ticks_per_second: i64,
    },
    Decimal {
        column: usize,
        buffer: usize,
        precision: usize,
        from: Bytes,
    },
    Uuid {
        buffer: usize,
        from: UuidFrom,
    },
    /// A text that is a UUID only by luck.
    TextAsUuid {
        column: usize,
        buffer: usize,
    },
    Text {
        buffer: usize,
        from: Bytes,
    },
    Word {
        dictionary: usize,
        from: Bytes,
    },
    /// By the writer's number: what the column has for that symbol.
    Symbol {
        column: usize,
        dictionary: usize,
        symbols: Vec<Result<Symbol, String>>,
    },
    Union(Vec<Vec<Op>>),
    Each {
        offsets: Vec<usize>,
        items: Vec<Op>,
    },
    /// `skip` is the values' type.
    Map {
        offsets: usize,
        keys: usize,
        values: Vec<Op>,
        skip: usize,
    },
}

#[derive(Debug)]
pub(super) struct Symbol {
    pub stored: String,
    /// By the contract; another one is stored as the enum's default.
    pub is_listed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Number {
    Int,
    Long,
    Float,
    Double,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Bytes {
    Text,
    Prefixed,
    Fixed(usize),
}

#[derive(Debug, Clone, Copy)]
pub(super) enum UuidFrom {
    Text,
    Bytes,
    Fixed(usize),
}

impl Plan {
    /// Matches the table's columns with a writer's fields, by name.
    ///
    /// # Errors
    /// Which column such a writer cannot fill: every value of it would be refused.
    pub fn compile(writer: &WriterSchema, table: &Table) -> Result<Self, String> {
        let resolved = ResolvedSchema::new(writer.schema).map_err(|error| error.to_string())?;
        let names = resolved.get_names();
        let of_field = |field| row::steps(field, writer, names);
        let steps: Vec<_> = table.fields().iter().map(of_field).collect::<Result<_, _>>()?;
        let reach = |(column, steps)| Reach { column, level: 0, steps, leaf: &table.fields()[column].leaf };
        let reaches: Vec<_> = steps.iter().map(Vec::as_slice).enumerate().map(reach).collect();
        let mut compiler =
            Compiler { names, shape: &Shape::of(table), gather: Gather::new(names), unlisted: Vec::new() };
        let program = compiler.value(writer.schema, &reaches)?;
        let (skips, unlisted) = (compiler.gather.finish(), compiler.unlisted);
        Ok(Self { schema_id: writer.id, fullname: writer.fullname.clone(), program, skips, unlisted })
    }

    /// What this writer knows and the contract does not.
    pub fn unlisted(&self) -> &[Unlisted] {
        &self.unlisted
    }

    /// Appends a row to columns of the plan's table. A reject leaves them as they were.
    ///
    /// # Errors
    /// A datum that does not follow its schema, or the first column that cannot hold its value.
    pub fn append(&self, datum: &[u8], origin: &Origin<'_>, columns: &mut Columns) -> Result<(), Reject> {
        columns.mark();
        if let Err(reject) = self.put(datum, origin, columns) {
            columns.rewind();
            return Err(reject);
        }
        columns.keep();
        Ok(()) // anew: `put`'s is loaded wider than it was stored, which waits for the columns to reach the cache
    }

    fn put(&self, datum: &[u8], origin: &Origin<'_>, columns: &mut Columns) -> Result<(), Reject> {
        let walked = Walk::new(datum, columns, &self.skips).whole(&self.program);
        let Walked { misfit, unlisted } = walked.map_err(|unread| self.undecodable(&unread))?;
        if let Some((column, error)) = misfit {
            let name = &columns.shape.columns[column].name;
            return Err(Reject::new(Reason::DoesNotFit, format!("field `{name}` does not fit its column: {error}")));
        }
        columns.put_origin(origin, self.schema_id).map_err(|error| Reject::new(Reason::DoesNotFit, error))?;
        columns.unlisted += unlisted;
        Ok(())
    }

    /// In the codec's words, where it has some.
    #[cold]
    fn undecodable(&self, unread: &Unread) -> Reject {
        let (schema_id, fullname) = (self.schema_id, self.fullname.clone());
        let error = match *unread {
            Unread::Left(left) => DecodeError::TrailingBytes { schema_id, fullname, left }.to_string(),
            Unread::Broken(Broken::Truncated) => DecodeError::Truncated { schema_id, fullname }.to_string(),
            Unread::Broken(broken) => format!("the value does not follow schema {schema_id} ({fullname}): {broken}"),
        };
        Reject::new(Reason::Undecodable, error)
    }
}

/// A column that is somewhere beneath a value, and the way from there.
#[derive(Clone, Copy)]
struct Reach<'p> {
    column: usize,
    /// Arrays passed so far.
    level: usize,
    steps: &'p [Step],
    leaf: &'p ColumnType,
}

struct Compiler<'s, 'p> {
    names: &'s NamesRef<'s>,
    shape: &'p Shape,
    gather: Gather<'s>,
    unlisted: Vec<Unlisted>,
}

type Program = Result<Vec<Op>, String>;

impl<'s> Compiler<'s, '_> {
    /// Reads one value for the columns beneath it.
    fn value(&mut self, schema: &'s Schema, reaches: &[Reach<'_>]) -> Program {
        let Some(first) = reaches.first() else { return Ok(vec![Op::Skip(self.gather.place(schema)?)]) };
        match (first.steps.first(), follow(schema, self.names)?) {
            (None, schema) => self.leaf(schema, first.leaf, first.column, first.level),
            (Some(_), Schema::Union(union)) => {
                let branches = union.variants().iter().map(|variant| self.value(variant, reaches));
                Ok(vec![Op::Union(branches.collect::<Result<_, _>>()?)])
            }
            (Some(_), Schema::Null) => Ok(reaches.iter().map(|reach| self.null(reach)).collect()),
            (Some(Step::Each), Schema::Array(array)) => self.each(&array.items, reaches),
            (Some(_), Schema::Record(record)) => self.record(record, reaches),
            _ => Err("has another shape than the contract".into()), // refused by row::steps before
        }
    }

    fn record(&mut self, record: &'s RecordSchema, reaches: &[Reach<'_>]) -> Program {
        let mut program: Vec<_> = reaches.iter().filter_map(missing).collect();
        for (index, field) in record.fields.iter().enumerate() {
            let within = |reach: &Reach<'_>| matches!(reach.steps.first(), Some(Step::Field(at)) if *at == index);
            let inside: Vec<_> = reaches.iter().copied().filter(within).map(Reach::further).collect();
            program.extend(self.value(&field.schema, &inside)?);
        }
        Ok(program)
    }

    fn each(&mut self, items: &'s Schema, reaches: &[Reach<'_>]) -> Program {
        let offsets = reaches.iter().map(|reach| self.level(reach.column, reach.level).offsets).collect();
        let inside: Vec<_> = reaches.iter().copied().map(Reach::further).collect();
        Ok(vec![Op::Each { offsets, items: self.value(items, &inside)? }])
    }

    /// A record or an array that is null: so is everything beneath it.
    fn null(&self, reach: &Reach<'_>) -> Op {
        match reach.steps.iter().any(|step| matches!(step, Step::Each)) {
            true => Op::Empty(self.level(reach.column, reach.level).offsets),
            false => self.null_leaf(reach.leaf, reach.column, reach.level),
        }
    }

    fn null_leaf(&self, leaf: &ColumnType, column: usize, level: usize) -> Op {
        match leaf {
            ColumnType::LowCardinality(inner) => self.null_leaf(inner, column, level),
            ColumnType::Nullable(_) => Op::Null(self.shape.columns[column].leaf),
            ColumnType::Array(_) | ColumnType::Map(_) => Op::Empty(self.level(column, level).offsets),
            other => Op::Misfit { column, error: format!("null, in a {other} that is never null") },
        }
    }

    /// Reads a value that is a column's, or an item of one.
    fn leaf(&mut self, schema: &'s Schema, leaf: &ColumnType, column: usize, level: usize) -> Program {
        match (leaf, follow(schema, self.names)?) {
            (_, Schema::Union(union)) => {
                let branches = union.variants().iter().map(|variant| self.leaf(variant, leaf, column, level));
                Ok(vec![Op::Union(branches.collect::<Result<_, _>>()?)])
            }
            (_, Schema::Null) => Ok(vec![self.null_leaf(leaf, column, level)]),
            (ColumnType::LowCardinality(inner), schema) => self.leaf(schema, inner, column, level),
            (ColumnType::Nullable(inner), schema) => {
                let mut program = vec![Op::NotNull(self.shape.columns[column].leaf)];
                program.extend(self.leaf(schema, inner, column, level)?);
                Ok(program)
            }
            (ColumnType::Array(item), Schema::Array(array)) => {
                let offsets = vec![self.level(column, level).offsets];
                Ok(vec![Op::Each { offsets, items: self.leaf(&array.items, item, column, level + 1)? }])
            }
            (ColumnType::Map(of), Schema::Map(map)) => self.map(&map.types, of, column, level),
            (leaf, schema) => self.scalar(schema, leaf, column),
        }
    }

    fn map(&mut self, types: &'s Schema, of: &ColumnType, column: usize, level: usize) -> Program {
        let Level { offsets, keys: Some(keys) } = self.level(column, level) else {
            return Err("a map's column has no keys".into()); // the shape was made from the same type
        };
        let skip = self.gather.place(types)?;
        let values = self.leaf(types, of, column, level + 1)?;
        Ok(vec![Op::Map { offsets, keys, values, skip }])
    }

    fn scalar(&mut self, schema: &'s Schema, leaf: &ColumnType, column: usize) -> Program {
        let op = match self.shape.columns[column].leaf.store {
            Store::Fixed { buffer, .. } => fixed(schema, leaf, column, buffer),
            Store::Text(buffer) => bytes(schema, leaf).map(|from| Op::Text { buffer, from }),
            Store::Words { dictionary, .. } => bytes(schema, leaf)
                .map(|from| Op::Word { dictionary, from })
                .or_else(|| self.symbol(schema, leaf, column, dictionary)),
        };
        if let Some(op) = op {
            return Ok(vec![op]);
        }
        let error = format!("a {leaf} cannot hold this type of value");
        Ok(vec![Op::Skip(self.gather.place(schema)?), Op::Misfit { column, error }])
    }

    fn symbol(&mut self, schema: &Schema, leaf: &ColumnType, column: usize, dictionary: usize) -> Option<Op> {
        let (ColumnType::Symbol { symbols, default }, Schema::Enum(written)) = (leaf, schema) else { return None };
        let is_listed = |found: &String| symbols.contains(found);
        let known = |found: &String| {
            let stored = row::known(found, symbols, default.as_ref())?.to_owned();
            Ok(Symbol { stored, is_listed: is_listed(found) })
        };
        let unlisted: Vec<_> = written.symbols.iter().filter(|found| !is_listed(found)).cloned().collect();
        if let (Some(default), false) = (default, unlisted.is_empty()) {
            let column = self.shape.columns[column].name.clone();
            self.unlisted.push(Unlisted { column, symbols: unlisted, default: default.clone() });
        }
        Some(Op::Symbol { column, dictionary, symbols: written.symbols.iter().map(known).collect() })
    }

    fn level(&self, column: usize, level: usize) -> Level {
        self.shape.columns[column].levels[level]
    }
}

impl Reach<'_> {
    /// Past the next step.
    fn further(self) -> Self {
        let level = self.level + usize::from(matches!(self.steps.first(), Some(Step::Each)));
        Self { steps: &self.steps[1..], level, ..self }
    }
}

fn missing(reach: &Reach<'_>) -> Option<Op> {
    let Some(Step::Missing(value)) = reach.steps.first() else { return None };
    Some(Op::Default { column: reach.column, level: reach.level, value: value.clone() })
}

/// What a column of values of one width takes: its own type, and numbers as Avro promotes them.
fn fixed(schema: &Schema, leaf: &ColumnType, column: usize, buffer: usize) -> Option<Op> {
    Some(match (leaf, schema) {
        (ColumnType::Bool, Schema::Boolean) => Op::Bool(buffer),
        (ColumnType::Date32, Schema::Date) => Op::Date { column, buffer },
        (ColumnType::Micros, Schema::TimestampMicros) => Op::Time { column, buffer, ticks_per_second: 1_000_000 },
        (ColumnType::Millis, Schema::TimestampMillis) => Op::Time { column, buffer, ticks_per_second: 1_000 },
        (ColumnType::Decimal { precision, .. }, Schema::Decimal(decimal)) => {
            let from = match &decimal.inner {
                InnerDecimalSchema::Bytes => Bytes::Prefixed,
                InnerDecimalSchema::Fixed(fixed) => Bytes::Fixed(fixed.size),
            };
            Op::Decimal { column, buffer, precision: *precision, from }
        }
        (ColumnType::Uuid, Schema::String) => Op::TextAsUuid { column, buffer },
        (ColumnType::Uuid, Schema::Uuid(uuid)) => {
            let from = match uuid {
                UuidSchema::String => UuidFrom::Text,
                UuidSchema::Bytes => UuidFrom::Bytes,
                UuidSchema::Fixed(fixed) => UuidFrom::Fixed(fixed.size),
            };
            Op::Uuid { buffer, from }
        }
        (leaf, schema) => promoted(number(schema)?, leaf).map(|(from, to)| Op::Number { from, to, buffer })?,
    })
}

fn number(schema: &Schema) -> Option<Number> {
    match schema {
        Schema::Int => Some(Number::Int),
        Schema::Long => Some(Number::Long),
        Schema::Float => Some(Number::Float),
        Schema::Double => Some(Number::Double),
        _ => None,
    }
}

fn promoted(from: Number, leaf: &ColumnType) -> Option<(Number, Number)> {
    use Number::{Double, Float, Int, Long};
    match (leaf, from) {
        (ColumnType::Int32, Int) => Some((from, Int)),
        (ColumnType::Int64, Int | Long) => Some((from, Long)),
        (ColumnType::Float32, Int | Long | Float) => Some((from, Float)),
        (ColumnType::Float64, Int | Long | Float | Double) => Some((from, Double)),
        _ => None,
    }
}

fn bytes(schema: &Schema, leaf: &ColumnType) -> Option<Bytes> {
    match (leaf, schema) {
        (ColumnType::String, Schema::String) => Some(Bytes::Text),
        (ColumnType::String, Schema::Bytes) => Some(Bytes::Prefixed),
        (ColumnType::String, Schema::Fixed(fixed)) => Some(Bytes::Fixed(fixed.size)),
        _ => None,
    }
}
