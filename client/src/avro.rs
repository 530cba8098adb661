//! Values that JSON has no form of its own for, written as Avro's JSON encoding has them.

use chrono::{DateTime, NaiveDate, Utc};
use serde::ser::Error;
use serde::{Serialize, Serializer};

/// `timestamp-micros`: what is finer is cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub DateTime<Utc>);

/// `date`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Date(pub NaiveDate);

/// `bytes`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Bytes(pub Vec<u8>);

/// `fixed`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fixed<const SIZE: usize>(pub [u8; SIZE]);

/// `decimal`, in units of its last digit: 12.50 of scale 2 is `Decimal(1250)`. `SIZE` is that of a fixed type; 0 is one
/// of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Decimal<const SCALE: u64, const SIZE: usize = 0>(pub i128);

impl From<DateTime<Utc>> for Timestamp {
    fn from(at: DateTime<Utc>) -> Self {
        Self(at)
    }
}

impl From<NaiveDate> for Date {
    fn from(day: NaiveDate) -> Self {
        Self(day)
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_i64(self.0.timestamp_micros())
    }
}

impl Serialize for Date {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_i64((self.0 - NaiveDate::default()).num_days()) // whose default is 1970-01-01
    }
}

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        latin1(&self.0, serializer)
    }
}

impl<const SIZE: usize> Serialize for Fixed<SIZE> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        latin1(&self.0, serializer)
    }
}

impl<const SCALE: u64, const SIZE: usize> Serialize for Decimal<SCALE, SIZE> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let shortest = shortest(self.0);
        if SIZE == 0 {
            return latin1(&shortest, serializer);
        }
        let padding = SIZE.checked_sub(shortest.len());
        let padding = padding.ok_or_else(|| S::Error::custom(format!("a decimal needs more than its {SIZE} bytes")))?;
        let sign = if self.0 < 0 { 0xff } else { 0 };
        latin1(&[vec![sign; padding], shortest].concat(), serializer)
    }
}

/// Two's complement, big-endian, without bytes that only repeat the sign.
fn shortest(units: i128) -> Vec<u8> {
    let bytes = units.to_be_bytes();
    let sign = if units < 0 { 0xff } else { 0 };
    let needless = bytes.windows(2).take_while(|pair| pair[0] == sign && (pair[1] ^ sign) & 0x80 == 0).count();
    bytes[needless..].to_vec()
}

/// One character a byte.
fn latin1<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&bytes.iter().map(|byte| char::from(*byte)).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decimal_is_as_short_as_its_sign_allows_or_as_long_as_its_type_asks() {
        for (units, bytes) in [
            (0, &[0][..]),
            (127, &[127]),
            (128, &[0, 128]),
            (-1, &[255]),
            (-128, &[128]),
            (-129, &[255, 127]),
            (i128::MIN, &i128::MIN.to_be_bytes()),
        ] {
            assert_eq!(shortest(units), bytes, "{units}");
        }
        assert_eq!(serde_json::to_string(&Decimal::<2, 3>(-2)).unwrap(), "\"ÿÿþ\"");
        assert_eq!(serde_json::to_string(&Decimal::<2, 2>(1)).unwrap(), r#""\u0000\u0001""#);
        assert!(serde_json::to_string(&Decimal::<2, 1>(128)).is_err());
    }
}
