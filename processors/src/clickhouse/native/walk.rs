//! One datum on its way into the columns, step by step. Decides nothing: the program did.
//!
//! A value that does not fit is noted and the walk goes on, so that a datum that is broken further on is
//! called broken, and so that of several misfits the first column's is told. Whatever was put is undone then.

use super::super::row::{put_bytes, put_date, put_decimal, put_time, put_uuid};
use super::columns::{Columns, Entry};
use super::datum::{Broken, Collection, Datum};
use super::plan::{Bytes, Number, Op, UuidFrom};
use super::skip::{Skips, fixed_uuid, uuid_bytes};
use apache_avro::Decimal;
use millrace_schemas::uuid_text;

pub(super) struct Walk<'w, 'd> {
    datum: Datum<'d>,
    whole: &'d [u8],
    columns: &'w mut Columns,
    skips: &'w Skips,
    walked: Walked,
}

/// What came of it, beside what was put.
#[derive(Default)]
pub(super) struct Walked {
    /// The first column that cannot hold its value, and why.
    pub misfit: Option<(usize, String)>,
    /// Values that were put as their enum's default, since the contract does not list their symbol.
    pub unlisted: usize,
}

/// Why a datum is not its schema's.
pub(super) enum Unread {
    Broken(Broken),
    /// Nothing is, and so many bytes are too much.
    Left(usize),
}

type Done = Result<(), Broken>;

impl<'w, 'd> Walk<'w, 'd> {
    pub fn new(datum: &'d [u8], columns: &'w mut Columns, skips: &'w Skips) -> Self {
        Self { datum: Datum::new(datum), whole: datum, columns, skips, walked: Walked::default() }
    }

    /// Reads all of it.
    pub fn whole(mut self, program: &[Op]) -> Result<Walked, Unread> {
        self.run(program).map_err(Unread::Broken)?;
        match self.datum.rest.len() {
            0 => Ok(self.walked),
            left => Err(Unread::Left(left)),
        }
    }

    fn run(&mut self, program: &[Op]) -> Done {
        program.iter().try_for_each(|op| self.step(op))
    }

    #[inline]
    fn step(&mut self, op: &Op) -> Done {
        match op {
            Op::Skip(place) => self.skips.read(*place, &mut self.datum)?,
            Op::NotNull(leaf) => self.columns.put_not_null(*leaf),
            Op::Null(leaf) => self.columns.put_null(*leaf),
            Op::Empty(offsets) => self.columns.put_items(*offsets, 0),
            Op::Default { column, level, value } => self.columns.put_row_binary(*column, *level, &mut &value[..]),
            Op::Misfit { column, error } => self.misfit(*column, error),
            Op::Bool(buffer) => {
                let bit = self.datum.boolean()?;
                self.buffer(*buffer).push(bit);
            }
            Op::Number { from, to, buffer } => self.number(*from, *to, *buffer)?,
            Op::Date { column, buffer } => {
                let days = self.datum.int()?;
                let put = put_date(days, self.buffer(*buffer));
                self.fits(*column, put);
            }
            Op::Time { column, buffer, ticks_per_second } => {
                let at = self.datum.long()?;
                let put = put_time(at, *ticks_per_second, self.buffer(*buffer));
                self.fits(*column, put);
            }
            Op::Decimal { column, buffer, precision, from } => {
                let bytes = self.bytes(*from)?;
                let put = decimal(bytes, *precision, self.buffer(*buffer));
                self.fits(*column, put);
            }
            Op::Uuid { buffer, from } => {
                let id = self.uuid(*from)?;
                put_uuid(id, self.buffer(*buffer));
            }
            Op::TextAsUuid { column, buffer } => match uuid_text::number(self.datum.text()?) {
                Some(id) => put_uuid(id, self.buffer(*buffer)),
                None => self.misfit(*column, "the text is not a UUID"),
            },
            Op::Text { buffer, from } => {
                let bytes = self.bytes(*from)?;
                put_bytes(bytes, self.buffer(*buffer));
            }
            Op::Word { dictionary, from } => {
                let word = self.bytes(*from)?;
                self.columns.dictionaries[*dictionary].put(word);
            }
            Op::Symbol { column, dictionary, symbols } => match &symbols[self.datum.symbol(symbols.len())?] {
                Ok(symbol) => {
                    self.columns.dictionaries[*dictionary].put(symbol.stored.as_bytes());
                    self.walked.unlisted += usize::from(!symbol.is_listed);
                }
                Err(error) => self.misfit(*column, error),
            },
            Op::Union(branches) => {
                let branch = self.datum.branch(branches.len())?;
                self.run(&branches[branch])?;
            }
            Op::Each { offsets, items } => self.each(offsets, items)?,
            Op::Map { offsets, keys, values, skip } => self.map(*offsets, *keys, values, *skip)?,
        }
        Ok(())
    }

    #[inline]
    fn buffer(&mut self, at: usize) -> &mut Vec<u8> {
        &mut self.columns.buffers[at].bytes
    }

