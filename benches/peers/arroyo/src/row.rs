//! A record as a row in RowBinary. Pure.

use crate::Record;
use crate::table::{Field, Table};
use anyhow::{Context, bail, ensure};
use apache_avro::types::Value;
use chrono::DateTime;
use uuid::Uuid;

/// `0x00` and the schema's id stand before the datum.
pub fn unframe(payload: &[u8]) -> anyhow::Result<(u32, &[u8])> {
    let [0, a, b, c, d, datum @ ..] = payload else { bail!("not a value in Confluent's format") };
    Ok((u32::from_be_bytes([*a, *b, *c, *d]), datum))
}

/// Appends the row.
pub fn put(table: &Table, record: &Record, schema_id: u32, mut datum: &[u8], row: &mut Vec<u8>) -> anyhow::Result<()> {
    let Value::Record(values) = table.reader.read_value(&mut datum)? else { bail!("the value is not a record") };
    for (field, (_, value)) in table.fields.iter().zip(&values) {
        match field {
            Field::Plain => put_value(value, row)?,
            Field::Nested(width) => put_nested(*width, value, row)?,
        }
    }
    put_envelope(record, row)?;
    row.extend(schema_id.to_le_bytes());
    Ok(())
}

fn put_value(value: &Value, row: &mut Vec<u8>) -> anyhow::Result<()> {
    match value {
        Value::Union(_, value) if **value == Value::Null => row.push(1),
        Value::Union(_, value) => {
            row.push(0);
            put_value(value, row)?;
        }
        Value::Boolean(value) => row.push(u8::from(*value)),
        Value::Int(value) => row.extend(value.to_le_bytes()),
        Value::Long(value) => row.extend(value.to_le_bytes()),
        Value::String(text) | Value::Enum(_, text) => put_bytes(text.as_bytes(), row),
        Value::Uuid(id) => put_uuid(*id, row),
        other => bail!("no column holds {other:?}"),
    }
    Ok(())
}

/// An array of records: an array for each of their fields.
fn put_nested(width: usize, value: &Value, row: &mut Vec<u8>) -> anyhow::Result<()> {
    let Value::Array(items) = value else { bail!("the value is not an array") };
    for at in 0..width {
        put_length(items.len(), row);
        for item in items {
            let Value::Record(fields) = item else { bail!("the item is not a record") };
            put_value(&fields[at].1, row)?;
        }
    }
    Ok(())
}

/// What the headers and the record's place tell.
fn put_envelope(record: &Record, row: &mut Vec<u8>) -> anyhow::Result<()> {
    let headers = record.payload.headers().context("the record has no headers")?;
    let (mut id, mut time, mut subject, mut source, mut trace, mut recorded) = (None, None, None, None, None, None);
    for header in headers.iter() {
        match header.key {
            "ce_id" => id = header.value,
            "ce_time" => time = header.value,
            "ce_subject" => subject = header.value,
            "ce_source" => source = header.value,
            "ce_recordedtime" => recorded = header.value,
            "traceparent" => trace = header.value,
            _ => {}
        }
    }
    put_uuid(Uuid::try_parse_ascii(id.context("the record has no id")?)?, row);
    row.extend(micros(time.context("the record has no time")?)?.to_le_bytes());
    put_bytes(subject.unwrap_or_default(), row);
    put_bytes(source.unwrap_or_default(), row);
    put_bytes(trace_id(trace.unwrap_or_default()), row);
    put_bytes(record.partition.topic.as_str().as_bytes(), row);
    row.extend(i32::from(record.partition.index).to_le_bytes());
    row.extend(record.offset.to_le_bytes());
    match recorded {
        None => row.push(1),
        Some(at) => {
            row.push(0);
            row.extend(micros(at)?.to_le_bytes());
        }
    }
    Ok(())
}

fn micros(text: &[u8]) -> anyhow::Result<i64> {
    let at = DateTime::parse_from_rfc3339(std::str::from_utf8(text)?)?.timestamp_micros();
    ensure!(at >= 0, "the time is before 1970");
    Ok(at)
}

/// `00-<trace>-<span>-<flags>`
fn trace_id(traceparent: &[u8]) -> &[u8] {
    traceparent.split(|byte| *byte == b'-').nth(1).unwrap_or_default()
}

/// Two little-endian halves, the high one first.
fn put_uuid(id: Uuid, row: &mut Vec<u8>) {
    let (high, low) = id.as_u64_pair();
    row.extend(high.to_le_bytes());
    row.extend(low.to_le_bytes());
}

fn put_bytes(bytes: &[u8], row: &mut Vec<u8>) {
    put_length(bytes.len(), row);
    row.extend_from_slice(bytes);
}

/// Unsigned LEB128.
fn put_length(mut length: usize, row: &mut Vec<u8>) {
    while length >= 0x80 {
        row.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    row.push(length as u8);
}
