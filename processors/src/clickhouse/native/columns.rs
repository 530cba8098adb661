//! The columns of one table's block as they grow, and the block they become.
//!
//! A column is a chain: any number of arrays and maps, each with its offsets, around one leaf. Each part is
//! a buffer that holds what Native wants of it, so finishing a block copies bytes and little else.

use super::super::column::ColumnType;
use super::super::row::{decimal_width, put_bytes, put_length, put_occurred_at, put_time, put_uuid};
use super::super::table::{ENVELOPE, LINEAGE, Table};
use super::dictionary::{self, Dictionary};
use chrono::{DateTime, Utc};
use millrace_schemas::Envelope;
use millrace_stream::Position;
use std::sync::Arc;
use uuid::Uuid;

/// Rows of one table. [`Columns::clear`] keeps what was allocated: one of these serves block after block.
#[derive(Debug, Clone)]
pub struct Columns {
    pub(super) shape: Arc<Shape>,
    rows: usize,
    /// Values among them that are their enum's default, since the contract does not list their symbol.
    pub(super) unlisted: usize,
    pub(super) buffers: Vec<Buffer>,
    pub(super) dictionaries: Vec<Dictionary>,
    /// The entries of the map being read, and of those around it.
    pub(super) entries: Vec<Entry>,
}

/// Which column is made of which buffers.
#[derive(Debug)]
pub(super) struct Shape {
    pub columns: Vec<Column>,
    /// Of [`ENVELOPE`] and [`LINEAGE`], in their order.
    origin: [Leaf; ORIGIN],
}

const ORIGIN: usize = ENVELOPE.len() + LINEAGE.len();
const EVENT_ID: usize = 0;
const OCCURRED_AT: usize = 1;
const OFFSET: usize = ENVELOPE.len() + 2;

#[derive(Debug)]
pub(super) struct Column {
    pub name: String,
    /// Name and type as a block has them.
    header: Vec<u8>,
    /// From the outermost.
    pub levels: Vec<Level>,
    pub leaf: Leaf,
}

/// An array, or a map, which is an array of keys beside one of values.
#[derive(Debug, Clone, Copy)]
pub(super) struct Level {
    /// For each array the end of its items, counted from the column's first.
    pub offsets: usize,
    pub keys: Option<usize>,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Leaf {
    pub nulls: Option<usize>,
    pub store: Store,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Store {
    Fixed { buffer: usize, width: usize },
    Text(usize),
    Words { dictionary: usize, nullable: bool },
}

/// Bytes, and how many of them are here to stay.
#[derive(Debug, Default, Clone)]
pub(super) struct Buffer {
    pub bytes: Vec<u8>,
    mark: usize,
}

/// Where in its datum a map's entry lies: its key from first to last byte, its value from its first.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    pub key: (u32, u32),
    pub value: u32,
}

/// Who an event is and where it was found: the columns every table has.
#[derive(Debug, Clone, Copy)]
pub struct Origin<'a> {
    pub event_id: Uuid,
    pub occurred_at: DateTime<Utc>,
    pub subject: &'a str,
    pub source: &'a str,
    /// Empty when it came without one.
    pub trace_id: &'a str,
    pub recorded_at: Option<DateTime<Utc>>,
    pub topic: &'a str,
    pub partition: i32,
    pub offset: i64,
}

impl<'a> Origin<'a> {
    pub fn of(envelope: &'a Envelope, position: &'a Position) -> Self {
        Self {
            event_id: envelope.id,
            occurred_at: envelope.occurred_at,
            subject: &envelope.subject,
            source: &envelope.source,
            trace_id: envelope.trace_id().unwrap_or_default(),
            recorded_at: envelope.recorded_at,
            topic: &position.topic,
            partition: position.partition,
            offset: position.offset,
        }
    }
}

impl Columns {
    /// For plans of the same table.
    pub fn new(table: &Table) -> Self {
        Self::shaped(Arc::new(Shape::of(table)))
    }

