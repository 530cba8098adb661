//! Topic ids (KIP-516): a topic deleted and created again under its name is another log.
//!
//! The Rust client has no call for it, so this file speaks to librdkafka's C interface: one request, no
//! callbacks, everything freed before it returns.
#![allow(unsafe_code)] // the reason above; every block says why it is sound

use crate::KafkaConfig;
use anyhow::{Context, bail, ensure};
use rdkafka::bindings as c;
use rdkafka::config::FromClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_char};

/// One round trip to a broker that answers.
const DEADLINE_MS: i32 = 10_000;
/// Of a question that is asked again anyway: a process that stops meanwhile waits for it.
const REPEATED_DEADLINE_MS: i32 = 3_000;

/// The broker's id of each topic, in base64. Blocks for one round trip.
pub(crate) fn topic_ids(kafka: &KafkaConfig, topics: &[String]) -> anyhow::Result<BTreeMap<String, String>> {
    let ids = described(kafka, topics, DEADLINE_MS)?;
    for topic in topics {
        ensure!(ids.contains_key(topic), "topic {topic} does not exist: run `millrace migrate`");
    }
    Ok(ids)
}

/// Of those that exist, for who asks again and again.
pub(crate) fn existing_topic_ids(kafka: &KafkaConfig, topics: &[String]) -> anyhow::Result<BTreeMap<String, String>> {
    described(kafka, topics, REPEATED_DEADLINE_MS)
}

fn described(kafka: &KafkaConfig, topics: &[String], deadline_ms: i32) -> anyhow::Result<BTreeMap<String, String>> {
    let client = BaseConsumer::from_config(&kafka.client())?;
    describe(&client, topics, deadline_ms).context("could not ask the broker for topic ids")
}

/// Runs its closure when it goes out of scope: frees what C allocated, on every way out.
struct Free<F: FnMut()>(F);

impl<F: FnMut()> Drop for Free<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

fn describe(client: &BaseConsumer, topics: &[String], deadline_ms: i32) -> anyhow::Result<BTreeMap<String, String>> {
    let names: Vec<CString> = topics.iter().map(|topic| CString::new(topic.as_str())).collect::<Result<_, _>>()?;
    let mut names: Vec<*const c_char> = names.iter().map(|name| name.as_ptr()).collect();
    let handle = client.client().native_ptr();
    // SAFETY: `handle` lives as long as `client`, which outlives this function; librdkafka copies the names
    // (which live in `names` above) into the collection; each allocation is freed once, by its `Free`, and
    // the event, which owns everything read from the answer, is freed last.
    unsafe {
        let collection = c::rd_kafka_TopicCollection_of_topic_names(names.as_mut_ptr(), names.len());
        let _collection = Free(|| c::rd_kafka_TopicCollection_destroy(collection));
        let operation = c::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS;
        let options = c::rd_kafka_AdminOptions_new(handle, operation);
        let _options = Free(|| c::rd_kafka_AdminOptions_destroy(options));
        let queue = c::rd_kafka_queue_new(handle);
        let _queue = Free(|| c::rd_kafka_queue_destroy(queue));
        c::rd_kafka_DescribeTopics(handle, collection, options, queue);
        let event = c::rd_kafka_queue_poll(queue, deadline_ms);
        ensure!(!event.is_null(), "no answer within {deadline_ms} ms");
        let _event = Free(|| c::rd_kafka_event_destroy(event));
        read(event)
    }
}

/// # Safety
/// `event` must be a live event; the result borrows nothing from it.
unsafe fn read(event: *mut c::rd_kafka_event_t) -> anyhow::Result<BTreeMap<String, String>> {
    // SAFETY: the caller keeps the event alive; librdkafka returns null for an event of another kind, an
    // array of `count` descriptions otherwise, and strings that end in NUL.
    unsafe {
        if c::rd_kafka_event_error(event) != c::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
            bail!("{}", text(c::rd_kafka_event_error_string(event)));
        }
        let result = c::rd_kafka_event_DescribeTopics_result(event);
        ensure!(!result.is_null(), "the broker answered something else");
        let mut count = 0;
        let topics = c::rd_kafka_DescribeTopics_result_topics(result, &raw mut count);
        let described = (0..count).map(|index| *topics.add(index));
        let found = described.filter(|topic| {
            let error = c::rd_kafka_TopicDescription_error(*topic);
            error.is_null() || c::rd_kafka_error_code(error) == c::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR
        });
        Ok(found.map(|topic| (text(c::rd_kafka_TopicDescription_name(topic)), id(topic))).collect())
    }
}

/// # Safety
/// `topic` must be a live description.
unsafe fn id(topic: *const c::rd_kafka_TopicDescription_t) -> String {
    // SAFETY: the id is part of the description; its text is made on demand and owned by it.
    unsafe { text(c::rd_kafka_Uuid_base64str(c::rd_kafka_TopicDescription_topic_id(topic))) }
}

/// # Safety
/// `text` must be null or end in NUL.
unsafe fn text(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: not null, and the caller promises the NUL.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}
