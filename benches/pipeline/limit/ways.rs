//! The ways in which librdkafka hands records out, each to its end: that of Millrace is a queue for each partition.
//!
//! The Rust client hands out one record at a time, so the others speak to its C interface.
#![allow(unsafe_code)] // the reason above; every block says why it is sound

use super::{Log, SILENCE};
use rdkafka::bindings as c;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{Offset, TopicPartitionList};
use serde::{Deserialize, Serialize};
use std::ffi::{CStr, CString};
use std::ptr;
use std::time::{Duration, Instant};

/// At once, of a queue; as Millrace.
const TAKEN_MAX: usize = 250;
/// For how long nobody looks once all queues were empty.
const IDLE: Duration = Duration::from_millis(1);

/// How records are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Way {
    /// By the Rust client's `poll`.
    OneByOne,
    /// Some hundreds at once, of the one queue of all partitions.
    InBatches,
    /// The same, of a queue for each partition, one after the other.
    QueueEach,
}

/// What of a record is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Looks {
    /// The lengths of its key and its value.
    Lengths,
    /// Every header as well: an event's identity is there.
    Headers,
}

/// Takes every record of the log and gives `each` of them, before it is destroyed.
pub fn take(
    consumer: &BaseConsumer,
    log: &Log,
    way: Way,
    each: impl FnMut(&c::rd_kafka_message_t) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let queues = match way {
        Way::OneByOne => Vec::new(),
        Way::InBatches => vec![Queue::of_all(consumer)],
        Way::QueueEach => log.partitions.iter().map(|at| Queue::of(consumer, &at.topic, at.partition)).collect(),
    };
    let mut partitions = TopicPartitionList::new();
    for place in &log.partitions {
        partitions.add_partition_offset(&place.topic, place.partition, Offset::Beginning)?;
    }
    consumer.assign(&partitions)?;
    match way {
        Way::OneByOne => one_by_one(consumer, log.records(), each),
        Way::InBatches | Way::QueueEach => by_queues(queues, log.records(), each),
    }
}

fn one_by_one(
    consumer: &BaseConsumer,
    records: u64,
    mut each: impl FnMut(&c::rd_kafka_message_t) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    for taken in 0..records {
        let message = consumer.poll(SILENCE).ok_or_else(|| missing(records - taken))??;
        // SAFETY: the message lives until the end of this block.
        each(unsafe { &*message.ptr() })?;
    }
    Ok(())
}

/// Asks all of them again and again. (Millrace is woken by a queue that has something.)
fn by_queues(
    mut queues: Vec<Queue>,
    records: u64,
    mut each: impl FnMut(&c::rd_kafka_message_t) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let (mut left, mut heard) = (records, Instant::now());
    while left > 0 {
        let mut taken = 0;
        for queue in &mut queues {
            taken += queue.take(&mut each)?;
        }
        left -= taken;
        if taken > 0 {
            heard = Instant::now();
        } else if heard.elapsed() < SILENCE {
            std::thread::sleep(IDLE);
        } else {
            return Err(missing(left));
        }
    }
    Ok(())
}

fn missing(records: u64) -> anyhow::Error {
    anyhow::anyhow!("{records} records are missing")
}

pub fn topic(message: &c::rd_kafka_message_t) -> &str {
    // SAFETY: a consumed message has its topic, whose name ends in NUL and lives as long as the message.
    unsafe { CStr::from_ptr(c::rd_kafka_topic_name(message.rkt)) }.to_str().unwrap_or_default()
}

/// The bytes of all headers.
pub fn headers(message: &c::rd_kafka_message_t) -> usize {
    let (mut headers, mut bytes) = (ptr::null_mut(), 0);
    // SAFETY: the message lives; librdkafka parses its headers into memory that the message owns.
    let found = unsafe { c::rd_kafka_message_headers(message, &raw mut headers) };
    if found != c::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
        return 0;
    }
    for at in 0.. {
        let (mut name, mut value, mut size) = (ptr::null(), ptr::null(), 0);
        // SAFETY: they belong to the message.
        let got = unsafe { c::rd_kafka_header_get_all(headers, at, &raw mut name, &raw mut value, &raw mut size) };
        if got != c::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
            break;
        }
        bytes += size;
    }
    bytes
}

/// One of librdkafka's queues. Must not outlive its client.
struct Queue {
    queue: *mut c::rd_kafka_queue_t,
    taken: Vec<*mut c::rd_kafka_message_t>,
}

impl Queue {
    fn of_all(consumer: &BaseConsumer) -> Self {
        // SAFETY: the client lives; the reference that is returned is let go by `drop`.
        Self::new(unsafe { c::rd_kafka_queue_get_consumer(consumer.client().native_ptr()) })
    }

    /// Of one partition, whose records no longer go to that of all.
    fn of(consumer: &BaseConsumer, topic: &str, partition: i32) -> Self {
        let topic = CString::new(topic).expect("topics have no NUL");
        // SAFETY: as above.
        unsafe {
            let queue = c::rd_kafka_queue_get_partition(consumer.client().native_ptr(), topic.as_ptr(), partition);
            c::rd_kafka_queue_forward(queue, ptr::null_mut());
            Self::new(queue)
        }
    }

    fn new(queue: *mut c::rd_kafka_queue_t) -> Self {
        assert!(!queue.is_null(), "there is no such queue");
        Self { queue, taken: Vec::with_capacity(TAKEN_MAX) }
    }

    /// What is there, never waiting.
    fn take(&mut self, each: &mut impl FnMut(&c::rd_kafka_message_t) -> anyhow::Result<()>) -> anyhow::Result<u64> {
        let mut done = Ok(());
        // SAFETY: there is room for so many pointers, of which as many are set as the call returns; each is a message
        // that is ours to destroy, once.
        unsafe {
            let count = c::rd_kafka_consume_batch_queue(self.queue, 0, self.taken.as_mut_ptr(), TAKEN_MAX);
            self.taken.set_len(usize::try_from(count)?);
            let taken = self.taken.len() as u64;
            for message in self.taken.drain(..) {
                let found = &*message;
                done = done.and_then(|()| match found.err {
                    c::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR => each(found),
                    error => Err(anyhow::anyhow!("{error:?}")),
                });
                c::rd_kafka_message_destroy(message);
            }
            done.map(|()| taken)
        }
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // SAFETY: it is ours, and nobody uses it after this.
        unsafe { c::rd_kafka_queue_destroy(self.queue) };
    }
}
