//! Amounts as tables keep them: minor units of one currency, checked before they reach a fold.

use super::body::Body;
use millrace_stream::{Reason, Reject};
use std::fmt;

/// The largest amount one event may carry, in minor units. Far above any order, and so far below what a
/// `bigint` holds that a sum over a million such events still fits.
const AMOUNT_MAX: i64 = 1_000_000_000_000;

/// How much of a wrong currency an error quotes.
const QUOTE_CHARS_MAX: usize = 16;

/// Three capital letters, as in ISO 4217. Which of them exist is not ours to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Currency([u8; 3]);

/// An amount and what it is counted in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Money {
    pub amount: i64,
    pub currency: Currency,
}

impl Currency {
    pub fn parse(text: &str) -> Option<Self> {
        let letters: [u8; 3] = text.as_bytes().try_into().ok()?;
        letters.iter().all(u8::is_ascii_uppercase).then_some(Self(letters))
    }

    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default() // ASCII letters, see `parse`
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Money {
    /// What was paid or paid back: more than nothing.
    ///
    /// # Errors
    /// A field that is missing, or that no table could hold honestly.
    pub fn amount(body: &Body) -> Result<Self, Reject> {
        Self::new("amount", body.long("amount")?, 1, body.text("currency")?)
    }

    /// What an order costs: nothing, with a good coupon.
    ///
    /// # Errors
    /// A field that is missing, or that no table could hold honestly.
    pub fn total(body: &Body) -> Result<Self, Reject> {
        Self::new("total", body.long("total")?, 0, body.text("currency")?)
    }

    pub(super) fn new(field: &str, amount: i64, at_least: i64, currency: &str) -> Result<Self, Reject> {
        if !(at_least..=AMOUNT_MAX).contains(&amount) {
            return Err(does_not_fit(format!("`{field}` is {amount}: {at_least} to {AMOUNT_MAX} minor units fit")));
        }
        let Some(currency) = Currency::parse(currency) else {
            let quoted: String = currency.chars().take(QUOTE_CHARS_MAX).collect();
            return Err(does_not_fit(format!("`currency` is {quoted:?}: ISO 4217 has three capital letters")));
        };
        Ok(Self { amount, currency })
    }
}

fn does_not_fit(error: String) -> Reject {
    Reject::new(Reason::DoesNotFit, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_table_cannot_hold_is_refused_by_name() {
        let refused = |amount, currency| Money::new("amount", amount, 1, currency).unwrap_err().error;
        assert_eq!(refused(0, "EUR"), "`amount` is 0: 1 to 1000000000000 minor units fit");
        assert_eq!(refused(i64::MIN, "EUR"), "`amount` is -9223372036854775808: 1 to 1000000000000 minor units fit");
        assert_eq!(refused(1, "eur"), "`currency` is \"eur\": ISO 4217 has three capital letters");
        assert_eq!(refused(1, "\0UR"), "`currency` is \"\\0UR\": ISO 4217 has three capital letters");
        assert_eq!(Money::new("total", 0, 0, "EUR").unwrap().currency.to_string(), "EUR");
    }
}
