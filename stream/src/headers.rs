//! Headers of a polled message, whatever their names hold.
//!
//! The Rust client panics on a name that is not UTF-8, and anybody may write one. So this file speaks to
//! librdkafka's C interface: it only reads, and copies before it returns.
#![allow(unsafe_code)] // the reason above; every block says why it is sound

use crate::RecordBuilder;
use rdkafka::bindings as c;
use std::ffi::CStr;
use std::ptr;

/// Adds a message's headers, in their order.
///
/// # Safety
/// The message is alive.
pub(crate) unsafe fn copy<'s>(
    message: *const c::rd_kafka_message_t,
    mut builder: RecordBuilder<'s>,
) -> RecordBuilder<'s> {
    let mut headers = ptr::null_mut();
    // SAFETY: the caller's promise; librdkafka parses its headers into memory that it owns.
    let found = unsafe { c::rd_kafka_message_headers(message, &raw mut headers) };
    if found != c::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
        return builder; // it has none
    }
    for index in 0.. {
        let (mut name, mut value, mut size) = (ptr::null(), ptr::null(), 0);
        // SAFETY: `headers` belongs to the message, which outlives this function.
        let got = unsafe { c::rd_kafka_header_get_all(headers, index, &raw mut name, &raw mut value, &raw mut size) };
        if got != c::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
            break; // that was the last one
        }
        // SAFETY: the name ends in NUL, and a value that is not null has `size` bytes; both live in `headers`.
        let (name, value) = unsafe {
            let value = (!value.is_null()).then(|| std::slice::from_raw_parts(value.cast::<u8>(), size));
            (CStr::from_ptr(name).to_bytes(), value)
        };
        builder = builder.header(name, value);
    }
    builder
}
