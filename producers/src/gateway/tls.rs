//! TLS by rustls, and mTLS where senders must show a certificate too. Files that were renewed are taken without a
//! restart: whoever connects afterwards meets the new ones.

use super::metrics::GatewayMetrics;
use anyhow::{Context, ensure};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{RootCertStore, ServerConfig};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// From the connection to the end of its handshake: several times what the slowest network takes.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);
/// How soon a renewed certificate is shown. It is renewed days before the old one ends. What is wrong is told when it
/// is so at two looks, since whoever renews writes one file after the other.
const RENEWED_EVERY: Duration = Duration::from_secs(5);
/// A chain of a few certificates, or a list of authorities.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// `[gateway.tls]`: files in PEM.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct TlsConfig {
    /// The gateway's certificate, then those between it and its root. Empty: plain HTTP.
    pub certificate_file: PathBuf,
    /// Its private key.
    pub key_file: PathBuf,
    /// Whose certificates senders must show (mTLS), besides a key or a token. Empty: none is asked for.
    pub client_ca_file: PathBuf,
}

impl TlsConfig {
    pub(super) fn is_off(&self) -> bool {
        self.certificate_file.as_os_str().is_empty()
    }

    /// Names what is wrong. The files are looked at when the gateway starts.
    pub(super) fn check(&self) -> Result<(), String> {
        let key = !self.key_file.as_os_str().is_empty();
        match (self.is_off(), key, self.asks_clients()) {
            (true, true, _) | (true, _, true) => Err("`gateway.tls.certificate_file` is empty, the others not".into()),
            (false, false, _) => Err("`gateway.tls.key_file` is empty: the certificate needs its key".into()),
            _ => Ok(()),
        }
    }

    fn asks_clients(&self) -> bool {
        !self.client_ca_file.as_os_str().is_empty()
    }
}

/// What the files hold, to see whether they were renewed.
#[derive(PartialEq)]
struct Files {
    certificate: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
}

pub(crate) struct Tls {
    config: TlsConfig,
    current: RwLock<(Arc<Files>, TlsAcceptor)>,
    metrics: GatewayMetrics,
}

impl Tls {
    /// `None` where plain HTTP is spoken.
    ///
    /// # Errors
    /// When a file can't be read or does not hold what it should: which one, and what is wrong.
    pub fn of(config: &TlsConfig, metrics: &GatewayMetrics) -> anyhow::Result<Option<Arc<Self>>> {
        if config.is_off() {
            return Ok(None);
        }
        let files = Files::read(config)?;
        let acceptor = files.acceptor(config)?;
        let current = RwLock::new((Arc::new(files), acceptor));
        Ok(Some(Arc::new(Self { config: config.clone(), current, metrics: metrics.clone() })))
    }

    /// # Errors
    /// When it does not come about, which is counted: the other side's doing, as a rule.
    pub async fn shake_hands(&self, stream: TcpStream) -> anyhow::Result<TlsStream<TcpStream>> {
        let acceptor = self.current.read().unwrap_or_else(PoisonError::into_inner).1.clone();
        let shaken = tokio::time::timeout(HANDSHAKE_DEADLINE, acceptor.accept(stream)).await;
        let shaken = shaken.context("no handshake in time").and_then(|shaken| Ok(shaken?));
        shaken.inspect_err(|_| self.metrics.refused("tls_handshake"))
    }

    /// Looks at the files every so often, for ever. While they are no good the last ones are used.
    pub async fn keep_fresh(self: Arc<Self>) {
        let (mut wrong_before, mut told) = (None, None);
        loop {
            tokio::time::sleep(RENEWED_EVERY).await;
            let tls = self.clone();
            let renewed =
                tokio::task::spawn_blocking(move || tls.renew()).await.unwrap_or_else(|error| Err(error.into()));
            if let Ok(true) = renewed {
                tracing::info!("gateway.tls: the renewed certificate is used from now on");
            }
            let wrong = renewed.err().map(|error| format!("{error:#}"));
            self.metrics.tls_stale.set(wrong.is_some().into());
            if let Some(wrong) = wrong.as_ref().filter(|_| wrong == wrong_before && wrong != told) {
                tracing::error!("gateway.tls: the last good files are used: {wrong}");
                told = Some(wrong.clone());
            }
            wrong_before = wrong;
        }
    }