    #[inline]
    fn bytes(&mut self, from: Bytes) -> Result<&'d [u8], Broken> {
        match from {
            Bytes::Text => self.datum.text(),
            Bytes::Prefixed => self.datum.bytes(),
            Bytes::Fixed(size) => self.datum.fixed(size),
        }
    }

    #[inline]
    fn uuid(&mut self, from: UuidFrom) -> Result<u128, Broken> {
        Ok(match from {
            UuidFrom::Text => self.uuid_text()?,
            UuidFrom::Bytes => u128::from_be_bytes(uuid_bytes(&mut self.datum)?),
            UuidFrom::Fixed(size) => u128::from_be_bytes(fixed_uuid(&mut self.datum, size)?),
        })
    }

    /// What is read as a UUID is ASCII; only what is not might still be no text at all.
    #[inline]
    fn uuid_text(&mut self) -> Result<u128, Broken> {
        uuid_text::number(self.datum.bytes()?).ok_or(Broken::Uuid)
    }

    /// Avro's promotions lose what they lose: a long as a float is the nearest one.
    #[inline]
    fn number(&mut self, from: Number, to: Number, buffer: usize) -> Done {
        let long = match from {
            Number::Int => i64::from(self.datum.int()?),
            Number::Long => self.datum.long()?,
            Number::Float => return self.float(to, buffer),
            Number::Double => {
                let double = self.datum.array::<8>()?;
                self.buffer(buffer).extend_from_slice(&double);
                return Ok(());
            }
        };
        let into = self.buffer(buffer);
        match to {
            Number::Int => into.extend_from_slice(&(long as i32).to_le_bytes()), // read as one
            Number::Long => into.extend_from_slice(&long.to_le_bytes()),
            Number::Float => into.extend_from_slice(&(long as f32).to_le_bytes()),
            Number::Double => into.extend_from_slice(&(long as f64).to_le_bytes()),
        }
        Ok(())
    }

    fn float(&mut self, to: Number, buffer: usize) -> Done {
        let float = self.datum.array::<4>()?;
        match to {
            Number::Double => {
                self.buffer(buffer).extend_from_slice(&f64::from(f32::from_le_bytes(float)).to_le_bytes())
            }
            _ => self.buffer(buffer).extend_from_slice(&float),
        }
        Ok(())
    }

    fn each(&mut self, offsets: &[usize], items: &[Op]) -> Done {
        let mut total = 0;
        loop {
            let count = self.datum.block(total, Collection::Array)?;
            if count == 0 {
                break;
            }
            total += count;
            (0..count).try_for_each(|_| self.run(items))?;
        }
        offsets.iter().for_each(|offsets| self.columns.put_items(*offsets, total));
        Ok(())
    }

    /// A map has no order, and equal events must give equal bytes: its entries are found first, then sorted, then
    /// read. Of a key that repeats the last value counts, as it does for the codec.
    fn map(&mut self, offsets: usize, keys: usize, values: &[Op], skip: usize) -> Done {
        let first = self.columns.entries.len(); // those before are of maps around this one
        let before = self.datum;
        self.find_entries(skip)?;
        let after = self.datum;
        let whole = self.whole;
        self.columns.entries[first..].sort_unstable_by_key(|entry| (slice(whole, entry.key), entry.value));
        let mut count = 0;
        for at in first..self.columns.entries.len() {
            let entry = self.columns.entries[at];
            let key = slice(whole, entry.key);
            if self.columns.entries.get(at + 1).is_some_and(|next| slice(whole, next.key) == key) {
                continue;
            }
            put_bytes(key, self.buffer(keys));
            self.datum = before.at(&whole[entry.value as usize..]);
            self.run(values)?;
            count += 1;
        }
        self.datum = after;
        self.columns.entries.truncate(first);
        self.columns.put_items(offsets, count);
        Ok(())
    }

    fn find_entries(&mut self, skip: usize) -> Done {
        let mut total = 0;
        loop {
            let count = self.datum.block(total, Collection::Map)?;
            if count == 0 {
                return Ok(());
            }
            total += count;
            for _ in 0..count {
                let key = self.datum.text()?;
                let end = self.place();
                self.columns.entries.push(Entry { key: (end - key.len() as u32, end), value: end });
                self.skips.read(skip, &mut self.datum)?;
            }
        }
    }

    /// How far into the datum. Records are at most 1 MiB, so that 32 bits are plenty.
    fn place(&self) -> u32 {
        (self.whole.len() - self.datum.rest.len()) as u32
    }

    #[inline]
    fn fits(&mut self, column: usize, put: Result<(), String>) {
        if let Err(error) = put {
            self.misfit(column, &error);
        }
    }

    #[cold]
    fn misfit(&mut self, column: usize, error: &str) {
        if self.walked.misfit.as_ref().is_none_or(|(first, _)| column < *first) {
            self.walked.misfit = Some((column, error.to_owned()));
        }
    }
}

fn slice(whole: &[u8], (start, end): (u32, u32)) -> &[u8] {
    &whole[start as usize..end as usize]
}

fn decimal(bytes: &[u8], precision: usize, into: &mut Vec<u8>) -> Result<(), String> {
    if bytes.is_empty() {
        // The codec's number of no bytes does not fit its own bytes.
        let none = Vec::<u8>::try_from(&Decimal::from(bytes));
        return none.map(drop).map_err(|error| error.to_string());
    }
    put_decimal(bytes, precision, into)
}
