//! The Confluent wire format: `0x00`, the schema id in four bytes (big-endian), the Avro datum.

/// What stands before the datum.
pub const HEADER_BYTES: usize = 5;
const MAGIC: u8 = 0;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    #[error("the value has {0} bytes, fewer than the {HEADER_BYTES} of magic byte and schema id")]
    TooShort(usize),
    #[error("the value begins with byte 0x{0:02x}, not with 0x00: it was not written in Confluent's Avro format")]
    WrongMagic(u8),
}

/// Schema id and datum.
pub fn unframe(value: &[u8]) -> Result<(u32, &[u8]), WireError> {
    match value {
        [MAGIC, a, b, c, d, datum @ ..] => Ok((u32::from_be_bytes([*a, *b, *c, *d]), datum)),
        [magic, ..] if *magic != MAGIC => Err(WireError::WrongMagic(*magic)),
        short => Err(WireError::TooShort(short.len())),
    }
}

/// Begins a value: the datum is to be appended.
pub fn header(schema_id: u32) -> [u8; HEADER_BYTES] {
    let [a, b, c, d] = schema_id.to_be_bytes();
    [MAGIC, a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_framed_is_unframed_and_anything_else_is_explained() {
        let mut value = header(0x0102_0304).to_vec();
        value.extend(b"datum");
        assert_eq!(unframe(&value), Ok((0x0102_0304, &b"datum"[..])));
        assert_eq!(unframe(b"{\"a\":1}"), Err(WireError::WrongMagic(b'{')));
        assert_eq!(unframe(&[0, 0, 0]), Err(WireError::TooShort(3)));
        assert_eq!(unframe(&[]), Err(WireError::TooShort(0)));
    }
}
