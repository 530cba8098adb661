//! Standard Webhooks signatures (specification 1.0, symmetric `v1`), and the secrets they need. Shows no secret, ever.

use base64::{Engine, prelude::BASE64_STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use std::fmt;
use uuid::Uuid;

const PREFIX: &str = "whsec_";
/// What the specification asks: 192 to 512 bits.
const KEY_BYTES: std::ops::RangeInclusive<usize> = 24..=64;
/// One in use and one on its way in or out; two more for a mistake.
const SECRETS_MAX: usize = 4;

/// Signs with every secret of an endpoint, so that a receiver may hold the old one or the new one.
#[derive(Clone)]
pub(crate) struct Signer {
    keys: Vec<Hmac<Sha256>>,
}

impl Signer {
    /// Reads `whsec_…` secrets, separated by white space.
    ///
    /// # Errors
    /// What is wrong, without quoting it.
    pub fn parse(secrets: &str) -> Result<Self, String> {
        let keys: Vec<_> = secrets.split_whitespace().map(key).collect::<Result<_, _>>()?;
        match keys.len() {
            0 => Err(format!("the secret is empty: it must be `{PREFIX}` and 24 to 64 random bytes in base64")),
            1..=SECRETS_MAX => Ok(Self { keys }),
            many => Err(format!("{many} secrets, at most {SECRETS_MAX} sign at once: remove the retired ones")),
        }
    }

    /// The `webhook-signature` header: one `v1,…` a secret.
    pub fn sign(&self, id: Uuid, timestamp: i64, body: &str) -> String {
        let signed = format!("{id}.{timestamp}.");
        let signature = |key: &Hmac<Sha256>| {
            let mac = key.clone().chain_update(&signed).chain_update(body).finalize();
            format!("v1,{}", BASE64_STANDARD.encode(mac.into_bytes()))
        };
        self.keys.iter().map(signature).collect::<Vec<_>>().join(" ")
    }
}

fn key(secret: &str) -> Result<Hmac<Sha256>, String> {
    let Some(encoded) = secret.strip_prefix(PREFIX) else {
        return Err(format!("a secret does not begin with `{PREFIX}`"));
    };
    let key = BASE64_STANDARD.decode(encoded).map_err(|_| format!("what follows `{PREFIX}` is not base64"))?;
    if !KEY_BYTES.contains(&key.len()) {
        return Err(format!(
            "a secret has {} bytes, 24 to 64 are needed: `openssl rand -base64 32` makes one",
            key.len()
        ));
    }
    Hmac::new_from_slice(&key).map_err(|error| error.to_string())
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} secret(s)", self.keys.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderMap;
    use standardwebhooks::Webhook;

    fn secret(byte: u8) -> String {
        format!("{PREFIX}{}", BASE64_STANDARD.encode([byte; 32]))
    }

    fn verifies(secret: &str, id: Uuid, timestamp: i64, signature: &str, body: &str) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert("webhook-id", id.to_string().parse().unwrap());
        headers.insert("webhook-timestamp", timestamp.to_string().parse().unwrap());
        headers.insert("webhook-signature", signature.parse().unwrap());
        Webhook::new(secret).unwrap().verify(body.as_bytes(), &headers).is_ok()
    }

    #[test]
    fn an_independent_verifier_accepts_it_and_refuses_any_change() {
        let (id, now) = (Uuid::now_v7(), chrono::Utc::now().timestamp());
        let signature = Signer::parse(&secret(1)).unwrap().sign(id, now, "{}");
        assert!(verifies(&secret(1), id, now, &signature, "{}"));
        assert!(!verifies(&secret(2), id, now, &signature, "{}"));
        assert!(!verifies(&secret(1), Uuid::now_v7(), now, &signature, "{}"));
        assert!(!verifies(&secret(1), id, now - 1, &signature, "{}"));
        assert!(!verifies(&secret(1), id, now, &signature, "{ }"));
    }

    #[test]
    fn while_secrets_rotate_a_receiver_may_hold_either() {
        let (id, now) = (Uuid::now_v7(), chrono::Utc::now().timestamp());
        let signature = Signer::parse(&format!("{}\n{}\n", secret(1), secret(2))).unwrap().sign(id, now, "body");
        assert!(verifies(&secret(1), id, now, &signature, "body"));
        assert!(verifies(&secret(2), id, now, &signature, "body"));
        assert!(!verifies(&secret(3), id, now, &signature, "body"));
    }

    #[test]
    fn a_wrong_secret_is_explained_and_never_shown() {
        let wrong = ["", "  \n", "hunter2hunter2", "whsec_hunter2!", "whsec_aHVudGVyMg=="];
        for secrets in wrong {
            let error = Signer::parse(secrets).unwrap_err();
            assert!(!error.contains("hunter2") && !error.contains("aHVud"), "{error}");
        }
        let five: Vec<_> = (0..5).map(secret).collect();
        assert!(Signer::parse(&five.join(" ")).unwrap_err().starts_with("5 secrets"));
        assert_eq!(format!("{:?}", Signer::parse(&secret(1)).unwrap()), "1 secret(s)");
    }
}
