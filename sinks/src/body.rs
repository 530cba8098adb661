//! An event as plain JSON, for receivers that never heard of Avro. Pure: one event has one body.

use apache_avro::Schema;
use apache_avro::schema::DecimalSchema;
use apache_avro::types::Value;
use base64::{Engine, prelude::BASE64_STANDARD};
use chrono::{DateTime, NaiveDate, NaiveDateTime, NaiveTime, SecondsFormat, TimeDelta, Utc};
use millrace_schemas::Envelope;
use millrace_stream::{Reason, Reject};
use serde::Serialize;
use serde_json::{Map, Number, Value as Json};
use std::fmt::Display;

/// Deeper than any contract; shallower than a stack.
const DEPTH_MAX: usize = 64;

/// The attributes a receiver needs, named as CloudEvents names them.
#[derive(Serialize)]
struct Body<'a> {
    r#type: &'a str,
    id: uuid::Uuid,
    source: &'a str,
    subject: &'a str,
    time: String,
    data: Json,
}

/// `{"type", "id", "source", "subject", "time", "data"}`, fields of `data` in the contract's order.
///
/// # Errors
/// The field whose value JSON can't say.
pub(crate) fn body(envelope: &Envelope, schema: &Schema, value: Value) -> Result<String, Reject> {
    let body = Body {
        r#type: &envelope.event_type,
        id: envelope.id,
        source: &envelope.source,
        subject: &envelope.subject,
        time: envelope.occurred_at.to_rfc3339_opts(SecondsFormat::Micros, true),
        data: Reader { root: schema }.read(schema, value, &mut vec!["data".into()])?,
    };
    serde_json::to_string(&body).map_err(|error| Reject::new(Reason::DoesNotFit, error))
}

struct Reader<'a> {
    /// Where names that are only referred to are described.
    root: &'a Schema,
}

impl Reader<'_> {
    fn read(&self, schema: &Schema, value: Value, path: &mut Vec<String>) -> Result<Json, Reject> {
        if path.len() > DEPTH_MAX {
            return Err(misfit(path, format!("nested deeper than {DEPTH_MAX} levels")));
        }
        match (schema, value) {
            (Schema::Ref { name }, value) => match named(self.root, name) {
                Some(schema) => self.read(schema, value, path),
                None => Err(misfit(path, format!("its schema {} is not described", name.fullname(None)))),
            },
            (Schema::Union(union), Value::Union(branch, value)) => {
                let schema = usize::try_from(branch).ok().and_then(|branch| union.variants().get(branch));
                self.read(schema.unwrap_or(&Schema::Null), *value, path)
            }
            (Schema::Record(record), Value::Record(fields)) => {
                let fields =
                    record.fields.iter().zip(fields).map(|(field, (name, value))| (&field.schema, name, value));
                self.object(fields, path)
            }
            (Schema::Map(map), Value::Map(entries)) => {
                let mut entries: Vec<_> = entries.into_iter().collect();
                entries.sort_by(|(a, _), (b, _)| a.cmp(b)); // the decoder's map has no order of its own
                self.object(entries.into_iter().map(|(name, value)| (&*map.types, name, value)), path)
            }
            (Schema::Array(array), Value::Array(items)) => {
                let item =
                    |(index, value)| within(path, format!("[{index}]"), |path| self.read(&array.items, value, path));
                items.into_iter().enumerate().map(item).collect()
            }
            (Schema::Decimal(schema), Value::Decimal(value)) => decimal(schema, &value, path),
            (_, value) => scalar(value, path),
        }
    }

    fn object<'s>(
        &self,
        fields: impl Iterator<Item = (&'s Schema, String, Value)>,
        path: &mut Vec<String>,
    ) -> Result<Json, Reject> {
        let mut object = Map::new();
        for (schema, name, value) in fields {
            let json = within(path, format!(".{name}"), |path| self.read(schema, value, path))?;
            object.insert(name, json);
        }
        Ok(Json::Object(object))
    }
}

fn within<T>(path: &mut Vec<String>, step: String, read: impl FnOnce(&mut Vec<String>) -> T) -> T {
    path.push(step);
    let result = read(path);
    path.pop();
    result
}