    pub(super) fn shaped(shape: Arc<Shape>) -> Self {
        let (buffers, dictionaries) = shape.parts();
        Self { shape, rows: 0, unlisted: 0, buffers, dictionaries, entries: Vec::new() }
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Values that stand in for a symbol that the contract does not list. Not known of what was selected.
    pub fn unlisted(&self) -> usize {
        self.unlisted
    }

    /// Forgets the rows and keeps what was allocated.
    pub fn clear(&mut self) {
        (self.rows, self.unlisted) = (0, 0);
        self.buffers.iter_mut().for_each(Buffer::clear);
        self.dictionaries.iter_mut().for_each(Dictionary::clear);
    }

    /// About the bytes of the block.
    fn size(&self) -> usize {
        self.sum(Vec::len)
    }

    /// About the bytes in memory: buffers have room to grow.
    pub fn weight(&self) -> usize {
        self.sum(Vec::capacity)
    }

    fn sum(&self, of_buffer: fn(&Vec<u8>) -> usize) -> usize {
        let buffers: usize = self.buffers.iter().map(|buffer| of_buffer(&buffer.bytes)).sum();
        buffers + self.dictionaries.iter().map(Dictionary::weight).sum::<usize>()
    }

    /// The rows' offsets, in their order.
    pub fn offsets(&self) -> impl Iterator<Item = i64> {
        self.longs(OFFSET)
    }

    /// When the rows' events happened, in microseconds since 1970, in their order.
    pub fn occurred_at(&self) -> impl Iterator<Item = i64> {
        self.longs(OCCURRED_AT)
    }

    /// The rows' event ids, in their order.
    pub fn event_ids(&self) -> impl Iterator<Item = Uuid> {
        let halves = self.fixed::<8>(EVENT_ID).as_chunks().0.iter();
        halves.map(|[high, low]| Uuid::from_u64_pair(u64::from_le_bytes(*high), u64::from_le_bytes(*low)))
    }

    fn longs(&self, of: usize) -> impl Iterator<Item = i64> {
        self.fixed(of).iter().map(|bytes| i64::from_le_bytes(*bytes))
    }

    fn fixed<const WIDTH: usize>(&self, of: usize) -> &[[u8; WIDTH]] {
        match self.shape.origin[of].store {
            Store::Fixed { buffer, .. } => self.buffers[buffer].bytes.as_chunks().0,
            Store::Text(_) | Store::Words { .. } => &[],
        }
    }

    /// Appends the rows as one block of ClickHouse's Native format.
    pub fn finish(&self, block: &mut Vec<u8>) {
        block.reserve(self.size() + self.shape.columns.iter().map(|column| column.header.len() + 64).sum::<usize>());
        put_length(self.shape.columns.len(), block);
        put_length(self.rows, block);
        self.shape.columns.iter().for_each(|column| self.finish_column(column, block));
    }

    fn finish_column(&self, column: &Column, block: &mut Vec<u8>) {
        let buffer = |at: usize, block: &mut Vec<u8>| block.extend_from_slice(&self.buffers[at].bytes);
        block.extend_from_slice(&column.header);
        if let Store::Words { .. } = column.leaf.store {
            block.extend_from_slice(&dictionary::VERSION.to_le_bytes());
        }
        for level in &column.levels {
            buffer(level.offsets, block);
            level.keys.iter().for_each(|keys| buffer(*keys, block));
        }
        column.leaf.nulls.iter().for_each(|nulls| buffer(*nulls, block));
        match column.leaf.store {
            Store::Fixed { buffer: at, .. } | Store::Text(at) => buffer(at, block),
            Store::Words { dictionary, .. } => self.dictionaries[dictionary].finish(block),
        }
    }

    /// What is put from here on is the next row, until it is [`Columns::keep`]t or [`Columns::rewind`] undoes it.
    #[inline]
    pub(super) fn mark(&mut self) {
        self.buffers.iter_mut().for_each(Buffer::mark);
        self.dictionaries.iter_mut().for_each(Dictionary::mark);
    }

    #[inline]
    pub(super) fn keep(&mut self) {
        self.rows += 1;
    }

    #[cold]
    pub(super) fn rewind(&mut self) {
        self.buffers.iter_mut().for_each(Buffer::rewind);
        self.dictionaries.iter_mut().for_each(Dictionary::rewind);
        self.entries.clear();
    }

    /// The envelope's columns and the lineage.
    ///
    /// # Errors
    /// A time that its column cannot hold.
    pub(super) fn put_origin(&mut self, origin: &Origin<'_>, schema_id: u32) -> Result<(), String> {
        let [id, occurred_at, subject, source, trace_id, topic, partition, offset, recorded_at, schema] =
            self.shape.origin;
        put_uuid(origin.event_id.as_u128(), self.bytes(id));
        put_occurred_at(origin.occurred_at, self.bytes(occurred_at))?;
        put_bytes(origin.subject.as_bytes(), self.bytes(subject));
        self.put_word(source, origin.source);
        put_bytes(origin.trace_id.as_bytes(), self.bytes(trace_id));
        self.put_word(topic, origin.topic);
        self.bytes(partition).extend_from_slice(&origin.partition.to_le_bytes());
        self.bytes(offset).extend_from_slice(&origin.offset.to_le_bytes());
        self.put_recorded_at(recorded_at, origin.recorded_at)?;
        self.bytes(schema).extend_from_slice(&schema_id.to_le_bytes());
        Ok(())
    }

    fn put_recorded_at(&mut self, leaf: Leaf, at: Option<DateTime<Utc>>) -> Result<(), String> {
        let Some(at) = at else {
            self.put_null(leaf);
            return Ok(());
        };
        self.put_not_null(leaf);
        put_time(at.timestamp_micros(), 1_000_000, self.bytes(leaf))
            .map_err(|error| format!("`_recorded_at` does not fit its column: {error}"))
    }

    #[inline]
    fn put_word(&mut self, leaf: Leaf, word: &str) {
        if let Store::Words { dictionary, .. } = leaf.store {
            self.dictionaries[dictionary].put(word.as_bytes());
        }
    }

    /// The bytes of a leaf that has no dictionary.
    #[inline]
    fn bytes(&mut self, leaf: Leaf) -> &mut Vec<u8> {
        match leaf.store {
            Store::Fixed { buffer, .. } | Store::Text(buffer) => &mut self.buffers[buffer].bytes,
            Store::Words { .. } => unreachable!("a leaf with a dictionary has no bytes of its own"),
        }
    }

    #[inline]
    pub(super) fn put_not_null(&mut self, leaf: Leaf) {
        if let Some(nulls) = leaf.nulls {
            self.buffers[nulls].bytes.push(0);
        }
    }

    /// A null, with something beneath it that nobody reads.
    pub(super) fn put_null(&mut self, leaf: Leaf) {
        if let Some(nulls) = leaf.nulls {
            self.buffers[nulls].bytes.push(1);
        }
        match leaf.store {
            Store::Fixed { buffer, width } => {
                let bytes = &mut self.buffers[buffer].bytes;
                bytes.resize(bytes.len() + width, 0);
            }
            Store::Text(buffer) => self.buffers[buffer].bytes.push(0),
            Store::Words { dictionary, .. } => self.dictionaries[dictionary].put_null(),
        }
    }

    /// An array or map of so many items, which were or will be put one level further in.
    #[inline]
    pub(super) fn put_items(&mut self, offsets: usize, count: usize) {
        let bytes = &mut self.buffers[offsets].bytes;
        let before = bytes.last_chunk().map_or(0, |last| u64::from_le_bytes(*last));
        bytes.extend_from_slice(&(before + count as u64).to_le_bytes());
    }

    /// A value as RowBinary has it, from `level` of the column inwards. Ours alone: it is taken for well-formed.
    pub(super) fn put_row_binary(&mut self, column: usize, level: usize, value: &mut &[u8]) {
        let shape = self.shape.clone();
        let Some(Level { offsets, keys }) = shape.columns[column].levels.get(level).copied() else {
            return self.put_leaf(shape.columns[column].leaf, value);
        };
        let count = take_length(value);
        self.put_items(offsets, count);
        for _ in 0..count {
            if let Some(keys) = keys {
                put_bytes(take_bytes(value), &mut self.buffers[keys].bytes);
            }
            self.put_row_binary(column, level + 1, value);
        }
    }

    fn put_leaf(&mut self, leaf: Leaf, value: &mut &[u8]) {
        let nullable = leaf.nulls.is_some() || matches!(leaf.store, Store::Words { nullable: true, .. });
        if nullable && take(value, 1) == [1] {
            return self.put_null(leaf);
        }
        self.put_not_null(leaf);
        match leaf.store {
            Store::Fixed { buffer, width } => self.buffers[buffer].bytes.extend_from_slice(take(value, width)),
            Store::Text(buffer) => put_bytes(take_bytes(value), &mut self.buffers[buffer].bytes),
            Store::Words { dictionary, .. } => self.dictionaries[dictionary].put(take_bytes(value)),
        }
    }
}

fn take<'v>(value: &mut &'v [u8], length: usize) -> &'v [u8] {
    value.split_off(..length).unwrap_or_default()
}

