//! A plain reader of both formats, for tests alone: whatever does not read as it should panics.

/// One value, as the bytes both formats have for it.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Cell {
    Null,
    Value(Vec<u8>),
    List(Vec<Cell>),
    Map(Vec<(Cell, Cell)>),
}

impl Cell {
    pub fn text(text: &str) -> Self {
        Self::Value(text.into())
    }
}

/// A ClickHouse type, out of its text.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Type {
    Fixed(usize),
    Text,
    Nullable(Box<Type>),
    LowCardinality(Box<Type>),
    Array(Box<Type>),
    Map(Box<Type>),
}

impl Type {
    pub fn parse(text: &str) -> Self {
        let (name, inside) = text.split_once('(').map_or((text, ""), |(name, rest)| (name, &rest[..rest.len() - 1]));
        let inner = || Box::new(Self::parse(inside));
        match name {
            "Bool" => Self::Fixed(1),
            "Int32" | "UInt32" | "Float32" | "Date32" => Self::Fixed(4),
            "Int64" | "Float64" | "DateTime64" => Self::Fixed(8),
            "UUID" => Self::Fixed(16),
            "Decimal" => match inside.split_once(", ").unwrap().0.parse().unwrap() {
                0..=9_u32 => Self::Fixed(4),
                10..=18 => Self::Fixed(8),
                _ => Self::Fixed(16),
            },
            "String" => Self::Text,
            "Nullable" => Self::Nullable(inner()),
            "LowCardinality" => Self::LowCardinality(inner()),
            "Array" => Self::Array(inner()),
            "Map" => Self::Map(Box::new(Self::parse(inside.strip_prefix("String, ").unwrap()))),
            _ => panic!("{text}"),
        }
    }

    fn has_words(&self) -> bool {
        match self {
            Self::LowCardinality(_) => true,
            Self::Array(inner) | Self::Map(inner) => inner.has_words(),
            Self::Fixed(_) | Self::Text | Self::Nullable(_) => false,
        }
    }
}

struct Bytes<'b>(&'b [u8]);

impl<'b> Bytes<'b> {
    fn take(&mut self, count: usize) -> &'b [u8] {
        let (taken, rest) = self.0.split_at(count);
        self.0 = rest;
        taken
    }

    fn byte(&mut self) -> u8 {
        self.take(1)[0]
    }

    fn length(&mut self) -> usize {
        let (mut length, mut shift) = (0, 0);
        loop {
            let byte = self.byte();
            length |= usize::from(byte & 0x7f) << shift;
            shift += 7;
            if byte < 0x80 {
                return length;
            }
        }
    }

    fn text(&mut self) -> &'b [u8] {
        let length = self.length();
        self.take(length)
    }

    fn long(&mut self) -> usize {
        u64::from_le_bytes(self.take(8).try_into().unwrap()) as usize
    }
}

/// The cells of rows, one after the other.
pub(super) fn row_binary(types: &[Type], rows: &[u8]) -> Vec<Vec<Cell>> {
    let (mut rows, mut cells) = (Bytes(rows), Vec::new());
    while !rows.0.is_empty() {
        cells.push(types.iter().map(|of| in_row(of, &mut rows)).collect());
    }
    cells
}

fn in_row(of: &Type, row: &mut Bytes<'_>) -> Cell {
    match of {
        Type::Fixed(width) => Cell::Value(row.take(*width).to_vec()),
        Type::Text => Cell::Value(row.text().to_vec()),
        Type::LowCardinality(inner) => in_row(inner, row),
        Type::Nullable(inner) => match row.byte() {
            0 => in_row(inner, row),
            _ => Cell::Null,
        },
        Type::Array(item) => Cell::List((0..row.length()).map(|_| in_row(item, row)).collect()),
        Type::Map(value) => {
            Cell::Map((0..row.length()).map(|_| (in_row(&Type::Text, row), in_row(value, row))).collect())
        }
    }
}

/// A block's columns, name and type, and its rows.
pub(super) fn native(block: &[u8]) -> (Vec<(String, String)>, Vec<Vec<Cell>>) {
    let mut block = Bytes(block);
    let (columns, rows) = (block.length(), block.length());
    let (mut names, mut cells) = (Vec::new(), vec![Vec::new(); rows]);
    for _ in 0..columns {
        let mut text = || String::from_utf8(block.text().to_vec()).unwrap();
        let (name, type_name) = (text(), text());
        let of = Type::parse(&type_name);
        if of.has_words() {
            assert_eq!(block.long(), 1, "version");
        }
        in_column(&of, rows, &mut block).into_iter().zip(&mut cells).for_each(|(cell, row)| row.push(cell));
        names.push((name, type_name));
    }
    assert_eq!(block.0, b"", "left over");
    (names, cells)
}

fn in_column(of: &Type, rows: usize, block: &mut Bytes<'_>) -> Vec<Cell> {
    match of {
        Type::Fixed(width) => (0..rows).map(|_| Cell::Value(block.take(*width).to_vec())).collect(),
        Type::Text => (0..rows).map(|_| Cell::Value(block.text().to_vec())).collect(),
        Type::LowCardinality(inner) => words(matches!(**inner, Type::Nullable(_)), rows, block),
        Type::Nullable(inner) => {
            let nulls = block.take(rows);
            let cell = |(cell, null): (Cell, &u8)| if *null == 1 { Cell::Null } else { cell };
            in_column(inner, rows, block).into_iter().zip(nulls).map(cell).collect()
        }
        Type::Array(item) => {
            let counts = counts(rows, block);
            let mut items = in_column(item, counts.iter().sum(), block).into_iter();
            counts.iter().map(|count| Cell::List(items.by_ref().take(*count).collect())).collect()
        }
        Type::Map(value) => {
            let counts = counts(rows, block);
            let keys = in_column(&Type::Text, counts.iter().sum(), block);
            let mut entries = keys.into_iter().zip(in_column(value, counts.iter().sum(), block));
            counts.iter().map(|count| Cell::Map(entries.by_ref().take(*count).collect())).collect()
        }
    }
}

fn counts(rows: usize, block: &mut Bytes<'_>) -> Vec<usize> {
    let mut before = 0;
    (0..rows)
        .map(|_| {
            let end = block.long();
            end - std::mem::replace(&mut before, end)
        })
        .collect()
}

fn words(nullable: bool, rows: usize, block: &mut Bytes<'_>) -> Vec<Cell> {
    if rows == 0 {
        return Vec::new();
    }
    let kind = block.long();
    assert_eq!(kind & !0xff, 0x600);
    let words: Vec<_> = (0..block.long()).map(|_| Cell::Value(block.text().to_vec())).collect();
    assert_eq!(block.long(), rows);
    let index = |block: &mut Bytes<'_>| match kind & 0xff {
        0 => usize::from(block.byte()),
        1 => usize::from(u16::from_le_bytes(block.take(2).try_into().unwrap())),
        _ => u32::from_le_bytes(block.take(4).try_into().unwrap()) as usize,
    };
    let cell = |index: usize| if nullable && index == 0 { Cell::Null } else { words[index].clone() };
    (0..rows).map(|_| cell(index(block))).collect()
}
