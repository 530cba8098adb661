//! A partition's own queue in the Kafka client, from which records are taken when there is room for them.
//!
//! The client reads ahead into it as far as its bounds for one queue, and then waits. So a partition whose worker
//! is slow costs nothing: a pause would throw away what was read ahead, to be fetched, unpacked and parsed again.
//! The Rust client hands such queues out one record at a time, and only to who owns the consumer; this file speaks to
//! librdkafka's C interface instead.
#![allow(unsafe_code)] // the reason above; every block says why it is sound

use crate::headers;
use crate::{Position, Record, RecordBuilder};
use bytes::BytesMut;
use chrono::{DateTime, Utc};
use rdkafka::bindings as c;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::BorrowedMessage;
use std::ffi::{CString, c_void};
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::Thread;

/// For some dozens of records; each partition has about so much beyond what it holds.
const SPACE_BYTES: usize = 32 << 10;
/// A larger record has a space of its own: it would leave much of the shared one unused, or make it grow for good.
const SHARING_BYTES_MAX: usize = SPACE_BYTES / 8;

/// 9999 is the last year that has four digits.
const YEAR_10000_MILLIS: i64 = 253_402_300_800_000;

/// Set by the client when the queue gets its first record, and wakes the thread that takes from it.
pub(crate) struct Ready {
    waiting: AtomicBool,
    taker: Thread,
}

impl Ready {
    /// For the calling thread.
    pub fn here() -> Arc<Self> {
        Arc::new(Self { waiting: AtomicBool::new(true), taker: std::thread::current() })
    }

    pub fn set(&self) {
        self.waiting.store(true, Ordering::Release);
        self.taker.unpark();
    }

    /// Ends with the next record that comes.
    pub fn clear(&self) {
        self.waiting.store(false, Ordering::Release);
    }

    pub fn is_set(&self) -> bool {
        self.waiting.load(Ordering::Acquire)
    }
}

/// The queue. Its records come to nobody else, from the assignment that follows until it is dropped. Whoever has one
/// sees to it that nothing is taken from it once its client is gone; dropping it is allowed then.
pub(crate) struct PartitionQueue {
    queue: NonNull<c::rd_kafka_queue_t>,
    topic: Arc<str>,
    taken: Vec<*mut c::rd_kafka_message_t>,
    /// Where the next records' bytes go. A partition's own: a record that waits for long keeps its neighbours' bytes.
    space: BytesMut,
    /// What the client calls holds a pointer to this.
    ready: Arc<Ready>,
}

// SAFETY: librdkafka's queues may be used from any thread, and `taken` is empty but for the length of one call.
unsafe impl Send for PartitionQueue {}

impl PartitionQueue {
    /// Before the partition is assigned. `None` where the client knows no such topic.
    pub fn split<C: ConsumerContext>(
        consumer: &BaseConsumer<C>,
        topic: &Arc<str>,
        partition: i32,
        ready: Arc<Ready>,
        most: usize,
    ) -> Option<Self> {
        let name = CString::new(&**topic).ok()?;
        // SAFETY: the client is alive, and the name is a C string.
        let queue =
            unsafe { c::rd_kafka_queue_get_partition(consumer.client().native_ptr(), name.as_ptr(), partition) };
        let queue = NonNull::new(queue)?;
        // SAFETY: the queue is ours until it is destroyed in `drop`, where the client is told to forget `ready` before
        // that is let go. The callback only sets a flag and wakes a thread, which it may do under the queue's lock.
        unsafe {
            c::rd_kafka_queue_forward(queue.as_ptr(), ptr::null_mut());
            let opaque = Arc::as_ptr(&ready).cast_mut().cast::<c_void>();
            c::rd_kafka_queue_cb_event_enable(queue.as_ptr(), Some(has_records), opaque);
        }
        let space = BytesMut::with_capacity(SPACE_BYTES);
        Some(Self { queue, topic: topic.clone(), taken: Vec::with_capacity(most), space, ready })
    }

    pub fn ready(&self) -> &Arc<Ready> {
        &self.ready
    }

