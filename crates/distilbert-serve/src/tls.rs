//! Encrypted connections: a certificate and its key, from PEM.

use std::sync::Arc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::pem::{Error as PemError, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{Error, ServerConfig, crypto};

/// Why connections cannot be encrypted.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// No certificates in PEM.
    #[error("certificates: expected PEM with the server's and those of its issuers, found {0}")]
    Certificates(String),
    /// No key in PEM.
    #[error("key: expected PEM with a private key, found {0}")]
    Key(String),
    /// They are not of each other, or of a kind that is not known.
    #[error("certificate and key: {0}")]
    Pair(#[from] Error),
}

/// The certificate that a server shows, and its key.
pub struct Tls {
    acceptor: TlsAcceptor,
}

impl Tls {
    /// From the bytes of two PEM files: certificates, the server's first and its issuers' behind it, and the key. TLS 1.2
    /// and 1.3.
    ///
    /// # Errors
    /// [`TlsError`] naming what is wrong with which.
    pub fn from_pem(certificates: &[u8], key: &[u8]) -> Result<Tls, TlsError> {
        let read: Result<Vec<CertificateDer<'static>>, PemError> =
            CertificateDer::pem_slice_iter(certificates).collect();
        let chain = read.map_err(|error| TlsError::Certificates(error.to_string()))?;
        if chain.is_empty() {
            return Err(TlsError::Certificates("none".to_owned()));
        }
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| TlsError::Key(error.to_string()))?;
        let provider = Arc::new(crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let mut config = config.with_no_client_auth().with_single_cert(chain, key)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Tls { acceptor: TlsAcceptor::from(Arc::new(config)) })
    }

    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        self.acceptor.clone()
    }
}
