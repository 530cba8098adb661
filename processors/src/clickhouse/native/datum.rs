//! Avro's binary encoding, read from a slice. Allocates nothing and believes no length.

use millrace_schemas::bounds::{ARRAY_ITEMS_MAX, LENGTH_MAX, MAP_ENTRIES_MAX};
use std::fmt;

/// Why bytes are no value of their schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Broken {
    Truncated,
    Number,
    Int,
    Boolean,
    Length,
    TooMany,
    Text,
    Uuid,
    Decimal,
    Branch,
    Symbol,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Truncated => "it ends too early",
            Self::Number => "a number has more than ten bytes",
            Self::Int => "an int has more than 32 bits",
            Self::Boolean => "a boolean is neither 0 nor 1",
            Self::Length => "a length is negative or out of bounds",
            Self::TooMany => "an array or map has too many items",
            Self::Text => "a text is not UTF-8",
            Self::Uuid => "a text is not a UUID",
            Self::Decimal => "a decimal within its bytes is cut off",
            Self::Branch => "a union has no such branch",
            Self::Symbol => "an enum has no such symbol",
        })
    }
}

type Read<T> = Result<T, Broken>;

/// What is left of a datum.
#[derive(Clone, Copy)]
pub(super) struct Datum<'d> {
    pub rest: &'d [u8],
    /// Items that arrays and maps may still have, all together: such that take no bytes are bounded by nothing else.
    items: usize,
}

/// Where arrays and maps differ.
#[derive(Clone, Copy)]
pub(super) enum Collection {
    Array,
    Map,
}

impl<'d> Datum<'d> {
    pub fn new(bytes: &'d [u8]) -> Self {
        // Those that take bytes, as many again that take none, and one count that lies.
        Self { rest: bytes, items: bytes.len().saturating_add(2 * ARRAY_ITEMS_MAX) }
    }

    /// Unsigned LEB128, most often of one byte.
    #[inline]
    fn varint(&mut self) -> Read<u64> {
        match self.rest {
            [first, rest @ ..] if *first < 0x80 => {
                self.rest = rest;
                Ok(u64::from(*first))
            }
            [first, second, rest @ ..] if *second < 0x80 => {
                self.rest = rest;
                Ok(u64::from(*first & 0x7f) | u64::from(*second) << 7)
            }
            _ => self.long_varint(),
        }
    }

    fn long_varint(&mut self) -> Read<u64> {
        let mut number = 0;
        for (at, byte) in self.rest.iter().take(10).enumerate() {
            number |= u64::from(byte & 0x7f) << (7 * at);
            if *byte < 0x80 {
                self.rest = &self.rest[at + 1..];
                return Ok(number);
            }
        }
        Err(if self.rest.len() < 10 { Broken::Truncated } else { Broken::Number })
    }

    #[inline]
    pub fn long(&mut self) -> Read<i64> {
        let zigzag = self.varint()?;
        Ok((zigzag >> 1) as i64 ^ -((zigzag & 1) as i64))
    }

    #[inline]
    pub fn int(&mut self) -> Read<i32> {
        i32::try_from(self.long()?).map_err(|_| Broken::Int)
    }

    #[inline]
    pub fn boolean(&mut self) -> Read<u8> {
        match self.array::<1>()? {
            [bit @ (0 | 1)] => Ok(bit),
            _ => Err(Broken::Boolean),
        }
    }

    #[inline]
    pub fn array<const N: usize>(&mut self) -> Read<[u8; N]> {
        let (bytes, rest) = self.rest.split_first_chunk().ok_or(Broken::Truncated)?;
        self.rest = rest;
        Ok(*bytes)
    }

