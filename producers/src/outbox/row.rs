//! A row of the outbox, as the event that the gateway would have been sent.

use crate::gateway::cloudevent::{Data, Submitted};
use chrono::{DateTime, SecondsFormat, Utc};
use sqlx::Row as _;
use sqlx::postgres::PgRow;
use std::borrow::Cow;
use uuid::Uuid;

/// A row's fixed part, about.
const ROW_BYTES: usize = 256;

/// An event as its service wrote it.
#[derive(Default)]
pub(super) struct Row {
    pub seq: i64,
    pub id: Uuid,
    /// Why it can't be published, whatever its contract says; what is too large was not read.
    pub unfit: Option<String>,
    pub event_type: String,
    pub key: Option<String>,
    pub data: Option<String>,
    pub avro: Option<Vec<u8>>,
    pub dataschema: Option<String>,
    pub occurred_at: DateTime<Utc>,
    pub correlation_id: Option<String>,
    pub causation_id: Option<String>,
    pub traceparent: Option<String>,
    pub tracestate: Option<String>,
    /// Unix time, in seconds. Postgres' times reach further than ours, up to infinity.
    pub written_at: Option<f64>,
}

impl Row {
    pub fn read(row: &PgRow) -> sqlx::Result<Self> {
        Ok(Self {
            seq: row.try_get("seq")?,
            id: row.try_get("id")?,
            unfit: row.try_get("unfit")?,
            event_type: row.try_get::<Option<_>, _>("type")?.unwrap_or_default(),
            key: row.try_get("key")?,
            data: row.try_get("data")?,
            avro: row.try_get("avro")?,
            dataschema: row.try_get("dataschema")?,
            occurred_at: row.try_get::<Option<_>, _>("occurred_at")?.unwrap_or_default(),
            correlation_id: row.try_get("correlation_id")?,
            causation_id: row.try_get("causation_id")?,
            traceparent: row.try_get("traceparent")?,
            tracestate: row.try_get("tracestate")?,
            written_at: row.try_get("written_at")?,
        })
    }

    pub fn bytes(&self) -> usize {
        let texts = [
            &self.key,
            &self.data,
            &self.dataschema,
            &self.correlation_id,
            &self.causation_id,
            &self.traceparent,
            &self.tracestate,
        ];
        let texts: usize = texts.into_iter().flatten().map(String::len).sum();
        ROW_BYTES + self.event_type.len() + texts + self.avro.as_ref().map_or(0, Vec::len)
    }

    /// As if it had been sent to the gateway.
    pub fn submitted<'a>(&'a self, source: &'a str) -> Submitted<'a> {
        let mut event = Submitted::default();
        event.set("specversion", Some("1.0".into()));
        event.set("id", Some(self.id.to_string().into()));
        event.set("source", Some(source.into()));
        event.set("time", Some(self.occurred_at.to_rfc3339_opts(SecondsFormat::Micros, true).into()));
        event.set("type", Some(self.event_type.as_str().into()));
        let optional = [
            ("subject", &self.key),
            ("dataschema", &self.dataschema),
            ("correlationid", &self.correlation_id),
            ("causationid", &self.causation_id),
            ("traceparent", &self.traceparent),
            ("tracestate", &self.tracestate),
        ];
        for (name, value) in optional {
            if let Some(value) = value {
                event.set(name, Some(value.as_str().into()));
            }
        }
        event.data = match (&self.data, &self.avro) {
            (Some(json), _) => Some(Data::Json(json)),
            (None, Some(datum)) => Some(Data::Avro(Cow::Borrowed(datum))),
            (None, None) => None,
        };
        event
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_says_what_the_gateway_would_have_been_told() {
        let row = Row {
            seq: 1,
            id: Uuid::from_u128(7),
            event_type: "user.erased".into(),
            key: Some("k".into()),
            data: Some("{}".into()),
            correlation_id: Some("c".into()),
            traceparent: Some("two\nlines".into()),
            ..Row::default()
        };
        let event = row.submitted("/shop");
        let said = ["id", "source", "time", "type", "subject", "correlationid", "causationid", "traceparent"]
            .map(|name| event.get(name).map(|value| value.to_string()));
        let expected = [
            Some("00000000-0000-0000-0000-000000000007"),
            Some("/shop"),
            Some("1970-01-01T00:00:00.000000Z"),
            Some("user.erased"),
            Some("k"),
            Some("c"),
            None,
            None,
        ];
        assert_eq!(said, expected.map(|text| text.map(str::to_owned)));
        assert!(event.violations.is_empty(), "nobody loses an event to a trace that no header can hold");
    }
}
