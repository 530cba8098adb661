//! From a record's bytes to an event, or to the one reason why not.

use crate::consume::{Handler, Incoming};
use crate::{Failure, Reason, Record, Reject};
use millrace_schemas::registry::{Registry, RegistryError};
use millrace_schemas::{Cleanup, Contract, Contracts, Envelope, WriterSchema, wire};
use std::collections::HashSet;
use std::sync::Arc;
use uuid::Uuid;

/// Larger records are set aside: one of them would fill a batch, a block and a screen.
pub const RECORD_BYTES_MAX: usize = 1 << 20;

/// What a record turned out to be.
pub(crate) enum Decoded {
    /// It is in the block.
    Event,
    /// Not for this pipeline, or a tombstone on a compacted topic.
    Ignored,
    Rejected(Reject),
}

/// What a record is read with.
pub(crate) struct Known {
    pub writer: Arc<WriterSchema>,
    /// That its event type names.
    pub contract: Arc<Contract>,
}

/// Everything needed to read any record of the project.
#[derive(Clone)]
pub struct Decoder {
    registry: Registry,
    contracts: Arc<Contracts>,
    compacted: Arc<HashSet<String>>,
}

impl Decoder {
    pub fn new(registry: Registry, contracts: Arc<Contracts>) -> Self {
        let compacted = contracts.iter().filter(|contract| contract.cleanup == Cleanup::Compact);
        let compacted = Arc::new(compacted.map(|contract| contract.topic.clone()).collect());
        Self { registry, contracts, compacted }
    }

    /// Who this record says it is. Pure: a window warmed from the log must see what live reading saw.
    pub(crate) fn identify<'a>(&self, record: &'a Record) -> Result<Envelope<'a>, Reject> {
        self.identify_with(record, |_| ())
    }

    /// The same; `on_id` is told the event's id before the rest is read.
    pub(crate) fn identify_with<'a>(
        &self,
        record: &'a Record,
        on_id: impl FnOnce(Uuid),
    ) -> Result<Envelope<'a>, Reject> {
        let size = record.value().map_or(0, <[u8]>::len);
        if size > RECORD_BYTES_MAX {
            return Err(Reject::new(
                Reason::TooLarge,
                format!("the value has {size} bytes, at most {RECORD_BYTES_MAX} are read"),
            ));
        }
        if record.key().is_none_or(<[u8]>::is_empty) {
            return Err(Reject::new(Reason::NoKey, "the record has no key: publish it with its aggregate's id as key"));
        }
        Envelope::from_headers_with(record.event_headers(), on_id)
            .map_err(|error| Reject::new(Reason::BadHeader, error))
    }

    pub(crate) fn is_tombstone(&self, record: &Record) -> bool {
        record.value().is_none() && self.compacted.contains(&*record.position.topic)
    }

    /// The schema of this id, which the record was written with, and the contract that it follows.
    ///
    /// # Errors
    /// [`Failure::Retry`] while the registry cannot be asked; what is wrong with the record is not an error.
    pub(crate) async fn known(
        &self,
        id: u32,
        record: &Record,
        envelope: &Envelope<'_>,
    ) -> Result<Result<Known, Reject>, Failure> {
        let writer = match self.registry.by_id(id).await {
            Ok(writer) => writer,
            Err(error @ RegistryError::Unreachable(_)) => return Err(Failure::retry(error)),
            Err(error) => return Ok(Err(Reject::new(Reason::UnknownSchema, error))),
        };
        let contract = self.contract(envelope, &writer, record).cloned();
        Ok(contract.map(|contract| Known { writer, contract }))
    }

    fn contract(
        &self,
        envelope: &Envelope<'_>,
        writer: &WriterSchema,
        record: &Record,
    ) -> Result<&Arc<Contract>, Reject> {
        let unknown = |error: String| Reject::new(Reason::UnknownType, error);
        let name = &*envelope.event_type;
        let Some(contract) = self.contracts.get(name) else {
            return Err(unknown(format!("no contract describes the event type `{name}`")));
        };
        if contract.newest().fullname() != writer.fullname {
            let (found, wanted) = (&writer.fullname, contract.newest().fullname());
            return Err(unknown(format!(
                "ce_type says `{name}` ({wanted}), but schema {} describes {found}",
                writer.id
            )));
        }
        if *contract.topic != *record.position.topic {
            let (topic, found) = (&contract.topic, &record.position.topic);
            return Err(unknown(format!("`{name}` belongs to topic {topic}, not to {found}")));
        }
        Ok(contract)
    }
}

/// Gives the handler a record of which everything is known by now.
pub(crate) fn decode<H: Handler>(
    handler: &H,
    record: &Record,
    envelope: &Envelope<'_>,
    Known { writer, contract }: &Known,
    datum: &[u8],
    block: &mut H::Block,
) -> Decoded {
    let (position, key, logged_at) = (&record.position, record.key().unwrap_or_default(), record.timestamp);
    match handler.decode(&Incoming { position, logged_at, key, envelope, contract, writer, datum }, block) {
        Ok(true) => Decoded::Event,
        Ok(false) => Decoded::Ignored,
        Err(reject) => Decoded::Rejected(reject),
    }
}

/// The schema's id, and the datum.
pub(crate) fn framed(record: &Record) -> Result<(u32, &[u8]), Reject> {
    let Some(value) = record.value() else {
        return Err(Reject::new(Reason::NoValue, "the value is null: tombstones belong on compacted topics"));
    };
    wire::unframe(value).map_err(|error| Reject::new(Reason::BadFraming, error))
}