fn scalar(value: Value, path: &[String]) -> Result<Json, Reject> {
    let text = |text: Option<String>| text.map(Json::String).ok_or_else(|| misfit(path, "no calendar holds this time"));
    match value {
        Value::Null => Ok(Json::Null),
        Value::Boolean(value) => Ok(value.into()),
        Value::Int(value) => Ok(value.into()),
        Value::Long(value) => Ok(value.into()),
        Value::Float(value) => number(f64::from(value), path),
        Value::Double(value) => number(value, path),
        Value::String(value) | Value::Enum(_, value) => Ok(value.into()),
        Value::Bytes(bytes) | Value::Fixed(_, bytes) => Ok(BASE64_STANDARD.encode(bytes).into()),
        Value::Uuid(value) => Ok(value.to_string().into()),
        Value::BigDecimal(value) => Ok(value.to_string().into()),
        Value::Date(days) => text(date(days)),
        Value::TimeMillis(millis) => text(time_of_day(i64::from(millis) * 1_000)),
        Value::TimeMicros(micros) => text(time_of_day(micros)),
        Value::TimestampMillis(millis) => text(DateTime::from_timestamp_millis(millis).map(instant)),
        Value::TimestampMicros(micros) => text(DateTime::from_timestamp_micros(micros).map(instant)),
        Value::TimestampNanos(nanos) => Ok(instant(DateTime::from_timestamp_nanos(nanos)).into()),
        Value::LocalTimestampMillis(millis) => text(DateTime::from_timestamp_millis(millis).map(local)),
        Value::LocalTimestampMicros(micros) => text(DateTime::from_timestamp_micros(micros).map(local)),
        Value::LocalTimestampNanos(nanos) => Ok(local(DateTime::from_timestamp_nanos(nanos)).into()),
        Value::Duration(value) => Ok(duration(&value).into()),
        Value::Union(..) | Value::Record(_) | Value::Map(_) | Value::Array(_) | Value::Decimal(_) => {
            Err(misfit(path, "the value is of another kind than its schema"))
        }
    }
}

fn number(value: f64, path: &[String]) -> Result<Json, Reject> {
    let number = Number::from_f64(value);
    number.map(Json::Number).ok_or_else(|| misfit(path, format!("JSON has no number {value}")))
}

fn instant(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::AutoSi, true)
}

/// Without a zone: nobody said which.
fn local(at: DateTime<Utc>) -> String {
    let at: NaiveDateTime = at.naive_utc();
    at.format("%Y-%m-%dT%H:%M:%S%.f").to_string()
}

fn date(days: i32) -> Option<String> {
    NaiveDate::default().checked_add_signed(TimeDelta::days(i64::from(days))).map(|date| date.to_string())
}

fn time_of_day(micros: i64) -> Option<String> {
    let seconds = u32::try_from(micros.div_euclid(1_000_000)).ok()?;
    let nanos = u32::try_from(micros.rem_euclid(1_000_000)).ok()? * 1_000;
    NaiveTime::from_num_seconds_from_midnight_opt(seconds, nanos).map(|time| time.to_string())
}

/// ISO 8601, such as `P1M2DT0.003S`.
fn duration(value: &apache_avro::Duration) -> String {
    let (months, days): (u32, u32) = (value.months().into(), value.days().into());
    let millis = u32::from(value.millis());
    format!("P{months}M{days}DT{}.{:03}S", millis / 1_000, millis % 1_000)
}

/// A string, exact: receivers would read a number as floating point.
fn decimal(schema: &DecimalSchema, value: &apache_avro::Decimal, path: &[String]) -> Result<Json, Reject> {
    let bytes = Vec::<u8>::try_from(value).map_err(|error| misfit(path, error))?;
    let Some(unscaled) = integer(&bytes) else {
        return Err(misfit(path, format!("a decimal of {} bytes, at most 16 are read", bytes.len())));
    };
    let digits = format!("{:0width$}", unscaled.unsigned_abs(), width = schema.scale + 1);
    let (whole, fraction) = digits.split_at(digits.len() - schema.scale);
    let sign = if unscaled < 0 { "-" } else { "" };
    let point = if fraction.is_empty() { "" } else { "." };
    Ok(format!("{sign}{whole}{point}{fraction}").into())
}