    #[inline]
    pub fn fixed(&mut self, size: usize) -> Read<&'d [u8]> {
        let (bytes, rest) = self.rest.split_at_checked(size).ok_or(Broken::Truncated)?;
        self.rest = rest;
        Ok(bytes)
    }

    #[inline]
    pub fn bytes(&mut self) -> Read<&'d [u8]> {
        let length = self.length()?;
        self.fixed(length)
    }

    #[inline]
    fn length(&mut self) -> Read<usize> {
        let length = usize::try_from(self.long()?).map_err(|_| Broken::Length)?;
        if length > LENGTH_MAX { Err(Broken::Length) } else { Ok(length) }
    }

    #[inline]
    pub fn text(&mut self) -> Read<&'d [u8]> {
        let bytes = self.bytes()?;
        if is_text(bytes) { Ok(bytes) } else { Err(Broken::Text) }
    }

    /// A number below `count`.
    #[inline]
    pub fn branch(&mut self, count: usize) -> Read<usize> {
        let index = usize::try_from(self.long()?).ok().filter(|index| *index < count);
        index.ok_or(Broken::Branch)
    }

    #[inline]
    pub fn symbol(&mut self, count: usize) -> Read<usize> {
        let index = usize::try_from(self.int()?).ok().filter(|index| *index < count);
        index.ok_or(Broken::Symbol)
    }

    /// How many items follow at once; 0 ends the array or map, of which `before` were read.
    #[inline]
    pub fn block(&mut self, before: usize, of: Collection) -> Read<usize> {
        let mut count = self.long()?;
        if count == 0 {
            return Ok(0);
        }
        if count < 0 {
            self.long()?; // its size in bytes, for readers that skip
            count = count.checked_neg().ok_or(Broken::Length)?;
        }
        let count = usize::try_from(count).map_err(|_| Broken::Length)?;
        let max = match of {
            Collection::Array => ARRAY_ITEMS_MAX,
            Collection::Map => MAP_ENTRIES_MAX,
        };
        if before.checked_add(count).is_none_or(|total| total > max) || count > self.items {
            return Err(Broken::TooMany);
        }
        self.items -= count;
        Ok(count)
    }

    /// The same bound from another place.
    pub fn at(&self, rest: &'d [u8]) -> Self {
        Self { rest, items: self.items }
    }
}

/// Short texts are most often ASCII, which eight bytes at a time can say.
#[inline]
fn is_text(bytes: &[u8]) -> bool {
    const HIGH_BITS: u64 = 0x8080_8080_8080_8080;
    let (eights, rest) = bytes.as_chunks::<8>();
    let mut high = eights.iter().fold(0, |high, eight| high | u64::from_ne_bytes(*eight) & HIGH_BITS);
    high |= rest.iter().fold(0, |high, byte| high | u64::from(*byte & 0x80));
    high == 0 || std::str::from_utf8(bytes).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn long(bytes: &[u8]) -> Read<i64> {
        Datum::new(bytes).long()
    }

    #[test]
    fn numbers_are_read_to_their_last_bit_and_no_further() {
        let least = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1];
        assert_eq!((long(&[0]), long(&[1]), long(&[0x80, 1])), (Ok(0), Ok(-1), Ok(64)));
        assert_eq!(long(&least), Ok(i64::MIN));
        assert_eq!(long(&least[..9]), Err(Broken::Truncated));
        assert_eq!(long(&[0xff; 11]), Err(Broken::Number));
        assert_eq!(Datum::new(&[0x80, 0x80, 0x80, 0x80, 0x10]).int(), Err(Broken::Int));
    }

    #[test]
    fn a_length_that_lies_is_refused_before_anything_is_done_with_it() {
        let length = |bytes| Datum::new(bytes).bytes().unwrap_err();
        assert_eq!(length(&[1]), Broken::Length);
        assert_eq!(length(&[20, b'a']), Broken::Truncated);
        assert_eq!(length(&[0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]), Broken::Length);
        let block = |bytes| Datum::new(bytes).block(0, Collection::Array).unwrap_err();
        assert_eq!(block(&[0xfe, 0xff, 0xff, 0xff, 0x0f]), Broken::TooMany);
        assert_eq!(block(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 0]), Broken::Length);
    }

    #[test]
    fn items_of_all_collections_together_are_bounded_whatever_each_of_them_says() {
        let fifty_thousand = b"\xa0\x8d\x06".repeat(50);
        let mut datum = Datum::new(&fifty_thousand);
        let refused = (0..50).find_map(|_| datum.block(0, Collection::Array).err());
        assert_eq!(refused, Some(Broken::TooMany));
    }

    #[test]
    fn text_is_utf8_whatever_its_length() {
        for padding in 0..20 {
            let with = |end: &[u8]| [&vec![b'a'; padding][..], end].concat();
            assert!(is_text(&with("é".as_bytes())) && is_text(&with(b"")), "{padding}");
            assert!(!is_text(&with(b"\xc3")) && !is_text(&with(b"\xff")), "{padding}");
        }
    }
}
