//! What a gateway stands on before anything else of it is built: its store, the keys that lie there, and the secrets that
//! gateway.toml only names.

use std::sync::Arc;

use crate::{
    config::{self, Config, Loaded, Place, env},
    keyring::Keyring,
    provider,
    secrets::Secrets,
    store::{self, Store},
    upstream::Client,
};

pub(super) struct Ground {
    pub store: Arc<dyn Store>,
    pub ring: Arc<Keyring>,
    pub secrets: Arc<Secrets>,
}

impl Ground {
    pub async fn open(config: &Config) -> anyhow::Result<Ground> {
        let store = store::open(&config.store).await?;
        let ring = Keyring::open(&store, &config.secrets).await?;
        let secrets = Secrets::new(store.clone(), ring.clone(), Client::new(&super::proxies()));
        Ok(Ground { store, ring, secrets })
    }
}

/// The files with every secret that they name. Those that are not in a variable or a file lie in the store, or behind what is
/// told there: it is opened first, but never for files that cannot run anyway.
pub(super) async fn read(place: &Place) -> anyhow::Result<(Loaded, Option<Ground>)> {
    let names = provider::catalog_names();
    let loaded = config::read(place, &env::var, &names);
    if !loaded.problems.is_empty() || loaded.config.secrets.references.is_empty() {
        return Ok((loaded, None));
    }
    let ground = Ground::open(&loaded.config).await?;
    let loaded = ground.secrets.load(place, None, &names).await;
    Ok((loaded, Some(ground)))
}
