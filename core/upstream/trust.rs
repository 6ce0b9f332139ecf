//! Whom we believe on TLS: the platform's authorities, and a provider's own besides.

use std::{
    fmt,
    hash::{DefaultHasher, Hasher},
    sync::Arc,
};

use rustls::{
    ClientConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, pem::PemObject},
};
use rustls_platform_verifier::Verifier;

use crate::error::{Error, Kind, Result};

/// Built once an authority, kept with the provider; equal files share connections.
pub struct Trust {
    pub(super) id: u64,
    pub(super) http1: Arc<ClientConfig>,
    pub(super) http2: Arc<ClientConfig>,
    pub(super) any: Arc<ClientConfig>,
}

impl Trust {
    /// The platform's authorities alone. Reads files: not for the request path.
    pub fn platform() -> Result<Self> {
        Trust::build(0, Vec::new())
    }

    /// These authorities (PEM) as well.
    pub fn with_authorities(pem: &[u8]) -> Result<Self> {
        let roots: Vec<_> = CertificateDer::pem_slice_iter(pem)
            .collect::<std::result::Result<_, _>>()
            .map_err(|e| Error::new(Kind::Internal, "the `ca` file is not valid PEM").because(e.to_string()))?;
        if roots.is_empty() {
            return Err(Error::new(Kind::Internal, "the `ca` file holds no certificate in PEM form"));
        }
        let mut hasher = DefaultHasher::new();
        roots.iter().for_each(|root| hasher.write(root));
        Trust::build(hasher.finish().max(1), roots)
    }

    fn build(id: u64, roots: Vec<CertificateDer<'static>>) -> Result<Self> {
        // Explicit: a process-wide default would depend on who came first.
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier = if roots.is_empty() {
            Verifier::new(provider.clone())
        } else {
            Verifier::new_with_extra_roots(roots, provider.clone())
        };
        let verifier = verifier.map_err(|e| {
            Error::new(
                Kind::Internal,
                format!("no certificate authorities ({e}): install ca-certificates, or set `ca` of the provider"),
            )
            .because(e)
        })?;
        let base = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| Error::new(Kind::Internal, "TLS cannot be set up").because(e))?
            .dangerous() // rustls's word for any verifier but its own: this one is the platform's.
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        let speaking = |protocols: &[&[u8]]| {
            let mut config = base.clone();
            config.alpn_protocols = protocols.iter().map(|p| p.to_vec()).collect();
            Arc::new(config)
        };
        Ok(Trust {
            id,
            http1: speaking(&[b"http/1.1"]),
            http2: speaking(&[b"h2"]),
            any: speaking(&[b"h2", b"http/1.1"]),
        })
    }

    pub(super) fn config(&self, http2: Option<bool>) -> Arc<ClientConfig> {
        match http2 {
            None => self.any.clone(),
            Some(true) => self.http2.clone(),
            Some(false) => self.http1.clone(),
        }
    }
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trust").field("id", &self.id).finish()
    }
}