    /// Takes what is there, never waiting, and tells whether there may be more.
    pub fn take(&mut self, mut each: impl FnMut(Result<Record, KafkaError>)) -> bool {
        let most = self.taken.capacity();
        // SAFETY: the client lives, as asked for above. There is room for `most` pointers, of which as many are set as the call returns; each is a message
        // that is ours to destroy. `record_or_error` keeps nothing of it.
        unsafe {
            let count = c::rd_kafka_consume_batch_queue(self.queue.as_ptr(), 0, self.taken.as_mut_ptr(), most);
            let count = usize::try_from(count).unwrap_or(0);
            self.taken.set_len(count);
            for message in self.taken.drain(..) {
                each(record_or_error(message, &self.topic, &mut self.space));
                c::rd_kafka_message_destroy(message);
            }
            count == most
        }
    }

    /// Throws away what is there.
    pub fn empty(&mut self) {
        while self.take(drop) {}
    }
}

impl Drop for PartitionQueue {
    fn drop(&mut self) {
        // SAFETY: it is ours, and nobody uses it after this.
        unsafe {
            c::rd_kafka_queue_cb_event_enable(self.queue.as_ptr(), None, ptr::null_mut());
            c::rd_kafka_queue_destroy(self.queue.as_ptr());
        }
    }
}

unsafe extern "C" fn has_records(_client: *mut c::rd_kafka_t, opaque: *mut c_void) {
    // SAFETY: `split` gave it, and `drop` takes it away before the flag is let go.
    unsafe { (*opaque.cast::<Ready>()).set() }
}

/// A record of its own.
pub(crate) fn copy(message: &BorrowedMessage<'_>, topic: &Arc<str>) -> Record {
    // SAFETY: it is alive.
    unsafe { record(message.ptr(), topic, &mut BytesMut::new()) }
}

/// # Safety
/// The message is alive.
unsafe fn record_or_error(
    message: *mut c::rd_kafka_message_t,
    topic: &Arc<str>,
    space: &mut BytesMut,
) -> Result<Record, KafkaError> {
    // SAFETY: the caller's promise.
    let found = unsafe { &*message };
    match RDKafkaErrorCode::from(found.err) {
        // SAFETY: the same.
        RDKafkaErrorCode::NoError => Ok(unsafe { record(message, topic, space) }),
        RDKafkaErrorCode::PartitionEOF => Err(KafkaError::PartitionEOF(found.partition)),
        code => Err(KafkaError::MessageConsumption(code)),
    }
}

/// # Safety
/// The message is alive.
unsafe fn record(message: *mut c::rd_kafka_message_t, topic: &Arc<str>, space: &mut BytesMut) -> Record {
    // SAFETY: the caller's promise.
    let found = unsafe { &*message };
    // SAFETY: key and payload have their lengths where they are not null, and live as long as the message.
    let (key, value) = unsafe { (bytes(found.key, found.key_len), bytes(found.payload, found.len)) };
    let mut own = BytesMut::new();
    let space = if found.key_len + found.len > SHARING_BYTES_MAX { &mut own } else { space };
    // SAFETY: the message is alive, and its headers are copied here.
    let builder = RecordBuilder::new(space, key, value).headers(unsafe { headers::of(message) });
    // SAFETY: the same. One without a time says -1.
    let millis = unsafe { c::rd_kafka_message_timestamp(message, ptr::null_mut()) };
    // A producer may stamp anything; a time that no clock shows is no time, and Postgres could not hold it.
    let millis = Some(millis).filter(|millis| (0..YEAR_10000_MILLIS).contains(millis));
    let logged_at = millis.and_then(DateTime::<Utc>::from_timestamp_millis);
    let position = Position { topic: topic.clone(), partition: found.partition, offset: found.offset };
    builder.build(position, logged_at)
}

/// # Safety
/// Where it is not null, there are so many bytes.
unsafe fn bytes<'m>(start: *mut c_void, size: usize) -> Option<&'m [u8]> {
    // SAFETY: the caller's promise.
    (!start.is_null()).then(|| unsafe { std::slice::from_raw_parts(start.cast::<u8>(), size) })
}
