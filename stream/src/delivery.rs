//! What the Kafka client has to say of a producer's records, heard on the runtime's own threads.
//!
//! The Rust client has a thread for that, from which it wakes every task that waits, one by one, and frees what others
//! allocated. Here librdkafka wakes one task, which wakes the others where they run. The Rust client has no call for
//! that, so this file speaks to librdkafka's C interface.
#![allow(unsafe_code)] // the reason above; every block says why it is sound

use rdkafka::bindings as c;
use rdkafka::client::{Client, ClientContext};
use rdkafka::producer::{BaseProducer, Producer, ProducerContext};
use std::ffi::c_void;
use std::ops::Deref;
use std::ptr::{self, NonNull};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::Notify;

/// Until whoever has it for a moment has let it go.
const END_AGAIN: Duration = Duration::from_millis(1);
/// Events that are taken before others may run: each has the answers to one request.
const EVENTS_AT_ONCE: usize = 16;

/// A producer that is heard. Dropping it ends it before that returns, and what was under way is answered as lost.
pub(crate) struct Heard<C: ProducerContext + 'static> {
    /// There until it is dropped.
    producing: Option<Arc<Producing<C>>>,
}

struct Producing<C: ProducerContext + 'static> {
    events: Events, // goes first: it must not outlive the client
    producer: BaseProducer<C>,
}

impl<C: ProducerContext + 'static> Heard<C> {
    /// Needs a tokio runtime, which hears it and must outlive it.
    pub fn new(producer: BaseProducer<C>) -> Self {
        let producing = Arc::new(Producing { events: Events::of(producer.client()), producer });
        tokio::spawn(hear(Arc::downgrade(&producing), producing.events.came.clone()));
        Self { producing: Some(producing) }
    }
}

impl<C: ProducerContext + 'static> Deref for Heard<C> {
    type Target = BaseProducer<C>;

    fn deref(&self) -> &BaseProducer<C> {
        let Some(producing) = &self.producing else { unreachable!("it is there until it is dropped") };
        &producing.producer
    }
}

impl<C: ProducerContext + 'static> Drop for Heard<C> {
    fn drop(&mut self) {
        // The task that hears it has it for an event's length, and must not be the one who ends it: that takes a while.
        while let Some(Err(shared)) = self.producing.take().map(Arc::try_unwrap) {
            self.producing = Some(shared);
            std::thread::sleep(END_AGAIN);
        }
    }
}

/// As long as it lives.
async fn hear<C: ProducerContext + 'static>(producing: Weak<Producing<C>>, came: Arc<Notify>) {
    while let Some(is_empty) = producing.upgrade().map(|producing| producing.hear_some()) {
        if is_empty {
            came.notified().await;
        } else {
            tokio::task::yield_now().await;
        }
    }
}

impl<C: ProducerContext + 'static> Producing<C> {
    /// Whether nothing is left.
    fn hear_some(&self) -> bool {
        for _ in 0..EVENTS_AT_ONCE {
            if self.events.are_none() {
                return true;
            }
            self.producer.poll(Duration::ZERO); // takes one
        }
        false
    }
}

/// Of one client.
struct Events {
    queue: NonNull<c::rd_kafka_queue_t>,
    /// Told when an event comes into the empty queue, and when there will be none any more. The client holds a pointer
    /// to this.
    came: Arc<Notify>,
}

// SAFETY: librdkafka's queues may be used from any thread.
unsafe impl Send for Events {}
// SAFETY: as above; what may be called through a reference locks the queue.
unsafe impl Sync for Events {}

impl Events {
    fn of<C: ClientContext>(client: &Client<C>) -> Self {
        let came = Arc::<Notify>::default();
        // SAFETY: the client is alive, and every client has a main queue.
        let queue = unsafe { NonNull::new_unchecked(c::rd_kafka_queue_get_main(client.native_ptr())) };
        // SAFETY: this part of the queue is ours until `drop`, where the client is told to forget `came` before that is
        // let go. The callback only wakes a task, which it may do under the queue's lock.
        unsafe {
            let opaque = Arc::as_ptr(&came).cast_mut().cast::<c_void>();
            c::rd_kafka_queue_cb_event_enable(queue.as_ptr(), Some(has_events), opaque);
        }
        Self { queue, came }
    }

    fn are_none(&self) -> bool {
        // SAFETY: the queue is ours.
        unsafe { c::rd_kafka_queue_length(self.queue.as_ptr()) == 0 }
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        // SAFETY: it is ours, and nobody uses it after this.
        unsafe {
            c::rd_kafka_queue_cb_event_enable(self.queue.as_ptr(), None, ptr::null_mut());
            c::rd_kafka_queue_destroy(self.queue.as_ptr());
        }
        self.came.notify_one(); // whoever waits sees that there is nobody to hear
    }
}

unsafe extern "C" fn has_events(_client: *mut c::rd_kafka_t, opaque: *mut c_void) {
    // SAFETY: `of` gave it, and `drop` takes it away before it is let go.
    unsafe { (*opaque.cast::<Notify>()).notify_one() }
}