fn take_bytes<'v>(value: &mut &'v [u8]) -> &'v [u8] {
    let length = take_length(value);
    take(value, length)
}

/// Unsigned LEB128.
pub(super) fn take_length(value: &mut &[u8]) -> usize {
    let (mut length, mut shift) = (0, 0);
    while let Some(byte) = value.split_off_first() {
        length |= usize::from(byte & 0x7f) << shift;
        shift += 7;
        if *byte < 0x80 {
            break;
        }
    }
    length
}

impl Buffer {
    fn clear(&mut self) {
        self.bytes.clear();
        self.mark = 0;
    }

    #[inline]
    fn mark(&mut self) {
        self.mark = self.bytes.len();
    }

    fn rewind(&mut self) {
        self.bytes.truncate(self.mark);
    }
}

impl Shape {
    pub fn of(table: &Table) -> Self {
        let mut parts = Parts::default();
        let body = table.fields().iter().map(|field| field.column_type());
        let types = body.chain(origin_types());
        let columns: Vec<_> = table.insert_columns().zip(types).map(|(column, of)| parts.column(column, &of)).collect();
        let first = table.fields().len();
        let origin = std::array::from_fn(|at| columns[first + at].leaf);
        Self { columns, origin }
    }

    /// Empty ones.
    fn parts(&self) -> (Vec<Buffer>, Vec<Dictionary>) {
        let mut parts = Parts::default();
        for column in &self.columns {
            for level in &column.levels {
                parts.buffers += 1 + usize::from(level.keys.is_some());
            }
            parts.buffers += usize::from(column.leaf.nulls.is_some());
            match column.leaf.store {
                Store::Fixed { .. } | Store::Text(_) => parts.buffers += 1,
                Store::Words { nullable, .. } => parts.dictionaries.push(nullable),
            }
        }
        let buffers = std::iter::repeat_with(Buffer::default).take(parts.buffers).collect();
        (buffers, parts.dictionaries.into_iter().map(Dictionary::new).collect())
    }
}

