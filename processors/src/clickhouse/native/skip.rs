//! Values nobody wants: read past, and refused where the codec would refuse them.

use super::super::column::follow;
use super::datum::{Broken, Collection, Datum};
use apache_avro::Schema;
use apache_avro::schema::{InnerDecimalSchema, Name, NamesRef, UuidSchema};
use millrace_schemas::uuid_text;
use std::collections::HashMap;

/// The types of one schema, each named one once, referring to each other by place.
#[derive(Debug, Default)]
pub(super) struct Skips(Vec<Skip>);

#[derive(Debug)]
enum Skip {
    Null,
    Boolean,
    Int,
    Long,
    Fixed(usize),
    /// A UUID in so many bytes; but for 16 it is none.
    FixedUuid(usize),
    Bytes,
    Text,
    UuidText,
    UuidBytes,
    BigDecimal,
    Enum(usize),
    Array(usize),
    Map(usize),
    Union(Vec<usize>),
    Record(Vec<usize>),
}

/// Gathers the types to skip while a plan is compiled.
pub(super) struct Gather<'s> {
    names: &'s NamesRef<'s>,
    skips: Skips,
    named: HashMap<&'s Name, usize>,
}

impl<'s> Gather<'s> {
    pub fn new(names: &'s NamesRef<'s>) -> Self {
        Self { names, skips: Skips::default(), named: HashMap::new() }
    }

    pub fn finish(self) -> Skips {
        self.skips
    }

    /// The place of a type.
    ///
    /// # Errors
    /// A name that stands for nothing.
    pub fn place(&mut self, schema: &'s Schema) -> Result<usize, String> {
        let schema = follow(schema, self.names)?;
        let Schema::Record(record) = schema else {
            let skip = self.skip(schema)?;
            return Ok(self.push(skip));
        };
        if let Some(place) = self.named.get(&record.name) {
            return Ok(*place);
        }
        let fields = record.fields.iter().map(|field| self.place(&field.schema)).collect::<Result<_, _>>()?;
        let place = self.push(Skip::Record(fields));
        self.named.insert(&record.name, place);
        Ok(place)
    }

    fn push(&mut self, skip: Skip) -> usize {
        self.skips.0.push(skip);
        self.skips.0.len() - 1
    }

    fn skip(&mut self, schema: &'s Schema) -> Result<Skip, String> {
        Ok(match schema {
            Schema::Null => Skip::Null,
            Schema::Boolean => Skip::Boolean,
            Schema::Int | Schema::Date | Schema::TimeMillis => Skip::Int,
            Schema::Long | Schema::TimeMicros => Skip::Long,
            Schema::TimestampMillis | Schema::TimestampMicros | Schema::TimestampNanos => Skip::Long,
            Schema::LocalTimestampMillis | Schema::LocalTimestampMicros | Schema::LocalTimestampNanos => Skip::Long,
            Schema::Float => Skip::Fixed(4),
            Schema::Double => Skip::Fixed(8),
            Schema::Fixed(fixed) | Schema::Duration(fixed) => Skip::Fixed(fixed.size),
            Schema::Bytes => Skip::Bytes,
            Schema::String => Skip::Text,
            Schema::Uuid(UuidSchema::String) => Skip::UuidText,
            Schema::Uuid(UuidSchema::Bytes) => Skip::UuidBytes,
            Schema::Uuid(UuidSchema::Fixed(fixed)) => Skip::FixedUuid(fixed.size),
            Schema::Decimal(decimal) => match &decimal.inner {
                InnerDecimalSchema::Bytes => Skip::Bytes,
                InnerDecimalSchema::Fixed(fixed) => Skip::Fixed(fixed.size),
            },
            Schema::BigDecimal => Skip::BigDecimal,
            Schema::Enum(symbols) => Skip::Enum(symbols.symbols.len()),
            Schema::Array(array) => Skip::Array(self.place(&array.items)?),
            Schema::Map(map) => Skip::Map(self.place(&map.types)?),
            Schema::Union(union) => {
                Skip::Union(union.variants().iter().map(|variant| self.place(variant)).collect::<Result<_, _>>()?)
            }
            Schema::Record(_) | Schema::Ref { .. } => return Err("a record within no place".into()),
        })
    }
}

impl Skips {
    /// Reads past one value. By recursion: no schema that is read contains itself.
    pub fn read(&self, place: usize, datum: &mut Datum<'_>) -> Result<(), Broken> {
        match &self.0[place] {
            Skip::Null => {}
            Skip::Boolean => drop(datum.boolean()?),
            Skip::Int => drop(datum.int()?),
            Skip::Long => drop(datum.long()?),
            Skip::Fixed(size) => drop(datum.fixed(*size)?),
            Skip::FixedUuid(size) => drop(fixed_uuid(datum, *size)?),
            Skip::Bytes => drop(datum.bytes()?),
            Skip::Text => drop(datum.text()?),
            Skip::UuidText => drop(uuid_text::parse(datum.text()?).ok_or(Broken::Uuid)?),
            Skip::UuidBytes => drop(uuid_bytes(datum)?),
            Skip::BigDecimal => big_decimal(datum.bytes()?)?,
            Skip::Enum(symbols) => drop(datum.symbol(*symbols)?),
            Skip::Array(items) => self.items(*items, datum)?,
            Skip::Map(values) => self.entries(*values, datum)?,
            Skip::Union(branches) => {
                let branch = datum.branch(branches.len())?;
                self.read(branches[branch], datum)?;
            }
            Skip::Record(fields) => fields.iter().try_for_each(|field| self.read(*field, datum))?,
        }
        Ok(())
    }

    fn items(&self, items: usize, datum: &mut Datum<'_>) -> Result<(), Broken> {
        let mut total = 0;
        loop {
            let count = datum.block(total, Collection::Array)?;
            if count == 0 {
                return Ok(());
            }
            total += count;
            (0..count).try_for_each(|_| self.read(items, datum))?;
        }
    }

    fn entries(&self, values: usize, datum: &mut Datum<'_>) -> Result<(), Broken> {
        let mut total = 0;
        loop {
            let count = datum.block(total, Collection::Map)?;
            if count == 0 {
                return Ok(());
            }
            total += count;
            for _ in 0..count {
                datum.text()?;
                self.read(values, datum)?;
            }
        }
    }
}

/// Sixteen bytes in so many bytes.
pub(super) fn fixed_uuid(datum: &mut Datum<'_>, size: usize) -> Result<[u8; 16], Broken> {
    datum.fixed(size)?.try_into().map_err(|_| Broken::Uuid)
}

pub(super) fn uuid_bytes(datum: &mut Datum<'_>) -> Result<[u8; 16], Broken> {
    datum.bytes()?.try_into().map_err(|_| Broken::Uuid)
}

/// Bytes that hold a length, the number and its scale; the codec ignores what follows.
fn big_decimal(bytes: &[u8]) -> Result<(), Broken> {
    let mut inner = Datum::new(bytes);
    let read = inner.bytes().and_then(|_| inner.long());
    read.map(drop).map_err(|_| Broken::Decimal)
}
