//! For whom `explain` decides from the files alone: the owner of a key, who is looked up in the stopped store. Changes
//! nothing, and never makes a store where there is none.

use std::time::SystemTime;

use anyhow::{Result, anyhow, bail};

use crate::{
    auth::{Keys, Principal, credential},
    config::{Config, StoreKind},
    keyring::Keyring,
    store::{self, StoreError},
};

/// `key`: an id, or the key itself. Unknown, revoked and expired ones are errors, as they are at the gateway.
pub fn of_key(key: &str, config: &Config) -> Result<Principal> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(owner(key, config))
}

async fn owner(key: &str, config: &Config) -> Result<Principal> {
    if config.store.kind == StoreKind::Memory {
        bail!("store.kind = \"memory\" keeps no keys between runs: use --admin URL on the running gateway");
    }
    if !config.store.exists() {
        bail!("there is no store in {}: no key was made yet", config.store.path.display());
    }
    let store = store::open(&config.store).await.map_err(|e| match e {
        StoreError::Locked { path } => anyhow!(
            "the store in {} is in use: if that is the running gateway, add --admin http://{} and give the key's id",
            path.display(),
            config.admin.listen
        ),
        other => other.into(),
    })?;
    super::tell(store.notices())?;
    let found = async {
        let ring = Keyring::open(&store, &config.secrets).await?;
        let keys = Keys::with(&ring, store.clone(), &config.auth, config.who()).await?;
        let (table, now) = (keys.table(), SystemTime::now());
        if is_secret(key) { table.authenticate(Some(key), now) } else { table.owner(key, now) }
    };
    // The message without its code: people read it.
    let found = found.await.map_err(|error| anyhow!("{}", error.message));
    store.close().await?;
    found.map(|principal| Principal::clone(&principal))
}

pub fn is_secret(key: &str) -> bool {
    key.starts_with(credential::PREFIX)
}