/// Big-endian two's complement.
fn integer(bytes: &[u8]) -> Option<i128> {
    let negative = bytes.first().is_some_and(|first| first & 0x80 != 0);
    let mut wide = [if negative { 0xff } else { 0 }; 16];
    let start = wide.len().checked_sub(bytes.len())?;
    wide[start..].copy_from_slice(bytes);
    Some(i128::from_be_bytes(wide))
}

/// The named type a reference means. Walked only when a schema has one; contracts have none.
fn named<'s>(schema: &'s Schema, wanted: &apache_avro::schema::Name) -> Option<&'s Schema> {
    if schema.name() == Some(wanted) && !matches!(schema, Schema::Ref { .. }) {
        return Some(schema);
    }
    match schema {
        Schema::Record(record) => record.fields.iter().find_map(|field| named(&field.schema, wanted)),
        Schema::Union(union) => union.variants().iter().find_map(|schema| named(schema, wanted)),
        Schema::Array(array) => named(&array.items, wanted),
        Schema::Map(map) => named(&map.types, wanted),
        _ => None,
    }
}

fn misfit(path: &[String], why: impl Display) -> Reject {
    Reject::new(Reason::DoesNotFit, format!("{}: {why}", path.concat()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use millrace_schemas::{Contracts, WriterSchema};
    use std::collections::HashMap;

    fn data(schema: &str, value: Value) -> Result<Json, Reject> {
        let schema = Schema::parse_str(schema).unwrap();
        Reader { root: &schema }.read(&schema, value, &mut vec!["data".into()])
    }

    fn field(kind: &str) -> String {
        format!(r#"{{"type": "record", "name": "R", "fields": [{{"name": "f", "type": {kind}}}]}}"#)
    }

    fn one(kind: &str, value: Value) -> Result<Json, Reject> {
        data(&field(kind), Value::Record(vec![("f".into(), value)])).map(|mut json| json["f"].take())
    }

    fn payment() -> Value {
        let text = |text: &str| Value::String(text.into());
        let id = |text: &str| Value::Uuid(text.parse().unwrap());
        let fields = [
            ("payment_id", id("019ab523-9f70-7c18-8a3e-d46b1f92c507")),
            ("order_id", id("019ab523-41c9-7e6f-b2d4-8a7c05e19f3b")),
            ("user_id", id("019a8f3c-5d21-7c44-9b0e-3f6a1d2c7e58")),
            ("amount", Value::Long(10_242)),
            ("currency", text("EUR")),
            ("method", Value::Enum(0, "CARD".into())),
            ("attempt", Value::Int(1)),
            ("reason", Value::Enum(0, "INSUFFICIENT_FUNDS".into())),
        ];
        Value::Record(fields.map(|(name, value)| (name.to_owned(), value)).into())
    }

    #[test]
    fn a_payment_reads_as_its_contract_describes_it() {
        let contracts = Contracts::embedded().unwrap();
        let contract = contracts.get("payment.failed").unwrap();
        let writer = WriterSchema::parse(1, &contract.newest().text).unwrap();
        let mut datum = Vec::new();
        writer.encode_value(&payment(), &mut datum).unwrap();
        let mut envelope = Envelope::new("/shop", "payment.failed", "019ab523-41c9-7e6f-b2d4-8a7c05e19f3b");
        envelope.id = uuid::uuid!("019ab523-a000-7000-8000-000000000001");
        envelope.occurred_at = DateTime::from_timestamp_micros(1_767_225_600_123_456).unwrap();
        let body = body(&envelope, writer.schema, writer.decode(&datum).unwrap()).unwrap();
        assert_eq!(
            body,
            concat!(
                r#"{"type":"payment.failed","id":"019ab523-a000-7000-8000-000000000001","source":"/shop","#,
                r#""subject":"019ab523-41c9-7e6f-b2d4-8a7c05e19f3b","time":"2026-01-01T00:00:00.123456Z","#,
                r#""data":{"payment_id":"019ab523-9f70-7c18-8a3e-d46b1f92c507","#,
                r#""order_id":"019ab523-41c9-7e6f-b2d4-8a7c05e19f3b","user_id":"019a8f3c-5d21-7c44-9b0e-3f6a1d2c7e58","#,
                r#""amount":10242,"currency":"EUR","method":"CARD","attempt":1,"reason":"INSUFFICIENT_FUNDS"}}"#
            )
        );
    }

    #[test]
    fn unions_are_unwrapped_and_nothing_depends_on_a_hash() {
        assert_eq!(one(r#"["null", "string"]"#, Value::Union(0, Value::Null.into())).unwrap(), Json::Null);
        assert_eq!(one(r#"["null", "long"]"#, Value::Union(1, Value::Long(7).into())).unwrap(), 7);
        let entries: HashMap<_, _> = (0..50).map(|n| (format!("k{n:02}"), Value::Int(n))).collect();
        let map = one(r#"{"type": "map", "values": "int"}"#, Value::Map(entries)).unwrap();
        let keys: Vec<_> = map.as_object().unwrap().keys().cloned().collect();
        assert!(keys.is_sorted() && keys.len() == 50);
    }

    #[test]
    fn logical_types_read_as_people_write_them() {
        let logical = |base: &str, name: &str| format!(r#"{{"type": "{base}", "logicalType": "{name}"}}"#);
        let said = |kind: &str, value| one(kind, value).unwrap().as_str().unwrap().to_owned();
        assert_eq!(said(&logical("int", "date"), Value::Date(-1)), "1969-12-31");
        assert_eq!(said(&logical("long", "time-micros"), Value::TimeMicros(3_600_000_001)), "01:00:00.000001");
        assert_eq!(
            said(&logical("long", "timestamp-micros"), Value::TimestampMicros(-1)),
            "1969-12-31T23:59:59.999999Z"
        );
        assert_eq!(
            said(&logical("long", "local-timestamp-millis"), Value::LocalTimestampMillis(0)),
            "1970-01-01T00:00:00"
        );
        assert_eq!(said(r#""bytes""#, Value::Bytes(vec![0, 255])), "AP8=");
    }

    #[test]
    fn decimals_are_exact() {
        let kind = r#"{"type": "bytes", "logicalType": "decimal", "precision": 20, "scale": 2}"#;
        let said = |bytes: &[u8]| one(kind, Value::Decimal(bytes.into())).unwrap();
        assert_eq!(said(&[0x30, 0x39]), "123.45");
        assert_eq!(said(&[0xff]), "-0.01");
        assert_eq!(said(&[0]), "0.00");
        let huge = one(kind, Value::Decimal([1; 17].as_slice().into())).unwrap_err();
        assert_eq!(huge.error, "data.f: a decimal of 17 bytes, at most 16 are read");
    }

    #[test]
    fn a_value_that_json_cannot_say_is_named_by_its_field() {
        let array = r#"{"type": "array", "items": "double"}"#;
        let reject = one(array, Value::Array(vec![Value::Double(1.0), Value::Double(f64::NAN)])).unwrap_err();
        assert_eq!((reject.reason, reject.error.as_str()), (Reason::DoesNotFit, "data.f[1]: JSON has no number NaN"));
        let far = one(r#"{"type": "long", "logicalType": "timestamp-micros"}"#, Value::TimestampMicros(i64::MAX));
        assert_eq!(far.unwrap_err().error, "data.f: no calendar holds this time");
    }

    #[test]
    fn a_type_that_refers_to_itself_is_followed_to_its_end_and_no_deeper() {
        let list = r#"{"type": "record", "name": "Node", "fields": [{"name": "next", "type": ["null", "Node"]}]}"#;
        let node = |next| Value::Record(vec![("next".into(), next)]);
        let chain = |length| {
            (0..length).fold(Value::Union(0, Value::Null.into()), |next, _| Value::Union(1, node(next).into()))
        };
        let json = data(list, node(chain(2))).unwrap();
        assert_eq!(json.to_string(), r#"{"next":{"next":{"next":null}}}"#);
        assert!(data(list, node(chain(100))).unwrap_err().error.ends_with("nested deeper than 64 levels"));
    }
}
