//! Events that only who has the key can read: AES-256-GCM by ring, which TLS and tokens use too.

use anyhow::{Context, anyhow, ensure};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};
use sha2::{Digest, Sha256};
use std::path::Path;
use uuid::Uuid;

const KEY_BYTES: usize = 32;
/// Enough to tell a few keys apart, and nothing of a key of 256 bits.
const ID_BYTES: usize = 4;
const NO_KEY: &str = "a key is 64 hexadecimal digits: openssl rand -hex 32";

pub(super) struct Key {
    key: LessSafeKey,
    /// Which one it is.
    pub id: String,
}

impl Key {
    pub fn read(file: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(file).context("could not read the key")?;
        Self::parse(text.trim())
    }

    pub fn parse(digits: &str) -> anyhow::Result<Self> {
        let is_key = digits.len() == 2 * KEY_BYTES && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
        ensure!(is_key, NO_KEY);
        let byte = |at| u8::from_str_radix(&digits[2 * at..2 * at + 2], 16);
        let bytes = (0..KEY_BYTES).map(byte).collect::<Result<Vec<u8>, _>>()?;
        let id = Sha256::digest(&bytes)[..ID_BYTES].iter().map(|byte| format!("{byte:02x}")).collect();
        let key = UnboundKey::new(&AES_256_GCM, &bytes).map_err(|_| anyhow!(NO_KEY))?;
        Ok(Self { key: LessSafeKey::new(key), id })
    }

    /// Nonce, then the text and its tag. It opens under the same id alone, so that no row passes for another.
    pub fn seal(&self, id: Uuid, text: String) -> Option<Vec<u8>> {
        let mut nonce = [0; NONCE_LEN]; // by chance: a key would have to seal billions before two were equal
        SystemRandom::new().fill(&mut nonce).ok()?;
        let mut sealed = text.into_bytes();
        let (nonce, aad) = (Nonce::assume_unique_for_key(nonce), Aad::from(id.into_bytes()));
        let begin = *nonce.as_ref();
        self.key.seal_in_place_append_tag(nonce, aad, &mut sealed).ok()?;
        Some([&begin[..], &sealed].concat())
    }

    pub fn open(&self, id: Uuid, sealed: &[u8]) -> Option<String> {
        let (nonce, sealed) = sealed.split_at_checked(NONCE_LEN)?;
        let (nonce, aad) = (Nonce::try_assume_unique_for_key(nonce).ok()?, Aad::from(id.into_bytes()));
        let mut sealed = sealed.to_vec();
        let text = self.key.open_in_place(nonce, aad, &mut sealed).ok()?.to_vec();
        String::from_utf8(text).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sealed_opens_by_its_key_and_under_its_id_alone() {
        let (key, other) = (Key::parse(&"0b".repeat(32)).unwrap(), Key::parse(&"0c".repeat(32)).unwrap());
        let (id, text) = (Uuid::from_u128(1), "anna@example.com");
        let sealed = key.seal(id, text.into()).unwrap();
        assert_eq!(key.open(id, &sealed).as_deref(), Some(text));
        assert!(!String::from_utf8_lossy(&sealed).contains("anna"));
        assert_ne!(sealed, key.seal(id, text.into()).unwrap(), "no nonce is used twice");
        assert_ne!(key.id, other.id);
        assert_eq!(other.open(id, &sealed), None);
        assert_eq!(key.open(Uuid::from_u128(2), &sealed), None);
        for cut in [0, 11, 12, sealed.len() - 1] {
            assert_eq!(key.open(id, &sealed[..cut]), None);
        }
    }

    #[test]
    fn a_key_is_32_bytes_in_hexadecimal() {
        for wrong in ["", "0b", &"0b".repeat(33), &"zz".repeat(32), &"é".repeat(32)] {
            assert!(Key::parse(wrong).is_err(), "{wrong}");
        }
    }
}
