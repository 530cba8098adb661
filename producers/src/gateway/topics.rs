//! Kafka's ids of the topics: an event that was accepted into another log, or into a topic before it was deleted and
//! made anew, is none of this one. Asked again and again, beside the requests, which never wait for it.

use millrace_stream::{Admin, Backoff};
use std::collections::BTreeMap;
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

/// So long an event may be called `duplicate` for a topic that is no more; one question to Kafka each time.
const ASKED_EVERY: Duration = Duration::from_secs(60);
/// Between questions that Kafka did not answer, at first and at most.
const AWAY_WAITS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// Ids by name.
type Ids = BTreeMap<String, String>;

#[derive(Default)]
pub(super) struct Topics(RwLock<Ids>);

impl Topics {
    /// None until Kafka has told it: then nothing that depends on it is shared.
    pub fn id(&self, topic: &str) -> Option<String> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(topic).cloned()
    }

    /// Asks for ever; says so when a topic was made anew.
    pub async fn keep_known(&self, kafka: Admin, names: Vec<String>, made_anew: impl Fn()) {
        let (mut waits, mut missing) = (Backoff::between(AWAY_WAITS.0, AWAY_WAITS.1), Vec::new());
        let mut told_away = false;
        loop {
            let wait = match kafka.existing_topic_ids(names.clone()).await {
                Ok(found) => {
                    tell_missing(&mut missing, &names, &found);
                    if self.note(found) {
                        tracing::warn!("a topic was made anew: what was accepted into the former one is forgotten");
                        made_anew();
                    }
                    (waits, told_away) = (Backoff::between(AWAY_WAITS.0, AWAY_WAITS.1), false);
                    ASKED_EVERY
                }
                Err(error) => {
                    if !std::mem::replace(&mut told_away, true) {
                        tracing::warn!(
                            "whether a topic was made anew is not known while Kafka does not tell: {error:#}"
                        );
                    }
                    waits.next_wait()
                }
            };
            tokio::time::sleep(wait).await;
        }
    }

    /// Whether one is another than it was. One that is missing may come back: its id stays until there is another.
    fn note(&self, found: Ids) -> bool {
        let mut ids = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let is_other = found.iter().any(|(topic, id)| ids.get(topic).is_some_and(|known| known != id));
        ids.extend(found);
        is_other
    }
}

/// Once, until others are missing.
fn tell_missing(told: &mut Vec<String>, names: &[String], found: &Ids) {
    let missing: Vec<String> = names.iter().filter(|name| !found.contains_key(*name)).cloned().collect();
    if !missing.is_empty() && missing != *told {
        let missing = missing.join(", ");
        tracing::warn!(
            "Kafka tells no id of {missing}: `millrace migrate` makes topics, and this process needs the right to \
             describe them"
        );
    }
    *told = missing;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(pairs: &[(&str, &str)]) -> Ids {
        pairs.iter().map(|(topic, id)| ((*topic).to_owned(), (*id).to_owned())).collect()
    }

    #[test]
    fn a_topic_that_was_made_anew_is_noticed_even_if_it_was_seen_missing_and_none_waits_for_another() {
        let topics = Topics::default();
        assert_eq!(topics.id("order"), None);
        assert!(!topics.note(ids(&[("order", "A")])), "the first look finds nothing changed");
        assert_eq!((topics.id("order"), topics.id("visit")), (Some("A".into()), None));
        assert!(!topics.note(ids(&[("order", "A"), ("visit", "B")])), "one that is new is none made anew");
        assert!(!topics.note(ids(&[("visit", "B")])), "deleted, or a broker that is not ready yet");
        assert!(topics.note(ids(&[("order", "C"), ("visit", "B")])));
        assert_eq!(topics.id("order"), Some("C".into()));
        assert!(!topics.note(ids(&[("order", "C"), ("visit", "B")])));
    }
}
