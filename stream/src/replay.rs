//! Running a dead letter through its pipeline's own handler again, once.

use crate::decode::{Decoded, decode, framed};
use crate::offsets::{Batch, Purpose};
use crate::{DeadLetter, DeadLetters, Decoder, Failure, Handler, Reject};
use std::sync::Arc;
use uuid::Uuid;

/// What a replay did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReplayOutcome {
    /// It has its effect now, and cannot be replayed again.
    Applied,
    /// Still not readable; the letter stays open with this error.
    Rejected(Reject),
    /// Readable, and not for this pipeline (any more): nothing to do, settled.
    Ignored,
    /// Its event has taken effect by another record: nothing to do, settled.
    Superseded,
}

/// Decodes and applies one open dead letter. The letter is settled in the transaction of its effect, or here where that
/// is found to be there.
///
/// # Errors
/// [`Failure::Retry`] when a server it needs is away, [`Failure::Stop`] when somebody else replayed it.
pub async fn replay<H: Handler>(
    letters: &DeadLetters,
    decoder: &Decoder,
    handler: &H,
    letter: &DeadLetter,
) -> Result<ReplayOutcome, Failure> {
    if let Ok(envelope) = decoder.identify(&letter.record) {
        let event = (&*letter.pipeline, &*letter.record.position.topic, envelope.id);
        if settle_found(letters, decoder, handler, event).await? == Some(letter.id) {
            return Ok(ReplayOutcome::Applied); // before
        }
    }
    if letters.settle_superseded(letter.id).await? {
        return Ok(ReplayOutcome::Superseded);
    }
    let pipeline = Arc::from(letter.pipeline.as_str());
    let mut batch = Batch::new(Purpose::Replay { letter: letter.id }, pipeline);
    let decoded = read(decoder, handler, letter, &mut batch.block).await?;
    let outcome = match decoded {
        Decoded::Rejected(reject) => {
            letters.note_failure(letter.id, &reject).await?;
            return Ok(ReplayOutcome::Rejected(reject));
        }
        Decoded::Event => ReplayOutcome::Applied,
        Decoded::Ignored => ReplayOutcome::Ignored,
    };
    handler.apply(&batch).await?;
    Ok(outcome)
}

/// Settles an open letter of this event of a pipeline's topic whose effect is there: of a replay that died before it could
/// say so, or that is about to, or of a rebuild that took the record in. What comes next of the event has no effect.
pub(crate) async fn settle_found<H: Handler>(
    letters: &DeadLetters,
    decoder: &Decoder,
    handler: &H,
    (pipeline, topic, event_id): (&str, &str, Uuid),
) -> Result<Option<i64>, Failure> {
    let open = letters.open_of(pipeline, topic, event_id).await?;
    let (mut ids, mut records) = (Vec::new(), Vec::new());
    for (id, record) in &open {
        // What has no envelope nobody can have applied.
        if let Ok(envelope) = decoder.identify(record) {
            ids.push(*id);
            records.push((record.position.clone(), envelope));
        }
    }
    let Some(found) = handler.effect_of(&records).await? else { return Ok(None) };
    Ok(letters.note_replayed(ids[found]).await?.then_some(ids[found]))
}

async fn read<H: Handler>(
    decoder: &Decoder,
    handler: &H,
    letter: &DeadLetter,
    block: &mut H::Block,
) -> Result<Decoded, Failure> {
    let record = &letter.record;
    let framed = decoder.identify(record).and_then(|envelope| Ok((envelope, framed(record)?)));
    let (envelope, (id, datum)) = match framed {
        Ok(framed) => framed,
        Err(reject) => return Ok(Decoded::Rejected(reject)),
    };
    let known = match decoder.known(id, record, &envelope).await? {
        Ok(known) => known,
        Err(reject) => return Ok(Decoded::Rejected(reject)),
    };
    handler.meet(&known.contract, &known.writer).await?;
    Ok(decode(handler, record, &envelope, &known, datum, block))
}
