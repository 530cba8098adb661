//! Some rows of a block as a block of their own: those that a server lacks after an insert whose answer was lost.

use super::super::row::put_bytes;
use super::columns::{Columns, Level, Store, take_length};

impl Columns {
    /// The rows that `keep`, asked by their place, wants; the same bytes as if only they had been appended.
    #[must_use]
    pub fn select(&self, mut keep: impl FnMut(usize) -> bool) -> Self {
        let mut selected = Self::shaped(self.shape.clone());
        let mut copy = Copy { from: self, texts: vec![Text::default(); self.buffers.len()] };
        for row in (0..self.rows()).filter(|row| keep(*row)) {
            selected.mark();
            (0..self.shape.columns.len()).for_each(|column| copy.row(column, row, &mut selected));
            selected.keep();
        }
        selected
    }
}

/// How far texts were read: only their beginning is known, so they are read from first to last.
struct Copy<'c> {
    from: &'c Columns,
    texts: Vec<Text>,
}

#[derive(Clone, Copy, Default)]
struct Text {
    index: usize,
    start: usize,
}

impl<'c> Copy<'c> {
    fn row(&mut self, column: usize, row: usize, into: &mut Columns) {
        let column = &self.from.shape.columns[column];
        let (mut first, mut last) = (row, row + 1);
        for level in &column.levels {
            (first, last) = self.items(*level, first, last, into);
        }
        (first..last).for_each(|at| self.leaf(column.leaf.nulls, column.leaf.store, at, into));
    }

    /// Copies some arrays' lengths; from where to where their items lie.
    fn items(&mut self, level: Level, first: usize, last: usize, into: &mut Columns) -> (usize, usize) {
        let offsets = self.from.buffers[level.offsets].bytes.as_chunks().0;
        let end = |at: usize| at.checked_sub(1).map_or(0, |at| u64::from_le_bytes(offsets[at]) as usize);
        (first..last).for_each(|at| into.put_items(level.offsets, end(at + 1) - end(at)));
        let (first, last) = (end(first), end(last));
        if let Some(keys) = level.keys {
            (first..last).for_each(|at| put_bytes(self.text(keys, at), &mut into.buffers[keys].bytes));
        }
        (first, last)
    }

    fn leaf(&mut self, nulls: Option<usize>, store: Store, at: usize, into: &mut Columns) {
        if let Some(nulls) = nulls {
            into.buffers[nulls].bytes.push(self.from.buffers[nulls].bytes[at]);
        }
        match store {
            Store::Fixed { buffer, width } => {
                let value = &self.from.buffers[buffer].bytes[at * width..(at + 1) * width];
                into.buffers[buffer].bytes.extend_from_slice(value);
            }
            Store::Text(buffer) => put_bytes(self.text(buffer, at), &mut into.buffers[buffer].bytes),
            Store::Words { dictionary, .. } => match self.from.dictionaries[dictionary].get(at) {
                Some(word) => into.dictionaries[dictionary].put(word),
                None => into.dictionaries[dictionary].put_null(),
            },
        }
    }

    /// A later text than the one asked for before.
    fn text(&mut self, buffer: usize, wanted: usize) -> &'c [u8] {
        let bytes = &self.from.buffers[buffer].bytes;
        let next = &mut self.texts[buffer];
        loop {
            let mut rest = &bytes[next.start..];
            let length = take_length(&mut rest);
            next.start = bytes.len() - rest.len() + length;
            next.index += 1;
            if next.index > wanted {
                return &rest[..length];
            }
        }
    }
}
