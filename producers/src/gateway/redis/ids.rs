//! Which ids any gateway accepted, in Redis: written once the log has acknowledged them, never before. So one that was
//! under way when a gateway died, or that the log did not answer for, is published when it comes again.

use super::Redis;
use crate::gateway::prepare::Prepared;
use crate::gateway::publish::Name;
use millrace_schemas::wire;
use sha2::{Digest, Sha256};
use std::collections::HashMap;

/// Of the digest: enough to tell one sender's mistake from its repetition.
const DIGEST_BYTES: usize = 8;
/// Schema id and digest.
const MARK_BYTES: usize = size_of::<u32>() + DIGEST_BYTES;

/// What an id was accepted with, the same at every gateway.
type Mark = [u8; MARK_BYTES];

/// Of one request's events that this gateway does not know: what is to be remembered of them once they are accepted.
#[derive(Default)]
pub(in crate::gateway) struct Marks(HashMap<Name, (String, Mark)>);

/// An event with an id that some gateway accepted.
pub(in crate::gateway) struct Known<'a> {
    pub name: Name,
    pub event: &'a Prepared<'a>,
    /// With the same body.
    pub same: bool,
}

impl Redis {
    /// Which of these events, each with an id of its own, are known, and the marks of all; nothing when Redis is away.
    pub async fn find<'a>(&self, events: &[(Name, &'a Prepared<'a>)]) -> (Vec<Known<'a>>, Marks) {
        if !self.is_reached() {
            return Default::default();
        }
        let mark = |&(name, event)| Some((name, event, self.mark(event)?));
        let marked: Vec<_> = events.iter().filter_map(mark).collect();
        if marked.is_empty() {
            return Default::default();
        }
        let mut command = redis::cmd("MGET");
        for (_, _, (key, _)) in &marked {
            command.arg(key);
        }
        let found = self.ask(async |to| command.query_async::<Vec<Option<Vec<u8>>>>(to).await).await;
        let Some(found) = found else { return Default::default() };
        let known = marked.iter().zip(&found).filter_map(|((name, event, (_, mark)), found)| {
            Some(Known { name: *name, event, same: is_same(mark, found.as_ref()?)? })
        });
        (known.collect(), Marks(marked.into_iter().map(|(name, _, mark)| (name, mark)).collect()))
    }

    /// Only what the log has acknowledged.
    pub async fn remember(&self, accepted: impl Iterator<Item = &Name>, marks: &Marks) {
        let mut pipeline = redis::pipe();
        for (key, mark) in accepted.filter_map(|name| marks.0.get(name)) {
            // The first stays: it is what `duplicate` is told by at every gateway.
            let set = pipeline.cmd("SET").arg(key).arg(mark).arg("NX");
            set.arg("PX").arg(self.ids_kept.as_millis() as u64).ignore();
        }
        if !pipeline.is_empty() {
            self.ask(async |to| pipeline.query_async::<()>(to).await).await;
        }
    }

    fn mark(&self, event: &Prepared<'_>) -> Option<(String, Mark)> {
        let (topic, id) = (self.topics.id(event.topic)?, event.envelope.id);
        let digest = Sha256::new().chain_update(event.event_type).chain_update(&event.value).finalize();
        let schema = event.value.get(..wire::HEADER_BYTES)?.last_chunk::<{ size_of::<u32>() }>()?;
        let mut mark = [0; MARK_BYTES];
        mark[..schema.len()].copy_from_slice(schema);
        mark[schema.len()..].copy_from_slice(&digest[..DIGEST_BYTES]);
        Some((format!("millrace:id:{topic}:{id}"), mark))
    }
}

/// None where that can't be told: while gateways know different versions of a contract they write the same event
/// differently. Then it is published again, and the log's own deduplication decides.
fn is_same(mark: &Mark, found: &[u8]) -> Option<bool> {
    let schema = ..MARK_BYTES - DIGEST_BYTES;
    (found.get(schema) == Some(&mark[schema])).then(|| found == mark)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_compared_only_where_both_were_written_by_one_schema() {
        let mark: Mark = *b"\0\0\0\x07digested";
        assert_eq!(is_same(&mark, b"\0\0\0\x07digested"), Some(true));
        assert_eq!(is_same(&mark, b"\0\0\0\x07another!"), Some(false));
        assert_eq!(is_same(&mark, b"\0\0\0\x08digested"), None);
        assert_eq!(is_same(&mark, b""), None);
    }
}
