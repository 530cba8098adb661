//! Headers of a polled message, whatever their names hold.
//!
//! The Rust client panics on a name that is not UTF-8, and anybody may write one. So this file speaks to
//! librdkafka's C interface, and only reads.
#![allow(unsafe_code)] // the reason above; every block says why it is sound

use rdkafka::bindings as c;
use std::ffi::CStr;
use std::ptr;

/// A message's headers, names and values in their order.
///
/// # Safety
/// The message is alive for `'m`.
pub(crate) unsafe fn of<'m>(
    message: *const c::rd_kafka_message_t,
) -> impl Iterator<Item = (&'m [u8], Option<&'m [u8]>)> {
    let mut headers = ptr::null_mut();
    // SAFETY: the caller's promise; librdkafka parses its headers into memory that it owns.
    let found = unsafe { c::rd_kafka_message_headers(message, &raw mut headers) };
    let headers = (found == c::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR).then_some(headers);
    (0..).map_while(move |index| {
        let headers = headers?; // else it has none
        let (mut name, mut value, mut size) = (ptr::null(), ptr::null(), 0);
        // SAFETY: `headers` belongs to the message, which outlives this iterator.
        let got = unsafe { c::rd_kafka_header_get_all(headers, index, &raw mut name, &raw mut value, &raw mut size) };
        if got != c::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
            return None; // that was the last one
        }
        // SAFETY: the name ends in NUL, and a value that is not null has `size` bytes; both live in `headers`.
        unsafe {
            let value = (!value.is_null()).then(|| std::slice::from_raw_parts(value.cast::<u8>(), size));
            Some((CStr::from_ptr(name).to_bytes(), value))
        }
    })
}