/// The types of [`ENVELOPE`] and [`LINEAGE`], as far as bytes are concerned: a `UInt32` is as wide as an `Int32`.
fn origin_types() -> [ColumnType; ORIGIN] {
    use ColumnType::{Int32, Int64, LowCardinality, Micros, Nullable, String, Uuid};
    let few = || LowCardinality(Box::new(String));
    [Uuid, Micros, String, few(), String, few(), Int32, Int64, Nullable(Box::new(Micros)), Int32]
}

/// Hands out buffers.
#[derive(Default)]
struct Parts {
    buffers: usize,
    /// Whether each is nullable.
    dictionaries: Vec<bool>,
}

impl Parts {
    fn column(&mut self, column: &super::super::table::Column, of: &ColumnType) -> Column {
        let mut header = Vec::new();
        put_bytes(column.name.as_bytes(), &mut header);
        put_bytes(column.type_name.as_bytes(), &mut header);
        let (mut levels, mut of) = (Vec::new(), of);
        while let ColumnType::Array(inner) | ColumnType::Map(inner) = of {
            let keys = matches!(of, ColumnType::Map(_));
            levels.push(Level { offsets: self.buffer(), keys: keys.then(|| self.buffer()) });
            of = inner;
        }
        Column { name: column.name.clone(), header, levels, leaf: self.leaf(of) }
    }

    fn leaf(&mut self, of: &ColumnType) -> Leaf {
        match of {
            ColumnType::LowCardinality(inner) => {
                let nullable = matches!(**inner, ColumnType::Nullable(_));
                self.dictionaries.push(nullable);
                let dictionary = self.dictionaries.len() - 1;
                Leaf { nulls: None, store: Store::Words { dictionary, nullable } }
            }
            ColumnType::Nullable(inner) => Leaf { nulls: Some(self.buffer()), store: self.store(inner) },
            of => Leaf { nulls: None, store: self.store(of) },
        }
    }

    fn store(&mut self, of: &ColumnType) -> Store {
        let buffer = self.buffer();
        width(of).map_or(Store::Text(buffer), |width| Store::Fixed { buffer, width })
    }

    fn buffer(&mut self) -> usize {
        self.buffers += 1;
        self.buffers - 1
    }
}

/// Bytes of each value, where all have as many.
fn width(of: &ColumnType) -> Option<usize> {
    match of {
        ColumnType::Bool => Some(1),
        ColumnType::Int32 | ColumnType::Float32 | ColumnType::Date32 => Some(4),
        ColumnType::Int64 | ColumnType::Float64 | ColumnType::Micros | ColumnType::Millis => Some(8),
        ColumnType::Uuid => Some(16),
        ColumnType::Decimal { precision, .. } => Some(decimal_width(*precision)),
        ColumnType::String | ColumnType::Symbol { .. } => None,
        ColumnType::LowCardinality(_) | ColumnType::Nullable(_) | ColumnType::Array(_) | ColumnType::Map(_) => None,
    }
}

/// 128 bits over a block: plenty to tell blocks of one range of the log apart, and fast. It guards against
/// another encoding of the same events, not against anybody: who can choose a range's events can choose anything.
pub fn hash(block: &[u8]) -> String {
    format!("{:032x}", cityhash_rs::cityhash_102_128(block))
}
