//! Headers of a polled message, as the log has them: <https://kafka.apache.org/documentation/#recordheader>.
//!
//! librdkafka's interface hands them out parsed, each in an allocation of its own, which was a tenth of what an event
//! costs (docs/adr/0022). So `client/headers.c` asks it where their bytes are, and they are read here.
#![allow(unsafe_code)] // the reason above; every block says why it is sound

use rdkafka::bindings as c;
use std::ffi::c_void;
use std::ptr;

/// As in librdkafka, which takes a record with more for one without: each costs more here than the two bytes that it may
/// have in the log.
const COUNT_MAX: usize = 100_000;

unsafe extern "C" {
    fn millrace_raw_headers(message: *const c::rd_kafka_message_t, start: *mut *const c_void) -> usize;
}

/// A message's headers, names and values in their order, up to one that can't be read, which brokers let nobody write.
///
/// # Safety
/// The message is a consumed one and alive for `'m`.
pub(crate) unsafe fn of<'m>(
    message: *const c::rd_kafka_message_t,
) -> impl Iterator<Item = (&'m [u8], Option<&'m [u8]>)> {
    let mut start = ptr::null();
    // SAFETY: the caller's promise; what is returned are the bytes of the message's own headers.
    let raw = unsafe {
        match millrace_raw_headers(message, &raw mut start) {
            0 => &[][..],
            _ if start.is_null() => &[][..],
            size => std::slice::from_raw_parts(start.cast::<u8>(), size),
        }
    };
    Headers::of(raw)
}

/// Reads `HeaderCount, (NameLength, Name, ValueLength, Value)…`, where lengths are varints, and -1 is no value.
struct Headers<'m> {
    raw: &'m [u8],
    left: usize,
}

impl<'m> Headers<'m> {
    fn of(mut raw: &'m [u8]) -> Self {
        let count = varint(&mut raw).and_then(|count| usize::try_from(count).ok());
        Self { raw, left: count.filter(|count| *count <= COUNT_MAX).unwrap_or(0) }
    }

    fn take(&mut self, size: i64) -> Option<&'m [u8]> {
        self.raw.split_off(..usize::try_from(size).ok()?)
    }
}

impl<'m> Iterator for Headers<'m> {
    type Item = (&'m [u8], Option<&'m [u8]>);

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let size = varint(&mut self.raw)?;
        let name = self.take(size)?;
        let value = match varint(&mut self.raw)? {
            -1 => None,
            size => Some(self.take(size)?),
        };
        Some((name, value))
    }
}

/// Zigzag, seven bits a byte, the lowest first.
fn varint(raw: &mut &[u8]) -> Option<i64> {
    let mut zigzag = 0u64;
    for shift in (0..u64::BITS).step_by(7) {
        let byte = *raw.split_off_first()?;
        zigzag |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some((zigzag >> 1).cast_signed() ^ -(zigzag & 1).cast_signed());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As a producer writes them.
    fn written(headers: &[(&[u8], Option<&[u8]>)]) -> Vec<u8> {
        let mut raw = Vec::new();
        let varint = |value: i64, raw: &mut Vec<u8>| {
            let mut zigzag = ((value << 1) ^ (value >> 63)).cast_unsigned();
            while zigzag >= 0x80 {
                raw.push(u8::try_from(zigzag & 0x7f).unwrap() | 0x80);
                zigzag >>= 7;
            }
            raw.push(u8::try_from(zigzag).unwrap());
        };
        varint(i64::try_from(headers.len()).unwrap(), &mut raw);
        for (name, value) in headers {
            varint(i64::try_from(name.len()).unwrap(), &mut raw);
            raw.extend(*name);
            varint(value.map_or(-1, |value| i64::try_from(value.len()).unwrap()), &mut raw);
            raw.extend(value.unwrap_or_default());
        }
        raw
    }

    #[test]
    fn headers_are_read_as_they_were_written() {
        let long = [b'x'; 20_000];
        let headers: [(&[u8], Option<&[u8]>); 5] = [
            (b"ce_id", Some(b"7")),
            (b"", None),
            (b"ce_id", Some(b"")),
            (b"\xff\0", Some(&long)),
            (&long[..200], None),
        ];
        for count in 0..=headers.len() {
            let raw = written(&headers[..count]);
            assert_eq!(Headers::of(&raw).collect::<Vec<_>>(), &headers[..count]);
        }
        assert_eq!(Headers::of(&[]).count(), 0);
    }

    #[test]
    fn what_ends_too_early_or_says_what_cannot_be_is_never_read_beyond_its_end() {
        let raw = written(&[(b"name", Some(b"value")), (b"other", Some(&[b'v'; 300]))]);
        for end in 0..raw.len() {
            let read = Headers::of(&raw[..end]).count();
            assert!(read < 2, "of {end} bytes");
        }
        let most = [&[0xc0, 0x9a, 0x0c][..], &[0; 200_000]].concat(); // 100,000 of them
        assert_eq!((Headers::of(&most).count(), Headers::of(&[&[0xc2], &most[1..]].concat()).count()), (COUNT_MAX, 0));
        for broken in [&[2, 0x7f][..], &[2, 3, 1], &[2, 0, 3], &[0xff; 20], &[1]] {
            assert_eq!(Headers::of(broken).count(), 0, "{broken:?}");
        }
    }
}
