//! The listener's certificates: read from disk, and read again when the files change.
//!
//! A new file that does not work changes nothing: the last good certificate stays, and the log and the status say why.

use std::{
    fmt,
    hash::{DefaultHasher, Hasher},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use arc_swap::{ArcSwap, ArcSwapOption};
use rustls::{
    RootCertStore, ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};
use tokio_util::sync::CancellationToken;

use crate::{
    config,
    error::{Error, Kind, Result},
};

/// New handshakes take the current configuration; running connections keep theirs.
pub struct Certificates {
    files: config::Tls,
    current: ArcSwap<ServerConfig>,
    /// Of the contents last looked at, good or bad: a bad file is reported once.
    seen: Mutex<u64>,
    /// What is wrong with the files as they are now.
    trouble: ArcSwapOption<String>,
}

/// The files' contents.
struct Pem {
    cert: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
}

impl Certificates {
    pub fn load(files: &config::Tls) -> Result<Arc<Self>> {
        let pem = Pem::read(files)?;
        let config = pem.config(files)?;
        Ok(Arc::new(Certificates {
            files: files.clone(),
            current: ArcSwap::from_pointee(config),
            seen: Mutex::new(pem.digest()),
            trouble: ArcSwapOption::empty(),
        }))
    }

    pub fn current(&self) -> Arc<ServerConfig> {
        self.current.load_full()
    }

    /// Looks at the files now. `Ok(true)`: they changed and the new ones are live. On an error the old ones stay.
    pub fn reload(&self) -> Result<bool> {
        let outcome = self.look();
        if let Err(error) = &outcome {
            self.trouble.store(Some(Arc::new(error.message.clone())));
        }
        outcome
    }

    /// What is wrong with the files, while what they held before goes on.
    pub fn trouble(&self) -> Option<Arc<String>> {
        self.trouble.load_full()
    }

    fn look(&self) -> Result<bool> {
        let pem = Pem::read(&self.files)?;
        let digest = pem.digest();
        {
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            // What was away for a while is looked at again: it may have been bad before.
            if *seen == digest && self.trouble.load().is_none() {
                return Ok(false);
            }
            *seen = digest;
        }
        self.current.store(Arc::new(pem.config(&self.files)?));
        self.trouble.store(None);
        Ok(true)
    }

    /// Polls: file events do not cross every mount, and three small files cost nothing.
    pub(super) async fn watch(self: Arc<Self>, stop: CancellationToken) {
        let mut complaint = String::new();
        while stop.run_until_cancelled(tokio::time::sleep(POLL)).await.is_some() {
            let me = self.clone();
            let Ok(outcome) = tokio::task::spawn_blocking(move || me.reload()).await else { continue };
            match outcome {
                Ok(true) => {
                    complaint.clear();
                    tracing::info!(cert = %self.files.cert.display(), "certificates reloaded");
                }
                Ok(false) => {}
                Err(error) if error.message == complaint => {}
                Err(error) => {
                    tracing::warn!(%error, "new certificates refused, the old ones stay");
                    complaint = error.message.clone();
                }
            }
        }
    }
}

impl Pem {
    fn read(files: &config::Tls) -> Result<Self> {
        Ok(Pem {
            cert: read(&files.cert)?,
            key: read(&files.key)?,
            client_ca: files.client_ca.as_deref().map(read).transpose()?,
        })
    }

    fn digest(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        for part in [Some(&self.cert), Some(&self.key), self.client_ca.as_ref()].into_iter().flatten() {
            hasher.write_usize(part.len());
            hasher.write(part);
        }
        hasher.finish()
    }

    fn config(&self, files: &config::Tls) -> Result<ServerConfig> {
        let chain = certificates(&self.cert, &files.cert)?;
        let key = PrivateKeyDer::from_pem_slice(&self.key)
            .map_err(|e| bad(&files.key, "holds no private key in PEM form").because(e.to_string()))?;
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|e| bad(&files.cert, "cannot be used").because(e))?;
        let builder = match (&self.client_ca, &files.client_ca) {
            (Some(pem), Some(path)) => {
                let mut roots = RootCertStore::empty();
                for root in certificates(pem, path)? {
                    roots.add(root).map_err(|e| bad(path, "holds a certificate that is no authority").because(e))?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                    .build()
                    .map_err(|e| bad(path, "cannot verify clients").because(e))?;
                builder.with_client_cert_verifier(verifier)
            }
            _ => builder.with_no_client_auth(),
        };
        let mut config = builder
            .with_single_cert(chain, key)
            .map_err(|e| bad(&files.cert, &format!("does not go with {}: {e}", files.key.display())).because(e))?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|e| bad(path, &format!("cannot be read: {e}")).because(e))
}

fn certificates(pem: &[u8], path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let list: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<std::result::Result<_, _>>()
        .map_err(|e| bad(path, "is not valid PEM").because(e.to_string()))?;
    if list.is_empty() { Err(bad(path, "holds no certificate in PEM form")) } else { Ok(list) }
}

fn bad(path: &Path, what: &str) -> Error {
    Error::new(Kind::Internal, format!("{} {what}", path.display()))
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificates").field("files", &self.files).finish()
    }
}

const POLL: Duration = Duration::from_secs(2);
