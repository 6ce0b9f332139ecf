//! For whom `explain` decides from the files alone: the owner of a key, who is looked up in the stopped store. Changes
//! nothing, and never makes a store where there is none.

use std::time::SystemTime;

use anyhow::{Result, anyhow};

use crate::{
    auth::{Keys, Principal, credential},
    cli::stopped::{self, Wants},
    config::Config,
    keyring::Keyring,
};

/// `key`: an id, or the key itself. Unknown, revoked and expired ones are errors, as they are at the gateway.
pub fn of_key(key: &str, config: &Config) -> Result<Principal> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(owner(key, config))
}

async fn owner(key: &str, config: &Config) -> Result<Principal> {
    stopped::with(config, KEYS, async |store| {
        let found = async {
            let ring = Keyring::open(store, &config.secrets).await?;
            let keys = Keys::with(&ring, store.clone(), &config.auth, config.who()).await?;
            let (table, now) = (keys.table(), SystemTime::now());
            if is_secret(key) { table.authenticate(Some(key), now) } else { table.owner(key, now) }
        };
        // The message without its code: people read it.
        let found = found.await.map_err(|error| anyhow!("{}", error.message))?;
        Ok(Principal::clone(&found))
    })
    .await
}

pub fn is_secret(key: &str) -> bool {
    key.starts_with(credential::PREFIX)
}

const KEYS: Wants =
    Wants { kept: "keys", missing: Some("no key was made yet"), running: Some(" and give the key's id") };
