//! Sees to it that a client that lives for long finds the brokers again.
//!
//! A broker that comes up answers before it may lead anything, and names no broker then, not even itself. The client
//! forgets all it knew and means to begin anew with the addresses it was configured with. Now and then it does not: the
//! answer ends by stopping the timer that has just been set for this (librdkafka since 2.10,
//! <https://github.com/confluentinc/librdkafka/issues/5301>). It has nobody to ask from then on, and would stay so. So
//! it is told once more where the brokers are.
//!
//! The Rust client has no call for that, so this file speaks to librdkafka's C interface.
#![allow(unsafe_code)] // the reason above; the block says why it is sound

use crate::{Admin, KafkaConfig};
use rdkafka::bindings as c;
use rdkafka::client::{Client, ClientContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use std::ffi::CString;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Between two looks at whether a broker answers, once a client has lost all: half a session of a group's member.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Whether a client has lost all brokers.
#[derive(Default)]
pub(crate) struct Reach {
    lost: AtomicBool,
}

impl Reach {
    /// For the client's context, whatever the error.
    pub fn note(&self, error: &KafkaError) {
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::AllBrokersDown) {
            self.lost.store(true, Ordering::Relaxed);
        }
    }

    /// Waits until the client has lost all brokers, and one answers others.
    pub async fn back(&self, kafka: &Admin) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            if self.lost.swap(false, Ordering::Relaxed) {
                match kafka.reachable().await {
                    Ok(()) => return,
                    Err(_) => self.lost.store(true, Ordering::Relaxed),
                }
            }
        }
    }
}

/// Tells the client once more where the brokers are; one that has found them by itself loses nothing by it. Once for each
/// time that they were away: the client remembers every call.
pub(crate) fn tell<C: ClientContext>(client: &Client<C>, kafka: &KafkaConfig) {
    let Some(brokers) = kafka.client().get("bootstrap.servers").and_then(|brokers| CString::new(brokers).ok()) else {
        return;
    };
    // SAFETY: the client is alive, and copies the string.
    unsafe { c::rd_kafka_brokers_add(client.native_ptr(), brokers.as_ptr()) };
    tracing::info!("kafka answers again: the client was told once more where it is");
}

/// The context of a client that has nothing else to tell.
pub(crate) struct Watched(pub Arc<Reach>);

impl ClientContext for Watched {
    fn error(&self, error: KafkaError, reason: &str) {
        self.0.note(&error);
        tracing::warn!("kafka: {error}: {reason}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake_broker::{FakeBroker, TOPIC};
    use rdkafka::config::FromClientConfigAndContext;
    use rdkafka::producer::{FutureProducer, Producer};

    struct Asking {
        reach: Arc<Reach>,
        client: FutureProducer<Watched>,
    }

    impl Asking {
        /// One that never begins anew by itself. Others do or don't: whether the answer or the timer wins is a race.
        fn at(kafka: &KafkaConfig) -> Self {
            let reach = Arc::<Reach>::default();
            let mut config = kafka.client();
            config.set("metadata.recovery.strategy", "none");
            let client = FutureProducer::from_config_and_context(&config, Watched(reach.clone())).unwrap();
            Self { reach, client }
        }

        /// How many brokers it is told of; none where it has nobody to ask.
        fn brokers(&self) -> Option<usize> {
            let asked = self.client.client().fetch_metadata(Some(TOPIC), LOOK_EVERY);
            asked.ok().map(|found| found.brokers().len())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_heard_of_no_broker_and_never_asks_again_does_once_it_is_told() {
        let broker = FakeBroker::start();
        let asking = Asking::at(&broker.kafka());
        assert_eq!(asking.brokers(), Some(1));
        broker.leads(false);
        assert_ne!(asking.brokers(), Some(1), "nobody leads");
        broker.leads(true);
        assert_eq!(asking.brokers(), None, "it has nobody to ask");
        asking.reach.back(&Admin::new(broker.kafka())).await;
        tell(asking.client.client(), &broker.kafka());
        assert_eq!(asking.brokers(), Some(1));
    }
}
