//! A UUID's text, 32 digits eight at a time: every event has one, and more within. The library's parser reads the rarer
//! forms.

use uuid::Uuid;

/// The UUID, if `text` is one in any form the library reads.
#[inline]
pub fn parse(text: &[u8]) -> Option<Uuid> {
    number(text).map(Uuid::from_u128)
}

/// The number whose big-endian bytes it is. Inlined, that stays in registers, where 16 bytes would be stored and loaded.
#[inline]
pub fn number(text: &[u8]) -> Option<u128> {
    text.try_into().ok().and_then(hyphenated).or_else(|| other_form(text))
}

/// `8-4-4-4-12`, in either case.
#[inline]
fn hyphenated(text: &[u8; 36]) -> Option<u128> {
    let four = |at: usize| u32::from_be_bytes([text[at], text[at + 1], text[at + 2], text[at + 3]]);
    let eight = |a: usize, b: usize| u64::from(four(a)) << 32 | u64::from(four(b));
    let (a, b, c, d) = (eight(0, 4), eight(9, 14), eight(19, 24), eight(28, 32));
    let hyphens = (text[8] ^ b'-') | (text[13] ^ b'-') | (text[18] ^ b'-') | (text[23] ^ b'-');
    let wrong = u64::from(hyphens) | not_digits(a) | not_digits(b) | not_digits(c) | not_digits(d);
    let (high, low) = (digits(a) << 32 | digits(b), digits(c) << 32 | digits(d));
    (wrong == 0).then(|| u128::from(high) << 64 | u128::from(low))
}

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGH_BITS: u64 = 0x80 * ONES;

/// Bits are set where bytes are none of `0-9a-fA-F`. Sums of bytes below 0x80 do not reach their neighbours.
#[inline]
fn not_digits(eight: u64) -> u64 {
    let low = eight & !HIGH_BITS;
    let at_least = |bytes: u64, least: u8| bytes + u64::from(0x80 - least) * ONES;
    let decimal = at_least(low, b'0') & !at_least(low, b'9' + 1);
    let lower_case = low | (u64::from(0x20_u8) * ONES);
    let letter = at_least(lower_case, b'a') & !at_least(lower_case, b'f' + 1);
    (!(decimal | letter) | eight) & HIGH_BITS
}

/// Eight digits' 32 bits: `0-9` have their value in the low half, letters have it less 9, and bit 6.
#[inline]
fn digits(eight: u64) -> u64 {
    let nibbles = (eight & (0x0f * ONES)) + 9 * ((eight >> 6) & ONES);
    let bytes = (nibbles | nibbles >> 4) & 0x00ff_00ff_00ff_00ff;
    let pairs = (bytes | bytes >> 8) & 0x0000_ffff_0000_ffff;
    (pairs | pairs >> 16) & 0xffff_ffff
}

#[cold]
fn other_form(text: &[u8]) -> Option<u128> {
    Uuid::parse_str(std::str::from_utf8(text).ok()?).ok().map(|id| id.as_u128())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{RngExt, SeedableRng, rngs::StdRng};

    #[test]
    fn every_form_is_read_as_the_library_reads_it_and_nothing_else_is() {
        let seed: u64 = rand::random();
        println!("seed {seed}");
        let mut rng = StdRng::seed_from_u64(seed);
        for _ in 0..2_000 {
            let id = Uuid::from_u128(rng.random());
            let forms = [id.hyphenated().to_string(), id.simple().to_string(), id.braced().to_string()];
            for text in forms.iter().chain(&forms.each_ref().map(|text| text.to_uppercase())) {
                assert_eq!(parse(text.as_bytes()), Some(id), "{text}");
                let mut wrong = text.clone().into_bytes();
                let at = rng.random_range(0..wrong.len());
                wrong[at] = rng.random();
                let expected = std::str::from_utf8(&wrong).ok().and_then(|text| Uuid::parse_str(text).ok());
                assert_eq!(parse(&wrong), expected, "{wrong:?}");
            }
        }
    }

    #[test]
    fn every_byte_is_a_digit_or_none() {
        for byte in 0..=u8::MAX {
            let eight = u64::from(byte) * ONES;
            assert_eq!(not_digits(eight) == 0, byte.is_ascii_hexdigit(), "{byte}");
            let value = (byte as char).to_digit(16).map(u64::from);
            assert!(value.is_none_or(|value| digits(eight) == value * 0x1111_1111), "{byte}");
        }
    }
}
