//! Certificates and keys as text.

use crate::PublishError;
use reqwest::{Certificate, Identity};
use std::fmt;

/// Certificates, or certificates and a key, in PEM. Never printed.
#[derive(Clone)]
pub struct Pem(Vec<u8>);

impl Pem {
    pub fn new(text: impl Into<Vec<u8>>) -> Self {
        Self(text.into())
    }

    pub(crate) fn certificates(&self) -> Result<Vec<Certificate>, PublishError> {
        match Certificate::from_pem_bundle(&self.0) {
            Ok(certificates) if !certificates.is_empty() => Ok(certificates),
            _ => Err(PublishError::Options("`authorities` has no certificate in PEM".into())),
        }
    }

    pub(crate) fn identity(&self) -> Result<Identity, PublishError> {
        let wrong = |_| PublishError::Options("`identity` is no certificate with its key in PEM".into());
        Identity::from_pem(&self.0).map_err(wrong)
    }
}

impl fmt::Debug for Pem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PEM")
    }
}