    /// Whether there was anything new.
    fn renew(&self) -> anyhow::Result<bool> {
        let files = Files::read(&self.config)?;
        let known = self.current.read().unwrap_or_else(PoisonError::into_inner).0.clone();
        if files == *known {
            return Ok(false);
        }
        let acceptor = files.acceptor(&self.config)?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = (Arc::new(files), acceptor);
        Ok(true)
    }
}

impl Files {
    fn read(config: &TlsConfig) -> anyhow::Result<Self> {
        let client_ca = config.asks_clients().then(|| read("client_ca_file", &config.client_ca_file)).transpose()?;
        let certificate = read("certificate_file", &config.certificate_file)?;
        Ok(Self { certificate, key: read("key_file", &config.key_file)?, client_ca })
    }

    fn acceptor(&self, config: &TlsConfig) -> anyhow::Result<TlsAcceptor> {
        let at = |key: &str, file: &Path| format!("`gateway.tls.{key}` {}", file.display());
        let chain =
            certificates(&self.certificate).with_context(|| at("certificate_file", &config.certificate_file))?;
        let key = PrivateKeyDer::from_pem_slice(&self.key).with_context(|| at("key_file", &config.key_file))?;
        let verifier = self.client_ca.as_deref().map(verifier).transpose();
        let verifier = verifier.with_context(|| at("client_ca_file", &config.client_ca_file))?;
        let server = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
        let server = server.with_safe_default_protocol_versions()?;
        let server = match verifier {
            Some(verifier) => server.with_client_cert_verifier(verifier),
            None => server.with_no_client_auth(),
        };
        let pair = || format!("{} and its key", at("certificate_file", &config.certificate_file));
        let mut server = server.with_single_cert(chain, key).with_context(pair)?;
        server.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(TlsAcceptor::from(Arc::new(server)))
    }
}

fn read(key: &str, file: &Path) -> anyhow::Result<Vec<u8>> {
    let what = || format!("`gateway.tls.{key}` {}", file.display());
    let mut bytes = Vec::new();
    let opened = File::open(file).with_context(what)?;
    opened.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).with_context(what)?;
    ensure!(bytes.len() as u64 <= FILE_BYTES_MAX, "{} is larger than {FILE_BYTES_MAX} bytes", what());
    Ok(bytes)
}

fn certificates(pem: &[u8]) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let found = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>()?;
    ensure!(!found.is_empty(), "has no certificate in PEM");
    Ok(found)
}

fn verifier(pem: &[u8]) -> anyhow::Result<Arc<dyn ClientCertVerifier>> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(pem)? {
        roots.add(certificate)?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    Ok(WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_without_its_key_or_a_file_that_is_none_is_named() {
        let with = |certificate: &str, key: &str, client_ca: &str| TlsConfig {
            certificate_file: certificate.into(),
            key_file: key.into(),
            client_ca_file: client_ca.into(),
        };
        assert_eq!(with("", "", "").check(), Ok(()));
        assert_eq!(with("a", "b", "").check(), Ok(()));
        assert!(with("a", "", "").check().unwrap_err().contains("`gateway.tls.key_file` is empty"));
        assert!(with("", "", "c").check().unwrap_err().contains("`gateway.tls.certificate_file` is empty"));
        assert!(with("", "b", "").check().unwrap_err().contains("`gateway.tls.certificate_file` is empty"));

        let directory = tempfile::tempdir().unwrap();
        let (missing, empty) = (directory.path().join("missing.pem"), directory.path().join("empty.pem"));
        std::fs::write(&empty, "").unwrap();
        let told = |certificate: &Path, key: &Path| {
            let config = with(certificate.to_str().unwrap(), key.to_str().unwrap(), "");
            format!("{:#}", Tls::of(&config, &GatewayMetrics::default()).err().unwrap())
        };
        let (no_file, no_certificate) = (told(&missing, &empty), told(&empty, &empty));
        assert!(no_file.contains("`gateway.tls.certificate_file`") && no_file.contains("missing.pem"), "{no_file}");
        assert!(no_certificate.contains("empty.pem: has no certificate in PEM"), "{no_certificate}");
    }
}
