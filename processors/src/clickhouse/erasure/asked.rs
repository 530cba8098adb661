//! Who asks to be forgotten: from an event whose contract `erases` to a row of the ledger.

use super::ledger::{self, Request};
use apache_avro::types::Value;
use millrace_stream::{Batch, Event, Failure, Handler, Incoming, Reason, Reject, answered, crash_at};
use sqlx::{Connection, PgPool};
use std::collections::BTreeMap;

/// Longer is no id, and too long for an index.
const SUBJECT_BYTES_MAX: usize = 255;

/// The handler.
pub(super) struct Asks {
    pool: PgPool,
}

impl Asks {
    pub fn new(pool: PgPool) -> Self {
        Self { pool }
    }
}

impl Handler for Asks {
    /// Whose data is to be erased.
    type Block = Vec<Event<String>>;

    fn decode(&self, incoming: &Incoming<'_>, block: &mut Self::Block) -> Result<bool, Reject> {
        let Some(field) = &incoming.contract.erases else { return Ok(false) };
        let value = incoming.writer.decode(incoming.datum).map_err(|error| Reject::new(Reason::Undecodable, error))?;
        block.push(incoming.event(subject(field, &value)?));
        Ok(true)
    }

    async fn apply(&self, batch: &Batch<Self::Block>) -> Result<(), Failure> {
        answered(&self.pool, async |connection| {
            let mut tx = connection.begin().await?;
            let _settled = batch.settle(&mut tx).await?;
            ledger::record(&mut tx, &latest(&batch.block)).await?;
            crash_at("erasure_before_commit");
            Ok(tx.commit().await?)
        })
        .await?;
        crash_at("erasure_after_commit");
        Ok(())
    }
}

/// As ClickHouse writes it, so that the two compare.
fn subject(field: &str, value: &Value) -> Result<String, Reject> {
    let Value::Record(fields) = value else { return Err(Reject::new(Reason::Undecodable, "it is no record")) };
    let subject = match fields.iter().find(|(name, _)| name == field) {
        Some((_, Value::Uuid(id))) => id.to_string(),
        Some((_, Value::String(text))) => text.clone(),
        _ => return Err(Reject::new(Reason::DoesNotFit, format!("`{field}` is no id: nobody is named"))),
    };
    let is_id = !subject.is_empty() && subject.len() <= SUBJECT_BYTES_MAX && !subject.contains('\0');
    let refused = || Reject::new(Reason::DoesNotFit, format!("`{field}` is no id of 1 to {SUBJECT_BYTES_MAX} bytes"));
    if is_id { Ok(subject) } else { Err(refused()) }
}

/// One request a person, the latest; in the order of subjects, which is the order in which rows are locked.
fn latest(events: &[Event<String>]) -> Vec<Request> {
    let mut requests = BTreeMap::<&str, Request>::new();
    for event in events {
        let request = Request::of(&event.body, &event.envelope);
        match requests.get(event.body.as_str()) {
            Some(known) if known.when() >= request.when() => {}
            _ => drop(requests.insert(&event.body, request)),
        }
    }
    requests.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use millrace_schemas::Envelope;
    use millrace_stream::Position;
    use uuid::Uuid;

    fn value(subject: Value) -> Value {
        Value::Record(vec![("user_id".into(), subject)])
    }

    #[test]
    fn somebody_is_named_as_clickhouse_writes_it_and_nobody_is_refused() {
        let id = "019AB523-41C9-7E6F-B2D4-8A7C05E19F3B";
        let read = |value| subject("user_id", &value);
        assert_eq!(read(value(Value::Uuid(Uuid::parse_str(id).unwrap()))).unwrap(), id.to_lowercase());
        assert_eq!(read(value(Value::String("c-17".into()))).unwrap(), "c-17");
        for nobody in ["", "a\0b", &"x".repeat(256)] {
            assert!(read(value(Value::String(nobody.into()))).is_err(), "{nobody}");
        }
        assert!(read(value(Value::Null)).is_err());
    }

    #[test]
    fn who_asks_twice_in_a_batch_is_one_request() {
        let event = |subject: &str, at: &str| {
            let mut envelope = Envelope::new("/shop", "user.erased", subject).into_owned();
            envelope.occurred_at = at.parse().unwrap();
            let position = Position { topic: "t".into(), partition: 0, offset: 0 };
            Event { position, logged_at: None, schema_id: 1, envelope, body: subject.to_owned() }
        };
        let (early, late) = ("2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z");
        let found = latest(&[event("b", late), event("a", early), event("b", early)]);
        let found: Vec<_> = found.iter().map(|it| (it.subject.as_str(), it.requested_at.to_rfc3339())).collect();
        assert_eq!(found, [("a", early.replace('Z', "+00:00")), ("b", late.replace('Z', "+00:00"))]);
    }
}
