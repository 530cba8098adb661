//! Avro datums in and out. Bounded: no length in a datum makes us allocate more than it can hold.

use apache_avro::Schema;
use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::types::Value;
use apache_avro::util::max_allocation_bytes;
use apache_avro::writer::datum::GenericDatumWriter;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// What one length inside a datum may ask for: a record is at most 1 MiB, this leaves room for its parts.
const ALLOCATION_BYTES_MAX: usize = 4 << 20;

#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    #[error("the value does not follow schema {schema_id} ({fullname}): {error}")]
    Malformed { schema_id: u32, fullname: String, error: Box<apache_avro::Error> },
    #[error("{left} bytes are left over after the value that schema {schema_id} ({fullname}) describes")]
    TrailingBytes { schema_id: u32, fullname: String, left: usize },
}

#[derive(Debug, thiserror::Error)]
#[error("the event does not fit {fullname}: {error}")]
pub struct EncodeError {
    fullname: String,
    error: Box<apache_avro::Error>,
}

/// The schema a record was written with, ready to use.
pub struct WriterSchema {
    /// As the registry numbers it.
    pub id: u32,
    /// Namespace and name of the record.
    pub fullname: String,
    /// Lives as long as the process: registries hold few schemas, and every event needs one.
    pub schema: &'static Schema,
    reader: GenericDatumReader<'static>,
    writer: GenericDatumWriter<'static>,
}

impl WriterSchema {
    /// # Errors
    /// When the text is not an Avro schema, or not a record's.
    pub fn parse(id: u32, text: &str) -> anyhow::Result<Self> {
        max_allocation_bytes(ALLOCATION_BYTES_MAX); // the first call counts, all ask the same
        let schema: &'static Schema = Box::leak(Box::new(Schema::parse_str(text)?));
        let Schema::Record(record) = schema else { anyhow::bail!("schema {id} is not a record's") };
        Ok(Self {
            id,
            fullname: record.name.fullname(None).to_string(),
            schema,
            reader: GenericDatumReader::builder(schema).build()?,
            writer: GenericDatumWriter::builder(schema).build()?,
        })
    }

    /// Reads a whole datum.
    ///
    /// # Errors
    /// When bytes are missing, wrong or left over.
    pub fn decode(&self, datum: &[u8]) -> Result<Value, DecodeError> {
        self.read(datum, |reader, rest| reader.read_value(rest))
    }

    /// Reads a whole datum into a type that names the fields it wants; the others are skipped.
    ///
    /// # Errors
    /// When bytes are missing, wrong or left over, or the type wants something else.
    pub fn decode_as<T: DeserializeOwned>(&self, datum: &[u8]) -> Result<T, DecodeError> {
        self.read(datum, |reader, rest| reader.read_deser(rest))
    }

    /// Appends the datum.
    ///
    /// # Errors
    /// When a field is missing or of another type.
    pub fn encode<T: Serialize>(&self, event: &T, into: &mut Vec<u8>) -> Result<(), EncodeError> {
        self.writer.write_ser(into, event).map(drop).map_err(|error| self.does_not_fit(error))
    }

    /// Appends the datum of a value tree.
    ///
    /// # Errors
    /// When the value is not of this schema.
    pub fn encode_value(&self, value: &Value, into: &mut Vec<u8>) -> Result<(), EncodeError> {
        self.writer.write_value_ref(into, value).map(drop).map_err(|error| self.does_not_fit(error))
    }

    fn read<T>(
        &self,
        datum: &[u8],
        read: impl FnOnce(&GenericDatumReader<'static>, &mut &[u8]) -> Result<T, apache_avro::Error>,
    ) -> Result<T, DecodeError> {
        let (schema_id, fullname) = (self.id, self.fullname.clone());
        let mut rest = datum;
        match read(&self.reader, &mut rest) {
            Ok(value) if rest.is_empty() => Ok(value),
            Ok(_) => Err(DecodeError::TrailingBytes { schema_id, fullname, left: rest.len() }),
            Err(error) => Err(DecodeError::Malformed { schema_id, fullname, error: Box::new(error) }),
        }
    }

    fn does_not_fit(&self, error: apache_avro::Error) -> EncodeError {
        EncodeError { fullname: self.fullname.clone(), error: Box::new(error) }
    }
}

impl std::fmt::Debug for WriterSchema {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "schema {} ({})", self.id, self.fullname)
    }
}
